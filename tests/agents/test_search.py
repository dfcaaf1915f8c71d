"""Trials side by side learn as they would alone, the better half stays as it is, and the good ones are found."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from marljax.agents import PPO, SAC, PPOConfig, SACConfig, search
from marljax.agents.evaluate import evaluator
from marljax.agents.search import Range, Trials
from marljax.data.schema import InputError
from tests.reference.tasks import TARGET, Task

SMALL = PPOConfig(n_envs=4, n_steps=8)
LEARNERS = [
    PPO(Task(), SMALL),
    SAC(Task(), SACConfig(n_envs=4, n_iterations=4, batch_size=8, capacity=256, warmup_steps=8)),
]


@pytest.mark.parametrize("log", [True, False])
def test_draws_fill_their_range_on_its_scale(log):
    ranges = {"a": Range(1e-4, 1e-2, log), "b": Range(-1.0, 1.0)}
    drawn = {name: np.asarray(x) for name, x in search.sample(jax.random.key(0), ranges, 4000).items()}
    middle = 1e-3 if log else 0.5 * (1e-4 + 1e-2)
    assert abs((drawn["a"] < middle).mean() - 0.5) < 0.04
    for name, wanted in ranges.items():
        assert np.float32(wanted.low) <= drawn[name].min() < wanted.low + 0.01 * (wanted.high - wanted.low)
        assert np.float32(wanted.high) >= drawn[name].max() > wanted.high - 0.01 * (wanted.high - wanted.low)
    assert abs(np.corrcoef(drawn["a"], drawn["b"])[0, 1]) < 0.06
    with pytest.raises(AssertionError):
        chex.assert_trees_all_equal(search.sample(jax.random.key(1), ranges, 4000), drawn)


@pytest.mark.parametrize(
    ("low", "high", "log", "message"),
    [
        (2.0, 1.0, False, "from low to a higher end, got 2 to 1"),
        (1.0, 1.0, False, "higher end"),
        (float("nan"), 1.0, False, "higher end"),
        (0.0, float("inf"), False, "higher end"),
        (0.0, 1.0, True, "logarithmic range must be positive, got 0 to 1"),
    ],
)
def test_an_empty_or_reversed_range_is_refused(low, high, log, message):
    with pytest.raises(InputError, match=message):
        Range(low, high, log)


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        ({"learning_rat": Range(0.1, 0.2)}, "unknown hyperparameter 'learning_rat'.*learning_rate"),
        ({"n_envs": Range(1, 2)}, "n_envs is static.*learning_rate"),
        ({"hidden": Range(1, 2)}, "hidden is static"),
        ({"discount": Range(0.5, 2.0)}, "discount must be above 0 and at most 1, got 2.0"),
        ({"learning_rate": Range(-1.0, 1.0)}, "learning_rate must be positive"),
        ({}, "nothing to search; ranges can be given of"),
    ],
)
def test_only_floats_within_their_limits_can_be_searched(ranges, message):
    with pytest.raises(InputError, match=message):
        search.check(SMALL, ranges)


@pytest.mark.parametrize("config", [PPOConfig(), SACConfig()])
def test_every_float_of_a_configuration_can_be_searched(config):
    leaves = jax.tree.leaves(config)
    assert len(search.searchable(config)) == len(leaves)
    search.check(config, {name: Range(0.5, 0.9) for name in search.searchable(config)})


@pytest.mark.parametrize(("n_trials", "n_rungs"), [(4, 4), (6, 3), (0, 1), (4, 0)])
def test_too_many_halvings_are_refused(n_trials, n_rungs):
    with pytest.raises(InputError, match=r"cannot be halved|at least one"):
        search.check_halvings(n_trials, n_rungs)
    search.check_halvings(8, 4)


@given(arrays(np.float32, (8, 3), elements=st.sampled_from([0.0, 1.0, 2.0, np.nan, np.inf, -np.inf])))
def test_the_better_half_is_that_of_a_stable_sort(scores):
    with np.errstate(invalid="ignore"):
        mean = scores.mean(1)
    mean = np.where(np.isfinite(mean), mean, -np.inf)
    expected = sorted(sorted(range(8), key=lambda i: -mean[i])[:4])
    np.testing.assert_array_equal(search.best_half(jnp.asarray(scores)), expected)


def test_survivors_keep_everything_they_have():
    trials = Trials(jnp.array([3, 5, 6, 9]), {"a": jnp.arange(4.0)}, {"w": jnp.arange(24.0).reshape(4, 2, 3)})
    kept = jax.jit(search.keep_best)(trials, jnp.array([[0.0, 1], [5, 5], [jnp.nan, 9], [1, 2]]))
    chex.assert_trees_all_equal(kept, jax.tree.map(lambda x: x[jnp.array([1, 3])], trials))


@pytest.mark.nightly
@pytest.mark.parametrize("learner", LEARNERS, ids=["ppo", "sac"])
def test_a_trial_among_others_learns_what_it_learns_alone(learner):
    values = {"learning_rate": jnp.array([1e-4, 3e-3]), "discount": jnp.array([0.9, 0.5])}
    keys = jax.random.split(jax.random.key(1), 2)
    trials = jax.jit(partial(search.start, learner))(values, keys, TARGET)
    chex.clear_trace_counter()

    @jax.jit
    @chex.assert_max_traces(n=1)
    def update(trials, env_params):
        return search.update(learner, trials, env_params)

    for _ in range(2):
        trials, metrics = update(trials, TARGET)
    assert all(value.shape == (2, 2) for value in metrics.values())
    assert float(metrics["undone"].sum()) == 0.0
    alone = search.with_values(learner, {"learning_rate": 3e-3, "discount": 0.5})
    update_alone, runner = jax.jit(alone.update), jax.jit(alone.init)(keys[1], TARGET)
    for _ in range(2):
        runner, _ = update_alone(runner, TARGET)
    learned = learner.policy_params(jax.tree.map(lambda x: x[1, 1], trials.runners))
    chex.assert_trees_all_close(learned, alone.policy_params(runner), rtol=1e-3, atol=1e-5)
    other = learner.policy_params(jax.tree.map(lambda x: x[0, 1], trials.runners))
    with pytest.raises(AssertionError):
        chex.assert_trees_all_close(learned, other, rtol=1e-3, atol=1e-5)


def test_a_trial_that_diverges_is_undone_and_leaves_the_others_as_they_are():
    learner, keys = LEARNERS[0], jax.random.split(jax.random.key(1), 2)
    start, update = (jax.jit(partial(f, learner)) for f in (search.start, search.update))
    found = []
    for rate in (1e-3, float("nan")):
        trials = start({"learning_rate": jnp.array([3e-3, rate])}, keys, TARGET)
        trials, metrics = update(trials, TARGET)
        found.append(learner.policy_params(jax.tree.map(lambda x: x[0], trials.runners)))
        np.testing.assert_array_equal(metrics["undone"][:, 0], [0.0, float(np.isnan(rate))])
        assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(learner.policy_params(trials.runners)))
    chex.assert_trees_all_equal(*found)


@pytest.mark.nightly
def test_halving_finds_the_trials_that_learn():
    # Six step sizes too small to learn anything within the budget, and two that are good.
    rates = jnp.array([1e-9, 1e-8, 3e-3, 1e-7, 1e-9, 1e-8, 5e-3, 1e-7])
    learner = PPO(Task(), PPOConfig(n_envs=16, n_steps=32, entropy_coefficient=0.0))
    keys = jax.random.split(jax.random.key(0), 2)
    judge = evaluator(Task(), learner, jax.random.key(5), n_episodes=64, max_steps=4)
    score = jax.jit(jax.vmap(jax.vmap(judge, in_axes=(0, None)), in_axes=(0, None)))
    start, update = (jax.jit(partial(f, learner)) for f in (search.start, search.update))
    trials = start({"learning_rate": rates}, keys, TARGET)
    for n_chunks in (4, 8):
        for _ in range(n_chunks):
            trials, _ = update(trials, TARGET)
        scores = score(trials.runners, TARGET)["deterministic_return"]
        trials = search.keep_best(trials, scores)
    np.testing.assert_array_equal(trials.index, [2, 6])
    chex.assert_trees_all_equal(trials.values["learning_rate"], rates[jnp.array([2, 6])])
    mean = np.sort(np.asarray(scores).mean(1))
    # Doing nothing costs 4 E(w obs)^2 = 4 * 0.38 / 3; what learned is left with less than a fifth of it.
    assert mean[-2] > -0.1 > -0.4 > mean[1]
