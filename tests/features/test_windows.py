"""Trailing statistics against loops, at the levels and lengths where float32 usually gives way."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marljax.features import windows
from tests.reference import features as oracle


def ages(*lengths: int) -> jax.Array:
    return jnp.concatenate([jnp.arange(n) for n in lengths]).astype(jnp.int32)


@pytest.mark.parametrize("seed", range(4))
def test_age_counts_from_the_first_row_of_a_session_or_its_first_observed_book(seed):
    rng = np.random.default_rng(seed)
    session = np.cumsum(rng.random(60) < 0.1)
    valid = rng.random(60) < 0.4
    age = windows.session_age(jnp.asarray(session), jnp.asarray(valid))
    np.testing.assert_array_equal(age, oracle.ages(session, valid))


def test_a_product_that_opens_late_is_as_old_as_its_first_observation():
    session = jnp.array([0, 0, 0, 1, 1, 1, 1, 1])
    valid = jnp.array([True, True, True, False, False, True, False, True])
    # rows 3 and 4 repeat yesterday's book; the step onto row 5 is the overnight gap
    np.testing.assert_array_equal(windows.session_age(session, valid), [0, 1, 2, 0, 0, 0, 1, 2])


@pytest.mark.parametrize("window", [1, 2, 3, 7, 8, 31, 100])
def test_rolling_sums_add_whole_numbers_exactly_within_a_session(window):
    age = ages(45, 3, 1, 60)
    x = np.random.default_rng(window).integers(-50, 50, (len(age), 2))
    expected = np.stack([[w.sum() for w in oracle.row_windows(c, np.asarray(age), window)] for c in x.T], axis=-1)
    np.testing.assert_array_equal(windows.rolling_sum(jnp.asarray(x), age, window), expected)


def test_rolling_sums_do_not_drown_in_what_came_before_them():
    x = jnp.where(jnp.arange(20_000) < 10_000, 1e6, 1e-3)
    total = windows.rolling_sum(x, ages(20_000), 50)
    np.testing.assert_allclose(total[-1], 50e-3, rtol=1e-6)


@pytest.mark.parametrize("level", [0, 10**6, 2**28])
def test_rolling_deviation_is_exact_at_any_level(level):
    age = ages(80, 40)
    x = level + np.random.default_rng(0).integers(-3, 4, len(age)).cumsum()
    deviation, variance = windows.rolling_deviation(jnp.asarray(x), age, 30)
    rows = oracle.row_windows(x - level, np.asarray(age), 30)
    np.testing.assert_allclose(deviation, [w[-1] - w.mean() for w in rows], atol=1e-5)
    np.testing.assert_allclose(variance, [w.var() for w in rows], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("n_steps", [1, 2, 5, 64, 1000])
def test_linear_recurrence_is_the_recurrence(n_steps):
    rng = np.random.default_rng(n_steps)
    decay, drive = rng.uniform(0, 1, n_steps), rng.normal(size=n_steps)
    decay[rng.random(n_steps) < 0.05] = 0.0
    decay[0] = 0.0
    expected, h = [], 0.0
    for a, b in zip(decay, drive, strict=True):
        h = a * h + b
        expected.append(h)
    got = windows.linear_recurrence(jnp.asarray(decay, jnp.float32), jnp.asarray(drive, jnp.float32))
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_ratio_and_root_have_finite_gradients_at_zero():
    assert jax.grad(lambda d: windows.ratio(jnp.float32(1.0), d))(0.0) == 0.0
    assert jax.grad(windows.root)(0.0) == 0.0
    np.testing.assert_allclose(jax.grad(windows.root)(4.0), 0.25)
