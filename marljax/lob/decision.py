"""What a message will do to the book, before anything is done: where it acts, how far it comes, what follows."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from marljax.lob import iceberg
from marljax.lob.lanes import largest, total
from marljax.lob.refusals import refusal
from marljax.lob.types import FAR, MAX_SIZE, SELL, Book, BookConfig, Code, Kind, Messages, SelfTrade


class Slot(NamedTuple):
    """A slot, and what stands in it. int32[] each."""

    at: jax.Array  # both sides laid end to end; negative for none, and then nothing else counts
    key: jax.Array
    end: jax.Array
    size: jax.Array
    id: jax.Array
    owner: jax.Array


class Place(NamedTuple):
    """Where a message acts on its own side. Scalars."""

    own: jax.Array  # int32[] its side, 0 or 1
    names: jax.Array  # bool[] whether it is about an order that rests
    known: jax.Array  # bool[] whether an order of its id rests
    slot: Slot  # of the order that it names, or else the one that a newcomer takes
    reserve: iceberg.Reserve  # of the order in that slot
    displayed: jax.Array  # int32[] lots there
    last: jax.Array  # int32[] end of the last displayed order, far away where a slot is free

    @property
    def remaining(self) -> jax.Array:
        return self.displayed + self.reserve.size


class Walk(NamedTuple):
    """How far an order comes on the other side, and where it would queue on its own. Scalars, int32 but for bools."""

    key: jax.Array  # of its price
    queue_end: jax.Array  # where the last order of better or equal price ends
    other_end: jax.Array  # where what it may trade with ends
    wanted: jax.Array  # lots
    stop: jax.Array  # where it stops
    prevented: jax.Array  # its owner's lots before that
    halted: jax.Array  # bool: an order of its owner stopped it
    takes: jax.Array  # bool: it comes to trade or to queue
    ends: jax.Array  # [L] where orders of the other side end
    mine: jax.Array  # [L] lots of its owner's among them that it may not trade with


class Change(NamedTuple):
    """What a message does. Scalars, int32 but for bools."""

    code: jax.Array
    stop: jax.Array  # where it stops on the other side
    traded: jax.Array  # lots
    prevented: jax.Array  # lots
    left: jax.Array  # lots that it did not trade
    rest: jax.Array  # of them, those to be queued
    gives_way: jax.Array  # bool: they are the worst of a full side
    enters: jax.Array  # lots that are queued
    shows: jax.Array  # of them, those displayed
    evicted: jax.Array  # lots of the last order, which gives way
    removed: jax.Array  # lots taken from the order in the slot, hidden ones first


def find(book: Book, message: Messages, config: BookConfig) -> Place:
    """The order that a message names, or the slot for a newcomer: a dead one, or else that of the last in the line."""
    index = slots_of(book)
    alive = book.end > book.consumed[:, None]
    displayed = jnp.arange(book.end.shape[-1]) < config.slots
    named = alive & (book.id == message.id)
    named_at = largest_of_both(jnp.where(named & displayed if config.reserves else named, index, -1))
    line_end = jnp.where(displayed, jnp.where(alive, book.end, FAR), -1)
    last = largest(line_end)
    vacant_at = largest(jnp.where(line_end == last[:, None], index, -1))
    named_at, last, vacant_at = lax.optimization_barrier((named_at, last, vacant_at))

    names = (message.kind == Kind.CANCEL) | (message.kind == Kind.MODIFY)
    own = jnp.where(names, named_at >= book.end.shape[-1], message.side == SELL).astype(jnp.int32)
    slot = look(book, jnp.where(names, named_at, vacant_at[own]))
    return Place(
        own=own,
        names=names,
        known=named_at >= 0,
        slot=slot,
        reserve=iceberg.behind(book, own, slot.at, names, config) if config.reserves else iceberg.none(),
        displayed=jnp.where(slot.end > book.consumed[own], slot.size, 0),
        last=last[own],
    )


def reach(book: Book, message: Messages, place: Place) -> Walk:
    """How far a message comes on the other side, if it is accepted."""
    kind, own = message.kind, place.own
    sign = 1 - 2 * own
    key = -sign * 2 * message.price
    limit = jnp.where(kind == Kind.MARKET, FAR, sign * 2 * message.price + 1)
    within = book.key <= jnp.where(sides() == own, key, limit)
    furthest = lax.optimization_barrier(jnp.maximum(largest(jnp.where(within, book.end, 0)), book.consumed))
    consumed, other_end = book.consumed[1 - own], furthest[1 - own]

    def other(field: jax.Array) -> jax.Array:
        return jnp.where(own == 0, field[1], field[0])

    rival = jnp.where(message.self_trade == SelfTrade.ALLOW, -1, message.owner)
    ends = other(book.end)
    met = (other(book.owner) == rival) & (ends > consumed) & (ends <= other_end)
    ends, mine = lax.optimization_barrier((ends, jnp.where(met, other(book.size), 0)))
    first_mine = lax.optimization_barrier(-largest(jnp.where(mine > 0, mine - ends, -FAR)))

    shrinks = (kind == Kind.MODIFY) & (key == place.slot.key) & (message.size <= place.remaining)
    takes = ((kind >= Kind.LIMIT) & (kind <= Kind.POST_ONLY)) | ((kind == Kind.MODIFY) & ~shrinks)
    wanted = jnp.where(takes, jnp.clip(message.size, 0, MAX_SIZE), 0)
    halted = (message.self_trade == SelfTrade.CANCEL_NEWEST) & (first_mine < other_end)
    stop = jnp.minimum(consumed + wanted, jnp.where(halted, first_mine, other_end))
    clears = (message.self_trade == SelfTrade.CANCEL_OLDEST) & (first_mine < stop)
    stop, prevented = _walk_past(ends, mine, stop, clears, consumed + wanted, other_end)
    return Walk(key, furthest[own], other_end, wanted, stop, prevented, halted, takes, ends, mine)


def decide(book: Book, message: Messages, place: Place, walk: Walk, config: BookConfig) -> Change:
    """Whether a message is accepted, and what follows from it."""
    kind = message.kind
    consumed = book.consumed[1 - place.own]
    queues = (kind == Kind.LIMIT) | (kind == Kind.POST_ONLY) | (kind == Kind.MODIFY)
    traded = walk.stop - consumed - walk.prevented
    left = walk.wanted - traded
    rest = jnp.where(queues & ~walk.halted, left, 0)
    splits = (message.peak > 0) & (rest > message.peak)

    code = refusal(
        message,
        book,
        config,
        known=place.known,
        owner=place.slot.owner,
        crosses=walk.other_end > consumed,
        traded=traded,
        homeless=splits & (place.reserve.vacant_at < 0),
    )
    accepted = code == Code.ACCEPTED
    stop = jnp.where(accepted, walk.stop, consumed)
    traded, prevented, left, rest = (jnp.where(accepted, x, 0) for x in (traded, walk.prevented, left, rest))

    # Where the side is full, the last of the line gives way, which may be the newcomer.
    full = (place.displayed > 0) & ~place.names
    gives_way = full & (walk.queue_end >= place.last)
    enters = jnp.where(gives_way, 0, rest)
    evicted = jnp.where((enters > 0) & full, place.remaining, 0)
    kept = jnp.where(walk.takes, 0, message.size)
    asked = jnp.where(kind == Kind.CANCEL, jnp.minimum(message.size, place.remaining), place.remaining - kept)
    return Change(
        code=code,
        stop=stop,
        traded=traded,
        prevented=prevented,
        left=left,
        rest=rest,
        gives_way=gives_way,
        enters=enters,
        shows=jnp.where(splits & (enters > 0), message.peak, enters),
        evicted=evicted,
        removed=jnp.where(accepted, jnp.where(place.names, asked, evicted), 0),
    )


def _walk_past(
    ends: jax.Array, mine: jax.Array, stop: jax.Array, clears: jax.Array, goal: jax.Array, bound: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Where an order stops that cancels its owner's resting ones instead of trading with them.

    It stops at the first coordinate before which `goal` lots of others' stand: a fixed point, approached from below in
    as many rounds as own orders lie in its way. Almost always there are none, and nothing is done.

    Args:
        ends: int32[L] where the orders of the other side end.
        mine: int32[L] their sizes where they are the owner's, else 0.
        stop: int32[] where it stops if there are none.
        clears: bool[] whether there are any before that.
        goal: int32[] where it stops, but for them.
        bound: int32[] the furthest it can come.

    Returns:
        Where it stops, and the owner's lots before that. int32[] each.
    """

    def another(state: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        stop, _, _ = state
        passed = total(jnp.clip(stop - ends + mine, 0, mine))
        further = jnp.minimum(goal + passed, bound)
        return further, passed, further != stop

    stop, passed, _ = lax.while_loop(lambda state: state[2], another, (stop, jnp.zeros_like(stop), clears))
    return stop, passed


def look(book: Book, at: jax.Array) -> Slot:
    """What stands in a slot, int32[] `at` of both sides laid end to end."""
    place = jnp.maximum(at, 0)
    fields = (book.key, book.end, book.size, book.id, book.owner)
    return Slot(*lax.optimization_barrier((at, *(field.reshape(-1)[place] for field in fields))))


def largest_of_both(x: jax.Array) -> jax.Array:
    """Maximum over the slots of both sides, int32[]."""
    return largest(jnp.maximum(x[0], x[1]))


def slots_of(book: Book) -> jax.Array:
    """Slots of both sides laid end to end, int32[2, L]."""
    return jnp.arange(book.end.size, dtype=jnp.int32).reshape(book.end.shape)


def sides() -> jax.Array:
    """0 and 1, int32[2, 1]."""
    return jnp.arange(2, dtype=jnp.int32)[:, None]
