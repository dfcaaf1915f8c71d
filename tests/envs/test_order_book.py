"""Many agents in one book: money, queues, latency, halts and the ends of episodes."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marljax.envs import ledger
from marljax.envs.environment import sample
from marljax.envs.ledger import product
from marljax.envs.order_book_types import OrderBookConfig
from marljax.envs.roles.execution import ExecutionParams
from marljax.envs.roles.market_maker import OBSERVATION, MarketMakerParams
from marljax.envs.roles.role import entries
from marljax.lob import messages
from marljax.lob.matching import process
from marljax.lob.stress import stressed
from marljax.lob.types import BUY, SELL, Kind
from marljax.market.fees import fee_schedule
from marljax.market.regimes import play, steady, table
from tests.reference.scripted_flow import ASK, BID, scripted
from tests.reference.worlds import order_book

MAKER = MarketMakerParams(nearest=0.0, furthest=20.0, skew=10.0, largest=10, max_position=40)
"""Width -0.7 quotes 3 ticks from the mid of 10,000, width -0.5 five."""


@functools.partial(jax.jit, static_argnums=0)
@chex.assert_max_traces(n=12)
def compiled_step(env, key, state, action, params):
    return env.step_env(key, state, action, params)


@functools.partial(jax.jit, static_argnums=0)
def compiled_reset(env, key, params):
    return env.reset_env(key, params)


def start(env, params, seed=0):
    return compiled_reset(env, jax.random.key(seed), params)


def stepper(env, params):
    """(state, action, key number) -> the step's results."""
    return lambda state, action, seed=0: compiled_step(env, jax.random.key(seed), state, action, params)


def maker(*rows) -> dict:
    """The action of market makers: (width, skew, bid size, ask size) each."""
    return {"market_maker": jnp.array(rows, jnp.float32)}


@pytest.fixture(scope="module")
def played():
    """(env, params, (states, rewards, infos)) of an episode of random actions, leaves [T]."""
    env, params = order_book()

    @jax.jit
    def play_on(key, params):
        _, state = env.reset_env(key, params)

        def step(state, key):
            action_key, env_key = jax.random.split(key)
            action = sample(action_key, env.action_space(params))
            _, after, reward, _, _, info = env.step_env(env_key, state, action, params)
            return after, (after, reward, info)

        return jax.lax.scan(step, state, jax.random.split(key, 20))[1]

    return env, params, play_on(jax.random.key(3), params)


def test_money_is_conserved_to_the_tick(played):
    _, _, (states, *_) = played
    assert np.abs(states.ledger.position[-1, 1:]).sum() > 10, "agents traded"
    for tally in (states.ledger.cash, jax.vmap(ledger.equity)(states.ledger, states.market.mark)):
        words = np.asarray(tally.high, np.int64) * 2**24 + np.asarray(tally.low)
        assert np.any(words != 0)
        np.testing.assert_array_equal(words.sum(-1), 0)
    np.testing.assert_array_equal(states.ledger.position.sum(-1), 0)


def test_what_all_owners_have_changes_by_fees_alone(played):
    _, params, (states, *_) = played
    net = jax.vmap(lambda s: s.net(params.tick_value))(states)
    assert states.ledger.fees[-1].sum() > 0.02
    np.testing.assert_allclose(net.sum(-1), -states.ledger.fees.sum(-1), atol=2e-4)


def test_rewards_sum_to_profit_and_for_execution_to_minus_the_shortfall(played):
    env, params, (states, reward, _) = played
    final = jax.tree.map(lambda x: x[-1], states)
    net = env.config.by_role(final.net(params.tick_value)[1:])
    for role in ("market_maker", "directional"):
        np.testing.assert_allclose(reward[role].sum(0), net[role], atol=1e-3)
    parent, rules = final.memory["execution"], params.roles["execution"]
    at = int(rules.deadline[0])
    arrival, mark = int(parent.arrival[0]), int(states.market.mark[at - 1])
    filled = states.ledger.position[at - 1, -1]
    paid = -jax.vmap(lambda s: s.ledger.cash.value())(states)[at - 1, -1] * params.tick_value
    side, lots = int(parent.side[0]), int(rules.parent[0])
    left = lots - abs(int(filled))
    shortfall = (
        paid
        - filled * 0.5 * arrival * params.tick_value
        + side * left * 0.5 * (mark - arrival) * params.tick_value
        + rules.penalty[0] * left
        + states.ledger.fees[at - 1, -1]
    )
    np.testing.assert_allclose(reward["execution"][:at].sum(), -shortfall, atol=1e-3)


