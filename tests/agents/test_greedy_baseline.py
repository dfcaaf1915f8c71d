"""Advantages over what the policy would have got without exploring, under the same draws."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marljax.agents.ppo import PPO
from marljax.agents.ppo_config import PPOConfig
from marljax.agents.ppo_loss import prepare
from tests.reference.tasks import TARGET, Task


class Lucky(Task):
    """`Task` whose rewards carry luck that dwarfs what acting does, and that no action changes."""

    luck = 30.0

    def step_env(self, key, state, action, params):
        obs, state, reward, *rest = super().step_env(key, state, action, params)
        return obs, state, reward + self.luck * jax.random.normal(jax.random.fold_in(key, 1)), *rest


GREEDY = PPOConfig(n_envs=16, n_steps=16, hidden=(8,), gae_lambda=0.0, baseline="greedy", learning_rate=0.01)


@pytest.mark.parametrize("network", ["mlp", "gru"])
@pytest.mark.parametrize("normalise_returns", [False, True])
def test_luck_is_no_part_of_an_advantage(network, normalise_returns):
    config = dataclasses.replace(GREEDY, network=network, normalise_returns=normalise_returns, discount=0.9)
    learner = PPO(Lucky(), config)
    runner = jax.jit(learner.init)(jax.random.key(0), TARGET)
    agents = learner.roster(TARGET)
    *_, made = jax.jit(lambda r, k: learner._rollout(r, k, agents, TARGET))(runner, jax.random.key(1))
    batch, _ = prepare(runner, agents, made, config)
    # What comes next is drawn, and the same whatever one does: only the distances from the wanted action remain.
    wanted = np.asarray(made.steps.obs) @ np.asarray(TARGET.weights)
    done = np.tanh(np.asarray(made.choice["agent"])[..., 0, 0])
    spread = float(jnp.sqrt(runner.statistics["agent"].returns.variance)) if normalise_returns else 1.0
    if network == "mlp":
        apply = learner.policy(TARGET).distribution
        median = np.tanh(np.asarray(apply(runner.params["agent"]["policy"], made.steps.obs).mean))[..., 0]
    else:
        noise = np.asarray(made.noise["agent"])[..., 0, 0]
        # A fresh recurrent policy's standard deviation is exp(-1) up to its small last layer.
        median = np.tanh(np.arctanh(done) - np.exp(-1.0) * noise)
    gain = ((median - wanted) ** 2 - (done - wanted) ** 2) / spread
    tolerance = 1e-3 if network == "mlp" else 0.05
    assert np.abs(np.asarray(batch.advantage["agent"])[..., 0] - gain).max() < tolerance / min(spread, 1.0)
    assert np.abs(gain).max() > 10 * tolerance / spread
    # The critic's targets are the rewards that came, luck included.
    assert np.asarray(batch.target["agent"]).std() > 20.0 / spread


def test_under_luck_it_learns_what_a_critic_cannot_tell():
    def reached(config):
        learner = PPO(Lucky(), config)
        runner = jax.jit(learner.init)(jax.random.key(2), TARGET)
        update = jax.jit(learner.update)
        for _ in range(40):
            runner, _ = update(runner, TARGET)
        obs = jax.random.uniform(jax.random.key(3), (1000, 3), minval=-1.0)
        mean = learner.policy(TARGET).distribution(learner.policy_params(runner), obs).best()
        return float(((jnp.tanh(mean[:, 0]) - obs @ TARGET.weights) ** 2).mean())

    blind = float(((jax.random.uniform(jax.random.key(3), (1000, 3), minval=-1.0) @ TARGET.weights) ** 2).mean())
    assert reached(GREEDY) < 0.1 * blind
    assert reached(dataclasses.replace(GREEDY, baseline="critic")) > 0.3 * blind
