import numpy as np
import pytest
from scipy import stats

from marljax.evaluation.seeds import seed_interval


def test_the_interval_is_students():
    values = np.random.default_rng(0).normal(3.0, 2.0, size=10)
    expected = stats.t.interval(0.95, 9, values.mean(), stats.sem(values))
    low, mean, high = seed_interval(values)
    assert (low, high) == pytest.approx(expected)
    assert mean == pytest.approx(values.mean())
    # A one-sided bound of 95 % is the end of a two-sided interval of 90 %.
    assert seed_interval(values, one_sided=True) == pytest.approx(seed_interval(values, confidence=0.9))


def test_intervals_hold_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(1)
    held = [low < 0.5 < high for low, _, high in (seed_interval(rng.normal(0.5, 1.0, 5)) for _ in range(4000))]
    assert np.mean(held) == pytest.approx(0.95, abs=0.012)


def test_one_seed_has_no_interval():
    with pytest.raises(ValueError, match="two at least"):
        seed_interval([1.0])
