"""Random latency: when a message arrives, and so which book it meets and which messages it comes after.

In an order book the delay is one family of distributions: a floor plus a lognormal part that grows with volatility, as
queues of messages do when markets move. A step's messages are put in order of arrival, equals in a fair random order.

On a grid of book snapshots the question is only whether an order still meets the book it was decided on. Between two
rows the book changes at an unknown instant, taken as uniform within the step. An order whose latency (a floor plus an
exponential part) outlasts that instant meets the next row; a latency beyond a whole step does so always, and an order
never waits longer than that.
"""

import math

import jax
import jax.numpy as jnp
from flax import struct


@struct.dataclass
class Latency:
    """One sender's delay: floor + median x exp(sigma x normal) x (volatility / typical volatility) ** exponent."""

    floor: jax.Array  # float32[] seconds, what no message undercuts
    median: jax.Array  # float32[] seconds, median of the random part at typical volatility
    sigma: jax.Array  # float32[] standard deviation of the random part's logarithm
    exponent: jax.Array  # float32[] how the random part grows with volatility, 0 is not at all


def _latency(**fields: float) -> Latency:
    for name, value in fields.items():
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"Latency.{name} must be finite and >= 0, got {value!r}")
    return Latency(**{name: jnp.float32(value) for name, value in fields.items()})


def constant(seconds: float) -> Latency:
    """Always `seconds`. Raises ValueError unless it is finite and >= 0."""
    return _latency(floor=seconds, median=0.0, sigma=0.0, exponent=0.0)


def lognormal(median: float, sigma: float, floor: float = 0.0) -> Latency:
    """`floor` plus a lognormal delay [seconds]. Raises ValueError unless all are finite and >= 0."""
    return _latency(floor=floor, median=median, sigma=sigma, exponent=0.0)


def congested(median: float, sigma: float, exponent: float, floor: float = 0.0) -> Latency:
    """`floor` plus a lognormal delay [seconds] that volatility stretches. Raises ValueError unless all are finite and
    >= 0."""
    return _latency(floor=floor, median=median, sigma=sigma, exponent=exponent)


def sample(key: jax.Array, latency: Latency, volatility_ratio: jax.Array) -> jax.Array:
    """Draw the delay of one message, float32[] seconds.

    Args:
        latency: the sender's.
        volatility_ratio: float32[] current volatility over its typical value, >= 0.
    """
    random = latency.median * jnp.exp(latency.sigma * jax.random.normal(key))
    return latency.floor + random * volatility_ratio**latency.exponent


def merge(key: jax.Array, background: jax.Array, agents: jax.Array) -> jax.Array:
    """Where a few agents' messages stand once they are merged into a sorted stream, by counting alone.

    Among messages of equal time an agent's place is that of a random permutation; the stream keeps its own order.

    Args:
        background: float32[M] arrival times, ascending.
        agents: float32[A] arrival times in any order.

    Returns:
        int32[A] different positions from 0 to M + A - 1; the stream takes the others in its order.
    """
    m, a = background.shape[0], agents.shape[0]
    ticket = jax.random.bits(key, (a + m,))
    mine, theirs = ticket[:a], ticket[a:]

    def precedes(time: jax.Array, ticket: jax.Array) -> jax.Array:
        """bool[A, N] whether message n comes before agent a."""
        later, equal = time[None] < agents[:, None], time[None] == agents[:, None]
        return later | (equal & (ticket[None] < mine[:, None]))

    after = jnp.sum(precedes(background, theirs), axis=1, dtype=jnp.int32)
    same_ticket = (mine[None] == mine[:, None]) & (agents[None] == agents[:, None])
    rank = jnp.sum(precedes(agents, mine) | (same_ticket & jnp.tri(a, k=-1, dtype=bool)), axis=1, dtype=jnp.int32)
    return after + rank


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
