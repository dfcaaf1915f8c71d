"""What all models of background order flow have in common.

A model is a module with `initial_book(key, params, config) -> Book`, `initial_state(params)`, and the two halves of its
flow:

    prepare(key, state, params, stress, n) -> (draws, state)   what needs no book, at once for the n messages of a step
    message(draw, book) -> Messages                            one message, given the book as it stands on arrival
    halts(draws) -> bool[]                                     whether trading is halted during the step of these draws
    ends(state, params) -> bool[]                              whether nothing more will come

so that prices follow the touch and cancellations hit what is really there, while random numbers cost no scan.

A cancellation points at a place of its side's line, so many lots from the front, and takes the order that stands
there. With R pointers per second at a line of `line` lots, an order of s lots is cancelled at the rate R s / line,
however much rests: that is the proportional hazard of Smith et al. (2003) and Cont, Stoikov & Talreja (2010), and it
costs one masked maximum. A pointer at nothing, or at an order of an agent, is a message of `Kind.NOTHING`.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax

from marljax.lob.lanes import largest
from marljax.lob.matching import empty
from marljax.lob.stress import Stress
from marljax.lob.types import BUY, FAR, MAX_PRICE, MAX_SIZE, SELL, Book, BookConfig, Kind, Messages, SelfTrade

BACKGROUND = 0
"""Owner of every order of the flow."""
AGENT_ID = 2**30
"""Agents' order ids from here on never meet one of the flow; those of an initial book are negative."""

DEEPEST = 2 * MAX_PRICE
"""Ticks: no order is so far away from anything."""

_NO_ORDER = -(2**31)


@struct.dataclass
class Draws:
    """What is known of the n messages of a step before they meet the book (leading axis n; scalars for `message`)."""

    seconds: jax.Array  # float32[n] since the step's start, ascending
    kind: jax.Array  # int32[n] LIMIT, MARKET, CANCEL or NOTHING
    side: jax.Array  # int32[n] BUY or SELL; of a cancellation that of the resting order
    size: jax.Array  # int32[n] lots
    id: jax.Array  # int32[n] of a new order
    place: jax.Array  # int32[n] lots from the front of its side's line at which a cancellation points
    reference: jax.Array  # int32[n] ticks, where quotes are taken to stand while the book is empty


class Quotes(NamedTuple):
    """Best prices of a book, int32[] ticks each; hidden orders count."""

    bid: jax.Array
    ask: jax.Array


def quotes(book: Book, reference: jax.Array) -> Quotes:
    """The touch. A side without orders is taken to stand a tick beyond the other, and an empty book at `reference`."""
    alive = book.end > book.consumed[:, None]
    best = lax.optimization_barrier(-largest(jnp.where(alive, -book.key, -FAR)))
    no_bid, no_ask = best[0] == FAR, best[1] == FAR
    bid, ask = -(best[0] >> 1), best[1] >> 1
    ask = jnp.where(no_ask, jnp.where(no_bid, reference, bid) + 1, ask)
    return Quotes(bid=jnp.where(no_bid, ask - 1, bid), ask=ask)


