"""Running moments, and the scaling of observations and rewards by them.

Moments of a batch are merged into those so far exactly (Chan, Golub and LeVeque 1983), so that a rollout counts once,
whatever its size. The scaling in use is part of a policy's parameters: whoever loads it needs nothing else.
"""

import jax
import jax.numpy as jnp
from flax import struct

_LIMIT = 10.0
"""Scaled observations are clipped here: what lies further out is an outlier or was never seen in training."""


_NONE = 1e30
"""No limit, and finite like every number that is learned."""


@struct.dataclass
class Moments:
    """Of everything seen so far."""

    count: jax.Array  # float32[] samples
    mean: jax.Array  # float32[...]
    squares: jax.Array  # float32[...] sum of squared deviations from the mean

    @classmethod
    def none(cls, shape: tuple[int, ...] = ()) -> "Moments":
        """Of nothing."""
        return cls(jnp.zeros(()), jnp.zeros(shape), jnp.zeros(shape))

    def seen(self, x: jax.Array) -> "Moments":
        """With float32[N, ...] more samples."""
        n, mean = x.shape[0], x.mean(0)
        total = self.count + n
        step = mean - self.mean
        squares = self.squares + ((x - mean) ** 2).sum(0) + step**2 * self.count * n / total
        return Moments(total, self.mean + step * n / total, squares)

    @property
    def variance(self) -> jax.Array:
        """float32[...]; 1 before anything was seen."""
        return jnp.where(self.count > 0, self.squares / jnp.maximum(self.count, 1.0), 1.0)


@struct.dataclass
class Scaler:
    """x -> (x - mean) / std, within +- limit. It is data: no gradient reaches it."""

    mean: jax.Array  # float32[...]
    std: jax.Array  # float32[...] > 0
    limit: jax.Array  # float32[]

    @classmethod
    def identity(cls, size: int) -> "Scaler":
        """Leaves everything as it is."""
        return cls(jnp.zeros(size), jnp.ones(size), jnp.float32(_NONE))

    @classmethod
    def of(cls, moments: Moments) -> "Scaler":
        """To zero mean and unit variance; what never varied is only centred."""
        variance = moments.variance
        return cls(moments.mean, jnp.sqrt(jnp.where(variance > 1e-8, variance, 1.0)), jnp.float32(_LIMIT))

    def __call__(self, x: jax.Array) -> jax.Array:
        mean, std, limit = jax.lax.stop_gradient((self.mean, self.std, self.limit))
        return jnp.clip((x - mean) / std, -limit, limit)
