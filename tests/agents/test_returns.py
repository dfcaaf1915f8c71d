import jax.numpy as jnp
import numpy as np
import pytest

from marljax.agents.returns import generalised_advantage
from tests.reference.learning import advantages


@pytest.mark.parametrize("seed", range(5))
def test_advantages_are_those_of_the_loop(seed):
    rng = np.random.default_rng(seed)
    reward, value, next_value = rng.normal(size=(3, 40, 3))
    terminated = rng.random((40, 3)) < 0.1
    truncated = ~terminated & (rng.random((40, 3)) < 0.1)
    expected = np.stack(
        [
            advantages(reward[:, n], value[:, n], next_value[:, n], terminated[:, n], truncated[:, n], 0.97, 0.9)
            for n in range(3)
        ],
        axis=1,
    )
    floats = [jnp.asarray(x, jnp.float32) for x in (reward, value, next_value)]
    advantage, target = generalised_advantage(*floats, jnp.asarray(terminated), jnp.asarray(truncated), 0.97, 0.9)
    np.testing.assert_allclose(advantage, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(target, expected + value, rtol=1e-4, atol=1e-5)


def test_a_time_limit_bootstraps_and_a_termination_does_not():
    one, none, ended = jnp.ones(1), jnp.zeros(1, bool), jnp.ones(1, bool)
    _, limited = generalised_advantage(one, 0 * one, 10 * one, none, ended, 0.9, 0.95)
    _, finished = generalised_advantage(one, 0 * one, 10 * one, ended, none, 0.9, 0.95)
    assert float(limited[0]) == pytest.approx(10.0)
    assert float(finished[0]) == pytest.approx(1.0)


def test_no_advantage_leaks_into_the_episode_before():
    reward = jnp.array([0.0, 0.0, 100.0])
    zero, truncated = jnp.zeros(3), jnp.array([False, True, False])
    advantage, _ = generalised_advantage(reward, zero, zero, jnp.zeros(3, bool), truncated, 0.99, 0.95)
    np.testing.assert_array_equal(advantage[:2], 0.0)
