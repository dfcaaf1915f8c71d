"""An agent's two orders in the book, one to buy and one to sell, and the instructions that travel to it.

An agent does not send messages, it says what it wants to have in the book: on each side a price and a size. What that
takes is decided when the instruction arrives, by what has become of the order on its way: a new order, a modification,
a cancellation, or nothing. What filled on the way is taken off the size, so that nothing is bought twice. At an
unchanged price an order keeps its place in the queue: it is made smaller where less is wanted and never larger.

An order has at most one instruction under way; until that has arrived, no other is sent, but for one that is to take
its place. So nothing is lost that was not called back, and a slow agent cannot flood its line.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from marljax.lob.flows.flow import AGENT_ID
from marljax.lob.types import BUY, SELL, Book, Kind, Messages, SelfTrade


@struct.dataclass
class Standing:
    """What stands in the book. Leaves [..., 2]: the order to buy, the order to sell."""

    price: jax.Array  # int32 ticks, 0 where there is none
    remaining: jax.Array  # int32 lots, 0 where there is none
    ahead: jax.Array  # int32 lots that trade before it
    slot: jax.Array  # int32 where in the book, -1 where there is none; an order never moves

    @property
    def there(self) -> jax.Array:
        """bool[..., 2]"""
        return self.remaining > 0


@struct.dataclass
class Quotes:
    """What an agent wants to have in the book. Leaves [..., 2]: to buy, to sell."""

    price: jax.Array  # int32 ticks
    size: jax.Array  # int32 lots, 0 for no order
    replaces: jax.Array  # bool whether it takes the place of an instruction under way

    @classmethod
    def of(cls, price: jax.Array, size: jax.Array) -> "Quotes":
        """Quotes that wait until nothing else is under way."""
        return cls(price, size, jnp.zeros(size.shape, bool))


@struct.dataclass
class Instructions:
    """What is under way to the book. Leaves [..., 2]: about the order to buy, about the order to sell."""

    quotes: Quotes
    known: jax.Array  # int32 lots that stood when it was sent
    seconds: jax.Array  # float32 from the step's start until it arrives
    waiting: jax.Array  # bool whether there is one

    @classmethod
    def none(cls, agents: int) -> "Instructions":
        zero = jnp.zeros((agents, 2), jnp.int32)
        return cls(Quotes.of(zero, zero), zero, jnp.zeros((agents, 2), jnp.float32), jnp.zeros((agents, 2), bool))


@struct.dataclass
class Arrival:
    """One instruction as it meets the book; scalars."""

    side: jax.Array  # int32 BUY or SELL, 0 where nothing arrives
    price: jax.Array  # int32 ticks
    size: jax.Array  # int32 lots
    known: jax.Array  # int32 lots
    slot: jax.Array  # int32 where its order stood at the step's start, -1 nowhere
    stood: jax.Array  # int32 ticks, the price at which it stood
    id: jax.Array  # int32
    owner: jax.Array  # int32


def order_id(agent: jax.Array, side: jax.Array) -> jax.Array:
    """int32 the id of an agent's order; agents count from 0, side 0 buys. No background order has it."""
    return AGENT_ID + 2 * agent + side


def standing(book: Book, agents: int) -> Standing:
    """The orders of all agents, leaves [agents, 2]."""
    slots = book.end.shape[-1]
    ids = order_id(jnp.arange(agents)[:, None], jnp.arange(2))
    hit = (book.id == ids[..., None]) & (book.end > book.consumed[:, None])
    slot = jnp.max(jnp.where(hit, jnp.arange(slots), -1), -1)
    there = slot >= 0
    # Sums over a mask of one: cheaper than a gather for each field.
    key, end, size = (jnp.sum(jnp.where(hit, field, 0), -1) for field in (book.key, book.end, book.size))
    return Standing(
        price=(key >> 1) * jnp.array([-1, 1]),
        remaining=size,
        ahead=jnp.where(there, end - size - book.consumed, 0),
        slot=jnp.where(there, slot + jnp.array([0, slots]), -1),
    )