def background_at(
    book: Book, side: jax.Array, place: jax.Array, best: jax.Array, worst: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The background's order at a place of a side's line.

    Args:
        book: as it stands.
        side: int32[] BUY or SELL.
        place: int32[] lots from the front.
        best: int32[] ticks, an order at a better price is left alone,
        worst: int32[] ticks, and one at a worse price.

    Returns:
        found bool[], and its id int32[].
    """
    # Both sides, the other one masked: cheaper than to gather the rows of one.
    mine = jnp.array([[BUY], [SELL]], jnp.int32) == side
    start = book.end - book.size - book.consumed[:, None]
    here = (start <= place) & (start + book.size > place)
    here = here & (book.key >= -2 * side * best) & (book.key <= -2 * side * worst)
    candidates = jnp.where(mine & here & (book.owner == BACKGROUND), book.id, _NO_ORDER)
    chosen = lax.optimization_barrier(largest(jnp.maximum(candidates[0], candidates[1])))
    return chosen != _NO_ORDER, chosen


def never_halts(draws: Draws) -> jax.Array:
    """bool[] `halts` of a model that knows no halts but those of the stress."""
    return jnp.zeros((), bool)


def never_ends(state: Any, params: Any) -> jax.Array:
    """bool[] `ends` of a model that goes on for ever."""
    return jnp.zeros((), bool)


def order(draw: Draws, price: jax.Array, found: jax.Array, cancelled_id: jax.Array) -> Messages:
    """The message of a draw, given the price of a limit order [ticks] and the order that a cancellation takes."""
    cancels = draw.kind == Kind.CANCEL
    zero = jnp.zeros((), jnp.int32)
    return Messages(
        kind=jnp.where(cancels & ~found, Kind.NOTHING, draw.kind),
        side=draw.side,
        price=price,
        size=jnp.where(cancels, MAX_SIZE, draw.size),
        id=jnp.where(cancels, cancelled_id, draw.id),
        owner=zero + BACKGROUND,
        peak=zero,
        self_trade=zero + SelfTrade.ALLOW,
    )


def new_ids(next_id: jax.Array, n: int) -> jax.Array:
    """int32[n] ids from `next_id` on, within 0..AGENT_ID-1."""
    return (next_id + jnp.arange(n, dtype=jnp.int32)) & (AGENT_ID - 1)


def next_id(state_id: jax.Array, n: int) -> jax.Array:
    """int32[] the first id after n of `new_ids`."""
    return (state_id + n) & (AGENT_ID - 1)


def uniforms(key: jax.Array, kinds: int, n: int) -> jax.Array:
    """float32[kinds, n] multiples of 2^-23 within [0, 1), so that a product with any total stays below that total."""
    return (jax.random.bits(key, (kinds, n)) >> 9).astype(jnp.float32) * 2.0**-23


def exponentials(uniform: jax.Array) -> jax.Array:
    """Standard exponential variables of uniform ones, positive and finite."""
    return -jnp.log1p(-(uniform + 2.0**-25))


def choose(uniform: jax.Array, weights: jax.Array) -> jax.Array:
    """Indices int32[n] of categories in proportion to `weights` float32[m]; uniform float32[n].

    Categories lead, for XLA's CPU backend sums a last axis item by item.
    """
    below = jnp.cumsum(weights)
    return jnp.sum(uniform * below[-1] >= below[:-1, None], axis=0, dtype=jnp.int32)


def pointers(hazard: jax.Array, line: jax.Array, sizes: jax.Array) -> jax.Array:
    """Rate float32[] 1/s at which cancellations point at one side's line, so that `hazard` is an average order's."""
    return hazard * line / jnp.mean(sizes)


def places(uniform: jax.Array, line: jax.Array, stress: Stress) -> jax.Array:
    """Where cancellations point, int32[n] lots from the front; the line grows with the sizes of what stands on it."""
    return (uniform * line * stress.size).astype(jnp.int32)


def survives(uniform: jax.Array, hazard: jax.Array) -> jax.Array:
    """Distances int32[n], of which one exceeds or equals d with the probability hazard[d - 1] / hazard[0], d = 1..D.

    So an event at the rate hazard[0] that acts up to that distance acts at d with the rate hazard[d - 1]. Beyond D the
    last one holds. `hazard` float32[D] does not rise.
    """
    reached = jnp.sum(uniform * hazard[0] < hazard[:, None], axis=0, dtype=jnp.int32)
    return jnp.where(reached == hazard.shape[0], DEEPEST, reached)


def along(values: jax.Array, grid: jax.Array, seconds: jax.Array) -> jax.Array:
    """`values` float32[T >= 2], one each `grid` seconds, at `seconds`: linear in between, constant beyond the ends."""
    at = jnp.clip(seconds / grid, 0.0, values.shape[0] - 1.0)
    left = jnp.minimum(at.astype(jnp.int32), values.shape[0] - 2)
    return values[left] + (at - left) * (values[left + 1] - values[left])


def equally(uniform: jax.Array, values: jax.Array) -> jax.Array:
    """Each of `values` [q] with the same probability; uniform float32[n]."""
    return values[(uniform * values.shape[0]).astype(jnp.int32)]


def whole(amount: jax.Array, uniform: jax.Array) -> jax.Array:
    """int32 amounts rounded up or down at random, right in the mean."""
    return jnp.floor(amount + uniform).astype(jnp.int32)


def lots(uniform: jax.Array, sizes: jax.Array, rounding: jax.Array, stress: Stress) -> jax.Array:
    """Sizes int32[n] lots, of `sizes` float32[q] equally likely, times the stress; uniform, rounding float32[n]."""
    return jnp.clip(whole(equally(uniform, sizes) * stress.size, rounding), 1, MAX_SIZE)


def buy_share(share: jax.Array, stress: Stress) -> jax.Array:
    """Share of buyers float32[] under stress: its odds multiply those of calm, which 0.5 leaves as they are."""
    buys, sells = share * stress.buy_share, (1.0 - share) * (1.0 - stress.buy_share)
    return buys / (buys + sells)


def stressed_rates(calm: jax.Array, stress: Stress) -> jax.Array:
    """Rates float32[3] of limit orders, market orders and cancellations under stress. While nothing is matched, or
    everything has stopped, those of calm: time goes on, and `kinds` has no message in it."""
    rates = calm * jnp.stack([stress.limit_rate, stress.market_rate, stress.cancel_rate])
    return jnp.where(stopped(rates, stress), calm, rates)


def kinds(uniform: jax.Array, calm: jax.Array, stress: Stress) -> jax.Array:
    """Kinds int32[n] of messages that arrive at `stressed_rates`; NOTHING while there are none."""
    rates = calm * jnp.stack([stress.limit_rate, stress.market_rate, stress.cancel_rate])
    kind = jnp.array([Kind.LIMIT, Kind.MARKET, Kind.CANCEL], jnp.int32)[choose(uniform, rates)]
    return jnp.where(stopped(rates, stress), Kind.NOTHING, kind)


def stopped(rates: jax.Array, stress: Stress) -> jax.Array:
    """bool[] whether no message arrives: the market is halted, or no rate is left."""
    return (stress.halted >= 0.5) | (jnp.sum(rates) <= 0.0)


def filled(config: BookConfig, price: jax.Array, size: jax.Array) -> Book:
    """A book with resting orders of the background, first come first.

    Args:
        config: of the book, with at least m slots.
        price: int32[2, m] ticks of bids and asks; every bid is below every ask.
        size: int32[2, m] lots, 0 where there is no order.
    """
    count = price.shape[-1]
    if count > config.slots:
        raise ValueError(f"BookConfig.slots is {config.slots}, too few for {count} resting orders")
    key = 2 * price * jnp.array([[-1], [1]], jnp.int32)
    index = jnp.arange(count)
    # On a side's line an order ends behind all those of better price, or of the same price and not later.
    before = (key[:, None] < key[:, :, None]) | ((key[:, None] == key[:, :, None]) & (index <= index[:, None]))
    fields = {
        "key": key,
        "end": jnp.where(size > 0, jnp.sum(jnp.where(before, size[:, None], 0), axis=-1), 0),
        "size": size,
        "id": -1 - jnp.arange(2 * count, dtype=jnp.int32).reshape(2, count),
        "owner": jnp.full_like(size, BACKGROUND),
    }
    book = empty(config)
    written = {name: getattr(book, name).at[:, :count].set(value) for name, value in fields.items()}
    return dataclasses.replace(book, **written)


def sides(buys: jax.Array) -> jax.Array:
    """int32 BUY where `buys`, else SELL."""
    return jnp.where(buys, BUY, SELL)
