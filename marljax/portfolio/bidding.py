"""What agents bid for capital at a rebalance, from their track records, and how their word is checked.

An agent claims its mean return on record and a margin of optimism on top, without which nobody who was out of capital
would ask for any again. What claims are worth is learned (`calibration.py`): the bolder the claim the sooner an agent
that does not earn it is believed less, and as evidence is forgotten it gets another chance. The market clears at the
portfolio of the greatest expected reward that the guardrails allow (`auction.py`).
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marljax.data.limits import require_not_negative, require_positive
from marljax.portfolio.auction import Supply, auction
from marljax.portfolio.calibration import Calibration, Prior, prior
from marljax.portfolio.guardrails import Guardrails


@dataclasses.dataclass(frozen=True)
class AuctionConfig:
    """How agents bid for capital, and how far they are believed."""

    optimism: float = 0.1
    """What an agent claims beyond its mean return on record [standard deviations of what it trades, per rebalance]."""
    worth: float = 0.5
    """What claims are taken to be worth before anything is known of an agent [return per claimed return]."""
    deviation: float = 0.5
    """Standard deviation of that among agents [likewise]."""
    half_life: float = 60.0
    """Half-life of what is known of an agent's claims [rebalances]."""

    def __post_init__(self) -> None:
        # At zero an agent without capital would never get any, and nothing would ever be learned of it.
        require_positive(self, "worth", "deviation", "half_life")
        require_not_negative(self, "optimism")

    def rules(self, risk_aversion: float) -> "AuctionRules":
        """The same as leaves; `risk_aversion` [1 / return] is positive."""
        return AuctionRules(
            prior=prior(self.worth, self.deviation),
            optimism=jnp.float32(self.optimism),
            risk_aversion=jnp.float32(risk_aversion),
            decay=jnp.float32(np.exp2(-1.0 / self.half_life)),
        )


@struct.dataclass
class AuctionRules:
    """Numbers of the market. Build them with `AuctionConfig.rules`."""

    prior: Prior
    optimism: jax.Array  # float32[] standard deviations per rebalance
    risk_aversion: jax.Array  # float32[] per return
    decay: jax.Array  # float32[] weight of the past in the calibration, per rebalance


@struct.dataclass
class Offer:
    """What A agents said and what the market made of it, return per unit of capital and block."""

    claim: jax.Array  # float32[A] what each expects
    believed: jax.Array  # float32[A] the same by its calibration
    bid: jax.Array  # float32[A] for the first unit of capital, given what the others hold
    price: jax.Array  # float32[A] that each pays


def claims(mean: jax.Array, volatility: jax.Array, rules: AuctionRules) -> jax.Array:
    """float32[A] the return per unit of capital that agents claim for the coming block, never a loss.

    `mean` and `volatility` float32[A] are of the return on capital per block.
    """
    return jnp.maximum(mean + rules.optimism * volatility, 0.0)


def offer(
    mean: jax.Array, covariance: jax.Array, calibration: Calibration, rules: AuctionRules, rails: Guardrails
) -> tuple[jax.Array, Offer]:
    """The weights float32[A] at which the market clears, and how it came to them.

    Args:
        mean: float32[A] return on capital per block, on record.
        covariance: float32[A, A] of returns on capital per block.
        calibration: of the agents' claims so far.
        rules: of the market.
        rails: what may be sold.
    """
    claim = claims(mean, jnp.sqrt(jnp.diagonal(covariance)), rules)
    believed = calibration.estimate(claim, rules.prior)
    clearing, bids = auction(believed, covariance, rules.risk_aversion, Supply.under(rails, covariance))
    return clearing.weights, Offer(claim, believed, bids.value, clearing.price)
