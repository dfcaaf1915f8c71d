"""Any table of book rows, CSV or Parquet, whose columns a map translates into ours.

Our names: `time`, `product`, `session`, `bid_price_k`, `bid_size_k`, `ask_price_k`, `ask_size_k` for k = 1, 2, ...,
`pnl`, and `buy_volume`, `sell_volume` (units bought and sold by takers since the product's row before).
"""

import math
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from marljax.data.readers import cells
from marljax.data.readers.cells import Cells
from marljax.data.readers.files import Member, members
from marljax.data.readers.products import level_columns, raw_books, take_metadata
from marljax.data.schema import InputError, Product, RawBooks

TimeUnit = Literal["s", "ms", "us", "ns"]
_UNIT_NS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
_SUFFIXES = (".csv", ".txt", ".tsv", ".parquet", ".pq")
_ISO = r"^\d{4}-\d\d-\d\d([ T]\d\d:?\d\d.*)?$"
_ZONE = r"[ T].*([zZ]|[+-]\d\d(:?\d\d)?)$"
_OPTIONAL = ("product", "session", "pnl", "buy_volume", "sell_volume")
_RESOLUTION = 1e-9
"""Tick and lot sizes are inferred among multiples of this [price or units]."""
_LATEST_NS = 2**62


class _Rows(NamedTuple):
    member: Member
    rows: Cells  # columns under our names
    n_levels: int
    utc_ns: np.ndarray  # int64[rows] since 1970
    session: np.ndarray  # object[rows] what orders sessions: date as text, or the number of a session column
    product: np.ndarray  # object[rows]


def read(
    paths: Sequence[str | Path],
    *,
    columns: Mapping[str, str] | None = None,
    delimiter: str = ",",
    time_unit: TimeUnit = "s",
    tick_size: float | None = None,
    lot_size: float | None = None,
) -> RawBooks:
    """RawBooks of CSV or Parquet tables. Raises InputError with file, line (of Parquet: the row) and column.

    `columns` maps our names to the file's; a name left out stands for itself. Without a product column a file holds the
    product it is named after. Times are ISO 8601 with or without zone, or numbers of `time_unit` since 1970; they are
    ordered in UTC, and a session is a calendar date in the stamp's own zone unless there is a session column.

    A tick size not given here nor in products.json is inferred per product as the greatest common divisor of its
    prices, and a lot size that of its sizes where they are not whole; both then stand in the products of the result.
    """
    columns = dict(columns or {})
    _check_options(columns, delimiter, time_unit, tick_size, lot_size)
    metadata, paths = take_metadata(paths)
    found = members(paths, lambda name: name.endswith(_SUFFIXES), "*.csv or *.parquet file")
    tables = [_read(member, columns, delimiter, time_unit) for member in found]
    names = sorted({str(name) for t in tables for name in pd.unique(t.product)})
    if metadata.files:
        products = {name: metadata.product(name, Product(name)) for name in names}
        if tick_size is not None or lot_size is not None:
            raise InputError("gives tick and lot sizes: leave out the options", file=metadata.files[0].path)
    else:
        products = {
            name: Product(name, tick_size or _tick_size(tables, name), lot_size or _lot_size(tables, name))
            for name in names
        }
    sessions = sorted({s for t in tables for s in t.session.tolist()})
    number = {session: i for i, session in enumerate(sessions)}
    opening = {s: min(int(t.utc_ns[t.session == s].min()) for t in tables if (t.session == s).any()) for s in sessions}
    books, trades = [], []
    for i, t in enumerate(tables):
        keys = pd.DataFrame(
            {
                "file": i,
                "line": t.rows.lines,
                "session": pd.Series(t.session).map(number).to_numpy(),
                "time_ns": t.utc_ns - pd.Series(t.session).map(opening).to_numpy(),
                "product": pd.Series(t.product, dtype="str"),
            }
        )
        codes, unique = pd.factorize(t.product)
        tick = np.array([products[name].tick_size for name in unique])[codes]
        lot = np.array([products[name].lot_size for name in unique])[codes]
        levels = {
            name: t.rows.ticks(name, tick) if "_price_" in name else t.rows.lots(name, lot)
            for name in level_columns(t.n_levels)
        }
        pnl = {"pnl": t.rows.floats("pnl")} if "pnl" in t.rows.table.column_names else {}
        books.append(keys.assign(**levels, **pnl))
        trades += [_trades(t.rows, keys, name, lot) for name in ("buy_volume", "sell_volume")]
    files = [t.member.source_file(len(t.rows)) for t in tables] + list(metadata.files)
    return raw_books(books, trades, list(products.values()), files, metadata.origin or "recorded")


