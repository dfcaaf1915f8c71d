"""Every fault of a file ends in one line that says where: file, line and column."""

import gzip
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marljax.data.clean import clean
from marljax.data.readers import read
from marljax.data.schema import InputError

PRICES = "prices_round_1_day_0.csv"
HEADER = "day;timestamp;product;bid_price_1;bid_volume_1;ask_price_1;ask_volume_1;mid_price;profit_and_loss"
ROW = "0;{t};{p};9998;5;10002;7;10000.0;0.0"
GOOD = [HEADER, *(ROW.format(t=100 * i, p=p) for i in range(4) for p in ("A", "B"))]
TRADES_HEADER = "timestamp;buyer;seller;symbol;currency;price;quantity"
STOCK = "TEST_2012-06-21_34200000_34205000_{}_1.csv"
MESSAGES = ["34200.5,1,1,100,1000100,1", "34201.5,4,1,50,1000100,-1", "34202.5,1,2,10,999900,1"]
ORDERS = ["1000200,10,1000100,100", "1000200,10,1000100,50", "1000200,10,1000100,60"]


def write(path: Path, lines: list[str], *, end: str = "\n") -> Path:
    path.write_bytes(end.join([*lines, ""]).encode())
    return path


def load(source: str, *paths: Path):
    return clean(read(source, paths))


def changed(line: int, new: str) -> list[str]:
    """The good prices file with this line (1-based) replaced."""
    return [*GOOD[: line - 1], new, *GOOD[line:]]


def refusal(source: str, *paths: Path) -> InputError:
    with pytest.raises(InputError) as caught:
        load(source, *paths)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    return caught.value


@pytest.mark.parametrize(
    ("lines", "line", "column", "says"),
    [
        (changed(3, "0;0;B;9998;5;x;7;;"), 3, "ask_price_1", "not a number: 'x'"),
        (changed(3, "0;0;B;9998;5;1_0;7;;"), 3, "ask_price_1", "not a number"),
        (changed(3, "0;0;B;9998;5;0x10;7;;"), 3, "ask_price_1", "not a number"),
        (changed(3, "0;0;B;9998;5;  ;7;;"), 3, "ask_price_1", "not a number"),
        (changed(4, "0;100;A;9998;-5;10002;7;;"), 4, "bid_volume_1", "negative"),
        (changed(4, "0;100;A;9998;5.5;10002;7;;"), 4, "bid_volume_1", "no whole number of lots"),
        (changed(5, "0;100;B;9998.5;5;10002;7;;"), 5, "bid_price_1", "no whole number of ticks of 1: 9998.5"),
        (changed(5, "0;100;B;nan;5;10002;7;;"), 5, "bid_price_1", "not finite"),
        (changed(5, "0;100;B;9998;5;10002;inf;;"), 5, "ask_volume_1", "not finite"),
        (changed(5, "0;100;B;9998;5;1e999;7;;"), 5, "ask_price_1", "not finite"),
        (changed(5, "0;100;B;9998;5;10002;7;;-Infinity"), 5, "profit_and_loss", "not finite"),
        (changed(5, "0;100;B;9998;5;1e12;7;;"), 5, "ask_price_1", "2**28 ticks or more"),
        (changed(6, "0;;A;9998;5;10002;7;;"), 6, "timestamp", "blank"),
        (changed(6, "0;1.5;A;9998;5;10002;7;;"), 6, "timestamp", "not a whole number"),
        (changed(6, "0;-100;A;9998;5;10002;7;;"), 6, "timestamp", "negative"),
        (changed(6, "0;99999999999999999999;A;9998;5;10002;7;;"), 6, "timestamp", "out of range"),
        (changed(6, "0;200;;9998;5;10002;7;;"), 6, "product", "blank"),
        (changed(6, ""), 6, "day", "blank"),
        (changed(7, "0,200,B,9998,5,10002,7,,"), 7, "day", "1 fields separated by ';', expected 9"),
        (changed(7, "0;200;B;9998,5;10002;7;;"), 7, "bid_price_1", "8 fields"),
        (changed(7, "0;200;B;9998;5;10002;7;;;;"), 7, "profit_and_loss", "11 fields"),
        (changed(7, '0;200;"B;9998;5;10002;7;;'), 7, "product", "quotes"),
        (changed(1, HEADER.replace(";", ",")), 1, "day", "wrong delimiter"),
        (changed(1, HEADER.replace("ask_volume_1", "size")), 1, "ask_volume_1", "missing"),
        (changed(1, HEADER.replace("mid_price", "day")), 1, "day", "twice"),
        (GOOD[1:], 1, "day", "missing"),
        ([HEADER], 1, "day", "no rows"),
        ([], 1, None, "empty"),
        (["", "", " "], 1, None, "empty"),
        ([*GOOD, "0;300;B;9997;5;10002;7;;"], 10, "bid_price_1", "9997 disagrees with 9998 in line 9"),
        ([*GOOD, *(f"0;{t};C;;;10002;7;;" for t in (0, 100))], 10, "product", "'C' has no valid row"),
    ],
)
def test_a_fault_in_prices_is_named_with_its_place(tmp_path, lines, line, column, says):
    path = write(tmp_path / PRICES, lines)
    error = refusal("prosperity", path)
    assert (error.file, error.line, error.column) == (str(path), line, column)
    assert says in error.message
    assert f"{path}:{line}: " in str(error)


