"""Copies and gaps: how near generated windows come to training windows, and which real windows nothing comes near."""

import numpy as np

from marljax.data.schema import InputError

_CHUNK = 512


def nearest_distance(windows: np.ndarray, training: np.ndarray) -> np.ndarray:
    """float64[N] Euclidean distance of each window [N, D] to the nearest of `training` [M, D].

    Each window is divided by its own standard deviation first, or calm would pass for copied.
    """
    a, b = (x / np.maximum(x.std(1, keepdims=True), 1e-9) for x in (_flat(windows), _flat(training)))
    return np.concatenate([np.sqrt(_squared(part, b).min(1)) for part in _parts(a)])


def memorisation_ratio(
    candidate: np.ndarray, training: np.ndarray, held_out: np.ndarray, quantile: float = 0.05
) -> float:
    """The `quantile` of windows' distances to the nearest training window, over that of held-out real windows.

    Windows are [N, ...]. About 1 for fresh windows, 0 for copies; NaN where held-out windows are copies themselves.
    """
    reference = np.quantile(nearest_distance(held_out, training), quantile)
    nearest = np.quantile(nearest_distance(candidate, training), quantile)
    return float(nearest / reference) if reference > 0 else np.nan


def coverage(real: np.ndarray, other: np.ndarray, n_neighbours: int = 5) -> float:
    """Share of real windows [N, ...] that have one of the others [M, ...] at least as near as their k-th neighbour.

    The neighbour is among the real windows (Naeem et al. 2020); the expectation for equal distributions and N = M is
    about `1 - 2**-k`. Windows should share no rows, and channels be on one scale.
    """
    real, other = _flat(real), _flat(other)
    if len(real) <= n_neighbours:
        raise InputError(f"coverage by {n_neighbours} neighbours needs more than {len(real)} real windows")
    covered = []
    for first in range(0, len(real), _CHUNK):
        part = real[first : first + _CHUNK]
        among = _squared(part, real)
        among[np.arange(len(part)), first + np.arange(len(part))] = np.inf
        radius = np.partition(among, n_neighbours - 1, axis=1)[:, n_neighbours - 1]
        covered.append(_squared(part, other).min(1) <= radius)
    return float(np.mean(np.concatenate(covered)))


def _flat(windows: np.ndarray) -> np.ndarray:
    windows = np.asarray(windows, np.float64)
    if windows.size == 0 or not np.isfinite(windows).all():
        raise InputError(f"windows {windows.shape} to be compared must be finite, and not none")
    return windows.reshape(len(windows), -1)


def _parts(x: np.ndarray) -> list[np.ndarray]:
    """Rows in parts, so that the table of distances stays small whatever their number."""
    return [x[first : first + _CHUNK] for first in range(0, len(x), _CHUNK)]


def _squared(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.maximum((a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T, 0)
