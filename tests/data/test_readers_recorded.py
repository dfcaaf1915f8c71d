"""Readers on real files: Prosperity's profit and loss, and LOBSTER's sampling against a line-by-line pass."""

import gzip
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from marljax.data.clean import clean
from marljax.data.readers import read
from tests.reference.sampling import sampled_books, traded

SHARED = Path(__file__).parents[3] / "shared" / "data"
PROSPERITY, LOBSTER = SHARED / "prosperity", SHARED / "lobster"
needs_prosperity = pytest.mark.skipif(not PROSPERITY.is_dir(), reason=f"no real data in {PROSPERITY}")
needs_lobster = pytest.mark.skipif(not LOBSTER.is_dir(), reason=f"no real data in {LOBSTER}")


def submission(number: int) -> list[Path]:
    folder = PROSPERITY / "p2_submission_pnl"
    return [folder / f"round{number}_activities_with_pnl.csv.gz", folder / f"round{number}_trades.csv.gz"]


def own_account(paths: list[Path], product: str) -> pd.DataFrame:
    """The recorded PnL beside position and cash of the submission's own trades at or before each row."""
    raw = read("prosperity", paths)
    with gzip.open(paths[1], "rt") as stream:
        lines = pd.read_csv(stream, sep=";")
    buys, sells = (lines[who].to_numpy() == "SUBMISSION" for who in ("buyer", "seller"))
    trades = raw.trades.assign(signed=(buys.astype(int) - sells)[raw.trades["line"] - 2] * raw.trades["size"])
    trades = trades[trades["product"] == product].sort_values("time_ns")
    books = raw.books[raw.books["product"] == product].sort_values("time_ns")
    seen = np.searchsorted(trades["time_ns"], books["time_ns"], side="right")
    position = np.append(0, trades["signed"].cumsum())[seen]
    cash = np.append(0, -(trades["signed"] * trades["price"]).cumsum())[seen]
    return pd.DataFrame({"pnl": books["pnl"].to_numpy(), "position": position, "cash": cash})


@needs_prosperity
@pytest.mark.parametrize("number", [1, 2, 3])
def test_pnl_is_cash_before_the_row_plus_position_at_the_fair_price(number):
    account = own_account(submission(number), "AMETHYSTS")
    assert (account["position"] != 0).mean() > 0.5
    assert np.abs(account["pnl"] - account["cash"] - 10_000 * account["position"]).max() < 1e-3


@needs_prosperity
@pytest.mark.parametrize("number", [1, 2, 3])
def test_pnl_is_cash_whenever_the_position_is_flat(number):
    account = own_account(submission(number), "STARFRUIT")
    flat = account[account["position"] == 0]
    assert 3 < len(flat) < len(account)
    assert np.abs(flat["pnl"] - flat["cash"]).max() < 1e-3


@needs_prosperity
def test_pnl_reaches_market_data():
    data, report = clean(read("prosperity", submission(1)))
    assert report.rows_in.tolist() == report.rows_kept.tolist() == [1000, 1000]
    assert data.products[0].name == "AMETHYSTS"
    assert np.isfinite(np.asarray(data.pnl)).all()
    assert float(data.pnl[-1, 0]) > 1000


@needs_prosperity
def test_trades_execute_at_the_touch_of_the_row_before_them():
    raw = read("prosperity", [PROSPERITY / "p2" / "round3"])
    books = raw.books.sort_values("time_ns")
    touched = pd.merge_asof(raw.trades.sort_values("time_ns"), books, on="time_ns", by=["session", "product"])
    at_touch = (touched["price"] == touched["bid_price_1"]) | (touched["price"] == touched["ask_price_1"])
    assert at_touch.mean() > 0.97
    assert (touched["side"] == np.where(touched["price"] == touched["ask_price_1"], 1, -1))[at_touch].mean() > 0.99


@needs_prosperity
def test_three_days_are_three_sessions_without_a_fault():
    data, report = clean(read("prosperity", [PROSPERITY / "p2" / "round3"]))
    assert [p.name for p in data.products] == ["CHOCOLATE", "GIFT_BASKET", "ROSES", "STRAWBERRIES"]
    assert np.bincount(data.session).tolist() == [10_000] * 3
    assert sum(report.counts().values()) == 0
    assert data.origin == "simulated"


