"""What stress does to a market at one moment: numbers that background flow and the agents' world read.

The one idea: calm is the neutral element. Rates, sizes and volatility are multiplied by 1, spreads and drift are added
as 0, and so every flow model behaves under `calm()` as it was calibrated. Regimes and their course over time are made
in `marljax.market.regimes`.
"""

import math

import jax
import jax.numpy as jnp
from flax import struct


@struct.dataclass
class Stress:
    """One moment's stress. Every leaf may carry leading axes (moments, regimes, environments)."""

    limit_rate: jax.Array  # float32[] multiplies the rate of limit orders
    market_rate: jax.Array  # float32[] multiplies the rate of market orders
    cancel_rate: jax.Array  # float32[] multiplies the rate of cancellations
    size: jax.Array  # float32[] multiplies the mean size of limit and market orders
    buy_share: jax.Array  # float32[] share of market orders that buy, 0.5 is balanced
    half_spread: jax.Array  # float32[] ticks, by so much new limit orders are placed further from the other side
    volatility: jax.Array  # float32[] multiplies the volatility of fair value
    drift: jax.Array  # float32[] ticks per second, added to the drift of fair value
    halted: jax.Array  # float32[] 1 while nothing is matched (no background order arrives, agents' wait), else 0
    informed_share: jax.Array  # float32[] share of market orders whose sender knows where fair value goes next
    informed_edge: jax.Array  # float32[] ticks that fair value soon moves the informed sender's way
    correlation: jax.Array  # float32[] correlation of the products' fair values through their common factor


BOUNDS = {
    "limit_rate": (0.0, math.inf),
    "market_rate": (0.0, math.inf),
    "cancel_rate": (0.0, math.inf),
    "size": (0.0, math.inf),
    "buy_share": (0.0, 1.0),
    "half_spread": (0.0, math.inf),
    "volatility": (0.0, math.inf),
    "drift": (-math.inf, math.inf),
    "halted": (0.0, 1.0),
    "informed_share": (0.0, 1.0),
    "informed_edge": (0.0, math.inf),
    "correlation": (0.0, 1.0),
}
"""Least and most of each field of `Stress`; an infinite one is itself excluded."""

_CALM = dict.fromkeys(BOUNDS, 0.0) | {
    "limit_rate": 1.0,
    "market_rate": 1.0,
    "cancel_rate": 1.0,
    "size": 1.0,
    "buy_share": 0.5,
    "volatility": 1.0,
}


def calm() -> Stress:
    """No stress at all, float32[] leaves."""
    return Stress(**{name: jnp.float32(value) for name, value in _CALM.items()})


def stressed(**changes: float) -> Stress:
    """Calm but for the named fields; for the host, since it checks them.

    Raises:
        ValueError: a field is unknown, not finite or out of its bounds.
    """
    for name, value in changes.items():
        if name not in BOUNDS:
            raise ValueError(f"Stress has no field {name!r}")
        least, most = BOUNDS[name]
        if not (math.isfinite(value) and least <= value <= most):
            raise ValueError(f"Stress.{name} must be finite and within {least:g}..{most:g}, got {value!r}")
    return Stress(**{name: jnp.float32(value) for name, value in (_CALM | changes).items()})