def send(instructions: Instructions, quotes: Quotes, standing: Standing, latency: jax.Array) -> Instructions:
    """Instructions for what is wanted and does not stand, where none is under way.

    Args:
        instructions: those under way, leaves [agents, 2].
        quotes: what is wanted.
        standing: what stands.
        latency: float32[agents, 2] seconds that a message sent now takes.
    """
    same = standing.there & (quotes.price == standing.price) & (quotes.size >= standing.remaining)
    neither = ~standing.there & (quotes.size == 0)
    waiting = instructions.waiting & ~quotes.replaces
    sends = ~(waiting | same | neither)
    new = Instructions(quotes, standing.remaining, latency, jnp.ones_like(sends))
    kept = jax.tree.map(lambda new, old: jnp.where(sends, new, old), new, instructions)
    return dataclasses.replace(kept, waiting=waiting | sends)


def arrivals(instructions: Instructions, standing: Standing, here: jax.Array) -> Arrival:
    """Those of mask `here` (bool[agents, 2]) as they arrive, leaves [2 x agents]."""
    agents = here.shape[0]
    agent, side = jnp.arange(agents, dtype=jnp.int32)[:, None], jnp.arange(2, dtype=jnp.int32)
    rows = Arrival(
        side=jnp.where(here, jnp.array([BUY, SELL]), 0),
        price=instructions.quotes.price,
        size=instructions.quotes.size,
        known=instructions.known,
        slot=standing.slot,
        stood=standing.price,
        id=order_id(agent, side),
        owner=jnp.broadcast_to(agent + 1, here.shape),
    )
    return jax.tree.map(lambda x: x.reshape(-1), rows)


def threaded(positions: jax.Array, background: Any, arrivals: Arrival) -> tuple[jax.Array, Any, Arrival]:
    """Instructions threaded into the background's messages: whether a row is an instruction, and both.

    Args:
        positions: int32[A] of the instructions, see `marljax.market.latency.merge`.
        background: pytree of arrays [M], in order of arrival.
        arrivals: leaves [A].

    Returns:
        bool[M + A], and the two with leaves [M + A], of which the mask says which counts.
    """
    agents = positions.shape[0]
    count = jax.tree.leaves(background)[0].shape[0] + agents
    row = jnp.arange(count, dtype=jnp.int32)
    here = row == positions[:, None]
    passed = jnp.sum((positions[:, None] < row).astype(jnp.int32), axis=0)

    def moved(x: jax.Array) -> jax.Array:
        # Every row moves back by as many as were put before it: a few whole shifts, where a gather goes row by row.
        padded = jnp.pad(x, (agents, agents))
        shifted = padded[agents : agents + count]
        for k in range(1, agents + 1):
            shifted = jnp.where(passed == k, padded[agents - k : agents - k + count], shifted)
        return shifted

    def put(x: jax.Array) -> jax.Array:
        return jnp.sum(jnp.where(here, x[:, None], 0), axis=0)

    return jnp.any(here, axis=0), jax.tree.map(moved, background), jax.tree.map(put, arrivals)


def message(arrival: Arrival, book: Book) -> Messages:
    """What an instruction (fields of shape []) asks of the book as it stands."""
    place = jnp.maximum(arrival.slot, 0)
    end, size, id = (field.reshape(-1)[place] for field in (book.end, book.size, book.id))
    consumed = jnp.where(arrival.side == SELL, book.consumed[1], book.consumed[0])
    alive = (arrival.slot >= 0) & (id == arrival.id) & (end > consumed)
    left = jnp.where(alive, size, 0)
    wanted = jnp.maximum(arrival.size - jnp.maximum(arrival.known - left, 0), 0)
    keeps = (arrival.stood == arrival.price) & (wanted >= left)
    there = jnp.where(wanted == 0, Kind.CANCEL, jnp.where(keeps, Kind.NOTHING, Kind.MODIFY))
    kind = jnp.where(alive, there, jnp.where(wanted == 0, Kind.NOTHING, Kind.LIMIT))
    zero = jnp.zeros((), jnp.int32)
    return Messages(
        kind=jnp.where(arrival.side == 0, Kind.NOTHING, kind),
        side=arrival.side,
        price=arrival.price,
        size=jnp.where(wanted == 0, left, wanted),
        id=arrival.id,
        owner=arrival.owner,
        peak=zero,
        self_trade=zero + SelfTrade.CANCEL_NEWEST,
    )
