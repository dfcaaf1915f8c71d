"""`watch_book.py`: a flow, a record or agents in, one page out; what is wrong is one line and exit code 2."""

import dataclasses
import signal
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments import command, watch_book
from experiments.watch_book import WatchConfig
from marljax.data.readers.lobster_messages import read_messages
from marljax.evaluation.book_film import record
from tests.experiments.test_calibrate_flow import write_pair
from tests.reference.browser import CHROMIUM
from tests.reference.poisson_book import simulate

ROOT = Path(__file__).parents[2]
GOOG = ROOT.parent / "shared/data/lobster/LOBSTER_SampleFile_GOOG_2012-06-21_10.zip"


def test_the_command_writes_one_page_and_prints_its_progress(tmp_path):
    script = str(ROOT / "experiments" / "watch_book.py")
    flags = ["--messages", "300", "--shots", "20", "--html", "out/book.html"]
    done = subprocess.run([sys.executable, script, *flags], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert "[book] 300/300 messages" in done.stderr
    assert "21 shots" in done.stderr
    page = (tmp_path / "out" / "book.html").read_text()
    assert "<b>Simulated:</b>" in page
    assert [file.name for file in tmp_path.rglob("*") if file.is_file()] == ["book.html"]


@pytest.mark.parametrize(
    "source", ["hawkes", *(pytest.param(x, marks=pytest.mark.nightly) for x in ("zero-intelligence", "fair-value"))]
)
def test_a_seed_makes_one_film(source):
    config = WatchConfig(source=source, messages=300, shots=20)
    films = [record(watch_book.simulated_book(dataclasses.replace(config, seed=seed))[0]) for seed in (1, 1, 2)]
    for name in ("seconds", "touch", "trade_price", "shot_seconds"):
        np.testing.assert_array_equal(getattr(films[0], name), getattr(films[1], name))
    assert len(films[0].seconds) != len(films[2].seconds) or (films[0].touch != films[2].touch).any()
    assert len(films[0].trade_price) > 0
    assert (np.diff(films[0].seconds) >= 0).all()


@pytest.mark.nightly
def test_agents_quote_and_trade_and_are_named():
    told, labels = watch_book.agents_book(WatchConfig(source="agents", messages=600, shots=60))
    film = record(told)
    assert labels.agents == ("market maker", "execution agent")
    there = np.isfinite(film.quotes)
    assert there[len(there) // 4 :, 0].all(-1).mean() > 0.8, "the maker quotes both sides"
    assert there[:, 1, 0].any()
    assert not there[:, 1, 1].any(), "the execution agent only buys"
    assert {1, 2} <= set(film.trade_maker) | set(film.trade_taker)
    assert (np.diff(film.seconds) >= 0).all()


def test_a_recorded_day_is_shown_as_it_was(tmp_path):
    write_pair(simulate(0, 300.0, lots=100), tmp_path)
    (day,) = read_messages([tmp_path])
    config = WatchConfig(source="recorded", path=(tmp_path,), start_row=100, messages=400, shots=50)
    told, labels = watch_book.recorded_book(config)
    part = watch_book.cut(day, slice(100, 110))
    assert (len(part), part.first_line) == (10, day.first_line + 100)
    film = record(told)
    assert labels.origin == "recorded"
    assert labels.title == "TEST, 2020-01-02, from row 100"
    assert labels.tick == "0.01"
    for shot, row in ((0, 100), (-1, 500)):
        for side, price, size in ((0, day.bid_price, day.bid_size), (1, day.ask_price, day.ask_size)):
            mine = film.orders[shot][film.orders[shot][:, 0] == side]
            for p, lots in zip(price[row], size[row], strict=True):
                assert mine[mine[:, 1] == p, 2].sum() == lots
    assert film.shot_seconds[-1] == pytest.approx((day.time_ns[500] - day.time_ns[100]) / 1e9, abs=1e-3)
    executed = (day.kind[101:501] == 4) * day.size[101:501]
    assert film.trade_size.sum() == executed.sum() > 0


@pytest.mark.skipif(not GOOG.exists(), reason="the real data are not beside the repository")
def test_a_real_day_makes_a_small_page(tmp_path):
    watch_book.main(WatchConfig(source="recorded", path=(GOOG,), start_row=20_000, html=tmp_path / "goog.html"))
    page = (tmp_path / "goog.html").read_text()
    assert "GOOG, 2012-06-21, from row 20,000" in page
    assert len(page) < 5e6


def exit_code(*flags: str) -> int:
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as end:
            command.run(watch_book.main, WatchConfig, {"standard": WatchConfig()}, "", flags)
    finally:
        signal.signal(signal.SIGTERM, before)
    return end.value.code


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--source", "rumour"], "error: invalid choice 'rumour' for argument '--source'."),
        (["--source", "recorded"], "error: --path and --source recorded go together"),
        (["--path", "a.zip"], "error: --path and --source recorded go together"),
        (["--source", "recorded", "--path", "a.zip"], "error: a.zip: no such file or folder"),
        (
            ["--source", "recorded", "--path", "."],
            "error: one stock and day is shown at a time, and the path holds AAA",
        ),
        (["--source", "recorded", "--path", "one", "--start-row", "10000"], "error: start_row must be at most "),
        (["--start-row", "-1"], "error: start_row must not be negative, got -1"),
        (["--messages", "0"], "error: messages must lie within 1 and 50000, got 0"),
        (["--shots", "20"], "error: shots must be at least 41 for 5000 messages, got 20"),
        (["--depth", "51"], "error: depth must lie within 1 and 50, got 51"),
        (["--png", "book.png"], "error: --png needs Chromium or Chrome, and neither is on the PATH"),
    ],
)
def test_what_is_wrong_is_one_line_and_exit_code_2(flags, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "one").mkdir()
    for stock, folder in (("AAA", "."), ("BBB", "."), ("CCC", "one")):
        write_pair(simulate(1, 20.0), tmp_path / folder, stock)
    assert exit_code(*flags) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(message)
    assert said.err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium or Chrome is installed")
def test_a_picture_is_as_large_as_the_page(tmp_path):
    config = WatchConfig(messages=300, shots=20, html=tmp_path / "book.html", png=tmp_path / "book.png")
    watch_book.main(config)
    picture = (tmp_path / "book.png").read_bytes()
    assert picture[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", picture[16:24]) == (1120, 1340)
    assert len(picture) > 40_000, "something is drawn"


def test_a_browser_that_fails_is_bad_input(tmp_path):
    (tmp_path / "page.html").touch()
    with pytest.raises(watch_book.InputError, match="false made no picture"):
        watch_book.photograph("false", tmp_path / "page.html", 0, 100, tmp_path / "book.png")


def test_the_picture_is_taken_where_most_agents_have_orders():
    def shot(*owners):
        return np.array([[0, 1, 1, owner] for owner in owners]).reshape(-1, 4)

    film = record(watch_book.simulated_book(WatchConfig(messages=300, shots=20))[0])
    few = dataclasses.replace(film, orders=[shot(1, 2), shot(0, 1), shot(1), shot(0), shot(1, 1, 2), shot()])
    assert watch_book.best_shot(few) == 4
    assert watch_book.best_shot(film) == len(film.orders) // 2
