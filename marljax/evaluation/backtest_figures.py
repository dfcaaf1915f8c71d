"""The report's plots of the backtest: results, what was held, and what it cost."""

from collections.abc import Mapping, Sequence

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
from marljax.evaluation.findings import label
from marljax.evaluation.report_inputs import Allocation, Backtest

COMPONENT_COLOURS = ("#3b6fb6", "#e08a2c", "#c5494d", "#8b6bb5", "#6f7a86", "#4a9f60")
MOST_PANELS = 8
"""More products than this are shown as rows of a heat map instead of a panel each."""
MOST_BARS = 20
"""The most bars that a plot of costs shows."""


def equity(backtest: Backtest, n_tested: int = 1) -> go.Figure:
    """Net result of every strategy since the start of the test, and its drawdown; the first `n_tested` stand out."""
    time, unit = trading_time(backtest.seconds, backtest.session)
    figure = make_subplots(rows=2, shared_xaxes=True, vertical_spacing=0.06, row_heights=[0.66, 0.34])
    points = point_budget(2 * len(backtest.strategies))
    for index, strategy in reversed(list(enumerate(backtest.strategies))):
        values = np.asarray(strategy.equity, np.float64)
        result = 100 * (values / values[0] - 1)
        loss = 100 * (values / np.maximum.accumulate(values) - 1)
        flat = np.ptp(values) == 0
        line = {
            "color": STRATEGY_COLOURS[index % len(STRATEGY_COLOURS)],
            "width": 2.6 if index < n_tested else 1.4,
            "dash": "dash" if flat else "dot" if index >= len(STRATEGY_COLOURS) else "solid",
        }
        for row, y in ((1, result), (2, loss)):
            x, y = thin(time, y, points)
            line = line | {"width": line["width"] if row == 1 else 1.3}
            figure.add_scatter(
                x=x,
                y=y,
                line=line,
                mode="lines",
                name=label(strategy.name),
                legendgroup=strategy.name,
                legendrank=index + 1,
                showlegend=row == 1,
                row=row,
                col=1,
            )
    for x in time[np.flatnonzero(np.diff(np.asarray(backtest.session)))]:
        figure.add_vline(x=x, line={"color": "#c8ced5", "width": 1, "dash": "dot"})
    figure.update_yaxes(title_text="net result, %", row=1)
    figure.update_yaxes(title_text="drawdown, %", rangemode="tozero", row=2)
    figure.update_xaxes(title_text=unit, row=2)
    n_lines = len(backtest.strategies)
    rows = 1 + (n_lines > 8)
    return styled(figure, 456 + 24 * rows, n_lines=n_lines, top=20 + 24 * rows, legend_room=2 * LEGEND_ROOM)


