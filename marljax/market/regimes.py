"""Stress regimes: what they do to a market, when, and how they combine.

A regime is a course of stress over an event's duration, made of a few layers that may overlap. Played at a time it
becomes segments of a schedule, and `stress_at` says what the market feels at a moment. Each layer fades in and out
linearly within its own segment, so outside of it the market is exactly calm. Where segments overlap, multipliers
multiply, offsets add, and shares compound as independent causes do. The flash crash follows the account of 6 May 2010
by Kirilenko, Kyle, Samadi and Tuzun (2017): one-sided selling into a vanishing book, then a recovery.
"""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct

from marljax.lob.stress import Stress, calm, stressed

LAYERS = 3
"""Layers of a regime; unused ones are calm."""

_MULTIPLIERS = ("limit_rate", "market_rate", "cancel_rate", "size", "volatility")
_OFFSETS = ("half_spread", "drift", "informed_edge")
_SHARES = ("informed_share", "correlation")


@struct.dataclass
class Regime:
    """A course of stress over an event of any length, in layers of which each has its own part of the event."""

    start: jax.Array  # float32[LAYERS] fraction of the event at which the layer begins
    end: jax.Array  # float32[LAYERS] fraction of the event at which it has ended
    ramp: jax.Array  # float32[LAYERS] fraction of the layer, 0..0.5, over which it fades in, and out
    move: jax.Array  # float32[LAYERS] ticks by which the layer's drift moves fair value in all
    stress: Stress  # [LAYERS] at full strength


@struct.dataclass
class Schedule:
    """When a market is under which stress: S segments, each in force from its start up to its end."""

    start: jax.Array  # float32[S] seconds since the session's start
    end: jax.Array  # float32[S] seconds
    ramp: jax.Array  # float32[S] seconds of fading in, and out, within the segment; at most half of it
    strength: jax.Array  # float32[S] 0..1, share of the way from calm to the segment's stress
    stress: Stress  # [S]


def _layers(*layers: tuple[float, float, float, float, Stress]) -> Regime:
    unused = (0.0, 0.0, 0.0, 0.0, calm())
    rows = list(layers) + [unused] * (LAYERS - len(layers))
    return Regime(*jax.tree.map(lambda *leaves: jnp.stack([jnp.float32(x) for x in leaves]), *rows))


def steady(stress: Stress, ramp: float = 0.1) -> Regime:
    """The regime that is this stress all through the event but for its ramps.

    Args:
        stress: leaves float32[].
        ramp: fraction of the event, 0..0.5; else ValueError.
    """
    _check("Regime.ramp", ramp, 0.0, 0.5)
    return _layers((0.0, 1.0, ramp, 0.0, stress))


def liquidity_drought(limit_rate: float = 0.3, cancel_rate: float = 1.5, size: float = 0.5) -> Regime:
    """Fewer and smaller orders come, and those that rest leave sooner. Multipliers, as in `Stress`."""
    return steady(stressed(limit_rate=limit_rate, cancel_rate=cancel_rate, size=size))


def volatility_burst(volatility: float = 4.0) -> Regime:
    """Fair value moves `volatility` times as much."""
    return steady(stressed(volatility=volatility))


def one_sided_flow(buy_share: float = 0.15) -> Regime:
    """Of the market orders a share `buy_share` buys."""
    return steady(stressed(buy_share=buy_share))


def spread_blow_out(half_spread: float = 20.0) -> Regime:
    """New limit orders stay `half_spread` ticks further away."""
    return steady(stressed(half_spread=half_spread))


def trading_halt() -> Regime:
    """Nothing is matched. A halt is on or off and has no ramp."""
    return steady(stressed(halted=1.0), ramp=0.0)


def correlation_to_one(correlation: float = 1.0) -> Regime:
    """The common factor explains the share `correlation` of every product's variance."""
    return steady(stressed(correlation=correlation))


def toxic_informed_trader(share: float = 0.3, edge: float = 5.0) -> Regime:
    """A share of the market orders knows that fair value soon moves `edge` ticks its way."""
    return steady(stressed(informed_share=share, informed_edge=edge))


def flash_crash(depth: float = 200.0, recovered: float = 0.9) -> Regime:
    """Sellers run over a vanishing book, a trough, and buyers who bring most of it back.

    The crash takes the first 30% of the event and the recovery its second half; liquidity is gone throughout.

    Args:
        depth: ticks by which fair value falls, >= 0.
        recovered: fraction of the fall that the recovery makes good, 0..1.

    Raises:
        ValueError: an argument is out of its bounds.
    """
    _check("flash_crash.depth", depth, 0.0, math.inf)
    _check("flash_crash.recovered", recovered, 0.0, 1.0)
    illiquid = stressed(limit_rate=0.3, cancel_rate=2.0, size=0.5, half_spread=10.0, volatility=3.0)
    return _layers(
        (0.0, 1.0, 0.1, 0.0, illiquid),
        (0.0, 0.3, 0.2, -depth, stressed(market_rate=3.0, buy_share=0.1)),
        (0.5, 1.0, 0.2, recovered * depth, stressed(market_rate=1.5, buy_share=0.7)),
    )


REGIMES: dict[str, Callable[[], Regime]] = {
    "calm": lambda: steady(calm()),
    "liquidity drought": liquidity_drought,
    "volatility burst": volatility_burst,
    "flash crash": flash_crash,
    "one-sided flow": one_sided_flow,
    "spread blow-out": spread_blow_out,
    "trading halt": trading_halt,
    "correlation to one": correlation_to_one,
    "toxic informed trader": toxic_informed_trader,
}
"""The named regimes. Their ticks suit a stock whose spread is 10 to 30 ticks wide."""


