"""The replay env: causality, sessions, hostile actions, auto-reset and what an oracle would earn."""

import chex
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

from marljax.data.schema import InputError, MarketData
from marljax.envs.replay import ReplayEnv, ReplayParams, target_position
from marljax.envs.rewards import RewardConfig
from marljax.envs.tapes import (
    CostConfig,
    Rows,
    TradingConfig,
    cost_models,
    default_capital,
    episode_starts,
    flat_rows,
    position_limits,
    replay_params,
    warmed_up,
)
from tests.reference.books import random_market


def one_product(data: MarketData, episode_steps: int = 20, **changes) -> ReplayParams:
    features = jnp.asarray(np.random.default_rng(0).normal(size=(data.n_steps, data.n_products, 4)), jnp.float32)
    return jax.tree.map(lambda x: x[0], products(data, features, episode_steps, **changes))


def products(
    data: MarketData, features: jax.Array, episode_steps: int = 20, trading: TradingConfig | None = None, **changes
) -> ReplayParams:
    return replay_params(
        Rows.of(data, features, warm_up=5, closing_rows=5),
        costs=cost_models(data, CostConfig()),
        max_position=position_limits(data, default_capital(data)),
        trading=trading or TradingConfig(),
        episode_steps=episode_steps,
        **changes,
    )


def rollout(env, params, actions, key=None, reset_key=None):
    """Scan `step_env` from a reset; returns (final state, rewards, observations)."""
    _, state = env.reset(reset_key if reset_key is not None else jax.random.key(0), params)

    def step(carry, xs):
        action, step_key = xs
        obs, carry, reward, *_ = env.step_env(step_key, carry, action, params)
        return carry, (reward, obs)

    keys = jax.random.split(key if key is not None else jax.random.key(1), len(actions))
    state, (rewards, observations) = jax.lax.scan(step, state, (jnp.asarray(actions, jnp.float32), keys))
    return state, rewards, observations


def test_doing_nothing_earns_exactly_nothing():
    state, rewards, _ = rollout(ReplayEnv(20), one_product(random_market()), np.zeros((20, 1)))
    assert not jnp.any(rewards)
    assert float(state.account.net(jnp.float32(1.0))) == 0.0


def test_rewards_sum_to_the_accounts_net_in_units_of_the_scale():
    params = one_product(random_market(), trading=TradingConfig(risk_aversion=0.0))
    actions = np.random.default_rng(1).uniform(-1, 1, (20, 1))
    state, rewards, _ = rollout(ReplayEnv(20), params, actions)
    net = float(state.account.net(params.costs.tick_value))
    assert float(rewards.sum()) * float(params.reward_scale) == pytest.approx(net, rel=1e-4)
    assert net < 0


def paid(config: RewardConfig, risk_aversion: float = 0.0):
    """(rewards, lots held, equity in standard deviations of a step, params) of one episode of random targets."""
    trading = TradingConfig(rewards=config, risk_aversion=risk_aversion)
    params, env = one_product(random_market(), trading=trading), ReplayEnv(20)
    params = params.replace(real_starts=jnp.array([7], jnp.int32))
    _, state = env.reset(jax.random.key(0), params)
    step, rewards, lots, net = jax.jit(env.step_env), [], [0], [0.0]
    for i, action in enumerate(np.random.default_rng(1).uniform(-1, 1, (20, 1))):
        _, state, reward, *_ = step(jax.random.key(i), state, jnp.float32(action), params)
        rewards.append(float(reward))
        lots.append(int(state.account.position))
        net.append(float(state.account.net(params.costs.tick_value)))
    capital, scale = float(params.capital), float(params.reward_scale)
    return np.array(rewards), np.array(lots), (capital + np.array(net)) / scale, params


def test_the_default_reward_is_what_was_earned_less_half_the_risk_aversion_times_the_squared_position():
    rewards, lots, equity, params = paid(RewardConfig(), risk_aversion=0.05)
    fraction = lots[1:] / int(params.max_position)
    np.testing.assert_allclose(rewards, np.diff(equity) - 0.025 * fraction**2, atol=1e-3)
    assert 0.025 * fraction.max() ** 2 > 0.01


