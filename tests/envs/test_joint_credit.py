"""Agents who learn together under a shared critic are paid for the difference that each of them makes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marljax.agents.ppo import PPO
from marljax.agents.ppo_config import PPOConfig
from marljax.envs.environment import sample
from marljax.envs.joint_portfolio import META, PRODUCT, JointPortfolioEnv
from marljax.envs.portfolio import PortfolioEnv
from marljax.envs.rewards import RewardConfig
from marljax.envs.tapes import CostConfig, Rows, TradingConfig, cost_models, default_capital
from marljax.envs.worlds import AllocationConfig, joint_params, portfolio_params
from tests.reference.books import random_market
from tests.reference.worlds import N_FEATURES, POLICY, joint_portfolio, policies

BLOCKS, ROWS = 5, 5
THIN = random_market(n_products=3, n_steps=200, step_seconds=50_000.0)
DATA = THIN.replace(bid_size=THIN.bid_size + 200, ask_size=THIN.ask_size + 200)
SETTINGS = {"leverage": 1.5, "cash_rate": 0.3, "loan_rate": 0.6, "short_rate": 0.2, "risk_aversion": 0.4}
N = BLOCKS * (ROWS + 1)


def drawn(env, params):
    """Random, rather bold actions of all agents; more and more capital is asked for, in the end more than there is."""
    keys = jax.random.split(jax.random.key(0), N)
    actions = jax.vmap(lambda key: sample(key, env.action_space(params)))(keys)
    gross = jnp.linspace(0.0, 2.0, N)[:, None].clip(max=1.0)
    bold = jnp.sign(actions[PRODUCT]) * jnp.abs(actions[PRODUCT]) ** 0.2
    return {PRODUCT: bold, META: actions[META].at[..., -1].set(gross)}


def walk(coordination):
    """The env, its params, and a program of (params, actions) that gives states before and after, and what product
    agents were paid by their part in the portfolio alone."""
    env, params = joint_portfolio(DATA, weight=1.0, coordination=coordination, **SETTINGS)

    def run(params, actions):
        def step(state, xs):
            i, action = xs
            _, after, reward, *_ = env.step_env(jax.random.fold_in(jax.random.key(1), i), state, action, params)
            return after, (state, after, reward[PRODUCT])

        opened = env.open(env.portfolio.start(params.portfolio.starts[0], params.portfolio), params)
        return jax.lax.scan(step, opened, (jnp.arange(N), actions))[1]

    program = jax.jit(run)

    def paid(actions, params=params):
        before, after, reward = program(params, actions)
        *_, own = program(dataclasses.replace(params, portfolio_weight=jnp.float32(0.0)), actions)
        return jax.tree.map(np.asarray, (before, after, reward - own))

    return env, params, paid


@pytest.fixture(scope="module")
def credited():
    return walk("shared_critic")


def plain(params):
    """Money costs nothing, and nobody minds risk."""
    there = params.portfolio
    rewards = dataclasses.replace(there.rewards, inventory=jnp.zeros_like(there.rewards.inventory))
    world = dataclasses.replace(there.world, rates=jax.tree.map(jnp.zeros_like, there.world.rates))
    return dataclasses.replace(params, portfolio=dataclasses.replace(there, rewards=rewards, world=world))


def net(accounts, params):
    """float64[N, A] currency, from the accounts' items."""
    tick = np.asarray(params.portfolio.world.costs.tick_value, np.float64)
    gross, slippage, latency = (
        np.asarray(x.value(), np.float64) for x in (accounts.gross, accounts.slippage, accounts.latency)
    )
    return 0.5 * tick * (gross - slippage - latency) - accounts.impact - accounts.fees


def test_credits_are_those_of_an_account_that_leaves_one_agent_out(credited):
    env, params, paid = credited
    before, after, credits = paid(drawn(env, params))
    there = params.portfolio
    capital, scale = float(there.capital), float(there.reward_scale)
    years = 50_000.0 / (365.0 * 86_400.0)
    mids = 0.5 * np.asarray(DATA.double_mid, np.float64) * np.asarray(there.world.costs.tick_value, np.float64)
    position = after.now.holdings.accounts.position
    made = net(after.now.holdings.accounts, params)
    financed, borrowed, expected = 0.0, 0.0, []
    short_cost, opening = np.zeros(3), np.zeros(3)
    for n in range(N):
        row = n % (ROWS + 1)
        if row == 0:
            financing_before, shorts_before = financed, short_cost.copy()
            equity = capital + opening.sum() + financed - short_cost.sum()
            without_interest, last = np.zeros(3), np.zeros(3)
            expected.append(np.zeros(3))
            continue
        t = int(there.blocks.start[before.portfolio.block[n]]) + row - 1
        value = position[n] * mids[t + 1]
        free = capital + made[n].sum() + financed - short_cost.sum() - np.abs(value).sum()

        def interest(free):
            return years * (0.3 * max(free, 0.0) - 0.6 * max(-free, 0.0))

        borrowed += free < 0
        financed += interest(free)
        short_cost += years * 0.2 * np.maximum(-value, 0.0)
        without_interest += [interest(free + abs(v)) - interest(free) for v in value]
        earned = made[n] - opening - (short_cost - shorts_before)
        total = earned.sum() + financed - financing_before

        def utility(money, equity=equity):
            growth = np.log1p(money / equity) / scale
            return growth - 0.2 * growth**2

        apart = zip(earned, without_interest, strict=True)
        difference = np.array([utility(total) - utility(total - own + cash) for own, cash in apart])
        expected.append((difference - last) * np.sqrt(ROWS))
        last = difference
        if row == ROWS:
            opening = made[n]
    assert 3 < borrowed < BLOCKS * ROWS - 3, "money is borrowed at times"
    assert np.abs(expected).mean() > 0.1
    np.testing.assert_allclose(credits, expected, atol=2e-3)
    assert np.abs(np.asarray(after.forgone)).max() > 1.0, "interest matters"


