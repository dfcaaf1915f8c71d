"""One agent of the book as an env of its own."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marljax.agents.classical.execution import TWAP, ScheduleParams
from marljax.agents.classical.zero_intelligence import ZeroIntelligenceAgent, ZeroIntelligenceAgentParams
from marljax.agents.learner import jit_update
from marljax.agents.ppo import PPO
from marljax.agents.ppo_config import PPOConfig
from marljax.envs.roles.execution import ExecutionParams
from marljax.envs.roles.market_maker import MarketMakerParams
from marljax.envs.single_role import as_single_role
from tests.reference.scripted_flow import scripted

KEY = jax.random.key(0)
RULES = ExecutionParams(parent=40, buys=1.0, deadline=10, largest=0.5, through=0.0)
RANDOM = (ZeroIntelligenceAgent(4), ZeroIntelligenceAgentParams(jnp.float32(1.0)))
SCHEDULE = (TWAP(), ScheduleParams(jnp.float32(1.0), RULES))


@pytest.fixture(scope="module")
def book():
    return scripted(market_makers=2, executions=1, roles={"market_maker": MarketMakerParams(), "execution": RULES})


def test_it_is_an_env_of_vectors_and_scalars(book):
    env, params = as_single_role(*book, "market_maker", {"market_maker": RANDOM, "execution": SCHEDULE}, agent=1)
    obs, state = jax.jit(env.reset)(KEY, params)
    action = env.action_space(params).sample(KEY)
    obs, after, reward, terminated, truncated, info = jax.jit(env.step)(KEY, state, action, params)
    chex.assert_shape([obs, info["final_obs"]], env.observation_space(params).shape)
    chex.assert_shape(action, (4,))
    chex.assert_shape([reward, terminated, truncated], ())
    chex.assert_trees_all_equal_shapes_and_dtypes(state, after)


def test_the_agent_does_what_it_is_told_and_the_others_what_their_policies_say(book):
    env, params = as_single_role(*book, "market_maker", {"market_maker": RANDOM, "execution": SCHEDULE}, agent=1)
    world, world_params = book
    _, state = jax.jit(env.reset_env)(KEY, params)
    action = jnp.array([0.3, 0.0, 1.0, -1.0])
    _, after, reward, *_ = jax.jit(env.step_env)(KEY, state, action, params)
    # TWAP has bought a tenth of its parent, and the second maker has the quotes it was told to have.
    assert int(after.world.ledger.position[3]) == 4
    asked = world.quotes(
        state.world,
        {"market_maker": jnp.stack([action, action]), "execution": jnp.zeros((1, 2))},
        world_params,
    )
    assert int(after.world.standing.price[1, 0]) == int(asked.price[1, 0])
    assert after.world.standing.remaining[1].tolist() == [10, 0]
    np.testing.assert_allclose(
        reward, (after.world.net(world_params.tick_value) - state.world.net(world_params.tick_value))[2], atol=1e-5
    )


def test_opponents_are_data(book):
    env, params = as_single_role(*book, "execution", {"market_maker": RANDOM})
    _, state = jax.jit(env.reset_env)(KEY, params)
    activity = {"market_maker": ZeroIntelligenceAgentParams(jnp.array([0.0, 1.0]))}
    both = params.replace(opponents=activity)
    axes = params.replace(world=None, opponents=0)
    step = jax.jit(jax.vmap(env.step_env, (None, None, None, axes)))
    _, after, *_ = step(KEY, state, jnp.array([-1.0, 0.0]), both)
    assert not jnp.any(after.world.standing.there[0]), "idle makers quote nothing"
    assert jnp.any(after.world.standing.there[1])


def test_missing_and_superfluous_opponents_are_refused(book):
    for opponents in ({}, {"market_maker": RANDOM, "execution": SCHEDULE}):
        with pytest.raises(ValueError, match=r"for the roles \['market_maker'\]"):
            as_single_role(*book, "execution", opponents)
    with pytest.raises(ValueError, match="agent 1 of role 'execution' is not there"):
        as_single_role(*book, "execution", {"market_maker": RANDOM}, agent=1)


@pytest.mark.nightly
def test_ppo_learns_to_stop_paying_the_spread():
    """An execution agent may buy patiently from a stream of sellers at the bid, or at twice the spread above."""
    from marljax.lob import messages
    from marljax.lob.types import SELL

    sellers = [messages.market(SELL, 5, id=9, owner=0)]
    rules = ExecutionParams(parent=20, buys=1.0, deadline=3, largest=0.5, through=10.0, penalty=0.2)
    world = scripted(
        sellers, sellers, sellers, market_makers=0, executions=1, episode_steps=3, roles={"execution": rules}
    )
    env, params = as_single_role(*world, "execution", {})
    learner = PPO(env, PPOConfig(n_envs=32, n_steps=12, learning_rate=3e-3, reward_scale=0.5, discount=1.0))
    runner, update, returns = learner.init(KEY, params), jit_update(learner), []
    for _ in range(60):
        runner, metrics = update(runner, params)
        returns.append(float(metrics["episode_return"]))
    assert np.mean(returns[-5:]) > 0.6 * np.mean(returns[:3]), "less negative"
