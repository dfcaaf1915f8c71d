"""The building blocks of the report's page, and its style sheet."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from marljax.data.schema import Origin
from marljax.evaluation.figure_style import STRATEGY_COLOURS

STYLE = """
:root { --ink: #1c2530; --quiet: #5b6673; --line: #dfe4ea; --accent: #1f5fbf; --paper: #ffffff; --ground: #f6f7f9; }
* { box-sizing: border-box; }
html { scroll-behavior: smooth; scroll-padding-top: 3.2rem; }
body { margin: 0; background: var(--ground); color: var(--ink); line-height: 1.5; font-size: 15px;
  font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
header, main { max-width: 1080px; margin: 0 auto; padding: 0 1.5rem; }
header { padding-top: 2.2rem; padding-bottom: .6rem; }
header p { margin: .2rem 0 0; color: var(--quiet); }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0; letter-spacing: -.01em; }
h2 { font-size: 1.2rem; margin: 0 0 .8rem; }
h3 { font-size: 1rem; margin: 1.4rem 0 .3rem; }
nav { position: sticky; top: 0; z-index: 10; background: rgba(246, 247, 249, .96);
  border-bottom: 1px solid var(--line); white-space: nowrap; overflow-x: auto; text-align: left;
  padding: .55rem max(1.5rem, calc((100% - 1080px) / 2 + 1.5rem)); }
nav a { color: var(--quiet); text-decoration: none; margin-right: 1.15rem; font-size: .88rem; }
nav a:hover { color: var(--accent); }
section { background: var(--paper); border: 1px solid var(--line); border-radius: 8px; padding: 1.2rem 1.4rem;
  margin: 1rem 0; }
.banner { background: #fff4d6; border: 1px solid #ecd08a; border-radius: 8px; padding: .7rem 1rem; margin: 1rem 0; }
.headline { font-size: 1.18rem; line-height: 1.45; margin: 0 0 .9rem; max-width: 62em; }
.note, figcaption { color: var(--quiet); font-size: .86rem; }
.note { margin: .6rem 0 0; }
.absent { color: var(--quiet); font-style: italic; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums; }
th { font-weight: 600; color: var(--quiet); font-size: .8rem; vertical-align: bottom; }
th, td { text-align: right; padding: .38rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top; }
th.text, td.text { text-align: left; }
th:first-child, td:first-child { padding-left: .1rem; }
th:last-child, td:last-child { padding-right: .1rem; }
tbody tr:last-child td { border-bottom: 0; }
td small { display: block; color: var(--quiet); font-size: .72rem; line-height: 1.3; margin-top: .1rem; }
table.metrics td, table.metrics th { padding-left: .4rem; padding-right: .4rem; }
table.metrics td { white-space: nowrap; }
abbr { text-decoration: none; cursor: help; border-bottom: 1px dotted #aab2bb; }
.swatch { display: inline-block; width: .7em; height: .7em; border-radius: 2px; margin-right: .5em; }
.verdict { display: inline-block; border-radius: 99px; padding: 0 .7em; font-size: .82rem; white-space: nowrap; }
.verdict.better { background: #dff3e4; color: #17663a; }
.verdict.worse { background: #fbe1e1; color: #8c1f2b; }
.verdict.not-established { background: #eceff3; color: #4a5563; }
details { margin: .3rem 0; }
summary { cursor: pointer; font-weight: 600; padding: .2rem 0; }
figure { margin: 1.2rem 0 .4rem; }
figcaption { margin-top: .1rem; }
li { margin: .45rem 0; max-width: 60em; }
ul { padding-left: 1.2rem; margin: 0; }
pre { background: var(--ground); border: 1px solid var(--line); border-radius: 6px; padding: .7rem .9rem; margin: 0;
  overflow-x: auto; font-size: .85rem; white-space: pre-wrap; }
code { font-size: .86em; }
@media print {
  body { background: #fff; font-size: 11px; }
  nav { display: none; }
  section { border: 0; padding: 0; }
  figure, tr, .card { break-inside: avoid; }
}
"""


def document(title: str, identity: Sequence[str], sections: Mapping[str, tuple[str, str]], banner: str = "") -> str:
    """A whole page with its own copy of Plotly.

    `identity` says in a few words each what the page is of; `sections` are anchor -> (heading, content), heading and
    content HTML, and `banner` is HTML above them.
    """
    nav = "".join(f'<a href="#{anchor}">{heading}</a>' for anchor, (heading, _) in sections.items())
    body = "".join(
        f'<section id="{anchor}"><h2>{heading}</h2>{content}</section>'
        for anchor, (heading, content) in sections.items()
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style>"
        f"<script>{get_plotlyjs()}</script></head><body>"
        f"<header><h1>{escape(title)}</h1><p>{' · '.join(map(escape, identity))}</p></header><nav>{nav}</nav>"
        f"<main>{banner}{body}</main></body></html>"
    )


def origin_banner(origin: Origin) -> str:
    """What kind of market the page is of, where it was not recorded."""
    if origin == "recorded":
        return ""
    what = {
        "simulated": "<b>Simulated market:</b> the order books were made by an exchange simulator. Nothing here is "
        "evidence about a real market.",
        "synthetic": "<b>Synthetic market:</b> the order books were made by a generative model. Nothing here is "
        "evidence.",
    }[origin]
    return f'<p class="banner">{what}</p>'


def swatch(index: int) -> str:
    """A small square in the colour of strategy `index`."""
    return f'<i class="swatch" style="background:{STRATEGY_COLOURS[index % len(STRATEGY_COLOURS)]}"></i>'


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, text_columns: int = 1, css: str = "") -> str:
    """An HTML table from cells that are HTML already; the first `text_columns` are text, the others numbers."""

    def cells(tag: str, values: Sequence[str]) -> str:
        return "".join(
            f"<{tag}{' class=text' if i < text_columns else ''}>{value}</{tag}>" for i, value in enumerate(values)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return (
        f'<div class="scroll"><table class="{css}"><thead><tr>{cells("th", heads)}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def folded(heading: str, n_rows: int, table: str, open_up_to: int = 12) -> str:
    """A table under a heading that opens and closes, open where it has no more than `open_up_to` rows."""
    opened = " open" if n_rows <= open_up_to else ""
    return f"<details{opened}><summary>{heading} ({n_rows})</summary>{table}</details>"


def figure(anchor: str, plot: go.Figure, caption: str) -> str:
    """A plot, without its own copy of Plotly, above its caption (HTML)."""
    html = plot.to_html(
        full_html=False,
        include_plotlyjs=False,
        div_id=f"plot-{anchor}",
        config={"displayModeBar": False, "responsive": True},
    )
    return f"<figure>{html}<figcaption>{caption}</figcaption></figure>"