def _check_options(
    columns: dict[str, str], delimiter: str, time_unit: str, tick_size: float | None, lot_size: float | None
) -> None:
    for name in columns:
        if name != "time" and name not in _OPTIONAL and not re.fullmatch(r"(bid|ask)_(price|size)_[1-9]\d*", name):
            raise InputError(f"column map: {name!r} is no name of ours (time, product, bid_price_1, ...)")
    if len(set(columns.values())) != len(columns):
        raise InputError("column map: one column of the file stands for two of ours")
    if len(delimiter) != 1 or not delimiter.isascii() or delimiter in '"\r\n':
        raise InputError(f"delimiter must be one ASCII character, got {delimiter!r}")
    if time_unit not in get_args(TimeUnit):
        raise InputError(f"time_unit must be one of {', '.join(get_args(TimeUnit))}, got {time_unit!r}")
    for name, value in (("tick_size", tick_size), ("lot_size", lot_size)):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise InputError(f"{name} must be positive and finite, got {value!r}")


def _read(member: Member, columns: dict[str, str], delimiter: str, time_unit: str) -> _Rows:
    content = member.read()
    if content.startswith(b"PAR1") or member.name.endswith((".parquet", ".pq")):
        rows, n_levels = _read_parquet(content, member, columns)
    else:
        header = cells.header_of(content, member.label, delimiter)
        ours, n_levels = _our_columns(header, columns, member)
        types = {theirs: cells.TEXT if name in ("time", "product") else cells.FLOAT for name, theirs in ours.items()}
        rows = cells.parse(content, member.label, names=header, types=types, delimiter=delimiter)
        rows = Cells(rows.label, rows.table.select(list(ours.values())).rename_columns(list(ours)), rows.first_line)
    utc_ns, date = _times(rows, time_unit)
    session = date
    if "session" in rows.table.column_names:
        numbers = rows.floats("session")
        rows.refuse(~(numbers == np.round(numbers)), "session", "is no whole number")
        rows.refuse(np.abs(numbers) >= 2**63, "session", "is out of range")
        session = numbers.astype(np.int64).astype(object)
    stem = member.stem_name.rsplit(".", 1)[0]
    product = rows.texts("product") if "product" in rows.table.column_names else np.full(len(rows), stem, object)
    return _Rows(member, rows, n_levels, utc_ns, session, product)


def _our_columns(header: Sequence[str], columns: dict[str, str], member: Member) -> tuple[dict[str, str], int]:
    """Our names to the file's for every column the file has, and the number of levels."""
    ours = {name: columns.get(name, name) for name in ("time", *_OPTIONAL)}
    ours = {name: theirs for name, theirs in ours.items() if theirs in header or name == "time" or name in columns}
    n_levels = 1
    while any(columns.get(name, name) in header for name in level_columns(n_levels + 1)[-4:]):
        n_levels += 1
    ours |= {name: columns.get(name, name) for name in level_columns(n_levels)}
    unread = sorted(columns.keys() - ours.keys())
    cells.require(header, [*ours.values(), *(columns[name] for name in unread)], member.label)
    if unread:
        raise InputError(f"column map: {unread[0]!r} names a level beyond the first {n_levels}", file=member.label)
    return ours, n_levels


def _read_parquet(content: bytes, member: Member, columns: dict[str, str]) -> tuple[Cells, int]:
    try:
        table = pq.read_table(pa.BufferReader(content))
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"is no readable Parquet file ({error})", file=member.label) from error
    ours, n_levels = _our_columns(table.column_names, columns, member)
    if not table.num_rows:
        raise InputError("has columns but no rows", file=member.label)
    typed = {}
    for name, theirs in ours.items():
        column = table[theirs]
        kind = column.type
        if pa.types.is_dictionary(kind):
            column, kind = column.cast(kind.value_type), kind.value_type
        is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
        is_time = pa.types.is_timestamp(kind) or pa.types.is_date(kind)
        is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
        fits = is_text if name == "product" else is_number or (name == "time" and (is_time or is_text))
        if not fits:
            raise InputError(f"has type {kind}, which does not fit", file=member.label, line=1, column=theirs)
        if is_number and name != "time":
            column = column.cast(cells.FLOAT, safe=False)
        typed[name] = column
    return Cells(member.label, pa.table(typed), 1), n_levels


