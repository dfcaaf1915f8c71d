"""What a role is, what its agents see of the market, and how an action becomes a price.

A role is written for one agent; the env maps it over the agents that play it.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax

from marljax.envs.orders import Quotes, Standing
from marljax.lob.types import BUY

DEPTH = 3
"""Price levels of each side that agents see."""


@struct.dataclass
class Scales:
    """Typical values by which observations are divided."""

    price: jax.Array  # float32[] ticks
    size: jax.Array  # float32[] lots
    volatility: jax.Array  # float32[] ticks per root second


@struct.dataclass
class Market:
    """What everybody sees after a step. Where a side is empty, its touch is what it was last, with size 0."""

    bid: jax.Array  # int32[] ticks, best price
    ask: jax.Array  # int32[] ticks
    bid_size: jax.Array  # int32[DEPTH] lots, best level first
    ask_size: jax.Array  # int32[DEPTH] lots
    bid_depth: jax.Array  # int32[] ticks from the best to the last of these levels
    ask_depth: jax.Array  # int32[] ticks
    mark: jax.Array  # int32[] half ticks, the mid
    move: jax.Array  # int32[] half ticks, by which the last step moved the mark
    pressure: jax.Array  # float32[] -1..1, bought less sold lots of incoming orders, over their sum
    variance: jax.Array  # float32[] ticks**2 per second, of the mid, exponentially weighted
    halted: jax.Array  # float32[] 1 in a trading halt
    signal: jax.Array  # float32[] standard deviations, see `marljax.envs.signal`
    left: jax.Array  # float32[] fraction of the episode that is left
    tick_value: jax.Array  # float32[] currency of one tick on one lot
    scales: Scales

    @property
    def volatility(self) -> jax.Array:
        """float32[] ticks per root second"""
        return jnp.sqrt(self.variance)


@struct.dataclass
class Own:
    """What an agent knows of itself."""

    position: jax.Array  # int32[] lots
    orders: Standing  # [2]
    waiting: jax.Array  # bool[2] whether an instruction about the order is under way


class Role(Protocol):
    """The functions of a role's module, for one agent. `params` and `memory` are the role's own pytrees."""

    @property
    def OBSERVATION(self) -> tuple[str, ...]:
        """Names of the observation's entries."""
        ...

    @property
    def ACTION(self) -> tuple[str, ...]:
        """Names of the action's entries, each within [-1, 1]."""
        ...

    @property
    def Params(self) -> type:
        """The class of its rules: numbers, with defaults."""
        ...

    def start(self, key: jax.Array, market: Market, params: Any) -> Any:
        """What the agent remembers from the episode's beginning on."""
        ...

    def observe(self, market: Market, own: Own, memory: Any, params: Any) -> jax.Array:
        """float32[len(OBSERVATION)]."""
        ...

    def quotes(self, action: jax.Array, market: Market, own: Own, memory: Any, params: Any) -> Quotes:
        """The orders that an action asks for. Where an entry of it is NaN, they are those that stand."""
        ...

    def settle(
        self, key: jax.Array, earned: jax.Array, market: Market, own: Own, memory: Any, params: Any
    ) -> tuple[Any, jax.Array]:
        """What the agent remembers after a step, and its reward, float32[] currency.

        Args:
            earned: float32[] currency, the change of its equity in the step, net of fees.
            market, own: after the step.
            memory: before it.
        """
        ...


MARKET = (
    "spread",
    "own_size_1",
    "own_size_2",
    "own_size_3",
    "other_size_1",
    "other_size_2",
    "other_size_3",
    "own_depth",
    "other_depth",
    "imbalance",
    "move",
    "pressure",
    "volatility",
    "halted",
    "left",
)
"""Entries of `see_market`; `own` is the side of the orders to buy, or, for one who only sells, of those to sell."""

ORDER = ("behind", "size", "share", "waiting")
"""Entries of `see_order`."""


