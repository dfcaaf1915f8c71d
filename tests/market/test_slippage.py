"""The slippage model against a plain cash account, and its single parts against numbers worked out by hand."""

import chex
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

from marljax.data.schema import InputError, MarketData
from marljax.envs.tapes import CostConfig, check_countable, cost_models, tape
from marljax.lob.tally import Tally
from marljax.market.impact import square_root_impact
from marljax.market.ladder import ladders, walk
from marljax.market.latency import arrives_late
from marljax.market.slippage import Account, trade
from tests.reference.books import random_market
from tests.reference.trading import Book, CashAccount, Costs


def book(data: MarketData, t: int, p: int) -> Book:
    def side(price: jax.Array, size: jax.Array) -> list[tuple[int, int]]:
        return [(int(x), int(n)) for x, n in zip(price[t, p], size[t, p], strict=True)]

    return Book(side(data.bid_price, data.bid_size), side(data.ask_price, data.ask_size), bool(data.valid[t, p]))


@given(st.integers(0, 10_000), st.integers(0, 250), st.booleans(), st.integers(1, 10))
def test_walking_the_ladder_costs_what_taking_level_by_level_costs(seed, quantity, buy, levels):
    data = random_market(seed, n_steps=1, n_products=1, n_levels=levels)
    row = ladders(data)[0, 0, 0 if buy else 1]
    filled, cost = walk(row, jnp.int32(quantity))
    left, paid, reference = quantity, 0, book(data, 0, 0)
    for price, size in reference.asks if buy else reference.bids:
        paid += min(left, size) * (2 * price - reference.double_mid) * (1 if buy else -1)
        left -= min(left, size)
    assert (int(filled), int(cost)) == (quantity - left, paid)


def test_an_unobserved_row_cannot_be_traded():
    data = random_market(invalid=1.0, n_steps=4)
    filled, cost = walk(ladders(data)[0, 0, 0], jnp.int32(5))
    assert (int(filled), int(cost)) == (0, 0)


@pytest.mark.parametrize("latency", [0.0, 1e6])
def test_the_itemised_account_equals_cash_plus_position_at_mark_on_every_row(latency):
    data = random_market(3, n_steps=400, n_products=2, invalid=0.1)
    config = CostConfig(fee_rate=2e-4, fee_per_lot=0.01, impact=0.3, latency_floor=latency, latency_mean=0.0)
    models, tapes = cost_models(data, config), tape(data)
    targets = np.random.default_rng(0).integers(-120, 121, (400, 2))
    step = jax.jit(trade)
    for p in range(2):
        product_tape = jax.tree.map(lambda x, p=p: x[:, p], tapes)
        model = jax.tree.map(lambda x, p=p: x[p], models)
        costs = Costs(*(float(x) for x in jax.tree.leaves(model)[:6]))
        account, cash, previous = Account.open(), CashAccount(), 0.0
        for t in range(399):
            key = jax.random.fold_in(jax.random.key(1), t)
            account, earned = step(key, account, jnp.int32(targets[t, p]), product_tape, jnp.int32(t), model)
            cash.trade(int(targets[t, p]), book(data, t, p), book(data, t + (latency > 0), p), costs)
            net = cash.net(book(data, t + 1, p), costs)
            assert int(account.position) == cash.position
            assert float(account.net(model.tick_value)) == pytest.approx(net, abs=0.02, rel=2e-6)
            assert float(earned) == pytest.approx(net - previous, abs=0.02, rel=1e-4)
            previous = net


def test_costs_are_itemised_and_sum_to_gross_less_net():
    data = random_market(5, n_steps=100, n_products=1)
    model = jax.tree.map(lambda x: x[0], cost_models(data, CostConfig(latency_mean=2.0)))
    product_tape = jax.tree.map(lambda x: x[:, 0], tape(data))
    account, total = Account.open(), 0.0
    for t in range(99):
        target = jnp.int32((-1) ** t * 40)
        account, earned = trade(jax.random.key(t), account, target, product_tape, jnp.int32(t), model)
        total += float(earned)
    half_tick = 0.5 * float(model.tick_value)
    assert int(account.slippage.value()) > 0
    assert float(account.fees) > 0
    assert float(account.impact) > 0
    assert int(account.latency.value()) != 0
    paid = int(account.slippage.value() + account.latency.value())
    items = half_tick * paid + float(account.impact + account.fees)
    assert half_tick * int(account.gross.value()) - items == pytest.approx(total, rel=1e-5)


def test_holding_costs_nothing_and_earns_only_the_mark():
    data = random_market(7, n_steps=50, n_products=1)
    model = jax.tree.map(lambda x: x[0], cost_models(data, CostConfig(latency_mean=5.0)))
    product_tape = jax.tree.map(lambda x: x[:, 0], tape(data))
    held = Account.open().replace(position=jnp.int32(-7))
    account, earned = trade(jax.random.key(0), held, jnp.int32(-7), product_tape, jnp.int32(10), model)
    move = 0.5 * float(data.double_mid[11, 0] - data.double_mid[10, 0]) * float(model.tick_value)
    assert float(earned) == -7 * move
    chex.assert_trees_all_equal(account, held.replace(gross=account.gross))


