"""The environment protocol: pure functions of (key, state, params), written for one environment, `vmap` for many.

The shape is gymnax's: `reset_env` and `step_env` are the dynamics, `step` adds the auto-reset. A termination (the
world ended: value 0) and a truncation (a time limit: bootstrap from `info["final_obs"]`) are never mixed.
"""

import abc
import dataclasses
import functools
import math
from typing import Any, Generic, TypeVar

import jax
import jax.numpy as jnp

State = TypeVar("State")
Params = TypeVar("Params")
Info = dict[str, Any]
Arrays = Any
"""One array, or with several roles a dict from role to array."""
Step = tuple[Arrays, Any, Arrays, Arrays, Arrays, Info]


@dataclasses.dataclass(frozen=True)
class Box:
    """Real vectors between `low` and `high`."""

    low: float
    high: float
    shape: tuple[int, ...]
    dtype: Any = jnp.float32

    def sample(self, key: jax.Array) -> jax.Array:
        """Uniform within bounds; for an unbounded box a standard normal. Shape `shape`."""
        if math.isinf(self.low) or math.isinf(self.high):
            return jax.random.normal(key, self.shape, self.dtype)
        return jax.random.uniform(key, self.shape, self.dtype, self.low, self.high)

    def contains(self, x: jax.Array) -> jax.Array:
        """bool[] whether x has this shape and lies within bounds (NaN does not)."""
        return jnp.logical_and(x.shape == self.shape, jnp.all((x >= self.low) & (x <= self.high)))


@dataclasses.dataclass(frozen=True)
class Discrete:
    """Whole numbers 0..n-1.

    Where `masked`, the last n entries of an agent's observation say which of them are allowed now: 1 yes, 0 no. The
    mask is part of the observation because a policy is a function of nothing else.
    """

    n: int
    shape: tuple[int, ...] = ()
    masked: bool = False
    dtype: Any = jnp.int32

    def sample(self, key: jax.Array) -> jax.Array:
        """Uniform, int32 of shape `shape`, masks ignored."""
        return jax.random.randint(key, self.shape, 0, self.n, self.dtype)

    def contains(self, x: jax.Array) -> jax.Array:
        """bool[] whether x has this shape and 0 <= x < n."""
        return jnp.logical_and(x.shape == self.shape, jnp.all((x >= 0) & (x < self.n)))


Space = Box | Discrete


def sample(key: jax.Array, space: Space | dict[str, Space]) -> Arrays:
    """An action of a space, or of each role's."""
    if isinstance(space, dict):
        keys = jax.random.split(key, len(space))
        return {role: one.sample(k) for k, (role, one) in zip(keys, space.items(), strict=True)}
    return space.sample(key)


def over(terminated: Arrays, truncated: Arrays) -> jax.Array:
    """bool[] whether an episode has ended. With several agents it ends for all of them at once."""
    return functools.reduce(jnp.logical_or, [jnp.any(x) for x in jax.tree.leaves((terminated, truncated))])


class Environment(abc.ABC, Generic[State, Params]):
    """One environment. With one role, observations, actions, rewards and the ends of episodes are arrays and spaces are
    spaces; with several roles, each of them is a dict by role. Several agents of a role are a leading axis of its
    arrays; one agent has none, if it is the only one.

    What fixes a shape is a field of the (frozen, hashable) environment; every number is a leaf of `params`.
    """

    @abc.abstractmethod
    def reset_env(self, key: jax.Array, params: Params) -> tuple[Arrays, State]:
        """The first observation and state of an episode."""

    @abc.abstractmethod
    def step_env(self, key: jax.Array, state: State, action: Arrays, params: Params) -> Step:
        """One step without auto-reset: (obs, state, reward float32, terminated bool, truncated bool, info)."""

    @abc.abstractmethod
    def observation_space(self, params: Params) -> Any: ...

    @abc.abstractmethod
    def action_space(self, params: Params) -> Any: ...

    def reset(self, key: jax.Array, params: Params) -> tuple[Arrays, State]:
        """The first observation and state of an episode."""
        return self.reset_env(key, params)

    def step(self, key: jax.Array, state: State, action: Arrays, params: Params) -> Step:
        """One step; where an episode ends, obs and state are those of a new one.

        `info["final_obs"]` is always the observation before the reset, for bootstrapping at a truncation.
        """
        step_key, reset_key = jax.random.split(key)
        final_obs, state, reward, terminated, truncated, info = self.step_env(step_key, state, action, params)

        def renew(_: tuple[Arrays, State, jax.Array]) -> tuple[Arrays, State, jax.Array]:
            return *self.reset_env(reset_key, params), jnp.zeros((), bool)

        # A loop of at most one round: under `vmap` nothing is reset in a step at which no episode ends.
        obs, state, _ = jax.lax.while_loop(
            lambda carry: carry[2], renew, (final_obs, state, over(terminated, truncated))
        )
        return obs, state, reward, terminated, truncated, info | {"final_obs": final_obs}
