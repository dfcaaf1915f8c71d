"""Allocators that split risk: `allocate(covariance, budget=None) -> weights`, long-only, fully invested.

Risk budgeting asks that every product's share of the portfolio's variance be its budget. Spinu (2013, "An algorithm for
computing risk parity weights") showed that the answer is the minimum of a convex function, x'Cx/2 - sum(b log x), so
that it exists, is unique and is found by Newton's method. Here sweeps of cyclical coordinate descent (Griveau-Billion,
Richard, Roncalli 2013) bring every coordinate to its scale and primal-dual Newton steps on y * z = b, Cy = z finish;
residuals in compensated arithmetic then take out what float32 loses where assets are nearly alike. The counts are
fixed: a solve is one straight program, equal for all in a batch. Derivatives are those of the solution itself, by the
implicit function theorem, at the price of one linear solve.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from marljax.portfolio.compensated import matvec, quotient, two_product

_SWEEPS = 8
_NEWTON_STEPS = 12
_REFINEMENTS = 2
_TO_BOUNDARY = 0.9


def risk_parity(covariance: jax.Array, budget: jax.Array | None = None) -> jax.Array:
    """Weights whose shares of the portfolio's variance are the budget. float32[P], >= 0, sum 1.

    `covariance` float32[P, P], symmetric positive definite, any unit. `budget` float32[P], >= 0 and not all zero, any
    scale; None is equal. A product with budget zero gets weight zero, as if it were not there. In float32 weights are
    good to 1e-5 for correlations of condition number up to 1e6 and up to 500 products with budgets of one size; uneven
    budgets (1:1000) ask for a condition number below 1e4. `risk_contributions` tells how close they came.
    """
    budget, active, volatility, correlation = standardise(covariance, budget)
    identity = jnp.eye(budget.shape[0], dtype=covariance.dtype)
    # A product without budget becomes an independent one beside the others, which keeps every division finite.
    both = active[:, None] & active
    correlation = jnp.where(both, correlation, identity)
    rounding = jnp.where(both, correlation_rounding(covariance, volatility, correlation), 0.0)
    budget = jnp.where(active, budget, 1.0)

    def optimality(exposure: jax.Array) -> jax.Array:
        return correlation @ exposure - budget / exposure

    def solve(_, exposure: jax.Array) -> jax.Array:
        return _solve(correlation, rounding, budget, exposure)

    def tangent(linear, vector: jax.Array) -> jax.Array:
        factor = jnp.linalg.cholesky(jax.vmap(linear)(identity))
        return jax.scipy.linalg.cho_solve((factor, True), vector)

    exposure = jax.lax.custom_root(optimality, jnp.sqrt(budget), solve, tangent)
    return normalise(exposure / volatility, active)


def inverse_volatility(covariance: jax.Array, budget: jax.Array | None = None) -> jax.Array:
    """Weights with stand-alone volatilities in proportion to the budget: risk parity if all correlations were one.

    Arguments and result as in `risk_parity`.
    """
    budget, active, volatility, _ = standardise(covariance, budget)
    return normalise(budget / volatility, active)


def equal_weight(covariance: jax.Array, budget: jax.Array | None = None) -> jax.Array:
    """The budget itself, 1/P where none is given: the portfolio that knows nothing of risk.

    Arguments and result as in `risk_parity`.
    """
    budget, active, _, _ = standardise(covariance, budget)
    return normalise(budget, active)


def risk_contributions(weights: jax.Array, covariance: jax.Array) -> jax.Array:
    """Every product's share of the portfolio's variance, w * Cw / w'Cw. float32[P], sum 1, zeros for no position.

    `weights` float32[P] signed fractions of equity, `covariance` float32[P, P].
    """
    volatility = jnp.sqrt(jnp.diagonal(covariance))
    risk = weights * volatility
    scale = jnp.maximum(jnp.max(jnp.abs(risk)), jnp.finfo(risk.dtype).tiny)
    risk = risk / scale
    contribution = risk * (covariance / jnp.outer(volatility, volatility) @ risk)
    total = contribution.sum()
    return jnp.where(total > 0, contribution / jnp.where(total > 0, total, 1.0), 0.0)


def standardise(covariance: jax.Array, budget: jax.Array | None) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """What every allocator begins with: (budget with sum one, which products have one, volatility, correlation)."""
    n_products = covariance.shape[-1]
    if covariance.shape != (n_products, n_products):
        raise ValueError(f"covariance must be [P, P], got {covariance.shape}; vmap over batches")
    volatility = jnp.sqrt(jnp.diagonal(covariance))
    correlation = covariance / jnp.outer(volatility, volatility)
    if budget is None:
        budget = jnp.ones(n_products, covariance.dtype)
    return budget / budget.sum(), budget > 0, volatility, correlation


def normalise(weights: jax.Array, active: jax.Array) -> jax.Array:
    """What allocators end with: weights float32[P] of the `active` bool[P], sum one; all NaN if one is not finite."""
    weights = jnp.where(active, weights, 0.0)
    total = weights.sum()
    return weights / jnp.where(jnp.isfinite(total), total, jnp.nan)


def correlation_rounding(covariance: jax.Array, volatility: jax.Array, correlation: jax.Array) -> jax.Array:
    """float32[P, P] what correlations lost when they were rounded."""
    scale, scale_error = two_product(volatility[:, None], volatility)
    whole, error = two_product(correlation, scale)
    return ((covariance - whole) - error - correlation * scale_error) / scale


def _solve(correlation: jax.Array, rounding: jax.Array, budget: jax.Array, exposure: jax.Array) -> jax.Array:
    """The y > 0 with y * Cy = b, from any y > 0; `rounding` is what the correlation C lacks."""
    n_products = budget.shape[0]
    identity = jnp.eye(n_products, dtype=correlation.dtype)

    def coordinate(i: jax.Array, y: jax.Array) -> jax.Array:
        others = correlation[i] @ y - y[i]
        root = jnp.sqrt(others**2 + 4.0 * budget[i])
        # Two forms of one root of y^2 + others * y = b: each is free of cancellation on its side.
        return y.at[i].set(jnp.where(others > 0, 2.0 * budget[i] / (others + root), 0.5 * (root - others)))

    def sweep(y: jax.Array, _) -> tuple[jax.Array, None]:
        return jax.lax.fori_loop(0, n_products, coordinate, y), None

    def linear(scale: jax.Array) -> Callable[[jax.Array], jax.Array]:
        """From r the d with (C + diag(scale^-2)) d = r."""
        factor = jnp.linalg.cholesky(scale[:, None] * correlation * scale + identity)
        return lambda residual: scale * jax.scipy.linalg.cho_solve((factor, True), scale * residual)

    def newton(pair: tuple[jax.Array, jax.Array], _) -> tuple[tuple[jax.Array, jax.Array], None]:
        y, z = pair
        step_y = linear(jnp.sqrt(y / z))(budget / y - correlation @ y)
        step_z = (budget - y * z - z * step_y) / y
        shrinking = jnp.maximum(jnp.max(-step_y / y), jnp.max(-step_z / z))
        length = 1.0 / jnp.maximum(1.0, shrinking / _TO_BOUNDARY)
        return (y + length * step_y, z + length * step_z), None

    exposure, _ = jax.lax.scan(sweep, exposure, length=_SWEEPS)
    (exposure, _), _ = jax.lax.scan(newton, (exposure, budget / exposure), length=_NEWTON_STEPS)

    # Where correlations are nearly singular, the residual's rounding is all the error there is.
    step = linear(exposure / jnp.sqrt(budget))

    def refine(y: jax.Array, _) -> tuple[jax.Array, None]:
        (wanted, wanted_lost), (had, had_lost) = quotient(budget, y), matvec(correlation, y)
        residual = (wanted - had) + (wanted_lost - had_lost - rounding @ y)
        return jnp.maximum(y + step(residual), 0.5 * y), None

    return jax.lax.scan(refine, exposure, length=_REFINEMENTS)[0]
