"""Generated sessions that are drawn anew while agents learn in them, and never stored.

Real rows are followed by two halves of generated sessions. Episodes start in the open half while those that began in
the closed one come to their end; once nobody is left there it is drawn anew, and the two change roles. So no market
changes under an episode, however long that is, and as no new episode enters a closed half, it is free when the longest
one in it is over. Within a half sessions lie in order of their volatility, the calmest first, for a curriculum to
choose from. Everything here is for training: what is judged is judged on params without a stream.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marljax.data.schema import InputError, MarketData
from marljax.envs.replay import ReplayParams
from marljax.envs.tapes import episode_starts, flat_rows, tape, warmed_up
from marljax.features import transform
from marljax.features.pipeline import FeaturePipeline
from marljax.generative.stitching import Generator, draw_conditions, generate
from marljax.market.slippage import Tape


@struct.dataclass
class Source:
    """What sessions are drawn from, how many at a time and how often. Build it with `source`."""

    generator: Generator
    pipeline: FeaturePipeline  # fitted on the real training part
    every: jax.Array  # int32[] chunks between two drawings at least; 0 keeps the first sessions for good
    n_sessions: int = struct.field(pytree_node=False)  # of a half
    n_steps: int = struct.field(pytree_node=False)  # rows of a session
    warm_up: int = struct.field(pytree_node=False)  # rows of a session that features need
    closing_rows: int = struct.field(pytree_node=False)  # see TradingConfig
    episode_steps: int = struct.field(pytree_node=False)

    @property
    def half(self) -> int:
        """Rows of a half."""
        return self.n_sessions * self.n_steps

    @property
    def starts(self) -> np.ndarray:
        """int32[n_sessions, M] where episodes may start, counted from the first generated row, sessions calmest first.

        They name the first half; `entered` moves them into the open one.
        """
        one_session = np.zeros(self.n_steps, np.int32)
        within = episode_starts(one_session, warmed_up(one_session, self.warm_up), self.episode_steps)
        return self.n_steps * np.arange(self.n_sessions, dtype=np.int32)[:, None] + within


@struct.dataclass
class Slots:
    """Generated rows as one product's episodes meet them. Leaves may carry a product axis."""

    tape: Tape  # leaves [2 halves, ...]
    features: jax.Array  # float32[2 halves, F] scaled
    flat: jax.Array  # bool[2 halves] see ReplayParams
    offset: jax.Array  # int32[] rows from the first half to the open one


@struct.dataclass
class Stream:
    """The sessions of this moment. Part of what a training carries from chunk to chunk, and of its checkpoints."""

    tape: Tape  # leaves [P, 2 halves, ...]
    features: jax.Array  # float32[P, 2 halves, F] scaled
    open: jax.Array  # int32[] half in which episodes start, 0 or 1
    waited: jax.Array  # int32[] chunks since the last drawing
    drawn: jax.Array  # int32[] sessions drawn so far
    key: jax.Array  # typed key[]

    def slots(self, source: Source) -> Slots:
        """The rows of every product, leaves [P, ...]."""
        n_products = len(self.features)
        session = np.repeat(np.arange(2 * source.n_sessions), source.n_steps)
        flat = flat_rows(session, source.warm_up, source.closing_rows)
        return Slots(
            self.tape,
            self.features,
            jnp.broadcast_to(jnp.asarray(flat), (n_products, len(flat))),
            jnp.broadcast_to(self.open * source.half, (n_products,)),
        )


def source(
    generator: Generator,
    pipeline: FeaturePipeline,
    *,
    n_sessions: int,
    every: int,
    warm_up: int,
    closing_rows: int,
    episode_steps: int,
) -> Source:
    """A source of `n_sessions` sessions at a time, each of as many rows as an episode needs.

    Raises InputError where there is no session, or `every` is negative.
    """
    if n_sessions < 1 or every < 0:
        raise InputError(f"a stream needs one session at least and every >= 0, got {n_sessions} and {every}")
    n_steps = session_rows(warm_up, closing_rows, episode_steps)
    return Source(generator, pipeline, jnp.int32(every), n_sessions, n_steps, warm_up, closing_rows, episode_steps)


def session_rows(warm_up: int, closing_rows: int, episode_steps: int) -> int:
    """Rows of a generated session: after the features' warm-up an episode fits in before the close."""
    return warm_up + episode_steps + closing_rows + 2


