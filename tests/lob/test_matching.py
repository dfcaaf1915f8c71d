"""The engine against the plain book after every message, and what a trader expects of it, case by case."""

import functools

import chex
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

from marljax.lob.matching import empty, process
from marljax.lob.messages import (
    cancel,
    fill_or_kill,
    immediate_or_cancel,
    limit,
    market,
    modify,
    nothing,
    post_only,
    stack,
)
from marljax.lob.types import BUY, MAX_MESSAGES, SELL, BookConfig, Code, Kind, Messages, SelfTrade
from tests.reference.order_book import Message, Trade
from tests.reference.order_book_runs import (
    CONFIG,
    MESSAGE,
    TRADE,
    assert_same,
    empty_book,
    engine_histories,
    lines,
    plain_book,
    plain_history,
    put,
    random_run,
)

BLOCK = 32
# One slot; few, with icebergs; a trade record that overflows; and many.
BOOKS = [
    BookConfig(slots=1, owners=4, trades=64),
    BookConfig(slots=3, owners=4, trades=64, reserves=2),
    BookConfig(slots=8, owners=4, trades=8, reserves=4),
    BookConfig(slots=100, owners=4, trades=64),
]
MORE_BOOKS = [
    *BOOKS,
    BookConfig(slots=1, owners=4, trades=64, reserves=1),
    BookConfig(slots=5, owners=4, trades=64),
    BookConfig(slots=32, owners=4, trades=64, reserves=8),
]


def name(config: BookConfig) -> str:
    return f"{config.slots}-slots-{config.reserves}-reserves"


def compare(config: BookConfig, seeds: range, n: int) -> int:
    """Put n random messages to each of several books, and return the number of trades."""
    book = plain_book(config, 90, 110)
    runs = [random_run(seed, plain_book(config, 90, 110), n, BLOCK) for seed in seeds]
    messages = np.stack([made for made, _ in runs])
    histories = engine_histories(config, empty_book(config, book), messages, BLOCK)
    for (made, expected), found in zip(runs, histories, strict=True):
        assert_same(expected, found, made)
    return sum(len(expected.trades) for _, expected in runs)


@pytest.mark.parametrize("config", BOOKS, ids=name)
def test_book_fills_and_trades_equal_the_plain_books_after_each_of_50_000_messages(config):
    assert compare(config, range(16), 800) > 1000


@pytest.mark.nightly
@pytest.mark.parametrize("config", MORE_BOOKS, ids=name)
def test_book_fills_and_trades_equal_the_plain_books_after_each_of_a_million_messages(config):
    for start in range(100, 292, 16):
        compare(config, range(start, start + 16), 800)


@st.composite
def short_lists(draw) -> list[Message]:
    number = st.integers
    message = st.builds(
        Message,
        kind=number(Kind.LIMIT, Kind.MODIFY),
        side=st.sampled_from((BUY, SELL)),
        price=number(99, 102),
        size=number(1, 6),
        id=number(1, 5),
        owner=number(0, 1),
        peak=number(0, 2),
        self_trade=number(SelfTrade.ALLOW, SelfTrade.CANCEL_NEWEST),
    )
    return draw(st.lists(message, min_size=1, max_size=12))


SMALL = BookConfig(slots=2, owners=4, trades=64, reserves=1)


@given(short_lists())
def test_a_short_list_of_messages_shrinks_to_what_the_engine_does_otherwise(made):
    made = made + [Message(Kind.NOTHING)] * (BLOCK - len(made))
    expected = plain_history(plain_book(SMALL), made, BLOCK, BLOCK)
    rows = np.array([[getattr(message, name) for name in MESSAGE] for message in made], np.int32)
    (found,) = engine_histories(SMALL, empty(SMALL), rows[None], BLOCK)
    assert_same(expected, found, rows)


def resting(book, side: int) -> list[tuple[int, int, int]]:
    """(id, price, size) of what rests on a side, best first."""
    rows = lines(book, CONFIG.slots + CONFIG.reserves)[0 if side == BUY else 1].tolist()
    return [(id, price, size) for id, price, size, *_ in rows if size]


def trades(report) -> list[tuple[int, int, int]]:
    """(maker, price, size) of each trade."""
    record = report.trades
    columns = (np.asarray(x)[: int(record.count)].tolist() for x in (record.maker, record.price, record.size))
    return list(zip(*columns, strict=True))


ASKS = (
    limit(SELL, price=102, size=5, id=1, owner=1),
    limit(SELL, price=101, size=3, id=2, owner=2),
    limit(SELL, price=101, size=4, id=3, owner=3),
)


