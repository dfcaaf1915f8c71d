"""Which algorithm trades each product: decided on validation data, by an interval rather than by a point.

The margin is the difference of seed-mean Sharpe ratios. Its interval knows two sources of luck: seeds, and time, which
is resampled in circular blocks (Politis and Romano 1992), the same blocks for both algorithms since they traded the
same market. Where the interval spans zero the simpler algorithm is taken and the verdict says that nothing was
established.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import special

from marljax.data.limits import require, require_not_negative

SIMPLEST_FIRST = ("ppo", "sac")

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class SelectionConfig:
    """How sure a choice has to be."""

    confidence: float = 0.95
    """Coverage of the interval of the margin [1]."""
    n_resamples: int = 2000
    """Bootstrap resamples [count]."""
    block_length: int = 0
    """Steps in one block of time [steps]; 0 takes the square root of the record's length."""
    seed: int = 0
    """Seed of the resampling [1]."""

    def __post_init__(self) -> None:
        require(self, "between 0.5 and 1", lambda x: 0.5 < x < 1, "confidence")
        require(self, "at least 2", lambda x: x >= 2, "n_resamples")
        require_not_negative(self, "block_length", "seed")


def sharpe(returns: np.ndarray, steps_per_year: float = 1.0) -> np.ndarray:
    """Mean over standard deviation of returns [..., T], times sqrt(steps_per_year): float64[...].

    0 where returns do not vary, which is what an agent that never trades earns.
    """
    returns = np.asarray(returns, np.float64)
    n = returns.shape[-1]
    return _ratio(returns.sum(-1), (returns**2).sum(-1), n) * np.sqrt(steps_per_year)


def select(
    validation_returns: Mapping[str, np.ndarray],
    products: Sequence[str],
    *,
    steps_per_year: float = 1.0,
    config: SelectionConfig | None = None,
) -> tuple[dict[str, Row], list[Row]]:
    """The algorithm and the seed for every product, and one row per trial.

    `validation_returns` holds "ppo" and "sac", float[S >= 2, P, T] net returns per step on validation data; the numbers
    of seeds may differ. Returns ({product: {"algorithm", "margin", "interval", "verdict", "seed"}}, trials): `margin`
    is the seed-mean Sharpe of PPO less that of SAC, `seed` the index of the chosen algorithm's best one, and a trial is
    {"product", "algorithm", "seed", "validation_sharpe"}. Deterministic. Raises ValueError for other algorithms,
    shapes that disagree and returns that are not finite.
    """
    config = config or SelectionConfig()
    returns = _checked(validation_returns, products)
    scores = {name: sharpe(r, steps_per_year) for name, r in returns.items()}
    margins = scores[SIMPLEST_FIRST[0]].mean(0) - scores[SIMPLEST_FIRST[1]].mean(0)
    half = _half_widths(returns, config) * np.sqrt(steps_per_year)
    low, high = margins - half, margins + half

    simple, other = SIMPLEST_FIRST
    choices: dict[str, Row] = {}
    for p, product in enumerate(products):
        established = bool(low[p] > 0 or high[p] < 0)
        algorithm = other if established and high[p] < 0 else simple
        choices[product] = {
            "algorithm": algorithm,
            "margin": float(margins[p]),
            "interval": [float(low[p]), float(high[p])],
            "verdict": "established" if established else "not established",
            "seed": int(np.argmax(scores[algorithm][:, p])),
        }
    trials = [
        {"product": product, "algorithm": name, "seed": s, "validation_sharpe": float(scores[name][s, p])}
        for p, product in enumerate(products)
        for name in SIMPLEST_FIRST
        for s in range(len(scores[name]))
    ]
    return choices, trials


def _checked(validation_returns: Mapping[str, np.ndarray], products: Sequence[str]) -> dict[str, np.ndarray]:
    if set(validation_returns) != set(SIMPLEST_FIRST):
        raise ValueError(f"expected returns of {SIMPLEST_FIRST}, got {sorted(validation_returns)}")
    returns = {name: np.asarray(validation_returns[name], np.float64) for name in SIMPLEST_FIRST}
    for name, r in returns.items():
        if r.ndim != 3 or r.shape[1] != len(products) or r.shape[2] < 2 or r.shape[0] < 2:
            raise ValueError(f"{name}: returns must be [S >= 2, P={len(products)}, T >= 2], got {r.shape}")
        if not np.isfinite(r).all():
            raise ValueError(f"{name}: returns are not finite")
    if len({r.shape[2] for r in returns.values()}) != 1:
        raise ValueError("the algorithms were validated on different numbers of steps")
    return returns


def _half_widths(returns: dict[str, np.ndarray], config: SelectionConfig) -> np.ndarray:
    """float64[P] half of the margin's interval, per step: Student's t over two sources of luck, seeds and time.

    The variance by time is that of the margin under resampled blocks, seeds as they are; by seeds, that of a mean of S.
    Degrees of freedom follow Welch and Satterthwaite, so that a few seeds count as few.
    """
    by_time = _resampled_margins(returns, config).var(axis=0, ddof=1)
    scores = [sharpe(r) for r in returns.values()]
    by_seeds = [x.var(axis=0, ddof=1) / len(x) for x in scores]
    total = by_time + sum(by_seeds)
    uncertain = sum(v**2 / (len(x) - 1) for v, x in zip(by_seeds, scores, strict=True))
    uncertain = uncertain + by_time**2 / (config.n_resamples - 1)
    freedom = np.where(uncertain > 0, total**2 / np.where(uncertain > 0, uncertain, 1.0), 1.0)
    return special.stdtrit(freedom, 0.5 + 0.5 * config.confidence) * np.sqrt(total)


def _resampled_margins(returns: dict[str, np.ndarray], config: SelectionConfig) -> np.ndarray:
    """float64[n_resamples, P] the margin of the same seeds under resampled blocks of time, per step."""
    n_steps = next(iter(returns.values())).shape[-1]
    length = min(config.block_length or round(n_steps**0.5), n_steps)
    n_blocks = -(-n_steps // length)
    rng = np.random.default_rng(config.seed)
    # A block's sums of returns and of squares are differences of running sums, so a resample costs T / length.
    moments = {name: [_block_sums(r, length), _block_sums(r**2, length)] for name, r in returns.items()}
    margins = []
    for _ in range(config.n_resamples):
        starts = rng.integers(n_steps, size=n_blocks)
        means = [
            _ratio(first[:, :, starts].sum(-1), second[:, :, starts].sum(-1), n_blocks * length).mean(0)
            for first, second in moments.values()
        ]
        margins.append(means[0] - means[1])
    return np.array(margins)


def _block_sums(x: np.ndarray, length: int) -> np.ndarray:
    """[..., T] sums of the circular blocks of `length` that start at each step."""
    running = np.cumsum(np.concatenate([np.zeros((*x.shape[:-1], 1)), x, x[..., : length - 1]], -1), -1)
    return running[..., length:] - running[..., :-length]


def _ratio(total: np.ndarray, squares: np.ndarray, n: int) -> np.ndarray:
    """Mean over standard deviation from sums over n steps; 0 where the variance is lost in rounding."""
    mean = total / n
    variance = (squares - n * mean**2) / (n - 1)
    varies = variance > 1e-12 * squares / n
    return np.where(varies, mean / np.sqrt(np.where(varies, variance, 1.0)), 0.0)
