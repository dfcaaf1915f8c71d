"""A message that cannot be done is refused with its code, and the book keeps every bit of what it was."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marljax.lob.matching import empty
from marljax.lob.messages import cancel, limit, market, modify
from marljax.lob.types import BUY, MAX_PRICE, MAX_SIZE, SELL, Book, Code, Kind, Messages, SelfTrade
from tests.reference.order_book import Message
from tests.reference.order_book_runs import BARE, CONFIG, LARGEST, MESSAGE, SMALLEST, lines, put

LOWEST, HIGHEST = 90, 110
ORDER = {"kind": Kind.LIMIT, "side": BUY, "price": 101, "size": 2, "id": 9, "owner": 0}
INCOMING = [Kind.LIMIT, Kind.MARKET, Kind.IMMEDIATE_OR_CANCEL, Kind.FILL_OR_KILL, Kind.POST_ONLY]
PRICED = [kind for kind in (*INCOMING, Kind.MODIFY) if kind != Kind.MARKET]
EVERY = [*INCOMING, Kind.CANCEL, Kind.MODIFY]


def unchecked(**fields: int) -> Messages:
    """A message as jitted code would make it, which nothing has checked."""
    made = Message(**fields)
    return Messages(*(jnp.int32(getattr(made, name)) for name in MESSAGE))


def a_book() -> Book:
    """With orders of every owner on both sides, one of them partly filled."""
    book, _ = put(
        CONFIG,
        limit(BUY, price=100, size=3, id=1, owner=1),
        limit(BUY, price=99, size=MAX_SIZE, id=2, owner=2),
        limit(SELL, price=101, size=4, id=3, owner=3),
        limit(SELL, price=102, size=5, id=4, owner=0),
        market(BUY, size=1, id=5, owner=2),
        book=empty(CONFIG, LOWEST, HIGHEST),
    )
    return put(CONFIG, book=book)[0]


@pytest.fixture(scope="module")
def book() -> Book:
    return a_book()


def assert_refused(book: Book, code: int, **fields: int) -> None:
    """The message gets the code, nothing changes, and the messages around it do what they would without it."""
    bad = unchecked(**fields)
    after, report = put(CONFIG, bad, book=book)
    chex.assert_trees_all_equal(after, book)
    receipt = {name: int(x[0]) for name, x in vars(report.receipts).items()}
    assert receipt == dict.fromkeys(receipt, 0) | {"code": code, "displaced_owner": -1}
    for leaf in jax.tree.leaves((report.trades, report.turnover, report.volumes)):
        assert not np.asarray(leaf).any()

    around = limit(SELL, price=100, size=2, id=50, owner=0), market(BUY, size=6, id=51, owner=1)
    with_it, without = put(CONFIG, around[0], bad, around[1], book=book), put(CONFIG, *around, book=book)
    if receipt_of(with_it, 1) == code:
        chex.assert_trees_all_equal(with_it[0], without[0])
        chex.assert_trees_all_equal(with_it[1].turnover, without[1].turnover)
        chex.assert_trees_all_equal(with_it[1].volumes, without[1].volumes)


def receipt_of(outcome, at: int) -> int:
    return int(outcome[1].receipts.code[at])


@pytest.mark.parametrize("size", [0, -1, MAX_SIZE + 1, LARGEST, SMALLEST])
@pytest.mark.parametrize("kind", EVERY)
def test_a_zero_negative_or_too_large_size_is_refused(book, kind, size):
    assert_refused(book, Code.BAD_SIZE, **ORDER | {"kind": kind, "size": size, "id": 3, "owner": 3})


@pytest.mark.parametrize("peak", [-1, SMALLEST])
def test_a_negative_peak_is_refused(book, peak):
    assert_refused(book, Code.BAD_SIZE, **ORDER | {"peak": peak})


@pytest.mark.parametrize("kind", [Kind.CANCEL, Kind.MODIFY])
@pytest.mark.parametrize("id", [0, 77, 5, LARGEST, SMALLEST])
def test_an_unknown_id_is_refused(book, kind, id):
    """Id 5 has traded, and empty slots hold an id of zero."""
    assert_refused(book, Code.UNKNOWN_ID, **ORDER | {"kind": kind, "id": id})


@pytest.mark.parametrize("kind", [Kind.CANCEL, Kind.MODIFY])
@pytest.mark.parametrize("traded", [False, True])
def test_an_order_that_is_gone_is_unknown(book, kind, traded):
    gone = market(BUY, size=3, id=60, owner=2) if traded else cancel(3, owner=3)
    after, _ = put(CONFIG, gone, book=book)
    after, _ = put(CONFIG, book=after)
    assert_refused(after, Code.UNKNOWN_ID, **ORDER | {"kind": kind, "id": 3, "owner": 3})


@pytest.mark.parametrize("price", [LOWEST - 1, HIGHEST + 1, -MAX_PRICE, MAX_PRICE, SMALLEST, LARGEST, -(2**30), 2**30])
@pytest.mark.parametrize("kind", PRICED)
def test_a_price_outside_the_tick_window_is_refused(book, kind, price):
    named = {"id": 3, "owner": 3} if kind == Kind.MODIFY else {}
    assert_refused(book, Code.BAD_PRICE, **ORDER | {"kind": kind, "price": price} | named)


@pytest.mark.parametrize("price", [LOWEST, HIGHEST])
def test_the_ends_of_the_tick_window_are_within_it(book, price):
    _, report = put(CONFIG, unchecked(**ORDER | {"price": price}), book=book)
    assert report.receipts.code[0] == Code.ACCEPTED


@pytest.mark.parametrize("price", [LOWEST - 1, SMALLEST, LARGEST])
def test_a_price_is_not_looked_at_where_there_is_none(book, price):
    _, report = put(
        CONFIG,
        unchecked(**ORDER | {"kind": Kind.MARKET, "price": price}),
        unchecked(kind=Kind.CANCEL, side=0, price=price, id=1, owner=1),
        book=book,
    )
    assert report.receipts.traded[:2].tolist() == [2, 0]
    assert report.receipts.cancelled[:2].tolist() == [0, 1]


@pytest.mark.parametrize("kind", INCOMING)
@pytest.mark.parametrize(("id", "owner"), [(3, 3), (2, 2), (1, 0)])
def test_an_id_that_is_resting_is_not_used_again(book, kind, id, owner):
    """By neither owner, on neither side."""
    assert_refused(book, Code.DUPLICATE_ID, **ORDER | {"kind": kind, "id": id, "owner": owner})


def test_an_id_that_is_gone_is_free(book):
    after, report = put(CONFIG, cancel(1, owner=1), limit(BUY, price=98, size=7, id=1, owner=3), book=book)
    assert report.receipts.code[:2].tolist() == [Code.ACCEPTED] * 2
    assert lines(after, CONFIG.slots)[0, 1, :4].tolist() == [1, 98, 7, 3]


@pytest.mark.parametrize("kind", [Kind.CANCEL, Kind.MODIFY])
@pytest.mark.parametrize("owner", [0, 2, 3])
def test_another_owners_order_is_not_touched(book, kind, owner):
    assert_refused(book, Code.NOT_OWNER, **ORDER | {"kind": kind, "id": 1, "owner": owner, "price": 100, "size": 1})


@pytest.mark.parametrize("owner", [-1, CONFIG.owners, LARGEST, SMALLEST])
@pytest.mark.parametrize("kind", EVERY)
def test_an_owner_that_does_not_exist_is_refused(book, kind, owner):
    assert_refused(book, Code.BAD_OWNER, **ORDER | {"kind": kind, "owner": owner})


@pytest.mark.parametrize("side", [0, 2, -2, LARGEST, SMALLEST])
@pytest.mark.parametrize("kind", INCOMING)
def test_a_side_that_does_not_exist_is_refused(book, kind, side):
    assert_refused(book, Code.BAD_SIDE, **ORDER | {"kind": kind, "side": side})


@pytest.mark.parametrize("kind", [-1, Kind.MODIFY + 1, LARGEST, SMALLEST])
def test_a_kind_that_does_not_exist_is_refused(book, kind):
    assert_refused(book, Code.BAD_KIND, **ORDER | {"kind": kind})


@pytest.mark.parametrize("rule", [-1, SelfTrade.CANCEL_NEWEST + 1, LARGEST])
def test_a_self_trade_rule_that_does_not_exist_is_refused(book, rule):
    assert_refused(book, Code.BAD_RULE, **ORDER | {"self_trade": rule})


def test_a_post_only_order_that_crosses_and_a_fill_or_kill_that_cannot_be_filled_change_nothing(book):
    """Not even the owner's own orders, which they would have cancelled on their way."""
    order = ORDER | {"price": 102, "size": 6, "self_trade": SelfTrade.CANCEL_OLDEST}
    assert_refused(book, Code.WOULD_TRADE, **order | {"kind": Kind.POST_ONLY})
    assert_refused(book, Code.UNFILLABLE, **order | {"kind": Kind.FILL_OR_KILL})


