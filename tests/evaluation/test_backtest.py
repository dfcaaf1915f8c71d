"""The backtest: every strategy pays for what it does, and nothing knows the future."""

import dataclasses
import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marljax.agents.agent_set import AgentSet
from marljax.agents.networks import MLP
from marljax.agents.policy import TanhGaussianPolicy
from marljax.envs.portfolio import base_weights
from marljax.envs.tapes import CostConfig
from marljax.evaluation.backtest import (
    BASELINES,
    STRATEGIES,
    agent_returns,
    allocated,
    backtest,
    backtest_weights,
    costs_by_item,
    financing_by_item,
)
from marljax.evaluation.decision_log import decision_at, entry, tell
from marljax.portfolio.allocators import allocators
from marljax.portfolio.meta_controller import ask, observation_size
from tests.reference.books import random_market
from tests.reference.worlds import POLICY, policies, portfolio

NETWORK = TanhGaussianPolicy(4, MLP((8, 8)))
META = NETWORK.init(jax.random.key(0), observation_size(3))


def run(env, params, names=tuple(STRATEGIES), seed=0):
    strategies = jax.tree.map(lambda *x: jnp.stack(x), *(STRATEGIES[name] for name in names))
    every = jax.vmap(backtest, in_axes=(None, None, None, None, None, 0))
    records, accounts = every(env, NETWORK, jax.random.key(seed), params, META, strategies)
    return {name: jax.tree.map(lambda x, s=s: np.asarray(x[s]), (records, accounts)) for s, name in enumerate(names)}


@pytest.fixture(scope="module")
def world():
    data = random_market(2, n_products=3, n_steps=150, n_sessions=2, absent=0.0)
    return portfolio(data.replace(bid_size=data.bid_size + 200, ask_size=data.ask_size + 200))


@pytest.fixture(scope="module")
def results(world):
    return run(*world)


def test_no_trade_is_exactly_flat_and_free(results, world):
    record, holdings = results["no_trade"]
    assert (record.equity == float(world[1].capital)).all()
    assert not record.returns.any()
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(holdings))


def test_every_strategy_ends_in_cash_and_its_returns_compound_to_its_equity(results, world):
    capital = float(world[1].capital)
    for name, (record, holdings) in results.items():
        assert not holdings.accounts.position.any(), name
        growth = np.prod(1.0 + record.returns.astype(np.float64))
        assert growth == pytest.approx(record.equity[-1] / capital, rel=1e-5), name


def test_gross_less_every_cost_is_what_equity_gained(results, world):
    _, params = world
    for name, (record, holdings) in results.items():
        items = costs_by_item(holdings, np.asarray(params.world.costs.tick_value))
        costs = sum(items[item] for item in ("slippage", "latency", "impact", "fees", "shorts"))
        np.testing.assert_allclose(items["gross"] - costs, items["net"], atol=0.05)
        financing = financing_by_item(holdings)
        gained = record.equity[-1] - float(params.capital)
        net = items["net"].sum() + financing["interest"] - financing["loans"]
        assert net == pytest.approx(gained, abs=0.5), name
        assert (items["slippage"] >= 0).all()
        assert (items["fees"] >= 0).all()


def test_cash_that_nobody_invests_earns_its_rate():
    env, params = portfolio(
        random_market(n_products=3, n_steps=100, step_seconds=3600.0), cash_rate=0.05, loan_rate=0.05
    )
    record, holdings = run(env, params, ("no_trade",))["no_trade"]
    years = 99 * 3600 / (365 * 86400)
    assert record.equity[-1] / float(params.capital) - 1 == pytest.approx(0.05 * years, rel=2e-3)
    assert float(financing_by_item(holdings)["interest"]) == pytest.approx(
        float(params.capital) * 0.05 * years, rel=2e-3
    )


def test_buy_and_hold_trades_twice_and_rebalancing_trades_more(results):
    held, rebalanced = results["buy_and_hold"][0], results["equal_weight"][0]
    assert (held.turnover > 0).sum() == 2
    assert (rebalanced.turnover > 0).sum() > 2
    assert held.turnover.sum() == pytest.approx(2.0, abs=0.1)


def test_baselines_hold_what_they_say(results):
    np.testing.assert_allclose(results["equal_weight"][0].decision.granted, 1 / 3, rtol=1e-5)
    parity = results["risk_parity"][0].decision.granted
    np.testing.assert_allclose(parity.sum(axis=1), 1.0, rtol=1e-4)
    assert np.ptp(parity, axis=1).max() > 0.01
    np.testing.assert_array_equal(parity, results["agents_risk_parity"][0].decision.granted)
    assert set(BASELINES) <= results.keys()


