"""LOBSTER replayed with lists and dicts, line by line: obviously right, slow, and sharing no code with the house."""

import io
import zipfile
from pathlib import Path

EMPTY = 9_999_999_999
BUY, SELL = 1, -1


def lines_of(archive: Path) -> tuple[list[list[str]], list[list[int]]]:
    """Fields of the message file, and numbers of the order book file."""
    with zipfile.ZipFile(archive) as files:
        text = {
            kind: io.TextIOWrapper(files.open(next(n for n in files.namelist() if f"_{kind}_" in n))).read().split()
            for kind in ("message", "orderbook")
        }
    return [line.split(",") for line in text["message"]], [
        list(map(int, line.split(","))) for line in text["orderbook"]
    ]


def ladder(row: list[int], side: int, tick: int = 100) -> list[tuple[int, int]]:
    """(price in ticks, size) of the levels of a side of a book row, best first."""
    first = 0 if side == SELL else 2
    pairs = [(row[i], row[i + 1]) for i in range(first, len(row), 4)]
    return [(price // tick, size) for price, size in pairs if abs(price) != EMPTY]


class Replay:
    """A book of queues: `queues[side][price]` lists [order id, size], first come first; None is an unknown id."""

    def __init__(self, row: list[int]) -> None:
        self.depth = len(row) // 4
        self.queues = {side: {price: [[None, size]] for price, size in ladder(row, side)} for side in (BUY, SELL)}
        self.not_first = 0
        """Executions on record of an order that does not stand first in its queue."""
        self.lost = 0
        """Messages whose volume was not in the book."""

    def levels(self, side: int) -> list[tuple[int, int]]:
        queues = self.queues[side]
        return [(price, sum(size for _, size in queues[price])) for price in sorted(queues, reverse=side == BUY)]

    def message(self, fields: list[str]) -> None:
        kind, order, size, price, side = (int(field) for field in fields[1:6])
        if kind not in (1, 2, 3, 4):
            return
        price //= 100
        if kind == 1:
            self.queues[side].setdefault(price, []).append([order, size])
        elif kind == 4:
            best = self.levels(side)[0][0] if self.queues[side] else None
            if best != price:
                self.lost += 1
                return
            self.not_first += self.queues[side][price][0][0] not in (order, None)
            self._take(side, price, size, lambda queue: queue[0])
        else:
            self._take(side, price, size, lambda queue: self._meant(queue, order, size))

    def _meant(self, queue: list, order: int, size: int) -> list:
        """The named order, else one of unknown id, else the one of the nearest size."""
        named = [entry for entry in queue if entry[0] == order and entry[1] >= size]
        unknown = [entry for entry in queue if entry[0] is None and entry[1] >= size]
        return (named or unknown or sorted(queue, key=lambda entry: (entry[1] < size, abs(entry[1] - size))))[0]

    def _take(self, side: int, price: int, size: int, choose) -> None:
        while size > 0:
            queue = self.queues[side].get(price)
            if not queue:
                self.lost += 1
                return
            entry = choose(queue)
            taken = min(size, entry[1])
            entry[1] -= taken
            size -= taken
            if entry[1] == 0:
                queue.remove(entry)
            if not queue:
                del self.queues[side][price]

    def reveal(self, row: list[int]) -> int:
        """The revealed-level rule: forget the levels beyond the window of this book row, and take from it the one level
        that slid in at the bottom when another emptied. Returns how many levels were taken."""
        taken = 0
        for side in (BUY, SELL):
            shown = ladder(row, side)
            for price, _ in self.levels(side)[self.depth :]:
                del self.queues[side][price]
            if shown and shown[-1][0] not in self.queues[side] and len(shown) > len(self.queues[side]):
                self.queues[side][shown[-1][0]] = [[None, shown[-1][1]]]
                taken += 1
        return taken
