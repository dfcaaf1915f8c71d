"""The technical indicators everybody knows, on the mid of one product.

Moving averages follow Wilder's start: the plain mean until the period is full, exponential from there on, begun
again with every session. `double_mid` [T] is best bid plus best ask in half ticks (int32, or float32 for gradients),
`age` int32[T] the steps since the session began. Levels enter only through exact differences.
"""

import chex
import jax
import jax.numpy as jnp

from marljax.features.returns import rolling_tick_volatility
from marljax.features.windows import changes, linear_recurrence, ratio, rolling_deviation


def moving_average(x: jax.Array, count: jax.Array, period: int, weight: float) -> jax.Array:
    """float32[T] exponential moving average begun as the plain mean of the first `period` observations.

    `count` int32[T] says how many observations the session has had, this one included; where it is 0 there is none
    and the average is 0. `weight` of the newest observation once the period is full: 1 / period for Wilder, 2 /
    (period + 1) for MACD.
    """
    newest = _weight_of_newest(count, period, weight)
    return linear_recurrence(jnp.where(count > 0, 1 - newest, 0.0), jnp.where(count > 0, newest * x, 0.0))


def rsi(double_mid: jax.Array, age: jax.Array, period: int) -> jax.Array:
    """float32[T] relative strength index in 0..100 (Wilder, 1978); 50 where the mid has not moved."""
    chex.assert_equal_shape([double_mid, age])
    change = changes(double_mid, age)
    gain = moving_average(jnp.maximum(change, 0.0), age, period, 1 / period)
    loss = moving_average(jnp.maximum(-change, 0.0), age, period, 1 / period)
    return 100 * ratio(gain, gain + loss, otherwise=0.5)


def macd(
    double_mid: jax.Array, age: jax.Array, fast: int, slow: int, signal: int, volatility_window: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """float32[T] MACD line, its signal line and their difference, the histogram (Appel, 1979).

    In units of the rolling volatility of the mid's steps, so that one tick means the same for every product.
    """
    chex.assert_equal_shape([double_mid, age])
    change = changes(double_mid, age) / 2
    line = _average_less_latest(change, age, fast) - _average_less_latest(change, age, slow)
    signal_line = moving_average(line, age + 1, signal, 2 / (signal + 1))
    volatility = rolling_tick_volatility(double_mid, age, volatility_window)
    return line / volatility, signal_line / volatility, (line - signal_line) / volatility


def z_score(double_mid: jax.Array, age: jax.Array, window: int) -> jax.Array:
    """float32[T] standard deviations from the mid's mean over the last `window` rows; 0 where it stood still."""
    chex.assert_equal_shape([double_mid, age])
    deviation, variance = rolling_deviation(double_mid, age, window)
    # one half-tick move in a full window: no mid that moved varies less
    return deviation / jnp.sqrt(jnp.maximum(variance, (window - 1) / window**2))


def _average_less_latest(change: jax.Array, age: jax.Array, period: int) -> jax.Array:
    """Moving average of the mid less the mid, from the mid's changes: a level would drown the difference of two."""
    remaining = 1 - _weight_of_newest(age + 1, period, 2 / (period + 1))
    return linear_recurrence(remaining, -remaining * change)


def _weight_of_newest(count: jax.Array, period: int, weight: float) -> jax.Array:
    return jnp.where(count <= period, 1 / jnp.maximum(count, 1), weight).astype(jnp.float32)
