"""Recorded replay of real days: the engine's book is the recorded one at every row, from any row."""

import functools
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marljax.data.readers.lobster_messages import read_messages
from marljax.lob import snapshot
from marljax.lob.flows import recorded, recorded_instructions
from marljax.lob.flows.recorded import CancelPolicy, RecordedParams, RecordedStream
from marljax.lob.matching import apply, process, rebased
from marljax.lob.stress import calm
from marljax.lob.types import BUY, MAX_MESSAGES, SELL, Book, BookConfig, Code
from tests.reference.lobster_replay import Replay, ladder, lines_of

LOBSTER = Path(__file__).parents[3] / "shared" / "data" / "lobster"
needs_lobster = pytest.mark.skipif(not LOBSTER.is_dir(), reason=f"no real data in {LOBSTER}")
GOOG, AAPL = (LOBSTER / f"LOBSTER_SampleFile_{name}.zip" for name in ("GOOG_2012-06-21_10", "AAPL_2012-06-21_1"))
CONFIG = BookConfig(slots=60)
BLOCK = 64


@functools.cache
def stream_of(path: Path) -> RecordedStream:
    (messages,) = read_messages([path])
    return recorded.load(messages)


def levels(book: Book, depth: int) -> jax.Array:
    """int32[2, 2, depth] prices and sizes, best first, of bids and asks."""
    seen = snapshot.levels(book, depth)
    return jnp.stack([jnp.stack([seen.bid_price, seen.bid_size]), jnp.stack([seen.ask_price, seen.ask_size])])


@functools.partial(jax.jit, static_argnames=("instructions", "depth"))
@chex.assert_max_traces(8)
def played(
    params: RecordedParams, row: jax.Array, *, instructions: int, depth: int
) -> tuple[Book, dict[str, jax.Array]]:
    """The book after so many instructions, and by instruction its row, code and the levels that it found."""
    book, state = recorded.episode(params.stream, row, CONFIG)

    def block(carry, key):
        book, state = carry
        draws, state = recorded.prepare(key, state, params, calm(), BLOCK)

        def one(book, draw):
            after, event = apply(book, recorded.message(draw, book), CONFIG)
            found = {"row": draw.row, "code": event.code, "lost": event.displaced, "levels": levels(book, depth)}
            return after, found

        book, found = jax.lax.scan(one, rebased(book), draws)
        return (book, state), found

    keys = jax.random.split(jax.random.key(0), -(-instructions // BLOCK))
    (book, _), found = jax.lax.scan(block, (book, state), keys)
    return book, jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), found)


def books_by_row(stream: RecordedStream, start: int, rows: int, depth: int, instructions: int):
    """Levels of the engine after each row from start + 1 (int32[rows, 2, 2, depth]), and every code and lost lot."""
    params = RecordedParams(stream, jnp.int32(CancelPolicy.SIZE), jnp.int32(start))
    book, found = played(params, jnp.int32(start), instructions=instructions, depth=depth)
    row = np.asarray(found["row"])
    # The first instruction of a row finds the book as the row before left it.
    first = np.flatnonzero(np.diff(row) > 0) + 1
    assert row[first].tolist() == list(range(start + 2, row[-1] + 1))
    after = np.concatenate([np.asarray(found["levels"])[first], np.asarray(levels(book, depth))[None]])
    assert len(after) >= rows
    return after[:rows], np.asarray(found["code"]), np.asarray(found["lost"])


@needs_lobster
@pytest.mark.parametrize("start", [0, 71_516])
def test_the_engine_equals_a_plain_replay_of_the_same_snapshot_on_every_row(start):
    """6,400 messages: touch, sizes and five levels, and nothing refused or lost."""
    after, code, lost = books_by_row(stream_of(GOOG), start, 6400, 5, 12_800)
    messages, orders = lines_of(GOOG)
    replay = Replay(orders[start])
    for k in range(6400):
        replay.message(messages[start + 1 + k])
        replay.reveal(orders[start + 1 + k])
        for side, at in ((0, BUY), (1, SELL)):
            engine = [(p, s) for p, s in after[k, side].T.tolist() if s]
            assert engine == replay.levels(at)[:5] == ladder(orders[start + 1 + k], at)[:5]
    assert (code == Code.ACCEPTED).all()
    assert lost.sum() == 0
    assert replay.lost == 0


