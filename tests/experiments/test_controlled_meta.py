"""Proofs of the meta-controller: the optimum passes, what is off by a known amount is measured as such."""

import dataclasses

import jax
import numpy as np
import pytest

from experiments.controlled import meta_ablations, meta_crash, meta_null, meta_regimes, meta_streams
from experiments.controlled.meta_learner import CHUNKS, LEARNER
from experiments.controlled.meta_streams import MetaConfig, Played, investor_of, law_of, log_growth
from marljax.envs.controlled.return_streams_solution import beliefs, solve

TINY = MetaConfig(
    preset="quick",
    seeds=2,
    chunks=1,
    episodes=4,
    steps=50,
    ppo=dataclasses.replace(LEARNER, n_envs=2, n_steps=4, n_minibatches=1, n_epochs=1, hidden=(4,)),
)


def drawn(world, shape, seed=0):
    """Returns, growth and regimes of a world, [E, T, K, A], [E, T, A] and [E, T, K]."""
    n_episodes, n_steps, n_periods = shape

    def episode(key):
        start_key, key = jax.random.split(key)
        position = world.streams.start(start_key, n_steps * n_periods)
        return world.streams.draw(key, position, n_steps * n_periods)[1]

    rows = jax.jit(jax.vmap(episode))(jax.random.split(jax.random.key(seed), n_episodes))
    returns = np.asarray(rows.returns, np.float64).reshape(*shape, -1)
    return returns, np.prod(1.0 + returns, axis=2), np.asarray(rows.regime).reshape(shape)


def played(world, weights, returns, growth, regime, base=None):
    """As if policies had held `weights` [seeds, E, T, A]."""
    cost, rate, n_periods = float(world.cost), float(world.rate), returns.shape[2]
    grown = np.stack([log_growth(w, growth, cost, rate, n_periods) for w in weights])
    even = np.full_like(growth, 1.0 / growth.shape[-1])
    return Played(weights, grown, np.zeros_like(grown), even if base is None else base, growth, returns, regime)


def test_the_optimum_has_all_of_its_own_utility_and_half_its_exposure_three_quarters():
    world = dataclasses.replace(meta_crash.market(), cost=np.float32(0.0))
    rows = drawn(world, (60, 50, 4))
    law, investor = law_of(world.streams), investor_of(world)
    best = solve(law, 4, investor)(beliefs(law, rows[0]))
    # Half of what is best at an interior optimum has 1 - (1/2)**2 of its utility; at a bound, less.
    verdict, more, weights = meta_regimes.judge(played(world, np.stack([best, best]), *rows), world, 4)
    np.testing.assert_array_equal(weights, best)
    assert verdict.estimate == pytest.approx(1.0, abs=1e-9)
    assert verdict.met
    verdict, more, _ = meta_regimes.judge(played(world, np.stack([0.5 * best] * 2), *rows), world, 4)
    assert 0.5 < verdict.estimate < 0.78
    assert not verdict.met
    for name, share in more["share_of_others"].items():
        assert share < 1.0
        np.testing.assert_allclose(more["lead_over"][name][1], verdict.estimate - share, rtol=1e-9)


def test_a_crash_is_seen_where_it_begins_and_the_fall_of_exposure_is_timed_against_half_the_loss():
    before, after = meta_crash.BEFORE, meta_crash.AFTER
    n, begin = before + after + 4, before + 2
    regime = np.zeros((1, n, 4), int)
    # The regime comes within the periods of one rebalance, and lasts ten.
    regime[0, begin, 2:] = 1
    regime[0, begin + 1 : begin + 10] = 1
    equal = np.full((1, n), 0.01)
    equal[0, begin : begin + 10] = -0.03
    exposure = np.ones((2, 1, n))
    exposure[0, 0, begin + 2 : begin + 10] = 0.4
    exposure[1] = 0.6
    found = meta_crash.find_crashes(exposure, equal, regime, burn_in=0)
    assert found.begin.tolist() == [begin]
    losses = -np.expm1(-0.03 * np.arange(1, 11))
    assert found.half.tolist() == [int(np.argmax(losses >= 0.5 * losses[-1]))] == [4]
    assert found.fall.tolist() == [[2], [after]]
    # Shallow ones, and those too near the beginning, are not judged.
    assert not meta_crash.find_crashes(exposure, 0.3 * equal, regime, burn_in=0).half.size
    assert not meta_crash.find_crashes(exposure, equal, regime, burn_in=begin).half.size