def allocation(held: Allocation, products: Sequence[str]) -> go.Figure:
    """Over time: weights, shares of risk where they are known, gross exposure, and where guardrails stepped in."""
    time, unit = trading_time(held.seconds, held.session)
    rails = {label(name): np.asarray(acted, bool) for name, acted in held.interventions.items()}
    stacks = {"weight, % of equity": np.asarray(held.weights, np.float64)}
    if held.risk is not None:
        stacks["share of risk, %"] = np.asarray(held.risk, np.float64)
    heights = [0.6] * len(stacks) + [0.28] + ([0.04 + 0.04 * len(rails)] if rails else [])
    figure = make_subplots(
        rows=len(heights), shared_xaxes=True, vertical_spacing=0.05, row_heights=[h / sum(heights) for h in heights]
    )
    importance = np.abs(stacks["weight, % of equity"]).mean(axis=0)
    ranked = np.argsort(-importance, kind="stable")
    named = sorted(ranked[:LEGEND_ROOM]) if len(products) > LEGEND_ROOM else range(len(products))
    rest = [p for p in range(len(products)) if p not in set(named)]
    n_layers = len(named) + bool(rest)
    for row, (title, values) in enumerate(stacks.items(), start=1):
        layers = [(products[p], values[:, p], product_colour(p, len(products))) for p in named]
        if rest:
            layers.append((f"{len(rest)} others", values[:, rest].sum(axis=1), "#c3c9d0"))
        for name, share, colour in layers:
            x, y = averaged(time, 100 * share, min(point_budget(len(layers)), 600))
            for sign, half in (("long", np.maximum(y, 0)), ("short", np.minimum(y, 0))):
                if sign == "short" and not half.any():
                    continue
                figure.add_scatter(
                    x=x,
                    y=half,
                    name=name,
                    legendgroup=name,
                    showlegend=sign == "long" and row == 1,
                    stackgroup=f"{sign} {row}",
                    mode="lines",
                    line={"width": 0.4, "color": colour},
                    fillcolor=translucent(colour),
                    row=row,
                    col=1,
                )
        figure.update_yaxes(title_text=title, row=row)
    gross = len(stacks) + 1
    x, y = thin(time, 100 * np.asarray(held.gross_exposure, np.float64), 2000)
    figure.add_scatter(
        x=x, y=y, name="gross exposure", mode="lines", showlegend=False, line={"color": "#22303f", "width": 1.3},
        row=gross, col=1,
    )  # fmt: skip
    for name, acted in rails.items():
        steps = np.flatnonzero(acted)
        steps = steps[:: max(1, -(-len(steps) // 1000))]
        figure.add_scatter(
            x=time[steps].astype(np.float32),
            y=[name] * len(steps),
            name=name,
            mode="markers",
            showlegend=False,
            marker={"symbol": "line-ns-open", "size": 9, "color": "#b23b4b"},
            row=gross + 1,
            col=1,
        )
    figure.update_yaxes(title_text="gross, %", rangemode="tozero", row=gross)
    if rails:
        figure.update_yaxes(
            type="category", categoryarray=list(rails), range=[-0.6, len(rails) - 0.4], row=gross + 1, automargin=True
        )
    figure.update_xaxes(range=[time[0], time[-1]])
    figure.update_xaxes(title_text=unit, row=len(heights))
    height = 310 + 160 * len(stacks) + 22 * len(rails)
    return styled(figure, height, n_lines=n_layers, top=44, legend_room=LEGEND_ROOM + 1)


def positions(held: Allocation, products: Sequence[str]) -> go.Figure:
    """Position of each product over time: a panel each, or a heat map of shares of the largest."""
    time, unit = trading_time(held.seconds, held.session)
    lots = np.asarray(held.positions, np.float64)
    if len(products) > MOST_PANELS:
        bins = np.array_split(np.arange(len(time)), min(len(time), 300))
        mean = np.stack([lots[b].mean(axis=0) for b in bins])
        largest = np.abs(mean).max(axis=0)
        share = 100 * mean / np.where(largest > 0, largest, 1)
        figure = go.Figure()
        figure.add_heatmap(
            x=np.array([time[b[0]] for b in bins], np.float32),
            y=list(products),
            z=share.T.astype(np.float32),
            zmid=0,
            zmin=-100,
            zmax=100,
            colorscale=[[0, "#b23b4b"], [0.5, "#ffffff"], [1, "#1f5fbf"]],
            colorbar={"title": {"text": "% of largest", "side": "right"}, "thickness": 12},
            hovertemplate="%{y}<br>%{z:.0f} % of its largest position<extra></extra>",
        )
        figure.update_yaxes(autorange="reversed", tickfont_size=10, automargin=True)
        figure.update_xaxes(title_text=unit)
        return styled(figure, 120 + 16 * len(products), n_lines=0, top=24, hover="closest")
    figure = make_subplots(rows=len(products), shared_xaxes=True, vertical_spacing=0.12 / len(products))
    for p, name in enumerate(products):
        x, y = thin(time, lots[:, p], point_budget(len(products)))
        line = {"color": product_colour(p, len(products)), "width": 1.3, "shape": "hv"}
        figure.add_scatter(x=x, y=y, name=name, line=line, mode="lines", showlegend=False, row=p + 1, col=1)
        figure.update_yaxes(title={"text": name, "font": {"size": 11}}, nticks=4, row=p + 1)
    figure.update_xaxes(title_text=unit, row=len(products))
    return styled(figure, 80 + 95 * len(products), n_lines=0, top=20)


def costs(paid: Mapping[str, Mapping[str, float]], currency: str) -> go.Figure:
    """What each strategy or product paid, by component; at most the `MOST_BARS` that paid most."""
    kept = sorted(paid, key=lambda name: -sum(paid[name].values()))[:MOST_BARS] if len(paid) > MOST_BARS else list(paid)
    components = list(dict.fromkeys(component for name in kept for component in paid[name]))
    figure = go.Figure()
    for component, colour in zip(components, COMPONENT_COLOURS * len(components), strict=False):
        amounts = [paid[name].get(component, 0.0) for name in kept]
        figure.add_bar(
            y=[label(name) for name in kept],
            x=amounts,
            name=label(component),
            orientation="h",
            marker={"color": colour, "line": {"width": 0}},
        )
    figure.update_layout(barmode="relative", bargap=0.35)
    figure.update_yaxes(autorange="reversed", automargin=True, showgrid=False)
    figure.update_xaxes(title_text=f"paid, {currency}", rangemode="tozero")
    return styled(figure, 105 + 30 * len(kept), n_lines=len(components), top=40, hover="y unified")