def draw(source: Source, key: jax.Array) -> tuple[Tape, jax.Array]:
    """A half of fresh sessions of all products, drawn jointly: tapes, leaves [P, half, ...], and features.

    Features are those of the real rows' pipeline. Sessions are ordered by volatility, the calmest first.
    """
    condition_key, draw_key = jax.random.split(key)
    conditions = draw_conditions(source.generator, condition_key, source.n_sessions, source.n_steps)
    sessions = jax.vmap(partial(generate, source.generator, n_steps=source.n_steps))(
        jax.random.split(draw_key, source.n_sessions), conditions
    )
    order = jnp.argsort(volatility(sessions))
    rows = jax.vmap(tape)(sessions), jax.vmap(partial(transform, source.pipeline))(sessions)

    def laid_out(x: jax.Array) -> jax.Array:
        """[S, T, P, ...] as [P, S * T, ...]."""
        return jnp.moveaxis(x[order].reshape(source.half, *x.shape[2:]), 1, 0)

    return jax.tree.map(laid_out, rows)


def volatility(sessions: MarketData) -> jax.Array:
    """float32[S] how wild each session is: its moves' standard deviation, relative to the mean over sessions, on
    average over products. Leaves of `sessions` are [S, T, ...]."""
    moves = jnp.diff(sessions.double_mid, axis=1).astype(jnp.float32)
    spread = jnp.std(moves, axis=1)
    return jnp.mean(spread / jnp.maximum(jnp.mean(spread, axis=0), 1e-9), axis=-1)


def begin(source: Source, key: jax.Array) -> Stream:
    """The first sessions, in both halves until the second is drawn."""
    draw_key, key = jax.random.split(key)
    tape, features = jax.tree.map(lambda x: jnp.tile(x, (1, 2) + (1,) * (x.ndim - 2)), draw(source, draw_key))
    nothing = jnp.int32(0)
    return Stream(tape, features, nothing, nothing, jnp.int32(source.n_sessions), key)


def refresh(stream: Stream, source: Source, rows: jax.Array, n_real: int) -> Stream:
    """Draw the closed half anew and open it, where that is due and no episode runs there; call it between chunks.

    Pure. Nothing is drawn, and no time spent, in a chunk that draws nothing, unless this is vmapped.

    Args:
        rows: int32[...] the row at which each running episode stands, of all agents.
        n_real: real rows before the generated ones.
    """
    closed = 1 - stream.open
    first = n_real + closed * source.half
    occupied = jnp.any((rows >= first) & (rows < first + source.half))
    stream = dataclasses.replace(stream, waited=stream.waited + 1)

    def renewed(stream: Stream) -> Stream:
        draw_key, key = jax.random.split(stream.key)

        def put(old: jax.Array, new: jax.Array) -> jax.Array:
            return jax.lax.dynamic_update_slice_in_dim(old, new, closed * source.half, axis=1)

        tape, features = jax.tree.map(put, (stream.tape, stream.features), draw(source, draw_key))
        return Stream(tape, features, closed, jnp.zeros_like(stream.waited), stream.drawn + source.n_sessions, key)

    due = (source.every > 0) & (stream.waited >= source.every) & ~occupied
    return jax.lax.cond(due, renewed, lambda stream: stream, stream)


def opened(params: ReplayParams, source: Source, fraction: float | jax.Array) -> ReplayParams:
    """Params of real rows, leaves [P, ...], whose episodes are synthetic with probability `fraction` once `entered`."""
    n_products, n_real = params.features.shape[:2]
    starts = n_real + jnp.asarray(source.starts.reshape(-1))
    return dataclasses.replace(
        params,
        synthetic_starts=jnp.broadcast_to(starts, (n_products, len(starts))),
        synthetic_fraction=jnp.broadcast_to(jnp.float32(fraction), (n_products,)),
    )


def entered(params: ReplayParams, slots: Slots) -> ReplayParams:
    """One product's real rows with the generated ones after them; synthetic episodes start in the open half.

    `params.synthetic_starts` name rows of the first half, see `opened`.
    """
    after = jax.tree.map(
        lambda real, fresh: jnp.concatenate([real, fresh]),
        (params.tape, params.features, params.flat),
        (slots.tape, slots.features, slots.flat),
    )
    n_real = params.features.shape[0]
    starts = params.synthetic_starts
    return dataclasses.replace(
        params,
        tape=after[0],
        features=after[1],
        flat=after[2],
        synthetic_starts=jnp.where(starts >= n_real, starts + slots.offset, starts),
    )
