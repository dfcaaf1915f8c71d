"""What a series of returns earned and what it risked: pure functions of simple returns per period.

Everything is computed in the dtype of its input, float32 inside a jitted loop, and float32 is enough because no metric
touches the level of equity: growth is a sum of log1p(return), dispersion is measured about the mean in two passes, and
a drawdown is a difference of two log levels. Make the returns from profits (`returns_from_profit`), not from equity
that was already rounded.

A ratio whose denominator is zero is 0: undefined, neither good nor bad. A strategy that never trades therefore has
volatility, Sharpe, Sortino and Calmar ratio 0. No metric of finite returns is NaN or infinite.
"""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

LARGEST_ANNUAL_LOG_GROWTH = 23.0
"""Annualised log growth is cut at ±23 (a factor of 1e10 a year): beyond it an extrapolation means nothing."""

Metric = Callable[[jax.Array, ArrayLike], jax.Array]
"""(returns float[T], periods per year) -> float[]."""


def returns_from_profit(profit: jax.Array, initial_equity: ArrayLike) -> jax.Array:
    """Simple return of each period, float[T], from the profit of each period, float[T] [currency].

    Equity before a period is `initial_equity` plus the profits before it. From the period in which equity is no longer
    positive on, returns are -1 and then 0: the strategy is ruined and stays so.
    """
    profit = jnp.asarray(profit)
    chex.assert_rank(profit, 1)
    after = initial_equity + jnp.cumsum(profit)
    before = jnp.concatenate([jnp.asarray(initial_equity, after.dtype)[None], after[:-1]])
    alive_before = lax.cummin(before) > 0
    alive_after = alive_before & (after > 0)
    return jnp.where(alive_after, profit / jnp.where(alive_before, before, 1), jnp.where(alive_before, -1.0, 0.0))


def returns_from_equity(equity: jax.Array) -> jax.Array:
    """Simple return of each period, float[T], from equity at its ends, float[T+1] [currency]."""
    equity = jnp.asarray(equity)
    chex.assert_rank(equity, 1)
    return returns_from_profit(jnp.diff(equity), equity[0])


def total_return(returns: jax.Array, periods_per_year: ArrayLike = 1.0) -> jax.Array:
    """Growth over the whole series as a fraction, -1 where a return is -1 or worse."""
    return jnp.expm1(jnp.minimum(jnp.sum(_log_growth(returns)), 80.0))


def cagr(returns: jax.Array, periods_per_year: ArrayLike) -> jax.Array:
    """Compound annual growth rate as a fraction: the growth of the series, continued for a year."""
    annual = jnp.sum(_log_growth(returns)) / returns.shape[0] * periods_per_year
    return jnp.expm1(jnp.clip(annual, -LARGEST_ANNUAL_LOG_GROWTH, LARGEST_ANNUAL_LOG_GROWTH))


def standard_deviation(returns: jax.Array) -> jax.Array:
    """Sample standard deviation (divisor T-1) in two passes, float[]; 0 where it is no more than rounding."""
    n = returns.shape[0]
    scale = _scale(returns)
    scaled = returns / scale
    deviation = scaled - jnp.mean(scaled)
    deviation -= jnp.mean(deviation)
    relative = jnp.sqrt(jnp.sum(jnp.square(deviation)) / max(n - 1, 1))
    return jnp.where(relative > 8 * jnp.finfo(returns.dtype).eps, relative * scale, 0)


def volatility(returns: jax.Array, periods_per_year: ArrayLike) -> jax.Array:
    """Annualised standard deviation of returns (divisor T-1) as a fraction."""
    return standard_deviation(returns) * jnp.sqrt(periods_per_year)


def sharpe_ratio(returns: jax.Array, periods_per_year: ArrayLike) -> jax.Array:
    """Annualised mean over standard deviation of returns, against a riskless rate of zero (Sharpe, 1994)."""
    return _ratio(jnp.mean(returns), standard_deviation(returns)) * jnp.sqrt(periods_per_year)


