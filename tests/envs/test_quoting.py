"""The quoting env against a plain market maker, and its claims: causality, limits, sessions, settings that act."""

import dataclasses

import chex
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

from marljax.data.schema import InputError, MarketData
from marljax.envs.quoting import QuotingConfig, QuotingEnv, QuotingParams, QuotingState, quoting_params
from marljax.envs.rewards import RewardConfig
from marljax.envs.tapes import CostConfig, Rows, TradingConfig, cost_models, default_capital, position_limits
from tests.reference.books import random_market
from tests.reference.queueing import FRONT, PESSIMISTIC, PROPORTIONAL, MarketMaker, calm_market, rows_of
from tests.reference.trading import Costs

HAZARD = {PESSIMISTIC: 0.0, PROPORTIONAL: 1.0, FRONT: np.inf}


def one_product(
    data: MarketData,
    episode_steps: int = 20,
    costs: CostConfig | None = None,
    quoting: QuotingConfig | None = None,
    trading: TradingConfig | None = None,
) -> QuotingParams:
    features = jnp.asarray(np.random.default_rng(0).normal(size=(data.n_steps, data.n_products, 4)), jnp.float32)
    params = quoting_params(
        Rows.of(data, features, warm_up=5, closing_rows=3),
        costs=cost_models(data, costs or CostConfig(latency_mean=0.5)),
        max_position=position_limits(data, default_capital(data)),
        trading=trading or TradingConfig(),
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
    for seed in range(4):
        if seed % 2:
            data = random_market(seed, n_steps=160, n_products=1, n_sessions=2, invalid=0.1, n_levels=4)
        else:
            data = calm_market(seed, 160, (40, 120), n_sessions=2)
        params = start_at(one_product(data, 20, costs, config), 1)
        if seed == 3:
            # Without flat rows, orders stand at a session's close.
            params = params.replace(market=params.market.replace(flat=jnp.zeros_like(params.market.flat)))
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


def test_a_maker_is_paid_by_the_terms_that_are_wanted():
    data, actions = random_market(seed=3), random_actions(3, 60)

    def played(**weights):
        wanted = TradingConfig(risk_aversion=0.0, rewards=RewardConfig(**weights))
        params = one_product(data, 60, trading=wanted)
        return params, *rollout(params, actions, jax.random.key(1))

    params, states, rewards, _, info = played(earnings=0.0, turnover=2.0)
    position = np.asarray(states.account.position)
    bought_and_sold = np.asarray(info["filled"])
    made = bought_and_sold.sum(1)
    # What the position moved beyond the fills was traded at the market.
    closed = np.abs(np.diff(position, prepend=0) - (bought_and_sold[:, 0] - bought_and_sold[:, 1]))
    assert made.sum() > 0
    np.testing.assert_allclose(rewards, -2.0 * (made + closed) / int(params.market.max_position), rtol=1e-5)
    # Near the capital the log return of equity, in these units, is what was earned.
    _, _, logs, _, info = played(earnings=0.0, log_return=1.0)
    np.testing.assert_allclose(logs, info["earned"] / params.market.reward_scale, rtol=0.02, atol=1e-3)


def test_an_idle_maker_earns_exactly_nothing():
    idle = np.tile([0.0, 0.0, -1.0, -1.0], (20, 1))
    states, rewards, _, info = rollout(one_product(random_market()), idle, jax.random.key(0))
    assert not jnp.any(rewards)
    assert not jnp.any(info["filled"])
    assert not any(jnp.any(x) for x in jax.tree.leaves((states.account, states.maker)))


def still_books(n_steps: int = 60) -> MarketData:
    """A market that stands still, two ticks wide, 10 lots a level; each row 4 lots are sold, then 6 bought."""
    shape, even = (n_steps, 1), np.arange(n_steps)[:, None] % 2 == 0
    ticks = np.tile(np.arange(1, 4), (n_steps, 1, 1))
    return random_market(0, n_steps=n_steps, n_products=1).replace(
        bid_price=jnp.asarray(1000 - ticks, jnp.int32),
        ask_price=jnp.asarray(1000 + ticks, jnp.int32),
        bid_size=jnp.full((*shape, 3), 10, jnp.int32),
        ask_size=jnp.full((*shape, 3), 10, jnp.int32),
        trade_volume=jnp.asarray(np.where(even, 4, 6), jnp.int32),
        trade_imbalance=jnp.asarray(np.where(even, -4, 6), jnp.int32),
    )


PROMPT = CostConfig(latency_floor=0.0, latency_mean=0.0)


def test_in_a_still_market_a_maker_earns_the_spread_and_its_rebate_and_nothing_else():
    config = QuotingConfig(nearest=0.0, furthest=3.0, largest=0.3, fee_per_lot=-0.25, hazard=np.inf)
    params = start_at(one_product(still_books(), 20, PROMPT, config), 10)
    assert (int(params.market.max_position), int(params.largest)) == (10, 3)
    at_touch = np.tile([-1.0, 0.0, 1.0, 1.0], (20, 1))
    states, _, _, info = rollout(params, at_touch, jax.random.key(0))
    # Row 11 is odd: its 6 lots were bought, which reach the ask; the 3 lots quoted are filled on every row.
    assert np.asarray(info["filled"]).tolist() == [[0, 3], [3, 0]] * 10
    assert counted(states.maker.spread)[-1] == 20 * 3 * 2
    assert counted(states.maker.adverse)[-1] == 0
    assert float(states.maker.fees[-1]) == -0.25 * 60
    net = states.net(params.market.costs.tick_value)[-1]
    assert float(net) == 0.5 * float(params.market.costs.tick_value) * 120 + 15
    # At the back of the queue 10 lots stand before it, and every third even row brings it to the front.
    patient = params.replace(hazard=jnp.float32(0.0))
    filled = np.asarray(rollout(patient, at_touch, jax.random.key(0))[3]["filled"])
    assert filled[:6].tolist() == [[0, 0], [0, 0], [0, 2], [0, 0], [0, 1], [2, 0]]


def test_what_the_mid_moves_against_a_fill_is_an_item_of_its_own():
    data = still_books()
    down = jnp.where(jnp.arange(60) >= 12, -5, 0)[:, None, None]
    data = data.replace(bid_price=data.bid_price + down, ask_price=data.ask_price + down)
    config = QuotingConfig(nearest=0.0, furthest=3.0, largest=0.3)
    params = start_at(one_product(data, 20, PROMPT, config), 10)
    states, _, _, info = rollout(params, np.tile([-1.0, 0.0, 1.0, -1.0], (20, 1)), jax.random.key(0))
    states, filled = jax.tree.map(lambda x: x[:2], (states, info["filled"]))
    # The asks fall from 1001 to 996 through the bid at 999: 10 lots at 996, 997 and 998 each meet it.
    assert filled.tolist() == [[0, 0], [3, 0]]
    assert counted(states.maker.spread)[-1] == 3 * 2
    assert counted(states.maker.adverse)[-1] == 3 * 10
    assert int(states.account.position[-1]) == 3
    assert int(states.orders.remaining[-1, 0]) == 0


@given(st.integers(6, 60), st.integers(0, 1000))
def test_changing_the_future_changes_no_observation_reward_or_fill_before_it(change_at, seed):
    params = start_at(one_product(random_market(2, n_steps=100, n_products=1)), 5)
    future = np.arange(100) > change_at
    noise = np.random.default_rng(seed)

    def changed(x):
        other = jnp.asarray(noise.integers(-1000, 1000, x.shape)).astype(x.dtype)
        return jnp.where(future.reshape(-1, *(1,) * (x.ndim - 1)), other, x)

    market = params.market.replace(
        tape=jax.tree.map(changed, params.market.tape), features=changed(params.market.features)
    )
    other = params.replace(tape=jax.tree.map(changed, params.tape), market=market)
    actions = random_actions(seed, 80)
    # Step i goes from row 5 + i to the next; the mid's change to the next row stands in its own row.
    steps = change_at - 5
    past, other_past = (
        jax.tree.map(lambda x: x[:steps], rollout(p, actions, jax.random.key(seed))) for p in (params, other)
    )
    chex.assert_trees_all_equal(past, other_past)


@given(st.lists(st.floats(width=32), min_size=4, max_size=4), st.integers(0, 100))
def test_any_real_action_keeps_the_position_within_its_limit_and_every_number_finite(action, seed):
    params = one_product(random_market(seed % 5, invalid=0.2))
    states, rewards, observations, _ = rollout(params, np.tile(action, (20, 1)), jax.random.key(seed))
    assert jnp.abs(states.account.position).max() <= params.market.max_position
    chex.assert_tree_all_finite((rewards, observations, states.account, states.maker))


def test_no_order_stands_and_no_position_is_held_at_a_sessions_close():
    data = random_market(4, n_steps=90, n_sessions=3, n_products=1, absent=0.0)
    data = data.replace(bid_size=data.bid_size + 100, ask_size=data.ask_size + 100, trade_volume=0 * data.trade_volume)
    data = data.replace(trade_volume=data.trade_volume + 5000, trade_imbalance=0 * data.trade_imbalance)
    params = start_at(one_product(data), 0)
    actions = np.tile([-0.5, 0.2, 1.0, 1.0], (89, 1))
    states, _, _, info = rollout(params, actions, jax.random.key(0))
    flat = np.asarray(params.market.flat)
    # State i is that of row i + 1, and the flat rows' orders expire before anything reaches them.
    assert not np.asarray(info["filled"])[flat[:89]].any()
    assert np.asarray(info["filled"]).any(axis=1).sum() > 30
    for close in (29, 59):
        assert int(states.account.position[close - 1]) == 0
        assert not jnp.any(states.orders.remaining[close])
    assert jnp.abs(states.account.position).max() > 0


def test_orders_do_not_stand_overnight_even_where_no_row_is_flat():
    data = still_books().replace(session=jnp.repeat(jnp.arange(2), 30))
    params = start_at(one_product(data, 10, PROMPT, QuotingConfig(nearest=2.0)), 27)
    params = params.replace(market=params.market.replace(flat=jnp.zeros(60, bool)))
    actions = np.full((20, 4), np.nan)
    actions[0] = [-1.0, 0.0, 1.0, 1.0]
    states, *_ = rollout(params, actions, jax.random.key(0))
    assert states.orders.remaining[:4, 0].tolist() == [2, 2, 0, 0]


def test_a_nan_leaves_the_quotes_and_their_places_and_places_no_new_ones():
    config = QuotingConfig(nearest=0.0, furthest=3.0, largest=0.3, hazard=0.0)
    for costs in (PROMPT, CostConfig(latency_floor=1e6)):
        params = start_at(one_product(still_books(), 20, costs, config), 10)
        actions = np.full((20, 4), np.nan)
        actions[0] = [-1.0, 0.0, 1.0, 1.0]
        states, _, _, info = rollout(params, actions, jax.random.key(0))
        assert np.asarray(info["filled"]).sum(axis=0).tolist() == [3, 3]
        assert not jnp.any(states.orders.remaining[-1])


def test_quotes_that_would_meet_each_other_are_not_sent():
    config = QuotingConfig(nearest=-4.0, furthest=3.0, largest=0.3)
    data = still_books()
    data = data.replace(bid_price=data.bid_price - 4, ask_price=data.ask_price + 4, trade_volume=0 * data.trade_volume)
    params = start_at(one_product(data.replace(trade_imbalance=0 * data.trade_imbalance), 20, PROMPT, config), 10)
    for nearest, stands in ((-4.0, 3), (-5.0, 0), (-6.0, 0)):
        inside = params.replace(nearest=jnp.float32(nearest))
        states, *_ = rollout(inside, np.array([[-1.0, 0.0, 1.0, 1.0]]), jax.random.key(0))
        assert states.orders.remaining[-1].tolist() == [stands, stands]


def test_the_observation_tells_where_the_orders_stand():
    config = QuotingConfig(nearest=0.0, furthest=4.0, skew=2.0, largest=0.3, hazard=0.0)
    params = start_at(one_product(still_books(), 20, PROMPT, config), 10)
    _, _, observations, _ = rollout(params, np.array([[-0.5, 0.5, 1.0, -1 / 3]]), jax.random.key(0))
    # One tick behind, both moved up by one: the bid at the touch behind 10 lots, the ask 2 ticks behind it.
    bid_share, ask_share = 3 / 13, 1 / 11
    expected = [0.0, 0.0, 0.5, 1.0, 1 / 3, bid_share, ask_share]
    np.testing.assert_allclose(observations[0, -7:], expected, rtol=1e-6)
    np.testing.assert_array_equal(observations[0, :4], params.market.features[11])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("nearest", -1.0),
        ("furthest", 1.0),
        ("skew", 0.0),
        ("largest", 0.1),
        ("hazard", 0.0),
        ("fee_rate", 1e-3),
        ("fee_per_lot", 0.1),
    ],
)
def test_every_setting_acts(name, value):
    base = QuotingConfig(nearest=0.0, furthest=2.0, skew=1.0)
    data, actions = calm_market(3, 100, (20, 60)), random_actions(3, 80)
    ours, theirs = (
        rollout(start_at(one_product(data, 20, PROMPT, config), 5), actions, jax.random.key(0))[0]
        for config in (base, dataclasses.replace(base, **{name: value}))
    )
    pairs = zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True)
    assert any(bool(jnp.any(a != b)) for a, b in pairs)


