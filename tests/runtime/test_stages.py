"""The stage cache: computed once for what it depends on, whole or absent."""

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from marljax.data.schema import SourceFile
from marljax.runtime import artefacts, stages
from marljax.runtime.stages import Artefact, StageCache


class Counter:
    """A stage that counts how often it was computed."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, checkpoints: Path) -> Artefact:
        self.count += 1
        self.checkpoints = checkpoints
        return Artefact({"x": np.arange(3.0)}, {"names": ["a"], "undefined": float("nan")})


def cache(run_dir: Path, seed: int = 0, **options) -> StageCache:
    return StageCache(run_dir, context={"seed": seed}, log=lambda _: None, **options)


def test_a_second_run_loads_what_the_first_computed(tmp_path):
    compute = Counter()
    first = cache(tmp_path).run("features", {"window": 3}, compute)
    second = cache(tmp_path).run("features", {"window": 3}, compute)
    assert compute.count == 1
    assert (first.cached, second.cached) == (False, True)
    assert first.key == second.key
    np.testing.assert_array_equal(first.value.arrays["x"], second.value.arrays["x"])
    assert first.value.metadata == second.value.metadata == {"names": ["a"], "undefined": None}
    assert set(second.summary) == {"seconds", "cached"}
    assert artefacts.read_json(tmp_path / "stages" / "features" / "stage.json")["inputs"] == {"window": 3}


def test_whatever_an_artefact_depends_on_changes_its_key(tmp_path, monkeypatch):
    compute = Counter()
    keys = {cache(tmp_path).run("a", {"window": 3, "rate": 0.1}, compute).key}
    keys.add(cache(tmp_path).run("a", {"window": 4, "rate": 0.1}, compute).key)
    keys.add(cache(tmp_path, seed=1).run("a", {"window": 4, "rate": 0.1}, compute).key)
    source = tmp_path / "script.py"
    source.write_text("x = 1\n")
    keys.add(cache(tmp_path, sources=[source]).run("a", {"window": 4, "rate": 0.1}, compute).key)
    source.write_text("x = 2\n")
    keys.add(cache(tmp_path, sources=[source]).run("a", {"window": 4, "rate": 0.1}, compute).key)
    monkeypatch.setattr(stages, "_versions", lambda *_: {"jax": "another"})
    keys.add(cache(tmp_path, sources=[source]).run("a", {"window": 4, "rate": 0.1}, compute).key)
    monkeypatch.setattr(stages, "describe_device", lambda: {"cores": 64})
    keys.add(cache(tmp_path, sources=[source]).run("a", {"window": 4, "rate": 0.1}, compute).key)
    assert len(keys) == compute.count == 7


def test_the_order_of_keys_is_no_difference(tmp_path):
    compute = Counter()
    cache(tmp_path).run("a", {"x": 1, "y": (1, 2)}, compute)
    assert cache(tmp_path).run("a", {"y": [1, 2], "x": 1}, compute).cached


def test_a_forced_stage_is_computed_alone(tmp_path):
    first, second = Counter(), Counter()
    for force in ((), ("first",)):
        run = cache(tmp_path, force=force)
        key = run.run("first", {}, first).key
        run.run("second", {"first": key}, second)
    assert (first.count, second.count) == (2, 1)


def test_a_failing_stage_leaves_nothing_that_counts_as_an_artefact(tmp_path):
    def fail(_: Path) -> Artefact:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        cache(tmp_path).run("a", {}, fail)
    assert not list(tmp_path.rglob("*"))

    def fail_to_save(value: Artefact, directory: Path) -> None:
        (directory / "half").write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        cache(tmp_path).run("a", {}, Counter(), save=fail_to_save)
    assert not (tmp_path / "stages" / "a").exists()
    assert not cache(tmp_path).run("a", {}, Counter()).cached
    assert sorted(path.name for path in (tmp_path / "stages").iterdir()) == ["a"]


def test_checkpoints_outlive_a_kill_and_end_with_their_stage(tmp_path):
    met = []

    def train(checkpoints: Path) -> Artefact:
        met.append((checkpoints / "half").exists())
        checkpoints.mkdir(parents=True, exist_ok=True)
        (checkpoints / "half").write_text("half")
        if len(met) in (1, 2):
            raise KeyboardInterrupt
        return Artefact({}, {})

    for config in ({"rate": 1}, {"rate": 2}):
        with pytest.raises(KeyboardInterrupt):
            cache(tmp_path).run("ppo", config, train)
    assert len(list((tmp_path / "checkpoints").iterdir())) == 1, "those of another configuration are removed"
    cache(tmp_path).run("ppo", {"rate": 2}, train)
    assert met == [False, False, True]
    assert not (tmp_path / "checkpoints").exists()


def test_a_stage_of_another_name_keeps_its_checkpoints(tmp_path):
    mine = tmp_path / "checkpoints" / f"ppo-fine-{'0' * 16}"
    mine.mkdir(parents=True)
    cache(tmp_path).run("ppo", {}, Counter())
    assert mine.exists()


def test_stages_may_store_trees(tmp_path):
    like = {"w": jnp.zeros(3)}
    stage = cache(tmp_path).run(
        "weights",
        {},
        lambda _: {"w": jnp.arange(3.0)},
        save=lambda tree, folder: artefacts.save_tree(folder / "weights.npz", tree),
        load=lambda folder: artefacts.load_tree(folder / "weights.npz", like),
    )
    np.testing.assert_array_equal(stage.value["w"], [0, 1, 2])


KILLED_PROGRAM = """
import os, signal, sys
from pathlib import Path
import numpy as np
from marljax.runtime import stages
moment, calls = int(sys.argv[2]), 0
def die(*_):
    global calls
    calls += 1
    if calls == moment:
        os.kill(os.getpid(), signal.SIGKILL)
