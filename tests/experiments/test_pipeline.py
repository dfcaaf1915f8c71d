"""The main job as a user runs it: a process, its exit code, what it prints and what it leaves behind."""

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from marljax.runtime.artefacts import named_leaves
from marljax.runtime.stages import load_artefact
from marljax.serving import TrainedPolicy
from tests.reference.browser import CHROMIUM, problems, seen_by_browser

ROOT = Path(__file__).parents[2]
TINY = [
    "--preset=smoke",
    "--generator.chunks=2",
    "--generator.steps-per-chunk=2",
    "--synthetic.sessions=4",
    "--synthetic.fresh-sessions=4",
    "--synthetic.fresh-every=1",
    "--trading.no-trade-band=0",
    "--agents.seeds=2",
    "--agents.episode-steps=32",
    "--agents.env-steps=384",
    "--agents.evaluate-every=2",
    "--agents.search.trials=2",
    "--agents.search.env-steps=128",
    "--agents.ppo.n-envs=4",
    "--agents.ppo.n-steps=32",
    "--agents.sac.n-envs=4",
    "--agents.sac.n-iterations=32",
    "--agents.sac.batch-size=32",
    "--meta.chunks=2",
    "--meta.ppo.n-envs=2",
    "--meta.ppo.n-steps=8",
    "--meta.episode-blocks=4",
    "--joint.seeds=2",
    "--joint.chunks=2",
    "--joint.n-envs=2",
    "--joint.n-steps=16",
    "--joint.resamples=100",
    "--allocation.rows-per-block=10",
    "--backtest.resamples=100",
]


@pytest.fixture(scope="module")
def books(tmp_path_factory) -> Path:
    """Two products and the first 400 rows of three days of the embedded sample, gzip and plain."""
    folder = tmp_path_factory.mktemp("books")
    sample = ROOT / "data" / "sample"
    for day in range(3):
        with gzip.open(sample / f"prices_sample_day_{day}.csv.gz", "rt") as file:
            lines = file.read().splitlines()
        kept = [line for line in lines[1:2001] if line.split(";")[2] in ("ALDER", "GROVE")]
        (folder / f"prices_sample_day_{day}.csv").write_text("\n".join([lines[0], *kept]) + "\n")
    described = json.loads((sample / "products.json").read_text())
    described["products"] = [p for p in described["products"] if p["name"] in ("ALDER", "GROVE")]
    (folder / "products.json").write_text(json.dumps(described))
    return folder


def command(run_dir: Path, books: Path | None, *flags: str) -> list[str]:
    data = [] if books is None else ["--data.source=prosperity", "--data.path", str(books)]
    return [sys.executable, str(ROOT / "experiments" / "pipeline.py"), *TINY, f"--run-dir={run_dir}", *data, *flags]


def run(run_dir: Path, books: Path | None, *flags: str) -> subprocess.CompletedProcess:
    return subprocess.run(command(run_dir, books, *flags), capture_output=True, text=True, timeout=600, check=False)


def numbers(run_dir: Path) -> dict:
    """summary.json without its timings."""
    summary = json.loads((run_dir / "summary.json").read_text())
    del summary["stages"]
    return summary


