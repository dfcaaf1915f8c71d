"""Typed LOBSTER messages: what each kind may say, and that every fault is named by file, line and column."""

from pathlib import Path

import numpy as np
import pytest

from marljax.data.readers.lobster_messages import LARGEST_SIZE, MessageKind, Status, read_messages
from marljax.data.schema import InputError
from tests.reference.lobster_replay import BUY, SELL, ladder, lines_of

LOBSTER = Path(__file__).parents[3] / "shared" / "data" / "lobster"
needs_lobster = pytest.mark.skipif(not LOBSTER.is_dir(), reason=f"no real data in {LOBSTER}")
NAME = "ACME_2020-01-02_34200000_57600000_{}_2.csv"
BOOK = "100200,7,100000,5,100300,9,-9999999999,0"
MESSAGES = [
    "34200.000000001,1,7,5,100000,1",
    "34200.5,5,0,3,100150,-1",
    "34201,6,-1,900000,100150,1",
    "34202,7,0,0,-1,-1",
    "34203,7,0,0,0,-1",
    "34204,7,0,0,1,-1",
    "34205.25,3,7,5,100000,1",
]


def written(folder: Path, messages: list[str], orders: list[str] | None = None) -> Path:
    (folder / NAME.format("message")).write_text("\n".join(messages))
    (folder / NAME.format("orderbook")).write_text("\n".join(orders or [BOOK] * len(messages)))
    return folder


def test_each_kind_is_read_as_what_it_is(tmp_path):
    (read,) = read_messages([written(tmp_path, MESSAGES)])
    assert (len(read), read.levels, read.day, read.product.name) == (7, 2, "2020-01-02", "ACME")
    assert read.time_ns.tolist()[:2] == [34_200_000_000_001, 34_200_500_000_000]
    assert read.kind.tolist() == [1, 5, 6, 7, 7, 7, 3]
    assert read.order_id.tolist() == [7, 0, 0, 0, 0, 0, 7]
    assert read.size.tolist() == [5, 3, 900_000, 0, 0, 0, 5]
    assert read.direction.tolist() == [1, -1, 1, 0, 0, 0, 1]
    assert read.bid_price[0].tolist() == [1000, 0]
    assert read.bid_size[0].tolist() == [5, 0]
    assert read.ask_price[0].tolist() == [1002, 1003]
    dtypes = {name: getattr(read, name).dtype.name for name in ("time_ns", "kind", "order_id", "size", "price")}
    assert dtypes == {"time_ns": "int64", "kind": "int8", "order_id": "int32", "size": "int32", "price": "int32"}
    assert all(array.flags.c_contiguous for array in vars(read).values() if isinstance(array, np.ndarray))


def test_a_hidden_execution_between_two_ticks_keeps_its_exact_price(tmp_path):
    (read,) = read_messages([written(tmp_path, MESSAGES)])
    assert read.price.tolist() == [1000, 1001, 1001, 0, 0, 0, 1000]
    assert read.price_offset.tolist() == [0, 0.5, 0.5, 0, 0, 0, 0]


def test_a_halt_sets_the_status_until_the_next_halt_message(tmp_path):
    quiet = "34203,5,0,3,100150,-1"
    (read,) = read_messages([written(tmp_path, [*MESSAGES[:4], quiet, *MESSAGES[4:]])])
    halted, trading = [Status.HALTED] * 2, [Status.TRADING] * 2
    assert read.status.tolist() == [Status.TRADING] * 3 + halted + [Status.QUOTING] + trading


def test_products_json_sets_tick_and_lot(tmp_path):
    (tmp_path / "products.json").write_text('{"products": [{"name": "ACME", "tick_size": 0.005, "lot_size": 1}]}')
    (read,) = read_messages([written(tmp_path, MESSAGES)])
    assert read.price.tolist()[:2] == [2000, 2003]
    assert read.price_offset.tolist() == [0] * 7


