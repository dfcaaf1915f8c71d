"""Random latency on a grid of book snapshots: does the order still meet the book it was decided on?

Between two rows the book changes at an unknown instant, taken as uniform within the step. An order whose latency
(a floor plus an exponential part) outlasts that instant meets the next row; a latency beyond a whole step does so
always, and an order never waits longer than that.
"""

import jax
import jax.numpy as jnp


def arrives_late(uniforms: jax.Array, floor: jax.Array, mean: jax.Array, step_seconds: jax.Array) -> jax.Array:
    """Whether an order meets the next row of the book instead of the one it was decided on.

    Args:
        uniforms: float32[2] independent draws from [0, 1).
        floor: float32[] smallest latency [seconds].
        mean: float32[] mean of the exponential part on top of it [seconds].
        step_seconds: float32[] time from this row to the next [seconds], > 0.

    Returns:
        bool[].
    """
    latency = floor - mean * jnp.log1p(-uniforms[0])
    return latency > uniforms[1] * step_seconds
