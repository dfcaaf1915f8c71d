"""What every proof in a controlled market shares: seeds trained side by side, an interval over them, one verdict.

A proof's last line on stdout is one JSON object, {"task", "estimate", "interval", "target", "met"}. It also stands in
result.json of its folder, beside the configuration, the learning curves of every seed and a picture where there is one.
"""

import dataclasses
import hashlib
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar

import jax

sys.path.insert(0, str(Path(__file__).parent.parent))

import command
import marljax
from marljax.agents.learner import CAUSES, Learner
from marljax.data.limits import require, require_counts, require_not_negative
from marljax.runtime.artefacts import canonical_json, jsonable, write_json
from marljax.runtime.config import to_json
from marljax.runtime.devices import describe_device
from marljax.runtime.progress import run_chunks
from marljax.runtime.stages import hash_sources

ProofT = TypeVar("ProofT", bound="ProofConfig")


@dataclasses.dataclass(frozen=True)
class ProofConfig:
    """What every proof can be told."""

    preset: Literal["full", "quick"] = "full"
    """full decides; quick runs the same program for moments, to see that it does."""
    seeds: int = 10
    """Agents trained side by side, from different seeds [count]."""
    seed: int = 0
    """Seed that the others follow from [1]."""
    chunks: int = 100
    """Updates of the learner [count]."""
    run_dir: Path | None = None
    """Where all is written; runs/controlled/ and the task's name unless given."""

    def __post_init__(self) -> None:
        require_counts(self, "chunks")
        require_not_negative(self, "seed")
        require(self, "at least 2, for an interval over seeds", lambda x: x >= 2, "seeds")

    def folder(self, task: str) -> Path:
        return self.run_dir or Path("runs") / "controlled" / task


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What a proof came to."""

    task: str
    estimate: float
    """The seed mean."""
    interval: tuple[float, float]
    """Its 95 % interval over seeds."""
    target: float
    met: bool


def prove(
    main: Callable[[ProofT, Path], tuple[Verdict, Mapping[str, Any]]],
    task: str,
    presets: Mapping[str, ProofT],
    description: str,
) -> NoReturn:
    """Parse the command line, run `main(config, folder)` and print its verdict; exit codes are those of experiments.

    `main` returns the verdict and whatever else is worth keeping in result.json.
    """

    def run(config: ProofT) -> None:
        folder = config.folder(task)
        write_json(folder / "config.json", to_json(config))
        verdict, more = main(config, folder)
        said = jsonable(dataclasses.asdict(verdict))
        also = {"device": describe_device(), "preset": config.preset, "seeds": config.seeds, **more}
        write_json(folder / "result.json", said | jsonable(also))
        print(json.dumps(said), flush=True)

    command.run(run, type(next(iter(presets.values()))), presets, description)


def train_seeds(
    name: str,
    learner: Learner,
    env_params: Any,
    config: ProofConfig,
    folder: Path,
    *,
    swept: bool = False,
    seeds_of: str | None = None,
    show: tuple[str, ...] = ("episode_return",),
) -> Any:
    """The Runners of all seeds after training, leaves [seeds, ...]; resumes where it was stopped.

    With `swept`, `env_params` have a leading axis of worlds, all seeds train in each of them, and leaves are
    [seeds, worlds, ...]. Runs to be compared seed by seed say with `seeds_of` which of them their seeds are; else those
    of every name are its own.
    """
    key = jax.random.fold_in(jax.random.key(config.seed), _number(seeds_of or name))
    if not swept:
        keys, init, update = jax.random.split(key, config.seeds), learner.init, learner.update
        axes: tuple[Any, Any] = (0, None)
    else:
        n_worlds = len(jax.tree.leaves(env_params)[0])
        keys = jax.random.split(key, (config.seeds, n_worlds))
        init, update, axes = jax.vmap(learner.init), jax.vmap(learner.update), (0, None)
    runners = jax.jit(jax.vmap(init, in_axes=axes))(keys, env_params)
    return run_chunks(
        jax.vmap(update, in_axes=axes),
        runners,
        config.chunks,
        operands=(env_params,),
        name=name,
        checkpoint_dir=folder / "checkpoints" / _fingerprint(config) / name,
        metrics_path=folder / "metrics.jsonl",
        steps_per_chunk=learner.steps_per_chunk * keys.size,
        show=show,
        causes=CAUSES,
    ).runner


def _fingerprint(config: ProofConfig) -> str:
    """Of everything that agents depend on: other settings, or other code, begin anew in the same folder."""
    settings = to_json(dataclasses.replace(config, run_dir=None))
    code = hash_sources([Path(marljax.__file__).parent, Path(__file__).parent])
    return hashlib.sha256(f"{canonical_json(settings)}{code}{jax.__version__}".encode()).hexdigest()[:16]


def _number(name: str) -> int:
    return int.from_bytes(name.encode()[:4].ljust(4), "big")