def _times(rows: Cells, time_unit: str) -> tuple[np.ndarray, np.ndarray]:
    """int64[rows] UTC nanoseconds since 1970, and object[rows] the calendar date in the stamp's own zone."""
    column = rows.table["time"].combine_chunks()
    if column.null_count:
        rows.fail(
            int(np.argmax(column.is_null().to_numpy(zero_copy_only=False))), "time", "is blank, and a row needs it"
        )
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        stamps = pd.Series(column.cast(pa.timestamp("us", getattr(column.type, "tz", None)), safe=False).to_pandas())
        exact = column.cast(pa.timestamp("ns", getattr(column.type, "tz", None)), safe=False).cast(pa.int64())
        return exact.to_numpy(), stamps.dt.strftime("%Y-%m-%d").to_numpy(object)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        column = pc.utf8_trim_whitespace(column.cast(pa.string()))
        iso = pc.match_substring_regex(column, _ISO).to_numpy(zero_copy_only=False)
        if iso[0]:
            rows.refuse(~iso, "time", "is no ISO 8601 time, as the first row is")
            return _iso_times(rows, column)
    utc_ns = _numeric_times(rows, column, _UNIT_NS[time_unit])
    return utc_ns, pd.Series(utc_ns.astype("datetime64[ns]")).dt.strftime("%Y-%m-%d").to_numpy(object)


def _iso_times(rows: Cells, column: pa.StringArray) -> tuple[np.ndarray, np.ndarray]:
    zoned = pc.match_substring_regex(column, _ZONE).to_numpy(zero_copy_only=False)
    rows.refuse(
        zoned != zoned[0], "time", f"{'has a' if not zoned[0] else 'lacks the'} time zone, unlike the first row"
    )
    texts = pd.Series(column.to_pandas(), dtype="str")
    stamps = pd.to_datetime(texts, format="ISO8601", utc=True, errors="coerce")
    rows.refuse(stamps.isna().to_numpy(), "time", "is no ISO 8601 time between 1678 and 2261")
    return stamps.dt.as_unit("ns").astype("int64").to_numpy(), texts.str.slice(0, 10).to_numpy(object)


def _numeric_times(rows: Cells, column: pa.Array, unit_ns: int) -> np.ndarray:
    """Exact where the cell is: decimal text never passes through a float."""
    if not pa.types.is_string(column.type) and not pa.types.is_integer(column.type):
        column = column.cast(pa.string())
    try:
        whole = column.cast(pa.int64()).to_numpy()
        rows.refuse(np.abs(whole.astype(float)) * unit_ns >= _LATEST_NS, "time", "is out of range in this unit")
        return whole * unit_ns
    except pa.ArrowInvalid:
        result = np.zeros(len(rows), np.int64)
        for i, text in enumerate(column.to_pylist()):
            try:
                exact = Decimal(text) * unit_ns
            except InvalidOperation:
                rows.fail(i, "time", f"is neither a number nor an ISO 8601 time: {text!r}")
            if not exact.is_finite() or abs(exact) >= _LATEST_NS:
                rows.fail(i, "time", f"is not finite or out of range in this unit: {text!r}")
            result[i] = int(exact.to_integral_value())
        return result


def _trades(rows: Cells, keys: pd.DataFrame, name: str, lot: np.ndarray) -> pd.DataFrame:
    """One trade for every row with volume; its price is unknown, NaN."""
    if name not in rows.table.column_names:
        return keys.iloc[:0]
    size = rows.lots(name, lot)
    traded = size > 0
    return keys[traded].assign(price=np.nan, size=size[traded], side=1 if name == "buy_volume" else -1)


def _tick_size(tables: Sequence[_Rows], name: str) -> float:
    return _common_divisor(tables, name, [c for c in level_columns(max(t.n_levels for t in tables)) if "_price_" in c])


def _lot_size(tables: Sequence[_Rows], name: str) -> float:
    volumes = ["buy_volume", "sell_volume"]
    sizes = [c for c in level_columns(max(t.n_levels for t in tables)) if "_size_" in c]
    divisor = _common_divisor(tables, name, sizes + volumes)
    return 1.0 if divisor == round(divisor) else divisor


def _common_divisor(tables: Sequence[_Rows], name: str, columns: Sequence[str]) -> float:
    """The greatest common divisor of all values of a product in these columns; 1 where there are none."""
    divisor = 0
    for t in tables:
        mine = t.product == name
        for column in (c for c in columns if c in t.rows.table.column_names):
            values = t.rows.floats(column)
            with np.errstate(over="ignore", invalid="ignore"):
                units = np.round(values / _RESOLUTION)
                off = np.abs(values - units * _RESOLUTION) > 1e-3 * _RESOLUTION + 1e-15 * np.abs(values)
            t.rows.refuse(
                mine & (off | (np.abs(units) >= 2**62)), column, "needs a tick_size or lot_size: none inferred"
            )
            whole = units[mine & ~np.isnan(values)].astype(np.int64)
            divisor = math.gcd(divisor, int(np.gcd.reduce(np.abs(whole))) if len(whole) else 0)
    return round(divisor * _RESOLUTION, 9) if divisor else 1.0
