"""What each role sees, asks for and is paid, apart from any book; and what becomes of instructions on arrival."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marljax.data.schema import InputError
from marljax.envs import orders
from marljax.envs.orders import Arrival, Standing
from marljax.envs.roles import ROLES, directional, execution, market_maker
from marljax.envs.roles.directional import DirectionalParams
from marljax.envs.roles.execution import ExecutionParams, Parent
from marljax.envs.roles.market_maker import MarketMakerParams
from marljax.envs.roles.role import MARKET, Market, Own, Scales, agents, entries, placed, see_market
from marljax.envs.signal import Signal, advance, lean
from marljax.lob.flows.flow import filled
from marljax.lob.matching import process
from marljax.lob.messages import limit, market, stack
from marljax.lob.stress import calm
from marljax.lob.types import BUY, SELL, BookConfig, Kind

KEY = jax.random.key(0)


def world(bid: int = 99, ask: int = 103, **changes) -> Market:
    fields = {
        "bid": jnp.int32(bid),
        "ask": jnp.int32(ask),
        "bid_size": jnp.array([30, 20, 0], jnp.int32),
        "ask_size": jnp.array([10, 40, 5], jnp.int32),
        "bid_depth": jnp.int32(2),
        "ask_depth": jnp.int32(6),
        "mark": jnp.int32(bid + ask),
        "move": jnp.int32(3),
        "pressure": jnp.float32(0.25),
        "variance": jnp.float32(4.0),
        "halted": jnp.float32(0.0),
        "signal": jnp.float32(1.5),
        "left": jnp.float32(0.75),
        "tick_value": jnp.float32(0.01),
        "scales": Scales(jnp.float32(2.0), jnp.float32(10.0), jnp.float32(4.0)),
    }
    return Market(**fields | changes)


def self_with(position: int = 0, price=(0, 0), remaining=(0, 0), ahead=(0, 0), waiting=(False, False)) -> Own:
    slot = jnp.where(jnp.array(remaining) > 0, 0, -1)
    standing = Standing(*(jnp.array(x, jnp.int32) for x in (price, remaining, ahead)), slot)
    return Own(jnp.int32(position), standing, jnp.array(waiting))


def asked(role, action, own: Own, memory, params, at: Market | None = None):
    """(prices, sizes) of the bid and the ask."""
    quotes = role.quotes(jnp.array(action, jnp.float32), at or world(), own, memory, params)
    return quotes.price.tolist(), quotes.size.tolist()


def test_every_role_names_its_entries():
    memories = {"market_maker": (), "directional": jnp.float32(0.0), "execution": parent()}
    for name, role in ROLES.items():
        obs = role.observe(world(), self_with(), memories[name], role.Params())
        assert obs.shape == (len(role.OBSERVATION),)
        assert len(set(role.OBSERVATION)) == len(role.OBSERVATION)


def test_a_seller_sees_the_market_mirrored():
    buyer = dict(zip(MARKET, see_market(world(), BUY), strict=True))
    seller = dict(zip(MARKET, see_market(world(), SELL), strict=True))
    for name in ("imbalance", "move", "pressure"):
        assert float(buyer[name]) == -float(seller[name]) != 0
    for number in (1, 2, 3):
        assert float(buyer[f"own_size_{number}"]) == float(seller[f"other_size_{number}"])
    assert (float(buyer["own_depth"]), float(buyer["other_depth"])) == (1.0, 3.0)
    assert (float(seller["own_depth"]), float(seller["other_depth"])) == (3.0, 1.0)
    for name in ("spread", "volatility", "halted", "left"):
        assert float(buyer[name]) == float(seller[name])
    np.testing.assert_allclose(
        [buyer[x] for x in ("spread", "imbalance", "move", "volatility")], [2.0, 0.5, 0.75, 0.5], rtol=1e-6
    )


MAKER = MarketMakerParams(nearest=1.0, furthest=5.0, skew=4.0, largest=10, max_position=20)


@pytest.mark.parametrize(
    ("action", "price", "size"),
    [
        ((-1, 0, 1, 1), [100, 102], [10, 10]),
        ((1, 0, 1, 0), [96, 106], [10, 5]),
        ((-1, 0.5, 1, 1), [102, 104], [10, 10]),
        ((-1, -1, 1, 1), [96, 98], [10, 10]),
        ((-0.8, 0, 1, -1), [99, 103], [10, 0]),
        ((-9, 9, 9, 9), [104, 106], [10, 10]),
    ],
)
def test_a_maker_quotes_around_the_mid_by_width_and_skew(action, price, size):
    assert asked(market_maker, action, self_with(), (), MAKER) == (price, size)


def test_a_maker_never_meets_itself_and_keeps_its_position_limit():
    tight = dataclasses.replace(MAKER, nearest=0.0)
    (bid, ask), _ = asked(market_maker, (-1, 0, 1, 1), self_with(), (), tight)
    assert bid < ask
    _, size = asked(market_maker, (0, 0, 1, 1), self_with(position=17), (), MAKER)
    assert size == [3, 10]
    _, size = asked(market_maker, (0, 0, 1, 1), self_with(position=-25), (), MAKER)
    assert size == [10, 0]


def test_a_maker_sees_its_inventory_and_its_place_in_the_queues():
    own = self_with(position=-5, price=(97, 103), remaining=(5, 10), ahead=(15, 0), waiting=(True, False))
    seen = entries(market_maker.OBSERVATION, market_maker.observe(world(), own, (), MAKER))
    expected = {
        "inventory": -0.25,
        "bid_behind": 1.0,
        "bid_size": 0.5,
        "bid_share": 0.25,
        "bid_waiting": 1.0,
        "ask_behind": 0.0,
        "ask_size": 1.0,
        "ask_share": 1.0,
        "ask_waiting": 0.0,
    }
    assert {name: float(seen[name]) for name in expected} == pytest.approx(expected)


@pytest.mark.parametrize("role", [market_maker, directional])
def test_aversion_charges_the_squared_position(role):
    params = dataclasses.replace(role.Params(), aversion=0.5)
    memory = role.start(KEY, world(), params)
    _, reward = role.settle(KEY, jnp.float32(7.0), world(), self_with(position=-3), memory, params)
    assert float(reward) == 7.0 - 4.5


@pytest.mark.parametrize(
    ("aggression", "side", "price"),
    [(-1, BUY, 94), (-0.5, SELL, 105), (0, BUY, 99), (0, SELL, 103), (1, BUY, 106), (1, SELL, 96), (0.25, BUY, 101)],
)
def test_aggression_runs_from_behind_the_touch_through_the_other_side(aggression, side, price):
    assert int(placed(aggression, jnp.int32(side), world(), behind=5.0, through=3.0)) == price


TRADER = DirectionalParams(max_position=20, largest=6, behind=5.0, through=3.0, noise=0.0)


@pytest.mark.parametrize(
    ("target", "position", "price", "size"),
    [(0.2, 0, [99, 0], [4, 0]), (1.0, 0, [99, 0], [6, 0]), (0.2, 6, [0, 103], [0, 2]), (0.0, 0, [99, 0], [0, 0])],
)
def test_a_trader_orders_what_leads_to_its_target(target, position, price, size):
    own = self_with(position=position)
    assert asked(directional, (target, 0.0), own, jnp.float32(0.0), TRADER) == (price, size)


def test_a_trader_receives_the_signal_with_its_noise():
    received = jax.vmap(lambda key: directional.start(key, world(), dataclasses.replace(TRADER, noise=0.5)))(
        jax.random.split(KEY, 4000)
    )
    np.testing.assert_allclose([received.mean(), received.std()], [1.5, 0.5], atol=0.03)
    memory, _ = directional.settle(KEY, jnp.float32(0.0), world(), self_with(), jnp.float32(0.0), TRADER)
    assert float(memory) == 1.5
    seen = entries(directional.OBSERVATION, directional.observe(world(), self_with(position=5), memory, TRADER))
    assert (float(seen["signal"]), float(seen["inventory"])) == (1.5, 0.25)


WORK = ExecutionParams(parent=100, buys=1.0, deadline=10, largest=0.2, behind=5.0, through=3.0, penalty=0.5)


def parent(side: int = BUY, elapsed: int = 0, mark: int = 200) -> Parent:
    return Parent(*(jnp.int32(x) for x in (side, 200, mark, -side * 100, elapsed)))


def test_a_parent_order_buys_with_the_given_probability_and_remembers_its_arrival():
    keys = jax.random.split(KEY, 2000)
    memory = jax.vmap(lambda key: execution.start(key, world(), dataclasses.replace(WORK, buys=0.3)))(keys)
    np.testing.assert_allclose((memory.side == BUY).mean(), 0.3, atol=0.04)
    np.testing.assert_array_equal(memory.obligation, -100 * memory.side)
    np.testing.assert_array_equal(memory.arrival, 202)


def test_an_execution_agent_orders_a_part_of_its_parent_and_never_more_than_is_left():
    assert asked(execution, (1, 0), self_with(position=40), parent(), WORK) == ([99, 0], [20, 0])
    assert asked(execution, (0, 1), self_with(position=40), parent(), WORK) == ([106, 0], [10, 0])
    assert asked(execution, (1, 0), self_with(position=93), parent(), WORK) == ([99, 0], [7, 0])
    assert asked(execution, (1, 0), self_with(position=-40), parent(SELL), WORK) == ([0, 103], [0, 20])


def test_the_step_before_the_deadline_sweeps_what_is_left():
    for action in ((-1, -1), (jnp.nan, 0)):
        assert asked(execution, action, self_with(position=40), parent(elapsed=9), WORK) == ([106, 0], [60, 0])
    done = dataclasses.replace(parent(elapsed=10), obligation=jnp.int32(-40))
    assert asked(execution, (1, 1), self_with(position=40), done, WORK) == ([106, 0], [0, 0])


def test_the_sweep_and_the_deadline_call_back_what_is_under_way():
    action = jnp.array([0.0, -1.0])
    asks = {
        elapsed: execution.quotes(action, world(), self_with(position=40), parent(elapsed=elapsed), WORK)
        for elapsed in (8, 9, 10, 11)
    }
    assert {elapsed: bool(quotes.replaces.all()) for elapsed, quotes in asks.items()} == {
        8: False,
        9: True,
        10: True,
        11: False,
    }
    under_way = orders.Instructions(asks[8], jnp.zeros(2, int), jnp.full(2, 0.5), jnp.array([True, False]))
    nowhere = Standing(*(jnp.zeros(2, jnp.int32) for _ in range(4)))
    swept = orders.send(under_way, asks[9], nowhere, jnp.full(2, 0.7))
    assert swept.waiting.tolist() == [True, False]
    assert swept.quotes.size.tolist() == [60, 0]
    np.testing.assert_allclose(swept.seconds[0], 0.7)
    over = parent(elapsed=10)
    over = dataclasses.replace(over, obligation=jnp.int32(-40))
    done = execution.quotes(action, world(), self_with(position=40), over, WORK)
    assert not orders.send(swept, done, nowhere, jnp.full(2, 0.7)).waiting.any()


def test_what_is_left_at_the_deadline_is_penalised_once_and_no_longer_owed():
    own = self_with(position=40)
    memory, reward = execution.settle(KEY, jnp.float32(2.0), world(), own, parent(elapsed=9), WORK)
    # The market rose a tick against 100 lots owed, and 60 are left at 0.5 each.
    np.testing.assert_allclose(reward, 2.0 - 0.01 * 100 - 0.5 * 60, rtol=1e-6)
    memory, reward = execution.settle(KEY, jnp.float32(0.4), world(105, 109), own, memory, WORK)
    np.testing.assert_allclose(reward, 0.4 - 0.01 * 6 * 40, rtol=1e-5)
    seen = entries(execution.OBSERVATION, execution.observe(world(), own, memory, WORK))
    assert (float(seen["parent_left"]), float(seen["time_left"])) == (0.0, 0.0)


def test_aversion_of_an_execution_agent_charges_what_is_left():
    params = dataclasses.replace(WORK, aversion=0.01)
    _, reward = execution.settle(KEY, jnp.float32(0.0), world(98, 102), self_with(position=90), parent(), params)
    np.testing.assert_allclose(reward, -0.01 * 100, rtol=1e-6)


def test_an_action_that_is_not_a_number_asks_for_what_stands():
    own = self_with(price=(97, 105), remaining=(3, 4))
    for role, memory, params in ((market_maker, (), MAKER), (directional, jnp.float32(0.0), TRADER)):
        action = [jnp.nan] + [0.5] * (len(role.ACTION) - 1)
        assert asked(role, action, own, memory, params) == ([97, 105], [3, 4])


def test_rules_are_numbers_or_one_per_agent():
    rules = agents(MarketMakerParams(largest=[3, 4], aversion=0.5), 2)
    assert rules.largest.tolist() == [3, 4]
    assert rules.largest.dtype == jnp.int32
    assert rules.aversion.tolist() == [0.5, 0.5]
    assert rules.aversion.dtype == jnp.float32


@pytest.mark.parametrize(
    "bad",
    [
        lambda: MarketMakerParams(skew=0.0),
        lambda: MarketMakerParams(nearest=-1.0),
        lambda: DirectionalParams(noise=-0.1),
        lambda: ExecutionParams(buys=1.5),
        lambda: ExecutionParams(deadline=0),
    ],
)
def test_impossible_rules_are_refused(bad):
    with pytest.raises(InputError):
        bad()


@pytest.mark.parametrize(
    ("price", "size", "known", "left", "kind", "lots"),
    [
        (99, 10, 0, 0, Kind.LIMIT, 10),
        (99, 10, 10, 10, Kind.NOTHING, None),
        (99, 12, 10, 10, Kind.NOTHING, None),
        (99, 6, 10, 10, Kind.MODIFY, 6),
        (98, 10, 10, 10, Kind.MODIFY, 10),
        (98, 10, 10, 4, Kind.MODIFY, 4),
        (98, 5, 10, 4, Kind.CANCEL, None),
        (98, 0, 10, 4, Kind.CANCEL, None),
        (98, 12, 10, 0, Kind.LIMIT, 2),
        (98, 10, 10, 0, Kind.NOTHING, None),
    ],
)
def test_what_an_instruction_takes_is_decided_by_what_has_become_of_its_order(price, size, known, left, kind, lots):
    """`known` lots stood at 99 when it was sent, `left` still do when it arrives."""
    config = BookConfig(slots=8, owners=2)
    book = filled(config, jnp.array([[90], [110]]), jnp.full((2, 1), 50))
    number = orders.order_id(jnp.int32(0), jnp.int32(0))
    if known:
        book, _ = process(book, stack([limit(BUY, 99, known, number, 1)]), config)
    standing = orders.standing(book, 1)
    if known > left:
        book, _ = process(book, stack([market(SELL, known - left, 7, 0)]), config)
    scalars = [jnp.int32(x) for x in (BUY, price, size, known)]
    stood = [standing.slot[0, 0], standing.price[0, 0], number, jnp.int32(1)]
    message = orders.message(Arrival(*scalars, *stood), book)
    assert int(message.kind) == kind
    if lots is not None:
        assert int(message.size) == lots


def test_threading_keeps_both_orders():
    background = jnp.arange(100, 106)
    rows = jnp.arange(1, 4)
    arrivals = Arrival(*[rows] * 8)
    mine, theirs, ours = orders.threaded(jnp.array([8, 0, 3]), background, arrivals)
    merged = jnp.where(mine, ours.side, theirs)
    assert merged.tolist() == [2, 100, 101, 3, 102, 103, 104, 105, 1]


def test_the_signal_keeps_unit_variance_and_forgets_at_its_rate():
    signal = Signal(*(jnp.float32(x) for x in (0.5, 0.1, 2.0)))
    keys = jax.random.split(KEY, 20000)
    start = jax.random.normal(jax.random.key(1), (20000,))
    after = jax.vmap(advance, (0, 0, None, None))(keys, start, signal, jnp.float32(3.0))
    np.testing.assert_allclose(after.std(), 1.0, atol=0.02)
    np.testing.assert_allclose((after * start).mean(), np.exp(-1.5), atol=0.02)


def test_the_signal_leans_on_buyers_and_drift():
    signal = Signal(*(jnp.float32(x) for x in (0.5, 0.1, 2.0)))
    leaning = lean(calm(), jnp.float32(-1.5), signal)
    np.testing.assert_allclose([leaning.buy_share, leaning.drift], [0.35, -3.0], rtol=1e-6)
    assert float(lean(calm(), jnp.float32(9.0), signal).buy_share) == 1.0
