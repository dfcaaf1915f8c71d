"""Cleaning: each rule, the balance of its books, causality, and that nothing hostile passes through it."""

import dataclasses
import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marljax.data.clean import CleaningConfig, clean
from marljax.data.schema import InputError, Product, RawBooks, SourceFile

SECOND = 10**9
NAN = float("nan")


def raw_books(rows: list[dict], trades: list[dict] = (), n_levels: int = 2) -> RawBooks:
    """Rows as dicts of what differs from a good book of product A."""
    books = pd.DataFrame(
        [
            {"file": 0, "line": i + 2, "session": 0, "product": "A", "pnl": NAN}
            | {f"{s}_{w}_{k}": NAN for k in range(1, n_levels + 1) for s in ("bid", "ask") for w in ("price", "size")}
            | {"bid_price_1": 99.0, "bid_size_1": 5.0, "ask_price_1": 101.0, "ask_size_1": 7.0}
            | row
            for i, row in enumerate(rows)
        ]
    )
    columns = ["file", "line", "session", "time_ns", "product", "price", "size", "side"]
    trade_rows = [{"file": 0, "line": 2, "session": 0, "product": "A", "price": 100.0} | t for t in trades]
    names = sorted(set(books["product"]))
    return RawBooks(
        books=books,
        trades=pd.DataFrame(trade_rows, columns=columns).astype({"time_ns": "int64", "session": "int64"}),
        products=tuple(Product(name) for name in names),
        n_levels=n_levels,
        files=(SourceFile("books.csv", "0" * 64, len(books)),),
        origin="simulated",
    )


def steps(n: int, **values) -> list[dict]:
    return [{"time_ns": i * SECOND} | values for i in range(n)]


def at(mids: list[float], **values) -> list[dict]:
    """One row a second with these mids and a spread of two ticks."""
    return [
        {"time_ns": i * SECOND, "bid_price_1": mid - 1, "ask_price_1": mid + 1} | values for i, mid in enumerate(mids)
    ]


def counts(report) -> dict[str, int]:
    return {rule: n for rule, n in report.counts().items() if n}


def test_clean_rows_pass_untouched():
    data, report = clean(raw_books(steps(4)))
    assert counts(report) == {}
    assert data.bid_price[:, 0, 0].tolist() == [99] * 4
    assert data.seconds.tolist() == [0, 1, 2, 3]
    assert bool(data.valid.all())


def test_an_absent_level_stands_one_tick_beyond_with_size_zero():
    data, _ = clean(raw_books(steps(2)))
    assert data.bid_price[0, 0].tolist() == [99, 98]
    assert data.ask_price[0, 0].tolist() == [101, 102]
    assert data.bid_size[0, 0].tolist() == [5, 0]


def test_a_repeated_row_is_dropped_and_a_contradicting_one_refused():
    rows = steps(3)
    data, report = clean(raw_books([*rows, rows[1], rows[1]]))
    assert counts(report)["duplicate_row"] == 2
    assert data.n_steps == 3
    with pytest.raises(InputError, match=r"books.csv:5: column 'ask_size_1': 8 disagrees with 7 in line 3"):
        clean(raw_books([*rows, rows[1] | {"ask_size_1": 8.0}]))


def test_late_rows_are_sorted_and_counted():
    rows = [row | {"bid_size_1": float(i + 1)} for i, row in enumerate(steps(5))]
    data, report = clean(raw_books([rows[0], rows[3], rows[1], rows[2], rows[4]]))
    assert counts(report) == {"time_order": 2}
    assert data.bid_size[:, 0, 0].tolist() == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("hole", [{"bid_price_1": NAN}, {"ask_size_1": NAN}, {"bid_size_1": 0.0}])
def test_a_row_without_a_best_quote_repeats_the_last_book(hole):
    rows = [row | {"ask_size_1": float(i + 1), "pnl": float(i)} for i, row in enumerate(steps(4))]
    data, report = clean(raw_books([*rows[:2], rows[2] | hole, rows[3]]))
    assert report.dropped["missing_side"].tolist() == [1]
    assert data.valid[:, 0].tolist() == [True, True, False, True]
    assert data.ask_size[:, 0, 0].tolist() == [1, 2, 2, 4]
    np.testing.assert_array_equal(np.asarray(data.pnl[:, 0]), [0, 1, NAN, 3])


