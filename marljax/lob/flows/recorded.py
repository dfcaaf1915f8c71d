"""Recorded flow: a LOBSTER day as background orders of a live book, starting at any of its rows.

The stream is one array of instructions and the index of each row's first; an episode is an index into it. An
instruction becomes a message when it arrives, given the book as it stands: agents may have taken what the record says
was executed, cancelled or still there. So recorded executions may fill agents' orders that stand first, which is what
the replay is for, and a recorded cancel of an order that is gone is refused with UNKNOWN_ID, to be counted there.

Orders that were resting before the episode's row are known by price and size alone. The book starts with one order of
unknown id for each level, and `CancelPolicy` says what a recorded cancel takes when the order it names was among them.
The book is only as deep as the record: an agent's order at a price that leaves the window and comes back finds itself
first in its queue there, so a file of one level says little about queues.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import lax

from marljax.data.readers.lobster_messages import RecordedMessages, Status
from marljax.lob.flows.flow import BACKGROUND
from marljax.lob.flows.recorded_instructions import FIELDS, SNAPSHOT_ID, Action, compile_messages
from marljax.lob.matching import empty
from marljax.lob.stress import Stress
from marljax.lob.types import BUY, MAX_SIZE, Book, BookConfig, Kind, Messages, SelfTrade

_COLUMN = {name: column for column, name in enumerate(FIELDS)}
_LAST = np.iinfo(np.int32).max
_NONE = np.iinfo(np.int32).min


class CancelPolicy:
    """Which background order a recorded cancel takes from, among those at its price, when it names one from before the
    episode. Orders that hold enough come first under every policy, so that none of the volume is missed.

    `SIZE` and `OLDEST` take from what stood there at the start, and an untouched replay shows the recorded touch at
    every row. The others may take orders that the record cancels later, which is then refused: more orders stay in the
    book than on record.
    """

    SIZE = 0
    """An order of unknown id, else the one of the nearest size."""
    RANDOM = 1
    """Any, each as likely."""
    OLDEST = 2
    NEWEST = 3


@struct.dataclass
class RecordedStream:
    """A recorded day on the device, shared by all environments (`vmap` with `in_axes=None`)."""

    instructions: jax.Array  # int32[N, len(FIELDS)] see recorded_instructions
    first: jax.Array  # int32[rows + 1] the first instruction of each row; the last entry is N
    window: (
        jax.Array
    )  # int32[rows, 2, 2, levels] bids and asks; prices [ticks] and sizes [lots], best first, after the row
    most_orders: int = struct.field(pytree_node=False)
    """Most orders of the record on one side: what the slots of a book must hold beside the agents' orders."""


@struct.dataclass
class RecordedParams:
    """What the flow follows."""

    stream: RecordedStream
    cancel_policy: jax.Array  # int32[] see CancelPolicy
    start: jax.Array  # int32[] the row whose book an episode begins with


@struct.dataclass
class RecordedState:
    """Where an episode stands in the stream."""

    start: jax.Array  # int32[] the row whose book the episode started from
    position: jax.Array  # int32[] the next instruction, N at the end of the record


@struct.dataclass
class RecordedDraw:
    """Instructions of a step, before they meet the book. Fields as in `recorded_instructions.FIELDS`."""

    seconds: jax.Array  # float32[n] since the instruction before the step
    action: jax.Array  # int32[n]
    side: jax.Array  # int32[n]
    price: jax.Array  # int32[n] ticks
    size: jax.Array  # int32[n] lots
    id: jax.Array  # int32[n]
    known: jax.Array  # bool[n] the order was submitted within the episode
    row: jax.Array  # int32[n]
    status: jax.Array  # int32[n] see lobster_messages.Status, and `halts`
    policy: jax.Array  # int32[n]
    bits: jax.Array  # int32[n] random, for CancelPolicy.RANDOM


