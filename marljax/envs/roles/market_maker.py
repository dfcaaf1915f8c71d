"""A market maker: quotes on both sides, earns the spread, and bears the inventory that it is given.

Observation: the market, the position [fraction of its limit], and both orders.
Action: float32[4] in [-1, 1]: width (half the distance of the quotes, from `nearest` to `furthest` ticks from the mid),
skew (both prices moved by up to `skew` ticks, up where positive), size of the bid and size of the ask (from nothing to
`largest`, within what the position limit leaves).
Reward: what it earned, net of fees, less `aversion` times the squared position.
"""

import jax
import jax.numpy as jnp
from flax import struct

from marljax.data.limits import require_counts, require_not_negative, require_positive
from marljax.envs.orders import Quotes
from marljax.envs.roles.role import MARKET, ORDER, Market, Own, see_market, see_order, standing_or, vector

OBSERVATION = (*MARKET, "inventory", *(f"bid_{x}" for x in ORDER), *(f"ask_{x}" for x in ORDER))
ACTION = ("width", "skew", "bid_size", "ask_size")


@struct.dataclass
class MarketMakerParams:
    """The rules of one market maker; leaves may carry an axis of agents."""

    nearest: float = 0.5
    """Narrowest quotes [ticks from the mid]."""
    furthest: float = 10.0
    """Widest quotes [ticks from the mid]."""
    skew: float = 10.0
    """Largest shift of both quotes [ticks]."""
    largest: int = 10
    """Largest quote [lots]."""
    max_position: int = 50
    """Position limit, which no quote that is filled exceeds [lots]."""
    aversion: float = 0.0
    """Charge on inventory [currency per lot**2 and step]."""
    max_loss: float = 1e6
    """Loss at which it is out of business [currency]."""

    def __post_init__(self) -> None:
        require_counts(self, "largest", "max_position")
        require_not_negative(self, "nearest", "aversion")
        require_positive(self, "furthest", "skew", "max_loss")


Params = MarketMakerParams


def start(key: jax.Array, market: Market, params: MarketMakerParams) -> tuple[()]:
    return ()


def observe(market: Market, own: Own, memory: tuple[()], params: MarketMakerParams) -> jax.Array:
    return vector(
        [
            *see_market(market),
            own.position / params.max_position,
            *see_order(own, market, 0, params.largest),
            *see_order(own, market, 1, params.largest),
        ]
    )


def quotes(action: jax.Array, market: Market, own: Own, memory: tuple[()], params: MarketMakerParams) -> Quotes:
    width, skew, *sizes = jnp.clip(jnp.nan_to_num(action), -1.0, 1.0)
    half = params.nearest + 0.5 * (width + 1.0) * (params.furthest - params.nearest)
    centre = 0.5 * market.mark + skew * params.skew
    bid = jnp.floor(centre - half).astype(jnp.int32)
    # Rounded outwards, and never onto each other, so that a maker does not meet itself.
    ask = jnp.maximum(jnp.ceil(centre + half).astype(jnp.int32), bid + 1)
    room = jnp.maximum(params.max_position - own.position * jnp.array([1, -1]), 0)
    size = jnp.round(0.5 * (jnp.stack(sizes) + 1.0) * params.largest).astype(jnp.int32)
    return standing_or(action, own, Quotes.of(jnp.stack([bid, ask]), jnp.minimum(size, room)))


def settle(
    key: jax.Array, earned: jax.Array, market: Market, own: Own, memory: tuple[()], params: MarketMakerParams
) -> tuple[tuple[()], jax.Array]:
    return memory, earned - params.aversion * own.position.astype(jnp.float32) ** 2
