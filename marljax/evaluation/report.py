"""One self-contained HTML page that shows what a run did, what it found, and what it did not establish.

The page holds its own copy of Plotly and asks nothing of the network. Sections follow the main job; a stage that was
not run says so in its place.
"""

from collections import Counter
from collections.abc import Callable
from html import escape

from marljax.evaluation import backtest_figures, figures, findings
from marljax.evaluation.findings import annual, exact, label, number, percent
from marljax.evaluation.page import document, figure, folded, origin_banner, swatch, table
from marljax.evaluation.report_inputs import GeneratorScore, ReportInputs, Strategy

Format = Callable[[float], str]

METRIC_COLUMNS: dict[str, tuple[str, str, Format]] = {
    "total_return": ("Net result", "over the whole test, after all costs", lambda v: percent(v, signed=True)),
    "cagr": ("CAGR", "compound annual growth rate", annual),
    "volatility": ("Volatility", "annualised standard deviation of returns", percent),
    "sharpe": ("Sharpe", "annualised mean over standard deviation of returns", number),
    "sortino": ("Sortino", "annualised mean over downside deviation", number),
    "calmar": ("Calmar", "annual growth over maximum drawdown", lambda v: number(v) if abs(v) < 1e4 else "> 10,000"),
    "max_drawdown": ("Max. drawdown", "largest loss from a high", percent),
    "max_drawdown_duration": ("Under water", "longest run of periods below a high", lambda v: f"{round(v):,}"),
    "hit_rate": ("Hit rate", "share of gains among periods that moved", percent),
    "turnover": ("Turnover", "value traded over the test as a multiple of equity", lambda v: f"{number(v)} ×"),
}
"""Metric -> heading, meaning, how a value is written."""

_NOT_RUN = '<p class="absent">This stage was not run.</p>'


def render(inputs: ReportInputs) -> str:
    """The report as one HTML page. Texts in `inputs` are shown as text, never as markup, except `notes`."""
    sections: dict[str, tuple[str, str]] = {
        "result": ("Result", _result(inputs)),
        "data": ("Data and cleaning", _data(inputs)),
        "generator": ("Real against synthetic", _generator(inputs)),
        "learning": ("Learning", _learning(inputs)),
        "backtest": ("Backtest", _backtest(inputs)),
        "allocation": ("Allocation", _allocation(inputs)),
        "costs": ("Costs", _costs(inputs)),
        "limits": ("What is not established", _limits(inputs)),
        "reproduce": ("Reproduce", _reproduce(inputs)),
    }
    identity = (
        f"preset {inputs.preset}",
        f"seed {inputs.seed}",
        inputs.source,
        f"{len(inputs.products)} product{'s' if len(inputs.products) != 1 else ''}",
    )
    return document(inputs.title, identity, sections, origin_banner(inputs.origin))


def _result(inputs: ReportInputs) -> str:
    lead = f'<p class="headline">{escape(findings.headline(inputs))}</p>'
    backtest = inputs.backtest
    if backtest is None:
        return lead
    by_name = {strategy.name: strategy for strategy in backtest.strategies}
    tested = backtest.strategies[0]
    rows = [[swatch(0) + f"<b>{escape(label(tested.name))}</b>", f"<b>{_net(tested)}</b>", "", "", ""]]
    for name, difference in backtest.differences.items():
        low, estimate, high = difference["sharpe"]
        word = findings.verdict(difference["sharpe"])
        kind = word.split(",")[0].replace(" ", "-")
        index = list(by_name).index(name)
        rows.append(
            [
                swatch(index) + f"against {escape(label(name))}",
                _net(by_name[name]),
                number(estimate),
                f"{number(low)} to {number(high)}",
                f'<span class="verdict {kind}">{word}</span>',
            ]
        )
    heads = ["Strategy", "Net result", "Difference in Sharpe ratio", f"{100 * backtest.confidence:.0f} % interval", ""]
    note = (
        '<p class="note">Sharpe ratios are annualised. A difference counts as established only where its interval, '
        "from a paired block bootstrap of the test returns, excludes zero.</p>"
    )
    return f'<div class="card">{lead}{table(heads, rows)}{note}</div>'


def _data(inputs: ReportInputs) -> str:
    products = table(
        ["Product", "Asset class", "Tick", f"One tick on one lot, {escape(inputs.currency)}"],
        [[escape(p.name), escape(p.asset_class), exact(p.tick_size), exact(p.tick_value)] for p in inputs.products],
        text_columns=2,
    )
    files = table(
        ["File", "SHA-256", "Rows"],
        [[escape(f.path), f"<code>{escape(f.sha256[:12])}</code>", f"{f.rows:,}"] for f in inputs.files],
        text_columns=2,
    )
    parts = [folded("Products", len(inputs.products), products), folded("Files", len(inputs.files), files)]
    parts.append("<h3>Cleaning</h3>" + _cleaning(inputs))
    if inputs.overview is None:
        parts.append(_NOT_RUN)
    else:
        parts.append(
            figure(
                "market",
                figures.market(inputs.overview, [p.name for p in inputs.products]),
                "Mid prices and spreads after cleaning. Agents learn on the first part, are chosen on the second, and "
                "the backtest runs on the last, which nothing before it has seen.",
            )
        )
    if inputs.features:
        rows = [[f"<code>{escape(name)}</code>", escape(what)] for name, what in inputs.features.items()]
        rows_table = table(["Feature", "What it is"], rows, text_columns=2)
        parts.append(folded("Features that agents see", len(rows), rows_table, open_up_to=0))
    return "".join(parts)


