"""The batch of worlds that a learner steps: N copies of one environment, whatever its arrays look like.

Observations, actions, rewards and ends of episodes keep the environment's own form (arrays, with or without an axis of
agents, or dicts by role) behind a leading axis of worlds.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from marljax.envs.environment import Arrays, Environment, over, sample

Metrics = dict[str, jax.Array]


@struct.dataclass
class Worlds:
    """N copies of one environment."""

    state: Any  # leaves [N, ...]
    obs: Arrays  # float32[N, ..., obs_size]
    running_return: Arrays  # float32[N, ...] undiscounted, of the episode under way
    last_return: Arrays  # float32[...] mean return of the episodes that ended last; 0 before any did


class Transition(NamedTuple):
    """What N worlds did in one step."""

    obs: Arrays  # float32[N, ..., obs_size] before the step
    reward: Arrays  # float32[N, ...]
    final_obs: Arrays  # float32[N, ..., obs_size] after the step, before any reset
    terminated: Arrays  # bool[N, ...]
    truncated: Arrays  # bool[N, ...]
    done: jax.Array  # bool[N] whether the episode ended
    finished_return: Arrays  # float32[N, ...] return of the episode that ended here, else 0


def reset_worlds(env: Environment, key: jax.Array, n_envs: int, env_params: Any) -> Worlds:
    """N fresh episodes."""
    obs, state = jax.vmap(env.reset, in_axes=(0, None))(jax.random.split(key, n_envs), env_params)
    action = jax.eval_shape(lambda key: sample(key, env.action_space(env_params)), key)
    _, _, reward, *_ = jax.eval_shape(env.step, key, jax.tree.map(lambda x: x[0], state), action, env_params)
    return Worlds(
        state,
        obs,
        jax.tree.map(lambda r: jnp.zeros((n_envs, *r.shape)), reward),
        jax.tree.map(lambda r: jnp.zeros(r.shape), reward),
    )


def step_worlds(
    env: Environment, keys: jax.Array, worlds: Worlds, action: Arrays, env_params: Any
) -> tuple[Worlds, Transition]:
    """One step of every world with actions [N, ...] and keys [N]."""
    obs, state, reward, terminated, truncated, info = jax.vmap(env.step, in_axes=(0, 0, 0, None))(
        keys, worlds.state, action, env_params
    )
    done = jax.vmap(over)(terminated, truncated)
    running_return = jax.tree.map(jnp.add, worlds.running_return, reward)
    transition = Transition(
        obs=worlds.obs,
        reward=reward,
        final_obs=info["final_obs"],
        terminated=terminated,
        truncated=truncated,
        done=done,
        finished_return=where_done(done, running_return, 0.0),
    )
    running_return = where_done(~done, running_return, 0.0)
    return dataclasses.replace(worlds, state=state, obs=obs, running_return=running_return), transition


def where_done(done: jax.Array, tree: Any, otherwise: float) -> Any:
    """Leaves [N, ...] where `done` bool[N], else a number."""
    return jax.tree.map(lambda x: jnp.where(done.reshape(-1, *(1,) * (x.ndim - 1)), x, otherwise), tree)


def remember_returns(worlds: Worlds, steps: Transition) -> tuple[Worlds, jax.Array]:
    """Worlds that know the mean return of the episodes ended in a chunk of `steps` [T, N, ...], or still the last known
    where none did; and how many ended, float32[]."""
    episodes = steps.done.sum().astype(jnp.float32)
    mean = jax.tree.map(
        lambda finished, last: jnp.where(episodes > 0, finished.sum((0, 1)) / jnp.maximum(episodes, 1), last),
        steps.finished_return,
        worlds.last_return,
    )
    return dataclasses.replace(worlds, last_return=mean), episodes
