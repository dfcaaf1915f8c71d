"""CartPole and simple_spread: their steps against the published equations, and returns that are known."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marljax.envs.controlled.cart_pole import CartPole, CartPoleParams, CartPoleState
from marljax.envs.controlled.simple_spread import SimpleSpread, SimpleSpreadParams, SimpleSpreadState
from marljax.envs.environment import sample
from tests.reference.controlled import cart_pole_step, simple_spread_step


@pytest.mark.parametrize("continuous", [False, True])
def test_cart_pole_follows_the_published_equations(continuous):
    env, params, rng = CartPole(continuous=continuous), CartPoleParams(), np.random.default_rng(0)
    step = jax.jit(env.step_env)
    for _ in range(50):
        physics = rng.uniform(-1, 1, 4) * [2, 2, 0.2, 3]
        push = rng.uniform(-1, 1) if continuous else rng.integers(2)
        force = 10.0 * push if continuous else (10.0 if push == 1 else -10.0)
        state = CartPoleState(jnp.asarray(physics, jnp.float32), jnp.zeros((), jnp.int32))
        action = jnp.full((1,), push, jnp.float32) if continuous else jnp.int32(push)
        obs, *_ = step(jax.random.key(0), state, action, params)
        np.testing.assert_allclose(obs, cart_pole_step(physics, force), rtol=1e-4, atol=1e-5)


def lengths(env: CartPole, push, n_envs: int = 1000) -> tuple[np.ndarray, np.ndarray]:
    """Length of each env's first episode, and whether it was truncated, under `push(key, obs) -> action`."""
    params = CartPoleParams()

    def episode(key):
        obs, state = env.reset(key, params)

        def step(carry, key):
            obs, state = carry
            obs, state, _, terminated, truncated, _ = env.step(key, state, push(key, obs), params)
            return (obs, state), (terminated, truncated)

        _, (terminated, truncated) = jax.lax.scan(step, (obs, state), jax.random.split(key, env.episode_steps))
        first = jnp.argmax(terminated | truncated)
        return first + 1, truncated[first]

    return tuple(map(np.asarray, jax.jit(jax.vmap(episode))(jax.random.split(jax.random.key(0), n_envs))))


def test_random_pushes_keep_the_pole_up_for_22_steps():
    length, truncated = lengths(CartPole(episode_steps=200), lambda key, obs: jax.random.randint(key, (), 0, 2))
    assert abs(length.mean() - 22.2) < 4 * length.std() / np.sqrt(len(length))
    assert not truncated.any()


def test_a_linear_rule_balances_the_pole_until_the_time_limit_truncates():
    gain = jnp.array([0.1, 0.2, 1.0, 0.5])
    length, truncated = lengths(CartPole(), lambda key, obs: (obs @ gain > 0).astype(jnp.int32), n_envs=20)
    assert (length == 500).all()
    assert truncated.all()


def test_simple_spread_follows_the_loops_of_the_oracle():
    env, params = SimpleSpread(), SimpleSpreadParams()
    step, rng = jax.jit(env.step_env), np.random.default_rng(0)
    hits = 0
    for _ in range(30):
        position, landmarks = rng.uniform(-0.4, 0.4, (2, 3, 2)).astype(np.float32)
        velocity, action = rng.normal(size=(3, 2)).astype(np.float32), rng.integers(0, 5, 3)
        state = SimpleSpreadState(*map(jnp.asarray, (position, velocity, landmarks)), jnp.zeros((), jnp.int32))
        obs, after, reward, *_ = step(jax.random.key(0), state, jnp.asarray(action, jnp.int32), params)
        wanted = simple_spread_step(position, velocity, landmarks, action, params)
        np.testing.assert_allclose(after.velocity, wanted["velocity"], rtol=2e-4, atol=2e-4)
        np.testing.assert_allclose(obs, wanted["observation"], rtol=2e-4, atol=2e-4)
        np.testing.assert_allclose(reward, wanted["reward"], rtol=1e-5, atol=1e-5)
        hits += np.ptp(wanted["reward"]) > 0
    assert hits > 3  # some steps had collisions of some agents and not of others


def test_agents_on_their_landmarks_lose_nothing_and_those_in_one_place_pay_for_collisions():
    env, params = SimpleSpread(), SimpleSpreadParams()
    apart = jnp.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    together = 0.01 * apart
    still = (jnp.zeros((3, 2)), apart, jnp.zeros((), jnp.int32))
    none = jnp.zeros(3, jnp.int32)
    *_, reward, _, _, _ = env.step_env(jax.random.key(0), SimpleSpreadState(apart, *still), none, params)
    np.testing.assert_allclose(reward, 0.0, atol=1e-6)
    *_, reward, _, _, _ = env.step_env(jax.random.key(0), SimpleSpreadState(together, *still), none, params)
    np.testing.assert_allclose(reward, 0.5 * -(0.99 + 0.99) - 0.5 * 2, atol=1e-5)


def test_spread_agents_that_push_at_random_lose_more_than_those_that_stay():
    env, params = SimpleSpread(), SimpleSpreadParams()

    def episode(key, moves):
        _, state = env.reset(key, params)

        def step(state, key):
            action = moves * sample(key, env.action_space(params))
            _, state, reward, _, truncated, _ = env.step_env(key, state, action, params)
            return state, (reward.sum(), truncated)

        _, (reward, truncated) = jax.lax.scan(step, state, jax.random.split(key, 25))
        return reward.sum(), truncated

    run = jax.jit(jax.vmap(episode, (0, None)))
    total, truncated = run(jax.random.split(jax.random.key(0), 2000), 1)
    staying, _ = run(jax.random.split(jax.random.key(0), 2000), 0)
    np.testing.assert_allclose([total.mean(), staying.mean()], [-79.0, -72.2], atol=2.2)
    assert truncated[:, -1].all()
    assert not truncated[:, :-1].any()


def _rollout(env, params, n_steps):
    """What 8 random episodes see and earn, one number per leaf of the params would move."""

    def episode(key):
        obs, state = env.reset(key, params)

        def step(state, key):
            action = sample(key, env.action_space(params))
            obs, state, reward, terminated, _, _ = env.step(key, state, action, params)
            return state, (obs, reward, terminated)

        return obs, jax.lax.scan(step, state, jax.random.split(key, n_steps))[1]

    return jax.vmap(episode)(jax.random.split(jax.random.key(0), 8))


@pytest.mark.parametrize(("env", "params"), [(CartPole(), CartPoleParams()), (SimpleSpread(), SimpleSpreadParams())])
def test_every_parameter_acts(env, params):
    run = jax.jit(lambda p: _rollout(env, p, 100))
    base = jax.tree.leaves(run(params))
    for field in dataclasses.fields(params):
        changed = dataclasses.replace(params, **{field.name: 0.01 * getattr(params, field.name)})
        assert any(not jnp.array_equal(x, y) for x, y in zip(base, jax.tree.leaves(run(changed)), strict=True)), field
