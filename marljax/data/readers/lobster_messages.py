"""LOBSTER message by message: every row of a message file beside the order book after it, as typed arrays.

Row k of the book is the state after message k, so the state before it is row k - 1. What a row may do to the visible
book is decided by its kind, and checked where the book is on record (lobsterdata.com, "Output"):

- submissions, cancellations, deletions and executions of visible orders change one order of the visible book;
- an execution of a hidden order trades without touching it, and may be priced between two ticks;
- a cross (auction) trades outside it: the rows before and after tell what it left, and it clears nothing;
- a halt sets the market's status, and everything after it is under this status until the next halt message.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from marljax.data.readers.cells import Cells
from marljax.data.readers.lobster import EMPTY_LEVEL, PRICE_UNITS_PER_DOLLAR, Pair, each_pair, stock_product
from marljax.data.readers.products import take_metadata
from marljax.data.schema import InputError, Product

LARGEST_ID = 2**30
"""Order ids lie strictly between 0 and this, so that ids from here on are free for whoever joins the recorded book."""

LARGEST_SIZE = 2**16 - 1
"""Largest size of a message [lots]: what one order of the limit order book may hold."""


class MessageKind:
    """LOBSTER's event types."""

    SUBMISSION = 1
    CANCELLATION = 2
    """Part of an order."""
    DELETION = 3
    EXECUTION = 4
    """Of a visible order."""
    HIDDEN_EXECUTION = 5
    CROSS = 6
    HALT = 7


class Status:
    """What the market allows. A halt message's price says it: -1 halts, 0 resumes quoting, 1 resumes trading."""

    TRADING = 0
    HALTED = 1
    QUOTING = 2
    """Orders may be placed and cancelled, nothing trades."""


VISIBLE = (MessageKind.SUBMISSION, MessageKind.CANCELLATION, MessageKind.DELETION, MessageKind.EXECUTION)
"""Kinds that change an order of the visible book."""

_STATUS_OF_PRICE = {-1: Status.HALTED, 0: Status.QUOTING, 1: Status.TRADING}


@dataclasses.dataclass(frozen=True)
class RecordedMessages:
    """The messages of one stock and day and the book after each, contiguous NumPy arrays on the host.

    Prices are in ticks and sizes in lots. Levels are best first; an absent one has price 0 and size 0.
    """

    file: str
    """The message file, for errors; row k is its line k + `first_line`."""
    first_line: int
    day: str
    """ISO date."""
    product: Product
    time_ns: np.ndarray  # int64[rows] ns after midnight, never decreasing
    kind: np.ndarray  # int8[rows] see MessageKind
    order_id: np.ndarray  # int32[rows] 0 where the kind names no visible order
    size: np.ndarray  # int32[rows] lots, 0 for a halt
    price: np.ndarray  # int32[rows] ticks, rounded down; 0 for a halt
    price_offset: np.ndarray  # float32[rows] ticks above `price`, within [0, 1); only hidden executions and crosses
    direction: np.ndarray  # int8[rows] side of the resting order, 1 buy or -1 sell; of a halt 0
    status: np.ndarray  # int8[rows] from this row on, see Status
    bid_price: np.ndarray  # int32[rows, levels]
    bid_size: np.ndarray  # int32[rows, levels]
    ask_price: np.ndarray  # int32[rows, levels]
    ask_size: np.ndarray  # int32[rows, levels]

    def __len__(self) -> int:
        return len(self.time_ns)

    @property
    def levels(self) -> int:
        """Levels of a side on record."""
        return self.bid_price.shape[1]

    def error(self, row: int, column: str, message: str) -> InputError:
        """What to raise about this row and column."""
        return InputError(message, file=self.file, line=self.first_line + row, column=column)


def read_messages(paths: Sequence[str | Path]) -> list[RecordedMessages]:
    """Every message of the LOBSTER pairs under `paths` (files, folders or archives), by stock and day.

    The tick and lot size come from products.json, else they are a cent and a share. Raises InputError with file, line
    and column: an unknown kind, a visible order without id, size or side or off the tick grid, sizes above
    `LARGEST_SIZE`, a halt of unknown meaning, and a book that is crossed, locked or out of order.
    """
    metadata, rest = take_metadata(paths)
    return [_messages(pair, stock_product(pair.window.stock, metadata)) for pair in each_pair(rest)]


