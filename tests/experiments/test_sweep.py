"""`sweep.py`: a small search from end to end, stopped and resumed, and one line for what is wrong."""

import dataclasses
import json

import numpy as np
import pytest

from experiments import command, sweep
from marljax.agents import PPOConfig
from marljax.runtime.config import from_json, to_json
from marljax.runtime.progress import Stopped

CONFIG = dataclasses.replace(
    sweep.PRESETS["smoke"],
    range=(("learning_rate", 1e-4, 1e-2, "log"), ("discount", 0.9, 0.99, "linear")),
    chunks=1,
    episodes=3,
    confirmation_seeds=2,
    ppo=PPOConfig(n_envs=2, n_steps=16, n_minibatches=2),
)


def rows(folder, name="trials.jsonl"):
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    sweep.main(dataclasses.replace(CONFIG, run_dir=folder))
    return folder


def test_there_is_a_row_for_every_trial_rung_and_seed(done):
    searched = [row for row in rows(done) if row["rung"] is not None]
    assert [(r["rung"], r["seed"]) for r in searched] == [(0, 0), (0, 1)] * 4 + [(1, 0), (1, 1)] * 2
    for row in searched:
        assert 1e-4 <= row["hyperparameters"]["learning_rate"] <= 1e-2
        assert 0.9 <= row["hyperparameters"]["discount"] <= 0.99
        assert row["env_steps"] == {0: 32, 1: 96}[row["rung"]]
        assert 1 <= row["score"] == row["deterministic_return"] <= 500
        assert row["stochastic_return"] >= 1
    assert len({row["hyperparameters"]["learning_rate"] for row in searched}) == 4


def test_the_better_half_goes_on_and_the_best_of_the_last_is_confirmed(done):
    scores = {}
    for row in rows(done):
        if row["rung"] is not None:
            scores.setdefault(row["rung"], {}).setdefault(row["trial"], []).append(row["score"])
    means = {rung: {trial: np.mean(x) for trial, x in found.items()} for rung, found in scores.items()}
    kept = sorted(means[0], key=lambda trial: -means[0][trial])[:2]
    assert set(means[1]) == set(kept)
    best = json.loads((done / "summary.json").read_text())["best"]
    assert best["search_score"] == max(means[1].values())
    assert means[1][best["trial"]] == best["search_score"]


def test_the_interval_is_that_of_fresh_seeds(done):
    summary = json.loads((done / "summary.json").read_text())
    confirmed = [row for row in rows(done) if row["rung"] is None]
    scores = {name: [r["score"] for r in confirmed if r["trial"] == name] for name in ("best", "unchanged")}
    assert all(len(x) == 2 for x in scores.values())
    for name, seen in scores.items():
        # Student's t with one degree of freedom has its 97.5 % quantile at 12.706.
        reach = 12.706 * np.std(seen, ddof=1) / 2**0.5
        expected = [np.mean(seen) - reach, np.mean(seen), np.mean(seen) + reach]
        assert summary[name]["score"] == pytest.approx(expected, rel=1e-3)
    assert summary["unchanged"]["hyperparameters"] == pytest.approx({"learning_rate": 3e-4, "discount": 0.99})
    assert summary["budget"] == {
        "trials": [4, 2],
        "chunks_per_trial": [1, 2],
        "env_steps_per_rung": 4 * 2 * 32,
        "env_steps_per_agent_at_the_end": 96,
    }
    assert summary["simulated"] is True


def test_metrics_say_which_trial_stands_where(done):
    found = {row["stage"]: row["trial"] for row in rows(done, "metrics.jsonl")}
    assert found["rung0"] == [0, 1, 2, 3]
    assert found["rung1"] == sorted({r["trial"] for r in rows(done) if r["rung"] == 1})


def test_a_stopped_search_resumes_to_the_same_trials(done, tmp_path, monkeypatch):
    run_chunks, begun = sweep.run_chunks, []

    def stopping(*args, name, **options):
        begun.append(name)
        if begun == ["rung0", "rung1"]:
            raise Stopped("here")
        return run_chunks(*args, name=name, **options)

    monkeypatch.setattr(sweep, "run_chunks", stopping)
    config = dataclasses.replace(CONFIG, run_dir=tmp_path)
    with pytest.raises(Stopped):
        sweep.main(config)
    assert not (tmp_path / "trials.jsonl").exists()
    sweep.main(config)
    sweep.main(config)
    assert begun == ["rung0", "rung1", "rung0", "rung1", "confirmation"]
    assert (tmp_path / "trials.jsonl").read_bytes() == (done / "trials.jsonl").read_bytes()
    assert (tmp_path / "metrics.jsonl").read_bytes() == (done / "metrics.jsonl").read_bytes()


def test_a_configuration_survives_json():
    assert from_json(sweep.SweepConfig, to_json(CONFIG)) == CONFIG


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "nothing to search; ranges can be given of learning_rate"),
        (["--range", "learning_rat", "1", "2", "log"], "unknown hyperparameter 'learning_rat'"),
        (["--range", "n_envs", "1", "2", "log"], "n_envs is static"),
        (["--range", "discount", "0.9", "0.5", "linear"], "--range discount: a range goes from low to a higher end"),
        (["--range", "learning_rate", "0", "1", "log"], "--range learning_rate: a logarithmic range must be positive"),
        (["--range", "discount", "0.5", "2", "linear"], "discount must be above 0 and at most 1, got 2.0"),
        (["--range", "discount", "0.5", "0.9", "cubic"], "cubic"),
        (["--rungs", "4"], "4 trials cannot be halved 3 times for 4 rungs: give a multiple of 8 trials"),
        (["--confirmation-seeds", "1"], "confirmation_seeds must be at least 2"),
        (
            ["--env", "replay", "--replay.product", "GROV", "--range", "discount", "0.5", "0.9", "linear"],
            "no product 'GROV' among ALDER, BIRCH, EURUSD, GROVE, TIMBER; did you mean 'GROVE'?",
        ),
    ],
)
def test_bad_input_is_one_line_and_exit_2(args, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        command.run(
            sweep.main,
            sweep.SweepConfig,
            sweep.PRESETS,
            sweep.__doc__,
            ["--preset", "smoke", "--run-dir", str(tmp_path / "run"), *args],
        )
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert not (tmp_path / "run").exists()


def test_ranges_are_given_one_by_one():
    args = ["--range", "discount", "0.5", "0.9", "linear", "--range", "learning_rate", "1e-4", "1e-2", "log"]
    config = command.parse(sweep.SweepConfig, sweep.PRESETS, sweep.__doc__, args)
    assert list(config.ranges) == ["discount", "learning_rate"]
    assert config.ranges["learning_rate"].log
    assert not config.ranges["discount"].log


@pytest.mark.nightly
@pytest.mark.parametrize("learner", ["ppo", "sac"])
def test_the_replay_env_is_judged_on_the_validation_part(learner, tmp_path):
    config = dataclasses.replace(CONFIG, run_dir=tmp_path, env="replay", learner=learner, trials=2)
    sweep.main(config)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert "ALDER on the validation part" in summary["score"]
    assert len(rows(tmp_path)) == 2 * 2 + 1 * 2 + 2 * 2
