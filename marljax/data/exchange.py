"""A small exchange simulator: one limit order book per product, makers that quote in it and takers that hit it.

Orders rest in price-time priority on integer ticks. Makers quote around a fair value they are told, shade it against
their inventory, move a quote only when it is stale and refill after a delay; takers send market orders. One step is
`quote`, then `snapshot`, then `trade`: a trade happens after the snapshot of its step and before the next, against the
levels that the snapshot showed. Plain Python with only + - * / in floating point, so that every platform gets the same
book. The takers who know the next fair value are those of Glosten and Milgrom (1985).
"""

import dataclasses
import math
from collections import deque
from random import Random

BUY, SELL = 1, -1

PARTICIPANT = "SUBMISSION"
"""The one market participant whose trades carry a name and whose PnL is recorded."""


def normal(rng: Random) -> float:
    """A nearly standard normal number: the sum of twelve uniforms less six, which no maths library can change."""
    total = -6.0
    for _ in range(12):
        total += rng.random()
    return total


def whole(rng: Random, low: int, high: int) -> int:
    """A whole number, uniform on low..high, both included. Only `random()` is promised to be stable by Python."""
    return low + int(rng.random() * (high - low + 1))


@dataclasses.dataclass(eq=False)
class Order:
    """A resting limit order."""

    maker: "Maker"
    side: int  # BUY or SELL
    price: int  # ticks
    size: int  # lots left


@dataclasses.dataclass(frozen=True)
class Trade:
    """An execution. `buyer` and `seller` are empty for the anonymous crowd."""

    side: int  # BUY: the buyer took
    price: int  # ticks
    size: int  # lots
    buyer: str
    seller: str


class Book:
    """A limit order book in price-time priority."""

    def __init__(self) -> None:
        self.queues: dict[int, dict[int, deque[Order]]] = {BUY: {}, SELL: {}}

    def best(self, side: int) -> int | None:
        """The best price of a side [ticks], None where it is empty."""
        prices = self.queues[side]
        if not prices:
            return None
        return max(prices) if side == BUY else min(prices)

    def levels(self, side: int, count: int) -> list[tuple[int, int]]:
        """Price [ticks] and size [lots] of the best levels, best first, at most `count`."""
        prices = sorted(self.queues[side], reverse=side == BUY)[:count]
        return [(price, sum(order.size for order in self.queues[side][price])) for price in prices]

    def post(self, order: Order) -> None:
        """Queue an order behind those at its price. The caller keeps it off the other side."""
        self.queues[order.side].setdefault(order.price, deque()).append(order)

    def cancel(self, order: Order) -> None:
        queue = self.queues[order.side][order.price]
        queue.remove(order)
        if not queue:
            del self.queues[order.side][order.price]

    def take(self, side: int, size: int, deepest: int) -> list[tuple[Order, int]]:
        """Execute a market order of `size` lots that walks no further than the price `deepest` [ticks].

        Returns the resting orders it met, best price and longest wait first, each with the lots executed.
        """
        fills: list[tuple[Order, int]] = []
        queues = self.queues[-side]
        while size > 0 and (price := self.best(-side)) is not None and side * (deepest - price) >= 0:
            order = queues[price][0]
            executed = min(size, order.size)
            order.size -= executed
            size -= executed
            fills.append((order, executed))
            if order.size == 0:
                self.cancel(order)
        return fills


@dataclasses.dataclass(frozen=True)
class Conditions:
    """What the agents of one product go by in a step."""

    fair: float  # ticks
    spread: float  # factor on every maker's distance from the fair value
    depth: float  # factor on every maker's size
    pressure: float  # order-flow pressure, about standard normal, > 0 where buyers are the more eager
    arrivals: float  # factor on the rate of takers


@dataclasses.dataclass(eq=False)
class Maker:
    """Quotes one order on each side."""

    name: str
    distance: float  # ticks from the fair value to each quote, before rounding outward
    size: int  # lots, typical
    skew: float  # ticks by which the quotes move against one lot of inventory
    position_limit: int  # lots
    inventory: int = 0  # lots
    quotes: dict[int, Order] = dataclasses.field(default_factory=dict)
    idle: dict[int, int] = dataclasses.field(default_factory=lambda: {BUY: 0, SELL: 0})  # steps until a refill


@dataclasses.dataclass(frozen=True)
class Style:
    """How one product trades."""

    half_spread: float
    """Distance of the keenest makers from the fair value [ticks]."""
    size: int
    """Typical size of a maker's order [lots]."""
    imbalance: float = 0.25
    """Relative change of a maker's bid size, and the opposite of its ask size, per unit of pressure."""
    patience: int = 1
    """How far a quote may be from where its maker wants it before it is moved [ticks]."""
    refresh: float = 0.06
    """Probability per step that a maker renews a quote that it need not move."""
    arrivals: float = 0.2
    """Expected noise takers per step."""
    lean: float = 0.15
    """How much more likely a noise taker buys, per unit of pressure."""
    informed: float = 0.15
    """Probability that a taker acts on a fair value about to leave the spread."""
    edge: float = 0.5
    """How far beyond the spread the next fair value must be for a taker to act on it [ticks]."""


