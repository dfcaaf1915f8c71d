"""Covariance of returns: exponentially weighted and causal, shrunk, and always positive definite.

The state keeps what West's recursion (1979, Comm. ACM 22) needs, so that a step costs one outer product and the result
equals the weighted sample covariance of everything seen so far. What is not linear in the returns (shrinkage, floors)
is done on correlations, so that returns of 1e-5 per step are as good in float32 as returns of one.

Shrinkage: Ledoit and Wolf (2004), "A well-conditioned estimator for large-dimensional covariance matrices" and
"Honey, I shrunk the sample covariance matrix", both on returns standardised to unit variance: no unit decides.
"""

from typing import Literal

import chex
import jax
import jax.numpy as jnp
from flax import struct

Target = Literal["diagonal", "constant_correlation"]
"""What correlations are pulled to: zero, or their mean."""


@struct.dataclass
class CovarianceState:
    """Exponentially weighted moments of everything seen so far. P products."""

    mean: jax.Array  # float32[P] weighted mean return
    covariance: jax.Array  # float32[P, P] weighted covariance, not corrected for bias
    weight: jax.Array  # float32[] sum of the observations' weights, the newest weighs one
    squared_weight: jax.Array  # float32[] sum of their squares

    @property
    def observations(self) -> jax.Array:
        """float32[] effective number of observations (Kish): (sum of weights)^2 / sum of their squares."""
        return self.weight**2 / jnp.maximum(self.squared_weight, 1.0)


def init(n_products: int) -> CovarianceState:
    """The state before any return was seen."""
    zero = jnp.zeros((), jnp.float32)
    return CovarianceState(
        mean=jnp.zeros(n_products, jnp.float32),
        covariance=jnp.zeros((n_products, n_products), jnp.float32),
        weight=zero,
        squared_weight=zero,
    )


def update(state: CovarianceState, returns: jax.Array, halflife: jax.Array | float) -> CovarianceState:
    """The state after one more row of returns.

    `returns` float32[P], finite, any unit. `halflife` float32[], steps after which an observation weighs half; infinity
    weighs all alike. It may change from step to step.
    """
    chex.assert_equal_shape([state.mean, returns])
    forgotten = _forgotten(halflife)
    weight = state.weight * (1.0 - forgotten) + 1.0
    gain = 1.0 / weight
    surprise = returns - state.mean
    return CovarianceState(
        mean=state.mean + gain * surprise,
        covariance=(1.0 - gain) * (state.covariance + gain * jnp.outer(surprise, surprise)),
        weight=weight,
        squared_weight=state.squared_weight * (1.0 - forgotten) ** 2 + 1.0,
    )


def scan(state: CovarianceState, returns: jax.Array, halflife: jax.Array | float) -> CovarianceState:
    """The state after each row of `returns` float32[T, P]: a CovarianceState with a leading axis T, each causal."""

    def step(state: CovarianceState, row: jax.Array) -> tuple[CovarianceState, CovarianceState]:
        state = update(state, row, halflife)
        return state, state

    return jax.lax.scan(step, state, returns)[1]


def batch(returns: jax.Array, halflife: jax.Array | float) -> CovarianceState:
    """The state after all rows of `returns` float32[T, P] at once: what `update` arrives at, in one matrix product."""
    chex.assert_rank(returns, 2)
    age = jnp.arange(returns.shape[0] - 1, -1, -1, dtype=jnp.float32)
    weights = jnp.exp2(-age / halflife)
    share = weights / weights.sum()
    mean = share @ returns
    centred = returns - mean
    return CovarianceState(
        mean=mean,
        covariance=(share[:, None] * centred).T @ centred,
        weight=weights.sum(),
        squared_weight=weights @ weights,
    )


def covariance(
    state: CovarianceState,
    shrinkage: jax.Array | float = 0.1,
    floor: jax.Array | float = 1e-4,
    volatility_floor: jax.Array | float = 1e-8,
    target: Target = "diagonal",
) -> jax.Array:
    """The covariance to use now: corrected for bias, shrunk, positive definite. float32[P, P].

    `shrinkage` float32[] in [0, 1]: how far correlations go toward `target`; variances stay. `floor` float32[] in
    (0, 1]: afterwards this much of the identity is mixed into the correlations, so that none of their eigenvalues is
    smaller, with few observations or none. `volatility_floor` float32[], the smallest volatility per step in units of
    the returns: what a product that never moved is given.
    """
    scale = volatility(state, volatility_floor)
    correlation = with_unit_diagonal(_unbiased(state) / jnp.outer(scale, scale))
    return rescale(shrink(correlation, shrinkage, target), scale, floor)


