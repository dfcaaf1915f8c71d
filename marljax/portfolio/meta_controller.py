"""From the meta-controller's action to capital: what it sees, what it may ask for, and what the guardrails grant.

The base is risk parity on a causal covariance. The policy tilts it by a bounded factor per product and sets gross
exposure; the guardrails, which no network can touch, have the last word. Nothing here knows how the policy is trained.
"""

import jax
import jax.numpy as jnp
from flax import struct

from marljax.portfolio.guardrails import Intervention, Limits, project

AGENT_FEATURES = ("mean_return", "volatility", "drawdown", "turnover", "confidence", "weight")
PORTFOLIO_FEATURES = ("drawdown", "gross", "correlation")
MARKET_FEATURES = ("market_volatility", "base_weight")


@struct.dataclass
class TrackRecord:
    """What the meta-controller remembers of each product agent, updated once a block."""

    mean: jax.Array  # float32[P] exponentially weighted mean return on allocated capital per block
    square: jax.Array  # float32[P] the same of its square
    equity: jax.Array  # float32[P] cumulated return on allocated capital
    peak: jax.Array  # float32[P] its highest value
    turnover: jax.Array  # float32[P] notional traded over allocated capital in the last block
    confidence: jax.Array  # float32[P] mean absolute signal in the last block

    @classmethod
    def start(cls, n_products: int, volatility: jax.Array) -> "TrackRecord":
        """No record yet; `volatility` (float32[P], per block) stands in for the agents' own."""
        zero = jnp.zeros(n_products, jnp.float32)
        return cls(zero, jnp.broadcast_to(volatility**2, (n_products,)), zero, zero, zero, zero)

    def update(self, returns: jax.Array, turnover: jax.Array, confidence: jax.Array, decay: jax.Array) -> "TrackRecord":
        """The record after a block; every argument but `decay` (float32[], weight of the past) is float32[P]."""
        equity = self.equity + returns
        return TrackRecord(
            mean=decay * self.mean + (1 - decay) * returns,
            square=decay * self.square + (1 - decay) * returns**2,
            equity=equity,
            peak=jnp.maximum(self.peak, equity),
            turnover=turnover,
            confidence=confidence,
        )


def observation_size(n_products: int) -> int:
    """Length of `observe`'s vector for P products."""
    return n_products * (len(AGENT_FEATURES) + len(MARKET_FEATURES)) + len(PORTFOLIO_FEATURES)


def observe(
    record: TrackRecord,
    weights: jax.Array,
    drawdown: jax.Array,
    base: jax.Array,
    volatility: jax.Array,
    typical_volatility: jax.Array,
    correlation: jax.Array,
) -> jax.Array:
    """What the meta-policy sees, float32[observation_size(P)], each entry of order one and within +-5.

    Args:
        record: of the product agents.
        weights: float32[P] allocation in force, fractions of equity.
        drawdown: float32[] of the portfolio, a fraction of its peak.
        base: float32[P] risk-parity weights, summing to one.
        volatility: float32[P] of the products' returns per block, known now.
        typical_volatility: float32[P] the same over the training part.
        correlation: float32[] mean pairwise correlation of the products, known now.
    """
    agent_volatility = jnp.sqrt(record.square)
    scale = jnp.maximum(typical_volatility, 1e-12)
    n_products = weights.shape[0]
    per_agent = [
        record.mean / jnp.maximum(agent_volatility, 1e-3 * scale),
        jnp.log(jnp.maximum(agent_volatility / scale, 1e-3)),
        (record.peak - record.equity) / (10.0 * scale),
        record.turnover,
        record.confidence,
        n_products * weights,
    ]
    market = [jnp.log(jnp.maximum(volatility / scale, 1e-3)), n_products * base]
    portfolio = jnp.stack([drawdown / (10.0 * jnp.mean(scale)), jnp.sum(weights), correlation])
    return jnp.clip(jnp.concatenate([*per_agent, *market, portfolio]), -5.0, 5.0)


def allocate(
    action: jax.Array, base: jax.Array, tilt: jax.Array, limits: Limits
) -> tuple[jax.Array, jax.Array, Intervention]:
    """Turn an action into weights.

    Args:
        action: float32[P + 1] in [-1, 1]; the first P tilt the base, the last sets gross exposure between 0 and the
            most that the limits allow.
        base: float32[P] risk-parity weights, summing to one.
        tilt: float32[] log factor of a full tilt (log 3 lets a product's share grow threefold against another's).
        limits: the guardrails.

    Returns:
        The weights granted and those asked for, float32[P] fractions of equity, and what the guardrails did.
    """
    tilted = base * jnp.exp(tilt * action[:-1])
    gross = limits.gross * 0.5 * (1.0 + action[-1])
    asked = gross * tilted / jnp.sum(tilted)
    granted, intervention = project(asked, limits)
    return granted, asked, intervention
