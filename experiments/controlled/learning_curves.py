"""Learning curves of a proof: what every seed did while it learned, against what it had to reach."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import picture
import plotly.graph_objects as go

from marljax.evaluation.figure_style import STRATEGY_COLOURS, averaged, point_budget, styled, translucent


class Panel(NamedTuple):
    """One plot."""

    title: str
    unit: str
    """Of what the lines are."""
    curves: Mapping[str, np.ndarray]
    """float[chunks, seeds] by name."""
    steps_per_chunk: int
    """Environment steps of one seed in one chunk [steps]."""
    marks: Mapping[str, float]
    """Horizontal lines by name: the target, and what it is to be seen against."""


def read_curves(metrics_path: Path, stage: str, metric: str) -> np.ndarray:
    """float64[chunks, seeds, ...] one metric of a training stage, from its metrics.jsonl."""
    rows = (json.loads(line) for line in metrics_path.read_text().splitlines())
    return np.array([row[metric] for row in rows if row["stage"] == stage], np.float64)


def write_picture(path: Path, panels: Sequence[Panel], headline: str = "") -> None:
    """One HTML file with a plot for each panel, under `headline`."""
    name = path.parent.name.replace("_", " ")
    picture.write_picture(path, f"Learning curves: {name}", headline, [(draw(panel), panel.title) for panel in panels])


def draw(panel: Panel) -> go.Figure:
    """A thin line for every seed and a thick one for their mean, and dashed ones for the marks."""
    plot = go.Figure()
    for (name, lines), colour in zip(panel.curves.items(), STRATEGY_COLOURS, strict=False):
        steps = panel.steps_per_chunk * np.arange(1, len(lines) + 1)
        styles = [(seed, f"{name}, seed {i}", 1.0, 0.3) for i, seed in enumerate(lines.T)]
        for values, label, width, opacity in [*styles, (lines.mean(axis=1), f"{name}, mean", 3.0, 1.0)]:
            x, y = averaged(steps, values, point_budget(len(styles)))
            line = {"color": translucent(colour, opacity), "width": width}
            plot.add_trace(go.Scatter(x=x, y=y, name=label, line=line, mode="lines", showlegend=width > 1.0))
    for label, value in panel.marks.items():
        plot.add_hline(value, line_dash="dash", line_color="#5b6673", annotation_text=label)
    plot.update_xaxes(title_text="environment steps of one seed")
    plot.update_yaxes(title_text=panel.unit)
    return styled(plot, 420, n_lines=len(panel.curves), top=40, hover="closest")