def test_half_a_level_is_removed_and_a_quiet_one_is_not_counted():
    deep = {"bid_price_2": 97.0, "bid_size_2": NAN, "ask_price_2": 103.0, "ask_size_2": 4.0}
    quiet = {"bid_price_2": 97.0, "bid_size_2": 0.0}
    data, report = clean(raw_books([steps(1, **deep)[0], steps(2, **quiet)[1]]))
    assert counts(report) == {"incomplete_level": 1}
    assert data.bid_size[:, 0, 1].tolist() == [0, 0]
    assert data.ask_size[:, 0, 1].tolist() == [4, 0]


def test_levels_are_sorted_closed_up_and_merged():
    base = {"bid_price_1": 97.0, "bid_size_1": 1.0, "bid_price_2": 99.0, "bid_size_2": 2.0}
    hole = {"bid_price_3": 98.0, "bid_size_3": 3.0}
    twin = {"ask_price_2": 101.0, "ask_size_2": 4.0, "ask_price_3": 102.0, "ask_size_3": 9.0}
    rows = [steps(1, **base)[0], steps(2, **hole)[1], steps(3, **twin)[2]]
    data, report = clean(raw_books(rows, n_levels=3))
    assert counts(report) == {"level_order": 3}
    assert data.bid_price[:, 0].tolist() == [[99, 97, 96], [99, 98, 97], [99, 98, 97]]
    assert data.bid_size[:, 0].tolist() == [[2, 1, 0], [5, 3, 0], [5, 0, 0]]
    assert data.ask_price[2, 0].tolist() == [101, 102, 103]
    assert data.ask_size[2, 0].tolist() == [11, 9, 0]


@pytest.mark.parametrize("bid", [101.0, 102.0])
def test_crossed_and_locked_books_are_dropped(bid):
    rows = steps(3)
    _, report = clean(raw_books([rows[0], rows[1] | {"bid_price_1": bid}, rows[2]]))
    assert report.dropped["crossed_book"].tolist() == [1]


def test_a_fat_finger_is_dropped_and_ordinary_moves_are_not():
    walk = 10_000 + np.cumsum(np.random.default_rng(0).integers(-3, 4, 500)).astype(float)
    _, report = clean(raw_books(at(list(walk))))
    assert counts(report) == {}
    spoilt = walk.copy()
    spoilt[[100, 200, 300]] *= [10, 1.05, 0.95]
    data, report = clean(raw_books(at(list(np.round(spoilt)))))
    assert report.dropped["outlier"].tolist() == [3]
    assert np.flatnonzero(~np.asarray(data.valid[:, 0])).tolist() == [100, 200, 300]


def test_a_lasting_jump_costs_two_rows_and_is_believed():
    data, report = clean(raw_books(at([10_000.0] * 50 + [12_000.0] * 50 + [10_000.0] * 50)))
    assert report.dropped["outlier"].tolist() == [4]
    assert np.flatnonzero(~np.asarray(data.valid[:, 0])).tolist() == [50, 51, 100, 101]


def test_a_cheap_product_may_move_by_ticks_that_are_large_fractions():
    _, report = clean(raw_books(at([10.0, 11.0] * 50)))
    assert counts(report) == {}


def test_short_gaps_are_filled_and_long_ones_left_out():
    rows = [{"time_ns": t * SECOND} for t in (0, 1, 2, 5, 6, 100, 101)]
    data, report = clean(raw_books(rows), CleaningConfig(max_gap_steps=10))
    assert counts(report) == {"gap": 2}
    assert data.seconds.tolist() == [0, 1, 2, 3, 4, 5, 6, 100, 101]
    assert data.valid[:, 0].tolist() == [True, True, True, False, False, True, True, True, True]


