"""Domain randomisation: every episode draws the stress, the fees and the latencies that it takes place under.

An agent that has only met one venue learns that venue; one that has met a range of them learns what they share
(Tobin et al., 2017). Everything drawn is a pytree of numbers, so a thousand environments draw a thousand worlds.
"""

import math
from collections.abc import Mapping
from typing import TypeVar

import jax
import jax.numpy as jnp
from flax import struct

from marljax.market.fees import FeeSchedule
from marljax.market.latency import Latency
from marljax.market.regimes import Regime, Schedule, mirrored, play, table

Tree = TypeVar("Tree")


@struct.dataclass
class Randomisation:
    """What an episode's conditions are drawn from: E events, each one of R regimes, and ranges from low to high."""

    regimes: Regime  # [R, LAYERS]
    odds: jax.Array  # float32[E, R] of each event, relative; calm is a regime, too
    start: jax.Array  # float32[2] seconds since the session's start, uniform
    seconds: jax.Array  # float32[2] an event's duration, log-uniform
    strength: jax.Array  # float32[2] 0..1, uniform
    mirror: jax.Array  # float32[] probability that an event's buying and selling, up and down are exchanged
    fees: FeeSchedule  # [2, ...] uniform, each leaf and entry independently
    latency: Latency  # [2, ...] uniform but for the median, which is log-uniform; each leaf and entry independently


@struct.dataclass
class Conditions:
    """What one episode takes place under."""

    schedule: Schedule  # [E x LAYERS]
    fees: FeeSchedule  # [...]
    latency: Latency  # [...]


def randomisation(
    odds: Mapping[str, float],
    *,
    fees: tuple[FeeSchedule, FeeSchedule],
    latency: tuple[Latency, Latency],
    events: int = 1,
    start: tuple[float, float] = (0.0, 0.0),
    seconds: tuple[float, float] = (60.0, 600.0),
    strength: tuple[float, float] = (0.5, 1.0),
    mirror: float = 0.5,
) -> Randomisation:
    """Checked ranges, on the host.

    Args:
        odds: relative odds of regimes by their names in `marljax.market.regimes.REGIMES`.
        fees: lowest and highest; leaves may carry an axis, of owners, say, whose terms are then drawn one by one.
        latency: lowest and highest; leaves may carry an axis, of agents, say.
        events: drawn per episode, each with these odds.
        start: lowest and highest time of an event's beginning [seconds since the session's start].
        seconds: shortest and longest event [seconds].
        strength: weakest and strongest event, 0..1.
        mirror: probability that an event is mirrored, 0..1.

    Raises:
        ValueError: a number is not finite or out of bounds, a range descends, or a regime is unknown.
    """
    if events < 1:
        raise ValueError(f"Randomisation.events must be >= 1, got {events!r}")
    for name, value in odds.items():
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"Randomisation.odds[{name!r}] must be finite and >= 0, got {value!r}")
    if not sum(odds.values()) > 0:
        raise ValueError(f"Randomisation.odds must not all be 0, got {dict(odds)!r}")
    if not 0 <= mirror <= 1:
        raise ValueError(f"Randomisation.mirror must be within 0..1, got {mirror!r}")
    bounds = {"start": (0.0, math.inf), "seconds": (1e-3, math.inf), "strength": (0.0, 1.0)}
    ranges = {"start": start, "seconds": seconds, "strength": strength}
    for name, (low, high) in ranges.items():
        least, most = bounds[name]
        if not (math.isfinite(high) and least <= low <= high <= most):
            raise ValueError(f"Randomisation.{name} must ascend within {least:g}..{most:g}, got {(low, high)!r}")
    return Randomisation(
        regimes=table(*odds),
        odds=jnp.tile(jnp.array(list(odds.values()), jnp.float32), (events, 1)),
        mirror=jnp.float32(mirror),
        fees=_range("fees", *fees),
        latency=_range("latency", *latency),
        **{name: jnp.array(pair, jnp.float32) for name, pair in ranges.items()},
    )


def _range(name: str, low: Tree, high: Tree) -> Tree:
    for (path, least), most in zip(jax.tree.leaves_with_path(low), jax.tree.leaves(high), strict=True):
        if least.shape != most.shape or not bool(jnp.all(least <= most)):
            raise ValueError(f"Randomisation.{name}{jax.tree_util.keystr(path)} must ascend, got {(least, most)!r}")
    return jax.tree.map(lambda a, b: jnp.stack([a, b]), low, high)


def draw(key: jax.Array, randomisation: Randomisation) -> Conditions:
    """The conditions of one episode."""
    events_key, fees_key, latency_key = jax.random.split(key, 3)
    event_keys = jax.random.split(events_key, randomisation.odds.shape[0])
    schedule = jax.vmap(_event, (0, 0, None))(event_keys, randomisation.odds, randomisation)
    latency = randomisation.latency
    floor_key, median_key, sigma_key, exponent_key = jax.random.split(latency_key, 4)
    return Conditions(
        schedule=jax.tree.map(lambda x: x.reshape(-1), schedule),
        fees=_uniform_leaves(fees_key, randomisation.fees),
        latency=Latency(
            floor=_uniform(floor_key, latency.floor),
            median=_log_uniform(median_key, latency.median),
            sigma=_uniform(sigma_key, latency.sigma),
            exponent=_uniform(exponent_key, latency.exponent),
        ),
    )


def _event(key: jax.Array, odds: jax.Array, randomisation: Randomisation) -> Schedule:
    """One event's segments, [LAYERS]."""
    which_key, start_key, seconds_key, strength_key, mirror_key = jax.random.split(key, 5)
    which = jax.random.categorical(which_key, jnp.log(odds))
    schedule = play(
        jax.tree.map(lambda rows: rows[which], randomisation.regimes),
        _uniform(start_key, randomisation.start),
        _log_uniform(seconds_key, randomisation.seconds),
        _uniform(strength_key, randomisation.strength),
    )
    swap = jax.random.bernoulli(mirror_key, randomisation.mirror)
    stress = jax.tree.map(lambda a, b: jnp.where(swap, a, b), mirrored(schedule.stress), schedule.stress)
    return Schedule(schedule.start, schedule.end, schedule.ramp, schedule.strength, stress)


def _uniform(key: jax.Array, bounds: jax.Array) -> jax.Array:
    low, high = bounds
    return low + (high - low) * jax.random.uniform(key, low.shape)


def _log_uniform(key: jax.Array, bounds: jax.Array) -> jax.Array:
    """low x (high / low) ** u; a range that starts at 0 has no logarithm and is uniform."""
    low, high = bounds
    u = jax.random.uniform(key, low.shape)
    positive = low > 0
    drawn = jnp.where(positive, low * (high / jnp.where(positive, low, 1.0)) ** u, high * u)
    return jnp.clip(drawn, low, high)


def _uniform_leaves(key: jax.Array, bounds: Tree) -> Tree:
    leaves, tree = jax.tree.flatten(bounds)
    keys = jax.random.split(key, len(leaves))
    return jax.tree.unflatten(tree, [_uniform(k, leaf) for k, leaf in zip(keys, leaves, strict=True)])
