"""Market making, execution and portfolio choice: closed forms against oracles, and worlds against closed forms."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marljax.data.schema import InputError
from marljax.envs.controlled import avellaneda_stoikov_solution as making
from marljax.envs.controlled.almgren_chriss import (
    AlmgrenChriss,
    AlmgrenChrissParams,
    action_of,
    cost_variance,
    expected_cost,
    optimal_holdings,
)
from marljax.envs.controlled.avellaneda_stoikov import (
    AvellanedaStoikov,
    AvellanedaStoikovParams,
    benchmark_wealth,
)
from marljax.envs.controlled.merton import Merton, MertonParams, equivalent_rate, optimal_fraction, utility
from marljax.envs.environment import sample
from tests.reference.controlled import execution_schedule, expected_utility, market_making_value

OBJECTIVES = ("exponential", "running penalty")


def rollouts(env, params, policy, n_episodes: int, seed: int = 0):
    """(rewards, infos, observations, terminated) [E, N] under `policy(step, obs, key) -> action`."""

    def episode(key):
        obs, state = env.reset_env(key, params)

        def step(carry, x):
            obs, state = carry
            i, key = x
            after, state, reward, terminated, _, info = env.step_env(key, state, policy(i, obs, key), params)
            return (after, state), (reward, info, obs, terminated)

        keys = jax.random.split(jax.random.fold_in(key, 1), env.n_steps)
        return jax.lax.scan(step, (obs, state), (jnp.arange(env.n_steps), keys))[1]

    return jax.vmap(episode)(jax.random.split(jax.random.key(seed), n_episodes))


def episodes(env, params, policy, n_episodes: int):
    """(rewards [E, N], infos [E, N], observations [E, N]) of episodes, each of which ends when it should."""
    out = jax.jit(lambda params: rollouts(env, params, policy, n_episodes))(params)
    reward, info, obs, terminated = jax.tree.map(np.asarray, out)
    assert terminated[:, -1].all()
    assert not terminated[:, :-1].any()
    return reward, info, obs


def assert_mean(sample: np.ndarray, wanted: float):
    """The sample's mean is what is wanted, within four standard errors, which are small enough to mean something."""
    error = sample.std() / np.sqrt(len(sample))
    assert abs(sample.mean() - wanted) < 4 * error + 1e-6, (sample.mean(), wanted, error)
    return error


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_value_of_quotes_is_that_of_enumerating_fills_and_moves(objective):
    params = AvellanedaStoikovParams(max_inventory=1.0, intensity=20.0, horizon=0.1, risk_aversion=0.5)
    rng = np.random.default_rng(0)
    quotes = making.Quotes(*rng.uniform(0.1, 1.5, (2, 2, 3)))
    wanted = market_making_value(quotes, params, objective == "exponential")
    np.testing.assert_allclose(making.value_of(quotes, params, objective)[0, 1], wanted, rtol=1e-9)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_no_other_quotes_are_better_than_the_optimum(objective):
    params, rng = AvellanedaStoikovParams(risk_aversion=0.3), np.random.default_rng(0)
    best = making.optimal_quotes(params, 30, objective)
    np.testing.assert_allclose(making.value_of(best.quotes, params, objective), best.value, rtol=1e-12)
    for size in (0.003, 0.03, 0.3):
        noise = rng.normal(scale=size, size=(2, *best.quotes.bid.shape))
        other = making.Quotes(best.quotes.bid + noise[0], best.quotes.ask + noise[1])
        assert making.value_of(other, params, objective)[0, 10] < best.value[0, 10] - 1e-6


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_optimum_tends_to_the_closed_form_as_steps_get_shorter(objective):
    params = AvellanedaStoikovParams(max_inventory=4.0, horizon=0.2)
    closed = making.continuous_quotes(params, 1, objective).value[0, 4]
    first, second = (making.optimal_quotes(params, n, objective).value[0, 4] for n in (200, 400))
    assert 0.01 < 1 - second / closed < 0.03
    # The error is of the first order in the step, so that extrapolation takes most of it away.
    np.testing.assert_allclose(2 * second - first, closed, rtol=1e-3)


def test_closed_forms_are_ranked_as_they_should_be_at_the_papers_parameters():
    params = AvellanedaStoikovParams()
    value = {
        "symmetric": making.value_of(making.Quotes(*np.full((2, 200, 21), 1 / params.decay)), params)[0, 10],
        "approximate": making.value_of(making.approximate_quotes(params, 200), params)[0, 10],
        "continuous": making.value_of(making.continuous_quotes(params, 200).quotes, params)[0, 10],
        "optimal": making.optimal_quotes(params, 200).value[0, 10],
    }
    assert list(value) == sorted(value, key=value.get)
    np.testing.assert_allclose(list(value.values()), [51.82, 55.21, 57.02, 57.37], atol=0.01)


