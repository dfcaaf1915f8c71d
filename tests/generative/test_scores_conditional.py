"""A generator that obeys its regimes scores 0, one that ignores them does not, and a missing regime is an error."""

import numpy as np
import pytest

from marljax.data.schema import InputError
from marljax.generative.scores.conditional import conditional_scores, volatility_by_regime

REGIME = np.repeat([0, 1, 2], 200)


def windows(seed, volatility):
    rng = np.random.default_rng(seed)
    return np.asarray(volatility)[REGIME][:, None] * rng.standard_normal((600, 32))


def test_volatility_by_regime_by_hand():
    x = np.array([[3.0, 4.0], [0.0, 0.0], [1.0, -1.0]])
    found = volatility_by_regime(x, np.array([2, 0, 2]), 4)
    np.testing.assert_allclose(found, [0.0, np.nan, np.sqrt((25 / 2 + 1) / 2), np.nan])


def test_who_obeys_scores_nothing_and_who_ignores_scores_the_known_error():
    real = windows(0, [1.0, 2.0, 4.0])
    obeys = conditional_scores(real, REGIME, windows(1, [1.0, 2.0, 4.0]), REGIME, 3)
    assert obeys["volatility_error"] < 0.03
    assert obeys["monotone"] == 1.0
    assert obeys["wasserstein"] < 0.05
    ignores = conditional_scores(real, REGIME, windows(2, [2.0, 2.0, 2.0]), REGIME, 3)
    assert ignores["volatility_error"] == pytest.approx(1.0, abs=0.06)
    assert ignores["volatility_mean_error"] == pytest.approx((1.0 + 0.0 + 0.5) / 3, abs=0.03)
    # Normal samples of deviations s and t are |s - t| sqrt(2 / pi) apart.
    assert ignores["wasserstein"] == pytest.approx((1.0 + 0.0 + 0.5) / 3 * np.sqrt(2 / np.pi), abs=0.03)
    assert conditional_scores(real, REGIME, windows(2, [4.0, 2.0, 1.0]), REGIME, 3)["monotone"] == 0.0


def test_a_regime_never_drawn_is_wholly_wrong_and_one_never_recorded_does_not_count():
    real = windows(0, [1.0, 2.0, 4.0])
    never = conditional_scores(real, REGIME, real[:400], REGIME[:400], 3)
    assert never["volatility_error"] == 1.0
    assert never["monotone"] == 0.0
    assert never["wasserstein"] == 0.0
    unrecorded = conditional_scores(real[:400], REGIME[:400], real, REGIME, 3)
    assert unrecorded["volatility_error"] == 0.0
    assert unrecorded["monotone"] == 1.0


def test_still_prices_have_no_conditional_scores():
    still = np.zeros((600, 8))
    assert np.isnan(list(conditional_scores(still, REGIME, still, REGIME, 3).values())).all()


@pytest.mark.parametrize("bad", [np.full(600, 3), np.full(600, -1), np.zeros(0, int)])
def test_a_regime_out_of_range_is_refused(bad):
    real = windows(0, [1.0, 2.0, 4.0])
    with pytest.raises(InputError, match="regimes of the other windows"):
        conditional_scores(real, REGIME, real[: len(bad)], bad, 3)
