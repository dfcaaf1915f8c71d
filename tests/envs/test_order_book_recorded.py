"""Agents in a recorded day: the record goes on around them, halts hold them, and its end ends the episode."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from marljax.data.readers.lobster_messages import read_messages
from marljax.envs.environment import sample
from marljax.envs.opening import order_book_params, run_in
from marljax.envs.order_book import OrderBookEnv
from marljax.envs.order_book_types import Opening, OrderBookConfig
from marljax.envs.roles.role import Scales
from marljax.lob.flows import recorded
from marljax.lob.flows.recorded import CancelPolicy, RecordedParams

ROWS = 12
HALT = range(4, 7)
"""Rows at which trading stands still."""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """An env on a made-up LOBSTER day of two levels, one message a second: orders come at the best bid, one by one."""
    folder = tmp_path_factory.mktemp("day")
    messages, orders = [], []
    for row in range(ROWS):
        halted = {HALT[0]: "7,0,0,-1,-1", HALT[-1] + 1: "7,0,0,1,-1"}
        messages.append(f"{34200 + row}.5," + halted.get(row, f"1,{row + 1},5,100000,1"))
        lots = 50 + 5 * sum(r not in halted for r in range(row + 1))
        orders.append(f"100200,20,100000,{lots},100400,40,99900,30")
    name = "ACME_2020-01-02_34200000_57600000_{}_2.csv"
    (folder / name.format("message")).write_text("\n".join(messages))
    (folder / name.format("orderbook")).write_text("\n".join(orders))
    (day,) = read_messages([folder])
    stream = recorded.load(day)
    flow = RecordedParams(stream, jnp.int32(CancelPolicy.SIZE), jnp.int32(0))
    env = OrderBookEnv(recorded, OrderBookConfig(messages=1, slots=16, episode_steps=100))
    opening = jax.vmap(lambda row: Opening(*recorded.episode(stream, row, env.config.book)))(jnp.array([0]))
    params = order_book_params(env, flow, opening, Scales(price=2.0, size=20.0, volatility=1.0))
    return env, params


def played(world, steps: int):
    """States and ends of an episode of makers and executions that act at random."""
    env, params = world
    step = jax.jit(env.step_env)
    _, state = jax.jit(env.reset)(jax.random.key(0), params)
    history = []
    for i in range(steps):
        key = jax.random.key(i)
        _, state, _, _, truncated, info = step(key, state, sample(key, env.action_space(params)), params)
        history.append((state, bool(truncated["market_maker"][0]), float(info["seconds"])))
    return history


def test_the_end_of_the_record_truncates_the_episode(world):
    history = played(world, ROWS + 1)
    ends = [truncated for _, truncated, _ in history]
    last = ends.index(True)
    _, params = world
    assert bool(recorded.ends(history[last][0].flow, params.flow))
    assert not bool(recorded.ends(history[last - 1][0].flow, params.flow))
    assert 0 < last < ROWS


def test_what_agents_sent_waits_while_the_record_says_that_trading_is_halted(world):
    history = played(world, ROWS - 1)
    for row in range(1, ROWS - 1):
        before, (after, _, seconds) = history[row - 1][0], history[row]
        waits = before.instructions.waiting
        if row + 1 in HALT:
            assert float(after.market.halted) == 1.0
            assert jnp.all(after.instructions.waiting[waits])
            assert seconds > 0
        else:
            assert float(after.market.halted) == 0.0
    assert any(bool(jnp.any(history[row - 1][0].instructions.waiting)) for row in HALT)


def test_an_episode_that_begins_in_a_recorded_halt_says_so_at_once(world):
    env, params = world
    step, reset = jax.jit(env.step_env), jax.jit(env.reset)
    for row in (2, 3, 5, 6):
        opening = Opening(*recorded.episode(params.flow.stream, row, env.config.book))
        here = dataclasses.replace(params, openings=jax.tree.map(lambda x: x[None], opening))
        _, state = reset(jax.random.key(0), here)
        _, after, *_ = step(jax.random.key(1), state, sample(jax.random.key(2), env.action_space(here)), here)
        assert float(state.market.halted) == float(after.market.halted) == (row + 1 in HALT)


@pytest.mark.nightly
def test_markets_may_begin_at_rows_of_their_own(world):
    env, params = world
    rows = jnp.array([0, 3, 7])
    begin = jax.vmap(lambda row: Opening(*recorded.episode(params.flow.stream, row, env.config.book)))(rows)
    opening, scales = run_in(
        jax.random.key(0), recorded, params.flow, env.config.book, blocks=2, messages=1, begin=begin
    )
    assert opening.flow.start.tolist() == rows.tolist()
    assert (opening.flow.position - begin.flow.position).tolist() == [2, 2, 2]
    assert float(scales.price) == 2.0
    params = dataclasses.replace(params, openings=opening)
    _, state = jax.vmap(env.reset, (0, None))(jax.random.split(jax.random.key(0), 20), params)
    assert set(state.flow.start.tolist()) == set(rows.tolist())
