"""Queue positions against numbers worked out by hand, against a plain book, and against what always holds."""

import itertools
import zipfile
from pathlib import Path

import chex
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from hypothesis import given

from marljax.data.schema import MarketData
from marljax.market.queueing import (
    FRONT_OF_QUEUE,
    PESSIMISTIC,
    PROPORTIONAL,
    UNSEEN,
    Level,
    Order,
    advance,
    level,
    place,
    quote_tape,
    rest,
)
from tests.reference.books import random_market
from tests.reference.queueing import calm_market, rows_of

GOOG = Path(__file__).parents[3] / "shared" / "data" / "lobster" / "LOBSTER_SampleFile_GOOG_2012-06-21_10.zip"
REACH = 12
MODELS = [PESSIMISTIC, 0.3, PROPORTIONAL, 3.0, FRONT_OF_QUEUE]


def shown(there: int, better: int = 0, seen: bool = True) -> Level:
    return Level(jnp.int32(better), jnp.int32(there), jnp.array(seen))


def order(remaining: int = 5, ahead: float = 40.0, price: int = 99) -> Order:
    return Order(jnp.int32(price), jnp.int32(remaining), jnp.float32(ahead))


def moved(hazard: float, before: Level, after: Level, volume: int, through: int = 0, **changes) -> tuple[float, ...]:
    """(lots filled, lots left, lots ahead) after one row."""
    after_it, filled = advance(
        order(**changes), before, after, jnp.int32(through), jnp.int32(volume), jnp.float32(hazard)
    )
    return int(filled), int(after_it.remaining), float(after_it.ahead)


def side_tape(data: MarketData, reach: int = REACH):
    return jax.tree.map(lambda x: x[:, 0], quote_tape(data, reach))


@pytest.mark.parametrize(("hazard", "ahead"), [(0.0, 30.0), (0.5, 25.0), (1.0, 20.0), (2.0, 10.0), (9.0, 0.0)])
def test_of_thirty_cancelled_lots_as_many_stood_ahead_as_the_hazard_says(hazard, ahead):
    # 100 stand, 40 of them ahead; 10 trade, so 90 are left of which 30 ahead; 30 of the 90 are cancelled.
    assert moved(hazard, shown(100), shown(60), volume=10) == (0, 5, ahead)


@pytest.mark.parametrize("hazard", [0.0, 1.0])
def test_no_more_can_stand_ahead_than_is_displayed(hazard):
    filled, left, ahead = moved(hazard, shown(50), shown(8), volume=0)
    assert (filled, left) == (0, 5)
    assert ahead == pytest.approx({0.0: 8.0, 1.0: 6.4}[hazard])


def test_what_joins_stands_behind():
    for hazard in MODELS:
        assert moved(hazard, shown(50), shown(500), volume=0) == (0, 5, 40.0)


def test_volume_takes_better_prices_then_the_queue_then_the_order():
    assert moved(0.0, shown(50, better=20), shown(50), volume=60) == (0, 5, 0.0)
    assert moved(0.0, shown(50, better=20), shown(50), volume=63) == (3, 2, 0.0)
    assert moved(0.0, shown(50, better=20), shown(50), volume=1000) == (5, 0, 0.0)


def test_volume_has_not_come_to_a_price_behind_which_the_next_row_shows_a_better_one():
    assert moved(0.0, shown(50, better=20), shown(50, better=1), volume=1000) == (0, 5, 40.0)


def test_a_fraction_of_a_lot_ahead_is_a_lot_that_does_not_reach_the_order():
    assert moved(1.0, shown(50), shown(50), volume=42, ahead=40.5)[0] == 1


def test_a_market_that_trades_through_fills_what_it_brings_and_the_rest_is_cancelled():
    assert moved(0.0, shown(50), shown(0), volume=0, through=3) == (3, 0, 0.0)
    assert moved(0.0, shown(50), shown(0), volume=0, through=UNSEEN) == (5, 0, 0.0)
    assert moved(0.0, shown(50), shown(0), volume=2**31 - 1, through=UNSEEN) == (5, 0, 0.0)


def test_out_of_sight_nothing_fills_and_the_queue_is_counted_when_it_shows():
    for hazard in MODELS:
        far = place(order(remaining=0), jnp.int32(7), jnp.int32(5), shown(0, seen=False), jnp.int32(-200), hazard)
        if hazard != FRONT_OF_QUEUE:
            assert float(far.ahead) == 2.0**31
        after, filled = advance(far, shown(0, seen=False), shown(12), jnp.int32(0), jnp.int32(2**30), hazard)
        assert int(filled) == 0
        assert float(after.ahead) == (0.0 if hazard == FRONT_OF_QUEUE else 12.0)


