"""The page in a real browser: every plot is drawn and nothing complains."""

import html
import importlib.util
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from marljax.evaluation.report import render

_spec = importlib.util.spec_from_file_location("report_examples", Path(__file__).with_name("report_examples.py"))
report_examples = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(report_examples)

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
RECORDER = """<script>
window.complaints = [];
window.onerror = (message) => { window.complaints.push(String(message)); };
window.addEventListener("unhandledrejection", (event) => window.complaints.push(String(event.reason)));
for (const level of ["error", "warn"]) {
  const tell = console[level];
  console[level] = (...said) => { window.complaints.push(said.join(" ")); tell(...said); };
}
window.addEventListener("load", () => setTimeout(() => {
  const seen = document.createElement("pre");
  seen.id = "seen";
  seen.textContent = JSON.stringify({
    complaints: window.complaints,
    plots: [...document.querySelectorAll(".plotly-graph-div")].map((div) => [
      div.id, div.querySelectorAll(".main-svg").length, div.getBoundingClientRect().height]),
    loaded: performance.getEntriesByType("resource").map((entry) => entry.name),
    width: [document.documentElement.scrollWidth, window.innerWidth],
  });
  document.body.appendChild(seen);
}, 1500));
</script>"""


def seen_by_browser(page: str, folder: Path) -> dict:
    file = folder / "report.html"
    file.write_text(page.replace("<head>", "<head>" + RECORDER, 1), encoding="utf-8")
    dom = subprocess.run(
        [
            CHROMIUM,
            *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            *(f"--user-data-dir={folder / 'profile'}", "--window-size=1200,900", "--virtual-time-budget=15000"),
            *("--dump-dom", file.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout
    return json.loads(html.unescape(re.search(r'<pre id="seen">(.*?)</pre>', dom, re.DOTALL)[1]))


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium or Chrome is installed")
@pytest.mark.parametrize("n_products", [1, 4, 14])
def test_every_plot_is_drawn_and_the_console_is_silent(n_products, tmp_path):
    seen = seen_by_browser(render(report_examples.example(n_products)), tmp_path)
    assert seen["complaints"] == []
    assert len(seen["plots"]) == 9
    for name, drawn, height in seen["plots"]:
        assert drawn >= 1, name
        assert height > 100, name
    assert seen["loaded"] == []
    assert seen["width"][0] <= seen["width"][1]


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium or Chrome is installed")
def test_the_recorder_hears_a_broken_plot(tmp_path):
    page = render(report_examples.example(1)).replace('"plot-equity",', '"plot-nowhere",')
    assert seen_by_browser(page, tmp_path)["complaints"]