def test_a_flat_account_that_does_not_trade_earns_nothing_on_any_row():
    data = random_market(8, n_steps=50, n_products=1)
    model = jax.tree.map(lambda x: x[0], cost_models(data, CostConfig()))
    product_tape = jax.tree.map(lambda x: x[:, 0], tape(data))
    times = jnp.arange(49)
    accounts, earned = jax.vmap(
        lambda t: trade(jax.random.key(0), Account.open(), jnp.int32(0), product_tape, t, model)
    )(times)
    assert not jnp.any(earned)
    assert not any(jnp.any(x) for x in jax.tree.leaves(accounts))


def test_impact_follows_the_square_root_law():
    small = square_root_impact(jnp.int32(25), 0.5, 2.0, 100.0)
    large = square_root_impact(jnp.int32(100), 0.5, 2.0, 100.0)
    assert float(small) == pytest.approx(0.5 * 2.0 * 25 * 0.5)
    assert float(large) == pytest.approx(8 * float(small))


def test_the_probability_of_a_late_fill_is_that_of_the_stated_race():
    mean, step = 0.4, 1.0
    uniforms = jax.random.uniform(jax.random.key(0), (200_000, 2))
    late = jax.vmap(lambda u: arrives_late(u, 0.0, mean, step))(uniforms)
    expected = mean / step * (1 - np.exp(-step / mean))
    assert float(late.mean()) == pytest.approx(expected, abs=4 * np.sqrt(expected * (1 - expected) / 200_000))
    assert not jnp.any(jax.vmap(lambda u: arrives_late(u, 0.0, 0.0, step))(uniforms))


def test_estimates_come_from_within_sessions_only():
    calm = random_market(1, n_steps=200, n_sessions=2)
    jumped = calm.replace(bid_price=calm.bid_price.at[100:].add(50_000), ask_price=calm.ask_price.at[100:].add(50_000))
    chex.assert_trees_all_close(
        cost_models(calm, CostConfig()).volatility, cost_models(jumped, CostConfig()).volatility
    )


@given(st.lists(st.integers(-(2**30) + 1, 2**30 - 1), min_size=1, max_size=200))
def test_a_tally_is_exact_far_beyond_32_bits(amounts):
    tally = Tally.zero()
    for amount in amounts:
        tally = tally.plus(jnp.int32(amount))
    assert int(tally.high) * 2**24 + int(tally.low) == sum(amounts)
    assert 0 <= int(tally.low) < 2**24
    assert float(tally.value()) == pytest.approx(sum(amounts), rel=1e-6)
    near = tally.plus(jnp.int32(7)).plus(jnp.int32(-12))
    assert float(near.minus(tally).value()) == -5.0, "a small difference of large numbers loses nothing"


def test_money_stays_exact_where_a_plain_count_would_have_overflowed():
    data = random_market(9, n_steps=400, n_products=1, start=6_000_000)
    drift = (500 * jnp.arange(400))[:, None, None]
    data = data.replace(bid_price=data.bid_price + drift, ask_price=data.ask_price + drift)
    model = jax.tree.map(lambda x: x[0], cost_models(data, CostConfig()))
    product_tape = jax.tree.map(lambda x: x[:, 0], tape(data))
    held = Account.open().replace(position=jnp.int32(100_000))

    def step(account, time):
        return trade(jax.random.key(0), account, jnp.int32(100_000), product_tape, time, model)

    account, _ = jax.lax.scan(step, held, jnp.arange(399))
    moved = int(data.double_mid[399, 0]) - int(data.double_mid[0, 0])
    assert 100_000 * moved > 2**32
    assert int(account.gross.high) * 2**24 + int(account.gross.low) == 100_000 * moved


def test_an_order_at_a_sessions_end_never_meets_the_next_sessions_book():
    data = random_market(3, n_steps=40, n_sessions=2, n_products=1)
    slow = jax.tree.map(lambda x: x[0], cost_models(data, CostConfig(latency_floor=1e6)))
    product_tape = jax.tree.map(lambda x: x[:, 0], tape(data))
    for time, met in ((18, 19), (19, 19)):
        account, _ = trade(jax.random.key(0), Account.open(), jnp.int32(3), product_tape, jnp.int32(time), slow)
        expected = walk(product_tape.ladder[met, 0], jnp.int32(3))[1]
        assert int(account.slippage.value()) == int(expected)


def test_positions_that_no_account_could_count_are_refused():
    data = random_market(n_steps=20, n_products=1)
    check_countable(data, np.array([1e6]))
    with pytest.raises(InputError, match=r"'P0'.*larger lot_size"):
        check_countable(data, np.array([1e9]))
