"""Correlations by horizon, volume with volatility, prices with order flow: on truths that are known."""

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

from marljax.generative.scores import comovement as c


def test_correlation_distance_by_hand():
    x = np.random.default_rng(0).standard_normal((100, 2))
    same, opposite = np.stack([x[:, 0]] * 2, 1), np.stack([x[:, 0], -x[:, 0]], 1)
    assert c.correlation_distance(same, opposite) == pytest.approx(2.0)
    assert np.isnan(c.correlation_distance(x[:, :1], x[:, :1]))


def test_correlations_match_numpy_pair_by_pair_and_a_constant_has_none():
    x = np.random.default_rng(0).standard_normal((50, 3)) + 0.1
    x[:, 1] += x[:, 0]
    np.testing.assert_allclose(c.pair_correlations(x), np.corrcoef(x, rowvar=False)[[0, 0, 1], [1, 2, 2]])
    x[:, 2] = 0.1
    assert np.isnan(c.pair_correlations(x)).tolist() == [False, True, True]
    # The pair that is left still counts.
    assert c.correlation_distance(x, -x) == pytest.approx(0.0, abs=1e-12)


def test_news_that_arrives_a_step_later_correlates_only_over_longer_horizons():
    news = np.random.default_rng(0).standard_normal(60_001)
    returns = np.stack([news[1:], news[:-1]], 1)
    found = c.correlation_by_horizon(returns, None, (1, 5, 20))[:, 0]
    # Of h steps h - 1 are shared.
    np.testing.assert_allclose(found, [0.0, 0.8, 0.95], atol=0.02)
    assert np.isnan(c.correlation_by_horizon(returns[:10], None, (20,))).all()


def test_volume_that_moves_with_the_absolute_return_shows():
    rng = np.random.default_rng(0)
    r = rng.standard_normal(5000)
    assert c.volume_volatility(np.abs(r), r) == pytest.approx(1.0)
    assert abs(c.volume_volatility(rng.poisson(3, 5000), r)) < 0.04
    assert np.isnan(c.volume_volatility(np.zeros(5000), r))


def test_flow_r2_is_that_of_a_regression():
    rng = np.random.default_rng(0)
    flow = rng.standard_normal(4000)
    moves = 0.5 * flow + rng.standard_normal(4000)
    x, y = flow.reshape(-1, 10).sum(1)[:, None], moves.reshape(-1, 10).sum(1)
    assert c.flow_r2(flow, moves, None, 10) == pytest.approx(LinearRegression().fit(x, y).score(x, y), rel=1e-9)
    assert c.flow_r2(flow, moves, None, 10) == pytest.approx(0.2, abs=0.07)
    assert np.isnan(c.flow_r2(np.zeros(4000), moves))
    assert np.isnan(c.flow_r2(flow[:15], moves[:15]))
