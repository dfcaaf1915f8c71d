"""Capital among recorded streams: one account from fold to fold, what is asked for in advance, and the verdicts."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.controlled import meta_ablations, meta_regimes, meta_streams
from experiments.controlled.meta_learner import LEARNER
from experiments.controlled.meta_modes import MODES, hold_modes
from experiments.controlled.meta_real import RealConfig, judge
from experiments.controlled.stream_accounts import Account, follow, hold
from experiments.controlled.stream_strategies import WINDOW, by_auction, in_loop, on_host
from marljax.agents.ppo import PPO
from marljax.envs.controlled.return_streams import ReturnStreams, return_streams_params
from marljax.envs.controlled.return_streams_laws import recorded_streams
from marljax.evaluation.metrics import sharpe_ratio
from marljax.portfolio.bidding import AuctionConfig
from marljax.portfolio.guardrails import guardrails, limits
from marljax.portfolio.meta_controller import AGENT_FEATURES

ROOT = Path(__file__).parents[2]
DAILY = ROOT.parent / "shared" / "data" / "daily"
A, N, K, COST = 3, 12, 5, 0.01
ENV = ReturnStreams(periods=K, episode_steps=N, warmup_steps=2)
RAILS = guardrails(limits(A, leverage=1.5, max_weight=0.8, turnover=0.7))
RETURNS = 0.02 * np.random.default_rng(0).standard_normal(((2 + N) * K, A)) + 0.001


def world(returns=RETURNS, typical=0.04):
    streams = recorded_streams(returns, 0.1, 0.5)
    return return_streams_params(streams, np.full(A, typical), rails=RAILS, gross=1.25, cost=COST, halflife=20.0)


@jax.jit
def held(params, asked):
    return hold(ENV, params, asked)


def test_an_account_is_that_of_a_plain_ledger_of_the_recording_from_the_warm_up_on():
    asked = np.random.default_rng(1).uniform(0.0, 0.5, (4, N, A)).astype(np.float32)
    account, _ = held(world(), jnp.asarray(asked))
    granted, turnover = np.asarray(account.granted, np.float64), np.asarray(account.turnover)
    # Each asks for at most 0.5 of 1.5 in all, so that nothing but turnover can bind, and it does at times.
    free = ~np.asarray(account.intervention.turnover)
    assert 0.05 < (~free).mean() < 0.9
    np.testing.assert_allclose(granted[free], asked[free], atol=1e-6)
    for s in range(4):
        equity, stakes, cash = 1.0, np.zeros(A), 1.0
        for i in range(N):
            before = equity
            traded = np.abs(granted[s, i] * equity - stakes).sum()
            assert traded / equity == pytest.approx(turnover[s, i], abs=1e-5)
            # What it costs is paid at the end, out of what has become of everything.
            stakes, cash = granted[s, i] * equity, equity * (1 - granted[s, i].sum())
            for row in RETURNS[(2 + i) * K : (3 + i) * K]:
                stakes = stakes * (1 + row)
            keep = 1 - COST * traded / before
            stakes, cash = stakes * keep, cash * keep
            equity = stakes.sum() + cash
            assert np.log(equity / before) == pytest.approx(float(account.log_growth[s, i]), abs=2e-6)


class Probe:
    """Tilts nothing, and asks for an exposure of its own and a little of what it sees of the first agent's market."""

    def init_carry(self):
        return ()

    def apply(self, params, obs, memory, key, deterministic):
        return jnp.zeros(A + 1).at[-1].set(
            2.0 * params - 1.0 + 0.2 * obs[AGENT_FEATURES.index("market_volatility")]
        ), ()


