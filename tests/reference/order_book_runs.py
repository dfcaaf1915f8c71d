"""The same messages put to the engine and to the plain book, and what both say of each of them as arrays to compare."""

import functools
from dataclasses import astuple, dataclass, fields

import jax
import numpy as np

from marljax.lob.accounting import settle
from marljax.lob.matching import apply, empty, process, rebased
from marljax.lob.messages import nothing, stack
from marljax.lob.types import BUY, MAX_PRICE, MAX_SIZE, SELL, Book, BookConfig, Kind, Messages, Report, SelfTrade
from tests.reference.order_book import NAMES, Message, OrderBook, Receipt, Trade

MESSAGE = tuple(f.name for f in fields(Message))
RECEIPT = tuple(f.name for f in fields(Receipt))
TRADE = tuple(f.name for f in fields(Trade))
PART = ("id", "price", "size", "owner", "hidden", "ahead")
LARGEST, SMALLEST = 2**31 - 1, -(2**31)
CONFIG = BookConfig(slots=4, owners=4, trades=128, reserves=2)
"""Of the small books that claims are about; one, since each is compiled anew."""
BARE = BookConfig(slots=4, owners=4, trades=2)
"""One without reserves, with room for two trades."""


@dataclass(frozen=True)
class History:
    """What happened to one book, message by message; N messages in blocks."""

    receipts: np.ndarray  # int[N, RECEIPT]
    lines: np.ndarray  # int[N, 2, parts, PART] the bids and the asks after each message, best first, then zeros
    trades: np.ndarray  # int[T, TRADE], `message` counted from the first of all
    lots: np.ndarray  # int[blocks, role, bought or sold, owners]
    value: np.ndarray  # int[blocks, role, bought or sold, owners] lots x ticks
    volumes: np.ndarray  # int[blocks, added or cancelled or displaced, owners]
    count: np.ndarray  # int[blocks] trades, recorded or not


def plain_book(config: BookConfig, lowest: int = 1 - MAX_PRICE, highest: int = MAX_PRICE - 1) -> OrderBook:
    return OrderBook(config.slots, config.owners, config.reserves, lowest, highest)


def random_run(seed: int, book: OrderBook, n: int, block: int) -> tuple[np.ndarray, History]:
    """int32[n, MESSAGE] messages made for the book as they found it, and what they did to it."""
    rows = np.random.default_rng(seed).integers(0, 2**20, (n, 32)).tolist()
    made: list[Message] = []

    def messages():
        for draws in rows:
            made.append(_random_message(draws, book))
            yield made[-1]

    history = plain_history(book, messages(), n, block)
    return np.array([astuple(message) for message in made], np.int32), history


