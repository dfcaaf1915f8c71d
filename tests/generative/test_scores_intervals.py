"""Intervals cover a truth that is known as often as they claim, and only if blocks are as long as the memory."""

import numpy as np
import pytest

from marljax.data.schema import InputError
from marljax.generative.scores import intervals as b
from marljax.generative.scores.distributions import wasserstein


def autoregression(rng, n, memory):
    x = np.zeros(n)
    shocks = rng.standard_normal(n)
    for t in range(1, n):
        x[t] = memory * x[t - 1] + shocks[t]
    return x


def mean_gap(x, y):
    return float(np.mean(np.concatenate(x)) - np.mean(np.concatenate(y)))


def share_covered(length, trials):
    rng, covered = np.random.default_rng(0), 0
    for trial in range(trials):
        x, y = autoregression(rng, 1000, 0.8), 1.0 + autoregression(rng, 1000, 0.8)
        blocks = [np.split(z, len(z) // length) for z in (x, y)]
        found = b.interval(mean_gap, *blocks, seed=trial, n_resamples=100)
        covered += found.low <= -1.0 <= found.high
    return covered / trials


def test_blocks_as_long_as_the_memory_cover_the_truth_and_pairs_of_rows_do_not():
    assert 0.88 <= share_covered(50, 200) <= 0.99
    assert share_covered(2, 40) < 0.75


def test_the_interval_of_a_distance_covers_its_expectation_at_this_sample_size():
    def distance(x, y):
        return wasserstein(np.concatenate(x), np.concatenate(y))

    rng = np.random.default_rng(0)
    trials = [(rng.standard_normal((20, 20)), 0.1 + rng.standard_normal((20, 20))) for _ in range(150)]
    expectation = np.mean([distance(x, y) for x, y in trials])
    found = [b.interval(distance, x, y, seed=i, n_resamples=60) for i, (x, y) in enumerate(trials)]
    assert np.mean([x.low <= expectation <= x.high for x in found]) >= 0.85
    assert all(x.low <= x.estimate <= x.high for x in found)


def test_a_lower_level_is_narrower_and_a_seed_repeats():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 30, 10))
    wide, narrow = (b.interval(mean_gap, x, y, level=level) for level in (0.95, 0.5))
    assert narrow.high - narrow.low < 0.5 * (wide.high - wide.low)
    assert b.interval(mean_gap, x, y, level=0.5) == narrow
    assert b.interval(mean_gap, x, y, level=0.5, seed=1) != narrow
    assert wide.estimate == pytest.approx(x.mean() - y.mean())


def test_scores_together_are_resampled_together_and_nan_stays_apart():
    x = np.random.default_rng(0).standard_normal((10, 5))
    found = b.intervals(lambda p, q: {"gap": mean_gap(p, q), "none": np.nan}, x, x, n_resamples=20)
    assert found["gap"] == b.interval(mean_gap, x, x, n_resamples=20)
    assert np.isnan([found["none"].estimate, found["none"].low, found["none"].high]).all()


def test_undefined_resamples_do_not_count():
    def sometimes(x, y):
        return mean_gap(x, y) if len({float(z[0]) for z in x}) > 1 else np.nan

    x = np.array([[0.0], [1.0]])
    assert np.isfinite(b.interval(sometimes, x, x, n_resamples=50).low)


def test_blocks_of_time_lie_within_their_stretch_and_hold_every_row_once():
    stretch = np.array([0, 0, 0, 0, 0, 3, 3, 7])
    assert [x.tolist() for x in b.time_blocks(stretch, 2)] == [[0, 1], [2, 3], [4], [5, 6], [7]]


def test_the_judges_seeds_give_the_interval_of_their_mean():
    from scipy.stats import ttest_1samp

    scores = np.array([0.1, 0.12, 0.08, 0.15, 0.11])
    expected = ttest_1samp(scores, 0).confidence_interval(0.95)
    found = b.seed_interval(scores)
    np.testing.assert_allclose([found.low, found.high, found.estimate], [expected.low, expected.high, scores.mean()])
    assert np.isnan(b.seed_interval(scores[:1]).low)


def test_what_has_no_interval_is_refused():
    x = np.zeros((5, 2))
    for arguments, said in (
        ({"real_blocks": x[:1], "other_blocks": x}, "two blocks a side"),
        ({"real_blocks": x, "other_blocks": x, "n_resamples": 0}, "a resample"),
        ({"real_blocks": x, "other_blocks": x, "level": 1.0}, "level"),
    ):
        with pytest.raises(InputError, match=said):
            b.interval(mean_gap, **arguments)
    with pytest.raises(InputError, match="at least one row"):
        b.time_blocks(np.zeros(3), 0)
