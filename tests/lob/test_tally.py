"""Money is counted exactly, far beyond 32 bits."""

import chex
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given

from marljax.lob.tally import LARGEST_STEP, LOW_BITS, Tally

amounts = st.lists(st.integers(1 - LARGEST_STEP, LARGEST_STEP - 1), min_size=1, max_size=8)


def whole(tally: Tally) -> int:
    return int(tally.high) * 2**LOW_BITS + int(tally.low)


def of(number: int) -> Tally:
    return Tally(jnp.int32(number >> LOW_BITS), jnp.int32(number & (2**LOW_BITS - 1)))


@given(amounts)
def test_a_sum_of_steps_is_exact_and_its_low_word_stays_in_its_range(steps):
    tally = Tally.zero()
    for step in steps:
        tally = tally.plus(jnp.int32(step))
        assert 0 <= int(tally.low) < 2**LOW_BITS
    assert whole(tally) == sum(steps)


@given(st.integers(-(2**53), 2**53), st.integers(-(2**53), 2**53))
def test_sums_and_differences_of_tallies_are_exact(a, b):
    assert whole(of(a).add(of(b))) == a + b
    assert whole(of(a).minus(of(b))) == a - b


@given(st.integers(-(2**54), 2**54))
def test_the_value_is_the_number_rounded_to_single_precision(number):
    np.testing.assert_allclose(float(of(number).value()), number, rtol=2**-23)


def test_a_zero_has_the_asked_shape_and_whole_numbers():
    chex.assert_trees_all_equal(Tally.zero((2, 3)), Tally(*[jnp.zeros((2, 3), jnp.int32)] * 2))


def test_a_tally_counts_a_day_of_the_largest_trades_inside_a_scan():
    step = jnp.full(10_000, LARGEST_STEP - 1)
    total, _ = jax.lax.scan(lambda tally, amount: (tally.plus(amount), None), Tally.zero(), step)
    assert whole(total) == 10_000 * (LARGEST_STEP - 1)