def test_penalties_of_an_episode_are_its_turnover_and_its_maximum_drawdown():
    rewards, lots, _, params = paid(RewardConfig(earnings=0.0, turnover=1.0))
    assert rewards.sum() == pytest.approx(-np.abs(np.diff(lots)).sum() / int(params.max_position), rel=1e-5)
    rewards, _, equity, _ = paid(RewardConfig(earnings=0.0, drawdown=1.0))
    worst = (1.0 - equity / np.maximum.accumulate(equity)).max()
    assert rewards.sum() == pytest.approx(-equity[0] * worst, rel=1e-3)
    assert -rewards.sum() > 1.0


@pytest.mark.parametrize(
    ("key", "without", "given"),
    [
        *((name, {}, 2.0) for name in ("earnings", "log_return", "sharpe", "sortino", "drawdown", "turnover")),
        ("memory", {"sharpe": 1.0}, 5.0),
        ("least_deviation", {"sortino": 1.0}, 3.0),
    ],
)
def test_every_key_of_the_reward_acts(key, without, given):
    plain, *_ = paid(RewardConfig(**without))
    changed, *_ = paid(RewardConfig(**without, **{key: given}))
    assert np.isfinite(changed).all()
    assert np.abs(changed - plain).max() > 0.05


@given(st.integers(6, 60), st.integers(0, 1000))
def test_changing_the_future_changes_no_observation_or_reward_before_it(change_at, seed):
    data, env = random_market(2, n_steps=100, n_products=1), ReplayEnv(20)
    params = one_product(data).replace(real_starts=jnp.array([5], jnp.int32))
    start = 5
    steps = change_at - start
    if steps < 2:
        return
    rng = np.random.default_rng(seed)
    future = jnp.arange(100) > change_at
    noise = jnp.asarray(rng.integers(1, 1000, params.tape.ladder.shape), jnp.int32)
    changed = params.replace(
        tape=params.tape.replace(
            ladder=jnp.where(future[:, None, None], noise, params.tape.ladder),
            mark=jnp.where(future[:, None], -params.tape.mark, params.tape.mark),
        ),
        features=jnp.where(future[:, None], 9.0, params.features),
    )
    actions = rng.uniform(-1, 1, (steps, 1))
    chex.assert_trees_all_equal(rollout(env, params, actions)[1:], rollout(env, changed, actions)[1:])


@given(st.floats(width=32), st.integers(0, 100))
def test_any_real_action_keeps_the_position_within_its_limit_and_every_number_finite(action, seed):
    params = one_product(random_market(seed % 5, invalid=0.2))
    state, rewards, observations = rollout(ReplayEnv(20), params, np.full((20, 1), action), jax.random.key(seed))
    assert abs(int(state.account.position)) <= int(params.max_position)
    chex.assert_tree_all_finite((rewards, observations, state.account))


def test_the_account_is_flat_at_every_session_close_if_depth_allows():
    data = random_market(4, n_steps=90, n_sessions=3, n_products=1, absent=0.0)
    data = data.replace(bid_size=data.bid_size + 10_000, ask_size=data.ask_size + 10_000)
    flat = flat_rows(np.asarray(data.session), warm_up=5, closing_rows=2)
    params = one_product(data).replace(flat=jnp.asarray(flat), real_starts=jnp.array([0], jnp.int32))
    env, positions = ReplayEnv(1000), []
    _, state = env.reset(jax.random.key(0), params)
    for t in range(89):
        _, state, *_ = env.step_env(jax.random.key(t), state, jnp.ones(1), params)
        positions.append(int(state.account.position))
    positions = np.array(positions)
    assert (positions[:5] == 0).all(), "warming up"
    assert positions[28] == positions[58] == 0, "overnight"
    assert positions[10] == positions[40] == int(params.max_position)


def test_episodes_start_after_the_warm_up_and_end_within_their_session():
    session = np.repeat([0, 1, 2], [50, 8, 40])
    starts = episode_starts(session, warmed_up(session, 10), episode_steps=20)
    assert starts.tolist() == [*range(10, 30), *range(68, 78)]


def test_a_knowing_agent_earns_most_of_the_oracle_bound_and_its_mirror_loses():
    data = random_market(6, n_steps=300, n_products=1)
    params = one_product(data, episode_steps=250).replace(real_starts=jnp.array([5], jnp.int32))
    env = ReplayEnv(250)
    moves = np.asarray(params.tape.mark[5:255, 1])
    knows = np.sign(moves)[:, None]
    state, _, _ = rollout(env, params, knows)
    mirrored, _, _ = rollout(env, params, -knows)
    account = state.account
    assert int(account.gross.value()) > 0.8 * int(params.max_position) * np.abs(moves).sum() * 0.5
    assert int(mirrored.account.gross.value()) < 0


