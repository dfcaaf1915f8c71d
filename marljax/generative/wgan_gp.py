"""Conditional Wasserstein GAN with gradient penalty (Gulrajani et al. 2017) and a spectrally normalised critic.

A learner like the others: `init(key, dataset, config) -> GanState` and `update(state, dataset) -> (state, metrics)`,
one jitted and donated chunk of generator steps. A chunk that diverges is undone, the rest of the training does
nothing, and the metric `diverged` says why (`CAUSES`).
"""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from marljax.generative.config import GanConfig
from marljax.generative.dataset import Dataset, Draw, draw_numbers, make_dataset, sample_batch
from marljax.generative.interface import Anchor
from marljax.generative.networks import CriticNetwork, GeneratorNetwork
from marljax.generative.spectral import initial_singular_vectors, power_iteration, spectrally_normalised
from marljax.generative.windows import (
    Seen,
    Windows,
    between,
    derived_features,
    distance,
    generated_windows,
    real_windows,
)

__all__ = [
    "CAUSES",
    "Dataset",
    "GanConfig",
    "GanState",
    "critic_of",
    "gradient_penalty",
    "init",
    "make_dataset",
    "networks",
    "relative_spread",
    "train",
    "update",
]

Metrics = dict[str, jax.Array]

CAUSES = (
    "",
    "a loss or a gradient is not finite",
    "the critic blew up: its distance exceeds what blow_up allows",
    "mode collapse: generated windows lie nearer to each other than least_spread allows",
)
"""What the metric `diverged` says, by its number; 0 is a sound chunk."""

_SQUARINGS = 8
"""Rounds of power iteration, doubled each time: enough for 1% of a norm whose runners-up are as large."""


@struct.dataclass
class GanState:
    """All of a training, to be carried on bit for bit."""

    config: GanConfig
    generator: Any
    generator_average: Any  # exponential moving average of `generator`
    critic: Any
    singular: Any  # right singular vectors of the critic's kernels
    gain: jax.Array  # float32[] factor on the critic's output that makes its first slopes 1 on average
    generator_optimiser: optax.OptState
    critic_optimiser: optax.OptState
    key: jax.Array  # typed key[]
    step: jax.Array  # int32[] generator updates done
    diverged: jax.Array  # int32[] 0, or the cause in `CAUSES`; the state is the last good one


def networks(config: GanConfig, n_products: int) -> tuple[GeneratorNetwork, CriticNetwork]:
    """The two networks of a configuration."""
    return (
        GeneratorNetwork(config.hidden, n_products, config.latent_half_lives),
        CriticNetwork(config.hidden, config.context, n_products),
    )


@jax.jit
def init(key: jax.Array, dataset: Dataset, config: GanConfig) -> GanState:
    """The state before the first update; `key` typed."""
    key, draw_key, generator_key, critic_key = jax.random.split(key, 4)
    generator_network, critic_network = networks(config, dataset.channels.shape[1])
    batch = sample_batch(jax.tree.map(lambda x: x[0], draw_numbers(draw_key, dataset, config)), dataset, config)
    first = jax.tree.map(lambda x: x[0], batch)
    context = first.scores[: config.context]
    latents = first.noise[0, 0, -len(config.latent_half_lives) :]
    real = real_windows(dataset.representation, batch)
    generator = generator_network.init(
        generator_key,
        first.noise[0],
        latents,
        context,
        first.present,
        real.seen.told()[0][0],
        dataset.representation.holding,
    )["params"]
    # Training begins from the best diagonal autoregression with correlated noise, and learns what that lacks.
    generator = generator | {"persistence": jnp.arctanh(dataset.persistence), "mixing": dataset.mixing}
    derived = derived_features(dataset, config, first.scores, first.anchor)
    critic = critic_network.init(critic_key, first.scores, derived, first.present, real.seen.told()[0][0])["params"]
    singular = power_iteration(critic, initial_singular_vectors(critic), _SQUARINGS)
    state = GanState(
        config=jax.tree.map(jnp.float32, config),
        generator=generator,
        generator_average=generator,
        critic=critic,
        singular=singular,
        gain=jnp.float32(1.0),
        generator_optimiser=_adam(config.generator_rate).init(generator),
        critic_optimiser=_adam(config.critic_rate).init(critic),
        key=key,
        step=jnp.int32(0),
        diverged=jnp.int32(0),
    )
    # Layers of norm 1 leave a chain of slope far below 1, which the penalty would take hundreds of steps to raise.
    slopes = jax.vmap(jax.grad(critic_of(critic_network, critic, state, dataset, real), argnums=1))
    steepness = distance(slopes(jnp.arange(config.batch), real.seen), jax.tree.map(jnp.zeros_like, real.seen))
    return replace(state, gain=1 / jnp.maximum(jnp.mean(steepness), 1e-6))


