"""The host loop over training chunks: progress, metrics, checkpoints and a clean stop, around one jitted function.

Nothing here changes what is computed: an undisturbed run, one that was stopped and one that was killed end with the
same bits, whatever the cadence of checkpoints.
"""

import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from marljax.runtime import checkpoint, tracking
from marljax.runtime.artefacts import canonical_json, describe_leaf, jsonable, named_leaves, write_atomic

RunnerT = TypeVar("RunnerT")
Row = dict[str, Any]

_SECONDS_BETWEEN_LINES = 0.3


class Stopped(Exception):
    """A signal asked for a stop: the chunk in progress was finished and, where there is a place for it, saved."""


class Diverged(ArithmeticError):
    """A chunk's metrics say that training diverged, and why. What is saved is the state before that chunk."""


class Trained(NamedTuple):
    """What `run_chunks` returns."""

    runner: Any
    rows: list[Row]
    """One row of metrics for every chunk, as in metrics.jsonl."""


def print_line(line: str) -> None:
    """A line of progress, on stderr."""
    print(line, file=sys.stderr, flush=True)


def run_chunks(
    update: Callable[..., tuple[RunnerT, Mapping[str, jax.Array]]],
    runner: RunnerT,
    n_chunks: int,
    *,
    operands: tuple[Any, ...] = (),
    name: str,
    checkpoint_dir: str | Path | None = None,
    checkpoint_every: int = 20,
    metrics_path: str | Path | None = None,
    steps_per_chunk: int = 0,
    show: tuple[str, ...] = (),
    axes: tuple[str, ...] = ("seed", "product"),
    causes: tuple[str, ...] = (),
    evaluate: Callable[..., Mapping[str, jax.Array]] | None = None,
    evaluate_every: int = 1,
    log: Callable[[str], None] = print_line,
) -> Trained:
    """Apply `update(runner, *operands)` `n_chunks` times, starting from the last checkpoint where there is one.

    `update` is jitted and its runner donated; the caller's `runner` is copied first and stays valid. `operands` (the
    market, a data set) are neither changed nor saved. Metrics are scalars, or arrays with one value per product or
    seed; `diverged` among them, above zero, ends the run with `Diverged`, its number naming one of `causes`. The state
    before that chunk is the last checkpoint then; the same command would diverge again.
    Every chunk appends a row {"stage": name, "chunk": 1.., metric: value} to `metrics_path`, in which other stages'
    rows are left alone; trackers in use (see `marljax.runtime.tracking`) get the same beside it, a curve for every
    product and seed, for which `axes` names the axes of metrics. `evaluate(runner, *operands)` adds its metrics to the
    rows of every `evaluate_every`-th chunk and of the last: a program of its own, so that training is the same with it
    and without. A checkpoint holds runner and rows; it is written every `checkpoint_every` chunks, after the
    last one and at a stop (some 60 ms for a small runner). `steps_per_chunk` [env steps] and the metrics named in
    `show` appear in the progress lines.

    SIGINT and SIGTERM raise `Stopped` once the current chunk is finished and saved; a second one ends the process at
    once. The handlers are set only while this runs, and only in the main thread.
    """
    first, runner = runner, jax.tree.map(_own, runner)
    rows: list[Row] = []
    if checkpoint_dir is not None and (found := checkpoint.restore_latest(checkpoint_dir, runner)) is not None:
        runner, rows = jax.tree.map(_own, found.tree), list(found.extra)
        log(f"[{name}] resumes after chunk {found.step}/{n_chunks}")
    metrics_file = _MetricsFile(metrics_path, name, rows)
    step = jax.jit(_strong(update), donate_argnums=0)
    judge = None if evaluate is None else jax.jit(evaluate)
    form = {leaf: describe_leaf(value) for leaf, value in named_leaves(runner).items()}
    with _curves(name, metrics_path, rows, axes) as track, StopRequest(name, log) as stop:
        progress = _Progress(name, n_chunks, len(rows), steps_per_chunk, show, log)
        for chunk in range(len(rows) + 1, n_chunks + 1):
            runner, metrics = step(runner, *operands)
            host = _to_host(metrics)
            _check_form(form, runner)
            if cause := int(np.max(host.pop("diverged", 0))):
                if checkpoint_dir is not None:
                    _save_again(checkpoint_dir, first, rows, lambda runner: step(runner, *operands)[0])
                values = ", ".join(f"{key} {_mean(value):.4g}" for key, value in host.items())
                why = f"{causes[cause]}; " if causes else ""
                raise Diverged(f"[{name}] chunk {chunk}/{n_chunks} diverged: {why}{values}")
            if judge is not None and (chunk % evaluate_every == 0 or chunk == n_chunks):
                host |= _to_host(judge(runner, *operands))
            rows.append({"stage": name, "chunk": chunk, **jsonable(host)})
            metrics_file.append(rows[-1])
            track(rows[-1])
            progress.report(chunk, host)
            if checkpoint_dir is not None and (chunk % checkpoint_every == 0 or chunk == n_chunks or stop.requested):
                checkpoint.save(checkpoint_dir, chunk, runner, extra=rows)
            if stop.requested:
                raise Stopped(f"[{name}] stopped after chunk {chunk}/{n_chunks}")
    return Trained(runner, rows)


