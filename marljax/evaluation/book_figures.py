"""A film of a book as plots: the queues at a moment, and depth, quotes and trades over all of its time.

Bids are blue and asks orange throughout; an agent has one colour of its own. The queues are drawn by the page
(`book_page`), moment by moment, from what is laid out here.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from marljax.evaluation.book_film import Film
from marljax.evaluation.figure_style import STRATEGY_COLOURS, styled
from marljax.lob.types import BUY

BID, ASK = STRATEGY_COLOURS[0], STRATEGY_COLOURS[1]
BID_TINT, ASK_TINT = "#a9c4ea", "#f0c18c"
BID_DARK, ASK_DARK = "#123f86", "#8a4300"
AGENT_COLOURS = ("#6d2f86", "#12694a", "#9c2436", "#20242b")
MOST_ROWS = 150
"""Rows of the heat map; where prices span more ticks, a row holds several."""
_STEPS = 32
"""Shades to a factor of ten."""


@dataclasses.dataclass(frozen=True)
class View:
    """What the picture of the queues has room for."""

    reach: int
    """Ticks on both sides of the centre."""
    highest: int
    """Lots at a price; more is cut off and written beside it."""
    centre: np.ndarray  # int64[shots] ticks; it stays until the mid comes near the border


def agent_colour(index: int) -> str:
    """The colour of agent `index`, counted from 0."""
    return AGENT_COLOURS[index % len(AGENT_COLOURS)]


def view(film: Film, depth: int) -> View:
    """Room for `depth` price levels of each side most of the time."""
    mids = _mids(film)
    distances, lots = [], []
    for shot, mid in zip(film.orders, mids, strict=True):
        for side in (0, 1):
            price, size = _levels(shot[shot[:, 0] == side])
            if len(price):
                near = np.sort(np.abs(price - mid))[:depth]
                distances.append(near[-1])
                lots.append(size[np.abs(price - mid) <= near[-1]].max())
    reach = max(math.ceil(np.quantile(distances, 0.9)) + 1, 5)
    centre = np.empty(len(mids), np.int64)
    for i, mid in enumerate(mids):
        stays = i > 0 and abs(mid - centre[i - 1]) <= reach / 4
        centre[i] = centre[i - 1] if stays else round(mid)
    return View(reach, max(math.ceil(1.1 * np.quantile(lots, 0.95)), 4), centre)


def shots(film: Film, view: View) -> list[list[int]]:
    """The orders within view at each shot, one after the other: side, ticks from the centre, lots, owner."""
    return [
        np.where(np.arange(4) == 1, shot - centre, shot)[np.abs(shot[:, 1] - centre) <= view.reach].ravel().tolist()
        for shot, centre in zip(film.orders, view.centre.tolist(), strict=True)
    ]


def depth_over_time(film: Film, view: View, agents: Sequence[str], tick: str) -> go.Figure:
    """Lots by price and time, the best quotes, agents' quotes, and trades."""
    figure = go.Figure()
    prices, ticks, lots = _grid(film, view)
    most = max(int(np.abs(lots).max()), 1)
    shade = np.sign(lots) * np.round(_STEPS * np.log10(1 + np.abs(lots)))
    top = math.ceil(_STEPS * math.log10(1 + most))
    marks = [m * 10**k for k in range(5) for m in ((1, 2, 5) if most < 30 else (1,)) if m * 10**k <= most]
    at = [round(_STEPS * math.log10(1 + lots)) for lots in marks]
    figure.add_heatmap(
        # Whole numbers of one byte are a quarter of what floats would take.
        z=shade.astype(np.int16),
        x=film.shot_seconds,
        y=prices,
        zmin=-top,
        zmax=top,
        colorscale=[[0, "#5f8fdb"], [0.3, "#c9daf3"], [0.5, "#ffffff"], [0.7, "#f6d6b0"], [1, "#dc8b3a"]],
        hoverinfo="skip",
        colorbar={
            "title": {"text": "lots" if ticks == 1 else f"lots in<br>{ticks} ticks", "side": "top"},
            "tickvals": [*(-v for v in reversed(at)), *at],
            "ticktext": [*(f"{v:,} bid" for v in reversed(marks)), *(f"{v:,} ask" for v in marks)],
            "thickness": 12,
            "outlinewidth": 0,
        },
    )
    for side, (name, colour) in enumerate((("best bid", BID_DARK), ("best ask", ASK_DARK))):
        x, y = _steps(film.seconds, film.touch[:, side])
        figure.add_scatter(x=x, y=y, name=name, mode="lines", line={"color": colour, "width": 1, "shape": "hv"})
    for i, name in enumerate(agents):
        for side in (0, 1):
            x, y = _steps(film.seconds, film.quotes[:, i, side])
            figure.add_scatter(
                x=x,
                y=y,
                name=f"{name}'s quotes",
                legendgroup=name,
                showlegend=side == 0,
                mode="lines",
                line={"color": agent_colour(i), "width": 2, "shape": "hv"},
            )
    for name, buys, symbol, colour in (
        ("buyer came in", True, "up", BID_DARK),
        ("seller came in", False, "down", ASK_DARK),
    ):
        mine = (film.trade_side == BUY) == buys
        figure.add_scatter(
            x=film.seconds[film.trade_message[mine]],
            y=film.trade_price[mine],
            name=f"trade, {name}",
            mode="markers",
            marker={
                "symbol": f"triangle-{symbol}",
                "color": colour,
                "size": _diameters(film.trade_size)[mine],
                "line": {"color": "#ffffff", "width": 0.7},
            },
            text=[f"{size:,} lots" for size in film.trade_size[mine]],
            hovertemplate="%{text} at %{y:,}<br>%{x:.3f} s<extra></extra>",
        )
    figure.update_xaxes(title_text="time [seconds]", range=[0, film.shot_seconds[-1]], tickformat=",")
    unit = "ticks" if not tick else f"ticks of {tick}"
    half = 0.5 * ticks
    figure.update_yaxes(
        title_text=f"price [{unit}]", range=[prices[0] - half, prices[-1] + half], tickformat=",d", showgrid=False
    )
    return roomy(styled(figure, 430, n_lines=4 + len(agents), top=64 if agents else 42, hover="closest"))


