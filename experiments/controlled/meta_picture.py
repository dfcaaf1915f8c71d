"""One judged episode of the meta-controller: what it held, what regime it was, how exposed it was, what it lost."""

import itertools
from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go
from picture import LEARNED, best_line, seed_lines
from plotly.subplots import make_subplots

from marljax.evaluation.figure_style import STRATEGY_COLOURS, product_colour, styled, translucent

OTHERS = (STRATEGY_COLOURS[0], *STRATEGY_COLOURS[2:])
"""Colours of the strategies beside the learned one."""


def drawdown(log_growth: np.ndarray) -> np.ndarray:
    """float64[..., T] loss of equity from its highest value so far, which is one at first, as a fraction of it."""
    path = np.cumsum(log_growth, -1)
    return -np.expm1(path - np.maximum(np.maximum.accumulate(path, -1), 0.0))


def timeline(
    weights: np.ndarray,
    log_growth: np.ndarray,
    probability: Mapping[str, np.ndarray],
    best: np.ndarray | None,
    others: Mapping[str, np.ndarray],
) -> go.Figure:
    """Four panels over the rebalances of one episode.

    Args:
        weights: float64[seeds, T, A] granted.
        log_growth: float64[seeds, T] of equity.
        probability: float64[T] of every regime by name, as it is known at best.
        best: float64[T, A] what is known to be best, None where nobody needs to know.
        others: float64[T] log growth of other strategies by name.
    """
    titles = ("weights of the first seed", "probability of the regime", "exposure", "drawdown [%]")
    plot = make_subplots(4, 1, shared_xaxes=True, vertical_spacing=0.06, subplot_titles=titles)
    x = np.arange(weights.shape[1])
    n_agents = weights.shape[2]
    for a in range(n_agents):
        colour = product_colour(a, n_agents)
        line = {"color": colour, "width": 0.5}
        fill = translucent(colour, 0.6)
        plot.add_scatter(
            x=x,
            y=weights[0, :, a],
            name=f"agent {a + 1}",
            stackgroup="weights",
            line=line,
            fillcolor=fill,
            row=1,
            col=1,
        )
    for (name, values), colour in zip(probability.items(), STRATEGY_COLOURS[4:], strict=False):
        plot.add_scatter(x=x, y=values, name=name, line={"color": colour, "width": 1.5}, row=2, col=1)
    if best is not None:
        plot.add_trace(best_line(x, best.sum(-1), "the optimum's exposure", legend=True, width=3), row=3, col=1)
    for trace in seed_lines(x, weights.sum(-1), "learned, seed by seed", legend=True):
        plot.add_trace(trace, row=3, col=1)
    for (name, values), colour in zip(others.items(), OTHERS, strict=False):
        line = {"color": colour, "width": 2}
        plot.add_scatter(x=x, y=-100 * drawdown(values), name=name, line=line, row=4, col=1)
    for trace in seed_lines(x, -100 * drawdown(log_growth), "learned, seed by seed", legend=False):
        plot.add_trace(trace, row=4, col=1)
    plot.update_xaxes(title_text="rebalance", row=4, col=1)
    return styled(plot, 900, n_lines=4, top=70, hover="closest")


def by_seed(values: Mapping[str, np.ndarray], unit: str, marks: Mapping[str, float]) -> go.Figure:
    """What every seed came to, a column of points for each measure, and horizontal lines by name."""
    plot = go.Figure()
    marker = {"color": translucent(LEARNED, 0.6), "size": 8}
    for name, points in values.items():
        plot.add_scatter(x=[name] * len(points), y=points, mode="markers", marker=marker)
    # Names of marks that nearly coincide stand at either end.
    for (label, value), end in zip(marks.items(), itertools.cycle(("top right", "top left")), strict=False):
        plot.add_hline(value, line_dash="dash", line_color="#5b6673", annotation_text=label, annotation_position=end)
    plot.update_yaxes(title_text=unit)
    return styled(plot, 360, n_lines=0, top=30, hover="closest")
