"""A limit order book in plain Python: one list of resting parts a side, best first, and a loop over it.

Written from the contract in `marljax.lob.types`; of the engine it shares the names of kinds and codes only.
"""

from dataclasses import dataclass, field

from marljax.lob.types import BUY, MAX_PRICE, MAX_SIZE, SELL, Code, Kind, SelfTrade

INCOMING = (Kind.LIMIT, Kind.MARKET, Kind.IMMEDIATE_OR_CANCEL, Kind.FILL_OR_KILL, Kind.POST_ONLY)
QUEUES = (Kind.LIMIT, Kind.POST_ONLY, Kind.MODIFY)
NAMES = (Kind.CANCEL, Kind.MODIFY)


@dataclass(frozen=True)
class Message:
    kind: int
    side: int = BUY
    price: int = 0
    size: int = 1
    id: int = 0
    owner: int = 0
    peak: int = 0
    self_trade: int = SelfTrade.ALLOW


@dataclass(frozen=True)
class Receipt:
    code: int = Code.ACCEPTED
    traded: int = 0
    rested: int = 0
    cancelled: int = 0
    prevented: int = 0
    displaced: int = 0
    displaced_owner: int = -1


@dataclass(frozen=True)
class Trade:
    message: int
    side: int
    price: int
    size: int
    maker: int
    maker_owner: int
    maker_left: int
    taker: int
    taker_owner: int


@dataclass(eq=False)
class Part:
    """What a queue is made of: a displayed order, or the reserve of an iceberg."""

    id: int
    owner: int
    price: int
    size: int
    hidden: bool
    peak: int
    """Lots that a reserve shows at a time."""


@dataclass(frozen=True)
class Walk:
    """What an incoming order would meet on the other side."""

    fills: list[tuple[Part, int]]
    cancels: list[Part]
    """The owner's own, under SelfTrade.CANCEL_OLDEST."""
    halted: bool
    """It met one of its owner under SelfTrade.CANCEL_NEWEST."""

    @property
    def traded(self) -> int:
        return sum(lots for _, lots in self.fills)


