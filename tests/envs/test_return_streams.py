"""Capital among return streams: the law draws what it says, money is exact, and nothing is known before it happens."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marljax.data.schema import InputError
from marljax.envs.controlled.return_streams import ReturnStreams, return_streams_params
from marljax.envs.controlled.return_streams_laws import recorded_streams, regime_streams, stationary
from marljax.portfolio.guardrails import guardrails, limits
from marljax.portfolio.meta_controller import PORTFOLIO_FEATURES, ask

ENV = ReturnStreams(periods=3, episode_steps=12, warmup_steps=2)
CALM, ROUGH = np.array([0.004, 0.001]), np.array([-0.003, 0.002])
LAW = {
    "mean": np.array([CALM, ROUGH]),
    "volatility": np.array([[0.01, 0.02], [0.03, 0.01]]),
    "correlation": np.array([[[1.0, -0.3], [-0.3, 1.0]], [[1.0, 0.9], [0.9, 1.0]]]),
    "transition": np.array([[0.9, 0.1], [0.3, 0.7]]),
}


def recording(n_periods=42):
    rng = np.random.default_rng(0)
    return 0.02 * rng.standard_normal((n_periods, 3)), rng.uniform(0.0, 1.0, (n_periods, 3))


@jax.jit
def run(params, actions):
    """(first obs, (obs, reward, truncated, info) [T, ...]) of one episode."""
    obs, state = ENV.reset_env(jax.random.key(0), params)

    def step(state, xs):
        action, key = xs
        obs, state, reward, _, truncated, info = ENV.step_env(key, state, action, params)
        return state, (obs, reward, truncated, info)

    return obs, jax.lax.scan(step, state, (actions, jax.random.split(jax.random.key(1), 12)))[1]


def test_drawn_returns_have_the_means_volatilities_and_correlations_of_their_regime():
    streams = regime_streams(**LAW)
    position, rows = jax.jit(streams.draw, static_argnums=2)(jax.random.key(0), jnp.int32(0), 200_000)
    returns, regime = np.asarray(rows.returns, np.float64), np.asarray(rows.regime)
    assert int(position) == regime[-1]
    shares = np.array([0.75, 0.25])
    np.testing.assert_allclose(stationary(LAW["transition"]), shares, atol=1e-12)
    np.testing.assert_allclose(np.bincount(regime) / len(regime), shares, atol=0.01)
    leaves = regime[:-1] != regime[1:]
    for s, chance in enumerate((0.1, 0.3)):
        own = returns[regime == s]
        assert leaves[regime[:-1] == s].mean() == pytest.approx(chance, abs=0.01)
        error = LAW["volatility"][s] / len(own) ** 0.5
        assert np.all(np.abs(own.mean(0) - LAW["mean"][s]) < 4 * error)
        np.testing.assert_allclose(own.std(0), LAW["volatility"][s], rtol=0.02)
        assert np.corrcoef(own.T)[0, 1] == pytest.approx(LAW["correlation"][s, 0, 1], abs=0.02)


def test_a_recording_is_played_row_by_row_from_where_an_episode_fits():
    returns, turnover = recording(44)
    streams = recorded_streams(returns, turnover, 0.5)
    starts = [int(streams.start(jax.random.key(i), 42)) for i in range(40)]
    assert set(starts) == {0, 1, 2}
    position, rows = streams.draw(jax.random.key(0), jnp.int32(5), 4)
    assert int(position) == 9
    np.testing.assert_allclose(rows.returns, returns[5:9], rtol=1e-6)
    np.testing.assert_allclose(rows.turnover, turnover[5:9], rtol=1e-6)
    with pytest.raises(InputError, match="too short"):
        streams.start(jax.random.key(0), 45)


def test_equity_is_that_of_a_plain_ledger():
    returns, turnover = recording()
    cost, rate, gross = 0.002, 0.0003, 1.4
    params = return_streams_params(
        recorded_streams(returns, turnover), np.full(3, 0.03), gross=gross, cost=cost, rate=rate, risk_aversion=0.2
    )
    actions = np.random.default_rng(1).uniform(-1.0, 1.0, (12, 4))
    _, (_, reward, truncated, info) = run(params, actions)
    cash, held, equity = 1.0, np.zeros(3), 1.0
    for t in range(12):
        wanted = np.asarray(info["granted"][t], np.float64)
        before = cash + held.sum()
        paid = cost * np.abs(wanted - held / before).sum()
        # Costs come out of everything in proportion.
        held, cash = wanted * before * (1 - paid), (1 - wanted.sum()) * before * (1 - paid)
        for row in np.asarray(info["returns"][t], np.float64):
            held, cash = held * (1 + row), cash * (1 + rate)
        grown = np.log((cash + held.sum()) / equity)
        equity = cash + held.sum()
        np.testing.assert_allclose(info["log_growth"][t], grown, atol=3e-6)
        np.testing.assert_allclose(reward[t], grown / 0.01 - 0.1 * (grown / 0.01) ** 2, atol=1e-3)
        if t < 11:
            np.testing.assert_allclose(info["held"][t + 1], held / equity, atol=1e-5)
    assert np.asarray(truncated).tolist() == [False] * 11 + [True]


def test_what_is_seen_and_granted_does_not_depend_on_what_comes_later():
    returns, turnover = recording()
    later = returns.copy()
    # The warm-up is 2 steps of 3 periods; what is observed after 5 steps ends with period 20.
    later[21:] = 0.1
    actions = np.full((12, 4), 0.3)
    one, other = (
        run(return_streams_params(recorded_streams(x, turnover), np.full(3, 0.03)), actions) for x in (returns, later)
    )
    chex.assert_trees_all_equal(one[0], other[0])
    seen, seen_other = (jax.tree.map(lambda x: x[:5], x[1]) for x in (one, other))
    chex.assert_trees_all_equal(seen, seen_other)
    assert not np.array_equal(one[1][0][5], other[1][0][5])


def test_without_tilts_agents_get_risk_parity_and_guardrails_have_the_last_word():
    signs = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
    streams = recorded_streams(np.tile(signs, (11, 1))[:42] * np.array([0.01, 0.02, 0.04]))
    free = return_streams_params(streams, np.full(3, 0.03), halflife=1e6)
    untilted = np.tile([0.0, 0.0, 0.0, 0.6], (12, 1))
    _, (_, _, _, info) = run(free, untilted)
    np.testing.assert_allclose(info["granted"], 0.8 * info["base"], atol=1e-6)
    # Uncorrelated agents: in proportion to the inverse of their volatility.
    np.testing.assert_allclose(np.asarray(info["base"])[-1], np.array([4, 2, 1]) / 7, atol=0.03)
    capped = dataclasses.replace(free, rails=guardrails(limits(3, leverage=0.5, max_weight=0.2)))
    _, (_, _, _, held_in) = run(capped, untilted)
    assert np.asarray(held_in["granted"]).max() <= 0.2 + 1e-6
    assert np.asarray(held_in["granted"]).sum(-1) == pytest.approx(0.5, abs=1e-5)
    assert np.asarray(held_in["intervention"].any).all()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"volatility": np.zeros((2, 2))}, "volatilities positive"),
        ({"transition": np.array([[0.9, 0.2], [0.3, 0.7]])}, "probabilities"),
        ({"correlation": np.ones((2, 2, 2))}, "positive definite"),
        ({"mean": np.zeros((2, 3))}, "volatility must have shape"),
        ({"first": np.array([0.5, 0.6])}, "first must be"),
    ],
)
def test_a_law_that_is_none_is_refused(change, said):
    with pytest.raises(InputError, match=said):
        regime_streams(**(LAW | change))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"gross": 0.0}, "gross"),
        ({"cost": -1.0}, "cost"),
        ({"record_decay": 1.0}, "record_decay"),
        ({"shrinkage": 1.1}, "shrinkage"),
        ({"balanced": -0.1}, "balanced"),
        ({"unseen": ("colour",)}, "unseen must be among"),
    ],
)
def test_a_world_of_impossible_numbers_is_refused(change, said):
    with pytest.raises(InputError, match=said):
        return_streams_params(regime_streams(**LAW), np.full(2, 0.03), **change)
    with pytest.raises(InputError, match="typical_volatility"):
        return_streams_params(regime_streams(**LAW), np.full(3, 0.03))
    with pytest.raises(InputError, match="agent 1 in period 2"):
        recorded_streams(np.array([[0.0, 0.0], [0.0, 0.0], [0.0, -1.0]]))


def test_a_base_of_equal_weight_ignores_risk_and_what_is_unseen_is_zero_in_every_observation():
    returns, turnover = recording()
    returns[:, 0] *= 3.0
    streams = recorded_streams(returns, turnover)
    hidden = ("correlation", "drawdown")
    plain, other = (
        return_streams_params(streams, np.full(3, 0.03), balanced=balanced, unseen=unseen)
        for balanced, unseen in ((1.0, ()), (0.0, hidden))
    )
    tilts = jnp.asarray([0.5, -0.5, 0.0, 0.6])
    (first, (obs, *_, info)), (blind_first, (blind, *_, even)) = (
        run(params, jnp.broadcast_to(tilts, (12, 4))) for params in (plain, other)
    )
    np.testing.assert_allclose(even["base"], 1 / 3, rtol=1e-6)
    assert (info["base"][:, 0] < 0.25).all()
    wanted = np.exp(np.log(3.0) * np.array([0.5, -0.5, 0.0]))
    np.testing.assert_allclose(even["asked"], np.tile(0.8 * wanted / wanted.sum(), (12, 1)), rtol=1e-5)
    columns = [PORTFOLIO_FEATURES.index(name) - len(PORTFOLIO_FEATURES) for name in hidden]
    for seen in (blind_first[None], blind):
        np.testing.assert_array_equal(np.asarray(seen)[:, columns], 0.0)
    assert (np.abs(np.asarray(obs)[1:, columns]).max(0) > 0).all()
    kept = [i for i in range(len(first)) if i - len(first) not in columns and i % 9 != 8]
    np.testing.assert_array_equal(first[jnp.asarray(kept)], blind_first[jnp.asarray(kept)])


def test_who_knows_nothing_of_correlations_has_inverse_volatility_for_a_base():
    returns, turnover = recording()
    returns[:, 1] = 0.9 * returns[:, 0] + 0.1 * returns[:, 1]
    streams = recorded_streams(returns, turnover)
    params = return_streams_params(streams, np.full(3, 0.03), shrinkage=1.0)
    state = ENV.reset_env(jax.random.key(0), params)[1]
    inverse = 1.0 / np.sqrt(np.diagonal(state.covariance))
    np.testing.assert_allclose(state.market.base, inverse / inverse.sum(), rtol=1e-4)


def test_asking_for_weights_is_an_action_that_comes_to_them():
    returns, turnover = recording()
    params = return_streams_params(recorded_streams(returns, turnover), np.full(3, 0.03), cost=0.002)
    state, action = ENV.reset_env(jax.random.key(0), params)[1], jnp.asarray([0.3, -0.9, 0.1, 0.4])
    asked = ask(action, state.market.base, params.tilt, params.gross)
    one = ENV.step_env(jax.random.key(1), state, action, params)
    other = ENV.rebalance(jax.random.key(1), state, asked, params)
    jax.tree.map(np.testing.assert_array_equal, one, other)
