"""LOBSTER sampling and execution counts in plain Python: one pass over the lines, nothing vectorised."""

from collections.abc import Iterable
from decimal import Decimal


def sampled_books(messages: Iterable[str], orders: Iterable[str], start: int, seconds: int) -> dict[int, list[int]]:
    """{second after `start`: cells of the last book line whose message is at or before it}."""
    books: dict[int, list[int]] = {}
    last: list[int] | None = None
    second = 0
    for message, order in zip(messages, orders, strict=False):
        time = Decimal(message.split(",")[0]) - start
        while second < time:
            if last is not None:
                books[second] = last
            second += 1
            if second > seconds:
                return books
        last = [int(cell) for cell in order.split(",")]
    return books


def traded(messages: Iterable[str], start: int, seconds: int) -> dict[int, tuple[int, int]]:
    """{second after `start`: (shares executed, taker buys less taker sells)} in the second that ends there."""
    total: dict[int, tuple[int, int]] = {}
    for message in messages:
        time, kind, _, size, _, direction = message.split(",")
        after = Decimal(time) - start
        if after > seconds:
            break
        if kind in ("4", "5"):
            second = int(after) if after == int(after) else int(after) + 1
            volume, imbalance = total.get(second, (0, 0))
            total[second] = (volume + int(size), imbalance - int(direction) * int(size))
    return total
