"""A zero-intelligence book: the project's own matching engine fed with Poisson orders at fitted rates.

Limit orders, market orders and cancellations come at rates that depend on the distance from the opposite best quote
alone (Smith, Farmer, Gillemot & Krishnamurthy 2003; Cont, Stoikov & Talreja 2010). Spreads, depth and diffusion follow
from them by price-time priority: real mechanics without memory or information. Products are independent.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from marljax.data.schema import InputError, MarketData
from marljax.generative.books import Numbers
from marljax.generative.controls.flow_rates import fit_flow
from marljax.generative.controls.sessions import check_request, step_seconds, training_parts
from marljax.lob.flows import flow, zero_intelligence
from marljax.lob.flows.zero_intelligence import ZeroIntelligenceParams
from marljax.lob.matching import process
from marljax.lob.snapshot import Levels, levels
from marljax.lob.stress import calm
from marljax.lob.types import Book, BookConfig, Kind

_BLOCK = 64.0
"""Messages that a block holds on average, at most."""
_ROOM = 2.0
"""Slots of a side, in orders that rest there at the flow's rates."""
_LEAST_SLOTS, _MOST_SLOTS = 32, 1024


class Rows(NamedTuple):
    """What one product's book shows at each grid time; leading axes are the caller's."""

    levels: Levels  # int32[..., K] ticks and lots; price and size 0 where absent
    bought: jax.Array  # int32[...] lots since the row before
    sold: jax.Array  # int32[...] lots since the row before


class Shape(NamedTuple):
    """What fixes the shapes of a simulation."""

    book: BookConfig
    blocks: int  # of messages in a grid step
    messages: int  # in a block
    n_levels: int


def zero_intelligence_books(
    training: MarketData,
    *,
    n_sessions: int,
    n_steps: int,
    seed: int,
    flows: Sequence[ZeroIntelligenceParams] | None = None,
    warm_up: float = 600.0,
) -> MarketData:
    """Sessions 0..n_sessions-1 of simulated books on the training part's time step, each from a real row's best bids.

    Args:
        training: says products, levels, step and, by default, the rates.
        n_sessions: count.
        n_steps: rows of a session.
        seed: of the random numbers.
        flows: rates of each product, from `fit_flow` by default; `fit_flow_of_messages` knows them better.
        warm_up: seconds before a session begins, in which the first book is forgotten.

    Returns:
        MarketData of origin synthetic. A row that finds one side of a book empty repeats the row before as not valid.

    Raises:
        InputError: the training part is synthetic or no rates follow from it, or a session begins with an empty side.
    """
    _, joined = training_parts(training, "a zero-intelligence book like a real one")
    check_request(n_sessions, n_steps)
    if flows is None:
        flows = [fit_flow(training, product) for product in range(training.n_products)]
    if len(flows) != training.n_products:
        raise InputError(f"{training.n_products} products need as many flows, got {len(flows)}")
    seconds = step_seconds(training, joined)
    shape = _shape(flows, seconds, training.n_levels)
    skipped = max(0, int(np.ceil(warm_up / seconds)))
    stacked = _stacked(flows)
    session_keys = jax.random.split(jax.random.key(seed), (n_sessions, training.n_products))
    simulated = _simulate(session_keys, stacked, jnp.float32(seconds), skipped, n_steps, shape)
    starts = np.random.default_rng(seed).choice(np.flatnonzero(joined), n_sessions)
    return _market_data(jax.tree.map(np.asarray, simulated), training, starts, seconds)


