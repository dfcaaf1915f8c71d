"""RSI, MACD and z-score against TA-Lib where conventions agree, and against what they mean."""

import jax.numpy as jnp
import numpy as np
import pytest

from marljax.features import classic
from tests.reference import features as oracle


def walk(n_steps: int, seed: int = 0, start: int = 20_000) -> tuple[np.ndarray, jnp.ndarray]:
    double_mid = start + np.random.default_rng(seed).integers(-5, 6, n_steps).cumsum()
    return double_mid, jnp.arange(n_steps, dtype=jnp.int32)


@pytest.mark.parametrize("period", [2, 14, 40])
def test_rsi_is_talibs(period):
    talib = pytest.importorskip("talib")
    double_mid, age = walk(500)
    expected = talib.RSI(double_mid / 2, timeperiod=period)
    np.testing.assert_allclose(classic.rsi(jnp.asarray(double_mid), age, period)[period:], expected[period:], atol=2e-3)


def test_macd_is_talibs_once_the_start_is_forgotten():
    talib = pytest.importorskip("talib")
    double_mid, age = walk(600)
    expected = talib.MACD(double_mid / 2, fastperiod=12, slowperiod=26, signalperiod=9)
    mid = double_mid / 2
    volatility = np.sqrt(oracle.step_mean(oracle.tick_changes(mid, np.asarray(age)) ** 2, np.asarray(age), 50))
    for ours, theirs in zip(classic.macd(jnp.asarray(double_mid), age, 12, 26, 9, 50), expected, strict=True):
        np.testing.assert_allclose((ours * volatility)[300:], theirs[300:], atol=1e-4)


@pytest.mark.parametrize(("steps", "expected"), [([1, 1, 1, 1], 100.0), ([-1, -1, -1, -1], 0.0), ([0, 0, 0, 0], 50.0)])
def test_rsi_of_a_straight_line(steps, expected):
    double_mid = jnp.asarray(100 + np.cumsum([0, *steps]))
    np.testing.assert_allclose(classic.rsi(double_mid, jnp.arange(5), 3)[1:], expected)


def test_a_new_session_starts_every_indicator_as_if_nothing_had_been_before():
    double_mid, age = walk(240)
    again = jnp.concatenate([age[:100], age[:140]])
    alone = jnp.asarray(double_mid[100:])
    both = jnp.asarray(double_mid)
    for indicator in (
        lambda x, a: classic.rsi(x, a, 14),
        lambda x, a: jnp.stack(classic.macd(x, a, 12, 26, 9, 50)),
        lambda x, a: classic.z_score(x, a, 30),
    ):
        np.testing.assert_allclose(indicator(both, again)[..., 100:], indicator(alone, age[:140]), rtol=1e-5, atol=1e-6)


def test_macd_and_z_score_keep_their_digits_at_prices_of_a_hundred_million_ticks():
    low, age = walk(400, start=2_000)
    high = low + 2**28
    for indicator in (lambda x: classic.macd(x, age, 12, 26, 9, 50)[0], lambda x: classic.z_score(x, age, 100)):
        np.testing.assert_array_equal(indicator(jnp.asarray(low)), indicator(jnp.asarray(high)))


def test_z_score_is_zero_where_the_mid_stands_still_and_bounded_by_its_window():
    double_mid = jnp.asarray(np.r_[np.full(50, 100), 100_000])
    score = classic.z_score(double_mid, jnp.arange(51), 20)
    np.testing.assert_array_equal(score[:50], 0.0)
    np.testing.assert_allclose(score[50], 19 / np.sqrt(19), rtol=1e-5)  # one outlier among n: (n - 1) / sqrt(n - 1)
