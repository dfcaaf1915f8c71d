"""Sessions of any length from a trained generator: window after window, each with the last one as its context.

The decoder carries price and trailing volatility from window to window, so that regimes and clusters of volatility
follow from what was generated before. Everything made here is labelled synthetic.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marljax.data.schema import MarketData
from marljax.generative.books import market_data
from marljax.generative.dataset import Dataset, clock_step, condition_features
from marljax.generative.interface import Anchor, Encoded, typical_variance
from marljax.generative.networks import GeneratorNetwork
from marljax.generative.wgan_gp import GanState, networks
from marljax.lob.lanes import in_chunks


@struct.dataclass
class Condition:
    """Where a session starts."""

    level: jax.Array  # [P] price before the first row: int32[P] half ticks of books
    regime: jax.Array  # int32[P] volatility regime, 0 low, 1 middle, 2 high
    clock: jax.Array  # float32[] share of the session that has passed


@struct.dataclass
class Generator:
    """A trained generator: all that drawing sessions needs."""

    params: Any
    representation: Any  # marljax.generative.interface.Representation
    starts: Condition  # [M, ...] starts of training windows, to draw from
    network: GeneratorNetwork = struct.field(pytree_node=False)
    window: int = struct.field(pytree_node=False)
    context: int = struct.field(pytree_node=False)


def make_generator(state: GanState, dataset: Dataset, encoded: Encoded) -> Generator:
    """The running average of a training's generator, with the starts of its training windows."""
    config = state.config
    rows = dataset.starts
    return Generator(
        params=jax.tree.map(jnp.array, state.generator_average),
        representation=dataset.representation,
        starts=Condition(encoded.level[rows - 1], dataset.regime[rows], dataset.clock[rows]),
        network=networks(config, dataset.representation.n_products)[0],
        window=config.window,
        context=config.context,
    )


@partial(jax.jit, static_argnames="n_steps")
def generate(generator: Generator, key: jax.Array, condition: Condition, n_steps: int) -> MarketData:
    """One session of `n_steps` book rows on the training part's time grid; vmap over keys and conditions for many.

    The first row follows `condition`, which is not part of the session. `seconds` count from the session's start.
    """
    representation = generator.representation
    parts, double_mid = generate_rows(generator, key, condition, n_steps)
    seconds = condition.clock * representation.session_seconds + representation.step_seconds * jnp.arange(n_steps)
    return market_data(
        parts,
        double_mid,
        seconds=seconds.astype(jnp.float32),
        session=jnp.zeros(n_steps, jnp.int32),
        products=representation.products,
        origin="synthetic",
    )


@partial(jax.jit, static_argnames="n_steps")
def generate_rows(generator: Generator, key: jax.Array, condition: Condition, n_steps: int) -> Any:
    """`n_steps` rows of what the representation decodes to, window after window."""
    representation = generator.representation
    shape = (representation.n_products, representation.n_channels)
    width, n_latents = shape[0] * shape[1], len(generator.network.half_lives)
    variance = typical_variance(representation.regime_variance, condition.regime)
    passing = clock_step(representation, generator.window)

    def one_window(carry: tuple[Any, ...], key: jax.Array) -> tuple[Any, Any]:
        anchor, context, latents, present, clock = carry
        features = condition_features(representation.regime(anchor.variance), jnp.minimum(clock, 1.0))
        noise = jax.random.normal(key, (generator.window + 1, width + n_latents))
        params = {"params": generator.params}
        out: Any = generator.network.apply(params, noise, latents, context, present, features, representation.holding)
        scores, latents = out
        rows, anchor = representation.decode(scores.reshape(-1, *shape), anchor)
        context = jnp.concatenate([context, scores])[-generator.context :]
        return (anchor, context, latents, jnp.float32(1.0), clock + passing), rows

    latent_key, window_key = jax.random.split(key)
    keys = jax.random.split(window_key, -(-n_steps // generator.window))
    start = (
        Anchor(condition.level, variance),
        jnp.zeros((generator.context, width)),
        jax.random.normal(latent_key, (n_latents,)),
        jnp.float32(0.0),
        condition.clock,
    )
    _, windows = jax.lax.scan(one_window, start, keys)
    # The product is spelt out, since -1 cannot be inferred where a book of one level has no gaps.
    return jax.tree.map(lambda x: x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])[:n_steps], windows)


def draw_conditions(generator: Generator, key: jax.Array, n_sessions: int, n_steps: int) -> Condition:
    """[n_sessions, ...] starts of training windows, early enough for `n_steps` to fit the session where they can."""
    rows = jax.random.randint(key, (n_sessions,), 0, len(generator.starts.clock))
    drawn = jax.tree.map(lambda x: x[rows], generator.starts)
    needed = clock_step(generator.representation, n_steps)
    return replace(drawn, clock=jnp.clip(drawn.clock, 0.0, jnp.maximum(1.0 - needed, 0.0)))


def generate_sessions(generator: Generator, key: jax.Array, n_sessions: int, n_steps: int) -> MarketData:
    """Sessions 0..n_sessions-1 of `n_steps` rows, one after the other, invariants checked, origin synthetic."""
    condition_key, draw_key = jax.random.split(key)
    conditions = draw_conditions(generator, condition_key, n_sessions, n_steps)
    return join_sessions(_draw(generator, jax.random.split(draw_key, n_sessions), conditions, n_steps))


@partial(jax.jit, static_argnames="n_steps")
def _draw(generator: Generator, keys: jax.Array, conditions: Condition, n_steps: int) -> MarketData:
    return in_chunks(partial(generate, generator, n_steps=n_steps))(keys, conditions)


def join_sessions(sessions: MarketData) -> MarketData:
    """MarketData with leading axes [N, T] as N sessions of one, on the host, invariants checked."""
    arrays = {
        name: np.asarray(value).reshape(-1, *value.shape[2:])
        for name, value in vars(sessions).items()
        if name not in ("products", "origin")
    }
    n_sessions, n_steps = sessions.seconds.shape
    arrays["session"] = np.repeat(np.arange(n_sessions), n_steps)
    return MarketData.build(products=sessions.products, origin=sessions.origin, **arrays)
