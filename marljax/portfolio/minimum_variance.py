"""The long-only, fully invested portfolio of least variance (Markowitz 1952), exact, in a fixed program.

Without the sum, which only sets the scale, it solves min x'Cx/2 - x'1 over x >= 0. Mehrotra's interior-point method
(1992, SIAM J. Optimization 2) comes near enough to see which products are held, those whose position is larger than
its price; their positions solve a linear system, its residuals in compensated arithmetic. Who comes out short then
leaves and who has a negative price joins, in all rows at once (Judice and Pires 1994, Computers & Operations Research
21) and twice, for float32 may err in a few. Derivatives are the system's, exact where the set does not change.
"""

import jax
import jax.numpy as jnp

from marljax.portfolio.compensated import matvec
from marljax.portfolio.risk_parity import correlation_rounding, normalise, standardise

_INTERIOR_STEPS = 16
_TO_BOUNDARY = 0.99
_REFINEMENTS = 2
_CORRECTIONS = 2
_LEAST_PRODUCT = 1e-8
"""Of a position and its price: below it float32 has no digits left."""


def minimum_variance(covariance: jax.Array, budget: jax.Array | None = None) -> jax.Array:
    """Weights of least variance. float32[P], >= 0, sum 1.

    `covariance` float32[P, P], symmetric positive definite, any unit; where it has NaN or is singular to float32, the
    weights are NaN. Of `budget` float32[P] >= 0 only zeros count: such a product gets weight zero, as if it were not
    there. In float32 weights are good to 1e-5 for correlations of condition number up to 1e6.
    """
    _, active, volatility, correlation = standardise(covariance, budget)
    identity = jnp.eye(active.shape[0], dtype=covariance.dtype)
    correlation = jnp.where(active[:, None] & active, correlation, identity)
    lowest = jnp.min(jnp.where(active, volatility, jnp.inf))
    rounding = jax.lax.stop_gradient(correlation_rounding(covariance, volatility, correlation))
    wish = jnp.where(active, lowest / volatility, 0.0)
    problem = correlation, jnp.where(active[:, None] & active, rounding, 0.0), wish

    def corrected(held: jax.Array, _: None) -> tuple[jax.Array, None]:
        positions, prices = _positions(*jax.lax.stop_gradient(problem), held)
        return active & jnp.where(held, positions > 0, prices < 0), None

    positions, prices = _interior(*jax.lax.stop_gradient((correlation, wish)))
    held, _ = jax.lax.scan(corrected, active & (positions > prices), length=_CORRECTIONS)
    positions, _ = _positions(*problem, held)
    return normalise(jnp.maximum(positions, 0.0) / volatility, active)


def _positions(
    correlation: jax.Array, rounding: jax.Array, wish: jax.Array, held: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The y with Ry = v on the products `held` bool[P], zero elsewhere, and the prices Ry - v. float32[P] both.

    R is `correlation` and the `rounding` that it lost, v is `wish` float32[P].
    """
    both = held[:, None] & held
    identity = jnp.eye(held.shape[0], dtype=wish.dtype)
    own = jnp.where(both, correlation, identity), jnp.where(both, rounding, 0.0), jnp.where(held, wish, 0.0)
    positions = _solve(*own)
    had, had_lost = matvec(correlation, positions)
    return positions, (had - wish) + (had_lost + rounding @ positions)


def _solve(correlation: jax.Array, rounding: jax.Array, wish: jax.Array) -> jax.Array:
    """The y with (R + `rounding`) y = v, its residuals compensated; `rounding` is what R float32[P, P] lacks."""
    factor = jnp.linalg.cholesky(jax.lax.stop_gradient(correlation)), True

    def refined(_, wish: jax.Array) -> jax.Array:
        def refine(y: jax.Array, _) -> tuple[jax.Array, None]:
            had, lost = matvec(correlation, y)
            return y + jax.scipy.linalg.cho_solve(factor, (wish - had) - lost - rounding @ y), None

        return jax.lax.scan(refine, jax.scipy.linalg.cho_solve(factor, wish), length=_REFINEMENTS)[0]

    return jax.lax.custom_linear_solve(lambda y: correlation @ y, wish, refined, symmetric=True)


def _interior(correlation: jax.Array, wish: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Positions y > 0 and prices z > 0 with Ry - z = v nearly, and y * z nearly zero."""
    identity = jnp.eye(wish.shape[0], dtype=correlation.dtype)

    def step(pair: tuple[jax.Array, jax.Array], _: None) -> tuple[tuple[jax.Array, jax.Array], None]:
        y, z = pair
        missing = wish + z - correlation @ y
        scale = jnp.sqrt(y / z)
        factor = jnp.linalg.cholesky(scale[:, None] * correlation * scale + identity)

        def direction(product: jax.Array) -> tuple[jax.Array, jax.Array]:
            pull = (product - y * z) / y
            step_y = scale * jax.scipy.linalg.cho_solve((factor, True), scale * (missing + pull))
            return step_y, pull - z / y * step_y

        ahead_y, ahead_z = direction(jnp.zeros_like(y))
        length = _longest(y, z, ahead_y, ahead_z)
        gap = jnp.mean(y * z)
        gap_ahead = jnp.mean((y + length * ahead_y) * (z + length * ahead_z))
        product = jnp.maximum((gap_ahead / gap) ** 3 * gap, _LEAST_PRODUCT)
        step_y, step_z = direction(product - ahead_y * ahead_z)
        length = _longest(y, z, step_y, step_z)
        return (y + length * step_y, z + length * step_z), None

    ones = jnp.ones_like(wish)
    return jax.lax.scan(step, (ones, ones), length=_INTERIOR_STEPS)[0]


def _longest(y: jax.Array, z: jax.Array, step_y: jax.Array, step_z: jax.Array) -> jax.Array:
    """The longest step, at most one, that keeps both positive. float32[]."""
    shrinking = jnp.maximum(jnp.max(-step_y / y), jnp.max(-step_z / z))
    return 1.0 / jnp.maximum(1.0, shrinking / _TO_BOUNDARY)
