"""Copies are found whatever their volatility, and real windows that nothing comes near lower coverage."""

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from marljax.data.schema import InputError
from marljax.generative.scores import memorisation as m


def test_nearest_distance_is_zero_for_a_rescaled_copy():
    rng = np.random.default_rng(0)
    training = rng.standard_normal((50, 20))
    assert m.nearest_distance(3.0 * training[:5], training).max() < 1e-6
    assert m.nearest_distance(rng.standard_normal((5, 20)), training).min() > 2


def test_nearest_distance_matches_scikit_learn_over_several_chunks():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((1200, 4, 2)), rng.standard_normal((300, 4, 2))
    a, b = (z.reshape(len(z), -1) / z.reshape(len(z), -1).std(1, keepdims=True) for z in (x, y))
    expected = NearestNeighbors(n_neighbors=1).fit(b).kneighbors(a)[0][:, 0]
    np.testing.assert_allclose(m.nearest_distance(x, y), expected, rtol=1e-6)


def test_memorisation_ratio_is_one_for_fresh_windows_and_zero_for_copies():
    rng = np.random.default_rng(0)
    training, held_out, fresh = rng.standard_normal((3, 800, 16, 1))
    assert m.memorisation_ratio(fresh, training, held_out) == pytest.approx(1.0, abs=0.04)
    assert m.memorisation_ratio(training, training, held_out) == 0.0
    tenth = np.concatenate([training[:80], fresh[:720]])
    assert m.memorisation_ratio(tenth, training, held_out) == 0.0, "one window in ten is enough"
    assert m.memorisation_ratio(0.1 * fresh, training, held_out) == pytest.approx(1.0, abs=0.04), "calm is no copy"
    assert np.isnan(m.memorisation_ratio(fresh, training, training))


def test_coverage_matches_its_definition():
    rng = np.random.default_rng(0)
    real, other = rng.standard_normal((700, 3)), 0.5 * rng.standard_normal((500, 3))
    radius = NearestNeighbors(n_neighbors=5).fit(real).kneighbors()[0][:, -1]
    nearest = NearestNeighbors(n_neighbors=1).fit(other).kneighbors(real)[0][:, 0]
    assert m.coverage(real, other, 5) == np.mean(nearest <= radius)


def test_coverage_of_equals_is_near_its_expectation_and_lost_modes_halve_it():
    rng = np.random.default_rng(0)
    real, other = rng.standard_normal((2, 800, 6))
    assert m.coverage(real, other, 5) == pytest.approx(1 - 2.0**-5, abs=0.02)
    real[:400, 0] += 50
    assert m.coverage(real, other, 5) == pytest.approx(0.5, abs=0.03)
    assert m.coverage(real, other + 1e3, 5) == 0.0


def test_windows_that_cannot_be_compared_are_refused():
    x = np.zeros((4, 3))
    with pytest.raises(InputError, match="more than 4 real windows"):
        m.coverage(x, x, 5)
    with pytest.raises(InputError, match="finite"):
        m.nearest_distance(np.full((4, 3), np.nan), x)
    with pytest.raises(InputError, match="not none"):
        m.nearest_distance(x[:0], x)
    assert m.nearest_distance(x, x).tolist() == [0.0] * 4
