"""IMC Prosperity: `;`-separated prices (or activities) and trades, one file each per round and day.

The exchange is simulated, and so is everything read here. A timestamp unit is one millisecond, a step of 100 so 0.1 s,
unless products.json states `seconds_per_timestamp`. A trade stamped t happens against the book of row t: on public data
92-99% of trades print at the touch of their own row and 33-56% at that of the row before. It is therefore stamped one
nanosecond after row t, so that no row shows what followed it.
"""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from marljax.data.readers import cells
from marljax.data.readers.cells import Cells
from marljax.data.readers.files import Member, members
from marljax.data.readers.products import raw_books, take_metadata
from marljax.data.schema import InputError, Product, RawBooks

SECONDS_PER_TIMESTAMP = 1e-3
_AFTER_THE_BOOK_NS = 1
_PRICES = ("day", "timestamp", "product")
_TRADES = {"timestamp": cells.WHOLE, "symbol": cells.TEXT, "price": cells.FLOAT, "quantity": cells.FLOAT}
_WHAT = "prices*.csv, *activities*.csv or trades*.csv file"


class _Prices(NamedTuple):
    member: Member
    rows: Cells
    n_levels: int
    day: np.ndarray  # int64[rows]
    timestamp: np.ndarray  # int64[rows]
    product: np.ndarray  # object[rows]


def read(paths: Sequence[str | Path]) -> RawBooks:
    """RawBooks of Prosperity files, folders or archives. Raises InputError with file, line and column.

    A session is a day. Files are ordered by day, then by name; a file whose rows clash with those of an earlier file of
    its day (one product and timestamp in both) is a session of its own. Trades go with the price file of the same round
    and day in the file name; a missing trades file is no error, a trades file without price file is one.
    """
    metadata, paths = take_metadata(paths)
    found = members(paths, lambda name: name.endswith(".csv") and _kind(name) is not None, _WHAT)
    priced = sorted(_read_prices(found), key=lambda p: (int(p.day[0]), p.member.name, p.member.label))
    if not priced:
        raise InputError("trades without prices: no prices*.csv or *activities*.csv file given", file=paths[0])
    names = sorted({str(name) for prices in priced for name in pd.unique(prices.product)})
    products = {name: metadata.product(name, Product(name)) for name in names}
    sessions = _sessions(priced)
    scale = 1e9 * (metadata.seconds_per_timestamp or SECONDS_PER_TIMESTAMP)
    books = [_books(i, p, s, products, scale) for i, (p, s) in enumerate(zip(priced, sessions, strict=True))]
    files = [p.member.source_file(len(p.rows)) for p in priced]
    trades = []
    for member in (m for m in found if _kind(m.name) == "trades"):
        partner = _partner(member, priced)
        rows = _read_trades(member)
        if len(rows) and len(np.unique(sessions[partner])) > 1:
            rows.fail(0, "timestamp", f"trades carry no day, and {priced[partner].member.label} holds several")
        files.append(member.source_file(len(rows)))
        if len(rows):
            session = int(sessions[partner][0])
            trades.append(_trades(len(files) - 1, rows, session, products, scale, books[partner]))
    files += metadata.files
    return raw_books(books, trades, list(products.values()), files, metadata.origin or "simulated")


def _kind(name: str) -> str | None:
    if "trades" in name:
        return "trades"
    return "prices" if "prices" in name or "activities" in name else None


def _read_prices(found: Sequence[Member]) -> list[_Prices]:
    priced: list[_Prices] = []
    seen: dict[bytes, str] = {}
    for member in found:
        if _kind(member.name) == "trades":
            continue
        content = member.read()
        digest = hashlib.sha256(content).digest()
        if digest in seen:
            raise InputError(f"has the same content as {seen[digest]}", file=member.label)
        seen[digest] = member.label
        header = cells.header_of(content, member.label, ";")
        cells.require(header, _PRICES, member.label)
        n_levels = 1
        while f"bid_price_{n_levels + 1}" in header or f"ask_price_{n_levels + 1}" in header:
            n_levels += 1
        numbers = [
            n for k in range(1, n_levels + 1) for s in ("bid", "ask") for n in (f"{s}_price_{k}", f"{s}_volume_{k}")
        ]
        cells.require(header, numbers, member.label)
        types = {"day": cells.WHOLE, "timestamp": cells.WHOLE, "product": cells.TEXT}
        types |= dict.fromkeys([*numbers, *({"profit_and_loss"} & set(header))], cells.FLOAT)
        rows = cells.parse(content, member.label, names=header, types=types, delimiter=";")
        day, timestamp = rows.keys("day"), rows.keys("timestamp")
        priced.append(_Prices(member, rows, n_levels, day, timestamp, rows.texts("product")))
    return priced


