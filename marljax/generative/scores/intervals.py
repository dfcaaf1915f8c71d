"""Bootstrap intervals: how far a score would move if other stretches of the same market had been recorded.

Both sides are cut into blocks of consecutive rows, sessions or paths, and whole blocks are drawn with replacement, so
that the dependence within a block stays (Carlstein 1986). As many blocks are drawn as there are: they may
not overlap, or a resample would hold more rows than were recorded.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from flax import struct
from scipy.stats import t

from marljax.data.schema import InputError

Block = TypeVar("Block")


@struct.dataclass
class Interval:
    """A score and where it could have been."""

    estimate: float
    low: float
    high: float


def time_blocks(stretch: np.ndarray, length: int) -> list[np.ndarray]:
    """Rows int64[<= length] of blocks side by side, none across two stretches int[N]; a stretch's last is shorter."""
    if length < 1:
        raise InputError(f"blocks have at least one row, got {length}")
    edges = np.flatnonzero(np.diff(stretch)) + 1
    stretches = np.split(np.arange(len(stretch)), edges)
    return [part[i : i + length] for part in stretches for i in range(0, len(part), length)]


def interval(
    score: Callable[[Sequence[Block], Sequence[Block]], float],
    real_blocks: Sequence[Block],
    other_blocks: Sequence[Block],
    *,
    seed: int = 0,
    n_resamples: int = 200,
    level: float = 0.95,
) -> Interval:
    """`score(real_blocks, other_blocks)` and its interval at `level`, from blocks drawn anew on both sides.

    See `intervals` for what the interval covers.
    """
    return intervals(
        lambda x, y: {"": score(x, y)},
        real_blocks,
        other_blocks,
        seed=seed,
        n_resamples=n_resamples,
        level=level,
    )[""]


def intervals(
    scores: Callable[[Sequence[Block], Sequence[Block]], dict[str, float]],
    real_blocks: Sequence[Block],
    other_blocks: Sequence[Block],
    *,
    seed: int = 0,
    n_resamples: int = 200,
    level: float = 0.95,
) -> dict[str, Interval]:
    """As `interval`, for scores that are computed together.

    The interval has the quantiles of the resampled score around its own median, laid around the estimate: a resampled
    distance is biased upwards by the resampling itself, and the interval is that of the score's expectation at this
    sample size, the same for every candidate and for the real floor. Resamples in which the score is undefined (NaN)
    do not count; with none left both ends are NaN. Raises InputError for fewer than two blocks on each side.
    """
    if len(real_blocks) < 2 or len(other_blocks) < 2:
        raise InputError(f"an interval needs two blocks a side, got {len(real_blocks)} and {len(other_blocks)}")
    if n_resamples < 1 or not 0 < level < 1:
        raise InputError(f"an interval needs a resample and a level within 0..1, got {n_resamples} and {level}")
    generator = np.random.default_rng(seed)

    def draw(blocks: Sequence[Block]) -> list[Block]:
        return [blocks[i] for i in generator.integers(len(blocks), size=len(blocks))]

    estimates = scores(real_blocks, other_blocks)
    drawn = [scores(draw(real_blocks), draw(other_blocks)) for _ in range(n_resamples)]
    return {
        name: _around(estimate, np.array([one.get(name, np.nan) for one in drawn]), level)
        for name, estimate in estimates.items()
    }


def seed_interval(scores: np.ndarray, level: float = 0.95) -> Interval:
    """Mean of scores [S] over independent seeds and the interval of that mean by Student's t; NaN ends for one seed."""
    scores = np.asarray(scores, np.float64)
    estimate, n = float(scores.mean()), len(scores)
    half = float(t.ppf(0.5 + level / 2, n - 1) * scores.std(ddof=1) / np.sqrt(n)) if n > 1 else np.nan
    return Interval(estimate, estimate - half, estimate + half)


def _around(estimate: float, drawn: np.ndarray, level: float) -> Interval:
    drawn = drawn[np.isfinite(drawn)]
    if not drawn.size or not np.isfinite(estimate):
        return Interval(estimate, np.nan, np.nan)
    low, middle, high = np.quantile(drawn, [(1 - level) / 2, 0.5, (1 + level) / 2])
    return Interval(estimate, float(estimate + low - middle), float(estimate + high - middle))
