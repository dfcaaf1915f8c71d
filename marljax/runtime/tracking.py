"""Curves for TensorBoard and Weights & Biases, beside the metrics.jsonl that every run writes.

Which of them a process writes is said once, at its edge, by `use`; the host loop over chunks opens one tracker for each
stage. They change nothing that is computed, so they are no part of a configuration. A stage that resumes starts its
curves anew and is told its earlier rows first: curves and metrics.jsonl always show the same.
"""

import importlib.util
import itertools
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from marljax.data.schema import InputError
from marljax.runtime.artefacts import read_json

TrackerName = Literal["tensorboard", "wandb"]

PACKAGES: dict[TrackerName, str] = {"tensorboard": "tensorboardX", "wandb": "wandb"}
"""The package that each of marljax's extras brings."""

_used: list[TrackerName] = []


class Tracker(Protocol):
    """Where the curves of one stage go."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Points of several curves at `step` [chunks], which grows from call to call."""
        ...

    def close(self) -> None:
        """Write what is still held back. Nothing is logged afterwards."""
        ...


def use(names: Sequence[TrackerName]) -> None:
    """From now on, stages of this process are tracked by these. Raises InputError where a package is not installed."""
    for name in names:
        if name not in PACKAGES:
            raise InputError(f"{name!r} is none of {', '.join(PACKAGES)}")
        if importlib.util.find_spec(PACKAGES[name]) is None:
            raise InputError(f"tracking by {name} needs the package {PACKAGES[name]}: pip install 'marljax[{name}]'")
    _used[:] = dict.fromkeys(names)


def open_tracker(stage: str, run_dir: str | Path) -> Tracker:
    """A tracker that hands on to all that are in use, and to none where none is.

    TensorBoard's files are in `run_dir`/tensorboard/`stage`. Weights & Biases' are in `run_dir`/wandb, offline unless
    $WANDB_MODE says otherwise, and hold the run's config.json.
    """
    openers: dict[TrackerName, Callable[[str, Path], Tracker]] = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases}
    return _All([openers[name](stage, Path(run_dir)) for name in _used])


class TensorBoard:
    """Event files of one stage; earlier ones of the same stage are removed."""

    def __init__(self, stage: str, run_dir: Path) -> None:
        from tensorboardX import SummaryWriter

        folder = run_dir / "tensorboard" / stage
        shutil.rmtree(folder, ignore_errors=True)
        self._writer = SummaryWriter(str(folder), flush_secs=10)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """One run of the project `marljax` for each stage and process, in the group of the folder's name."""

    def __init__(self, stage: str, run_dir: Path) -> None:
        import wandb

        run_dir.mkdir(parents=True, exist_ok=True)
        config = run_dir / "config.json"
        self._run = wandb.init(
            project="marljax",
            group=run_dir.absolute().name,
            name=f"{run_dir.absolute().name}/{stage}",
            job_type=stage,
            dir=str(run_dir),
            config=read_json(config) if config.exists() else None,
            mode=os.environ.get("WANDB_MODE", "offline"),
            reinit="create_new",
            settings=wandb.Settings(console="off", silent=True, save_code=False),
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


class _All:
    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self._trackers = trackers

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for tracker in self._trackers:
            tracker.log(step, values)

    def close(self) -> None:
        for tracker in self._trackers:
            tracker.close()


def series(metrics: Mapping[str, Any], axes: Sequence[str] = ("seed",)) -> dict[str, float]:
    """One curve for every number: {"reward": [1, 2]} becomes reward (the mean), reward/seed0 and reward/seed1.

    `axes` names the axes of arrays; of one that it does not name the bare index stands. None is NaN, and the mean is
    over what is finite. Text is left out.
    """
    return dict(point for name, value in metrics.items() for point in _points(name, value, axes))


def _points(name: str, value: Any, axes: Sequence[str]) -> Iterator[tuple[str, float]]:
    if isinstance(value, str):
        return
    numbers = np.asarray(value, np.float64)
    finite = numbers[np.isfinite(numbers)]
    yield name, float(finite.mean()) if finite.size else float("nan")
    if numbers.ndim == 0:
        return
    for index, number in np.ndenumerate(numbers):
        places = itertools.zip_longest(axes[: numbers.ndim], index, fillvalue="")
        yield "/".join([name, *(f"{axis}{i}" for axis, i in places)]), float(number)
