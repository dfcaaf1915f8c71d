"""The portfolio env: exact money, hard limits, no foresight, and policies that are data."""

import dataclasses
import itertools
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marljax.data.schema import InputError
from marljax.envs import portfolio_rewards
from marljax.envs.portfolio import base_weights
from marljax.envs.product_agents import Holdings, lot_values, observe_products, trade_row
from marljax.envs.rewards import RewardConfig
from marljax.envs.tapes import CostConfig
from marljax.envs.worlds import AllocationConfig, years_ahead
from marljax.evaluation.backtest import costs_by_item, financing_by_item
from marljax.portfolio.limits import limits
from marljax.portfolio.meta_controller import AGENT_FEATURES, split
from tests.reference.books import random_market
from tests.reference.portfolio import cash_and_positions
from tests.reference.rewards import terms as terms_of_reward
from tests.reference.trading import Book, CashAccount, Costs
from tests.reference.worlds import episode, policies, portfolio

step = jax.jit(lambda env, *a: env.step_env(*a), static_argnums=0)
BLOCKS = 8


@partial(jax.jit, static_argnums=0)
def run_block(env, seed, state, asked, params, passive=False, hold=False):
    return env.run_block(jax.random.key(seed), state, asked, params, passive=passive, hold=hold)


def drawn(n_agents=3):
    return jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (BLOCKS, n_agents + 1)), jnp.float32)


def book(data, t, p):
    """Row t of product p, for the oracles."""
    sides = [(data.bid_price, data.bid_size), (data.ask_price, data.ask_size)]
    return Book(*([(int(x), int(n)) for x, n in zip(a[t, p], b[t, p], strict=True)] for a, b in sides))


def cost_model(params, agent):
    return Costs(*(float(x[agent]) for x in jax.tree.leaves(params.world.costs)[:6]))


def test_equity_is_capital_plus_what_every_account_made():
    env, params = portfolio(random_market(n_products=3, n_steps=200))
    states, _, infos = episode(env, params, drawn())
    earned = jax.vmap(Holdings.earned, (0, None))(states.holdings, params.world.costs)
    financing = states.holdings.financing
    np.testing.assert_allclose(
        states.equity, params.capital + earned.sum(axis=1) + financing.interest - financing.loans, rtol=1e-6
    )
    equity = np.append(params.capital, states.equity)
    np.testing.assert_allclose(infos["return"], np.diff(equity) / equity[:-1], atol=2e-7)
    assert np.abs(np.diff(equity)).min() > 0, "the agents traded"


def test_the_default_reward_is_the_log_return_less_risk_aversion_and_costs_sum_to_the_maximum_drawdown():
    env, params = portfolio(random_market(n_products=3, n_steps=200), risk_aversion=0.3)
    states, rewards, infos = episode(env, params, drawn())
    log_return = np.log1p(np.asarray(infos["return"])) / np.asarray(params.reward_scale)
    np.testing.assert_allclose(rewards, log_return - np.float32(0.15) * log_return**2, rtol=1e-5, atol=1e-6)
    equity = np.append(params.capital, states.equity).astype(np.float64)
    worst = (1.0 - equity / np.maximum.accumulate(equity)).max()
    assert worst > 5e-4
    assert float(infos["cost"].sum()) == pytest.approx(worst, rel=1e-3)
    assert float(infos["cost"].min()) >= 0.0


@pytest.mark.parametrize("term", ["earnings", "log_return", "sharpe", "sortino", "drawdown", "turnover"])
def test_the_allocator_is_paid_by_the_weights_of_its_config(term):
    env, params = portfolio(random_market(n_products=3, n_steps=200))
    config = RewardConfig(**({"earnings": 0.0, "log_return": 1.0, "memory": 5.0} | {term: 2.0}))
    params = params.replace(rewards=portfolio_rewards.weights(config))
    states, rewards, _ = episode(env, params, drawn())
    equity, traded = np.append(params.capital, states.equity).astype(np.float64), states.holdings.accounts.traded
    turnover = np.diff(np.append(0.0, traded.sum(axis=1))) / equity[:-1]
    np.testing.assert_allclose(states.turnover, turnover, rtol=1e-4)
    sd = float(params.reward_scale) * equity[0]
    terms = terms_of_reward(np.diff(equity) / sd, np.zeros(BLOCKS), turnover, equity[0] / sd, 5.0, 0.1)
    expected = 2.0 * terms[term] + (terms["log_return"] if term != "log_return" else 0.0)
    np.testing.assert_allclose(rewards, expected, rtol=2e-3, atol=2e-3)
    assert np.abs(2.0 * terms[term] if term != "log_return" else terms[term]).max() > 0.02


