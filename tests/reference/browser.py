"""A page as a real browser sees it: which plots are drawn, what is complained about, what is asked of the network."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

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


def seen_by_browser(page: str, folder: Path) -> dict[str, Any]:
    """{"complaints", "plots": [id, drawn layers, height], "loaded", "width": [of the page, of the window]}."""
    assert CHROMIUM is not None
    file = folder / "seen.html"
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


def problems(seen: dict[str, Any]) -> list[str]:
    """What is wrong with a page, in words; empty where every plot is drawn and nothing complains or loads."""
    page, window = seen["width"]
    return [
        *seen["complaints"],
        *(f"{name} is not drawn" for name, drawn, height in seen["plots"] if drawn < 1 or height <= 100),
        *(f"loads {name}" for name in seen["loaded"]),
        *([f"is {page} wide in a window of {window}"] if page > window else []),
    ]
