"""Bars of several products: open, high, low, close and volume, checked, and the parts they are put together from.

A bar is taken apart into numbers that are free of each other: the logarithms of close over open, of open over the
close before, of high over the body and of the body over low, and of volume. Bars without a range are closes alone, and
their only number is the log return.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marljax.data.schema import InputError


@struct.dataclass
class Bars:
    """Bars of P products; `build` makes them valid."""

    open: jax.Array  # float32[T, P]
    high: jax.Array  # float32[T, P]
    low: jax.Array  # float32[T, P]
    close: jax.Array  # float32[T, P] positive
    volume: jax.Array  # float32[T, P] 0 where only closes are known
    session: jax.Array  # int32[T] rows of one unbroken stretch share a number
    products: tuple[str, ...] = struct.field(pytree_node=False)
    origin: Literal["real", "synthetic"] = struct.field(pytree_node=False)

    @staticmethod
    def build(*, products: tuple[str, ...], origin: Literal["real", "synthetic"] = "real", **arrays: Any) -> "Bars":
        """Checked bars. Raises InputError unless shapes agree, prices are positive and `low <= open, close <= high`."""
        session = np.asarray(arrays.pop("session"), np.int32)
        host = {name: np.asarray(x, np.float32) for name, x in arrays.items()}
        if any(x.shape != (len(session), len(products)) for x in host.values()) or not len(session):
            raise InputError(f"bars must be [{len(session)}, {len(products)}] and not empty")
        body = np.stack([host["open"], host["close"]])
        broken = {
            "a number is not finite": ~np.isfinite(np.stack(list(host.values()))).all(0),
            "a price is not positive": ~(host["low"] > 0),
            "open or close lies outside low and high": (host["low"] > body.min(0)) | (host["high"] < body.max(0)),
            "volume is negative": host["volume"] < 0,
        }
        for what, where in broken.items():
            if where.any():
                t, p = np.argwhere(where)[0]
                raise InputError(f"bars: {what} at row {t}, product {products[p]!r}")
        return Bars(
            **{k: jnp.asarray(x) for k, x in host.items()},
            session=jnp.asarray(session),
            products=products,
            origin=origin,
        )

    @staticmethod
    def of_closes(close: np.ndarray, session: np.ndarray, products: tuple[str, ...]) -> "Bars":
        """Bars of which only the close [T, P] is known."""
        prices: dict[str, Any] = dict.fromkeys(("open", "high", "low", "close"), close)
        return Bars.build(**prices, volume=np.zeros_like(close), session=session, products=products)

    @property
    def ranged(self) -> bool:
        """Whether more than the close is known."""
        return bool((np.asarray(self.volume) > 0).any())


def bar_variance(parts: jax.Array) -> jax.Array:
    """float32[...] what one bar, its parts float32[..., C] in logarithms, says of the variance of its move.

    Of closes the squared move; else the estimate of Rogers and Satchell (1991), which no drift disturbs and whose
    error is several times smaller.
    """
    move = parts[..., 0]
    if parts.shape[-1] == 1:
        return jnp.square(move)
    up, down = jnp.maximum(move, 0) + parts[..., 2], jnp.minimum(move, 0) - parts[..., 3]
    return up * (up - move) + down * (down - move)


def take_apart(bars: Bars) -> tuple[np.ndarray, np.ndarray]:
    """Parts float64[T, P, C] in logarithms, and bool[T] whether a row continues the one before."""
    session = np.asarray(bars.session)
    joined = np.concatenate([[False], session[1:] == session[:-1]])
    opened, high, low, close = (np.log(np.asarray(x, np.float64)) for x in (bars.open, bars.high, bars.low, bars.close))
    before = np.concatenate([close[:1], close[:-1]])
    if not bars.ranged:
        return (np.where(joined[:, None], close - before, 0.0))[..., None], joined
    gap = np.where(joined[:, None], opened - before, 0.0)
    above, below = high - np.maximum(opened, close), np.minimum(opened, close) - low
    volume = np.log(np.maximum(np.asarray(bars.volume, np.float64), 1e-12))
    return np.stack([close - opened, gap, above, below, volume], -1), joined
