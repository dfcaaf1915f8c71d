"""Whether what was asked for is what was drawn: volatility and returns of windows by the regime asked for."""

import numpy as np

from marljax.data.schema import InputError
from marljax.generative.scores.distributions import scaled_wasserstein


def volatility_by_regime(windows: np.ndarray, regime: np.ndarray, n_regimes: int) -> np.ndarray:
    """float64[n_regimes] root mean square return of the windows [N, ...] of each regime int[N], NaN where none is."""
    mean_square = np.mean(np.square(np.asarray(windows, np.float64)).reshape(len(windows), -1), axis=1)
    count = np.bincount(regime, minlength=n_regimes)
    total = np.bincount(regime, weights=mean_square, minlength=n_regimes)
    return np.sqrt(np.divide(total, count, out=np.full(n_regimes, np.nan), where=count > 0))


def conditional_scores(
    real: np.ndarray, real_regime: np.ndarray, other: np.ndarray, other_regime: np.ndarray, n_regimes: int
) -> dict[str, float]:
    """How well windows of returns [M, ...] keep to their regimes int[M], beside real ones [N, ...] int[N].

    `volatility_error` is the largest relative error of a regime's volatility, `volatility_mean_error` their mean,
    `monotone` 1 where volatility rises from each regime to the next in the candidate, else 0, and
    `wasserstein` the mean over regimes of the returns' Wasserstein distance in the real regime's standard deviations.
    Regimes that the real windows lack are left out; one that the candidate alone lacks counts as wholly wrong (error 1,
    not monotone) and is left out of `wasserstein`. Raises InputError for a regime outside 0..n_regimes-1.
    """
    for name, regime in (("real", real_regime), ("other", other_regime)):
        if len(regime) == 0 or regime.min() < 0 or regime.max() >= n_regimes:
            raise InputError(f"regimes of the {name} windows must be within 0..{n_regimes - 1}, and some")
    wanted, found = (volatility_by_regime(x, of, n_regimes) for x, of in ((real, real_regime), (other, other_regime)))
    known = np.isfinite(wanted) & (wanted > 0)
    if not known.any():
        return dict.fromkeys(("volatility_error", "volatility_mean_error", "monotone", "wasserstein"), np.nan)
    error = np.nan_to_num(np.abs(found - wanted)[known] / wanted[known], nan=1.0)
    distances = [
        scaled_wasserstein(real[real_regime == r].reshape(-1), other[other_regime == r].reshape(-1))
        for r in np.flatnonzero(known & np.isfinite(found))
    ]
    return {
        "volatility_error": float(error.max()),
        "volatility_mean_error": float(error.mean()),
        # A regime that is missing makes a difference NaN, which is not greater than 0.
        "monotone": float(np.all(np.diff(found[known]) > 0)),
        "wasserstein": float(np.mean(distances)) if distances else np.nan,
    }
