"""Plots of a generator's run, real against synthetic and a control, from the arrays of `gan_pictures`."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from marljax.evaluation.figure_style import styled, translucent
from marljax.evaluation.figures import SOURCE_COLOURS
from stages.gan_pictures import Pictures

_COLOURS = {
    "real": SOURCE_COLOURS["real"],
    "synthetic": SOURCE_COLOURS["synthetic"],
    "block bootstrap": SOURCE_COLOURS["bootstrap"],
}
_DIVERGING = ((0.0, "#b8621b"), (0.25, "#eab983"), (0.5, "#f7f7f5"), (0.75, "#92b4e3"), (1.0, "#17479a"))


def figures(pictures: Pictures) -> dict[str, tuple[str, go.Figure, str]]:
    """{anchor: (heading, plot, caption)} of what a run has pictures of, see `gan_pictures`."""
    sources = [source for source in _COLOURS if f"paths.{source}" in pictures]
    books = "spread.real" in pictures
    unit = "mid, ticks since start" if books else "log price since start"
    drawn = {
        "paths": (
            "Paths",
            _paths(pictures, sources, unit),
            "Some stretches of each source, all of one length and on one scale.",
        ),
        "tails": (
            "Tails and memory",
            _pair(
                ("Quantiles of returns", _quantiles),
                ("Memory of volatility", _autocorrelation),
                pictures,
                sources,
                axes=(
                    ("real, standard deviations", "other source, standard deviations"),
                    ("lag, steps", "autocorrelation of |return|"),
                ),
            ),
            "Left: each source's quantiles against the same quantiles of real returns; on the grey line they agree, "
            "and a source that is flatter at the ends has lighter tails. Points lie ever closer in probability towards "
            "both ends, the last ones are the extremes of the smaller sample.",
        ),
    }
    if books:
        drawn["books"] = (
            "Spread and depth",
            _pair(
                ("Spread", _spreads),
                ("Depth", _depth),
                pictures,
                sources,
                axes=(("ticks", "% of the time"), ("level: bids left, asks right", "mean size, lots")),
            ),
            "Rows of all products together.",
        )
    if "correlation.names" in pictures:
        drawn["correlation"] = ("Correlations", _correlations(pictures, sources), "Spearman's rank correlations.")
    return drawn


def _paths(pictures: Pictures, sources: list[str], unit: str) -> go.Figure:
    plot = make_subplots(1, len(sources), subplot_titles=sources, shared_yaxes=True, horizontal_spacing=0.03)
    for column, source in enumerate(sources, 1):
        line = {"color": translucent(_COLOURS[source], 0.6), "width": 1}
        for y in pictures[f"paths.{source}"]:
            plot.add_scatter(y=y, mode="lines", line=line, hoverinfo="skip", showlegend=False, row=1, col=column)
    styled(plot, 320, n_lines=0, top=34, hover="closest")
    plot.update_yaxes(title_text=unit, col=1)
    plot.update_xaxes(title_text="steps")
    return plot


def _pair(
    left: tuple[str, Callable[..., None]],
    right: tuple[str, Callable[..., None]],
    pictures: Pictures,
    sources: list[str],
    axes: tuple[tuple[str, str], tuple[str, str]],
) -> go.Figure:
    plot = make_subplots(1, 2, subplot_titles=[left[0], right[0]], horizontal_spacing=0.1)
    for column, (_, draw) in enumerate((left, right), 1):
        for source in sources:
            dash = "dot" if source == "block bootstrap" else "solid"
            style = {
                "line": {"color": _COLOURS[source], "width": 1.8, "dash": dash},
                "marker": {"color": _COLOURS[source], "size": 4},
                "name": source,
                "legendgroup": source,
            }
            draw(plot, pictures, source, style, {"row": 1, "col": column})
        plot.update_xaxes(title_text=axes[column - 1][0], col=column)
        plot.update_yaxes(title_text=axes[column - 1][1], col=column)
    styled(plot, 400, n_lines=len(sources), top=62, hover="closest")
    seen: set[str] = set()
    for trace in plot.data:
        trace.showlegend = trace.name in sources and trace.name not in seen
        seen.add(trace.name)
    return plot


def _quantiles(plot: go.Figure, pictures: Pictures, source: str, style: dict[str, Any], at: dict[str, int]) -> None:
    samples = [np.asarray(pictures[f"returns.{x}"], np.float64) for x in ("real", source)]
    fewest = min(map(len, samples))
    odds = np.linspace(-1, 1, 161) * math.log(2 * fewest - 1)
    x, y = (np.quantile(sample, 1 / (1 + np.exp(-odds)), method="hazen") for sample in samples)
    if source == "real":
        line = {"color": "#aab2bb", "width": 1}
        plot.add_scatter(x=x[[0, -1]], y=x[[0, -1]], mode="lines", line=line, hoverinfo="skip", name="equal", **at)
    else:
        plot.add_scatter(x=x, y=y, mode="markers", **{k: v for k, v in style.items() if k != "line"}, **at)


def _autocorrelation(
    plot: go.Figure, pictures: Pictures, source: str, style: dict[str, Any], at: dict[str, int]
) -> None:
    y = pictures[f"autocorrelation.{source}"]
    plot.add_scatter(x=np.arange(1, len(y) + 1), y=y, mode="lines", **style, **at)


def _spreads(plot: go.Figure, pictures: Pictures, source: str, style: dict[str, Any], at: dict[str, int]) -> None:
    widest = max(float(np.quantile(pictures[f"spread.{x}"], 0.99)) for x in _COLOURS if f"spread.{x}" in pictures)
    width = max(1, math.ceil(widest / 40))
    edges = np.arange(0.5, widest + width + 0.5, width)
    share = np.histogram(pictures[f"spread.{source}"], edges)[0] / len(pictures[f"spread.{source}"])
    stepped = style | {"line": style["line"] | {"shape": "hvh"}}
    plot.add_scatter(x=(edges[1:] + edges[:-1]) / 2, y=100 * share, mode="lines", **stepped, **at)


def _depth(plot: go.Figure, pictures: Pictures, source: str, style: dict[str, Any], at: dict[str, int]) -> None:
    bid, ask = pictures[f"depth.{source}"]
    level = np.arange(1, len(bid) + 1)
    x = np.concatenate([-level[::-1], [0], level])
    y = np.concatenate([bid[::-1], [np.nan], ask])
    plot.add_scatter(x=x, y=y, mode="lines+markers", **style, **at)
    plot.update_yaxes(rangemode="tozero", **at)


def _correlations(pictures: Pictures, sources: list[str]) -> go.Figure:
    names = [str(x) for x in pictures["correlation.names"]]
    plot = make_subplots(1, len(sources), subplot_titles=sources, shared_yaxes=True, horizontal_spacing=0.03)
    for column, source in enumerate(sources, 1):
        plot.add_heatmap(
            z=pictures[f"correlation.{source}"],
            x=names,
            y=names,
            coloraxis="coloraxis",
            texttemplate="%{z:.2f}" if len(names) <= 10 else None,
            row=1,
            col=column,
        )
    styled(plot, 420, n_lines=0, top=34, hover="closest")
    scale = {"colorscale": _DIVERGING, "cmin": -1, "cmax": 1, "colorbar": {"thickness": 12, "outlinewidth": 0}}
    plot.update_layout(coloraxis=scale, margin_l=90)
    plot.update_xaxes(automargin=True)
    plot.update_yaxes(autorange="reversed")
    return plot
