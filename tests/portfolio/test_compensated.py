"""Pairs of float32 numbers against exact rational and float64 arithmetic."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from marljax.portfolio.compensated import matvec, quotient, two_product, two_sum

_sum, _product, _quotient, _matvec = map(jax.jit, (two_sum, two_product, quotient, matvec))
_numbers = st.floats(2.0**-20, 2.0**20, width=32).flatmap(lambda x: st.sampled_from([x, -x]))


def _exact(x) -> Fraction:
    return Fraction(float(x))


@given(a=_numbers, b=_numbers)
def test_a_sum_and_a_product_lose_nothing(a, b):
    total, lost = _sum(jnp.float32(a), jnp.float32(b))
    assert _exact(total) + _exact(lost) == _exact(a) + _exact(b)
    product, lost = _product(jnp.float32(a), jnp.float32(b))
    assert _exact(product) + _exact(lost) == _exact(a) * _exact(b)


@given(a=_numbers, b=_numbers)
def test_a_quotient_has_twice_the_digits(a, b):
    ratio, lost = _quotient(jnp.float32(a), jnp.float32(b))
    exact = _exact(a) / _exact(b)
    assert abs(_exact(ratio) + _exact(lost) - exact) <= abs(exact) * Fraction(1, 2**44)


def test_a_product_with_a_matrix_survives_cancellation():
    rng = np.random.default_rng(0)
    matrix, vector = rng.normal(size=(20, 300)).astype(np.float32), rng.normal(size=300).astype(np.float32)
    # All but a millionth of every sum cancels.
    matrix[:, -1] = -(matrix[:, :-1].astype(np.float64) @ vector[:-1]) / vector[-1] * (1 - 1e-6)
    exact = matrix.astype(np.float64) @ vector.astype(np.float64)
    total, lost = _matvec(matrix, vector)
    size = np.abs(matrix).astype(np.float64) @ np.abs(vector)
    assert (np.abs(np.asarray(total, np.float64) + np.asarray(lost) - exact) / size).max() < 1e-12
    assert (np.abs(np.asarray(total, np.float64) - exact) / size).max() > 1e-10, "one number alone cannot say it"
