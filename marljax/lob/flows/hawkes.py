"""Order flow that excites itself: a multivariate Hawkes process with exponential kernels (Hawkes 1971).

Limit orders, market orders and cancellations of both sides cluster, and follow each other, as in Bacry, Mastromatteo &
Muzy (2015). A kernel of K decays is a state of K numbers per type, carried across steps. The next event is drawn
exactly and without rejection (Dassios & Zhao 2013): baseline and each decay's excitation are independent sources of
events, whose waiting times have closed forms, and the first of them is the next event.

Limit orders that improve the best quote, and cancellations of what stands there first, are types of their own, since
they are what moves the price. The wider the spread, the more limit orders improve it and the fewer market orders cross
it; those take their size of what stands at the best quote, and rarely go beyond.
Over a session, activity and the width of the book follow a profile: mornings are nervous.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax

from marljax.lob.flows import flow
from marljax.lob.stress import Stress
from marljax.lob.types import BUY, Book, BookConfig, Kind, Messages

TYPES = (
    *("limit_buy", "limit_sell", "market_buy", "market_sell", "cancel_buy", "cancel_sell"),
    *("improve_buy", "improve_sell", "retreat_buy", "retreat_sell"),
)
"""The E = 10 event types: the side of the order itself, of a market order that of who sends it. An improvement is a
limit order inside the spread, a retreat the cancellation of the first order in the queue at the best quote."""
_KIND = (Kind.LIMIT, Kind.MARKET, Kind.CANCEL, Kind.LIMIT, Kind.CANCEL)
_IMPROVE, _RETREAT = 3, 4
_DOUBLINGS = 12


@struct.dataclass
class Excitation:
    """The process' law: intensity_i(t) = baseline_i + sum over k, events s < t of type j:
    branching[k, i, j] decay[k] exp(-decay[k] (t - s)). Stationary while the spectral radius of branching, summed over
    k, is below 1."""

    baseline: jax.Array  # float32[E] events/s, positive in sum
    decay: jax.Array  # float32[K] 1/s
    branching: jax.Array  # float32[K, E, E] events of type i that one of type j causes on average


@struct.dataclass
class Placement:
    """Where orders come and go. Distances count from the best quote of the order's own side."""

    behind: jax.Array  # float32[Q] ticks by which limit orders stand behind their best quote, equally likely
    spread_from: jax.Array  # int32[B] ticks, bins of the spread
    inside: jax.Array  # float32[B] probability, not falling, that an improvement finds a spread of the bin worthwhile
    improvement: jax.Array  # float32[Q] in (0, 1] of the spread less a tick, by which it improves, equally likely
    crossing: jax.Array  # float32[B] probability, not rising, that a market order accepts a spread of the bin
    line: jax.Array  # float32[] lots of a side that cancellations point at
    to_front: jax.Array  # float32[] >= 1: they point uniform^to_front of the line from its front
    spare: jax.Array  # float32[] share of other cancellations that leave orders at the best quote alone
    sweep: jax.Array  # float32[] share of market orders that go beyond the best quote; others take what it has


@struct.dataclass
class Profile:
    """The course of a session, linear between its points and constant after the last."""

    grid: jax.Array  # float32[] s between the points
    activity: jax.Array  # float32[H, 3] multiplies the mean rates of limit orders, market orders and cancellations
    width: jax.Array  # float32[H] multiplies the distances of limit orders behind the best quote


@struct.dataclass
class HawkesParams:
    """A process, and what its events do. In `excitation` the rates count cancellations that hit nothing and market
    orders that shun the spread."""

    excitation: Excitation
    placement: Placement
    profile: Profile
    limit_sizes: jax.Array  # float32[Q] lots, equally likely
    improve_sizes: jax.Array  # float32[Q] lots of limit orders meant to improve the best quote, equally likely
    market_sizes: jax.Array  # float32[Q] lots, equally likely
    reference: jax.Array  # int32[] ticks, price of the first book and of one that is empty
    half_spread: jax.Array  # float32[] ticks, of the first book


@struct.dataclass
class HawkesState:
    """What one step leaves to the next."""

    next_id: jax.Array  # int32[]
    exciting: jax.Array  # float32[K, E] earlier events of each type, each as exp(-decay[k] age), under calm
    elapsed: jax.Array  # float32[] s since the session's start


