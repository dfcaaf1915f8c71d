"""Spectral normalisation (Miyato et al. 2018): every kernel over its largest singular value.

A convolution here is a product with the concatenated taps, so every layer is one matrix and its singular value exact,
not that of one tap. The vectors of power iteration are carried along by the training.
"""

from typing import Any

import jax
import jax.numpy as jnp

Params = Any


def initial_singular_vectors(params: Params) -> Params:
    """A unit vector float32[out] for every kernel [in, out], to start power iteration (float32[0] for other leaves)."""

    def first(path: Any, kernel: jax.Array) -> jax.Array:
        # Any vector that is not orthogonal to the answer will do, which no fixed one is to a random kernel's.
        return _unit(jnp.ones(kernel.shape[1:] if _is_kernel(path) else (0,)))

    return jax.tree_util.tree_map_with_path(first, params)


def power_iteration(params: Params, vectors: Params, n_squarings: int) -> Params:
    """The right singular vectors after 2^n_squarings - 1 more rounds of power iteration on every kernel.

    Normalisation itself makes a trained kernel's leading singular values nearly equal, where single rounds hardly get
    on; squaring `K^T K` doubles the rounds with every product.
    """

    def refine(path: Any, kernel: jax.Array, v: jax.Array) -> jax.Array:
        if not _is_kernel(path):
            return v

        def square(_: int, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            gram, v = carry
            v = _unit(gram @ v)
            gram = gram @ gram
            return gram / jnp.maximum(jnp.trace(gram), 1e-30), v

        gram = kernel.T @ kernel
        start = (gram / jnp.maximum(jnp.trace(gram), 1e-30), v)
        return jax.lax.fori_loop(0, n_squarings, square, start)[1]

    return jax.tree_util.tree_map_with_path(refine, jax.lax.stop_gradient(params), vectors)


def spectrally_normalised(params: Params, vectors: Params) -> Params:
    """Every kernel over its largest singular value, as the vectors estimate it; biases and embeddings untouched.

    The singular vectors are constants to the gradient, the singular value is not (Miyato et al. 2018, eq. 8).
    """

    def normalise(path: Any, kernel: jax.Array, v: jax.Array) -> jax.Array:
        if not _is_kernel(path):
            return kernel
        v = jax.lax.stop_gradient(v)
        u = jax.lax.stop_gradient(_unit(kernel @ v))
        return kernel / (u @ kernel @ v)

    return jax.tree_util.tree_map_with_path(normalise, params, vectors)


def _is_kernel(path: Any) -> bool:
    return bool(path[-1].key == "kernel")


def _unit(x: jax.Array) -> jax.Array:
    return x / jnp.maximum(jnp.linalg.norm(x), 1e-12)