def traced(frame, event, _):
    if event == "line" and frame.f_code.co_filename == stages.__file__:
        die()
    return traced
cache = stages.StageCache(sys.argv[1], context={"seed": 0})
artefact = stages.Artefact({"x": np.arange(4)}, {})
sys.settrace(traced)
cache.run("a", {}, lambda _: artefact)
sys.settrace(None)
print(calls)
"""


@pytest.mark.nightly
def test_a_kill_at_any_line_leaves_nothing_or_the_whole_artefact(tmp_path):
    def run(directory: Path, moment: int) -> subprocess.CompletedProcess:
        command = [sys.executable, "-c", KILLED_PROGRAM, str(directory), str(moment)]
        return subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)

    whole = run(tmp_path / "whole", -1)
    n_lines = int(whole.stdout)
    assert n_lines > 15
    for moment in range(1, n_lines + 1):
        directory = tmp_path / str(moment)
        assert run(directory, moment).returncode == -signal.SIGKILL
        folder = directory / "stages" / "a"
        if folder.exists():
            np.testing.assert_array_equal(stages.load_artefact(folder).arrays["x"], np.arange(4))
            assert artefacts.read_json(folder / "stage.json")["key"]
        stage = cache(directory).run("a", {}, lambda _: Artefact({"x": np.arange(4)}, {}))
        np.testing.assert_array_equal(stage.value.arrays["x"], np.arange(4))


def test_provenance_says_what_a_run_was_made_from(tmp_path):
    file = tmp_path / "books.csv"
    file.write_text("1,2\n")
    source = SourceFile("books.csv", stages.hash_file(file), 1)
    found = stages.provenance(seed=3, files=[source], origins={"train": "simulated"})
    assert {"python", "jax", "flax", "optax", "numpy", "pandas", "marljax"} <= set(found["versions"])
    assert found["files"] == [{"path": "books.csv", "sha256": hashlib.sha256(b"1,2\n").hexdigest(), "rows": 1}]
    assert found["device"]["platform"] == "cpu"
    assert str(Path(stages.__file__).parents[2]) not in artefacts.canonical_json(found), "no path of this machine"
