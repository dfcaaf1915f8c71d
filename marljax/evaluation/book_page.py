"""One self-contained HTML page on which a film of a book is played, stopped and scrubbed.

The page holds its own copy of Plotly and asks nothing of the network. Plotly and the film lie in it compressed, and the
browser unpacks them (DecompressionStream, in every browser since 2023): the page is half as large for it.
"""

import base64
import dataclasses
import gzip
import json
from html import escape
from typing import Any, Literal

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from marljax.evaluation.book_figures import (
    ASK,
    ASK_TINT,
    BID,
    BID_TINT,
    agent_colour,
    depth_over_time,
    roomy,
    shots,
    view,
)
from marljax.evaluation.book_film import Film
from marljax.evaluation.figure_style import styled
from marljax.evaluation.page import STYLE


@dataclasses.dataclass(frozen=True)
class Labels:
    """What the page says about its film."""

    title: str
    origin: Literal["simulated", "recorded"]
    agents: tuple[str, ...] = ()
    """Names of owners 1, 2, ..."""
    tick: str = ""
    """One tick in currency; empty where it has no value."""


def render(film: Film, labels: Labels, depth: int) -> str:
    """The page. Texts in `labels` are shown as text, never as markup.

    Args:
        film: what happened.
        labels: what it is called.
        depth: price levels of each side that the picture of the queues has room for.
    """
    seen = view(film, depth)
    trades = zip(
        *(film.trade_message, film.seconds[film.trade_message].round(6), film.trade_side, film.trade_price),
        *(film.trade_size, film.trade_maker, film.trade_taker),
        strict=True,
    )
    told = {
        "orders": shots(film, seen),
        "centre": seen.centre.tolist(),
        "reach": seen.reach,
        "highest": seen.highest,
        "seconds": film.shot_seconds.round(6).tolist(),
        "messages": film.shot_messages.tolist(),
        "trades": [[x.item() for x in trade] for trade in trades],
        "owners": ["background", *labels.agents],
        "queues": _json(_queues(labels)),
        "depth": _json(depth_over_time(film, seen, labels.agents, labels.tick)),
    }
    last = len(film.orders) - 1
    kinds = {
        "simulated": "<b>Simulated:</b> the orders were made by a model. Nothing here is evidence about a real market.",
        "recorded": "<b>Recorded:</b> the messages of a real market, put to the order book one by one.",
    }
    return f"""<!doctype html><html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(labels.title)}</title><style>{STYLE}{_STYLE}</style></head><body>
<header><h1>{escape(labels.title)}</h1>
<p>{film.shot_messages[-1]:,} messages met the book and made {len(film.trade_price):,} trades in
{film.shot_seconds[-1]:,.1f} seconds</p>
</header><main><p class="banner {labels.origin}">{kinds[labels.origin]}</p>
<section><h2>The queues</h2>
<div class="player"><button id="play" aria-label="Play or pause">▶ Play</button>
<input id="scrub" type="range" min="0" max="{last}" value="0" aria-label="Moment of the film">
<select id="pace" aria-label="Speed"><option value="4">slow</option><option value="12" selected>normal</option>
<option value="30">fast</option></select></div>
<p class="now"><b id="when">unpacking …</b><span id="quote"></span></p>
<div class="columns"><div><div id="plot-queues" class="plotly-graph-div"></div></div>
<div><h3>Last trades</h3><table><tbody id="trades"></tbody></table></div></div>
<div id="own"></div>
<p class="note">A column is the queue at a price: the order at the bottom trades first, and who joins comes on top. Each
box is one order. Hidden size is not shown. Numbers above the plot belong to columns that are cut off.</p></section>
<section><h2>The whole time</h2><div id="plot-depth" class="plotly-graph-div"></div>
<p class="note">Lots by price, on a logarithmic scale of colour. The upright line is the moment shown above; a click
moves there. Triangles are trades, larger ones of more lots; drag to zoom, double-click to see all again.</p></section>
</main>
<script type="application/gzip" id="plotly">{_packed(get_plotlyjs())}</script>
<script type="application/gzip" id="film">{_packed(json.dumps(told, separators=(",", ":")))}</script>
<script>{_PLAYER}</script></body></html>"""