def sortino_ratio(returns: jax.Array, periods_per_year: ArrayLike) -> jax.Array:
    """Annualised mean over downside deviation, the root mean square of losses over all periods (Sortino, 1994)."""
    scale = _scale(returns)
    downside = scale * jnp.sqrt(jnp.mean(jnp.square(jnp.minimum(returns / scale, 0))))
    return _ratio(jnp.mean(returns), downside) * jnp.sqrt(periods_per_year)


def drawdown(returns: jax.Array) -> jax.Array:
    """Loss from the highest equity so far as a fraction in [0, 1], float[T+1]; the start counts as a high.

    A loss smaller than the rounding error of the cumulative sum is none.
    """
    growth = _log_growth(returns)
    level = jnp.concatenate([jnp.zeros(1, growth.dtype), jnp.cumsum(growth)])
    below = lax.cummax(level) - level
    rounding = 2 * jnp.finfo(growth.dtype).eps * jnp.sum(jnp.where(growth > -1, jnp.abs(growth), 0))
    return jnp.where(below > rounding, -jnp.expm1(-below), 0)


def max_drawdown(returns: jax.Array, periods_per_year: ArrayLike = 1.0) -> jax.Array:
    """The largest loss from a high as a fraction in [0, 1]."""
    return jnp.max(drawdown(returns))


def max_drawdown_duration(returns: jax.Array, periods_per_year: ArrayLike = 1.0) -> jax.Array:
    """The longest run of periods that end below an earlier high [periods], float."""
    under_water = drawdown(returns) > 0
    step = jnp.arange(under_water.shape[0])
    duration = step - lax.cummax(jnp.where(under_water, 0, step))
    return jnp.max(duration).astype(returns.dtype)


def calmar_ratio(returns: jax.Array, periods_per_year: ArrayLike) -> jax.Array:
    """Compound annual growth over maximum drawdown (Young, 1991)."""
    return _ratio(cagr(returns, periods_per_year), max_drawdown(returns))


def hit_rate(returns: jax.Array, periods_per_year: ArrayLike = 1.0) -> jax.Array:
    """Share of gains among the periods that gained or lost something."""
    return _ratio(jnp.sum(returns > 0), jnp.sum(returns != 0)).astype(returns.dtype)


METRICS: dict[str, Metric] = {
    "total_return": total_return,
    "cagr": cagr,
    "volatility": volatility,
    "sharpe": sharpe_ratio,
    "sortino": sortino_ratio,
    "calmar": calmar_ratio,
    "max_drawdown": max_drawdown,
    "max_drawdown_duration": max_drawdown_duration,
    "hit_rate": hit_rate,
}
"""Every metric that is a function of returns alone, by its name in summary.json."""


def performance(
    returns: jax.Array, periods_per_year: ArrayLike, turnover: jax.Array | None = None
) -> dict[str, jax.Array]:
    """All metrics of one series.

    Args:
        returns: float[T] simple return of each period, net of costs, T >= 1.
        periods_per_year: periods in a year, for example 252 for daily returns.
        turnover: float[T] value traded in each period over the equity before it; left out, there is no such metric.

    Returns:
        name -> float[]: those of `METRICS`, and `turnover`, the value traded over the whole series as a multiple of
        equity. Durations are in periods, everything else is a fraction or a ratio.
    """
    returns = jnp.asarray(returns)
    chex.assert_rank(returns, 1)
    values = {name: metric(returns, periods_per_year) for name, metric in METRICS.items()}
    if turnover is not None:
        chex.assert_equal_shape([returns, turnover])
        values["turnover"] = jnp.sum(turnover)
    return values


def _log_growth(returns: jax.Array) -> jax.Array:
    """log1p of returns; a return of -1 or worse is a log growth of -100, so that ruin stays finite and final."""
    return jnp.where(returns > -1, jnp.log1p(jnp.where(returns > -1, returns, 0)), -100.0)


def _scale(returns: jax.Array) -> jax.Array:
    """The largest absolute return, or 1: squares of what is divided by it do not underflow."""
    largest = jnp.max(jnp.abs(returns))
    return jnp.where(largest > 0, largest, 1)


def _ratio(numerator: jax.Array, denominator: jax.Array) -> jax.Array:
    return jnp.where(denominator > 0, numerator / jnp.where(denominator > 0, denominator, 1), 0)
