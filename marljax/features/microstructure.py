"""What the book itself says: spread, imbalance, order flow, the volume-weighted mid, and how steady the depth is.

Functions take one product's book: prices [T, K] in ticks and sizes [T, K] in lots, best level first, int32 as
`MarketData` has it or float32 for gradients (through sizes everywhere, through prices where they enter as numbers).
An absent level has size 0 and adds nothing. `age` int32[T] is the steps since the session began.
"""

import chex
import jax
import jax.numpy as jnp

from marljax.features.windows import ratio, rolling_deviation, rolling_mean, rolling_sum, root


def spread(bid_price: jax.Array, ask_price: jax.Array) -> jax.Array:
    """float32[T] best ask less best bid [ticks]."""
    return (ask_price[:, 0] - bid_price[:, 0]).astype(jnp.float32)


def imbalance(bid_size: jax.Array, ask_size: jax.Array, levels: int) -> jax.Array:
    """float32[T] (bid size - ask size) / (bid size + ask size) over the best `levels` levels, in -1..1."""
    chex.assert_equal_shape([bid_size, ask_size])
    bid, ask = _depth(bid_size, levels), _depth(ask_size, levels)
    return ratio(bid - ask, bid + ask)


def microprice_offset(
    bid_price: jax.Array, ask_price: jax.Array, bid_size: jax.Array, ask_size: jax.Array
) -> jax.Array:
    """float32[T] volume-weighted mid less mid [ticks]; each price is weighted by the size opposite.

    Positive where the bid is the heavier side (Gatheral and Oomen, 2010).
    """
    return spread(bid_price, ask_price) / 2 * imbalance(bid_size, ask_size, levels=1)


def order_flow(
    bid_price: jax.Array, ask_price: jax.Array, bid_size: jax.Array, ask_size: jax.Array, age: jax.Array
) -> jax.Array:
    """float32[T, K] lots added to the bid less lots added to the ask since the row before, 0 at a session's first row.

    Cont, Kukanov and Stoikov (2014), equation 4, at each level by itself (Xu, Gould and Howison, 2018).
    """
    chex.assert_equal_shape([bid_price, ask_price, bid_size, ask_size])
    bid = _added(bid_price, bid_size)
    ask = _added(-ask_price, ask_size)
    return jnp.where((age > 0)[:, None], bid - ask, 0.0)


def order_flow_imbalance(
    bid_price: jax.Array,
    ask_price: jax.Array,
    bid_size: jax.Array,
    ask_size: jax.Array,
    age: jax.Array,
    *,
    levels: int,
    window: int,
    depth_window: int,
) -> jax.Array:
    """float32[T] order flow of the best `levels` levels over the last `window` steps, in trailing average depths.

    The depth of a row is the mean of both sides' size over these levels, averaged over the last `depth_window` rows:
    the price moves in proportion to flow over depth. A depth under one lot counts as one lot.
    """
    flow = order_flow(bid_price, ask_price, bid_size, ask_size, age)[:, :levels].sum(axis=1)
    depth = (_depth(bid_size, levels) + _depth(ask_size, levels)) / 2
    return rolling_sum(flow, age, window) / jnp.maximum(rolling_mean(depth, age, depth_window), 1.0)


def depth_volatility(bid_size: jax.Array, ask_size: jax.Array, age: jax.Array, window: int) -> jax.Array:
    """float32[T] standard deviation over mean of the whole visible depth in the last `window` rows of the session."""
    depth = _depth(bid_size, bid_size.shape[1]) + _depth(ask_size, ask_size.shape[1])
    deviation, variance = rolling_deviation(depth, age, window)
    return ratio(root(variance), depth - deviation)


def _depth(size: jax.Array, levels: int) -> jax.Array:
    return size[:, :levels].astype(jnp.float32).sum(axis=1)


def _added(price: jax.Array, size: jax.Array) -> jax.Array:
    """Lots that came less lots that went; a higher price is the better one. The first row has none."""
    before_price = jnp.concatenate([price[:1], price[:-1]])
    size = size.astype(jnp.float32)
    before_size = jnp.concatenate([size[:1], size[:-1]])
    return jnp.where(price >= before_price, size, 0.0) - jnp.where(price <= before_price, before_size, 0.0)