@functools.cache
def made(objective: str, price_noise: float):
    """Episodes of the closed form's quotes in the world: (rewards, infos, value predicted)."""
    params = AvellanedaStoikovParams(price_noise=price_noise, max_inventory=5.0)
    env = AvellanedaStoikov(n_steps=100, objective=objective)
    quotes = making.continuous_quotes(params, 100, objective).quotes
    table = jnp.asarray(making.as_actions(quotes, params), jnp.float32)

    def policy(i, obs, key):
        return table[i, jnp.round(obs[1] * 5 + 5).astype(jnp.int32)]

    reward, info, _ = episodes(env, params, policy, 8000)
    return reward, info, making.value_of(quotes, params, objective)[0, 5], params


@pytest.mark.parametrize("price_noise", [0.0, 1.0])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_simulated_closed_form_returns_its_predicted_value(objective, price_noise):
    reward, _, value, params = made(objective, price_noise)
    gamma = params.risk_aversion
    if objective == "exponential":
        value = -np.expm1(-gamma * (value - benchmark_wealth(params, 100))) / gamma
    assert assert_mean(reward.sum(1), value) < 0.15


def test_final_wealth_has_the_predicted_certainty_equivalent():
    _, info, value, params = made("exponential", 0.0)
    relative = np.exp(-params.risk_aversion * (info["wealth"][:, -1].astype(np.float64) - value))
    assert assert_mean(relative, 1.0) < 0.02


def test_without_the_mids_noise_returns_vary_less():
    for objective in OBJECTIVES:
        noisy, clean = (made(objective, noise)[0].sum(1).std() for noise in (1.0, 0.0))
        assert clean < 0.8 * noisy


def test_what_is_filled_in_a_step_bears_the_rest_of_its_move():
    params = AvellanedaStoikovParams(intensity=20.0)
    _, info, _ = episodes(AvellanedaStoikov(1, "running penalty"), params, lambda i, obs, key: jnp.ones(2), 4000)
    held = np.abs(info["inventory"][:, 0]) == 1
    assert 1000 < held.sum() < 3000
    assert np.ptp(info["wealth"][~held, 0] % params.max_quote) < 1e-5
    np.testing.assert_allclose(info["wealth"][held, 0].std(), params.volatility, rtol=0.1)


def test_inventory_stays_within_its_limit_and_reaches_it():
    params = AvellanedaStoikovParams(max_inventory=2.0)
    policy = lambda i, obs, key: jax.random.uniform(key, (2,), minval=-1.0)  # noqa: E731
    _, info, obs = episodes(AvellanedaStoikov(n_steps=100), params, policy, 50)
    assert np.abs(info["inventory"]).max() == 2.0
    assert np.abs(obs[..., 1]).max() == 1.0


@pytest.mark.parametrize("risk_aversion", [1e-9, 0.1, 1.0, 10.0])
@pytest.mark.parametrize("n_steps", [5, 20])
def test_the_closed_schedule_solves_the_quadratic_programme(risk_aversion, n_steps):
    params = AlmgrenChrissParams(risk_aversion=risk_aversion)
    np.testing.assert_allclose(optimal_holdings(params, n_steps), execution_schedule(params, n_steps), atol=1e-6)


@pytest.mark.parametrize("risk_aversion", [0.3, 3.0])
def test_the_schedule_costs_in_the_world_what_the_formulae_say(risk_aversion):
    params = AlmgrenChrissParams(risk_aversion=risk_aversion)
    holdings = optimal_holdings(params, 10)
    actions = jnp.asarray(action_of(holdings), jnp.float32)
    reward, info, obs = episodes(AlmgrenChriss(10), params, lambda i, obs, key: actions[i][None], 20_000)
    cost = info["cost"].sum(1)
    mean, variance = expected_cost(holdings, params), cost_variance(holdings, params)
    assert assert_mean(cost, mean) < 0.02
    np.testing.assert_allclose(cost.var(), variance, rtol=0.05)
    assert_mean(-reward.sum(1), mean + risk_aversion * variance)
    np.testing.assert_allclose(obs[0, :, 1], holdings[:-1], atol=1e-5)


def test_all_is_sold_at_the_end_whatever_the_agent_does():
    params = AlmgrenChrissParams(volatility=1e-6)
    _, info, _ = episodes(AlmgrenChriss(4), params, lambda i, obs, key: -jnp.ones(1), 2)
    tau = params.horizon / 4
    np.testing.assert_allclose(info["cost"].sum(1), params.spread + params.temporary / tau, rtol=1e-4)


