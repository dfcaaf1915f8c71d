"""The page of `train_meta.py`: who allocated best, what was held and why, rebalance by rebalance."""

from collections.abc import Mapping
from html import escape
from typing import Any

import jax
import numpy as np

import marljax
from marljax.evaluation import backtest_figures, findings
from marljax.evaluation import report_inputs as ri
from marljax.evaluation.findings import label, number, percent
from marljax.evaluation.page import document, figure, origin_banner, swatch, table
from marljax.portfolio.market_state import cut_blocks
from marljax.runtime.devices import describe_device
from marljax.runtime.stages import Artefact, Stage
from stages.market import Market
from stages.run import RunConfig

Judged = Mapping[str, Stage[Artefact]]

MOST_DECISIONS = 12
"""Rebalances that the page tells of: where the guardrails moved most, and then where the allocation did."""


def rebalance_times(config: RunConfig, market: Market) -> np.ndarray:
    """float64[N + 1, 2] seconds since the session's start and session, of the test's N rebalances and of its end."""
    rows = market.part("test").data
    starts = np.asarray(cut_blocks(np.asarray(rows.session), config.allocation.rows_per_block).start)
    at = np.append(starts, rows.n_steps - 1)
    return np.stack([np.asarray(rows.seconds, np.float64)[at], np.asarray(rows.session, np.float64)[at]], axis=1)


def summary(config: RunConfig, market: Market, judged: Judged, benchmarks: Stage[Artefact]) -> dict[str, Any]:
    """The run's figures; equal for equal seeds."""

    def told(found: Mapping[str, Any]) -> dict[str, Any]:
        kept = ("total_return", "max_drawdown", "turnover")
        return {
            "sharpe": found["intervals"]["sharpe"],
            **{name: found["metrics"][name] for name in kept},
            "costs": sum(found["costs"].values()),
        }

    return {
        "task": "train_meta",
        "preset": config.preset,
        "seed": config.seed,
        "origin": market.data.origin,
        "products": [p.name for p in market.data.products],
        "rebalances": len(rebalance_times(config, market)) - 1,
        "replications": config.backtest.replications,
        "modes": {
            mode: told(stage.value.metadata["figures"])
            | {
                told_of: {name: row["interval"] for name, row in stage.value.metadata[kind].items()}
                for told_of, kind in (("sharpe_over", "differences"), ("allocation_over", "differences_alone"))
            }
            for mode, stage in judged.items()
        },
        "benchmarks": {name: told(found) for name, found in benchmarks.value.metadata["figures"].items()},
    }


def page(
    config: RunConfig,
    market: Market,
    judged: Judged,
    benchmarks: Stage[Artefact],
    times: np.ndarray,
    blocks_per_year: float,
    command: str,
) -> str:
    """The report as one HTML page that asks nothing of the network."""
    names = [p.name for p in market.data.products]
    sections = {
        "result": ("Result", _result(config, judged, benchmarks)),
        "equity": ("Equity and drawdown", _equity(config, judged, benchmarks, times, blocks_per_year)),
    }
    for mode, stage in judged.items():
        sections[mode] = (f"Mode {escape(label(mode))}", _mode(mode, stage.value, times, names))
    device = describe_device()
    made = f"marljax {marljax.__version__}, jax {jax.__version__}, {device['kind']} ({device['cores']} cores)"
    sections["limits"] = ("What is not established", _limits(config, judged, len(times) - 1, market.data.origin))
    sections["reproduce"] = (
        "Reproduce",
        f'<pre>{escape(command)}</pre><p class="note">Made with {escape(made)}.</p>',
    )
    source = "embedded sample" if config.data.source == "sample" else config.data.source
    identity = (f"preset {config.preset}", f"seed {config.seed}", source, ", ".join(names))
    return document("Capital among product agents", identity, sections, origin_banner(market.data.origin))


def _result(config: RunConfig, judged: Judged, benchmarks: Stage[Artefact]) -> str:
    found = {_as_mode(mode): stage.value.metadata["figures"] for mode, stage in judged.items()}
    rows = []
    for i, (name, told) in enumerate((found | benchmarks.value.metadata["figures"]).items()):
        low, sharpe, high = told["intervals"]["sharpe"]
        metrics = told["metrics"]
        rows.append(
            [
                swatch(i) + (f"<b>{escape(name)}</b>" if name in found else escape(label(name))),
                percent(metrics["total_return"], signed=True),
                f"{number(sharpe)}<small>{number(low)} to {number(high)}</small>",
                percent(metrics["max_drawdown"]),
                f"{number(metrics['turnover'])} ×",
                number(sum(told["costs"].values())),
            ]
        )
    heads = ["Capital by", "Net result", "Sharpe ratio", "Max. drawdown", "Turnover", "Costs paid"]
    note = (
        f'<p class="note">Annualised Sharpe ratios with {100 * config.backtest.confidence:.0f} % intervals from a '
        f"stationary bootstrap, paired where two are compared; means of {config.backtest.replications} runs under "
        "random latency. Modes stand in bold, with their agents as joint tuning left them. What follows allocates by a "
        "rule among the agents as they were trained alone, but for “equal weight held”, which asks no agent.</p>"
    )
    lead = "".join(f"<li>{_verdict(mode, stage.value.metadata)}</li>" for mode, stage in judged.items())
    return (
        f'<div class="card"><ul>{lead}</ul>{table(heads, rows)}{note}</div>'
        + "<h3>Sharpe ratio of a mode less that of a benchmark</h3>"
        + _against("differences", judged)
        + "<h3>The same for the allocation alone: benchmarks over the mode's own agents</h3>"
        + _against("differences_alone", judged)
    )


