"""The stage cache: a pipeline's artefacts, each computed once for what it depends on.

A stage's key is the sha256 of everything its artefact is a function of: its configuration, the keys of the stages
before it, the source code, the versions of Python, NumPy and JAX, the seed and the device. An artefact is a folder that
appears whole or not at all, with `stage.json` beside its files to say what it was made from.
"""

import contextlib
import hashlib
import importlib.metadata
import os
import platform
import shutil
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

import marljax
from marljax.data.schema import SourceFile
from marljax.runtime.artefacts import canonical_json, load_arrays, read_json, save_arrays, write_json
from marljax.runtime.devices import describe_device
from marljax.runtime.progress import print_line

T = TypeVar("T")


class Artefact(NamedTuple):
    """What most stages store: arrays by name, and metadata that JSON can hold."""

    arrays: dict[str, np.ndarray]
    metadata: dict[str, Any]


class Stage(NamedTuple, Generic[T]):
    """A finished stage."""

    value: T
    key: str
    """sha256 of everything the value depends on; give it to the stages that use the value."""
    seconds: float
    """Time this run spent on it, computing or loading [s]."""
    cached: bool

    @property
    def summary(self) -> dict[str, Any]:
        """{"seconds", "cached"}, as in summary.json."""
        return {"seconds": round(self.seconds, 3), "cached": self.cached}


def save_artefact(artefact: Artefact, directory: Path) -> None:
    """Write `arrays.npz` and `metadata.json`."""
    save_arrays(directory / "arrays.npz", artefact.arrays)
    write_json(directory / "metadata.json", artefact.metadata)


def load_artefact(directory: Path) -> Artefact:
    """What `save_artefact` wrote."""
    return Artefact(load_arrays(directory / "arrays.npz"), read_json(directory / "metadata.json"))


class StageCache:
    """The artefacts of one run, in `run_dir/stages/<name>/`.

    `context` is what every stage depends on, for example {"seed": 3}; source code (the package's and that in
    `sources`), versions and device are added to it. Stages named in `force` are computed even where the cache has
    them. One process at a time works in a run's folder.
    """

    def __init__(
        self,
        run_dir: str | Path,
        *,
        context: Mapping[str, Any],
        sources: Iterable[str | Path] = (),
        force: Collection[str] = (),
        log: Callable[[str], None] = print_line,
    ) -> None:
        self._stages, self._checkpoints = Path(run_dir) / "stages", Path(run_dir) / "checkpoints"
        self._force, self._log = frozenset(force), log
        self._context = {
            **context,
            "source": hash_sources([Path(marljax.__file__).parent, *sources]),
            "versions": {"python": platform.python_version(), **_versions("jax", "jaxlib", "numpy")},
            # The number of cores decides in which order XLA adds up, and with it the last bits.
            "device": describe_device(),
        }

    def run(
        self,
        name: str,
        inputs: Mapping[str, Any],
        compute: Callable[[Path], T],
        *,
        save: Callable[[T, Path], None] = save_artefact,  # type: ignore[assignment]
        load: Callable[[Path], T] = load_artefact,  # type: ignore[assignment]
        announce: bool = True,
    ) -> Stage[T]:
        """The artefact of stage `name`, from the cache or computed.

        `inputs` (JSON values: configuration, keys of earlier stages) is all that `compute` may depend on. `compute`
        is given a folder for its checkpoints, which outlives a kill and is removed when the stage is finished. The
        value returned is always the one read back from disk, so that later stages see the same bits in every run.
        `announce` prints a line before it computes; without it bad input leaves one line on stderr, its own.
        """
        inputs = {"stage": name, "inputs": inputs, **self._context}
        key = hashlib.sha256(canonical_json(inputs).encode()).hexdigest()
        folder, checkpoints = self._stages / name, self._checkpoints / f"{name}-{key[:16]}"
        start = time.monotonic()
        cached = self._is_current(folder, key)
        if cached and name in self._force:
            # Removed before it is computed again, so that a second kill meets a checkpoint and not the old artefact.
            shutil.rmtree(folder)
            cached = False
        if not cached:
            self._remove_leftovers(name, keep=checkpoints)
            if announce:
                self._log(f"[{name}] starts")
            value = compute(checkpoints)
            unfinished = self._stages / f".{name}.unfinished"
            unfinished.mkdir(parents=True)
            save(value, unfinished)
            write_json(unfinished / "stage.json", {"key": key, **inputs, "seconds": round(time.monotonic() - start, 3)})
            if folder.exists():
                shutil.rmtree(folder)
            os.replace(unfinished, folder)
        shutil.rmtree(checkpoints, ignore_errors=True)
        with contextlib.suppress(OSError):
            self._checkpoints.rmdir()
        value = load(folder)
        seconds = time.monotonic() - start
        self._log(f"[{name}] {'from the cache' if cached else 'done'}  {seconds:.1f} s")
        return Stage(value, key, seconds, cached)

    def _is_current(self, folder: Path, key: str) -> bool:
        return (folder / "stage.json").exists() and read_json(folder / "stage.json")["key"] == key

    def _remove_leftovers(self, name: str, keep: Path) -> None:
        shutil.rmtree(self._stages / f".{name}.unfinished", ignore_errors=True)
        for folder in self._checkpoints.glob(f"{name}-" + "[0-9a-f]" * 16):
            if folder != keep:
                shutil.rmtree(folder)


def hash_sources(paths: Iterable[str | Path]) -> str:
    """sha256 of the Python files at or below `paths`, by name and content; the place of a folder does not matter."""
    digest = hashlib.sha256()
    for path in map(Path, paths):
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            content = hashlib.sha256(file.read_bytes()).hexdigest()
            digest.update(f"{file.relative_to(path.parent).as_posix()} {content}\n".encode())
    return digest.hexdigest()


def hash_file(path: str | Path) -> str:
    """sha256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def provenance(*, seed: int, files: Iterable[SourceFile], origins: Mapping[str, str]) -> dict[str, Any]:
    """What a run was made from: versions, device, seed, data files, and the origin of every data set in it.

    `origins` maps a data set's name to recorded, simulated or synthetic. Paths are as the user gave them.
    """
    return {
        "versions": {
            "python": platform.python_version(),
            "marljax": marljax.__version__,
            **_versions("jax", "jaxlib", "flax", "optax", "numpy", "pandas"),
        },
        "source_sha256": hash_sources([Path(marljax.__file__).parent]),
        "device": describe_device(),
        "seed": seed,
        "files": [{"path": file.path, "sha256": file.sha256, "rows": file.rows} for file in files],
        "origins": dict(origins),
    }


def _versions(*packages: str) -> dict[str, str]:
    return {package: importlib.metadata.version(package) for package in packages}