@needs_lobster
@pytest.mark.parametrize("start", [0, 29_810, 60_068])
def test_a_file_of_one_level_is_exact_from_any_row(start):
    stream = stream_of(AAPL)
    after, code, _ = books_by_row(stream, start, 5000, 1, 10_240)
    np.testing.assert_array_equal(after, np.asarray(stream.window)[start + 1 : start + 5001])
    assert (code == Code.ACCEPTED).all()


@needs_lobster
@pytest.mark.nightly
@pytest.mark.parametrize(("path", "rows", "depth"), [(GOOG, 147_915, 10), (AAPL, 118_496, 1)])
def test_the_book_is_the_recorded_one_on_every_row_of_the_day(path, rows, depth):
    stream = stream_of(path)
    after, code, lost = books_by_row(stream, 0, rows, depth, 240_000)
    np.testing.assert_array_equal(after, np.asarray(stream.window)[1:])
    assert (code == Code.ACCEPTED).all()
    assert lost.sum() == 0


@needs_lobster
@pytest.mark.nightly
@pytest.mark.parametrize(("path", "depth"), [(GOOG, 10), (AAPL, 1)])
def test_the_book_is_the_recorded_one_from_forty_random_rows(path, depth):
    stream = stream_of(path)
    for start in np.random.default_rng(0).integers(0, len(stream.window) - 8000, 40).tolist():
        after, _, _ = books_by_row(stream, start, 5000, depth, 10_240)
        np.testing.assert_array_equal(after, np.asarray(stream.window)[start + 1 : start + 5001])


@needs_lobster
@pytest.mark.parametrize(
    ("path", "instructions", "revealed", "most_orders"), [(GOOG, 239_540, 44_451, 39), (AAPL, 193_391, 30_071, 54)]
)
def test_the_record_needs_no_repair(path, instructions, revealed, most_orders):
    (messages,) = read_messages([path])
    compiled = recorded_instructions.compile_messages(messages)
    assert compiled.repairs == 0
    assert compiled.longest_row <= 25
    assert (len(compiled.table), compiled.revealed, compiled.most_orders) == (instructions, revealed, most_orders)


@needs_lobster
def test_many_episodes_share_one_stream_and_one_program():
    stream = stream_of(GOOG)
    starts = jnp.array([0, 5000, 100_000, 147_000])

    @jax.jit
    @chex.assert_max_traces(1)
    def run(rows, stream):
        def one(row):
            book, state = recorded.episode(stream, row, CONFIG)
            params = RecordedParams(stream, jnp.int32(0), jnp.int32(0))
            draws, state = recorded.prepare(jax.random.key(1), state, params, calm(), MAX_MESSAGES)
            book, report = process(book, draws, CONFIG, respond=lambda book, draw: recorded.message(draw, book))
            return levels(book, 10), report.receipts.code, draws, state

        return jax.vmap(one)(rows)

    run(starts + 1, stream)
    book, code, draws, state = run(starts, stream)
    assert (code == Code.ACCEPTED).all()
    assert (state.position - stream.first[starts + 1] == MAX_MESSAGES).all()
    for k in range(4):
        if int(stream.instructions[state.position[k], 6]) != int(draws.row[k, -1]):
            np.testing.assert_array_equal(book[k], stream.window[draws.row[k, -1]])
    second, nanosecond = (np.asarray(stream.instructions)[:, k].astype(np.int64) for k in (7, 8))
    time_ns = second * 10**9 + nanosecond
    for k, start in enumerate(np.asarray(stream.first)[np.asarray(starts) + 1].tolist()):
        exact = (time_ns[start : start + MAX_MESSAGES] - time_ns[start - 1]) / 1e9
        np.testing.assert_allclose(draws.seconds[k], exact, rtol=1e-6, atol=1e-9)
        assert (np.diff(draws.seconds[k]) >= 0).all()
