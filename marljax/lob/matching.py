"""The matching engine: strict price-time priority, exact, without a loop over orders.

The volume resting on a side is a line in order of priority (see `Book`). An incoming order walks along the other side's
line: it only moves `consumed`, and everything it passed is filled, because the intervals say so. A new order is put
behind the last one of better or equal price, and every interval behind it moves back by its size; a cancelled one
lets them move forward. So one message is a few maxima over the slots and one addition, whatever it trades.

`apply` is a message from beginning to end: find the order it names or a slot for it, see how far it reaches, decide
(these in `decision.py`), and carry it out. Priority at a price is order of arrival, never a time stamp.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from marljax.lob import iceberg
from marljax.lob.accounting import Event, Piece, settle
from marljax.lob.decision import Change, Place, Slot, Walk, decide, find, largest_of_both, look, reach, sides, slots_of
from marljax.lob.lanes import zero_after
from marljax.lob.types import (
    MAX_MESSAGES,
    MAX_PRICE,
    Book,
    BookConfig,
    Code,
    Messages,
    Report,
    Reserves,
    SelfTrade,
)

_FEWEST, _ROW = 128, 32
"""Slots are padded to whole rows of vector registers; fewer than this many cost more, not less."""


def empty(config: BookConfig, lowest: int = 1 - MAX_PRICE, highest: int = MAX_PRICE - 1) -> Book:
    """A book without orders that takes prices from `lowest` to `highest` [ticks].

    Raises ValueError where that window is empty or reaches beyond +-MAX_PRICE.
    """
    if not -MAX_PRICE < lowest <= highest < MAX_PRICE:
        raise ValueError(f"a tick window lies within +-{MAX_PRICE - 1}, got {lowest}..{highest}")
    slots = max(_FEWEST, -(-(config.slots + config.reserves) // _ROW) * _ROW)
    nothing = jnp.zeros((2, slots), jnp.int32)
    unused = jnp.zeros((2, config.reserves), jnp.int32)
    reserves = Reserves(unused, unused) if config.reserves else None
    bound = jnp.asarray([lowest, highest], jnp.int32)
    zero = jnp.zeros(2, jnp.int32)
    return Book(nothing, nothing, nothing, nothing, nothing, zero, reserves, bound[0], bound[1])


def process(
    book: Book,
    messages: Any,
    config: BookConfig,
    respond: Callable[[Book, Any], Messages] | None = None,
) -> tuple[Book, Report]:
    """Put a block of messages to the book, in order.

    Args:
        book: as it stands.
        messages: Messages with a leading axis M <= MAX_MESSAGES; with `respond`, any pytree with one.
        config: that of the book.
        respond: makes the message of a row from the book as the message finds it and the row.

    Returns:
        The book after the last message, and what happened.
    """
    count = jax.tree.leaves(messages)[0].shape[0]
    if not 1 <= count <= MAX_MESSAGES:
        raise ValueError(f"a block holds 1..{MAX_MESSAGES} messages, got {count}")

    def step(book: Book, row: Any) -> tuple[Book, tuple[Messages | None, Event]]:
        message = row if respond is None else respond(book, row)
        book, event = apply(book, message, config)
        return book, (None if respond is None else message, event)

    book, (made, events) = lax.scan(step, rebased(book), messages)
    return book, settle(book, messages if made is None else made, events, config)


def rebased(book: Book) -> Book:
    """The same orders with coordinates counted from what has been consumed, and nothing left of dead ones."""
    alive = book.end > book.consumed[:, None]
    return dataclasses.replace(
        book,
        end=jnp.where(alive, book.end - book.consumed[:, None], 0),
        size=jnp.where(alive, book.size, 0),
        consumed=jnp.zeros_like(book.consumed),
    )


def apply(book: Book, message: Messages, config: BookConfig) -> tuple[Book, Event]:
    """Put one message to the book, within a block that `rebased` began and `settle` ends.

    Args:
        book: as the message finds it.
        message: scalars.
        config: that of the book.

    Returns:
        The book after it, and the event that `settle` accounts for.
    """
    place = find(book, message, config)
    walk = reach(book, message, place)
    change = decide(book, message, place, walk, config)
    return carry_out(book, message, place, walk, change, config)


def carry_out(
    book: Book, message: Messages, place: Place, walk: Walk, change: Change, config: BookConfig
) -> tuple[Book, Event]:
    index, own, slot = slots_of(book), place.own, place.slot
    is_own = sides() == own
    stop, shows = change.stop, change.shows
    consumed = book.consumed[own]
    inserted = change.enters > 0
    unhidden = jnp.minimum(change.removed, place.reserve.size)
    withdrawn = change.removed - unhidden
    base = walk.queue_end - jnp.where(slot.end <= walk.queue_end, withdrawn, 0)
    remains_at = jnp.where(withdrawn == place.displayed, consumed, slot.end - withdrawn)

    # The order on the other side at which it stopped half way is cut in two: what traded is gone.
    cut_at = largest_of_both(jnp.where(~is_own & (book.end > stop) & (book.end - stop < book.size), index, -1))
    cut = look(book, cut_at)
    clears = (change.code == Code.ACCEPTED) & (message.self_trade == SelfTrade.CANCEL_OLDEST)
    cleared = ~is_own & (walk.mine > 0) & (walk.ends - jnp.where(clears, stop, -1) < walk.mine)

    write_at = jnp.where(inserted | (withdrawn > 0), slot.at, -1)
    insert_at = jnp.where(inserted, slot.at, -1)
    then = zero_after(*slot, *cut)
    size = jnp.where(cleared, 0, book.size)
    size = jnp.where(index == cut.at + then, cut.end - stop, size)
    size = jnp.where(index == write_at + then, jnp.where(inserted, shows, slot.size - withdrawn), size)
    then = zero_after(size[0, 0])
    end = book.end - jnp.where(is_own & (book.end >= slot.end + then), withdrawn, 0)
    end = end + jnp.where(is_own & (end > base), shows, 0)
    end = jnp.where(index == write_at + then, jnp.where(inserted, base + shows, remains_at), end)
    then = zero_after(end[0, 0])
    key = jnp.where(index == insert_at + then, walk.key, book.key)
    then = zero_after(key[0, 0])
    id_ = jnp.where(index == insert_at + then, message.id, book.id)
    then = zero_after(id_[0, 0])
    owner = jnp.where(index == insert_at + then, message.owner, book.owner)
    after = dataclasses.replace(
        book, key=key, end=end, size=size, id=id_, owner=owner, consumed=jnp.where(is_own[:, 0], consumed, stop)
    )

    reserve_overwritten = reshown = None
    if config.reserves:
        hides = change.enters - shows
        after, reserve_overwritten = iceberg.store(
            after, message, own, walk.key, slot.at, place.reserve, unhidden, hides, config
        )
        after, reshown = iceberg.show(after, 1 - own, config)
    names_only = place.names & ~walk.takes & (change.code == Code.ACCEPTED)
    newcomer = change.gives_way & (change.rest > 0)
    victim = jnp.where(change.evicted > 0, slot.owner, -1)
    event = Event(
        code=change.code,
        traded=change.traded,
        rested=jnp.where(names_only, place.remaining - change.removed, change.enters),
        cancelled=jnp.where(place.names, change.removed, 0) + change.left - change.rest,
        prevented=change.prevented,
        displaced=jnp.where(change.gives_way, change.rest, change.evicted),
        displaced_owner=jnp.where(newcomer, message.owner, victim),
        added=jnp.where(change.code == Code.ACCEPTED, walk.wanted, 0),
        own=own,
        consumed=after.consumed,
        overwritten=_piece(slot, jnp.where(inserted & (place.displayed == 0), slot.size, 0), jnp.zeros_like(stop)),
        cut=_piece(cut, jnp.where(cut.at >= 0, stop - cut.end + cut.size, 0), cut.end - stop),
        reserve_overwritten=reserve_overwritten,
        reshown=reshown,
    )
    return after, event


def _piece(slot: Slot, length: jax.Array, left: jax.Array) -> Piece:
    return Piece(key=slot.key, start=slot.end - slot.size, length=length, id=slot.id, owner=slot.owner, left=left)