@pytest.mark.parametrize(
    ("message", "column", "problem"),
    [
        ("34210,8,1,5,100000,1", "type", "no type of message"),
        ("34210,1,,5,100000,1", "order_id", "blank"),
        ("34210,1,0,5,100000,1", "order_id", "whole number between"),
        (f"34210,1,{2**30},5,100000,1", "order_id", "whole number between"),
        ("34210,1,1.5,5,100000,1", "order_id", "whole number between"),
        ("34210,1,1,0,100000,1", "size", "zero"),
        ("34210,1,1,,100000,1", "size", "blank"),
        ("34210,1,1,-3,100000,1", "size", "negative"),
        (f"34210,1,1,{LARGEST_SIZE + 1},100000,1", "size", "above 65535"),
        ("34210,1,1,5,100050,1", "price", "whole number of ticks"),
        ("34210,4,1,5,,1", "price", "blank"),
        ("34210,5,0,5,9e13,1", "price", "ticks or more"),
        ("34210,2,1,5,100000,0", "direction", "neither"),
        ("34210,7,0,0,5,-1", "price", "about a halt"),
        ("34190,1,1,5,100000,1", "time", "backward"),
    ],
)
def test_a_fault_in_a_message_is_named_with_line_and_column(tmp_path, message, column, problem):
    with pytest.raises(InputError, match=problem) as caught:
        read_messages([written(tmp_path, [*MESSAGES, message])])
    assert (caught.value.line, caught.value.column) == (8, column)
    assert caught.value.file.endswith("message_2.csv")


@pytest.mark.parametrize(
    ("book", "column", "problem"),
    [
        ("100000,7,100000,5,100300,9,99900,2", "bid_price_1", "not below the best ask"),
        ("100200,7,100000,5,100200,9,99900,2", "ask_price_2", "not behind"),
        ("100200,7,100000,5,100300,9,100100,2", "bid_price_2", "not behind"),
        ("100200,7,-9999999999,0,100300,9,99900,2", "bid_price_2", "behind an empty"),
        ("100200,0,100000,5,100300,9,99900,2", "ask_size_1", "no size"),
        ("100200,,100000,5,100300,9,99900,2", "ask_size_1", "no size"),
        ("100250,7,100000,5,100300,9,99900,2", "ask_price_1", "whole number of tick"),
    ],
)
def test_a_fault_in_a_book_is_named_with_line_and_column(tmp_path, book, column, problem):
    with pytest.raises(InputError, match=problem) as caught:
        read_messages([written(tmp_path, MESSAGES, [BOOK] * 4 + [book] + [BOOK] * 2)])
    assert (caught.value.line, caught.value.column) == (5, column)
    assert caught.value.file.endswith("orderbook_2.csv")


def test_a_pair_of_unequal_length_is_refused(tmp_path):
    with pytest.raises(InputError, match="unequal length: 7 messages, 6 book rows"):
        read_messages([written(tmp_path, MESSAGES, [BOOK] * 6)])


@needs_lobster
def test_a_real_file_is_read_as_its_lines_say():
    path = LOBSTER / "LOBSTER_SampleFile_GOOG_2012-06-21_10.zip"
    (read,) = read_messages([path])
    messages, orders = lines_of(path)
    assert len(read) == len(messages) == 147_916
    assert np.bincount(read.kind, minlength=8).tolist() == [0, 71_258, 19, 64_961, 7765, 3913, 0, 0]
    hidden = read.kind == MessageKind.HIDDEN_EXECUTION
    assert np.count_nonzero(read.price_offset[hidden] == 0.5) == 50
    assert not read.price_offset[~hidden].any()
    for row in range(0, len(read), 997):
        _, kind, order, size, price, side = (float(field) for field in messages[row])
        assert (read.kind[row], read.order_id[row], read.size[row], read.direction[row]) == (kind, order, size, side)
        assert (read.price[row] + read.price_offset[row]) * 100 == price
        for name, at in (("bid", BUY), ("ask", SELL)):
            book = zip(getattr(read, f"{name}_price")[row], getattr(read, f"{name}_size")[row], strict=True)
            assert [(p, s) for p, s in book if s] == ladder(orders[row], at)


@needs_lobster
@pytest.mark.parametrize(("stock", "largest"), [("AAPL", 15_000), ("AMZN", 33_570), ("GOOG", 2300)])
def test_the_largest_sizes_and_ids_on_record_fit(stock, largest):
    (read,) = read_messages([LOBSTER / f"LOBSTER_SampleFile_{stock}_2012-06-21_1.zip"])
    assert read.size.max() == largest
    assert 2.8e8 < read.order_id.max() < 2**30