def test_a_market_order_fills_the_best_price_first_and_there_the_oldest_order():
    book, report = put(CONFIG, *ASKS, market(BUY, size=9, id=9, owner=0))
    assert trades(report) == [(2, 101, 3), (3, 101, 4), (1, 102, 2)]
    assert resting(book, SELL) == [(1, 102, 3)]


def test_a_trade_names_both_orders_their_owners_and_what_is_left_of_the_resting_one():
    _, report = put(CONFIG, *ASKS, market(BUY, size=4, id=9, owner=0))
    record = [Trade(*(int(getattr(report.trades, name)[row]) for name in TRADE)) for row in (0, 1, 2)]
    filled = Trade(3, BUY, 101, 3, maker=2, maker_owner=2, maker_left=0, taker=9, taker_owner=0)
    reached = Trade(3, BUY, 101, 1, maker=3, maker_owner=3, maker_left=3, taker=9, taker_owner=0)
    assert record == [filled, reached, Trade(*[0] * 9)]


def test_a_limit_order_trades_at_the_resting_price_and_queues_its_rest_at_its_own():
    book, report = put(CONFIG, *ASKS, limit(BUY, price=101, size=10, id=9, owner=0))
    assert trades(report) == [(2, 101, 3), (3, 101, 4)]
    assert resting(book, BUY) == [(9, 101, 3)]
    assert int(report.receipts.traded[3]) == 7
    assert int(report.receipts.rested[3]) == 3


def test_orders_at_one_price_keep_their_order_of_arrival_whatever_came_and_went():
    messages = [limit(BUY, price=100, size=2, id=id, owner=1) for id in (7, 3, 5)]
    book, _ = put(CONFIG, *messages, cancel(3, owner=1), limit(BUY, price=100, size=2, id=1, owner=1))
    assert resting(book, BUY) == [(7, 100, 2), (5, 100, 2), (1, 100, 2)]


def test_a_partly_filled_order_keeps_its_place():
    book, _ = put(CONFIG, *ASKS, market(BUY, size=1, id=9, owner=0))
    assert resting(book, SELL) == [(2, 101, 2), (3, 101, 4), (1, 102, 5)]


def test_a_partial_cancel_keeps_the_place_and_a_larger_one_takes_all_there_is():
    book, report = put(CONFIG, *ASKS, cancel(2, owner=2, size=1), cancel(1, owner=1, size=6))
    assert resting(book, SELL) == [(2, 101, 2), (3, 101, 4)]
    assert report.receipts.cancelled[3:5].tolist() == [1, 5]
    assert report.receipts.rested[3:5].tolist() == [2, 0]


@pytest.mark.parametrize(("size", "first"), [(1, 2), (3, 2), (4, 3)])
def test_a_modification_keeps_its_place_unless_it_asks_for_more(size, first):
    book, report = put(CONFIG, *ASKS, modify(2, owner=2, price=101, size=size))
    queue = resting(book, SELL)
    assert queue[0][0] == first
    assert (2, 101, size) in queue
    assert int(report.receipts.rested[3]) == size


def test_a_modified_price_loses_its_place_and_may_trade():
    book, _ = put(CONFIG, *ASKS, modify(2, owner=2, price=102, size=2), modify(2, owner=2, price=101, size=2))
    assert resting(book, SELL) == [(3, 101, 4), (2, 101, 2), (1, 102, 5)]
    book, report = put(CONFIG, *ASKS, limit(BUY, price=99, size=2, id=9, owner=0), modify(9, 0, price=101, size=5))
    assert trades(report) == [(2, 101, 3), (3, 101, 2)]
    assert resting(book, BUY) == []


def test_a_market_order_cancels_what_nobody_sells():
    book, report = put(CONFIG, *ASKS, market(BUY, size=13, id=9, owner=0))
    assert (resting(book, BUY), resting(book, SELL)) == ([], [])
    assert int(report.receipts.traded[3]) == 12
    assert int(report.receipts.cancelled[3]) == 1


def test_immediate_or_cancel_queues_nothing():
    book, report = put(CONFIG, *ASKS, immediate_or_cancel(BUY, price=101, size=9, id=9, owner=0))
    assert resting(book, BUY) == []
    assert int(report.receipts.traded[3]) == 7
    assert int(report.receipts.cancelled[3]) == 2