@dataclasses.dataclass(frozen=True)
class Silent:
    """Agents who never say what they want, and so keep what they have."""

    def init_carry(self):
        return ()

    def apply(self, params, obs, carry, key, deterministic):
        return jnp.full(1, jnp.nan), carry


def test_run_block_scales_an_agents_position_with_its_capital_and_pays_the_book_for_it():
    thin = random_market(n_products=3, n_steps=200)
    data = thin.replace(bid_size=thin.bid_size + 200, ask_size=thin.ask_size + 200)
    env, params = portfolio(data)
    opened = env.start(params.starts[0], params)
    first, _, rows, _ = run_block(env, 0, opened, jnp.full(3, 0.2), params, passive=True)
    held = np.asarray(rows.position[-1])
    assert (held > 50).all()
    state = dataclasses.replace(first, block=first.block + 1)
    factor = np.array([2.0, 0.5, 1.0])
    quiet = dataclasses.replace(env, policy=Silent())
    after, decision, rows, _ = run_block(quiet, 1, state, state.weights * factor, params)
    np.testing.assert_allclose(decision.granted, state.weights * factor, rtol=1e-5)
    scaled = np.asarray(rows.position[0])
    np.testing.assert_array_equal(rows.position, np.broadcast_to(scaled, rows.position.shape))
    np.testing.assert_allclose(scaled, factor * held, atol=1.0)
    lot = lot_values(params.blocks.start[state.block], params.world)
    traded = np.asarray(after.holdings.accounts.traded - first.holdings.accounts.traded)
    np.testing.assert_allclose(traded, np.abs(scaled - held) * lot, rtol=1e-3)
    slippage = np.asarray(after.holdings.accounts.slippage.value() - first.holdings.accounts.slippage.value())
    assert (slippage[:2] >= 2 * np.abs(scaled - held)[:2]).all(), "no side of the book is nearer than a tick"
    assert slippage[2] == 0


def test_no_exposure_changes_nothing_but_the_clock():
    env, params = portfolio(random_market(n_products=3))
    states, rewards, _ = episode(env, params, jnp.tile(jnp.array([0.5, -0.5, 0.0, -1.0]), (BLOCKS, 1)))
    assert not jnp.any(rewards)
    assert jnp.all(states.equity == params.capital)
    assert not jnp.any(states.holdings.accounts.position)


def test_buying_and_holding_earns_what_a_plain_cash_account_earns():
    costs = CostConfig(fee_rate=1e-4, impact=0.2, latency_floor=0.0, latency_mean=0.0)
    data = random_market(4, n_products=2, n_steps=60, absent=0.0)
    env, params = portfolio(data, costs=costs)
    state, weights = env.start(0, params), jnp.array([0.3, 0.5])
    for block in range(12):
        state = state.replace(block=jnp.int32(block))
        state, *_ = run_block(env, 0, state, weights, params, True, block > 0)

    for p in range(2):
        model = cost_model(params, p)
        lot_value = 0.5 * float(data.double_mid[0, p]) * model.tick_value
        lots = round(float(weights[p] * params.capital) / lot_value)
        account = CashAccount()
        account.trade(lots, book(data, 0, p), book(data, 0, p), model)
        assert account.position > 0
        for t in (58, 59):
            account.trade(0, book(data, t, p), book(data, t, p), model)
        net = jax.tree.map(lambda x, p=p: x[p], state.holdings.accounts).net(params.world.costs.tick_value[p])
        assert float(net) == pytest.approx(account.net(book(data, 59, p), model), rel=1e-4, abs=0.05)


RATES = {"cash_rate": 0.3, "loan_rate": 0.6, "short_rate": 0.2}
LEVERAGE = 2.4
PROMPT = CostConfig(fee_rate=1e-4, impact=0.2, latency_floor=0.0, latency_mean=0.0)


