"""What a book went through, message by message, and every order that rested in it at chosen moments.

A book is a function of what it was told, so a film needs no more than that: the messages are put to the same book once
more, and after each of them one looks. It does not matter who wrote them, a flow, a record or agents.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from marljax.data.schema import InputError
from marljax.lob.matching import process
from marljax.lob.snapshot import remaining
from marljax.lob.types import FAR, Book, BookConfig, Kind, Messages


class Told(NamedTuple):
    """What a book was told, in B blocks of n messages as they met it; `Kind.NOTHING` is padding."""

    book: Book  # before the first
    config: BookConfig
    messages: Messages  # [B, n]
    seconds: np.ndarray  # float64[B, n] since the start, never decreasing


@dataclasses.dataclass(frozen=True)
class Film:
    """N messages, K trades, and B + 1 shots of the whole book: one before the first block and one after each."""

    seconds: np.ndarray  # float64[N] of each message since the start
    touch: np.ndarray  # float64[N, 2] ticks, best bid and ask after it, NaN where a side is empty
    quotes: np.ndarray  # float64[N, owners - 1, 2] ticks, the best displayed order of each agent, NaN where it has none
    trade_message: np.ndarray  # int64[K] the message that traded
    trade_side: np.ndarray  # int64[K] BUY or SELL, of the incoming order
    trade_price: np.ndarray  # int64[K] ticks
    trade_size: np.ndarray  # int64[K] lots
    trade_maker: np.ndarray  # int64[K] owner of the resting order
    trade_taker: np.ndarray  # int64[K] owner of the incoming order
    shot_seconds: np.ndarray  # float64[B + 1] since the start
    shot_messages: np.ndarray  # int64[B + 1] messages until then
    orders: list[np.ndarray]  # B + 1 times int64[orders, 4]: side (0 bids, 1 asks), ticks, displayed lots, owner; each
    # side in order of priority


def record(told: Told) -> Film:
    """The film of a book. Raises InputError where it was told nothing."""
    # No message can trade with more orders than rest.
    config = dataclasses.replace(told.config, trades=told.config.slots)
    touch, trades, books = jax.tree.map(np.asarray, _replay(told.book, told.messages, config))
    kind = np.asarray(told.messages.kind)
    real = kind.ravel() != Kind.NOTHING
    if not real.any():
        raise InputError("there is nothing to see: not one message reached the book")
    rank = np.cumsum(real) - 1
    row, at = np.nonzero(np.arange(config.trades) < trades.count.reshape(-1, 1))
    flat = {name: getattr(trades, name).reshape(len(real), -1)[row, at].astype(np.int64) for name in _TRADE}
    quotes = np.where(touch < FAR, touch * np.array([-0.5, 0.5]), np.nan).reshape(len(real), -1, 2)[real]
    return Film(
        seconds=told.seconds.ravel()[real],
        touch=quotes[:, 0],
        quotes=quotes[:, 1:],
        trade_message=rank[row],
        trade_side=flat["side"],
        trade_price=flat["price"],
        trade_size=flat["size"],
        trade_maker=flat["maker_owner"],
        trade_taker=flat["taker_owner"],
        shot_seconds=np.append(0.0, told.seconds[:, -1]),
        shot_messages=np.append(0, np.cumsum((kind != Kind.NOTHING).sum(1))),
        orders=[_orders(jax.tree.map(np.asarray, told.book)), *(_orders(_row(books, b)) for b in range(len(kind)))],
    )


_TRADE = ("side", "price", "size", "maker_owner", "taker_owner")


@functools.partial(jax.jit, static_argnames="config")
def _replay(book: Book, messages: Messages, config: BookConfig) -> Any:
    """Best keys int32[B, n, owners, 2] (of the whole book in the place of owner 0), trades [B, n, ...], books [B]."""

    def one(book: Book, message: Messages) -> Any:
        book, report = process(book, jax.tree.map(lambda x: x[None], message), config)
        return book, (_best_keys(book, config), report.trades)

    def block(book: Book, messages: Messages) -> Any:
        book, seen = lax.scan(one, book, messages)
        return book, (*seen, book)

    return lax.scan(block, book, messages)[1]


def _best_keys(book: Book, config: BookConfig) -> jax.Array:
    shown = jnp.where((remaining(book) > 0) & (book.key & 1 == 0), book.key, FAR)
    owner = jnp.arange(config.owners)[:, None, None]
    return jnp.min(jnp.where((owner == 0) | (book.owner == owner), shown, FAR), axis=-1)


def _orders(book: Book) -> np.ndarray:
    lots = np.where((book.end > book.consumed[:, None]) & (book.key & 1 == 0), book.size, 0)
    side, slot = np.nonzero(lots)
    order = np.lexsort((book.end[side, slot], side))
    side, slot = side[order], slot[order]
    price = (book.key[side, slot] >> 1) * np.where(side == 0, -1, 1)
    return np.stack([side, price, lots[side, slot], book.owner[side, slot]], axis=1).astype(np.int64)


def _row(books: Book, block: int) -> Book:
    return jax.tree.map(lambda x: x[block], books)
