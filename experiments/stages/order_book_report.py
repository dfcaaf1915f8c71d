"""What the order book training found: paired differences with intervals, and one page to look at.

For every seed the learned agent and a benchmark play the same episodes, and every seed plays other ones. So the seeds'
mean differences are independent, they vary with what a seed learned and with the markets it met, and their mean has
Student's t interval with one degree of freedom less than there are seeds.
"""

from html import escape
from typing import Any

import numpy as np
from plotly.offline import get_plotlyjs
from plotly.subplots import make_subplots

from marljax.evaluation.figure_style import STRATEGY_COLOURS, styled, translucent
from marljax.evaluation.page import STYLE, figure, table
from marljax.evaluation.seeds import seed_interval
from stages.order_book import CLASSICAL, EXECUTION, LEARNED, MAKER, OTHER

NAMES = {
    "avellaneda-stoikov": "Avellaneda-Stoikov",
    "glft": "Guéant-Lehalle-Fernandez-Tapia",
    "twap": "TWAP",
    "vwap": "VWAP",
    "almgren-chriss": "Almgren-Chriss",
    LEARNED: "learned",
}
ROLE_NAMES = {MAKER: "market maker", EXECUTION: "execution agent"}
METRIC = {MAKER: "adjusted", EXECUTION: "shortfall"}
UNIT = {
    MAKER: "currency per episode",
    EXECUTION: "ticks of implementation shortfall per lot",
}
_COLOUR = {MAKER: STRATEGY_COLOURS[0], EXECUTION: STRATEGY_COLOURS[1]}


def verdict(low: float, high: float) -> str:
    """`better` where the whole interval is above zero, `worse` where it is below, else `not established`."""
    return "better" if low > 0 else "worse" if high < 0 else "not established"


def compare(
    cells: dict[str, dict[str, Any]], tuned_values: dict[str, float], parent_value: float
) -> tuple[dict[str, Any], list[str]]:
    """Differences {role: {opponents: {benchmark: row}}}, positive where the learned agent did better; and sentences.

    Args:
        cells: {maker: {schedule: {outcome: [seeds]}}}.
        tuned_values: what each benchmark was worth on the episodes on which it was tuned.
        parent_value: currency of one tick on every lot of the parent order.
    """
    differences: dict[str, Any] = {}
    findings = []
    for role, sign in ((MAKER, 1.0), (EXECUTION, -1.0)):
        best = max(CLASSICAL[role], key=lambda name, sign=sign: sign * tuned_values[name])
        differences[role] = {}
        for met, names in (("classical", list(CLASSICAL[OTHER[role]])), (LEARNED, [LEARNED])):
            own = means(cells, role, LEARNED, names)
            rows = {}
            for benchmark in CLASSICAL[role]:
                theirs = means(cells, role, benchmark, names)
                low, estimate, high = seed_interval(sign * (own - theirs))
                rows[benchmark] = {
                    METRIC[role]: [low, estimate, high],
                    "unit": UNIT[role],
                    "learned": float(own.mean()),
                    "benchmark": float(theirs.mean()),
                    "seeds_ahead": int(np.sum(sign * (own - theirs) > 0)),
                    "verdict": verdict(low, high),
                    "best_on_validation": benchmark == best,
                }
                if role == EXECUTION:
                    rows[benchmark]["currency"] = [parent_value * x for x in (low, estimate, high)]
            differences[role][met] = rows
            row = rows[best]
            low, estimate, high = row[METRIC[role]]
            findings.append(
                f"The learned {ROLE_NAMES[role]} against {met} opponents: {row['verdict']}"
                f"{' whether it is better' if row['verdict'] == 'not established' else ''} than {NAMES[best]}, "
                f"the best benchmark on validation ({row['learned']:.3f} against {row['benchmark']:.3f} {UNIT[role]}; "
                f"ahead by {estimate:.3f}, 95 % interval {low:.3f} to {high:.3f})."
            )
    return differences, findings


def means(cells: dict[str, dict[str, Any]], role: str, name: str, opponents: list[str]) -> np.ndarray:
    """float[seeds] what `name` in `role` came to, averaged over its opponents."""
    pairs = [(name, other) if role == MAKER else (other, name) for other in opponents]
    return np.mean([cells[maker][schedule][METRIC[role]] for maker, schedule in pairs], axis=0)


