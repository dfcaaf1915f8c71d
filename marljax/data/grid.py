"""Clean book rows to steps: one time grid for all products, each row at the first grid time at or after it."""

import dataclasses

import numpy as np
import pandas as pd

from marljax.data.cleaning_report import CleaningReport
from marljax.data.schema import InputError, MarketData, RawBooks

_ON_GRID = 0.9
"""Fraction of times that must follow the inferred step."""
_LARGEST_GRID = 2**27
"""Book rows (steps times products) beyond which a grid is refused rather than built."""


@dataclasses.dataclass(frozen=True)
class Books:
    """Book rows as arrays over one leading axis N; levels NaN where absent."""

    file: np.ndarray  # int64[N]
    line: np.ndarray  # int64[N]
    session: np.ndarray  # int64[N]
    time_ns: np.ndarray  # int64[N] since the session's start
    product: np.ndarray  # int64[N] index into the products
    bid_price: np.ndarray  # float64[N, K] ticks
    ask_price: np.ndarray  # float64[N, K] ticks
    bid_size: np.ndarray  # float64[N, K] lots
    ask_size: np.ndarray  # float64[N, K] lots
    pnl: np.ndarray  # float64[N] currency, NaN where absent

    @classmethod
    def of(cls, raw: RawBooks) -> "Books":
        """The books of `raw`. Raises InputError if there is none."""
        if not len(raw.books):
            raise InputError("no book row was read")
        levels = {
            f"{side}_{what}": raw.books[[f"{side}_{what}_{k}" for k in range(1, raw.n_levels + 1)]].to_numpy(np.float64)
            for side in ("bid", "ask")
            for what in ("price", "size")
        }
        keys = {name: raw.books[name].to_numpy(np.int64) for name in ("file", "line", "session", "time_ns")}
        product = product_codes(raw.books["product"], raw)
        return cls(**keys, product=product, **levels, pnl=raw.books["pnl"].to_numpy(np.float64))

    def __len__(self) -> int:
        return len(self.line)

    def take(self, rows: np.ndarray) -> "Books":
        """The rows with these indices, in their order."""
        return Books(**{field.name: getattr(self, field.name)[rows] for field in dataclasses.fields(self)})

    def same_series(self) -> np.ndarray:
        """bool[N-1] whether a row and the next are of one session and product."""
        return (np.diff(self.session) == 0) & (np.diff(self.product) == 0)

    def values(self) -> dict[str, np.ndarray]:
        """float64[N] every value of a row under its column name in RawBooks."""
        names = ("bid_price", "bid_size", "ask_price", "ask_size")
        levels = {
            f"{name}_{k + 1}": getattr(self, name)[:, k] for name in names for k in range(self.bid_price.shape[1])
        }
        return levels | {"pnl": self.pnl}


def product_codes(names: pd.Series, raw: RawBooks) -> np.ndarray:
    """int64[N] index of each name in the products of `raw`."""
    codes = pd.Index([p.name for p in raw.products]).get_indexer(pd.Index(names))
    if (codes < 0).any():
        raise InputError(f"product {names.iloc[int(np.argmin(codes))]!r} is not among the products that were read")
    return codes.astype(np.int64)