@pytest.mark.parametrize(("size", "code"), [(7, Code.ACCEPTED), (8, Code.UNFILLABLE)])
def test_fill_or_kill_trades_whole_or_not_at_all(size, code):
    _, report = put(CONFIG, *ASKS, fill_or_kill(BUY, price=101, size=size, id=9, owner=0))
    assert int(report.receipts.code[3]) == code
    assert int(report.trades.count) == (2 if code == Code.ACCEPTED else 0)


@pytest.mark.parametrize(("price", "code"), [(100, Code.ACCEPTED), (101, Code.WOULD_TRADE)])
def test_post_only_is_queued_or_refused(price, code):
    book, report = put(CONFIG, *ASKS, post_only(BUY, price=price, size=8, id=9, owner=0))
    assert int(report.receipts.code[3]) == code
    assert int(report.trades.count) == 0
    assert resting(book, BUY) == ([(9, 100, 8)] if code == Code.ACCEPTED else [])


def test_cancel_oldest_takes_the_owners_resting_orders_out_of_the_way():
    rule = SelfTrade.CANCEL_OLDEST
    book, report = put(CONFIG, *ASKS, limit(BUY, price=101, size=5, id=9, owner=2, self_trade=rule))
    assert trades(report) == [(3, 101, 4)]
    assert resting(book, SELL) == [(1, 102, 5)]
    assert resting(book, BUY) == [(9, 101, 1)]
    assert int(report.receipts.prevented[3]) == 3
    assert report.volumes.cancelled.tolist() == [0, 0, 3, 0]


def test_cancel_newest_stops_at_the_owners_resting_order_and_queues_nothing():
    rule = SelfTrade.CANCEL_NEWEST
    book, report = put(CONFIG, *ASKS, limit(BUY, price=102, size=9, id=9, owner=3, self_trade=rule))
    assert trades(report) == [(2, 101, 3)]
    assert resting(book, SELL) == [(3, 101, 4), (1, 102, 5)]
    assert resting(book, BUY) == []
    assert int(report.receipts.cancelled[3]) == 6


@pytest.mark.parametrize("rule", [SelfTrade.CANCEL_OLDEST, SelfTrade.CANCEL_NEWEST])
def test_a_self_trade_rule_does_not_concern_orders_it_does_not_reach(rule):
    book, report = put(CONFIG, *ASKS, limit(BUY, price=102, size=3, id=9, owner=3, self_trade=rule))
    assert trades(report) == [(2, 101, 3)]
    assert resting(book, SELL) == [(3, 101, 4), (1, 102, 5)]
    assert int(report.receipts.prevented[3]) == 0


def test_without_a_self_trade_rule_an_owner_trades_with_itself():
    _, report = put(CONFIG, *ASKS, market(BUY, size=3, id=9, owner=2))
    assert trades(report) == [(2, 101, 3)]
    assert report.turnover.lots[:, :, 2].tolist() == [[0, 3], [3, 0]]


def test_turnover_tells_resting_from_incoming_and_bought_from_sold():
    _, report = put(CONFIG, *ASKS, market(BUY, size=9, id=9, owner=0))
    assert report.turnover.lots[0].tolist() == [[0, 0, 0, 0], [0, 2, 3, 4]]
    assert report.turnover.lots[1].tolist() == [[9, 0, 0, 0], [0, 0, 0, 0]]
    assert report.turnover.value.value()[0, 1].tolist() == [0, 204, 303, 404]
    assert report.turnover.value.value()[1, 0].tolist() == [911, 0, 0, 0]


def test_padding_changes_nothing_and_is_accepted():
    before, _ = put(CONFIG, *ASKS)
    after, report = put(CONFIG, nothing(), book=before)
    chex.assert_trees_all_equal(after, before)
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves((report.trades, report.turnover, report.volumes)))
    assert report.receipts.code.tolist() == [Code.ACCEPTED] * 16


PLAIN = BookConfig(slots=4, owners=4, trades=128)
processed = jax.jit(chex.assert_max_traces(process, n=3), static_argnums=2)


def test_a_response_sees_the_book_as_it_stands_and_is_reported():
    """Each row asks to improve the best bid of the moment by a tick."""

    def improve(book, size) -> Messages:
        best = jnp.max(jnp.where(book.end[0] > book.consumed[0], -(book.key[0] >> 1), 0))
        return limit(BUY, price=best + 1, size=size, id=10 * size, owner=1)

    book, report = process(empty(PLAIN), jnp.arange(1, 5), PLAIN, respond=improve)
    assert resting(book, BUY) == [(40, 4, 4), (30, 3, 3), (20, 2, 2), (10, 1, 1)]
    assert report.messages.price.tolist() == [1, 2, 3, 4]
    assert report.messages.id.tolist() == [10, 20, 30, 40]


