"""Faults planted in simulated books, with the record of each: what the cleaning rules are held to.

Only repairable faults: what a reader must refuse (a cell that is no number, a price off the grid, two rows of one time
and product that disagree) is not among them.
"""

import dataclasses
from collections.abc import Callable
from random import Random
from typing import Any

from marljax.data.exchange import VISIBLE_LEVELS, whole

Level = tuple[int | None, int | None]
"""Price [ticks] and size [lots], None where the cell is empty."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of a prices file before it is text."""

    timestamp: int
    product: str
    bids: list[Level]
    asks: list[Level]
    double_pnl: int  # ticks times lots
    fault: dict[str, Any] | None = None

    @property
    def double_mid(self) -> int | None:
        """Best bid plus best ask [ticks], None where one is missing."""
        bid = self.bids[0][0] if self.bids else None
        ask = self.asks[0][0] if self.asks else None
        return None if bid is None or ask is None else bid + ask


def _scaled(levels: list[Level], numerator: int, denominator: int) -> list[Level]:
    return [(None if price is None else price * numerator // denominator, size) for price, size in levels]


def _raised(levels: list[Level], ticks: int) -> list[Level]:
    return [(None if price is None else price + ticks, size) for price, size in levels]


def _spread(row: Row) -> int:
    bid, ask = row.bids[0][0], row.asks[0][0]
    if bid is None or ask is None:
        raise ValueError("this row has a fault already")
    return ask - bid


def missing_side(row: Row, rng: Random) -> Row:
    """A whole side is empty."""
    return dataclasses.replace(row, bids=[]) if rng.random() < 0.5 else dataclasses.replace(row, asks=[])


def _half_level(row: Row, depth: int, rng: Random) -> Row:
    bids, asks = list(row.bids), list(row.asks)
    side = bids if rng.random() < 0.5 else asks
    price, size = side[depth]
    side[depth] = (price, None) if rng.random() < 0.5 else (None, size)
    return dataclasses.replace(row, bids=bids, asks=asks)


def missing_best_value(row: Row, rng: Random) -> Row:
    """The best level of a side lacks its price or its size."""
    return _half_level(row, 0, rng)


def missing_deep_value(row: Row, rng: Random) -> Row:
    """A level behind the best lacks its price or its size."""
    return _half_level(row, whole(rng, 1, VISIBLE_LEVELS - 1), rng)


def crossed(row: Row, rng: Random) -> Row:
    """The bids stand a few ticks above the best ask."""
    return dataclasses.replace(row, bids=_raised(row.bids, _spread(row) + whole(rng, 1, 3)))


def locked(row: Row, rng: Random) -> Row:
    """The best bid stands on the best ask."""
    return dataclasses.replace(row, bids=_raised(row.bids, _spread(row)))


def outlier(row: Row, rng: Random) -> Row:
    """A fat finger: every price times ten, or the whole book four percent away."""
    if rng.random() < 0.5:
        return dataclasses.replace(row, bids=_scaled(row.bids, 10, 1), asks=_scaled(row.asks, 10, 1))
    best = row.bids[0][0] or 0
    shift = best // 25 * (1 if rng.random() < 0.5 else -1)
    return dataclasses.replace(row, bids=_raised(row.bids, shift), asks=_raised(row.asks, shift))


DAMAGE: dict[str, Callable[[Row, Random], Row]] = {
    f.__name__: f for f in (missing_side, missing_best_value, missing_deep_value, crossed, locked, outlier)
}
"""Faults within a row."""

KINDS = ("duplicate", "out_of_order", "gap", *DAMAGE)

DISTANCE = 40
"""Faults of one product are at least this many of its rows apart, and this far from the day's ends."""


def plant(rows: list[Row], per_kind: int, rng: Random) -> list[Row]:
    """The day's rows, in time order, with `per_kind` faults of every kind in them.

    A faulty row carries `fault`: kind, product and timestamp, for a gap also how many rows are gone; the record of a
    gap sits on the product's first row after it. A duplicate follows its original; a row out of order comes one to
    three steps late.
    """
    where: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        where.setdefault(row.product, []).append(index)
    products = list(where)
    taken: dict[str, list[int]] = {product: [] for product in products}
    placed: dict[int, list[Row]] = {index: [row] for index, row in enumerate(rows)}
    late: dict[int, list[Row]] = {}
    for kind in KINDS * per_kind:
        product = products[whole(rng, 0, len(products) - 1)]
        lines, busy = where[product], taken[product]
        while True:
            step = whole(rng, DISTANCE, len(lines) - DISTANCE - 1)
            row = rows[lines[step]]
            full = len(row.bids) == len(row.asks) == VISIBLE_LEVELS
            if full and all(abs(step - other) > DISTANCE for other in busy):
                break
        busy.append(step)
        fault: dict[str, Any] = {"kind": kind, "product": product, "timestamp": row.timestamp}
        if kind == "duplicate":
            placed[lines[step]].append(dataclasses.replace(row, fault=fault))
        elif kind == "out_of_order":
            placed[lines[step]].clear()
            end_of_step = lines[step + whole(rng, 1, 3)] // len(products) * len(products) + len(products) - 1
            late.setdefault(end_of_step, []).append(dataclasses.replace(row, fault=fault))
        elif kind == "gap":
            count = whole(rng, 1, 6)
            for gone in lines[step : step + count]:
                placed[gone].clear()
            after = lines[step + count]
            placed[after] = [dataclasses.replace(rows[after], fault=fault | {"rows": count})]
        else:
            placed[lines[step]] = [dataclasses.replace(DAMAGE[kind](row, rng), fault=fault)]
    return [row for index in placed for row in placed[index] + late.get(index, [])]
