"""A slow, obvious market maker on recorded books: dictionaries of sizes, Python integers, cash and position."""

from dataclasses import dataclass, field

import jax.numpy as jnp
import numpy as np

from marljax.data.schema import MarketData
from tests.reference.books import random_market
from tests.reference.trading import Book, CashAccount, Costs

PESSIMISTIC, PROPORTIONAL, FRONT = "pessimistic", "proportional", "front"


@dataclass
class Row:
    """One row of one product."""

    bids: list[tuple[int, int]]
    """(price, size), best first; an absent level has size 0."""
    asks: list[tuple[int, int]]
    sold: int = 0
    """Lots that takers sold since the row before."""
    bought: int = 0
    observed: bool = True

    def book(self) -> Book:
        return Book(self.bids, self.asks, self.observed)

    def levels(self, side: str) -> list[tuple[int, int]]:
        return self.bids if side == "bid" else self.asks

    def size_at(self, side: str, price: int) -> int:
        return dict(self.levels(side)).get(price, 0)

    def size_before(self, side: str, price: int) -> int:
        """Lots of the side at prices better than this one."""
        return sum(n for p, n in self.levels(side) if (p > price if side == "bid" else p < price))

    def in_sight(self, side: str, price: int, reach: int) -> bool:
        best, last = self.levels(side)[0][0], self.levels(side)[-1][0]
        behind, furthest = abs(best - price), abs(best - last)
        inside = price > best if side == "bid" else price < best
        return inside or behind <= min(furthest, reach)

    def meets(self, side: str, price: int) -> int:
        """Lots of the other side that an order of this side at this price would trade with."""
        if side == "bid":
            return sum(n for p, n in self.asks if p <= price)
        return sum(n for p, n in self.bids if p >= price)

    def crosses(self, side: str, price: int) -> bool:
        return price >= self.asks[0][0] if side == "bid" else price <= self.bids[0][0]


def calm_market(
    seed: int,
    n_steps: int,
    sizes: tuple[int, int] = (1, 60),
    busy: int = 60,
    n_sessions: int = 1,
    invalid: float = 0.05,
    n_levels: int = 4,
) -> MarketData:
    """Books whose touch moves now and then, so that orders wait; up to `busy` lots a row are traded."""
    rng = np.random.default_rng(seed)
    data = random_market(seed, n_steps=n_steps, n_products=1, n_levels=n_levels, invalid=invalid, n_sessions=n_sessions)
    mid = 10_000 + np.cumsum(rng.integers(-1, 2, n_steps) * (rng.random(n_steps) < 0.15))
    ticks, size = np.arange(1, n_levels + 1), rng.integers(*sizes, (2, n_steps, 1, n_levels))
    volume = rng.integers(0, busy + 1, (n_steps, 1))
    return data.replace(
        bid_price=jnp.asarray(mid[:, None, None] - ticks, jnp.int32),
        ask_price=jnp.asarray(mid[:, None, None] + ticks, jnp.int32),
        bid_size=jnp.asarray(size[0], jnp.int32),
        ask_size=jnp.asarray(size[1], jnp.int32),
        trade_volume=jnp.asarray(volume, jnp.int32),
        trade_imbalance=jnp.asarray(np.round(volume * rng.uniform(-1, 1, volume.shape)), jnp.int32),
    )


def rows_of(data: MarketData, product: int = 0) -> list[Row]:
    """The rows of one product of MarketData."""

    def side(price: np.ndarray, size: np.ndarray, t: int) -> list[tuple[int, int]]:
        return [(int(p), int(n)) for p, n in zip(price[t, product], size[t, product], strict=True)]

    bid_price, bid_size, ask_price, ask_size, volume, net, valid = (
        np.asarray(getattr(data, name))
        for name in ("bid_price", "bid_size", "ask_price", "ask_size", "trade_volume", "trade_imbalance", "valid")
    )
    made = []
    for t in range(len(valid)):
        unsided = int(volume[t, product]) - abs(int(net[t, product]))
        bought = max(int(net[t, product]), 0) + unsided // 2
        sold = max(-int(net[t, product]), 0) + unsided // 2
        seen = bool(valid[t, product])
        made.append(
            Row(side(bid_price, bid_size, t), side(ask_price, ask_size, t), sold * seen, bought * seen, observed=seen)
        )
    return made


