"""A proof's page: what it came to in one sentence, and what was learned drawn over what is known to be best."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from marljax.evaluation.figure_style import STRATEGY_COLOURS, translucent
from marljax.evaluation.page import STYLE, figure
from marljax.runtime.artefacts import write_atomic

CLOSED_FORM = "#1c2530"
LEARNED = STRATEGY_COLOURS[1]


def write_picture(path: Path, title: str, headline: str, plots: Sequence[tuple[go.Figure, str]]) -> None:
    """One self-contained HTML file of plots, each above its caption."""
    body = "".join(figure(str(i), plot, escape(caption)) for i, (plot, caption) in enumerate(plots))
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style><script>{get_plotlyjs()}</script></head><body>"
        f"<header><h1>{escape(title)}</h1></header><main><section>"
        f'<p class="headline">{escape(headline)}</p>{body}</section></main></body></html>'
    )
    write_atomic(path, page.encode())


def seed_lines(x: Sequence[float], lines: Sequence[Sequence[float]], name: str, *, legend: bool) -> list[go.Scatter]:
    """A thin line for every seed; one of them stands for all in the legend."""
    return [
        go.Scatter(
            x=x,
            y=line,
            name=name,
            legendgroup=name,
            showlegend=legend and i == 0,
            mode="lines",
            line={"color": translucent(LEARNED, 0.5), "width": 1.2},
        )
        for i, line in enumerate(lines)
    ]


def best_line(
    x: Sequence[float], y: Sequence[float], name: str, *, legend: bool, dash: str = "solid", width: float = 4
) -> go.Scatter:
    """What is known to be best, to be drawn first so that seeds lie over it."""
    line = {"color": CLOSED_FORM, "width": width, "dash": dash}
    return go.Scatter(x=x, y=y, name=name, legendgroup=name, showlegend=legend, mode="lines", line=line, opacity=0.55)
