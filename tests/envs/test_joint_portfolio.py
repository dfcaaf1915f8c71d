"""Agents who learn together in the portfolio world: the same money as in `PortfolioEnv`, to the last cent."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marljax.agents.networks import MLP
from marljax.agents.policy import TanhGaussianPolicy
from marljax.envs.environment import sample
from marljax.envs.joint_portfolio import META, PRODUCT, JointPortfolioEnv
from marljax.envs.rewards import RewardConfig
from marljax.envs.tapes import TradingConfig
from marljax.market.slippage import Account
from marljax.portfolio.meta_controller import observation_size
from tests.reference.books import random_market
from tests.reference.worlds import POLICY, joint_portfolio, portfolio

BLOCKS, ROWS = 6, 5
META_POLICY = TanhGaussianPolicy(4, MLP((8, 8)))


@pytest.fixture(scope="module")
def meta_params():
    params = META_POLICY.init(jax.random.key(5), observation_size(3))
    *hidden, last = params.network
    return params.replace(network=(*hidden, jax.tree.map(lambda x: 50.0 * x, last)))


def run(env: JointPortfolioEnv, params, act, lengths, seed=0):
    """[steps, ...] of (state, reward, info) from the first permitted block on, through blocks of these lengths.

    `act(obs)` is what all agents do. A row's latencies are drawn from the key that `PortfolioEnv` draws them from.
    """
    there = params.portfolio
    state = env.open(env.portfolio.start(there.starts[0], there), params)
    keys = []
    for i, length in enumerate(lengths):
        block_key = jax.random.fold_in(jax.random.key(seed), i)
        keys += [block_key, *jax.random.split(block_key, env.portfolio.rows_per_block)[:length]]

    def step(state, key):
        obs = env.observe(state, params)
        _, state, reward, terminated, truncated, info = env.step_env(key, state, act(obs), params)
        return state, (state, reward, info, terminated, truncated)

    return jax.jit(lambda state, keys: jax.lax.scan(step, state, keys))(state, jnp.stack(keys))[1]


def frozen(params, meta_params):
    """All agents as they are, without exploration."""
    key = jax.random.key(0)

    def act(obs):
        product, _ = jax.vmap(lambda p, x: POLICY.apply(p, x, (), key, True))(
            params.portfolio.world.policies, obs[PRODUCT]
        )
        meta, _ = META_POLICY.apply(meta_params, obs[META], (), key, True)
        return {PRODUCT: product, META: meta}

    return act


def block_by_block(env, params, meta_params, n_blocks, seed=0):
    """(states, rewards) of `PortfolioEnv` under the same meta-controller."""

    def step(state, i):
        action, _ = META_POLICY.apply(meta_params, env.observe(state, params), (), jax.random.key(0), True)
        key = jax.random.fold_in(jax.random.key(seed), i)
        _, state, reward, *_ = env.step_env(key, state, action, params)
        return state, (state, reward)

    return jax.jit(lambda state: jax.lax.scan(step, state, jnp.arange(n_blocks)))(env.start(params.starts[0], params))[
        1
    ]


@pytest.mark.parametrize("n_steps", [100, 36], ids=["whole blocks", "a session that cuts blocks short"])
def test_frozen_policies_make_the_very_equity_that_they_make_in_the_portfolio_env(meta_params, n_steps):
    data = random_market(n_products=3, n_steps=2 * n_steps, n_sessions=2, absent=0.0)
    env, params = joint_portfolio(data)
    there = params.portfolio
    first = int(there.starts[0])
    lengths = np.asarray(there.blocks.length)[first : first + BLOCKS + 4]
    assert (lengths.min() < ROWS) == (n_steps == 36)
    apart, rewards = block_by_block(env.portfolio, there, meta_params, len(lengths))
    states, joint_rewards, *_ = run(env, params, frozen(params, meta_params), lengths)
    ends = np.cumsum(lengths + 1) - 1
    together = jax.tree.map(lambda x: x[ends], states.portfolio)
    assert np.unique(np.asarray(apart.equity)).size > len(lengths) // 2, "the agents traded"
    chex.assert_trees_all_equal(together.holdings.accounts, apart.holdings.accounts)
    np.testing.assert_array_equal(together.equity, apart.equity)
    # Two programs may round the track record's averages differently in the last bit.
    chex.assert_trees_all_close((together, joint_rewards[META][ends, 0]), (apart, rewards), rtol=1e-5, atol=1e-9)
    assert not np.delete(np.asarray(joint_rewards[META]), ends, axis=0).any()


@pytest.fixture(scope="module")
def explored():
    """A run of random actions: (env, params, states, rewards, infos)."""
    env, params = joint_portfolio(random_market(n_products=3, n_steps=200), weight=0.0)
    space = env.action_space(params)
    draw = iter(range(10_000))
    actions = [sample(jax.random.key(next(draw)), space) for _ in range(BLOCKS * (ROWS + 1))]
    actions = jax.tree.map(lambda *x: jnp.stack(x), *actions)
    state = env.open(env.portfolio.start(params.portfolio.starts[0], params.portfolio), params)

    def step(state, xs):
        i, action = xs
        key = jax.random.fold_in(jax.random.key(1), i)
        _, after, reward, _, _, info = env.step_env(key, state, action, params)
        return after, (state, after, reward, info)

    n = BLOCKS * (ROWS + 1)
    before, after, reward, info = jax.jit(lambda s: jax.lax.scan(step, s, (jnp.arange(n), actions)))(state)[1]
    return env, params, before, after, reward, info


def net(params, accounts):
    return np.asarray(jax.vmap(jax.vmap(Account.net), (0, None))(accounts, params.portfolio.world.costs.tick_value))


def test_equity_is_capital_plus_what_every_account_made(explored):
    _, params, _, after, _, info = explored
    ends = np.arange(1, BLOCKS + 1) * (ROWS + 1) - 1
    equity = np.asarray(after.portfolio.equity)[ends]
    np.testing.assert_allclose(
        equity, params.portfolio.capital + net(params, after.now.holdings.accounts)[ends].sum(1), rtol=1e-6
    )
    path = np.append(params.portfolio.capital, equity)
    np.testing.assert_allclose(np.asarray(info["return"])[ends], np.diff(path) / path[:-1], atol=2e-7)
    assert np.abs(np.diff(path)).min() > 0


def test_capital_is_allocated_before_a_block_and_by_nobody_within_it(explored):
    _, _, before, after, reward, info = explored
    allocates = np.arange(BLOCKS * (ROWS + 1)) % (ROWS + 1) == 0
    np.testing.assert_array_equal(info["allocates"], allocates)
    changed = (np.asarray(before.now.weights) != np.asarray(after.now.weights)).any(axis=1)
    closes = np.roll(allocates, -1)
    np.testing.assert_array_equal(changed[~closes], allocates[~closes])
    assert changed[closes].all(), "capital drifts with what a block earned"
    np.testing.assert_array_equal(
        np.asarray(after.now.weights)[allocates], np.asarray(info["decision"].granted)[allocates]
    )
    first = jax.tree.map(lambda x: x[allocates], (before.now.holdings.accounts, after.now.holdings.accounts, reward))
    chex.assert_trees_all_equal(first[0], first[1])
    assert not any(np.asarray(x).any() for x in jax.tree.leaves(first[2]))
    moved = (np.asarray(before.now.holdings.accounts.position) != np.asarray(after.now.holdings.accounts.position)).any(
        axis=1
    )
    assert moved[~allocates].mean() > 0.5


def test_a_product_agent_earns_its_own_pnl_in_standard_deviations_of_its_full_position(explored):
    env, params, before, after, reward, _ = explored
    there, costs = params.portfolio, params.portfolio.world.costs
    lots = jax.vmap(env.portfolio.lots, (0, None))(before.now, there)
    lots = np.maximum(np.asarray(lots), 1.0)
    earned = net(params, after.now.holdings.accounts) - net(params, before.now.holdings.accounts)
    own = earned / (np.asarray(costs.tick_value * costs.volatility) * lots)
    own -= 0.5 * TradingConfig().risk_aversion * (np.asarray(after.now.holdings.accounts.position) / lots) ** 2
    trades = np.arange(len(own)) % (ROWS + 1) > 0
    np.testing.assert_allclose(np.asarray(reward[PRODUCT])[trades], own[trades], rtol=2e-3, atol=2e-3)
    assert np.abs(own[trades]).mean() > 0.05


def test_the_portfolio_weight_adds_what_all_products_earn_together(explored):
    env, params, before, *_ = explored
    there = params.portfolio
    step = jax.jit(env.step_env)
    i = ROWS + 3
    state = jax.tree.map(lambda x: x[i], before)
    action = {PRODUCT: jnp.array([[1.0], [-1.0], [0.5]]), META: jnp.zeros((1, 4))}
    with_weight = [step(jax.random.key(0), state, action, params.replace(portfolio_weight=w)) for w in (0.0, 2.0)]
    extra = np.asarray(with_weight[1][2][PRODUCT] - with_weight[0][2][PRODUCT])
    accounts = jax.tree.map(
        lambda *x: jnp.stack(x), state.now.holdings.accounts, with_weight[0][1].now.holdings.accounts
    )
    earned = np.diff(net(params, accounts), axis=0).sum()
    unit = float(there.reward_scale) / np.sqrt(env.portfolio.rows_per_block)
    np.testing.assert_allclose(extra, 2.0 * earned / float(state.portfolio.equity) / unit, rtol=2e-3)
    assert np.abs(extra).min() > 0.01
    chex.assert_trees_all_equal(with_weight[0][1], with_weight[1][1])


def test_between_blocks_the_meta_controller_sees_what_it_saw_and_its_action_does_nothing(explored):
    env, params, before, *_ = explored
    seen = np.asarray(jax.vmap(env.observe, (0, None))(before, params)[META]).reshape(BLOCKS, ROWS + 1, -1)
    assert (seen == seen[:, :1]).all()
    assert (seen[1:, 0] != seen[:-1, 0]).any(axis=1).all()
    state = jax.tree.map(lambda x: x[3], before)
    step = jax.jit(env.step_env)
    actions = [{PRODUCT: jnp.ones((3, 1)), META: jnp.full((1, 4), x)} for x in (-1.0, 1.0)]
    one, other = (step(jax.random.key(0), state, action, params) for action in actions)
    chex.assert_trees_all_equal(one[:5], other[:5])


def test_a_drawdown_terminates_and_the_number_of_blocks_truncates_at_a_blocks_end_for_all(meta_params):
    env, params = joint_portfolio(random_market(n_products=3, n_steps=200))
    lengths = [ROWS] * env.portfolio.episode_blocks
    for ruined in (False, True):
        there = params.portfolio.replace(max_drawdown=jnp.float32(-1.0 if ruined else 0.25))
        *_, terminated, truncated = run(env, params.replace(portfolio=there), frozen(params, meta_params), lengths)
        ends = np.arange(len(lengths) * (ROWS + 1)) % (ROWS + 1) == ROWS
        for role, n in ((PRODUCT, 3), (META, 1)):
            expected = np.broadcast_to(ends[:, None], (len(ends), n))
            np.testing.assert_array_equal(terminated[role], expected & ruined)
            last = np.arange(len(ends))[:, None] == len(ends) - 1
            np.testing.assert_array_equal(truncated[role], np.broadcast_to(last & (not ruined), expected.shape))


def test_terms_of_the_path_are_remembered_product_by_product():
    data = random_market(n_products=3, n_steps=200)
    trading = TradingConfig(rewards=RewardConfig(earnings=0.0, drawdown=1.0), risk_aversion=0.0)
    env, params = joint_portfolio(data, trading, weight=0.0)
    bold = {PRODUCT: jnp.ones((3, 1)), META: jnp.ones((1, 4))}
    states, reward, *_ = run(env, params, lambda obs: bold, [ROWS] * 4)
    np.testing.assert_allclose(np.asarray(reward[PRODUCT]).sum(axis=0), -np.asarray(states.path.worst)[-1], rtol=1e-4)
    assert len(set(np.asarray(states.path.worst)[-1].tolist())) == 3
    assert (np.asarray(states.path.worst)[-1] > 0).all()


def test_changing_the_future_changes_nothing_before_it(meta_params):
    data = random_market(n_products=3, n_steps=100)
    later = jnp.arange(100)[:, None, None] >= 41
    changed = data.replace(
        bid_price=jnp.where(later, data.bid_price - 500, data.bid_price),
        ask_price=jnp.where(later, data.ask_price - 400, data.ask_price),
        bid_size=jnp.where(later, data.bid_size + 3, data.bid_size),
    )
    runs = []
    for market in (data, changed):
        env, params = joint_portfolio(market)
        runs.append(run(env, params, frozen(params, meta_params), [ROWS] * 7)[:2])
    # The first permitted block starts at row 5; seven blocks of five rows end at row 40, marked at 40.
    states, rewards = zip(*runs, strict=True)
    chex.assert_trees_all_equal(*rewards)
    chex.assert_trees_all_equal(*(s.now.holdings for s in states))


def test_an_order_without_a_number_keeps_the_position():
    env, params = portfolio(random_market(n_products=3))
    joint, joint_params = joint_portfolio(random_market(n_products=3))
    assert dataclasses.replace(env, episode_blocks=3) == joint.portfolio
    state = joint.open(env.start(params.starts[0], params), joint_params)
    step = jax.jit(joint.step_env)
    meta = jnp.zeros((1, 4))
    for value in (0.0, 1.0):
        _, state, *_ = step(jax.random.key(0), state, {PRODUCT: jnp.full((3, 1), value), META: meta}, joint_params)
    held = state.now.holdings.accounts.position
    assert (held > 0).any()
    silent = {PRODUCT: jnp.full((3, 1), jnp.nan), META: meta}
    _, state, *_ = step(jax.random.key(1), state, silent, joint_params)
    np.testing.assert_array_equal(state.now.holdings.accounts.position, held)
