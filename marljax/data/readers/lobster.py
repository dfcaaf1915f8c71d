"""LOBSTER: pairs of message and order book files of one stock and day, sampled onto a time grid.

Row k of the order book is the state after message k. The book at a grid time is the last state at or before it, so
nothing from after a grid time is in its row. Every single message is `lobster_messages`. Format: lobsterdata.com,
"Output" (Huang and Polak, 2011).
"""

import dataclasses
import re
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from marljax.data.readers import cells
from marljax.data.readers.cells import Cells
from marljax.data.readers.files import Member, members
from marljax.data.readers.products import Metadata, raw_books, take_metadata
from marljax.data.schema import InputError, Product, RawBooks

MESSAGE = ("time", "type", "order_id", "size", "price", "direction")
VISIBLE_EXECUTION, HIDDEN_EXECUTION = 4, 5
PRICE_UNITS_PER_DOLLAR = 10_000
EMPTY_LEVEL = 9_999_999_999
"""Stands for the price of an empty ask level; negated, of an empty bid level."""

_NAME = re.compile(
    r"(?P<stock>[^_/]+)_(?P<day>\d{4}-\d\d-\d\d)_(?P<start>\d+)_(?P<end>\d+)_(?P<kind>message|orderbook)_(?P<levels>\d+)\.csv",
    re.IGNORECASE,
)
_WHAT = "pair of SYMBOL_YYYY-MM-DD_START_END_message_LEVELS.csv and ..._orderbook_LEVELS.csv"
_MILLISECOND = 1_000_000


class Window(NamedTuple):
    """What both file names of a pair say; times in ns after midnight."""

    stock: str
    day: date
    start: int
    end: int
    levels: int


@dataclasses.dataclass(frozen=True)
class Pair:
    """The rows of a message file and of the order book file beside it, of equal length."""

    window: Window
    messages: Cells
    orders: Cells
    time_ns: np.ndarray
    """int64[rows] ns after midnight, never decreasing and within the window."""


def read(paths: Sequence[str | Path], *, grid_seconds: float = 1.0) -> RawBooks:
    """RawBooks of LOBSTER pairs: one book row per stock and grid time, every execution as a trade.

    A session is a day; its grid runs from the earliest start to the latest end in the file names of that day in steps
    of `grid_seconds`. A row's line is that of the sampled row in the order book file. Raises InputError with file, line
    and column.
    """
    step = round(grid_seconds * 1e9) if np.isfinite(grid_seconds) else 0
    if step <= 0:
        raise InputError(f"grid_seconds must be a positive number of seconds, got {grid_seconds!r}")
    metadata, paths = take_metadata(paths)
    pairs = _pairs(paths)
    days = sorted({window.day for window in pairs})
    opening = {day: min(w.start for w in pairs if w.day == day) for day in days}
    books, trades, files, products = [], [], [], {}
    for window, (messages, orders) in sorted(pairs.items()):
        products[window.stock] = stock_product(window.stock, metadata)
        pair = _open(window, messages, orders)
        files += [messages.source_file(len(pair.messages)), orders.source_file(len(pair.orders))]
        time_ns = pair.time_ns - opening[window.day]
        keys: dict[str, int | str] = {"session": days.index(window.day), "product": window.stock}
        grid = np.arange(0, window.end - opening[window.day] + 1, step, dtype=np.int64)
        sampled = _sample(time_ns, grid[grid >= window.start - opening[window.day]])
        books.append(_books(pair.orders, sampled, products[window.stock], window, {"file": len(files) - 1, **keys}))
        trades.append(_trades(pair.messages, time_ns, products[window.stock], {"file": len(files) - 2, **keys}))
    files += list(metadata.files)
    return raw_books(books, trades, list(products.values()), files, metadata.origin or "recorded")


def each_pair(paths: Sequence[str | Path]) -> Iterator[Pair]:
    """Every LOBSTER pair under `paths` (files, folders, archives), opened one at a time, by stock and day.

    Raises InputError with file, line and column.
    """
    for window, (messages, orders) in sorted(_pairs(paths).items()):
        yield _open(window, messages, orders)


def stock_product(stock: str, metadata: Metadata) -> Product:
    """The product of this stock: from products.json, or shares of one dollar's hundredths where there is none."""
    return metadata.product(stock, Product(stock, tick_size=0.01, asset_class="equity"))


def _window(member: Member) -> tuple[Window, str]:
    match = _NAME.fullmatch(member.stem_name)
    if match is None:
        raise InputError(f"a LOBSTER file is one of a {_WHAT}", file=member.label)
    try:
        day = date.fromisoformat(match["day"])
    except ValueError as error:
        raise InputError(f"the file name holds no date: {error}", file=member.label) from error
    start, end = int(match["start"]) * _MILLISECOND, int(match["end"]) * _MILLISECOND
    if not (start < end <= 24 * 3600 * 10**9 and 1 <= int(match["levels"]) <= 1000):
        raise InputError("the file name holds no time window within a day, or no level", file=member.label)
    return Window(match["stock"], day, start, end, int(match["levels"])), match["kind"].lower()


