"""Stage `generator`: train the conditional WGAN-GP on the training part, draw sessions from it, score them."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from marljax.data.schema import InputError, MarketData
from marljax.envs.tapes import Rows
from marljax.features import transform
from marljax.generative import representation, wgan_gp
from marljax.generative.controls import stationary_bootstrap
from marljax.generative.quality import autocorrelation, quality_table, series
from marljax.generative.stitching import generate_sessions, make_generator
from marljax.generative.wgan_gp import GanConfig
from marljax.runtime.artefacts import named_leaves
from marljax.runtime.progress import run_chunks
from marljax.runtime.stages import Artefact, Stage, StageCache
from stages.market import BOOK_FIELDS, Market


@dataclasses.dataclass(frozen=True)
class SyntheticConfig:
    """How generated market is used in training."""

    sessions: int = 64
    """Generated sessions that agents may meet [count]."""
    fraction: float = 0.25
    """Probability that a training episode is generated [0 to 1]; 0 trains on real books alone."""

    def __post_init__(self) -> None:
        if self.sessions < 1 or not 0 <= self.fraction <= 1:
            raise InputError("synthetic.sessions must be at least 1 and synthetic.fraction within 0 to 1")


def generator_stage(
    cache: StageCache,
    upstream: dict[str, str],
    market: Market,
    config: GanConfig,
    synthetic: SyntheticConfig,
    session_rows: int,
    *,
    seed: int,
    metrics_path: Path,
) -> Stage[Artefact]:
    """Train, draw `synthetic.sessions` sessions of `session_rows` rows, score them on the validation part.

    The artefact holds the drawn books, the generator's parameters, and the quality table with the series behind it.
    """

    def compute(checkpoints: Path) -> Artefact:
        key = jax.random.fold_in(jax.random.key(seed), 5)
        learned = representation.fit(market.train)
        dataset, encoded = wgan_gp.make_dataset(learned, market.train, config, seed)
        trained = run_chunks(
            wgan_gp.update,
            wgan_gp.init(jax.random.fold_in(key, 0), dataset, config),
            config.chunks,
            operands=(dataset,),
            name="generator",
            checkpoint_dir=checkpoints / "generator",
            metrics_path=metrics_path,
            show=("wasserstein", "spread"),
            causes=wgan_gp.CAUSES,
        )
        generator = make_generator(trained.runner, dataset, encoded)
        drawn = generate_sessions(generator, jax.random.fold_in(key, 1), synthetic.sessions, session_rows)
        arrays = {f"book.{name}": np.asarray(getattr(drawn, name)) for name in BOOK_FIELDS}
        arrays |= {f"params{name}": np.asarray(x) for name, x in named_leaves(generator.params).items()}
        resampled = stationary_bootstrap(
            learned,
            market.train,
            n_sessions=synthetic.sessions,
            n_steps=session_rows,
            mean_block=float(config.window),
            seed=seed,
        )
        held_out = market.part("validation").data
        candidates = {"synthetic": drawn, "bootstrap": resampled}
        quality = quality_table(held_out, candidates, market.train, window=config.window)
        arrays |= _pictures({"real": held_out, "synthetic": drawn, "bootstrap": resampled})
        return Artefact(arrays, {"quality": quality})

    inputs = {**upstream, "generator": config, "synthetic": synthetic.sessions, "session_rows": session_rows}
    return cache.run("generator", inputs, compute)


def _pictures(books: dict[str, MarketData]) -> dict[str, np.ndarray]:
    """What the report draws of each source: returns, autocorrelation of absolute returns, and spreads.

    Returns are pooled over products, each in standard deviations of the real ones.
    """
    found = {source: series(data) for source, data in books.items()}
    scale = np.maximum(found["real"].returns.std(axis=0), 1e-9)
    arrays = {}
    for source, s in found.items():
        lags = [autocorrelation(np.abs(x), s.stretch) for x in s.returns.T]
        arrays[f"returns.{source}"] = (s.returns / scale).reshape(-1).astype(np.float32)
        arrays[f"autocorrelation.{source}"] = np.nan_to_num(np.array(lags)).mean(axis=0)
        arrays[f"spread.{source}"] = s.spread.reshape(-1).astype(np.float32)
    return arrays


def synthetic_books(stage: Stage[Artefact], market: Market) -> MarketData:
    """The sessions that stage `generator` drew, labelled synthetic."""
    arrays = {name: stage.value.arrays[f"book.{name}"] for name in BOOK_FIELDS}
    return MarketData.build(products=market.data.products, origin="synthetic", **arrays)


def synthetic_rows(stage: Stage[Artefact], market: Market, closing_rows: int) -> Rows:
    """The drawn sessions with features from the pipeline fitted on the real training part."""
    books = synthetic_books(stage, market)
    features = transform(market.pipeline, books)
    return Rows.of(books, jnp.asarray(features), market.warm_up, closing_rows)
