"""Networks as plain pytrees of parameters beside frozen descriptions: perceptron, gated recurrence, attention.

Orthogonal kernels and zero biases (Saxe et al. 2014), the initialisation of the PPO implementations this follows.
Parameters of equal shape stack leaf by leaf, which is how many agents run under one `vmap`. A network maps
float32[..., n_in] and a carry to float32[..., n_out] and the next carry; a feed-forward one carries nothing.
"""

import dataclasses
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

_POLAR_STEPS = 48
"""Each raises a small singular value by half: enough for one of 1e-7 to reach one."""

Params = Any
Carry = Any


class Network(Protocol):
    """Frozen and hashable: what fixes the shapes of the parameters."""

    @property
    def recurrent(self) -> bool:
        """Whether the carry matters."""
        ...

    def init(self, key: jax.Array, n_in: int, n_out: int, final_scale: float) -> Params:
        """Fresh parameters, the last layer's gain `final_scale`."""
        ...

    def init_carry(self) -> Carry:
        """The carry at an episode's beginning, without batch axes."""
        ...

    def apply(self, params: Params, x: jax.Array, carry: Carry) -> tuple[jax.Array, Carry]:
        """float32[..., n_in] -> float32[..., n_out]."""
        ...


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


def init_dense(key: jax.Array, n_in: int, n_out: int, scale: float) -> Dense:
    """One layer, orthogonal with gain `scale`."""
    return Dense(scale * orthogonal(key, n_in, n_out), jnp.zeros(n_out))


def init_mlp(key: jax.Array, sizes: tuple[int, ...], final_scale: float) -> tuple[Dense, ...]:
    """Layers sizes[0] -> ... -> sizes[-1], orthogonal with gain sqrt(2) and `final_scale` for the last."""
    keys = jax.random.split(key, len(sizes) - 1)
    scales = [2.0**0.5] * (len(sizes) - 2) + [final_scale]
    return tuple(
        init_dense(k, n_in, n_out, scale)
        for k, scale, n_in, n_out in zip(keys, scales, sizes[:-1], sizes[1:], strict=True)
    )


def dense(layer: Dense, x: jax.Array) -> jax.Array:
    """float32[..., n_in] -> float32[..., n_out]."""
    # One product of two matrices whatever the batch axes: the gradient of any other contracts several axes, slowly.
    flat = x.reshape(-1, x.shape[-1]) @ layer.kernel + layer.bias
    return flat.reshape(*x.shape[:-1], flat.shape[-1])


def apply_mlp(layers: tuple[Dense, ...], x: jax.Array) -> jax.Array:
    """float32[..., n_in] -> float32[..., n_out], tanh between layers, none after the last."""
    for layer in layers[:-1]:
        x = jnp.tanh(dense(layer, x))
    return dense(layers[-1], x)


@dataclasses.dataclass(frozen=True)
class MLP:
    """A perceptron with tanh between its layers."""

    hidden: tuple[int, ...] = (64, 64)

    @property
    def recurrent(self) -> bool:
        return False

    def init(self, key: jax.Array, n_in: int, n_out: int, final_scale: float) -> tuple[Dense, ...]:
        return init_mlp(key, (n_in, *self.hidden, n_out), final_scale)

    def init_carry(self) -> tuple[()]:
        return ()

    def apply(self, params: tuple[Dense, ...], x: jax.Array, carry: tuple[()]) -> tuple[jax.Array, tuple[()]]:
        return apply_mlp(params, x), carry
