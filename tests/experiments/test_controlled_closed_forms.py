"""Proofs in markets with a known optimum: the optimum passes, what is off by a known amount is measured as such."""

import dataclasses
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.controlled import almgren_chriss, avellaneda_stoikov, merton
from marljax.agents import PPO, PPOConfig
from marljax.data.schema import InputError
from marljax.envs.controlled.almgren_chriss import AlmgrenChriss
from marljax.envs.controlled.avellaneda_stoikov import (
    AvellanedaStoikov,
    AvellanedaStoikovParams,
    AvellanedaStoikovState,
)
from marljax.envs.controlled.avellaneda_stoikov_solution import Quotes, as_actions, continuous_quotes, value_of
from marljax.envs.controlled.merton import Merton

TINY = PPOConfig(n_envs=4, n_steps=20, n_epochs=1, n_minibatches=1, hidden=(4,), discount=1.0)
MARKET = AvellanedaStoikovParams()


def untrained(learner, worlds, shape, mean=None):
    """Parameters of policies, leaves [*shape, ...]; with `mean`, always the median action tanh(mean)."""
    policy = learner.policy(worlds)

    def init(key):
        params = policy.init(key, learner.env.observation_space(worlds).shape[0])
        last = params.network[-1]
        if mean is None:
            last = last._replace(kernel=100.0 * last.kernel)
        else:
            last = last._replace(kernel=0.0 * last.kernel, bias=last.bias.at[: len(mean)].set(jnp.array(mean)))
        return dataclasses.replace(params, network=(*params.network[:-1], last))

    for _ in shape:
        init = jax.vmap(init)
    return init(jax.random.split(jax.random.key(0), shape))


def test_an_error_in_mertons_share_is_measured_in_its_worst_market():
    config = merton.FULL
    right = np.tile(merton.best_shares(config)[:, None], (3, 1, 10))
    assert merton.judge(right, config)[0] == merton.Verdict("merton", 0.0, (0.0, 0.0), 0.05, True)
    wrong = right.copy()
    # Errors of both signs do not cancel, neither over steps nor over seeds.
    wrong[:, 2, ::2] *= 1.05
    wrong[:, 2, 1::2] *= 0.95
    wrong[:, 3] *= np.array([1.06, 1.06, 0.94])[:, None]
    verdict, more = merton.judge(wrong, config)
    np.testing.assert_allclose(verdict.estimate, 0.06, rtol=1e-6)
    assert not verdict.met
    np.testing.assert_allclose([row["mean"] for row in more["relative_error"]], [0, 0, 0.05, 0.06, 0, 0], atol=1e-9)
    # The loss is of the second order: gamma/2 sigma**2 (0.06 pi)**2.
    lost = 0.5 * config.risk_aversion[3] * (config.volatility[3] * 0.06 * right[0, 3, 0]) ** 2
    np.testing.assert_allclose(more["equivalent_rate_lost"][3], lost, rtol=1e-6)


def test_the_share_that_is_judged_is_the_median_action_in_every_market():
    worlds = merton.markets(merton.FULL)
    learner = PPO(Merton(), TINY)
    shares = merton.learned_shares(learner, untrained(learner, worlds, (2, 6), (0.5,)), worlds)
    np.testing.assert_allclose(shares, np.full((2, 6, 10), 2 * np.tanh(0.5)), rtol=1e-5)


@pytest.mark.parametrize("bad", [{"drift": (0.1,)}, {"drift": (0.02,) * 6}, {"volatility": (0.05,) * 6}])
def test_a_market_without_a_best_share_to_measure_against_is_refused(bad):
    with pytest.raises(InputError, match=r"best share|one value for each"):
        dataclasses.replace(merton.FULL, **bad)


def test_a_schedules_excess_is_that_of_the_worst_risk_aversion():
    config = almgren_chriss.FULL
    best = np.stack(almgren_chriss.closed(np.ones(21), config))
    verdict, _ = almgren_chriss.judge(np.stack([best, best]), config)
    assert verdict.met
    assert abs(verdict.estimate) < 1e-12
    # Half way from the best to selling evenly; costs are quadratic, so that going all the way costs four times that.
    even = np.linspace(1.0, 0.0, 21)
    half, whole = (almgren_chriss.judge(np.stack([best + s * (even - best)] * 2), config) for s in (0.5, 1.0))
    np.testing.assert_allclose(4 * half[1]["excess"], whole[1]["excess"], rtol=1e-6)
    assert half[0].estimate == half[1]["excess"][0].max() == half[1]["excess"][0, -1]
    assert half[0].estimate > 0.3
    assert not half[0].met
    assert (half[1]["excess_over_what_is_avoidable"] > half[1]["excess"].mean(0)).all()


def test_the_schedule_that_is_judged_is_that_of_the_median_action():
    worlds = almgren_chriss.markets(almgren_chriss.FULL)
    learner = PPO(AlmgrenChriss(), TINY)
    holdings = almgren_chriss.learned_holdings(learner, untrained(learner, worlds, (2, 5), (-0.5,)), worlds)
    wanted = (0.5 - 0.5 * np.tanh(-0.5)) ** np.arange(21)
    wanted[-1] = 0.0
    np.testing.assert_allclose(holdings, np.broadcast_to(wanted, (2, 5, 21)), rtol=1e-4)


