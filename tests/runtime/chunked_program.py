"""A small program of chunks that tests start as a process of its own, to stop or kill it."""

import sys
import time
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp

from marljax.runtime import progress
from marljax.runtime.artefacts import save_tree


class Runner(NamedTuple):
    params: jax.Array
    key: jax.Array
    step: jax.Array


def init() -> Runner:
    return Runner(jnp.ones((8, 8)), jax.random.key(4), jnp.int32(0))


def update(runner: Runner) -> tuple[Runner, dict[str, jax.Array]]:
    key, noise_key = jax.random.split(runner.key)
    params = jnp.tanh(runner.params @ runner.params.T / 8 + jax.random.normal(noise_key, runner.params.shape))
    metrics = {"mean": params.mean(), "undefined": jnp.nan, "per_product": params[0, :2], "diverged": False}
    return Runner(params, key, runner.step + 1), metrics


def main(directory: Path, n_chunks: int, checkpoint_every: int = 3, seconds_per_line: float = 0.0) -> int:
    """Train, and pause at each line of progress (of which a process of its own has one for every chunk)."""

    def log(line: str) -> None:
        print(line, file=sys.stderr, flush=True)
        if "stopping" not in line:
            time.sleep(seconds_per_line)

    try:
        trained = progress.run_chunks(
            update,
            init(),
            n_chunks,
            name="toy",
            checkpoint_dir=directory / "checkpoints",
            checkpoint_every=checkpoint_every,
            metrics_path=directory / "metrics.jsonl",
            log=log,
        )
    except progress.Stopped as stop:
        print(stop, file=sys.stderr)
        return 3
    save_tree(directory / "final.npz", trained.runner)
    return 0


if __name__ == "__main__":
    progress._SECONDS_BETWEEN_LINES = 0.0
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])))