def render(
    summary: dict[str, Any], curves: dict[str, list[list[float]]], moments: dict[str, np.ndarray], command: str
) -> str:
    """The page. `curves` {metric: [chunk][seed]}, `moments` one test episode of the learned agents, leaves [T, ...]."""
    sections = {
        "result": ("Result", _result(summary)),
        "pairings": ("Everybody against everybody", _pairings(summary["cells"])),
        "learning": ("Learning", _learning(summary, curves)),
        "episode": ("One episode", _episode(moments)),
        "method": ("How it was measured", _method(summary, command)),
    }
    nav = "".join(f'<a href="#{anchor}">{heading}</a>' for anchor, (heading, _) in sections.items())
    body = "".join(
        f'<section id="{anchor}"><h2>{heading}</h2>{content}</section>'
        for anchor, (heading, content) in sections.items()
    )
    title = "A market maker and an execution agent in one order book"
    identity = f"preset {summary['preset']} · seed {summary['seed']} · {summary['seeds']} repetitions of the training"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{STYLE}</style><script>{get_plotlyjs()}</script></head><body>"
        f"<header><h1>{title}</h1><p>{escape(identity)}</p></header><nav>{nav}</nav><main>"
        '<p class="banner"><b>Simulated market:</b> the background orders are those of a zero-intelligence model. '
        f"Nothing here is evidence about a real market.</p>{body}</main></body></html>"
    )


def _result(summary: dict[str, Any]) -> str:
    parts = [f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in summary['findings'])}</ul>"]
    for role in OTHER:
        rows = []
        for met, found in summary["differences"][role].items():
            for name, row in found.items():
                low, estimate, high = row[METRIC[role]]
                css = row["verdict"].replace(" ", "-")
                star = " *" if row["best_on_validation"] else ""
                rows.append(
                    [
                        escape(NAMES[name]) + star,
                        f"{met}",
                        f"{row['learned']:.3f}",
                        f"{row['benchmark']:.3f}",
                        f"{estimate:+.3f}<small>{low:+.3f} to {high:+.3f}</small>",
                        f"{row['seeds_ahead']} of {summary['seeds']}",
                        f'<span class="verdict {css}">{row["verdict"]}</span>',
                    ]
                )
        heads = ["Benchmark", "Opponents", "Learned", "Benchmark's", "Ahead by", "Seeds ahead", "The learned agent is"]
        parts.append(
            f"<h3>The {ROLE_NAMES[role]}, {UNIT[role]}</h3>" + table(heads, rows, text_columns=2, css="metrics")
        )
    parts.append('<p class="note">* the best benchmark on the validation episodes. Less shortfall is better.</p>')
    return "".join(parts)


def _pairings(cells: dict[str, dict[str, Any]]) -> str:
    makers, schedules = (*CLASSICAL[MAKER], LEARNED), (*CLASSICAL[EXECUTION], LEARNED)
    parts = []
    for metric, heading in (
        ("adjusted", f"The market maker, {UNIT[MAKER]}"),
        ("profit", "The same without the charge on inventory"),
        ("marked", "The same with the last position at the mid: what it would be if nobody had to close one"),
        ("inventory", "The market maker's mean absolute inventory, lots"),
        ("shortfall", f"The schedule, {UNIT[EXECUTION]}"),
        ("swept", "Left to the order at the deadline, fraction of the parent"),
    ):
        rows = [
            [escape(NAMES[maker])]
            + [f"{np.mean(row[s][metric]):.3f}<small>± {_error(row[s][metric]):.3f}</small>" for s in schedules]
            for maker, row in ((name, cells[name]) for name in makers)
        ]
        parts.append(f"<h3>{heading}</h3>" + table(["Maker \\ schedule", *(NAMES[s] for s in schedules)], rows))
    parts.append('<p class="note">Mean over seeds and episodes, ± one standard error over seeds.</p>')
    return "".join(parts)


def _error(values: list[float]) -> float:
    return float(np.std(values, ddof=1) / np.sqrt(len(values)))