def _messages(pair: Pair, product: Product) -> RecordedMessages:
    rows = pair.messages
    kind, direction, order_id = rows.keys("type"), rows.keys("direction"), rows.floats("order_id")
    rows.refuse(~np.isin(kind, range(1, 8)), "type", "is no type of message (1 to 7)")
    halt, visible = kind == MessageKind.HALT, np.isin(kind, VISIBLE)
    _needed(rows, "order_id", order_id, visible)
    wrong = visible & ~((order_id > 0) & (order_id < LARGEST_ID) & (order_id == np.floor(order_id)))
    rows.refuse(wrong, "order_id", f"is no whole number between 0 and {LARGEST_ID}")
    rows.refuse(~halt & ~np.isin(direction, (-1, 1)), "direction", "is neither 1 nor -1")
    size = rows.lots("size", product.lot_size)
    _needed(rows, "size", size, ~halt)
    rows.refuse(visible & (size == 0), "size", "is zero, and an order needs a size")
    # A cross may trade more than any single order could hold, and goes into no book.
    rows.refuse(visible & (size > LARGEST_SIZE), "size", f"is above {LARGEST_SIZE} lots")
    price, offset = _prices(rows, product, halt, visible)
    ladders = {f"{side}_{what}": array for side in ("bid", "ask") for what, array in _ladder(pair, product, side)}
    _refuse_crossed(pair.orders, ladders)
    return RecordedMessages(
        file=rows.label,
        first_line=rows.first_line,
        day=pair.window.day.isoformat(),
        product=product,
        time_ns=np.ascontiguousarray(pair.time_ns),
        kind=kind.astype(np.int8),
        order_id=np.where(visible, order_id, 0).astype(np.int32),
        size=np.where(halt, 0, size).astype(np.int32),
        price=price,
        price_offset=offset,
        direction=np.where(halt, 0, direction).astype(np.int8),
        status=_status(rows, halt),
        **ladders,
    )


def _needed(rows: Cells, column: str, values: np.ndarray, where: np.ndarray) -> None:
    blank = np.isnan(values) & where
    if blank.any():
        rows.fail(int(np.argmax(blank)), column, "is blank, and this type of message needs it")


def _prices(rows: Cells, product: Product, halt: np.ndarray, visible: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ticks rounded down (int32[rows]) and what is above them (float32[rows])."""
    units = rows.floats("price")
    _needed(rows, "price", units, np.ones(len(rows), bool))
    exact = np.where(halt, 0.0, units) / (product.tick_size * PRICE_UNITS_PER_DOLLAR)
    nearest = np.round(exact)
    off_grid = np.abs(exact - nearest) > 1e-6
    rows.refuse(visible & off_grid, "price", f"is no whole number of ticks of {product.tick_size:.12g}")
    rows.refuse(np.abs(exact) >= 2**28, "price", "is 2**28 ticks or more")
    ticks = np.where(off_grid, np.floor(exact), nearest)
    return ticks.astype(np.int32), np.where(off_grid, exact - ticks, 0).astype(np.float32)


def _status(rows: Cells, halt: np.ndarray) -> np.ndarray:
    """int8[rows] the market's status from each row on; trading before the first halt message."""
    price = rows.floats("price")
    rows.refuse(halt & ~np.isin(price, list(_STATUS_OF_PRICE)), "price", "says nothing about a halt (-1, 0 or 1)")
    said = np.select([price == code for code in _STATUS_OF_PRICE], list(_STATUS_OF_PRICE.values()))
    last = np.maximum.accumulate(np.where(halt, np.arange(len(rows)), -1))
    return np.where(last >= 0, said[last], Status.TRADING).astype(np.int8)


def _ladder(pair: Pair, product: Product, side: str) -> list[tuple[str, np.ndarray]]:
    rows, levels = pair.orders, pair.window.levels
    prices, sizes = np.zeros((2, len(rows), levels), np.int32)
    before = np.full(len(rows), -np.inf)
    gone = np.zeros(len(rows), bool)
    empty, sign = (-EMPTY_LEVEL, -1) if side == "bid" else (EMPTY_LEVEL, 1)
    for k in range(levels):
        column = f"{side}_price_{k + 1}"
        price = rows.ticks(column, product.tick_size * PRICE_UNITS_PER_DOLLAR, absent=empty)
        size = rows.lots(f"{side}_size_{k + 1}", product.lot_size)
        there = ~np.isnan(price)
        rows.refuse(there & ~(size > 0), f"{side}_size_{k + 1}", "is no size of a level that has a price")
        rows.refuse(there & gone, column, "is a level behind an empty one")
        rows.refuse(there & (sign * price <= before), column, "is not behind the level before it")
        before, gone = np.where(there, sign * price, before), gone | ~there
        prices[:, k], sizes[:, k] = np.where(there, price, 0), np.where(there, size, 0)
    return [("price", prices), ("size", sizes)]


def _refuse_crossed(rows: Cells, ladders: dict[str, np.ndarray]) -> None:
    both = (ladders["bid_size"][:, 0] > 0) & (ladders["ask_size"][:, 0] > 0)
    crossed = both & (ladders["bid_price"][:, 0] >= ladders["ask_price"][:, 0])
    rows.refuse(crossed, "bid_price_1", "is not below the best ask")
