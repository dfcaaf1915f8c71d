"""Visible depth, laid out once so that walking it is a handful of adds.

A side of a book is a convex cost curve: beyond the half spread, a lot costs one more price gap for every level the
order has already emptied. With the gaps and the sizes before each level known in advance, the cost of any quantity is
a sum of clipped differences: no sort, no prefix sum, no loop at run time. Costs are counted from the mid in half
ticks x lots, whole numbers, so accounting stays exact.
"""

import jax
import jax.numpy as jnp

from marljax.data.schema import MarketData


def ladders(data: MarketData) -> jax.Array:
    """Both sides of every book, ready for `walk`.

    Returns int32[T, P, 2, 2K]; side 0 is walked by buyers (asks), side 1 by sellers (bids). The last axis holds the
    spread in ticks (half ticks from the mid to the best price), the K-1 gaps between levels [ticks], the K-1 sizes
    standing before levels 2..K [lots] and the total visible size [lots]. Where `data.valid` is False nothing can be
    traded: the total is 0.
    """
    spread = (data.ask_price - data.bid_price)[..., :1]

    def side(price: jax.Array, size: jax.Array) -> jax.Array:
        gaps = jnp.abs(jnp.diff(price, axis=-1))
        cumulative = jnp.cumsum(size, axis=-1)
        total = jnp.where(data.valid[..., None], cumulative[..., -1:], 0)
        return jnp.concatenate([spread, gaps, cumulative[..., :-1], total], axis=-1)

    return jnp.stack([side(data.ask_price, data.ask_size), side(data.bid_price, data.bid_size)], axis=-2)


def walk(ladder: jax.Array, quantity: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Take `quantity` from one side of the visible book.

    Args:
        ladder: int32[2K], one side of one row of `ladders`.
        quantity: int32[] lots wanted, >= 0.

    Returns:
        filled: int32[] lots, at most the visible total.
        cost: int32[] half ticks x lots paid beyond the mid, >= 0.
    """
    levels = ladder.shape[-1] // 2
    spread, gaps, before, total = ladder[0], ladder[1:levels], ladder[levels:-1], ladder[-1]
    filled = jnp.minimum(quantity, total)
    cost = spread * filled + 2 * jnp.sum(gaps * jnp.maximum(filled - before, 0))
    return filled, cost
