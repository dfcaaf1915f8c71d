"""What became of capital among futures agents: accounts, drawdowns, who held what, how much, and what was forbidden."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import plotly.graph_objects as go
from futures import CLASSES
from futures_agents import AGENT_CLASSES, AGENTS, RULES
from futures_world import WEEKS_A_YEAR, Study
from picture import LEARNED, write_picture
from plotly.subplots import make_subplots
from proof import Verdict
from stream_accounts import Account

from marljax.evaluation.figure_style import PRODUCT_COLOURS, product_colour, styled, translucent

META = "meta"
SHOWN = 0.05
"""Volatility a year that every account is drawn at."""
GUARDS = {
    "cap of an agent": "long_cap",
    "cap of a class": "class_cap",
    "leverage": "leverage",
    "turnover": "turnover",
    "volatility": "volatility",
    "brake": "brake",
}


def acted(account: Account) -> dict[str, np.ndarray]:
    """bool[S, N] by name, where each guardrail changed what was asked for."""
    done = account.intervention
    found = {}
    for name, field in GUARDS.items():
        value = np.asarray(getattr(done, field))
        value = value < 1 if field == "volatility" else value
        found[name] = value.any(-1) if value.ndim == 3 else value
    return found


def colours(names: Iterable[str]) -> dict[str, str]:
    """The learned one in its own colour, the others in those of products but for the one that is like it."""
    others = [name for name in names if name != META]
    unlike = [colour for i, colour in enumerate(PRODUCT_COLOURS) if i != 1]
    return {META: LEARNED} | dict(zip(others, unlike, strict=True))


def label(name: str) -> str:
    return "meta-controller" if name == META else name.replace("_", " ")


def curves(accounts: Mapping[str, Account], part: Study) -> go.Figure:
    """Every account at one volatility, and its drawdown; a mean of returns over seeds."""
    plot = make_subplots(2, 1, shared_xaxes=True, vertical_spacing=0.04, row_heights=[0.65, 0.35])
    chosen = colours(accounts)
    for name, account in reversed(accounts.items()):
        returns = np.expm1(np.asarray(account.log_growth, np.float64)).mean(0)
        returns = returns * SHOWN / (returns.std() * WEEKS_A_YEAR**0.5)
        path = np.cumsum(np.log1p(returns))
        loss = np.expm1(path - np.maximum(np.maximum.accumulate(path), 0.0))
        line = {"color": chosen[name], "width": 2.8 if name == META else 1.3}
        for row, y in ((1, 100 * np.expm1(path)), (2, 100 * loss)):
            shared = {"name": label(name), "legendgroup": name, "showlegend": row == 1, "mode": "lines", "line": line}
            plot.add_scatter(x=part.weeks, y=y, row=row, col=1, **shared)
    plot.update_yaxes(title_text="net result [%]", row=1)
    plot.update_yaxes(title_text="drawdown [%]", row=2)
    _mark_folds(plot, part)
    return styled(plot, 640, n_lines=len(accounts), top=84, hover="closest").update_layout(legend_traceorder="reversed")


def holdings(account: Account, part: Study) -> go.Figure:
    """Mean weights over seeds by asset class and by rule, every seed's exposure, and where guardrails acted."""
    weights = np.asarray(account.granted, np.float64)
    by_class = {name: i == AGENT_CLASSES for i, name in enumerate(CLASSES)}
    by_rule = {rule: np.array([agent.startswith(f"{rule} ") for agent in AGENTS]) for rule in RULES}
    titles = (
        "weights by asset class",
        "weights by rule",
        "exposure, seed by seed",
        "share of seeds whose guardrails acted",
    )
    plot = make_subplots(4, 1, shared_xaxes=True, vertical_spacing=0.05, subplot_titles=titles)
    palette = iter(range(len(by_class) + len(by_rule)))
    for row, groups in ((1, by_class), (2, by_rule)):
        for name, own in groups.items():
            colour = product_colour(next(palette), len(by_class) + len(by_rule))
            stack = {
                "stackgroup": str(row),
                "line": {"color": colour, "width": 0.4},
                "fillcolor": translucent(colour, 0.7),
            }
            plot.add_scatter(x=part.weeks, y=weights[:, :, own].sum(-1).mean(0), name=name, row=row, col=1, **stack)
    for path in weights.sum(-1):
        line = {"color": translucent(LEARNED, 0.5), "width": 1.0}
        plot.add_scatter(x=part.weeks, y=path, line=line, showlegend=False, row=3, col=1)
    guards = acted(account)
    share = np.stack([values.mean(0) for values in guards.values()])
    plot.add_heatmap(
        x=part.weeks,
        y=list(guards),
        z=share,
        zmin=0.0,
        zmax=1.0,
        colorscale=[[0.0, "#ffffff"], [1.0, "#b23b4b"]],
        showscale=False,
        row=4,
        col=1,
    )
    plot.update_yaxes(automargin=True, row=4, col=1)
    _mark_folds(plot, part)
    return styled(plot, 900, n_lines=len(by_class) + len(by_rule), top=78, hover="closest")


def ratios(more: Mapping[str, Any]) -> go.Figure:
    """Sharpe ratios with their intervals."""
    results = more["strategies"]
    chosen = colours(results)
    plot = go.Figure()
    for name in sorted(results, key=lambda name: results[name]["sharpe"][1]):
        low, middle, high = results[name]["sharpe"]
        plot.add_scatter(
            x=[middle],
            y=[label(name)],
            mode="markers",
            marker={"color": chosen[name], "size": 10},
            error_x={"type": "data", "array": [high - middle], "arrayminus": [middle - low], "color": chosen[name]},
        )
    plot.add_vline(0.0, line_color="#5b6673", line_width=1)
    plot.update_xaxes(title_text="Sharpe ratio a year, net of costs")
    plot.update_yaxes(automargin=True)
    return styled(plot, 380, n_lines=0, top=20, hover="closest")


def draw(path: Path, accounts: Mapping[str, Account], part: Study, verdict: Verdict, more: Mapping[str, Any]) -> None:
    """The page."""
    n_seeds = jax.tree.leaves(accounts[META])[0].shape[0]
    low, high = verdict.interval
    said = "above" if low > 0 else "below" if high < 0 else "not established to differ from"
    headline = (
        f"From {part.weeks[0]} to {part.weeks[-1]} the meta-controller's Sharpe ratio is {said} that of risk parity: "
        f"{verdict.estimate:+.2f} ({low:+.2f} to {high:+.2f}), net of costs."
    )
    page = [
        (
            ratios(more),
            f"95 % intervals of a block bootstrap over weeks. The meta-controller is the mean of {n_seeds} seeds.",
        ),
        (
            curves(accounts, part),
            f"Net of all costs, each account at a volatility of {SHOWN:.0%} a year over the whole time, so that shapes "
            "can be compared. Dotted lines: a new fold, and parameters that were learned on what lies before it.",
        ),
        (
            holdings(accounts[META], part),
            "The meta-controller, weights as fractions of equity, means over seeds where not said otherwise.",
        ),
    ]
    write_picture(path, "Capital among rules that trade 25 futures", headline, page)


def _mark_folds(plot: go.Figure, part: Study) -> None:
    for fold in part.cut[1:]:
        plot.add_vline(str(part.dates[fold.test.start]), line={"color": "#8b95a1", "width": 1, "dash": "dot"})