@functools.cache
def random_messages() -> Messages:
    """[3, 100] messages for three books."""
    runs = [random_run(seed, plain_book(PLAIN), 100, 100)[0] for seed in range(3)]
    return Messages(*(jnp.asarray(np.stack(runs)[..., i]) for i in range(len(MESSAGE))))


@pytest.mark.parametrize("length", [100, 25, 1])
def test_messages_in_one_block_or_in_many_do_what_they_do_to_the_plain_book(length):
    messages = jax.tree.map(lambda x: x[0], random_messages())
    _, expected = random_run(0, plain_book(PLAIN), 100, length)
    book, trades, receipts = empty(PLAIN), [], []
    for at, start in enumerate(range(0, 100, length)):
        block = jax.tree.map(lambda x, start=start: x[start : start + length], messages)
        book, report = processed(book, block, PLAIN)
        record = np.stack([getattr(report.trades, name) for name in TRADE], -1)[: int(report.trades.count)]
        trades.append(record + np.eye(1, len(TRADE), dtype=int) * start)
        receipts.append(np.stack(list(vars(report.receipts).values()), -1))
        np.testing.assert_array_equal(report.turnover.lots, expected.lots[at])
        np.testing.assert_array_equal(list(vars(report.volumes).values()), expected.volumes[at])
    assert len(expected.trades) > 10
    np.testing.assert_array_equal(np.concatenate(trades), expected.trades)
    np.testing.assert_array_equal(np.concatenate(receipts), expected.receipts)
    np.testing.assert_array_equal(lines(book, PLAIN.slots), expected.lines[-1])


def test_books_side_by_side_are_what_they_are_one_by_one():
    together = jax.jit(jax.vmap(lambda messages: process(empty(PLAIN), messages, PLAIN)))(random_messages())
    for b in range(3):
        messages, of_it = jax.tree.map(lambda x, b=b: x[b], (random_messages(), together))
        chex.assert_trees_all_equal(processed(empty(PLAIN), messages, PLAIN), of_it)


def test_a_block_is_traced_once_whatever_is_in_it():
    """`processed` refuses a fourth trace: it has one for each length of a block in this module."""
    book, shapes = empty(PLAIN), []
    for messages in (stack([market(BUY, 1, 1, 1)] * 25), stack([*ASKS, cancel(2, 2), *[nothing()] * 21])):
        for _ in range(3):
            book, report = processed(book, messages, PLAIN)
            shapes.append(jax.tree.map(jnp.shape, report))
    chex.assert_tree_shape_prefix(report.receipts, (25,))
    assert shapes == [shapes[0]] * 6
    assert {leaf.dtype for leaf in jax.tree.leaves((book, report))} == {jnp.dtype(jnp.int32)}


@pytest.mark.nightly
def test_the_engine_is_the_same_without_jit():
    messages = jax.tree.map(lambda x: x[0, :16], random_messages())
    compiled = put(CONFIG, *(jax.tree.map(lambda x, i=i: x[i], messages) for i in range(16)))
    with jax.disable_jit():
        chex.assert_trees_all_equal(process(empty(CONFIG), messages, CONFIG), compiled)


@pytest.mark.parametrize("count", [0, MAX_MESSAGES + 1])
def test_a_block_of_no_messages_or_too_many_is_refused(count):
    messages = Messages(*(jnp.zeros(count, jnp.int32) for _ in MESSAGE))
    with pytest.raises(ValueError, match=f"1..{MAX_MESSAGES} messages, got {count}"):
        process(empty(CONFIG), messages, CONFIG)


@pytest.mark.parametrize("name", ["slots", "owners", "trades", "reserves"])
@pytest.mark.parametrize("value", [-1, 5000])
def test_a_config_out_of_bounds_is_refused_by_name_and_value(name, value):
    with pytest.raises(ValueError, match=rf"BookConfig\.{name} .*got {value}"):
        BookConfig(**{name: value})


@pytest.mark.parametrize("window", [(1, 0), (-(2**23), 0), (0, 2**23)])
def test_a_tick_window_that_is_empty_or_too_wide_is_refused(window):
    with pytest.raises(ValueError, match=rf"tick window .*got {window[0]}\.\.{window[1]}"):
        empty(CONFIG, *window)
