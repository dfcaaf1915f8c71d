"""What an order book env needs before it can start: books in which the background has traded for a while, and numbers.

A fresh book is not yet what its flow makes of it. So a number of markets are run in on their own once, and an episode
starts from one of them: a reset is a copy. What is typical of them scales what agents see.
"""

import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from marljax.data.schema import InputError
from marljax.envs.order_book import OrderBookEnv
from marljax.envs.order_book_types import Flow, Opening, OrderBookParams
from marljax.envs.roles import ROLES
from marljax.envs.roles.role import Scales, agents
from marljax.envs.signal import Signal
from marljax.lob.matching import process
from marljax.lob.snapshot import touch
from marljax.lob.stress import calm
from marljax.lob.types import Book, BookConfig
from marljax.market.fees import fee_schedule
from marljax.market.latency import lognormal
from marljax.market.randomisation import Randomisation, randomisation


@functools.partial(jax.jit, static_argnames=("flow", "config", "count", "blocks", "messages"))
def run_in(
    key: jax.Array,
    flow: Flow,
    params: Any,
    config: BookConfig,
    *,
    count: int = 64,
    blocks: int = 50,
    messages: int = 100,
    begin: Opening | None = None,
) -> tuple[Opening, Scales]:
    """Markets in which only the background has traded, and what is typical of them.

    Args:
        flow: the model of the background.
        params: its params.
        config: of the books.
        count: B, how many markets; with `begin`, as many as it holds.
        blocks: how many blocks of messages are run in each.
        messages: how many messages a block has.
        begin: markets [B] to go on from, instead of the flow's first book: episodes of a recorded flow start at rows
            of their own, `Opening(*recorded.episode(stream, row, config))` each.

    Returns:
        The markets [B] as they are then, and their mean spread, mean size at the touch and volatility of the mid.
    """

    if blocks < 2:
        raise InputError(f"run_in needs at least two blocks to see a price move, got {blocks}")

    def first(key: jax.Array) -> Opening:
        return Opening(flow.initial_book(key, params, config), flow.initial_state(params))

    def one(key: jax.Array, begin: Opening | None) -> tuple[Opening, Any]:
        book_key, flow_key = jax.random.split(key)
        opening = first(book_key) if begin is None else begin

        def block(carry: tuple[Book, Any], key: jax.Array) -> tuple[tuple[Book, Any], Any]:
            book, state = carry
            draws, state = flow.prepare(key, state, params, calm(), messages)
            book, _ = process(book, draws, config, lambda book, draw: flow.message(draw, book))
            return (book, state), (touch(book), draws.seconds[-1])

        (book, state), seen = lax.scan(block, (opening.book, opening.flow), jax.random.split(flow_key, blocks))
        return Opening(book, state), seen

    if begin is not None:
        count = begin.book.consumed.shape[0]
    opening, (seen, seconds) = jax.vmap(one)(jax.random.split(key, count), begin)
    there = (seen.bid_size > 0) & (seen.ask_size > 0)
    lots = 0.5 * (seen.bid_size + seen.ask_size)
    move = 0.5 * jnp.diff(seen.bid_price + seen.ask_price, axis=1)
    known = there[:, 1:] & there[:, :-1]
    moved = jnp.sum(jnp.where(known, move**2, 0.0)) / jnp.sum(jnp.where(known, seconds[:, 1:], 0.0))
    total = jnp.sum(there)
    return opening, Scales(
        price=jnp.sum(jnp.where(there, seen.ask_price - seen.bid_price, 0)) / total,
        size=jnp.sum(jnp.where(there, lots, 0.0)) / total,
        volatility=jnp.sqrt(moved),
    )


def typical_conditions(env: OrderBookEnv) -> Randomisation:
    """Always calm, a taker's fee of a fifth of a tick and a maker's rebate of a tenth, latencies of some 10 ms."""
    fees = fee_schedule(taker_per_lot=0.002, maker_per_lot=-0.001)
    latency = jax.tree.map(lambda x: jnp.full(env.config.agents, x), lognormal(median=0.01, sigma=0.5))
    return randomisation({"calm": 1.0}, fees=(fees, fees), latency=(latency, latency))


def order_book_params(
    env: OrderBookEnv,
    flow_params: Any,
    openings: Opening,
    scales: Scales,
    *,
    roles: Mapping[str, Any] | None = None,
    conditions: Randomisation | None = None,
    signal: tuple[float, float, float] = (0.1, 0.0, 0.0),
    tick_value: float = 0.01,
    variance_seconds: float = 30.0,
    halt_seconds: float = 1.0,
    desk: float = 0.0,
) -> OrderBookParams:
    """The numbers of an order book env, checked.

    Args:
        env: the environment, with its agents.
        flow_params: of its background.
        openings: [B] markets to start from.
        scales: typical values.
        roles: params of roles by name, numbers or one per agent; a role's defaults where absent.
        conditions: what an episode's stress, fees and latencies are drawn from; `typical_conditions` by default.
        signal: its reversion [1/s], and what a standard deviation does to the share of buyers and to the drift
            [ticks/s].
        tick_value: currency of one tick on one lot.
        variance_seconds: seconds after which the weight of a squared move has fallen to 1/e.
        halt_seconds: of a step in a trading halt in which the flow's own clock stands still.
        desk: 0..1, how far directional traders and execution agents share their rewards.

    Raises:
        InputError: a number is out of bounds, a role is not played, or its rules are another role's.
    """
    finite = all(math.isfinite(x) for x in (tick_value, variance_seconds, halt_seconds, *signal))
    if not (finite and tick_value > 0 and variance_seconds > 0 and halt_seconds > 0 and signal[0] >= 0):
        raise InputError(
            "tick_value, variance_seconds and halt_seconds must be positive, the signal's reversion not negative, and "
            f"all finite, got {tick_value!r}, {variance_seconds!r}, {halt_seconds!r}, {signal!r}"
        )
    if not 0 <= desk <= 1:
        raise InputError(f"desk must be within 0..1, got {desk!r}")
    given = dict(roles or {})
    for name in given.keys() - env.config.counts.keys():
        raise InputError(f"role {name!r} is not played; roles are {sorted(env.config.counts)}")
    for name, rules in given.items():
        if not isinstance(rules, ROLES[name].Params):
            raise InputError(f"role {name!r} takes {ROLES[name].Params.__name__}, got {type(rules).__name__}")
    return OrderBookParams(
        flow=flow_params,
        openings=openings,
        randomisation=conditions or typical_conditions(env),
        signal=Signal(*(jnp.float32(x) for x in signal)),
        roles={name: agents(given.get(name, ROLES[name].Params()), count) for name, count in env.config.counts.items()},
        scales=scales,
        tick_value=jnp.float32(tick_value),
        variance_decay=jnp.float32(1.0 / variance_seconds),
        halt_seconds=jnp.float32(halt_seconds),
        desk=jnp.float32(desk),
    )
