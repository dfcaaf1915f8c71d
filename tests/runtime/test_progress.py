"""The host loop: stopped, killed or undisturbed, a run ends with the same bits."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import pytest

from marljax.runtime import checkpoint, progress
from tests.runtime import chunked_program

PROGRAM = Path(chunked_program.__file__)
N_CHUNKS = 12


def start(directory: Path, *, checkpoint_every: int = 3, seconds_per_line: float) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": str(PROGRAM.parents[2])}
    command = [sys.executable, PROGRAM, directory, N_CHUNKS, checkpoint_every, seconds_per_line]
    return subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True, env=environment)


def wait_for(path: Path, n_lines: int) -> None:
    deadline = time.monotonic() + 60
    while not path.exists() or path.read_text().count("\n") < n_lines:
        assert time.monotonic() < deadline, f"{path} never had {n_lines} lines"
        time.sleep(0.005)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> dict[str, bytes]:
    directory = tmp_path_factory.mktemp("undisturbed")
    assert chunked_program.main(directory, N_CHUNKS) == 0
    return results(directory)


def results(directory: Path) -> dict[str, bytes]:
    return {name: (directory / name).read_bytes() for name in ("metrics.jsonl", "final.npz")}


def test_killed_twice_and_resumed_ends_with_the_same_bits(tmp_path, undisturbed, capsys):
    for n_lines in (4, 8):
        process = start(tmp_path, checkpoint_every=3, seconds_per_line=0.05)
        wait_for(tmp_path / "metrics.jsonl", n_lines)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "final.npz").exists()
    # The kill may also hit in the middle of a line.
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"stage":"to')
    assert chunked_program.main(tmp_path, N_CHUNKS, checkpoint_every=5) == 0
    assert "[toy] resumes after chunk" in capsys.readouterr().err
    assert results(tmp_path) == undisturbed


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_after_the_chunk_with_a_checkpoint(tmp_path, undisturbed, number):
    process = start(tmp_path, checkpoint_every=1000, seconds_per_line=0.1)
    wait_for(tmp_path / "metrics.jsonl", 2)
    process.send_signal(number)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 3, said
    n_done = (tmp_path / "metrics.jsonl").read_text().count("\n")
    assert 2 <= n_done < N_CHUNKS
    assert f"[toy] stopped after chunk {n_done}/{N_CHUNKS}" in said
    assert "Traceback" not in said
    found = checkpoint.restore_latest(tmp_path / "checkpoints", chunked_program.init())
    assert found.step == n_done == len(found.extra)
    assert chunked_program.main(tmp_path, N_CHUNKS) == 0
    assert results(tmp_path) == undisturbed


def test_a_second_signal_ends_the_process_at_once(tmp_path):
    process = start(tmp_path, seconds_per_line=30.0)
    assert "compiling" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    assert "once more to abort" in process.stderr.readline()
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 128 + signal.SIGINT
    assert time.monotonic() - began < 5


def test_an_interrupted_last_chunk_still_stops_the_run(tmp_path):
    def log(line: str) -> None:
        if "compiling" in line:
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(progress.Stopped, match="after chunk 1/1"):
        progress.run_chunks(chunked_program.update, chunked_program.init(), 1, name="toy", log=log)
    assert signal.getsignal(signal.SIGTERM) is before


def test_one_compilation_serves_all_chunks_and_the_callers_runner_stays(tmp_path):
    runner = chunked_program.init()._replace(params=jnp.ones((8, 8)) * 0.5)
    twice = {"a": runner, "b": runner, "count": 0}  # one array twice, and a weakly typed leaf

    def update(both):
        new, metrics = chunked_program.update(both["a"])
        return {"a": new, "b": both["b"], "count": both["count"] + 1}, metrics

    counted = chex.assert_max_traces(update, n=1)
    trained = progress.run_chunks(counted, twice, 4, name="toy", log=lambda _: None)
    assert trained.runner["count"] == 4
    assert float(runner.params.sum()) == 32.0
    assert float(trained.runner["b"].params.sum()) == 32.0


def test_operands_reach_every_chunk_and_are_not_saved(tmp_path):
    def update(total, data):
        return total + data.sum(), {"total": total}

    data = jnp.arange(4)
    for n_chunks in (2, 3):
        trained = progress.run_chunks(
            update, jnp.int32(0), n_chunks, operands=(data,), name="toy", checkpoint_dir=tmp_path, log=lambda _: None
        )
    assert int(trained.runner) == 18
    assert data.tolist() == [0, 1, 2, 3]


def test_divergence_ends_the_run_and_names_the_chunk(tmp_path):
    def update(count):
        after = jnp.where(count == 2, count, count + 1)
        return after, {"loss": count * 2.0, "diverged": jnp.where(count == 2, jnp.array([0.0, 1.0]), 0.0)}

    def run(**more):
        progress.run_chunks(update, jnp.float32(0), 5, name="toy", checkpoint_dir=tmp_path, log=lambda _: None, **more)

    with pytest.raises(progress.Diverged, match=r"\[toy\] chunk 3/5 diverged: loss 4"):
        run()
    kept = checkpoint.restore_latest(tmp_path, jnp.float32(0))
    assert (kept.step, float(kept.tree), len(kept.extra)) == (2, 2.0, 2), "the last good state"
    with pytest.raises(progress.Diverged, match="chunk 3/5 diverged: too much; loss 4"):
        run(causes=("", "too much"))
    assert checkpoint.restore_latest(tmp_path, jnp.float32(0)).step == 2


def test_a_run_that_diverges_at_once_keeps_where_it_began(tmp_path):
    with pytest.raises(progress.Diverged):
        progress.run_chunks(
            lambda x: (x + 1, {"diverged": 2.0}), jnp.float32(7), 5, name="toy", checkpoint_dir=tmp_path, log=print
        )
    kept = checkpoint.restore_latest(tmp_path, jnp.float32(0))
    assert (kept.step, float(kept.tree), kept.extra) == (0, 7.0, [])


def test_an_update_that_changes_its_runner_is_named():
    with pytest.raises(TypeError, match=r"update changes .* from int32\[\] to float32\[\]"):
        progress.run_chunks(lambda n: (n * 1.5, {}), jnp.int32(1), 2, name="toy", log=lambda _: None)


def test_rows_of_other_stages_stay_and_nan_is_null(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"chunk":1,"stage":"before"}\n{"chunk":1,"stage":"toy"}\n{"chunk":1,"stage":"after"}\n')
    trained = progress.run_chunks(
        chunked_program.update, chunked_program.init(), 2, name="toy", metrics_path=path, log=lambda _: None
    )
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["stage"] for row in rows] == ["before", "after", "toy", "toy"]
    assert rows[2:] == trained.rows
    assert rows[2]["undefined"] is None
    assert len(rows[2]["per_product"]) == 2
    assert "diverged" not in rows[2]


def test_every_slow_chunk_and_the_last_has_a_line():
    lines = []

    def slow_log(line: str) -> None:
        lines.append(line)
        time.sleep(progress._SECONDS_BETWEEN_LINES * 1.1)

    progress.run_chunks(
        chunked_program.update,
        chunked_program.init(),
        3,
        name="toy",
        steps_per_chunk=500_000,
        show=("mean",),
        log=slow_log,
    )
    assert lines[0] == "[toy] chunk 1/3  compiling"
    assert lines[1].startswith("[toy] chunk 1/3  33%  mean ")
    assert "1M steps" in lines[2]
    assert "eta" in lines[2]
    assert lines[3].startswith("[toy] chunk 3/3  100%")
    lines.clear()
    progress.run_chunks(chunked_program.update, chunked_program.init(), 200, name="toy", log=lines.append)
    assert len(lines) < 20
    assert lines[-1].startswith("[toy] chunk 200/200  100%")


def test_it_runs_outside_the_main_thread():
    done = []
    thread = threading.Thread(
        target=lambda: done.append(
            progress.run_chunks(chunked_program.update, chunked_program.init(), 2, name="toy", log=lambda _: None)
        )
    )
    thread.start()
    thread.join()
    assert int(done[0].runner.step) == 2


def test_seeds_side_by_side_are_one_runner(tmp_path):
    runners = jax.vmap(lambda key: chunked_program.init()._replace(key=key))(jax.random.split(jax.random.key(0), 3))
    trained = progress.run_chunks(
        jax.vmap(chunked_program.update, out_axes=(0, 0)),
        runners,
        2,
        name="toy",
        checkpoint_dir=tmp_path,
        log=lambda _: None,
    )
    assert len(trained.rows[0]["mean"]) == 3


def test_evaluation_adds_to_some_rows_and_leaves_training_as_it_is(tmp_path):
    def evaluate(runner, offset):
        return {"score": runner.params.sum() + offset, "used_key": jax.random.uniform(runner.key)}

    def update(runner, offset):
        return chunked_program.update(runner)

    options = {"operands": (jnp.float32(2.0),), "name": "toy", "log": lambda _: None}
    plain = progress.run_chunks(update, chunked_program.init(), 5, **options)
    judged = progress.run_chunks(update, chunked_program.init(), 5, evaluate=evaluate, evaluate_every=2, **options)
    assert ["score" in row for row in judged.rows] == [False, True, False, True, True]
    chex.assert_trees_all_equal(*jax.tree.map(jax.random.key_data, (plain.runner.key, judged.runner.key)))
    chex.assert_trees_all_equal(plain.runner.params, judged.runner.params)
    assert judged.rows[-1]["score"] == pytest.approx(float(plain.runner.params.sum()) + 2.0, rel=1e-6)
    assert [{k: v for k, v in row.items() if k in plain.rows[0]} for row in judged.rows] == plain.rows
