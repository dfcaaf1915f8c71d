"""Order flow around a fair value that follows a given path: a generated or recorded path becomes a live book.

Limit orders stand at random distances behind fair value and market orders arbitrage: one that meets quotes on the wrong
side of fair value trades against them, up to fair value, whichever side it was drawn for. So the mid follows the path
and whoever trades against it pays for that. A share of market orders is informed (Glosten & Milgrom 1985): fair value
moves their way just after them.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
from flax import struct

from marljax.lob.flows import flow
from marljax.lob.stress import Stress
from marljax.lob.types import BUY, SELL, Book, BookConfig, Kind, Messages


@struct.dataclass
class FairValueParams:
    """The path and the orders about it. Rates are of each side."""

    path: jax.Array  # float32[T] ticks, T >= 2, linear in between and constant after its end
    grid: jax.Array  # float32[] s between its points
    limit_rate: jax.Array  # float32[] orders/s
    market_rate: jax.Array  # float32[] orders/s
    cancel_hazard: jax.Array  # float32[] 1/s at which an order of mean size is cancelled, others as their size
    half_spread: jax.Array  # float32[] ticks, least distance of a limit order from fair value
    depth: jax.Array  # float32[] ticks, mean of the (exponential) distance beyond that
    sizes: jax.Array  # float32[Q] lots of limit and market orders, equally likely
    line: jax.Array  # float32[] lots of a side that cancellations reach; should exceed what rests


@struct.dataclass
class FairValueState:
    """What one step leaves to the next."""

    next_id: jax.Array  # int32[]
    elapsed: jax.Array  # float32[] s since the path's start
    fair: jax.Array  # float32[] ticks, fair value then: the path's, and what stress added


@struct.dataclass
class FairValueDraws(flow.Draws):
    """Draws with fair value at the time of each."""

    fair: jax.Array  # float32[n] ticks
    price: jax.Array  # int32[n] ticks of a limit order
    informed: jax.Array  # bool[n] a market order that fair value is about to follow


def typical(path: jax.Array, grid: float = 1.0) -> FairValueParams:
    """A liquid book about `path` (float32[T] ticks, one point each `grid` seconds), some ten messages a second."""
    return FairValueParams(
        path=jnp.asarray(path, jnp.float32),
        grid=jnp.float32(grid),
        limit_rate=jnp.float32(2.5),
        market_rate=jnp.float32(0.25),
        cancel_hazard=jnp.float32(0.05),
        half_spread=jnp.float32(0.5),
        depth=jnp.float32(5.0),
        sizes=jnp.full(1, 10.0, jnp.float32),
        line=jnp.float32(600.0),
    )


halts, ends = flow.never_halts, flow.never_ends


def initial_state(params: FairValueParams) -> FairValueState:
    """At the path's start."""
    zero = jnp.zeros((), jnp.float32)
    return FairValueState(next_id=jnp.zeros((), jnp.int32), elapsed=zero, fair=params.path[0])


def initial_book(key: jax.Array, params: FairValueParams, config: BookConfig) -> Book:
    """As many orders about the path's start as arrive within the mean life of one, and at most what has room."""
    far, what, rounding = flow.uniforms(key, 3, 2 * config.slots)
    distance = (params.half_spread + params.depth * flow.exponentials(far)).reshape(2, -1)
    price = jnp.stack([jnp.floor(params.path[0] - distance[0]), jnp.ceil(params.path[0] + distance[1])])
    picked = flow.equally(what, params.sizes)
    size = jnp.maximum(flow.whole(picked, rounding), 1).reshape(2, -1)
    room = jnp.minimum(0.8 * config.slots, 0.9 * params.line / jnp.mean(params.sizes))
    present = jnp.arange(config.slots) < jnp.minimum(params.limit_rate / params.cancel_hazard, room)
    return flow.filled(config, price.astype(jnp.int32), jnp.where(present, size, 0))


def prepare(
    key: jax.Array, state: FairValueState, params: FairValueParams, stress: Stress, n: int
) -> tuple[FairValueDraws, FairValueState]:
    """The next n messages before they meet the book, see `marljax.lob.flows.flow`."""
    when, what, side, where, size, rounding, informed = flow.uniforms(key, 7, n)
    rates = 2 * jnp.stack(
        [params.limit_rate, params.market_rate, flow.pointers(params.cancel_hazard, params.line, params.sizes)]
    )
    seconds = jnp.cumsum(flow.exponentials(when)) / jnp.sum(flow.stressed_rates(rates, stress))
    kind = flow.kinds(what, rates, stress)
    is_market = kind == Kind.MARKET
    side = flow.sides(side < jnp.where(is_market, flow.buy_share(jnp.float32(0.5), stress), 0.5))
    informed = is_market & (informed < stress.informed_share)

    path = partial(flow.along, params.path, params.grid)
    elapsed = state.elapsed + seconds
    followed = stress.volatility * (path(elapsed) - path(state.elapsed)) + stress.drift * seconds
    edges = jnp.cumsum(jnp.where(informed, stress.informed_edge * side, 0.0))
    after = state.fair + followed + edges
    # An informed order arrives before the news that it knows.
    fair = after - jnp.where(informed, stress.informed_edge * side, 0.0)
    distance = params.half_spread + stress.half_spread + params.depth * flow.exponentials(where)
    draws = FairValueDraws(
        seconds=seconds,
        kind=kind,
        side=side,
        size=flow.lots(size, params.sizes, rounding, stress),
        id=flow.new_ids(state.next_id, n),
        place=flow.places(where, params.line, stress),
        reference=jnp.round(fair).astype(jnp.int32),
        fair=fair,
        price=jnp.where(side == BUY, jnp.floor(fair - distance), jnp.ceil(fair + distance)).astype(jnp.int32),
        informed=informed,
    )
    return draws, FairValueState(next_id=flow.next_id(state.next_id, n), elapsed=elapsed[-1], fair=after[-1])


def message(draw: FairValueDraws, book: Book) -> Messages:
    """What a draw (fields of shape []) asks of the book as it stands."""
    bid, ask = flow.quotes(book, draw.reference)
    arbitrage = jnp.where(ask < draw.fair, BUY, jnp.where(bid > draw.fair, SELL, 0))
    arbitrage = jnp.where((draw.kind == Kind.MARKET) & ~draw.informed, arbitrage, 0)
    fair = jnp.where(arbitrage == BUY, jnp.floor(draw.fair), jnp.ceil(draw.fair)).astype(jnp.int32)
    deepest = draw.side * flow.DEEPEST
    found, id = flow.background_at(book, draw.side, draw.place, deepest, -deepest)
    made = flow.order(draw, draw.price, found, id)
    return dataclasses.replace(
        made,
        kind=jnp.where(arbitrage != 0, Kind.IMMEDIATE_OR_CANCEL, made.kind),
        side=jnp.where(arbitrage != 0, arbitrage, made.side),
        price=jnp.where(arbitrage != 0, fair, made.price),
    )