@pytest.fixture(scope="module")
def crowded():
    """Four agents on three products, half a year of rows: (data, params, [(state, decision, rows)] block by block)."""
    data = random_market(1, 121, n_products=3, n_sessions=2, step_seconds=86_400.0 * 3, absent=0.0, start=300)
    rails = {"leverage": LEVERAGE, "max_weight": 1.0, "brake_drawdown": None}
    env, params = portfolio(data, costs=PROMPT, product=[0, 1, 1, 2], **rails, **RATES)
    bold = policies(4, boldness=1000.0)
    params = params.replace(world=params.world.replace(policies=bold))
    state, found = env.start(0, params), []
    for i, asked in enumerate(np.random.default_rng(0).uniform(0, 1, (24, 4)).astype(np.float32)):
        state = state.replace(block=jnp.int32(i))
        # Of agents that have little capital in the first blocks, much cash is left.
        state, decision, rows, _ = run_block(env, i, state, asked * (0.3 if i < 6 else 1.0), params)
        found.append((state, decision, rows))
    return data, params, found


def test_on_every_row_equity_is_cash_and_positions_at_the_mark_and_the_items_add_up(crowded):
    data, params, found = crowded
    product, lengths = [0, 1, 1, 2], np.asarray(params.blocks.length)
    positions = np.concatenate([r.position[:n] for (_, _, r), n in zip(found, lengths, strict=False)])
    equity = np.concatenate([r.equity[:n] for (_, _, r), n in zip(found, lengths, strict=False)])
    expected, items = cash_and_positions(
        positions,
        lambda t, a: book(data, t, product[a]),
        [cost_model(params, a) for a in range(4)],
        np.asarray(params.world.years, np.float64),
        float(params.capital),
        *RATES.values(),
    )
    np.testing.assert_allclose(equity, expected, rtol=2e-6)
    state = found[-1][0]
    ours = {
        name: np.asarray(x).sum() for name, x in costs_by_item(state.holdings, params.world.costs.tick_value).items()
    }
    ours |= {name: float(x) for name, x in financing_by_item(state.holdings).items()}
    ours["charges"] = ours["impact"] + ours["fees"]
    for name, amount in items.items():
        assert ours[name] == pytest.approx(amount, rel=1e-3, abs=0.05), name
        assert abs(amount) > 1e-5 * float(params.capital), f"there was {name} to account for"
    paid = sum(ours[name] for name in ("slippage", "latency", "charges", "loans", "shorts")) - ours["interest"]
    assert ours["gross"] - paid == pytest.approx(equity[-1] - float(params.capital), rel=1e-4)


