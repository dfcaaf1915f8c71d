"""The classical strategies of an order book, tuned as carefully as the learned ones.

A strategy's numbers are found by random search and a second search about the best of the first, all on one set of
episodes, and the best few meet again on more. What they are tuned against is what they are later judged against: makers
against the tuned schedules, schedules against the tuned makers.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from marljax.agents.classical.execution import AlmgrenChrissParams, ScheduleParams, VolumeProfileParams
from marljax.agents.classical.market_making import MakerParams
from marljax.data.limits import require_counts
from marljax.envs.order_book import OrderBookParams
from marljax.runtime.progress import print_line
from stages.order_book import CLASSICAL, EXECUTION, MAKER, OTHER
from stages.order_book_contest import Judge

PARTS = 10
"""Parts of an order's life, of which VWAP knows the volume."""
_NEAR = 0.12
"""Standard deviation of the second search, of the unit interval in which every number is drawn."""
_FINALISTS = 5


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig:
    """How much is spent on the classical strategies."""

    trials: int = 32
    """Choices of numbers tried for each strategy, half of them near the best of the other half [count]."""
    episodes: int = 64
    """Episodes that a choice is first judged by; the best few are judged by four times as many [count]."""

    def __post_init__(self) -> None:
        require_counts(self, "trials", "episodes")


def value(role: str, outcomes: dict[str, np.ndarray]) -> float:
    """What the role's agent wants much of, on average: profit less the charge on inventory, or little shortfall."""
    return float(np.mean(outcomes["adjusted"])) if role == MAKER else -float(np.mean(outcomes["shortfall"]))


def strategies(
    world: OrderBookParams, horizon: float, order_seconds: float
) -> dict[str, dict[str, tuple[int, Callable[[Any], Any]]]]:
    """By role and name: how many numbers a strategy has, and its params at a point float[D] of the unit cube.

    Args:
        world: the market with the rules of its agents.
        horizon: seconds of an episode.
        order_seconds: seconds from a parent order's arrival to its deadline.
    """
    rules = {role: jax.tree.map(lambda x: x[0].astype(jnp.float32), world.roles[role]) for role in OTHER}
    sigma = world.scales.volatility * world.tick_value
    seconds = jnp.float32(order_seconds)

    def maker(u: jax.Array) -> MakerParams:
        return MakerParams(
            risk_aversion=_log_between(u[0], 1e-4, 0.3),
            decay=_log_between(u[1], 0.2, 20.0),
            intensity=_log_between(u[2], 0.05, 20.0),
            horizon=jnp.float32(horizon),
            size=1.0 + u[3] * (rules[MAKER].largest - 1.0),
            rules=rules[MAKER],
            scales=world.scales,
        )

    def twap(u: jax.Array) -> ScheduleParams:
        return ScheduleParams(2.0 * u[0] - 1.0, rules[EXECUTION])

    def vwap(u: jax.Array) -> VolumeProfileParams:
        # Volume that grows or falls exponentially over the order's life; even in the middle of the range.
        profile = jnp.exp(16.0 * (u[1] - 0.5) * jnp.linspace(-0.5, 0.5, PARTS))
        return VolumeProfileParams(2.0 * u[0] - 1.0, rules[EXECUTION], profile)

    def almgren_chriss(u: jax.Array) -> AlmgrenChrissParams:
        # The trajectory depends on kappa T alone, from next to even to nearly all at once.
        temporary = 0.5 * world.scales.price * world.tick_value
        kappa = _log_between(u[1], 0.05, 20.0) / seconds
        return AlmgrenChrissParams(
            aggression=2.0 * u[0] - 1.0,
            rules=rules[EXECUTION],
            risk_aversion=temporary * (kappa / sigma) ** 2,
            volatility=sigma,
            temporary=temporary,
            permanent=jnp.float32(0.0),
            horizon=seconds,
        )

    return {
        MAKER: {"avellaneda-stoikov": (4, maker), "glft": (4, maker)},
        EXECUTION: {"twap": (1, twap), "vwap": (2, vwap), "almgren-chriss": (2, almgren_chriss)},
    }


def tune(
    judge: Judge,
    keys: dict[str, jax.Array],
    world: OrderBookParams,
    config: BenchmarkConfig,
    horizon: float,
    order_seconds: float,
) -> tuple[dict[str, tuple[Any, ...]], dict[str, Any]]:
    """The params of every strategy, by role in the order of `CLASSICAL`, and for each the point found and its value.

    Args:
        judge: plays.
        keys: of the random search, and of episodes "first" [episodes] and "last" [4 episodes].
        world: the markets on which they are tuned.
        config: how much is tried.
        horizon, order_seconds: see `strategies`.
    """
    makes = strategies(world, horizon, order_seconds)
    points = {role: {name: np.full(size, 0.5, np.float32) for name, (size, _) in makes[role].items()} for role in OTHER}

    def params() -> dict[str, tuple[Any, ...]]:
        return {role: tuple(make(points[role][name]) for name, (_, make) in makes[role].items()) for role in OTHER}

    def values(role: str, name: str, tried: np.ndarray, episodes: jax.Array) -> list[float]:
        met = {role: [name], OTHER[role]: list(CLASSICAL[OTHER[role]])}
        kept, found = points[role][name], []
        for point in tried:
            points[role][name] = point
            found.append(value(role, judge.play(episodes, world, judge.players(params(), met))[0]))
        points[role][name] = kept
        return found

    half = max(config.trials // 2, 1)
    searched: dict[str, Any] = {}
    # Makers first meet schedules that are not tuned yet, and so search near their best once more afterwards.
    for turn, (role, near) in enumerate(((MAKER, False), (EXECUTION, False), (EXECUTION, True), (MAKER, True))):
        for i, (name, (size, _)) in enumerate(makes[role].items()):
            key = jax.random.fold_in(jax.random.fold_in(keys["search"], turn), i)
            if near:
                drawn = points[role][name] + _NEAR * np.asarray(jax.random.normal(key, (half, size)))
            else:
                drawn = np.asarray(jax.random.uniform(key, (half, size)))
            tried = np.clip(np.vstack([points[role][name], drawn]), 0.0, 1.0).astype(np.float32)
            first = values(role, name, tried, keys["first"])
            best = np.argsort(first)[::-1][:_FINALISTS]
            last = values(role, name, tried[best], keys["last"])
            points[role][name] = tried[best[int(np.argmax(last))]]
            searched[name] = {"point": points[role][name], "value": max(last), "role": role}
            print_line(f"[benchmarks] {name}: {_worth(role, max(last))} after {len(tried)} trials")
    return params(), searched


def _worth(role: str, amount: float) -> str:
    return f"adjusted profit {amount:.4f} per episode" if role == MAKER else f"shortfall {-amount:.3f} ticks"


def _log_between(u: jax.Array, low: float, high: float) -> jax.Array:
    return low * (high / low) ** u
