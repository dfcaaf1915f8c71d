"""What the rest of the house means by market data.

`RawBooks` is what a reader hands to the cleaning rules: a long table, faults included, every row still knowing its
file and line. `MarketData` is what everything below works with: clean, aligned, integer ticks and lots on one time
grid, its invariants checked when it is built.
"""

import dataclasses
from pathlib import Path
from typing import Literal

import jax
import numpy as np
import pandas as pd
from flax import struct

Origin = Literal["recorded", "simulated", "synthetic"]
"""Where books come from: a real market, an exchange simulator, or a generative model."""

LARGEST_TICK = 2**28
"""Prices in ticks stay below this, so that twice a mid and differences of prices fit an int32."""


class InputError(ValueError):
    """Bad input or configuration: what is wrong, where it stands, and what to do about it.

    Experiments print it as one line and end with exit code 2. `line` is 1-based and counts the header.
    """

    def __init__(
        self, message: str, *, file: str | Path | None = None, line: int | None = None, column: str | None = None
    ) -> None:
        self.message, self.file, self.line, self.column = message, file, line, column
        where = ""
        if file is not None:
            where = f"{file}:{line}: " if line is not None else f"{file}: "
        if column is not None:
            where += f"column '{column}': "
        super().__init__(" ".join(f"{where}{message}".split()))


@dataclasses.dataclass(frozen=True)
class Product:
    """A traded product and how its ticks and lots become currency.

    One tick on one lot is worth `tick_size * lot_size * multiplier` in the product's currency.
    """

    name: str
    tick_size: float = 1.0
    """Price of one tick [currency per unit]."""
    lot_size: float = 1.0
    """Units in one lot [units]."""
    multiplier: float = 1.0
    """Contract multiplier [currency per point and unit]."""
    asset_class: str = "unknown"
    """For example equity, etf, future, fx, crypto, option."""

    def __post_init__(self) -> None:
        for field in ("tick_size", "lot_size", "multiplier"):
            value = getattr(self, field)
            if not (np.isfinite(value) and value > 0):
                raise InputError(f"product {self.name!r}: {field} must be positive and finite, got {value!r}")
        if not self.name:
            raise InputError("a product needs a name")

    @property
    def tick_value(self) -> float:
        """What one tick on one lot is worth [currency]."""
        return self.tick_size * self.lot_size * self.multiplier


@dataclasses.dataclass(frozen=True)
class SourceFile:
    """A file that was read, so that a run can say what it was made from."""

    path: str
    sha256: str
    rows: int


@dataclasses.dataclass(frozen=True)
class RawBooks:
    """What a reader returns: book rows and trades as found, already typed and checked cell by cell.

    `books` columns, one row per product and time, in file order:
        file int (index into `files`), line int (1-based, header included), session int (0-based trading day),
        time_ns int64 (nanoseconds since the session's start), product str,
        bid_price_k, ask_price_k float64 (ticks, whole numbers, NaN where the level is absent), k = 1..n_levels,
        bid_size_k, ask_size_k float64 (lots, whole numbers >= 0, NaN where the level is absent),
        pnl float64 (currency, NaN where there is no such column or cell).
    `trades` columns, one row per trade, possibly empty:
        file, line, session, time_ns, product as above; price float64 (ticks), size float64 (lots),
        side int (+1 buyer-initiated, -1 seller-initiated, 0 unknown).
    """

    books: pd.DataFrame
    trades: pd.DataFrame
    products: tuple[Product, ...]
    n_levels: int
    files: tuple[SourceFile, ...]
    origin: Origin


@struct.dataclass
class MarketData:
    """Clean books of P products, K levels, on one grid of T steps. Build it with `MarketData.build`.

    Best level first. An absent level has size 0 and stands one tick beyond the level before it, so that prices stay
    strictly ordered and no sentinel enters arithmetic. A row that was not observed (`valid` False) repeats the
    product's last book.
    """

    bid_price: jax.Array  # int32[T, P, K] ticks, strictly descending over K
    ask_price: jax.Array  # int32[T, P, K] ticks, strictly ascending over K
    bid_size: jax.Array  # int32[T, P, K] lots, >= 0
    ask_size: jax.Array  # int32[T, P, K] lots, >= 0
    trade_volume: jax.Array  # int32[T, P] lots traded since the row before
    trade_imbalance: jax.Array  # int32[T, P] lots bought less lots sold by takers since the row before
    pnl: jax.Array  # float32[T, P] currency, the recorded PnL column, NaN where absent
    valid: jax.Array  # bool[T, P] False where the row repeats the last observed book
    seconds: jax.Array  # float32[T] seconds since the session's start, strictly increasing within a session
    session: jax.Array  # int32[T] trading session, never decreasing
    products: tuple[Product, ...] = struct.field(pytree_node=False)
    origin: Origin = struct.field(pytree_node=False)

    @classmethod
    def build(cls, *, products: tuple[Product, ...], origin: Origin, **arrays: np.ndarray | jax.Array) -> "MarketData":
        """MarketData from host arrays, its invariants checked.

        Arrays are named and shaped as the fields; `session` may be left out (one session). Raises InputError that
        names the first row, product and invariant which does not hold.
        """
        if "session" not in arrays and "seconds" in arrays:
            arrays["session"] = np.zeros(np.shape(arrays["seconds"])[:1], np.int32)
        missing = _ARRAYS.keys() - arrays.keys()
        unknown = arrays.keys() - _ARRAYS.keys()
        if missing or unknown:
            raise InputError(f"MarketData: missing fields {sorted(missing)}, unknown fields {sorted(unknown)}")
        host = {name: _as_dtype(name, arrays[name]) for name in _ARRAYS}
        _check(host, products)
        if origin not in ("recorded", "simulated", "synthetic"):
            raise InputError(f"MarketData: origin must be recorded, simulated or synthetic, got {origin!r}")
        return cls(**{k: jax.numpy.asarray(v) for k, v in host.items()}, products=tuple(products), origin=origin)

    @property
    def n_steps(self) -> int:
        return self.bid_price.shape[0]

    @property
    def n_products(self) -> int:
        return self.bid_price.shape[1]

    @property
    def n_levels(self) -> int:
        return self.bid_price.shape[2]

    @property
    def double_mid(self) -> jax.Array:
        """int32[T, P] best bid plus best ask: twice the mid, in whole ticks."""
        return self.bid_price[..., 0] + self.ask_price[..., 0]

    def rows(self, start: int, stop: int) -> "MarketData":
        """The steps `start` to `stop` (exclusive)."""
        return jax.tree.map(lambda x: x[start:stop], self)

    def tick_values(self) -> np.ndarray:
        """float64[P] what one tick on one lot is worth [currency]."""
        return np.array([p.tick_value for p in self.products])