@struct.dataclass
class HawkesDraws(flow.Draws):
    """Draws with the places at which orders come and go."""

    distance: jax.Array  # int32[n] ticks of a limit order behind the best quote of its side
    improvement: jax.Array  # float32[n] of the spread less a tick, by which it improves instead; 0 of all others
    inside_from: jax.Array  # int32[n] ticks, the least spread that it improves
    crosses_below: jax.Array  # int32[n] ticks, the least spread that a market order shuns
    retreats: jax.Array  # bool[n] a cancellation at the best quote, not behind it
    further: jax.Array  # int32[n] ticks, by which stress puts it further away
    sweeps: jax.Array  # bool[n] a market order that goes beyond the best quote


def mean_rates(law: Excitation) -> jax.Array:
    """Stationary mean rates (I - A)^-1 baseline with A the branching summed over k, float32[E] events/s.

    By the series I + A + A^2 + ..., of which each factor I + A^(2^m) doubles the terms: LAPACK has no place in a
    jitted reset.
    """
    power = jnp.sum(law.branching, axis=0)
    rates = law.baseline
    for _ in range(_DOUBLINGS):
        rates = rates + power @ rates
        power = power @ power
    return rates


halts, ends = flow.never_halts, flow.never_ends


def initial_state(params: HawkesParams) -> HawkesState:
    """As many earlier events as on average."""
    law = params.excitation
    return HawkesState(
        next_id=jnp.zeros((), jnp.int32),
        exciting=mean_rates(law) / law.decay[:, None],
        elapsed=jnp.zeros((), jnp.float32),
    )


def initial_book(key: jax.Array, params: HawkesParams, config: BookConfig) -> Book:
    """Orders at the distances at which they arrive, on both sides of a spread of twice `half_spread`."""
    where, what = flow.uniforms(key, 2, 2 * config.slots)
    width = params.profile.width[0]
    distance = params.half_spread + flow.whole(width * flow.equally(where, params.placement.behind), what)
    size = flow.equally(what, params.limit_sizes).astype(jnp.int32)
    present = jnp.arange(config.slots) < 0.6 * config.slots
    price = params.reference + jnp.array([[-1], [1]]) * distance.astype(jnp.int32).reshape(2, -1)
    return flow.filled(config, price, jnp.where(present, size.reshape(2, -1), 0))


