"""What the marginal maps of books act on: a book's whole numbers spread over their units, and what it repeats.

Books mostly repeat themselves: flags say of the touch and of every level whether it stays as it was in the row before,
and what stays is held in channels to the last bit.
"""

import jax.numpy as jnp
import numpy as np

from marljax.generative.books import Numbers, Parts
from marljax.generative.interface import Holding
from marljax.generative.marginals import Marginals


def holding_of(marginals: Marginals, k: int) -> Holding:
    """A kept touch holds the spread and leaves no move; a kept level holds its gap and its size."""
    n_products, n_channels = marginals.knots.shape[0], 6 * k + 3
    touch = 4 * k + 2
    flag = np.full(n_channels, -1)
    flag[:2] = touch
    for side in range(2):
        levels = touch + 1 + side * k + np.arange(k)
        flag[2 + side * (k - 1) :][: k - 1] = levels[1:]
        flag[2 * k + side * k :][:k] = levels
    half = np.full((1, n_products, n_channels + 1), 0.5)
    thresholds = np.where(flag >= 0, marginals.to_scores(half)[0][:, flag], np.inf)
    block = n_channels * np.arange(n_products)[:, None]
    return Holding(
        flag=jnp.asarray((np.maximum(flag, 0) + block).reshape(-1), jnp.int32),
        threshold=jnp.asarray(thresholds.reshape(-1), jnp.float32),
        reset=jnp.asarray(np.tile(np.arange(n_channels) == 0, n_products)),
    )


def hold(holding: Holding, channels: np.ndarray) -> np.ndarray:
    """float32[T, P, C] with every held channel as in the last row in which it was free."""
    flat = channels.reshape(len(channels), -1)
    held = np.asarray(holding.held(jnp.asarray(flat)))
    rows = np.maximum.accumulate(np.where(held, 0, np.arange(len(flat))[:, None]), 0)
    last = np.take_along_axis(flat, rows, 0)
    return np.where(held & np.asarray(holding.reset), 0.0, last).reshape(channels.shape).astype(np.float32)


def _kept(parts: Parts, joined: np.ndarray) -> np.ndarray:
    """bool[T, P, 2K+1] what a row repeats of the row before: its touch, then gap and size of each bid, each ask."""

    def same(x: Numbers) -> np.ndarray:
        x = np.asarray(x)
        return np.concatenate([np.zeros_like(x[:1], bool), x[1:] == x[:-1]])

    def levels(gap: Numbers, size: Numbers) -> np.ndarray:
        kept = same(size)
        kept[..., 1:] &= same(gap)
        return kept

    touch = same(parts.spread) & (np.asarray(parts.move) == 0)
    sides = (levels(parts.bid_gap, parts.bid_size), levels(parts.ask_gap, parts.ask_size))
    return np.concatenate([touch[..., None], *sides], -1) & joined[:, None, None]


def values_of(parts: Parts, joined: np.ndarray, scale: np.ndarray, noise: np.random.Generator | None) -> np.ndarray:
    """float64[T, P, C] what the marginal maps act on; NaN where it means nothing: the sign where nothing was traded,
    the move where the touch is kept."""

    def whole(x: Numbers, half_width: float = 0.49) -> np.ndarray:
        if noise is None:
            return np.asarray(x, np.float64)
        # Large numbers stay nearer to the middle of their unit, for float32 has few digits left to tell its edges.
        reach = np.maximum(half_width - 2e-6 * np.abs(x), 0.05)
        return np.asarray(x) + reach * noise.uniform(-1, 1, x.shape)

    def both_sides(bid: Numbers, ask: Numbers) -> list[np.ndarray]:
        # The sides share their noise: equal sizes stay equal.
        shared = whole(np.maximum(bid, ask)) - np.maximum(bid, ask)
        return [np.asarray(bid) + shared, np.asarray(ask) + shared]

    kept = _kept(parts, joined)
    with np.errstate(invalid="ignore", divide="ignore"):
        sign = np.where(parts.volume > 0, whole(parts.imbalance) / parts.volume, np.nan)
    columns = [
        np.where(kept[..., 0], np.nan, whole(parts.move, 0.98) / scale)[..., None],
        whole(parts.spread)[..., None],
        *both_sides(parts.bid_gap, parts.ask_gap),
        *both_sides(parts.bid_size, parts.ask_size),
        whole(parts.volume)[..., None],
        sign[..., None],
        whole(kept.astype(np.int32)),
    ]
    return np.concatenate(columns, -1)


def by_parity(values: np.ndarray, move: np.ndarray, apart: np.ndarray) -> np.ndarray:
    """float64[T, P, C+1]: a second column of moves at the end, for odd ones, where the first is for even ones.

    The tick grid allows only even or only odd moves once the spread is known. Where `apart` bool[P] each column holds
    its own, the other's NaN: one map for both would make moves of a coarse lattice too large. Elsewhere both columns
    hold all moves, or a generator whose spreads change too often would draw too many of the larger, odd ones.
    """
    odd = move % 2 == 1
    even_move = np.where(odd & apart, np.nan, values[..., 0])
    odd_move = np.where(~odd & apart, np.nan, values[..., 0])
    return np.concatenate([even_move[..., None], values[..., 1:], odd_move[..., None]], -1)
