"""The quoting env against a plain market maker, and its claims: causality, limits, sessions, settings that act."""

import chex
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

from marljax.data.schema import InputError, MarketData
from marljax.envs.quoting import QuotingConfig, QuotingEnv, QuotingParams, QuotingState, quoting_params
from marljax.envs.tapes import CostConfig, Rows, TradingConfig, cost_models, default_capital, flat_rows, position_limits
from tests.reference.books import random_market
from tests.reference.queueing import FRONT, PESSIMISTIC, PROPORTIONAL, MarketMaker, rows_of
from tests.reference.trading import Costs

HAZARD = {PESSIMISTIC: 0.0, PROPORTIONAL: 1.0, FRONT: np.inf}


def one_product(
    data: MarketData,
    episode_steps: int = 20,
    costs: CostConfig | None = None,
    quoting: QuotingConfig | None = None,
) -> QuotingParams:
    features = jnp.asarray(np.random.default_rng(0).normal(size=(data.n_steps, data.n_products, 4)), jnp.float32)
    params = quoting_params(
        Rows.of(data, features, warm_up=5, closing_rows=3),
        costs=cost_models(data, costs or CostConfig(latency_mean=0.5)),
        max_position=position_limits(data, default_capital(data)),
        trading=TradingConfig(),
        quoting=quoting or QuotingConfig(),
        episode_steps=episode_steps,
    )
    return jax.tree.map(lambda x: x[0], params)


def start_at(params: QuotingParams, row: int) -> QuotingParams:
    return params.replace(market=params.market.replace(real_starts=jnp.array([row], jnp.int32)))


@jax.jit
@chex.assert_max_traces(n=12)
def rollout(params, actions, key):
    """Scan `step_env` from a reset; returns (states [T], rewards [T], observations [T], info [T])."""
    env = QuotingEnv(len(actions))
    _, state = env.reset(jax.random.key(0), params)

    def step(state, xs):
        action, step_key = xs
        obs, state, reward, _, _, info = env.step_env(step_key, state, action, params)
        return state, (state, reward, obs, info)

    keys = jax.random.split(key, len(actions))
    return jax.lax.scan(step, state, (jnp.asarray(actions, jnp.float32), keys))[1]


def random_actions(seed: int, n: int, keeps: float = 0.3) -> np.ndarray:
    """Actions of which some are repeated and a few leave the quotes alone."""
    rng = np.random.default_rng(seed)
    drawn = rng.uniform(-1, 1, (n, 4)).astype(np.float32)
    drawn = drawn[np.maximum.accumulate(np.where(rng.random(n) < 0.5, np.arange(n), 0))]
    drawn[rng.random(n) < keeps, rng.integers(4)] = np.nan
    return drawn


def wanted(action: np.ndarray, row, config: QuotingConfig, largest: int) -> dict[str, tuple[int, int]] | None:
    """The quotes an action asks for, in natural prices."""
    if np.isnan(action).any():
        return None
    middle = config.nearest + (float(action[0]) + 1) / 2 * (config.furthest - config.nearest)
    shift = float(action[1]) * config.skew
    bid = row.bids[0][0] - int(np.round(middle - shift))
    ask = row.asks[0][0] + int(np.round(middle + shift))
    sizes = [int(np.round((float(x) + 1) / 2 * largest)) for x in action[2:]]
    if bid >= ask:
        sizes = [0, 0]
    return {"bid": (bid, sizes[0]), "ask": (ask, sizes[1])}


def counted(tally) -> np.ndarray:
    return np.asarray(tally.high, np.int64) * 2**24 + np.asarray(tally.low, np.int64)


@pytest.mark.parametrize("model", sorted(HAZARD))
@pytest.mark.parametrize("latency", [(0.0, 0.0), (0.1, 0.6), (1e6, 0.0)])
def test_fills_and_money_are_those_of_a_plain_market_maker(model, latency):
    costs = CostConfig(fee_rate=2e-4, fee_per_lot=0.01, impact=0.2, latency_floor=latency[0], latency_mean=latency[1])
    config = QuotingConfig(fee_rate=-1e-4, fee_per_lot=0.02, reach=9, hazard=HAZARD[model])
    n, met = 158, np.zeros(3, int)
    for seed in range(3):
        data = random_market(seed, n_steps=160, n_products=1, n_sessions=2, invalid=0.1, n_levels=4)
        params = start_at(one_product(data, 20, costs, config), 1)
        actions, key = random_actions(seed, n), jax.random.key(seed)
        states, rewards, _, info = rollout(params, actions, key)

        market, rows, session = params.market, rows_of(data), np.asarray(data.session)
        bill = Costs(*(float(x) for x in jax.tree.leaves(market.costs)[:6]))
        plain = MarketMaker(rows, model, int(market.max_position), config.reach, (config.fee_rate, config.fee_per_lot))
        uniforms = np.asarray(jax.vmap(lambda k: jax.random.uniform(k, (2,)))(jax.random.split(key, n)))
        late = latency[0] - latency[1] * np.log1p(-uniforms[:, 0]) > uniforms[:, 1]
        net = np.zeros(n)
        for i, t in enumerate(range(1, n + 1)):
            quote = wanted(actions[i], rows[t], config, int(params.largest))
            last = session[t] != session[t + 1]
            plain.step(t, quote, bool(late[i]), bool(market.flat[t]), bool(last), bill)
            net[i] = plain.account.net(rows[t + 1].book(), bill)
            assert int(states.account.position[i]) == plain.account.position, f"row {t} of market {seed}"
        fills = np.asarray(plain.fills)
        np.testing.assert_array_equal(info["filled"], fills)

        account, maker = states.account, states.maker
        total = counted(account.gross) - counted(account.slippage) - counted(account.latency)
        total += counted(maker.spread) - counted(maker.adverse)
        assert total[-1] == 2 * plain.account.cash_ticks + plain.account.position * rows[n + 1].book().double_mid
        nets = jax.vmap(QuotingState.net, (0, None))(states, market.costs.tick_value)
        np.testing.assert_allclose(nets, net, rtol=2e-5, atol=0.05)
        penalty = 0.5 * market.risk_aversion * (account.position / market.max_position) ** 2
        earned = (rewards + penalty) * market.reward_scale
        np.testing.assert_allclose(earned, np.diff(net, prepend=0.0), rtol=1e-3, atol=0.1)
        met += [(fills[:, 0] > 0).sum(), (fills[:, 1] > 0).sum(), int(counted(account.slippage)[-1] > 0)]
    assert (met >= [30, 30, 3]).all(), "both sides were filled and positions closed"