@partial(jax.jit, donate_argnums=0)
def update(state: GanState, dataset: Dataset) -> tuple[GanState, Metrics]:
    """One chunk of `steps_per_chunk` generator updates. Metrics are means over the chunk, float32[].

    `wasserstein` is the critic's estimate of the distance and `reach` what it is of the mean distance between a real
    and a generated window, `spread` is `relative_spread`; `diverged` numbers the cause in `CAUSES` for which the chunk
    was undone, 0 where it was not.
    """

    new, metrics = jax.lax.scan(lambda s, _: _step(s, dataset), state, None, length=state.config.steps_per_chunk)
    cause = jnp.where(state.diverged > 0, state.diverged, _cause(new.config, metrics))
    kept = jax.tree.map(lambda n, o: jnp.where(cause == 0, n, o), replace(new, diverged=cause), state)
    means = {name: jnp.mean(x) for name, x in metrics.items()}
    return replace(kept, diverged=cause), means | {"diverged": cause.astype(jnp.float32)}


def train(key: jax.Array, dataset: Dataset, config: GanConfig) -> tuple[GanState, Metrics]:
    """A whole training of `config.chunks` chunks, metrics float32[chunks]; vmap over keys for seeds side by side."""
    return jax.lax.scan(lambda s, _: update(s, dataset), init(key, dataset, config), None, length=config.chunks)


def gradient_penalty(critic: Any, real: Any, fake: Any, mix: jax.Array) -> jax.Array:
    """float32[] mean squared difference of the critic's gradient norm from 1 on lines between real and fake windows.

    `critic(i, window) -> float32[]` scores row i's window; `real` and `fake` are trees of leaves float32[B, ...], `mix`
    float32[B] in 0..1.
    """

    def norm(i: jax.Array, x: Any) -> jax.Array:
        slope = jax.tree.leaves(jax.grad(critic, argnums=1)(i, x))
        return jnp.sqrt(sum(jnp.sum(jnp.square(s)) for s in slope) + 1e-12)

    return jnp.mean(jnp.square(jax.vmap(norm)(jnp.arange(len(mix)), between(mix, real, fake)) - 1))


def relative_spread(real: jax.Array, fake: jax.Array) -> jax.Array:
    """float32[] mean distance of fake windows [B, ...] to their nearest neighbours, over that of real ones: near 0
    where a generator has collapsed to a few windows."""

    def nearest(windows: jax.Array) -> jax.Array:
        flat = windows.reshape(len(windows), -1)
        squared = jnp.sum(jnp.square(flat[:, None] - flat), -1) + jnp.where(jnp.eye(len(flat)) > 0, jnp.inf, 0.0)
        return jnp.mean(jnp.sqrt(squared.min(1)))

    return nearest(fake) / jnp.maximum(nearest(real), 1e-9)


def _cause(config: GanConfig, metrics: Metrics) -> jax.Array:
    """int32[] the first of `CAUSES` that a chunk's metrics float32[steps] show."""
    finite = jnp.isfinite(jnp.stack(jax.tree.leaves(metrics))).all()
    shown = (~finite, jnp.max(metrics["reach"]) > config.blow_up, jnp.mean(metrics["spread"]) < config.least_spread)
    return jnp.where(jnp.stack(shown).any(), 1 + jnp.argmax(jnp.stack(shown)), 0).astype(jnp.int32)


def _step(state: GanState, dataset: Dataset) -> tuple[GanState, Metrics]:
    """`critic_steps` critic updates and one of the generator."""
    key, draw_key = jax.random.split(state.key)
    draws = draw_numbers(draw_key, dataset, state.config)
    state, metrics = jax.lax.scan(partial(_critic_step, dataset=dataset), state, jax.tree.map(lambda x: x[:-1], draws))
    last = jax.tree.map(lambda x: x[-1], draws)
    state, generator_metrics = _generator_step(replace(state, key=key), last, dataset)
    return state, jax.tree.map(jnp.mean, metrics) | generator_metrics


