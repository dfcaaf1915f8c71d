"""What a trader expects of icebergs: the displayed part queues, the reserve stands behind everything displayed."""

import jax.numpy as jnp
import numpy as np
import pytest

from marljax.lob.messages import cancel, fill_or_kill, immediate_or_cancel, limit, market, modify, post_only
from marljax.lob.snapshot import order, touch
from marljax.lob.types import BUY, SELL, Code, SelfTrade
from tests.reference.order_book_runs import BARE, CONFIG, lines, put

PARTS = CONFIG.slots + CONFIG.reserves
ICEBERG = limit(SELL, price=100, size=10, id=1, owner=1, peak=2)
PLAIN = limit(SELL, price=100, size=3, id=2, owner=2)
WORSE = limit(SELL, price=101, size=4, id=3, owner=3)
SECOND = limit(SELL, price=100, size=5, id=4, owner=3, peak=1)


def asks(book) -> list[tuple[int, int, str]]:
    """(id, size, where) of each part of the asks, in order of priority."""
    rows = lines(book, PARTS)[1].tolist()
    return [(id, size, "hidden" if hidden else "shown") for id, _, size, _, hidden, _ in rows if size]


def trades(report) -> list[tuple[int, int, int]]:
    """(maker, size, maker_left) of each trade."""
    record = report.trades
    columns = (np.asarray(x)[: int(record.count)].tolist() for x in (record.maker, record.size, record.maker_left))
    return list(zip(*columns, strict=True))


def seen(book, id: int) -> tuple[int, int]:
    """What is displayed of an order and what is hidden."""
    found = order(book, jnp.int32(id))
    return int(found.displayed), int(found.hidden)


def test_only_the_peak_is_displayed_and_the_rest_is_hidden():
    book, report = put(CONFIG, ICEBERG)
    assert asks(book) == [(1, 2, "shown"), (1, 8, "hidden")]
    assert int(touch(book).ask_size) == 2
    assert seen(book, 1) == (2, 8)
    assert int(report.receipts.rested[0]) == 10


def test_everything_displayed_at_a_price_trades_before_anything_hidden_there():
    book, report = put(CONFIG, ICEBERG, PLAIN, WORSE, market(BUY, size=6, id=9, owner=0))
    assert trades(report) == [(1, 2, 0), (2, 3, 0), (1, 1, 7)]
    assert asks(book) == [(1, 2, "shown"), (1, 5, "hidden"), (3, 4, "shown")]


def test_the_next_peak_is_shown_at_the_back_of_the_queue():
    book, _ = put(CONFIG, ICEBERG, PLAIN, market(BUY, size=2, id=9, owner=0))
    assert asks(book) == [(2, 3, "shown"), (1, 2, "shown"), (1, 6, "hidden")]


def test_a_displayed_part_that_is_not_gone_is_not_made_up():
    book, _ = put(CONFIG, ICEBERG, PLAIN, market(BUY, size=1, id=9, owner=0))
    assert asks(book) == [(1, 1, "shown"), (2, 3, "shown"), (1, 8, "hidden")]


def test_several_icebergs_show_their_next_peaks_in_order_of_their_arrival():
    """Though the displayed part of the first one had gone behind that of the second."""
    messages = [ICEBERG, SECOND, market(BUY, size=2, id=8, owner=0), market(BUY, size=3, id=9, owner=0)]
    book, report = put(CONFIG, *messages)
    assert trades(report) == [(1, 2, 0), (4, 1, 0), (1, 2, 0)]
    assert asks(book) == [(1, 2, "shown"), (4, 1, "shown"), (1, 4, "hidden"), (4, 3, "hidden")]


def test_reserves_trade_before_the_next_price_in_order_of_arrival():
    messages = [SECOND, WORSE, ICEBERG, market(BUY, size=16, id=9, owner=0)]
    book, report = put(CONFIG, *messages)
    assert trades(report) == [(4, 1, 0), (1, 2, 0), (4, 4, 0), (1, 8, 0), (3, 1, 3)]
    assert asks(book) == [(3, 3, "shown")]


