"""What every registered environment must do, whatever it simulates."""

import chex
import jax
import jax.numpy as jnp
import pytest

from marljax.envs.environment import Environment, over, sample
from marljax.envs.registry import ENVIRONMENTS
from tests.reference.worlds import INSTANCES


@pytest.fixture(scope="module", params=sorted(ENVIRONMENTS))
def instance(request):
    env, params = INSTANCES[request.param]()
    assert type(env) is ENVIRONMENTS[request.param]
    return env, params


@pytest.fixture(scope="module")
def episode(instance):
    """What `run` gives."""
    return run(*instance)


def run(env: Environment, params, n_steps: int = 30, n_envs: int = 3):
    """(final state, [T, N, ...] of (obs, reward, terminated, truncated, final_obs)) under random actions."""
    space = env.action_space(params)
    keys = jax.random.split(jax.random.key(0), n_envs)
    _, state = jax.jit(jax.vmap(env.reset, (0, None)))(keys, params)

    def step(state, key):
        action_key, env_key = jax.random.split(key)
        action = jax.vmap(sample, (0, None))(jax.random.split(action_key, n_envs), space)
        obs, state, reward, terminated, truncated, info = jax.vmap(env.step, (0, 0, 0, None))(
            jax.random.split(env_key, n_envs), state, action, params
        )
        return state, (obs, reward, terminated, truncated, info["final_obs"])

    return jax.jit(lambda s: jax.lax.scan(step, s, jax.random.split(jax.random.key(1), n_steps)))(state)


def test_every_registered_env_has_an_instance_to_be_tested():
    assert INSTANCES.keys() == ENVIRONMENTS.keys()


def by_role(arrays) -> dict:
    """The arrays of each role; those of an env with one role are under ''."""
    return arrays if isinstance(arrays, dict) else {"": arrays}


def test_shapes_and_dtypes_are_those_of_the_spaces(instance, episode):
    env, params = instance
    _, (obs, reward, terminated, truncated, final_obs) = episode
    for role, space in by_role(env.observation_space(params)).items():
        chex.assert_shape([by_role(x)[role] for x in (obs, final_obs)], (30, 3, *space.shape))
        chex.assert_shape([by_role(x)[role] for x in (reward, terminated, truncated)], (30, 3, *space.shape[:-1]))
    for arrays, dtype in ((obs, jnp.float32), (reward, jnp.float32), (terminated, bool), (truncated, bool)):
        for x in jax.tree.leaves(arrays):
            chex.assert_type(x, dtype)


def test_observations_lie_within_their_space_and_every_number_is_finite(instance, episode):
    env, params = instance
    _, (obs, reward, *_, final_obs) = episode
    chex.assert_tree_all_finite((obs, reward, final_obs))
    for role, space in by_role(env.observation_space(params)).items():
        contains = jax.vmap(jax.vmap(space.contains))
        assert jnp.all(contains(by_role(obs)[role]))
        assert jnp.all(contains(by_role(final_obs)[role]))


def test_equal_keys_give_equal_runs_and_other_keys_other_ones(instance, episode):
    chex.assert_trees_all_equal(run(*instance), episode)
    _, (obs, *_) = episode
    for x in jax.tree.leaves(obs):
        assert not jnp.array_equal(x[:, 0], x[:, 1])


def test_an_episode_never_both_terminates_and_truncates_and_does_end(episode):
    _, (_, _, terminated, truncated, _) = episode
    for one, other in zip(jax.tree.leaves(terminated), jax.tree.leaves(truncated), strict=True):
        assert not jnp.any(one & other)
        assert jnp.any(one | other)


def test_an_episode_ends_for_all_agents_at_once(episode):
    _, (_, _, terminated, truncated, _) = episode
    ended = jax.tree.map(lambda x, y: (x | y).reshape(30, 3, -1), terminated, truncated)
    first, *others = jnp.moveaxis(jnp.concatenate(jax.tree.leaves(ended), axis=-1), -1, 0)
    for other in others:
        chex.assert_trees_all_equal(other, first)


def test_step_is_step_env_until_an_episode_ends(instance):
    env, params = instance
    _, state = jax.jit(env.reset)(jax.random.key(0), params)
    action = sample(jax.random.key(1), env.action_space(params))
    key = jax.random.key(2)
    obs, after, reward, terminated, truncated, info = jax.jit(env.step)(key, state, action, params)
    assert not over(terminated, truncated)
    inner = jax.jit(env.step_env)(jax.random.split(key)[0], state, action, params)
    chex.assert_trees_all_close((obs, after, reward), inner[:3], rtol=1e-6)
    chex.assert_trees_all_equal(obs, info["final_obs"])


def test_state_keeps_its_structure_shapes_and_dtypes(instance):
    env, params = instance
    _, state = jax.jit(env.reset)(jax.random.key(0), params)
    action = sample(jax.random.key(1), env.action_space(params))
    _, after, *_ = jax.jit(env.step)(jax.random.key(2), state, action, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, after)


def test_params_may_carry_an_axis_of_their_own(instance):
    env, params = instance
    two = jax.tree.map(lambda x: jnp.stack([x, x]), params)
    keys = jax.random.split(jax.random.key(0), 2)
    obs, state = jax.jit(jax.vmap(env.reset))(keys, two)
    action = jax.vmap(sample, (0, None))(keys, env.action_space(params))
    together = jax.jit(jax.vmap(env.step))(keys, state, action, two)
    for i in range(2):
        one = jax.tree.map(lambda x, i=i: x[i], (state, action, together))
        alone = jax.jit(env.step)(keys[i], one[0], one[1], params)
        chex.assert_trees_all_close(one[2], alone, rtol=1e-5, atol=1e-5)
    assert all(x.shape[0] == 2 for x in jax.tree.leaves(obs))


def test_no_tracer_leaks_and_one_trace_serves_every_step(instance):
    env, params = instance
    chex.clear_trace_counter()
    with jax.checking_leaks():
        step = jax.jit(chex.assert_max_traces(lambda *a: env.step(*a), n=1))
        _, state = jax.jit(env.reset)(jax.random.key(0), params)
        for i in range(3):
            action = sample(jax.random.key(i), env.action_space(params))
            _, state, *_ = step(jax.random.key(i), state, action, params)
