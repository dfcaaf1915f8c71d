"""A directional trader: holds a position for what a signal says about the market's way.

Observation: the market, the position [fraction of its limit], the signal as the trader receives it, and both orders.
Action: float32[2] in [-1, 1]: target inventory [fraction of the limit], and how aggressively the order that leads there
is priced (see `role.placed`); an order is at most `largest` lots.
Reward: what it earned, net of fees, less `aversion` times the squared position.
"""

import jax
import jax.numpy as jnp
from flax import struct

from marljax.data.limits import require_counts, require_not_negative, require_positive
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

OBSERVATION = (*MARKET, "inventory", "signal", *(f"bid_{x}" for x in ORDER), *(f"ask_{x}" for x in ORDER))
ACTION = ("target", "aggression")


@struct.dataclass
class DirectionalParams:
    """The rules of one directional trader; leaves may carry an axis of agents."""

    max_position: int = 50
    """Largest target inventory [lots]."""
    largest: int = 10
    """Largest order [lots]."""
    behind: float = 5.0
    """Most patient price [ticks behind its side's touch]."""
    through: float = 5.0
    """Most aggressive price [ticks beyond the other side's touch]."""
    noise: float = 0.5
    """Noise on the signal [standard deviations of the signal]."""
    aversion: float = 0.0
    """Charge on inventory [currency per lot**2 and step]."""
    max_loss: float = 1e6
    """Loss at which it is out of business [currency]."""

    def __post_init__(self) -> None:
        require_counts(self, "largest", "max_position")
        require_not_negative(self, "behind", "through", "noise", "aversion")
        require_positive(self, "max_loss")


Params = DirectionalParams


def start(key: jax.Array, market: Market, params: DirectionalParams) -> jax.Array:
    """The signal as received, float32[]."""
    return market.signal + params.noise * jax.random.normal(key)


def observe(market: Market, own: Own, memory: jax.Array, params: DirectionalParams) -> jax.Array:
    return vector(
        [
            *see_market(market),
            own.position / params.max_position,
            memory,
            *see_order(own, market, 0, params.largest),
            *see_order(own, market, 1, params.largest),
        ]
    )


def quotes(action: jax.Array, market: Market, own: Own, memory: jax.Array, params: DirectionalParams) -> Quotes:
    target, aggression = jnp.clip(jnp.nan_to_num(action), -1.0, 1.0)
    change = jnp.round(target * params.max_position).astype(jnp.int32) - own.position
    side = jnp.where(change >= 0, BUY, SELL)
    price = placed(aggression, side, market, params.behind, params.through)
    return standing_or(action, own, one_sided(side, price, jnp.minimum(jnp.abs(change), params.largest)))


def settle(
    key: jax.Array, earned: jax.Array, market: Market, own: Own, memory: jax.Array, params: DirectionalParams
) -> tuple[jax.Array, jax.Array]:
    return start(key, market, params), earned - params.aversion * own.position.astype(jnp.float32) ** 2
