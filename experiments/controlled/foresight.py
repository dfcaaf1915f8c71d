"""What could have been earned on a tape: the optimum for one who knows it all, by dynamic programming in NumPy.

Positions are whole lots, so the best path through a tape is found exactly: backwards over rows, the best position to go
to from each. What an order costs is worked out from the books anew, level by level, apart from the env that is judged;
a random latency counts with its probability, so values are expectations.
"""

from typing import NamedTuple

import numpy as np

from marljax.data.schema import MarketData
from marljax.envs.tapes import CostConfig


class Best(NamedTuple):
    """The best path through a tape."""

    value: float
    """What it earns, expected over latencies [currency]."""
    position: np.ndarray
    """int64[N] lots after each row's order."""


class Rule(NamedTuple):
    """The best way to trade for one who knows the next move and nothing else that matters."""

    moves: np.ndarray
    """float64[M] every move that was seen [ticks], ascending."""
    target: np.ndarray
    """int64[M, 2L + 1] position to go to, by move and by position held, both counted from -L."""


def walk_cost(prices: np.ndarray, sizes: np.ndarray, mid: float, most: int) -> np.ndarray:
    """float64[most + 1] ticks x lots paid beyond the mid for 0, 1, ..., `most` lots of one side of one book.

    Raises ValueError where fewer stand there: then a target might not be reached.
    """
    lots = np.repeat(np.abs(prices - mid), sizes)
    if len(lots) < most:
        raise ValueError(f"a book shows {len(lots)} lots, and an order may be of {most}")
    return np.concatenate([[0.0], np.cumsum(lots[:most])])


def late_probability(costs: CostConfig, step_seconds: float) -> float:
    """That a latency, a floor plus an exponential part, outlasts a uniform instant within the step."""
    floor, mean = costs.latency_floor / step_seconds, costs.latency_mean / step_seconds
    if floor >= 1.0:
        return 1.0
    return floor + (mean * -np.expm1(-(1.0 - floor) / mean) if mean > 0 else 0.0)


def earnings(data: MarketData, train: MarketData, limit: int, costs: CostConfig) -> np.ndarray:
    """float64[T - 1, 2L + 1, 2L + 1] expected earnings of a row, by position before and after its order [currency].

    Positions are counted from -`limit`. `data` are rows of one session of one product, a tick of a lot worth 1;
    volatility and typical volume for the impact come from `train`.
    """
    mid = 0.5 * np.asarray(data.double_mid, np.float64)[:, 0]
    move = np.diff(mid)
    train_mid = 0.5 * np.asarray(train.double_mid, np.float64)[:, 0]
    volatility, volume = np.diff(train_mid).std(), np.asarray(train.trade_volume, np.float64).mean()
    late = late_probability(costs, float(np.median(np.diff(np.asarray(train.seconds, np.float64)))))

    # By row and by size of the order, of which a purchase meets the asks.
    books = [
        (np.asarray(p)[:, 0], np.asarray(s)[:, 0])
        for p, s in ((data.ask_price, data.ask_size), (data.bid_price, data.bid_size))
    ]
    bought, sold = (
        np.stack([walk_cost(p, s, m, 2 * limit) for p, s, m in zip(prices, sizes, mid, strict=True)])
        for prices, sizes in books
    )
    lots = np.arange(2 * limit + 1)
    impact = costs.impact * volatility * lots * np.sqrt(lots / volume)
    position = np.arange(-limit, limit + 1)
    order = position[None, :] - position[:, None]
    size = np.abs(order)
    slippage = np.where(order > 0, bought[:, size], sold[:, size])
    slippage = (1.0 - late) * slippage[:-1] + late * slippage[1:]
    fees = costs.fee_rate * mid[:-1, None, None] * size + costs.fee_per_lot * size
    gross = (position[None, None, :] - late * order) * move[:, None, None]
    return gross - slippage - impact[size] - fees


def best_path(earned: np.ndarray, flat: np.ndarray) -> Best:
    """The path of the largest sum of `earned` float64[N, Q, Q], from flat, and flat after rows where bool[N]."""
    n, q, _ = earned.shape
    forced = np.where(np.arange(q) == q // 2, 0.0, -np.inf)
    value, choice = np.zeros(q), np.zeros((n, q), np.int64)
    for t in range(n - 1, -1, -1):
        total = earned[t] + value + (forced if flat[t] else 0.0)
        choice[t] = total.argmax(axis=1)
        value = total.max(axis=1)
    return Best(float(value[q // 2]), _follow(choice))


def informed_rule(earned: np.ndarray, move: np.ndarray, rounds: int = 200) -> Rule:
    """The rule of the largest mean earnings where moves are drawn independently from those of a tape.

    Relative value iteration (Puterman, Markov Decision Processes, 1994, section 8.5.5) over `earned` float64[N, Q, Q],
    averaged over the rows of each move float64[N].
    """
    known, which, count = np.unique(move, return_inverse=True, return_counts=True)
    mean = np.zeros((len(known), *earned.shape[1:]))
    np.add.at(mean, which, earned)
    mean /= count[:, None, None]
    value = np.zeros(earned.shape[1])
    for _ in range(rounds):
        value = np.einsum("m,mq->q", count / count.sum(), (mean + value).max(axis=2))
        value = value - value.mean()
    return Rule(known, (mean + value).argmax(axis=2))


def follow_rule(rule: Rule, earned: np.ndarray, move: np.ndarray, flat: np.ndarray) -> float:
    """What a rule earns on a tape, expected over latencies [currency]; an unknown move is taken for its neighbour."""
    which = np.clip(np.searchsorted(rule.moves, move), 0, len(rule.moves) - 1)
    flatten = np.full(earned.shape[1], earned.shape[1] // 2)
    choice = np.where(flat[:, None], flatten, rule.target[which])
    return earned_by(earned, _follow(choice))


def earned_by(earned: np.ndarray, position: np.ndarray) -> float:
    """What the path int64[N] of positions earns [currency]."""
    limit = earned.shape[1] // 2
    after = position + limit
    before = np.concatenate([[limit], after[:-1]])
    return float(earned[np.arange(len(after)), before, after].sum())


def _follow(choice: np.ndarray) -> np.ndarray:
    """int64[N] positions that int64[N, Q] choices lead to, from flat."""
    middle = choice.shape[1] // 2
    at, path = middle, np.zeros(len(choice), np.int64)
    for t, row in enumerate(choice):
        at = path[t] = row[at]
    return path - middle
