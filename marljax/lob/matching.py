"""The matching engine: strict price-time priority, exact, without a loop over orders.

The volume resting on a side is a line in order of priority (see `Book`). An incoming order walks along the other side's
line: it only moves `consumed`, and everything it passed is filled, because the intervals say so. A new order is put
behind the last one of better or equal price, and every interval behind it moves back by its size; a cancelled one
lets them move forward. So one message is a few maxima over the slots and one addition, whatever it trades.

A message is read top to bottom in `apply`: find the order it names or a slot for it; see how far it reaches on the
other side; decide; trade; take away; put in. Priority at a price is order of arrival, never a time stamp.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from marljax.lob import iceberg
from marljax.lob.accounting import Event, Piece, settle
from marljax.lob.lanes import largest, total, zero_after
from marljax.lob.types import (
    MAX_MESSAGES,
    MAX_PRICE,
    MAX_SIZE,
    SELL,
    Book,
    BookConfig,
    Code,
    Kind,
    Messages,
    Report,
    Reserves,
    SelfTrade,
)

_FEWEST, _ROW = 128, 32
"""Slots are padded to whole rows of vector registers; fewer than this many cost more, not less."""
_FAR = 2**30
"""Beyond every key and every coordinate."""


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


class _Focus(NamedTuple):
    """The slot a message writes to: that of the order it names, or of the one it would replace. Scalars, int32."""

    at: jax.Array
    key: jax.Array
    end: jax.Array
    size: jax.Array
    id: jax.Array
    owner: jax.Array


def apply(book: Book, message: Messages, config: BookConfig) -> tuple[Book, Event]:
    """Put one message to the book, within a block that `rebased` began and `settle` ends.

    Args:
        book: as the message finds it.
        message: scalars.
        config: that of the book.

    Returns:
        The book after it, and the event that `settle` accounts for.
    """
    kind, price, size = message.kind, message.price, message.size
    n_slots = book.end.shape[-1]
    index = jnp.arange(2 * n_slots, dtype=jnp.int32).reshape(2, n_slots)
    sides = jnp.arange(2, dtype=jnp.int32)[:, None]
    alive = book.end > book.consumed[:, None]

    # The order that the message names, and the slot for a newcomer: a dead one, or else the last of the line.
    displayed = jnp.arange(n_slots) < config.slots
    named = alive & (book.id == message.id)
    named_at = _largest_of_both(jnp.where(named & displayed if config.reserves else named, index, -1))
    line_end = jnp.where(displayed, jnp.where(alive, book.end, _FAR), -1)
    last = largest(line_end)
    vacant_at = largest(jnp.where(line_end == last[:, None], index, -1))
    named_at, last, vacant_at = lax.optimization_barrier((named_at, last, vacant_at))
    known = named_at >= 0
    names = (kind == Kind.CANCEL) | (kind == Kind.MODIFY)
    own = jnp.where(names, named_at >= n_slots, message.side == SELL).astype(jnp.int32)
    focus = _look(book, jnp.where(names, named_at, vacant_at[own]))
    consumed, other_consumed = book.consumed[own], book.consumed[1 - own]
    occupied = focus.end > consumed
    displayed_lots = jnp.where(occupied, focus.size, 0)
    reserve = iceberg.behind(book, own, focus.at, names, config) if config.reserves else iceberg.none()
    remaining = displayed_lots + reserve.size

    # How far it can walk on the other side, and behind whom it would queue on its own.
    sign = 1 - 2 * own
    key = -sign * 2 * price
    limit = jnp.where(kind == Kind.MARKET, _FAR, sign * 2 * price + 1)
    within = book.key <= jnp.where(sides == own, key, limit)
    reach = jnp.maximum(largest(jnp.where(within, book.end, 0)), book.consumed)
    reach = lax.optimization_barrier(reach)
    queue_end, other_end = reach[own], reach[1 - own]

    # The owner's resting orders that it would meet.
    def other(field: jax.Array) -> jax.Array:
        return jnp.where(own == 0, field[1], field[0])

    rival = jnp.where(message.self_trade == SelfTrade.ALLOW, -1, message.owner)
    ends = other(book.end)
    mine = (other(book.owner) == rival) & (ends > other_consumed) & (ends <= other_end)
    lots = jnp.where(mine, other(book.size), 0)
    ends, lots = lax.optimization_barrier((ends, lots))
    first_mine = -largest(jnp.where(lots > 0, lots - ends, -_FAR))
    first_mine = lax.optimization_barrier(first_mine)

    shrinks = (kind == Kind.MODIFY) & (key == focus.key) & (size <= remaining)
    takes = ((kind >= Kind.LIMIT) & (kind <= Kind.POST_ONLY)) | ((kind == Kind.MODIFY) & ~shrinks)
    wanted = jnp.where(takes, jnp.clip(size, 0, MAX_SIZE), 0)
    halted = (message.self_trade == SelfTrade.CANCEL_NEWEST) & (first_mine < other_end)
    stop = jnp.minimum(other_consumed + wanted, jnp.where(halted, first_mine, other_end))
    clears = (message.self_trade == SelfTrade.CANCEL_OLDEST) & (first_mine < stop)
    stop, prevented = _walk_past(ends, lots, stop, clears, other_consumed + wanted, other_end)
    traded = stop - other_consumed - prevented

    # What is left of it queues.
    queues = (kind == Kind.LIMIT) | (kind == Kind.POST_ONLY) | (kind == Kind.MODIFY)
    left = wanted - traded
    rest = jnp.where(queues & ~halted, left, 0)
    splits = (message.peak > 0) & (rest > message.peak)

    homeless = splits & (reserve.vacant_at < 0)
    code = _verdict(message, book, config, known, focus, other_end > other_consumed, traded, homeless)
    accepted = code == Code.ACCEPTED
    stop = jnp.where(accepted, stop, other_consumed)
    traded, prevented, left, rest = (jnp.where(accepted, lots, 0) for lots in (traded, prevented, left, rest))

    # Where the side is full, the last of the line gives way, which may be the newcomer.
    full = occupied & ~names
    gives_way = full & (queue_end >= last[own])
    enters = jnp.where(gives_way, 0, rest)
    inserted = enters > 0
    shows = jnp.where(splits & inserted, message.peak, enters)
    asked = jnp.where(kind == Kind.CANCEL, jnp.minimum(size, remaining), remaining - jnp.where(shrinks, size, 0))
    evicted = jnp.where(inserted & full, remaining, 0)
    removed = jnp.where(accepted, jnp.where(names, asked, evicted), 0)
    unhidden = jnp.minimum(removed, reserve.size)
    withdrawn = removed - unhidden
    base = queue_end - jnp.where(focus.end <= queue_end, withdrawn, 0)

    # The order on the other side at which it stopped half way is cut in two: what traded is gone.
    cut_at = _largest_of_both(jnp.where((sides != own) & (book.end > stop) & (book.end - stop < book.size), index, -1))
    cut = _look(book, cut_at)

    write_at = jnp.where(inserted | (withdrawn > 0), focus.at, -1)
    insert_at = jnp.where(inserted, focus.at, -1)
    swept = jnp.where(accepted & (message.self_trade == SelfTrade.CANCEL_OLDEST), stop, -1)
    gone = (sides != own) & (lots > 0) & (ends - swept < lots)
    left_end = jnp.where(withdrawn == displayed_lots, consumed, focus.end - withdrawn)
    is_own = sides == own

    order = zero_after(*focus, *cut)
    new_size = jnp.where(gone, 0, book.size)
    new_size = jnp.where(index == cut_at + order, cut.end - stop, new_size)
    new_size = jnp.where(index == write_at + order, jnp.where(inserted, shows, focus.size - withdrawn), new_size)
    order = zero_after(new_size[0, 0])
    new_end = book.end - jnp.where(is_own & (book.end >= focus.end + order), withdrawn, 0)
    new_end = new_end + jnp.where(is_own & (new_end > base), shows, 0)
    new_end = jnp.where(index == write_at + order, jnp.where(inserted, base + shows, left_end), new_end)
    order = zero_after(new_end[0, 0])
    new_key = jnp.where(index == insert_at + order, key, book.key)
    order = zero_after(new_key[0, 0])
    new_id = jnp.where(index == insert_at + order, message.id, book.id)
    order = zero_after(new_id[0, 0])
    new_owner = jnp.where(index == insert_at + order, message.owner, book.owner)

    after = dataclasses.replace(
        book,
        key=new_key,
        end=new_end,
        size=new_size,
        id=new_id,
        owner=new_owner,
        consumed=jnp.where(sides[:, 0] == own, consumed, stop),
    )
    reserve_overwritten = reshown = None
    if config.reserves:
        after, reserve_overwritten = iceberg.store(
            after, message, own, key, focus.at, reserve, unhidden, enters - shows, config
        )
        after, reshown = iceberg.show(after, 1 - own, config)
    cut_start = cut.end - cut.size
    event = Event(
        code=code,
        traded=traded,
        rested=jnp.where(accepted & names & ~takes, remaining - removed, enters),
        cancelled=jnp.where(names, removed, 0) + left - rest,
        prevented=prevented,
        displaced=jnp.where(gives_way, rest, evicted),
        displaced_owner=jnp.where(gives_way & (rest > 0), message.owner, jnp.where(evicted > 0, focus.owner, -1)),
        added=jnp.where(accepted, wanted, 0),
        own=own,
        consumed=after.consumed,
        overwritten=Piece(
            key=focus.key,
            start=focus.end - focus.size,
            length=jnp.where(inserted & ~occupied, focus.size, 0),
            id=focus.id,
            owner=focus.owner,
            left=jnp.zeros_like(stop),
        ),
        cut=Piece(
            key=cut.key,
            start=cut_start,
            length=jnp.where(cut_at >= 0, stop - cut_start, 0),
            id=cut.id,
            owner=cut.owner,
            left=cut.end - stop,
        ),
        reserve_overwritten=reserve_overwritten,
        reshown=reshown,
    )
    return after, event


def _look(book: Book, at: jax.Array) -> _Focus:
    """What stands in slot `at` of both sides laid end to end; where `at` is negative, nothing that is used."""
    place = jnp.maximum(at, 0)
    fields = (book.key, book.end, book.size, book.id, book.owner)
    return _Focus(*lax.optimization_barrier((at, *(field.reshape(-1)[place] for field in fields))))


def _walk_past(
    ends: jax.Array, lots: jax.Array, stop: jax.Array, clears: jax.Array, goal: jax.Array, bound: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Where an order stops that cancels its owner's resting ones instead of trading with them.

    It stops at the first coordinate before which `goal` lots of others' stand: a fixed point, approached from below in
    as many rounds as own orders lie in its way. Almost always there are none, and nothing is done.

    Args:
        ends: int32[L] where the orders of the other side end.
        lots: int32[L] their sizes where they are the owner's, else 0.
        stop: int32[] where it stops if there are none.
        clears: bool[] whether there are any before that.
        goal: int32[] where it stops, but for them.
        bound: int32[] the furthest it can come.

    Returns:
        Where it stops, and the owner's lots before that. int32[] each.
    """

    def another(state: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        stop, _, _ = state
        passed = total(jnp.clip(stop - ends + lots, 0, lots))
        further = jnp.minimum(goal + passed, bound)
        return further, passed, further != stop

    stop, passed, _ = lax.while_loop(lambda state: state[2], another, (stop, jnp.zeros_like(stop), clears))
    return stop, passed


def _verdict(
    message: Messages,
    book: Book,
    config: BookConfig,
    known: jax.Array,
    focus: _Focus,
    crosses: jax.Array,
    traded: jax.Array,
    homeless: jax.Array,
) -> jax.Array:
    """int32[] the Code of a message."""
    kind = message.kind
    names = (kind == Kind.CANCEL) | (kind == Kind.MODIFY)
    priced = (kind != Kind.MARKET) & (kind != Kind.CANCEL)
    reasons = (
        ((kind < Kind.NOTHING) | (kind > Kind.MODIFY), Code.BAD_KIND),
        (~names & (jnp.abs(message.side) != 1), Code.BAD_SIDE),
        ((message.size < 1) | (message.size > MAX_SIZE) | (message.peak < 0), Code.BAD_SIZE),
        (priced & ((message.price < book.lowest) | (message.price > book.highest)), Code.BAD_PRICE),
        ((message.owner < 0) | (message.owner >= config.owners), Code.BAD_OWNER),
        ((message.self_trade < SelfTrade.ALLOW) | (message.self_trade > SelfTrade.CANCEL_NEWEST), Code.BAD_RULE),
        (~names & known, Code.DUPLICATE_ID),
        (names & ~known, Code.UNKNOWN_ID),
        (names & (focus.owner != message.owner), Code.NOT_OWNER),
        ((kind == Kind.POST_ONLY) & crosses, Code.WOULD_TRADE),
        ((kind == Kind.FILL_OR_KILL) & (traded < message.size), Code.UNFILLABLE),
        (homeless, Code.NO_RESERVE),
    )
    code = jnp.full((), Code.ACCEPTED, jnp.int32)
    for fails, reason in reversed(reasons):
        code = jnp.where(fails, reason, code)
    return jnp.where(kind == Kind.NOTHING, Code.ACCEPTED, code)


def _largest_of_both(x: jax.Array) -> jax.Array:
    """Maximum over the slots of both sides, int32[]."""
    return largest(jnp.maximum(x[0], x[1]))
