"""Raw books to MarketData: named rules in a fixed order, each counted, none looking ahead.

What happens to a row depends on rows at or before its time only, so that the clean past never changes with the future.
What fixes the shape of the data (grid step, tick sizes, products, levels) is a property of the source and is taken from
all of it.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
import pandas as pd

from marljax.data.cleaning_report import CleaningReport
from marljax.data.grid import Books, align, grid_cells, grid_step
from marljax.data.schema import InputError, MarketData, RawBooks

_MAD_TO_DEVIATION = 1.4826
"""Median absolute deviation to standard deviation of a normal."""


@dataclasses.dataclass(frozen=True)
class CleaningConfig:
    """How raw books become clean, aligned steps."""

    step_seconds: float | None = None
    """Grid step [s]; none: the commonest distance between successive times, which most times must then follow."""
    max_gap_steps: int = 600
    """Longest stretch without a row of any product that is filled [steps]; a longer one is left out of the grid."""
    outlier_window: int = 9
    """Rows before a row whose median mid it is held against [rows]."""
    outlier_scale_rows: int = 100
    """Rows before a row whose median absolute deviation is the scale of an ordinary move [rows]."""
    outlier_deviations: float = 10.0
    """A mid is an outlier beyond this many robust standard deviations, and as many median spreads [1]."""
    outlier_floor: float = 0.03
    """and beyond this fraction of the median mid [1]."""
    outlier_rows: int = 2
    """So many outliers in a row on one side are dropped; the next one is believed to be a lasting move [rows]."""

    def __post_init__(self) -> None:
        if self.step_seconds is not None and not (np.isfinite(self.step_seconds) and self.step_seconds >= 1e-9):
            raise InputError(f"step_seconds must be at least a nanosecond, got {self.step_seconds!r}")
        for name, least in (
            ("max_gap_steps", 0),
            ("outlier_window", 3),
            ("outlier_scale_rows", 3),
            ("outlier_rows", 1),
        ):
            if getattr(self, name) < least:
                raise InputError(f"{name} must be at least {least}, got {getattr(self, name)!r}")
        for name in ("outlier_deviations", "outlier_floor"):
            if not getattr(self, name) >= 0:
                raise InputError(f"{name} must not be negative, got {getattr(self, name)!r}")


def clean(raw: RawBooks, config: CleaningConfig | None = None) -> tuple[MarketData, CleaningReport]:
    """MarketData on one grid, products in the order of `raw.products`, and the report of every rule.

    Raises InputError where two rows of one product and time disagree, where a product keeps no row, or where times
    follow no grid.
    """
    config = config or CleaningConfig()
    books = Books.of(raw)
    n_products = len(raw.products)

    def count(rows: Books, where: np.ndarray) -> np.ndarray:
        return np.bincount(rows.product[where], minlength=n_products)

    report = CleaningReport(raw.products, count(books, np.ones(len(books), bool)), np.zeros(n_products, np.int64))
    _refuse_absent(books, raw, report)
    step_ns = grid_step(books, raw, config.step_seconds)

    def drop(rule: str, books: Books, where: np.ndarray) -> Books:
        report.dropped[rule] = count(books, where)
        return books.take(np.flatnonzero(~where))

    def repair(rule: str, books: Books, of: Callable[[Books], tuple[Books, np.ndarray]]) -> Books:
        repaired, where = of(books)
        report.touched[rule] = count(books, where)
        return repaired

    books = drop("duplicate_row", books, _duplicates(books, raw))
    books = repair("time_order", books, _sort_times)
    books = drop("missing_side", books, _side_missing(books))
    books = repair("incomplete_level", books, _remove_incomplete_levels)
    books = repair("level_order", books, _order_levels)
    books = drop("crossed_book", books, books.bid_price[:, 0] >= books.ask_price[:, 0])
    books = drop("outlier", books, _outliers(books, config))
    _refuse_absent(books, raw, report)
    cell = grid_cells(books.time_ns, step_ns)
    newer = (cell[1:] == cell[:-1]) & books.same_series()
    books = drop("between_grid", books, np.append(newer, False))
    books = drop("incomplete_session", books, _in_incomplete_session(books, n_products))
    if not len(books):
        raise InputError("no session has a valid row of every product", file=raw.files[0].path)
    data = align(books, raw, step_ns, config.max_gap_steps, report)
    report.check()
    return data, report


def _refuse_absent(books: Books, raw: RawBooks, report: CleaningReport) -> None:
    """Raise InputError for the first product without a row."""
    rows = np.bincount(books.product, minlength=len(raw.products))
    if rows.all():
        return
    missing = int(np.argmin(rows))
    name = raw.products[missing].name
    mine = raw.books[raw.books["product"] == name]
    if not len(mine):
        raise InputError(f"product {name!r} has no row", file=raw.files[0].path if raw.files else None)
    worst = max(report.dropped, key=lambda rule: int(report.dropped[rule][missing]))
    first = mine.iloc[0]
    raise InputError(
        f"product {name!r} has no valid row: {int(report.dropped[worst][missing])} of {len(mine)} dropped as {worst}",
        file=raw.files[int(first["file"])].path,
        line=int(first["line"]),
        column="product",
    )


def _duplicates(books: Books, raw: RawBooks) -> np.ndarray:
    """bool[N] rows that repeat the row before of their product and time. Raises InputError where the two disagree."""
    order = np.lexsort((books.time_ns, books.product, books.session))
    rows = books.take(order)
    repeated = np.append(False, (np.diff(rows.time_ns) == 0) & rows.same_series())
    here = np.flatnonzero(repeated)
    for name, values in rows.values().items():
        differs = ~np.isclose(values[here], values[here - 1], rtol=0, atol=0, equal_nan=True)
        if differs.any():
            later = here[int(np.argmax(differs))]
            earlier = later - 1
            file, other = (raw.files[int(rows.file[i])].path for i in (later, earlier))
            raise InputError(
                f"{values[later]:g} disagrees with {values[earlier]:g} in line {rows.line[earlier]}"
                f"{'' if file == other else ' of ' + other}: same product {raw.products[rows.product[later]].name!r} "
                "and time",
                file=file,
                line=int(rows.line[later]),
                column=name,
            )
    result = np.zeros(len(books), bool)
    result[order[here]] = True
    return result


def _sort_times(books: Books) -> tuple[Books, np.ndarray]:
    """Rows by session, product and time; bool[N] those that stood behind a later row of their product."""
    latest = pd.Series(books.time_ns).groupby([books.session, books.product]).cummax().to_numpy()
    order = np.lexsort((books.time_ns, books.product, books.session))
    return books.take(order), books.time_ns < latest


def _side_missing(books: Books) -> np.ndarray:
    best = np.stack([books.bid_price[:, 0], books.ask_price[:, 0]])
    sizes = np.stack([books.bid_size[:, 0], books.ask_size[:, 0]])
    return np.any(np.isnan(best) | ~(sizes > 0), axis=0)


def _remove_incomplete_levels(books: Books) -> tuple[Books, np.ndarray]:
    """Levels without a price or without a size become NaN; bool[N] rows where only one of the two was missing."""
    touched: np.ndarray = np.zeros(len(books), bool)
    sides: dict[str, np.ndarray] = {}
    for side in ("bid", "ask"):
        price, size = getattr(books, f"{side}_price"), getattr(books, f"{side}_size")
        half = (np.isnan(price) & (size > 0)) | (~np.isnan(price) & np.isnan(size))
        whole = ~np.isnan(price) & (size > 0)
        touched |= half.any(1)
        sides |= {f"{side}_price": np.where(whole, price, np.nan), f"{side}_size": np.where(whole, size, np.nan)}
    return dataclasses.replace(books, **sides), touched


def _order_levels(books: Books) -> tuple[Books, np.ndarray]:
    """Levels best first, without holes, one per price; bool[N] rows that were not."""
    touched: np.ndarray = np.zeros(len(books), bool)
    sides: dict[str, np.ndarray] = {}
    for side, sign in (("bid", -1.0), ("ask", 1.0)):
        price, size = sign * getattr(books, f"{side}_price"), getattr(books, f"{side}_size")
        wrong = (~np.isnan(price[:, 1:]) & ~(price[:, 1:] > price[:, :-1])).any(1)
        price[wrong], size = _merged(price[wrong], size, wrong)
        touched |= wrong
        sides |= {f"{side}_price": sign * price, f"{side}_size": size}
    return dataclasses.replace(books, **sides), touched


def _merged(price: np.ndarray, all_sizes: np.ndarray, wrong: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ascending unique prices of the wrong rows, and all sizes with those of the wrong rows merged to match."""
    by_price = np.argsort(price, axis=1, kind="stable")
    price = np.take_along_axis(price, by_price, 1)
    size = np.nan_to_num(np.take_along_axis(all_sizes[wrong], by_price, 1))
    new = np.concatenate([np.zeros((len(price), 1), np.int64), np.diff(price, axis=1) != 0], axis=1)
    level = np.cumsum(new, axis=1)
    row = np.broadcast_to(np.arange(len(price))[:, None], price.shape)
    merged_price, merged_size = np.full_like(price, np.nan), np.zeros_like(size)
    merged_price[row, level] = price
    np.add.at(merged_size, (row, level), size)
    sizes = all_sizes.copy()
    sizes[wrong] = np.where(np.isnan(merged_price), np.nan, merged_size)
    return merged_price, sizes


