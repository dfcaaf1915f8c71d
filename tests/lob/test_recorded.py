"""Recorded replay: the engine's book is the recorded one at every row, from any row, until agents change it."""

import functools
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marljax.data.readers import lobster_messages
from marljax.data.readers.lobster_messages import Status, read_messages
from marljax.data.schema import InputError
from marljax.lob import recorded, recorded_instructions, snapshot
from marljax.lob.flow import AGENT_ID
from marljax.lob.matching import apply, process, rebased
from marljax.lob.messages import limit, market
from marljax.lob.recorded import CancelPolicy, RecordedParams, RecordedStream
from marljax.lob.stress import calm, stressed
from marljax.lob.types import BUY, MAX_MESSAGES, MAX_PRICE, MAX_SIZE, SELL, Book, BookConfig, Code, Kind, Messages
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


# A day of two levels that fits on a page. Bids at 1000 and 999, asks at 1002 and 1004.
NAME = "ACME_2020-01-02_34200000_57600000_{}_2.csv"


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


START = ("1,1,5,1000,1", "50@1000 30@999 | 20@1002 40@1004")


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


def sizes(book: Book) -> list[list[tuple[int, int]]]:
    return [[(price, size) for price, size, _, _ in side] for side in resting(book)]


def test_an_episode_starts_from_the_levels_on_record_as_orders_of_the_background(tmp_path):
    stream = page(tmp_path, START, ("5,0,1,1001.5,1", "7@998 | 3@1005 4@1006"))
    for row, expected in (
        (0, [[(1000, 50), (999, 30)], [(1002, 20), (1004, 40)]]),
        (1, [[(998, 7)], [(1005, 3), (1006, 4)]]),
    ):
        book, state = recorded.episode(stream, jnp.int32(row), CONFIG)
        assert sizes(book) == expected
        orders = [order for side in resting(book) for order in side]
        assert all(order < 0 and owner == 0 for _, _, order, owner in orders)
        assert len({order for _, _, order, _ in orders}) == len(orders)
        assert (int(state.start), int(state.position)) == (row, int(stream.first[row + 1]))
        params = RecordedParams(stream, jnp.int32(0), jnp.int32(row))
        chex.assert_trees_all_equal(recorded.initial_book(jax.random.key(0), params, CONFIG), book)
        chex.assert_trees_all_equal(recorded.initial_state(params), state)


def test_a_level_revealed_at_the_bottom_is_fed_and_one_that_drops_out_is_taken_away(tmp_path):
    stream = page(
        tmp_path,
        START,
        ("4,1,50,1000,1", "30@999 8@997 | 20@1002 40@1004"),
        ("1,2,6,1001,-1", "30@999 8@997 | 6@1001 20@1002"),
        ("3,2,6,1001,-1", "30@999 8@997 | 20@1002 41@1004"),
    )
    for row, after in ((1, [(999, 30), (997, 8)]), (3, [(999, 30), (997, 8)])):
        book, report, _, _ = run(stream, rows=range(1, row + 1))
        assert sizes(book)[0] == after
        assert (report.receipts.code == Code.ACCEPTED).all()
    assert sizes(book)[1] == [(1002, 20), (1004, 41)]


@pytest.mark.parametrize("row", ["5,0,9,1001.5,-1", "5,0,9,1001,1", "6,-1,9000,1001.5,1", "7,0,0,-1,-1"])
def test_hidden_executions_crosses_and_halts_leave_the_book_alone(tmp_path, row):
    stream = page(tmp_path, START, (row, START[1]), (row, START[1]))
    book, report, draws, state = run(stream)
    assert sizes(book) == [[(1000, 50), (999, 30)], [(1002, 20), (1004, 40)]]
    assert (report.receipts.code == Code.ACCEPTED).all()
    assert int(report.trades.count) == 0
    assert draws.row[:2].tolist() == [1, 2]
    assert draws.seconds[:2].tolist() == [1, 2]
    assert int(state.position) == len(stream.instructions) == 3


def test_a_halt_marks_every_instruction_until_trading_resumes(tmp_path):
    same = START[1]
    rows = [("7,0,0,-1,-1", same), ("5,0,1,1001,1", same), ("7,0,0,0,-1", same), ("7,0,0,1,-1", same)]
    _, _, draws, _ = run(page(tmp_path, START, *rows))
    assert draws.status[:4].tolist() == [Status.HALTED, Status.HALTED, Status.QUOTING, Status.TRADING]


