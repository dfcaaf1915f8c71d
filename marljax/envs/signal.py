"""The signal that directional traders receive: it leans on the flow of orders, so that it does say something.

It is an Ornstein-Uhlenbeck process of unit variance. One standard deviation of it moves the share of market orders that
buy by `buy_share` and the drift of fair value by `drift`, whichever the flow model reads; a recorded flow reads none.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct

from marljax.lob.stress import Stress


@struct.dataclass
class Signal:
    """How the signal lives and what it does to the flow."""

    reversion: jax.Array  # float32[] per second
    buy_share: jax.Array  # float32[] share of market orders per standard deviation
    drift: jax.Array  # float32[] ticks per second and standard deviation


def advance(key: jax.Array, value: jax.Array, signal: Signal, seconds: jax.Array) -> jax.Array:
    """The signal `seconds` later, float32[] standard deviations; the exact transition for any time."""
    kept = jnp.exp(-signal.reversion * seconds)
    return kept * value + jnp.sqrt(1.0 - kept**2) * jax.random.normal(key)


def lean(stress: Stress, value: jax.Array, signal: Signal) -> Stress:
    """The stress with what the signal adds to it."""
    return dataclasses.replace(
        stress,
        buy_share=jnp.clip(stress.buy_share + value * signal.buy_share, 0.0, 1.0),
        drift=stress.drift + value * signal.drift,
    )
