"""What a backtest establishes: bootstrap intervals of metrics and of differences between two strategies.

Returns are resampled in blocks of random length, the stationary bootstrap of Politis & Romano (1994), so that serial
dependence and volatility clustering survive; the mean block length is Politis & White's (2004, corrected by Patton,
Politis & White, 2009). Sharpe ratios and their differences get studentised intervals (Ledoit & Wolf, 2008), both
strategies on the same resampled blocks, since percentile intervals of so noisy a ratio are too narrow.

Returns may be `[R, T]`: R replications of one period under different random fills. A metric is then the mean over
replications and all of them are resampled at the same times, so that replications never pass for more market data.
"""

import functools
from collections.abc import Callable
from typing import Any, TypedDict

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from marljax.evaluation.metrics import METRICS, sharpe_ratio, standard_deviation

EULER_GAMMA = 0.5772156649015329
_CHUNK = 2**21
"""Resampled values held at once by a bootstrap, which bounds its memory."""


class Difference(TypedDict):
    """How two strategies differ and whether the data establish it."""

    interval: list[float]
    """Low, estimate, high of the annualised Sharpe ratio of the first strategy less that of the second."""
    verdict: str
    """`established` where the interval excludes zero, else `not established`."""


def optimal_block_length(series: np.ndarray) -> float:
    """Mean block length [periods] of the stationary bootstrap for the mean of `series` float[T], between 1 and 3√T.

    The rule of Politis & White (2004) with the correction of Patton, Politis & White (2009): autocovariances are
    weighted by a flat-top window whose width is twice the first lag from which max(5, log10 T) autocorrelations in a
    row are insignificant. A constant series has length 1.
    """
    x = np.asarray(series, np.float64)
    chex.assert_rank(x, 1)
    n = len(x)
    x = x - x.mean()
    if n < 8 or np.ptp(x) == 0:
        return 1.0
    in_a_row = max(5, int(np.log10(n)))
    widest = min(int(np.ceil(np.sqrt(n))) + in_a_row, n - 1)
    covariance = np.array([x[lag:] @ x[: n - lag] for lag in range(widest + 1)]) / n
    significant = np.abs(covariance) >= 2 * np.sqrt(np.log10(n) / n) * covariance[0]
    window = widest
    for lag in range(1, widest - in_a_row + 1):
        if not significant[lag : lag + in_a_row].any():
            window = min(2 * lag, widest)
            break
    lags = np.arange(1, window + 1)
    weighted = np.minimum(1, 2 * (1 - lags / window)) * covariance[1 : window + 1]
    long_run_variance = covariance[0] + 2 * weighted.sum()
    slope = 2 * (lags * weighted).sum()
    longest = np.ceil(min(3 * np.sqrt(n), n / 3))
    if long_run_variance == 0:
        return float(longest)
    return float(np.clip(np.cbrt(n * (slope / long_run_variance) ** 2), 1, longest))


def stationary_bootstrap(key: jax.Array, n_periods: int, block_length: ArrayLike) -> tuple[jax.Array, jax.Array]:
    """One resample of the time indices 0..T-1 in blocks of geometric length, wrapping around the end.

    Returns:
        indices int32[T], and starts bool[T], where a block begins. A block begins at each place with probability
        1/`block_length` (mean block length [periods], >= 1), at a uniformly drawn period.
    """
    start_key, period_key = jax.random.split(key)
    place = jnp.arange(n_periods)
    starts = jax.random.bernoulli(start_key, 1 / jnp.asarray(block_length, jnp.float32), (n_periods,)).at[0].set(True)
    period = jax.random.randint(period_key, (n_periods,), 0, n_periods)
    block_begin = lax.cummax(jnp.where(starts, place, 0))
    return (period[block_begin] + place - block_begin) % n_periods, starts


def metric_intervals(
    key: jax.Array,
    returns: jax.Array,
    periods_per_year: ArrayLike,
    *,
    confidence: float = 0.95,
    n_resamples: int = 1000,
) -> dict[str, list[float]]:
    """Low, estimate and high of every metric in `METRICS`.

    Percentile intervals, but for the Sharpe ratio, which is studentised. An interval of a drawdown or its duration
    says what other orders of the same blocks would have shown; it is not centred on the estimate.

    Args:
        key: PRNG key.
        returns: float[T] or float[R, T] simple returns per period.
        periods_per_year: periods in a year.
        confidence: probability that an interval is meant to cover, in (0, 1).
        n_resamples: bootstrap resamples.
    """
    series = _replications(returns)
    block_length = _block_length(_sharpe_influence(series))
    estimate, resampled = _resample_metrics(key, series, periods_per_year, block_length, n_resamples)
    tail = 50 * (1 - confidence)
    intervals = {}
    for name, value in estimate.items():
        low, high = np.percentile(np.asarray(resampled[name], np.float64), [tail, 100 - tail])
        intervals[name] = [float(low), float(value), float(high)]
    flat = jnp.zeros_like(series[:1])
    intervals["sharpe"] = difference(
        key, series, flat, periods_per_year, confidence=confidence, n_resamples=n_resamples
    )["interval"]
    return intervals