def test_the_messages_that_met_the_book_are_told_and_make_it_again(played):
    env, _, (states, _, info) = played
    assert set(np.unique(info["messages"].owner)) == set(range(env.config.book.owners))

    @jax.jit
    def again(book, messages):
        return jax.lax.scan(lambda book, block: (process(book, block, env.config.book)[0],) * 2, book, messages)[1]

    first = jax.tree.map(lambda x: x[0], states).book
    later = jax.tree.map(lambda x: x[1:], (states.book, info["messages"]))
    chex.assert_trees_all_equal(again(first, later[1]), later[0])


def test_messages_are_told_in_order_of_their_arrival_within_the_step(played):
    _, _, (states, _, info) = played
    arrived = np.asarray(info["arrived"])
    assert (np.diff(arrived, axis=1) >= 0).all()
    np.testing.assert_array_equal(arrived[:, -1], info["seconds"])
    np.testing.assert_allclose(np.cumsum(info["seconds"]), states.seconds, rtol=1e-5)


def test_an_agents_message_is_told_when_its_latency_is_over():
    env, params = scripted(roles={"market_maker": MAKER}, latency=[0.3, 0.6], market_makers=2, executions=0)
    _, state = start(env, params)
    info = stepper(env, params)(state, maker([-0.7, 0, 1, 1], [-0.7, 0, 1, 1]))[-1]
    told = np.asarray(info["messages"].kind) == Kind.LIMIT
    np.testing.assert_array_equal(info["messages"].owner[told], [1, 1, 2, 2])
    np.testing.assert_allclose(info["arrived"][told], [0.3, 0.3, 0.6, 0.6])


def test_one_bankrupt_agent_ends_the_episode_for_all_and_is_the_only_one_terminated():
    crash = [messages.market(SELL, 10, id=1, owner=0), messages.limit(SELL, BID - 40, 100, id=2, owner=0)]
    env, params = scripted(
        [messages.limit(BUY, BID - 60, 1, id=3, owner=0)],
        crash,
        roles={"market_maker": MarketMakerParams(nearest=0.0, furthest=20.0, largest=10, max_loss=[1.0, 1e6])},
        market_makers=2,
        executions=1,
    )
    step = stepper(env, params)
    _, state = start(env, params)
    quiet = {"execution": jnp.array([[-1.0, 0.0]])}
    _, state, _, terminated, truncated, _ = step(state, maker([-0.7, 0, 1, -1], [1, 0, -1, -1]) | quiet)
    assert not any(jnp.any(x) for x in jax.tree.leaves((terminated, truncated)))
    _, state, _, terminated, truncated, _ = step(state, maker([-0.7, 0, 1, -1], [1, 0, -1, -1]) | quiet)
    assert state.ledger.position.tolist() == [-10, 10, 0, 0]
    assert float(state.net(params.tick_value)[1]) < -1.0
    chex.assert_trees_all_equal(terminated, {"market_maker": jnp.array([True, False]), "execution": jnp.array([False])})
    chex.assert_trees_all_equal(truncated, {"market_maker": jnp.array([False, True]), "execution": jnp.array([True])})


@pytest.fixture(scope="module")
def two_makers():
    env, params = scripted(roles={"market_maker": MAKER}, market_makers=2, executions=0)
    return env, params, stepper(env, params)


def test_requoting_at_an_unchanged_price_keeps_the_place_in_the_queue(two_makers):
    env, params, step = two_makers
    _, state = start(env, params)
    nobody = [1, 0, -1, -1]
    _, state, *_ = step(state, maker([-0.7, 0, 1, 1], nobody))
    _, state, *_ = step(state, maker([-0.7, 0, 1, 1], [-0.7, 0, 1, 1]))
    np.testing.assert_array_equal(state.standing.price, [[9_997, 10_003]] * 2)
    np.testing.assert_array_equal(state.standing.ahead, [[0, 0], [10, 10]])
    _, state, *_ = step(state, maker([-0.7, 0, 1, 1], [-0.7, 0, 1, 1]))
    np.testing.assert_array_equal(state.standing.ahead, [[0, 0], [10, 10]])
    # Smaller keeps the place, larger is not made to lose it.
    _, state, *_ = step(state, maker([-0.7, 0, 0, 1], [-0.7, 0, 1, 1]))
    np.testing.assert_array_equal(state.standing.ahead, [[0, 0], [5, 10]])
    np.testing.assert_array_equal(state.standing.remaining, [[5, 10], [10, 10]])
    _, state, *_ = step(state, maker([-0.7, 0, 1, 1], [-0.7, 0, 1, 1]))
    np.testing.assert_array_equal(state.standing.remaining, [[5, 10], [10, 10]])
    # Away and back again is behind.
    _, state, *_ = step(state, maker([-0.5, 0, 1, 1], [-0.7, 0, 1, 1]))
    _, state, *_ = step(state, maker([-0.7, 0, 1, 1], [-0.7, 0, 1, 1]))
    np.testing.assert_array_equal(state.standing.ahead, [[10, 10], [0, 0]])


