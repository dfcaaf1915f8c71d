"""The page of one protocol's run: its table of scores beside the bars, and pictures of real against synthetic."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, Literal

import numpy as np
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from marljax.evaluation.page import STYLE, figure, folded, table
from marljax.generative.quality import SCORES
from marljax.runtime.artefacts import load_arrays, read_json, write_atomic
from stages.gan_figures import figures
from stages.gan_pictures import pictures_of_books, pictures_of_paths

__all__ = ["page", "pictures_of_books", "pictures_of_paths", "render"]


@dataclass(frozen=True)
class Reading:
    """How to read a score."""

    meaning: str
    better: Literal["lower", "higher", "target", "gate"]
    """`target` is nearer to `target`; a `gate` asks for no more than its bar."""
    target: float | None = None
    """None: what held-out real data score."""
    within: float | None = None
    """Distance from the target that is as good as reaching a bar."""


TITLES = {
    "timegan-stocks": "Windows of a stock's daily bars",
    "quantgan-sp500": "Paths of the S&P 500",
    "goog-l2": "A 10-level book of one stock",
}
GENERATED = ("last", "best")
"""Candidates that the bars are for: the training's end, and the best of the points kept."""

_SCORES_OF_BOOKS = {
    name: Reading(score.meaning, {0.0: "lower", 1.0: "gate", None: "higher"}[score.perfect])
    for name, score in SCORES.items()
} | {
    "acf_abs_returns_winsorised": Reading("autocorrelation of |r| cut at its 99 % quantile, difference", "lower"),
    "hill_index": Reading("tail index of returns", "target"),
}
_MEMORISATION = Reading("distance to the nearest training window over that of held-out windows: 0 for copies", "gate")
_REGIMES = {
    "regime_volatility_error": Reading("largest relative error of the volatility after one regime", "lower"),
    "regime_wasserstein": Reading("Wasserstein distance of the returns after each regime", "lower"),
}
_DEVIATION = Reading("standard deviation over the real one", "target", 1.0, 0.05)
READINGS: dict[str, dict[str, Reading]] = {
    "goog-l2": _SCORES_OF_BOOKS,
    "quantgan-sp500": {
        "acf_returns": Reading("autocorrelation of returns, root mean square difference", "lower"),
        "acf_abs_returns": Reading("autocorrelation of |r|, root mean square difference", "lower"),
        "acf_squared_returns": Reading("autocorrelation of r², root mean square difference", "lower"),
        "leverage": Reading("correlation of r with later r², norm of the difference", "lower"),
        "deviation": _DEVIATION,
        "kurtosis": Reading("excess kurtosis of returns", "target"),
        "hill": Reading("tail index of returns", "target"),
        "memorisation": _MEMORISATION,
        "volatility_r2_after": Reading("R² of a volatility forecast learnt here, on the years after", "higher"),
        **_REGIMES,
    },
    "timegan-stocks": {
        "judge": Reading("strong judge on log increments, |accuracy − 0.5|", "lower"),
        "timegan_discriminative": Reading("TimeGAN's judge, |accuracy − 0.5|", "lower"),
        "timegan_predictive": Reading("TimeGAN's forecast of the next day, mean absolute error", "lower"),
        "memorisation": _MEMORISATION,
        "memorisation_of_returns": Reading("the same of closing returns alone", "gate"),
        "coverage": Reading("share of real windows with a generated one nearby", "higher"),
        "volatility_r2": Reading("R² on real days of a volatility forecast learnt here", "higher"),
        "deviation": _DEVIATION,
        **_REGIMES,
    },
}

