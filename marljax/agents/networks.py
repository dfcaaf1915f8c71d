"""Multilayer perceptrons as plain pytrees: a tuple of layers, each a kernel and a bias.

Orthogonal kernels and zero biases (Saxe et al. 2014), the initialisation of the PPO implementations this follows.
Parameters of equal shape stack leaf by leaf, which is how many agents run under one `vmap`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Dense(NamedTuple):
    """One affine layer."""

    kernel: jax.Array  # float32[n_in, n_out]
    bias: jax.Array  # float32[n_out]


def init_mlp(key: jax.Array, sizes: tuple[int, ...], final_scale: float) -> tuple[Dense, ...]:
    """Layers sizes[0] -> ... -> sizes[-1], orthogonal with gain sqrt(2) and `final_scale` for the last."""
    keys = jax.random.split(key, len(sizes) - 1)
    scales = [2.0**0.5] * (len(sizes) - 2) + [final_scale]
    return tuple(
        Dense(jax.nn.initializers.orthogonal(scale)(k, (n_in, n_out)), jnp.zeros(n_out))
        for k, scale, n_in, n_out in zip(keys, scales, sizes[:-1], sizes[1:], strict=True)
    )


def apply_mlp(layers: tuple[Dense, ...], x: jax.Array) -> jax.Array:
    """float32[..., n_in] -> float32[..., n_out], tanh between layers, none after the last."""
    for layer in layers[:-1]:
        x = jnp.tanh(x @ layer.kernel + layer.bias)
    return x @ layers[-1].kernel + layers[-1].bias