@pytest.mark.parametrize("end", ["\r\n", "\r", "\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_line_ends_and_byte_order_marks_change_nothing(tmp_path, end, mark):
    plain = read("prosperity", [write(tmp_path / "prices_day_1.csv", GOOD)]).books
    path = tmp_path / PRICES
    path.write_bytes(mark + end.join(GOOD).encode() + end.encode() * 2)
    pd.testing.assert_frame_equal(read("prosperity", [path]).books, plain)
    path.write_bytes(mark + end.join(changed(7, "0;200;B;x;5;10002;7;;")).encode())
    assert refusal("prosperity", path).line == 7


def test_a_byte_that_is_not_utf8_is_named_with_its_place(tmp_path):
    path = tmp_path / PRICES
    path.write_bytes("\n".join(changed(4, "0;100;\0A;9998;5;10002;7;;")).encode().replace(b"\0", b"\xff"))
    error = refusal("prosperity", path)
    assert (error.line, error.column) == (4, "product")
    assert "0xff" in error.message


def test_a_blank_cell_is_missing_and_no_error(tmp_path):
    path = write(tmp_path / PRICES, changed(5, "0;100;B;;;10002;7;;"))
    data, report = load("prosperity", path)
    assert report.counts()["missing_side"] == 1
    assert not bool(data.valid[1, 1])


def test_missing_paths_and_broken_archives_are_named(tmp_path):
    content = "\n".join(GOOD * 50).encode()
    absent = tmp_path / "absent.csv"
    empty_folder = tmp_path / "empty"
    empty_folder.mkdir()
    packed = gzip.compress(content)
    cut = tmp_path / "prices_cut.csv.gz"
    cut.write_bytes(packed[: len(packed) // 2])
    fake = tmp_path / "prices_fake.csv.gz"
    fake.write_bytes(content)
    whole_zip, cut_zip, other_zip = (tmp_path / f"{name}.zip" for name in ("whole", "cut", "other"))
    with zipfile.ZipFile(whole_zip, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(PRICES, content)
    cut_zip.write_bytes(whole_zip.read_bytes()[:-40])
    with zipfile.ZipFile(other_zip, "w") as archive:
        archive.writestr("readme.txt", "nothing")
    broken_zip = tmp_path / "broken.zip"
    damaged = bytearray(whole_zip.read_bytes())
    damaged[60:120] = b"\0" * 60
    broken_zip.write_bytes(bytes(damaged))
    for path, says in [
        (absent, "no such file"),
        (empty_folder, "holds no prices"),
        (cut, "truncated"),
        (fake, "no gzip file"),
        (cut_zip, "truncated"),
        (broken_zip, "truncated or corrupt"),
        (other_zip, "holds no prices"),
    ]:
        error = refusal("prosperity", path)
        assert str(error.file).startswith(str(path))
        assert says in error.message
    with pytest.raises(InputError, match="no path"):
        read("prosperity", [])


@pytest.mark.parametrize("pack", [gzip.compress, None])
def test_gzip_and_zip_read_as_the_plain_file(tmp_path, pack: Callable[[bytes], bytes] | None):
    plain = read("prosperity", [write(tmp_path / PRICES, GOOD)]).books
    content = (tmp_path / PRICES).read_bytes()
    if pack:
        path = tmp_path / f"{PRICES}.gz"
        path.write_bytes(pack(content))
    else:
        path = tmp_path / "data.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(f"inner/{PRICES}", content)
            archive.writestr("notes.md", "x")
    pd.testing.assert_frame_equal(read("prosperity", [path]).books, plain)


@pytest.mark.parametrize(
    ("line", "column", "says"),
    [
        ("100;;;A;X;10002.0;-1", "quantity", "negative"),
        ("100;;;A;X;10002.5;1", "price", "ticks"),
        ("100;;;Z;X;10002;1", "symbol", "no book of this product"),
        ("100;;;A;X;;1", "price", "blank"),
        ("100;;;A;X;10002;", "quantity", "blank"),
        ("100,;;A;X;10002;1", "timestamp", "6 fields"),
    ],
)
def test_a_fault_in_trades_is_named_with_its_place(tmp_path, line, column, says):
    prices = write(tmp_path / PRICES, GOOD)
    trades = write(tmp_path / "trades_round_1_day_0_nn.csv", [TRADES_HEADER, "0;;;A;X;10002;1", line])
    error = refusal("prosperity", prices, trades)
    assert (error.file, error.line, error.column) == (str(trades), 3, column)
    assert says in error.message


def test_trades_without_their_prices_are_refused(tmp_path):
    prices = write(tmp_path / PRICES, GOOD)
    trades = write(tmp_path / "trades_round_1_day_3_nn.csv", [TRADES_HEADER, "0;;;A;X;10002;1"])
    assert "no price file" in refusal("prosperity", prices, trades).message
    assert "trades without prices" in refusal("prosperity", trades).message


def test_the_same_content_twice_is_refused(tmp_path):
    one, two = write(tmp_path / PRICES, GOOD), write(tmp_path / "prices_round_1_day_1.csv", GOOD)
    assert "same content" in refusal("prosperity", one, two).message


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "not JSON"),
        ("[]", "must be an object"),
        ('{"product": []}', "unknown key"),
        ('{"products": [{"name": "A", "tick": 1}]}', "unknown key"),
        ('{"products": [{"name": "A", "tick_size": 0}]}', "positive"),
        ('{"products": [{"name": "A", "tick_size": NaN}]}', "finite"),
        ('{"products": [{"name": "A", "tick_size": "1"}]}', "no number"),
        ('{"products": [{"tick_size": 1}]}', "name"),
        ('{"products": [{"name": "A"}]}', "does not describe product 'B'"),
        ('{"seconds_per_timestamp": -1}', "no positive number"),
        ('{"origin": "real"}', "none of"),
    ],
)
def test_a_fault_in_products_json_is_named(tmp_path, content, says):
    write(tmp_path / PRICES, GOOD)
    path = write(tmp_path / "products.json", [content])
    error = refusal("prosperity", tmp_path)
    assert error.file in (path, str(path))
    assert says in str(error)


def test_products_json_gives_units_seconds_and_origin(tmp_path):
    write(tmp_path / PRICES, GOOD)
    products = [{"name": n, "tick_size": 2.0, "lot_size": 1.0, "asset_class": "fx"} for n in "AB"]
    content = {"seconds_per_timestamp": 0.02, "origin": "recorded", "products": products}
    write(tmp_path / "products.json", [json.dumps(content)])
    data, _ = load("prosperity", tmp_path)
    assert data.origin == "recorded"
    assert data.products[0].tick_size == 2.0
    assert data.seconds.tolist() == [0, 2, 4, 6]
    assert data.bid_price[0, 0, 0] == 4999


def lobster(folder: Path, messages: list[str], orders: list[str]) -> tuple[Path, Path]:
    return write(folder / STOCK.format("message"), messages), write(folder / STOCK.format("orderbook"), orders)


@pytest.mark.parametrize(
    ("messages", "orders", "kind", "line", "column", "says"),
    [
        (MESSAGES, ORDERS[:2], "orderbook", 3, "ask_price_1", "unequal length: 3 messages, 2 book rows"),
        (MESSAGES, [*ORDERS[:2], "1000200,10,1000100"], "orderbook", 3, "bid_price_1", "3 fields"),
        (MESSAGES, [*ORDERS[:2], "1000200;10;1000100;5"], "orderbook", 3, "ask_price_1", "1 fields"),
        (MESSAGES, [ORDERS[0], "1000250,10,1000100,5", ORDERS[2]], "orderbook", 2, "ask_price_1", "ticks of 100"),
        (MESSAGES, [ORDERS[0], "1000200,-1,1000100,5", ORDERS[2]], "orderbook", 2, "ask_size_1", "negative"),
        ([MESSAGES[0], "34200.1,1,1,1,1000100,1", MESSAGES[2]], ORDERS, "message", 2, "time", "backward"),
        ([*MESSAGES[:2], "34206,1,1,1,1000100,1"], ORDERS, "message", 3, "time", "outside the window"),
        ([*MESSAGES[:2], "34202,4,1,1,1000100,0"], ORDERS, "message", 3, "direction", "neither"),
        ([*MESSAGES[:2], "noon,4,1,1,1000100,1"], ORDERS, "message", 3, "time", "not a number"),
        ([m.replace(",", ";") for m in MESSAGES], ORDERS, "message", 1, "time", "1 fields"),
        ([], ORDERS, "message", 1, None, "empty"),
    ],
)
def test_a_fault_in_a_lobster_pair_is_named_with_its_place(tmp_path, messages, orders, kind, line, column, says):
    pair = lobster(tmp_path, messages, orders)
    error = refusal("lobster", *pair)
    assert (error.file, error.line, error.column) == (str(tmp_path / STOCK.format(kind)), line, column)
    assert says in error.message


def test_lobster_names_and_pairs_are_checked(tmp_path):
    message, _ = lobster(tmp_path, MESSAGES, ORDERS)
    assert "orderbook file is not beside" in refusal("lobster", message).message
    assert "a LOBSTER file is" in refusal("lobster", write(tmp_path / "book.csv", ORDERS)).message
    with pytest.raises(InputError, match="grid_seconds"):
        read("lobster", [tmp_path], grid_seconds=0.0)


@pytest.mark.parametrize(
    ("lines", "line", "column", "says"),
    [
        (["2024-01-02,1,1,3,1", "noon,1,1,3,1"], 3, "time", "no ISO 8601 time"),
        (["2024-01-02T10:00:00Z,1,1,3,1", "2024-01-02T10:00:01,1,1,3,1"], 3, "time", "zone"),
        (["2024-01-02T10:00:00,1,1,3,1", "2024-01-02T25:00:00,1,1,3,1"], 3, "time", "no ISO 8601 time"),
        (["0,1,1,3,1", ",1,1,3,1"], 3, "time", "blank"),
        (["0,1,1,3,1", "1e30,1,1,3,1"], 3, "time", "out of range"),
        (["0,1,1,3,1", "nan,1,1,3,1"], 3, "time", "not finite"),
        (["0,1,1,3,1", "1,1,1,3e-12,1"], 3, "ask_price_1", "tick_size"),
    ],
)
def test_a_fault_in_a_table_is_named_with_its_place(tmp_path, lines, line, column, says):
    path = write(tmp_path / "A.csv", ["time,bid_price_1,bid_size_1,ask_price_1,ask_size_1", *lines])
    error = refusal("table", path)
    assert (error.file, error.line, error.column) == (str(path), line, column)
    assert says in error.message


def test_prices_off_a_given_tick_grid_are_refused(tmp_path):
    rows = ["0,1.00,1,1.02,1", "1,1.00,1,1.015,1"]
    path = write(tmp_path / "A.csv", ["time,bid_price_1,bid_size_1,ask_price_1,ask_size_1", *rows])
    with pytest.raises(InputError, match=r":3: column 'ask_price_1': is no whole number of ticks of 0.01: 1.015"):
        read("table", [path], tick_size=0.01)


def test_unreadable_parquet_is_refused(tmp_path):
    path = tmp_path / "A.parquet"
    frame = pd.DataFrame({"time": [0, 1], "bid_price_1": [1, 1], "bid_size_1": 1, "ask_price_1": 2, "ask_size_1": 1})
    frame.to_parquet(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-30])
    assert "Parquet" in refusal("table", path).message
    frame.astype({"bid_size_1": str}).to_parquet(path)
    assert refusal("table", path).column == "bid_size_1"
    frame.assign(ask_price_1=[2.0, np.inf]).to_parquet(path)
    error = refusal("table", path)
    assert (error.line, error.column) == (2, "ask_price_1")


def test_options_of_another_source_are_refused(tmp_path):
    path = write(tmp_path / PRICES, GOOD)
    with pytest.raises(InputError, match="tick_size does not apply to prosperity"):
        read("prosperity", [path], tick_size=1.0)
    with pytest.raises(InputError, match="unknown data source 'bloomberg'"):
        read("bloomberg", [path])
    with pytest.raises(InputError, match="no name of ours"):
        read("table", [path], columns={"bid": "b"})


CELL = st.one_of(
    st.sampled_from(["", "9998", "10002", "0", "-1", "5", "nan", "inf", "1e300", "9998.5", "x", " ", '"', "1e9", "-0"]),
    st.integers(9990, 10010).map(str),
    st.text(max_size=3),
)
LINE = st.one_of(
    st.tuples(
        st.sampled_from(["0", "1"]), st.integers(0, 9).map(lambda i: str(100 * i)), st.sampled_from("AB")
    ).flatmap(lambda keys: st.lists(CELL, min_size=6, max_size=6).map(lambda rest: ";".join([*keys, *rest]))),
    st.text(max_size=20),
)
MILD = st.tuples(
    st.integers(0, 9),
    st.sampled_from("AB"),
    *(st.sampled_from(v) for v in (["", "9998", "10003"], ["", "0", "5"], ["", "10002", "9000"], ["", "0", "7"])),
).map(lambda v: "0;{};{};{};{};{};{};;".format(100 * v[0], *v[1:]))


@given(lines=st.lists(LINE, max_size=4), mild=st.lists(MILD, min_size=1, max_size=12))
def test_hostile_prices_end_in_clean_books_or_in_one_line(tmp_path_factory, lines, mild):
    path = tmp_path_factory.mktemp("hostile") / PRICES
    path.write_bytes("\n".join([*GOOD, *mild, *lines]).encode("utf-8", "surrogatepass"))
    try:
        data, report = load("prosperity", path)
    except InputError as error:
        assert error.file is not None and "\n" not in str(error)  # noqa: PT017, PT018
        return
    report.check()
    for name in ("bid_price", "ask_price", "bid_size", "ask_size", "seconds", "trade_volume"):
        assert np.isfinite(np.asarray(getattr(data, name))).all()


@given(content=st.binary(max_size=300), cut=st.integers(0, 200))
def test_arbitrary_bytes_never_end_in_a_traceback(tmp_path_factory, content, cut):
    folder = tmp_path_factory.mktemp("bytes")
    good = "\n".join(GOOD).encode()
    for name, data in (("prices_a.csv", content), ("prices_b.csv", good[:cut] + content + good[cut:])):
        (folder / name).write_bytes(data)
        for source in ("prosperity", "table", "lobster"):
            try:
                load(source, folder / name)
            except InputError as error:
                assert "\n" not in str(error)  # noqa: PT017