def grid_cells(time_ns: np.ndarray, step_ns: int) -> np.ndarray:
    """int64[N] number of the first grid time at or after each time."""
    return -(-time_ns // step_ns)


def grid_step(books: Books, raw: RawBooks, step_seconds: float | None) -> int:
    """The grid step [ns]: as given, or the commonest distance between successive times of a session.

    Raises InputError where it is not given and fewer than 90% of the times follow the commonest one.
    """
    if step_seconds is not None:
        return round(step_seconds * 1e9)
    seen = pd.DataFrame({"session": books.session, "time_ns": books.time_ns}).drop_duplicates()
    times = seen.sort_values(["session", "time_ns"]).to_numpy()
    steps = np.diff(times[:, 1])[np.diff(times[:, 0]) == 0]
    if not len(steps):
        return 10**9
    lengths, counts = np.unique(steps, return_counts=True)
    step = int(lengths[np.argmax(counts)])
    off = np.not_equal(times[:, 1] % step, 0)
    if off.mean() > 1 - _ON_GRID:
        session, time_ns = times[off][0]
        row = np.flatnonzero((books.session == session) & (books.time_ns == time_ns))[0]
        raise InputError(
            f"times follow no grid: only {100 * (1 - off.mean()):.0f}% are multiples of the commonest step, "
            f"{step / 1e9:g} s; set step_seconds",
            file=raw.files[int(books.file[row])].path,
            line=int(books.line[row]),
            column="time",
        )
    return step


def align(books: Books, raw: RawBooks, step_ns: int, max_gap_steps: int, report: CleaningReport) -> MarketData:
    """MarketData of clean rows sorted by session, product and time, at most one per product and grid time.

    A session's grid starts when its last product has been seen. A product without a row at a grid time repeats its last
    book with `valid` False. Fills in the report's counts of rows and trades.
    """
    cells, sessions, rows, held = [], [], [], []
    n_products = len(raw.products)
    cell = grid_cells(books.time_ns, step_ns)
    for session in np.unique(books.session):
        here = np.flatnonzero(books.session == session)
        grid = _grid(np.unique(cell[here]), max_gap_steps, n_products)
        last = np.full((len(grid), n_products), -1, np.int64)
        last[np.searchsorted(grid, cell[here]), books.product[here]] = here
        observed: np.ndarray = last >= 0
        last = np.maximum.accumulate(last, axis=0)
        start = int(np.argmax(np.all(last >= 0, axis=1)))
        report.dropped["before_start"] += observed[:start].sum(0)
        observed, grid = observed[start:], grid[start:]
        nobody = ~np.any(observed, axis=1)
        report.filled["gap"] += nobody.sum()
        report.filled["alignment"] += (~observed & ~nobody[:, None]).sum(0)
        cells.append(grid)
        sessions.append(np.full(len(grid), session))
        rows.append(last[start:])
        held.append(observed)
    cell, session, row, valid = (np.concatenate(parts) for parts in (cells, sessions, rows, held))
    report.rows_kept, report.steps, report.step_seconds = valid.sum(0), len(cell), step_ns / 1e9
    bid_price, bid_size = _dense(books.bid_price, books.bid_size, -1.0)
    ask_price, ask_size = _dense(books.ask_price, books.ask_size, 1.0)
    volume, imbalance = _traded(raw, session, cell, step_ns, report)
    return MarketData.build(
        products=raw.products,
        origin=raw.origin,
        bid_price=bid_price[row],
        ask_price=ask_price[row],
        bid_size=bid_size[row],
        ask_size=ask_size[row],
        trade_volume=volume,
        trade_imbalance=imbalance,
        pnl=np.where(valid, books.pnl[row], np.nan),
        valid=valid,
        seconds=cell * (step_ns / 1e9),
        session=session,
    )


def _grid(cells: np.ndarray, max_gap_steps: int, n_products: int) -> np.ndarray:
    """Grid times from the observed ones (int64, ascending): gaps of up to `max_gap_steps` missing times filled."""
    length = np.diff(cells, append=cells[-1] + 1)
    length = np.where(length - 1 <= max_gap_steps, length, 1)
    if length.sum() > _LARGEST_GRID // n_products:
        raise InputError(f"{length.sum()} steps of a session are too many: set a larger step_seconds")
    first = np.repeat(cells, length)
    return first + np.arange(len(first)) - np.repeat(np.cumsum(length) - length, length)


def _dense(price: np.ndarray, size: np.ndarray, away: float) -> tuple[np.ndarray, np.ndarray]:
    """Absent levels get size 0 and stand one tick beyond the level before."""
    price = price.copy()
    for k in range(1, price.shape[1]):
        absent = np.isnan(price[:, k])
        price[absent, k] = price[absent, k - 1] + away
    return price, np.nan_to_num(size)


def _traded(
    raw: RawBooks, session: np.ndarray, cell: np.ndarray, step_ns: int, report: CleaningReport
) -> tuple[np.ndarray, np.ndarray]:
    """float64[T, P] lots traded, and lots bought less sold, after the step before and up to each step.

    A session's first step takes the trades of one step length before it.
    """
    volume, imbalance = np.zeros((2, len(cell), len(raw.products)))
    report.trades_in = len(raw.trades)
    trade_cell = grid_cells(raw.trades["time_ns"].to_numpy(np.int64), step_ns)
    product = product_codes(raw.trades["product"], raw)
    size, side = (raw.trades[name].to_numpy(np.float64) for name in ("size", "side"))
    for number in np.unique(session):
        begin, end = np.searchsorted(session, [number, number + 1])
        grid = cell[begin:end]
        within = (trade_cell >= grid[0]) & (trade_cell <= grid[-1])
        here = np.flatnonzero(within & (raw.trades["session"].to_numpy(np.int64) == number))
        step = begin + np.searchsorted(grid, trade_cell[here])
        np.add.at(volume, (step, product[here]), size[here])
        np.add.at(imbalance, (step, product[here]), size[here] * side[here])
        report.trades_kept += len(here)
    return volume, imbalance
