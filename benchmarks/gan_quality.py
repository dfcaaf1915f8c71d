"""Speed of the generator, and what a short training of it is worth beside a block bootstrap.

    python benchmarks/gan_quality.py [--quick]

Sessions of 5 products with 5 levels each are drawn with networks of the default size, many in one call: a row is the
books of all products at one step of one session. Training is counted in updates of the generator, each with its
updates of the critic. The scores are those of a training on the embedded sample, against its validation part. The
last line on stdout is one JSON object.
"""

import argparse
import json
import statistics
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from marljax.data.clean import clean
from marljax.data.readers import read
from marljax.data.schema import MarketData, Product
from marljax.data.splits import split
from marljax.generative import representation, wgan_gp
from marljax.generative.controls import stationary_bootstrap
from marljax.generative.dataset import make_dataset
from marljax.generative.quality import SCORES, quality_table
from marljax.generative.stitching import (
    Condition,
    Generator,
    draw_conditions,
    generate,
    generate_sessions,
    make_generator,
)
from marljax.generative.wgan_gp import GanConfig
from marljax.lob.lanes import CHUNK, in_chunks
from marljax.runtime.devices import describe_device, enable_compilation_cache

PRODUCTS, LEVELS = 5, 5
HEADLINES = ("total_variation", "acf_abs_returns", "hill", "memorisation")
SAMPLE = Path(__file__).resolve().parents[1] / "data" / "sample"


def random_books(n_steps: int, n_products: int = PRODUCTS, n_levels: int = LEVELS, seed: int = 0) -> MarketData:
    """One session of random walks with spreads of 1 to 3 ticks and random gaps and sizes; speed asks for no more."""
    rng = np.random.default_rng(seed)
    shape = (n_steps, n_products, n_levels)
    best_bid = 10_000 + np.cumsum(rng.integers(-1, 2, shape[:2]), axis=0)
    gaps = rng.integers(1, 4, (2, *shape))
    below = np.cumsum(gaps[0], axis=-1) - gaps[0, ..., :1]
    return MarketData.build(
        bid_price=best_bid[..., None] - below,
        ask_price=best_bid[..., None] + np.cumsum(gaps[1], axis=-1),
        bid_size=rng.integers(1, 200, shape),
        ask_size=rng.integers(1, 200, shape),
        trade_volume=rng.integers(0, 50, shape[:2]),
        trade_imbalance=np.zeros(shape[:2]),
        pnl=np.full(shape[:2], np.nan),
        valid=np.ones(shape[:2]),
        seconds=np.arange(n_steps),
        products=tuple(Product(f"WALK {p}") for p in range(n_products)),
        origin="simulated",
    )


def sample_parts() -> tuple[MarketData, MarketData]:
    """Training and validation part of the embedded sample."""
    data = clean(read("prosperity", [SAMPLE]))[0]
    parts = split(data)
    train, validation = (data.rows(rows.start, rows.stop) for rows in (parts.train, parts.validation))
    return train, validation


def measure_drawing(batch: int, rows: int, repeats: int, chunk: int = CHUNK) -> dict[str, Any]:
    """Rows per second of one call that draws `batch` sessions of `rows` rows; the networks' weights are initial.

    On a CPU `chunk` sessions are drawn at a time, which stay in its cache.
    """
    config, data = GanConfig(), random_books(4_000)
    dataset, encoded = make_dataset(representation.fit(data), data, config, 0)
    generator = make_generator(wgan_gp.init(jax.random.key(0), dataset, config), dataset, encoded)
    conditions = draw_conditions(generator, jax.random.key(1), batch, rows)

    @jax.jit
    def draw(generator: Generator, keys: jax.Array, conditions: Condition) -> MarketData:
        return in_chunks(partial(generate, generator, n_steps=rows), chunk)(keys, conditions)

    keys = jax.random.split(jax.random.key(2), batch)
    began = time.perf_counter()
    compiled = draw.lower(generator, keys, conditions).compile()
    compile_s = time.perf_counter() - began
    jax.block_until_ready(compiled(generator, keys, conditions))
    seconds = []
    for i in range(repeats):
        keys = jax.random.split(jax.random.key(3 + i), batch)
        began = time.perf_counter()
        jax.block_until_ready(compiled(generator, keys, conditions))
        seconds.append(time.perf_counter() - began)
    memory = compiled.memory_analysis()
    return {
        "case": f"sessions of {rows} rows",
        "batch": batch,
        "chunk": min(batch, chunk),
        "products": PRODUCTS,
        "levels": LEVELS,
        "per_second": batch * rows / statistics.median(seconds),
        "unit": "rows of all products",
        "compile_s": round(compile_s, 2),
        "bytes_per_env": (memory.temp_size_in_bytes + memory.output_size_in_bytes) // batch,
        "dtype": "int32 books, float32 networks",
    }


