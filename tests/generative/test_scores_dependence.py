"""Autocorrelation and leverage against statsmodels and by hand; paths against one path."""

import numpy as np
import pytest
from statsmodels.tsa.stattools import acf

from marljax.generative.scores import dependence as d


def test_autocorrelation_matches_statsmodels():
    x = np.random.default_rng(0).standard_t(4, 500).cumsum()
    np.testing.assert_allclose(d.autocorrelation(x, None, 30), acf(x, nlags=30, adjusted=True)[1:], rtol=1e-9)


def test_autocorrelation_by_hand_and_never_across_a_break():
    x = np.array([1.0, -1.0, 1.0, -1.0, 1.0, -1.0])
    np.testing.assert_allclose(d.autocorrelation(x, np.zeros(6), 2), [-1.0, 1.0])
    split = d.autocorrelation(np.array([1.0, 1.0, -1.0, -1.0]), np.array([0, 0, 1, 1]), 2)
    np.testing.assert_allclose(split, [1.0, np.nan])


@pytest.mark.parametrize(
    "x", [np.full(9, 0.1), np.zeros(9), np.array([3.0]), np.zeros(0), np.array([1.0, np.nan, 2.0])]
)
def test_a_series_that_says_nothing_has_no_autocorrelation(x):
    with np.errstate(all="raise"):
        assert np.isnan(d.autocorrelation(x, None, 4)).all() if len(x) else True
    if len(x):
        assert np.isnan(d.leverage(x, None, 4)).all()


def test_leverage_is_the_correlation_with_later_squares():
    x = np.random.default_rng(0).standard_normal(20_000)
    # Volatility doubles two steps after a loss.
    x[2:] *= np.where(x[:-2] < 0, 2.0, 1.0)
    found = d.leverage(x, None, 4)
    by_hand = [np.corrcoef(x[:-k], x[k:] ** 2)[0, 1] for k in range(1, 5)]
    np.testing.assert_allclose(found, by_hand, atol=2e-3)
    assert found[1] < -0.25
    assert np.abs(found[[0, 2]]).max() < 0.03


def test_distances_are_root_mean_squares_over_lags():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal(400), rng.standard_normal(300).cumsum()
    found = d.dependence_distances(x, y, n_lags=5)
    for name, of in {"acf_returns": lambda r: r, "acf_abs_returns": np.abs, "acf_squared_returns": np.square}.items():
        gap = acf(of(x), nlags=5, adjusted=True)[1:] - acf(of(y), nlags=5, adjusted=True)[1:]
        assert found[name] == pytest.approx(np.sqrt(np.mean(gap**2)))
    assert found["leverage"] == pytest.approx(np.sqrt(np.mean((d.leverage(x, None, 5) - d.leverage(y, None, 5)) ** 2)))
    assert set(d.dependence_distances(x, x).values()) == {0.0}


def test_too_few_pairs_leave_lags_out_and_not_the_score():
    x, y = np.random.default_rng(0).standard_normal((2, 200))
    short = np.arange(200) // 4
    found = d.dependence_distances(x, y, short, None, n_lags=20)
    gap = d.autocorrelation(x, short, 3) - d.autocorrelation(y, None, 3)
    assert found["acf_returns"] == pytest.approx(np.sqrt(np.mean(gap**2)))
    assert np.isnan(d.dependence_distances(np.zeros(50), y)["acf_returns"])


def test_paths_are_scored_by_their_mean_curve():
    rng = np.random.default_rng(0)
    real, paths = rng.standard_normal(600), 0.9 * rng.standard_normal((7, 500))
    found = d.path_scores(real, paths, n_lags=10)
    curve = np.mean([acf(p**2, nlags=10, adjusted=True)[1:] for p in paths], axis=0)
    gap = acf(real**2, nlags=10, adjusted=True)[1:] - curve
    assert found["acf_squared_returns"] == pytest.approx(np.linalg.norm(gap) / np.sqrt(10))
    gap = d.leverage(real, None, 10) - np.mean([d.leverage(p, None, 10) for p in paths], axis=0)
    assert found["leverage"] == pytest.approx(np.linalg.norm(gap)), "undivided by the number of lags"
    assert found["deviation"] == pytest.approx(0.9, abs=0.05)


def test_paths_of_one_process_score_near_zero_and_others_do_not():
    rng = np.random.default_rng(0)

    def clustered(n):
        volatility = np.zeros((n, 4000))
        shocks = rng.standard_normal((n, 4000))
        for t in range(1, 4000):
            volatility[:, t] = 0.95 * volatility[:, t - 1] + 0.2 * shocks[:, t]
        return np.exp(volatility) * rng.standard_normal((n, 4000))

    real = clustered(1)[0]
    same, none = d.path_scores(real, clustered(10), 50), d.path_scores(real, rng.standard_normal((10, 4000)), 50)
    assert same["acf_abs_returns"] < 0.05 < 0.09 < none["acf_abs_returns"]
