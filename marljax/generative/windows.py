"""What a critic is shown: real and generated windows behind their contexts, under the conditions they stand in."""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from marljax.generative.config import GanConfig
from marljax.generative.dataset import Batch, Dataset, clock_step, condition_features
from marljax.generative.interface import Anchor, typical_variance
from marljax.generative.networks import GeneratorNetwork


@struct.dataclass
class Seen:
    """What the critic's slope is bounded in. A real and a generated window differ in all of it: left out of the bound,
    the conditions alone would tell them apart, at any distance the critic likes.

    What holds for all rows alike counts once for every row, as if it stood beside each row's scores: it is held here
    times the root of L + W.
    """

    scores: jax.Array  # float32[..., L+W, P*C] context, then window
    condition: jax.Array  # float32[..., P, F] times that root
    log_variance: jax.Array  # float32[..., P] trailing, before the first row of the context, times that root

    @classmethod
    def of(cls, scores: jax.Array, condition: jax.Array, variance: jax.Array) -> "Seen":
        """From conditions and variances as they are."""
        root = scores.shape[-2] ** 0.5
        return cls(scores, root * condition, root * jnp.log(jnp.maximum(variance, 1e-20)))

    def told(self) -> tuple[jax.Array, jax.Array]:
        """Conditions and variances as they are."""
        root = self.scores.shape[-2] ** 0.5
        return self.condition / root, jnp.exp(self.log_variance / root)


@struct.dataclass
class Windows:
    """B windows, their contexts and conditions."""

    seen: Seen  # leaves [B, ...]
    level: jax.Array  # [B, P] price before the first row of the context
    present: jax.Array  # float32[B] 0 where the context is hidden


def real_windows(representation: Any, batch: Batch) -> Windows:
    """The batch's own windows."""
    condition = jax.vmap(condition_features)(batch.regime, batch.clock)
    # A session begins with what is typical of its regime: no more is known of the rows before.
    typical = jax.vmap(partial(typical_variance, representation.regime_variance))(batch.regime)
    variance = jnp.where(batch.present[:, None] > 0, batch.anchor.variance, typical)
    return Windows(Seen.of(batch.scores, condition, variance), batch.anchor.level, batch.present)


def between(share: jax.Array, one: Any, other: Any) -> Any:
    """Trees on lines from one to the other, leaves [B, ...]: `share` float32[B] of one and the rest of the other."""

    def mix(x: jax.Array, y: jax.Array) -> jax.Array:
        part = share.reshape(-1, *(1,) * (x.ndim - 1))
        return (part * x + (1 - part) * y).astype(x.dtype)

    return jax.tree.map(mix, one, other)


def distance(one: Any, other: Any) -> jax.Array:
    """float32[B] Euclidean distances between trees of leaves [B, ...]."""
    squares = jax.tree.map(lambda x, y: jnp.sum(jnp.square(x - y), range(1, x.ndim)), one, other)
    return jnp.sqrt(sum(jax.tree.leaves(squares)))


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
    Where the context is hidden, the window is the session's first and stands under the real one's conditions.
    """
    representation, n_latents = dataset.representation, len(network.half_lives)
    passing = clock_step(representation, config.window)

    def one(noise: jax.Array, real: Windows, anchor: Anchor, clock: jax.Array) -> Windows:
        def draw(noise: jax.Array, latents: jax.Array, context: jax.Array, known: Any, condition: jax.Array) -> Any:
            return network.apply({"params": params}, noise, latents, context, known, condition, representation.holding)

        context, present = real.seen.scores[: config.context], real.present
        first, latents = draw(noise[0], noise[0, 0, -n_latents:], context, present, real.seen.told()[0])
        rows = jnp.concatenate([context, first])
        own = rows[config.window :]
        decoded = jax.lax.stop_gradient(_by_product(dataset, rows))
        _, before = representation.decode(decoded[: config.window], anchor)
        _, after = representation.decode(decoded[config.window :], before)
        following = condition_features(representation.regime(after.variance), jnp.minimum(clock + passing, 1.0))
        second = draw(noise[1], latents, own, jnp.float32(1.0), following)[0]
        first_of_all = replace(real, seen=replace(real.seen, scores=rows))
        later = Windows(Seen.of(jnp.concatenate([own, second]), following, before.variance), before.level, present)
        return jax.tree.map(lambda x, y: jnp.where(present > 0, x, y), later, first_of_all)

    return jax.vmap(one)(batch.noise, real_windows(representation, batch), batch.anchor, batch.clock)
