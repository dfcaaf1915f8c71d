"""What the protocols share: a training whose generator is kept at several points, their table, and what they write."""

import dataclasses
import hashlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marljax.data.schema import InputError
from marljax.generative import wgan_gp
from marljax.generative.dataset import Dataset
from marljax.generative.interface import N_REGIMES, Encoded
from marljax.generative.scores.conditional import conditional_scores
from marljax.generative.scores.intervals import seed_interval
from marljax.generative.stitching import Condition, Generator, generate_rows, make_generator
from marljax.generative.wgan_gp import GanConfig, GanState
from marljax.runtime.artefacts import canonical_json, write_json
from marljax.runtime.config import to_json
from marljax.runtime.progress import run_chunks

Table = dict[str, dict[str, Any]]
"""{score: {candidate: {"estimate", "low", "high"}, "reach": bar, "aim": bar}}."""


@struct.dataclass
class Kept:
    """A training and the K running averages that it passed through."""

    state: GanState
    averages: Any  # [K, ...]


def kept_generators(
    dataset: Dataset, encoded: Encoded, config: GanConfig, n_kept: int, *, seed: int, name: str, out: Path
) -> list[Generator]:
    """The generator before training, then at `n_kept` points evenly spaced, the last of them the end.

    Resumes from `out/checkpoints`, in a folder of its own for every seed, configuration and data set, so that no run
    goes on with another's. Raises `Diverged` as `run_chunks` does, and InputError for more points than chunks.
    """
    if n_kept > config.chunks:
        raise InputError(f"a training of {config.chunks} chunks passes through no {n_kept} points: lower kept")
    state = wgan_gp.init(jax.random.key(seed), dataset, config)
    first = make_generator(state, dataset, encoded)
    averages = jax.tree.map(lambda x: jnp.stack([x] * n_kept), state.generator_average)
    length = config.chunks * config.steps_per_chunk

    def update(kept: Kept, dataset: Dataset) -> tuple[Kept, dict[str, jax.Array]]:
        state, metrics = wgan_gp.update(kept.state, dataset)
        # Every chunk overwrites the average of the stretch it belongs to, so that a stretch's last one stays.
        place = jnp.maximum(state.step * n_kept - 1, 0) // length
        averages = jax.tree.map(lambda all_, one: all_.at[place].set(one), kept.averages, state.generator_average)
        return Kept(state, averages), metrics

    trained = run_chunks(
        update,
        Kept(state, averages),
        config.chunks,
        operands=(dataset,),
        name=name,
        checkpoint_dir=out / "checkpoints" / _identity(dataset, config, n_kept, seed),
        metrics_path=out / "metrics.jsonl",
        show=("wasserstein", "spread"),
        causes=wgan_gp.CAUSES,
    ).runner
    points = [jax.tree.map(lambda x, i=i: x[i], trained.averages) for i in range(n_kept)]
    return [first, *(dataclasses.replace(first, params=point) for point in points)]


def _identity(dataset: Dataset, config: GanConfig, n_kept: int, seed: int) -> str:
    """A word that differs wherever a training would."""
    digest = hashlib.sha256(canonical_json([to_json(config), n_kept, seed]).encode())
    for array in (dataset.channels, dataset.starts, dataset.regime, dataset.clock):
        digest.update(np.asarray(array).tobytes())
    return digest.hexdigest()[:16]


def sessions(generator: Generator, key: jax.Array, n_sessions: int, n_steps: int) -> Any:
    """[n_sessions, n_steps, P] bars, each session from the prices and the regime of a training window's start."""
    start_key, draw_key = jax.random.split(key)
    rows = jax.random.randint(start_key, (n_sessions,), 0, len(generator.starts.clock))
    return _draw(generator, jax.random.split(draw_key, n_sessions), rows, n_steps)


@jax.jit(static_argnames="n_steps")
def _draw(generator: Generator, keys: jax.Array, rows: jax.Array, n_steps: int) -> Any:
    starts: Condition = jax.tree.map(lambda x: x[rows], generator.starts)
    return jax.vmap(lambda key, start: generate_rows(generator, key, start, n_steps))(keys, starts)


def add(table: Table, score: str, candidate: str, values: float | np.ndarray) -> None:
    """A candidate's score: one number, or float[S] over independent seeds, which become their mean and its interval."""
    found = seed_interval(np.atleast_1d(values))
    table.setdefault(score, {})[candidate] = {"estimate": found.estimate, "low": found.low, "high": found.high}


def finish(
    out: Path,
    protocol: str,
    table: Table,
    bars: Mapping[str, Mapping[str, float]],
    *,
    seed: int,
    best: str,
    started: float,
    trained: float,
    **more: Any,
) -> dict[str, Any]:
    """What a protocol returns, written to `out/scores.json`: its table with `bars` {bar: {score: value}}, and `more`.

    `started` and `trained` are of `time.monotonic`; `best` says which of the points kept was chosen.
    """
    for bar, values in bars.items():
        for score, value in values.items():
            table[score][bar] = value
    minutes = {"training": (trained - started) / 60, "all": (time.monotonic() - started) / 60}
    result = {"protocol": protocol, "seed": seed, "best": best, "minutes": minutes, "scores": table, **more}
    write_json(out / "scores.json", result)
    return result


def regime_scores(real: np.ndarray, other: np.ndarray, training: np.ndarray) -> dict[str, float]:
    """`conditional_scores` of the second halves of windows of returns [N, W] by the volatility of their first halves.

    The regimes are the terciles of the training windows' first halves.
    """
    half = real.shape[1] // 2

    def trailing(windows: np.ndarray) -> np.ndarray:
        return np.mean(windows[:, :half] ** 2, axis=1)

    edges = np.quantile(trailing(training), np.arange(1, N_REGIMES) / N_REGIMES)
    regimes = [np.searchsorted(edges, trailing(x)) for x in (real, other)]
    return conditional_scores(real[:, half:], regimes[0], other[:, half:], regimes[1], N_REGIMES)


def windows_of(series: np.ndarray, length: int) -> np.ndarray:
    """[N - length + 1, length, ...] every window of a series [N, ...]."""
    return np.moveaxis(np.lib.stride_tricks.sliding_window_view(series, length, axis=0), -1, 1)
