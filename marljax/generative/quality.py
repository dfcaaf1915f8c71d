"""How far generated books are from real ones that the generator never saw, beside controls that learnt nothing.

Most scores are distances to held-out real data, 0 where there is none; `Score.perfect` says what the others should be.
Scores per product are averaged over products; a score that the data do not define (a correlation of one product, tails
of a product that never moves) is left out of the table. The scores themselves work on plain arrays: see `scores`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import ArrayLike

from marljax.data.schema import InputError, MarketData, assert_not_synthetic
from marljax.generative.scores.comovement import (
    correlation_by_horizon,
    correlation_distance,
    flow_r2,
    mean_difference,
    volume_volatility,
)
from marljax.generative.scores.conditional import conditional_scores
from marljax.generative.scores.dependence import autocorrelation, dependence_distances
from marljax.generative.scores.distributions import kolmogorov_smirnov, scaled_wasserstein, total_variation
from marljax.generative.scores.intervals import Interval, intervals, seed_interval, time_blocks
from marljax.generative.scores.judges import strong_judge
from marljax.generative.scores.linear import judge_error
from marljax.generative.scores.memorisation import coverage, memorisation_ratio
from marljax.generative.scores.predictive import direction_scores, volatility_r2
from marljax.generative.scores.recurrent import RecurrentConfig
from marljax.generative.scores.series import (
    Series,
    channels,
    direction_features,
    join,
    moves,
    series,
    statistics,
)
from marljax.generative.scores.tails import excess_kurtosis, hill_index, kurtosis_by_horizon

__all__ = ["SCORES", "Score", "Table", "autocorrelation", "excess_kurtosis", "hill_index", "quality_table", "series"]

Table = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Score:
    """What a score measures."""

    meaning: str
    perfect: float | None = 0.0
    """What a perfect generator scores; None where that is what real training data score."""


_OF = {
    "returns": "returns of the mid",
    "spread": "spreads",
    "imbalance": "imbalance at the touch",
    "touch_size": "sizes at the touch",
    "depth": "sizes of all levels",
    "volume": "traded volumes",
}

SCORES: dict[str, Score] = (
    {
        f"wasserstein_{name}": Score(f"Wasserstein distance of {what}, in standard deviations")
        for name, what in _OF.items()
    }
    | {f"ks_{name}": Score(f"largest gap between the distributions of {what}") for name, what in _OF.items()}
    | {f"total_variation_{name}": Score(f"total variation of histograms of {what}") for name, what in _OF.items()}
    | {
        "total_variation": Score("mean total variation of the histograms above"),
        "acf_returns": Score("autocorrelation of returns, root mean square difference"),
        "acf_abs_returns": Score("autocorrelation of absolute returns, root mean square difference"),
        "acf_squared_returns": Score("autocorrelation of squared returns, root mean square difference"),
        "leverage": Score("correlation of returns with later squared returns, root mean square difference"),
        "kurtosis": Score("difference in excess kurtosis of returns"),
        "kurtosis_by_horizon": Score("difference in excess kurtosis of returns over 5 to 20 steps"),
        "hill": Score("difference in the tail index of returns"),
        "correlation": Score("mean difference in the products' correlations"),
        "correlation_by_horizon": Score("mean difference in the products' correlations over 5 to 20 steps"),
        "volume_volatility": Score("difference in the correlation of volume and absolute return"),
        "order_flow": Score("difference in how much of the moves over 10 steps order flow explains, R^2"),
        "regime_volatility": Score("relative error of the volatility that follows calm, middling and stormy windows"),
        "regime_returns": Score("Wasserstein distance of returns after calm, middling and stormy windows"),
        "volatility_r2": Score("R^2 on held-out books of a volatility forecast learnt on these", None),
        "direction_auc": Score(
            "area under the curve on held-out books of a forecast of direction learnt on these", None
        ),
        "discriminative": Score("how well a judge tells windows apart, 0 by chance to 0.5 always"),
        "discriminative_recurrent": Score("how well a recurrent judge tells windows apart, 0 by chance to 0.5 always"),
        "coverage": Score("share of real windows with a generated one nearby", None),
        "memorisation": Score("distance to the nearest training window against real data's, 0 for copies", 1.0),
    }
)
"""Every score of the quality table."""

_LONGER = (5, 10, 20)
_HORIZON = 10
_N_REGIMES = 3
_NEIGHBOURS = 5
_FEWEST_WINDOWS = 4
_BLOCK_WINDOWS = 8
_TIME_PARTS = 10


def quality_table(
    held_out: MarketData,
    candidates: Mapping[str, MarketData],
    training: MarketData,
    *,
    window: int = 32,
    judge: RecurrentConfig | None = None,
    n_resamples: int = 0,
    seed: int = 0,
) -> Table:
    """`{score: {candidate: value}}` of candidates (generated books, controls) against held-out real data.

    A further candidate, `real_vs_real`, is the training part itself: how far two real stretches lie apart, the least
    one can ask for. Wasserstein distances are in standard deviations of the held-out part; differences of
    autocorrelations are root mean squares over lags 1 to 20; `memorisation` is the 5% quantile of windows' distances to
    the nearest training window over that of held-out windows. `window` [steps] is the length of the windows that
    memorisation, coverage, regimes and judges look at.

    `judge` adds `discriminative_recurrent`, the mean over its seeds (seconds to a minute for each candidate).
    `n_resamples` adds 95% intervals as `"<candidate>.low"` and `"<candidate>.high"`, from resampled blocks of
    8 windows on both sides, for scores of series; the recurrent judge's come from its seeds. Raises InputError where
    held-out or training data are synthetic, or no candidate is left to score.
    """
    assert_not_synthetic(held_out, "the held-out side of the quality table")
    assert_not_synthetic(training, "the training side of the quality table")
    if not candidates or "real_vs_real" in candidates:
        raise InputError("a quality table needs candidates, none of them called real_vs_real")
    real, table = series(held_out), Table()
    real_blocks = [(real, x) for x in time_blocks(real.stretch, _BLOCK_WINDOWS * window)]
    for name, data in {**candidates, "real_vs_real": training}.items():
        other = series(data)
        row = _distances(real, other) | _of_windows(held_out, data, training, window) | _transfer(real, other)
        bounds = {}
        if n_resamples:
            blocks = [(other, x) for x in time_blocks(other.stretch, _BLOCK_WINDOWS * window)]
            bounds = intervals(_distances_of_blocks, real_blocks, blocks, seed=seed, n_resamples=n_resamples)
        if judge is not None:
            bounds["discriminative_recurrent"] = _judged(held_out, data, window, judge, seed)
            row["discriminative_recurrent"] = bounds["discriminative_recurrent"].estimate
        for score, value in row.items():
            entries = {name: value}
            if score in bounds:
                # Every distance is at least 0, however far the resamples spread.
                entries |= {f"{name}.low": max(bounds[score].low, 0.0), f"{name}.high": bounds[score].high}
            table.setdefault(score, {}).update({key: float(x) for key, x in entries.items() if np.isfinite(x)})
    return {score: row for score, row in table.items() if row}


def _distances(real: Series, other: Series) -> dict[str, float]:
    """Scores of series, means over products."""
    n_products = real.returns.shape[1]

    def mean(values: Sequence[float]) -> float:
        defined = [x for x in values if np.isfinite(x)]
        return float(np.mean(defined)) if defined else np.nan

    def over_products(score: Callable[[np.ndarray, np.ndarray], float], field: str) -> float:
        return mean([score(x, y) for x, y in zip(getattr(real, field).T, getattr(other, field).T, strict=True)])

    def apart(statistic: Callable[[Series, int], ArrayLike]) -> float:
        return mean([mean_difference(statistic(real, p), statistic(other, p)) for p in range(n_products)])

    scores = {f"wasserstein_{field}": over_products(scaled_wasserstein, field) for field in _OF}
    scores |= {f"ks_{field}": over_products(kolmogorov_smirnov, field) for field in _OF}
    variations = {
        f"total_variation_{field}": over_products(
            partial(total_variation, zero_apart=field in ("returns", "volume")), field
        )
        for field in _OF
    }
    scores |= variations | {"total_variation": mean(list(variations.values()))}
    dependence = [
        dependence_distances(x, y, real.stretch, other.stretch)
        for x, y in zip(real.returns.T, other.returns.T, strict=True)
    ]
    scores |= {name: mean([found[name] for found in dependence]) for name in dependence[0]}
    return scores | {
        "kurtosis": apart(lambda s, p: excess_kurtosis(s.returns[:, p])),
        "kurtosis_by_horizon": apart(lambda s, p: kurtosis_by_horizon(s.returns[:, p], s.stretch, _LONGER)),
        "hill": apart(lambda s, p: hill_index(s.returns[:, p])),
        "correlation": correlation_distance(real.returns, other.returns),
        "correlation_by_horizon": mean_difference(
            *(correlation_by_horizon(s.returns, s.stretch, _LONGER) for s in (real, other))
        ),
        "volume_volatility": apart(
            lambda s, p: volume_volatility(s.volume[:, p], s.returns[:, p], s.stretch, _HORIZON)
        ),
        "order_flow": apart(lambda s, p: flow_r2(s.flow[:, p], s.returns[:, p], s.stretch, _HORIZON)),
    }


def _distances_of_blocks(
    real: Sequence[tuple[Series, np.ndarray]], other: Sequence[tuple[Series, np.ndarray]]
) -> dict[str, float]:
    """The same of the rows that blocks (series, int64 rows) name on either side."""
    sides = (join(blocks[0][0], [rows for _, rows in blocks]) for blocks in (real, other))
    return _distances(*sides)


def _transfer(held_out: Series, source: Series) -> dict[str, float]:
    """What models learnt on `source` are worth on held-out books, means over products."""
    volatility, direction = [], []
    for p in range(held_out.returns.shape[1]):
        volatility.append(volatility_r2(source.returns[:, p], held_out.returns[:, p], source.stretch, held_out.stretch))
        direction.append(direction_scores(*direction_features(source, p), *direction_features(held_out, p))["auc"])
    found = {"volatility_r2": np.array(volatility), "direction_auc": np.array(direction)}
    return {name: float(x[np.isfinite(x)].mean()) for name, x in found.items() if np.isfinite(x).any()}


def _of_windows(held_out: MarketData, data: MarketData, training: MarketData, window: int) -> dict[str, float]:
    """Scores of whole windows; those that too few windows define are left out."""
    real, other, known = (moves(x, window) for x in (held_out, data, training))
    if min(len(real), len(other), len(known)) < _FEWEST_WINDOWS:
        return {}
    scores = {"discriminative": judge_error(statistics(held_out, window), statistics(data, window))}
    if data is not training:
        scores["memorisation"] = memorisation_ratio(other, known, real)
    if len(real) > _NEIGHBOURS:
        scale = np.maximum(real.std((0, 1)), 1e-9)
        # As many of the candidate's windows as there are real ones, or more of them would cover more.
        taken = np.linspace(0, len(other) - 1, min(len(real), len(other))).astype(int)
        scores["coverage"] = coverage(real / scale, other[taken] / scale, _NEIGHBOURS)
    return scores | _after_regimes(moves(held_out, 2 * window), moves(data, 2 * window), window)


def _after_regimes(real: np.ndarray, other: np.ndarray, window: int) -> dict[str, float]:
    """How returns differ after a calm, a middling and a stormy window [N, 2 * window, P], means over products.

    Thirds of the real windows' volatility; the window that follows is what is scored.
    """
    if not len(real) or not len(other):
        return {}
    found = []
    for p in range(real.shape[-1]):
        before = [np.sqrt(np.mean(x[:, :window, p] ** 2, axis=1)) for x in (real, other)]
        edges = np.quantile(before[0], np.arange(1, _N_REGIMES) / _N_REGIMES)
        regimes = [np.searchsorted(edges, x) for x in before]
        found.append(conditional_scores(real[:, window:, p], regimes[0], other[:, window:, p], regimes[1], _N_REGIMES))
    names = {"regime_volatility": "volatility_mean_error", "regime_returns": "wasserstein"}
    means = {name: np.array([x[key] for x in found]) for name, key in names.items()}
    return {name: float(x[np.isfinite(x)].mean()) for name, x in means.items() if np.isfinite(x).any()}


def _judged(held_out: MarketData, data: MarketData, window: int, config: RecurrentConfig, seed: int) -> Interval:
    """The recurrent judge's score: it learns on every other tenth of both sides' time and is scored on the rest."""

    def sides(found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        odd = (np.arange(len(found)) * _TIME_PARTS // max(len(found), 1)) % 2 == 1
        return found[~odd], found[odd]

    (real_train, real_test), (other_train, other_test) = (sides(channels(x, window)) for x in (held_out, data))
    return seed_interval(strong_judge(real_train, other_train, real_test, other_test, seed, config))