@pytest.fixture(scope="module")
def finished(books, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    result = run(folder, books)
    assert result.returncode == 0, result.stderr
    return folder


def test_a_run_leaves_everything_the_contract_names(finished):
    for name in ("config.json", "provenance.json", "summary.json", "metrics.jsonl", "trials.jsonl", "report.html"):
        assert (finished / name).stat().st_size > 0, name
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["simulated"] is True
    assert summary["source"] == "prosperity"
    assert set(summary["stages"]) == {"data", "features", "generator", "agents", "meta", "joint", "backtest"}
    assert set(summary["selection"]) == {"ALDER", "GROVE"}
    assert {"equal_weight", "buy_and_hold", "risk_parity", "no_trade"} <= summary["differences"].keys()
    for strategy, metrics in summary["backtest"].items():
        assert metrics.keys() >= {"cagr", "volatility", "sharpe", "sortino", "calmar", "max_drawdown", "turnover"}
        assert all(isinstance(value, float) for value in metrics.values()), strategy
    for difference in summary["differences"].values():
        low, _, high = difference["sharpe"]
        assert (difference["verdict"] == "established") == (low > 0 or high < 0)
    rows = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    agents = [name for algorithm in ("ppo", "sac") for name in (f"{algorithm} search", *[algorithm] * 3)]
    assert [row["stage"] for row in rows] == ["generator"] * 2 + agents + ["meta"] * 2 + ["joint"] * 2
    files = json.loads((finished / "provenance.json").read_text())["files"]
    assert len(files) == 4, "three days and products.json"
    assert all(len(file["sha256"]) == 64 for file in files)


def test_both_algorithms_get_equal_trials_and_equal_env_steps(finished):
    rows = [json.loads(line) for line in (finished / "trials.jsonl").read_text().splitlines()]
    found = {
        algorithm: sorted(
            (row["product"], row["env_steps"], "synthetic_sharpe" in row)
            for row in rows
            if row["algorithm"] == algorithm and "env_steps" in row
        )
        for algorithm in ("ppo", "sac")
    }
    assert found["ppo"] == found["sac"]
    assert found["ppo"] == sorted(
        (product, steps, searched)
        for product in ("ALDER", "GROVE")
        for steps, searched in [(128, True), (384, False)] * 2
    )
    choices = {row["product"]: row for row in rows if "margin" in row}
    selection = json.loads((finished / "summary.json").read_text())["selection"]
    assert choices.keys() == selection.keys()
    for product, row in choices.items():
        assert (row["algorithm"], row["margin"]) == (selection[product]["algorithm"], selection[product]["margin"])
        assert row["verdict"] in ("established", "not established")
    taken = [(row["product"], row["algorithm"]) for row in rows if row.get("taken")]
    assert len(taken) == len(set(taken)) == 4, "one setting for each product and algorithm"


def test_agents_learn_in_calm_then_stress_then_real_markets(finished):
    rows = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    for name in ("ppo", "sac"):
        phases = [row["phase"][0][0] for row in rows if row["stage"] == name]
        assert phases == sorted(phases)
        assert phases[-1] == 2.0


def test_a_run_says_that_its_agents_met_generated_sessions_and_that_these_were_fresh(finished):
    summary = json.loads((finished / "summary.json").read_text())
    trained_on = summary["trained_on"]
    assert trained_on["origins"] == ["simulated", "synthetic"]
    assert trained_on["synthetic_fraction"] == 0.25
    assert json.loads((finished / "provenance.json").read_text())["origins"]["generated sessions"] == "synthetic"
    rows = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    for name in ("ppo", "sac"):
        drawn = [row["sessions_drawn"] for row in rows if row["stage"] == name]
        assert drawn == [8, 12, 16], "episodes are as long as a chunk, so that every chunk opens fresh sessions"
        assert trained_on["sessions_drawn"][name] == drawn[-1]
    assert "generated sessions were drawn while agents learned" in (finished / "report.html").read_text()


def test_agents_are_evaluated_on_validation_episodes_while_they_learn(finished):
    rows = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    for name in ("ppo", "sac"):
        judged = [row["chunk"] for row in rows if row["stage"] == name and "deterministic_return" in row]
        assert judged == [2, 3], "every second chunk and the last"
    assert "return of a validation episode" in (finished / "report.html").read_text()


def test_tuned_agents_are_used_only_where_validation_establishes_that_they_are_better(finished):
    found = json.loads((finished / "summary.json").read_text())["joint"]
    low, high = found["interval"]
    assert low <= found["difference"] <= high
    assert (found["verdict"] == "established") == (low > 0 or high < 0)
    assert found["adopted"] == (low > 0)
    rows = [json.loads(line) for line in (finished / "trials.jsonl").read_text().splitlines()]
    tuned = [(row["seed"], row["env_steps"]) for row in rows if row["algorithm"] == "joint"]
    assert tuned == [(seed, 2 * 2 * 16) for seed in range(2)]
    assert "Joint fine-tuning" in (finished / "report.html").read_text()


@pytest.mark.nightly
def test_without_chunks_nothing_is_tuned(finished, books, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    assert run(tmp_path / "run", books, "--joint.chunks=0").returncode == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["joint"] is None
    assert "joint" not in summary["stages"]
    assert "backtest" in summary["stages"]
    assert '"algorithm":"joint"' not in (tmp_path / "run" / "trials.jsonl").read_text()


def test_the_chosen_agents_can_be_loaded_and_act(finished):
    for product in ("ALDER", "GROVE"):
        agent = TrainedPolicy.load(finished / "policies" / product)
        action, _ = agent.act(np.zeros(agent.obs_size))
        assert action.shape == (1,)
        assert abs(float(action[0])) <= 1.0


def test_the_meta_controller_can_be_loaded_as_it_was_tested_and_asks_for_a_tilt_of_each_agent(finished):
    meta = TrainedPolicy.load(finished / "meta_policy")
    tested = load_artefact(finished / "stages" / "joint").arrays
    for name, leaf in named_leaves(meta.params).items():
        np.testing.assert_array_equal(leaf, tested[f"['meta']{name}"])
    action, _ = meta.act(np.ones(meta.obs_size))
    assert action.shape == (3,)
    assert np.abs(action).max() <= 1.0


def test_costs_in_the_summary_add_up(finished):
    for products in json.loads((finished / "summary.json").read_text())["costs"].values():
        for item in products.values():
            costs = item["slippage"] + item["latency"] + item["impact"] + item["fees"]
            assert item["gross"] - costs == pytest.approx(item["net"], abs=0.05)


def test_the_parts_do_not_overlap_and_the_test_part_comes_last(finished):
    split = json.loads((finished / "summary.json").read_text())["split"]
    assert split["train"][1] <= split["validation"][0]
    assert split["validation"][1] <= split["test"][0]


@pytest.mark.nightly
def test_two_runs_with_one_seed_agree_and_with_two_seeds_do_not(finished, books, tmp_path):
    again, other = tmp_path / "again", tmp_path / "other"
    assert run(again, books).returncode == 0
    assert numbers(again) == numbers(finished)
    assert (again / "metrics.jsonl").read_bytes() == (finished / "metrics.jsonl").read_bytes()
    assert run(other, books, "--seed=1").returncode == 0
    assert numbers(other)["backtest"] != numbers(finished)["backtest"]


def test_a_second_run_in_the_folder_computes_nothing(finished, books):
    before = numbers(finished)
    result = run(finished, books)
    assert result.returncode == 0
    assert "chunk" not in result.stderr
    stages = json.loads((finished / "summary.json").read_text())["stages"]
    assert all(stage["cached"] for stage in stages.values())
    assert numbers(finished) == before


def interrupt(run_dir: Path, books: Path, when: str, number: signal.Signals) -> int:
    """Start a run, send the signal as soon as a line of progress contains `when`, and return the exit code."""
    process = subprocess.Popen(command(run_dir, books), stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if when in line:
            process.send_signal(number)
            break
    process.stderr.read()
    return process.wait(timeout=300)


@pytest.mark.parametrize(
    "when",
    ["[sac] chunk 1/3", *(pytest.param(f"[{s}] chunk 1/2", marks=pytest.mark.nightly) for s in ("meta", "joint"))],
)
def test_killed_at_any_moment_a_rerun_ends_with_the_same_numbers(finished, books, tmp_path, when):
    folder = tmp_path / "run"
    assert interrupt(folder, books, when, signal.SIGKILL) == -signal.SIGKILL
    assert not (folder / "summary.json").exists()
    assert run(folder, books).returncode == 0
    assert numbers(folder) == numbers(finished)
    assert (folder / "metrics.jsonl").read_bytes() == (finished / "metrics.jsonl").read_bytes()


@pytest.mark.nightly
def test_ctrl_c_stops_with_a_checkpoint_and_the_same_command_resumes(finished, books, tmp_path):
    folder = tmp_path / "run"
    assert interrupt(folder, books, "[ppo] chunk 1/3", signal.SIGINT) == 3
    result = run(folder, books)
    assert result.returncode == 0
    assert "[ppo] resumes after chunk" in result.stderr
    assert numbers(folder) == numbers(finished)


def test_a_stage_can_be_rerun_alone(finished, books):
    kept = (finished / "summary.json").read_bytes()
    result = run(finished, books, "--stages", "features")
    assert result.returncode == 0
    assert "[features] done" in result.stderr
    assert "[generator]" not in result.stderr
    assert (finished / "summary.json").read_bytes() == kept


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda text: text.replace(";", ","), ["prices_sample_day_1.csv:1"]),
        (lambda text: text.replace("bid_volume_1", "volume"), ["prices_sample_day_1.csv:1", "bid_volume_1"]),
        (lambda text: text.replace(";61.", ";x61.", 1), ["prices_sample_day_1.csv:", "not a number"]),
        (lambda text: "", ["prices_sample_day_1.csv", "empty"]),
    ],
)
def test_bad_input_is_one_line_exit_code_2_and_nothing_left_behind(books, tmp_path, spoil, said):
    folder = tmp_path / "books"
    folder.mkdir()
    for file in books.iterdir():
        text = file.read_text()
        (folder / file.name).write_text(spoil(text) if file.name == "prices_sample_day_1.csv" else text)
    result = run(tmp_path / "run", folder)
    assert result.returncode == 2
    assert len(result.stderr.strip().splitlines()) == 1
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.stderr
    for words in said:
        assert words in result.stderr.splitlines()[-1]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("rows", "shift", "said"),
    [(12, 0.0, "the train part is empty"), (300, 0.0, "windows of 32 steps"), (900, -100.0, "positive prices")],
)
def test_books_that_a_later_stage_could_not_use_are_refused_before_anything_is_written(tmp_path, rows, shift, said):
    lines = ["time,bid_price_1,bid_size_1,ask_price_1,ask_size_1"]
    lines += [f"{t},{99 + shift + t % 3},5,{101 + shift + t % 2},7" for t in range(rows)]
    (tmp_path / "books.csv").write_text("\n".join(lines) + "\n")
    result = run(tmp_path / "run", None, "--data.source=table", f"--data.path={tmp_path / 'books.csv'}")
    assert result.returncode == 2, result.stderr
    assert "books.csv" in result.stderr
    assert said in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--seed=-1"], "seed"),
        (["--agents.sedes=3"], "agents.seeds"),
        (["--data.source=lobster"], "--data.path"),
        (["--allocation.leverage=-1"], "leverage"),
        (["--data.path", "nowhere.csv", "--data.source=table"], "nowhere.csv"),
        (["--stages", "meat"], "stages"),
    ],
)
def test_a_bad_flag_is_refused_by_name(tmp_path, flags, said):
    result = run(tmp_path / "run", None, *flags)
    assert result.returncode == 2
    assert said in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium or Chrome is installed")
