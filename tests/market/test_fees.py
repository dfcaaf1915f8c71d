"""Fees and rebates against bills worked out by hand."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marljax.lob.tally import Tally
from marljax.lob.types import Turnover
from marljax.market.fees import FeeSchedule, fee, fee_schedule, taker_fee, turnover_fee

SCHEDULE = fee_schedule(taker_rate=3e-4, maker_rate=-1e-4, taker_per_lot=0.02, maker_per_lot=-0.005)


def turnover(lots: list, value: list) -> Turnover:
    """[role][side][owner]: resting then incoming, bought then sold."""
    array = jnp.array(value, jnp.int32)
    return Turnover(lots=jnp.array(lots, jnp.int32), value=Tally.zero(array.shape).plus(array))


def test_a_taker_pays_and_a_maker_is_paid():
    np.testing.assert_allclose(fee(SCHEDULE, 0, 0.0, 10, 20_000.0), 6.0 + 0.2, rtol=1e-6)
    np.testing.assert_allclose(fee(SCHEDULE, 10, 20_000.0, 0, 0.0), -2.0 - 0.05, rtol=1e-6)
    np.testing.assert_allclose(fee(SCHEDULE, 10, 20_000.0, 10, 20_000.0), 4.15, rtol=1e-6)


def test_every_part_of_the_schedule_acts_alone():
    for name, expected in {"taker_rate": 50.0, "maker_rate": 30.0, "taker_per_lot": 5.0, "maker_per_lot": 3.0}.items():
        np.testing.assert_allclose(fee(fee_schedule(**{name: 1.0}), 3, 30.0, 5, 50.0), expected)


def test_nothing_traded_costs_nothing():
    assert fee(SCHEDULE, 0, 0.0, 0, 0.0) == 0


def test_a_taker_alone_pays_the_taker_fee():
    np.testing.assert_allclose(fee(SCHEDULE, 0, 0.0, 7, 123.0), taker_fee(7, 123.0, 3e-4, 0.02), rtol=1e-6)


def test_a_negative_price_does_not_turn_a_fee_into_a_rebate():
    np.testing.assert_allclose(fee(SCHEDULE, 0, 0.0, 10, -20_000.0), 6.2, rtol=1e-6)


def test_an_owners_bill_counts_both_sides_of_both_roles():
    # Owner 0 rests and buys 4 at 100, owner 1 sells into it and buys 2 at 110, which owner 0 sold resting.
    block = turnover(
        [[[4, 0], [2, 0]], [[0, 2], [0, 4]]],
        [[[400, 0], [220, 0]], [[0, 220], [0, 400]]],
    )
    bill = jax.jit(turnover_fee)(SCHEDULE, block, jnp.float32(0.5))
    np.testing.assert_allclose(bill, [-1e-4 * 310 - 0.005 * 6, 3e-4 * 310 + 0.02 * 6], rtol=1e-5)
    np.testing.assert_allclose(bill.sum(), 2e-4 * 310 + 0.015 * 6, rtol=1e-5)


def test_owners_may_have_terms_of_their_own():
    terms = jax.tree.map(lambda *leaves: jnp.stack(leaves), fee_schedule(), SCHEDULE)
    block = turnover([[[0, 0], [0, 0]], [[5, 5], [0, 0]]], [[[0, 0], [0, 0]], [[500, 500], [0, 0]]])
    np.testing.assert_allclose(turnover_fee(terms, block, 1.0), [0.0, 0.15 + 0.1], rtol=1e-6)


@pytest.mark.parametrize(
    ("terms", "words"),
    [
        ({"taker_rate": float("nan")}, r"FeeSchedule\.taker_rate .*got nan"),
        ({"taker_rate": 3.0}, r"FeeSchedule\.taker_rate .*got 3\.0"),
        ({"maker_per_lot": float("inf")}, r"FeeSchedule\.maker_per_lot .*got inf"),
        ({"taker_rate": 1e-4, "maker_rate": -2e-4}, r"FeeSchedule\.maker_rate .*got -0\.0002"),
        ({"taker_per_lot": 0.1, "maker_per_lot": -0.2}, r"FeeSchedule\.maker_per_lot .*got -0\.2"),
    ],
)
def test_impossible_terms_are_refused_by_field_and_value(terms, words):
    with pytest.raises(ValueError, match=words):
        fee_schedule(**terms)


def test_schedules_are_numbers_that_can_be_swept():
    chex.clear_trace_counter()
    swept = jax.jit(jax.vmap(chex.assert_max_traces(fee, n=1), (0, None, None, None, None)))
    rates = FeeSchedule(jnp.array([0.0, 1e-4]), jnp.zeros(2), jnp.zeros(2), jnp.zeros(2))
    np.testing.assert_allclose(swept(rates, 0, 0.0, 1, 1e4), [0.0, 1.0], rtol=1e-6)
    np.testing.assert_allclose(swept(rates, 0, 0.0, 1, 2e4), [0.0, 2.0], rtol=1e-6)
