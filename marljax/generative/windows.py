"""What a critic is shown: real and generated windows behind their contexts, under the conditions they stand in."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from marljax.generative.config import GanConfig
from marljax.generative.dataset import Batch, Dataset, clock_step, condition_features
from marljax.generative.interface import Anchor
from marljax.generative.networks import GeneratorNetwork


@struct.dataclass
class Windows:
    """B windows, their contexts and conditions."""

    scores: jax.Array  # float32[B, L+W, P*C] context, then window
    anchor: Anchor  # leaves [B, P], before the first row of the context
    present: jax.Array  # float32[B] 0 where the context is hidden
    condition: jax.Array  # float32[B, P, F]


def real_windows(batch: Batch) -> Windows:
    """The batch's own windows."""
    return Windows(batch.scores, batch.anchor, batch.present, jax.vmap(condition_features)(batch.regime, batch.clock))


def between(share: jax.Array, one: Windows, other: Windows) -> Windows:
    """Windows on lines from one to the other: `share` float32[B] of one and the rest of the other."""

    def mix(x: jax.Array, y: jax.Array) -> jax.Array:
        part = share.reshape(-1, *(1,) * (x.ndim - 1))
        return (part * x + (1 - part) * y).astype(x.dtype)

    return jax.tree.map(mix, one, other)


def derived_features(dataset: Dataset, config: GanConfig, scores: jax.Array, anchor: Anchor) -> Any:
    """float32[L+W, P, D] features of scores float32[L+W, P*C]; D is 0 where the critic is not shown any."""
    channels = _by_product(dataset, scores)
    return dataset.representation.derive(channels, anchor) if config.derived else channels[..., :0]


def _by_product(dataset: Dataset, scores: jax.Array) -> jax.Array:
    """float32[W, P, C] of scores float32[W, P*C]."""
    return scores.reshape(len(scores), dataset.channels.shape[1], -1)


def generated_windows(
    network: GeneratorNetwork, params: Any, dataset: Dataset, batch: Batch, config: GanConfig
) -> Windows:
    """For every row of the batch a context and a window, as sessions are drawn.

    The window follows a context that the generator drew itself, after the real one, and stands under the regime and
    the price that this context leaves: trained on real contexts alone, it would drift away when sessions are stitched.
    Where the context is hidden, the window is the session's first.
    """
    representation, n_latents = dataset.representation, len(network.half_lives)
    passing = clock_step(representation, config.window)

    def one(
        noise: jax.Array, scores: jax.Array, present: jax.Array, anchor: Anchor, regime: jax.Array, clock: jax.Array
    ) -> Windows:
        def draw(noise: jax.Array, latents: jax.Array, context: jax.Array, known: Any, condition: jax.Array) -> Any:
            return network.apply({"params": params}, noise, latents, context, known, condition, representation.holding)

        condition = condition_features(regime, clock)
        context = scores[: config.context]
        first, latents = draw(noise[0], noise[0, 0, -n_latents:], context, present, condition)
        rows = jnp.concatenate([context, first])
        own = rows[config.window :]
        decoded = jax.lax.stop_gradient(_by_product(dataset, rows))
        _, before = representation.decode(decoded[: config.window], anchor)
        _, after = representation.decode(decoded[config.window :], before)
        following = condition_features(representation.regime(after.variance), jnp.minimum(clock + passing, 1.0))
        second = draw(noise[1], latents, own, jnp.float32(1.0), following)[0]
        first_of_all = Windows(rows, anchor, present, condition)
        later = Windows(jnp.concatenate([own, second]), before, present, following)
        return jax.tree.map(lambda x, y: jnp.where(present > 0, x, y), later, first_of_all)

    return jax.vmap(one)(batch.noise, batch.scores, batch.present, batch.anchor, batch.regime, batch.clock)
