"""The generator and the critic: causal and strided temporal convolutions over all products at once.

The generator is a conditional autoregression per channel, `z_t = phi z_(t-1) + mu_t + s_t e_t`, that starts from the
last context step, so that windows stitch without a seam; a dilated causal network (Oord et al. 2016) of the context,
the conditions, `e` up to t and noise at several half-lives sets `mu_t` and `s_t`. That noise goes on from window to
window, which is memory beyond the convolutions' reach. Every product passes through one encoder and one decoder that
its embedding modulates (FiLM, Perez et al. 2018); what lies between sees all products, which is how their dependence
is learned. Channels that a representation holds keep their last value exactly.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from marljax.generative.interface import Holding

LARGEST_SCORE = 4.5
"""Generated normal scores stay within this."""

_DILATIONS = (1, 2, 4, 8)
_TAPS = 3
_EMBEDDING = 8


class CausalConvolution(nn.Module):
    """float32[T, C] -> float32[T, features]; row t sees rows t, t - dilation, ..."""

    features: int
    dilation: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        reach = self.dilation * (_TAPS - 1)
        padded = jnp.pad(x, ((reach, 0), (0, 0)))
        taps = [padded[i * self.dilation : i * self.dilation + len(x)] for i in range(_TAPS)]
        return nn.Dense(self.features)(jnp.concatenate(taps, -1))


class StridedConvolution(nn.Module):
    """float32[T, C] -> float32[ceil(T / 2), features]."""

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        padded = jnp.pad(x, ((1, 1), (0, 0)))
        taps = [padded[i : i + len(x) : 2] for i in range(_TAPS)]
        return nn.Dense(self.features)(jnp.concatenate(taps, -1))


class Modulation(nn.Module):
    """float32[T, P, F] scaled and shifted by what each product's embedding and condition say."""

    @nn.compact
    def __call__(self, x: jax.Array, products: jax.Array) -> jax.Array:
        """`products` float32[P, E]."""
        gain = nn.Dense(x.shape[-1], name="gain")(products)
        shift = nn.Dense(x.shape[-1], name="shift")(products)
        # Bounded, so that a critic's layer stays Lipschitz.
        return x * (1 + jnp.tanh(gain) / 2) + shift


class GeneratorNetwork(nn.Module):
    """Scores of the next window, given the context before it. One window; callers vmap."""

    hidden: int
    n_products: int
    half_lives: tuple[float, ...]  # of each latent [steps]

    @nn.compact
    def __call__(
        self,
        noise: jax.Array,
        latents: jax.Array,
        context: jax.Array,
        present: jax.Array,
        condition: jax.Array,
        holding: Holding,
    ) -> tuple[jax.Array, jax.Array]:
        """float32[W, P*C] scores, and the latents float32[H] of the last step.

        `noise` float32[W+1, P*C+H] standard normal, `latents` float32[H] those of the step before, `context`
        float32[L, P*C] scores, `present` float32[] 1, or 0 at a session's start, where the context is unknown,
        `condition` float32[P, F].
        """
        n_steps, (n_context, width) = len(noise) - 1, context.shape
        n_channels = width // self.n_products
        noise, latent = noise[:, :width], coloured(self.half_lives, latents, noise[1:, width:])
        products = jnp.concatenate([embedding(self, self.n_products), condition], -1)

        def per_product(x: jax.Array) -> jax.Array:
            return x.reshape(len(x), self.n_products, -1)

        seen = jnp.concatenate([context * present, noise[1:]])
        x = Modulation(name="encoder")(nn.Dense(self.hidden // 2)(per_product(seen)), products)
        x = nn.silu(x).reshape(len(x), -1)
        is_context = (jnp.arange(len(seen)) < n_context)[:, None]
        shared = jnp.concatenate([jnp.zeros((n_context, latent.shape[1])), latent])
        x = nn.Dense(self.hidden)(jnp.concatenate([x, shared, is_context, is_context * present], -1))
        for dilation in _DILATIONS:
            x = x + nn.Dense(self.hidden)(nn.silu(CausalConvolution(self.hidden, dilation)(x)))
        x = jnp.broadcast_to(x[n_context:, None], (n_steps, self.n_products, self.hidden))
        small = nn.initializers.variance_scaling(0.01, "fan_in", "truncated_normal")
        out = nn.Dense(2 * n_channels, kernel_init=small)(nn.silu(Modulation(name="decoder")(x, products)))
        mean, spread = (y.reshape(n_steps, width) for y in jnp.split(out, 2, -1))
        phi = jnp.tanh(self.param("persistence", nn.initializers.zeros, (width,)))
        first = jnp.where(present > 0, context[-1], noise[0])
        mixing = self.param("mixing", nn.initializers.zeros, (width, width))
        innovations = mean + 2 * nn.sigmoid(spread) * (noise[1:] @ mixing.T)

        def step(z: jax.Array, innovation: jax.Array) -> tuple[jax.Array, jax.Array]:
            z = holding.after(z, jnp.clip(phi * z + innovation, -LARGEST_SCORE, LARGEST_SCORE))
            return z, z

        return jax.lax.scan(step, first, innovations)[1], latent[-1]


class CriticNetwork(nn.Module):
    """How real a window looks behind its context and under its conditions. One window; callers vmap."""

    hidden: int
    n_context: int
    n_products: int

    @nn.compact
    def __call__(self, scores: jax.Array, derived: jax.Array, present: jax.Array, condition: jax.Array) -> jax.Array:
        """float32[]. `scores` float32[L+W, P*C], the context first, `derived` float32[L+W, P, D] the features of
        the same rows, `present` float32[] 0 where the context is hidden else 1, `condition` float32[P, F]."""
        is_window = jnp.arange(len(scores))[:, None] >= self.n_context
        known = jnp.where(is_window, 1.0, present)
        x = (scores * known).reshape(len(scores), self.n_products, -1)
        # Shown levels as well as moves, the critic need not learn to integrate.
        levels = jnp.cumsum(x[..., :1], 0) / jnp.sqrt(len(scores))
        x = jnp.concatenate([x, levels, derived * known[..., None]], -1)
        products = jnp.concatenate([embedding(self, self.n_products), condition], -1)
        x = Modulation(name="encoder")(nn.Dense(self.hidden)(x), products)
        x = nn.leaky_relu(x, 0.2).reshape(len(scores), -1)
        x = nn.Dense(self.hidden)(jnp.concatenate([x, is_window, known], -1))
        for width in (1, 2, 2):
            x = StridedConvolution(width * self.hidden)(nn.leaky_relu(x, 0.2))
        return nn.Dense(1)(nn.leaky_relu(x, 0.2).reshape(-1))[0]


def embedding(module: nn.Module, n_products: int) -> Any:
    """float32[P, E] what a module has learned about each product."""
    return module.param("products", nn.initializers.normal(0.3), (n_products, _EMBEDDING))


def coloured(half_lives: tuple[float, ...], before: jax.Array, white: jax.Array) -> jax.Array:
    """float32[W, H] stationary unit noise that goes on from `before` float32[H], from white noise float32[W, H].

    `half_lives` [steps] of each column; 0 has no memory.
    """
    decay = jnp.array([0.5 ** (1 / h) if h > 0 else 0.0 for h in half_lives])

    def step(x: jax.Array, e: jax.Array) -> tuple[jax.Array, jax.Array]:
        x = decay * x + jnp.sqrt(1 - decay**2) * e
        return x, x

    return jax.lax.scan(step, before, white)[1]
