"""Schedules for a parent order: TWAP, VWAP, and the trajectory of Almgren & Chriss (2000).

A schedule says what fraction of the parent should be left at a time. Each step the policy orders what it takes to be
on schedule at the step's end; what it missed is made up.
"""

import abc
import dataclasses

import jax
import jax.numpy as jnp
from flax import struct

from marljax.envs.roles.execution import OBSERVATION, ExecutionParams
from marljax.envs.roles.role import entries


@struct.dataclass
class ScheduleParams:
    """How a schedule is worked."""

    aggression: jax.Array  # float32[] -1..1, where its orders are placed (see `role.placed`); 1 crosses the spread
    rules: ExecutionParams


@struct.dataclass
class VolumeProfileParams(ScheduleParams):
    """VWAP: how volume is spread over the order's life."""

    profile: jax.Array  # float32[N] volume in equal parts of the time, relative, > 0


@struct.dataclass
class AlmgrenChrissParams(ScheduleParams):
    """The cost model of Almgren & Chriss (2000), in currency, lots and seconds."""

    risk_aversion: jax.Array  # float32[] lambda, per currency, >= 0
    volatility: jax.Array  # float32[] sigma, currency per lot and root second
    temporary: jax.Array  # float32[] eta, currency per lot for each lot/second
    permanent: jax.Array  # float32[] gamma, currency per lot for each lot; the step's half of it lowers eta
    horizon: jax.Array  # float32[] seconds from arrival to the deadline


class _Schedule(abc.ABC):
    """A policy that follows `left`."""

    def init_carry(self) -> tuple[()]:
        return ()

    @abc.abstractmethod
    def left(self, params: ScheduleParams, time: jax.Array) -> jax.Array:
        """Fraction of the parent that should be left when the fraction `time` of its life is left, float32[]."""

    def apply(
        self, params: ScheduleParams, obs: jax.Array, carry: tuple[()], key: jax.Array, deterministic: bool | jax.Array
    ) -> tuple[jax.Array, tuple[()]]:
        """float32[2] action at float32[O]."""
        seen = entries(OBSERVATION, obs)
        at_end = jnp.maximum(seen["time_left"] - 1.0 / params.rules.deadline, 0.0)
        behind = seen["parent_left"] - self.left(params, at_end)
        size = 2.0 * behind / params.rules.largest - 1.0
        return jnp.stack([jnp.clip(size, -1.0, 1.0), params.aggression]), carry


@dataclasses.dataclass(frozen=True)
class TWAP(_Schedule):
    """Time-weighted: equal parts in equal times."""

    def left(self, params: ScheduleParams, time: jax.Array) -> jax.Array:
        return time


@dataclasses.dataclass(frozen=True)
class VWAP(_Schedule):
    """Volume-weighted: in each part of the time as much as is traded in it."""

    def left(self, params: ScheduleParams, time: jax.Array) -> jax.Array:
        if not isinstance(params, VolumeProfileParams):
            raise TypeError(f"VWAP needs VolumeProfileParams, got {type(params).__name__}")
        profile = params.profile / jnp.sum(params.profile)
        n = profile.shape[0]
        # Of every part, how much of it lies ahead.
        ahead = jnp.clip(jnp.arange(1, n + 1) - (1.0 - time) * n, 0.0, 1.0)
        return jnp.sum(profile * ahead)


@dataclasses.dataclass(frozen=True)
class AlmgrenChriss(_Schedule):
    """The trajectory of least expected cost plus lambda times its variance."""

    def left(self, params: ScheduleParams, time: jax.Array) -> jax.Array:
        """sinh(kappa t) / sinh(kappa T) at time t before the deadline, float32[], where
        2 (cosh(kappa step) - 1) / step^2 = lambda sigma^2 / (eta - gamma step / 2)."""
        if not isinstance(params, AlmgrenChrissParams):
            raise TypeError(f"AlmgrenChriss needs AlmgrenChrissParams, got {type(params).__name__}")
        steps = params.rules.deadline
        step = params.horizon / steps
        eta = params.temporary - 0.5 * params.permanent * step
        per_step = 2.0 * jnp.arcsinh(0.5 * step * params.volatility * jnp.sqrt(params.risk_aversion / eta))
        whole = per_step * steps
        small = whole < 1e-3
        safe = jnp.where(small, 1.0, whole)
        # Of decaying exponentials, since sinh itself overflows where risk aversion is large.
        ratio = jnp.exp(safe * (time - 1.0)) * jnp.expm1(-2.0 * safe * time) / jnp.expm1(-2.0 * safe)
        return jnp.where(small, time, ratio)