_ARRAYS = {
    "bid_price": np.int32,
    "ask_price": np.int32,
    "bid_size": np.int32,
    "ask_size": np.int32,
    "trade_volume": np.int32,
    "trade_imbalance": np.int32,
    "pnl": np.float32,
    "valid": np.bool_,
    "seconds": np.float32,
    "session": np.int32,
}


def _as_dtype(name: str, array: np.ndarray | jax.Array) -> np.ndarray:
    given, dtype = np.asarray(array), np.dtype(_ARRAYS[name])
    with np.errstate(invalid="ignore"):
        cast: np.ndarray = given.astype(dtype)
    if dtype == np.int32 and not np.array_equal(cast, given):
        raise InputError(f"MarketData: {name} holds values that are not whole numbers within 32 bits")
    return cast


def _check(host: dict[str, np.ndarray], products: tuple[Product, ...]) -> None:
    bid = host["bid_price"]
    if bid.ndim != 3 or 0 in bid.shape:
        raise InputError(f"MarketData: bid_price must be [T, P, K] and not empty, got shape {bid.shape}")
    n_steps, n_products, _ = bid.shape
    if len(products) != n_products:
        raise InputError(f"MarketData: {len(products)} products named, {n_products} in the arrays")
    if len({p.name for p in products}) != n_products:
        raise InputError("MarketData: two products have one name")
    for name, array in host.items():
        expected = {"seconds": (n_steps,), "session": (n_steps,)}.get(
            name, bid.shape if name.endswith(("price", "size")) else bid.shape[:2]
        )
        if array.shape != expected:
            raise InputError(f"MarketData: {name} has shape {array.shape}, expected {expected}")
    ask = host["ask_price"]
    broken = {
        "a price is beyond 2**28 ticks": (
            (np.minimum(bid, ask) <= -LARGEST_TICK) | (np.maximum(bid, ask) >= LARGEST_TICK)
        ).any(-1),
        "bids are not strictly descending": (np.diff(bid, axis=-1) >= 0).any(-1),
        "asks are not strictly ascending": (np.diff(ask, axis=-1) <= 0).any(-1),
        "the book is crossed or locked": bid[..., 0] >= ask[..., 0],
        "more than 2**30 lots stand on one side": (
            np.maximum(host["bid_size"].sum(-1, dtype=np.int64), host["ask_size"].sum(-1, dtype=np.int64)) > 2**30
        ),
        "a size is negative": (host["bid_size"] < 0).any(-1) | (host["ask_size"] < 0).any(-1),
        "a best level is absent": (host["bid_size"][..., 0] == 0) | (host["ask_size"][..., 0] == 0),
        "traded volume is negative": host["trade_volume"] < 0,
        "trade imbalance exceeds traded volume": np.abs(host["trade_imbalance"]) > host["trade_volume"],
    }
    for what, where in broken.items():
        if where.any():
            t, p = np.argwhere(where)[0]
            raise InputError(f"MarketData: {what} at step {t}, product {products[p].name!r}")
    same_session = np.diff(host["session"]) == 0
    if (np.diff(host["session"]) < 0).any():
        raise InputError("MarketData: sessions go backward")
    backward = same_session & ~(np.diff(host["seconds"]) > 0)
    if backward.any() or not np.isfinite(host["seconds"]).all():
        raise InputError(f"MarketData: seconds do not increase after step {int(np.argmax(backward))}")


def assert_not_synthetic(data: MarketData, purpose: str) -> None:
    """Raise InputError where generated books are about to be used as evidence (validation, test, backtest)."""
    if data.origin == "synthetic":
        raise InputError(f"synthetic data may not be used for {purpose}")
