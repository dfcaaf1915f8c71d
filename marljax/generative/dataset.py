"""What the generator is trained on: windows of the training part in channels, their conditions, and batches of them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marljax.data.schema import InputError, assert_not_synthetic
from marljax.generative.config import GanConfig
from marljax.generative.interface import N_REGIMES, Anchor, Encoded, Holding, windows_within


@struct.dataclass
class Dataset:
    """Training windows as channels, with what conditions them."""

    representation: Any  # marljax.generative.interface.Representation
    channels: jax.Array  # float32[T, P, C]
    level: jax.Array  # [T, P] price after the row, see Encoded
    variance: jax.Array  # float32[T, P] trailing, before the row
    regime: jax.Array  # int32[T, P] of that variance
    clock: jax.Array  # float32[T] share of the session that has passed
    starts: jax.Array  # int32[N] first rows of context and window
    persistence: jax.Array  # float32[P*C] first autocorrelation of each channel
    mixing: jax.Array  # float32[P*C, P*C] Cholesky factor of the covariance of what that leaves unexplained


@struct.dataclass
class Batch:
    """B windows with their contexts; P products of C channels are one axis."""

    scores: jax.Array  # float32[B, L+W, P*C] context, then window
    anchor: Anchor  # leaves [B, P], before the first row of the context
    regime: jax.Array  # int32[B, P] at the first row of the window
    clock: jax.Array  # float32[B] at the first row of the window, with noise
    present: jax.Array  # float32[B] 0 where the context is hidden
    noise: jax.Array  # float32[B, 2, W+1, P*C+H] standard normal, for two windows of the generator
    mix: jax.Array  # float32[B] uniform, for the gradient penalty


@struct.dataclass
class Draw:
    """All random numbers of a batch in two arrays: few large draws compile and run faster than many small ones."""

    uniform: jax.Array  # float32[B, 4]
    normal: jax.Array  # float32[B, 2, W+1, P*C+H]


def make_dataset(representation: Any, training: Any, config: GanConfig, seed: int) -> tuple[Dataset, Encoded]:
    """Training windows of the training part, dequantised with `seed`, and the encoded rows they index.

    `training` is what the representation encodes. Raises InputError where no window of `context + window` steps fits,
    or the data are synthetic.
    """
    assert_not_synthetic(training, "training the generator")
    encoded = representation.encode(training, seed)
    length = config.context + config.window
    starts = windows_within(np.asarray(encoded.joined), length, config.stride)
    if len(starts) == 0:
        raise InputError(f"the training part holds no unbroken stretch of {length + 1} steps for the generator")
    persistence, mixing = _linear_dynamics(encoded, representation.holding)
    dataset = Dataset(
        representation=representation,
        channels=encoded.channels,
        level=encoded.level,
        variance=encoded.variance,
        regime=representation.regime(encoded.variance),
        clock=encoded.clock,
        starts=jnp.asarray(starts),
        persistence=jnp.asarray(persistence, jnp.float32),
        mixing=jnp.asarray(mixing, jnp.float32),
    )
    return dataset, encoded


def condition_features(regime: jax.Array, clock: jax.Array) -> jax.Array:
    """float32[P, F] what conditions a window: each product's volatility regime and the time of session.

    `regime` int32[P], `clock` float32[] share of the session that has passed.
    """
    time = jnp.stack([jnp.cos(jnp.pi * clock), jnp.sin(jnp.pi * clock)])
    return jnp.concatenate([jax.nn.one_hot(regime, N_REGIMES), jnp.tile(time, (len(regime), 1))], -1)


def clock_step(representation: Any, window: int) -> jax.Array:
    """float32[] share of the session that a window of so many steps takes."""
    return representation.step_seconds * window / jnp.maximum(representation.session_seconds, 1e-9)


def draw_numbers(key: jax.Array, dataset: Dataset, config: GanConfig) -> Draw:
    """Random numbers for the critic's batches and one of the generator, leading axis `critic_steps + 1`."""
    uniform_key, normal_key = jax.random.split(key)
    n_batches, n_channels = config.critic_steps + 1, dataset.channels.shape[1] * dataset.channels.shape[2]
    noise = (2, config.window + 1, n_channels + len(config.latent_half_lives))
    return Draw(
        uniform=jax.random.uniform(uniform_key, (n_batches, config.batch, 4)),
        normal=jax.random.normal(normal_key, (n_batches, config.batch, *noise)),
    )


def sample_batch(drawn: Draw, dataset: Dataset, config: GanConfig) -> Batch:
    """Random training windows, some with their context hidden."""
    row, hide, jitter, mix = jnp.moveaxis(drawn.uniform, -1, 0)
    starts = dataset.starts[(row * len(dataset.starts)).astype(jnp.int32)]
    flat = dataset.channels.reshape(len(dataset.channels), -1)
    rows = flat[starts[:, None] + jnp.arange(config.context + config.window)]
    first = starts + config.context
    return Batch(
        scores=rows,
        anchor=Anchor(dataset.level[starts - 1], dataset.variance[starts]),
        regime=dataset.regime[first],
        clock=dataset.clock[first] + config.clock_jitter * (2 * jitter - 1),
        present=(hide >= config.context_dropout).astype(jnp.float32),
        noise=drawn.normal,
        mix=mix,
    )


def _linear_dynamics(encoded: Encoded, holding: Holding) -> tuple[np.ndarray, np.ndarray]:
    """First autocorrelations float64[P*C] and the Cholesky factor float64[P*C, P*C] of their residuals.

    Rows in which a channel is held say nothing about it.
    """
    flat = np.asarray(encoded.channels, np.float64).reshape(len(encoded.channels), -1)
    joined = np.asarray(encoded.joined)[1:]
    before, now = flat[:-1][joined], flat[1:][joined]
    free = ~np.asarray(holding.held(encoded.channels.reshape(flat.shape)))[1:][joined]
    # A channel that is reset has nothing to go on from.
    before = np.where(np.asarray(holding.reset), 0.0, before)
    slope = np.sum(free * before * now, 0) / np.maximum(np.sum(free * before**2, 0), 1e-6)
    persistence = np.clip(slope, -0.9, 0.99)
    residual = np.where(free, now - persistence * before, 0.0)
    pairs = free.astype(np.float64).T @ free
    covariance = residual.T @ residual / np.maximum(pairs, 1)
    # Pairs that are seldom free together make it indefinite.
    values, vectors = np.linalg.eigh(covariance + 1e-3 * np.eye(len(covariance)))
    definite = (vectors * np.maximum(values, 1e-3)) @ vectors.T
    return persistence, np.linalg.cholesky(definite)