def see_market(market: Market, side: jax.Array | int = BUY) -> list[jax.Array]:
    """The market as an agent on `side` (BUY, SELL) sees it: for a seller it is mirrored. Entries as in `MARKET`."""
    buys = jnp.asarray(side) == BUY
    scales = market.scales
    sizes, depths = (market.bid_size, market.ask_size), (market.bid_depth, market.ask_depth)
    own, other = (jnp.where(buys, sizes[i], sizes[1 - i]).astype(jnp.float32) for i in (0, 1))
    own_depth, other_depth = (jnp.where(buys, depths[i], depths[1 - i]) / scales.price for i in (0, 1))
    sign = jnp.where(buys, 1.0, -1.0)
    return [
        (market.ask - market.bid) / scales.price,
        *jnp.log1p(own / scales.size),
        *jnp.log1p(other / scales.size),
        own_depth,
        other_depth,
        (own[0] - other[0]) / jnp.maximum(own[0] + other[0], 1.0),
        sign * 0.5 * market.move / scales.price,
        sign * market.pressure,
        market.volatility / scales.volatility,
        market.halted,
        market.left,
    ]


def see_order(own: Own, market: Market, side: int | jax.Array, largest: jax.Array | int) -> list[jax.Array]:
    """An order of the agent: how far behind the touch, what is left of it [fraction of `largest`], and its share of
    the lots up to its own end (1 at the front of the queue). 0 where there is none. Entries as in `ORDER`.

    Args:
        side: 0 the order to buy, 1 the order to sell.
        largest: int32[] lots.
    """
    there, lots = own.orders.there[side], own.orders.remaining[side].astype(jnp.float32)
    touch = jnp.stack([market.bid, market.ask])[side]
    behind = (touch - own.orders.price[side]) * jnp.array([1, -1])[side] / market.scales.price
    return [
        jnp.where(there, behind, 0.0),
        lots / jnp.maximum(largest, 1),
        lots / jnp.maximum(lots + own.orders.ahead[side], 1.0),
        own.waiting[side].astype(jnp.float32),
    ]


def vector(entries: Sequence[jax.Array]) -> jax.Array:
    """float32[N] of scalars, each computed once: XLA's CPU backend would compute all of them for every entry."""
    scalars = tuple(jnp.asarray(x, jnp.float32) for x in entries)
    return jnp.stack(lax.optimization_barrier(scalars))


def placed(
    aggression: jax.Array | float,
    side: jax.Array,
    market: Market,
    behind: jax.Array | float,
    through: jax.Array | float,
) -> jax.Array:
    """The price of one order, int32[] ticks: -1 is `behind` ticks behind its side's touch, 0 joins the touch, 1 is
    `through` ticks beyond the other side's, linearly between them.

    Args:
        aggression: float32[] -1..1.
        side: int32[] BUY or SELL.
        behind, through: float32[] ticks.
    """
    spread = (market.ask - market.bid).astype(jnp.float32)
    aggression = jnp.asarray(aggression, jnp.float32)
    forward = jnp.where(aggression <= 0, aggression * behind, aggression * (spread + through))
    touch = jnp.where(side == BUY, market.bid, market.ask)
    return touch + side * jnp.round(forward).astype(jnp.int32)


def one_sided(side: jax.Array, price: jax.Array, size: jax.Array) -> Quotes:
    """One order and none on the other side."""
    mine = jnp.array([1, -1]) == side
    return Quotes.of(price=jnp.where(mine, price, 0), size=jnp.where(mine, jnp.maximum(size, 0), 0))


def standing_or(action: jax.Array, own: Own, quotes: Quotes) -> Quotes:
    """`quotes`, or what stands where an entry of the action is NaN."""
    keeps = jnp.any(jnp.isnan(action))
    return Quotes.of(
        price=jnp.where(keeps, own.orders.price, quotes.price),
        size=jnp.where(keeps, own.orders.remaining, quotes.size),
    )


def entries(names: tuple[str, ...], vector: jax.Array) -> dict[str, jax.Array]:
    """The entries of an observation by name, float32[...] each."""
    return {name: vector[..., i] for i, name in enumerate(names)}


def agents(params: Any, count: int) -> Any:
    """The rules of `count` agents as arrays [count] (int32, float32) of numbers or of sequences of that length."""

    def spread(x: Any) -> jax.Array:
        whole = jnp.issubdtype(jnp.asarray(x).dtype, jnp.integer)
        return jnp.broadcast_to(jnp.asarray(x, jnp.int32 if whole else jnp.float32), (count,))

    return dataclasses.replace(params, **{name: spread(value) for name, value in vars(params).items()})
