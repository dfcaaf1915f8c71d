"""What a block of messages came to: trades, turnover and volumes by owner.

While the messages run, nothing is booked: orders that traded stay in their slots, and the line's coordinates keep who
stood where. An order that is cut in two, or whose slot is taken again, leaves a `Piece` behind. Every piece was traded
with exactly one message, the one that consumed its coordinates, so booking is one pass over the pieces at the end.
"""

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax

from marljax.lob.lanes import total
from marljax.lob.tally import LOW_BITS, Tally
from marljax.lob.types import BUY, SELL, Book, BookConfig, Messages, Receipts, Report, Trades, Turnover, Volumes

_GROUP = 32


@struct.dataclass
class Piece:
    """A traded interval of a side's line. Scalars, int32; of length 0 where there is none."""

    key: jax.Array
    start: jax.Array  # lots
    length: jax.Array  # lots
    id: jax.Array
    owner: jax.Array
    left: jax.Array  # lots of the order that remained behind the piece


@struct.dataclass
class Event:
    """What one message did. Scalars, int32; see Receipts for the first seven."""

    code: jax.Array
    traded: jax.Array
    rested: jax.Array
    cancelled: jax.Array
    prevented: jax.Array
    displaced: jax.Array
    displaced_owner: jax.Array
    added: jax.Array  # lots that it brought to the market
    own: jax.Array  # the message's side, 0 or 1
    consumed: jax.Array  # int32[2] lots, after it
    overwritten: Piece  # on its own side: the dead order whose slot it took
    cut: Piece  # on the other side: what it took of the order at which it stopped
    reserve_overwritten: Piece | None  # on its own side: the dead reserve whose slot it took
    reshown: Piece | None  # on the other side, int32[reserves]: displayed parts that reserves replaced


def settle(book: Book, messages: Messages, events: Event, config: BookConfig) -> Report:
    """Account for a block.

    Args:
        book: after its last message.
        messages: the M messages.
        events: the M events of `matching.apply`.
        config: that of the book.
    """
    pieces, message = lax.optimization_barrier(_pieces(book, events))
    return Report(
        messages=messages,
        receipts=Receipts(
            events.code,
            events.traded,
            events.rested,
            events.cancelled,
            events.prevented,
            events.displaced,
            events.displaced_owner,
        ),
        trades=_trades(pieces, message, messages, config.trades),
        turnover=_turnover(pieces, messages.owner[message], config.owners),
        volumes=_volumes(messages, events, config.owners),
    )


def _pieces(book: Book, events: Event) -> tuple[Piece, jax.Array]:
    """Everything that traded, int32[2, M + L] by side, and the message it traded with, int32[2, M + L].

    A message leaves at most one piece on either side: a cut on the other one, which it traded itself, and on its own an
    order that an earlier one, the first to consume beyond its start, had traded.
    """
    dead = book.end <= book.consumed[:, None]
    standing = Piece(
        key=book.key,
        start=book.end - book.size,
        length=jnp.where(dead, book.size, 0),
        id=book.id,
        owner=book.owner,
        left=jnp.zeros_like(book.size),
    )
    side = jnp.arange(2)[:, None]
    block = events.own.shape[0]
    spare = -block % _GROUP

    def join(overwritten: jax.Array, cut: jax.Array, standing: jax.Array) -> jax.Array:
        passed = jnp.pad(jnp.where(events.own == side, overwritten, cut), ((0, 0), (0, spare)))
        return jnp.concatenate([passed, standing], axis=1)

    def join_reserves(overwritten: jax.Array, reshown: jax.Array, pieces: jax.Array) -> jax.Array:
        stored = jnp.where(events.own == side, overwritten, 0)
        shown = jnp.where(events.own[:, None] != side[..., None], reshown, 0).reshape(2, -1)
        spare = -(stored.shape[1] + shown.shape[1]) % _GROUP
        return jnp.concatenate([pieces, jnp.pad(jnp.concatenate([stored, shown], 1), ((0, 0), (0, spare)))], axis=1)

    pieces = jax.tree.map(join, events.overwritten, events.cut, standing)
    if events.reshown is not None:
        pieces = jax.tree.map(join_reserves, events.reserve_overwritten, events.reshown, pieces)
    pieces = lax.optimization_barrier(pieces)

    def count(before: jax.Array, consumed: jax.Array) -> tuple[jax.Array, None]:
        return before + (consumed[:, None] <= pieces.start), None

    # A loop, since XLA's CPU backend does not vectorise the comparison of all with all.
    message, _ = lax.scan(count, jnp.zeros_like(pieces.start), events.consumed)
    return pieces, jnp.where(pieces.length > 0, message, 0)


