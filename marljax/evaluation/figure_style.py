"""What the report's plots share: colours, the time axis, thinning of long lines, and one look.

A strategy or a product has one colour on the whole page. Long lines are thinned for display in a way that keeps their
extremes, and the more lines a plot has the fewer points each gets, so that a page stays small.
"""

import itertools

import numpy as np
import plotly.graph_objects as go
from plotly.colors import hex_to_rgb

STRATEGY_COLOURS = (
    "#1f5fbf", "#d97a1e", "#2f8f5b", "#9352a8", "#8c8c8c", "#b23b4b", "#3aa6a6",
    "#a38a2e", "#22303f", "#e58cbf", "#7a4a2b", "#86bf3d", "#86a8e0", "#5a3fb0",
)  # fmt: skip
PRODUCT_COLOURS = (
    "#3b6fb6", "#e08a2c", "#4a9f60", "#c5494d", "#8b6bb5",
    "#8a6250", "#d37ab0", "#6f7a86", "#a5a638", "#35a3b5",
)  # fmt: skip
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
LEGEND_ROOM = 10
"""More lines than this get no legend but a name on hover."""


def trading_time(seconds: np.ndarray, session: np.ndarray) -> tuple[np.ndarray, str]:
    """Time without the gaps between sessions, float[T], and the name of its unit.

    Up to ten sessions are joined end to end and counted in seconds, minutes or hours; more are counted in days.
    """
    seconds, session = np.asarray(seconds, np.float64), np.asarray(session)
    first = np.flatnonzero(np.diff(session, prepend=session[:1] - 1))
    steps = np.diff(seconds)[np.diff(session) == 0]
    step = float(np.median(steps)) if steps.size else 1.0
    rank = np.cumsum(np.diff(session, prepend=session[:1]) != 0)
    within = seconds - seconds[first][rank]
    last = np.append(first[1:], len(seconds)) - 1
    length = within[last] + step
    if len(first) > 10:
        return rank + within / length[rank], "trading day"
    elapsed = within + np.concatenate([[0.0], np.cumsum(length)[:-1]])[rank]
    for unit, size, most in (("seconds", 1, 600), ("minutes", 60, 3 * 3600)):
        if elapsed[-1] <= most:
            return elapsed / size, f"{unit} of trading"
    return elapsed / 3600, "hours of trading"


def thin(x: np.ndarray, y: np.ndarray, points: int) -> tuple[np.ndarray, np.ndarray]:
    """At most `points` of a line, float32: each stretch keeps its lowest and its highest point, in order."""
    x, y = np.asarray(x), np.asarray(y, np.float64)
    if len(x) > points:
        edges = np.linspace(0, len(x), max(points // 2, 1), dtype=int)
        filled = np.where(np.isfinite(y), y, np.nanmean(y) if np.isfinite(y).any() else 0)
        kept = {0, len(x) - 1}
        for begin, end in itertools.pairwise(edges):
            kept |= {begin + int(filled[begin:end].argmin()), begin + int(filled[begin:end].argmax())}
        index = np.array(sorted(kept))
        x, y = x[index], y[index]
    return x.astype(np.float32), y.astype(np.float32)


def product_colour(index: int, n_products: int) -> str:
    """A product's colour on the whole page."""
    if n_products <= len(PRODUCT_COLOURS):
        return PRODUCT_COLOURS[index]
    return f"hsl({index * 360 / n_products:.0f},{55 + 15 * (index % 2)}%,{40 + 8 * (index % 3)}%)"


def point_budget(n_lines: int) -> int:
    """Points for each of `n_lines` lines."""
    return int(np.clip(40_000 // max(n_lines, 1), 200, 2000))


def averaged(x: np.ndarray, y: np.ndarray, points: int) -> tuple[np.ndarray, np.ndarray]:
    """Means over at most `points` stretches of equal length, float32, each at its first x."""
    if len(x) <= points:
        return np.asarray(x, np.float32), np.asarray(y, np.float32)
    begin = np.linspace(0, len(x), points, endpoint=False, dtype=int)
    count = np.diff(np.append(begin, len(x)))
    return x[begin].astype(np.float32), (np.add.reduceat(np.asarray(y, np.float64), begin) / count).astype(np.float32)


def translucent(colour: str, opacity: float = 0.75) -> str:
    if colour.startswith("#"):
        return "rgba({},{},{},{})".format(*hex_to_rgb(colour), opacity)
    return colour.replace("hsl(", "hsla(").replace(")", f",{opacity})")


def styled(
    figure: go.Figure, height: int, *, n_lines: int, top: int, hover: str = "x unified", legend_room: int = LEGEND_ROOM
) -> go.Figure:
    figure.update_layout(
        template="none",
        height=height,
        margin={"l": 62, "r": 14, "t": top, "b": 46},
        font={"family": FONT, "size": 12, "color": "#2b3440"},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        hovermode="closest" if n_lines > legend_room else hover,
        hoverlabel={"font_size": 11, "namelength": -1},
        showlegend=0 < n_lines <= legend_room,
        legend={"orientation": "h", "x": 0, "y": 1, "yref": "container", "yanchor": "top", "font": {"size": 12}},
    )
    figure.update_annotations(font_size=12)
    figure.update_xaxes(showgrid=False, zeroline=False, linecolor="#c8ced5", ticks="outside", tickcolor="#c8ced5")
    figure.update_yaxes(gridcolor="#e4e8ec", zerolinecolor="#aab2bb", zerolinewidth=1, title_standoff=8)
    return figure
