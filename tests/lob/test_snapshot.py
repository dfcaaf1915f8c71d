"""What can be seen of a book is what the plain book holds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marljax.lob.matching import empty
from marljax.lob.messages import limit, market
from marljax.lob.snapshot import levels, order, touch
from marljax.lob.types import BUY, SELL, Messages
from tests.reference.order_book import Message, OrderBook
from tests.reference.order_book_runs import CONFIG, plain_book, put, random_run


def level_list(book: OrderBook, side: int, depth: int) -> list[tuple[int, int]]:
    displayed: dict[int, int] = {}
    for part in book.parts[side]:
        if not part.hidden:
            displayed[part.price] = displayed.get(part.price, 0) + part.size
    return (list(displayed.items()) + [(0, 0)] * depth)[:depth]


def test_levels_touch_and_orders_are_those_of_the_plain_book():
    seen = jax.jit(lambda book, ids: (levels(book, 3), touch(book), jax.vmap(lambda id: order(book, id))(ids)))
    found_orders = 0
    for seed in range(12):
        plain = plain_book(CONFIG)
        made, _ = random_run(seed, plain_book(CONFIG), 96, 16)
        book = empty(CONFIG)
        for start in range(0, 96, 16):
            rows = made[start : start + 16]
            singles = [Messages(*(jnp.int32(x) for x in row)) for row in rows.tolist()]
            book, _ = put(CONFIG, *singles, book=book)
            for row in rows.tolist():
                plain.put(Message(*row))
            resting = [part.id for parts in plain.parts.values() for part in parts]
            ids = (resting + [-5] * 24)[:24]
            ladder, best, orders = jax.tree.map(np.asarray, seen(book, jnp.array(ids, jnp.int32)))
            bids, asks = level_list(plain, BUY, 3), level_list(plain, SELL, 3)
            assert list(zip(ladder.bid_price.tolist(), ladder.bid_size.tolist(), strict=True)) == bids
            assert list(zip(ladder.ask_price.tolist(), ladder.ask_size.tolist(), strict=True)) == asks
            assert ((best.bid_price, best.bid_size), (best.ask_price, best.ask_size)) == (bids[0], asks[0])
            for i, id in enumerate(ids):
                found = tuple(int(x[i]) for x in vars(orders).values())
                assert found == expected_order(plain, id)
                found_orders += found[0]
    assert found_orders > 200


def expected_order(book: OrderBook, id: int) -> tuple[int, ...]:
    """found, side, price, displayed, hidden, ahead, owner"""
    side, parts = book.find(id)
    if not parts:
        return (0,) * 7
    ahead = next(row[5] for row in book.line(side) if row[0] == id)
    hidden = sum(part.size for part in parts if part.hidden)
    return (1, side, parts[0].price, parts[0].size, hidden, ahead, parts[0].owner)


def test_an_empty_book_shows_nothing():
    for field in jax.tree.leaves((levels(empty(CONFIG), 2), touch(empty(CONFIG)), order(empty(CONFIG), jnp.int32(0)))):
        assert not np.any(np.asarray(field))


@pytest.mark.parametrize("id", [0, -1, 2**31 - 1, -(2**31)])
def test_an_order_is_found_by_any_id_and_gone_once_it_traded(id):
    book, _ = put(CONFIG, limit(SELL, -3, 4, id=id, owner=2))
    here = order(book, jnp.int32(id))
    assert (bool(here.found), int(here.side), int(here.price), int(here.owner)) == (True, SELL, -3, 2)
    book, _ = put(CONFIG, market(BUY, 4, id=55, owner=1), book=book)
    assert not bool(order(book, jnp.int32(id)).found)


def test_ahead_counts_better_prices_and_the_queue():
    messages = [limit(BUY, price, size, id=id, owner=1) for id, price, size in ((1, 9, 5), (2, 10, 3), (3, 9, 2))]
    book, _ = put(CONFIG, *messages)
    assert [int(order(book, jnp.int32(id)).ahead) for id in (1, 2, 3)] == [3, 0, 8]