def _price(pieces: Piece) -> jax.Array:
    """int32[2, P] ticks."""
    return jnp.array([[-1], [1]]) * (pieces.key >> 1)


def _turnover(pieces: Piece, taker_owner: jax.Array, owners: int) -> Turnover:
    """Lots and value by owner. A value is summed in three digits of the price, 8 bits each: no sum leaves 32 bits."""
    price = _price(pieces)
    digits = jnp.stack([jnp.ones_like(price), price & 255, (price >> 8) & 255, price >> 16])
    amounts = lax.optimization_barrier(digits * pieces.length)
    number = jnp.arange(owners)[:, None, None]

    def by_owner(owner: jax.Array) -> jax.Array:
        # [4, owners, 2, P] -> [4, 2, owners]
        return total(jnp.where(owner == number, amounts[:, None], 0)).swapaxes(1, 2)

    makers, takers = by_owner(pieces.owner), by_owner(taker_owner)
    # What rests on the bids buys; what comes to them sells.
    lots, low, middle, high = jnp.stack([makers, takers[:, ::-1]], axis=1)
    value = _shifted(low, 0).add(_shifted(middle, 8)).add(_shifted(high, 16))
    return Turnover(lots=lots, value=value)


def _shifted(amount: jax.Array, bits: int) -> Tally:
    """amount x 2**bits, exactly."""
    kept = LOW_BITS - bits
    return Tally(amount >> kept, (amount & (2**kept - 1)) << bits)


def _volumes(messages: Messages, events: Event, owners: int) -> Volumes:
    number = jnp.arange(owners)

    def by_owner(lots: jax.Array, owner: jax.Array) -> jax.Array:
        return jnp.sum(jnp.where(owner[:, None] == number, lots[:, None], 0), 0)

    return Volumes(
        added=by_owner(events.added, messages.owner),
        cancelled=by_owner(events.cancelled + events.prevented, messages.owner),
        displaced=by_owner(events.displaced, events.displaced_owner),
    )


def _trades(pieces: Piece, message: jax.Array, messages: Messages, rows: int) -> Trades:
    """The pieces as a dense record: gathered first, then ranked among themselves by message and place in the line."""
    taken = pieces.length.reshape(-1) > 0
    found = jnp.sum(taken.astype(jnp.int32))
    row = jnp.arange(rows, dtype=jnp.int32)
    recorded = row < found

    place = jnp.where(taken, _number_before(taken), rows)
    at = jnp.zeros(rows, jnp.int32).at[place].set(jnp.arange(taken.shape[0], dtype=jnp.int32), mode="drop")
    # An unused row comes after every message, in its own order.
    when = jnp.where(recorded, message.reshape(-1)[at], messages.kind.shape[0])
    where = jnp.where(recorded, pieces.start.reshape(-1)[at], row)
    when, where = lax.optimization_barrier((when, where))

    def count(before: jax.Array, other: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        return before + ((other[0] < when) | ((other[0] == when) & (other[1] < where))), None

    rank, _ = lax.scan(count, jnp.zeros_like(when), (when, where))
    at = lax.optimization_barrier(jnp.zeros_like(at).at[rank].set(at))

    def pick(field: jax.Array) -> jax.Array:
        return jnp.where(recorded, field.reshape(-1)[at], 0)

    incoming = pick(message)
    return Trades(
        message=incoming,
        side=jnp.where(recorded, jnp.where(at < message.shape[-1], SELL, BUY), 0),
        price=pick(_price(pieces)),
        size=pick(pieces.length),
        maker=pick(pieces.id),
        maker_owner=pick(pieces.owner),
        maker_left=pick(pieces.left),
        taker=jnp.where(recorded, messages.id[incoming], 0),
        taker_owner=jnp.where(recorded, messages.owner[incoming], 0),
        count=found,
        overflow=jnp.maximum(found - rows, 0),
    )


def _number_before(mask: jax.Array) -> jax.Array:
    """How many are set before each, int32[N]. A triangular matrix product sums groups, far cheaper than cumsum."""
    groups = -(-mask.shape[0] // _GROUP)
    ones = jnp.pad(mask, (0, groups * _GROUP - mask.shape[0])).astype(jnp.float32).reshape(groups, _GROUP)
    within = ones @ jnp.triu(jnp.ones((_GROUP, _GROUP)), 1)
    before = jnp.tril(jnp.ones((groups, groups)), -1) @ jnp.sum(ones, -1, keepdims=True)
    return (within + before).astype(jnp.int32).reshape(-1)[: mask.shape[0]]