def _learning(summary: dict[str, Any], curves: dict[str, list[list[float]]]) -> str:
    plot = make_subplots(1, 2, subplot_titles=[f"The {ROLE_NAMES[role]}" for role in OTHER], horizontal_spacing=0.1)
    for column, role in enumerate(OTHER, 1):
        values = np.asarray(curves[f"{role}.episode_return"], np.float64)
        steps = (1 + np.arange(len(values))) * summary["steps_per_seed"][role] / len(values)
        for seed in range(values.shape[1]):
            line = {"color": translucent(_COLOUR[role], 0.35), "width": 1}
            plot.add_scatter(
                x=steps, y=values[:, seed], mode="lines", line=line, name=f"seed {seed}", row=1, col=column
            )
        middle = {"color": _COLOUR[role], "width": 2.4}
        plot.add_scatter(x=steps, y=values.mean(1), mode="lines", line=middle, name="mean", row=1, col=column)
    styled(plot, 340, n_lines=99, top=34)
    plot.update_xaxes(title="env steps of a seed")
    plot.update_layout(margin_b=58)
    plot.update_yaxes(title="currency per episode", col=1)
    caption = (
        "Mean return of the episodes that ended in a rollout, exploration included, one thin line for each seed. The "
        "opponents change between the rounds of the training, and with them what can be earned."
    )
    return figure("learning", plot, caption)


def _episode(moments: dict[str, np.ndarray]) -> str:
    seconds = np.asarray(moments["seconds"], np.float64)
    plot = make_subplots(3, 1, shared_xaxes=True, vertical_spacing=0.05, row_heights=[0.56, 0.22, 0.22])
    grey = "#8d97a3"
    for side, name in enumerate(("best bid", "best ask")):
        line = {"color": grey, "width": 1, "shape": "hv"}
        plot.add_scatter(x=seconds, y=moments["touch"][:, side], line=line, name=name, row=1, col=1)
    for side, name in enumerate(("maker's bid", "maker's ask")):
        line = {"color": _COLOUR[MAKER], "width": 1.6, "shape": "hv", "dash": ("solid", "dot")[side]}
        plot.add_scatter(x=seconds, y=moments["quotes"][:, side], line=line, name=name, row=1, col=1)
    marker = {"color": _COLOUR[EXECUTION], "size": 4}
    plot.add_scatter(
        x=seconds, y=moments["order"], mode="markers", marker=marker, name="schedule's order", row=1, col=1
    )
    line = {"color": _COLOUR[MAKER], "width": 1.6, "shape": "hv"}
    plot.add_scatter(x=seconds, y=moments["inventory"], line=line, showlegend=False, name="inventory", row=2, col=1)
    line = {"color": _COLOUR[EXECUTION], "width": 1.6, "shape": "hv"}
    plot.add_scatter(x=seconds, y=moments["left"], line=line, showlegend=False, name="parent left", row=3, col=1)
    styled(plot, 560, n_lines=5, top=34, hover="closest")
    plot.update_yaxes(title="price, ticks", tickformat="d", row=1)
    plot.update_yaxes(title="inventory, lots", row=2)
    plot.update_yaxes(title="parent left", range=[-0.05, 1.05], row=3)
    plot.update_xaxes(title="seconds of the market", row=3)
    caption = (
        "The learned agents of the first seed in the first episode of the comparison: their orders as they stood in "
        "the book after each step, the maker's inventory, and what was left of the parent order before the step."
    )
    return figure("episode", plot, caption)


def _method(summary: dict[str, Any], command: str) -> str:
    steps = " and ".join(f"{count:,} for the {ROLE_NAMES[role]}" for role, count in summary["steps_per_seed"].items())
    points = [
        f"Episodes of about {summary['seconds_per_episode']:.0f} s in a book of simulated orders; one tick on one lot "
        f"is {summary['tick_value']:g} in currency, and a parent order has {summary['parent']} lots.",
        f"The comparison took {summary['episodes']} {summary['evaluated_on']} episodes for every seed and pairing: the "
        "same markets and random numbers for everybody, other ones for every seed. An interval is Student's t over "
        f"the {summary['seeds']} seeds' mean differences.",
        "The market maker's result is net of fees, of closing its last position by trading it into the book as it "
        "stands, and of a charge on squared inventory at every step, in learning and tuning as well.",
        f"Env steps of training per seed: {steps}. Benchmarks were tuned on validation episodes, with as many trials "
        "for each.",
        f"Device: {summary['device']['cores']} core(s) of kind {summary['device']['kind']}; {summary['dtype']}.",
    ]
    return f"<ul>{''.join(f'<li>{escape(str(x))}</li>' for x in points)}</ul><pre>{escape(command)}</pre>"