def placed(price: int, size: int, across: int = -103, **changes) -> tuple[int, float]:
    """(lots, lots ahead) of a bid that arrives where 70 lots are displayed, the best ask at 103."""
    after = place(order(**changes), jnp.int32(price), jnp.int32(size), shown(70), jnp.int32(across), jnp.float32(1.0))
    assert int(after.price) == price
    return int(after.remaining), float(after.ahead)


def test_an_unchanged_price_keeps_the_place_and_is_never_topped_up():
    assert placed(99, 5) == (5, 40.0)
    assert placed(99, 3) == (3, 40.0)
    assert placed(99, 50) == (5, 40.0)
    assert placed(99, 0)[0] == 0


def test_a_new_price_and_an_empty_place_join_at_the_back():
    assert placed(100, 4) == (4, 70.0)
    assert placed(99, 4, remaining=0) == (4, 70.0)


def test_a_quote_that_would_trade_on_arrival_is_refused_and_the_old_order_gone():
    assert placed(102, 4)[0] == 4
    assert placed(103, 4)[0] == 0
    assert placed(110, 4)[0] == 0


@given(st.integers(0, 10_000), st.integers(1, 8), st.integers(1, REACH))
def test_the_tape_shows_at_every_price_what_the_book_does(seed, levels, reach):
    data = random_market(seed, n_steps=3, n_products=1, n_levels=levels, absent=0.3)
    tape, rows = side_tape(data, reach), rows_of(data)
    prices = np.arange(-30, 31) + int(data.bid_price[0, 0, 0])
    for t, row in enumerate(rows):
        for side, name in enumerate(("bid", "ask")):
            found = jax.vmap(lambda p, t=t, side=side: level(tape, t, side, p))(jnp.asarray(prices * (1 - 2 * side)))
            seen = [row.in_sight(name, int(p), reach) for p in prices]
            assert np.asarray(found.seen).tolist() == seen
            there = [row.size_at(name, int(p)) if s else None for p, s in zip(prices, seen, strict=True)]
            assert [int(n) if s else None for n, s in zip(found.there, seen, strict=True)] == there
            better = [row.size_before(name, int(p)) if s else None for p, s in zip(prices, seen, strict=True)]
            assert [int(n) if s else None for n, s in zip(found.better, seen, strict=True)] == better


def test_trades_are_split_by_their_taker_and_those_of_unobserved_rows_left_out():
    data = random_market(1, n_steps=4, n_products=1).replace(
        trade_volume=jnp.array([[10], [7], [2**31 - 1], [9]], jnp.int32),
        trade_imbalance=jnp.array([[4], [-2], [-(2**31 - 1)], [9]], jnp.int32),
        valid=jnp.array([[True], [True], [True], [False]]),
    )
    assert side_tape(data).flow.tolist() == [[3, 7], [4, 2], [2**31 - 1, 0], [0, 0]]


N_STEPS = 120


@jax.jit
@chex.assert_max_traces(n=1)
def walk(tape, behind, size, late, side):
    """Lots filled in every step under each model, int32[H, T]: one order, re-quoted `behind` ticks from the touch."""
    limit, hazards = jnp.int32(1000), jnp.asarray(MODELS, jnp.float32)

    def run(hazard):
        def step(held, x):
            time, behind, size, late = x
            market = {"tape": tape, "time": time, "side": side, "limit": limit, "hazard": hazard}
            held, filled, _ = rest(held, tape.touch[time, side] - behind, size, late, jnp.int32(0), **market)
            return held, filled

        return jax.lax.scan(step, Order.none(), (jnp.arange(N_STEPS - 1), behind, size, late))[1]

    return jax.vmap(run)(hazards)


def quotes(seed: int, size: int, requote: float):
    rng = np.random.default_rng(seed)
    again = rng.random(N_STEPS - 1) < requote
    behind = rng.integers(-1, 4, N_STEPS - 1)[np.maximum.accumulate(np.where(again, np.arange(N_STEPS - 1), 0))]
    late = rng.random(N_STEPS - 1) < 0.3
    return jnp.asarray(behind, jnp.int32), jnp.full(N_STEPS - 1, size, jnp.int32), jnp.asarray(late)


