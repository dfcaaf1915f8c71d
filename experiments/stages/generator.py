"""Stage `generator`: train the conditional WGAN-GP on the training part, draw sessions from it, score them."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from marljax.data.limits import require_counts, require_not_negative, require_shares
from marljax.data.schema import MarketData
from marljax.envs import stream
from marljax.envs.tapes import Rows
from marljax.features import transform
from marljax.generative import representation, wgan_gp
from marljax.generative.controls import stationary_bootstrap
from marljax.generative.quality import autocorrelation, quality_table, series
from marljax.generative.representation import Representation
from marljax.generative.stitching import Generator, generate_sessions, make_generator
from marljax.generative.wgan_gp import GanConfig
from marljax.runtime.artefacts import named_leaves
from marljax.runtime.progress import run_chunks
from marljax.runtime.stages import Artefact, Stage, StageCache
from stages.market import BOOK_FIELDS, Market


@dataclasses.dataclass(frozen=True)
class SyntheticConfig:
    """How generated market is used in training."""

    sessions: int = 64
    """Generated sessions that are kept, to score the generator and to judge trials of the search; no agent learns from
    them [count]."""
    fresh_sessions: int = 32
    """Generated sessions that training episodes start in at a time [count]."""
    fresh_every: int = 4
    """Chunks of training after which others take their place, drawn anew, as soon as no episode runs in those that
    they replace [count]; 0 keeps the first ones."""
    fraction: float = 0.25
    """Probability that an episode is generated once training has come to the real market [0 to 1]."""

    def __post_init__(self) -> None:
        require_counts(self, "sessions", "fresh_sessions")
        require_not_negative(self, "fresh_every")
        require_shares(self, "fraction")


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
        learned, generator = train_generator(market, config, checkpoints / "generator", metrics_path, seed)
        key = jax.random.fold_in(_key(seed), 1)
        drawn = generate_sessions(generator, key, synthetic.sessions, session_rows)
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


def train_generator(
    market: Market, config: GanConfig, checkpoint_dir: Path, metrics_path: Path, seed: int
) -> tuple[Representation, Generator]:
    """What books become, and a generator of them, both from the training part alone."""
    learned = representation.fit(market.train)
    dataset, encoded = wgan_gp.make_dataset(learned, market.train, config, seed)
    trained = run_chunks(
        wgan_gp.update,
        wgan_gp.init(jax.random.fold_in(_key(seed), 0), dataset, config),
        config.chunks,
        operands=(dataset,),
        name="generator",
        checkpoint_dir=checkpoint_dir,
        metrics_path=metrics_path,
        show=("wasserstein", "spread"),
        causes=wgan_gp.CAUSES,
    )
    return learned, make_generator(trained.runner, dataset, encoded)


def _key(seed: int) -> jax.Array:
    return jax.random.fold_in(jax.random.key(seed), 5)


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


def stored_generator(stage: Stage[Artefact], market: Market, config: GanConfig, seed: int) -> Generator:
    """The generator that stage `generator` trained: its parameters from the artefact, all else from the training part
    that it was fitted to."""
    learned = representation.fit(market.train)
    dataset, encoded = wgan_gp.make_dataset(learned, market.train, config, seed)
    like = jax.eval_shape(wgan_gp.init, jax.random.key(0), dataset, config)
    form = like.generator_average
    leaves = [jnp.asarray(stage.value.arrays[f"params{name}"]) for name in named_leaves(form)]
    state = dataclasses.replace(like, generator_average=jax.tree.unflatten(jax.tree.structure(form), leaves))
    return make_generator(state, dataset, encoded)


def fresh_sessions(
    generator: Generator, market: Market, synthetic: SyntheticConfig, closing_rows: int, episode_steps: int
) -> stream.Source:
    """What training draws its generated sessions from."""
    return stream.source(
        generator,
        market.pipeline,
        n_sessions=synthetic.fresh_sessions,
        every=synthetic.fresh_every,
        warm_up=market.warm_up,
        closing_rows=closing_rows,
        episode_steps=episode_steps,
    )
