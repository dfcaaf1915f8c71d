"""Product agents over futures by rule: trend, carry and reversal, and the streams of returns that they hand in.

An agent is one rule in one asset class: it holds the class's products, each in proportion to the rule's signal over the
product's volatility, shared evenly among those that have both. (One agent for each rule and product, 75 of them, would
have the controller solve risk parity of 75 agents at every step that it learns from.) What a rule wants after the close
of one session is traded at the next close and earns from there on, so a whole session lies between knowing and
trading.

Trend is the mean over a quarter, half a year and a year of the return in units of volatility, cut at one (after
Moskowitz, Ooi and Pedersen 2012, "Time series momentum"). Reversal is the same of the last week, with its sign turned,
averaged over the days of a week (after Lehmann 1990, "Fads, martingales and market efficiency"). Carry (Koijen,
Moskowitz, Pedersen and Vrugt 2018) is the return if prices stay; it would take a second contract to see it, and there
is one price only. Its proxy is what changes of contract did give in the last two years, known once they happened, a
year, over volatility: it is late, and blind to what has not rolled yet.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
from futures import CLASSES, PRODUCTS, Futures

ROWS_A_YEAR = 260
RULES = ("trend", "carry", "reversal")
AGENTS = tuple(f"{rule} {name}" for name in CLASSES for rule in RULES)
"""Rules of one class stand side by side."""
AGENT_CLASSES = np.repeat(np.arange(len(CLASSES)), len(RULES))
"""int[A] of every agent."""

_TREND_ROWS = (65, 130, 260)
_WEEK = 5
_CARRY_ROWS = 2 * ROWS_A_YEAR
_FULL_CARRY = 0.5
"""Carry over volatility, a year, at which the signal is one."""
_FAST, _SLOW, _LEAST_ROWS = 32.0, 260.0, 65
"""Half-lives of the volatility, and how many closes it takes [closes]."""
_RISK = 0.2
"""Volatility of a product at a full signal, before it is shared [a year]."""
_MOST_NOTIONAL = 10.0
"""Of one product over capital, before it is shared."""
_BAND = 0.1
"""A position is left alone while it is off by less than this part of a full one."""
_COST = 2.0
"""Of a trade, in half spreads: one is the spread, one for commissions, and for years in which it was wider."""


class Records(NamedTuple):
    """What A agents did in T rows, float64[T, A], on their capital."""

    returns: np.ndarray  # net of what their trading cost
    cost: np.ndarray  # of their trading
    turnover: np.ndarray  # notional traded
    confidence: np.ndarray  # mean absolute signal, 0 to 1
    unwinding: np.ndarray  # what selling all that is held would cost


def volatility(returns: pd.Series) -> pd.Series:
    """Of a product, a year, from its returns up to each close: of the last weeks, at least half that of the years."""
    fast, slow = (returns.ewm(halflife=h, min_periods=_LEAST_ROWS).std() for h in (_FAST, _SLOW))
    return np.maximum(fast, 0.5 * slow) * ROWS_A_YEAR**0.5


def signals(returns: pd.Series, roll_yield: pd.Series) -> dict[str, pd.Series]:
    """Every rule's signal of one product, -1 to 1, from its closes up to each; NaN while it has too few."""
    known = volatility(returns)

    def moved(rows: int) -> pd.Series:
        return (returns.rolling(rows).sum() / (known * (rows / ROWS_A_YEAR) ** 0.5)).clip(-1.0, 1.0)

    carry = roll_yield.rolling(_CARRY_ROWS, min_periods=ROWS_A_YEAR).mean() * ROWS_A_YEAR / known
    return {
        "trend": sum(moved(rows) for rows in _TREND_ROWS) / len(_TREND_ROWS),
        "carry": (carry / _FULL_CARRY).clip(-1.0, 1.0),
        "reversal": -moved(_WEEK).rolling(_WEEK).mean(),
    }


def wanted(futures: Futures) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Every rule's signal and what a full one means in notional over capital, float64[T, P] as known after each row.

    A signal is NaN while it is unknown; on a row without a close both are those of the last one.
    """
    rows = range(len(futures.dates))
    by_rule: dict[str, list[np.ndarray]] = {rule: [] for rule in RULES}
    full = []
    for p in range(futures.priced.shape[1]):
        at = futures.priced[:, p]
        # A return is known from the second close on.
        returns = pd.Series(futures.returns[at, p], np.flatnonzero(at)).iloc[1:]
        roll = pd.Series(futures.roll_yield[at, p], np.flatnonzero(at)).iloc[1:]
        for rule, signal in signals(returns, roll).items():
            by_rule[rule].append(signal.reindex(rows).ffill().to_numpy())
        full.append((_RISK / volatility(returns)).clip(upper=_MOST_NOTIONAL).reindex(rows).ffill().to_numpy())
    return {rule: np.stack(columns, 1) for rule, columns in by_rule.items()}, np.stack(full, 1)


def held(target: np.ndarray, full: np.ndarray, priced: np.ndarray) -> np.ndarray:
    """Positions float64[T, P] after the trades of each row, in notional over capital.

    A row's trades go to the `target` of the row before, but where there is no close to trade at, and where what is held
    is within the band of it. `full` is what a full signal means.
    """
    position = np.zeros_like(target)
    for t in range(1, len(target)):
        before, goal = position[t - 1], target[t - 1]
        trades = priced[t] & (np.abs(goal - before) > _BAND * full[t - 1])
        position[t] = np.where(trades, goal, before)
    return position


def records(futures: Futures) -> Records:
    """What every agent of AGENTS did. An agent without a signal does nothing, earns nothing and is not sure."""
    by_rule, full = wanted(futures)
    spreads = np.array([product.spread for product in PRODUCTS.values()])
    fee = _COST * spreads / np.where(np.isnan(futures.price), np.inf, futures.price)
    columns: dict[str, list[np.ndarray]] = {field: [] for field in Records._fields}
    for name in CLASSES:
        own = np.array([product.asset_class == name for product in PRODUCTS.values()])
        for rule in RULES:
            signal, most = by_rule[rule][:, own], full[:, own]
            known = np.isfinite(signal) & np.isfinite(most)
            share = 1.0 / np.maximum(known.sum(1, keepdims=True), 1)
            most = np.where(known, most, 0.0) * share
            position = held(np.where(known, signal, 0.0) * most, most, futures.priced[:, own])
            before = np.vstack([np.zeros_like(position[:1]), position[:-1]])
            # A change of contract is one order, for the one against the other.
            traded = np.abs(position - before) + np.abs(before) * futures.rolled[:, own]
            cost = (fee[:, own] * traded).sum(1)
            columns["returns"].append((before * futures.returns[:, own]).sum(1) - cost)
            columns["cost"].append(cost)
            columns["turnover"].append(traded.sum(1))
            columns["confidence"].append((np.where(known, np.abs(signal), 0.0) * share).sum(1))
            columns["unwinding"].append((fee[:, own] * np.abs(position)).sum(1))
    return Records(**{field: np.stack(values, 1) for field, values in columns.items()})
