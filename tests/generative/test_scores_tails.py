"""Tails against scipy and closed forms; aggregation never crosses a break."""

import numpy as np
import pytest
import scipy.stats

from marljax.generative.scores import tails


def test_kurtosis_matches_scipy_and_a_constant_has_none():
    x = np.random.default_rng(0).standard_t(5, 400)
    assert tails.excess_kurtosis(x) == pytest.approx(scipy.stats.kurtosis(x), rel=1e-10)
    # A mean of 0.1 does not come out as 0.1: rounding is not variance.
    rounded = np.repeat([0.1, np.nextafter(0.1, 1)], 5)
    for nothing in (np.full(10, 0.1), rounded, np.zeros(10), np.zeros(0), np.array([1.0, np.nan])):
        assert np.isnan(tails.excess_kurtosis(nothing))


def test_hill_index_finds_the_exponent_of_a_power_law():
    x = np.random.default_rng(0).pareto(3.0, 200_000) + 1
    assert tails.hill_index(x) == pytest.approx(3.0, abs=0.1)
    by_hand = 1 / np.mean(np.log(np.array([16.0, 8.0]) / 4.0))
    assert tails.hill_index(np.array([1.0, -16.0, 8.0, 4.0, 2.0]), tail=0.4) == pytest.approx(by_hand)
    for nothing in (np.ones(100), np.zeros(100), np.zeros(0), np.array([2.0])):
        assert np.isnan(tails.hill_index(nothing))


def test_sums_stay_within_their_stretch_and_leave_the_rest_over():
    x = np.arange(10.0)
    stretch = np.array([0, 0, 0, 1, 1, 1, 1, 1, 2, 2])
    np.testing.assert_array_equal(tails.aggregate(x, 2, stretch), [0 + 1, 3 + 4, 5 + 6, 8 + 9])
    np.testing.assert_array_equal(tails.aggregate(np.stack([x, -x], 1), 5), [[10, -10], [35, -35]])
    assert tails.aggregate(x, 6, stretch).shape == (0,)


def test_kurtosis_falls_with_the_horizon_by_the_central_limit():
    x = np.random.default_rng(0).laplace(size=400_000)
    # The excess kurtosis of a Laplace sum of h terms is 3 / h.
    np.testing.assert_allclose(tails.kurtosis_by_horizon(x, None, (1, 5, 20)), [3, 0.6, 0.15], atol=0.12)
    assert np.isnan(tails.kurtosis_by_horizon(x[:10], None, (20,))).all()
