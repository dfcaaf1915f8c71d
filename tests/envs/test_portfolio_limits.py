"""What limits the portfolio env's allocation: each flag of its config binds, and no action gets around one."""

import dataclasses

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import arrays

from marljax.data.schema import InputError
from marljax.envs.worlds import AllocationConfig
from tests.reference.books import random_market
from tests.reference.worlds import episode, portfolio

step = jax.jit(lambda env, *a: env.step_env(*a), static_argnums=0)
BLOCKS = 8
BOLD = jnp.tile(jnp.array([1.0, -1.0, 0.0, 1.0]), (BLOCKS, 1))


def test_turnover_is_limited_relative_to_what_the_drifted_portfolio_holds():
    data = random_market(2, n_products=3, n_steps=200)
    decision, free = (episode(*portfolio(data, **one), BOLD)[2]["decision"] for one in ({"turnover": 0.2}, {}))
    moved = np.abs(decision.granted - decision.before).sum(axis=1)
    assert (moved <= 0.2 + 1e-5).all()
    assert moved[0] == pytest.approx(0.2, abs=1e-5)
    assert bool(decision.intervention.turnover[0])
    assert float(free.granted[0].sum()) > 0.5


def test_class_caps_bind_by_the_products_asset_classes_and_name_one_that_is_not_there():
    data = random_market(2, n_products=3, n_steps=200)
    kinds = ("equity", "future", "equity")
    data = data.replace(
        products=tuple(dataclasses.replace(p, asset_class=k) for p, k in zip(data.products, kinds, strict=True))
    )
    env, params = portfolio(data, class_caps={"equity": 0.3}, leverage=0.7)
    _, decision = jax.jit(env.rebalance)(env.start(params.starts[0], params), jnp.array([0.3, 0.2, 0.1]), params)
    np.testing.assert_allclose(decision.granted, [0.25, 0.2, 0.05], atol=1e-5)
    with pytest.raises(InputError, match=r"class_caps names 'bond'.*equity, future"):
        portfolio(data, class_caps={"bond": 0.3})
    with pytest.raises(InputError, match="class_cap"):
        portfolio(data, class_caps={"equity": 0.3, "future": 0.3})


def test_the_volatility_target_bounds_the_granted_portfolios_volatility():
    env, params = portfolio(random_market(2, n_products=3, n_steps=200), volatility_target=0.4)
    _, _, infos = episode(env, params, BOLD)
    decision, start = infos["decision"], int(params.starts[0])
    covariance = np.asarray(params.market.covariance[start : start + BLOCKS], np.float64) * env.rows_per_block
    volatility = np.sqrt(np.einsum("na,nab,nb->n", decision.granted, covariance, decision.granted))
    target = 0.4 * float(params.reward_scale)
    np.testing.assert_allclose(volatility, target, rtol=1e-4)
    assert (np.asarray(decision.intervention.volatility) < 1).all()


def test_the_risk_budget_bounds_what_each_agents_capital_is_worth_in_volatility():
    data = random_market(2, n_products=3, n_steps=200)
    env, params = portfolio(data, risk_budget=0.3)
    decision = episode(env, params, BOLD)[2]["decision"]
    start = int(params.starts[0])
    covariance = np.asarray(params.market.covariance[start : start + BLOCKS], np.float64) * env.rows_per_block
    risk = decision.granted * np.sqrt(np.einsum("naa->na", covariance))
    budget = 0.3 * float(params.reward_scale)
    assert (risk <= budget * (1 + 1e-4)).all()
    bound = np.asarray(decision.intervention.risk_budget)
    assert bound.any()
    np.testing.assert_allclose(np.asarray(risk)[bound], budget, rtol=1e-4)
    with pytest.raises(InputError, match=r"volatility_target .* and risk_budget conflict"):
        portfolio(data, risk_budget=0.3, volatility_target=1.0)


def test_the_brake_sells_everything_in_a_drawdown_and_stays_out_while_it_rests():
    env, params = portfolio(random_market(2, n_products=3, n_steps=200), brake_drawdown=0.1, brake_cooldown=2)
    state, granted = env.start(params.starts[0], params), []
    for i in range(5):
        if i == 2:
            state = state.replace(brake=state.brake.replace(peak=state.equity / 0.85))
        _, state, *_, info = step(env, jax.random.key(i), state, jnp.array([0.0, 0.0, 0.0, 1.0]), params)
        granted.append(float(info["decision"].granted.sum()))
        assert bool(info["decision"].intervention.brake) == (i in (2, 3))
        assert bool(jnp.any(state.holdings.accounts.position != 0)) == (i not in (2, 3))
    np.testing.assert_allclose(granted, [1, 1, 0, 0, 1], atol=1e-5)


@given(arrays(np.float32, 4, elements=st.floats(-10, 10, width=32)), st.floats(0.2, 1.0), st.floats(0.4, 0.9))
def test_no_action_breaks_the_limits(action, leverage, cap):
    env, params = portfolio(random_market(n_products=3), leverage=leverage, max_weight=cap)
    state = env.start(params.starts[0], params)
    *_, info = step(env, jax.random.key(0), state, jnp.asarray(action), params)
    granted = np.asarray(info["decision"].granted)
    assert (granted >= 0).all()
    assert granted.sum() <= leverage + 1e-5
    assert granted.max() <= max(cap, leverage / 3) + 1e-5


@pytest.mark.parametrize(
    "wrong",
    [
        {"rows_per_block": 0},
        {"shrinkage": 1.5},
        {"leverage": float("inf")},
        {"max_weight": 0.0},
        {"tilt": -1.0},
        {"turnover": 0.0},
        {"volatility_target": -1.0},
        {"risk_budget": 0.0},
        {"risk_budget": float("nan")},
        {"cash_rate": 2.0},
        {"loan_rate": -0.01},
        {"short_rate": float("nan")},
    ],
)
def test_an_impossible_allocation_is_refused_by_name(wrong):
    with pytest.raises(InputError, match=next(iter(wrong)).removesuffix("_rate")):
        AllocationConfig(**wrong)


def test_a_brake_that_would_never_let_go_is_refused():
    with pytest.raises(InputError, match="recovery"):
        AllocationConfig(brake_drawdown=0.1, brake_recovery=0.2)