def load(messages: RecordedMessages) -> RecordedStream:
    """The stream of a file on the default device. Raises InputError where a price is beyond the book's limits."""
    compiled = compile_messages(messages)
    sides = ((messages.bid_price, messages.bid_size), (messages.ask_price, messages.ask_size))
    return RecordedStream(
        instructions=jnp.asarray(compiled.table),
        first=jnp.asarray(compiled.first),
        window=jnp.asarray(np.stack([np.stack(side, 1) for side in sides], 1)),
        most_orders=compiled.most_orders,
    )


def episode(stream: RecordedStream, row: jax.Array, config: BookConfig) -> tuple[Book, RecordedState]:
    """The recorded book after `row` (int32[], 0..rows-1), and the state in which row + 1 comes next.

    Each level is one order of the background. Raises ValueError if the slots cannot hold the record.
    """
    if config.slots < stream.most_orders:
        raise ValueError(f"BookConfig.slots must be at least {stream.most_orders} for this record, got {config.slots}")
    book, window = empty(config), stream.window[row]
    levels = window.shape[-1]
    price, size = window[:, 0], window[:, 1]
    there = size > 0
    key = 2 * price * jnp.array([[-1], [1]], jnp.int32)
    # A side's line starts where nothing is consumed; the levels lie on it one behind the other.
    rank = jnp.arange(levels)
    end = book.consumed[:, None] + jnp.sum(jnp.where(rank <= rank[:, None], size[:, None], 0), -1)
    ids = SNAPSHOT_ID - 1 - jnp.arange(2 * levels, dtype=jnp.int32).reshape(2, levels)
    new = {"key": key, "end": end, "size": size, "id": ids, "owner": jnp.full_like(ids, BACKGROUND)}
    filled = {
        name: getattr(book, name).at[:, :levels].set(jnp.where(there, values, getattr(book, name)[:, :levels]))
        for name, values in new.items()
    }
    return dataclasses.replace(book, **filled), _state(stream, row)


def _state(stream: RecordedStream, row: jax.Array) -> RecordedState:
    row = jnp.asarray(row, jnp.int32)
    return RecordedState(start=row, position=stream.first[row + 1])


def initial_book(key: jax.Array, params: RecordedParams, config: BookConfig) -> Book:
    """The recorded book after `params.start`; nothing is drawn. Raises ValueError as `episode` does."""
    return episode(params.stream, params.start, config)[0]


def initial_state(params: RecordedParams) -> RecordedState:
    """The state in which the row behind `params.start` comes next."""
    return _state(params.stream, params.start)


def halts(draws: RecordedDraw) -> jax.Array:
    """bool[] whether the record says, for any part of the step, that trading is halted."""
    return jnp.any(draws.status != Status.TRADING)


def ends(state: RecordedState, params: RecordedParams) -> jax.Array:
    """bool[] whether the record is at its end."""
    return state.position >= len(params.stream.instructions)


def prepare(
    key: jax.Array, state: RecordedState, params: RecordedParams, stress: Stress, n: int
) -> tuple[RecordedDraw, RecordedState]:
    """The next n instructions, and the state behind them; at the end of the record there is nothing more to do.

    Of the stress only `halted` acts: it holds the record, which goes on where it stood. What was recorded keeps its
    rates and sizes.
    """
    table = params.stream.instructions
    index = state.position + jnp.arange(n, dtype=jnp.int32)
    running = stress.halted < 0.5
    there = running & (index < len(table))
    rows = table[jnp.where(running, jnp.minimum(index, len(table) - 1), state.position - 1)]
    column = {name: rows[:, k] for name, k in _COLUMN.items()}
    before = table[state.position - 1]
    whole = column["second"] - before[_COLUMN["second"]]
    part = column["nanosecond"] - before[_COLUMN["nanosecond"]]
    draws = RecordedDraw(
        seconds=whole.astype(jnp.float32) + part.astype(jnp.float32) * 1e-9,
        action=jnp.where(there, column["action"], Action.NOTHING),
        side=column["side"],
        price=column["price"],
        size=column["size"],
        id=column["id"],
        known=column["born"] > state.start,
        row=column["row"],
        status=column["status"],
        policy=jnp.broadcast_to(params.cancel_policy, (n,)),
        bits=jax.lax.bitcast_convert_type(jax.random.bits(key, (n,)), jnp.int32),
    )
    position = jnp.where(running, jnp.minimum(state.position + n, len(table)), state.position)
    return draws, dataclasses.replace(state, position=position)