def test_what_is_bought_and_held_drifts_and_is_asked_for_as_it_stands(results):
    decision = results["buy_and_hold"][0].decision
    np.testing.assert_allclose(decision.granted[0], 1 / 3, rtol=1e-5)
    np.testing.assert_array_equal(decision.asked[1:], decision.before[1:])
    np.testing.assert_allclose(decision.granted[1:], decision.before[1:], atol=2e-6)
    # The walks of this market move by some 0.2 % of their price; rounding is a thousand times smaller.
    assert np.ptp(decision.before[1:], axis=0).max() > 2e-4
    drifted = results["equal_weight"][0].decision.before[1:]
    assert np.abs(drifted - 1 / 3).max() > 1e-4


def test_a_meta_controller_with_memory_remembers_the_blocks_before(world):
    env, params = world
    network = TanhGaussianPolicy(4, AgentSet(3, (8,), recurrent=True))
    learned = network.init(jax.random.key(0), observation_size(3))
    # Fresh heads say the base whatever is remembered.
    stirred = jax.tree.map(lambda x: x + 0.3 * jax.random.normal(jax.random.key(1), x.shape), learned.network)
    learned = learned.replace(network=stirred)
    decision = backtest(env, network, jax.random.key(0), params, learned, STRATEGIES["meta_controller"])[0].decision

    def asked(forgets: bool) -> np.ndarray:
        memory, found = network.init_carry(), []
        for i, obs in enumerate(decision.observation):
            memory = network.init_carry() if forgets else memory
            action, memory = network.apply(learned, obs, memory, jax.random.key(0), True)
            found.append(ask(action, base_weights(i, params), params.tilt, params.rails.limits.gross))
        return np.array(found)

    np.testing.assert_allclose(decision.asked, asked(forgets=False), atol=1e-5)
    assert np.abs(decision.asked - asked(forgets=True))[1:].max() > 0.01


def test_risk_parity_as_mode_of_coordination_does_what_agents_under_risk_parity_do():
    data = random_market(2, n_products=3, n_steps=60)
    held = run(*portfolio(data, coordination="risk_parity"), ("meta_controller", "agents_risk_parity"))
    chex.assert_trees_all_equal(held["meta_controller"], held["agents_risk_parity"])


def test_capital_allocated_elsewhere_earns_what_the_same_capital_earns_as_a_strategy(results, world):
    env, params = world
    parity = jnp.stack([base_weights(i, params) for i in range(len(params.blocks.start))])
    equal, compiled = jnp.full(parity.shape, 1 / 3, jnp.float32), backtest_weights._cache_size()
    for name, weights, passive in (("agents_risk_parity", parity, False), ("equal_weight", equal, True)):
        record, holdings = backtest_weights(env, jax.random.key(0), params, weights, jnp.array(passive))
        expected, held = results[name]
        np.testing.assert_allclose(record.decision.asked, weights, rtol=1e-6)
        np.testing.assert_array_equal(record.position, expected.position)
        np.testing.assert_allclose(record.equity, expected.equity, rtol=1e-6)
        chex.assert_trees_all_close(holdings, held, rtol=1e-5, atol=1e-3)
    assert backtest_weights._cache_size() - compiled <= 1


def test_an_allocator_knows_the_covariance_of_the_block_alone_and_agents_of_a_product_share(world):
    env, params = world
    shared = params.replace(world=params.world.replace(product=jnp.array([2, 0, 2, 1])))
    covariance = np.asarray(params.market.covariance, np.float64) * env.rows_per_block
    volatility = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
    inverse = (1 / volatility) / (1 / volatility).sum(axis=1, keepdims=True)
    target = 0.5 * np.sqrt(covariance.sum(axis=(1, 2)) / 9).min()
    rules = allocators(target)
    split = np.stack([inverse[:, 2] / 2, inverse[:, 0], inverse[:, 2] / 2, inverse[:, 1]], axis=1)
    np.testing.assert_allclose(allocated(env, shared, rules["inverse_volatility"]), split, rtol=1e-4)
    calm = np.asarray(allocated(env, params, rules["volatility_targeted_equal_weight"]), np.float64)
    risk = np.sqrt(np.einsum("ni,nij,nj->n", calm, covariance, calm))
    np.testing.assert_allclose(risk, target, rtol=1e-4)


