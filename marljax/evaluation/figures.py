"""The report's plots of the market, the generator and learning: Plotly figures from plain arrays."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from marljax.evaluation.figure_style import (
    LEGEND_ROOM,
    STRATEGY_COLOURS,
    averaged,
    point_budget,
    product_colour,
    styled,
    thin,
    trading_time,
    translucent,
)
from marljax.evaluation.report_inputs import Curve, Generator, Overview

SOURCE_COLOURS = {"real": "#22303f", "synthetic": "#1f5fbf", "bootstrap": "#d97a1e"}
PART_COLOURS = {"train": "#eceff3", "validation": "#fdf0d5", "test": "#dcebfb"}
SOURCE_NAMES = {"real": "real", "synthetic": "synthetic", "bootstrap": "block bootstrap"}


def market(overview: Overview, products: Sequence[str]) -> go.Figure:
    """Mid prices relative to the first, and spreads, over the parts of the data."""
    time, unit = trading_time(overview.seconds, overview.session)
    figure = make_subplots(rows=2, shared_xaxes=True, vertical_spacing=0.06, row_heights=[0.64, 0.36])
    points = point_budget(2 * len(products))
    mid = 100 * (np.asarray(overview.mid) / np.asarray(overview.mid)[0] - 1)
    few = len(products) <= LEGEND_ROOM
    for p, name in enumerate(products):
        style = {"color": product_colour(p, len(products)), "width": 1.2 if few else 0.8}
        for row, values in ((1, mid[:, p]), (2, np.asarray(overview.spread)[:, p])):
            x, y = thin(time, values, points) if row == 1 else averaged(time, values, min(points, 400))
            figure.add_scatter(
                x=x, y=y, name=name, legendgroup=name, showlegend=row == 1, line=style, row=row, col=1, mode="lines"
            )
    for part, (begin, end) in overview.parts.items():
        figure.add_vrect(
            x0=time[begin],
            x1=time[min(end, len(time)) - 1],
            fillcolor=PART_COLOURS.get(part, "#f2f2f2"),
            line_width=0,
            layer="below",
            row="all",
            col=1,
        )
        middle = (time[begin] + time[min(end, len(time)) - 1]) / 2
        figure.add_annotation(
            x=middle, y=1.0, yref="y domain", text=f"<b>{part}</b>", showarrow=False, yanchor="bottom", xref="x"
        )
    figure.update_yaxes(title_text="mid, % since start", row=1)
    widest = np.nanmedian(overview.spread, axis=0)
    wide_range = widest.max() > 15 * max(widest.min(), 1e-9)
    figure.update_yaxes(title_text="spread, ticks", type="log" if wide_range else "linear", row=2)
    if not wide_range:
        figure.update_yaxes(rangemode="tozero", row=2)
    figure.update_xaxes(title_text=unit, row=2)
    return styled(figure, 470, n_lines=len(products), top=64 if few else 24)


def generated(generator: Generator) -> go.Figure:
    """Distribution of returns, autocorrelation of their size, and spreads: real, synthetic, block bootstrap."""
    figure = make_subplots(
        cols=3,
        subplot_titles=("Returns (log density)", "Memory of volatility", "Spread"),
        horizontal_spacing=0.08,
    )
    largest = max((np.nanquantile(np.abs(r), 0.9995) for r in generator.returns.values() if len(r)), default=5.0)
    edges = np.linspace(-largest, largest, 61)
    widest = max((np.nanquantile(s, 0.99) for s in generator.spread.values() if len(s)), default=1.0)
    width = max(1, int(np.ceil(widest / 40)))
    ticks = np.arange(0.5, widest + width + 0.5, width)
    for source, colour in SOURCE_COLOURS.items():
        line = {"color": colour, "width": 2, "dash": "dot" if source == "bootstrap" else "solid"}
        shared = {"name": SOURCE_NAMES[source], "legendgroup": source}
        if len(generator.returns.get(source, ())):
            density, _ = np.histogram(generator.returns[source], edges, density=True)
            centre = (edges[1:] + edges[:-1]) / 2
            density = np.where(density > 0, density, np.nan)
            figure.add_scatter(x=centre, y=density, line=line, mode="lines", row=1, col=1, **shared)
        if len(generator.autocorrelation.get(source, ())):
            y = np.asarray(generator.autocorrelation[source], np.float32)
            lags = np.arange(1, len(y) + 1)
            figure.add_scatter(x=lags, y=y, line=line, mode="lines", showlegend=False, row=1, col=2, **shared)
        if len(generator.spread.get(source, ())):
            share, _ = np.histogram(generator.spread[source], ticks)
            y = (100 * share / len(generator.spread[source])).astype(np.float32)
            centre = (ticks[1:] + ticks[:-1]) / 2
            step = line | {"shape": "hvh"}
            figure.add_scatter(x=centre, y=y, line=step, mode="lines", showlegend=False, row=1, col=3, **shared)
    figure.update_yaxes(type="log", dtick=1, exponentformat="power", row=1, col=1)
    figure.update_xaxes(title_text="standard deviations", row=1, col=1)
    figure.update_xaxes(title_text="lag, steps", row=1, col=2)
    figure.update_yaxes(title_text="autocorrelation of |return|", row=1, col=2)
    figure.update_xaxes(title_text="ticks", row=1, col=3)
    figure.update_yaxes(title_text="% of the time", rangemode="tozero", row=1, col=3)
    return styled(figure, 340, n_lines=3, top=62)


def learning(curves: Sequence[Curve], score: str) -> go.Figure:
    """Score over environment steps: a panel per name, or beyond 12 names the median and middle half.

    Learners take very different numbers of steps, so the axis is logarithmic.
    """
    names = list(dict.fromkeys(curve.name for curve in curves))
    algorithms = list(dict.fromkeys(curve.algorithm for curve in curves))
    colour = dict(zip(algorithms, STRATEGY_COLOURS, strict=False))
    if len(names) > 12:
        return _learning_summary(curves, algorithms, colour, score, len(names))
    columns = min(len(names), 3)
    rows = -(-len(names) // columns)
    figure = make_subplots(
        rows=rows,
        cols=columns,
        subplot_titles=names if len(names) > 1 else None,
        horizontal_spacing=0.06,
        vertical_spacing=0.32 / rows,
    )
    shown: set[str] = set()
    for curve in curves:
        place = names.index(curve.name)
        x, y = thin(curve.env_steps, curve.value, 500)
        figure.add_scatter(
            x=x,
            y=y,
            name=curve.algorithm,
            legendgroup=curve.algorithm,
            showlegend=curve.algorithm not in shown,
            mode="lines+markers" if len(x) < 30 else "lines",
            marker_size=4,
            line={"color": colour[curve.algorithm], "width": 1.8},
            row=place // columns + 1,
            col=place % columns + 1,
        )
        shown.add(curve.algorithm)
    figure.add_hline(y=0, line={"color": "#9aa3ad", "width": 1, "dash": "dot"})
    for row in range(1, rows + 1):
        figure.update_yaxes(title_text=score, title_font_size=11, row=row, col=1)
    figure.update_xaxes(type="log", dtick=1)
    figure.update_xaxes(title_text="environment steps", title_font_size=11, row=rows)
    return styled(figure, 110 + 190 * rows, n_lines=len(algorithms), top=62 if len(names) > 1 else 40)


def _learning_summary(
    curves: Sequence[Curve], algorithms: list[str], colour: dict[str, str], score: str, n_names: int
) -> go.Figure:
    figure = go.Figure()
    for algorithm in algorithms:
        own = [c for c in curves if c.algorithm == algorithm]
        first, last = (float(pick(own[0].env_steps)) for pick in (np.min, np.max))
        x = np.geomspace(max(first, 1.0), max(last, 1.0), 120)
        values = np.stack([np.interp(x, c.env_steps, c.value) for c in own])
        low, middle, high = np.quantile(values, [0.25, 0.5, 0.75], axis=0).astype(np.float32)
        x = x.astype(np.float32)
        figure.add_scatter(
            x=np.concatenate([x, x[::-1]]),
            y=np.concatenate([low, high[::-1]]),
            fill="toself",
            fillcolor=translucent(colour[algorithm], 0.15),
            line_width=0,
            hoverinfo="skip",
            showlegend=False,
        )
        name = f"{algorithm}, median and middle half of {n_names} products"
        figure.add_scatter(x=x, y=middle, name=name, mode="lines", line={"color": colour[algorithm], "width": 2})
    figure.add_hline(y=0, line={"color": "#9aa3ad", "width": 1, "dash": "dot"})
    figure.update_yaxes(title_text=score)
    figure.update_xaxes(title_text="environment steps", type="log", dtick=1)
    return styled(figure, 340, n_lines=len(algorithms), top=44)
