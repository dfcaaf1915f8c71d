"""Multilayer perceptrons as plain pytrees: a tuple of layers, each a kernel and a bias.

Orthogonal kernels and zero biases (Saxe et al. 2014), the initialisation of the PPO implementations this follows.
Parameters of equal shape stack leaf by leaf, which is how many agents run under one `vmap`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

_POLAR_STEPS = 48
"""Each raises a small singular value by half: enough for one of 1e-7 to reach one."""


class Dense(NamedTuple):
    """One affine layer."""

    kernel: jax.Array  # float32[n_in, n_out]
    bias: jax.Array  # float32[n_out]


def orthogonal(key: jax.Array, n_rows: int, n_columns: int) -> jax.Array:
    """A uniformly distributed float32[n_rows, n_columns] whose rows or columns, the fewer, are orthonormal.

    It is the polar factor of a Gaussian matrix, by Newton-Schulz iterations (Higham, Functions of Matrices, 2008,
    section 8.3): matrix products alone. A batched QR factorisation can hang on the CPU backend of jaxlib 0.10, whose
    LAPACK calls wait for tasks in the pool of threads they occupy.
    """
    tall = (max(n_rows, n_columns), min(n_rows, n_columns))
    gaussian = jax.random.normal(key, tall)

    def step(x: jax.Array, _: None) -> tuple[jax.Array, None]:
        return 1.5 * x - 0.5 * x @ (x.T @ x), None

    factor, _ = jax.lax.scan(step, gaussian / jnp.linalg.norm(gaussian), length=_POLAR_STEPS)
    return factor if n_rows >= n_columns else factor.T


def init_mlp(key: jax.Array, sizes: tuple[int, ...], final_scale: float) -> tuple[Dense, ...]:
    """Layers sizes[0] -> ... -> sizes[-1], orthogonal with gain sqrt(2) and `final_scale` for the last."""
    keys = jax.random.split(key, len(sizes) - 1)
    scales = [2.0**0.5] * (len(sizes) - 2) + [final_scale]
    return tuple(
        Dense(scale * orthogonal(k, n_in, n_out), jnp.zeros(n_out))
        for k, scale, n_in, n_out in zip(keys, scales, sizes[:-1], sizes[1:], strict=True)
    )


def apply_mlp(layers: tuple[Dense, ...], x: jax.Array) -> jax.Array:
    """float32[..., n_in] -> float32[..., n_out], tanh between layers, none after the last."""
    for layer in layers[:-1]:
        x = jnp.tanh(x @ layer.kernel + layer.bias)
    return x @ layers[-1].kernel + layers[-1].bias
