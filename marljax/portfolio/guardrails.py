"""Hard limits on a portfolio, outside every network: what is asked for becomes the nearest weights that are allowed.

`project` is the exact Euclidean projection onto caps per product, gross exposure and turnover: clipping and rescaling
breaks its own caps. Allowed weights come back untouched, and gradients pass. Weights are fractions of equity and cash
is one less gross exposure: a short sale's proceeds stay as collateral.

`guard` is the one entry at a rebalance: it projects, and then only takes off: everything in proportion where the
portfolio's volatility is above its target, and everything in a drawdown. Limits hold zero and what lies between zero
and an allowed point, so that the result is allowed too; of turnover alone these two may need more than is allowed.
"""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marljax.data.schema import InputError
from marljax.portfolio.brake import Brake, BrakeState, apply_brake, brake, released
from marljax.portfolio.feasible import least_turnover, nearest_allowed
from marljax.portfolio.interventions import Intervention, describe
from marljax.portfolio.limits import Limits, limits
from marljax.portfolio.projection import tolerance

__all__ = [
    "Brake",
    "BrakeState",
    "Guardrails",
    "Intervention",
    "Limits",
    "apply_brake",
    "brake",
    "describe",
    "guard",
    "guardrails",
    "limits",
    "project",
    "released",
    "volatility_scale",
]

_LARGEST_WEIGHT = 1e6
_FAR = 16.0
"""Times equity or leverage, beyond which a wish grows no stronger: further away float32 cannot tell the nearest."""
_ROUNDING = 1e-6


@struct.dataclass
class Guardrails:
    """Everything that stands between what a policy asks for and capital. Build it with `guardrails`.

    What is None is not limited, at no cost; which fields are None is static.
    """

    limits: Limits
    risk_budget: jax.Array | None  # float32[A] largest |weight| times own volatility [covariance's unit]
    volatility_target: jax.Array | None  # float32[] largest volatility of the portfolio [covariance's unit and period]
    brake: Brake | None


def project(weights: jax.Array, limits: Limits, previous: jax.Array | None = None) -> tuple[jax.Array, Intervention]:
    """The nearest weights that the limits allow, and which limits bound.

    `weights` float32[P] as asked for. `previous` float32[P] is what is held before the rebalance; without it turnover
    is not limited. Where `previous` itself stands outside the other limits, after drift or a cut, those come first:
    turnover may then reach what leads back inside, counted as `overdraft`. A weight that is no number counts as its
    previous weight (zero without one), one beyond 16 times equity or leverage as that much. Limits hold within 1e-6
    (times the limit, if above one); allowed weights come back bit by bit.
    """
    chex.assert_equal_shape([weights, limits.max_weight])
    held = jnp.zeros_like(weights) if previous is None else jnp.where(jnp.isfinite(previous), previous, 0.0)
    invalid = ~(jnp.abs(weights) <= _LARGEST_WEIGHT)
    asked = jnp.where(invalid, held, weights)
    turnover = None if previous is None else limits.turnover
    if turnover is not None:
        turnover = jnp.maximum(turnover, least_turnover(held, limits))
    far = _FAR * jnp.maximum(1.0, limits.leverage)
    allowed, binds = nearest_allowed(jnp.clip(asked, -far, far), limits, held, turnover)
    cash_is_tighter = 1.0 - limits.cash_floor < limits.leverage
    moved = allowed - asked
    return allowed, Intervention(
        invalid=invalid,
        long_cap=(asked > limits.max_weight) & (allowed == limits.max_weight),
        short_cap=(asked < -limits.max_short) & (allowed == -limits.max_short),
        risk_budget=jnp.zeros_like(invalid),
        class_cap=binds.classes,
        long_leverage=binds.long,
        short_leverage=binds.short,
        leverage=binds.gross & ~cash_is_tighter,
        cash=binds.gross & cash_is_tighter,
        turnover=binds.turnover,
        volatility=jnp.ones_like(weights, shape=()),
        brake=jnp.zeros((), bool),
        overdraft=_overdraft(allowed, held, None if previous is None else limits.turnover),
        moved=moved,
        distance=_length(moved),
    )


def volatility_scale(
    weights: jax.Array, covariance: jax.Array, target: jax.Array | float, ceiling: jax.Array | float = 1.0
) -> jax.Array:
    """The factor on `weights` float32[P] that brings the portfolio's volatility to `target`. float32[].

    `covariance` float32[P, P]; `target` float32[] in the same unit and period. At most `ceiling`: one only ever takes
    risk off, more also adds it, and then the limits still have to hold. No position gives `ceiling`.
    """
    volatility = jnp.sqrt(jnp.diagonal(covariance))
    unit = jnp.maximum(jnp.max(volatility), jnp.finfo(weights.dtype).tiny)
    risk = weights * (volatility / unit)
    divisor = jnp.where(volatility > 0, volatility, 1.0)
    correlation = covariance / jnp.outer(divisor, divisor)
    variance = risk @ (correlation @ risk)
    some = variance > 0
    portfolio_volatility = jnp.sqrt(jnp.where(some, variance, 1.0)) * unit
    return jnp.where(some, jnp.minimum(target / portfolio_volatility, ceiling), ceiling)


