"""A price on the cost of a world, and on nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marljax.envs.priced import Priced, PricedParams
from tests.reference.allocation import Budget, BudgetParams, Costly

PLAIN = BudgetParams(jnp.float32(1.0), jnp.float32(1.0))


@pytest.mark.parametrize("multiplier", [0.0, 2.5])
def test_reward_is_less_multiplier_times_cost_and_all_else_is_the_world_s_own(multiplier):
    env, params = Priced(Budget()), PricedParams(PLAIN, jnp.float32(multiplier))
    (obs, state), (plain_obs, plain) = env.reset(jax.random.key(0), params), Budget().reset(jax.random.key(0), PLAIN)
    np.testing.assert_array_equal(obs, plain_obs)
    step, plain_step = jax.jit(env.step), jax.jit(Budget().step)
    spent = 0.0
    for i, action in enumerate(np.linspace(-1.0, 1.0, 9)):  # two episodes and the beginning of a third
        key, action = jax.random.key(i), jnp.full(1, action, jnp.float32)
        obs, state, reward, *ends, info = step(key, state, action, params)
        plain_obs, plain, plain_reward, *plain_ends, _ = plain_step(key, plain, action, PLAIN)
        np.testing.assert_array_equal(obs, plain_obs)
        assert ends == plain_ends
        assert float(reward) == pytest.approx(float(plain_reward) - multiplier * float(action[0]) ** 2, abs=1e-6)
        spent += float(info["cost"])
        assert float(state.spent) == pytest.approx(spent, rel=1e-5)
        assert float(state.steps) == i + 1


def test_where_there_are_roles_one_of_them_pays():
    env, params = Priced(Costly(), role="meta"), PricedParams(jnp.float32(1.0), jnp.float32(3.0))
    _, state = env.reset(jax.random.key(0), params)
    action = {"trader": jnp.ones((2, 1)), "meta": jnp.zeros((1, 3))}
    *_, reward, _, _, info = env.step(jax.random.key(1), state, action, params)
    *_, before, _, _, _ = Costly().step(jax.random.key(1), state.world, action, jnp.float32(1.0))
    np.testing.assert_allclose(reward["meta"], before["meta"] - 3.0 * info["cost"], rtol=1e-6)
    np.testing.assert_array_equal(reward["trader"], before["trader"])
    assert float(info["cost"]) == 2.0
