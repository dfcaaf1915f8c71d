"""Trackers show what metrics.jsonl holds, number by number, and change nothing."""

import importlib.util
import json
import math
import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marljax.data.schema import InputError
from marljax.runtime import progress, tracking
from tests.runtime import chunked_program


@pytest.fixture(autouse=True)
def nothing_in_use():
    yield
    tracking.use(())


class Recorder:
    """A tracker that remembers."""

    def __init__(self):
        self.points, self.closed = [], False

    def log(self, step, values):
        assert not self.closed
        self.points.append((step, dict(values)))

    def close(self):
        self.closed = True


@pytest.fixture
def recorders(monkeypatch):
    opened = {}

    def open_tracker(stage, run_dir):
        opened[stage, run_dir.name] = Recorder()
        return opened[stage, run_dir.name]

    monkeypatch.setattr(tracking, "open_tracker", open_tracker)
    return opened


def train(folder, n_chunks, update=chunked_program.update, runner=None, **options):
    return progress.run_chunks(
        update,
        chunked_program.init() if runner is None else runner,
        n_chunks,
        name="toy",
        checkpoint_dir=folder / "checkpoints",
        metrics_path=folder / "metrics.jsonl",
        log=lambda _: None,
        **options,
    )


def test_every_seed_and_product_has_a_curve_of_its_own_beside_the_mean():
    found = tracking.series({"reward": [[1.0, 2.0], [3.0, None]], "loss": 0.5, "name": "x"}, axes=("seed", "product"))
    assert math.isnan(found.pop("reward/seed1/product1"))
    assert found == {
        "loss": 0.5,
        "reward": 2.0,
        "reward/seed0/product0": 1.0,
        "reward/seed0/product1": 2.0,
        "reward/seed1/product0": 3.0,
    }
    assert tracking.series({"x": np.ones((1, 2))})["x/seed0/1"] == 1.0
    assert math.isnan(tracking.series({"x": None})["x"])


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_missing_package_is_named_with_its_extra(name, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=rf"pip install 'marljax\[{name}\]'"):
        tracking.use([name])
    assert tracking._used == []


def test_an_unknown_tracker_is_refused():
    with pytest.raises(InputError, match="'mlflow' is none of tensorboard, wandb"):
        tracking.use(["mlflow"])


def test_a_tracker_gets_the_rows_of_the_metrics_file(tmp_path, recorders):
    train(tmp_path, 3)
    recorder = recorders["toy", tmp_path.name]
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert recorder.closed
    assert [step for step, _ in recorder.points] == [1, 2, 3] == [row["chunk"] for row in rows]
    for (_, values), row in zip(recorder.points, rows, strict=True):
        assert values["mean"] == row["mean"]
        assert [values["per_product/seed0"], values["per_product/seed1"]] == row["per_product"]
        assert not values.keys() & {"chunk", "stage"}


def test_a_resumed_stage_is_told_its_earlier_rows_first(tmp_path, recorders):
    train(tmp_path, 2)
    train(tmp_path, 4)
    resumed = recorders["toy", tmp_path.name].points
    train(tmp_path / "undisturbed", 4)
    assert repr(resumed) == repr(recorders["toy", "undisturbed"].points)
    assert len(resumed) == 4


def test_a_stage_that_ends_badly_closes_its_tracker(tmp_path, recorders):
    def update(count):
        return count + 1, {"loss": count, "diverged": count == 1}

    with pytest.raises(progress.Diverged):
        train(tmp_path, 3, update, jnp.float32(0))
    assert recorders["toy", tmp_path.name].closed


def test_without_trackers_nothing_but_the_metrics_file_is_written(tmp_path):
    train(tmp_path, 1)
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoints", "metrics.jsonl"}


def read_events(folder):
    """{curve: [(step, value)]} of TensorBoard's event files: records of length, checksum, event, checksum."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    curves = {}
    for file in sorted(folder.iterdir()):
        content, at = file.read_bytes(), 0
        while at < len(content):
            (length,) = struct.unpack_from("<Q", content, at)
            event = event_pb2.Event.FromString(content[at + 12 : at + 12 + length])
            at += 16 + length
            for value in event.summary.value:
                curves.setdefault(value.tag, []).append((event.step, value.simple_value))
    return curves


def test_tensorboard_gets_every_point_once_also_after_a_resume(tmp_path):
    pytest.importorskip("tensorboardX")
    tracking.use(["tensorboard"])
    runners = jax.vmap(lambda key: chunked_program.init()._replace(key=key))(jax.random.split(jax.random.key(0), 2))
    for n_chunks in (2, 3):
        trained = train(tmp_path, n_chunks, jax.vmap(chunked_program.update, out_axes=(0, 0)), runners)
    curves = read_events(tmp_path / "tensorboard" / "toy")
    for seed in range(2):
        found = curves[f"mean/seed{seed}"]
        assert [step for step, _ in found] == [1, 2, 3]
        assert [value for _, value in found] == pytest.approx([row["mean"][seed] for row in trained.rows])
    assert "per_product/seed1/product0" in curves


def wandb_records(file):
    """The records of an offline run: a log in blocks of 32 KiB, of fragments with checksum, length and type."""
    record_type = pytest.importorskip("wandb.proto.wandb_internal_pb2").Record
    content, at, record, found = file.read_bytes(), 7, b"", []
    while at + 7 <= len(content):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        length, kind = struct.unpack_from("<HB", content, at + 4)
        record += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last fragment
            found.append(record_type.FromString(record))
            record = b""
    return found


def test_wandb_writes_an_offline_run_with_every_point_and_the_configuration(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    (tmp_path / "config.json").write_text('{"seed": 7}')
    tracking.use(["wandb"])
    trained = train(tmp_path, 2)
    (file,) = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    records = wandb_records(file)
    history = [
        {"/".join([item.key, *item.nested_key]).strip("/"): json.loads(item.value_json) for item in record.history.item}
        for record in records
        if record.HasField("history")
    ]
    assert [point["mean"] for point in history] == pytest.approx([row["mean"] for row in trained.rows])
    assert [point["per_product/seed1"] for point in history] == [row["per_product"][1] for row in trained.rows]
    assert [point["_step"] for point in history] == [1, 2]
    (run,) = [record.run for record in records if record.HasField("run")][:1]
    assert {item.key: item.value_json for item in run.config.update}["seed"] == "7"
    assert (run.project, run.run_group, run.job_type) == ("marljax", tmp_path.name, "toy")