@pytest.mark.parametrize(("reach", "ahead"), [(2, 2.0**31), (3, 10.0)])
def test_an_order_beyond_the_tapes_reach_waits_out_of_sight(reach, ahead):
    data, up = still_books(), jnp.arange(60, dtype=jnp.int32)[:, None, None]
    data = data.replace(bid_price=data.bid_price.at[..., 2].add(-1) + up, ask_price=data.ask_price + up)
    config = QuotingConfig(nearest=2.0, furthest=2.0, skew=0.0, reach=reach, hazard=0.0)
    params = start_at(one_product(data, 20, CostConfig(latency_floor=1e6), config), 10)
    # Sent to 2 ticks behind the touch, the bid arrives when that is 3: where the last of three levels stands.
    states, *_ = rollout(params, np.ones((1, 4)), jax.random.key(0))
    assert float(states.orders.ahead[-1, 0]) == ahead


def test_the_queue_model_is_swept_beside_everything_else_in_one_trace():
    config = QuotingConfig(nearest=0.0)
    params = start_at(one_product(calm_market(3, 100, (80, 160), 40), 20, PROMPT, config), 5)
    hazards = jnp.array([0.0, 1.0, jnp.inf])
    swept = jax.vmap(lambda h: params.replace(hazard=h))(hazards)
    actions = np.tile([-1.0, 0.0, 0.0, 0.0], (80, 1))
    together = jax.vmap(rollout, (0, None, None))(swept, actions, jax.random.key(0))[3]["filled"]
    filled = np.asarray(together).sum(axis=(1, 2))
    assert filled[0] < filled[1] < filled[2]
    for i, hazard in enumerate(hazards):
        alone = rollout(params.replace(hazard=hazard), actions, jax.random.key(0))[3]["filled"]
        np.testing.assert_array_equal(together[i], alone)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nearest": np.nan}, "quoting.nearest"),
        ({"fee_rate": np.inf}, "quoting.fee_rate"),
        ({"nearest": 6.0}, "quoting.furthest"),
        ({"furthest": 0.0}, "quoting.furthest"),
        ({"skew": -1.0}, "quoting.skew"),
        ({"furthest": 40.0}, "quoting.reach"),
        ({"reach": 10**6}, "quoting.reach"),
        ({"largest": 0.0}, "quoting.largest"),
        ({"largest": 1.5}, "quoting.largest"),
        ({"hazard": -0.1}, "quoting.hazard"),
        ({"hazard": np.nan}, "quoting.hazard"),
    ],
)
def test_impossible_settings_are_refused_by_name(changes, message):
    with pytest.raises(InputError, match=message):
        QuotingConfig(**changes)
