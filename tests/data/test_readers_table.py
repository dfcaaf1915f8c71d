"""The generic table: column maps, times in any form, inferred units, Parquet as CSV."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marljax.data.clean import clean
from marljax.data.readers import read
from marljax.data.schema import InputError

HEADER = "time,product,bid_price_1,bid_size_1,ask_price_1,ask_size_1"


def table(path: Path, times: list, header: str = HEADER) -> Path:
    rows = [f"{t},{p},100.25,3,100.5,4" for t in times for p in ("X", "Y")]
    path.write_text("\n".join([header, *rows]))
    return path


@pytest.mark.parametrize(
    ("times", "unit", "seconds"),
    [
        ([0, 1, 2], None, [0, 1, 2]),
        (["0.0", "0.5", "1.0"], "s", [0, 0.5, 1]),
        ([1700000000000, 1700000000250, 1700000000500], "ms", [0, 0.25, 0.5]),
        ([1700000000000000000, 1700000000000000100, 1700000000000000200], "ns", [0, 1e-7, 2e-7]),
        (["1700000000.000000001", "1700000000.000000002", "1700000000.000000003"], "s", [0, 1e-9, 2e-9]),
        (["2024-03-01T10:00:00", "2024-03-01T10:00:01", "2024-03-01T10:00:02"], None, [0, 1, 2]),
        (["2024-03-01 10:00:00.5Z", "2024-03-01 10:00:01.5Z", "2024-03-01 10:00:02.5Z"], None, [0, 1, 2]),
        (["2024-03-01T23:30:00-05:00", "2024-03-02T05:30:00+01:00", "2024-03-02T04:30:01Z"], None, None),
    ],
)
def test_times_in_any_form_become_nanoseconds_of_a_session(tmp_path, times, unit, seconds):
    raw = read("table", [table(tmp_path / "a.csv", times)], time_unit=unit)
    if seconds is None:  # one instant in two zones lies on two local dates
        assert raw.books["session"].tolist() == [0, 0, 1, 1, 1, 1]
        assert raw.books["time_ns"].tolist()[2:] == [0, 0, 10**9, 10**9]
    else:
        assert raw.books["time_ns"].tolist()[::2] == [round(s * 1e9) for s in seconds]
        assert set(raw.books["session"]) == {0}


def test_a_session_is_a_local_date_or_what_its_column_says(tmp_path):
    times = ["2024-03-01T10:00:00", "2024-03-04T10:00:00"]
    assert read("table", [table(tmp_path / "a.csv", times)]).books["session"].tolist() == [0, 0, 1, 1]
    rows = ["0,1,100,1,101,1", "9,1,100,1,101,1", "20,2,100,1,101,1"]
    (tmp_path / "b.csv").write_text("\n".join(["time,run,bid_price_1,bid_size_1,ask_price_1,ask_size_1", *rows]))
    raw = read("table", [tmp_path / "b.csv"], columns={"session": "run"})
    assert raw.books["session"].tolist() == [0, 0, 1]
    assert raw.books["time_ns"].tolist() == [0, 9 * 10**9, 0]
    assert raw.products[0].name == "b"


def test_units_are_inferred_given_or_described(tmp_path):
    path = table(tmp_path / "a.csv", [0, 1])
    assert [(p.tick_size, p.lot_size) for p in read("table", [path]).products] == [(0.25, 1.0)] * 2
    assert read("table", [path], tick_size=0.05).books["bid_price_1"].tolist() == [2005.0] * 4
    rows = ["0,100,0.125,101,0.5", "1,100,0.25,101,1.5"]
    (tmp_path / "c.csv").write_text("\n".join([HEADER.replace(",product", ""), *rows]))
    (coin,) = read("table", [tmp_path / "c.csv"]).products
    assert (coin.name, coin.tick_size, coin.lot_size) == ("c", 1.0, 0.125)
    (tmp_path / "products.json").write_text('{"products": [{"name": "X", "tick_size": 0.01}, {"name": "Y"}]}')
    with pytest.raises(InputError, match=r"a.csv:3: column 'bid_price_1': is no whole number of ticks of 1: 100.25"):
        read("table", [path, tmp_path / "products.json"])


def test_a_column_map_levels_pnl_volumes_and_separator(tmp_path):
    header = "ts;sym;b1;bq1;a1;aq1;b2;bq2;a2;aq2;pl;vb;vs"
    rows = ["0;X;99;1;101;2;98;3;102;4;0.5;;", "1;X;99;1;101;2;;;102;4;;5;2"]
    path = tmp_path / "m.csv"
    path.write_text("\n".join([header, *rows]))
    columns = {"time": "ts", "product": "sym", "pnl": "pl", "buy_volume": "vb", "sell_volume": "vs"}
    for k in (1, 2):
        columns |= {f"{s}_{w}_{k}": f"{s[0]}{q}{k}" for s in ("bid", "ask") for w, q in (("price", ""), ("size", "q"))}
    data, _ = clean(read("table", [path], columns=columns, delimiter=";"))
    assert data.bid_size[:, 0].tolist() == [[1, 3], [1, 0]]
    assert data.trade_volume[:, 0].tolist() == [0, 7]
    assert data.trade_imbalance[:, 0].tolist() == [0, 3]
    assert float(data.pnl[0, 0]) == 0.5
    with pytest.raises(InputError, match=r"m.csv:1: column 'nope': is missing"):
        read("table", [path], columns=columns | {"time": "nope"}, delimiter=";")
    with pytest.raises(InputError, match="stands for two"):
        read("table", [path], columns=columns | {"time": "sym"}, delimiter=";")
    with pytest.raises(InputError, match=r"m.csv:1: column 'ts': wrong delimiter: expected ','"):
        read("table", [path], columns=columns)


@pytest.mark.parametrize("zone", [None, "America/New_York"])
def test_parquet_reads_as_csv(tmp_path, zone):
    csv = read("table", [table(tmp_path / "a.csv", [0, 1, 2])]).books
    frame = pd.read_csv(tmp_path / "a.csv")
    frame["time"] = pd.to_datetime(frame["time"] + 1.7e9, unit="s", utc=True).dt.tz_convert(zone)
    frame.to_parquet(tmp_path / "b.parquet")
    parquet = read("table", [tmp_path / "b.parquet"]).books
    assert (parquet.pop("line") + 1 == csv.pop("line")).all()
    pd.testing.assert_frame_equal(parquet, csv)


def test_several_files_are_several_products_or_days(tmp_path):
    header = HEADER.replace(",product", "")
    for name, day in (("X", 1), ("Y", 1)):
        rows = [f"2024-03-0{day}T10:00:0{i},100,1,101,1" for i in range(3)]
        (tmp_path / f"{name}.csv").write_text("\n".join([header, *rows]))
    data, _ = clean(read("table", [tmp_path]))
    assert [p.name for p in data.products] == ["X", "Y"]
    assert data.bid_price.shape == (3, 2, 1)


CELLS = st.sampled_from(["", "1", "2", "3", "1.5", "-1", "nan", "inf", "x", "1e400", "100", "2024-01-02", "9e18"])


@given(rows=st.lists(st.tuples(*[CELLS] * 5), min_size=1, max_size=6), parquet=st.booleans())
def test_hostile_tables_end_in_clean_books_or_in_one_line(tmp_path_factory, rows, parquet):
    path = tmp_path_factory.mktemp("table") / ("h.parquet" if parquet else "h.csv")
    names = HEADER.replace(",product", "").split(",")
    if parquet:
        pd.DataFrame(
            [[float(c) if c not in ("", "x", "2024-01-02") else np.nan for c in row] for row in rows]
        ).set_axis(names, axis=1).to_parquet(path)
    else:
        path.write_text("\n".join([",".join(names), *map(",".join, rows)]))
    try:
        data, report = clean(read("table", [path]))
    except InputError as error:
        assert "\n" not in str(error)  # noqa: PT017
        return
    report.check()
    assert bool((data.bid_price[..., 0] < data.ask_price[..., 0]).all())


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("tick_size", [None, 1e-6])
@pytest.mark.parametrize("column", ["bid_price_1", "ask_size_1", "session"])
def test_a_number_near_the_largest_is_refused_without_a_warning(tmp_path, column, tick_size):
    row = dict(zip((HEADER + ",session").split(","), ["0", "X", "100", "3", "101", "4", "1"], strict=True)) | {
        column: "1e306"
    }
    path = tmp_path / "a.csv"
    path.write_text(",".join(row) + "\n" + ",".join(row.values()) + "\n")
    with pytest.raises(InputError, match=rf"a.csv:2: column '{column}'.*1e\+306"):
        read("table", [path], tick_size=tick_size, lot_size=tick_size)
