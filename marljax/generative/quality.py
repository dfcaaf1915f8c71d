"""How far generated books are from real ones that the generator never saw, beside a bootstrap that learnt nothing.

Every score is a distance to held-out real data, 0 where there is none, except `memorisation`, which is near 1 for fresh
data and near 0 for copies of the training part. Scores per product are averaged over products; a score that
the data do not define (a correlation of one product, tails of a product that never moves) is left out of the table.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from marljax.data.schema import MarketData, assert_not_synthetic
from marljax.generative.books import cut_windows, decompose

Table = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Score:
    """What a score measures."""

    meaning: str
    perfect: float = 0.0
    """What a perfect generator scores."""


_OF = {
    "returns": "returns of the mid",
    "spread": "spreads",
    "imbalance": "imbalance at the touch",
    "touch_size": "sizes at the touch",
}

SCORES: dict[str, Score] = (
    {
        f"wasserstein_{name}": Score(f"Wasserstein distance of {what}, in standard deviations")
        for name, what in _OF.items()
    }
    | {f"ks_{name}": Score(f"largest gap between the distributions of {what}") for name, what in _OF.items()}
    | {
        "acf_returns": Score("autocorrelation of returns, root mean square difference"),
        "acf_abs_returns": Score("autocorrelation of absolute returns, root mean square difference"),
        "kurtosis": Score("difference in excess kurtosis of returns"),
        "hill": Score("difference in the tail index of returns"),
        "correlation": Score("mean difference in the products' correlations"),
        "discriminative": Score("how well a judge tells windows apart, 0 by chance to 0.5 always"),
        "memorisation": Score("distance to the nearest training window against real data's, 0 for copies", 1.0),
    }
)
"""Every score of the quality table."""

_LAGS = 20
_TAIL = 0.05


@dataclass(frozen=True)
class Series:
    """What the scores look at, one row for each row that continues the one before."""

    returns: np.ndarray  # float64[N, P] half ticks
    spread: np.ndarray  # float64[N, P] ticks
    imbalance: np.ndarray  # float64[N, P] of the best sizes, -1..1
    touch_size: np.ndarray  # float64[N, P] lots, mean of both best sizes
    stretch: np.ndarray  # int64[N] unbroken stretch that the row belongs to


def series(data: MarketData) -> Series:
    """The series of a MarketData, on the host."""
    parts, joined = decompose(data)
    bid, ask = (np.asarray(x, np.float64)[joined, :, 0] for x in (parts.bid_size, parts.ask_size))
    return Series(
        returns=np.asarray(parts.move, np.float64)[joined],
        spread=np.asarray(parts.spread, np.float64)[joined],
        imbalance=(bid - ask) / (bid + ask),
        touch_size=(bid + ask) / 2,
        stretch=np.cumsum(~joined)[joined],
    )


def wasserstein(x: np.ndarray, y: np.ndarray) -> float:
    """Wasserstein-1 distance of two samples [N], [M]: the area between their distribution functions."""
    both = np.sort(np.concatenate([x, y]))
    return float(np.sum(np.abs(_distribution(x, both[:-1]) - _distribution(y, both[:-1])) * np.diff(both)))


def kolmogorov_smirnov(x: np.ndarray, y: np.ndarray) -> float:
    """Largest difference of two samples' distribution functions."""
    both = np.concatenate([x, y])
    return float(np.max(np.abs(_distribution(x, both) - _distribution(y, both))))


def autocorrelation(x: np.ndarray, stretch: np.ndarray, n_lags: int = _LAGS) -> np.ndarray:
    """float64[n_lags] autocorrelation of x [N] at lags 1..n_lags, NaN if constant.

    Pairs stay within an unbroken stretch (`stretch` int[N]).
    """
    centred = x - x.mean()
    variance = np.mean(centred**2)
    result = np.full(n_lags, np.nan)
    for lag in range(1, n_lags + 1):
        paired = stretch[lag:] == stretch[:-lag]
        if variance > 0 and paired.any():
            result[lag - 1] = np.mean((centred[lag:] * centred[:-lag])[paired]) / variance
    return result


def excess_kurtosis(x: np.ndarray) -> float:
    """Fourth standardised moment less 3, NaN if constant."""
    centred = x - x.mean()
    variance = np.mean(centred**2)
    return float(np.mean(centred**4) / variance**2 - 3) if variance > 0 else np.nan


