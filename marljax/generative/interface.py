"""What the trainer and the sessions ask of a representation: how data become channels, and channels data again.

`representation.py` holds books and `bars.py` daily bars; the networks, the training and the stitching of windows
know neither. A representation is a pytree whose arrays come from the training part alone.
"""

from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

N_REGIMES = 3
"""Low, middle and high trailing volatility, split at the training part's terciles."""


@struct.dataclass
class Encoded:
    """A whole data set in channels."""

    channels: jax.Array  # float32[T, P, C]
    variance: jax.Array  # float32[T, P] trailing mean of squared moves of the rows before, in the data's own unit
    level: jax.Array  # [T, P] price in the data's own unit: int32 half ticks of books, float32 logs of bars
    clock: jax.Array  # float32[T] share of the session that has passed, 0..1
    joined: jax.Array  # bool[T] whether the row continues the one before


@struct.dataclass
class Anchor:
    """What the rows before a window leave to it."""

    level: jax.Array  # [P] as in Encoded
    variance: jax.Array  # float32[P] as in Encoded


@struct.dataclass
class Holding:
    """Which channels stay as they are while another, their flag, is above a threshold.

    Books mostly repeat themselves from row to row, which no continuous channel does by itself.
    """

    flag: jax.Array  # int32[P*C] the channel that decides; any where the threshold is infinite
    threshold: jax.Array  # float32[P*C] the flag's score above which the channel is held, infinite: never
    reset: jax.Array  # bool[P*C] held at zero, its median, instead of at what it was

    @classmethod
    def nothing(cls, width: int) -> "Holding":
        """No channel of `width` = P*C is ever held."""
        return cls(jnp.zeros(width, jnp.int32), jnp.full(width, jnp.inf), jnp.zeros(width, bool))

    def held(self, scores: jax.Array) -> jax.Array:
        """bool[..., P*C] which channels are held in rows of scores float32[..., P*C]."""
        return scores[..., self.flag] > self.threshold

    def after(self, before: jax.Array, proposed: jax.Array) -> jax.Array:
        """float32[P*C] the next row, given the row before and what the channels would be if nothing were held."""
        return jnp.where(self.held(proposed), jnp.where(self.reset, 0.0, before), proposed)


class Representation(Protocol):
    """Fitted on the training part."""

    holding: Holding
    regime_variance: jax.Array  # float32[P, N_REGIMES] the typical trailing variance of each regime
    step_seconds: jax.Array  # float32[] time between rows [s]
    session_seconds: jax.Array  # float32[] longest time since a session's start [s]

    @property
    def n_products(self) -> int:
        """P."""
        ...

    @property
    def n_channels(self) -> int:
        """C, of each product. The first channel is the move."""
        ...

    @property
    def n_derived(self) -> int:
        """D, of each product."""
        ...

    def encode(self, data: Any, seed: int | None = None) -> Encoded:
        """Channels of every row, on the host; with `seed` lattices are filled with noise, for training."""
        ...

    def decode(self, channels: jax.Array, anchor: Anchor) -> tuple[Any, Anchor]:
        """Rows of any float32[W, P, C], leading axis W, and the anchor of the window behind it. Jittable."""
        ...

    def derive(self, channels: jax.Array, anchor: Anchor) -> jax.Array:
        """float32[W, P, D] features of float32[W, P, C] channels behind `anchor`, differentiable."""
        ...

    def regime(self, variance: jax.Array) -> jax.Array:
        """int32[..., P] which third of the training part's trailing volatilities this one falls into."""
        ...


def regime_of(variance: jax.Array, edges: jax.Array) -> jax.Array:
    """int32[..., P] how many of its product's `edges` float32[P, N_REGIMES-1] each variance float32[..., P] exceeds."""
    return jnp.sum(variance[..., None] > edges, -1, dtype=jnp.int32)


def typical_variance(regime_variance: jax.Array, regime: jax.Array) -> jax.Array:
    """float32[P] the entry of `regime_variance` float32[P, N_REGIMES] for each product's `regime` int32[P]."""
    return jnp.take_along_axis(regime_variance, regime[:, None], 1)[:, 0]


def windows_within(joined: np.ndarray, length: int, stride: int) -> np.ndarray:
    """int32[N] first rows of windows of `length` rows that all continue the one before (`joined` bool[T])."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], joined, [False]]).astype(np.int8)))
    stretches = zip(edges[::2], edges[1::2], strict=True)
    starts = [np.arange(first, stop - length + 1, stride) for first, stop in stretches]
    return np.concatenate([np.zeros(0, np.int64), *starts]).astype(np.int32)
