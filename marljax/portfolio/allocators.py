"""Every allocator that runs inside a jitted loop, by name: `allocate(covariance, budget=None) -> weights`.

They need the covariance alone. What needs more, an expected return or scenarios, is in `allocators_skfolio`.
"""

from typing import Protocol

import jax
import jax.numpy as jnp

from marljax.portfolio.hierarchical_risk_parity import hierarchical_risk_parity
from marljax.portfolio.minimum_variance import minimum_variance
from marljax.portfolio.risk_parity import equal_weight, inverse_volatility, risk_parity


class Allocate(Protocol):
    """Pure, of one portfolio, a fixed program; callers vmap."""

    def __call__(self, covariance: jax.Array, budget: jax.Array | None = None) -> jax.Array:
        """Weights float32[P] >= 0 from `covariance` float32[P, P], positive definite, and `budget` float32[P] >= 0.

        They sum to one, unless the rest is cash. A product with budget zero gets nothing, as if it were not there. NaN
        or a variance of zero in what an allocator reads makes all its weights NaN: none is invented.
        """


def volatility_targeted(allocate: Allocate, target: jax.Array | float, gross: jax.Array | float) -> Allocate:
    """`allocate`, its weights scaled to the volatility `target` float32[], per step in units of the returns.

    They sum to at most `gross` float32[] > 0; what is missing to one is cash, which has no risk.
    """

    def targeted(covariance: jax.Array, budget: jax.Array | None = None) -> jax.Array:
        weights = allocate(covariance, budget)
        volatility = jnp.sqrt(jnp.diagonal(covariance))
        held = weights > 0
        largest = jnp.max(jnp.where(held, weights * volatility, 0.0))
        # In units of the largest position's risk, so that variances of 1e-40 are as good as those of one.
        risk = jnp.where(held, weights * volatility / largest, 0.0)
        correlation = jnp.where(held[:, None] & held, covariance / jnp.outer(volatility, volatility), 0.0)
        return weights * jnp.minimum(gross, target / (largest * jnp.sqrt(risk @ correlation @ risk)))

    return targeted


def allocators(target: jax.Array | float, gross: jax.Array | float = 1.0) -> dict[str, Allocate]:
    """All of them by name. `target` and `gross` are those of the one with a volatility target."""
    return {
        "equal_weight": equal_weight,
        "inverse_volatility": inverse_volatility,
        "risk_parity": risk_parity,
        "hierarchical_risk_parity": hierarchical_risk_parity,
        "minimum_variance": minimum_variance,
        "volatility_targeted_equal_weight": volatility_targeted(equal_weight, target, gross),
    }
