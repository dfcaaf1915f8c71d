"""How heavy the tails are, and how fast they thin as returns are added up over longer horizons."""

import numpy as np

HORIZONS = (1, 5, 10, 20)
"""Rows that returns are added up over, where nothing else is asked for."""
_TAIL = 0.05


def varies(x: np.ndarray) -> bool:
    """Whether a sample [N] is more than one value and its rounding; not if it is empty or holds a NaN."""
    return len(x) > 0 and bool(np.ptp(x) > 1e-12 * np.max(np.abs(x)))


def excess_kurtosis(x: np.ndarray) -> float:
    """Fourth standardised moment less 3, NaN if constant or empty."""
    if not varies(x):
        return np.nan
    centred = x - x.mean()
    return float(np.mean(centred**4) / np.mean(centred**2) ** 2 - 3)


def hill_index(x: np.ndarray, tail: float = _TAIL) -> float:
    """Tail index of |x| from its largest share `tail` (Hill 1975); NaN where the tail has one value only."""
    largest = np.sort(np.abs(x))[::-1]
    n = max(int(tail * len(largest)), 1)
    if n >= len(largest) or largest[n] <= 0:
        return np.nan
    mean_excess = np.mean(np.log(largest[:n] / largest[n]))
    return float(1 / mean_excess) if mean_excess > 0 else np.nan


def aggregate(x: np.ndarray, horizon: int, stretch: np.ndarray | None = None) -> np.ndarray:
    """Sums [M, ...] of x [N, ...] over `horizon` rows side by side, none across two stretches (int[N])."""
    if stretch is None:
        stretch = np.zeros(len(x), int)
    edges = np.flatnonzero(np.diff(stretch)) + 1
    firsts, lasts = np.concatenate([[0], edges]), np.concatenate([edges, [len(x)]])
    starts = np.concatenate(
        [np.arange(first, last - horizon + 1, horizon) for first, last in zip(firsts, lasts, strict=True)]
    )
    return x[starts[:, None] + np.arange(horizon)].sum(1)


def kurtosis_by_horizon(
    x: np.ndarray, stretch: np.ndarray | None = None, horizons: tuple[int, ...] = HORIZONS
) -> np.ndarray:
    """float64[H] excess kurtosis of returns x [N] added up over each horizon [rows], NaN where undefined.

    Falls towards 0 with the horizon, and the slower the more volatility clusters (Cont 2001).
    """
    return np.array([excess_kurtosis(aggregate(x, horizon, stretch)) for horizon in horizons])
