"""Nothing is lost: every owner's volume and money is accounted for, whatever is put to a book."""

import jax
import numpy as np
import pytest

from marljax.lob.matching import empty, process
from marljax.lob.messages import limit
from marljax.lob.types import BUY, MAX_MESSAGES, MAX_PRICE, MAX_SIZE, SELL, Book, BookConfig, Messages, Report
from tests.reference.order_book_runs import MESSAGE, lines, plain_book, random_run

OWNERS = 4
BLOCK = 32
ICEBERGS = False


def resting(config: BookConfig, book: Book) -> np.ndarray:
    """int[..., owners] lots in the book."""
    rows = lines(book, config.slots + config.reserves)
    size, owner = rows[..., 2, None], rows[..., 3, None]
    return np.where(owner == np.arange(config.owners), size, 0).sum((-3, -2))


def money(report: Report) -> np.ndarray:
    """int64[..., role, bought or sold, owners] lots x ticks."""
    value = report.turnover.value
    return np.asarray(value.high).astype(np.int64) * 2**24 + np.asarray(value.low)


def run(config: BookConfig, seeds: int, n: int) -> tuple[np.ndarray, Report]:
    """int[seeds, blocks + 1, owners] lots resting before, between and after blocks, and the reports of these."""
    made = np.stack([random_run(seed, plain_book(config), n, BLOCK, ICEBERGS)[0] for seed in range(500, 500 + seeds)])
    blocks = made.reshape(seeds, -1, BLOCK, len(MESSAGE))

    def block(book, messages):
        book, report = process(book, messages, config)
        return book, (book, report)

    messages = Messages(*(blocks[..., i] for i in range(len(MESSAGE))))
    books, reports = jax.jit(jax.vmap(lambda m: jax.lax.scan(block, empty(config), m)[1]))(messages)
    after = resting(config, books)
    return np.concatenate([np.zeros_like(after[:, :1]), after], 1), jax.tree.map(np.asarray, reports)


@pytest.fixture(scope="module")
def crowded() -> tuple[np.ndarray, Report]:
    return run(BookConfig(slots=4, owners=OWNERS, trades=32, reserves=2 * ICEBERGS), seeds=16, n=640)


def test_added_is_resting_traded_cancelled_or_displaced_for_each_owner(crowded):
    lots, report = crowded
    volumes, traded = report.volumes, report.turnover.lots.sum((-3, -2))
    assert (volumes.displaced.sum((0, 1)) > 100).all()
    np.testing.assert_array_equal(
        lots[:, :-1] + volumes.added, lots[:, 1:] + traded + volumes.cancelled + volumes.displaced
    )


def test_what_is_bought_is_sold_at_the_same_value_by_the_other_role(crowded):
    _, report = crowded
    for amounts in (report.turnover.lots, money(report)):
        bought, sold = amounts.sum(-1)[:, :, :, 0], amounts.sum(-1)[:, :, :, 1]
        assert bought.sum() > 5_000
        np.testing.assert_array_equal(bought[..., 0], sold[..., 1])
        np.testing.assert_array_equal(bought[..., 1], sold[..., 0])


def test_turnover_is_the_sum_of_the_trades_of_each_owner(crowded):
    _, report = crowded
    trades = report.trades
    whole = trades.overflow == 0
    assert whole.mean() > 0.5
    for role, owner, buyer in ((0, trades.maker_owner, SELL), (1, trades.taker_owner, BUY)):
        for column, is_column in ((0, trades.side == buyer), (1, trades.side == -buyer)):
            for number in range(OWNERS):
                size = np.where(is_column & (owner == number), trades.size, 0)
                np.testing.assert_array_equal(
                    size.sum(-1)[whole], report.turnover.lots[..., role, column, number][whole]
                )
                value = (size.astype(np.int64) * trades.price).sum(-1)
                np.testing.assert_array_equal(value[whole], money(report)[..., role, column, number][whole])


def test_receipts_add_up_to_volumes_and_trades(crowded):
    _, report = crowded
    receipts, volumes = report.receipts, report.volumes
    cancelled = receipts.cancelled + receipts.prevented
    np.testing.assert_array_equal(cancelled.sum(-1), volumes.cancelled.sum(-1))
    np.testing.assert_array_equal(receipts.displaced.sum(-1), volumes.displaced.sum(-1))
    np.testing.assert_array_equal(receipts.traded.sum(-1), report.turnover.lots[..., 1, :, :].sum((-2, -1)))
    np.testing.assert_array_equal((receipts.displaced > 0), receipts.displaced_owner >= 0)


@pytest.mark.parametrize("price", [MAX_PRICE - 1, 1 - MAX_PRICE])
def test_value_is_exact_where_every_message_is_of_the_largest_size_at_the_farthest_price(price):
    config = BookConfig(slots=MAX_MESSAGES, owners=2, trades=MAX_MESSAGES)
    makers = [limit(SELL, price, MAX_SIZE, id=id, owner=0) for id in range(MAX_MESSAGES // 2)]
    takers = [limit(BUY, price, MAX_SIZE, id=1000 + id, owner=1) for id in range(MAX_MESSAGES // 2)]
    block = jax.tree.map(lambda *x: np.stack(x), *makers, *makers)
    block = block.replace(id=np.arange(MAX_MESSAGES, dtype=np.int32))
    book, _ = _processed(empty(config), block, config)
    assert resting(config, book).tolist() == [MAX_MESSAGES * MAX_SIZE, 0]
    block = jax.tree.map(lambda *x: np.stack(x), *takers, *takers)
    block = block.replace(id=np.arange(MAX_MESSAGES, dtype=np.int32) + 1000)
    book, report = _processed(book, block, config)
    assert resting(config, book).tolist() == [0, 0]
    total = MAX_MESSAGES * MAX_SIZE
    assert report.turnover.lots.tolist() == [[[0, 0], [total, 0]], [[0, total], [0, 0]]]
    assert money(report).tolist() == [[[0, 0], [total * price, 0]], [[0, total * price], [0, 0]]]


_processed = jax.jit(process, static_argnums=2)