def test_who_leaves_in_a_crash_has_the_smaller_drawdown_and_who_only_holds_less_does_not_pass():
    world = meta_crash.market()
    rows = drawn(world, (40, 100, 4))
    even = np.full_like(rows[1], 0.25)
    # Knows the regime of the period before.
    calm = np.concatenate([np.ones((40, 1)), rows[2][:, :-1, -1] == 0], axis=1)[..., None]
    verdict, more, crashes = meta_crash.judge(played(world, np.stack([even * calm] * 2), *rows), world, 8)
    assert verdict.met
    assert verdict.estimate > 0.5
    assert more["crashes"] == crashes.half.size > 10
    np.testing.assert_array_equal(crashes.fall, 1)
    verdict, more, _ = meta_crash.judge(played(world, np.stack([0.5 * even] * 2), *rows), world, 8)
    assert verdict.estimate > 0.3
    assert more["return_over_equal_weights"][1] < 0.75
    assert not verdict.met


def test_a_constant_tilt_has_the_tracking_error_of_its_variance():
    world = meta_null.market()
    rows = drawn(world, (60, 100, 4), seed=1)
    off = 0.03 * np.array([1.0, -1.0, 2.0, -2.0])
    weights = np.stack([np.full((60, 100, 4), 0.2) + x * off for x in (0.0, 1.0)])
    verdict, more = meta_null.judge(played(world, weights, *rows), world, 8)
    covariance = 4 * 0.02**2 * (0.3 + 0.7 * np.eye(4))
    wanted = np.sqrt(13 * off @ covariance @ off)
    np.testing.assert_allclose(more["tracking_error_by_seed"], [0.0, wanted], atol=0.02 * wanted)
    assert verdict.met == (verdict.interval[1] < 0.01)
    assert more["tracking_error_of_random_actions"] > 2.5 * 0.01
    assert not meta_null.judge(played(world, np.stack([weights[1]] * 2), *rows), world, 8)[0].met


@pytest.mark.nightly
@pytest.mark.parametrize("proof", [meta_regimes, meta_crash, meta_null])
def test_a_small_proof_runs_from_end_to_end_and_its_money_is_that_of_a_second_accounting(proof, tmp_path, monkeypatch):
    kept = {}
    monkeypatch.setattr(proof, "play", lambda *args: kept.setdefault("played", meta_streams.play(*args)))
    verdict, _ = proof.main(dataclasses.replace(TINY, run_dir=tmp_path), tmp_path)
    low, high = verdict.interval
    assert low <= verdict.estimate <= high
    assert verdict.task == proof.TASK == proof.__name__.rpartition(".")[2]
    assert "Plotly" in (tmp_path / "picture.html").read_text()
    seen, world = kept["played"], proof.market()
    for weights, grown in zip(seen.weights, seen.log_growth, strict=True):
        again = log_growth(weights, seen.growth, float(world.cost), float(world.rate), seen.returns.shape[2])
        np.testing.assert_allclose(grown, again, atol=2e-6)
    np.testing.assert_allclose(seen.growth, np.prod(1 + seen.returns, axis=2), rtol=1e-6)


def test_all_proofs_and_the_ablations_learn_at_the_same_settings():
    for proof in (meta_regimes, meta_crash, meta_null, meta_ablations):
        assert proof.PRESETS["full"].ppo == LEARNER
        assert proof.PRESETS["full"].chunks == CHUNKS
        assert proof.PRESETS["full"].seeds == 10
