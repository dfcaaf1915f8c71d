"""An execution agent: works a parent order until a deadline, measured from the price at which it arrived.

The parent order is an obligation of the other sign: who has to buy 100 lots is 100 lots short until they are bought. So
the reward, what the agent earned plus what that obligation gained or lost at the mark, sums over the order's life to
minus its implementation shortfall (Perold 1988): cost of the fills against the arrival price, and of what was not
filled at the mark, net of fees.

In the step before the deadline the agent's action is replaced by an order for everything left, `through` ticks beyond
the other side's touch, which also takes the place of an instruction under way. What is still left after it is taken
over at the mark for a `penalty` per lot. Then whatever is under way is called back, what stands is cancelled, and the
agent quotes no more; what trades before the cancellation arrives stays its own.

Observation: the market (mirrored for a seller), side, what is left of the parent [fraction], of the time [fraction],
what the market moved against it since arrival, and its order.
Action: float32[2] in [-1, 1]: size of the order (from nothing to `largest`, a fraction of the parent), and how
aggressively it is priced (see `role.placed`).
Reward: as above, less `aversion` times the squared lots left.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct

from marljax.data.limits import require_counts, require_not_negative, require_positive, require_shares
from marljax.envs.orders import Quotes
from marljax.envs.roles.role import (
    MARKET,
    ORDER,
    Market,
    Own,
    one_sided,
    placed,
    see_market,
    see_order,
    standing_or,
    vector,
)
from marljax.lob.types import BUY, SELL

OBSERVATION = (*MARKET, "side", "parent_left", "time_left", "slippage", *(f"order_{x}" for x in ORDER))
ACTION = ("size", "aggression")


@struct.dataclass
class ExecutionParams:
    """The rules of one execution agent; leaves may carry an axis of agents."""

    parent: int = 200
    """The parent order [lots]."""
    buys: float = 0.5
    """Probability that the parent order buys [1]."""
    deadline: int = 200
    """Steps it may take [count]; no more than the episode's."""
    largest: float = 0.1
    """Largest order [fraction of the parent]."""
    behind: float = 5.0
    """Most patient price [ticks behind its side's touch]."""
    through: float = 20.0
    """Most aggressive price [ticks beyond the other side's touch]."""
    penalty: float = 1.0
    """Charge on what is left at the deadline [currency per lot]."""
    aversion: float = 0.0
    """Charge on what is left to trade [currency per lot**2 and step]."""
    max_loss: float = 1e6
    """Loss at which it is out of business [currency]."""

    def __post_init__(self) -> None:
        require_counts(self, "parent", "deadline")
        require_not_negative(self, "behind", "through", "penalty", "aversion")
        require_positive(self, "largest", "max_loss")
        require_shares(self, "buys")


@struct.dataclass
class Parent:
    """A parent order and how far it has come."""

    side: jax.Array  # int32[] BUY or SELL
    arrival: jax.Array  # int32[] half ticks, the mark when it arrived
    mark: jax.Array  # int32[] half ticks, the mark when it was last looked at
    obligation: jax.Array  # int32[] lots owed, signed against `side`; from the deadline on what was delivered
    elapsed: jax.Array  # int32[] steps since arrival


Params = ExecutionParams


def start(key: jax.Array, market: Market, params: ExecutionParams) -> Parent:
    side = jnp.where(jax.random.bernoulli(key, params.buys), BUY, SELL)
    return Parent(
        side=side,
        arrival=market.mark,
        mark=market.mark,
        obligation=-side * params.parent,
        elapsed=jnp.zeros((), jnp.int32),
    )


def left(own: Own, memory: Parent) -> jax.Array:
    """int32[] lots still to trade."""
    return jnp.maximum(-memory.side * (own.position + memory.obligation), 0)


def observe(market: Market, own: Own, memory: Parent, params: ExecutionParams) -> jax.Array:
    slippage = 0.5 * memory.side * (market.mark - memory.arrival) / market.scales.price
    largest = jnp.maximum(params.largest * params.parent, 1.0)
    order = jnp.where(memory.side == BUY, 0, 1)
    return vector(
        [
            *see_market(market, memory.side),
            memory.side,
            left(own, memory) / jnp.maximum(params.parent, 1),
            jnp.maximum(params.deadline - memory.elapsed, 0) / params.deadline,
            slippage,
            *see_order(own, market, order, largest),
        ]
    )


def quotes(action: jax.Array, market: Market, own: Own, memory: Parent, params: ExecutionParams) -> Quotes:
    size, aggression = jnp.clip(jnp.nan_to_num(action), -1.0, 1.0)
    remaining = left(own, memory)
    lots = jnp.round(0.5 * (size + 1.0) * params.largest * params.parent).astype(jnp.int32)
    price = placed(aggression, memory.side, market, params.behind, params.through)
    asked = standing_or(action, own, one_sided(memory.side, price, jnp.minimum(lots, remaining)))
    last = placed(jnp.float32(1.0), memory.side, market, params.behind, params.through)
    swept = one_sided(memory.side, last, remaining)
    closing = memory.elapsed >= params.deadline - 1
    last_words = closing & (memory.elapsed <= params.deadline)
    chosen = jax.tree.map(lambda a, b: jnp.where(closing, a, b), swept, asked)
    return dataclasses.replace(chosen, replaces=jnp.broadcast_to(last_words, chosen.size.shape))


def settle(
    key: jax.Array, earned: jax.Array, market: Market, own: Own, memory: Parent, params: ExecutionParams
) -> tuple[Parent, jax.Array]:
    elapsed, unfilled = memory.elapsed + 1, left(own, memory)
    move = (memory.obligation * (market.mark - memory.mark)).astype(jnp.float32)
    ends = elapsed == params.deadline
    reward = (
        earned
        + 0.5 * market.tick_value * move
        - params.aversion * unfilled.astype(jnp.float32) ** 2
        - jnp.where(ends, params.penalty * unfilled, 0.0)
    )
    # What was filled is delivered, and nothing more is owed.
    obligation = jnp.where(ends, -own.position, memory.obligation)
    return dataclasses.replace(memory, mark=market.mark, obligation=obligation, elapsed=elapsed), reward
