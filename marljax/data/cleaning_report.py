"""What cleaning did, rule by rule and product by product, with books that must balance."""

import dataclasses
from typing import Any

import numpy as np

from marljax.data.schema import Product

RULES = {
    "duplicate_row": "a row that repeats another of its product and time: dropped",
    "time_order": "a row behind a later one of its product: sorted into place",
    "missing_side": "no best bid or no best ask with a size: dropped",
    "incomplete_level": "a deeper level with a price but no size, or a size but no price: the level removed",
    "level_order": "levels out of order, with holes or at one price: sorted, closed up, merged",
    "crossed_book": "best bid at or above best ask: dropped",
    "outlier": "mid far from the median of the rows before: dropped",
    "between_grid": "followed by a newer row before the next grid time: dropped",
    "incomplete_session": "in a session in which another product has no row: dropped",
    "before_start": "before every product of the session has been seen: dropped",
    "gap": "a grid time at which no product has a row: filled with the last book, marked not valid",
    "alignment": "a grid time at which only other products have a row: filled with the last book, marked not valid",
}
"""Every rule in the order in which it runs, in words."""


@dataclasses.dataclass
class CleaningReport:
    """Rows touched, dropped and filled, int64[P] per rule; a touched row is kept."""

    products: tuple[Product, ...]
    rows_in: np.ndarray  # int64[P] rows the reader handed over
    rows_kept: np.ndarray  # int64[P] rows that became a valid step
    steps: int = 0
    """Steps of the grid."""
    step_seconds: float = 0.0
    """Seconds from one grid time to the next."""
    trades_in: int = 0
    trades_kept: int = 0
    """Trades that fell between two steps of the grid; the others came before its start or after its end."""
    touched: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    dropped: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    filled: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        for kind in (self.touched, self.dropped, self.filled):
            for rule in RULES:
                kind.setdefault(rule, np.zeros(len(self.products), np.int64))

    def check(self) -> None:
        """Raise AssertionError unless rows in = kept + dropped and steps = kept + filled, for every product."""
        dropped, filled = sum(self.dropped.values()), sum(self.filled.values())
        if not np.array_equal(self.rows_in, self.rows_kept + dropped):
            raise AssertionError(f"cleaning lost rows: {self.rows_in} in, {self.rows_kept} kept, {dropped} dropped")
        if not np.array_equal(np.full_like(self.rows_kept, self.steps), self.rows_kept + filled):
            raise AssertionError(f"cleaning made rows: {self.steps} steps, {self.rows_kept} kept, {filled} filled")

    def counts(self) -> dict[str, int]:
        """{rule: rows touched, dropped or filled}, all products together, every rule named."""
        return {
            rule: sum(int(kind[rule].sum()) for kind in (self.touched, self.dropped, self.filled)) for rule in RULES
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers for JSON: totals, {rule: count}, and for each of "products" its units and
        {rule: count} by what was done (touched, dropped, filled), rules that did nothing left out."""
        return {
            "rows_in": int(self.rows_in.sum()),
            "rows_kept": int(self.rows_kept.sum()),
            "rows_filled": int(sum(v.sum() for v in self.filled.values())),
            "steps": self.steps,
            "step_seconds": self.step_seconds,
            "trades_in": self.trades_in,
            "trades_kept": self.trades_kept,
            "rules": self.counts(),
            "products": {p.name: self._product(i, p) for i, p in enumerate(self.products)},
        }

    def _product(self, i: int, product: Product) -> dict[str, Any]:
        kinds = {"touched": self.touched, "dropped": self.dropped, "filled": self.filled}
        return {
            "tick_size": product.tick_size,
            "lot_size": product.lot_size,
            "rows_in": int(self.rows_in[i]),
            "rows_kept": int(self.rows_kept[i]),
            **{
                kind: {rule: int(counts[i]) for rule, counts in rules.items() if counts.any()}
                for kind, rules in kinds.items()
            },
        }