def measure_training(derived: bool, chunks: int) -> dict[str, Any]:
    """Generator updates per second of the default configuration: median over chunks after compiling."""
    config, data = GanConfig(derived=derived), random_books(4_000)
    dataset, _ = make_dataset(representation.fit(data), data, config, 0)
    state = wgan_gp.init(jax.random.key(0), dataset, config)
    began = time.perf_counter()
    compiled = wgan_gp.update.lower(state, dataset).compile()
    compile_s = time.perf_counter() - began
    n_bytes = sum(x.nbytes for x in jax.tree.leaves((state.generator, state.critic)))
    state, _ = jax.block_until_ready(compiled(state, dataset))
    seconds = []
    for _ in range(chunks):
        began = time.perf_counter()
        state, metrics = jax.block_until_ready(compiled(state, dataset))
        seconds.append(time.perf_counter() - began)
    assert not float(metrics["diverged"]), wgan_gp.CAUSES[int(metrics["diverged"])]
    return {
        "case": f"training, the critic {'is' if derived else 'is not'} shown derived features",
        "batch": config.batch,
        "products": PRODUCTS,
        "levels": LEVELS,
        "critic_updates": config.critic_steps,
        "per_second": config.steps_per_chunk / statistics.median(seconds),
        "unit": "generator updates",
        "compile_s": round(compile_s, 2),
        "bytes_per_env": n_bytes,
        "dtype": "float32",
    }


def measure_quality(config: GanConfig, n_sessions: int, n_steps: int) -> dict[str, Any]:
    """Headline scores of a training on the sample beside those of a block bootstrap with blocks of a window."""
    training, held_out = sample_parts()
    learned = representation.fit(training)
    dataset, encoded = make_dataset(learned, training, config, 0)
    state = wgan_gp.init(jax.random.key(0), dataset, config)
    began = time.perf_counter()
    update = wgan_gp.update.lower(state, dataset).compile()
    compile_s = time.perf_counter() - began
    began = time.perf_counter()
    for _ in range(config.chunks):
        state, metrics = update(state, dataset)
    assert not float(metrics["diverged"]), wgan_gp.CAUSES[int(metrics["diverged"])]
    seconds = time.perf_counter() - began
    drawn = generate_sessions(make_generator(state, dataset, encoded), jax.random.key(1), n_sessions, n_steps)
    size = {"n_sessions": n_sessions, "n_steps": n_steps, "seed": 0}
    resampled = stationary_bootstrap(learned, training, mean_block=float(config.window), **size)
    candidates = {"synthetic": drawn, "block bootstrap": resampled}
    scores = quality_table(held_out, candidates, training, window=config.window)
    return {
        "case": "quality on the sample's validation part",
        "batch": config.batch,
        "products": len(training.products),
        "levels": training.n_levels,
        "per_second": config.chunks * config.steps_per_chunk / seconds,
        "unit": "generator updates",
        "compile_s": round(compile_s, 2),
        "updates": config.chunks * config.steps_per_chunk,
        "training_s": round(seconds, 1),
        "derived": config.derived,
        "rows": n_sessions * n_steps,
        "scores": {name: scores[name] for name in HEADLINES},
        "perfect": {name: SCORES[name].perfect for name in HEADLINES},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one batch and a token training; within 60 s")
    quick = parser.parse_args().quick
    enable_compilation_cache()
    results = []
    cases = [(1, 4096, 1), (64, 256, CHUNK), (1024, 64, CHUNK), (1024, 64, 1024)]
    for batch, rows, chunk in cases[1:2] if quick else cases:
        results.append(measure_drawing(batch, rows, 3 if quick else 7, chunk))
        print(
            f"{batch} sessions, {min(batch, chunk)} at a time: {results[-1]['per_second'] / 1e3:.1f} thousand rows/s",
            flush=True,
        )
    for derived in () if quick else (True, False):
        results.append(measure_training(derived, 3))
        print(f"{results[-1]['case']}: {results[-1]['per_second']:.1f} updates/s", flush=True)
    # Without derived features compiling takes half as long.
    config = GanConfig(chunks=1, derived=False) if quick else GanConfig()
    results.append(measure_quality(config, 8 if quick else 32, 400))
    print(json.dumps(results[-1]["scores"]), flush=True)
    device = describe_device()
    summary = {"benchmark": "gan_quality", "device": device["kind"], "cores": device["cores"], "results": results}
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
