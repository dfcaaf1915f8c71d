"""Icebergs: orders that show `peak` lots at a time and keep the rest in reserve.

The rule is that of reserve orders at Nasdaq (rule 4703(h)): what is displayed at a price has priority over what is
hidden there. So a reserve is an order of its own in the line, half a tick behind its price (an odd `key`), in one of
the slots behind those of displayed orders. An incoming order meets it when nothing displayed is left at the price. When
it is done, every reserve whose displayed part is gone shows a new one, at the back of what is displayed at the price.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from marljax.lob.accounting import Piece
from marljax.lob.lanes import largest, total
from marljax.lob.types import Book, BookConfig, Messages, Reserves


class Reserve(NamedTuple):
    """The reserve of a displayed order, and the slot for a new one. Scalars, int32; -1 is no slot."""

    at: jax.Array
    size: jax.Array
    vacant_at: jax.Array


def none() -> Reserve:
    """For a book that keeps no reserves."""
    nothing = jnp.zeros((), jnp.int32)
    return Reserve(at=nothing - 1, size=nothing, vacant_at=nothing - 1)


def behind(book: Book, own: jax.Array, shown_at: jax.Array, replaced: jax.Array, config: BookConfig) -> Reserve:
    """The reserve of the order displayed in slot `shown_at` (both sides laid end to end) of side `own`.

    Where `replaced`, that order makes room for another, and so does its reserve.
    """
    part = slice(config.slots, config.slots + config.reserves)
    slot = own * book.end.shape[-1] + config.slots + jnp.arange(config.reserves)
    alive = book.end[own, part] > book.consumed[own]
    linked = alive & (_reserves(book).shown[own] == shown_at)
    at = jnp.max(jnp.where(linked, slot, -1))
    vacant_at = jnp.max(jnp.where(alive, -1, slot))
    return Reserve(
        at=at,
        size=jnp.sum(jnp.where(linked, book.size[own, part], 0)),
        vacant_at=jnp.where(replaced & (at >= 0), at, vacant_at),
    )


def store(
    book: Book,
    message: Messages,
    own: jax.Array,
    key: jax.Array,
    shown_at: jax.Array,
    reserve: Reserve,
    removed: jax.Array,
    hides: jax.Array,
    config: BookConfig,
) -> tuple[Book, Piece]:
    """Take `removed` lots from a reserve, then put `hides` lots into a new one. All else of the message is done.

    Args:
        book: in which the displayed part of the message's order already stands.
        message: whose order it is.
        own: int32[] its side, 0 or 1.
        key: int32[] of the displayed part.
        shown_at: int32[] slot of the displayed part, both sides laid end to end.
        reserve: of the order in focus, as it was before the message.
        removed: int32[] lots, at most `reserve.size`.
        hides: int32[] lots, 0 where nothing is hidden.
        config: that of the book.

    Returns:
        The book, and the traded reserve whose slot was taken.
    """
    n_slots = book.end.shape[-1]
    index = jnp.arange(2 * n_slots, dtype=jnp.int32).reshape(2, n_slots)
    mine = jnp.arange(2, dtype=jnp.int32)[:, None] == own
    consumed = book.consumed[own]

    taken = index == jnp.where(removed > 0, reserve.at, -1)
    here = jnp.max(largest(jnp.where(taken, book.end, 0)))
    end = book.end - jnp.where(mine & (book.end >= here), removed, 0)
    end = jnp.where(taken & (removed == reserve.size), consumed, end)
    size = book.size - jnp.where(taken, removed, 0)

    new = index == jnp.where(hides > 0, reserve.vacant_at, -1)

    def old(field: jax.Array) -> jax.Array:
        return jnp.sum(total(jnp.where(new, field, 0)))

    dead = old(end) <= consumed
    overwritten = Piece(
        key=old(book.key),
        start=old(end) - old(size),
        length=jnp.where(dead, old(size), 0),
        id=old(book.id),
        owner=old(book.owner),
        left=jnp.zeros_like(own),
    )
    base = jnp.maximum(jnp.max(largest(jnp.where(mine & (book.key <= key + 1), end, 0))), consumed)
    end = end + jnp.where(mine & (end > base), hides, 0)
    reserves = _reserves(book)
    row = new[:, config.slots : config.slots + config.reserves]
    after = dataclasses.replace(
        book,
        key=jnp.where(new, key + 1, book.key),
        end=jnp.where(new, base + hides, end),
        size=jnp.where(new, hides, size),
        id=jnp.where(new, message.id, book.id),
        owner=jnp.where(new, message.owner, book.owner),
        reserves=Reserves(
            peak=jnp.where(row, message.peak, reserves.peak),
            shown=jnp.where(row, shown_at, reserves.shown),
        ),
    )
    return after, overwritten


def show(book: Book, other: jax.Array, config: BookConfig) -> tuple[Book, Piece]:
    """Let the reserves of side `other` show new parts, after a message traded with it.

    They are all at one price, that at which the message stopped: at better ones nothing is left, and at worse ones
    nothing was taken.

    Returns:
        The book, and the traded displayed parts that are replaced, int32[reserves].
    """
    n_slots = book.end.shape[-1]
    index = jnp.arange(2 * n_slots, dtype=jnp.int32).reshape(2, n_slots)
    theirs = jnp.arange(2, dtype=jnp.int32)[:, None] == other
    part = slice(config.slots, config.slots + config.reserves)
    stop = book.consumed[other]
    end, size, key = book.end[other, part], book.size[other, part], book.key[other, part]
    reserves = _reserves(book)
    shown_at, peak = reserves.shown[other], reserves.peak[other]

    shown_end, shown_size = book.end.reshape(-1)[shown_at], book.size.reshape(-1)[shown_at]
    shows = (end > stop) & (shown_end <= stop)
    lots = jnp.where(shows, jnp.minimum(peak, size), 0)
    price = jnp.max(jnp.where(shows, key - 1, -(2**30)))
    base = jnp.maximum(jnp.max(largest(jnp.where(theirs & (book.key <= price), book.end, 0))), stop)
    before = jnp.sum(jnp.where(end[:, None] < end, lots[:, None], 0), 0)
    behind = jnp.sum(jnp.where(end[:, None] > end, lots[:, None], 0), 0)
    # What moves to the front of a reserve's price no longer stands before it, but behind it nothing changes.
    new_size = size - lots
    level = (end > stop) & (key == price + 1)
    new_end = jnp.where(level, jnp.where(new_size > 0, end + behind, stop), end)

    replaced = jnp.where(shows, shown_at, -1)
    all_end, all_size = book.end, book.size
    for reserve in range(config.reserves):
        fresh = index == replaced[reserve]
        all_end = jnp.where(fresh, base + before[reserve] + lots[reserve], all_end)
        all_size = jnp.where(fresh, lots[reserve], all_size)
        hidden = index == other * n_slots + config.slots + reserve
        all_end = jnp.where(hidden, new_end[reserve], all_end)
        all_size = jnp.where(hidden, new_size[reserve], all_size)
    pieces = Piece(
        key=key - 1,
        start=shown_end - shown_size,
        length=jnp.where(shows, shown_size, 0),
        id=book.id[other, part],
        owner=book.owner[other, part],
        left=jnp.zeros_like(lots),
    )
    return dataclasses.replace(book, end=all_end, size=all_size), pieces


def _reserves(book: Book) -> Reserves:
    assert book.reserves is not None
    return book.reserves
