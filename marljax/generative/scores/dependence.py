"""What a series remembers: autocorrelation of returns and of their size, and leverage.

One unbroken series needs no `stretch`; where a series has breaks, `stretch` int[N] numbers the unbroken stretches, and
no pair spans two of them. `path_scores` scores many paths against one, in the manner of Quant GANs (Wiese et al. 2020).
"""

from collections.abc import Callable

import numpy as np

from marljax.generative.scores.tails import varies

N_LAGS = 20


def autocorrelation(x: np.ndarray, stretch: np.ndarray | None = None, n_lags: int = N_LAGS) -> np.ndarray:
    """float64[n_lags] autocorrelation of x [N] at lags 1..n_lags, NaN if constant or where no pair is so far apart.

    Means over the pairs there are, in units of the whole sample's variance.
    """
    return lagged_correlation(x, x, stretch, n_lags)


def leverage(x: np.ndarray, stretch: np.ndarray | None = None, n_lags: int = N_LAGS) -> np.ndarray:
    """float64[n_lags] correlation of returns x [N] with their own squares 1..n_lags steps later, NaN if constant.

    Negative where losses raise volatility (Black 1976; Bouchaud, Matacz and Potters 2001).
    """
    return lagged_correlation(x, x**2, stretch, n_lags)


def lagged_correlation(first: np.ndarray, later: np.ndarray, stretch: np.ndarray | None, n_lags: int) -> np.ndarray:
    """float64[n_lags] correlation of `first[t]` with `later[t + k]`, k = 1..n_lags, by the whole samples' moments."""
    a, b = (x - x.mean() for x in (np.asarray(first, np.float64), np.asarray(later, np.float64)))
    scale = np.sqrt(np.mean(a**2) * np.mean(b**2))
    result = np.full(n_lags, np.nan)
    if not varies(first) or not varies(later):
        return result
    for lag in range(1, min(n_lags, len(a) - 1) + 1):
        products = a[:-lag] * b[lag:]
        if stretch is not None:
            products = products[stretch[lag:] == stretch[:-lag]]
        if products.size:
            result[lag - 1] = products.mean() / scale
    return result


def root_mean_square(x: np.ndarray) -> float:
    """Root mean square of the values that are defined, NaN where none is."""
    defined = x[np.isfinite(x)]
    return float(np.sqrt(np.mean(defined**2))) if defined.size else np.nan


TRANSFORMS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "acf_returns": lambda r: r,
    "acf_abs_returns": np.abs,
    "acf_squared_returns": np.square,
}
"""The series of returns whose autocorrelations are compared."""


def dependence_distances(
    real: np.ndarray,
    other: np.ndarray,
    real_stretch: np.ndarray | None = None,
    other_stretch: np.ndarray | None = None,
    n_lags: int = N_LAGS,
) -> dict[str, float]:
    """Root mean square differences over lags: `acf_returns`, `acf_abs_returns`, `acf_squared_returns`, `leverage`.

    Of two series of returns [N], [M]; lags that either series does not define are left out.
    """
    found = {
        name: root_mean_square(
            autocorrelation(of(real), real_stretch, n_lags) - autocorrelation(of(other), other_stretch, n_lags)
        )
        for name, of in TRANSFORMS.items()
    }
    found["leverage"] = root_mean_square(leverage(real, real_stretch, n_lags) - leverage(other, other_stretch, n_lags))
    return found


def path_scores(real: np.ndarray, paths: np.ndarray, n_lags: int = 250) -> dict[str, float]:
    """Scores of paths of returns [M, T] against the real path [N]: the mean curve over paths against the real curve.

    `acf_returns`, `acf_abs_returns` and `acf_squared_returns` are root mean squares over lags 1..n_lags, `leverage` is
    the Euclidean norm over lags, undivided, as published. `deviation` is the paths' mean standard deviation in units of
    the real one: 1 is perfect, and less is the usual weakness.
    """
    found = {}
    for name, of in TRANSFORMS.items():
        curves = np.array([autocorrelation(of(path), None, n_lags) for path in paths])
        found[name] = root_mean_square(autocorrelation(of(real), None, n_lags) - curves.mean(0))
    gap = leverage(real, None, n_lags) - np.array([leverage(path, None, n_lags) for path in paths]).mean(0)
    found["leverage"] = root_mean_square(gap) * float(np.sqrt(np.isfinite(gap).sum()))
    found["deviation"] = float(np.mean(np.std(paths, axis=1)) / np.std(real)) if varies(real) else np.nan
    return found