def test_capital_drifts_with_what_each_agent_earned(crowded):
    _, params, found = crowded
    moved = 0.0
    for (before, *_), (after, decision, _) in itertools.pairwise(found):
        earned = Holdings.earned(after.holdings, params.world.costs) - Holdings.earned(
            before.holdings, params.world.costs
        )
        capital = np.asarray(decision.granted, np.float64) * float(before.equity) + np.asarray(earned)
        # Who was granted nothing has nothing, whatever selling cost, and nobody has less.
        drifted = np.where(decision.granted > 0, np.maximum(capital, 0.0), 0.0) / float(after.equity)
        np.testing.assert_allclose(after.weights, drifted, rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(decision.before, before.weights)
        moved = max(moved, float(np.abs(after.weights - decision.granted).max()))
    assert moved > 1e-3


def test_a_decision_tells_what_was_seen_asked_for_and_granted(crowded):
    *_, found = crowded
    for (before, *_), (_, decision, _) in itertools.pairwise(found):
        assert float(decision.equity) == float(before.equity)
        agents, _ = split(decision.observation)
        weight = agents[:, AGENT_FEATURES.index("weight")]
        np.testing.assert_allclose(weight, np.minimum(4 * decision.before, 5.0), rtol=1e-5)
        assert float(decision.granted.sum()) <= LEVERAGE + 1e-5
        # Agents of one product share its weight evenly.
        assert float(decision.base[1]) == float(decision.base[2])
        assert float(decision.base.sum()) == pytest.approx(1.0, abs=1e-5)
    bound = [bool(d.intervention.leverage | d.intervention.cash) for _, d, _ in found]
    asked = [float(decision.asked.sum()) for _, decision, _ in found]
    assert bound == [total > LEVERAGE + 1e-6 for total in asked]
    assert any(bound)
    assert not all(bound)


@pytest.mark.parametrize("factor", [0.5, 1.0, 1.7])
def test_a_rebalance_scales_positions_with_capital_and_pays_the_book_for_it(factor):
    data = random_market(4, n_products=2, n_steps=60, absent=0.0)
    data = data.replace(bid_size=data.bid_size + 30, ask_size=data.ask_size + 30)
    _, params = portfolio(data, costs=PROMPT)
    world, lots = params.world, jnp.array([20.0, 20.0])
    agent = partial(trade_row, jax.random.key(0), world)
    holdings, _ = agent(Holdings.none(2), params.capital, lots, jnp.int32(10), jnp.array([1.0, -0.5]))
    np.testing.assert_array_equal(holdings.accounts.position, [20, -10])
    keeps = jnp.full(2, jnp.nan)
    scaled, _ = agent(holdings, params.capital, factor * lots, jnp.int32(11), keeps, factor=jnp.full(2, factor))
    np.testing.assert_array_equal(scaled.accounts.position, [round(20 * factor), -round(10 * factor)])
    for p, position in enumerate((20, -10)):
        account, now = CashAccount(), book(data, 11, p)
        bought = account.trade(round(position * factor) - position, now, now, cost_model(params, p))
        cost = -account.cash_ticks - bought * now.double_mid / 2
        paid = [x.accounts.slippage.value()[p] for x in (holdings, scaled)]
        assert 0.5 * float(paid[1] - paid[0]) == pytest.approx(cost)
        assert (cost > 0) == (factor != 1.0)


def test_capital_that_nobody_moves_trades_nothing():
    env, params = portfolio(random_market(4, n_products=2, n_steps=60, absent=0.0))
    state, positions = env.start(0, params), []
    for block in range(10):
        state = state.replace(block=jnp.int32(block))
        state, *_ = run_block(env, 0, state, jnp.array([0.3, 0.4]), params, True, block > 0)
        positions.append(np.asarray(state.holdings.accounts.position))
    assert (np.array(positions) == positions[0]).all()
    assert (positions[0] > 0).all()


def test_agents_of_one_product_trade_its_one_tape_through_accounts_of_their_own():
    data = random_market(3, n_products=2, n_steps=80)
    env, params = portfolio(data, costs=PROMPT, product=[1, 0, 1], leverage=1.5)
    twins = jax.tree.map(lambda x: x.at[2].set(x[0]), params.world.policies)
    params = params.replace(world=params.world.replace(policies=twins))
    assert params.world.tape.ladder.shape[0] == params.world.features.shape[0] == 2
    start = env.start(2, params)
    _, _, together, _ = run_block(env, 0, start, jnp.array([0.5, 0.2, 0.5]), params)
    _, _, alone, _ = run_block(env, 0, start, jnp.array([0.5, 0.0, 0.0]), params)
    np.testing.assert_array_equal(together.position[:, 0], together.position[:, 2])
    np.testing.assert_array_equal(together.position[:, 0], alone.position[:, 0])
    np.testing.assert_array_equal(together.net[:, 0], alone.net[:, 0])
    np.testing.assert_array_equal(together.net[:, 0], together.net[:, 2])
    assert (together.position[:, 0] != together.position[:, 1]).any()
    assert together.position[:, 0].any()


def test_a_short_allocation_holds_the_opposite_and_its_agent_sees_its_own_side():
    env, params = portfolio(random_market(4, n_products=2, n_steps=60, absent=0.0), costs=PROMPT)
    params = params.replace(rails=params.rails.replace(limits=limits(2, leverage=1.0, max_short=0.5)))
    asked = jnp.array([0.4, -0.4])
    state, decision, rows, _ = run_block(env, 0, env.start(2, params), asked, params, True, False)
    np.testing.assert_array_equal(decision.granted, asked)
    value = np.asarray(rows.position[0]) * np.asarray(lot_values(params.blocks.start[2], params.world))
    np.testing.assert_allclose(value / float(params.capital), asked, atol=0.05)
    held = state.holdings.accounts.position
    seen = observe_products(params.world, held, held.astype(jnp.float32), jnp.int32(20))
    np.testing.assert_array_equal(seen[:, -1], [1.0, 1.0])


def test_risk_parity_as_mode_of_coordination_hears_no_action():
    data = random_market(2, n_products=3, n_steps=200)
    for coordination in ("risk_parity", "meta"):
        env, params = portfolio(data, coordination=coordination, leverage=0.7)
        state = env.start(params.starts[0], params)
        asked, base = env.ask(state, jnp.array([1.0, -1.0, 0.0, 1.0]), params), base_weights(state.block, params)
        heard = np.abs(asked - 0.7 * base).max()
        assert heard == 0 if coordination == "risk_parity" else heard > 0.1


def test_changing_the_future_changes_nothing_before_it():
    data = random_market(n_products=3, n_steps=200)
    # The training third ends here, and so do eight blocks of five rows from row 25 on, marked at row 65.
    later = jnp.arange(200)[:, None, None] >= 66
    changed = data.replace(
        bid_price=jnp.where(later, data.bid_price - 500, data.bid_price),
        ask_price=jnp.where(later, data.ask_price - 400, data.ask_price),
        bid_size=jnp.where(later, data.bid_size + 3, data.bid_size),
    )
    runs = []
    for market in (data, changed):
        env, params = portfolio(market)
        assert int(params.blocks.start[params.starts[4]]) == 25
        states, rewards, infos = episode(env, params, drawn(), 4)
        runs.append((states.equity, states.holdings, rewards, infos))
    chex.assert_trees_all_equal(*runs)


def test_agents_are_flat_overnight_and_while_features_warm_up():
    data = random_market(n_products=2, n_steps=60, n_sessions=2, absent=0.0)
    data = data.replace(bid_size=data.bid_size + 100_000, ask_size=data.ask_size + 100_000)
    env, params = portfolio(data)
    state, positions = env.start(0, params), []
    for block in range(12):
        state = state.replace(block=jnp.int32(block))
        state, _, rows, _ = run_block(env, 0, state, jnp.array([0.4, 0.4]), params)
        positions += list(np.abs(np.asarray(rows.position)).sum(axis=1))
    positions = np.array(positions)
    assert (positions[:5] == 0).all()
    assert positions[10] > 0
    assert positions[29] == 0
    assert (positions[30:35] == 0).all()
    assert positions[40] > 0
    assert positions[59] == 0


def test_other_policies_are_other_data_and_not_another_program():
    env, params = portfolio(random_market(n_products=3))
    chex.clear_trace_counter()
    traced = jax.jit(chex.assert_max_traces(lambda *a: env.step_env(*a), n=1))
    equities = []
    for seed in range(3):
        agents = params.replace(world=params.world.replace(policies=policies(3, seed)))
        state = env.start(agents.starts[0], agents)
        equities.append(float(traced(jax.random.key(0), state, jnp.ones(4), agents)[1].equity))
    assert len(set(equities)) == 3


def test_a_drawdown_terminates_and_the_number_of_blocks_truncates():
    env, params = portfolio(random_market(n_products=3))
    state = env.start(params.starts[0], params)
    for i in range(4):
        _, state, _, terminated, truncated, _ = step(env, jax.random.key(i), state, -jnp.ones(4), params)
        assert (bool(terminated), bool(truncated)) == (False, i == 3)
    ruined = state.replace(peak=2 * state.equity)
    *_, terminated, truncated, _ = step(env, jax.random.key(0), ruined, -jnp.ones(4), params)
    assert bool(terminated)
    assert not bool(truncated)


def test_an_allocator_paid_for_what_does_not_follow_equity_is_refused():
    with pytest.raises(InputError, match="log_return, sharpe, sortino or drawdown"):
        AllocationConfig(rewards=RewardConfig(earnings=1.0))


def test_time_passes_by_the_seconds_of_the_rows_and_days_between_sessions():
    data = random_market(n_products=1, n_steps=40, n_sessions=2, step_seconds=60.0)
    seconds = years_ahead(data) * 365 * 86_400
    np.testing.assert_allclose(np.delete(seconds, [19, 39]), 60.0, rtol=1e-5)
    np.testing.assert_allclose(seconds[[19, 39]], [86_400 - 19 * 60, 0], rtol=1e-5)


def test_a_part_too_short_for_an_episode_is_refused():
    with pytest.raises(InputError, match="no session holds an episode"):
        portfolio(random_market(n_products=2, n_steps=24), rows_per_block=8)