def full_side() -> list[Messages]:
    return [limit(BUY, price=96 + id, size=10 + id, id=id, owner=id % 4) for id in range(CONFIG.slots)]


def test_on_a_full_side_the_worst_order_gives_way_to_a_better_one_and_is_counted():
    messages = [*full_side(), limit(SELL, 120, 1, id=20, owner=0), limit(BUY, price=97, size=5, id=9, owner=3)]
    after, report = put(CONFIG, *messages)
    bids = lines(after, CONFIG.slots)[0, :, :3].tolist()
    assert bids == [[3, 99, 13], [2, 98, 12], [1, 97, 11], [9, 97, 5]]
    assert lines(after, CONFIG.slots)[1, 0, :3].tolist() == [20, 120, 1]
    assert int(report.receipts.displaced[CONFIG.slots + 1]) == 10
    assert int(report.receipts.displaced_owner[CONFIG.slots + 1]) == 0
    assert report.volumes.displaced.tolist() == [10, 0, 0, 0]


@pytest.mark.parametrize("price", [96, 95])
def test_on_a_full_side_an_order_no_better_than_the_worst_gives_way_itself(price):
    before, _ = put(CONFIG, *full_side())
    after, report = put(CONFIG, limit(BUY, price=price, size=5, id=9, owner=3), book=before)
    chex.assert_trees_all_equal(after, before)
    receipt = report.receipts
    assert (int(receipt.code[0]), int(receipt.rested[0]), int(receipt.displaced[0])) == (Code.ACCEPTED, 0, 5)
    assert int(receipt.displaced_owner[0]) == 3
    assert report.volumes.displaced.tolist() == [0, 0, 0, 5]


