"""From recorded rows to what the live book is to be told: one contiguous array of instructions, made once on the host.

A recorded file shows a window of the book: the best levels. Each row becomes

1. what its message says: a new limit order, less of an order or all of it gone, or, for an execution, an incoming
   order of the opposite side, priced and sized to fill exactly what was filled. Hidden executions, crosses and halts
   ask for nothing, but still take their place in time;
2. the revealed-level rule. Where another level empties, one that was there all along slides into the window; the file
   shows it, so it is fed as an order of unknown id. A level that drops out of the window is taken away, since what
   becomes of it is not on record.

After the instructions of any row the book, left alone, holds exactly the recorded window, whichever row the replay
started from: an instruction never depends on what happened before the window showed it. This is not assumed: the rows
are replayed here on a plain book, and any level that still differs is set right and counted (`repairs`).
"""

import dataclasses

import numpy as np

from marljax.data.readers.lobster_messages import VISIBLE, MessageKind, RecordedMessages
from marljax.lob.types import BUY, MAX_PRICE, MAX_SIZE, SELL


class Action:
    """What an instruction asks of the live book."""

    NOTHING = 0
    ADD = 1
    """A limit order."""
    REDUCE = 2
    """Take `size` from order `id`."""
    DELETE = 3
    """Take all of order `id`; of an unknown one, `size`."""
    EXECUTE = 4
    """An immediate-or-cancel order of `side`, at `price`."""
    LEVEL = 5
    """Bring the background's volume at `price` to `size`: by a new order, or by less of one that rests there."""


FIELDS = ("action", "side", "price", "size", "id", "born", "row", "second", "nanosecond", "status")
"""Columns of an instruction. `born`: the row that submitted the order, -1 where the file does not say or the book, left
alone, holds less of it than is to be taken. `second` and `nanosecond` after midnight; `status` of the market, see
`lobster_messages.Status`."""


SNAPSHOT_ID = -(2**30)
"""Ids from here downward stand for what a snapshot shows at a level; those from -1 downward for revealed levels and the
incoming side of executions. Recorded orders keep theirs, so that ids from 2**30 on are free for agents."""


@dataclasses.dataclass(frozen=True)
class Instructions:
    """All instructions of a file."""

    table: np.ndarray  # int32[instructions, FIELDS]
    first: np.ndarray  # int32[rows + 1] the first instruction of each row, and the number of instructions
    longest_row: int
    """Most instructions of one row."""
    most_orders: int
    """Most orders of the background on one side, replayed from the first row."""
    revealed: int
    """Levels that slid into the window."""
    repairs: int
    """Levels that differed from the record after a message and were set right."""


class _Side:
    """One side of a plain book: queues of [id: size] by price, in order of arrival."""

    def __init__(self, sign: int) -> None:
        self.sign = sign  # 1 for asks, whose best price is the lowest
        self.queues: dict[int, dict[int, int]] = {}

    def volume(self, price: int) -> int:
        return sum(self.queues.get(price, {}).values())

    def add(self, price: int, order: int, size: int) -> None:
        self.queues.setdefault(price, {})[order] = size

    def take(self, price: int, order: int, size: int) -> int:
        """What was there to be taken [lots]."""
        queue = self.queues[price]
        taken = min(size, queue[order])
        queue[order] -= taken
        if not queue[order]:
            del queue[order]
        if not queue:
            del self.queues[price]
        return taken

    def take_any(self, price: int, size: int) -> None:
        """From an order that is large enough, rather of unknown id, rather of a near size: as `CancelPolicy.SIZE`."""
        queue = self.queues.get(price)
        if queue:
            order = min(queue, key=lambda i: (queue[i] < size, i > 0, abs(queue[i] - size)))
            self.take(price, order, size)

    def execute(self, limit: int, size: int) -> None:
        while size and self.queues:
            best = min(self.queues, key=lambda price: price * self.sign)
            if (best - limit) * self.sign > 0:
                break
            size -= self.take(best, next(iter(self.queues[best])), size)


