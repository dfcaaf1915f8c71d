"""Nothing is lost: every owner's volume and money is accounted for, whatever is put to a book."""

import jax
import numpy as np
import pytest

from marljax.lob.matching import empty, process
from marljax.lob.messages import limit, market, nothing
from marljax.lob.types import BUY, MAX_MESSAGES, MAX_PRICE, MAX_SIZE, SELL, BookConfig, Messages, SelfTrade
from tests.reference.order_book_runs import (
    RECEIPT,
    TRADE,
    History,
    engine_histories,
    lines,
    plain_book,
    random_run,
)

CONFIG = BookConfig(slots=3, owners=4, trades=64, reserves=2)
BLOCK = 32


@pytest.fixture(scope="module")
def crowded() -> list[History]:
    """What the engine says of books that are often full, and of their icebergs."""
    made = np.stack([random_run(seed, plain_book(CONFIG), 800, BLOCK)[0] for seed in range(500, 516)])
    return engine_histories(CONFIG, empty(CONFIG), made, BLOCK)


def by_owner(line: np.ndarray) -> np.ndarray:
    """int[..., owners] lots in the book, of int[..., 2, parts, PART]."""
    size, owner = line[..., 2, None], line[..., 3, None]
    return np.where(owner == np.arange(CONFIG.owners), size, 0).sum((-3, -2))


def test_added_is_resting_traded_cancelled_or_displaced_for_each_owner(crowded):
    for history in crowded:
        after = by_owner(history.lines[BLOCK - 1 :: BLOCK])
        before = np.concatenate([np.zeros_like(after[:1]), after[:-1]])
        added, cancelled, displaced = np.moveaxis(history.volumes, 1, 0)
        traded = history.lots.sum((1, 2))
        np.testing.assert_array_equal(before + added, after + traded + cancelled + displaced)
        assert min(lots.sum(0).min() for lots in (added, cancelled, displaced, traded, after)) > 20


def test_what_is_bought_is_sold_at_the_same_value_by_the_other_role(crowded):
    for history in crowded:
        for amounts in (history.lots, history.value):
            (resting_bought, resting_sold), (incoming_bought, incoming_sold) = np.moveaxis(amounts.sum(-1), 0, -1)
            np.testing.assert_array_equal(resting_bought, incoming_sold)
            np.testing.assert_array_equal(resting_sold, incoming_bought)
        assert history.lots.sum() > 500


def test_turnover_is_the_sum_of_the_trades_of_each_owner(crowded):
    column = TRADE.index
    for history in crowded:
        assert history.count.max() <= CONFIG.trades, "the record holds every trade"
        lots, value = np.zeros_like(history.lots), np.zeros_like(history.value)
        for trade in history.trades:
            message, side, price, size = trade[:4]
            for role, owner, bought in ((0, "maker_owner", side == SELL), (1, "taker_owner", side == BUY)):
                place = message // BLOCK, role, 0 if bought else 1, trade[column(owner)]
                lots[place] += size
                value[place] += size * price
        np.testing.assert_array_equal(history.lots, lots)
        np.testing.assert_array_equal(history.value, value)


def test_receipts_add_up_to_volumes_and_turnover(crowded):
    for history in crowded:
        of = dict(zip(RECEIPT, history.receipts.T.reshape(len(RECEIPT), -1, BLOCK), strict=True))
        _, cancelled, displaced = np.moveaxis(history.volumes.sum(-1), 1, 0)
        np.testing.assert_array_equal((of["cancelled"] + of["prevented"]).sum(-1), cancelled)
        np.testing.assert_array_equal(of["displaced"].sum(-1), displaced)
        np.testing.assert_array_equal(of["traded"].sum(-1), history.lots[:, 1].sum((1, 2)))
        np.testing.assert_array_equal(of["displaced"] > 0, of["displaced_owner"] >= 0)


WIDE = BookConfig(slots=MAX_MESSAGES, owners=2, trades=MAX_MESSAGES)
processed = jax.jit(process, static_argnums=2)


def filled_block(*messages: Messages) -> Messages:
    """int32[MAX_MESSAGES] with padding behind the messages."""
    return jax.tree.map(lambda *x: np.stack(x), *messages, *[nothing()] * (MAX_MESSAGES - len(messages)))


@pytest.mark.parametrize("price", [MAX_PRICE - 1, 1 - MAX_PRICE])
def test_value_is_exact_where_every_message_is_of_the_largest_size_at_the_farthest_price(price):
    total = MAX_MESSAGES * MAX_SIZE
    book = empty(WIDE)
    for side, owner, resting in ((SELL, 0, total), (BUY, 1, 0)):
        ids = range(MAX_MESSAGES * owner, MAX_MESSAGES * (owner + 1))
        block = filled_block(*(limit(side, price, MAX_SIZE, id=id, owner=owner) for id in ids))
        book, report = processed(book, block, WIDE)
        assert lines(book, MAX_MESSAGES)[..., 2].sum() == resting
    value = np.asarray(report.turnover.value.high).astype(int) * 2**24 + np.asarray(report.turnover.value.low)
    assert report.turnover.lots.tolist() == [[[0, 0], [total, 0]], [[0, total], [0, 0]]]
    assert value.tolist() == [[[0, 0], [total * price, 0]], [[0, total * price], [0, 0]]]


def test_trades_stay_in_their_order_however_much_an_owner_cancels_of_its_own():
    """More than 2**23 lots in one block, which no block could trade."""
    own = [limit(SELL, 100, MAX_SIZE, id=id, owner=1) for id in range(MAX_MESSAGES - 1)]
    book, _ = processed(empty(WIDE), filled_block(*own, limit(SELL, 101, 5, id=200, owner=0)), WIDE)

    def sweep(id: int) -> Messages:
        return limit(BUY, 101, 1, id=id, owner=1, self_trade=SelfTrade.CANCEL_OLDEST)

    more = [limit(SELL, 100, MAX_SIZE, id=id, owner=1) for id in (201, 202)]
    bid = limit(BUY, 50, 5, id=203, owner=0)
    book, report = processed(book, filled_block(bid, sweep(301), *more, sweep(302), market(SELL, 1, 303, 1)), WIDE)
    assert report.receipts.prevented[:5].tolist() == [0, (MAX_MESSAGES - 1) * MAX_SIZE, 0, 0, 2 * MAX_SIZE]
    assert int(report.trades.count) == 3
    assert report.trades.taker[:3].tolist() == [301, 302, 303]
    assert report.trades.maker[:3].tolist() == [200, 200, 203]
    assert report.trades.maker_left[:3].tolist() == [4, 3, 4]