def test_agents_of_equal_latency_come_first_equally_often(two_makers):
    env, params, _ = two_makers
    _, state = start(env, params)
    action = maker([-0.7, 0, 1, 1], [-0.7, 0, 1, 1])
    step = jax.jit(jax.vmap(lambda key: env.step_env(key, state, action, params)[1].standing.ahead))
    ahead = step(jax.random.split(jax.random.key(0), 400))
    first = (ahead[:, 0] == 0).mean(0)
    np.testing.assert_array_equal((ahead[:, 0] == 0) != (ahead[:, 1] == 0), True)
    np.testing.assert_allclose(first, 0.5, atol=0.08)


def test_the_faster_agent_comes_first():
    env, params = scripted(roles={"market_maker": MAKER}, latency=[0.3, 0.2], market_makers=2, executions=0)
    _, state = start(env, params)
    _, state, *_ = stepper(env, params)(state, maker([-0.7, 0, 1, 1], [-0.7, 0, 1, 1]))
    np.testing.assert_array_equal(state.standing.ahead, [[10, 10], [0, 0]])


def test_an_action_that_is_not_a_number_changes_nothing(two_makers):
    env, params, step = two_makers
    _, state = start(env, params)
    _, state, *_ = step(state, maker([-0.7, 0, 1, 0], [-0.5, 0, 1, 1]))
    _, after, reward, *_ = step(state, maker([jnp.nan] * 4, [jnp.nan, 0, 1, 1]))
    chex.assert_trees_all_equal(after.standing, state.standing)
    chex.assert_trees_all_equal(after.ledger, state.ledger)
    np.testing.assert_array_equal(reward["market_maker"], 0.0)


def test_a_message_later_than_its_step_arrives_in_a_later_one():
    env, params = scripted(roles={"market_maker": MAKER}, latency=2.5, market_makers=1, executions=0)
    step = stepper(env, params)
    _, state = start(env, params)
    action = maker([-0.7, 0, 1, 1])
    for waiting in (True, True, False):
        assert not jnp.any(state.standing.there)
        _, state, *_ = step(state, action)
        np.testing.assert_array_equal(state.instructions.waiting, waiting)
        # What is decided meanwhile is not sent.
        action = maker([-0.5, 0, 1, 1])
    np.testing.assert_array_equal(state.standing.price, [[9_997, 10_003]])


def test_a_late_message_meets_the_book_as_it_is_then():
    ahead = messages.limit(BUY, 9_997, 7, id=5, owner=0)
    for delay, expected in ((0.1, 0), (0.4, 7)):
        env, params = scripted([ahead], roles={"market_maker": MAKER}, latency=delay, market_makers=1, executions=0)
        _, state = start(env, params)
        _, state, *_ = stepper(env, params)(state, maker([-0.7, 0, 1, 1]))
        assert state.standing.ahead[0, 0] == expected, "the background's order comes after a quarter of a second"


def test_an_order_that_trades_on_the_way_of_its_modification_is_not_filled_twice():
    sell = messages.market(SELL, 4, id=5, owner=0)
    env, params = scripted([], [sell], roles={"market_maker": MAKER}, latency=0.4, market_makers=1, executions=0)
    step = stepper(env, params)
    _, state = start(env, params)
    _, state, *_ = step(state, maker([-0.7, 0, 1, -1]))
    _, state, *_ = step(state, maker([-0.5, 0, 1, -1]))
    assert state.ledger.position.tolist() == [-4, 4]
    # Five ticks from a mid that the agent's own bid has moved.
    assert (int(state.standing.price[0, 0]), int(state.standing.remaining[0, 0])) == (9_996, 6)


def test_instructions_wait_for_the_end_of_a_halt():
    env, params = scripted(roles={"market_maker": MAKER}, latency=0.1, market_makers=1, executions=0)
    _, state = start(env, params)
    halt = play(steady(stressed(halted=1.0), ramp=0.0), 0.0, 1.5)
    state = state.replace(conditions=state.conditions.replace(schedule=halt))
    step = stepper(env, params)
    for there in (False, False, True):
        _, state, *_ = step(state, maker([-0.7, 0, 1, 1]))
        np.testing.assert_array_equal(state.standing.there, there)
    assert float(state.seconds) == 3.0


