"""A recorded day as instructions: what a file leaves out is fed and taken away, and halts and its end hold the book."""

import chex
import jax
import jax.numpy as jnp
import pytest

from marljax.data.readers import lobster_messages
from marljax.data.readers.lobster_messages import Status, read_messages
from marljax.data.schema import InputError
from marljax.lob.flows import recorded, recorded_instructions
from marljax.lob.flows.flow import AGENT_ID
from marljax.lob.flows.recorded import RecordedParams
from marljax.lob.stress import calm, stressed
from marljax.lob.types import MAX_PRICE, MAX_SIZE, BookConfig, Code, Kind
from tests.reference.recorded_page import CONFIG, START, page, resting, run, sizes


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
