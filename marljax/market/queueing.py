"""Where an order stands in its queue, on a tape that shows sizes by price and never who is behind whom.

Between two rows of a tape an order at a price is reached by the volume that traders took there. The rest of what the
level lost was cancelled, and how much of that stood ahead of the order is not recorded: it is the queue model's to
say. The model here is one number, the hazard: how many times as readily an order ahead is cancelled as the average
order of its level.

    hazard 0    pessimistic: cancellations come from behind while anything stands behind
    hazard 1    proportional: they come from ahead and from behind alike
    hazard inf  front of queue: the order is always first, a bound that no real order passes

A larger hazard never fills later, so that 0 and inf bound what quotes could have earned. Cf. Moallemi and Yuan, "A
model for queue position valuation in a limit order book" (2016).

Prices of one side are kept in its own direction: a bid's price as it is, an ask's negated, so that a larger one is
always nearer to a trade and the same lines serve both sides.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marljax.data.schema import MarketData

PESSIMISTIC, PROPORTIONAL, FRONT_OF_QUEUE = 0.0, 1.0, float("inf")
"""The named values of the hazard."""

UNSEEN = 2**31 - 1
"""Stands in a tape for the lots beyond what it shows."""


@struct.dataclass
class QuoteTape:
    """One product's market as resting orders meet it, row by row. Side 0 is the bids, side 1 the asks.

    The depth is laid out by tick, so that what stands at a price is one look-up, however many levels a book has.
    """

    touch: jax.Array  # int32[T, 2] best prices [ticks, the ask's negated]
    depth: jax.Array  # int32[T, 2, D + 4] lots less than i - 1 ticks behind the touch; UNSEEN out of sight
    flow: jax.Array  # int32[T, 2] lots that traders sold into the bids, bought from the asks, since the row before


@struct.dataclass
class Level:
    """What a row shows at a price."""

    better: jax.Array  # int32[...] lots at better prices of the side
    there: jax.Array  # int32[...] lots at the price; meaningless out of sight
    seen: jax.Array  # bool[...] False beyond the visible levels and the tape's reach


@struct.dataclass
class Order:
    """A resting order of one side, or of several."""

    price: jax.Array  # int32[...] ticks, an ask's negated
    remaining: jax.Array  # int32[...] lots, 0 where there is no order
    ahead: jax.Array  # float32[...] lots of its level to be filled before it; a model's expectation, so not whole

    @classmethod
    def none(cls, shape: tuple[int, ...] = ()) -> "Order":
        zero = jnp.zeros(shape, jnp.int32)
        return cls(zero, zero, jnp.zeros(shape, jnp.float32))


def quote_tape(data: MarketData, reach: int) -> QuoteTape:
    """The tapes of all products, leaves [T, P, ...]. Host-side.

    Volume whose side is unknown counts half for either; an odd lot of it counts for none. The volume of a row that was
    not observed is left out, because what it took from the book is not seen before a later row.

    Args:
        data: the books.
        reach: D, how far behind the touch the depth is laid out [ticks]; what stands further is out of sight.
    """
    price = np.stack([np.asarray(data.bid_price), -np.asarray(data.ask_price)], axis=-2)
    size = np.stack([np.asarray(data.bid_size), np.asarray(data.ask_size)], axis=-2)
    behind = price[..., :1] - price
    depth = np.zeros((*price.shape[:-1], reach + 4), np.int32)
    for k in range(price.shape[-1]):
        at = np.minimum(behind[..., k : k + 1], reach + 1) + 2
        np.put_along_axis(depth, at, np.take_along_axis(depth, at, -1) + size[..., k : k + 1], -1)
    np.cumsum(depth, axis=-1, out=depth)
    # The last level shows that nothing stands before it; behind it anything may.
    sight = np.minimum(behind[..., -1:], reach)
    depth[np.arange(reach + 4) > sight + 2] = UNSEEN
    # In 64 bits, since volume and imbalance together may leave 32.
    volume, net = (np.asarray(x, np.int64) for x in (data.trade_volume, data.trade_imbalance))
    flow = np.where(np.asarray(data.valid)[..., None], np.stack([volume - net, volume + net], axis=-1) // 2, 0)
    return QuoteTape(jnp.asarray(price[..., 0]), jnp.asarray(depth), jnp.asarray(flow, jnp.int32))


def level(tape: QuoteTape, time: jax.Array, side: jax.Array, price: jax.Array) -> Level:
    """What stands at a price.

    Args:
        tape: the product's rows.
        time: int32[] row.
        side: int32[] 0 bids, 1 asks.
        price: int32[] ticks, an ask's negated.
    """
    reach = tape.depth.shape[-1] - 4
    index = jnp.clip(tape.touch[time, side] - price, -1, reach + 1) + 1
    better, upto = tape.depth[time, side, index], tape.depth[time, side, index + 1]
    return Level(better, upto - better, upto < UNSEEN)


def place(
    order: Order, price: jax.Array, size: jax.Array, there: Level, touch_across: jax.Array, hazard: jax.Array
) -> Order:
    """The order after a quote arrives: kept, replaced, withdrawn or refused.

    At an unchanged price the order keeps its place and what is left of it, cut to `size` if that is less: it is never
    topped up. A new order joins behind all that is displayed at its price. One that would trade on arrival is refused
    (post-only), and the order it was to replace is gone.

    Args:
        order: what stands.
        price: int32[...] wanted [ticks, an ask's negated].
        size: int32[...] wanted [lots]; 0 withdraws.
        there: what the row of the arrival shows at `price`.
        touch_across: int32[...] the other side's best price on arrival [ticks, an ask's negated].
        hazard: float32[] the queue model.
    """
    stays = (order.remaining > 0) & (price == order.price)
    crosses = -touch_across <= price
    behind = jnp.where(there.seen, there.there, UNSEEN).astype(jnp.float32)
    return Order(
        price=price,
        remaining=jnp.where(stays, jnp.minimum(order.remaining, size), jnp.where(crosses, 0, size)),
        ahead=jnp.where(stays, order.ahead, jnp.where(jnp.isinf(hazard), 0.0, behind)),
    )


def advance(
    order: Order, before: Level, after: Level, through: jax.Array, volume: jax.Array, hazard: jax.Array
) -> tuple[Order, jax.Array]:
    """One row on: the queue moves, and what reaches the order is filled at its price.

    Volume takes the displayed sizes of the row before, best price first; what is left of it at the order's price takes
    the lots ahead, then the order. It is taken to have come that far only where the row after shows nothing better (at
    the best three prices of GOOG, 2012-06-21, and rows of one second that makes 1.12, 1.17 and 1.17 times what was
    executed there or beyond, and without it 1.22, 1.49 and 1.72), and never where it is out of sight. Where
    the other side of the row after stands at the order's price or beyond it, the market has traded through: those lots
    would have met the order first, so they fill it, and what they leave of it is cancelled, lest they fill it twice.

    Args:
        order: with a price that did not cross the row before.
        before: what the row before shows at its price.
        after: what the row after shows there.
        through: int32[...] lots of the other side at the order's price or beyond it in the row after.
        volume: int32[...] lots taken from the order's side between the two rows.
        hazard: float32[] the queue model.

    Returns:
        The order, and the lots filled, int32[...].
    """
    traded = jnp.where(before.seen & (after.better == 0), jnp.maximum(volume - before.better, 0), 0)
    reached = jnp.floor(jnp.maximum(traded - order.ahead, 0.0)).astype(jnp.int32)
    # Each is cut by itself first, since their sum may leave 32 bits.
    filled = sum(jnp.minimum(lots, order.remaining) for lots in (reached, through))
    filled = jnp.minimum(filled, order.remaining)

    ahead = jnp.maximum(order.ahead - traded, 0.0)
    stood = jnp.maximum(before.there - traded, 0)
    cancelled = jnp.where(before.seen & after.seen, jnp.maximum(stood - after.there, 0), 0)
    lost = jnp.where(cancelled > 0, hazard * cancelled, 0.0)
    # Multiplied before divided: at hazard 1 a whole number of lots stays whole.
    ahead = jnp.where(cancelled > 0, ahead * jnp.maximum(stood - lost, 0.0) / jnp.maximum(stood, 1), ahead)
    ahead = jnp.where(after.seen, jnp.minimum(ahead, after.there), ahead)
    remaining = jnp.where(through > 0, 0, order.remaining - filled)
    return Order(order.price, remaining, ahead), filled


def rest(
    order: Order,
    price: jax.Array,
    size: jax.Array,
    late: jax.Array,
    position: jax.Array,
    *,
    tape: QuoteTape,
    time: jax.Array,
    side: jax.Array,
    limit: jax.Array,
    hazard: jax.Array,
) -> tuple[Order, jax.Array, jax.Array]:
    """From row `time` to the next: a quote arrives, in time or late, and the market moves.

    A late quote leaves the old order standing and meets the next row. The limit is checked where the quote arrives:
    whatever is filled while it travels, the position that fills could lead to stays within it.

    Args:
        order: what stands at row `time`.
        price: int32[] wanted [ticks, an ask's negated].
        size: int32[] wanted [lots]; 0 withdraws.
        late: bool[] whether the quote meets the next row.
        position: int32[] lots held, in the order's direction: a seller's negated.
        tape: the product's rows.
        time: int32[] row.
        side: int32[] 0 for a bid, 1 for an ask.
        limit: int32[] lots, the largest position.
        hazard: float32[] the queue model.

    Returns:
        The order at row `time + 1`, the lots filled between the rows, and the price they were filled at [ticks, an
        ask's negated].
    """
    other = 1 - side

    def arrive(order: Order, there: Level, row: jax.Array, position: jax.Array) -> Order:
        room = jnp.maximum(limit - position, 0)
        return place(order, price, jnp.minimum(size, room), there, tape.touch[row, other], hazard)

    standing = jnp.where(late, order.price, price)
    before, after = level(tape, time, side, standing), level(tape, time + 1, side, standing)
    across = level(tape, time + 1, other, -standing)
    order = _where(late, order, arrive(order, before, time, position))
    order, filled = advance(order, before, after, across.better + across.there, tape.flow[time + 1, side], hazard)
    there = level(tape, time + 1, side, price)
    return _where(late, arrive(order, there, time + 1, position + filled), order), filled, standing


def _where(condition: jax.Array, yes: Order, no: Order) -> Order:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)
