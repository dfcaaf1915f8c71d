"""`calibrate_flow.py`: a LOBSTER pair in, flow.json out; what is wrong is one line and exit code 2."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments import calibrate_flow, command
from marljax.lob.sessions.calibration import FlowStatistics
from marljax.lob.sessions.session import EventKind, Session
from tests.reference.poisson_book import Rates, simulate

ROOT = Path(__file__).parents[2]
GOOG = ROOT.parent / "shared/data/lobster/LOBSTER_SampleFile_GOOG_2012-06-21_10.zip"
TYPES = {EventKind.LIMIT: 1, EventKind.CANCEL: 3, EventKind.EXECUTION: 4}


def calibrate(*flags: str, cwd: Path) -> subprocess.CompletedProcess:
    script = str(ROOT / "experiments" / "calibrate_flow.py")
    return subprocess.run([sys.executable, script, *flags], capture_output=True, text=True, check=False, cwd=cwd)


def write_pair(session: Session, folder: Path, stock: str = "TEST") -> None:
    """The session as LOBSTER writes one, its order ids made up."""
    columns = (session.seconds, session.kind, session.size, session.price, session.side)
    messages = [
        f"{36000 + t:.9f},{TYPES[int(k)]},{i + 1},{size},{price * 100},{side}"
        for i, (t, k, size, price, side) in enumerate(zip(*columns, strict=True))
    ]
    book = np.empty((len(session), session.bid_price.shape[1], 4), np.int64)
    for i, (price, size, empty) in enumerate(
        ((session.ask_price, session.ask_size, 9_999_999_999), (session.bid_price, session.bid_size, -9_999_999_999))
    ):
        book[:, :, 2 * i] = np.where(size > 0, price * 100, empty)
        book[:, :, 2 * i + 1] = size
    name = f"{stock}_2020-01-02_36000000_{36000000 + round(session.duration * 1000)}"
    levels = session.bid_price.shape[1]
    (folder / f"{name}_message_{levels}.csv").write_text("\n".join(messages) + "\n")
    np.savetxt(folder / f"{name}_orderbook_{levels}.csv", book.reshape(len(session), -1), fmt="%d", delimiter=",")


def test_a_pair_of_files_becomes_rates_by_distance(tmp_path):
    session = simulate(0, 600.0, lots=100)
    (tmp_path / "in").mkdir()
    write_pair(session, tmp_path / "in")
    done = calibrate("--path", "in", "--run-dir", "out", "--max-distance", "20", "--decays", "1", "50", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert "[flow] Hawkes: branching ratio" in done.stderr
    flow = FlowStatistics.from_json(json.loads((tmp_path / "out" / "flow.json").read_text()))
    assert (flow.product, flow.seconds, flow.messages) == ("TEST", 600.0, len(session))
    rates = np.array(Rates().limit)
    assert (np.abs(flow.placement.limit_opposite[:, :5] - rates) < 4 * np.sqrt(rates / 600)).all()
    assert flow.placement.limit_own.shape == (2, 20)
    assert flow.hawkes.decay.tolist() == [1.0, 50.0]
    assert json.loads((tmp_path / "out" / "config.json").read_text())["max_distance"] == 20
    provenance = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert provenance["origins"] == {"TEST": "recorded"}
    assert len(provenance["files"]) == 2
    first = (tmp_path / "out" / "flow.json").read_bytes()
    assert calibrate("--config", "out/config.json", cwd=tmp_path).returncode == 0
    assert (tmp_path / "out" / "flow.json").read_bytes() == first


def exit_code(*flags: str) -> int:
    before = signal.getsignal(signal.SIGTERM)
    presets = {"standard": calibrate_flow.CalibrationConfig()}
    try:
        with pytest.raises(SystemExit) as end:
            command.run(calibrate_flow.main, calibrate_flow.CalibrationConfig, presets, "", flags)
    finally:
        signal.signal(signal.SIGTERM, before)
    return end.value.code


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "error: --path is missing: name the LOBSTER files of one stock and day"),
        (["--path", "absent.zip"], "error: absent.zip: no such file or folder"),
        (["--path", "."], "error: one stock and day is calibrated at a time, and the path holds AAA 2020-01-02, BBB"),
        (["--decays", "1", "1"], "error: decays must be distinct positive numbers [1/s], got [1.0, 1.0]"),
        (["--max-distance", "0"], "error: max_distance must lie within 1 and 10000 ticks, got 0"),
        (["--run-dir", "file"], "error: file: --run-dir names a file, not a folder"),
        (["--distance", "3"], "error: unknown flag --distance; did you mean '--max-distance'?"),
    ],
)
def test_what_is_wrong_is_one_line_and_exit_code_2(flags, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    for stock in ("AAA", "BBB"):
        write_pair(simulate(1, 20.0), tmp_path, stock)
    assert exit_code(*flags) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(message)
    assert said.err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.skipif(not GOOG.exists(), reason="the real data are not beside the repository")
def test_a_recorded_day_is_calibrated_in_seconds_and_is_stationary(tmp_path):
    done = calibrate("--path", str(GOOG), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    flow = FlowStatistics.from_json(json.loads((tmp_path / "runs" / "flow" / "flow.json").read_text()))
    assert flow.messages == 147_916
    assert flow.seconds == 23_400
    assert 0.8 < flow.hawkes.branching_ratio < 1
    rates = np.linalg.solve(np.eye(6) - flow.hawkes.branching.sum(0), flow.hawkes.baseline)
    p = flow.placement
    np.testing.assert_allclose(rates, [*p.limit_rate, *p.market_rate, *p.cancel_rate], rtol=0.01)