def table(*names: str) -> Regime:
    """The named regimes one after another, leaves [R, LAYERS]; all of `REGIMES` where none is named.

    Raises:
        ValueError: a name is unknown.
    """
    for name in names:
        if name not in REGIMES:
            raise ValueError(f"regime must be one of {sorted(REGIMES)}, got {name!r}")
    return jax.tree.map(lambda *rows: jnp.stack(rows), *(REGIMES[name]() for name in names or REGIMES))


def play(regime: Regime, start: jax.Array, seconds: jax.Array, strength: jax.Array | float = 1.0) -> Schedule:
    """The schedule of one event, LAYERS segments.

    Args:
        regime: what happens, leaves [LAYERS].
        start: float32[] seconds since the session's start.
        seconds: float32[] the event's duration, > 0.
        strength: float32[] 0..1, share of the way from calm to the regime; `move` is scaled by it, too.
    """
    length = (regime.end - regime.start) * seconds
    ramp = regime.ramp * length
    effective = jnp.where(length > 0, length - ramp, 1.0)
    return Schedule(
        start=start + regime.start * seconds,
        end=start + regime.end * seconds,
        ramp=ramp,
        strength=jnp.broadcast_to(jnp.float32(strength), length.shape),
        stress=dataclasses.replace(regime.stress, drift=regime.stress.drift + regime.move / effective),
    )


def join(*schedules: Schedule) -> Schedule:
    """All segments of the schedules in one."""
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *schedules)


def mirrored(stress: Stress) -> Stress:
    """The same stress with buying and selling, up and down exchanged."""
    return dataclasses.replace(stress, buy_share=1.0 - stress.buy_share, drift=-stress.drift)


def stress_at(schedule: Schedule, seconds: jax.Array) -> Stress:
    """What the market feels at a moment: continuous in time but for halts, and calm outside of every segment.

    Args:
        schedule: S segments.
        seconds: float32[] since the session's start.

    Returns:
        float32[] leaves within `marljax.lob.stress.BOUNDS` if those of the schedule are.
    """
    inside = (schedule.start <= seconds) & (seconds < schedule.end)
    faded = jnp.minimum(seconds - schedule.start, schedule.end - seconds)
    ramp = jnp.where(schedule.ramp > 0, jnp.minimum(faded / jnp.where(schedule.ramp > 0, schedule.ramp, 1.0), 1.0), 1.0)
    weight = jnp.where(inside, schedule.strength * ramp, 0.0)
    rows = vars(schedule.stress)
    felt = {name: jnp.prod((1 - weight) + weight * rows[name]) for name in _MULTIPLIERS}
    felt |= {name: jnp.sum(weight * rows[name]) for name in _OFFSETS}
    felt |= {name: 1 - jnp.prod(1 - weight * rows[name]) for name in _SHARES}
    return Stress(
        buy_share=jnp.clip(0.5 + jnp.sum(weight * (rows["buy_share"] - 0.5)), 0.0, 1.0),
        halted=jnp.max(jnp.where(inside & (schedule.strength > 0), rows["halted"], 0.0)),
        **felt,
    )


def correlated_increments(key: jax.Array, stress: Stress, volatility: jax.Array, seconds: jax.Array) -> jax.Array:
    """Moves of the products' fair values over one interval: a common factor and each product's own.

    Two products' moves correlate by `stress.correlation` (by the root of the product of theirs, where its leaves
    differ by product).

    Args:
        stress: leaves float32[] or float32[P].
        volatility: float32[P] ticks per root second, in calm.
        seconds: float32[] the interval's length.

    Returns:
        float32[P] ticks.
    """
    common_key, own_key = jax.random.split(key)
    common = jax.random.normal(common_key)
    own = jax.random.normal(own_key, volatility.shape)
    shock = jnp.sqrt(stress.correlation) * common + jnp.sqrt(1 - stress.correlation) * own
    return stress.drift * seconds + stress.volatility * volatility * jnp.sqrt(seconds) * shock


def fair_value_paths(
    key: jax.Array, schedule: Schedule, start: jax.Array, volatility: jax.Array, seconds: jax.Array, steps: int
) -> jax.Array:
    """Fair values of several products through a schedule, for a fair-value flow each to follow.

    Only the schedule's correlation acts here: a book that follows a path meets the rest of its stress by itself, and
    would feel a burst of volatility twice.

    Args:
        key: decides the moves.
        schedule: of the session.
        start: float32[P] ticks.
        volatility: float32[P] ticks per root second.
        seconds: float32[] from one point to the next.
        steps: T, points after the first.

    Returns:
        float32[T + 1, P] ticks.
    """
    times = seconds * jnp.arange(steps, dtype=jnp.float32)
    correlation = jax.vmap(lambda time: stress_at(schedule, time).correlation)(times)

    def move(key: jax.Array, correlation: jax.Array) -> jax.Array:
        return correlated_increments(key, dataclasses.replace(calm(), correlation=correlation), volatility, seconds)

    moves = jax.vmap(move)(jax.random.split(key, steps), correlation)
    return start + jnp.concatenate([jnp.zeros((1, start.shape[0])), jnp.cumsum(moves, axis=0)])


def _check(name: str, value: float, least: float, most: float) -> None:
    if not (math.isfinite(value) and least <= value <= most):
        raise ValueError(f"{name} must be finite and within {least:g}..{most:g}, got {value!r}")
