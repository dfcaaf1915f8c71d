"""What the marginal maps of books act on: a book's whole numbers spread over their units, and what it repeats.

Books mostly repeat themselves: flags say of the touch and of every level whether it stays as it was in the row before,
and what stays is held in channels to the last bit.

A channel has several marginal maps, its columns, where one would not do: the tick grid allows only even or only odd
moves once the spread is known; a mid that moves far is one that was traded through, so that traded volume has a map for
every size of the move, and the share of it that takers bought one for every direction. Which column holds is known
from the move, before volume and sign are read, so that they follow it by construction.
"""

import jax
import jax.numpy as jnp
import numpy as np

from marljax.generative.books import Numbers, Parts
from marljax.generative.interface import Holding
from marljax.generative.marginals import Marginals

SIZES = (1 / 3, 2 / 3, 0.9)
"""Quantiles of the training part's moves, but for those of zero, between which traded volume has maps of its own."""

_FEWEST_VALUES = 64


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
    half = np.full((1, n_products, marginals.knots.shape[1]), 0.5)
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


def columns(k: int) -> np.ndarray:
    """int[C + 7] the channel that each column of the marginal maps is of: all C of them, then the move where it is odd,
    volume by how far the mid moved, where it did, and the sign where it rose and where it fell."""
    volume, sign = 4 * k, 4 * k + 1
    return np.concatenate([np.arange(6 * k + 3), [0], np.full(len(SIZES) + 1, volume), [sign, sign]])


def move_column(odd: jax.Array, k: int) -> jax.Array:
    """int[...] the column that holds the move, given whether it is `odd` bool[...]."""
    return jnp.where(odd, 6 * k + 3, 0)


def flow_columns(move: jax.Array, edges: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """int[..., P] the columns that hold volume and sign, given the mid's move [..., P] and `edges` [P, len(SIZES)], the
    sizes that tell its classes apart, all in half ticks."""
    volume, sign, first = 4 * k, 4 * k + 1, 6 * k + 4
    size = jnp.sum(jnp.abs(move)[..., None] > edges, -1)
    volume_column = jnp.where(move == 0, volume, first + size)
    rose = first + len(SIZES) + 1
    return volume_column, jnp.where(move > 0, rose, jnp.where(move < 0, rose + 1, sign))


def pick(values: jax.Array, column: jax.Array) -> jax.Array:
    """[..., P] of values [..., P, C'] those in `column` int[..., P]."""
    return jnp.take_along_axis(values, column[..., None], -1)[..., 0]


def in_columns(values: np.ndarray, move: np.ndarray, edges: np.ndarray, coarse: np.ndarray) -> np.ndarray:
    """float64[T, P, C+7] for fitting the maps: values float64[T, P, C] in the columns that hold them, else NaN.

    Odd and even moves are told apart where `coarse` bool[P]: one map for both would make moves of a coarse lattice too
    large. Elsewhere both columns hold all moves, or a generator whose spreads change too often would draw too many of
    the larger, odd ones. So do columns that too few rows would fill.
    """
    k = (values.shape[-1] - 3) // 6
    spread_out = values[..., columns(k)]
    volume, sign = (np.asarray(x) for x in flow_columns(jnp.asarray(move), jnp.asarray(edges), k))
    odd = np.asarray(move_column(jnp.asarray(move % 2 == 1), k))
    chosen_of = {0: odd, 4 * k: volume, 4 * k + 1: sign}
    for column, channel in enumerate(columns(k)):
        if channel not in chosen_of:
            continue
        chosen = chosen_of[channel]
        own = chosen == column
        enough = np.sum(own & np.isfinite(spread_out[..., column]), 0) >= _FEWEST_VALUES
        apart = coarse if chosen is odd else enough
        spread_out[..., column] = np.where(own | ~apart, spread_out[..., column], np.nan)
    return spread_out
