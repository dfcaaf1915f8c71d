"""train_gan.py: what it refuses, how the book protocol cuts a day, and one whole run in small."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import train_gan
from marljax.data.schema import InputError
from stages import gan_books

ROOT = Path(__file__).parents[2]
GOOG = ROOT / "../shared/data/lobster/LOBSTER_SampleFile_GOOG_2012-06-21_10.zip"
needs_goog = pytest.mark.skipif(not GOOG.exists(), reason="the recorded day is not here")


def command(*flags: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "experiments/train_gan.py"), *flags], cwd=cwd, capture_output=True, text=True
    )


def test_missing_data_end_with_one_line(tmp_path):
    ended = command("--books.data", "nowhere.zip", cwd=tmp_path)
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert "nowhere.zip" in ended.stderr


def test_windows_go_to_npz_files_alone():
    with pytest.raises(InputError, match=r"\.npz"):
        train_gan.TrainGanConfig(export=Path("windows.csv"))


@pytest.mark.parametrize("name", ["window", "sessions", "kept", "resamples"])
def test_sizes_of_the_book_protocol_are_at_least_one(name):
    with pytest.raises(InputError, match=f"{name} must be at least 1"):
        gan_books.BookProtocol(**{name: 0})


@needs_goog
def test_odd_and_even_blocks_share_no_second_and_cover_the_day():
    odd, even = gan_books.load(GOOG)
    seconds = [np.asarray(part.seconds) for part in (odd, even)]
    assert len(np.intersect1d(*seconds)) == 0
    assert sum(map(len, seconds)) == len(np.unique(np.concatenate(seconds))) == 23_400
    for part, rest in ((odd, 1), (even, 0)):
        assert (np.asarray(part.session) == np.asarray(part.seconds) // 300).all()
        assert (np.asarray(part.session) % 2 == rest).all()


@needs_goog
def test_clustering_is_zero_apart_from_itself_and_shuffling_takes_it_away():
    odd, _ = gan_books.load(GOOG)
    found = gan_books._clustering(odd)
    assert found.shape == (20,)
    assert found[:5].mean() > 0.06
    np.testing.assert_array_equal(found, gan_books._clustering(odd, odd))


@needs_goog
@pytest.mark.nightly
def test_a_small_run_writes_all_that_it_names(tmp_path):
    out, windows = tmp_path / "run", tmp_path / "windows.npz"
    flags = ("--preset", "smoke", "--books.data", str(GOOG), "--run-dir", str(out), "--export", str(windows))
    ended = command(*flags, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    result = json.loads(ended.stdout.splitlines()[-1])
    assert result == json.loads((out / "scores.json").read_text())
    candidates = {"last", "best", "initial", "iid bootstrap", "block bootstrap", "GARCH(1,1)-t", "zero intelligence"}
    assert candidates <= result["scores"]["total_variation"].keys()
    with np.load(windows) as exported:
        shapes = {name: exported[name].shape for name in ("real", "synthetic", "train")}
        assert all(shape[1:] == (60, 6) == (60, len(exported["channels"])) for shape in shapes.values())
    assert "synthetic" in json.loads((out / "provenance.json").read_text())["origins"].values()
    assert "<html" in (out / "report.html").read_text()[:200].lower()
