"""A Poisson order book (Cont, Stoikov & Talreja 2010), event by event in plain Python, with the rates it was made of.

Limit orders of one lot's size come at a rate for each distance from the opposite best quote, every resting order is
cancelled at a rate of its own, and market orders take one order from the front.
"""

import dataclasses

import numpy as np

from marljax.lob.sessions.session import EventKind, Session


@dataclasses.dataclass(frozen=True)
class Rates:
    limit: tuple[float, ...] = (1.0, 0.8, 0.6, 0.4, 0.2)
    """Of limit orders 1, 2, ... ticks from the opposite best quote, each side [1/s]."""
    market: float = 0.5
    """Each side [1/s]."""
    cancel: float = 0.2
    """Of each resting order [1/s]."""


def simulate(seed: int, seconds: float, rates: Rates = Rates(), lots: int = 1, levels: int = 10) -> Session:
    """The session, from five orders on each side. The last order of a side neither trades nor is cancelled."""
    rng = np.random.default_rng(seed)
    books = {1: {1000 - k: 1 for k in range(5)}, -1: {1001 + k: 1 for k in range(5)}}
    time, events, rows = 0.0, [], []
    while True:
        best = {1: max(books[1]), -1: min(books[-1])}
        orders = {side: sum(books[side].values()) for side in (1, -1)}
        choices = [
            (EventKind.LIMIT, side, best[-side] - side * (k + 1), rate)
            for side in (1, -1)
            for k, rate in enumerate(rates.limit)
        ]
        for side in (1, -1):
            if orders[side] > 1:
                choices.append((EventKind.EXECUTION, side, best[side], rates.market))
                choices += [(EventKind.CANCEL, side, price, rates.cancel * n) for price, n in books[side].items()]
        weights = np.array([choice[3] for choice in choices])
        time += rng.exponential(1 / weights.sum())
        if time > seconds:
            break
        kind, side, price, _ = choices[int(np.searchsorted(np.cumsum(weights), rng.uniform() * weights.sum()))]
        change = 1 if kind == EventKind.LIMIT else -1
        books[side][price] = books[side].get(price, 0) + change
        if not books[side][price]:
            del books[side][price]
        events.append((time, kind, side, price))
        rows.append([_levels(books[s], s, levels) for s in (1, -1)])
    at, kind, side, price = (np.array(column) for column in zip(*events, strict=True))
    book = np.array(rows)
    return Session(
        seconds=at,
        kind=kind,
        side=side,
        price=price,
        size=np.full(len(at), lots),
        bid_price=book[:, 0, :, 0],
        bid_size=book[:, 0, :, 1] * lots,
        ask_price=book[:, 1, :, 0],
        ask_size=book[:, 1, :, 1] * lots,
        duration=seconds,
        product="POISSON",
    )


def _levels(book: dict[int, int], side: int, levels: int) -> list[tuple[int, int]]:
    best_first = sorted(book.items(), key=lambda level: -side * level[0])[:levels]
    return best_first + [(0, 0)] * (levels - len(best_first))