def test_an_entry_of_the_log_says_in_values_what_is_told_in_words(results, world):
    """And names the limit that acted, for weights that were asked for beyond it."""
    env, params = world
    limits = params.rails.limits
    tight = dataclasses.replace(limits, max_weight=jnp.full(3, 0.25, jnp.float32))
    params = params.replace(rails=params.rails.replace(limits=tight))
    asked = jnp.broadcast_to(jnp.array([0.4, 0.2, 0.1]), (len(params.blocks.start), 3))
    record, _ = backtest_weights(env, jax.random.key(0), params, asked, jnp.array(False))
    names = ["oak", "elm", "ash"]
    one = decision_at(record.decision, 3)
    said = json.loads(json.dumps(entry(one, tight, names)))
    for column in ("asked", "granted", "before", "base"):
        assert list(said[column]) == names
        np.testing.assert_allclose(list(said[column].values()), getattr(one, column), rtol=1e-6)
    assert said["granted"]["oak"] == pytest.approx(0.25, abs=1e-6)
    assert said["moved"] == pytest.approx(0.15, abs=1e-5)
    assert said["why"] == ["oak cut from 0.40 to 0.25 by max_weight"]
    assert tell(one, tight, names).endswith("guardrails: oak cut from 0.40 to 0.25 by max_weight")
    assert said["observed"]["agents"]["oak"]["weight"] == pytest.approx(min(3 * said["before"]["oak"], 5.0), rel=1e-5)
    assert said["observed"]["portfolio"]["cash"] == pytest.approx(1 - np.abs(one.before).sum(), abs=1e-5)
    assert entry(decision_at(results["meta_controller"][0].decision, 3), limits, names)["why"] == []


def test_a_decision_is_told_with_what_was_seen_asked_for_and_granted_and_why(results, world):
    decisions = results["meta_controller"][0].decision
    told = tell(decision_at(decisions, 3), world[1].rails.limits, ["oak", "elm", "ash"])
    first, heads, *agents, why = told.splitlines()
    assert first.startswith(f"equity {float(decisions.equity[3]):,.0f}; drawdown")
    assert heads.split()[:6] == ["agent", "base", "before", "asked", "granted", "mean_return"]
    for a, line in enumerate(agents):
        cells = line.split()
        assert cells[0] == ("oak", "elm", "ash")[a]
        assert cells[3:5] == [f"{x[3, a]:.2f}" for x in (decisions.asked, decisions.granted)]
    assert why == "guardrails: granted as asked"


def test_changing_the_future_changes_no_block_before_it():
    data = random_market(2, n_products=3, n_steps=100)
    later = jnp.arange(100)[:, None, None] >= 61
    changed = data.replace(
        bid_price=jnp.where(later, data.bid_price + 300, data.bid_price),
        ask_price=jnp.where(later, data.ask_price + 350, data.ask_price),
        ask_size=jnp.where(later, 1, data.ask_size),
    )
    runs = [run(*portfolio(market)) for market in (data, changed)]
    for name in STRATEGIES:
        before = [jax.tree.map(lambda x: x[:12], results[name][0]) for results in runs]
        chex.assert_trees_all_equal(*before)
        if name != "no_trade":
            assert (runs[0][name][0].equity[13:] != runs[1][name][0].equity[13:]).any()


def test_only_the_random_latency_differs_between_replications(world):
    env, params = world
    sure = params.replace(
        world=params.world.replace(
            costs=params.world.costs.replace(latency_floor=jnp.zeros(3), latency_mean=jnp.zeros(3))
        )
    )
    name = ("agents_equal_weight",)
    chex.assert_trees_all_equal(run(env, sure, name, 0), run(env, sure, name, 1))
    late = params.replace(world=params.world.replace(costs=params.world.costs.replace(latency_mean=jnp.full(3, 0.5))))
    assert run(env, late, name, 0)[name[0]][0].equity[-1] != run(env, late, name, 1)[name[0]][0].equity[-1]


def test_dearer_trading_costs_more():
    nets = []
    for rate in (0.0, 1e-3):
        env, params = portfolio(random_market(2, n_products=3, n_steps=100), costs=CostConfig(fee_rate=rate))
        nets.append(run(env, params, ("agents_equal_weight",))["agents_equal_weight"][0].equity[-1])
    assert nets[1] < nets[0]


def test_an_agents_returns_alone_sum_to_its_account(world):
    _, params = world
    lots = jnp.array([20.0, 20.0, 20.0])
    returns = agent_returns(POLICY, jax.random.key(0), params.world, lots, 149)
    chex.assert_shape(returns, (149, 3))
    chex.assert_tree_all_finite(returns)
    assert jnp.all(jnp.abs(returns).sum(axis=0) > 0)
    assert not jnp.any(returns[:5]), "flat while features warm up"


def test_one_trace_serves_all_strategies_and_policies(world):
    env, params = world
    before = backtest._cache_size()
    for seed in range(2):
        meta = NETWORK.init(jax.random.key(seed), observation_size(3))
        for strategy in STRATEGIES.values():
            backtest(env, NETWORK, jax.random.key(seed), params, meta, strategy)
    assert backtest._cache_size() - before <= 1


def test_one_trace_serves_the_agents_of_every_seed(world):
    _, params = world
    chex.clear_trace_counter()
    traced = chex.assert_max_traces(agent_returns.__wrapped__, n=1)
    alone = jax.jit(traced, static_argnames=("policy", "n_rows"))
    for seed in range(3):
        agents = params.world.replace(policies=policies(3, seed))
        alone(POLICY, jax.random.key(seed), agents, jnp.full(3, 20.0), n_rows=149)
