"""A session of a flow has the events and the books of the plain book that is told the same messages."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marljax.data.schema import InputError
from marljax.lob import messages as make
from marljax.lob.sessions.session import EventKind, Session
from marljax.lob.sessions.simulated import simulate
from marljax.lob.types import BUY, SELL, BookConfig, Kind, Messages
from tests.reference.order_book import Message, OrderBook
from tests.reference.scripted_flow import ASK, BID, LOTS, Script, ScriptedFlow

CONFIG, BLOCKS, PER_BLOCK, DEPTH = BookConfig(slots=200, owners=1), 5, 100, 4
"""A script has so many blocks of so many messages, which are simulated at a time."""
HALF = 0.005
"""Half the time between two messages [s]."""


def script(*messages: Messages) -> Script:
    """These and then nothing."""
    rows = list(messages) + [make.nothing()] * (BLOCKS * PER_BLOCK - len(messages))
    return Script(jax.tree.map(lambda x: x.reshape(BLOCKS, PER_BLOCK), make.stack(rows)))


def random_script(seed: int) -> Script:
    """All kinds that a flow sends, about the touch; a cancellation names one of the latest orders, there or not."""
    rng, n = np.random.default_rng(seed), BLOCKS * PER_BLOCK
    kind = rng.choice(7, n, p=[0.05, 0.5, 0.1, 0.05, 0.02, 0.08, 0.2])
    side, id = rng.choice([BUY, SELL], n), np.arange(n)
    messages = Messages(
        kind=kind,
        side=side,
        price=(BID + ASK) // 2 - 3 * side + rng.integers(-6, 7, n),
        size=rng.integers(1, 30, n),
        id=np.where(kind == Kind.CANCEL, np.maximum(id - rng.integers(1, 40, n), 0), id),
        owner=np.zeros(n),
        peak=np.zeros(n),
        self_trade=np.zeros(n),
    )
    return Script(jax.tree.map(lambda x: jnp.asarray(x, jnp.int32).reshape(BLOCKS, PER_BLOCK), messages))


def simulated(of: Script, duration: float = BLOCKS, config: BookConfig = CONFIG) -> Session:
    return simulate(jax.random.key(0), ScriptedFlow(), of, config, duration, depth=DEPTH)


def expected(of: Script) -> tuple[list[tuple[int, ...]], list[list[list[tuple[int, int]]]]]:
    """By the plain book: (number of the message, kind, side, price, size) of each event, and the levels after it."""
    book = OrderBook(CONFIG.slots, CONFIG.owners)
    for id, (side, price) in enumerate(((BUY, BID), (SELL, ASK)), start=1):
        book.put(Message(Kind.LIMIT, side, price, LOTS, -id))
    events, ladders = [], []
    columns = [np.asarray(getattr(of.messages, f.name)).ravel().tolist() for f in dataclasses.fields(Message)]
    for number, message in enumerate(Message(*row) for row in zip(*columns, strict=True)):
        named, parts = book.find(message.id)
        price, traded = parts[0].price if parts else 0, len(book.trades)
        receipt = book.put(message)
        happened = [(EventKind.EXECUTION, -t.side, t.price, t.size) for t in book.trades[traded:]]
        if message.kind == Kind.CANCEL and receipt.cancelled:
            happened.append((EventKind.CANCEL, named, price, receipt.cancelled))
        elif message.kind != Kind.CANCEL and receipt.rested:
            happened.append((EventKind.LIMIT, message.side, message.price, receipt.rested))
        events += [(number, *what) for what in happened]
        ladders += [[ladder(book, BUY), ladder(book, SELL)]] * len(happened)
    return events, ladders


def ladder(book: OrderBook, side: int) -> list[tuple[int, int]]:
    """(price, lots) of the best levels, then zeros."""
    lots: dict[int, int] = {}
    for part in book.parts[side]:
        lots[part.price] = lots.get(part.price, 0) + part.size
    return (list(lots.items()) + [(0, 0)] * DEPTH)[:DEPTH]


def test_every_event_and_the_book_after_it_are_those_of_the_plain_book():
    of = random_script(1)
    events, ladders = expected(of)
    session = simulated(of)
    columns = (np.round(session.seconds * PER_BLOCK) - 1, session.kind, session.side, session.price, session.size)
    np.testing.assert_array_equal(np.stack(columns, axis=1), events)
    counts = np.bincount(session.kind, minlength=4)
    assert (counts[[EventKind.LIMIT, EventKind.CANCEL, EventKind.EXECUTION]] > 40).all()
    found = [[session.bid_price, session.bid_size], [session.ask_price, session.ask_size]]
    np.testing.assert_array_equal(np.moveaxis(np.array(found), (0, 1), (1, 3)), ladders)


def test_a_session_ends_with_its_duration():
    of = random_script(1)
    whole, part = simulated(of), simulated(of, duration=2.0 + HALF)
    kept = whole.seconds <= 2.0 + HALF
    assert 100 < kept.sum() < len(whole) - 100
    np.testing.assert_array_equal(part.seconds, whole.seconds[kept])
    assert part.duration == 2.0 + HALF


def test_a_session_starts_from_the_orders_that_rest():
    session = simulated(script(make.market(SELL, LOTS - 1, 1, 0), make.cancel(-1, 0), make.cancel(-1, 0)))
    assert session.kind.tolist() == [EventKind.EXECUTION, EventKind.CANCEL]
    assert (session.side.tolist(), session.price.tolist()) == ([BUY] * 2, [BID] * 2)
    assert session.size.tolist() == [LOTS - 1, 1]
    assert session.bid_size[:, 0].tolist() == [1, 0]
    assert session.ask_price[:, 0].tolist() == [ASK] * 2


def test_trades_that_were_not_recorded_are_refused():
    of = script(make.limit(BUY, BID, 1, 1, 0), make.market(SELL, LOTS + 1, 2, 0))
    with pytest.raises(InputError, match=r"raise BookConfig\.trades"):
        simulated(of, config=BookConfig(slots=200, owners=1, trades=1))
