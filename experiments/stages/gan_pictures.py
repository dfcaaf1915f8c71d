"""What the page of a generator's run draws: arrays of each source, named `<picture>.<source>`.

Sources are `real`, `synthetic` and a control. `paths` float32[n, T] are cumulative returns of a few stretches,
`returns` float32[N] all returns in real standard deviations, `autocorrelation` float64[lags] that of their size, and
`correlation` float64[D, D] rank correlations of what `correlation.names` lists; books have `spread` float32[N] ticks
and `depth` float64[2, K] lots, the mean size by level of bids and asks.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import rankdata

from marljax.data.schema import MarketData
from marljax.generative.books import decompose
from marljax.generative.quality import series
from marljax.generative.scores.dependence import N_LAGS, autocorrelation

Pictures = dict[str, np.ndarray]
"""Arrays by `<picture>.<source>`."""

_CHANNELS = {
    "return": lambda s: s.returns,
    "|return|": lambda s: np.abs(s.returns),
    "spread": lambda s: s.spread,
    "imbalance": lambda s: s.imbalance,
    "touch size": lambda s: s.touch_size,
    "depth": lambda s: s.depth,
    "volume": lambda s: s.volume,
    "order flow": lambda s: s.flow,
}


def pictures_of_paths(
    sources: Mapping[str, Sequence[np.ndarray]],
    names: Sequence[str] = (),
    *,
    n_lags: int = N_LAGS,
    n_paths: int = 12,
    n_steps: int | None = None,
) -> Pictures:
    """Pictures of log returns: for each source its unbroken stretches, float[T] each, or float[T, D] with D `names`.

    An array float[N, T] is N stretches. Paths, returns and autocorrelations (means over the stretches, as in Quant
    GANs) are those of the first column. `n_steps` is the length of a drawn path [steps], by default the most that every
    source has; drawn are up to `n_paths` of those that a source holds.
    """
    stretches = {
        source: [np.asarray(x, np.float64).reshape(len(x), -1) for x in found] for source, found in sources.items()
    }
    n_steps = n_steps or min(max(map(len, found)) for found in stretches.values())
    scale = np.concatenate(stretches["real"])[:, 0].std()
    pictures: Pictures = {}
    for source, found in stretches.items():
        first = [x[:, 0] for x in found]
        lags = [autocorrelation(np.abs(x), n_lags=n_lags) for x in first if len(x) > n_lags]
        pictures[f"paths.{source}"] = some_paths(first, n_paths, n_steps)
        pictures[f"returns.{source}"] = (np.concatenate(first) / scale).astype(np.float32)
        pictures[f"autocorrelation.{source}"] = np.mean(lags, axis=0) if lags else np.full(n_lags, np.nan)
        if names:
            pictures[f"correlation.{source}"] = rank_correlation(np.concatenate(found))
    return pictures | ({"correlation.names": np.array(names)} if names else {})


def pictures_of_books(
    sources: Mapping[str, MarketData], *, n_lags: int = N_LAGS, n_paths: int = 12, n_steps: int | None = None
) -> Pictures:
    """Pictures of books: paths are the first product's mid moves in ticks, everything else is over all products.

    Rank correlations are those of the products' returns, or of one product's channels. Arguments as in
    `pictures_of_paths`.
    """
    found = {source: series(data) for source, data in sources.items()}
    stretches = {source: _split(s.returns[:, 0] / 2, s.stretch) for source, s in found.items()}
    n_steps = n_steps or min(max(map(len, x)) for x in stretches.values())
    scale = np.maximum(found["real"].returns.std(axis=0), 1e-9)
    products = [product.name for product in sources["real"].products]
    names = products if len(products) > 1 else list(_CHANNELS)
    pictures: Pictures = {"correlation.names": np.array(names)}
    for source, s in found.items():
        parts, joined = decompose(sources[source])
        lags = [autocorrelation(np.abs(x), s.stretch, n_lags) for x in s.returns.T]
        sizes = np.stack([np.asarray(parts.bid_size), np.asarray(parts.ask_size)])[:, joined]
        pictures |= {
            f"paths.{source}": some_paths(stretches[source], n_paths, n_steps),
            f"returns.{source}": (s.returns / scale).reshape(-1).astype(np.float32),
            f"autocorrelation.{source}": np.mean(lags, axis=0),
            f"spread.{source}": s.spread.reshape(-1).astype(np.float32),
            f"depth.{source}": sizes.mean(axis=(1, 2), dtype=np.float64),
            f"correlation.{source}": rank_correlation(
                s.returns if len(products) > 1 else np.concatenate([of(s) for of in _CHANNELS.values()], axis=1)
            ),
        }
    return pictures


def some_paths(stretches: Sequence[np.ndarray], n_paths: int, n_steps: int) -> np.ndarray:
    """float32[M, n_steps + 1] cumulative sums from 0 of up to `n_paths` pieces of the stretches, evenly chosen.

    Pieces of `n_steps` lie side by side from each stretch's start; what is left at its end is not drawn.
    """
    pieces = [x[i : i + n_steps] for x in stretches for i in range(0, len(x) - n_steps + 1, n_steps)]
    chosen = np.unique(np.linspace(0, len(pieces) - 1, min(n_paths, len(pieces))).astype(int))
    summed = [np.concatenate([[0.0], np.cumsum(pieces[i])]) for i in chosen]
    return np.array(summed, np.float32).reshape(len(chosen), n_steps + 1)


def rank_correlation(x: np.ndarray) -> np.ndarray:
    """float64[D, D] Spearman's correlations of the columns of x [N, D]; NaN for a constant one."""
    ranks = rankdata(x, axis=0)
    ranks -= ranks.mean(axis=0)
    covariance = ranks.T @ ranks
    deviation = np.sqrt(np.diag(covariance))
    scale = np.outer(deviation, deviation)
    return np.divide(covariance, scale, out=np.full(covariance.shape, np.nan), where=scale > 0)


def _split(x: np.ndarray, stretch: np.ndarray) -> list[np.ndarray]:
    return np.split(x, np.flatnonzero(np.diff(stretch)) + 1)