def message(draw: RecordedDraw, book: Book) -> Messages:
    """What an instruction (fields of shape []) asks of the book as it stands."""
    level = draw.action == Action.LEVEL
    less = (draw.action == Action.REDUCE) | (draw.action == Action.DELETE)
    line = _line(book, draw.side)
    here = line.background & (line.price == draw.price)
    volume = lax.optimization_barrier(jnp.sum(jnp.where(here, line.left, 0)))
    excess = jnp.where(level, volume - draw.size, 0)
    wanted = jnp.where(level, excess, draw.size)
    # An order submitted within the episode is taken by its id or not at all.
    named = line.background & (line.id == draw.id) & less
    order = _choose(line, named, here & ~(less & draw.known), wanted, draw)
    order = jnp.where((less | (excess > 0)) & (order != _NONE), order, draw.id)
    whole = (draw.action == Action.DELETE) & (order == draw.id)
    limit = (draw.action == Action.ADD) | (excess < 0)
    kind = jnp.where(limit, Kind.LIMIT, jnp.where(less | (excess > 0), Kind.CANCEL, Kind.NOTHING))
    zero = jnp.zeros((), jnp.int32)
    return Messages(
        kind=jnp.where(draw.action == Action.EXECUTE, Kind.IMMEDIATE_OR_CANCEL, kind),
        side=draw.side,
        price=draw.price,
        size=jnp.where(whole, MAX_SIZE, jnp.minimum(jnp.abs(wanted), MAX_SIZE)),
        id=order,
        owner=zero + BACKGROUND,
        peak=zero,
        self_trade=zero + SelfTrade.ALLOW,
    )


class _Line(NamedTuple):
    """One side of a book, slot by slot."""

    background: jax.Array  # bool[L] an order of the background rests here
    price: jax.Array  # int32[L] ticks
    left: jax.Array  # int32[L] lots
    ahead: jax.Array  # int32[L] lots before it
    id: jax.Array  # int32[L]


def _line(book: Book, side: jax.Array) -> _Line:
    buy = side == BUY
    end, size, key, order, owner = (
        jnp.where(buy, slots[0], slots[1]) for slots in (book.end, book.size, book.key, book.id, book.owner)
    )
    consumed = jnp.where(buy, book.consumed[0], book.consumed[1])
    return _Line(
        background=(end > consumed) & (owner == BACKGROUND),
        price=jnp.where(buy, -(key >> 1), key >> 1),
        left=jnp.minimum(size, end - consumed),
        ahead=jnp.maximum(end - size - consumed, 0),
        id=order,
    )


def _choose(line: _Line, named: jax.Array, here: jax.Array, wanted: jax.Array, draw: RecordedDraw) -> jax.Array:
    """int32[] id of the order of mask `named`, else of the one of mask `here` that the policy takes lots from, else
    `_NONE`."""
    near = jnp.minimum(jnp.abs(line.left - wanted), 2**17 - 1) + jnp.where(line.id > 0, 2**17, 0)
    grade = jnp.where(draw.policy == CancelPolicy.SIZE, near, 0) + jnp.where(line.left < wanted, 2**19, 0)
    grade = jnp.where(named, -1, jnp.where(here, grade, _LAST))
    best = lax.optimization_barrier(jnp.min(grade))
    slot = jnp.arange(len(line.id), dtype=jnp.int32)
    mixed = ((slot + 1) * -1640531527 ^ draw.bits) * -2048144789
    place = jnp.where(draw.policy == CancelPolicy.NEWEST, -line.ahead, line.ahead)
    place = jnp.where(draw.policy == CancelPolicy.RANDOM, (mixed ^ (mixed >> 15)) & (2**30 - 1), place)
    place = jnp.where((grade == best) & (best < _LAST), place, _LAST)
    first = lax.optimization_barrier(jnp.min(place))
    return jnp.max(jnp.where((place == first) & (place < _LAST), line.id, _NONE))
