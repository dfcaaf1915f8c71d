"""What moves with what: products with each other by horizon, volume with volatility, and prices with order flow."""

import numpy as np
from numpy.typing import ArrayLike

from marljax.generative.scores.tails import HORIZONS, aggregate, varies


def correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Pearson correlation of two samples [N], NaN for a constant or fewer than three pairs."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if len(x) < 3 or not varies(x) or not varies(y):
        return np.nan
    return float(np.corrcoef(x, y)[0, 1])


def pair_correlations(x: np.ndarray) -> np.ndarray:
    """float64[P(P-1)/2] correlations of the pairs of columns of x [N, P], NaN for a constant column."""
    rows, columns = np.triu_indices(x.shape[1], 1)
    return np.array([correlation(x[:, i], x[:, j]) for i, j in zip(rows, columns, strict=True)])


def correlation_by_horizon(
    returns: np.ndarray, stretch: np.ndarray | None = None, horizons: tuple[int, ...] = HORIZONS
) -> np.ndarray:
    """float64[H, pairs] correlations between products' returns [N, P] added up over each horizon [rows].

    They rise with the horizon where news reaches one product later than the other (Epps 1979).
    """
    return np.array([pair_correlations(aggregate(returns, horizon, stretch)) for horizon in horizons])


def mean_difference(x: ArrayLike, y: ArrayLike) -> float:
    """Mean absolute difference over what both define, NaN where that is nothing."""
    gap = np.abs(np.asarray(x, np.float64) - np.asarray(y, np.float64))
    gap = gap[np.isfinite(gap)]
    return float(gap.mean()) if gap.size else np.nan


def correlation_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Mean absolute difference of two samples' correlations [N, P], over pairs of products; NaN for one product."""
    return mean_difference(pair_correlations(x), pair_correlations(y))


def volume_volatility(
    volume: np.ndarray, returns: np.ndarray, stretch: np.ndarray | None = None, horizon: int = 1
) -> float:
    """Correlation of traded volume with the absolute return over `horizon` rows, both [N] (Karpoff 1987)."""
    return correlation(aggregate(volume, horizon, stretch), np.abs(aggregate(returns, horizon, stretch)))


def flow_r2(flow: np.ndarray, moves: np.ndarray, stretch: np.ndarray | None = None, horizon: int = 10) -> float:
    """R^2 of the mid's move on order flow imbalance over the same `horizon` rows, both [N] and one intercept.

    Flow is that of the best level (`features.microstructure.order_flow`). Cont, Kukanov and Stoikov (2014).
    """
    return correlation(aggregate(flow, horizon, stretch), aggregate(moves, horizon, stretch)) ** 2
