"""Agents bid for capital, and one price clears the market: the least at which they ask for no more than there is.

A bid is a demand schedule, the marginal value of capital as a falling line: w(p) = (value - p) / slope, within zero and
the agent's cap. Supply is the gross exposure that the guardrails allow, with caps per agent and per asset class. All
pay one price, plus a premium in an asset class that its own cap makes scarcer than the rest. The allocation is the one
of greatest total value (Kelly, Maulloo and Tan 1998, "Rate control for communication networks"); for who pays what,
and why nobody gains by bidding too much, see `settlement.py`.

Values come from `calibration.py`: an agent's expected return per unit of capital, less risk. With uncorrelated agents
that is mean - risk_aversion * variance * w. Correlated ones bid given what the others hold, in rounds, until the
market clears at what everybody holds: the portfolio of the best mean and variance within the limits.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct

from marljax.portfolio.guardrails import Guardrails

_HALVINGS = 30
_STEEPEST = 1e-6
_LEAST_FALL = 1e-12
_LEAST_VOLATILITY = 1e-4


@struct.dataclass
class Bids:
    """What each of A agents would pay for one more unit of capital when it has w: value - slope * w."""

    value: jax.Array  # float32[A] for the first unit [return per block]; negative bids for nothing
    slope: jax.Array  # float32[A] what it falls by per unit of equity, >= 0 [return per block per fraction of equity]


@struct.dataclass
class Supply:
    """The capital there is, as in `Limits`: without caps on asset classes both of the last are None."""

    gross: jax.Array  # float32[] for all agents together [fraction of equity]
    cap: jax.Array  # float32[A] per agent [fraction of equity]
    classes: jax.Array | None = None  # int32[A] each agent's asset class, from zero
    class_cap: jax.Array | None = None  # float32[C] per asset class [fraction of equity]

    @classmethod
    def under(cls, rails: Guardrails, covariance: jax.Array) -> "Supply":
        """What the guardrails let agents have whose returns have this covariance, float32[A, A].

        Turnover, the volatility target and the brake are left to `guard`: they know what was held before, or take off
        in proportion, at no price.
        """
        limits, gross = rails.limits, rails.limits.gross
        if limits.long_leverage is not None:
            gross = jnp.minimum(gross, limits.long_leverage)
        cap = limits.max_weight
        if rails.risk_budget is not None:
            cap = jnp.minimum(cap, rails.risk_budget / _volatility(covariance))
        return cls(gross, cap, limits.classes, limits.class_cap)

    def without(self, agent: jax.Array) -> "Supply":
        """The same for all but one agent (int32[]), which can get nothing."""
        return dataclasses.replace(self, cap=self.cap.at[agent].set(0.0))


@struct.dataclass
class Clearing:
    """What a market came to."""

    weights: jax.Array  # float32[A] capital [fraction of equity, >= 0]
    price: jax.Array  # float32[A] of a unit of capital, equal but for premiums of asset classes [return per block]
    scarcity: jax.Array  # float32[] the price outside of scarce asset classes [return per block]


def clear(bids: Bids, supply: Supply) -> Clearing:
    """The market's outcome: everybody gets what it asks for at its price, and no limit is broken.

    A price is zero where its limit leaves all that is asked for at zero, so capital may be left over. Equal bids get
    equal parts of their caps. An asset class is first cleared alone: what its agents get there is the most that they
    can get, and its price the least that they pay. Derivatives are those of the outcome where it is differentiable.
    """

    if supply.class_cap is None:
        weights, scarcity = _sell(bids, supply.gross, supply.cap)
        return Clearing(weights, jnp.broadcast_to(scarcity, weights.shape), scarcity)

    def alone(index: jax.Array, most: jax.Array) -> tuple[jax.Array, jax.Array]:
        return _sell(bids, most, jnp.where(supply.classes == index, supply.cap, 0.0))

    allowed, class_price = jax.vmap(alone)(jnp.arange(supply.class_cap.shape[0]), supply.class_cap)
    weights, scarcity = _sell(bids, supply.gross, jnp.sum(allowed, 0))
    return Clearing(weights, jnp.maximum(scarcity, class_price[supply.classes]), scarcity)


def auction(
    mean: jax.Array, covariance: jax.Array, risk_aversion: jax.Array, supply: Supply, *, rounds: int = 64
) -> tuple[Clearing, Bids]:
    """Capital for A agents, and the bids that it was given for.

    The weights are those of the greatest mean @ w - risk_aversion / 2 * w @ covariance @ w that the supply allows, as
    near as `rounds` come; with uncorrelated agents the first round is exact. In each, an agent bids its marginal value
    at what all were given in the last, falling as if those correlated with it grew along, which makes the rounds
    converge (Nesterov's momentum, restarted as in O'Donoghue and Candes 2015, makes them do so fast).

    Args:
        mean: float32[A] calibrated expected return of each agent per unit of capital and block.
        covariance: float32[A, A] of these returns. A volatility counts as at least 1e-4 of the largest.
        risk_aversion: float32[], positive [1 / return].
        supply: of capital.
        rounds: of bidding, static.
    """
    volatility = _volatility(covariance)
    crowding = jnp.sum(jnp.abs(covariance) / volatility, axis=1) / volatility
    slope = risk_aversion * volatility**2 * jnp.maximum(crowding, 1.0)

    def bid(held: jax.Array) -> Bids:
        return Bids(mean - risk_aversion * (covariance @ held) + slope * held, slope)

    def round_(carry: tuple[jax.Array, jax.Array, jax.Array], _: None) -> tuple[tuple, None]:
        weights, expected, momentum = carry
        granted = clear(bid(expected), supply).weights
        overshot = jnp.sum(slope * (expected - granted) * (granted - weights)) > 0
        following = 0.5 * (1.0 + jnp.sqrt(1.0 + 4.0 * momentum**2))
        onward = granted + (momentum - 1.0) / following * (granted - weights)
        expected = jnp.where(overshot, granted, onward)
        return (granted, expected, jnp.where(overshot, 1.0, following)), None

    nothing = jnp.zeros_like(mean)
    (_, expected, _), _ = jax.lax.scan(round_, (nothing, nothing, jnp.ones((), mean.dtype)), length=rounds - 1)
    bids = bid(expected)
    return clear(bids, supply), bids


def _volatility(covariance: jax.Array) -> jax.Array:
    """float32[A], positive: an agent that does nothing is not one that may do anything."""
    volatility = jnp.sqrt(jnp.diagonal(covariance))
    least = jnp.maximum(_LEAST_VOLATILITY * jnp.max(volatility), jnp.finfo(volatility.dtype).tiny)
    return jnp.maximum(volatility, least)


def _sell(bids: Bids, quantity: jax.Array, cap: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Sell up to `quantity` float32[] at one price: (weights float32[A] within `cap` float32[A], price float32[]).

    Bisection brackets the price as narrowly as its numbers go; what is left at the upper end goes to the agents whose
    demand moves there, in proportion to how fast it does, which is exact and carries the derivatives.
    """
    highest = jax.lax.stop_gradient(jnp.maximum(jnp.max(bids.value), 0.0))
    # A schedule that does not fall over its cap would leave nothing to share equal bids by.
    slope = jnp.maximum(bids.slope, jnp.maximum(_STEEPEST * highest, _LEAST_FALL) / jnp.maximum(cap, _STEEPEST))

    def asked(price: jax.Array) -> jax.Array:
        return jnp.clip((bids.value - price) / slope, 0.0, cap)

    def halve(bracket: tuple[jax.Array, jax.Array], _: None) -> tuple[tuple[jax.Array, jax.Array], None]:
        low, high = bracket
        middle = 0.5 * (low + high)
        enough = jnp.sum(asked(middle)) <= quantity
        return (jnp.where(enough, low, middle), jnp.where(enough, middle, high)), None

    free = jnp.sum(asked(jnp.zeros_like(highest))) <= quantity
    (low, high), _ = jax.lax.scan(halve, (jnp.zeros_like(highest), highest), length=_HALVINGS)
    low, high = jax.lax.stop_gradient((jnp.where(free, 0.0, low), jnp.where(free, 0.0, high)))
    moves = (asked(low) > 0) & (asked(high) < cap)
    at_limit = jnp.where(asked(high) > 0, cap, 0.0)
    taken = jnp.where(moves, (bids.value - high) / slope, at_limit)
    left = jnp.where(free, 0.0, quantity - jnp.sum(taken))
    speed = jnp.where(moves, 1.0 / slope, 0.0)
    fall = left / jnp.where(jnp.any(moves), jnp.sum(speed), 1.0)
    weights = jnp.clip(taken + speed * fall, 0.0, cap)
    return weights, jnp.maximum(high - fall, 0.0)