def volatility(state: CovarianceState, volatility_floor: jax.Array | float = 1e-8) -> jax.Array:
    """Standard deviation per step, corrected for bias, at least the floor. float32[P], unit of the returns."""
    return jnp.sqrt(jnp.maximum(jnp.diagonal(_unbiased(state)), jnp.square(volatility_floor)))


def shrink(correlation: jax.Array, intensity: jax.Array | float, target: Target = "diagonal") -> jax.Array:
    """`correlation` float32[P, P] pulled toward `target` by `intensity` float32[] in [0, 1]."""
    return (1.0 - intensity) * correlation + intensity * _target(correlation, target)


def ledoit_wolf(
    returns: jax.Array,
    target: Target = "diagonal",
    floor: jax.Array | float = 1e-4,
    volatility_floor: jax.Array | float = 1e-8,
) -> tuple[jax.Array, jax.Array]:
    """Covariance of `returns` float32[T, P], T >= 2, with the shrinkage that their own noise asks for.

    Returns (covariance float32[P, P] with divisor T, intensity float32[] in [0, 1]). The intensity minimises the
    expected squared error of the correlations: how much their estimates vary over how far the target is. The floors
    are those of `covariance`.
    """
    chex.assert_rank(returns, 2)
    n_steps, n_products = returns.shape
    centred = returns - returns.mean(0)
    volatility = jnp.maximum(jnp.sqrt(jnp.mean(centred**2, 0)), volatility_floor)
    standard = centred / volatility
    correlation = standard.T @ standard / n_steps
    squared = standard**2
    noise = squared.T @ squared / n_steps - correlation**2
    if target == "diagonal":
        shared_noise = jnp.zeros((), returns.dtype)
    else:
        shared = mean_correlation(correlation)
        skewed = (standard**3).T @ standard / n_steps - correlation
        off_diagonal = skewed.sum() - jnp.trace(skewed)
        shared_noise = jnp.trace(noise) + shared * off_diagonal
    distance = jnp.sum((correlation - _target(correlation, target)) ** 2)
    error = (noise.sum() - shared_noise) / n_steps
    tiny = jnp.finfo(returns.dtype).eps * n_products
    intensity = jnp.where(distance > tiny, jnp.clip(error / jnp.maximum(distance, tiny), 0.0, 1.0), 0.0)
    return rescale(shrink(with_unit_diagonal(correlation), intensity, target), volatility, floor), intensity


def kept(halflife: jax.Array | float) -> jax.Array:
    """Share of its weight that an observation keeps for one step: 2^(-1 / halflife)."""
    return 1.0 - _forgotten(halflife)


def _forgotten(halflife: jax.Array | float) -> jax.Array:
    """Share of an observation's weight that one step takes: 1 - 2^(-1 / halflife), exact also for long half-lives."""
    return -jnp.expm1(-jnp.log(2.0) / jnp.asarray(halflife, jnp.float32))


def _unbiased(state: CovarianceState) -> jax.Array:
    share = state.squared_weight / jnp.maximum(state.weight, 1.0) ** 2
    several = share < 1.0 - 1e-6
    return state.covariance / jnp.where(several, 1.0 - share, 1.0)


def with_unit_diagonal(correlation: jax.Array) -> jax.Array:
    """`correlation` float32[P, P] with rounding undone: ones on the diagonal, nothing beyond them."""
    identity = jnp.eye(correlation.shape[0], dtype=correlation.dtype)
    return jnp.where(identity > 0, 1.0, jnp.clip(correlation, -1.0, 1.0))


def mean_correlation(correlation: jax.Array) -> jax.Array:
    """float32[] mean of the pairs' correlations in float32[P, P], zero for one product."""
    n_products = correlation.shape[0]
    return (correlation.sum() - jnp.trace(correlation)) / max(n_products * (n_products - 1), 1)


def _target(correlation: jax.Array, target: Target) -> jax.Array:
    identity = jnp.eye(correlation.shape[0], dtype=correlation.dtype)
    if target == "diagonal":
        return identity
    if target == "constant_correlation":
        return jnp.where(identity > 0, 1.0, mean_correlation(correlation))
    raise ValueError(f"target must be diagonal or constant_correlation, got {target!r}")


def rescale(correlation: jax.Array, volatility: jax.Array, floor: jax.Array | float) -> jax.Array:
    """The covariance of `correlation` float32[P, P], `floor` of the identity mixed in, and `volatility` float32[P]."""
    identity = jnp.eye(correlation.shape[0], dtype=correlation.dtype)
    mixed = (1.0 - floor) * correlation + floor * identity
    return mixed * jnp.outer(volatility, volatility)
