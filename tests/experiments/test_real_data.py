"""The main job to its end on order books that nobody here wrote."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
REAL = ROOT.parent / "shared" / "data"

SOURCES = {
    "prosperity_three_days": ("prosperity", ["prosperity/p2/round3"], 4),
    "goog_ten_levels": ("lobster", ["lobster/LOBSTER_SampleFile_GOOG_2012-06-21_10.zip"], 1),
    "three_stocks_together": (
        "lobster",
        [f"lobster/LOBSTER_SampleFile_{stock}_2012-06-21_1.zip" for stock in ("AAPL", "AMZN", "GOOG")],
        3,
    ),
}


@pytest.mark.nightly
@pytest.mark.skipif(not REAL.is_dir(), reason="the real data are not beside the repository")
@pytest.mark.parametrize("name", SOURCES)
def test_the_demo_ends_on_real_books_with_finite_numbers(name, tmp_path):
    source, paths, n_products = SOURCES[name]
    files = [str(REAL / path) for path in paths]
    script = str(ROOT / "experiments" / "pipeline.py")
    flags = ["--preset=demo", f"--run-dir={tmp_path}", f"--data.source={source}", "--data.path", *files]
    done = subprocess.run([sys.executable, script, *flags], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert len(summary["products"]) == n_products
    assert summary["simulated"] is (source == "prosperity")
    assert summary["rows"]["in"] > 20_000 * n_products
    for metrics in summary["backtest"].values():
        assert None not in metrics.values()
    for items in summary["costs"]["buy_and_hold"].values():
        assert items["slippage"] > 0, "the baseline paid the spread"