def _critic_step(state: GanState, draw: Draw, dataset: Dataset) -> tuple[GanState, Metrics]:
    config = state.config
    batch = sample_batch(draw, dataset, config)
    generator_network, network = networks(config, dataset.channels.shape[1])
    real, fake = (
        real_windows(dataset.representation, batch),
        generated_windows(generator_network, state.generator, dataset, batch, config),
    )
    both = jax.tree.map(lambda r, f: jnp.concatenate([r, f]), real, fake)
    singular = power_iteration(state.critic, state.singular, _SQUARINGS)

    def loss(params: Any) -> tuple[jax.Array, Metrics]:
        of = partial(critic_of, network, params, replace(state, singular=singular), dataset)
        real_scores, fake_scores = jnp.split(jax.vmap(of(both))(jnp.arange(2 * config.batch), both.seen), 2)
        gap = jnp.mean(real_scores) - jnp.mean(fake_scores)
        penalty = gradient_penalty(of(between(batch.mix, real, fake)), real.seen, fake.seen, batch.mix)
        reach = jnp.abs(gap) / jnp.mean(distance(real.seen, fake.seen))
        return config.penalty * penalty - gap, {"wasserstein": gap, "gradient_penalty": penalty, "reach": reach}

    gradient, metrics = jax.grad(loss, has_aux=True)(state.critic)
    change, optimiser = _adam(config.critic_rate * _share(state)).update(gradient, state.critic_optimiser)
    critic = optax.apply_updates(state.critic, change)
    state = replace(state, critic=critic, critic_optimiser=optimiser, singular=singular)
    return state, metrics | {"critic_gradient": optax.tree.norm(gradient)}


def _generator_step(state: GanState, draw: Draw, dataset: Dataset) -> tuple[GanState, Metrics]:
    config = state.config
    batch = sample_batch(draw, dataset, config)
    generator_network, network = networks(config, dataset.channels.shape[1])
    singular = power_iteration(state.critic, state.singular, _SQUARINGS)

    def loss(params: Any) -> tuple[jax.Array, jax.Array]:
        fake = generated_windows(generator_network, params, dataset, batch, config)
        critic = critic_of(network, state.critic, replace(state, singular=singular), dataset, fake)
        return -jnp.mean(jax.vmap(critic)(jnp.arange(config.batch), fake.seen)), fake.seen.scores

    (value, fake), gradient = jax.value_and_grad(loss, has_aux=True)(state.generator)
    change, optimiser = _adam(config.generator_rate * _share(state)).update(gradient, state.generator_optimiser)
    generator = optax.apply_updates(state.generator, change)
    # A young average follows closely, so that it does not remember the initial weights.
    decay = jnp.minimum(config.average_decay, (1.0 + state.step) / (10.0 + state.step))
    average = jax.tree.map(lambda a, g: decay * a + (1 - decay) * g, state.generator_average, generator)
    state = replace(
        state,
        generator=generator,
        generator_average=average,
        generator_optimiser=optimiser,
        singular=singular,
        step=state.step + 1,
    )
    spread = relative_spread(batch.scores[:, config.context :], fake[:, config.context :])
    return state, {"generator_loss": value, "generator_gradient": optax.tree.norm(gradient), "spread": spread}


def critic_of(network: CriticNetwork, params: Any, state: GanState, dataset: Dataset, windows: Windows) -> Any:
    """`critic(i, seen) -> float32[]`: what the critic thinks of `seen` in the place of window i's."""
    config = state.config
    bounded = {"params": spectrally_normalised(params, state.singular) if config.spectral_norm else params}

    def score(i: jax.Array, seen: Seen) -> Any:
        present = windows.present[i]
        hidden = (jnp.arange(len(seen.scores)) < config.context) & (present == 0)
        # Nor may features of a window tell of a context that is hidden from the generator.
        scores = jnp.where(hidden[:, None], 0.0, seen.scores)
        condition, variance = seen.told()
        derived = derived_features(dataset, config, scores, Anchor(windows.level[i], variance))
        return state.gain * network.apply(bounded, scores, derived, present, condition)

    return score


def _share(state: GanState) -> jax.Array:
    """float32[] what is left of the learning rates at this step."""
    config = state.config
    passed = jnp.minimum(state.step / (config.chunks * config.steps_per_chunk), 1.0)
    return 1 - (1 - config.final_rates) * passed


def _adam(rate: float | jax.Array) -> optax.GradientTransformation:
    # Flat, because one long vector compiles and runs faster than dozens of small arrays.
    return optax.flatten(optax.adam(rate, b1=0.0, b2=0.9))