def difference(
    key: jax.Array,
    strategy_returns: jax.Array,
    baseline_returns: jax.Array,
    periods_per_year: ArrayLike,
    *,
    confidence: float = 0.95,
    n_resamples: int = 2000,
) -> Difference:
    """Annualised Sharpe ratio of a strategy less that of a baseline over the same periods, paired.

    The interval is symmetric about the estimate, its half-width a quantile of the resampled |t| times the standard
    error (Ledoit & Wolf, 2008). A strategy without a position has Sharpe ratio 0.

    Args:
        key: PRNG key.
        strategy_returns: float[T] or float[R, T] simple returns per period, net of costs.
        baseline_returns: float[T] or float[R', T], the same periods.
        periods_per_year: periods in a year.
        confidence: probability that the interval is meant to cover, in (0, 1).
        n_resamples: bootstrap resamples.
    """
    strategy, baseline = _replications(strategy_returns), _replications(baseline_returns)
    if strategy.shape[1] != baseline.shape[1]:
        raise ValueError(f"a strategy of {strategy.shape[1]} periods and a baseline of {baseline.shape[1]}")
    block_length = _block_length(_sharpe_influence(strategy) - _sharpe_influence(baseline))
    estimate, error, t = _resample_sharpe_difference(key, strategy, baseline, block_length, n_resamples)
    half_width = float(np.quantile(np.abs(np.asarray(t, np.float64)), confidence)) * float(error)
    low, middle, high = (
        float(value * np.sqrt(periods_per_year)) for value in (estimate - half_width, estimate, estimate + half_width)
    )
    established = low > 0 or high < 0
    return {"interval": [low, middle, high], "verdict": "established" if established else "not established"}


def probabilistic_sharpe_ratio(returns: jax.Array, threshold: ArrayLike = 0.0) -> jax.Array:
    """Probability that the true Sharpe ratio per period exceeds `threshold` (per period), float[] in [0, 1].

    Bailey & López de Prado (2012): normal approximation with the skewness and kurtosis of `returns` float[T], which
    are taken as independent. A flat series gives 0.5 against a threshold of 0.
    """
    returns = jnp.asarray(returns)
    chex.assert_rank(returns, 1)
    sharpe = sharpe_ratio(returns, 1.0)
    centred = returns - jnp.mean(returns)
    spread = jnp.max(jnp.abs(centred))
    centred = centred / jnp.where(spread > 0, spread, 1)
    variance = jnp.mean(centred**2)
    variance = jnp.where(variance > 0, variance, 1)
    skewness = jnp.mean(centred**3) / variance**1.5
    kurtosis = jnp.where(spread > 0, jnp.mean(centred**4) / variance**2, 3)
    error = jnp.sqrt(1 - skewness * sharpe + (kurtosis - 1) / 4 * sharpe**2)
    return jax.scipy.stats.norm.cdf((sharpe - threshold) * jnp.sqrt(returns.shape[0] - 1.0) / error)


def expected_largest_sharpe(n_trials: ArrayLike, trial_variance: ArrayLike) -> jax.Array:
    """The largest Sharpe ratio per period to expect of `n_trials` strategies without skill, float[].

    Bailey & López de Prado (2014). `trial_variance` is the variance of the Sharpe ratios per period over the trials.
    """
    n = jnp.maximum(jnp.asarray(n_trials, jnp.float32), 2)
    ndtri = jax.scipy.special.ndtri
    quantile = (1 - EULER_GAMMA) * ndtri(1 - 1 / n) + EULER_GAMMA * ndtri(1 - 1 / (n * jnp.e))
    return jnp.where(jnp.asarray(n_trials) > 1, jnp.sqrt(trial_variance) * quantile, 0)


def deflated_sharpe_ratio(returns: jax.Array, n_trials: ArrayLike, trial_variance: ArrayLike) -> jax.Array:
    """Probability that the best of `n_trials` has skill: its Sharpe ratio beats what luck alone would have selected.

    Bailey & López de Prado (2014): `probabilistic_sharpe_ratio` of the selected `returns` float[T] against
    `expected_largest_sharpe`. With one trial it is the probabilistic Sharpe ratio.
    """
    return probabilistic_sharpe_ratio(returns, expected_largest_sharpe(n_trials, trial_variance))