def roomy(figure: go.Figure) -> go.Figure:
    """The figure with room for prices of five digits beside the title of their axis."""
    return figure.update_layout(margin_l=78).update_yaxes(title_standoff=12)


def _mids(film: Film) -> np.ndarray:
    """float64[shots] ticks; where a side is empty the last known one."""
    mids = np.full(len(film.orders), np.nan)
    for i, shot in enumerate(film.orders):
        bids, asks = shot[shot[:, 0] == 0, 1], shot[shot[:, 0] == 1, 1]
        if len(bids) and len(asks):
            mids[i] = 0.5 * (bids.max() + asks.min())
    known = np.flatnonzero(np.isfinite(mids))
    if not len(known):
        return np.array([float(np.median(shot[:, 1])) if len(shot) else 0.0 for shot in film.orders])
    last = np.maximum.accumulate(np.where(np.isfinite(mids), np.arange(len(mids)), known[0]))
    return mids[last]


def _levels(orders: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    price, inverse = np.unique(orders[:, 1], return_inverse=True)
    return price, np.bincount(inverse, weights=orders[:, 2], minlength=len(price)).astype(np.int64)


def _grid(film: Film, view: View) -> tuple[np.ndarray, int, np.ndarray]:
    """Prices of the rows [ticks], ticks to a row, and lots int64[rows, shots - 1], those of bids negative.

    A column is the book from its shot to the next.
    """
    low, high = int(view.centre.min()) - view.reach, int(view.centre.max()) + view.reach
    ticks = -(-(high - low + 1) // MOST_ROWS)
    rows = -(-(high - low + 1) // ticks)
    lots = np.zeros((rows, len(film.orders) - 1), np.int64)
    for column, shot in enumerate(film.orders[:-1]):
        seen = shot[(shot[:, 1] >= low) & (shot[:, 1] <= high)]
        np.add.at(lots[:, column], (seen[:, 1] - low) // ticks, np.where(seen[:, 0] == 0, -seen[:, 2], seen[:, 2]))
    return low + ticks * np.arange(rows) + 0.5 * (ticks - 1), ticks, lots


def _steps(seconds: np.ndarray, price: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The points at which a staircase changes, and its end: the same line from fewer numbers."""
    same = (price[1:] == price[:-1]) | (np.isnan(price[1:]) & np.isnan(price[:-1]))
    kept = np.flatnonzero(np.append(True, ~same))
    kept = np.append(kept, len(price) - 1) if kept[-1] < len(price) - 1 else kept
    return seconds[kept], price[kept].astype(np.float32)


def _diameters(lots: np.ndarray) -> np.ndarray:
    """Of markers, in pixels: their areas grow as sizes, but for the smallest and the largest."""
    return np.round(np.clip(10 * np.sqrt(lots / max(np.median(lots), 1)), 5, 20), 1) if len(lots) else lots