class StopRequest:
    """A context in which the first SIGINT or SIGTERM is remembered in `requested` and a second one ends the process.

    Python runs signal handlers between bytecodes, but a compilation or a chunk is one call that lasts; a thread that
    reads the interpreter's wake-up pipe hears the second signal even then.
    """

    _SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, name: str, log: Callable[[str], None] = print_line) -> None:
        self.requested = False
        self._name, self._log = name, log
        self._active = threading.current_thread() is threading.main_thread()

    def __enter__(self) -> "StopRequest":
        if self._active:
            read, self._write = os.pipe()
            os.set_blocking(self._write, False)
            threading.Thread(target=self._listen, args=(read,), daemon=True).start()
            self._handlers = {number: signal.signal(number, self._remember) for number in self._SIGNALS}
            self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        return self

    def __exit__(self, *_: object) -> None:
        if self._active:
            signal.set_wakeup_fd(self._wakeup)
            for number, handler in self._handlers.items():
                signal.signal(number, handler)
            os.close(self._write)

    def _remember(self, *_: object) -> None:
        self.requested = True

    def _listen(self, read: int) -> None:
        heard = 0
        while number := os.read(read, 1):
            if number[0] not in self._SIGNALS:
                continue
            heard += 1
            if heard > 1:
                os._exit(128 + number[0])
            self.requested = True
            self._log(f"[{self._name}] stopping after this chunk; once more to abort")
        os.close(read)


@contextlib.contextmanager
def _curves(
    stage: str, metrics_path: str | Path | None, rows: list[Row], axes: tuple[str, ...]
) -> Iterator[Callable[[Row], None]]:
    """What hands a row to the trackers in use, which have got `rows` already."""
    if metrics_path is None:
        yield lambda row: None
        return
    with contextlib.closing(tracking.open_tracker(stage, Path(metrics_path).parent)) as tracker:

        def track(row: Row) -> None:
            metrics = {name: value for name, value in row.items() if name not in ("stage", "chunk")}
            tracker.log(row["chunk"], tracking.series(metrics, axes))

        for row in rows:
            track(row)
        yield track


class _MetricsFile:
    """metrics.jsonl: rows of other stages stay, those of this one are exactly `rows` and what is appended."""

    def __init__(self, path: str | Path | None, stage: str, rows: list[Row]) -> None:
        self._path = None if path is None else Path(path)
        if self._path is None:
            return
        text = self._path.read_text(encoding="utf-8") if self._path.exists() else ""
        # A process killed while it wrote leaves a last line without its end.
        whole = [line for line in text.splitlines(keepends=True) if line.endswith("\n")]
        others = [line for line in whole if json.loads(line)["stage"] != stage]
        write_atomic(self._path, "".join(others + [f"{canonical_json(row)}\n" for row in rows]).encode())

    def append(self, row: Row) -> None:
        if self._path is not None:
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(f"{canonical_json(row)}\n")


