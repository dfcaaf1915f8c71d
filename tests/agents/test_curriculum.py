import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marljax.agents.curriculum import curriculum, update
from marljax.agents.ppo import PPO
from marljax.agents.ppo_config import PPOConfig
from tests.reference.tasks import PERPETUITY, Task

LEARNER = PPO(Task(), PPOConfig(n_envs=2, n_steps=4, n_minibatches=2, n_epochs=1, hidden=(4,)))
PHASES = [{"income": jnp.float32(x)} for x in (1.0, 5.0, 2.0)]


def test_each_phase_is_the_world_for_its_share_of_the_chunks():
    stages = curriculum(PHASES, (0.25, 0.5, 0.25), 8)
    runner = jax.jit(LEARNER.init)(jax.random.key(0), PERPETUITY)
    step, seen = jax.jit(lambda r: update(LEARNER, r, PERPETUITY, stages)), []
    for _ in range(10):
        runner, metrics = step(runner)
        seen.append((float(metrics["phase"]), float(metrics["reward"])))
    # Two chunks beyond the last phase's end are still of it.
    assert seen == [(0.0, 1.0)] * 2 + [(1.0, 5.0)] * 4 + [(2.0, 2.0)] * 4
    assert step._cache_size() == 1, "all phases are one program"


def test_learning_in_a_phase_is_learning_in_that_world():
    stages = curriculum(PHASES, (0.5, 0.0, 0.5), 4)
    runner = jax.jit(LEARNER.init)(jax.random.key(0), PERPETUITY)
    there = dataclasses.replace(PERPETUITY, income=jnp.float32(1.0))
    ours, _ = jax.jit(lambda r: update(LEARNER, r, PERPETUITY, stages))(runner)
    theirs, _ = jax.jit(LEARNER.update)(runner, there)
    jax.tree.map(np.testing.assert_array_equal, ours.params, theirs.params)


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.5, 0.6, -0.1), (0.1, 0.1, 0.1)])
def test_shares_that_do_not_divide_the_time_are_refused(shares):
    with pytest.raises(ValueError, match="3 phases need as many shares that add up to 1"):
        curriculum(PHASES, shares, 8)


def test_phases_must_change_the_same():
    with pytest.raises(ValueError, match="the same fields"):
        curriculum([{"income": 1.0}, {"cost": 1.0}], (0.5, 0.5), 8)
