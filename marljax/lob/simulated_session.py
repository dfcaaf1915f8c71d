"""The session that a simulated book went through, rebuilt on the host from what went into the book and what came out.

The reports of `matching.process` say what became of every message, so nothing is snapshot on the device: each order is
followed by its id, and the levels after each event are added up from the orders that rest.
"""

import dataclasses
import heapq
from collections.abc import Iterator

import jax
import numpy as np

from marljax.data.schema import InputError
from marljax.lob.session import EventKind, Session
from marljax.lob.snapshot import remaining
from marljax.lob.types import Book, Code, Kind, Report


@dataclasses.dataclass
class _Order:
    side: int
    price: int
    left: int


class _Record:
    """Resting orders by id in order of arrival, lots by price, and the events so far with the levels after each."""

    def __init__(self, levels: int) -> None:
        self.orders: dict[int, _Order] = {}
        self.lots: dict[int, dict[int, int]] = {1: {}, -1: {}}
        self.events: list[tuple[float, int, int, int, int]] = []
        self.books: list[tuple[list[tuple[int, int]], list[tuple[int, int]]]] = []
        self._levels = levels

    def add(self, id: int, side: int, price: int, size: int) -> None:
        self.orders[id] = _Order(side, price, size)
        self.lots[side][price] = self.lots[side].get(price, 0) + size

    def limit(self, time: float, id: int, side: int, price: int, size: int) -> None:
        self.add(id, side, price, size)
        self._log(time, EventKind.LIMIT, side, price, size)

    def take(self, time: float, kind: int, id: int, size: int) -> None:
        order = self.orders[id]
        ladder = self.lots[order.side]
        order.left -= size
        ladder[order.price] -= size
        if not ladder[order.price]:
            del ladder[order.price]
        if not order.left:
            del self.orders[id]
        self._log(time, kind, order.side, order.price, size)

    def last_in_line(self, side: int) -> int:
        """The order of worst price, of those the one that came last."""
        worst = min if side > 0 else max
        price = worst(self.lots[side])
        return next(id for id, o in reversed(self.orders.items()) if o.side == side and o.price == price)

    def _log(self, time: float, kind: int, side: int, price: int, size: int) -> None:
        self.events.append((time, kind, side, price, size))
        self.books.append((self._best(1), self._best(-1)))

    def _best(self, side: int) -> list[tuple[int, int]]:
        best_first = heapq.nsmallest(self._levels, self.lots[side].items(), key=lambda level: -side * level[0])
        return best_first + [(0, 0)] * (self._levels - len(best_first))


def from_reports(
    book: Book,
    seconds: np.ndarray,
    report: Report,
    *,
    duration: float,
    levels: int = 1,
    product: str = "simulated",
) -> Session:
    """What happened in one book, as the session that `stylized_facts.judge` and `calibrate` read.

    Args:
        book: before the first message.
        seconds: float[M] of each message since the session's start, or [B, M] for B blocks in order.
        report: of `process` for these messages, or for each block with a leading axis B.
        duration: of the session [s].
        levels: best levels of each side to be kept.
        product: its name.

    Raises:
        InputError: the reports do not tell all: trades that were not recorded, icebergs, or resting orders that a
            self-trade rule cancelled.
    """
    record = _Record(levels)
    left, key, end, id = (np.asarray(x) for x in (remaining(book), book.key, book.end, book.id))
    for row, slot in sorted(np.argwhere(left), key=lambda at: end[tuple(at)]):
        side = 1 - 2 * int(row)
        record.add(int(id[row, slot]), side, -side * (int(key[row, slot]) >> 1), int(left[row, slot]))
    for time, message, receipt, trades in _rows(np.asarray(seconds, np.float64), report):
        _replay(record, time, message, receipt, trades)
    if len(record.events) < 2:
        raise InputError(f"a session needs two events at least, and these messages made {len(record.events)}")
    columns = [np.array(column) for column in zip(*record.events, strict=True)]
    ladder = np.array(record.books)
    return Session(
        **dict(zip(("seconds", "kind", "side", "price", "size"), columns, strict=True)),
        bid_price=ladder[:, 0, :, 0],
        bid_size=ladder[:, 0, :, 1],
        ask_price=ladder[:, 1, :, 0],
        ask_size=ladder[:, 1, :, 1],
        duration=duration,
        product=product,
    )


def _replay(record: _Record, time: float, message: dict, receipt: dict, trades: list[tuple[int, int]]) -> None:
    if receipt["code"] != Code.ACCEPTED or message["kind"] == Kind.NOTHING:
        return
    id, side, price = message["id"], message["side"], message["price"]
    if message["kind"] == Kind.CANCEL:
        record.take(time, EventKind.CANCEL, id, receipt["cancelled"])
        return
    if message["kind"] == Kind.MODIFY:
        order = record.orders[id]
        side, shrinks = order.side, price == order.price and message["size"] <= order.left
        removed = order.left - (message["size"] if shrinks else 0)
        if removed:
            record.take(time, EventKind.CANCEL, id, removed)
        if shrinks:
            return
    for maker, size in trades:
        record.take(time, EventKind.EXECUTION, maker, size)
    if receipt["rested"]:
        if receipt["displaced"]:
            record.take(time, EventKind.CANCEL, record.last_in_line(side), receipt["displaced"])
        record.limit(time, id, side, price, receipt["rested"])


def _rows(seconds: np.ndarray, report: Report) -> Iterator[tuple[float, dict, dict, list[tuple[int, int]]]]:
    """Each message with its time, its receipt and its trades (maker's id, lots), as plain numbers."""
    if np.any(np.asarray(report.trades.overflow)):
        raise InputError("a session is rebuilt from all trades, and some were not recorded: raise BookConfig.trades")
    messages = report.messages
    if np.any((np.asarray(messages.peak) > 0) & (np.asarray(messages.peak) < np.asarray(messages.size))):
        raise InputError("a session is rebuilt from what is shown, and there are icebergs among the messages")
    if np.any(np.asarray(report.receipts.prevented)):
        raise InputError("a self-trade rule cancelled resting orders, and the reports do not say which")
    flat = {
        name: np.asarray(getattr(messages, name)).ravel().tolist() for name in ("kind", "side", "price", "size", "id")
    }
    receipts = {
        name: np.asarray(getattr(report.receipts, name)).ravel().tolist()
        for name in ("code", "rested", "cancelled", "displaced")
    }
    trades = jax.tree.map(lambda x: np.atleast_2d(np.asarray(x)), dataclasses.asdict(report.trades))
    per_block = seconds.shape[-1]
    by_message: dict[int, list[tuple[int, int]]] = {}
    for block, count in enumerate(trades["count"].ravel()):
        for k in range(count):
            row = block * per_block + int(trades["message"][block, k])
            by_message.setdefault(row, []).append((int(trades["maker"][block, k]), int(trades["size"][block, k])))
    for row, time in enumerate(seconds.ravel().tolist()):
        yield (
            time,
            {name: column[row] for name, column in flat.items()},
            {name: column[row] for name, column in receipts.items()},
            by_message.get(row, []),
        )