def test_each_fold_has_its_own_parameters_and_units_and_the_account_goes_on():
    fold, typical = np.array([0] * 5 + [1] * 7), np.array([0.03, 0.06])
    exposure = jnp.asarray([[0.4, 0.6]])
    account = jax.jit(
        lambda exposure: follow(
            ENV, world(), Probe(), exposure, jnp.asarray(fold), jnp.repeat(jnp.asarray(typical)[:, None], A, 1)
        )
    )(exposure)
    # Before anything is known a covariance is that of the first fold's typical volatility.
    seen = held(world(typical=0.03), jnp.zeros((4, N, A)))[1]
    market = np.log(np.sqrt(np.asarray(seen.covariance)[:, 0, 0]) / typical[fold])
    wanted = 1.25 * (np.asarray(exposure)[0, fold] + 0.1 * market)
    np.testing.assert_allclose(np.asarray(account.granted[0]).sum(-1), wanted, atol=1e-5)
    np.testing.assert_allclose(account.granted[0], wanted[:, None] * seen.base, atol=1e-5)
    again, _ = held(world(typical=0.03), jnp.broadcast_to(account.granted, (4, N, A)))
    np.testing.assert_allclose(again.granted[0], account.granted[0], atol=2e-6)
    np.testing.assert_allclose(again.log_growth[0], account.log_growth[0], atol=2e-6)


def test_nobody_asks_by_what_comes_later():
    past = np.random.default_rng(2).normal(0.001, 0.04, (WINDOW + N, A))

    def asked(returns, past):
        seen = held(world(returns), jnp.zeros((4, N, A)))[1]
        auction = by_auction(seen, RAILS, 5.0, AuctionConfig())
        return in_loop(seen, 0.02, 1.5) | on_host(seen, past, 5.0) | {"auction": auction}

    later = 7
    changed, changed_past = RETURNS.copy(), past.copy()
    changed[(2 + later) * K :] *= -3.0
    changed_past[WINDOW + later :] *= -3.0
    one, other = asked(RETURNS, past), asked(changed, changed_past)
    assert len(one) == 9
    for name, weights in one.items():
        assert weights.shape == (N, A)
        np.testing.assert_array_equal(weights[: later + 1], other[name][: later + 1])
        assert name == "equal_weight" or not np.allclose(weights[later + 1 :], other[name][later + 1 :], atol=1e-4)


def account_of(returns):
    """Accounts [S, N] that only their returns are known of."""
    shape = np.shape(returns)
    flag, vector = jnp.zeros(shape, bool), jnp.zeros((*shape, A))
    done = held(world(), jnp.zeros((4, N, A)))[0].intervention
    done = jax.tree.map(lambda x: jnp.zeros((*shape, *x.shape[2:]), x.dtype), done)
    done = dataclasses.replace(done, volatility=jnp.ones(shape))
    return Account(vector, jnp.log1p(jnp.asarray(returns)), flag.astype(jnp.float32), done)


def test_the_verdict_is_a_lead_in_sharpe_ratio_that_the_weeks_establish():
    rng = np.random.default_rng(3)
    base = np.repeat(rng.normal(0.0, 0.01, (1, 400)) + 0.0005, 2, 0)
    better, same = (base + lead + rng.normal(0.0, 0.002, (2, 400)) for lead in (0.002, 0.0))
    costs = np.zeros((400 * 5, A))

    class Part:
        judged, weeks, cut = slice(0, 2000), np.arange(400), ()
        records = type("R", (), {"cost": costs})

    config = RealConfig(resamples=300)
    for meta, met in ((better, True), (same, False)):
        accounts = {"meta": account_of(meta), "risk_parity": account_of(base), "equal_weight": account_of(0.5 * base)}
        verdict, more = judge(accounts, Part, config)
        wanted = np.mean([float(sharpe_ratio(jnp.asarray(x), 52.0)) for x in meta]) - float(
            sharpe_ratio(jnp.asarray(base[0]), 52.0)
        )
        assert verdict.estimate == pytest.approx(wanted, abs=1e-3)
        assert verdict.interval[0] < verdict.estimate < verdict.interval[1]
        assert verdict.met == met
        assert more["strategies"]["risk_parity"]["sharpe_less_equal_weight"]["interval"][1] == pytest.approx(
            0, abs=1e-3
        )
        assert set(more["strategies"]) == set(accounts)