def _against(kind: str, judged: Judged) -> str:
    found = {mode: stage.value.metadata[kind] for mode, stage in judged.items()}
    names = next(iter(found.values()))
    rows = [[escape(label(name)), *(_difference(one[name]["interval"]) for one in found.values())] for name in names]
    return table(["Benchmark", *(escape(label(mode)) for mode in judged)], rows)


def _as_mode(mode: str) -> str:
    """A mode's name beside benchmarks, one of which is risk parity, too."""
    return f"{label(mode)} (mode)"


def _verdict(mode: str, found: Mapping[str, Any]) -> str:
    """What a mode earned, and over how many benchmarks that is established, in one line."""

    def established(kind: str) -> str:
        words = [findings.verdict(row["interval"]) for row in found[kind].values()]
        better, worse = (sum(word.startswith(side) for word in words) for side in ("better", "worse"))
        return f"better than {better} and worse than {worse} of {len(words)}"

    result = percent(found["figures"]["metrics"]["total_return"], signed=True)
    return (
        f"<b>{escape(label(mode).capitalize())}</b>: {result} net; as a whole established to be "
        f"{established('differences')} benchmarks, for its allocation alone {established('differences_alone')}."
    )


def _difference(interval: ri.Interval) -> str:
    low, estimate, high = interval
    word = findings.verdict(interval)
    kind = word.split(",")[0].replace(" ", "-")
    return f'{number(estimate)}<small>{number(low)} to {number(high)}</small><span class="verdict {kind}">{word}</span>'


def _equity(
    config: RunConfig, judged: Judged, benchmarks: Stage[Artefact], times: np.ndarray, blocks_per_year: float
) -> str:
    curves = {_as_mode(mode): stage.value.arrays["equity"] for mode, stage in judged.items()}
    curves |= {name: benchmarks.value.arrays[f"equity.{name}"] for name in benchmarks.value.metadata["figures"]}
    run = ri.Backtest(
        strategies=tuple(ri.Strategy(name, equity, {}) for name, equity in curves.items()),
        seconds=times[:, 0],
        session=times[:, 1].astype(int),
        periods_per_year=blocks_per_year,
        differences={},
        confidence=config.backtest.confidence,
        replications=config.backtest.replications,
    )
    plot = backtest_figures.equity(run, n_tested=len(judged))
    return figure("equity", plot, "Net of all costs, on the same held-out books. Modes of coordination are bold.")


def _mode(mode: str, found: Artefact, times: np.ndarray, names: list[str]) -> str:
    arrays, session = found.arrays, times[:-1, 1].astype(int)
    rails = {name.removeprefix("acted."): flags for name, flags in arrays.items() if name.startswith("acted.")}
    stepped_in = {name: flags for name, flags in rails.items() if flags.any()}
    held = ri.Allocation(
        seconds=times[:-1, 0],
        session=session,
        weights=arrays["granted"],
        gross_exposure=arrays["gross"],
        positions=np.zeros_like(arrays["granted"]),
        interventions=stepped_in,
        risk=arrays["risk"],
    )
    n = len(session)
    counts = [f"{escape(name)} at {int(flags.sum()):,}" for name, flags in stepped_in.items()]
    acted = "No guardrail ever stepped in."
    if counts:
        acted = f"Guardrails stepped in, of {n:,} rebalances: {findings.listed(counts)}."
    caption = (
        "Capital granted to each agent; its share of the variance of what was granted, by the covariance known then; "
        f"gross exposure of the positions held at the end of each block. {acted}"
    )
    moved = np.array([decision["moved"] for decision in found.metadata["decisions"]])
    traded = np.abs(np.diff(arrays["granted"], axis=0, prepend=0.0)).sum(axis=1)
    most = np.lexsort((-traded, -moved))[:MOST_DECISIONS]
    decisions = "".join(_decision(found, i, times[i]) for i in sorted(int(i) for i in most))
    return (
        figure(f"held-{mode}", backtest_figures.allocation(held, names), caption)
        + f"<h3>Decisions</h3><p>{len(most)} of {n:,} rebalances: where the guardrails moved most, and then "
        f"where most capital moved; all are in <code>{escape(mode)}/decisions.jsonl</code>.</p>" + decisions
    )


def _decision(found: Artefact, index: int, time: np.ndarray) -> str:
    why = found.metadata["decisions"][index]["why"]
    seconds, session = time
    heading = f"Rebalance {index}, session {session:.0f} at {seconds:,.0f} s: {'; '.join(why) or 'granted as asked'}"
    return f"<details><summary>{escape(heading)}</summary><pre>{escape(found.metadata['told'][index])}</pre></details>"


def _limits(config: RunConfig, judged: Judged, n_rebalances: int, origin: str) -> str:
    points = []
    for mode, stage in judged.items():
        rows = stage.value.metadata["differences"].items()
        unclear = [escape(label(name)) for name, row in rows if not findings.established(row["interval"])]
        if unclear:
            points.append(f"That {escape(label(mode))} differs from {findings.listed(unclear)}: intervals span zero.")
    points.append(
        f"The test has {n_rebalances:,} rebalances of one stretch of time; what it shows of another is not established."
    )
    if origin != "recorded":
        points.append("The market is simulated: nothing here is evidence about a real one.")
    return "<ul>" + "".join(f"<li>{point}</li>" for point in points) + "</ul>"