def _queues(labels: Labels) -> go.Figure:
    figure = go.Figure()
    styles = [("bids", BID_TINT, BID), ("asks", ASK_TINT, ASK)]
    styles += [(name, agent_colour(i), agent_colour(i)) for i, name in enumerate(labels.agents)]
    for name, fill, line in styles:
        figure.add_bar(
            # A point that is never seen: without any, a legend leaves the trace out.
            x=[0],
            y=[0],
            base=[0],
            name=name,
            width=0.92,
            marker={"color": fill, "line": {"color": "#ffffff" if fill != line else line, "width": 0.6}},
            hovertemplate="%{text}<extra></extra>",
            textposition="none",
        )
    unit = "ticks" if not labels.tick else f"ticks of {labels.tick}"
    figure.update_xaxes(title_text=f"price [{unit}]", tickformat=",d")
    figure.update_yaxes(title_text="displayed size [lots]", tickformat=",d")
    figure.update_layout(barmode="overlay")
    return roomy(styled(figure, 360, n_lines=len(styles), top=58, hover="closest"))


def _json(figure: go.Figure) -> Any:
    return json.loads(figure.to_json())


def _packed(text: str) -> str:
    # A time of its own would make every page differ.
    return base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode()


WIDTH = 1120


def height(labels: Labels) -> int:
    """Of a window of that width which the page fits into, pixels."""
    return 1340 + (60 + 72 * len(labels.agents) if labels.agents else 0)


_STYLE = """
.banner.recorded { background: #eef2f7; border-color: #c4d0de; }
.player { display: flex; gap: .8rem; align-items: center; }
.player input { flex: 1; accent-color: var(--accent); }
.player button, .player select { font: inherit; font-size: .9rem; color: var(--ink); background: var(--ground);
  border: 1px solid #aab2bb; border-radius: 6px; padding: .25rem .7rem; }
.player button { min-width: 6.2rem; }
.now { display: flex; flex-wrap: wrap; gap: .2rem 1.6rem; margin: .6rem 0 0; font-variant-numeric: tabular-nums; }
.columns { display: grid; grid-template-columns: minmax(0, 1fr) 15.5rem; gap: 1rem; }
.columns h3 { margin-top: .4rem; }
.columns table { font-size: .8rem; }
.columns td { white-space: nowrap; }
@media (max-width: 800px) { .columns { grid-template-columns: minmax(0, 1fr); } }
"""

