"""What every learner is, and the batch of worlds that every learner steps.

A learner is a frozen pair of environment and configuration with two pure functions, `init` and `update`. The market
travels as an argument and never inside the Runner, so that `vmap(learner.update, in_axes=(0, 0))` trains one agent
per product, a further `vmap` with `in_axes=(0, None)` adds seeds, and neither copies a market. Floats of the
configuration are pytree leaves and may carry an axis too.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeVar

import jax
import jax.numpy as jnp
from flax import struct

from marljax.agents.policy import PolicyParams, TanhGaussianPolicy
from marljax.envs.environment import Box, Environment

Runner = TypeVar("Runner")
EnvParams = Any
Metrics = dict[str, jax.Array]


class Learner(Protocol[Runner]):
    """`PPO` and `SAC` are of this form."""

    def init(self, key: jax.Array, env_params: EnvParams) -> Runner:
        """A Runner: everything that learning changes, of one agent."""
        ...

    def update(self, runner: Runner, env_params: EnvParams) -> tuple[Runner, Metrics]:
        """One chunk of environment steps and learning from them; metrics are float32[] scalars."""
        ...

    def policy(self, env_params: EnvParams) -> TanhGaussianPolicy:
        """The policy that is learned, for `policy_params`."""
        ...

    def policy_params(self, runner: Runner) -> PolicyParams:
        """What the policy has learned so far."""
        ...

    @property
    def steps_per_chunk(self) -> int:
        """Environment steps in one `update`."""
        ...


def jit_update(learner: Learner[Runner], vmaps: int = 0) -> Callable[[Runner, EnvParams], tuple[Runner, Metrics]]:
    """`learner.update` compiled, its Runner donated (the one passed in must not be used again).

    `vmaps` 1 maps over a leading product axis of Runner and env_params; 2 over seeds of products, where only the
    Runner has the seed axis, which comes first.
    """
    update = learner.update
    for in_axes in [(0, 0), (0, None)][:vmaps]:
        update = jax.vmap(update, in_axes=in_axes)
    return jax.jit(update, donate_argnums=0)


def train(learner: Learner[Runner], key: jax.Array, env_params: EnvParams, n_chunks: int) -> tuple[Runner, Metrics]:
    """Init and `n_chunks` updates in one scan; metrics are float32[n_chunks]. `vmap` over keys for seeds."""

    def chunk(runner: Runner, _: None) -> tuple[Runner, Metrics]:
        return learner.update(runner, env_params)

    return jax.lax.scan(chunk, learner.init(key, env_params), None, length=n_chunks)


@struct.dataclass
class Worlds:
    """N copies of one environment."""

    state: Any  # leaves [N, ...]
    obs: jax.Array  # float32[N, obs_size]
    running_return: jax.Array  # float32[N] undiscounted, of the episode under way
    last_return: jax.Array  # float32[] mean return of the episodes that ended last; 0 before any did


class Transition(NamedTuple):
    """What N worlds did in one step."""

    obs: jax.Array  # float32[N, obs_size] before the step
    pre_tanh: jax.Array  # float32[N, A] the action is its tanh
    reward: jax.Array  # float32[N]
    final_obs: jax.Array  # float32[N, obs_size] after the step, before any reset
    terminated: jax.Array  # bool[N]
    truncated: jax.Array  # bool[N]
    finished_return: jax.Array  # float32[N] return of the episode that ended here, else 0


def sizes(env: Environment, env_params: EnvParams) -> tuple[int, int]:
    """(obs_size, action_size) of an environment whose observation is a vector and whose actions are in [-1, 1]^A.

    Raises ValueError for any other.
    """
    observation, action = env.observation_space(env_params), env.action_space(env_params)
    if len(observation.shape) != 1:
        raise ValueError(f"observations must be vectors, got shape {observation.shape}")
    if not (isinstance(action, Box) and (action.low, action.high) == (-1.0, 1.0) and len(action.shape) == 1):
        raise ValueError(f"actions must be vectors in [-1, 1], got {action}")
    return observation.shape[0], action.shape[0]


def reset_worlds(env: Environment, key: jax.Array, n_envs: int, env_params: EnvParams) -> Worlds:
    """N fresh episodes."""
    obs, state = jax.vmap(env.reset, in_axes=(0, None))(jax.random.split(key, n_envs), env_params)
    return Worlds(state, obs, jnp.zeros(n_envs), jnp.zeros(()))


def step_worlds(
    env: Environment, keys: jax.Array, worlds: Worlds, pre_tanh: jax.Array, env_params: EnvParams
) -> tuple[Worlds, Transition]:
    """One step of every world with action tanh(`pre_tanh`) and key `keys` [N]."""
    obs, state, reward, terminated, truncated, info = jax.vmap(env.step, in_axes=(0, 0, 0, None))(
        keys, worlds.state, jnp.tanh(pre_tanh), env_params
    )
    done = terminated | truncated
    running_return = worlds.running_return + reward
    transition = Transition(
        obs=worlds.obs,
        pre_tanh=pre_tanh,
        reward=reward,
        final_obs=info["final_obs"],
        terminated=terminated,
        truncated=truncated,
        finished_return=jnp.where(done, running_return, 0.0),
    )
    worlds = dataclasses.replace(worlds, state=state, obs=obs, running_return=jnp.where(done, 0.0, running_return))
    return worlds, transition


def summarise(worlds: Worlds, steps: Transition) -> tuple[Worlds, Metrics]:
    """Metrics of a chunk of `steps` [T, N], and the worlds that remember the last mean episode return.

    `episode_return` is the mean over episodes that ended in this chunk, or the last known where none did.
    """
    episodes = (steps.terminated | steps.truncated).sum().astype(jnp.float32)
    mean_return = jnp.where(episodes > 0, steps.finished_return.sum() / jnp.maximum(episodes, 1), worlds.last_return)
    metrics = {
        "reward": steps.reward.mean(),
        "episode_return": mean_return,
        "episodes": episodes,
        "terminated_fraction": steps.terminated.mean(),
        "absolute_action": jnp.abs(jnp.tanh(steps.pre_tanh)).mean(),
    }
    return dataclasses.replace(worlds, last_return=mean_return), metrics


def all_finite(tree: Any) -> jax.Array:
    """bool[] whether every number of every leaf is finite."""
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()


def choose(condition: jax.Array, new: Runner, old: Runner) -> Runner:
    """`new` where the scalar `condition` holds, else `old`, leaf by leaf."""
    return jax.tree.map(lambda n, o: jnp.where(condition, n, o), new, old)