@pytest.mark.parametrize(("regime", "halted"), [("calm", 0.0), ("trading halt", 1.0)])
def test_the_first_observation_says_whether_the_episode_begins_in_a_halt(regime, halted):
    env, params = scripted(roles={"market_maker": MAKER}, latency=0.1, market_makers=1, executions=0)
    params = params.replace(randomisation=params.randomisation.replace(regimes=table(regime)))
    first, state = start(env, params)
    after, *_ = stepper(env, params)(state, maker([-0.7, 0, 1, 1]))
    for obs in (first, after):
        np.testing.assert_array_equal(entries(OBSERVATION, obs["market_maker"])["halted"], halted)


def test_makers_earn_a_rebate_and_takers_pay_to_the_exact_number_of_lots():
    fees = fee_schedule(taker_per_lot=0.003, maker_per_lot=-0.001)
    env, params = scripted(
        [], [messages.market(SELL, 4, id=5, owner=0)], fees=fees, roles={"market_maker": MAKER}, executions=0
    )
    step = stepper(env, params)
    _, state = start(env, params)
    _, state, *_ = step(state, maker([-0.7, 0, 1, -1]))
    _, state, reward, *_ = step(state, maker([-0.7, 0, 1, -1]))
    np.testing.assert_allclose(state.ledger.fees, [0.012, -0.004], rtol=1e-6)
    # The bid has followed the mid that it moved, to 9,998, and what is left of it is still the best.
    mark = 0.5 * (9_998 + ASK)
    np.testing.assert_allclose(reward["market_maker"], [4 * 0.01 * (mark - 9_998) + 0.004], rtol=1e-5)


def test_a_desk_shares_what_both_earn_and_makes_no_money():
    counts = {"market_makers": 0, "directional": 2, "executions": 1}
    results = {}
    for desk in (0.0, 0.5, 1.0):
        env, params = scripted(
            roles={"execution": ExecutionParams(parent=20, buys=1.0, deadline=4, largest=1.0)}, desk=desk, **counts
        )
        _, state = start(env, params)
        action = {"directional": jnp.array([[0.1, 1.0], [-0.1, 1.0]]), "execution": jnp.array([[0.5, 1.0]])}
        results[desk] = stepper(env, params)(state, action)[2]
    alone, half, joint = (results[x] for x in (0.0, 0.5, 1.0))
    trader, executor = alone["directional"][0], alone["execution"][0]
    assert trader != executor
    np.testing.assert_allclose(joint["directional"][0], 0.5 * (trader + executor), rtol=1e-5)
    np.testing.assert_allclose(joint["execution"][0], joint["directional"][0], rtol=1e-6)
    np.testing.assert_allclose(half["execution"][0], 0.75 * executor + 0.25 * trader, rtol=1e-5)
    for shared in (half, joint):
        np.testing.assert_array_equal(shared["directional"][1], alone["directional"][1])


def test_products_are_exact_over_the_whole_range():
    rng = np.random.default_rng(0)
    a = np.concatenate([rng.integers(-(2**22), 2**22, 500), [2**22, -(2**22), 0, 1]]).astype(np.int32)
    b = np.concatenate([rng.integers(-(2**24), 2**24, 500), [2**24, 2**24, -5, -(2**24)]]).astype(np.int32)
    tally = product(jnp.asarray(a), jnp.asarray(b))
    words = np.asarray(tally.high, np.int64) * 2**24 + np.asarray(tally.low)
    np.testing.assert_array_equal(words, a.astype(np.int64) * b)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"market_makers": -1}, "market_makers must not be negative, got -1"),
        ({"market_makers": 0, "executions": 0}, "at least one agent"),
        ({"messages": 0}, "messages must be positive, got 0"),
        ({"messages": 125}, "at most 128, got 125 and 2 agents"),
    ],
)
def test_bad_config_is_refused_with_field_and_value(change, message):
    with pytest.raises(ValueError, match=message):
        OrderBookConfig(**change)


def test_bad_numbers_are_refused():
    with pytest.raises(ValueError, match="role 'broker' is not played"):
        scripted(roles={"broker": MAKER})
    with pytest.raises(ValueError, match=r"desk must be within 0\.\.1, got 2"):
        scripted(desk=2.0)
    with pytest.raises(ValueError, match="largest must be at least 1, got 0"):
        MarketMakerParams(largest=0)
