"""A recorded day of two levels that fits on a page, replayed through the engine with agents' messages before it."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from marljax.data.readers.lobster_messages import read_messages
from marljax.lob.flows import recorded
from marljax.lob.flows.recorded import CancelPolicy, RecordedParams, RecordedStream
from marljax.lob.matching import process
from marljax.lob.stress import calm
from marljax.lob.types import Book, BookConfig, Code, Messages

CONFIG = BookConfig(slots=60)
NAME = "ACME_2020-01-02_34200000_57600000_{}_2.csv"
START = ("1,1,5,1000,1", "50@1000 30@999 | 20@1002 40@1004")
"""Bids at 1000 and 999, asks at 1002 and 1004."""


def page(folder: Path, *rows: tuple[str, str]) -> RecordedStream:
    """The stream of (message "type,id,size,ticks,direction", book after it "bids | asks", each level size@ticks)."""
    messages, orders = [], []
    for second, (text, book) in enumerate(rows):
        kind, order, size, ticks, side = text.split(",")
        price = ticks if kind == "7" else str(round(float(ticks) * 100))
        messages.append(f"{34200 + second}.5,{kind},{order},{size},{price},{side}")
        bids, asks = ([level.split("@") for level in half.split()] + [None, None] for half in book.split("|"))
        cells = []
        for ask, bid in list(zip(asks, bids, strict=False))[:2]:
            for level, empty in ((ask, "9999999999"), (bid, "-9999999999")):
                cells += [str(int(level[1]) * 100), level[0]] if level else [empty, "0"]
        orders.append(",".join(cells))
    (folder / NAME.format("message")).write_text("\n".join(messages))
    (folder / NAME.format("orderbook")).write_text("\n".join(orders))
    (messages,) = read_messages([folder])
    return recorded.load(messages)


@jax.jit
def block(book: Book, rows) -> tuple:
    respond = None if isinstance(rows, Messages) else lambda book, draw: recorded.message(draw, book)
    return process(book, rows, CONFIG, respond=respond)


def submit(book: Book, message: Messages) -> tuple:
    return block(book, jax.tree.map(lambda x: x[None], message))


def run(stream, *, agents=(), policy=CancelPolicy.SIZE, start=0, stress=None, seed=0, book=None, rows=range(1, 99)):
    """Book, report, draws and state after the instructions of some of the first rows, agents' messages first."""
    fresh, state = recorded.episode(stream, start, CONFIG)
    book = fresh if book is None else book
    for message in agents:
        book, report = submit(book, message)
        assert report.receipts.code[0] == Code.ACCEPTED
    params = RecordedParams(stream, jnp.int32(policy), jnp.int32(start))
    draws, state = recorded.prepare(jax.random.key(seed), state, params, stress or calm(), 16)
    wanted = (draws.row >= rows.start) & (draws.row < rows.stop)
    book, report = block(book, draws.replace(action=jnp.where(wanted, draws.action, 0)))
    return book, report, draws, state


def resting(book: Book) -> list[list[tuple[int, int, int, int]]]:
    """(price, size, id, owner) of what rests on each side, in order of priority."""
    sides = []
    for side, sign in ((0, -1), (1, 1)):
        end, size, key, order, owner = (
            np.asarray(a)[side].tolist() for a in (book.end, book.size, book.key, book.id, book.owner)
        )
        alive = sorted(s for s in range(len(end)) if end[s] > book.consumed[side])
        alive.sort(key=lambda s: end[s])
        sides.append([(sign * (key[s] // 2), size[s], order[s], owner[s]) for s in alive])
    return sides


def sizes(book: Book) -> list[list[tuple[int, int]]]:
    return [[(price, size) for price, size, _, _ in side] for side in resting(book)]