def _pairs(paths: Sequence[str | Path]) -> dict[Window, tuple[Member, Member]]:
    found = members(paths, lambda name: _NAME.fullmatch(name) is not None, _WHAT)
    sides: dict[Window, dict[str, Member]] = {}
    for member in found:
        window, kind = _window(member)
        side = sides.setdefault(window, {})
        if kind in side:
            raise InputError(f"the same {kind} file is also {side[kind].label}", file=member.label)
        side[kind] = member
    taken: dict[tuple[str, date], Member] = {}
    for window, side in sides.items():
        member = next(iter(side.values()))
        missing = {"message", "orderbook"} - side.keys()
        if missing:
            raise InputError(f"its {missing.pop()} file is not beside it", file=member.label)
        if (window.stock, window.day) in taken:
            other = taken[window.stock, window.day].label
            raise InputError(f"the stock and day of {other}: give one file of them", file=member.label)
        taken[window.stock, window.day] = member
    return {window: (side["message"], side["orderbook"]) for window, side in sides.items()}


def _open(window: Window, messages: Member, orders: Member) -> Pair:
    message_rows, order_rows = _read_messages(messages), _read_orders(orders, window)
    if len(message_rows) != len(order_rows):
        short = min((message_rows, order_rows), key=len)
        short.fail(
            len(short),
            short.table.column_names[0],
            f"the pair is of unequal length: {len(message_rows)} messages, {len(order_rows)} book rows",
        )
    return Pair(window, message_rows, order_rows, _times(message_rows, window))


def _read_messages(member: Member) -> Cells:
    types = dict.fromkeys(MESSAGE, cells.FLOAT) | {"type": cells.WHOLE, "direction": cells.WHOLE}
    content = member.read()
    first = content.lstrip().splitlines()[0] if content.strip() else b""
    names = [*MESSAGE, "note"] if first.count(b",") == len(MESSAGE) else list(MESSAGE)
    return cells.parse(content, member.label, names=names, types=types, delimiter=",", header=False)


def _read_orders(member: Member, window: Window) -> Cells:
    names = [
        f"{side}_{what}_{k}"
        for k in range(1, window.levels + 1)
        for side in ("ask", "bid")
        for what in ("price", "size")
    ]
    types = dict.fromkeys(names, cells.FLOAT)
    return cells.parse(member.read(), member.label, names=names, types=types, delimiter=",", header=False)


def _times(rows: Cells, window: Window) -> np.ndarray:
    """int64[rows] ns after midnight, never decreasing and within the window."""
    seconds = rows.floats("time")
    rows.refuse(~((seconds >= 0) & (seconds <= 24 * 3600)), "time", "is no time of day in seconds")
    time_ns = np.round(seconds * 1e9).astype(np.int64)
    rows.refuse(np.diff(time_ns, prepend=time_ns[0]) < 0, "time", "goes backward")
    rows.refuse((time_ns < window.start) | (time_ns > window.end), "time", "is outside the window of the file name")
    return time_ns


def _sample(time_ns: np.ndarray, grid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Grid times which have a state at or before them, and the row of the last such state (int64 each)."""
    row = np.searchsorted(time_ns, grid, side="right") - 1
    return grid[row >= 0], row[row >= 0]


def _books(
    rows: Cells, sampled: tuple[np.ndarray, np.ndarray], product: Product, window: Window, keys: dict[str, int | str]
) -> pd.DataFrame:
    grid, row = sampled
    columns: dict[str, np.ndarray] = {"time_ns": grid, "line": rows.lines[row]}
    for k in range(1, window.levels + 1):
        for side, empty in (("bid", -EMPTY_LEVEL), ("ask", EMPTY_LEVEL)):
            price = rows.ticks(f"{side}_price_{k}", product.tick_size * PRICE_UNITS_PER_DOLLAR, absent=empty)
            size = rows.lots(f"{side}_size_{k}", product.lot_size)
            columns[f"{side}_price_{k}"] = price[row]
            columns[f"{side}_size_{k}"] = np.where(np.isnan(price), np.nan, size)[row]
    return pd.DataFrame(columns).assign(**keys)


def _trades(rows: Cells, time_ns: np.ndarray, product: Product, keys: dict[str, int | str]) -> pd.DataFrame:
    """Executions. `direction` is the side of the resting order; hidden ones may be off the tick grid."""
    kind, direction = rows.keys("type"), rows.keys("direction")
    executed = (kind == VISIBLE_EXECUTION) | (kind == HIDDEN_EXECUTION)
    rows.refuse(~np.isin(direction, (-1, 1)) & executed, "direction", "is neither 1 nor -1")
    price, size = rows.floats("price"), rows.lots("size", product.lot_size)
    for column, values in (("price", price), ("size", size)):
        blank = np.isnan(values) & executed
        if blank.any():
            rows.fail(int(np.argmax(blank)), column, "is blank, and an execution needs it")
    return pd.DataFrame(
        {
            "line": rows.lines[executed],
            "time_ns": time_ns[executed],
            "price": price[executed] / (product.tick_size * PRICE_UNITS_PER_DOLLAR),
            "size": size[executed],
            "side": -direction[executed],
        }
    ).assign(**keys)