def test_a_modification_needs_no_free_slot():
    after, report = put(CONFIG, *full_side(), modify(3, owner=3, price=90, size=1))
    assert lines(after, CONFIG.slots)[0, :, 0].tolist() == [2, 1, 0, 3]
    assert not np.asarray(report.receipts.displaced).any()


def test_orders_that_are_not_queued_displace_nothing_on_a_full_side():
    """What they do not trade is cancelled."""
    messages = [
        market(BUY, size=2, id=9, owner=1),
        unchecked(**ORDER | {"kind": Kind.IMMEDIATE_OR_CANCEL, "price": 96, "size": 3}),
        unchecked(**ORDER | {"kind": Kind.FILL_OR_KILL}),
    ]
    before, _ = put(CONFIG, *full_side())
    after, report = put(CONFIG, *messages, book=before)
    chex.assert_trees_all_equal(after, before)
    assert report.receipts.cancelled[:3].tolist() == [2, 3, 0]
    assert report.volumes.cancelled.tolist() == [3, 2, 0, 0]
    assert not np.asarray(report.volumes.displaced).any()


def test_a_full_trade_record_counts_the_trades_it_does_not_hold_and_the_book_is_none_the_worse():
    messages = [*full_side(), market(SELL, size=40, id=9, owner=1)]
    (expected_book, expected), (book, report) = put(CONFIG, *messages), put(BARE, *messages)
    assert (int(report.trades.count), int(report.trades.overflow)) == (4, 2)
    assert (int(expected.trades.count), int(expected.trades.overflow)) == (4, 0)
    assert set(report.trades.maker.tolist()) < {0, 1, 2, 3}
    np.testing.assert_array_equal(lines(book, 4), lines(expected_book, 4))
    chex.assert_trees_all_equal(report.turnover, expected.turnover)
    chex.assert_trees_all_equal(report.volumes, expected.volumes)
    chex.assert_trees_all_equal(report.receipts, expected.receipts)


def test_a_thousand_bad_messages_leave_not_a_trace(book):
    rng = np.random.default_rng(0)
    extremes = np.array([SMALLEST, -MAX_PRICE, -1, LARGEST, MAX_PRICE, MAX_SIZE + 1])
    after = book
    for _ in range(64):
        rows = rng.choice(extremes, (16, len(MESSAGE))).tolist()
        after, report = put(CONFIG, *(unchecked(**dict(zip(MESSAGE, row, strict=True))) for row in rows), book=after)
        assert set(report.receipts.code.tolist()) == {Code.BAD_KIND}
    chex.assert_trees_all_equal(after, book)