def test_the_closed_forms_quotes_reach_all_of_it_and_symmetric_ones_nine_tenths():
    closed = continuous_quotes(MARKET, 200).quotes
    verdict, more = avellaneda_stoikov.judge([closed, closed], MARKET)
    assert (verdict.estimate, verdict.met) == (1.0, True)
    assert 1.005 < more["optimal_certainty_equivalent"] / more["closed_form_certainty_equivalent"] < 1.007
    symmetric = Quotes(*np.full((2, 200, 21), 1 / MARKET.decay))
    verdict, _ = avellaneda_stoikov.judge([symmetric, symmetric], MARKET)
    np.testing.assert_allclose(verdict.estimate, 51.82 / 57.02, atol=1e-3)
    assert not verdict.met


def test_the_quotes_that_are_judged_are_those_an_agent_makes_in_the_market():
    env = AvellanedaStoikov()
    learner = PPO(env, TINY)
    params = untrained(learner, MARKET, (2,))
    quotes = avellaneda_stoikov.learned_quotes(learner, params, MARKET)
    policy = learner.policy(MARKET)
    for step, inventory in ((0, 0.0), (150, 4.0), (30, -9.0)):
        state = AvellanedaStoikovState(jnp.float32(inventory), jnp.zeros(()), jnp.zeros(()), jnp.int32(step))
        for seed in range(2):
            one = jax.tree.map(lambda x, seed=seed: x[seed], params)
            action, _ = policy.apply(one, env._observe(state, MARKET), (), jax.random.key(0), True)
            wanted = as_actions(quotes[seed], MARKET)[step, int(inventory) + 10]
            np.testing.assert_allclose(action, wanted, atol=1e-5)
    assert np.ptp(quotes[0].bid) > 0.05
    assert np.abs(quotes[0].bid - quotes[1].bid).max() > 0.05


def test_simulated_episodes_of_an_agent_have_the_certainty_equivalent_of_its_quotes():
    learner = PPO(AvellanedaStoikov(), TINY)
    params = untrained(learner, MARKET, (2,), (-0.2, 0.1))
    exact = value_of(avellaneda_stoikov.learned_quotes(learner, params, MARKET)[0], MARKET)[0, 10]
    simulated = avellaneda_stoikov.simulated_values(learner, params, MARKET, jax.random.key(1), 1500)
    np.testing.assert_allclose(simulated, exact, rtol=0.03)
    assert simulated[0] != simulated[1]


def test_the_distribution_of_inventories_is_that_of_simulated_fills():
    quotes, rng = continuous_quotes(MARKET, 200).quotes, np.random.default_rng(0)
    held, bid, ask = np.zeros(20_000, int), *np.clip(quotes, 0.0, MARKET.max_quote)
    for i in range(100):
        at = held + 10
        bought, sold = (
            rng.random(len(held)) < -np.expm1(-MARKET.intensity / 200 * np.exp(-MARKET.decay * side[i, at]))
            for side in (bid, ask)
        )
        held += (bought & (held < 10)).astype(int) - (sold & (held > -10)).astype(int)
    wanted = avellaneda_stoikov.inventory_distribution(quotes, MARKET)
    np.testing.assert_allclose(np.bincount(held + 10, minlength=21) / len(held), wanted[100], atol=0.012)
    np.testing.assert_allclose(wanted.sum(1), 1.0, rtol=1e-5)


@pytest.mark.parametrize(
    ("proof", "more"),
    [
        (merton, {}),
        pytest.param(almgren_chriss, {"risk_aversion": (0.5, 2.0)}, marks=pytest.mark.nightly),
        pytest.param(avellaneda_stoikov, {"episodes": 20}, marks=pytest.mark.nightly),
    ],
)
def test_a_small_proof_runs_from_end_to_end(proof, more, tmp_path, monkeypatch, capsys):
    ppo = dataclasses.replace(TINY, n_envs=2)
    tiny = dataclasses.replace(proof.FULL, preset="quick", seeds=2, chunks=1, ppo=ppo, **more)
    monkeypatch.setattr(sys, "argv", ["proof", "--preset", "quick", "--run-dir", str(tmp_path)])
    with pytest.raises(SystemExit) as end:
        proof.prove(proof.main, proof.TASK, {"full": proof.FULL, "quick": tiny}, proof.__doc__)
    assert not end.value.code
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    kept = json.loads((tmp_path / "result.json").read_text())
    assert said.keys() == {"task", "estimate", "interval", "target", "met"}
    assert said == {key: kept[key] for key in said}
    assert said["task"] == proof.TASK == proof.__name__.rpartition(".")[2]
    assert said["interval"][0] <= said["estimate"] <= said["interval"][1]
    assert "Plotly" in (tmp_path / "picture.html").read_text()