@dataclass
class OrderBook:
    slots: int
    owners: int
    reserves: int = 0
    lowest: int = 1 - MAX_PRICE
    highest: int = MAX_PRICE - 1
    parts: dict[int, list[Part]] = field(default_factory=lambda: {BUY: [], SELL: []})
    """By side, in order of priority: price, displayed before hidden, arrival."""
    trades: list[Trade] = field(default_factory=list)
    added: list[int] = field(init=False)
    """By owner, as the next two [lots]."""
    cancelled: list[int] = field(init=False)
    displaced: list[int] = field(init=False)
    messages: int = 0

    def __post_init__(self) -> None:
        self.added, self.cancelled, self.displaced = ([0] * self.owners for _ in range(3))

    def put(self, message: Message) -> Receipt:
        """What becomes of a message."""
        receipt = self._put(message)
        self.messages += 1
        return receipt

    def find(self, id: int) -> tuple[int, list[Part]]:
        """The side of an order and its parts, displayed first."""
        for side, parts in self.parts.items():
            found = [part for part in parts if part.id == id]
            if found:
                return side, found
        return 0, []

    def line(self, side: int) -> list[tuple[int, int, int, int, int, int]]:
        """(id, price, size, owner, hidden, lots ahead) of each part, in order of priority."""
        rows, ahead = [], 0
        for part in self.parts[side]:
            rows.append((part.id, part.price, part.size, part.owner, int(part.hidden), ahead))
            ahead += part.size
        return rows

    def resting(self, owner: int) -> int:
        """Lots of an owner."""
        return sum(part.size for parts in self.parts.values() for part in parts if part.owner == owner)

    def _put(self, message: Message) -> Receipt:
        if message.kind == Kind.NOTHING:
            return Receipt()
        code = self._malformed(message)
        if code == Code.ACCEPTED:
            code = self._misnamed(message)
        if code != Code.ACCEPTED:
            return Receipt(code)
        side, named = self.find(message.id)
        remaining = sum(part.size for part in named)
        if message.kind == Kind.CANCEL:
            return self._reduce(side, named, min(message.size, remaining))
        if message.kind == Kind.MODIFY and message.price == named[0].price and message.size <= remaining:
            return self._reduce(side, named, remaining - message.size)
        return self._incoming(message, side if message.kind == Kind.MODIFY else message.side, named)

    def _malformed(self, message: Message) -> int:
        if not Kind.NOTHING <= message.kind <= Kind.MODIFY:
            return Code.BAD_KIND
        if message.kind in INCOMING and message.side not in (BUY, SELL):
            return Code.BAD_SIDE
        if not 1 <= message.size <= MAX_SIZE or message.peak < 0:
            return Code.BAD_SIZE
        if message.kind not in (Kind.MARKET, Kind.CANCEL) and not self.lowest <= message.price <= self.highest:
            return Code.BAD_PRICE
        if not 0 <= message.owner < self.owners:
            return Code.BAD_OWNER
        if message.self_trade not in (SelfTrade.ALLOW, SelfTrade.CANCEL_OLDEST, SelfTrade.CANCEL_NEWEST):
            return Code.BAD_RULE
        return Code.ACCEPTED

    def _misnamed(self, message: Message) -> int:
        _, named = self.find(message.id)
        if message.kind in INCOMING:
            return Code.DUPLICATE_ID if named else Code.ACCEPTED
        if not named:
            return Code.UNKNOWN_ID
        return Code.ACCEPTED if named[0].owner == message.owner else Code.NOT_OWNER

    def _reduce(self, side: int, named: list[Part], lots: int) -> Receipt:
        """Take lots from an order, what is hidden first. It keeps its place."""
        left = lots
        for part in reversed(named):
            taken = min(left, part.size)
            part.size -= taken
            left -= taken
        self._drop_empty(side)
        self.cancelled[named[0].owner] += lots
        return Receipt(cancelled=lots, rested=sum(part.size for part in named))

    def _incoming(self, message: Message, side: int, named: list[Part]) -> Receipt:
        """An order that looks for a trade; with `named`, in place of that one."""
        walk = self._walk(message, side)
        if message.kind == Kind.POST_ONLY and (walk.fills or walk.cancels or walk.halted):
            return Receipt(Code.WOULD_TRADE)
        if message.kind == Kind.FILL_OR_KILL and walk.traded < message.size:
            return Receipt(Code.UNFILLABLE)
        rest = message.size - walk.traded
        if message.kind in QUEUES and not walk.halted and 0 < message.peak < rest:
            taken = sum(part.hidden for part in self.parts[side]) - sum(part.hidden for part in named)
            if taken >= self.reserves:
                return Receipt(Code.NO_RESERVE)

        replaced = sum(part.size for part in named)
        self._remove(side, named)
        self.added[message.owner] += message.size
        for part, lots in walk.fills:
            part.size -= lots
            self.trades.append(
                Trade(
                    message=self.messages,
                    side=side,
                    price=part.price,
                    size=lots,
                    maker=part.id,
                    maker_owner=part.owner,
                    maker_left=part.size,
                    taker=message.id,
                    taker_owner=message.owner,
                )
            )
        prevented = sum(part.size for part in walk.cancels)
        self._remove(-side, walk.cancels)
        self._drop_empty(-side)
        self._show_again(-side)

        unqueued = 0 if message.kind in QUEUES and not walk.halted else rest
        self.cancelled[message.owner] += replaced + prevented + unqueued
        receipt = {"traded": walk.traded, "cancelled": replaced + unqueued, "prevented": prevented}
        if rest == unqueued:
            return Receipt(**receipt)
        return Receipt(**receipt, **self._queue(message, side, rest))

    def _walk(self, message: Message, side: int) -> Walk:
        fills, cancels, left = [], [], message.size
        for part in self.parts[-side]:
            if left == 0 or (message.kind != Kind.MARKET and side * part.price > side * message.price):
                break
            if part.owner == message.owner and message.self_trade == SelfTrade.CANCEL_NEWEST:
                return Walk(fills, cancels, halted=True)
            if part.owner == message.owner and message.self_trade == SelfTrade.CANCEL_OLDEST:
                cancels.append(part)
                continue
            lots = min(left, part.size)
            fills.append((part, lots))
            left -= lots
        return Walk(fills, cancels, halted=False)

    def _queue(self, message: Message, side: int, rest: int) -> dict[str, int]:
        """Let the rest of an order be queued; on a full side the worst displayed order gives way."""
        displaced, whose = 0, -1
        displayed = [part for part in self.parts[side] if not part.hidden]
        if len(displayed) == self.slots:
            worst = displayed[-1]
            if side * message.price <= side * worst.price:
                self.displaced[message.owner] += rest
                return {"rested": 0, "displaced": rest, "displaced_owner": message.owner}
            _, gone = self.find(worst.id)
            displaced, whose = sum(part.size for part in gone), worst.owner
            self._remove(side, gone)
            self.displaced[whose] += displaced
        shown = min(message.peak, rest) if message.peak else rest
        self._insert(side, Part(message.id, message.owner, message.price, shown, hidden=False, peak=0))
        if rest > shown:
            reserve = Part(message.id, message.owner, message.price, rest - shown, hidden=True, peak=message.peak)
            self._insert(side, reserve)
        return {"rested": rest, "displaced": displaced, "displaced_owner": whose}

    def _insert(self, side: int, new: Part) -> None:
        """Behind every part that is as good."""
        at = 0
        for part in self.parts[side]:
            if (-side * part.price, part.hidden) > (-side * new.price, new.hidden):
                break
            at += 1
        self.parts[side].insert(at, new)

    def _show_again(self, side: int) -> None:
        """Icebergs of which nothing is displayed any more show their next peak, behind everything displayed there."""
        shown = {part.id for part in self.parts[side] if not part.hidden}
        for reserve in [part for part in self.parts[side] if part.hidden and part.id not in shown]:
            size = min(reserve.peak, reserve.size)
            reserve.size -= size
            self._insert(side, Part(reserve.id, reserve.owner, reserve.price, size, hidden=False, peak=0))
        self._drop_empty(side)

    def _remove(self, side: int, gone: list[Part]) -> None:
        self.parts[side] = [part for part in self.parts[side] if part not in gone]

    def _drop_empty(self, side: int) -> None:
        self.parts[side] = [part for part in self.parts[side] if part.size > 0]
