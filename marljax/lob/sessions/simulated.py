"""A session of background flow alone, event by event, in the form that recorded sessions have.

The flow's messages meet the book one by one, in jitted blocks, and the book's best levels are kept after each. Messages
that did nothing (a cancellation that found no order) leave no event. An order that trades and then rests is an
execution for each order it reached and a limit order. An order that gives way on a full side leaves no event either.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from marljax.data.schema import InputError
from marljax.lob.matching import process
from marljax.lob.sessions.session import EventKind, Session
from marljax.lob.snapshot import levels, order
from marljax.lob.stress import Stress, calm
from marljax.lob.types import BookConfig, Kind

_BLOCK = 100


def simulate(
    key: jax.Array,
    model: ModuleType,
    params: Any,
    config: BookConfig,
    duration: float,
    *,
    depth: int = 10,
    stress: Stress | None = None,
    product: str = "simulated",
    on_block: Callable[[float], None] | None = None,
) -> Session:
    """A session of `duration` seconds.

    Args:
        key: random key.
        model: a module of flow, see `marljax.lob.flows.flow`.
        params: its parameters.
        config: of the book.
        duration: seconds.
        depth: levels kept after each event.
        stress: of the whole session; calm by default.
        product: its name.
        on_block: called with the seconds simulated so far, now and then.

    Raises:
        InputError: an order met more others than `BookConfig.trades`, so that some trades are not known.
    """
    stress = calm() if stress is None else stress
    book_key, key = jax.random.split(key)
    carry = (model.initial_book(book_key, params, config), model.initial_state(params))
    run = jax.jit(partial(_blocks, model=model, config=config, depth=depth))
    parts, now = [], 0.0
    while now < duration:
        key, part_key = jax.random.split(key)
        carry, (rows, gaps) = run(part_key, carry, params, stress)
        rows, gaps = jax.tree.map(np.asarray, (rows, gaps))
        # Blocks are counted from zero, and so keep their microseconds however late the hour.
        starts = now + np.concatenate([[0.0], np.cumsum(gaps[:, -1].astype(np.float64))])
        seconds = (starts[:-1, None] + gaps).reshape(-1)
        now = float(starts[-1])
        parts.append((seconds, jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), rows)))
        if on_block is not None:
            on_block(min(now, duration))
    seconds = np.concatenate([part[0] for part in parts])
    rows = jax.tree.map(lambda *x: np.concatenate(x), *[part[1] for part in parts])
    return _session(seconds, rows, duration, product)


def _blocks(
    key: jax.Array, carry: Any, params: Any, stress: Stress, *, model: ModuleType, config: BookConfig, depth: int
) -> Any:
    def one(book: Any, draw: Any) -> Any:
        draws = jax.tree.map(lambda x: x[None], draw)
        after, report = process(book, draws, config, respond=lambda book, draw: model.message(draw, book))
        made, receipts = jax.tree.map(lambda x: x[0], (report.messages, report.receipts))
        # A cancellation names an order, and its own side and price say nothing.
        cancels, named, trades = made.kind == Kind.CANCEL, order(book, made.id), report.trades
        made = dataclasses.replace(
            made,
            side=jnp.where(cancels, named.side, made.side),
            price=jnp.where(cancels, named.price, made.price),
        )
        return after, (made, receipts, (trades.price, trades.size, trades.count), levels(after, depth))

    def block(carry: Any, key: jax.Array) -> Any:
        book, state = carry
        draws, state = model.prepare(key, state, params, stress, _BLOCK)
        book, rows = lax.scan(one, book, draws)
        return (book, state), (rows, draws.seconds)

    return lax.scan(block, carry, jax.random.split(key, 64))


def _session(seconds: np.ndarray, rows: Any, duration: float, product: str) -> Session:
    made, receipts, (trade_price, trade_size, trade_count), shown = rows
    record = trade_price.shape[1]
    if np.any(trade_count > record):
        raise InputError("a session is made of all trades, and some were not recorded: raise BookConfig.trades")
    cancels = (made.kind == Kind.CANCEL) & (receipts.cancelled > 0)
    rests = (made.kind != Kind.CANCEL) & (receipts.rested > 0)
    # Of one message: its executions in order, then what rests or is cancelled.
    executed_row, executed_at = np.nonzero(np.arange(record) < trade_count[:, None])
    other_row = np.flatnonzero(cancels | rests)
    row = np.concatenate([executed_row, other_row])
    in_time = np.lexsort((np.concatenate([executed_at, np.full(len(other_row), record)]), row))
    row = row[in_time]
    n_executed = len(executed_row)
    kind = np.concatenate(
        [np.full(n_executed, EventKind.EXECUTION), np.where(cancels[other_row], EventKind.CANCEL, EventKind.LIMIT)]
    )
    side = np.concatenate([-made.side[executed_row], made.side[other_row]])
    price = np.concatenate([trade_price[executed_row, executed_at], made.price[other_row]])
    size = np.concatenate(
        [
            trade_size[executed_row, executed_at],
            np.where(cancels[other_row], receipts.cancelled[other_row], receipts.rested[other_row]),
        ]
    )
    keep = seconds[row] <= duration
    return Session(
        seconds=seconds[row][keep],
        kind=kind[in_time][keep],
        side=side[in_time][keep],
        price=price[in_time][keep],
        size=size[in_time][keep],
        bid_price=shown.bid_price[row][keep],
        bid_size=shown.bid_size[row][keep],
        ask_price=shown.ask_price[row][keep],
        ask_size=shown.ask_size[row][keep],
        duration=duration,
        product=product,
    )