def test_products_share_a_grid_that_starts_when_all_have_been_seen():
    rows = [*steps(6), *(row | {"product": "B", "bid_price_1": 90.0} for row in steps(6)[2:5])]
    data, report = clean(raw_books(rows))
    assert report.dropped["before_start"].tolist() == [2, 0]
    assert report.filled["alignment"].tolist() == [0, 1]
    assert data.seconds.tolist() == [2, 3, 4, 5]
    assert data.valid.tolist() == [[True, True]] * 3 + [[True, False]]


def test_nothing_is_carried_from_one_session_into_the_next():
    day = [*steps(3), *(row | {"product": "B"} for row in steps(3))]
    late = [row | {"session": 1} for row in day if row["time_ns"] or row.get("product") != "B"]
    data, report = clean(raw_books([*day, *late]))
    assert report.dropped["before_start"].tolist() == [1, 0]
    assert data.session.tolist() == [0, 0, 0, 1, 1]


def test_a_session_without_a_product_is_dropped_and_counted():
    day = [*steps(3), *(row | {"product": "B"} for row in steps(3))]
    data, report = clean(raw_books([*day, *(row | {"session": 1} for row in steps(3))]))
    assert report.dropped["incomplete_session"].tolist() == [3, 0]
    assert data.session.tolist() == [0, 0, 0]
    apart = [*steps(3), *(row | {"product": "B", "session": 1} for row in steps(3))]
    with pytest.raises(InputError, match="no session has a valid row of every product"):
        clean(raw_books(apart))