def test_a_recorded_execution_fills_an_agent_that_stands_first(tmp_path):
    stream = page(tmp_path, START, ("4,9,20,1000,1", "30@1000 30@999 | 20@1002 40@1004"))
    book, report, _, _ = run(stream, agents=[limit(BUY, price=1001, size=15, id=AGENT_ID, owner=1)])
    assert int(report.trades.count) == 2
    assert report.trades.maker_owner[:2].tolist() == [1, 0]
    assert list(zip(report.trades.price.tolist(), report.trades.size.tolist(), strict=True))[:2] == [
        (1001, 15),
        (1000, 5),
    ]
    assert sizes(book)[0] == [(1000, 45), (999, 30)]
    book, report, _, _ = run(stream, agents=[limit(BUY, price=1000, size=15, id=AGENT_ID, owner=1)])
    assert report.trades.maker_owner[: int(report.trades.count)].tolist() == [0]


def test_a_recorded_cancel_of_an_order_that_an_agent_took_is_refused(tmp_path):
    """Order 2 was submitted within the episode, so order 3 of the same price and size is not taken in its stead."""
    bids = "50@1000 30@999"
    stream = page(
        tmp_path,
        START,
        ("1,2,7,1001,-1", f"{bids} | 7@1001 20@1002"),
        ("1,3,7,1001,-1", f"{bids} | 14@1001 20@1002"),
        ("3,2,7,1001,-1", f"{bids} | 7@1001 20@1002"),
    )
    book, _, _, _ = run(stream, rows=range(1, 3))
    book, report = submit(book, market(BUY, size=7, id=AGENT_ID, owner=1))
    assert int(report.trades.maker[0]) == 2
    book, report, draws, _ = run(stream, book=book, rows=range(3, 4))
    named = np.flatnonzero(draws.row == 3)[0]
    assert np.flatnonzero(report.receipts.code).tolist() == [named]
    assert report.receipts.code[named] == Code.UNKNOWN_ID
    assert sizes(book) == [[(1000, 50), (999, 30)], [(1001, 7), (1002, 20)]]


def test_a_deletion_takes_all_that_is_left_when_an_agent_was_filled_instead(tmp_path):
    """Order 2 lost 4 of 7 on record; here the agent before it was filled, and the deletion takes all 7."""
    stream = page(
        tmp_path,
        START,
        ("1,2,7,1001,1", "7@1001 50@1000 | 20@1002 40@1004"),
        ("4,2,4,1001,1", "3@1001 50@1000 | 20@1002 40@1004"),
        ("3,2,3,1001,1", "50@1000 30@999 | 20@1002 40@1004"),
    )
    book, report, _, _ = run(stream, agents=[limit(BUY, price=1001, size=4, id=AGENT_ID, owner=1)])
    assert report.trades.maker_owner[: int(report.trades.count)].tolist() == [1]
    assert sizes(book)[0] == [(1000, 50), (999, 30)]


def cancelled_at_level(tmp_path, policy: int, seed: int = 0) -> list[int]:
    """Ids left at 1000 after an unknown order's 10 are cancelled among: 50 of the snapshot, then 10 (id 2), 30, 12."""
    asks = "20@1002 40@1004"
    stream = page(
        tmp_path,
        START,
        ("1,2,10,1000,1", f"60@1000 30@999 | {asks}"),
        ("1,3,30,1000,1", f"90@1000 30@999 | {asks}"),
        ("1,4,12,1000,1", f"102@1000 30@999 | {asks}"),
        ("2,1,10,1000,1", f"92@1000 30@999 | {asks}"),
    )
    book, report, _, _ = run(stream, policy=policy, seed=seed)
    assert (report.receipts.code == Code.ACCEPTED).all()
    left = {order: size for price, size, order, _ in resting(book)[0] if price == 1000}
    assert sum(left.values()) == 92
    before = {next(i for i in left if i < 0): 50, 2: 10, 3: 30, 4: 12}
    return [max(order, 0) for order, size in before.items() if left.get(order, 0) != size]


def test_the_cancel_policy_says_which_order_gives_way(tmp_path):
    assert cancelled_at_level(tmp_path, CancelPolicy.SIZE) == [0]
    assert cancelled_at_level(tmp_path, CancelPolicy.OLDEST) == [0]
    assert cancelled_at_level(tmp_path, CancelPolicy.NEWEST) == [4]
    drawn = [cancelled_at_level(tmp_path, CancelPolicy.RANDOM, seed)[0] for seed in range(64)]
    assert min(drawn.count(order) for order in (0, 2, 3, 4)) >= 6


