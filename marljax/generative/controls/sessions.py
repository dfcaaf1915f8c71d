"""Sessions of a control: what each of them drew, put together as checked MarketData of origin synthetic.

A control is fitted and started on the training part alone, so a part that is itself synthetic is refused.
"""

import jax
import jax.numpy as jnp
import numpy as np

from marljax.data.schema import InputError, MarketData, Product, assert_not_synthetic
from marljax.generative.books import Parts, compose, decompose, market_data

_LARGEST_MID = 2**27


def training_parts(training: MarketData, purpose: str) -> tuple[Parts, np.ndarray]:
    """Parts of the training part's rows and bool[T] which of them continue the one before.

    Raises InputError where the training part is synthetic, or none of its rows continues the one before.
    """
    assert_not_synthetic(training, purpose)
    parts, joined = decompose(training)
    if not joined.any():
        raise InputError("the training part has no row that continues the one before")
    return parts, joined


def check_request(n_sessions: int, n_steps: int) -> None:
    """Raise InputError unless there is at least one session of at least one step to draw."""
    if n_sessions < 1 or n_steps < 1:
        raise InputError(f"a control draws at least one session of one step, got {n_sessions} of {n_steps}")


def step_seconds(training: MarketData, joined: np.ndarray) -> float:
    """The median time between rows that continue each other [s]."""
    seconds = np.asarray(training.seconds, np.float64)
    return float(np.median(np.diff(seconds)[joined[1:]]))


def mid_bounds(training: MarketData) -> np.ndarray:
    """int32[2, P] double mids that no session leaves: an eighth and eightfold of what was seen, positive if that was.

    They only keep arithmetic inside 32 bits; a session that meets them has lost all likeness anyway.
    """
    mid = np.asarray(training.double_mid).astype(np.int64)
    low, high = mid.min(0), mid.max(0)
    positive = np.stack([np.maximum(low // 8, 2), high * 8])
    bounds = np.where(low > 0, positive, 8 * np.array([[-1], [1]]) * np.maximum(abs(mid).max(0), 1))
    return np.clip(bounds, -_LARGEST_MID, _LARGEST_MID).astype(np.int32)


def composed(parts: Parts, start: np.ndarray, bounds: np.ndarray | jax.Array) -> np.ndarray:
    """int32[N, W, P] double mids of N sessions that begin at `start` int32[N, P] and follow moves [N, W, P]."""
    return np.asarray(jax.vmap(compose, (0, 0, None))(parts, jnp.asarray(start), jnp.asarray(bounds)))


def as_sessions(parts: Parts, double_mid: np.ndarray, step: float, products: tuple[Product, ...]) -> MarketData:
    """Sessions 0..N-1 of parts [N, W, P, ...] and double mids int32[N, W, P], rows `step` seconds apart, checked."""
    n_sessions, n_steps = double_mid.shape[:2]
    flat = jax.tree.map(lambda x: x.reshape(n_sessions * n_steps, *x.shape[2:]), parts)
    books = market_data(
        flat,
        double_mid.reshape(n_sessions * n_steps, -1),
        seconds=np.tile(np.arange(n_steps) * step, n_sessions),
        session=np.repeat(np.arange(n_sessions), n_steps),
        products=products,
        origin="synthetic",
    )
    arrays = {name: value for name, value in vars(books).items() if name not in ("products", "origin")}
    return MarketData.build(products=products, origin="synthetic", **arrays)