_PLAYER = """
"use strict";
const at = id => document.getElementById(id);
const whole = x => x.toLocaleString("en-US");
const unpack = async id => {
  const bytes = Uint8Array.from(atob(at(id).textContent), c => c.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
};
const row = (...cells) => {
  const line = document.createElement("tr");
  for (const cell of cells) line.insertCell().textContent = cell;
  line.cells[0].className = "text";
  return line;
};
(async () => {
  if (!("DecompressionStream" in window)) {
    at("when").textContent = "This page needs a browser from 2023 or later.";
    return;
  }
  const code = document.createElement("script");
  code.textContent = await unpack("plotly");
  document.head.append(code);
  const film = JSON.parse(await unpack("film"));
  const look = {displayModeBar: false, responsive: true};
  const bars = film.queues.data, queues = film.queues.layout, last = film.orders.length - 1;
  const cursor = {type: "line", yref: "paper", y0: 0, y1: 1, line: {color: "#1c2530", width: 1.5}};
  film.depth.layout.shapes = [cursor];

  // Every order of a shot with what stands before it, at its price and in all.
  const orders = shot => {
    const flat = film.orders[shot], level = new Map(), line = [0, 0], found = [];
    for (let i = 0; i < flat.length; i += 4) {
      const [side, away, lots, owner] = flat.slice(i, i + 4);
      const price = film.centre[shot] + away, ahead = level.get(price) || 0;
      found.push({side, price, lots, owner, ahead, before: line[side]});
      level.set(price, ahead + lots);
      line[side] += lots;
    }
    return {found, level};
  };

  // As many lines for an agent as it ever has orders, so that nothing jumps.
  const most = film.owners.map(() => 1);
  film.orders.forEach((_, shot) => {
    const count = film.owners.map(() => 0);
    for (const order of orders(shot).found) most[order.owner] = Math.max(most[order.owner], ++count[order.owner]);
  });

  const draw = shot => {
    const {found, level} = orders(shot), centre = film.centre[shot], out = centre - 10 * film.reach;
    for (const bar of bars) Object.assign(bar, {x: [], y: [], base: [], text: []});
    for (const order of found) {
      const bar = bars[order.owner ? order.owner + 1 : order.side];
      bar.x.push(order.price);
      bar.y.push(order.lots);
      bar.base.push(order.ahead);
      bar.text.push(`${film.owners[order.owner]}: ${whole(order.lots)} lots at ${whole(order.price)}` +
        `<br>${whole(order.ahead)} lots ahead at this price`);
    }
    for (const bar of bars) if (!bar.x.length) Object.assign(bar, {x: [out], y: [1], base: [0], text: [""]});
    queues.xaxis.range = [centre - film.reach - 0.5, centre + film.reach + 0.5];
    queues.yaxis.range = [0, film.highest];
    queues.annotations = [...level].filter(([, lots]) => lots > film.highest).map(([price, lots]) => (
      {x: price, y: 1, yref: "paper", yanchor: "bottom", text: whole(lots), showarrow: false, font: {size: 10}}));
    Plotly.react("plot-queues", bars, queues, look);
  };

  const tell = shot => {
    const {found, level} = orders(shot), messages = film.messages[shot];
    const best = side => found.find(order => order.side === side);
    at("when").textContent = `${film.seconds[shot].toFixed(3)} s · after message ${whole(messages)}`;
    const [bid, ask] = [best(0), best(1)];
    const quote = (name, order) => order ? `${name} ${whole(level.get(order.price))} lots at ${whole(order.price)}` :
      `no ${name}`;
    const wide = bid && ask ? ask.price - bid.price : 0;
    const spread = wide ? ` · spread ${whole(wide)} ${wide === 1 ? "tick" : "ticks"}` : "";
    at("quote").textContent = `${quote("best bid", bid)} · ${quote("best ask", ask)}${spread}`;
    const past = film.trades.filter(trade => trade[0] < messages).slice(-10).reverse();
    let room = 10;
    const fitting = past.filter(trade => (room -= trade[5] || trade[6] ? 1.5 : 1) >= 0);
    at("trades").replaceChildren(...fitting.map(([, seconds, side, price, size, maker, taker]) => {
      const line = row(`${side > 0 ? "▲ buy" : "▼ sell"} ${whole(size)} at ${whole(price)}`, `${seconds.toFixed(2)} s`);
      line.cells[0].style.color = side > 0 ? "#123f86" : "#8a4300";
      const who = [taker, maker].filter(owner => owner).map(owner => film.owners[owner]);
      if (who.length) {
        const small = document.createElement("small");
        small.textContent = taker ? `by the ${who.join(" from the ")}` : `from the ${who[0]}`;
        line.cells[0].append(small);
      }
      return line;
    }));
    const own = film.owners.slice(1).flatMap((name, i) => {
      const mine = found.filter(order => order.owner === i + 1);
      const lines = mine.map(order => row(name, order.side ? "sells" : "buys", whole(order.lots), whole(order.price),
        whole(order.ahead), whole(order.before)));
      while (lines.length < most[i + 1]) lines.push(row(name, "–", "–", "–", "–", "–"));
      return lines;
    });
    if (own.length) {
      const table = document.createElement("table");
      const heads = row("Agent", "Side", "Lots", "At", "Lots ahead at its price", "Lots ahead in all");
      for (const cell of heads.cells) cell.style.cssText = "color:var(--quiet);font-weight:600;font-size:.8rem";
      table.append(heads, ...own);
      at("own").replaceChildren(table);
    }
  };

  let shot = Math.min(Math.max(parseInt(location.hash.slice(1)) || 0, 0), last), timer = null;
  const show = next => {
    shot = Math.min(Math.max(next, 0), last);
    at("scrub").value = shot;
    draw(shot);
    tell(shot);
    Plotly.relayout("plot-depth", {"shapes[0].x0": film.seconds[shot], "shapes[0].x1": film.seconds[shot]});
  };
  const pause = () => {
    clearInterval(timer);
    timer = null;
    at("play").textContent = "▶ Play";
  };
  const play = () => {
    if (shot === last) show(0);
    at("play").textContent = "⏸ Pause";
    timer = setInterval(() => shot < last ? show(shot + 1) : pause(), 1000 / Number(at("pace").value));
  };
  cursor.x0 = cursor.x1 = film.seconds[shot];
  await Plotly.newPlot("plot-depth", film.depth.data, film.depth.layout, look);
  show(shot);
  at("plot-depth").on("plotly_click", event => {
    pause();
    const passed = film.seconds.findIndex(seconds => seconds > event.points[0].x);
    show(passed < 0 ? last : passed - 1);
  });
  at("play").addEventListener("click", () => timer ? pause() : play());
  at("pace").addEventListener("change", () => { if (timer) { pause(); play(); } });
  at("scrub").addEventListener("input", event => { pause(); show(Number(event.target.value)); });
})();
"""
