"""The generator and the critic, causal and strided temporal convolutions, and the critic's spectral normalisation.

The generator is a conditional autoregression per channel, `z_t = phi z_(t-1) + mu_t + s_t e_t`, that starts from the
last context step, so that windows stitch without a seam; a dilated causal network (Oord et al. 2016) of the context,
the conditions, `e` up to t and noise at several half-lives sets `mu_t` and `s_t`. All channels of all products pass
through one network, which is how their dependence is learned. A convolution is a product with the concatenated taps:
every kernel is one matrix, which spectral normalisation (Miyato et al. 2018) divides by its largest singular value.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

Params = Any

LATENT_HALF_LIVES = (0.0, 2.0, 8.0, 32.0)
"""Half-lives of the generator's noise [steps]: memory that reaches beyond its convolutions."""

LARGEST_SCORE = 4.5
"""Generated normal scores stay within this."""

_DILATIONS = (1, 2, 4, 8)
_TAPS = 3


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


class GeneratorNetwork(nn.Module):
    """Scores of the next window, given the context before it. One window; callers vmap."""

    hidden: int
    n_latents: int  # per half-life

    @nn.compact
    def __call__(self, noise: jax.Array, context: jax.Array, present: jax.Array, condition: jax.Array) -> jax.Array:
        """float32[W, C]. `noise` float32[W+1, N] standard normal with N = `noise_width(n_latents, C)`, `context`
        float32[L, C] scores, `present` float32[] 1, or 0 at a session's start, where the context is unknown,
        `condition` float32[F]."""
        n_steps, (n_context, n_channels) = len(noise) - 1, context.shape
        noise, latent = noise[:, :n_channels], coloured(noise[:, n_channels:])
        drive = jnp.concatenate([noise[1:], latent], -1)
        context = context * present
        seen = jnp.concatenate([context, jnp.full((n_context, 1), present)], -1)
        x = jnp.concatenate(
            [
                jnp.pad(seen, ((0, n_steps), (0, 0))),
                jnp.pad(drive, ((n_context, 0), (0, 0))),
            ],
            -1,
        )
        x = nn.Dense(self.hidden)(x) + nn.Dense(self.hidden)(condition)
        for dilation in _DILATIONS:
            x = x + nn.Dense(self.hidden)(nn.silu(CausalConvolution(self.hidden, dilation)(x)))
        small = nn.initializers.variance_scaling(0.01, "fan_in", "truncated_normal")
        out = nn.Dense(2 * n_channels, kernel_init=small)(nn.silu(x[n_context:]))
        mean, spread = jnp.split(out, 2, -1)
        phi = jnp.tanh(self.param("persistence", nn.initializers.zeros, (n_channels,)))
        first = jnp.where(present > 0, context[-1], noise[0])
        mixing = self.param("mixing", nn.initializers.zeros, (n_channels, n_channels))
        innovations = mean + 2 * nn.sigmoid(spread) * (noise[1:] @ mixing.T)

        def step(z: jax.Array, innovation: jax.Array) -> tuple[jax.Array, jax.Array]:
            z = jnp.clip(phi * z + innovation, -LARGEST_SCORE, LARGEST_SCORE)
            return z, z

        return jax.lax.scan(step, first, innovations)[1]


class CriticNetwork(nn.Module):
    """How real a window looks behind its context and under its conditions. One window; callers vmap."""

    hidden: int
    n_context: int
    n_moves: int  # the first channels of each product's block are moves: P of them

    @nn.compact
    def __call__(self, scores: jax.Array, present: jax.Array, condition: jax.Array) -> jax.Array:
        """float32[]. `scores` float32[L+W, C], the context first, `present` float32[] 0 where it is hidden else 1,
        `condition` float32[F]."""
        is_window = jnp.arange(len(scores))[:, None] >= self.n_context
        known = jnp.where(is_window, 1.0, present)
        scores = scores * known
        moves = scores.reshape(len(scores), self.n_moves, -1)[..., 0]
        # Shown levels as well as moves, the critic need not learn to integrate.
        levels = jnp.cumsum(moves, 0) / jnp.sqrt(len(scores))
        x = jnp.concatenate([scores, levels, is_window.astype(scores.dtype), known], -1)
        x = nn.Dense(self.hidden)(x) + nn.Dense(self.hidden)(condition)
        for width in (1, 2, 2):
            x = StridedConvolution(width * self.hidden)(nn.leaky_relu(x, 0.2))
        return nn.Dense(1)(nn.leaky_relu(x, 0.2).reshape(-1))[0]


def noise_width(n_latents: int, n_channels: int) -> int:
    """Random numbers that a generator takes for each step."""
    return n_channels + n_latents * len(LATENT_HALF_LIVES)


def coloured(white: jax.Array) -> jax.Array:
    """float32[W, H * n] stationary unit noise with the latent half-lives, from white noise float32[W+1, H * n]."""
    half_lives = jnp.repeat(jnp.array(LATENT_HALF_LIVES), white.shape[1] // len(LATENT_HALF_LIVES))
    decay = jnp.where(half_lives > 0, 0.5 ** (1 / jnp.maximum(half_lives, 1e-6)), 0.0)

    def step(x: jax.Array, e: jax.Array) -> tuple[jax.Array, jax.Array]:
        x = decay * x + jnp.sqrt(1 - decay**2) * e
        return x, x

    return jax.lax.scan(step, white[0], white[1:])[1]


def initial_singular_vectors(params: Params) -> Params:
    """A unit vector float32[out] for every kernel [in, out], to start power iteration (float32[0] for a bias)."""

    def first(kernel: jax.Array) -> jax.Array:
        # Any vector that is not orthogonal to the answer will do, which no fixed one is to a random kernel's.
        return _unit(jnp.ones(kernel.shape[1:] if kernel.ndim == 2 else (0,)))

    return jax.tree.map(first, params)


def power_iteration(params: Params, vectors: Params, n_iterations: int) -> Params:
    """The right singular vectors after more rounds of power iteration on every kernel."""

    def refine(kernel: jax.Array, v: jax.Array) -> jax.Array:
        if kernel.ndim != 2:
            return v
        return jax.lax.fori_loop(0, n_iterations, lambda _, x: _unit(kernel.T @ _unit(kernel @ x)), v)

    return jax.tree.map(refine, jax.lax.stop_gradient(params), vectors)


def spectrally_normalised(params: Params, vectors: Params) -> Params:
    """Every kernel over its largest singular value, as the vectors estimate it; biases untouched.

    The singular vectors are constants to the gradient, the singular value is not (Miyato et al. 2018, eq. 8).
    """

    def normalise(kernel: jax.Array, v: jax.Array) -> jax.Array:
        if kernel.ndim != 2:
            return kernel
        v = jax.lax.stop_gradient(v)
        u = jax.lax.stop_gradient(_unit(kernel @ v))
        return kernel / (u @ kernel @ v)

    return jax.tree.map(normalise, params, vectors)


def _unit(x: jax.Array) -> jax.Array:
    return x / jnp.maximum(jnp.linalg.norm(x), 1e-12)