def test_a_fill_or_kill_order_counts_on_what_is_hidden():
    _, report = put(CONFIG, ICEBERG, fill_or_kill(BUY, price=100, size=10, id=9, owner=0))
    assert report.receipts.code[:2].tolist() == [Code.ACCEPTED] * 2
    assert int(report.receipts.traded[1]) == 10


def test_the_last_peak_is_what_is_left():
    book, _ = put(CONFIG, limit(SELL, price=100, size=5, id=1, owner=1, peak=3), market(BUY, size=3, id=9, owner=0))
    assert asks(book) == [(1, 2, "shown")]


@pytest.mark.parametrize("size", [7, 8, 9])
@pytest.mark.parametrize("asked", ["cancel", "modify"])
def test_less_of_an_iceberg_is_less_of_its_reserve_first_and_it_keeps_its_place(size, asked):
    less = cancel(1, owner=1, size=size) if asked == "cancel" else modify(1, owner=1, price=100, size=10 - size, peak=7)
    book, report = put(CONFIG, ICEBERG, PLAIN, less)
    expected = {
        7: [(1, 2, "shown"), (2, 3, "shown"), (1, 1, "hidden")],
        8: [(1, 2, "shown"), (2, 3, "shown")],
        9: [(1, 1, "shown"), (2, 3, "shown")],
    }
    assert asks(book) == expected[size]
    assert int(report.receipts.cancelled[2]) == size
    assert int(report.receipts.rested[2]) == 10 - size


@pytest.mark.parametrize(("peak", "parts"), [(0, [(1, 11, "shown")]), (4, [(1, 4, "shown"), (1, 7, "hidden")])])
def test_an_iceberg_made_larger_is_a_new_order_with_the_peak_of_the_modification(peak, parts):
    book, _ = put(CONFIG, ICEBERG, PLAIN, modify(1, owner=1, price=100, size=11, peak=peak))
    assert sorted(asks(book)) == sorted([(2, 3, "shown"), *parts])
    assert asks(book)[0] == (2, 3, "shown")


def test_a_whole_cancel_takes_both_parts():
    book, report = put(CONFIG, ICEBERG, cancel(1, owner=1))
    assert asks(book) == []
    assert int(report.receipts.cancelled[1]) == 10


TAKEN = (ICEBERG, SECOND)


def test_an_iceberg_without_a_free_reserve_is_refused_before_it_trades():
    crossing = limit(SELL, price=99, size=9, id=5, owner=0, peak=1)
    messages = [*TAKEN, limit(BUY, price=99, size=3, id=6, owner=2)]
    before, _ = put(CONFIG, *messages)
    after, report = put(CONFIG, crossing, book=before)
    assert int(report.receipts.code[0]) == Code.NO_RESERVE
    assert int(report.trades.count) == 0
    np.testing.assert_array_equal(lines(after, PARTS), lines(before, PARTS))


@pytest.mark.parametrize("peak", [0, 6, 7, 100])
def test_an_order_that_hides_nothing_in_the_end_needs_no_reserve(peak):
    messages = [*TAKEN, limit(BUY, price=99, size=3, id=6, owner=2)]
    book, report = put(CONFIG, *messages, limit(SELL, price=99, size=9, id=5, owner=0, peak=peak))
    assert int(report.receipts.code[3]) == Code.ACCEPTED
    assert seen(book, 5) == (6, 0)


def test_orders_that_are_not_queued_need_no_reserve():
    messages = [
        *TAKEN,
        market(SELL, size=9, id=5, owner=0, peak=1),
        immediate_or_cancel(SELL, price=99, size=9, id=6, owner=0, peak=1),
    ]
    _, report = put(CONFIG, *messages)
    assert report.receipts.code[:4].tolist() == [Code.ACCEPTED] * 4


