"""Directional traders by rule: one who follows its signal, one who follows the price, and one who follows nothing."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct

from marljax.envs.roles.directional import OBSERVATION
from marljax.envs.roles.role import entries


@struct.dataclass
class SignalParams:
    """How a signal becomes a position."""

    strength: jax.Array  # float32[] fraction of the position limit per standard deviation
    aggression: jax.Array  # float32[] -1..1, where orders are placed (see `role.placed`)


@struct.dataclass
class MomentumParams(SignalParams):
    """How past moves become a position; the strength is per price scale of the weighted sum of moves."""

    decay: jax.Array  # float32[] 0..1, weight that a move loses with every step


@struct.dataclass
class NoiseParams:
    """How often a noise trader changes its mind."""

    turnover: jax.Array  # float32[] 0..1, probability of another target at each step
    aggression: jax.Array  # float32[] -1..1, where orders are placed


@dataclasses.dataclass(frozen=True)
class SignalFollower:
    """Holds a position in proportion to the signal."""

    def init_carry(self) -> tuple[()]:
        return ()

    def apply(
        self, params: SignalParams, obs: jax.Array, carry: tuple[()], key: jax.Array, deterministic: bool | jax.Array
    ) -> tuple[jax.Array, tuple[()]]:
        """float32[2] action at float32[O]."""
        return _toward(params.strength * entries(OBSERVATION, obs)["signal"], params.aggression), carry


@dataclasses.dataclass(frozen=True)
class Momentum:
    """Holds a position in proportion to the exponentially weighted sum of past moves, which is its carry."""

    def init_carry(self) -> jax.Array:
        return jnp.zeros(())

    def apply(
        self, params: MomentumParams, obs: jax.Array, carry: jax.Array, key: jax.Array, deterministic: bool | jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """float32[2] action at float32[O]."""
        trend = (1.0 - params.decay) * carry + entries(OBSERVATION, obs)["move"]
        return _toward(params.strength * trend, params.aggression), trend


@dataclasses.dataclass(frozen=True)
class Noise:
    """Holds a random position, its carry, and now and then another one."""

    def init_carry(self) -> jax.Array:
        return jnp.zeros(())

    def apply(
        self, params: NoiseParams, obs: jax.Array, carry: jax.Array, key: jax.Array, deterministic: bool | jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """float32[2] action at float32[O]."""
        when_key, what_key = jax.random.split(key)
        changes = jax.random.bernoulli(when_key, params.turnover)
        target = jnp.where(changes, jax.random.uniform(what_key, minval=-1.0), carry)
        return _toward(target, params.aggression), target


def _toward(target: jax.Array, aggression: jax.Array) -> jax.Array:
    return jnp.stack([jnp.clip(target, -1.0, 1.0), aggression])
