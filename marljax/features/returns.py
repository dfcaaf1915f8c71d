"""Returns of the mid, how much they move, and which volatility regime that is.

Functions take one product's `double_mid` [T], best bid plus best ask in half ticks: int32 as `MarketData` has it, or
float32 where a generator made it and gradients flow. `age` int32[T] is `windows.session_age`.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marljax.data.schema import InputError, MarketData
from marljax.features.windows import changes, ratio, rolling_flow_mean, root, session_age

MINIMUM_COUNT = 10
"""Steps a session needs before a windowed statistic is trusted [steps]; a shorter window needs its own length."""


def log_ratio(now: jax.Array, before: jax.Array) -> jax.Array:
    """float32 log(now / before), 0 where either is not positive.

    Close to each other it is log1p of their exact difference, so that a half tick on a price of millions of ticks
    keeps its digits; far apart it is the log of their quotient, which cannot round to log 0.
    """
    defined = (now > 0) & (before > 0)
    change = jnp.where(defined, now - before, 0).astype(jnp.float32)
    now = jnp.where(defined, now, 1).astype(jnp.float32)
    before = jnp.where(defined, before, 1).astype(jnp.float32)
    close = 2 * jnp.abs(change) < before
    return jnp.where(close, jnp.log1p(jnp.where(close, change, 0.0) / before), jnp.log(now / before))


def log_returns(double_mid: jax.Array, age: jax.Array) -> jax.Array:
    """float32[T] log(mid_t / mid_{t-1}); 0 at a session's first row and where either mid is not positive."""
    chex.assert_equal_shape([double_mid, age])
    before = jnp.concatenate([double_mid[:1], double_mid[:-1]])
    return log_ratio(double_mid, jnp.where(age > 0, before, double_mid))


def rolling_volatility(double_mid: jax.Array, age: jax.Array, window: int) -> jax.Array:
    """float32[T] root mean square log return per step over the last `window` steps of the session.

    About zero, not about the window's mean: over a few steps the mean is noise (realised volatility; Andersen,
    Bollerslev, Diebold and Labys, 2003).
    """
    return root(rolling_flow_mean(log_returns(double_mid, age) ** 2, age, window))


def rolling_tick_volatility(double_mid: jax.Array, age: jax.Array, window: int) -> jax.Array:
    """float32[T] root mean square change of the mid per step over the last `window` steps of the session [ticks].

    At least that of one half-tick move in the window, the smallest that moves a mid at all, so that one may divide
    by it. Unlike a return it exists for prices at or below zero.
    """
    mean_square = rolling_flow_mean((changes(double_mid, age) / 2) ** 2, age, window)
    return jnp.sqrt(jnp.maximum(mean_square, 0.25 / window))


def volatility_ratio(double_mid: jax.Array, age: jax.Array, window: int, long_window: int) -> jax.Array:
    """float32[T] short over long rolling volatility, 1 where nothing has moved: above 1 the market is waking up."""
    return ratio(
        rolling_volatility(double_mid, age, window), rolling_volatility(double_mid, age, long_window), otherwise=1.0
    )


@struct.dataclass
class VolatilityThresholds:
    """Where one volatility regime ends and the next begins, fitted on a training part."""

    edges: jax.Array  # float32[P, R - 1] rolling volatility per step, ascending
    window: int = struct.field(pytree_node=False)  # steps


def fit_volatility_thresholds(
    train: MarketData, quantiles: tuple[float, ...] = (1 / 3, 2 / 3), window: int = 100
) -> VolatilityThresholds:
    """Thresholds at these quantiles of each product's rolling volatility over `window` steps of the training part.

    Raises InputError unless quantiles ascend within (0, 1) and the window holds a step.
    """
    ascending = np.array([0.0, *quantiles, 1.0])
    if window < 1 or len(ascending) < 3 or not (np.diff(ascending) > 0).all():
        raise InputError(
            f"volatility regimes need a window of at least a step and quantiles ascending within (0, 1), "
            f"got {window} and {quantiles}"
        )
    volatility, known = map(np.asarray, _known_volatility(train, window))
    edges = np.zeros((train.n_products, len(quantiles)), np.float32)
    for product in range(train.n_products):
        values = volatility[known[:, product], product]
        if values.size:
            edges[product] = np.quantile(values, quantiles)
    return VolatilityThresholds(edges=jnp.asarray(edges), window=window)


def volatility_regime(data: MarketData, thresholds: VolatilityThresholds) -> jax.Array:
    """int32[T, P] in 0 (lowest volatility) .. R - 1, causal.

    Until a session has `MINIMUM_COUNT` steps its volatility is unknown and the regime is the middle one, R // 2.
    """
    volatility, known = _known_volatility(data, thresholds.window)
    regime = jnp.sum(volatility[..., None] > thresholds.edges, axis=-1, dtype=jnp.int32)
    middle = jnp.int32((thresholds.edges.shape[-1] + 1) // 2)
    return jnp.where(known, regime, middle)


@jax.jit(static_argnums=1)
def _known_volatility(data: MarketData, window: int) -> tuple[jax.Array, jax.Array]:
    def one(double_mid: jax.Array, valid: jax.Array) -> tuple[jax.Array, jax.Array]:
        age = session_age(data.session, valid)
        return rolling_volatility(double_mid, age, window), age >= min(window, MINIMUM_COUNT)

    return jax.vmap(one, in_axes=1, out_axes=1)(data.double_mid, data.valid)