def test_a_position_near_enough_to_its_target_is_left_alone():
    def target(fraction, held, band):
        return int(target_position(jnp.float32(fraction), jnp.int32(held), jnp.float32(100.0), jnp.float32(band)))

    assert target(0.5, 30, band=0.25) == 30
    assert target(0.5, 25, band=0.25) == 50
    assert target(-0.1, 10, band=0.25) == 10
    assert target(0.004, 0, band=0.0) == 0
    assert target(1.0, 130, band=0.9) == 100, "a cut limit binds at once"
    assert target(0.006, 0, band=0.0) == 1
    assert target(float("nan"), 37, band=0.0) == 37


def test_a_wider_band_trades_less():
    params = one_product(random_market())
    actions = np.random.default_rng(1).uniform(-1, 1, (20, 1))
    traded = [
        float(rollout(ReplayEnv(20), params.replace(no_trade_band=jnp.float32(b)), actions)[0].account.traded)
        for b in (0.0, 0.5, 0.99)
    ]
    assert traded[0] > 1.1 * traded[1] > 1.5 * traded[2]


def test_truncation_comes_with_the_length_and_termination_with_the_loss():
    params = one_product(random_market(), episode_steps=20)
    env = ReplayEnv(20)
    _, state = env.reset(jax.random.key(0), params)
    for i in range(20):
        _, state, _, terminated, truncated, _ = env.step_env(jax.random.key(i), state, jnp.zeros(1), params)
        assert (bool(terminated), bool(truncated)) == (False, i == 19)
    ruined = params.replace(max_loss=jnp.float32(0.0))
    _, state = env.reset(jax.random.key(0), ruined)
    *_, terminated, truncated, _ = env.step_env(jax.random.key(0), state, jnp.ones(1), ruined)
    assert bool(terminated)
    assert not bool(truncated)


def test_auto_reset_starts_anew_and_keeps_the_last_observation():
    params, env = one_product(random_market()), ReplayEnv(1)
    _, state = env.reset(jax.random.key(0), params)
    obs, after, _, _, truncated, info = env.step(jax.random.key(1), state, jnp.ones(1), params)
    assert bool(truncated)
    assert int(after.elapsed) == 0
    assert float(obs[-1]) == 0.0
    assert float(info["final_obs"][-1]) > 0.0


def test_the_share_of_synthetic_episodes_is_the_one_asked_for():
    real, synthetic = random_market(1), random_market(2).replace(origin="synthetic")
    features = jnp.zeros((200, 2, 4), jnp.float32)
    generated = Rows.of(synthetic, features, warm_up=5, closing_rows=5)
    params = one_product(real, synthetic=generated, synthetic_fraction=0.25)
    _, states = jax.vmap(ReplayEnv(20).reset, (0, None))(jax.random.split(jax.random.key(0), 4000), params)
    share = float((states.time >= 200).mean())
    assert share == pytest.approx(0.25, abs=0.03)


def test_one_trace_serves_every_product_and_step():
    data = random_market(n_products=3)
    features = jnp.zeros((200, 3, 4), jnp.float32)
    params = products(data, features)
    env = ReplayEnv(20)
    chex.clear_trace_counter()
    step = jax.jit(jax.vmap(chex.assert_max_traces(lambda *a: env.step(*a), n=1)))
    _, state = jax.vmap(env.reset)(jax.random.split(jax.random.key(0), 3), params)
    for i in range(3):
        _, state, *_ = step(jax.random.split(jax.random.key(i), 3), state, jnp.ones((3, 1)), params)


def test_too_little_capital_and_too_short_sessions_are_refused_with_the_remedy():
    data = random_market()
    with pytest.raises(InputError, match=r"buys no lot.*capital of at least"):
        position_limits(data, capital=1.0)
    with pytest.raises(InputError, match="no session is long enough"):
        one_product(data, episode_steps=1000)
    with pytest.raises(InputError, match=r"fee_rate"):
        CostConfig(fee_rate=float("nan"))