def test_by_size_the_nearest_order_gives_way_where_none_is_unknown(tmp_path):
    asks = "20@1002 40@1004"
    stream = page(
        tmp_path,
        START,
        ("1,2,10,1001,1", f"10@1001 50@1000 | {asks}"),
        ("1,3,30,1001,1", f"40@1001 50@1000 | {asks}"),
        ("1,4,12,1001,1", f"52@1001 50@1000 | {asks}"),
        ("2,99,11,1001,1", f"41@1001 50@1000 | {asks}"),
    )
    book, _, _, _ = run(stream)
    assert [(size, order) for price, size, order, _ in resting(book)[0] if price == 1001] == [(10, 2), (30, 3), (1, 4)]


def test_what_differs_from_the_record_is_set_right_and_counted(tmp_path):
    """The file leaves out a submission of 5 at 1000 and a cancel of 10 at 1004."""
    stream_rows = (START, ("5,0,1,1001,1", "55@1000 30@999 | 20@1002 30@1004"))
    stream = page(tmp_path, *stream_rows)
    (messages,) = read_messages([tmp_path])
    assert recorded_instructions.compile_messages(messages).repairs == 2
    book, report, _, _ = run(stream)
    assert [
        sum(size for price, size in side if price == at) for side, at in zip(sizes(book), (1000, 1004), strict=True)
    ] == [55, 30]
    assert (report.receipts.code == Code.ACCEPTED).all()


def test_a_level_beyond_the_largest_message_is_fed_and_taken_in_parts(tmp_path):
    huge = 2 * MAX_SIZE + 7
    stream = page(
        tmp_path,
        START,
        ("3,1,50,1000,1", f"30@999 {huge}@997 | 20@1002 40@1004"),
        ("1,2,50,1000,1", "50@1000 30@999 | 20@1002 40@1004"),
    )
    (messages,) = read_messages([tmp_path])
    assert recorded_instructions.compile_messages(messages).repairs == 0
    for row, total in ((1, huge + 30), (2, 80)):
        book, report, _, _ = run(stream, rows=range(1, row + 1))
        assert sum(size for _, size in sizes(book)[0]) == total
        assert (report.receipts.code == Code.ACCEPTED).all()
    book, _, _, _ = run(stream, start=1)
    assert sizes(book)[0] == [(1000, 50), (999, 30)]


def test_a_halt_of_the_stress_holds_the_record_where_it_stands(tmp_path):
    stream = page(tmp_path, START, ("4,1,50,1000,1", "30@999 8@997 | 20@1002 40@1004"))
    book, _, draws, state = run(stream, stress=stressed(halted=1.0))
    assert sizes(book)[0] == [(1000, 50), (999, 30)]
    assert int(state.position) == int(stream.first[1])
    assert draws.seconds.tolist() == [0] * 16


def test_at_the_end_of_the_record_nothing_more_arrives(tmp_path):
    stream = page(tmp_path, START, ("3,1,50,1000,1", "30@999 8@997 | 20@1002 40@1004"))
    _, report, draws, state = run(stream)
    count = len(stream.instructions) - 1
    assert int(state.position) == count + 1
    assert (report.messages.kind[count:] == Kind.NOTHING).all()
    assert draws.seconds.tolist() == [1] * 16
    params = RecordedParams(stream, jnp.int32(0), jnp.int32(0))
    draws, after = recorded.prepare(jax.random.key(0), state, params, calm(), 16)
    assert int(after.position) == count + 1
    assert draws.action.tolist() == draws.seconds.tolist() == [0] * 16


def test_a_book_too_small_for_the_record_is_refused(tmp_path):
    rows = [(f"1,{k},1,1000,1", f"{49 + k}@1000 30@999 | 20@1002 40@1004") for k in range(2, 12)]
    stream = page(tmp_path, START, *rows)
    assert stream.most_orders == 12
    recorded.episode(stream, 0, BookConfig(slots=12))
    with pytest.raises(ValueError, match=r"BookConfig.slots must be at least 12 for this record, got 11"):
        recorded.episode(stream, 0, BookConfig(slots=11))


def test_prices_beyond_the_book_are_refused_with_their_place(tmp_path):
    with pytest.raises(InputError, match="from zero") as caught:
        page(tmp_path, START, (f"1,2,5,{MAX_PRICE},-1", START[1]))
    assert (caught.value.line, caught.value.column) == (2, "price")


def test_reader_and_engine_agree_on_the_largest_size():
    assert lobster_messages.LARGEST_SIZE == MAX_SIZE
    assert lobster_messages.LARGEST_ID <= AGENT_ID
