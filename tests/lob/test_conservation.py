"""Nothing is lost: every owner's volume and money is accounted for, whatever is put to a book."""

import jax
import numpy as np
import pytest

from marljax.lob.matching import empty, process
from marljax.lob.messages import limit
from marljax.lob.types import BUY, MAX_MESSAGES, MAX_PRICE, MAX_SIZE, SELL, BookConfig
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


@pytest.mark.parametrize("price", [MAX_PRICE - 1, 1 - MAX_PRICE])
def test_value_is_exact_where_every_message_is_of_the_largest_size_at_the_farthest_price(price):
    config = BookConfig(slots=MAX_MESSAGES, owners=2, trades=MAX_MESSAGES)
    total = MAX_MESSAGES * MAX_SIZE
    book = empty(config)
    for side, owner, resting in ((SELL, 0, total), (BUY, 1, 0)):
        one = limit(side, price, MAX_SIZE, id=0, owner=owner)
        block = jax.tree.map(lambda x: np.full(MAX_MESSAGES, x), one)
        block = block.replace(id=np.arange(MAX_MESSAGES, dtype=np.int32) + MAX_MESSAGES * owner)
        book, report = jax.jit(process, static_argnums=2)(book, block, config)
        assert lines(book, MAX_MESSAGES)[..., 2].sum() == resting
    value = np.asarray(report.turnover.value.high).astype(int) * 2**24 + np.asarray(report.turnover.value.low)
    assert report.turnover.lots.tolist() == [[[0, 0], [total, 0]], [[0, total], [0, 0]]]
    assert value.tolist() == [[[0, 0], [total * price, 0]], [[0, total * price], [0, 0]]]