def plain_history(book: OrderBook, messages, n: int, block: int) -> History:
    """What the plain book says of n messages, accounted for in blocks."""
    parts = book.slots + book.reserves
    receipts = np.zeros((n, len(RECEIPT)), int)
    lines = np.zeros((n, 2, parts, len(PART)), int)
    volumes, before, first = [], np.zeros((3, book.owners), int), book.messages
    start = len(book.trades)
    for i, message in enumerate(messages):
        receipts[i] = astuple(book.put(message))
        for s, side in enumerate((BUY, SELL)):
            line = book.line(side)
            if line:
                lines[i, s, : len(line)] = line
        if (i + 1) % block == 0:
            total = np.array([book.added, book.cancelled, book.displaced])
            volumes.append(total - before)
            before = total
    trades = np.array([astuple(trade) for trade in book.trades[start:]], int).reshape(-1, len(TRADE))
    trades[:, 0] -= first
    lots, value = (np.zeros((n // block, 2, 2, book.owners), int) for _ in range(2))
    for message, side, price, size, _, maker_owner, _, _, taker_owner in trades.tolist():
        for role, owner, buys in ((0, maker_owner, side == SELL), (1, taker_owner, side == BUY)):
            lots[message // block, role, 0 if buys else 1, owner] += size
            value[message // block, role, 0 if buys else 1, owner] += size * price
    count = np.bincount(trades[:, 0] // block, minlength=n // block)
    return History(receipts, lines, trades, lots, value, np.array(volumes), count)


def engine_histories(config: BookConfig, book: Book, messages: np.ndarray, block: int) -> list[History]:
    """What the engine says of int32[books, n, MESSAGE], each put to its own copy of `book`."""
    blocks = messages.reshape(len(messages), -1, block, len(MESSAGE))
    books, reports = _played(config, book, Messages(**{f: blocks[..., i] for i, f in enumerate(MESSAGE)}))
    books, reports = jax.tree.map(np.asarray, (books, reports))
    each = [jax.tree.map(lambda x, b=b: x[b], (books, reports)) for b in range(len(messages))]
    return [_history(config, after, report, block) for after, report in each]


def lines(book: Book, parts: int) -> np.ndarray:
    """int[..., 2, parts, PART] what rests in a book of any leading axes, best first, then zeros."""
    key, end, size, id, owner, consumed = (
        np.asarray(x) for x in (book.key, book.end, book.size, book.id, book.owner, book.consumed)
    )
    alive = end > consumed[..., None]
    order = np.argsort(np.where(alive, end, LARGEST), -1, kind="stable")
    assert alive.sum(-1).max() <= parts
    price = (key >> 1) * np.array([[-1], [1]])
    rows = np.stack([id, price, size, owner, key & 1, end - size - consumed[..., None]], -1)
    rows = np.where(alive[..., None], rows, 0)
    return np.take_along_axis(rows, order[..., :parts, None], -2)


def assert_same(expected: History, found: History, messages: np.ndarray) -> None:
    """Raises AssertionError at the first message whose receipt or book differs."""
    differs = (expected.receipts != found.receipts).any(-1) | (expected.lines != found.lines).any((1, 2, 3))
    if differs.any():
        at = int(np.argmax(differs))
        before = expected.lines[at - 1] if at else np.zeros_like(expected.lines[0])
        raise AssertionError(
            f"message {at}: {Message(*messages[at].tolist())}\n"
            f"  book before      {_shown(before)}\n"
            f"  expected receipt {Receipt(*expected.receipts[at].tolist())}\n"
            f"  engine's receipt {Receipt(*found.receipts[at].tolist())}\n"
            f"  expected book    {_shown(expected.lines[at])}\n"
            f"  engine's book    {_shown(found.lines[at])}"
        )
    for name in ("count", "lots", "value", "volumes"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)
    if len(found.trades) == len(expected.trades):
        np.testing.assert_array_equal(found.trades, expected.trades, err_msg=", ".join(TRADE))
    else:
        # A record that was too short holds some of the trades, in their order.
        expected_rows = map(tuple, expected.trades.tolist())
        for row in map(tuple, found.trades.tolist()):
            assert row in expected_rows, f"no such trade, or not in its order: {Trade(*row)}"


def _shown(line: np.ndarray) -> str:
    return " / ".join(str([tuple(part) for part in side.tolist() if part[2]]) for side in line)


@functools.partial(jax.jit, static_argnums=0)
def _played(config: BookConfig, book: Book, blocks: Messages) -> tuple[Book, Report]:
    """The book after every message and the report of every block, of messages [books, blocks, M]."""

    def block(book: Book, messages: Messages) -> tuple[Book, tuple[Book, Report]]:
        def one(book, message):
            book, event = apply(book, message, config)
            return book, (book, event)

        book, (books, events) = jax.lax.scan(one, rebased(book), messages)
        return book, (books, settle(book, messages, events, config))

    return jax.vmap(lambda messages: jax.lax.scan(block, book, messages)[1])(blocks)


def _history(config: BookConfig, books: Book, report: Report, block: int) -> History:
    n_blocks = len(report.trades.count)
    trades = np.stack([getattr(report.trades, name) for name in TRADE], -1).astype(int)
    trades[..., 0] += block * np.arange(n_blocks)[:, None]
    recorded = np.arange(config.trades) < report.trades.count[:, None]
    assert not trades[..., 1:][~recorded].any(), "rows beyond the count are zero"
    np.testing.assert_array_equal(report.trades.overflow, np.maximum(report.trades.count - config.trades, 0))
    shown = lines(books, config.slots + config.reserves)
    value = report.turnover.value
    return History(
        receipts=np.stack([getattr(report.receipts, name) for name in RECEIPT], -1).reshape(-1, len(RECEIPT)),
        lines=shown.reshape(-1, *shown.shape[2:]),
        trades=trades[recorded],
        lots=report.turnover.lots,
        value=value.high.astype(int) * 2**24 + value.low,
        volumes=np.stack([report.volumes.added, report.volumes.cancelled, report.volumes.displaced], 1),
        count=report.trades.count,
    )


_BAD = {
    "kind": (-1, Kind.MODIFY + 1, LARGEST, SMALLEST),
    "side": (0, 2, -2, SMALLEST),
    "price": (MAX_PRICE, -MAX_PRICE, LARGEST, SMALLEST),
    "size": (0, -1, -7, MAX_SIZE + 1, LARGEST, SMALLEST),
    "owner": (-1, 4, LARGEST, SMALLEST),
    "peak": (-1, SMALLEST),
    "self_trade": (-1, SelfTrade.CANCEL_NEWEST + 1, LARGEST),
}
_KINDS = (
    [Kind.LIMIT] * 8
    + [Kind.MARKET, Kind.IMMEDIATE_OR_CANCEL, Kind.FILL_OR_KILL, Kind.POST_ONLY] * 2
    + [Kind.CANCEL] * 4
    + [Kind.MODIFY] * 4
)


def _random_message(draws: list[int], book: OrderBook) -> Message:
    """A message that often crosses, often names an order that rests there, and sometimes is bad."""
    numbers = iter(draws)

    def below(n: int) -> int:
        return next(numbers) % n

    def once_in(n: int) -> bool:
        return below(n) == 0

    kind = Kind.NOTHING if once_in(50) else _KINDS[below(len(_KINDS))]
    side = BUY if once_in(2) else SELL
    resting = book.parts[side]
    away = below(8) - 2
    if len(resting) < book.slots * 3 // 4 and once_in(3):
        kind, away = Kind.LIMIT, abs(away) + 1
    price = 100 - side * away
    size = 1 + below(60 if once_in(8) else 8)
    if once_in(200):
        size = MAX_SIZE
    owner = below(book.owners)
    id = 1 + below(8 * book.slots if once_in(3) else 5000)
    if resting and (kind in NAMES or once_in(20)) and not once_in(8):
        part = resting[below(len(resting))]
        id, owner = part.id, owner if once_in(8) else part.owner
        if kind == Kind.MODIFY:
            price = part.price if once_in(2) else price
            size = size if once_in(3) else 1 + below(part.size + 1)
    if kind == Kind.CANCEL and once_in(3):
        size = MAX_SIZE
    peak = 1 + below(4) if once_in(2 if book.reserves else 40) else 0
    self_trade = SelfTrade.ALLOW if once_in(3) else below(3)
    values = [kind, side, price, size, id, owner, peak, self_trade]
    if once_in(12):
        field = list(_BAD)[below(len(_BAD))]
        bad = _BAD[field] + ((book.lowest - 1, book.highest + 1) if field == "price" else ())
        values[MESSAGE.index(field)] = bad[below(len(bad))]
    return Message(*values)


def put(config: BookConfig, *messages: Messages, book: Book | None = None) -> tuple[Book, Report]:
    """A book, by default an empty one, after up to 16 messages, and their report, with padding behind them."""
    assert len(messages) <= 16
    block = stack([*messages, *[nothing()] * (16 - len(messages))])
    return _processed(empty(config) if book is None else book, block, config)


_processed = jax.jit(process, static_argnums=2)


def empty_book(config: BookConfig, book: OrderBook) -> Book:
    """The engine's, with the tick window of the plain one."""
    return empty(config, book.lowest, book.highest)
