"""Daily closes of 25 futures, 2000 to 2022, as returns, roll yields and prices, with their holes left as holes.

Two files: the price of the contract that is held, and the same adjusted backwards so that a change of contract moves
nothing. A product has a price on a row where both files have one. What happened over a hole is earned on the row that
ends it, nothing can be traded within it, and nothing is filled from later rows. Closes which repeat an earlier one, as
some columns do from 2018 to 2020, cannot be told from quiet days and stay: who trades a whole session after he decided
loses nothing by them, nor does he know of a close before it was one.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from marljax.data.schema import InputError

_ROLL = 1e-5
"""Difference between the two files' moves that is a change of contract and no rounding [fraction of the price]."""


class Product(NamedTuple):
    """One future."""

    asset_class: str
    spread: float
    """Half of its spread [price]."""


PRODUCTS = {
    "SP500": Product("equity", 0.13),
    "NASDAQ": Product("equity", 0.35),
    "RUSSELL": Product("equity", 0.11),
    "EUROSTX": Product("equity", 0.48),
    "VIX": Product("equity", 0.025),
    "V2X": Product("equity", 0.026),
    "US2": Product("bonds", 0.002),
    "US5": Product("bonds", 0.0039),
    "US10": Product("bonds", 0.008),
    "US20": Product("bonds", 0.016),
    "SHATZ": Product("bonds", 0.0025),
    "OAT": Product("bonds", 0.0072),
    "EUR": Product("currencies", 2.9e-5),
    "JPY": Product("currencies", 2.7e-7),
    "GBP": Product("currencies", 6.1e-5),
    "AUD": Product("currencies", 3.3e-5),
    "MXP": Product("currencies", 5.5e-6),
    "BITCOIN": Product("currencies", 20.0),
    "GOLD": Product("metals", 0.068),
    "COPPER": Product("metals", 0.00043),
    "CRUDE_W": Product("energy", 0.012),
    "GAS_US": Product("energy", 0.0019),
    "CORN": Product("grains", 0.16),
    "WHEAT": Product("grains", 0.37),
    "SOYBEAN": Product("grains", 0.25),
}
"""Futures on volatility count as equity, whose options they are made of, and bitcoin as a currency, so that every class
has been traded since 2000. Spreads are the `SpreadCost` that pysystemtrade publishes from its author's own trading
(data/futures/csvconfig/spreadcosts.csv)."""
CLASSES = tuple(dict.fromkeys(product.asset_class for product in PRODUCTS.values()))


class Futures(NamedTuple):
    """T rows of P products; dates datetime64[T], the rest [T, P]."""

    dates: np.ndarray
    priced: np.ndarray  # bool, whether there is a close
    returns: np.ndarray  # float64 simple, of the notional, since the last close; zero where there is none
    roll_yield: np.ndarray  # float64 what a change of contract gave to who is long [fraction of the price], else zero
    rolled: np.ndarray  # bool, whether the contract was changed since the last close
    price: np.ndarray  # float64 last close of the contract, NaN before the first


def from_prices(adjusted: pd.DataFrame, contract: pd.DataFrame) -> Futures:
    """The same from two tables of closes, a column for each product.

    Raises InputError for a price that is not positive, and where the tables differ in their rows or columns.
    """
    if not (adjusted.index.equals(contract.index) and list(adjusted) == list(contract)):
        raise InputError("futures: adjusted and contract prices must have the same rows and columns")
    if not adjusted.index.is_monotonic_increasing or adjusted.index.has_duplicates:
        raise InputError("futures: dates must ascend")
    known = contract.notna() & adjusted.notna()
    if (contract.where(known) <= 0).any(axis=None):
        name = (contract.where(known) <= 0).any().idxmax()
        raise InputError(f"futures: a contract price of {name} is not positive, a return on it means nothing")
    columns = []
    for name in contract:
        price, level = contract[name][known[name]], adjusted[name][known[name]]
        change = level.diff() / price.shift()
        gap = change - price.diff() / price.shift()
        rolled = gap.abs() > _ROLL
        columns.append(pd.DataFrame({"returns": change, "roll": gap.where(rolled, 0.0), "rolled": rolled}))
    rows = contract.index

    def table(field: str) -> np.ndarray:
        return np.stack([column[field].reindex(rows).fillna(0.0).to_numpy(float) for column in columns], axis=1)

    return Futures(
        dates=rows.to_numpy("datetime64[D]"),
        priced=known.to_numpy(),
        returns=table("returns"),
        roll_yield=table("roll"),
        rolled=table("rolled") > 0,
        price=contract.where(known).ffill().to_numpy(float),
    )


def read_futures(folder: Path) -> Futures:
    """The futures of PRODUCTS, in this order, from the two files in `folder`; InputError where one is missing."""
    tables = []
    for kind in ("adjusted", "contract_price"):
        path = folder / f"futures_{kind}.csv.gz"
        if not path.is_file():
            raise InputError("daily futures are not there: --data is the folder that holds them", file=path)
        table = pd.read_csv(path, index_col=0, parse_dates=True)
        if absent := [name for name in PRODUCTS if name not in table]:
            raise InputError(f"no column for {', '.join(absent)}", file=path)
        tables.append(table[list(PRODUCTS)])
    return from_prices(*tables)