def _cleaning(inputs: ReportInputs) -> str:
    cleaning = inputs.cleaning
    if cleaning is None:
        return _NOT_RUN
    dropped = sum(sum(by_product.values()) for by_product in cleaning.dropped.values())
    repaired = sum(sum(by_product.values()) for by_product in cleaning.repaired.values())
    lead = (
        f"<p>{cleaning.rows_in:,} rows in = {cleaning.rows_kept:,} kept + {dropped:,} dropped; "
        f"{repaired:,} repaired or filled in.</p>"
    )
    names = [p.name for p in inputs.products]
    wide = len(names) <= 8
    rows = []
    for action, rules in (("dropped", cleaning.dropped), ("repaired", cleaning.repaired)):
        for rule, by_product in rules.items():
            total = sum(by_product.values())
            if wide:
                counts = [f"{by_product[name]:,}" if by_product.get(name) else "·" for name in names]
            else:
                worst = sorted((n for n in by_product if by_product[n]), key=lambda n: -by_product[n])[:3]
                counts = [", ".join(f"{escape(name)} {by_product[name]:,}" for name in worst)]
            rows.append([escape(label(rule)), action, f"<b>{total:,}</b>" if total else "0", *counts])
    heads = ["Rule", "Rows are", "All", *([escape(n) for n in names] if wide else ["Most in"])]
    return lead + table(heads, rows, text_columns=2)


def _generator(inputs: ReportInputs) -> str:
    generator = inputs.generator
    if generator is None:
        return _NOT_RUN
    rows = [_score(score) for score in generator.scores]
    won = sum(_better(score) == "synthetic" for score in generator.scores)
    lead = (
        f"<p>The generative model is nearer to held-out real data than a block bootstrap of the training data on "
        f"{won} of {len(generator.scores)} scores. The bootstrap is the yardstick: it repeats real stretches, so it is "
        "hard to beat and invents nothing.</p>"
    )
    heads = ["Score", "", "Perfect", "Real against real", "Synthetic", "Block bootstrap", "Nearer to perfect"]
    rows_table = table(heads, rows, text_columns=2)
    plots = figure(
        "generated",
        figures.generated(generator),
        "Left, the tails of returns; middle, how long large moves are followed by large moves; right, the spread.",
    )
    return lead + rows_table + plots


def _better(score: GeneratorScore) -> str:
    synthetic, bootstrap = abs(score.synthetic - score.perfect), abs(score.bootstrap - score.perfect)
    return "neither" if synthetic == bootstrap else "synthetic" if synthetic < bootstrap else "block bootstrap"


def _score(score: GeneratorScore) -> list[str]:
    floor = "–" if score.floor is None else number(score.floor)
    values = [number(score.perfect), floor, number(score.synthetic), number(score.bootstrap)]
    return [escape(label(score.name)), f"<small>{escape(score.meaning)}</small>", *values, _better(score)]


def _learning(inputs: ReportInputs) -> str:
    parts = []
    if inputs.learning is None:
        parts.append(_NOT_RUN)
    else:
        if inputs.learning.products:
            plot = figures.learning(inputs.learning.products, inputs.learning.score)
            text = (
                f"Every product's agents while they learn: {inputs.learning.score}. They learn {inputs.learning.where}."
            )
            parts.append(figure("learning", plot, text))
        if inputs.learning.meta:
            plot = figures.learning(inputs.learning.meta, "reward per step")
            text = "The meta-controller, which divides capital among the product agents, on the real training part."
            parts.append(figure("meta", plot, text))
    if inputs.selection:
        rows = []
        for chosen in inputs.selection:
            low, estimate, high = chosen.interval
            word = "established" if findings.established(chosen.interval) else "not established"
            kind = "better" if word == "established" else "not-established"
            settings = ", ".join(
                f"{escape(name.replace('_', ' '))} {value:.3g}" for name, value in chosen.settings.items()
            )
            rows.append(
                [
                    escape(chosen.product),
                    escape(chosen.algorithm),
                    settings,
                    number(estimate),
                    f"{number(low)} to {number(high)}",
                    f'<span class="verdict {kind}">{word}</span>',
                ]
            )
        rows_table = table(
            ["Product", "Chosen", "With", "Margin in Sharpe ratio", "Interval", ""], rows, text_columns=3
        )
        counts = Counter(chosen.algorithm for chosen in inputs.selection)
        told = findings.listed([f"{escape(name)} for {n}" for name, n in counts.items()])
        sure = sum(findings.established(chosen.interval) for chosen in inputs.selection)
        rest = "; elsewhere its interval spans zero and the simpler algorithm is taken" * (sure < len(rows))
        chances = inputs.chances
        search = (
            f" after {chances.trials} trials each of {chances.trial_steps:,} env steps on generated sessions"
            if chances.trials > 1
            else ""
        )
        parts.append(
            f"<h3>Selection on validation data</h3><p>Both algorithms learned from {chances.env_steps:,} env steps per "
            f"agent and {chances.seeds} seeds{search}. Chosen: {told}. The margin is established for {sure} of "
            f"{len(rows)} products{rest}.</p>"
        )
        parts.append(folded("Choices", len(rows), rows_table))
    if inputs.joint:
        parts.append(f"<h3>Joint fine-tuning</h3><p>{escape(findings.joint_tuning(inputs.joint))}</p>")
    return "".join(parts)


