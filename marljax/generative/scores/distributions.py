"""How far two samples' distributions are apart: Wasserstein-1, Kolmogorov-Smirnov, total variation of histograms.

Samples are [N] of finite numbers, ordered or not; channels are compared one by one.
"""

import numpy as np

from marljax.data.schema import InputError

_TAIL = 0.005
_MOST_BINS = 100


def wasserstein(x: np.ndarray, y: np.ndarray) -> float:
    """Wasserstein-1 distance of two samples [N], [M]: the area between their distribution functions."""
    both = np.sort(np.concatenate([x, y]))
    return float(np.sum(np.abs(_distribution(x, both[:-1]) - _distribution(y, both[:-1])) * np.diff(both)))


def scaled_wasserstein(x: np.ndarray, y: np.ndarray) -> float:
    """Wasserstein-1 distance of y from x in standard deviations of x, unscaled where x is constant."""
    deviation = float(np.std(x))
    return wasserstein(x, y) / (deviation if deviation > 0 else 1.0)


def kolmogorov_smirnov(x: np.ndarray, y: np.ndarray) -> float:
    """Largest difference of two samples' distribution functions."""
    both = np.concatenate([x, y])
    return float(np.max(np.abs(_distribution(x, both) - _distribution(y, both))))


def histogram_edges(real: np.ndarray) -> np.ndarray:
    """float64[E] inner edges of the bins that the real sample [N] asks for; the outer bins are open.

    Bins have the width of Freedman and Diaconis (1981), or that of Scott (1979) where the middle half is one value, and
    lie between the 0.5% and the 99.5% quantile, a hundred at most. Bins of whole numbers are a whole number wide, and
    their edges lie on halves. A constant has an edge on either side.
    """
    real = np.asarray(real, np.float64)
    low, first, third, high = np.quantile(real, [_TAIL, 0.25, 0.75, 1 - _TAIL], method="inverted_cdf")
    width = (2 * (third - first) if third > first else 3.49 * real.std()) * len(real) ** (-1 / 3)
    whole = bool(np.all(real == np.round(real)))
    width = max(width, (high - low) / _MOST_BINS)
    if whole:
        width = float(np.ceil(width)) if width > 0 else 1.0
        return np.arange(low - 0.5, high + width, width)
    if width <= 0:
        step = max(abs(low), 1.0) * 1e-9
        return np.array([low - step, high + step])
    return low + width * np.arange(int(np.ceil((high - low) / width)) + 1)


def total_variation(real: np.ndarray, other: np.ndarray, *, zero_apart: bool = False) -> float:
    """Total variation distance, 0 to 1, of two samples' histograms on the bins of `histogram_edges(real)`.

    Half the sum of absolute differences of the bins' shares, as LOB-Bench does (Nagy et al. 2025).
    With `zero_apart` exact zeros have a bin of their own, and the rest's bins are those of real values that are not 0:
    returns of a price on a grid are mostly 0, which bins of one width would either hide or split by accident.
    """
    real, other = (_finite(x) for x in (real, other))
    chosen = real[real != 0] if zero_apart and np.any(real != 0) else real
    edges = histogram_edges(chosen)

    def shares(x: np.ndarray) -> np.ndarray:
        bins = np.searchsorted(edges, x, side="right")
        if zero_apart:
            bins = np.where(x == 0, len(edges) + 1, bins)
        return np.bincount(bins, minlength=len(edges) + 2) / len(x)

    return float(np.abs(shares(real) - shares(other)).sum() / 2)


def channel_distances(
    real: np.ndarray, other: np.ndarray, channels: tuple[str, ...], zero_apart: tuple[str, ...] = ()
) -> dict[str, dict[str, float]]:
    """`{channel: {"wasserstein", "ks", "total_variation"}}` of samples [N, C] and [M, C], and the channel "mean".

    Wasserstein distances are in the real channel's standard deviations. `zero_apart` names the channels whose zeros
    have a bin of their own. Values that are not finite are left out, channel by channel.
    """
    if real.shape[-1] != len(channels) or other.shape[-1] != len(channels):
        raise InputError(f"{len(channels)} channels are named for samples {real.shape} and {other.shape}")
    if unknown := set(zero_apart) - set(channels):
        raise InputError(f"no channel is called {', '.join(sorted(unknown))}; there are {', '.join(channels)}")
    found = {}
    for name, x, y in zip(channels, real.reshape(-1, len(channels)).T, other.reshape(-1, len(channels)).T, strict=True):
        x, y = _finite(x), _finite(y)
        found[name] = {
            "wasserstein": scaled_wasserstein(x, y),
            "ks": kolmogorov_smirnov(x, y),
            "total_variation": total_variation(x, y, zero_apart=name in zero_apart),
        }
    mean = {score: float(np.mean([row[score] for row in found.values()])) for score in found[channels[0]]}
    return found | {"mean": mean}


def _finite(x: np.ndarray) -> np.ndarray:
    kept = np.asarray(x, np.float64)
    kept = kept[np.isfinite(kept)]
    if kept.size == 0:
        raise InputError("a sample without a finite value has no distribution")
    return kept


def _distribution(sample: np.ndarray, at: np.ndarray) -> np.ndarray:
    return np.searchsorted(np.sort(sample), at, side="right") / len(sample)
