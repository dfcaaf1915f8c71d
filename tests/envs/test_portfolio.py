"""The portfolio env: exact money, hard limits, no foresight, and policies that are data."""

import chex
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import arrays

from marljax.data.schema import InputError
from marljax.envs.tapes import CostConfig
from marljax.envs.worlds import AllocationConfig
from marljax.market.slippage import Account
from tests.reference.books import random_market
from tests.reference.trading import Book, CashAccount, Costs
from tests.reference.worlds import policies, portfolio


def episode(env, params, actions, seed=0):
    """(states, rewards, infos) after each block of an episode that starts at the first permitted block."""
    state = env.start(params.starts[0], params)

    def step(state, xs):
        i, action = xs
        _, state, reward, _, _, info = env.step_env(jax.random.fold_in(jax.random.key(seed), i), state, action, params)
        return state, (state, reward, info)

    n = len(actions)
    return jax.lax.scan(step, state, (jnp.arange(n), jnp.asarray(actions, jnp.float32)))[1]


def test_equity_is_capital_plus_what_every_account_made():
    env, params = portfolio(random_market(n_products=3, n_steps=200))
    actions = np.random.default_rng(0).uniform(-1, 1, (8, 4))
    states, _, infos = episode(env, params, actions)
    net = jax.vmap(jax.vmap(Account.net), (0, None))(states.accounts, params.world.costs.tick_value)
    np.testing.assert_allclose(states.equity, params.capital + net.sum(axis=1), rtol=1e-6)
    equity = np.append(params.capital, states.equity)
    np.testing.assert_allclose(infos["return"], np.diff(equity) / equity[:-1], atol=2e-7)
    assert np.abs(np.diff(equity)).min() > 0, "the agents traded"


def test_no_exposure_changes_nothing_but_the_clock():
    env, params = portfolio(random_market(n_products=3))
    states, rewards, _ = episode(env, params, np.tile([0.5, -0.5, 0.0, -1.0], (4, 1)))
    assert not jnp.any(rewards)
    assert jnp.all(states.equity == params.capital)
    assert not jnp.any(states.accounts.position)


def test_buying_and_holding_earns_what_a_plain_cash_account_earns():
    costs = CostConfig(fee_rate=1e-4, impact=0.2, latency_floor=0.0, latency_mean=0.0)
    data = random_market(4, n_products=2, n_steps=60, absent=0.0)
    env, params = portfolio(data, costs=costs)
    state, weights = env.start(0, params), jnp.array([0.3, 0.5])
    for block in range(12):
        state = state.replace(block=jnp.int32(block))
        state, _, _ = env.run_block(jax.random.key(0), state, weights, params, passive=True, hold=block > 0)

    def book(t, p):
        sides = [(data.bid_price, data.bid_size), (data.ask_price, data.ask_size)]
        return Book(*([(int(x), int(n)) for x, n in zip(a[t, p], b[t, p], strict=True)] for a, b in sides))

    for p in range(2):
        model = Costs(*(float(x[p]) for x in jax.tree.leaves(params.world.costs)[:6]))
        lot_value = 0.5 * float(data.double_mid[0, p]) * model.tick_value
        lots = round(float(weights[p] * params.capital) / lot_value)
        account = CashAccount()
        account.trade(lots, book(0, p), book(0, p), model)
        assert account.position > 0
        for t in (58, 59):
            account.trade(0, book(t, p), book(t, p), model)
        net = jax.tree.map(lambda x, p=p: x[p], state.accounts).net(params.world.costs.tick_value[p])
        assert float(net) == pytest.approx(account.net(book(59, p), model), rel=1e-4, abs=0.05)


@given(arrays(np.float32, 4, elements=st.floats(-10, 10, width=32)), st.floats(0.2, 1.0), st.floats(0.4, 0.9))
def test_no_action_breaks_the_limits(action, leverage, cap):
    env, params = portfolio(random_market(n_products=3), leverage=leverage, max_weight=cap)
    state = env.start(params.starts[0], params)
    _, _, _, _, _, info = env.step_env(jax.random.key(0), state, jnp.asarray(action), params)
    granted = np.asarray(info["granted"])
    assert (granted >= 0).all()
    assert granted.sum() <= leverage + 1e-5
    assert granted.max() <= max(cap, leverage / 3) + 1e-5


def test_changing_the_future_changes_nothing_before_it():
    data = random_market(n_products=3, n_steps=100)
    later = jnp.arange(100)[:, None, None] >= 41
    changed = data.replace(
        bid_price=jnp.where(later, data.bid_price - 500, data.bid_price),
        ask_price=jnp.where(later, data.ask_price - 400, data.ask_price),
        bid_size=jnp.where(later, data.bid_size + 3, data.bid_size),
    )
    runs = []
    for market in (data, changed):
        env, params = portfolio(market)
        states, rewards, infos = episode(env, params, np.random.default_rng(0).uniform(-1, 1, (7, 4)))
        runs.append((states.equity, states.accounts, rewards, infos))
    # The first permitted block starts at row 5; seven blocks of five rows end at row 40, marked at 40.
    assert int(params.blocks.start[params.starts[0]]) == 5
    chex.assert_trees_all_equal(*runs)


def test_agents_are_flat_overnight_and_while_features_warm_up():
    data = random_market(n_products=2, n_steps=80, n_sessions=2, absent=0.0)
    data = data.replace(bid_size=data.bid_size + 100_000, ask_size=data.ask_size + 100_000)
    env, params = portfolio(data)
    state, positions = env.start(0, params), []
    for block in range(16):
        state = state.replace(block=jnp.int32(block))
        state, rows, _ = env.run_block(jax.random.key(0), state, jnp.array([0.4, 0.4]), params)
        positions += list(np.abs(np.asarray(rows.position)).sum(axis=1))
    positions = np.array(positions)
    assert (positions[:5] == 0).all()
    assert positions[10] > 0
    assert positions[39] == 0
    assert (positions[40:45] == 0).all()
    assert positions[79] == 0


def test_other_policies_are_other_data_and_not_another_program():
    env, params = portfolio(random_market(n_products=3))
    chex.clear_trace_counter()
    step = jax.jit(chex.assert_max_traces(lambda *a: env.step_env(*a), n=1))
    equities = []
    for seed in range(3):
        agents = params.replace(world=params.world.replace(policies=policies(3, seed)))
        state = env.start(agents.starts[0], agents)
        equities.append(float(step(jax.random.key(0), state, jnp.ones(4), agents)[1].equity))
    assert len(set(equities)) == 3


def test_a_drawdown_terminates_and_the_number_of_blocks_truncates():
    env, params = portfolio(random_market(n_products=3))
    state = env.start(params.starts[0], params)
    for i in range(4):
        _, state, _, terminated, truncated, _ = env.step_env(jax.random.key(i), state, -jnp.ones(4), params)
        assert (bool(terminated), bool(truncated)) == (False, i == 3)
    ruined = state.replace(peak=2 * state.equity)
    *_, terminated, truncated, _ = env.step_env(jax.random.key(0), ruined, -jnp.ones(4), params)
    assert bool(terminated)
    assert not bool(truncated)


@pytest.mark.parametrize(
    "wrong",
    [{"rows_per_block": 0}, {"shrinkage": 1.5}, {"leverage": float("inf")}, {"max_weight": 0.0}, {"tilt": -1.0}],
)
def test_an_impossible_allocation_is_refused_by_name(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        AllocationConfig(**wrong)


def test_a_part_too_short_for_an_episode_is_refused():
    with pytest.raises(InputError, match="no session holds an episode"):
        portfolio(random_market(n_products=2, n_steps=24), rows_per_block=8)