def test_every_ablation_takes_away_its_part_and_nothing_else():
    worlds, env = meta_ablations.variants(), meta_regimes.WORLD
    action = jnp.asarray([0.9, -0.9, 0.9, 0.2, 1.0])

    @jax.jit
    def first(params):
        obs, state = env.reset_env(jax.random.key(0), params)
        return obs, state, env.step_env(jax.random.key(1), state, action, params)[-1]

    runs = {name: first(params) for name, params in worlds.items()}
    obs, state, info = runs.pop("whole")
    assert bool(info["intervention"].any)
    for other, *_ in (runs["without_guardrails"], runs["without_base"]):
        np.testing.assert_array_equal(other[-3:], obs[-3:])
    assert np.abs(obs[-3:-1]).min() > 0
    blind, blind_state, blind_info = runs["without_correlation"]
    np.testing.assert_array_equal(blind[-3:-1], 0.0)
    assert blind[-1] == obs[-1]
    volatility = np.sqrt(np.diagonal(state.covariance))
    np.testing.assert_allclose(blind_state.covariance, np.diag(volatility**2), atol=1e-3 * volatility.min() ** 2)
    np.testing.assert_allclose(blind_info["base"], 1 / volatility / (1 / volatility).sum(), atol=1e-5)
    free = runs["without_guardrails"][2]
    assert not bool(free["intervention"].any)
    np.testing.assert_allclose(free["granted"], free["asked"], atol=1e-6)
    np.testing.assert_array_equal(free["asked"], info["asked"])
    np.testing.assert_allclose(runs["without_base"][2]["base"], 0.25)
    assert np.abs(info["base"] - 0.25).max() > 0.01


def test_the_best_ablation_is_what_the_whole_has_to_beat():
    share = {"whole": [0.8, 0.9, 0.85], "without_correlation": [0.5, 0.6, 0.55], "without_guardrails": [0.7, 0.8, 0.75]}
    measured = {name: {"share_of_optimum": np.array(x)} for name, x in share.items()}
    measured["without_base"] = {"share_of_optimum": np.array([0.1, 0.1, 0.1])}
    verdict, more = meta_ablations.judge(measured)
    assert more["best_ablation"] == "without_guardrails"
    assert verdict.estimate == pytest.approx(0.1)
    assert verdict.met
    measured["without_base"] = {"share_of_optimum": np.array([0.8, 0.9, 0.86])}
    verdict, more = meta_ablations.judge(measured)
    assert (more["best_ablation"], verdict.met) == ("without_base", False)


@pytest.mark.nightly
def test_modes_play_the_episodes_of_the_meta_controller_and_a_fresh_one_is_risk_parity():
    config = meta_streams.MetaConfig(preset="quick", seeds=2, episodes=4, steps=30, burn_in=8)
    learner = PPO(meta_regimes.WORLD, dataclasses.replace(LEARNER, exposure=0.999999))
    params = meta_ablations.variants()["whole"]
    policy = learner.policy(params)
    fresh = policy.init(jax.random.key(0), learner.env.observation_space(params).shape[0])
    played = meta_streams.play(learner, jax.tree.map(lambda x: jnp.stack([x, x]), fresh), params, config)
    modes = hold_modes(learner.env, params, config)
    np.testing.assert_array_equal(modes.returns, played.returns)
    np.testing.assert_array_equal(modes.base, played.base)
    parity, auction = (modes.weights[MODES.index(mode)] for mode in ("risk_parity", "auction"))
    np.testing.assert_allclose(parity, played.weights[0], atol=1e-4)
    assert np.abs(auction - parity).max() > 0.1


@pytest.mark.nightly
@pytest.mark.parametrize("task", ["meta_real", "meta_ablations"])
def test_a_quick_run_ends_with_its_verdict_and_a_page(task, tmp_path):
    if task == "meta_real" and not DAILY.is_dir():
        pytest.skip(f"real daily data is not at {DAILY}")
    script = str(ROOT / "experiments" / "controlled" / f"{task}.py")
    command = [sys.executable, script, "--preset", "quick", "--run-dir", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["task"] == task
    assert said["interval"][0] <= said["estimate"] <= said["interval"][1]
    assert said["met"] == (said["interval"][0] > 0)
    assert "Plotly" in (tmp_path / "picture.html").read_text()
    kept = json.loads((tmp_path / "result.json").read_text())
    if task == "meta_real":
        assert len(kept["strategies"]) == 10
        assert kept["weeks"][1] < "2010"
    else:
        assert set(kept["results"]) == {"whole", *meta_ablations.ABLATIONS, *MODES}
