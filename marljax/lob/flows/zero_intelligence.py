"""Zero intelligence: limit orders, market orders and cancellations as independent Poisson processes.

Rates depend on the distance from the opposite best quote alone (Smith, Farmer, Gillemot & Krishnamurthy 2003; Cont,
Stoikov & Talreja 2010): limit orders arrive at `limit_rate[d]` d + 1 ticks from it, and each resting lot is cancelled
at `cancel_hazard[d]`. Nobody looks at the past, and yet spreads, depth and diffusion follow from the rates.

There is no fair value here, so of a stress its volatility, drift and informed traders do not act.
"""

import jax
import jax.numpy as jnp
from flax import struct

from marljax.lob.flows import flow
from marljax.lob.stress import Stress
from marljax.lob.types import BUY, Book, BookConfig, Kind, Messages


@struct.dataclass
class ZeroIntelligenceParams:
    """Rates of both sides. Distances index d = 0..D-1 stands for d + 1 ticks from the opposite best quote."""

    limit_rate: jax.Array  # float32[D] orders/s of each side at a distance
    market_rate: jax.Array  # float32[] orders/s of each side
    cancel_hazard: (
        jax.Array
    )  # float32[D] 1/s at which an order of mean size is cancelled, others as their size, not rising; deeper, the last
    sizes: jax.Array  # float32[Q] lots of limit and market orders, equally likely
    line: jax.Array  # float32[] lots of a side that cancellations reach; should exceed what rests
    reference: jax.Array  # int32[] ticks, price of the first book and of one that is empty


@struct.dataclass
class ZeroIntelligenceState:
    """What one step leaves to the next."""

    next_id: jax.Array  # int32[]


@struct.dataclass
class ZeroIntelligenceDraws(flow.Draws):
    """Draws with the places at which orders come and go."""

    distance: jax.Array  # int32[n] ticks of a limit order from the opposite best quote
    within: jax.Array  # int32[n] ticks, an order farther from the opposite quote survives this cancellation


def typical(
    reference: int = 10_000, distances: int = 20, size: float = 1.0, line: float = 60.0
) -> ZeroIntelligenceParams:
    """A liquid small-tick stock in the manner of Cont, Stoikov & Talreja (2010), whose rates fall as a power.

    Args:
        reference: ticks.
        distances: D, with limit orders at 1.92 d^-0.52 per second d ticks away.
        size: lots of every order.
        line: lots of a side that cancellations reach.
    """
    ticks = jnp.arange(1, distances + 1, dtype=jnp.float32)
    return ZeroIntelligenceParams(
        limit_rate=1.92 * ticks**-0.52,
        market_rate=jnp.float32(0.94),
        cancel_hazard=jnp.maximum(0.71 * ticks**-0.5, 0.1),
        sizes=jnp.full(1, size, jnp.float32),
        line=jnp.float32(line),
        reference=jnp.int32(reference),
    )


halts, ends = flow.never_halts, flow.never_ends


def initial_state(params: ZeroIntelligenceParams) -> ZeroIntelligenceState:
    """Nothing has arrived yet."""
    return ZeroIntelligenceState(next_id=jnp.zeros((), jnp.int32))


def initial_book(key: jax.Array, params: ZeroIntelligenceParams, config: BookConfig) -> Book:
    """A book filled as if nothing were traded: limit_rate / cancel_hazard lots rest d + 1 ticks from the reference."""
    where, what, rounding = flow.uniforms(key, 3, 2 * config.slots)
    mean_size = jnp.mean(params.sizes)
    # Orders that arrive and lots that leave balance where rate x size = hazard x lots.
    resting = params.limit_rate / params.cancel_hazard
    distance = 1 + flow.choose(where, resting)
    calm_size = jnp.maximum(flow.whole(flow.equally(what, params.sizes), rounding), 1)
    reachable = jnp.minimum(0.8 * config.slots, 0.9 * params.line / mean_size)
    present = jnp.arange(config.slots) < jnp.minimum(jnp.sum(resting), reachable)
    distance, size = distance.reshape(2, -1), jnp.where(present, calm_size.reshape(2, -1), 0)
    return flow.filled(config, params.reference + jnp.array([[-1], [1]]) * distance, size)


def prepare(
    key: jax.Array, state: ZeroIntelligenceState, params: ZeroIntelligenceParams, stress: Stress, n: int
) -> tuple[ZeroIntelligenceDraws, ZeroIntelligenceState]:
    """The next n messages before they meet the book, see `marljax.lob.flows.flow`."""
    when, what, side, where, deep, size, rounding = flow.uniforms(key, 7, n)
    # Of both sides together. A cancellation points, and hits in proportion to what rests on the line.
    rates = 2 * jnp.stack(
        [
            jnp.sum(params.limit_rate),
            params.market_rate,
            flow.pointers(params.cancel_hazard[0], params.line, params.sizes),
        ]
    )
    kind = flow.kinds(what, rates, stress)
    buys = side < jnp.where(kind == Kind.MARKET, flow.buy_share(jnp.float32(0.5), stress), 0.5)
    draws = ZeroIntelligenceDraws(
        seconds=jnp.cumsum(flow.exponentials(when)) / jnp.sum(flow.stressed_rates(rates, stress)),
        kind=kind,
        side=flow.sides(buys),
        size=flow.lots(size, params.sizes, rounding, stress),
        id=flow.new_ids(state.next_id, n),
        place=flow.places(where, params.line, stress),
        reference=jnp.broadcast_to(params.reference, (n,)),
        # How deep a cancellation reaches is no matter to a limit order, and so independent of all that makes one.
        distance=1 + flow.choose(where, params.limit_rate) + flow.whole(stress.half_spread, deep),
        within=flow.survives(deep, params.cancel_hazard),
    )
    return draws, ZeroIntelligenceState(next_id=flow.next_id(state.next_id, n))


def message(draw: ZeroIntelligenceDraws, book: Book) -> Messages:
    """What a draw (fields of shape []) asks of the book as it stands."""
    bid, ask = flow.quotes(book, draw.reference)
    opposite = jnp.where(draw.side == BUY, ask, bid)
    price = opposite - draw.side * draw.distance
    worst = opposite - draw.side * draw.within
    found, id = flow.background_at(book, draw.side, draw.place, opposite, worst)
    return flow.order(draw, price, found, id)