def hill_index(x: np.ndarray, tail: float = _TAIL) -> float:
    """Tail index of |x| from its largest share `tail` (Hill 1975); NaN where the tail has one value only."""
    largest = np.sort(np.abs(x))[::-1]
    n = max(int(tail * len(largest)), 1)
    if n >= len(largest) or largest[n] <= 0:
        return np.nan
    mean_excess = np.mean(np.log(largest[:n] / largest[n]))
    return float(1 / mean_excess) if mean_excess > 0 else np.nan


def correlation_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Mean absolute difference of two samples' correlations [N, P], over pairs of products; NaN for one product."""
    moving = (x.std(0) > 0) & (y.std(0) > 0)
    if moving.sum() < 2:
        return np.nan
    pairs = np.triu_indices(int(moving.sum()), 1)
    correlations = [np.corrcoef(sample[:, moving], rowvar=False)[pairs] for sample in (x, y)]
    return float(np.mean(np.abs(correlations[0] - correlations[1])))


def nearest_distance(windows: np.ndarray, training: np.ndarray) -> np.ndarray:
    """float64[N] Euclidean distance of each window [N, D] to the nearest of `training` [M, D].

    Each window is divided by its own standard deviation first, or calm would pass for copied.
    """
    a, b = (x / np.maximum(x.std(1, keepdims=True), 1e-9) for x in (windows, training))
    squared = (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T
    return np.sqrt(np.maximum(squared.min(1), 0))


def judge_error(real: np.ndarray, other: np.ndarray, ridge: float = 1e-2) -> float:
    """Discriminative score |accuracy - 0.5| of a logistic judge on features [N, F], [M, F], in order of time.

    It learns on the first half of each and is scored on the second, a fixed gap of a tenth between them; accuracy is
    the mean of both classes'. 0: cannot tell them apart, 0.5: always can.
    """

    def halves(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return x[: int(0.45 * len(x))], x[int(0.55 * len(x)) :]

    (real_train, real_test), (other_train, other_test) = halves(real), halves(other)
    inputs = np.concatenate([real_train, other_train])
    mean, deviation = inputs.mean(0), np.maximum(inputs.std(0), 1e-9)

    def prepare(x: np.ndarray) -> np.ndarray:
        z = np.clip((x - mean) / deviation, -5, 5)
        return np.concatenate([np.ones((len(z), 1)), z, z**2 - 1], 1)

    x = prepare(inputs)
    label = np.repeat([1.0, 0.0], [len(real_train), len(other_train)])
    # Both classes weigh the same, however many windows each has.
    weight = np.where(label == 1, 0.5 / len(real_train), 0.5 / len(other_train))
    beta = np.zeros(x.shape[1])
    penalty = ridge * np.eye(len(beta))
    for _ in range(25):
        chance = 1 / (1 + np.exp(-np.clip(x @ beta, -30, 30)))
        gradient = x.T @ (weight * (chance - label)) + penalty @ beta
        curvature = (x * (weight * chance * (1 - chance))[:, None]).T @ x + penalty
        beta -= np.linalg.solve(curvature, gradient)
    right = np.mean(prepare(real_test) @ beta > 0), np.mean(prepare(other_test) @ beta <= 0)
    return float(abs(np.mean(right) - 0.5))


def quality_table(
    held_out: MarketData,
    synthetic: MarketData,
    bootstrap: MarketData,
    training: MarketData,
    *,
    window: int = 32,
) -> Table:
    """`{score: {"synthetic", "bootstrap", "real_vs_real"}}`, all against held-out real data.

    Wasserstein distances are in standard deviations of the held-out part; the distances of autocorrelations are root
    mean squares over lags 1 to 20; `discriminative` is `judge_error`; `memorisation` is the 5% quantile of windows'
    distances to the nearest training window over that of held-out windows.
    `real_vs_real` scores the training part itself: how far two real stretches lie apart, the least one can ask for.
    `window` [steps] is the length of the windows that memorisation and the judge look at. Raises InputError where
    held-out or training data are synthetic.
    """
    assert_not_synthetic(held_out, "the held-out side of the quality table")
    assert_not_synthetic(training, "the training side of the quality table")
    real, candidates = series(held_out), {"synthetic": synthetic, "bootstrap": bootstrap, "real_vs_real": training}
    table: Table = {}
    train_windows = _moves(training, window)
    reference = np.quantile(nearest_distance(_moves(held_out, window), train_windows), 0.05)
    for name, data in candidates.items():
        scores = _distances(real, series(data))
        scores["discriminative"] = judge_error(_features(held_out, window), _features(data, window))
        if data is not training:
            nearest = np.quantile(nearest_distance(_moves(data, window), train_windows), 0.05)
            scores["memorisation"] = float(nearest / reference) if reference > 0 else np.nan
        for score, value in scores.items():
            if np.isfinite(value):
                table.setdefault(score, {})[name] = float(value)
    return table


def _distances(real: Series, other: Series) -> dict[str, float]:
    def mean(score: Callable[[np.ndarray, np.ndarray], float], field: str) -> float:
        pairs = zip(getattr(real, field).T, getattr(other, field).T, strict=True)
        values = np.array([score(x, y) for x, y in pairs])
        defined = values[np.isfinite(values)]
        return float(defined.mean()) if defined.size else np.nan

    def scaled(x: np.ndarray, y: np.ndarray) -> float:
        return wasserstein(x, y) / (x.std() if x.std() > 0 else 1.0)

    def dependence(x: np.ndarray, y: np.ndarray) -> float:
        difference = autocorrelation(x, real.stretch) - autocorrelation(y, other.stretch)
        return float(np.sqrt(np.mean(difference**2)))

    scores = {f"wasserstein_{field}": mean(scaled, field) for field in _OF}
    scores |= {f"ks_{field}": mean(kolmogorov_smirnov, field) for field in _OF}
    return scores | {
        "acf_returns": mean(dependence, "returns"),
        "acf_abs_returns": mean(lambda x, y: dependence(np.abs(x), np.abs(y)), "returns"),
        "kurtosis": mean(lambda x, y: abs(excess_kurtosis(x) - excess_kurtosis(y)), "returns"),
        "hill": mean(lambda x, y: abs(hill_index(x) - hill_index(y)), "returns"),
        "correlation": correlation_distance(real.returns, other.returns),
    }


def _distribution(sample: np.ndarray, at: np.ndarray) -> np.ndarray:
    return np.searchsorted(np.sort(sample), at, side="right") / len(sample)


def _windows(x: np.ndarray, data: MarketData, window: int) -> np.ndarray:
    """[N, window, ...] of rows x [T, ...], side by side."""
    return x[cut_windows(data, window, window)[:, None] + np.arange(window)]


def _moves(data: MarketData, window: int) -> np.ndarray:
    """float64[N, window * P] moves of each window, half ticks."""
    parts, _ = decompose(data)
    moves = _windows(np.asarray(parts.move, np.float64), data, window)
    return moves.reshape(len(moves), -1)


def _features(data: MarketData, window: int) -> np.ndarray:
    """float64[N, F] statistics of each window and product that a judge may use."""
    parts, _ = decompose(data)
    sizes = np.log1p(np.concatenate([parts.bid_size, parts.ask_size], -1))
    move = _windows(np.asarray(parts.move, np.float64), data, window)
    spread, volume = (_windows(np.asarray(x, np.float64), data, window) for x in (parts.spread, parts.volume))
    signed = _windows(np.log(np.asarray(parts.bid_size)[..., 0] / np.asarray(parts.ask_size)[..., 0]), data, window)
    size = _windows(sizes, data, window)
    columns = [
        np.log1p(move.std(1)),
        np.log1p(np.abs(move).max(1)),
        _lagged(move),
        _lagged(np.abs(move)),
        np.mean(signed[:, :-1] * move[:, 1:], 1),
        spread.mean(1),
        spread.std(1),
        _lagged(spread),
        signed.std(1),
        _lagged(signed),
        np.log1p(volume).mean(1),
        size.mean(1).reshape(len(size), -1),
        size.std(1).reshape(len(size), -1),
    ]
    return np.concatenate(columns, 1)


def _lagged(x: np.ndarray) -> np.ndarray:
    """[N, P] first autocorrelation of each window [N, W, P], 0 where it is constant."""
    centred = x - x.mean(1, keepdims=True)
    variance = np.sum(centred**2, 1)
    return np.sum(centred[:, 1:] * centred[:, :-1], 1) / np.where(variance > 0, variance, 1.0)
