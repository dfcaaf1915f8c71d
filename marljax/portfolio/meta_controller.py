"""From what the meta-controller sees to what it asks for; `marljax.portfolio.guardrails` decides what it gets.

The base is risk parity on a causal covariance. The policy tilts it by a bounded factor per agent and sets gross
exposure. Nothing here knows how the policy is trained.

Observations are laid out agent by agent, then come the features of the portfolio, so that a network that reads an
observation as a set does not have to know how many agents there are. Nothing in a row says which agent it is of.

A tilt multiplies an agent's weight and not its risk budget: both parametrise the same portfolios, the first for a few
multiplications and without a covariance, the second for another solve of risk parity at every rebalance, which takes
longer than all else a rebalance does (`benchmarks/tilts.py`).
"""

import jax
import jax.numpy as jnp
from flax import struct

AGENT_FEATURES = (
    "mean_return",
    "last_return",
    "volatility",
    "drawdown",
    "turnover",
    "confidence",
    "weight",
    "market_volatility",
    "base_weight",
)
"""Columns of an agent's part of the observation."""

PORTFOLIO_FEATURES = ("drawdown", "gross", "cash", "correlation", "correlation_change", "volatility_regime")
"""Columns of the portfolio's part."""

_LIMIT = 5.0
_LEAST_RATIO = 1e-3


@struct.dataclass
class TrackRecord:
    """What the meta-controller remembers of each of A agents, updated once a rebalance."""

    mean: jax.Array  # float32[A] exponentially weighted mean return on allocated capital per rebalance
    square: jax.Array  # float32[A] the same of its square
    last: jax.Array  # float32[A] the return since the last rebalance
    equity: jax.Array  # float32[A] cumulated return on allocated capital
    peak: jax.Array  # float32[A] its highest value
    turnover: jax.Array  # float32[A] notional traded over allocated capital since the last rebalance
    confidence: jax.Array  # float32[A] mean absolute signal since the last rebalance

    @classmethod
    def start(cls, n_agents: int, volatility: jax.Array) -> "TrackRecord":
        """No record yet; `volatility` (float32[A], per rebalance) stands in for the agents' own."""
        zero = jnp.zeros(n_agents, jnp.float32)
        return cls(zero, jnp.broadcast_to(volatility**2, (n_agents,)), zero, zero, zero, zero, zero)

    def update(self, returns: jax.Array, turnover: jax.Array, confidence: jax.Array, decay: jax.Array) -> "TrackRecord":
        """The record one rebalance later; all but `decay` (float32[], weight of the past) are float32[A]."""
        equity = self.equity + returns
        return TrackRecord(
            mean=decay * self.mean + (1 - decay) * returns,
            square=decay * self.square + (1 - decay) * returns**2,
            last=returns,
            equity=equity,
            peak=jnp.maximum(self.peak, equity),
            turnover=turnover,
            confidence=confidence,
        )


@struct.dataclass
class MarketView:
    """What is known of the market at a rebalance, agent by agent for what each of them trades."""

    base: jax.Array  # float32[A] risk-parity weights, summing to one
    volatility: jax.Array  # float32[A] of returns per rebalance
    typical_volatility: jax.Array  # float32[A] the same over the training part
    correlation: jax.Array  # float32[] mean pairwise correlation
    correlation_change: jax.Array  # float32[] how far it is above what it was, of a slower estimate or some time ago
    volatility_regime: jax.Array  # float32[] -1 calm, 0 usual or unknown, 1 turbulent; between for several products


def observation_size(n_agents: int) -> int:
    """Length of `observe`'s vector for A agents."""
    return n_agents * len(AGENT_FEATURES) + len(PORTFOLIO_FEATURES)


def split(observation: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The agents' part float32[..., A, AGENT_FEATURES] and the portfolio's float32[..., PORTFOLIO_FEATURES] of an
    observation float32[..., observation_size(A)]."""
    n = len(PORTFOLIO_FEATURES)
    agents = observation[..., :-n]
    return agents.reshape(*agents.shape[:-1], -1, len(AGENT_FEATURES)), observation[..., -n:]


def observe(record: TrackRecord, market: MarketView, weights: jax.Array, drawdown: jax.Array) -> jax.Array:
    """What the meta-policy sees, float32[observation_size(A)], each entry of order one and within +-5.

    Args:
        record: of the agents.
        market: what is known of it now.
        weights: float32[A] allocation in force, after drift, fractions of equity.
        drawdown: float32[] of the portfolio, a fraction of its peak.

    Returns are in units of the agent's own volatility, drawdowns in ten times the typical one of what it trades,
    volatilities logarithms of their ratio to it, weights times A, turnover and confidence as they are.
    """
    n_agents = weights.shape[0]
    typical = jnp.maximum(market.typical_volatility, 1e-12)
    own = jnp.sqrt(record.square)
    unit = jnp.maximum(own, _LEAST_RATIO * typical)
    agents = {
        "mean_return": record.mean / unit,
        "last_return": record.last / unit,
        "volatility": jnp.log(jnp.maximum(own / typical, _LEAST_RATIO)),
        "drawdown": (record.peak - record.equity) / (10.0 * typical),
        "turnover": record.turnover,
        "confidence": record.confidence,
        "weight": n_agents * weights,
        "market_volatility": jnp.log(jnp.maximum(market.volatility / typical, _LEAST_RATIO)),
        "base_weight": n_agents * market.base,
    }
    gross = jnp.abs(weights).sum()
    portfolio = {
        "drawdown": drawdown / (10.0 * jnp.mean(typical)),
        "gross": gross,
        "cash": 1.0 - gross,
        "correlation": market.correlation,
        "correlation_change": market.correlation_change,
        "volatility_regime": market.volatility_regime,
    }
    by_agent = jnp.stack([agents[name] for name in AGENT_FEATURES], -1)
    of_all = jnp.stack([jnp.asarray(portfolio[name], jnp.float32) for name in PORTFOLIO_FEATURES])
    return jnp.clip(jnp.concatenate([by_agent.reshape(-1), of_all]), -_LIMIT, _LIMIT)


def ask(action: jax.Array, base: jax.Array, tilt: jax.Array | float, gross: jax.Array | float) -> jax.Array:
    """The weights that an action asks for, before any limit. float32[A] fractions of equity, >= 0.

    `action` float32[A + 1] in [-1, 1]: the first A tilt the base, the last sets gross exposure, from none at -1 to all
    of `gross` at 1. `base` float32[A] risk-parity weights, summing to one. `tilt` float32[] log factor of a full tilt
    (log 3 lets an agent's share grow threefold against another's); 0 allows none. `gross` float32[] the largest
    exposure that may be asked for [fraction of equity]. Without tilts the result is exposure times base, bit by bit.
    """
    tilted = base * jnp.exp(tilt * action[:-1])
    exposure = gross * 0.5 * (1.0 + action[-1])
    return exposure * (tilted * (base.sum() / tilted.sum()))
