"""One trading session as arrays of events with the book after each: what real files and simulated books have in common.

Everything is NumPy on the host. What calibrates a flow and what judges it read this one form, so that a simulated
session meets the same ruler as a recorded one.
"""

import dataclasses
import re

import numpy as np

from marljax.data.readers.lobster_messages import MessageKind, RecordedMessages
from marljax.data.schema import InputError


class EventKind:
    """What an event did to the book."""

    LIMIT = 1
    """An order came to rest."""
    CANCEL = 2
    """A resting order lost some or all of its size."""
    EXECUTION = 3
    """A visible resting order traded; one event for each resting order that an incoming one reached."""
    HIDDEN = 4
    """A hidden order traded; the visible book did not change."""


@dataclasses.dataclass(frozen=True)
class Session:
    """n events of one product in order of time, and the L best levels of the book after each of them."""

    seconds: np.ndarray  # float64[n] since the session's start, never decreasing
    kind: np.ndarray  # int[n] see EventKind
    side: np.ndarray  # int[n] +1 buy, -1 sell: the side of the limit or resting order
    price: np.ndarray  # int[n] ticks
    size: np.ndarray  # int[n] lots, > 0
    bid_price: np.ndarray  # int[n, L] ticks, best first
    bid_size: np.ndarray  # int[n, L] lots, 0 where the level is absent
    ask_price: np.ndarray  # int[n, L] ticks, best first
    ask_size: np.ndarray  # int[n, L] lots, 0 where the level is absent
    duration: float  # seconds from the session's start to its end
    product: str = ""

    def __post_init__(self) -> None:
        n = len(self.seconds)
        for name in ("kind", "side", "price", "size"):
            _require(getattr(self, name).shape == (n,), f"Session.{name} must have the shape ({n},)")
        shape = self.bid_price.shape
        _require(len(shape) == 2 and shape[0] == n and shape[1] >= 1, f"Session.bid_price must have the shape ({n}, L)")
        for name in ("bid_size", "ask_price", "ask_size"):
            _require(getattr(self, name).shape == shape, f"Session.{name} must have the shape {shape}")
        _require(n >= 2, f"a session needs two events at least, got {n}")
        _require(bool((np.diff(self.seconds) >= 0).all()), "Session.seconds goes backward")
        _require(bool(np.isin(self.kind, (1, 2, 3, 4)).all()), "Session.kind holds something that is no EventKind")
        _require(bool(np.isin(self.side, (-1, 1)).all()), "Session.side holds something other than 1 and -1")
        _require(bool((self.size > 0).all()), "Session.size must be positive")
        _require(
            bool(self.seconds[0] >= 0 and self.seconds[-1] <= self.duration),
            f"Session.seconds must lie within 0 and duration {self.duration!r}",
        )

    def __len__(self) -> int:
        return len(self.seconds)

    def within(self, start: float, stop: float) -> "Session":
        """The events with `start` <= seconds < `stop`, counted from `start`."""
        rows = slice(*np.searchsorted(self.seconds, (start, stop)))
        cut = {
            field.name: getattr(self, field.name)[rows]
            for field in dataclasses.fields(self)
            if field.name not in ("duration", "product")
        }
        cut["seconds"] = cut["seconds"] - start
        return dataclasses.replace(self, **cut, duration=stop - start)

    def two_sided(self) -> np.ndarray:
        """bool[n] whether the book had both a best bid and a best ask after the event."""
        return (self.bid_size[:, 0] > 0) & (self.ask_size[:, 0] > 0)


_KINDS = {
    MessageKind.SUBMISSION: EventKind.LIMIT,
    MessageKind.CANCELLATION: EventKind.CANCEL,
    MessageKind.DELETION: EventKind.CANCEL,
    MessageKind.EXECUTION: EventKind.EXECUTION,
    MessageKind.HIDDEN_EXECUTION: EventKind.HIDDEN,
}
_WINDOW = re.compile(r"_(\d+)_(\d+)_message_\d+\.csv", re.IGNORECASE)


def from_recorded(messages: RecordedMessages) -> Session:
    """The session that a pair of LOBSTER files holds, from the start to the end in its file name.

    Crosses and halts are no part of the flow and left out. Raises InputError where the file name has no such times.
    """
    window = _WINDOW.search(messages.file)
    if window is None:
        raise InputError("the file name does not say when the session starts and ends", file=messages.file)
    start, end = (int(milliseconds) * 1_000_000 for milliseconds in window.groups())
    kept = np.isin(messages.kind, list(_KINDS))
    kind = np.zeros(len(messages), np.int8)
    for recorded, event in _KINDS.items():
        kind[messages.kind == recorded] = event
    return Session(
        seconds=(messages.time_ns[kept] - start) / 1e9,
        kind=kind[kept],
        side=messages.direction[kept],
        price=messages.price[kept],
        size=messages.size[kept],
        bid_price=messages.bid_price[kept],
        bid_size=messages.bid_size[kept],
        ask_price=messages.ask_price[kept],
        ask_size=messages.ask_size[kept],
        duration=(end - start) / 1e9,
        product=messages.product.name,
    )


def market_orders(session: Session) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Visible executions put together again to the incoming orders that caused them.

    Executions that follow each other directly, at one time and against one side, are one order.

    Returns:
        first int64[m] the row of its first execution, sign int64[m] of the incoming order (+1 buys) and its visibly
        traded size int64[m] [lots].
    """
    row = np.flatnonzero(session.kind == EventKind.EXECUTION)
    if not len(row):
        return row, row, row
    seconds, side = session.seconds[row], session.side[row]
    begins = np.ones(len(row), bool)
    begins[1:] = (np.diff(row) > 1) | (np.diff(seconds) > 0) | (np.diff(side) != 0)
    first = np.flatnonzero(begins)
    return row[first], -side[first].astype(np.int64), np.add.reduceat(session.size[row].astype(np.int64), first)


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise InputError(message)