def test_risk_aversion_is_drawn_over_its_range_and_seen():
    params = AlmgrenChrissParams(risk_aversion=2.0, risk_aversion_range=5.0)
    reward, info, obs = episodes(AlmgrenChriss(4), params, lambda i, obs, key: jnp.zeros(1), 500)
    drawn = np.exp(obs[:, 0, 2])
    assert 0.4 <= drawn.min() < 0.45
    assert 9.0 < drawn.max() <= 10.0
    held = obs[:, 1:, 1]
    risk = params.volatility**2 * params.horizon / 4 * (held**2).sum(1)
    np.testing.assert_allclose(-(reward + info["cost"]).sum(1), drawn * risk, rtol=1e-4)


@pytest.mark.parametrize("risk_aversion", [0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("time_step", [0.1, 1.0])
def test_mertons_share_is_the_best_by_quadrature_whatever_the_step(risk_aversion, time_step):
    params = MertonParams(risk_aversion=risk_aversion, time_step=time_step)
    shares = np.linspace(-2, 2, 401)
    utilities = [expected_utility(share, params.drift, params.volatility, params) for share in shares]
    best = optimal_fraction(params.drift, params.volatility, params)
    assert abs(shares[np.argmax(utilities)] - best) < 0.011
    rate = float(equivalent_rate(best, params.drift, params.volatility, params))
    np.testing.assert_allclose(utility(rate * time_step, risk_aversion), max(utilities), rtol=1e-4)


@pytest.mark.parametrize("risk_aversion", [1.0, 3.0])
def test_the_worlds_rewards_are_the_expected_utilities_of_the_quadrature(risk_aversion):
    params = MertonParams(risk_aversion=risk_aversion)
    for share in (-0.5, 1.5):
        action = jnp.full(1, share / params.limit)
        reward, info, _ = episodes(Merton(), params, lambda i, obs, key, action=action: action, 4000)
        wanted = expected_utility(share, params.drift, params.volatility, params)
        assert assert_mean(reward.ravel(), wanted) < 0.03
        rate = params.rate + share * (params.drift - params.rate) - 0.5 * (share * params.volatility) ** 2
        assert_mean(info["log_wealth"][:, -1], 10 * rate)


def test_drift_and_volatility_are_drawn_over_their_ranges_and_seen():
    params = MertonParams(drift_range=0.1, volatility_range=1.5)
    _, _, obs = episodes(Merton(), params, lambda i, obs, key: jnp.zeros(1), 1000)
    excess, volatility = obs[:, 0, 0], obs[:, 0, 1]
    np.testing.assert_allclose([excess.min(), excess.max()], [0.1, 0.3], atol=0.002)
    np.testing.assert_allclose([volatility.min(), volatility.max()], [0.4 / 1.5, 0.6], atol=0.005)
    assert (obs[:, :, :2] == obs[:, :1, :2]).all()


@pytest.mark.parametrize(
    ("env", "params"),
    [
        (AvellanedaStoikov(n_steps=20), AvellanedaStoikovParams(max_inventory=3.0)),
        (AlmgrenChriss(5), AlmgrenChrissParams(risk_aversion_range=2.0)),
        (Merton(5), MertonParams(drift_range=0.1, volatility_range=1.5)),
    ],
)
def test_every_parameter_acts(env, params):
    def policy(i, obs, key):
        return sample(key, env.action_space(params))

    run = jax.jit(lambda params: jax.tree.leaves(rollouts(env, params, policy, 20)))
    base, least = run(params), {"max_inventory": 1.0, "risk_aversion_range": 1.0, "volatility_range": 1.0}
    for field in dataclasses.fields(params):
        value = least.get(field.name, 0.6 * getattr(params, field.name))
        changed = run(dataclasses.replace(params, **{field.name: value}))
        assert max(np.abs(1.0 * x - 1.0 * y).max() for x, y in zip(base, changed, strict=True)) > 1e-3, field.name


@pytest.mark.parametrize(
    ("params", "bad"),
    [
        (AvellanedaStoikovParams, {"decay": 0.0}),
        (AvellanedaStoikovParams, {"price_noise": 1.5}),
        (AlmgrenChrissParams, {"risk_aversion_range": 0.5}),
        (MertonParams, {"volatility": -0.1}),
    ],
)
def test_impossible_worlds_are_refused_by_name(params, bad):
    with pytest.raises(InputError, match=next(iter(bad))):
        params(**bad)