def _overdraft(weights: jax.Array, held: jax.Array, turnover: jax.Array | None) -> jax.Array:
    """float32[] turnover beyond its limit, zero within rounding and without a limit."""
    if turnover is None:
        return jnp.zeros_like(weights, shape=())
    beyond = jnp.abs(weights - held).sum() - turnover
    return jnp.where(beyond > 2 * tolerance(turnover), beyond, 0.0)


def _length(vector: jax.Array) -> jax.Array:
    """Euclidean length, with gradient zero at zero."""
    square = jnp.sum(vector**2)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)


def guardrails(
    limits: Limits,
    *,
    risk_budget: float | np.ndarray | None = None,
    volatility_target: float | None = None,
    brake: Brake | None = None,
) -> Guardrails:
    """Guardrails from host numbers, checked; fields and units as in `Guardrails`, what is left out is not limited.

    Raises InputError for numbers that are not positive and finite, and for a volatility target that the risk budgets
    keep out of reach.
    """
    n_agents = limits.max_weight.shape[0]
    budgets = None if risk_budget is None else np.asarray(risk_budget, np.float64)
    if budgets is not None:
        if budgets.shape not in ((), (n_agents,)):
            raise InputError(f"guardrails: risk_budget must be one number or {n_agents}, got shape {budgets.shape}")
        if not (np.isfinite(budgets).all() and (budgets > 0).all()):
            raise InputError(f"guardrails: risk_budget must be positive and finite, got {risk_budget!r}")
        budgets = np.broadcast_to(budgets, (n_agents,))
    if volatility_target is not None:
        if not (np.isfinite(volatility_target) and volatility_target > 0):
            raise InputError(f"guardrails: volatility_target must be positive and finite, got {volatility_target!r}")
        if budgets is not None and volatility_target > budgets.sum() * (1 + _ROUNDING):
            raise InputError(
                f"guardrails: volatility_target {volatility_target:g} and risk_budget conflict: even with every "
                f"correlation at one, the budgets of {n_agents} agents sum to {budgets.sum():g}; lower the target or "
                "raise the budgets"
            )
    return Guardrails(
        limits=limits,
        risk_budget=None if budgets is None else jnp.asarray(budgets, jnp.float32),
        volatility_target=None if volatility_target is None else jnp.float32(volatility_target),
        brake=brake,
    )


def _within_budget(limits: Limits, budget: jax.Array, covariance: jax.Array) -> Limits:
    """The limits with caps at the weight whose stand-alone risk is the budget; unknown risk gets no capital."""
    volatility = jnp.sqrt(jnp.diagonal(covariance))
    most = jnp.where(volatility > 0, budget / volatility, jnp.where(volatility == 0, jnp.inf, 0.0))
    return dataclasses.replace(
        limits, max_weight=jnp.minimum(limits.max_weight, most), max_short=jnp.minimum(limits.max_short, most)
    )


def guard(
    rails: Guardrails,
    state: BrakeState,
    asked: jax.Array,
    previous: jax.Array,
    covariance: jax.Array,
    equity: jax.Array,
) -> tuple[BrakeState, jax.Array, Intervention]:
    """What is granted of what was asked for, by every guardrail in turn.

    Args:
        rails: the guardrails.
        state: of the brake; `released(equity)` before the first rebalance.
        asked: float32[A] weights, fractions of equity; anything, not a number included.
        previous: float32[A] weights held just before the rebalance, drifted.
        covariance: float32[A, A] of the agents' returns on capital, known now. Where a budget or target needs what is
            no number in it, nothing is granted: unknown risk is not taken.
        equity: float32[] currency, now.

    Returns:
        The brake's new state, the weights granted, float32[A] fractions of equity, and what the guardrails did.
    """
    within = rails.limits
    if rails.risk_budget is not None:
        within = _within_budget(rails.limits, rails.risk_budget, covariance)
    projected, done = project(asked, within, previous)
    if rails.risk_budget is not None:
        by_budget = (done.long_cap & (within.max_weight < rails.limits.max_weight)) | (
            done.short_cap & (within.max_short < rails.limits.max_short)
        )
        done = dataclasses.replace(
            done, risk_budget=by_budget, long_cap=done.long_cap & ~by_budget, short_cap=done.short_cap & ~by_budget
        )
    volatility = jnp.ones_like(done.volatility)
    if rails.volatility_target is not None:
        scale = volatility_scale(projected, covariance, rails.volatility_target)
        scale = jnp.where(jnp.isfinite(covariance).all(), scale, 0.0)
        volatility = jnp.where(scale > 1 - _ROUNDING, 1.0, scale)
    on = jnp.zeros((), bool)
    if rails.brake is not None:
        state, factor = apply_brake(state, equity, rails.brake)
        on = factor == 0
    granted = jnp.where(on, 0.0, volatility * projected)
    moved = done.moved + (granted - projected)
    done = dataclasses.replace(
        done,
        volatility=volatility,
        brake=on,
        overdraft=_overdraft(granted, jnp.where(jnp.isfinite(previous), previous, 0.0), rails.limits.turnover),
        moved=moved,
        distance=_length(moved),
    )
    return state, granted, done