def test_the_report_opens_in_a_browser_with_every_plot_drawn_and_no_error(finished, tmp_path):
    seen = seen_by_browser((finished / "report.html").read_text(encoding="utf-8"), tmp_path)
    assert problems(seen) == []
    assert len(seen["plots"]) == 9


def test_the_manual_names_every_stage_and_unit():
    result = subprocess.run(
        [sys.executable, str(ROOT / "experiments" / "pipeline.py"), "--help"],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        env=os.environ | {"COLUMNS": "120"},
    )
    for words in ("--data.source", "--costs.fee-rate", "fraction of notional", "--stages", "generator", "--preset"):
        assert words in result.stdout


@pytest.mark.nightly
def test_killed_again_and_again_at_odd_times_it_still_ends_with_the_same_numbers(finished, books, tmp_path):
    folder = tmp_path / "run"
    for seconds in (1.5, 3.0, 4.5, 6.0, 7.5, 9.0, 10.5, 12.0):
        process = subprocess.Popen(command(folder, books), stderr=subprocess.DEVNULL)
        try:
            process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    assert run(folder, books).returncode == 0
    assert numbers(folder) == numbers(finished)
    assert (folder / "metrics.jsonl").read_bytes() == (finished / "metrics.jsonl").read_bytes()


@pytest.mark.nightly
def test_smoke_on_the_embedded_sample_ends_within_ninety_seconds_from_a_cold_cache(tmp_path):
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache")}
    start = time.monotonic()
    subprocess.run(
        [sys.executable, str(ROOT / "experiments" / "pipeline.py"), "--preset=smoke", f"--run-dir={tmp_path / 'run'}"],
        check=True,
        env=environment,
        capture_output=True,
    )
    assert time.monotonic() - start < 90