def _backtest(inputs: ReportInputs) -> str:
    backtest = inputs.backtest
    if backtest is None:
        return _NOT_RUN
    runs = f" Each line is the mean of {backtest.replications} runs under random latency." * (backtest.replications > 1)
    plot = figure(
        "equity",
        backtest_figures.equity(backtest),
        f"Every strategy trades the same held-out books and pays all its costs.{runs}",
    )
    columns = [name for name in METRIC_COLUMNS if any(name in s.metrics for s in backtest.strategies)]
    heads = ["Strategy", *(f'<abbr title="{METRIC_COLUMNS[c][1]}">{METRIC_COLUMNS[c][0]}</abbr>' for c in columns)]
    rows = [
        [swatch(i) + escape(label(s.name)), *(_metric(s, name) for name in columns)]
        for i, s in enumerate(backtest.strategies)
    ]
    note = (
        f'<p class="note">Small print under a figure: its {100 * backtest.confidence:.0f} % bootstrap interval. '
        f"Annualised with {exact(round(backtest.periods_per_year))} periods a year. A ratio without risk is 0. "
        "“Under water” is in periods.</p>"
    )
    return plot + table(heads, rows, css="metrics") + note


def _metric(strategy: Strategy, name: str) -> str:
    write = METRIC_COLUMNS[name][2]
    if name not in strategy.metrics:
        return "–"
    text = write(strategy.metrics[name])
    if name in strategy.intervals:
        low, _, high = strategy.intervals[name]
        text += f"<small>{write(low)}<br>{write(high)}</small>" if low != high else ""
    return text


def _allocation(inputs: ReportInputs) -> str:
    held = inputs.allocation
    if held is None:
        return _NOT_RUN
    names = [p.name for p in inputs.products]
    n_steps = len(held.gross_exposure)
    acted = {name: int(sum(bool(x) for x in where)) for name, where in held.interventions.items()}
    told = (
        findings.listed([f"{escape(label(n))} in {k:,} of {n_steps:,} steps" for n, k in acted.items()])
        if acted
        else ""
    )
    rails = f" Guardrails stepped in: {told}." if told else ""
    return figure(
        "weights",
        backtest_figures.allocation(held, names),
        f"Share of equity given to each product, and gross exposure of all positions.{rails}",
    ) + figure("positions", backtest_figures.positions(held, names), _positions_caption(len(names)))


def _positions_caption(n_products: int) -> str:
    if n_products > backtest_figures.MOST_PANELS:
        return "Each product's position as a share of its largest: blue is long, red is short."
    return "Positions in lots."


def _costs(inputs: ReportInputs) -> str:
    parts = []
    if inputs.backtest is not None and any(s.costs for s in inputs.backtest.strategies):
        paid = {s.name: s.costs for s in inputs.backtest.strategies if s.costs}
        text = "What each strategy paid over the test. Net results above are after these."
        parts.append(figure("costs-strategy", backtest_figures.costs(paid, inputs.currency), text))
    if inputs.allocation is not None and inputs.allocation.costs:
        most = f", the {backtest_figures.MOST_BARS} products that paid most" * (
            len(inputs.allocation.costs) > backtest_figures.MOST_BARS
        )
        text = f"Where the strategy under test paid it{most}."
        parts.append(figure("costs-product", backtest_figures.costs(inputs.allocation.costs, inputs.currency), text))
    return "".join(parts) or _NOT_RUN


def _limits(inputs: ReportInputs) -> str:
    return "<ul>" + "".join(f"<li>{point}</li>" for point in findings.not_established(inputs)) + "</ul>"


def _reproduce(inputs: ReportInputs) -> str:
    versions = ", ".join(f"{escape(name)} {escape(version)}" for name, version in inputs.versions.items())
    return f'<pre>{escape(inputs.command)}</pre><p class="note">Made with {versions}.</p>'


def _net(strategy: Strategy) -> str:
    return percent(strategy.metrics["total_return"], signed=True)