@functools.partial(jax.jit, static_argnames="n_resamples")
def _resample_metrics(
    key: jax.Array, series: jax.Array, periods_per_year: ArrayLike, block_length: ArrayLike, n_resamples: int
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """Metrics of series float[R, T], and of its resamples [n_resamples]."""

    def metrics(values: jax.Array) -> dict[str, jax.Array]:
        return {
            name: jnp.mean(jax.vmap(lambda row, metric=metric: metric(row, periods_per_year))(values))
            for name, metric in METRICS.items()
        }

    def resample(key: jax.Array) -> dict[str, jax.Array]:
        indices, _ = stationary_bootstrap(key, series.shape[1], block_length)
        return metrics(series[:, indices])

    return metrics(series), _map(resample, jax.random.split(key, n_resamples), series.size)


@functools.partial(jax.jit, static_argnames="n_resamples")
def _resample_sharpe_difference(
    key: jax.Array, strategy: jax.Array, baseline: jax.Array, block_length: ArrayLike, n_resamples: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Difference of Sharpe ratios per period, its standard error, and the resampled t statistics [n_resamples]."""
    n_periods = strategy.shape[1]

    def estimate(strategy: jax.Array, baseline: jax.Array) -> tuple[jax.Array, jax.Array]:
        difference = _mean_sharpe(strategy) - _mean_sharpe(baseline)
        return difference, _sharpe_influence(strategy) - _sharpe_influence(baseline)

    centre, influence = estimate(strategy, baseline)
    error = jnp.sqrt(_variance_of_mean(influence, block_length))

    def t_statistic(key: jax.Array) -> jax.Array:
        indices, starts = stationary_bootstrap(key, n_periods, block_length)
        resampled, influence = estimate(strategy[:, indices], baseline[:, indices])
        block = jnp.cumsum(starts) - 1
        sums = jax.ops.segment_sum(influence, block, n_periods, indices_are_sorted=True)
        resampled_error = jnp.sqrt(jnp.sum(sums**2)) / n_periods
        return jnp.where(
            resampled_error > 0, (resampled - centre) / jnp.where(resampled_error > 0, resampled_error, 1), 0
        )

    t = _map(t_statistic, jax.random.split(key, n_resamples), strategy.size + baseline.size)
    return centre, error, t


def _map(function: Callable[[jax.Array], Any], keys: jax.Array, values_each: int) -> Any:
    return lax.map(function, keys, batch_size=int(np.clip(_CHUNK // values_each, 1, len(keys))))


def _mean_sharpe(series: jax.Array) -> jax.Array:
    return jnp.mean(jax.vmap(lambda row: sharpe_ratio(row, 1.0))(series))


@jax.jit
def _sharpe_influence(series: jax.Array) -> jax.Array:
    """What each period contributes to the error of the mean Sharpe ratio of float[R, T], float[T]; zero on average.

    To first order the Sharpe ratio S of a series errs by the mean of z - S (z² - 1) / 2, z its standardised returns.
    """

    def influence(row: jax.Array) -> jax.Array:
        deviation = standard_deviation(row)
        z = jnp.where(deviation > 0, (row - jnp.mean(row)) / jnp.where(deviation > 0, deviation, 1), 0)
        return z - sharpe_ratio(row, 1.0) * (z**2 - 1) / 2

    return jnp.mean(jax.vmap(influence)(series), axis=0)


def _variance_of_mean(series: jax.Array, block_length: ArrayLike) -> jax.Array:
    """Variance of the mean of float[T] under the stationary bootstrap: what squared block sums estimate on average.

    Autocovariances (around the circle) count by the chance that two periods share a block (Politis & Romano, 1994).
    """
    n = series.shape[0]
    lag = jnp.arange(n)
    autocovariance = jnp.fft.irfft(jnp.abs(jnp.fft.rfft(series - jnp.mean(series))) ** 2, n) / n
    together = (1 - lag / n) * (1 - 1 / jnp.asarray(block_length, series.dtype)) ** lag
    twice = jnp.where(lag > 0, 2, 1)
    return jnp.maximum(jnp.sum(twice * together * autocovariance), 0) / n


def _replications(returns: jax.Array) -> jax.Array:
    """float[R, T] from float[T] or float[R, T]."""
    series = jnp.atleast_2d(jnp.asarray(returns, float))
    if series.ndim != 2 or series.shape[1] < 2:
        raise ValueError(f"returns must be [T] or [R, T] with at least two periods, got shape {jnp.shape(returns)}")
    return series


def _block_length(influence: jax.Array) -> float:
    return optimal_block_length(np.asarray(influence))