_ORDER = (
    "last",
    "best",
    "initial",
    "iid bootstrap",
    "block bootstrap",
    "shuffled",
    "VAR(1)",
    "GARCH(1,1)-t",
    "zero intelligence",
)
_BARS = ("reach", "aim", "published")
_LEGEND = (
    "↓ lower is better, ↑ higher is better, ◎ nearer to the target is better, ▸ a gate: as much as its bar is enough. "
    "<b>Bold</b> is the best of generator and controls. Beneath are 95 % intervals where they were drawn. <i>real</i> "
    "is real data in the generator's place; <i>last</i> is the generator at the training's end, <i>best</i> its best "
    "checkpoint, <i>initial</i> what training began from; <i>met</i> says which bar the first two meet."
)
_NOT_CANDIDATES = ("real", "held out", *_BARS)
_CSS = """
header, main { max-width: 1240px; }
nav { padding-left: max(1.5rem, calc((100% - 1240px) / 2 + 1.5rem)); }
table.metrics td.text, table.metrics td:first-child { white-space: normal; min-width: 11em; }
table.metrics b { color: var(--accent); }
.verdict.reach { background: #fff4d6; color: #6f5200; }
"""


def render(folder: Path) -> None:
    """Write `report.html` into a run's folder from its `scores.json` and `pictures.npz`, and beside it `figures.html`.

    The latter holds the plots alone, on white, for pictures of them.
    """
    result, plots = read_json(folder / "scores.json"), figures(load_arrays(folder / "pictures.npz"))
    write_atomic(folder / "report.html", page(result, plots).encode())
    body = "".join(figure(name, plot, "") for name, (_, plot, _) in plots.items())
    alone = _document("Figures", f"<main>{body}</main>", "body { background: #fff }")
    write_atomic(folder / "figures.html", alone.encode())


def page(result: Mapping[str, Any], plots: Mapping[str, tuple[str, go.Figure, str]]) -> str:
    """The whole page of a result (what `scores.json` holds) and its `figures`."""
    protocol, minutes = result["protocol"], result["minutes"]
    title = f"The generator: {TITLES[protocol]}"
    identity = (
        f"protocol {protocol} · seed {result['seed']} · best checkpoint {result['best']} · "
        f"{minutes['training']:.1f} minutes of training, {minutes['all']:.1f} with scoring"
    )
    sections = {"scores": ("Scores", _scores(result["scores"], READINGS[protocol]))}
    sections |= {name: (heading, figure(name, plot, caption)) for name, (heading, plot, caption) in plots.items()}
    nav = "".join(f'<a href="#{anchor}">{heading}</a>' for anchor, (heading, _) in sections.items())
    body = "".join(
        f'<section id="{anchor}"><h2>{heading}</h2>{content}</section>'
        for anchor, (heading, content) in sections.items()
    )
    command = f"python experiments/train_gan.py --protocol {protocol} --seed {result['seed']}"
    return _document(
        title,
        f"<header><h1>{escape(title)}</h1><p>{escape(identity)}</p></header><nav>{nav}</nav><main>"
        '<p class="banner"><b>Synthetic data</b> is shown beside recorded data; every plot and column says which is '
        f"which.</p>{body}<section><h2>Once more</h2><pre>{escape(command)}</pre></section></main>",
    )


def _scores(scores: Mapping[str, Mapping[str, Any]], readings: Mapping[str, Reading]) -> str:
    found = {name for row in scores.values() for name in row} - set(_NOT_CANDIDATES)
    candidates = [name for name in _ORDER if name in found] + sorted(found - set(_ORDER))
    bars = [bar for bar in _BARS if any(bar in row for row in scores.values())]
    # A hyphen that does not break, or a name would be torn apart in a narrow column.
    heads = ["Score", *(escape(x).replace("-", "&#8209;") for x in candidates), "real"]
    judged, others = [], []
    for name, row in scores.items():
        reading = readings.get(name)
        cells = _row(name, row, candidates, reading)
        if _has_bar(row, reading):
            judged.append([*cells, *_bars(row, bars, reading), _met(row, reading)])
        else:
            others.append(cells)
    return (
        table([*heads, *bars, "met"], judged, css="metrics")
        + f'<p class="note">{_LEGEND}</p>'
        + folded("Scores without a bar", len(others), table(heads, others, css="metrics"))
    )