def _sessions(priced: Sequence[_Prices]) -> list[np.ndarray]:
    """int64[rows] the session of every row, per file: days in order, a clashing file on its own."""
    occupied: list[tuple[int, pd.Index]] = []
    keys = []
    for prices in priced:
        mine = np.zeros(len(prices.rows), np.int64)
        for day in np.unique(prices.day):
            here = prices.day == day
            rows = pd.MultiIndex.from_arrays([prices.timestamp[here], prices.product[here]]).unique()
            for number, (other_day, taken) in enumerate(occupied):
                if other_day == day and not taken.isin(rows).any():
                    occupied[number] = (other_day, taken.append(rows))
                    break
            else:
                number = len(occupied)
                occupied.append((int(day), rows))
            mine[here] = number
        keys.append(mine)
    rank = np.empty(len(occupied), np.int64)
    rank[sorted(range(len(occupied)), key=lambda n: (occupied[n][0], n))] = np.arange(len(occupied))
    return [rank[mine] for mine in keys]


def _books(file: int, prices: _Prices, session: np.ndarray, products: dict[str, Product], scale: float) -> pd.DataFrame:
    rows = prices.rows
    tick, lot = _units(prices.product, products)
    columns: dict[str, np.ndarray | int | pd.Series] = {
        "file": file,
        "line": rows.lines,
        "session": session,
        "time_ns": _nanoseconds(rows, prices.timestamp, scale),
        "product": pd.Series(prices.product, dtype="str"),
    }
    for k in range(1, prices.n_levels + 1):
        for side in ("bid", "ask"):
            columns[f"{side}_price_{k}"] = rows.ticks(f"{side}_price_{k}", tick)
            columns[f"{side}_size_{k}"] = rows.lots(f"{side}_volume_{k}", lot)
    if "profit_and_loss" in rows.table.column_names:
        columns["pnl"] = rows.floats("profit_and_loss")
    return pd.DataFrame(columns)


def _read_trades(member: Member) -> Cells:
    content = member.read()
    header = cells.header_of(content, member.label, ";")
    cells.require(header, list(_TRADES), member.label)
    return cells.parse(content, member.label, names=header, types=_TRADES, delimiter=";", may_be_empty=True)


def _trades(
    file: int, rows: Cells, session: int, products: dict[str, Product], scale: float, books: pd.DataFrame
) -> pd.DataFrame:
    symbol = rows.texts("symbol")
    unknown = ~np.isin(symbol, list(products))
    rows.refuse(unknown, "symbol", "no book of this product was read")
    tick, lot = _units(symbol, products)
    price, size = rows.ticks("price", tick), rows.lots("quantity", lot)
    for column, values in (("price", price), ("quantity", size)):
        if np.isnan(values).any():
            rows.fail(int(np.argmax(np.isnan(values))), column, "is blank, and a trade needs it")
    time_ns = _nanoseconds(rows, rows.keys("timestamp"), scale)
    trades = pd.DataFrame(
        {
            "file": file,
            "line": rows.lines,
            "session": session,
            "time_ns": time_ns,
            "product": pd.Series(symbol, dtype="str"),
            "price": price,
            "size": size,
        }
    )
    trades["side"] = _quote_rule(trades, books)
    trades["time_ns"] += _AFTER_THE_BOOK_NS
    return trades


def _quote_rule(trades: pd.DataFrame, books: pd.DataFrame) -> np.ndarray:
    """int64[rows] +1 above the mid of the product's last book at or before the trade, -1 below, 0 at it or without one.

    Lee and Ready (1991), without their tick test at the mid.
    """
    mids = books[["session", "time_ns", "product"]].assign(mid=(books["bid_price_1"] + books["ask_price_1"]) / 2)
    mids = mids[mids["mid"].notna()].sort_values("time_ns", kind="stable")
    ordered = trades.reset_index().sort_values("time_ns", kind="stable")
    quoted = pd.merge_asof(ordered, mids, on="time_ns", by=["session", "product"])
    side = np.sign((quoted["price"] - quoted["mid"]).fillna(0.0).to_numpy()).astype(np.int64)
    result = np.zeros(len(trades), np.int64)
    result[quoted["index"].to_numpy()] = side
    return result


def _units(names: np.ndarray, products: dict[str, Product]) -> tuple[np.ndarray, np.ndarray]:
    codes, unique = pd.factorize(names)
    found = [products[name] for name in unique]
    return np.array([p.tick_size for p in found])[codes], np.array([p.lot_size for p in found])[codes]


def _nanoseconds(rows: Cells, timestamp: np.ndarray, scale: float) -> np.ndarray:
    rows.refuse((timestamp < 0) | (timestamp > 2**53), "timestamp", "is negative or beyond 2**53")
    exact = timestamp * scale
    rows.refuse(exact >= 2.0**62, "timestamp", "is beyond a century")
    return np.round(exact).astype(np.int64)


def _partner(member: Member, priced: Sequence[_Prices]) -> int:
    """Index of the price file with the round and day of this trades file, in the same folder where several match."""
    same = [i for i, p in enumerate(priced) if _round_and_day(p.member) == _round_and_day(member)]
    beside = [i for i in same if priced[i].member.path.parent == member.path.parent]
    candidates = beside or same
    if len(candidates) != 1:
        found = "no price file" if not candidates else f"{len(candidates)} price files"
        raise InputError(f"{found} of this round and day (as in the file name) among the paths", file=member.label)
    return candidates[0]


def _round_and_day(member: Member) -> tuple[str | None, str | None]:
    found = (re.search(pattern, member.name) for pattern in (r"round_?(-?\d+)", r"day_?(-?\d+)"))
    number, day = (match.group(1) if match else None for match in found)
    return number, day