def _shape(flows: Sequence[ZeroIntelligenceParams], seconds: float, n_levels: int) -> Shape:
    """Slots for twice what rests at the flows' rates, and blocks for what arrives in a step."""
    # An order is cancelled as its size: small ones stay longer.
    orders = max(
        float(jnp.sum(f.limit_rate / f.cancel_hazard) * jnp.mean(f.sizes) * jnp.mean(1 / f.sizes)) for f in flows
    )
    expected = seconds * max(_message_rate(f) for f in flows)
    blocks = max(1, int(np.ceil(expected / _BLOCK)))
    # Six standard deviations of a Poisson count: what comes beyond would be lost.
    messages = expected / blocks + 6 * np.sqrt(expected / blocks)
    slots = int(np.clip(np.ceil(_ROOM * orders), _LEAST_SLOTS, _MOST_SLOTS))
    # In round numbers, so that flows much alike are compiled once.
    book = BookConfig(slots=32 * -(-slots // 32), owners=1, trades=1)
    return Shape(book, blocks, 16 * (int(messages) // 16 + 1), n_levels)


def _message_rate(params: ZeroIntelligenceParams) -> float:
    """Messages per second of both sides."""
    pointers = flow.pointers(params.cancel_hazard[0], params.line, params.sizes)
    return 2 * float(jnp.sum(params.limit_rate) + params.market_rate + pointers)


def _stacked(flows: Sequence[ZeroIntelligenceParams]) -> ZeroIntelligenceParams:
    """The flows with a leading axis of products. Where one reaches less far, nothing arrives beyond."""
    distances = max(len(f.limit_rate) for f in flows)

    def reaching(params: ZeroIntelligenceParams) -> ZeroIntelligenceParams:
        missing = (0, distances - len(params.limit_rate))
        return dataclasses.replace(
            params,
            limit_rate=jnp.pad(params.limit_rate, missing),
            cancel_hazard=jnp.pad(params.cancel_hazard, missing, mode="edge"),
        )

    return jax.tree.map(lambda *x: jnp.stack(x), *[reaching(f) for f in flows])


@partial(jax.jit, static_argnames=("skipped", "n_steps", "shape"))
def _simulate(
    keys: jax.Array, params: ZeroIntelligenceParams, seconds: jax.Array, skipped: int, n_steps: int, shape: Shape
) -> Rows:
    """Rows [N, P, n_steps] after `skipped` steps. `keys` [N, P]; `params` have a leading axis P."""

    def block(carry: tuple[Book, zero_intelligence.ZeroIntelligenceState], key: jax.Array, params: Any):
        book, state = carry
        draws, state = zero_intelligence.prepare(key, state, params, calm(), shape.messages)
        # The rest of a Poisson stream begins anew at any time, so what lies beyond the block's end may be dropped.
        in_time = draws.seconds <= seconds / shape.blocks
        draws = dataclasses.replace(draws, kind=jnp.where(in_time, draws.kind, Kind.NOTHING))
        book, report = process(book, draws, shape.book, respond=lambda now, draw: zero_intelligence.message(draw, now))
        return (book, state), report.turnover.lots[1, :, 0]

    def session(key: jax.Array, params: ZeroIntelligenceParams) -> Rows:
        def step(carry, key):
            carry, lots = lax.scan(partial(block, params=params), carry, jax.random.split(key, shape.blocks))
            bought, sold = jnp.sum(lots, axis=0)
            return carry, Rows(levels(carry[0], shape.n_levels), bought, sold)

        begin, key = jax.random.split(key)
        carry = (zero_intelligence.initial_book(begin, params, shape.book), zero_intelligence.initial_state(params))
        _, rows = lax.scan(step, carry, jax.random.split(key, skipped + n_steps))
        return jax.tree.map(lambda x: x[skipped:], rows)

    return jax.vmap(jax.vmap(session), (0, None))(keys, params)


def _market_data(rows: Rows, training: MarketData, starts: np.ndarray, seconds: float) -> MarketData:
    """Checked MarketData of rows [N, P, T], shifted so that sessions begin at the best bids of training rows [N]."""
    shown = rows.levels
    n_sessions, n_products, n_steps, _ = shown.bid_price.shape
    valid = (shown.bid_size[..., 0] > 0) & (shown.ask_size[..., 0] > 0)
    if not valid[..., 0].all():
        product = training.products[int(np.argwhere(~valid[..., 0])[0, 1])]
        raise InputError(f"a session of {product.name} begins with an empty side: its rates keep no book alive")
    last = np.maximum.accumulate(np.where(valid, np.arange(n_steps), 0), axis=-1)
    shift = np.asarray(training.bid_price)[starts, :, 0] - shown.bid_price[:, :, 0, 0]

    def table(x: Numbers) -> np.ndarray:
        return np.moveaxis(np.asarray(x), 2, 1).reshape(n_sessions * n_steps, n_products, *x.shape[3:])

    def side(prices: Numbers, sizes: Numbers, away: int) -> tuple[np.ndarray, np.ndarray]:
        price, size = (np.take_along_axis(np.asarray(x), last[..., None], axis=2) for x in (prices, sizes))
        price = price + shift[:, :, None, None]
        for k in range(1, price.shape[-1]):
            price[..., k] = np.where(size[..., k] > 0, price[..., k], price[..., k - 1] + away)
        return table(price), table(size)

    bid_price, bid_size = side(shown.bid_price, shown.bid_size, -1)
    ask_price, ask_size = side(shown.ask_price, shown.ask_size, 1)
    return MarketData.build(
        bid_price=bid_price,
        ask_price=ask_price,
        bid_size=bid_size,
        ask_size=ask_size,
        trade_volume=table(rows.bought + rows.sold),
        trade_imbalance=table(rows.bought - rows.sold),
        pnl=np.full(bid_price.shape[:2], np.nan),
        valid=table(valid),
        seconds=np.tile(np.arange(n_steps) * seconds, n_sessions),
        session=np.repeat(np.arange(n_sessions), n_steps),
        products=training.products,
        origin="synthetic",
    )
