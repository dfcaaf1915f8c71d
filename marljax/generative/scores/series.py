"""What the scores look at in recorded or generated books: series without gaps, and windows of them."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marljax.data.schema import MarketData
from marljax.features.microstructure import order_flow
from marljax.generative.books import cut_windows, decompose


@struct.dataclass
class Series:
    """One row for each row that continues the one before."""

    returns: np.ndarray  # float64[N, P] half ticks
    spread: np.ndarray  # float64[N, P] ticks
    imbalance: np.ndarray  # float64[N, P] of the best sizes, -1..1
    touch_size: np.ndarray  # float64[N, P] lots, mean of both best sizes
    depth: np.ndarray  # float64[N, P] lots, mean over both sides of all visible levels
    volume: np.ndarray  # float64[N, P] lots traded
    flow: np.ndarray  # float64[N, P] lots, order flow at the best level since the row before
    stretch: np.ndarray  # int64[N] unbroken stretch that the row belongs to


def series(data: MarketData) -> Series:
    """The series of a MarketData, on the host."""
    parts, joined = decompose(data)
    flow = jax.vmap(order_flow, in_axes=(1, 1, 1, 1, None), out_axes=1)(
        data.bid_price[..., :1],
        data.ask_price[..., :1],
        data.bid_size[..., :1],
        data.ask_size[..., :1],
        jnp.asarray(joined),
    )
    bid, ask = (np.asarray(x, np.float64)[joined] for x in (parts.bid_size, parts.ask_size))
    return Series(
        returns=np.asarray(parts.move, np.float64)[joined],
        spread=np.asarray(parts.spread, np.float64)[joined],
        imbalance=(bid[..., 0] - ask[..., 0]) / (bid[..., 0] + ask[..., 0]),
        touch_size=(bid[..., 0] + ask[..., 0]) / 2,
        depth=(bid.sum(-1) + ask.sum(-1)) / 2,
        volume=np.asarray(parts.volume, np.float64)[joined],
        flow=np.asarray(flow, np.float64)[joined, :, 0],
        stretch=np.cumsum(~joined)[joined],
    )


def join(found: Series, blocks: Sequence[np.ndarray]) -> Series:
    """The rows of blocks (int64 rows each) strung together, each block a stretch of its own."""
    rows = np.concatenate(blocks)
    taken = jax.tree.map(lambda x: x[rows], found)
    return taken.replace(stretch=np.repeat(np.arange(len(blocks)), [len(block) for block in blocks]))


def windows_of(x: np.ndarray, data: MarketData, window: int) -> np.ndarray:
    """[N, window, ...] of rows x [T, ...], side by side."""
    return x[cut_windows(data, window, window)[:, None] + np.arange(window)]


def moves(data: MarketData, window: int) -> np.ndarray:
    """float64[N, window, P] moves of each window, half ticks."""
    parts, _ = decompose(data)
    return windows_of(np.asarray(parts.move, np.float64), data, window)


def channels(data: MarketData, window: int) -> np.ndarray:
    """float64[N, window, 6P] what a recurrent judge sees of each row.

    Moves, the logarithms of the spread, of both best sizes and of one more than the volume, and the trades' sign: their
    imbalance over volume.
    """
    parts, _ = decompose(data)
    volume = np.asarray(parts.volume, np.float64)
    columns = [
        np.asarray(parts.move, np.float64),
        np.log(parts.spread),
        np.log(np.asarray(parts.bid_size)[..., 0]),
        np.log(np.asarray(parts.ask_size)[..., 0]),
        np.log1p(volume),
        np.asarray(parts.imbalance) / np.maximum(volume, 1.0),
    ]
    return windows_of(np.concatenate(columns, -1), data, window)


def statistics(data: MarketData, window: int) -> np.ndarray:
    """float64[N, F] statistics of each window and product that a linear judge may use."""
    parts, _ = decompose(data)
    sizes = np.log1p(np.concatenate([parts.bid_size, parts.ask_size], -1))
    move = windows_of(np.asarray(parts.move, np.float64), data, window)
    spread, volume = (windows_of(np.asarray(x, np.float64), data, window) for x in (parts.spread, parts.volume))
    signed = windows_of(np.log(np.asarray(parts.bid_size)[..., 0] / np.asarray(parts.ask_size)[..., 0]), data, window)
    size = windows_of(sizes, data, window)
    columns = [
        np.log1p(move.std(1)),
        np.log1p(np.abs(move).max(1)),
        _lagged(move),
        _lagged(np.abs(move)),
        np.mean(signed[:, :-1] * move[:, 1:], 1),
        spread.mean(1),
        spread.std(1),
        _lagged(spread),
        signed.std(1),
        _lagged(signed),
        np.log1p(volume).mean(1),
        size.mean(1).reshape(len(size), -1),
        size.std(1).reshape(len(size), -1),
    ]
    return np.concatenate(columns, 1)


def direction_features(found: Series, product: int) -> tuple[np.ndarray, np.ndarray]:
    """float64[M, 5] of one product, and its next moves float64[M].

    The last three moves, the imbalance at the touch and the order flow of the last row; only rows with three before
    them in their own stretch.
    """
    rows = np.arange(3, len(found.stretch))
    rows = rows[found.stretch[rows] == found.stretch[rows - 3]]
    r = found.returns[:, product]
    past = [r[rows - 1], r[rows - 2], r[rows - 3], found.imbalance[rows - 1, product], found.flow[rows - 1, product]]
    return np.stack(past, 1), r[rows]


def _lagged(x: np.ndarray) -> np.ndarray:
    """[N, P] first autocorrelation of each window [N, W, P], 0 where it is constant."""
    centred = x - x.mean(1, keepdims=True)
    variance = np.sum(centred**2, 1)
    return np.sum(centred[:, 1:] * centred[:, :-1], 1) / np.where(variance > 0, variance, 1.0)