@dataclass
class Resting:
    price: int
    left: int
    ahead: np.float32 | None
    """None: out of sight."""


@dataclass
class MarketMaker:
    """Walks the rows with one order a side."""

    rows: list[Row]
    model: str
    limit: int
    reach: int
    charges: tuple[float, float] = (0.0, 0.0)
    """Maker fee, as a fraction of notional and in currency per lot."""
    orders: dict[str, Resting | None] = field(default_factory=lambda: {"bid": None, "ask": None})
    account: CashAccount = field(default_factory=CashAccount)
    fills: list[tuple[int, int]] = field(default_factory=list)
    """Lots bought by the bid and sold by the ask, step by step."""

    def arrive(self, row: Row, wanted: dict[str, tuple[int, int]], side: str) -> None:
        price, size = wanted[side]
        held = self.account.position if side == "bid" else -self.account.position
        size = min(size, max(self.limit - held, 0))
        standing = self.orders[side]
        if standing is not None and standing.price == price:
            standing.left = min(standing.left, size)
        elif row.crosses(side, price):
            self.orders[side] = None
        elif self.model == FRONT:
            self.orders[side] = Resting(price, size, np.float32(0))
        elif row.in_sight(side, price, self.reach):
            self.orders[side] = Resting(price, size, np.float32(row.size_at(side, price)))
        else:
            self.orders[side] = Resting(price, size, None)
        self.drop_empty(side)

    def drop_empty(self, side: str) -> None:
        order = self.orders[side]
        if order is not None and order.left == 0:
            self.orders[side] = None

    def move(self, before: Row, after: Row, side: str, costs: Costs) -> int:
        """Lots filled between two rows."""
        order = self.orders[side]
        if order is None:
            return 0
        seen, still_seen = (row.in_sight(side, order.price, self.reach) for row in (before, after))
        taken = after.sold if side == "bid" else after.bought
        reached = seen and after.size_before(side, order.price) == 0
        taken = max(taken - before.size_before(side, order.price), 0) if reached else 0
        filled = 0
        if order.ahead is not None:
            passed = max(np.float32(taken) - order.ahead, np.float32(0))
            order.ahead = max(order.ahead - np.float32(taken), np.float32(0))
            filled = int(np.floor(passed))
        crossed = after.meets(side, order.price)
        filled = min(order.left, filled + crossed)

        stood, stands = max(before.size_at(side, order.price) - taken, 0), after.size_at(side, order.price)
        if order.ahead is not None and seen and still_seen and stands < stood and self.model == PROPORTIONAL:
            order.ahead = order.ahead * np.float32(stands) / np.float32(stood)
        if still_seen:
            shown = np.float32(stands)
            order.ahead = shown if order.ahead is None else min(order.ahead, shown)
        order.left = 0 if crossed else order.left - filled
        sign = 1 if side == "bid" else -1
        self.account.position += sign * filled
        self.account.cash_ticks -= sign * filled * order.price
        rate, per_lot = self.charges
        self.account.charges += filled * (per_lot + rate * abs(order.price) * costs.tick_value)
        self.drop_empty(side)
        return filled

    def step(
        self, t: int, wanted: dict[str, tuple[int, int]] | None, late: bool, flat: bool, last: bool, costs: Costs
    ) -> None:
        """From row t to t + 1. `wanted` None keeps the orders; on flat rows the position is closed with a taker."""
        before, after = self.rows[t], self.rows[t + 1]
        if flat:
            self.orders = {"bid": None, "ask": None}
            wanted = None
            self.account.trade(0, before.book(), (after if late and not last else before).book(), costs)
        filled = {"bid": 0, "ask": 0}
        if wanted is not None and not late:
            for side in ("bid", "ask"):
                self.arrive(before, wanted, side)
        for side in ("bid", "ask"):
            if not last:
                filled[side] = self.move(before, after, side, costs)
            if wanted is not None and late:
                self.arrive(after, wanted, side)
        if last:
            self.orders = {"bid": None, "ask": None}
        self.fills.append((filled["bid"], filled["ask"]))