def events(
    key: jax.Array, exciting: jax.Array, law: Excitation, multiplier: jax.Array, n: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The next n events of the process, drawn exactly.

    Args:
        key: random key.
        exciting: float32[K, E] as in `HawkesState`.
        law: the process.
        multiplier: float32[E] of the types' rates; it multiplies the mean rates and leaves the branching ratio.
        n: events.

    Returns:
        seconds float32[n] since the event before, type int32[n], and `exciting` after the last.
    """
    kernels, types = law.branching.shape[:2]
    drawn = flow.uniforms(key, kernels + 3, n)
    spontaneous, cause, effect = drawn[0], drawn[1], drawn[2]
    spontaneous = flow.exponentials(spontaneous) / jnp.sum(law.baseline * multiplier)
    waits = flow.exponentials(drawn[3:].T)
    # Events that one of type j causes through kernel k, by type and in sum; where there is no cause, k = K.
    children = jnp.moveaxis(law.branching * multiplier[:, None], 1, 2)
    offspring = jnp.sum(children, axis=-1)
    spontaneously = jnp.broadcast_to(law.baseline * multiplier, (1, types, types))
    below = _cumulative(jnp.concatenate([children, spontaneously]))
    # A type that arrives m times as often excites 1 / m as much.
    jump = jnp.eye(types) / jnp.maximum(multiplier, 1e-6)

    def step(exciting: jax.Array, draw: tuple[jax.Array, ...]) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        spontaneous, wait, cause, effect = draw
        # An excitation that decays has so many events to come in all, and may have none.
        to_come = offspring * exciting
        unused = jnp.maximum(1.0 - wait / jnp.maximum(jnp.sum(to_come, axis=-1), 1e-30), 0.0)
        after = lax.optimization_barrier(-jnp.log(unused) / law.decay)
        seconds = jnp.minimum(jnp.min(after), spontaneous)
        kernel = jnp.where(seconds == spontaneous, kernels, jnp.argmin(after))
        chances = _cumulative(to_come[jnp.minimum(kernel, kernels - 1)])
        parent = jnp.sum(cause * chances[-1] >= chances[:-1], dtype=jnp.int32)
        row = below[kernel, parent]
        event = lax.optimization_barrier(jnp.sum(effect * row[-1] >= row[:-1], dtype=jnp.int32))
        exciting = exciting * jnp.exp(-law.decay * seconds)[:, None] + jump[event]
        return exciting, (seconds, event)

    exciting, (seconds, event) = lax.scan(step, exciting, (spontaneous, waits, cause, effect), unroll=2)
    return seconds, event, exciting


def _cumulative(x: jax.Array) -> jax.Array:
    """Cumulative sums along the last axis, which is short: XLA's CPU backend is slow at `cumsum`."""
    upper = jnp.triu(jnp.ones((x.shape[-1],) * 2))
    return jnp.sum(x[..., :, None] * upper, axis=-2)


def prepare(
    key: jax.Array, state: HawkesState, params: HawkesParams, stress: Stress, n: int
) -> tuple[HawkesDraws, HawkesState]:
    """The next n messages before they meet the book, see `marljax.lob.flows.flow`."""
    event_key, key = jax.random.split(key)
    law, place = params.excitation, params.placement
    activity = flow.along(params.profile.activity, params.profile.grid, state.elapsed)
    width = flow.along(params.profile.width, params.profile.grid, state.elapsed)
    rates = jnp.stack([stress.limit_rate, stress.market_rate, stress.cancel_rate])
    stopped = flow.stopped(rates, stress)
    limit, market, cancel = activity * jnp.where(stopped, 1.0, rates)
    buy, sell = 2 * market * stress.buy_share, 2 * market * (1 - stress.buy_share)
    multiplier = jnp.stack([limit, limit, buy, sell, cancel, cancel, limit, limit, cancel, cancel])
    gaps, event, exciting = events(event_key, state.exciting, law, multiplier, n)
    seconds = jnp.cumsum(gaps)
    what = event // 2
    kind = jnp.array(_KIND, jnp.int32)[what]
    is_market = kind == Kind.MARKET

    where, how, size, rounding = flow.uniforms(key, 4, n)
    limit_size = flow.lots(size, params.limit_sizes, rounding, stress)
    improve_size = flow.lots(size, params.improve_sizes, rounding, stress)
    market_size = flow.lots(size, params.market_sizes, rounding, stress)
    spread_to = jnp.append(place.spread_from, flow.DEEPEST)
    too_narrow = jnp.sum(how >= place.inside[:, None], axis=0)
    narrow_enough = jnp.sum(how < place.crossing[:, None], axis=0)
    improvement = flow.equally(where, place.improvement)
    draws = HawkesDraws(
        seconds=seconds,
        kind=jnp.where(stopped, Kind.NOTHING, kind),
        side=flow.sides(event % 2 == 0),
        size=jnp.where(is_market, market_size, jnp.where(what == _IMPROVE, improve_size, limit_size)),
        id=flow.new_ids(state.next_id, n),
        place=flow.places(jnp.where(what == _RETREAT, 0.0, where**place.to_front), place.line, stress),
        reference=jnp.broadcast_to(params.reference, (n,)),
        distance=flow.whole(width * flow.equally(where, place.behind), rounding),
        improvement=jnp.where(what == _IMPROVE, improvement, 0.0),
        inside_from=spread_to[too_narrow],
        crosses_below=spread_to[narrow_enough],
        retreats=(what == _RETREAT) | (how >= place.spare),
        further=flow.whole(stress.half_spread, rounding),
        sweeps=is_market & (where < place.sweep),
    )
    return draws, HawkesState(flow.next_id(state.next_id, n), exciting, state.elapsed + seconds[-1])


def message(draw: HawkesDraws, book: Book) -> Messages:
    """What a draw (fields of shape []) asks of the book as it stands."""
    bid, ask = flow.quotes(book, draw.reference)
    own, opposite = jnp.where(draw.side == BUY, bid, ask), jnp.where(draw.side == BUY, ask, bid)
    room = ask - bid - 1
    better = jnp.ceil(draw.improvement * room).astype(jnp.int32)
    improves = (draw.improvement > 0) & (ask - bid >= draw.inside_from)
    price = own + draw.side * (jnp.where(improves, better, -draw.distance) - draw.further)
    best = jnp.where(draw.retreats, own, own - draw.side)
    found, id = flow.background_at(book, draw.side, draw.place, best, -draw.side * flow.DEEPEST)
    made = flow.order(draw, price, found, id)
    market = draw.kind == Kind.MARKET
    takes = market & ~draw.sweeps
    kind = jnp.where(takes, Kind.IMMEDIATE_OR_CANCEL, made.kind)
    return dataclasses.replace(
        made,
        kind=jnp.where(market & (ask - bid >= draw.crosses_below), Kind.NOTHING, kind),
        price=jnp.where(takes, opposite, made.price),
    )
