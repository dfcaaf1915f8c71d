"""`standard.py`: the settings are the published ones, and what is compared is what the peers report."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from experiments.controlled import standard
from marljax.agents.ppo import PPO

QUICK = dataclasses.replace(standard.PRESETS["quick"], chunks=2, spread_chunks=1, episodes=3)


def test_both_tasks_have_the_published_settings_and_lengths():
    full = standard.tasks(standard.PRESETS["full"])
    for name, n_envs, steps in (("cart_pole", 4, 5e5), ("simple_spread", 16, 6.6e5)):
        task = full[name]
        learner = PPO(task.env, task.learner)
        assert learner.config.n_envs == n_envs
        assert learner.steps_per_chunk * task.chunks == pytest.approx(steps, rel=0.01)
        assert (learner.config.n_steps, learner.config.n_epochs, learner.config.n_minibatches) == (128, 4, 4)
        numbers = learner.config.learning_rate, learner.config.entropy_coefficient, learner.config.ratio_clip
        assert numbers == (2.5e-4, 0.01, 0.2)
        assert learner.config.separate == ()
        assert not learner.config.normalise_observations
    # The rate falls to zero at the end of the peers' runs: of all CartPole, of the ten million steps in simple_spread.
    assert full["cart_pole"].learner.learning_rate_decay * full["cart_pole"].chunks == pytest.approx(1.0)
    decay = full["simple_spread"].learner.learning_rate_decay
    assert 1.0 / decay * 16 * 128 == pytest.approx(1e7, rel=0.001)


@pytest.mark.parametrize(("name", "expected", "within"), [("cart_pole", 22.0, 2.0), ("simple_spread", -82.8, 2.0)])
def test_random_actions_earn_what_they_earn_in_the_peers_worlds(name, expected, within):
    task = standard.tasks(QUICK)[name]
    assert standard.random_return(task, jax.random.key(0), 1000) == pytest.approx(expected, abs=within)


def test_the_way_gone_is_nothing_for_random_actions_and_one_for_the_peer():
    outcome = standard.Outcome(np.array([22.0, 226.0, 430.0, 500.0]), np.zeros(4), 22.0, np.zeros((1, 4)))
    np.testing.assert_allclose(standard.way_gone(outcome, 430.0), [0.0, 0.5, 1.0, 478 / 408])
    below = standard.Outcome(np.array([-82.0, -70.0, -58.0]), np.zeros(3), -82.0, np.zeros((1, 3)))
    np.testing.assert_allclose(standard.way_gone(below, -70.0), [0.0, 1.0, 2.0])


@pytest.mark.nightly
def test_the_verdict_is_that_of_the_task_that_went_less_far(tmp_path):
    said, more = standard.main(dataclasses.replace(QUICK, run_dir=tmp_path), tmp_path)
    gone = {name: part["way_gone"][1] for name, part in more["parts"].items()}
    assert said.estimate == min(gone.values())
    assert said.target == 1.0
    assert said.met == (said.estimate >= 1.0)
    spread = more["parts"]["simple_spread"]
    # Sums over three agents, as the peer reports them, of whom one alone gets about -27.
    assert -110 < spread["mean_return"] < -60
    assert -110 < spread["training_return"] < -60
    assert {json.loads(line)["stage"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()} == set(gone)
    assert "PureJaxRL" in (tmp_path / "learning_curves.html").read_text()
