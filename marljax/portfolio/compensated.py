"""Sums and products of float32 numbers with their rounding errors, as pairs of numbers that stand for twice the digits.

Error-free transformations (Dekker 1971; Knuth, TAOCP 2, 4.2.2) and the dot product made of them (Ogita, Rump and Oishi
2005, "Accurate sum and dot product"): a residual computed so is as good as in double precision, where the hardware or
the configuration knows none.
"""

import jax
import jax.numpy as jnp

_SPLIT = 4097.0
"""2**12 + 1: halves of a float32's 24 digits."""


def two_sum(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """a + b rounded, and what rounding lost."""
    total = a + b
    of_b = total - a
    return total, (a - (total - of_b)) + (b - of_b)


def two_product(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """a * b rounded, and what rounding lost; for magnitudes whose product and its error are normal numbers."""
    product = a * b
    (a_high, a_low), (b_high, b_low) = _halves(a), _halves(b)
    return product, ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low


def quotient(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """a / b rounded, and what rounding lost, itself rounded."""
    ratio = a / b
    product, error = two_product(ratio, b)
    return ratio, ((a - product) - error) / b


def matvec(matrix: jax.Array, vector: jax.Array) -> tuple[jax.Array, jax.Array]:
    """matrix float32[N, M] times vector float32[M]: the sums float32[N], and what rounding lost."""

    def add(carry: tuple[jax.Array, jax.Array], column: tuple[jax.Array, jax.Array]) -> tuple[tuple, None]:
        total, lost = carry
        total, error = two_sum(total, column[0])
        return (total, lost + (error + column[1])), None

    nothing = jnp.zeros(matrix.shape[0], matrix.dtype)
    products, errors = two_product(matrix, vector)
    return jax.lax.scan(add, (nothing, nothing), (products.T, errors.T))[0]


def _halves(a: jax.Array) -> tuple[jax.Array, jax.Array]:
    large = _SPLIT * a
    high = large - (large - a)
    return high, a - high