class _Progress:
    """Lines such as `[ppo] chunk 12/40  30%  reward 0.12  1.2M steps  54k steps/s  eta 12 s`, a few per second."""

    def __init__(
        self, name: str, n_chunks: int, done: int, steps_per_chunk: int, show: tuple[str, ...], log: Callable
    ) -> None:
        self._name, self._n_chunks, self._done = name, n_chunks, done
        self._steps_per_chunk, self._show, self._log = steps_per_chunk, show, log
        self._start = time.monotonic()
        self._last_line = -float("inf")
        if done < n_chunks:
            log(f"[{name}] chunk {done + 1}/{n_chunks}  compiling")

    def report(self, chunk: int, metrics: dict[str, np.ndarray]) -> None:
        now = time.monotonic()
        first = chunk == self._done + 1
        if first:
            self._compiled = now
        if not first and chunk < self._n_chunks and now - self._last_line < _SECONDS_BETWEEN_LINES:
            return
        self._last_line = now
        parts = [f"chunk {chunk}/{self._n_chunks}", f"{100 * chunk // self._n_chunks}%"]
        parts += [f"{key} {_mean(metrics[key]):.3g}" for key in self._show if key in metrics]
        if self._steps_per_chunk:
            parts.append(f"{_short(chunk * self._steps_per_chunk)} steps")
        if first:
            parts.append(f"first chunk {now - self._start:.1f} s")
        else:
            per_chunk = (now - self._compiled) / (chunk - self._done - 1)
            if self._steps_per_chunk:
                parts.append(f"{_short(self._steps_per_chunk / per_chunk)} steps/s")
            parts.append(f"eta {(self._n_chunks - chunk) * per_chunk:.0f} s")
        self._log(f"[{self._name}] " + "  ".join(parts))


def _save_again(directory: str | Path, first: RunnerT, rows: list[Row], step: Callable[[RunnerT], RunnerT]) -> None:
    """Save the state after `rows`, computed anew from the checkpoint before: the Runner itself was donated since."""
    found = checkpoint.restore_latest(directory, first)
    runner, done = (first, 0) if found is None else (found.tree, found.step)
    runner = jax.tree.map(_own, runner)
    for _ in range(done, len(rows)):
        runner = step(runner)
    if found is None or done < len(rows):
        checkpoint.save(directory, len(rows), runner, extra=rows)


def _own(leaf: Any) -> jax.Array:
    # A copy: donation would take the caller's arrays, and refuses a tree in which one array stands twice.
    array = jnp.asarray(leaf)
    return jnp.array(array, dtype=array.dtype, copy=True)


def _to_host(metrics: Mapping[str, jax.Array]) -> dict[str, np.ndarray]:
    return {key: np.asarray(value) for key, value in jax.device_get(dict(metrics)).items()}


def _strong(update: Callable) -> Callable:
    # A checkpoint keeps no weak types, and with them a chunk is another program than without.
    def chunk(runner: Any, *operands: Any) -> tuple[Any, Mapping[str, jax.Array]]:
        runner, metrics = update(runner, *operands)
        return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype=jnp.asarray(leaf).dtype), runner), metrics

    return chunk


def _check_form(form: dict[str, str], runner: Any) -> None:
    for name, leaf in named_leaves(runner).items():
        if form.get(name) != describe_leaf(leaf):
            raise TypeError(f"update changes {name} from {form.get(name, 'nothing')} to {describe_leaf(leaf)}")


def _mean(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)] if values.ndim else values
    return float(np.mean(finite)) if finite.size else float("nan")


def _short(count: float) -> str:
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g}{suffix}"
    return f"{count:.0f}"
