"""Distances of samples against scipy and by hand, and on what a market has: grids, zeros, constants, spikes."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from marljax.data.schema import InputError
from marljax.generative.scores import distributions as d


@pytest.mark.parametrize("seed", range(3))
def test_two_sample_distances_match_scipy(seed):
    rng = np.random.default_rng(seed)
    x, y = rng.integers(-5, 5, 300).astype(float), rng.standard_t(3, 170)
    assert d.wasserstein(x, y) == pytest.approx(scipy.stats.wasserstein_distance(x, y), rel=1e-10)
    assert d.scaled_wasserstein(x, y) == pytest.approx(scipy.stats.wasserstein_distance(x, y) / x.std(), rel=1e-10)
    assert d.kolmogorov_smirnov(x, y) == pytest.approx(scipy.stats.ks_2samp(x, y).statistic, rel=1e-10)


def test_a_constant_real_sample_leaves_the_wasserstein_distance_unscaled():
    assert d.scaled_wasserstein(np.full(5, 2.0), np.full(3, 5.0)) == 3.0


def test_bins_are_as_wide_as_freedman_and_diaconis_say():
    x = np.random.default_rng(0).standard_normal(1000)
    edges = d.histogram_edges(x)
    # numpy's bin count rounds the width; the rule itself is 2 IQR n^(-1/3).
    low, high = np.quantile(x, [0.25, 0.75], method="inverted_cdf")
    np.testing.assert_allclose(np.diff(edges), 2 * (high - low) / 10)
    assert np.mean((x >= edges[0]) & (x <= edges[-1])) > 0.985


def test_whole_numbers_have_bins_whose_edges_they_never_hit():
    x = np.random.default_rng(0).geometric(0.4, 500).astype(float)
    edges = d.histogram_edges(x)
    assert np.all(edges % 1 == 0.5)
    assert np.all(np.diff(edges) == 1)
    wide = d.histogram_edges(np.random.default_rng(0).integers(0, 100_000, 500).astype(float))
    assert len(wide) <= 102
    assert np.all(np.diff(wide) % 1 == 0)


def test_total_variation_of_counts_by_hand():
    real = np.repeat([1.0, 1.0, 2.0, 3.0], 8)
    other = np.array([1.0, 2.0, 2.0, 9.0])
    # Shares 1/2, 1/4, 1/4, 0 against 1/4, 1/2, 0, 1/4: half of a sum of 1.
    assert d.total_variation(real, other) == pytest.approx(0.5)
    assert d.total_variation(real, real) == 0.0
    assert d.total_variation(real, real + 100) == 1.0


def test_zero_has_a_bin_of_its_own():
    rng = np.random.default_rng(0)
    real = rng.standard_normal(4000) * (rng.random(4000) < 0.5)
    never_still = rng.standard_normal(4000)
    tiny = np.where(real == 0, 1e-6, real)
    assert d.total_variation(real, never_still, zero_apart=True) == pytest.approx(0.5, abs=0.05)
    assert d.total_variation(real, tiny, zero_apart=True) == pytest.approx(0.5, abs=0.03)
    assert d.total_variation(real, tiny) < 0.01, "without the bin nobody sees that zeros are gone"


def test_constants_of_any_size_are_told_apart_from_all_else():
    for value in (0.0, 1e-12, -3.5, 1e9):
        assert d.total_variation(np.full(50, value), np.full(7, value)) == 0.0
        assert d.total_variation(np.full(50, value), np.full(7, value + 1.0)) == 1.0
        assert d.total_variation(np.full(50, value), np.zeros(7), zero_apart=True) == float(value != 0)


def test_one_wild_value_does_not_swallow_the_bins():
    rng = np.random.default_rng(1)
    real = np.append(rng.standard_normal(2000), 1e9)
    assert len(d.histogram_edges(real)) < 60
    peaked = np.concatenate([1e-4 * rng.standard_normal(1800), rng.standard_normal(200)])
    assert len(d.histogram_edges(peaked)) <= 102, "nor does a sharp peak ask for thousands of them"
    assert d.total_variation(real, 2 * rng.standard_normal(2000)) > 0.25


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40), st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40))
def test_total_variation_is_a_share_and_zero_for_the_same_sample(x, y):
    x, y = np.array(x), np.array(y)
    for apart in (False, True):
        assert 0 <= d.total_variation(x, y, zero_apart=apart) <= 1
        assert d.total_variation(x, x[::-1], zero_apart=apart) == 0


def test_channels_are_named_averaged_and_freed_from_nan():
    rng = np.random.default_rng(0)
    real, other = rng.standard_normal((300, 2)), rng.standard_normal((200, 2))
    holes = real.copy()
    holes[::7, 1] = np.nan
    found = d.channel_distances(holes, other, ("move", "spread"), zero_apart=("move",))
    assert found["spread"]["ks"] == d.kolmogorov_smirnov(holes[np.isfinite(holes[:, 1]), 1], other[:, 1])
    assert found["move"]["total_variation"] == d.total_variation(real[:, 0], other[:, 0], zero_apart=True)
    assert found["mean"]["wasserstein"] == pytest.approx(np.mean([found[c]["wasserstein"] for c in ("move", "spread")]))


def test_what_cannot_be_compared_is_refused():
    x = np.zeros((3, 2))
    with pytest.raises(InputError, match="2 channels are named"):
        d.channel_distances(x[:, :1], x, ("a", "b"))
    with pytest.raises(InputError, match="no channel is called c"):
        d.channel_distances(x, x, ("a", "b"), zero_apart=("c",))
    with pytest.raises(InputError, match="no distribution"):
        d.total_variation(np.array([np.nan]), np.zeros(2))