def _row(name: str, row: Mapping[str, Any], candidates: list[str], reading: Reading | None) -> list[str]:
    target = _target(row, reading)
    found = {x: row[x]["estimate"] for x in candidates if x in row and _is_number(row[x]["estimate"])}
    digits = _digits(row, found.values())
    best = min(found.values(), key=lambda x: _loss(x, reading, target), default=None)
    marked = reading is not None and reading.better != "gate"

    def cell(candidate: str) -> str:
        if candidate not in row or not _is_number(row[candidate]["estimate"]):
            return "–"
        one = row[candidate]
        text = f"{one['estimate']:.{digits}f}"
        if marked and candidate != "real" and one["estimate"] == best:
            text = f"<b>{text}</b>"
        has_interval = all(_is_number(one.get(x)) for x in ("low", "high")) and one["low"] < one["high"]
        if not has_interval:
            return text
        between = "–" if one["low"] >= 0 else " to "
        return f"{text}<small>{one['low']:.{digits}f}{between}{one['high']:.{digits}f}</small>"

    sign = "" if reading is None else {"lower": "↓", "higher": "↑", "target": "◎", "gate": "▸"}[reading.better]
    aim = f", target {target:.{digits}f}" if reading and reading.better == "target" and target is not None else ""
    meaning = f"<small>{escape(reading.meaning)}{aim}</small>" if reading else ""
    label = escape(name.replace("_", " "))
    return [f"{sign} {label}{meaning}", *map(cell, candidates), cell("real")]


def _bars(row: Mapping[str, Any], bars: list[str], reading: Reading | None) -> list[str]:
    shown = {bar: f"{row[bar]:g}" if bar in row else "" for bar in bars}
    if reading is not None and reading.within is not None:
        shown |= {"reach": f"{reading.target:g} ± {reading.within:g}"}
    return [shown[bar] for bar in bars]


def _met(row: Mapping[str, Any], reading: Reading | None) -> str:
    pills = []
    for name in GENERATED:
        if name in row and _is_number(row[name]["estimate"]):
            verdict = met(row[name]["estimate"], row, reading)
            all_met = verdict == "aim" or "aim" not in row or (reading is not None and reading.within is not None)
            css = "worse" if verdict == "no" else "better" if all_met else "reach"
            pills.append(f'<span class="verdict {css}">{name}: {verdict}</span>')
    return "<br>".join(pills)


def met(value: float, row: Mapping[str, Any], reading: Reading | None) -> str:
    """`aim` or `reach`, the harder of the bars in `row` that `value` meets, or `no`."""
    if reading is not None and reading.within is not None and reading.target is not None:
        return "reach" if abs(value - reading.target) <= reading.within else "no"
    upwards = reading is not None and reading.better in ("higher", "gate")
    for bar in ("aim", "reach"):
        if bar in row and (value >= row[bar] if upwards else value <= row[bar]):
            return bar
    return "no"


def _has_bar(row: Mapping[str, Any], reading: Reading | None) -> bool:
    return "reach" in row or "aim" in row or (reading is not None and reading.within is not None)


def _target(row: Mapping[str, Any], reading: Reading | None) -> float | None:
    if reading is None or reading.better != "target":
        return None
    if reading.target is not None:
        return reading.target
    known = row.get("held out", row.get("real"))
    return None if known is None else known["estimate"]


def _loss(value: float, reading: Reading | None, target: float | None) -> float:
    if target is not None:
        return abs(value - target)
    return -value if reading is not None and reading.better in ("higher", "gate") else value


def _is_number(value: Any) -> bool:
    return value is not None and math.isfinite(value)


def _digits(row: Mapping[str, Any], values: Iterable[float]) -> int:
    """Decimals that leave a typical value of the row, and its bars, two or three digits: 2 to 4."""
    numbers = [*values, *(row[bar] for bar in _BARS if bar in row)]
    typical = float(np.median(np.abs(numbers))) if numbers else 1.0
    return int(np.clip(2 - math.floor(math.log10(max(2 * typical, 1e-4))), 2, 4))


def _document(title: str, body: str, css: str = _CSS) -> str:
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}{css}</style><script>{get_plotlyjs()}</script></head>"
        f"<body>{body}</body></html>"
    )