def test_an_iceberg_that_is_replaced_leaves_its_reserve_to_its_successor():
    book, report = put(CONFIG, *TAKEN, modify(1, owner=1, price=101, size=12, peak=5))
    assert int(report.receipts.code[2]) == Code.ACCEPTED
    assert seen(book, 1) == (5, 7)


def test_a_reserve_that_is_used_up_is_free_again():
    messages = [*TAKEN, market(BUY, size=14, id=9, owner=0), limit(SELL, price=102, size=9, id=5, owner=0, peak=4)]
    book, report = put(CONFIG, *messages)
    assert int(report.receipts.code[3]) == Code.ACCEPTED
    assert asks(book) == [(4, 1, "shown"), (5, 4, "shown"), (5, 5, "hidden")]


def test_the_sides_have_reserves_of_their_own():
    bids = [limit(BUY, price=90, size=5, id=10 + k, owner=0, peak=1) for k in range(3)]
    _, report = put(CONFIG, *TAKEN, *bids)
    assert report.receipts.code[:5].tolist() == [Code.ACCEPTED] * 4 + [Code.NO_RESERVE]


def test_post_only_icebergs_hide_too():
    book, _ = put(CONFIG, post_only(SELL, price=100, size=10, id=1, owner=1, peak=2))
    assert seen(book, 1) == (2, 8)


def test_an_iceberg_gives_way_on_a_full_side_with_all_it_hides():
    better = [limit(SELL, price=99, size=1, id=10 + k, owner=2) for k in range(CONFIG.slots)]
    book, report = put(CONFIG, ICEBERG, *better)
    assert asks(book) == [(10 + k, 1, "shown") for k in range(CONFIG.slots)]
    assert int(report.receipts.displaced[CONFIG.slots]) == 10
    assert report.volumes.displaced.tolist() == [0, 10, 0, 0]


def test_an_iceberg_that_is_no_better_than_a_full_side_gives_way_whole():
    better = [limit(SELL, price=99, size=1, id=10 + k, owner=2) for k in range(CONFIG.slots)]
    book, report = put(CONFIG, *better, ICEBERG)
    assert asks(book) == [(10 + k, 1, "shown") for k in range(CONFIG.slots)]
    assert int(report.receipts.rested[CONFIG.slots]) == 0
    assert report.volumes.displaced.tolist() == [0, 10, 0, 0]


def test_cancel_oldest_takes_the_part_it_reaches_and_the_reserve_shows_its_next_peak():
    mine = limit(BUY, price=100, size=2, id=9, owner=1, self_trade=SelfTrade.CANCEL_OLDEST)
    book, report = put(CONFIG, ICEBERG, PLAIN, mine)
    assert trades(report) == [(2, 2, 1)]
    assert int(report.receipts.prevented[2]) == 2
    assert asks(book) == [(2, 1, "shown"), (1, 2, "shown"), (1, 6, "hidden")]


def test_cancel_newest_stops_at_a_reserve_too():
    mine = limit(BUY, price=100, size=9, id=9, owner=1, self_trade=SelfTrade.CANCEL_NEWEST)
    messages = [PLAIN, limit(SELL, price=100, size=9, id=4, owner=3, peak=1), mine]
    book, report = put(CONFIG, *messages, limit(SELL, price=99, size=9, id=5, owner=1, peak=2))
    assert int(report.receipts.traded[2]) == 9
    stops = limit(BUY, price=100, size=9, id=19, owner=1, self_trade=SelfTrade.CANCEL_NEWEST)
    after, report = put(CONFIG, stops, book=book)
    assert int(report.trades.count) == 0
    assert int(report.receipts.cancelled[0]) == 9
    np.testing.assert_array_equal(lines(after, PARTS), lines(book, PARTS))


def test_a_book_without_reserves_refuses_icebergs():
    book, report = put(BARE, ICEBERG, PLAIN)
    assert report.receipts.code[:2].tolist() == [Code.NO_RESERVE, Code.ACCEPTED]
    assert lines(book, BARE.slots)[1, :, 0].tolist() == [2, 0, 0, 0]