def test_rows_between_grid_times_count_at_the_next_one():
    rows = [{"time_ns": t, "bid_size_1": float(i + 1)} for i, t in enumerate((0, SECOND // 2, SECOND, SECOND + 1))]
    data, report = clean(raw_books(rows), CleaningConfig(step_seconds=1.0))
    assert counts(report) == {"between_grid": 1}
    assert data.bid_size[:, 0, 0].tolist() == [1, 3, 4]


def test_irregular_times_ask_for_a_step():
    rows = [{"time_ns": t} for t in np.cumsum(np.random.default_rng(1).integers(1, 10**9, 50)).tolist()]
    with pytest.raises(InputError, match=r"books.csv:2: column 'time': .*set step_seconds"):
        clean(raw_books(rows))
    assert clean(raw_books(rows), CleaningConfig(step_seconds=0.5))[0].n_steps > 20


def test_trades_belong_to_the_first_step_at_or_after_them():
    trades = [
        {"time_ns": t, "size": size, "side": side}
        for t, size, side in ((1, 5.0, 1), (SECOND, 3.0, -1), (SECOND + 1, 2.0, 0), (9 * SECOND, 4.0, 1))
    ]
    data, report = clean(raw_books(steps(4), trades))
    assert data.trade_volume[:, 0].tolist() == [0, 8, 2, 0]
    assert data.trade_imbalance[:, 0].tolist() == [0, 2, 0, 0]
    assert (report.trades_in, report.trades_kept) == (4, 3)


def test_a_product_without_a_valid_row_is_refused():
    rows = [*steps(3), *(row | {"product": "B", "bid_price_1": 200.0} for row in steps(3))]
    with pytest.raises(
        InputError, match=r"books.csv:5: column 'product': product 'B' .* 3 of 3 dropped as crossed_book"
    ):
        clean(raw_books(rows))


def test_a_report_that_does_not_balance_is_our_bug():
    _, report = clean(raw_books(steps(4)))
    report.check()
    report.dropped["outlier"] = report.dropped["outlier"] + 1
    with pytest.raises(AssertionError, match="lost rows"):
        report.check()


@pytest.mark.parametrize("wrong", [{"step_seconds": 0.0}, {"outlier_rows": 0}, {"outlier_floor": -1.0}])
def test_a_config_without_sense_is_refused(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        CleaningConfig(**wrong)


def test_dozens_of_products_and_a_million_rows_take_seconds():
    n_products, n_steps, n_levels = 20, 50_000, 3
    time_ns = np.tile(np.arange(n_steps, dtype=np.int64) * SECOND, n_products)
    books = pd.DataFrame({"file": 0, "line": np.arange(len(time_ns)) + 2, "session": 0, "time_ns": time_ns})
    books["product"] = pd.Series(np.repeat([f"P{i:02}" for i in range(n_products)], n_steps), dtype="str")
    for k in range(1, n_levels + 1):
        books = books.assign(
            **{f"bid_price_{k}": 1000.0 - k, f"ask_price_{k}": 1000.0 + k, f"bid_size_{k}": 1.0, f"ask_size_{k}": 1.0}
        )
    base = raw_books(steps(2), n_levels=n_levels)
    products = tuple(Product(f"P{i:02}") for i in range(n_products))
    raw = dataclasses.replace(base, books=books.assign(pnl=NAN), products=products)
    start = time.process_time()
    data, report = clean(raw)
    assert time.process_time() - start < 10
    assert data.bid_price.shape == (n_steps, n_products, n_levels)
    assert counts(report) == {}


VALUES = {
    "price": st.one_of(st.just(NAN), st.integers(95, 105).map(float), st.sampled_from([-3.0, 0.0, 1e5, 2.0**27])),
    "size": st.one_of(st.just(NAN), st.integers(0, 9).map(float)),
}
ROW = st.fixed_dictionaries(
    {"time_ns": st.integers(0, 12).map(lambda i: i * SECOND), "product": st.sampled_from("AB")}
    | {f"{s}_{w}_{k}": VALUES[w] for k in (1, 2, 3) for s in ("bid", "ask") for w in ("price", "size")}
)
ANCHOR = [row | {"product": p} for p in "AB" for row in steps(3)]


@given(rows=st.lists(ROW, max_size=25, unique_by=lambda r: (r["time_ns"], r["product"])))
def test_hostile_rows_leave_no_nan_and_balanced_books(rows):
    kept = [a for a in ANCHOR if not any((a["time_ns"], a["product"]) == (r["time_ns"], r["product"]) for r in rows)]
    try:
        data, report = clean(raw_books([*rows, *kept], n_levels=3))
    except InputError as error:
        assert "valid row" in str(error)  # noqa: PT017
        return
    report.check()
    assert sum(report.rows_in) == len(rows) + len(kept)
    assert np.isfinite(np.asarray(data.seconds)).all()
    assert int(data.valid.sum()) == int(report.rows_kept.sum())


TOUCHY = CleaningConfig(outlier_window=3, outlier_scale_rows=3, outlier_deviations=0.5, outlier_floor=0.0)
"""Flags every third row or so of the walk below, so that a single step of foresight changes many."""


@pytest.mark.parametrize("config", [CleaningConfig(), TOUCHY])
@given(seed=st.integers(0, 2**32 - 1), cut=st.integers(20, 180))
def test_changing_the_future_leaves_the_past_bit_identical(config, seed, cut):
    rng = np.random.default_rng(seed)
    mids = {p: np.round(1000 + np.cumsum(rng.normal(0, 2, 200))) for p in "AB"}
    rows = [row for p in "AB" for row in at(list(mids[p]), product=p)]
    for row in rng.choice(rows, 20, replace=False):
        row["bid_price_1"] += rng.choice([3.0, 400.0, NAN])
    trades = [
        {"time_ns": int(t), "product": rng.choice(["A", "B"]), "size": 3.0, "side": 1}
        for t in rng.integers(0, 200 * SECOND, 100)
    ]
    other = [dict(row) for row in rows]
    for row in other:
        if row["time_ns"] > cut * SECOND:
            row["bid_price_1"] = rng.choice([row["bid_price_1"] * 3, NAN, 7.0])
            row["ask_size_1"] = 99.0
    other = [row for row in other if row["time_ns"] <= cut * SECOND or rng.random() < 0.7]
    later = [t | {"size": 77.0} if t["time_ns"] > cut * SECOND else t for t in trades]
    past = [clean(raw_books(*pair), config)[0] for pair in ((rows, trades), (other, later))]
    end = [int((np.asarray(d.seconds) <= cut).sum()) for d in past]
    assert end[0] == end[1] >= cut - 15
    for field in dataclasses.fields(past[0]):
        if field.name in ("products", "origin"):
            continue
        one, two = (np.asarray(getattr(d, field.name))[: end[0]] for d in past)
        assert one.tobytes() == two.tobytes(), field.name