ROUND_LOT = 10
"""Orders are multiples of this [lots]."""

REFILL_STEPS = 3
"""The longest wait before an executed quote is replaced [steps]."""

SHED = 0.05
"""Share of its inventory that an anonymous maker lays off elsewhere in each step."""

VISIBLE_LEVELS = 3


class Market:
    """One product: its book, its makers and takers, and the participant's account."""

    def __init__(self, style: Style, rng: Random) -> None:
        self.style, self.rng, self.book = style, rng, Book()
        crowd = [(0.0, 1.0), (0.3, 1.0), (0.9, 1.3), (1.4, 1.5), (2.2, 2.0), (3.0, 2.5)]
        self.makers = [
            Maker("", style.half_spread + extra, round(style.size * weight), 0.004, 10**6) for extra, weight in crowd
        ]
        self.participant = Maker(PARTICIPANT, style.half_spread - 0.1, ROUND_LOT, 0.02, 4 * ROUND_LOT)
        self.makers.append(self.participant)
        self.cash = 0  # the participant's, in tick times lots

    def quote(self, now: Conditions) -> None:
        """Let every maker refill, move or leave its quotes.

        Stale quotes are withdrawn before any is posted, and nobody posts through the other side: makers never trade
        with each other.
        """
        wanted: list[tuple[Maker, int, int]] = []
        for maker in self.makers:
            if maker is not self.participant:
                maker.inventory -= int(SHED * maker.inventory)
            centre = now.fair - maker.skew * maker.inventory
            distance = maker.distance * now.spread
            for side in (BUY, SELL):
                price = math.floor(centre - distance) if side == BUY else math.ceil(centre + distance)
                order = maker.quotes.get(side)
                if order is not None:
                    stale = abs(order.price - price) > self.style.patience
                    if not stale and self.rng.random() >= self.style.refresh:
                        continue
                    self.book.cancel(order)
                    del maker.quotes[side]
                elif maker.idle[side] > 0:
                    maker.idle[side] -= 1
                    continue
                if side * maker.inventory < maker.position_limit:
                    wanted.append((maker, side, price))
        for maker, side, price in wanted:
            other = self.book.best(-side)
            if other is not None and side * (other - price) <= 0:
                price = other - side
            order = Order(maker, side, price, self._size(maker, side, now))
            self.book.post(order)
            maker.quotes[side] = order

    def _size(self, maker: Maker, side: int, now: Conditions) -> int:
        if maker is self.participant:
            return ROUND_LOT
        tilt = min(max(1 + self.style.imbalance * side * now.pressure, 0.3), 1.7)
        size = maker.size * now.depth * tilt * (0.5 + self.rng.random())
        return ROUND_LOT * max(1, round(size / ROUND_LOT))

    def snapshot(self) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """The visible bids and asks, best first: (price [ticks], size [lots])."""
        return self.book.levels(BUY, VISIBLE_LEVELS), self.book.levels(SELL, VISIBLE_LEVELS)

    def trade(self, now: Conditions, next_fair: float) -> list[Trade]:
        """The takers of one step, after its snapshot: noise that leans with the pressure, and the informed.

        Each side is hit at most once, walks the visible levels only and leaves the last of them standing.
        """
        rng, style = self.rng, self.style
        bids, asks = self.snapshot()
        orders: dict[int, int] = {}
        if rng.random() < style.arrivals * now.arrivals:
            side = BUY if rng.random() < 0.5 + style.lean * now.pressure else SELL
            orders[side] = ROUND_LOT * whole(rng, 1, 8)
        if rng.random() < style.informed:
            if next_fair > asks[0][0] + style.edge:
                orders[BUY] = orders.get(BUY, 0) + ROUND_LOT * whole(rng, 2, 15)
            elif next_fair < bids[0][0] - style.edge:
                orders[SELL] = orders.get(SELL, 0) + ROUND_LOT * whole(rng, 2, 15)
        trades: list[Trade] = []
        for side, size in orders.items():
            levels = asks if side == BUY else bids
            size = min(size, sum(lots for _, lots in levels[:-1]))
            trades += self._execute(side, size, levels[-1][0])
        return trades

    def _execute(self, side: int, size: int, deepest: int) -> list[Trade]:
        prints: dict[tuple[int, str], int] = {}
        for order, lots in self.book.take(side, size, deepest):
            maker = order.maker
            maker.inventory -= side * lots
            if order.size == 0:
                del maker.quotes[order.side]
                maker.idle[order.side] = whole(self.rng, 0, REFILL_STEPS)
            if maker is self.participant:
                self.cash += side * lots * order.price
            prints[order.price, maker.name] = prints.get((order.price, maker.name), 0) + lots
        return [
            Trade(side, price, lots, *(("", name) if side == BUY else (name, "")))
            for (price, name), lots in prints.items()
        ]

    def double_pnl(self) -> int:
        """Twice the participant's PnL [ticks times lots]: cash of trades so far plus position at the mid."""
        bid, ask = self.book.best(BUY), self.book.best(SELL)
        if bid is None or ask is None:
            raise RuntimeError("the makers left one side of the book empty")
        return 2 * self.cash + self.participant.inventory * (bid + ask)
