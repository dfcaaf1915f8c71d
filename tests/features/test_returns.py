"""Returns, volatility and its regimes: sessions, precision, and thresholds that only the training part knows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marljax.data.schema import InputError
from marljax.features import returns
from marljax.features.volume import relative_volume, signed_flow
from tests.reference.books import random_market


def test_a_return_across_a_session_boundary_is_zero():
    double_mid = jnp.array([200, 202, 400, 404])
    result = returns.log_returns(double_mid, jnp.array([0, 1, 0, 1]))
    np.testing.assert_allclose(result, [0, np.log(1.01), 0, np.log(1.01)], rtol=1e-6)


def test_a_half_tick_on_a_hundred_million_ticks_keeps_six_digits():
    double_mid = 2**28 + np.array([0, 1, 3])
    result = returns.log_returns(jnp.asarray(double_mid), jnp.arange(3))
    np.testing.assert_allclose(result[1:], np.diff(np.log(double_mid.astype(np.longdouble))).astype(float), rtol=1e-6)


@pytest.mark.parametrize("path", [[10, -4, -8, 20], [0, 0, 1, 2], [2**29 - 1, 1, 2**29 - 1]])
def test_returns_of_any_integer_prices_are_finite(path):
    result = returns.log_returns(jnp.array(path), jnp.arange(len(path)))
    assert np.isfinite(result).all()
    defined = (np.array(path[1:]) > 0) & (np.array(path[:-1]) > 0)
    expected = [np.log(b / a) if ok else 0.0 for a, b, ok in zip(path, path[1:], defined, strict=False)]
    np.testing.assert_allclose(result[1:], expected, rtol=1e-6)


def test_volatility_of_equal_steps_is_the_step():
    double_mid = jnp.asarray(10_000 + np.tile([0, 10], 50))
    np.testing.assert_allclose(returns.rolling_volatility(double_mid, jnp.arange(100), 20)[1:], 1e-3, rtol=1e-3)


def test_volatility_ratio_rises_when_moves_double_and_is_one_when_nothing_moves():
    double_mid = jnp.asarray(100_000 + np.r_[np.tile([0, 10], 50), np.tile([0, 20], 10)])
    result = returns.volatility_ratio(double_mid, jnp.arange(120), 20, 100)
    np.testing.assert_allclose(result[90], 1.0, rtol=1e-3)
    np.testing.assert_allclose(result[-1], 2 / np.sqrt(0.8 + 0.2 * 4), rtol=0.02)
    np.testing.assert_array_equal(returns.volatility_ratio(jnp.full(50, 7), jnp.arange(50), 5, 20), 1.0)


@pytest.mark.parametrize("quantiles", [(0.5,), (1 / 3, 2 / 3), (0.25, 0.5, 0.75)])
def test_regimes_split_the_training_part_evenly(quantiles):
    train = random_market(seed=1, n_steps=2000)
    thresholds = returns.fit_volatility_thresholds(train, quantiles, window=20)
    regime = np.asarray(returns.volatility_regime(train, thresholds))
    assert regime.dtype == np.int32
    share = np.bincount(regime[20:].ravel(), minlength=len(quantiles) + 1) / regime[20:].size
    np.testing.assert_allclose(share, 1 / (len(quantiles) + 1), atol=0.01)


def test_regimes_tell_a_wild_market_from_a_calm_one():
    train = random_market(seed=1, n_steps=1000)
    thresholds = returns.fit_volatility_thresholds(train, window=20)

    def moved(by):
        # moves of the mid, times `by`
        middle = np.asarray(train.double_mid)[..., None] // 2
        shift = ((by - 1) * (middle - middle[:1])).astype(np.int32)
        return train.replace(bid_price=train.bid_price + shift, ask_price=train.ask_price + shift)

    assert (np.asarray(returns.volatility_regime(moved(5.0), thresholds))[20:] == 2).mean() > 0.98
    assert (np.asarray(returns.volatility_regime(moved(0.0), thresholds))[20:] == 0).mean() > 0.9


def test_regimes_are_causal_and_middle_while_unknown():
    data = random_market(seed=2, n_steps=120, n_sessions=2)
    thresholds = returns.fit_volatility_thresholds(data, window=30)
    regime = returns.volatility_regime(data, thresholds)
    for start in (0, 60):
        np.testing.assert_array_equal(regime[start : start + returns.MINIMUM_COUNT], 1)
    jump = jnp.where(jnp.arange(120) >= 90, 5000, 0)[:, None, None]
    later = data.replace(bid_price=data.bid_price + jump, ask_price=data.ask_price + jump)
    np.testing.assert_array_equal(returns.volatility_regime(later, thresholds)[:90], regime[:90])


@pytest.mark.parametrize("quantiles", [(), (0.0,), (0.5, 0.5), (0.7, 0.2), (0.5, 1.0)])
def test_thresholds_refuse_quantiles_that_make_no_regimes(quantiles):
    with pytest.raises(InputError, match="quantiles"):
        returns.fit_volatility_thresholds(random_market(n_steps=30), quantiles)


def test_volume_is_compared_with_its_own_past_and_starts_again_with_a_session():
    volume = jnp.array([9, 1, 1, 1, 5, 100, 2, 2])
    age = jnp.array([0, 1, 2, 3, 4, 0, 1, 2])
    result = relative_volume(volume, age, 1, 4)
    np.testing.assert_allclose(result, [1, 1, 1, 1, 5 / 2, 1, 1, 1], rtol=1e-6)


def test_signed_flow_is_the_share_of_buyers_less_that_of_sellers():
    volume, net = jnp.array([8, 10, 0, 10, 0]), jnp.array([8, 10, 0, -5, 0])
    np.testing.assert_allclose(signed_flow(volume, net, jnp.arange(5), 3), [0, 1, 1, 0.25, -0.5], rtol=1e-6)
    np.testing.assert_array_equal(signed_flow(volume * 0, net * 0, jnp.arange(5), 3), 0.0)


def test_gradients_flow_through_returns_of_float_prices():
    gradient = jax.grad(lambda x: returns.rolling_volatility(x, jnp.arange(6), 3)[-1])(
        jnp.array([100.0, 100.0, 100.0, 101.0, 103.0, 102.0])
    )
    assert np.isfinite(gradient).all()
    np.testing.assert_array_equal(gradient[:2], 0.0)
    assert (np.abs(gradient[2:]) > 1e-4).all()
