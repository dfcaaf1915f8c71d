"""What models learn on one side and are worth on the other, on processes whose answer is known."""

import numpy as np
import pytest

from marljax.data.schema import InputError
from marljax.generative.scores import predictive as p
from marljax.generative.scores.recurrent import RecurrentConfig


def clustered(seed, n=4000, memory=0.95, depth=0.3):
    rng = np.random.default_rng(seed)
    volatility = np.zeros(n)
    for t in range(1, n):
        volatility[t] = memory * volatility[t - 1] + depth * rng.standard_normal()
    return np.exp(volatility) * rng.standard_normal(n)


def test_volatility_features_are_means_of_the_past_alone():
    r = np.arange(1.0, 31.0) * np.where(np.arange(30) % 2, 1, -1)
    features, rows = p.volatility_features(r)
    assert rows.tolist() == list(range(20, 30))
    np.testing.assert_allclose(features[0], [20.0, 18.0, 10.5, 20.0])
    stretch = np.repeat([0, 1], [5, 25])
    assert p.volatility_features(r, stretch)[1].tolist() == list(range(25, 30))


def test_what_real_clustering_teaches_noise_does_not():
    held_out, real, noise = clustered(0), clustered(1), np.random.default_rng(2).standard_normal(4000)
    taught = p.volatility_r2(real, held_out)
    assert 0.2 < taught < 0.5
    assert p.volatility_r2(noise, held_out) < 0.05
    assert p.volatility_r2(noise, noise[::-1]) < 0.02
    assert p.volatility_r2(10 * noise, held_out) < -1, "a wrong level of volatility costs"


def test_volatility_of_what_never_moves_or_hardly_was_is_undefined():
    real = clustered(0)
    assert np.isnan(p.volatility_r2(real, np.zeros(100)))
    assert np.isnan(p.volatility_r2(real, np.zeros(0)))
    assert np.isnan(p.volatility_r2(real[:21], real))
    assert np.isfinite(p.volatility_r2(np.zeros(100), real))


def test_direction_is_learnt_where_there_is_one_and_zeros_are_left_out():
    rng = np.random.default_rng(0)

    def side(slope):
        x = rng.standard_normal((4000, 3))
        moves = np.sign(slope * x[:, 0] + rng.logistic(size=4000)) * (rng.random(4000) < 0.5)
        return x, moves

    real, held_out, backwards = side(1.0), side(1.0), side(-1.0)
    found = p.direction_scores(*real, *held_out)
    # The best possible: chance of the likelier side, E max(s, 1 - s) of a logistic s of a normal, 0.69.
    assert found["accuracy"] == pytest.approx(0.69, abs=0.03)
    assert found["auc"] == pytest.approx(0.75, abs=0.03)
    assert p.direction_scores(*backwards, *held_out)["auc"] == pytest.approx(1 - found["auc"], abs=0.01)
    assert np.isnan(p.direction_scores(real[0], np.abs(real[1]), *held_out)["auc"])
    assert np.isnan(p.direction_scores(*real, held_out[0], 0 * held_out[1])["accuracy"])


def levels(seed, slope):
    """Windows whose last column is `slope` times the first of the row before."""
    x = np.random.default_rng(seed).uniform(0, 1, (400, 8, 3))
    x[:, 1:, -1] = 0.5 + slope * (x[:, :-1, 0] - 0.5)
    return x


QUICK = RecurrentConfig(hidden=8, steps=300, batch=32, seeds=1, learning_rate=1e-2)


def test_the_published_predictor_learns_the_next_row_and_pays_for_a_wrong_lesson():
    real = levels(0, 1.0)
    taught = p.timegan_predictive_score(levels(1, 1.0), real, real, config=QUICK)
    wrong = p.timegan_predictive_score(levels(1, -1.0), real, real, config=QUICK)
    assert taught.shape == (1,)
    # Guessing a half errs by a quarter on a uniform target, the opposite of it by a half.
    assert taught.max() < 0.06
    assert wrong.min() > 0.35


def test_the_predictor_compiles_once():
    p._prediction_errors.clear_cache()
    real = levels(0, 1.0)
    for rate in (1e-2, 1e-3):
        p.timegan_predictive_score(real, real, real, config=QUICK.replace(learning_rate=rate, steps=5))
    assert p._prediction_errors._cache_size() == 1


def test_windows_that_cannot_be_predicted_are_refused():
    real = levels(0, 1.0)
    with pytest.raises(InputError, match="two rows and columns"):
        p.timegan_predictive_score(real[..., :1], real[..., :1], real[..., :1])
    with pytest.raises(InputError, match="not finite"):
        p.timegan_predictive_score(real * np.nan, real, real)