@given(st.integers(0, 10_000), st.integers(1, 40), st.sampled_from([0.0, 0.1, 1.0]), st.sampled_from([0, 1]))
def test_a_larger_hazard_has_never_filled_less_by_any_row(seed, size, requote, side):
    tape = side_tape(calm_market(seed, N_STEPS))
    filled = walk(tape, *quotes(seed, size, requote), side)
    cumulative = np.cumsum(filled, axis=1)
    assert (np.diff(cumulative, axis=0) >= 0).all()


def test_the_bounds_lie_apart_and_the_proportional_model_between_them():
    totals = np.zeros(len(MODELS))
    for seed in range(20):
        behind, size, late = quotes(seed, 5, 0.0)
        totals += np.asarray(walk(side_tape(calm_market(seed, N_STEPS, (80, 160), 20)), 0 * behind, size, late, 0)).sum(
            axis=1
        )
    pessimistic, _, proportional, _, front = totals
    assert pessimistic > 100
    assert proportional > 1.2 * pessimistic
    assert front > 1.5 * proportional


@given(st.integers(0, 10_000), st.integers(1, 40), st.sampled_from([0, 1]))
def test_nothing_fills_that_nobody_took_or_offered(seed, size, side):
    data = calm_market(seed, N_STEPS)
    tape, rows = side_tape(data), rows_of(data)
    behind, sizes, late = quotes(seed, size, 0.3)
    filled = np.asarray(walk(tape, behind, sizes, late, side))
    for t in range(N_STEPS - 1):
        after = rows[t + 1]
        flow = after.sold if side == 0 else after.bought
        # A quote is at most one tick better than the touch of the row before or, late, of the one before that.
        best = max(int(tape.touch[s, side]) for s in range(max(t - 1, 0), t + 1)) + 1
        brought = after.meets("bid" if side == 0 else "ask", best * (1 - 2 * side))
        assert (filled[:, t] <= min(flow + brought, size)).all()


def test_a_quote_away_from_the_market_never_fills():
    # The levels before it hold more than is taken at once, and far away nothing is shown at all.
    for behind in (3, 60):
        for seed in range(5):
            tape = side_tape(calm_market(seed, N_STEPS, (80, 160), 20))
            filled = walk(tape, jnp.full(N_STEPS - 1, behind, jnp.int32), *quotes(seed, 5, 0.0)[1:], 0)
            assert not jnp.any(filled)


def test_the_limit_holds_where_the_quote_arrives():
    tape = side_tape(calm_market(1, N_STEPS))
    quiet = tape.replace(flow=0 * tape.flow)
    market = {"tape": quiet, "time": jnp.int32(0), "side": jnp.int32(0), "limit": jnp.int32(100)}
    for late in (False, True):
        held, filled, _ = rest(
            Order.none(), quiet.touch[0, 0] - 2, jnp.int32(50), jnp.array(late), jnp.int32(93), **market, hazard=1.0
        )
        assert (int(held.remaining), int(filled)) == (7, 0)


@pytest.mark.nightly
@pytest.mark.skipif(not GOOG.exists(), reason="the real data are not beside the repository")
def test_volume_let_through_on_real_books_is_near_what_was_executed_there():
    with zipfile.ZipFile(GOOG) as files:
        names = sorted(files.namelist())
        message, book = (
            pd.read_csv(files.open(next(n for n in names if kind in n)), header=None).to_numpy()
            for kind in ("message", "orderbook")
        )
    second = np.ceil(message[:, 0]).astype(int)
    ends = np.flatnonzero(np.diff(second, append=second[-1] + 1))
    let_through, executed, unconditional = np.zeros((3, 3))
    for first, last in itertools.pairwise(ends):
        if second[last] != second[first] + 1:
            continue
        within = message[first + 1 : last + 1]
        within = within[within[:, 1] == 4]
        for direction, price, size in ((1, 2, 3), (-1, 0, 1)):
            hit = within[within[:, 5] == direction]
            there, after = direction * hit[:, 4], direction * book[last, price::4]
            for k, at in enumerate(direction * book[first, price::4][:3]):
                left = max(hit[:, 3].sum() - book[first, size::4][:k].sum(), 0)
                unconditional[k] += left
                let_through[k] += left * (after.max() <= at)
                executed[k] += hit[there <= at, 3].sum()
    np.testing.assert_allclose(let_through / executed, [1.12, 1.17, 1.17], atol=0.01)
    np.testing.assert_allclose(unconditional / executed, [1.22, 1.49, 1.72], atol=0.01)
