"""A session rebuilt from messages and reports has the book that the engine has, after every block and of every kind."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marljax.data.schema import InputError
from marljax.lob import messages as make
from marljax.lob.matching import empty
from marljax.lob.matching import process as process_eagerly
from marljax.lob.session import EventKind
from marljax.lob.simulated_session import from_reports
from marljax.lob.snapshot import levels
from marljax.lob.types import BookConfig, Kind, Messages

process = jax.jit(process_eagerly, static_argnums=2)
BLOCKS, PER_BLOCK, LEVELS = 40, 32, 4


def random_messages(key: jax.Array, shape: tuple[int, int]) -> Messages:
    kinds, sides, prices, sizes, ids = jax.random.split(key, 5)
    n = shape[0] * shape[1]
    weights = jnp.array([0.02, 0.5, 0.1, 0.05, 0.02, 0.08, 0.15, 0.08])
    kind = jax.random.choice(kinds, 8, shape, p=weights).astype(jnp.int32)
    side = jax.random.choice(sides, jnp.array([1, -1]), shape)
    fresh = jnp.arange(n, dtype=jnp.int32).reshape(shape)
    older = jnp.maximum(fresh - jax.random.randint(ids, shape, 1, 40), 0)
    zero = jnp.zeros(shape, jnp.int32)
    return Messages(
        kind=kind,
        side=side,
        price=100 - 3 * side + jax.random.randint(prices, shape, -6, 7),
        size=jax.random.randint(sizes, shape, 1, 30),
        id=jnp.where(kind >= Kind.CANCEL, older, fresh),
        owner=zero,
        peak=zero,
        self_trade=zero,
    )


def run(config: BookConfig, book, blocks: Messages):
    def block(book, messages):
        book, report = process(book, messages, config)
        return book, (report, levels(book, LEVELS))

    return jax.jit(partial(jax.lax.scan, block))(book, blocks)[1]


@pytest.mark.parametrize("slots", [400, 6])
def test_the_rebuilt_levels_are_the_engines(slots):
    config = BookConfig(slots=slots, owners=1)
    book, blocks = empty(config), random_messages(jax.random.key(slots), (BLOCKS, PER_BLOCK))
    report, engine = run(config, book, blocks)
    seconds = np.arange(BLOCKS * PER_BLOCK, dtype=np.float64).reshape(BLOCKS, PER_BLOCK)
    session = from_reports(book, seconds, report, duration=float(seconds.size), levels=LEVELS)
    assert (np.asarray(report.receipts.displaced).sum() > 0) == (slots == 6)
    last = np.searchsorted(session.seconds, seconds[:, -1], side="right") - 1
    for side in ("bid", "ask"):
        for what in ("price", "size"):
            ours, theirs = getattr(session, f"{side}_{what}")[last], np.asarray(getattr(engine, f"{side}_{what}"))
            there = np.asarray(getattr(engine, f"{side}_size")) > 0
            np.testing.assert_array_equal(np.where(there, ours, 0), np.where(there, theirs, 0))
    lots = {kind: session.size[session.kind == kind].sum() for kind in (1, 2, 3)}
    assert lots[EventKind.EXECUTION] == np.asarray(report.receipts.traded).sum()
    resting = int(np.sum(engine.bid_size[-1]) + np.sum(engine.ask_size[-1]))
    assert lots[EventKind.LIMIT] - lots[EventKind.CANCEL] - lots[EventKind.EXECUTION] >= resting


def test_a_session_starts_from_the_orders_that_rest():
    config = BookConfig(slots=8, owners=2, trades=2, reserves=1)
    orders = [make.limit(1, 99, 5, 1, 0), make.limit(1, 99, 7, 2, 0), make.limit(-1, 101, 4, 3, 0), make.nothing()]
    resting = make.stack(orders)
    book, _ = process(empty(config), resting, config)
    flow = make.stack([make.market(-1, 9, 10, 0), make.cancel(2, 0, 1), make.nothing(), make.cancel(9, 0)])
    _, report = process(book, flow, config)
    session = from_reports(book, np.array([1.0, 2.0, 3.0, 4.0]), report, duration=5.0)
    assert session.seconds.tolist() == [1.0, 1.0, 2.0]
    assert session.kind.tolist() == [EventKind.EXECUTION, EventKind.EXECUTION, EventKind.CANCEL]
    assert (session.side.tolist(), session.price.tolist()) == ([1] * 3, [99] * 3)
    assert session.size.tolist() == [5, 4, 1]
    assert session.bid_size[:, 0].tolist() == [7, 3, 2]
    assert session.ask_price[:, 0].tolist() == [101] * 3


def test_what_reports_do_not_tell_is_refused():
    config = BookConfig(slots=8, owners=2, trades=2, reserves=1)
    times = np.array([1.0, 2.0, 3.0, 4.0])
    three = [make.limit(1, 100 - i, 5, i, 0) for i in (1, 2, 3)]
    unrecorded = make.stack([*three, make.market(-1, 15, 9, 0)])
    iceberg = make.stack([*three, make.limit(1, 90, 5, 4, 0, peak=2)])
    own = make.stack([*three, make.limit(-1, 99, 5, 4, 0, self_trade=1)])
    for flow, message in ((unrecorded, "raise BookConfig.trades"), (iceberg, "icebergs"), (own, "self-trade rule")):
        _, report = process(empty(config), flow, config)
        with pytest.raises(InputError, match=message):
            from_reports(empty(config), times, report, duration=5.0)
