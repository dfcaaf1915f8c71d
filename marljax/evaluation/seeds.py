"""Intervals over seeds: a learner's result is as uncertain as the seeds it was repeated with differ."""

from collections.abc import Sequence

import numpy as np
from scipy import special

CONFIDENCE = 0.95


def seed_interval(
    values: Sequence[float] | np.ndarray, confidence: float = CONFIDENCE, one_sided: bool = False
) -> tuple[float, float, float]:
    """Low, mean and high of float[seeds] by Student's t, for results of independent seeds.

    One-sided, each of the two ends is a bound at `confidence` by itself. Raises ValueError for fewer than two seeds.
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(f"an interval over seeds needs the results of two at least, got shape {values.shape}")
    tail = 1.0 - confidence if one_sided else 0.5 * (1.0 - confidence)
    reach = special.stdtrit(len(values) - 1, 1.0 - tail) * values.std(ddof=1) / len(values) ** 0.5
    return float(values.mean() - reach), float(values.mean()), float(values.mean() + reach)