@needs_prosperity
def test_two_files_of_one_day_that_clash_are_two_sessions():
    raw = read("prosperity", [PROSPERITY / "p3" / "round7"])
    assert raw.books.groupby("session")["file"].agg(["min", "max", "size"]).to_numpy().tolist() == [
        [0, 0, 30_000],
        [1, 1, 30_000],
    ]


@needs_prosperity
def test_files_of_one_day_with_different_products_are_one_session(tmp_path):
    with gzip.open(PROSPERITY / "p2" / "round1" / "prices_round_1_day_0.csv.gz", "rt") as stream:
        header, *rows = stream.read().splitlines()
    for product in ("AMETHYSTS", "STARFRUIT"):
        mine = [row for row in rows if f";{product};" in row]
        (tmp_path / f"prices_{product}.csv").write_text("\n".join([header, *mine]))
    assert set(read("prosperity", [tmp_path]).books["session"]) == {0}


@needs_lobster
@pytest.mark.parametrize("grid_seconds", [1, 7])
def test_sampling_equals_a_line_by_line_pass(grid_seconds):
    path, start, seconds = LOBSTER / "LOBSTER_SampleFile_AAPL_2012-06-21_1.zip", 34_200, 300
    with zipfile.ZipFile(path) as archive:
        names = [next(n for n in archive.namelist() if f"_{kind}_" in n) for kind in ("message", "orderbook")]
        messages, orders = (archive.read(name).decode().splitlines() for name in names)
    expected = sampled_books(messages, orders, start, seconds)
    volumes = traded(messages, start, seconds)
    data, _ = clean(read("lobster", [path], grid_seconds=float(grid_seconds)))
    for step in range(seconds // grid_seconds - 1):
        at = round(float(data.seconds[step]))
        book = np.array([data.ask_price[step, 0, 0] * 100, data.ask_size[step, 0, 0]])
        assert [*book.tolist(), int(data.bid_price[step, 0, 0]) * 100, int(data.bid_size[step, 0, 0])] == expected[at]
        passed = [volumes.get(s, (0, 0)) for s in range(at - grid_seconds + 1, at + 1)]
        assert int(data.trade_volume[step, 0]) == sum(volume for volume, _ in passed)
        assert int(data.trade_imbalance[step, 0]) == sum(imbalance for _, imbalance in passed)


@needs_lobster
def test_the_future_of_a_lobster_file_does_not_reach_its_past(tmp_path):
    name = "LOBSTER_SampleFile_AMZN_2012-06-21_1.zip"
    with zipfile.ZipFile(LOBSTER / name) as archive, zipfile.ZipFile(tmp_path / name, "w") as changed:
        for inside in archive.namelist():
            lines = archive.read(inside).splitlines()
            late = lines[20_000:] if inside.endswith("txt") else [lines[19_999]] * 5
            changed.writestr(inside, b"\n".join([*lines[:20_000], *late]))
    whole, cut = (clean(read("lobster", [folder / name]))[0] for folder in (LOBSTER, tmp_path))
    last = int(np.argmax(np.asarray(whole.bid_price != cut.bid_price).any((1, 2))))
    with zipfile.ZipFile(LOBSTER / name) as archive:
        message = next(n for n in archive.namelist() if "message" in n)
        when = float(archive.read(message).splitlines()[19_999].split(b",")[0]) - 34_200
    assert last >= int(when) > 1000
    for field in ("bid_price", "ask_size", "trade_volume", "seconds"):
        one, two = (np.asarray(getattr(d, field))[: int(when) - 1] for d in (whole, cut))
        assert one.tobytes() == two.tobytes()


@needs_lobster
def test_three_stocks_share_one_grid_and_levels_are_padded():
    names = ["AAPL_2012-06-21_1", "GOOG_2012-06-21_10"]
    data, report = clean(read("lobster", [LOBSTER / f"LOBSTER_SampleFile_{name}.zip" for name in names]))
    assert [p.name for p in data.products] == ["AAPL", "GOOG"]
    assert data.bid_price.shape == (23_400, 2, 10)
    assert data.origin == "recorded"
    assert int(data.bid_size[:, 0, 1:].sum()) == 0
    assert float((data.bid_size[:, 1] > 0).mean()) > 0.99
    assert report.step_seconds == 1.0
    assert sum(report.counts().values()) == 0
