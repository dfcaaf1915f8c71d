"""The long-only, fully invested portfolio of least variance (Markowitz 1952), exact, in a fixed program.

Without the sum, which only sets the scale, it solves min x'Cx/2 - x'1 over x >= 0. Mehrotra's interior-point method
(1992, SIAM J. Optimization 2) comes near enough to see which products are held, those whose position is larger than
its price, and their positions solve a linear system. Derivatives are the system's, exact where the set does not change.
"""

import jax
import jax.numpy as jnp

from marljax.portfolio.risk_parity import normalise, standardise

_INTERIOR_STEPS = 16
_TO_BOUNDARY = 0.99
_LEAST_PRODUCT = 1e-8
"""Of a position and its price: below it float32 has no digits left."""


def minimum_variance(covariance: jax.Array, budget: jax.Array | None = None) -> jax.Array:
    """Weights of least variance. float32[P], >= 0, sum 1.

    `covariance` float32[P, P], symmetric positive definite, any unit; where it has NaN or is singular to float32, the
    weights are NaN. Of `budget` float32[P] >= 0 only zeros count: such a product gets weight zero, as if it were not
    there. In float32 weights are good to 1e-4 for correlations of condition number up to 1e5, to 1e-3 for 1e6, and the
    variance to 1e-5 of the least.
    """
    _, active, volatility, correlation = standardise(covariance, budget)
    identity = jnp.eye(active.shape[0], dtype=covariance.dtype)
    correlation = jnp.where(active[:, None] & active, correlation, identity)
    lowest = jnp.min(jnp.where(active, volatility, jnp.inf))
    wish = jnp.where(active, lowest / volatility, 0.0)
    positions, prices = _interior(*jax.lax.stop_gradient((correlation, wish)))
    held = active & (positions > prices)
    return normalise(jnp.maximum(_positions(correlation, wish, held), 0.0) / volatility, active)


def _positions(correlation: jax.Array, wish: jax.Array, held: jax.Array) -> jax.Array:
    """The y with Ry = v on the products `held` bool[P], zero elsewhere."""
    identity = jnp.eye(held.shape[0], dtype=correlation.dtype)
    factor = jnp.linalg.cholesky(jnp.where(held[:, None] & held, correlation, identity))
    return jax.scipy.linalg.cho_solve((factor, True), jnp.where(held, wish, 0.0))


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
