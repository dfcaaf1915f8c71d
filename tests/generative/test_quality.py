"""Scores against scipy, closed forms and hand-made cases; the table tells a copy and a stranger from the real thing."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from marljax.data.schema import InputError
from marljax.generative import quality
from tests.reference.generative import toy_market


@pytest.mark.parametrize("seed", range(3))
def test_two_sample_distances_match_scipy(seed):
    rng = np.random.default_rng(seed)
    x, y = rng.integers(-5, 5, 300).astype(float), rng.standard_t(3, 170)
    assert quality.wasserstein(x, y) == pytest.approx(scipy.stats.wasserstein_distance(x, y), rel=1e-10)
    assert quality.kolmogorov_smirnov(x, y) == pytest.approx(scipy.stats.ks_2samp(x, y).statistic, rel=1e-10)


def test_kurtosis_matches_scipy_and_a_constant_has_none():
    x = np.random.default_rng(0).standard_t(5, 400)
    assert quality.excess_kurtosis(x) == pytest.approx(scipy.stats.kurtosis(x), rel=1e-10)
    assert np.isnan(quality.excess_kurtosis(np.ones(10)))


def test_hill_index_finds_the_exponent_of_a_power_law():
    x = np.random.default_rng(0).pareto(3.0, 200_000) + 1
    assert quality.hill_index(x) == pytest.approx(3.0, abs=0.1)
    by_hand = 1 / np.mean(np.log(np.array([16.0, 8.0]) / 4.0))
    assert quality.hill_index(np.array([1.0, -16.0, 8.0, 4.0, 2.0]), tail=0.4) == pytest.approx(by_hand)
    assert np.isnan(quality.hill_index(np.ones(100)))


def test_autocorrelation_by_hand_and_never_across_a_break():
    x = np.array([1.0, -1.0, 1.0, -1.0, 1.0, -1.0])
    whole = quality.autocorrelation(x, np.zeros(6), 2)
    np.testing.assert_allclose(whole, [-1.0, 1.0])
    split = quality.autocorrelation(np.array([1.0, 1.0, -1.0, -1.0]), np.array([0, 0, 1, 1]), 2)
    np.testing.assert_allclose(split, [1.0, np.nan])


def test_correlation_distance_by_hand():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((100, 2))
    same, opposite = np.stack([x[:, 0]] * 2, 1), np.stack([x[:, 0], -x[:, 0]], 1)
    assert quality.correlation_distance(same, opposite) == pytest.approx(2.0)
    assert np.isnan(quality.correlation_distance(x[:, :1], x[:, :1]))


def test_nearest_distance_is_zero_for_a_rescaled_copy():
    rng = np.random.default_rng(0)
    training = rng.standard_normal((50, 20))
    assert quality.nearest_distance(3.0 * training[:5], training).max() < 1e-6
    assert quality.nearest_distance(rng.standard_normal((5, 20)), training).min() > 2


def test_a_judge_cannot_tell_equals_and_always_tells_strangers():
    rng = np.random.default_rng(0)
    one, two, far = (rng.standard_normal((800, 4)) + shift for shift in (0.0, 0.0, 6.0))
    assert quality.judge_error(one, two) < 0.06
    assert quality.judge_error(one, far) > 0.49
    assert quality.judge_error(one, 3 * two) > 0.3


@functools.cache
def table():
    training, held_out = toy_market(0, n_steps=2000), toy_market(1, n_steps=2000)
    stranger = toy_market(2, n_steps=2000, scale=25.0, tail=50.0, clustering=0.97).replace(origin="synthetic")
    copy = training.replace(origin="synthetic")
    return quality.quality_table(held_out, stranger, copy, training), (held_out, stranger, training)


def test_a_stranger_scores_worse_than_a_copy_except_for_memorisation():
    scores, _ = table()
    for name in ("wasserstein_returns", "ks_returns", "acf_abs_returns", "discriminative"):
        assert scores[name]["synthetic"] > 2 * scores[name]["bootstrap"] + 0.02, name
    assert scores["memorisation"]["bootstrap"] < 1e-3
    assert 0.9 < scores["memorisation"]["synthetic"] < 1.3


def test_the_table_holds_finite_numbers_and_the_real_floor():
    scores, _ = table()
    assert {"correlation", "hill", "kurtosis", "acf_returns", "ks_spread", "wasserstein_imbalance"} <= scores.keys()
    for name, row in scores.items():
        assert np.isfinite(list(row.values())).all()
        assert set(row) == {"synthetic", "bootstrap"} | ({"real_vs_real"} if name != "memorisation" else set())
        if name != "memorisation":
            assert row["real_vs_real"] == row["bootstrap"], "here the bootstrap is the training part itself"


def test_one_product_has_no_correlation_score():
    one, two = (toy_market(s, n_products=1, n_steps=400) for s in (0, 1))
    scores = quality.quality_table(two, one.replace(origin="synthetic"), one, one, window=8)
    assert "correlation" not in scores
    assert "wasserstein_returns" in scores


def test_a_product_that_never_moves_makes_no_nan():
    one = toy_market(0, n_steps=400)

    def frozen(data):
        return jax.tree.map(lambda x: jnp.broadcast_to(x[:1], x.shape) if x.ndim > 1 else x, data)

    scores = quality.quality_table(frozen(one), frozen(one), frozen(one), frozen(one), window=8)
    assert np.isfinite([x for row in scores.values() for x in row.values()]).all()
    assert "hill" not in scores


def test_synthetic_books_are_no_evidence():
    _, (held_out, stranger, training) = table()
    with pytest.raises(InputError, match="held-out side"):
        quality.quality_table(stranger, held_out, held_out, training)


def test_every_score_of_the_table_says_what_it_measures():
    market = toy_market(n_products=2, n_steps=400)
    table = quality.quality_table(market, market.replace(origin="synthetic"), market, market)
    assert table.keys() <= quality.SCORES.keys()
    assert quality.SCORES["memorisation"].perfect == 1.0
