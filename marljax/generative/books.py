"""Books taken apart into whole numbers that are free of each other, and put together again.

The double mid's moves, the spread, the gaps between levels, sizes and trades: any values above their lower bounds make
valid books, which is what lets a generator or a bootstrap recombine them.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marljax.data.schema import InputError, MarketData, Origin, Product
from marljax.generative.interface import windows_within

Numbers = jax.Array | np.ndarray
"""On the host or on the device."""


@struct.dataclass
class Parts:
    """Books as whole numbers that may be chosen freely but for their lower bounds; leading axes are the caller's."""

    move: Numbers  # int32[..., P] half ticks, double mid less that of the row before
    spread: Numbers  # int32[..., P] ticks, >= 1
    bid_gap: Numbers  # int32[..., P, K-1] ticks from a level to the next, >= 1
    ask_gap: Numbers  # int32[..., P, K-1] ticks, >= 1
    bid_size: Numbers  # int32[..., P, K] lots, >= 0, the first >= 1
    ask_size: Numbers  # int32[..., P, K] lots, >= 0, the first >= 1
    volume: Numbers  # int32[..., P] lots, >= 0
    imbalance: Numbers  # int32[..., P] lots, at most `volume` either way


def decompose(data: MarketData) -> tuple[Parts, np.ndarray]:
    """Parts of every row, on the host, and bool[T] whether a row continues the one before.

    A row continues when both are observed for all products and belong to one session; elsewhere the move is 0.
    """
    bid, ask = np.asarray(data.bid_price), np.asarray(data.ask_price)
    observed, session = np.all(np.asarray(data.valid), axis=1), np.asarray(data.session)
    continues = (session[1:] == session[:-1]) & observed[1:] & observed[:-1]
    joined = np.concatenate([[False], continues])
    double_mid = bid[..., 0] + ask[..., 0]
    move = np.diff(double_mid, axis=0, prepend=double_mid[:1])
    parts = Parts(
        move=np.where(joined[:, None], move, 0),
        spread=ask[..., 0] - bid[..., 0],
        bid_gap=-np.diff(bid, axis=-1),
        ask_gap=np.diff(ask, axis=-1),
        bid_size=np.asarray(data.bid_size),
        ask_size=np.asarray(data.ask_size),
        volume=np.asarray(data.trade_volume),
        imbalance=np.asarray(data.trade_imbalance),
    )
    return parts, joined


def select_rows(parts: Parts, rows: np.ndarray) -> Parts:
    """The rows that `rows` (a mask or indices) names."""
    return jax.tree.map(lambda x: x[rows], parts)


def cut_windows(data: MarketData, length: int, stride: int) -> np.ndarray:
    """int32[N] first rows of windows of `length` rows that never cross a session or an invalid stretch.

    The row before each window belongs to the same stretch: it is the window's anchor.
    """
    if length < 1 or stride < 1:
        raise InputError(f"windows need a positive length and stride, got {length} and {stride}")
    _, joined = decompose(data)
    return windows_within(joined, length, stride)


def next_mid(double_mid: jax.Array, move: jax.Array, spread: jax.Array, bounds: jax.Array) -> jax.Array:
    """int32[P] the double mid nearest to `double_mid + move` that this spread allows on the tick grid.

    `move` float32[P] half ticks. A double mid and its spread are odd or even together; a tie goes to the even best bid,
    so that no drift creeps in. `bounds` int32[2, P] holds prices inside.
    """
    offset = double_mid - spread
    bid, odd = offset >> 1, (offset & 1).astype(jnp.float32)
    bid_is_odd = (bid & 1).astype(jnp.float32)
    change = jnp.round((move + odd) / 2 + bid_is_odd) - bid_is_odd
    bid = jnp.clip(bid + change.astype(jnp.int32), bounds[0] >> 1, bounds[1] >> 1)
    return 2 * bid + spread


@jax.jit
def compose(parts: Parts, start: jax.Array, bounds: jax.Array) -> jax.Array:
    """int32[W, P] double mids that begin at `start` int32[P] and follow the parts' moves (axis 0 is time)."""

    def step(mid: jax.Array, now: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        mid = next_mid(mid, now[0].astype(jnp.float32), now[1], bounds)
        return mid, mid

    return jax.lax.scan(step, start, (jnp.asarray(parts.move), jnp.asarray(parts.spread)))[1]


def market_data(
    parts: Parts,
    double_mid: Numbers,
    *,
    seconds: Numbers,
    session: Numbers,
    products: tuple[Product, ...],
    origin: Origin,
) -> MarketData:
    """MarketData of parts and their double mids, jittable, valid by construction (without PnL: NaN)."""
    bid = (jnp.asarray(double_mid) - parts.spread) >> 1
    below = jnp.cumsum(parts.bid_gap, -1)
    above = jnp.cumsum(parts.ask_gap, -1)
    ask = bid + parts.spread
    return MarketData(
        bid_price=jnp.concatenate([bid[..., None], bid[..., None] - below], -1),
        ask_price=jnp.concatenate([ask[..., None], ask[..., None] + above], -1),
        bid_size=jnp.asarray(parts.bid_size),
        ask_size=jnp.asarray(parts.ask_size),
        trade_volume=jnp.asarray(parts.volume),
        trade_imbalance=jnp.asarray(parts.imbalance),
        pnl=jnp.full(double_mid.shape, jnp.nan, jnp.float32),
        valid=jnp.ones(double_mid.shape, bool),
        seconds=jnp.asarray(seconds, jnp.float32),
        session=jnp.asarray(session, jnp.int32),
        products=products,
        origin=origin,
    )