class _Compiler:
    """Instructions so far, and the plain book that has followed them."""

    def __init__(self) -> None:
        self.table: list[tuple[int, ...]] = []
        self.sides = {BUY: _Side(-1), SELL: _Side(1)}
        self.born: dict[int, int] = {}
        self.revealed = self.repairs = 0
        self.stamp: tuple[int, ...] = ()

    def tell(self, action: int, side: int, price: int = 0, size: int = 0, order: int = 0, born: int = -1) -> None:
        self.table.append((action, side, price, size, order, born, *self.stamp))

    def open(self, side: int, window: dict[int, int]) -> None:
        """Start from a snapshot: one order for each level."""
        for level, (price, size) in enumerate(window.items()):
            self.sides[side].add(price, SNAPSHOT_ID - level, size)

    def message(self, row: int, kind: int, side: int, price: int, size: int, order: int) -> None:
        book = self.sides.get(side)
        if book is None or kind in (MessageKind.HIDDEN_EXECUTION, MessageKind.CROSS, MessageKind.HALT):
            self.tell(Action.NOTHING, BUY)
        elif kind == MessageKind.SUBMISSION:
            self.tell(Action.ADD, side, price, size, order, row)
            self.born[order] = row
            book.add(price, order, size)
        elif kind == MessageKind.EXECUTION:
            self.tell(Action.EXECUTE, -side, price, size, self.fresh_id())
            book.execute(price, size)
        else:
            left = book.queues.get(price, {}).get(order, 0)
            whole = kind == MessageKind.DELETION and left == size
            born = self.born.get(order, -1) if left >= size else -1
            self.tell(Action.DELETE if whole else Action.REDUCE, side, price, size, order, born)
            if order in book.queues.get(price, {}):
                book.take(price, order, MAX_SIZE if whole else size)
            else:
                book.take_any(price, size)

    def follow(self, side: int, before: dict[int, int], after: dict[int, int], own: int | None) -> None:
        """Make the side the window `after`. `own`: the price at which the row's own message placed an order."""
        book = self.sides[side]
        for price in [price for price in book.queues if price not in after]:
            while price in book.queues:
                self.set_level(side, price, 0)
        for price, size in after.items():
            if price not in before and price != own:
                self.revealed += 1
                for _ in range(0, size, MAX_SIZE):
                    self.set_level(side, price, size)
            while book.volume(price) != size:
                self.set_level(side, price, size)
                self.repairs += 1

    def set_level(self, side: int, price: int, size: int) -> None:
        order, book = self.fresh_id(), self.sides[side]
        self.tell(Action.LEVEL, side, price, size, order)
        more = size - book.volume(price)
        if more > 0:
            book.add(price, order, min(more, MAX_SIZE))
        elif more < 0:
            book.take_any(price, min(-more, MAX_SIZE))

    def fresh_id(self) -> int:
        return -1 - len(self.table)


def compile_messages(messages: RecordedMessages) -> Instructions:
    """The instructions of a file. Row 0 only says where the book starts, since what was before it is not on record.

    Raises InputError where a price lies beyond +-MAX_PRICE ticks.
    """
    for column, wrong in (
        ("price", np.isin(messages.kind, VISIBLE) & (np.abs(messages.price) >= MAX_PRICE)),
        ("bid_price_1", (np.abs(messages.bid_price) >= MAX_PRICE).any(1)),
        ("ask_price_1", (np.abs(messages.ask_price) >= MAX_PRICE).any(1)),
    ):
        if wrong.any():
            raise messages.error(int(np.argmax(wrong)), column, f"a price is {MAX_PRICE} ticks or more from zero")
    compiler = _Compiler()
    windows = _windows(messages)
    second, nanosecond = np.divmod(messages.time_ns, 10**9)
    columns = (messages.kind, messages.direction, messages.price, messages.size, messages.order_id)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    stamps = zip(range(len(messages)), second.tolist(), nanosecond.tolist(), messages.status.tolist(), strict=True)
    first, most_orders = [], 0
    for row, (stamp, (kind, side, price, size, order)) in enumerate(zip(stamps, rows, strict=True)):
        first.append(len(compiler.table))
        compiler.stamp = stamp
        if row == 0:
            compiler.tell(Action.NOTHING, BUY)
            for name, window in windows.items():
                compiler.open(name, window[0])
            continue
        compiler.message(row, kind, side, price, size, order)
        for name, window in windows.items():
            if name == side or window[row] != window[row - 1]:
                own = price if kind == MessageKind.SUBMISSION and name == side else None
                compiler.follow(name, window[row - 1], window[row], own)
        most_orders = max(most_orders, *(sum(map(len, s.queues.values())) for s in compiler.sides.values()))
    first.append(len(compiler.table))
    starts = np.asarray(first, np.int32)
    return Instructions(
        table=np.asarray(compiler.table, np.int32),
        first=starts,
        longest_row=int(np.diff(starts).max()),
        most_orders=most_orders,
        revealed=compiler.revealed,
        repairs=compiler.repairs,
    )


def _windows(messages: RecordedMessages) -> dict[int, list[dict[int, int]]]:
    """By side and row: sizes by price, best first."""
    ladders = {BUY: (messages.bid_price, messages.bid_size), SELL: (messages.ask_price, messages.ask_size)}
    return {
        side: [
            {price: size for price, size in zip(*row, strict=True) if size > 0}
            for row in zip(prices.tolist(), sizes.tolist(), strict=True)
        ]
        for side, (prices, sizes) in ladders.items()
    }
