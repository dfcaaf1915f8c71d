"""What strategies that look at no holdings ask for among given return streams: the allocators and the auction.

All are shown what the meta-controller's base is made from, the same covariance at the same rebalance; those that need
an expected return take the mean of the last two years, and the weight of risk that the meta-controller is rewarded by.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from stream_accounts import Seen

from marljax.portfolio.allocators import allocators
from marljax.portfolio.allocators_skfolio import expecting_the_past
from marljax.portfolio.bidding import AuctionConfig, AuctionRules, claims, offer
from marljax.portfolio.calibration import Calibration
from marljax.portfolio.guardrails import Guardrails

WINDOW = 104
"""Returns that expected ones are the mean of [rebalances]."""
UNCERTAINTY = 0.05
"""Black and Litterman's tau."""


def in_loop(seen: Seen, target: float, gross: float) -> dict[str, np.ndarray]:
    """What the allocators of the loop ask for, float64[N, A] by name; `target` and `gross` as in `allocators`."""
    chosen = allocators(target, gross)
    weights = jax.jit(lambda c: {name: jax.vmap(allocate)(c) for name, allocate in chosen.items()})(seen.covariance)
    return {name: np.asarray(x, np.float64) for name, x in weights.items()}


def on_host(seen: Seen, past: np.ndarray, risk_aversion: float) -> dict[str, np.ndarray]:
    """What mean-variance and Black-Litterman around risk parity ask for, float64[N, A] by name.

    `past` float64[WINDOW + N, A] are returns per rebalance; row WINDOW + i is not known at rebalance i.
    """
    return expecting_the_past(
        past, np.asarray(seen.covariance), np.asarray(seen.base), risk_aversion=risk_aversion, uncertainty=UNCERTAINTY
    )


class Bidders(NamedTuple):
    """What is remembered of A agents who bid."""

    calibration: Calibration
    claimed: jax.Array  # float32[A] of the last rebalance
    volatility: jax.Array  # float32[A] known at it

    @classmethod
    def start(cls, n_agents: int) -> "Bidders":
        return cls(Calibration.start(n_agents), jnp.zeros(n_agents), jnp.ones(n_agents))

    def bid(self, seen: Seen, rules: AuctionRules, rails: Guardrails) -> tuple["Bidders", jax.Array]:
        """The same one rebalance later, and what the bids come to, float32[A]; `seen` is of this rebalance. A stream is
        watched whether it has capital or not."""
        everybody = jnp.ones(self.claimed.shape, bool)
        calibration = self.calibration.update(self.claimed, seen.last, self.volatility, everybody, rules.decay)
        weights, _ = offer(seen.mean, seen.covariance, calibration, rules, rails)
        volatility = jnp.sqrt(jnp.diagonal(seen.covariance))
        return Bidders(calibration, claims(seen.mean, volatility, rules), volatility), weights


def by_auction(seen: Seen, rails: Guardrails, risk_aversion: float, config: AuctionConfig) -> np.ndarray:
    """What the agents' bids come to, float64[N, A]."""
    rules, start = config.rules(risk_aversion), Bidders.start(seen.mean.shape[1])

    def step(bidders: Bidders, seen: Seen) -> tuple[Bidders, jax.Array]:
        return bidders.bid(seen, rules, rails)

    return np.asarray(jax.jit(lambda seen: jax.lax.scan(step, start, seen)[1])(seen), np.float64)