def test_an_agent_whose_capital_earned_nothing_gets_no_credit(credited):
    """Though its capital lay in cash that bears interest, and others made and lost money beside it."""
    env, params, paid = credited
    actions = drawn(env, params)
    idle = actions | {PRODUCT: actions[PRODUCT].at[:, 1].set(0.0)}
    _, after, credits = paid(idle)
    assert not after.now.holdings.accounts.position[:, 1].any()
    assert (after.now.weights[:, 1] > 0.05).all()
    np.testing.assert_allclose(credits[:, 1], 0.0, atol=1e-6)
    assert np.abs(credits[:, [0, 2]]).mean() > 0.1


def test_credits_add_up_to_what_all_earned_with_the_noise_of_one_agent_instead_of_three(credited):
    """Of walks that know nothing of each other, held at random, the variance of a sum is three times that of a part."""
    env, params, paid = credited
    actions = drawn(env, params)
    *_, credits = paid(actions, plain(params))
    _, params, paid = walk("meta")
    *_, shares = paid(actions, plain(params))
    np.testing.assert_allclose(shares, np.broadcast_to(shares[:, :1], shares.shape), atol=1e-5)
    traded = np.arange(N) % (ROWS + 1) > 0
    np.testing.assert_allclose(credits.sum(axis=1), shares[:, 0], rtol=5e-3, atol=5e-3)
    ratio = shares[traded].var(axis=0).mean() / credits[traded].var(axis=0).mean()
    assert 2.0 < ratio < 4.5


def foreseen(n_products=6, n_steps=300, seed=0):
    """Products that move 20 ticks up or down each row, independently, and rows whose first feature says which way."""
    rng = np.random.default_rng(seed)
    moves = rng.choice([-20, 20], (n_steps, n_products))
    flat = random_market(n_products=n_products, n_steps=n_steps, absent=0.0)
    mid = 20_000 + np.cumsum(moves, axis=0) - moves
    ladder = np.arange(1, flat.bid_price.shape[-1] + 1)
    data = flat.replace(
        bid_price=jnp.asarray(mid[..., None] - ladder, jnp.int32),
        ask_price=jnp.asarray(mid[..., None] + ladder, jnp.int32),
        bid_size=flat.bid_size + 10_000,
        ask_size=flat.ask_size + 10_000,
    )
    features = rng.normal(size=(n_steps, n_products, N_FEATURES))
    features[..., 0] = np.sign(moves)
    return data, Rows.of(data, jnp.asarray(features, jnp.float32), warm_up=5, closing_rows=3)


@pytest.mark.nightly
def test_agents_paid_for_their_difference_learn_what_is_to_be_known_sooner_than_those_who_share():
    """Nobody is paid but by the portfolio; the best is to follow the first feature. Alignment is 1 where all do."""
    data, told = foreseen()
    nothing = TradingConfig(rewards=RewardConfig(earnings=0.0), risk_aversion=0.0, no_trade_band=0.0)
    costs = CostConfig(fee_rate=0.0, fee_per_lot=0.0, impact=0.0, latency_floor=0.0, latency_mean=0.0)

    def alignment(coordination):
        config = AllocationConfig(coordination=coordination, rows_per_block=10, covariance_half_life=30.0)
        env = JointPortfolioEnv(PortfolioEnv(POLICY, 10, 4, coordination))
        train = data.rows(0, data.n_steps)
        params = portfolio_params(
            data,
            slice(0, data.n_steps),
            told,
            train,
            policies=policies(6),
            costs=cost_models(train, costs),
            no_trade_band=0.0,
            capital=default_capital(train),
            config=config,
            episode_blocks=4,
        )
        ppo = PPOConfig(
            n_envs=8,
            n_steps=44,
            hidden=(8, 8),
            discount=0.5,
            learning_rate=3e-3,
            separate=(PRODUCT,),
            critic="shared" if coordination == "shared_critic" else "own",
        )
        learner, world = PPO(env, ppo), joint_params(params, nothing, 1.0)
        runners = jax.jit(jax.vmap(learner.init, (0, None)))(jax.random.split(jax.random.key(0), 6), world)
        update = jax.jit(jax.vmap(learner.update, (0, None)))
        found = []
        probe = jax.random.normal(jax.random.key(1), (64, N_FEATURES + 1)).at[:, -1].set(0.0)

        def follows(policy, sign):
            seen = probe.at[:, 0].set(sign)
            return sign * POLICY.apply(policy, seen, (), jax.random.key(0), True)[0].mean()

        for _ in range(20):
            runners, _ = update(runners, world)
            learned = jax.vmap(learner.policy_params)(runners)[PRODUCT]
            both = [jax.vmap(jax.vmap(lambda p, s=sign: follows(p, s)))(learned) for sign in (-1.0, 1.0)]
            found.append(np.mean(both, axis=(0, 2)))
        return np.array(found)

    credited, shared = alignment("shared_critic"), alignment("meta")
    assert credited[-1].mean() > 0.8
    assert credited[10].mean() > shared[10].mean() + 0.1