def _outliers(books: Books, config: CleaningConfig) -> np.ndarray:
    """bool[N] mids too far from the median mid of the rows before in their session and product.

    Too far is beyond three bounds at once: robust standard deviations of earlier mids from their own medians (Hampel's
    identifier on a trailing window), as many median spreads, and a fraction of the price. After `outlier_rows` of them
    on one side the move is believed, so that a jump which lasts costs a few rows and is never flagged for ever.
    """
    if not len(books):
        return np.zeros(0, bool)
    series = np.append(0, np.cumsum(~books.same_series()))
    bid, ask = books.bid_price[:, 0], books.ask_price[:, 0]

    def median_before(values: np.ndarray, rows: int, least: int) -> np.ndarray:
        before = pd.Series(values).groupby(series).shift(1)
        return before.groupby(series).rolling(rows, min_periods=least).median().to_numpy()

    mid = (bid + ask) / 2
    least = (config.outlier_window + 1) // 2
    usual = median_before(mid, config.outlier_window, least)
    distance = np.abs(mid - usual)
    scale = _MAD_TO_DEVIATION * np.nan_to_num(median_before(distance, config.outlier_scale_rows, 1))
    spread = median_before(ask - bid, config.outlier_window, least)
    bound = np.maximum(config.outlier_deviations * np.maximum(scale, spread), config.outlier_floor * np.abs(usual))
    side = np.where(distance > bound, np.sign(mid - usual), 0.0)
    run = pd.Series(np.append(0, np.cumsum((np.diff(side) != 0) | ~books.same_series())))
    return (side != 0) & (run.groupby(run).cumcount().to_numpy() < config.outlier_rows)


def _in_incomplete_session(books: Books, n_products: int) -> np.ndarray:
    """bool[N] rows of a session in which some product has no row."""
    seen = pd.DataFrame({"session": books.session, "product": books.product}).drop_duplicates()
    products_seen = seen.groupby("session").size()
    return np.isin(books.session, products_seen.index[products_seen < n_products])
