"""Where an order stands in its queue, on a tape that shows sizes by price and never who is behind whom.

Between two rows of a tape an order at a price is reached by the volume that traders took there. The rest of what the
level lost was cancelled, and how much of that stood ahead of the order is not recorded: it is the queue model's to
say. The model here is one number, the hazard: how many times as readily an order ahead is cancelled as the average
order of its level.

    hazard 0    pessimistic: cancellations come from behind while anything stands behind
    hazard 1    proportional: they come from ahead and from behind alike
    hazard inf  front of queue: the order is always first, a bound that no real order passes

A larger hazard never fills later (see `tests/market/test_queueing.py`), so that 0 and inf bound what a strategy could
have earned. Cf. Moallemi and Yuan, "A model for queue position valuation in a limit order book" (2016).

Orders of one side are compared in its own direction: the price of a bid is its price, the price of an ask is its
negative, so that a larger one is always nearer to a trade and one function serves both sides.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marljax.data.schema import MarketData

PESSIMISTIC, PROPORTIONAL, FRONT_OF_QUEUE = 0.0, 1.0, float("inf")
"""The named values of the hazard."""

OUT_OF_SIGHT = 2.0**30
"""Lots ahead of an order beyond the visible levels, until they show."""


@struct.dataclass
class Side:
    """One side of one row of a book, best first."""

    price: jax.Array  # int32[..., K] ticks, bids as they are, asks negated: descending
    size: jax.Array  # int32[..., K] lots, 0 where the level is absent


@struct.dataclass
class QuoteTape:
    """One product's market as resting orders meet it, row by row. Side 0 is the bids, side 1 the asks."""

    side: Side  # int32[T, 2, K]
    flow: jax.Array  # int32[T, 2] lots that traders sold into the bids, bought from the asks, since the row before


@struct.dataclass
class Order:
    """A resting order of one side. The default is none."""

    price: jax.Array  # int32[...] ticks, an ask's negated
    remaining: jax.Array  # int32[...] lots, 0 where there is no order
    ahead: jax.Array  # float32[...] lots of its level to be filled before it; a model's expectation, so not whole

    @classmethod
    def none(cls, shape: tuple[int, ...] = ()) -> "Order":
        zero = jnp.zeros(shape, jnp.int32)
        return cls(zero, zero, jnp.zeros(shape, jnp.float32))


def quote_tape(data: MarketData) -> QuoteTape:
    """The tapes of all products, leaves [T, P, ...].

    Volume whose side is unknown counts half for either; an odd lot of it counts for none. The volume of a row that was
    not observed is left out, because what it took from the book is not seen before a later row.
    """
    price = jnp.stack([data.bid_price, -data.ask_price], axis=-2)
    size = jnp.stack([data.bid_size, data.ask_size], axis=-2)
    # In 64 bits, since volume and imbalance together may leave 32.
    volume, net = (np.asarray(x, np.int64) for x in (data.trade_volume, data.trade_imbalance))
    flow = jnp.asarray(np.stack([volume - net, volume + net], axis=-1) // 2, jnp.int32)
    return QuoteTape(Side(price, size), jnp.where(data.valid[..., None], flow, 0))


def place(order: Order, price: jax.Array, size: jax.Array, own: Side, across: Side, hazard: jax.Array) -> Order:
    """The order of one side after a quote arrives: kept, replaced, withdrawn or refused.

    At an unchanged price the order keeps its place and what is left of it, cut to `size` if that is less: it is never
    topped up. A new order joins behind all that is displayed at its price. One that would trade on arrival is refused
    (post-only), and the order it was to replace is gone.

    Args:
        order: what stands.
        price: int32[] wanted [ticks, an ask's negated].
        size: int32[] wanted [lots]; 0 withdraws.
        own: the order's side of the book on arrival.
        across: the other side of it.
        hazard: float32[] the queue model.
    """
    stays = (order.remaining > 0) & (price == order.price)
    crosses = -across.price[0] <= price
    _, there, seen = _standing(own, price)
    behind = jnp.where(seen, there.astype(jnp.float32), OUT_OF_SIGHT)
    return Order(
        price=price,
        remaining=jnp.where(stays, jnp.minimum(order.remaining, size), jnp.where(crosses, 0, size)),
        ahead=jnp.where(stays, order.ahead, jnp.where(jnp.isinf(hazard), 0.0, behind)),
    )


def advance(
    order: Order, before: Side, after: Side, across: Side, volume: jax.Array, hazard: jax.Array
) -> tuple[Order, jax.Array]:
    """One row on: the queue moves, and what reaches the order is filled at its price.

    Volume takes the displayed sizes of the row before, best price first; what is left of it at the order's price takes
    the lots ahead, then the order. Volume that would walk beyond the visible levels reaches nobody. Where the other
    side of the row after stands at the order's price or beyond it, the market has traded through: that side's lots
    would have met the order first, so they fill it, and what they leave is cancelled, lest they fill it twice.

    Args:
        order: with a price that did not cross the row before.
        before: the order's side of the row before.
        after: the order's side of the row after.
        across: the other side of the row after.
        volume: int32[] lots taken from this side between the two rows.
        hazard: float32[] the queue model.

    Returns:
        The order, and the lots filled, int32[].
    """
    better, there, seen = _standing(before, order.price)
    _, left, still_seen = _standing(after, order.price)
    traded = jnp.where(seen, jnp.maximum(volume - better, 0), 0)
    through = jnp.sum(jnp.where(-across.price <= order.price, across.size, 0))
    reached = jnp.floor(jnp.maximum(traded - order.ahead, 0.0)).astype(jnp.int32)
    filled = jnp.minimum(order.remaining, reached + through)

    ahead = jnp.maximum(order.ahead - traded, 0.0)
    stood = jnp.maximum(there - traded, 0)
    cancelled = jnp.where(seen & still_seen, jnp.maximum(stood - left, 0), 0)
    lost = jnp.where(cancelled > 0, hazard * cancelled, 0.0)
    # Multiplied before divided: at hazard 1 a whole number of lots stays whole.
    ahead = jnp.where(cancelled > 0, ahead * jnp.maximum(stood - lost, 0.0) / jnp.maximum(stood, 1), ahead)
    ahead = jnp.where(still_seen, jnp.minimum(ahead, left), ahead)
    remaining = jnp.where(through > 0, 0, order.remaining - filled)
    return Order(order.price, remaining, ahead), filled


def _standing(side: Side, price: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Lots better than a price and lots at it, int32[] each, and bool[] whether it is among the visible levels."""
    better = jnp.sum(jnp.where(side.price > price, side.size, 0))
    there = jnp.sum(jnp.where(side.price == price, side.size, 0))
    return better, there, side.price[-1] <= price
