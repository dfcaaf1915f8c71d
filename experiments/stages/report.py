"""Stage `report`: summary.json and report.html, from what the other stages left and nothing else."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

import marljax
from marljax.evaluation import report_inputs as ri
from marljax.evaluation.backtest import STRATEGIES
from marljax.evaluation.report import render
from marljax.features.registry import MEANINGS
from marljax.generative.quality import SCORES
from marljax.portfolio.market_state import cut_blocks
from marljax.runtime.artefacts import write_atomic, write_json
from marljax.runtime.devices import describe_device
from marljax.runtime.stages import Stage
from stages.evaluation import UNDER_TEST
from stages.market import Market
from stages.training import CurriculumConfig

COST_ITEMS = {"slippage": "spread and depth", "latency": "latency", "impact": "impact", "fees": "fees"}
"""Cost items of the accounts, and what the report calls them."""


def report_stage(
    folder: Path, config: Any, market: Market, done: dict[str, Stage[Any]], blocks_per_year: float, command: str
) -> None:
    """Write `summary.json` and `report.html` into the run's folder."""
    write_json(folder / "summary.json", summary(config, market, done))
    page = render(inputs(config, market, done, blocks_per_year, command))
    write_atomic(folder / "report.html", page.encode())


def summary(config: Any, market: Market, done: dict[str, Stage[Any]]) -> dict[str, Any]:
    """The run's numbers; equal for equal seeds but for the seconds."""
    backtest = done["backtest"].value.metadata
    cleaning = done["data"].value.report
    return {
        "preset": config.preset,
        "seed": config.seed,
        "source": config.data.source,
        "simulated": market.data.origin != "recorded",
        "origin": market.data.origin,
        "stages": {name: stage.summary for name, stage in done.items()},
        "cleaning": cleaning["rules"],
        "rows": {"in": cleaning["rows_in"], "kept": cleaning["rows_kept"], "filled": cleaning["rows_filled"]},
        "products": {p.name: {"asset_class": p.asset_class, "tick_size": p.tick_size} for p in market.data.products},
        "split": {name: _range(getattr(market.split, name)) for name in ("train", "validation", "test")},
        "selection": {
            name: {k: row[k] for k in ("algorithm", "margin", "interval", "verdict", "seed")}
            for name, row in done["agents"].value.metadata["selection"].items()
        },
        "trained_on": done["agents"].value.metadata["trained_on"],
        "joint": _joint(done),
        "backtest": backtest["metrics"],
        "intervals": backtest["intervals"],
        "costs": backtest["costs"],
        "differences": {
            name: {"sharpe": row["interval"], "verdict": row["verdict"]}
            for name, row in backtest["differences"].items()
        },
        "deflated_sharpe": {"probability": backtest["deflated_sharpe"], "trials": backtest["n_trials"]},
        "generator": done["generator"].value.metadata["quality"],
    }


def inputs(
    config: Any, market: Market, done: dict[str, Stage[Any]], blocks_per_year: float, command: str
) -> ri.ReportInputs:
    """What the page shows."""
    data = market.data
    device = describe_device()
    return ri.ReportInputs(
        title="Out-of-sample report",
        preset=config.preset,
        seed=config.seed,
        source=config.data.source if config.data.source != "sample" else "embedded sample",
        origin=data.origin,
        products=data.products,
        files=done["data"].value.files,
        command=command,
        versions={
            "marljax": marljax.__version__,
            "jax": jax.__version__,
            "numpy": np.__version__,
            "device": f"{device['kind']} ({device['cores']} cores)",
        },
        features={name: MEANINGS[name] for name in market.feature_names},
        cleaning=_cleaning(done["data"].value.report),
        overview=_overview(market),
        generator=_generator(done["generator"]),
        learning=_learning(done, [p.name for p in data.products], config.synthetic.fraction, config.agents.curriculum),
        selection=tuple(
            ri.Selection(
                name,
                row["algorithm"],
                [row["interval"][0], row["margin"], row["interval"][1]],
                _settings(done, name, row),
            )
            for name, row in done["agents"].value.metadata["selection"].items()
        ),
        chances=ri.Chances(
            config.agents.env_steps, config.agents.seeds, config.agents.search.trials, config.agents.search.env_steps
        ),
        joint=_joint_tuning(config, done),
        backtest=_backtest(config, market, done, blocks_per_year),
        allocation=_allocation(config, market, done),
    )


def _range(rows: slice) -> list[int]:
    return [int(rows.start), int(rows.stop)]


def _cleaning(report: dict[str, Any]) -> ri.Cleaning:
    products = report["products"]

    def table(kind: str) -> dict[str, dict[str, int]]:
        rules = {rule for row in products.values() for rule in row[kind]}
        return {
            rule: {name: row[kind].get(rule, 0) for name, row in products.items()}
            for rule in report["rules"]
            if rule in rules
        }

    repaired = table("touched") | table("filled")
    return ri.Cleaning(report["rows_in"], report["rows_kept"], dropped=table("dropped"), repaired=repaired)


def _overview(market: Market) -> ri.Overview:
    data = market.data
    ticks = np.array([p.tick_size for p in data.products])
    return ri.Overview(
        seconds=np.asarray(data.seconds),
        session=np.asarray(data.session),
        mid=0.5 * np.asarray(data.double_mid) * ticks,
        spread=np.asarray(data.ask_price[..., 0] - data.bid_price[..., 0]),
        parts={name: tuple(_range(getattr(market.split, name))) for name in ("train", "validation", "test")},
    )


def _generator(stage: Stage[Any]) -> ri.Generator:
    arrays, quality = stage.value.arrays, stage.value.metadata["quality"]

    def series(what: str) -> dict[str, np.ndarray]:
        return {
            source: arrays[f"{what}.{source}"]
            for source in ("real", "synthetic", "bootstrap")
            if f"{what}.{source}" in arrays
        }

    return ri.Generator(
        scores=tuple(
            ri.GeneratorScore(
                name,
                row["synthetic"],
                row["bootstrap"],
                perfect=_perfect(name, row),
                floor=row.get("real_vs_real"),
                meaning=SCORES[name].meaning,
            )
            for name, row in quality.items()
            if {"synthetic", "bootstrap"} <= row.keys() and np.isfinite(_perfect(name, row))
        ),
        returns=series("returns"),
        autocorrelation=series("autocorrelation"),
        spread=series("spread"),
    )


def _perfect(name: str, row: dict[str, float]) -> float:
    """What a perfect generator scores: for some scores what real training data do, NaN where they do not define it."""
    perfect = SCORES[name].perfect
    return row.get("real_vs_real", float("nan")) if perfect is None else perfect


def _settings(done: dict[str, Stage[Any]], product: str, chosen: dict[str, Any]) -> dict[str, float]:
    """The hyperparameters that the search found for a product's algorithm; none where there was no search."""
    wanted = {"product": product, "algorithm": chosen["algorithm"], "taken": True}
    tried = done["agents"].value.metadata["search"]
    return next((row["hyperparameters"] for row in tried if row.items() >= wanted.items()), {})


def _learning(
    done: dict[str, Stage[Any]], products: list[str], synthetic: float, course: CurriculumConfig
) -> ri.Learning:
    curves = done["agents"].value.metadata["curves"]
    meta = done["meta"].value.metadata["curves"]
    judged = all(len(curve["judged_steps"]) > 1 for curve in curves.values())
    sessions = done["agents"].value.metadata["trained_on"]["sessions_drawn"]
    drawn = ", ".join(f"{n:,} of them for {algorithm.upper()}" for algorithm, n in sessions.items())
    steps, value = ("judged_steps", "validation_return") if judged else ("env_steps", "reward")
    return ri.Learning(
        products=tuple(
            ri.Curve(product, algorithm, np.array(curve[steps]), np.array(curve[value])[..., p].mean(axis=1))
            for p, product in enumerate(products)
            for algorithm, curve in curves.items()
        ),
        score="return of a validation episode" if judged else "reward per step",
        where=(
            f"first in calm generated sessions ({course.calm:.0%} of the time), then in wild ones at stressed costs "
            f"({course.stress:.0%}), then on the real training part, {synthetic:.0%} of the episodes there synthetic; "
            f"generated sessions were drawn while agents learned ({drawn})"
        ),
        meta=(ri.Curve("portfolio", "ppo", np.array(meta["env_steps"]), np.array(meta["reward"]).mean(axis=1)),)
        if meta["reward"]
        else (),
    )


def _joint(done: dict[str, Stage[Any]]) -> dict[str, Any] | None:
    """What was decided of all agents tuned together; None where they were not."""
    if "joint" not in done:
        return None
    found = done["joint"].value.metadata
    return {name: found[name] for name in ("difference", "interval", "verdict", "adopted", "seed")}


def _joint_tuning(config: Any, done: dict[str, Stage[Any]]) -> ri.JointTuning | None:
    found = _joint(done)
    if found is None:
        return None
    low, high = found["interval"]
    return ri.JointTuning([low, found["difference"], high], config.joint.confidence, found["adopted"])


def _backtest(config: Any, market: Market, done: dict[str, Stage[Any]], blocks_per_year: float) -> ri.Backtest:
    arrays, found = done["backtest"].value.arrays, done["backtest"].value.metadata
    names = list(STRATEGIES)
    seconds, session = _block_ends(config, market)
    capital = float(done["backtest"].value.metadata["capital"])

    def strategy(name: str) -> ri.Strategy:
        equity = arrays["equity"][names.index(name)].mean(axis=0)
        totals = {shown: sum(row[item] for row in found["costs"][name].values()) for item, shown in COST_ITEMS.items()}
        return ri.Strategy(
            name=name.replace("_", " "),
            equity=np.concatenate([[capital], equity]),
            metrics=found["metrics"][name],
            intervals=found["intervals"][name],
            costs=totals,
        )

    return ri.Backtest(
        strategies=tuple(strategy(name) for name in names),
        seconds=seconds,
        session=session,
        periods_per_year=blocks_per_year,
        differences={
            name.replace("_", " "): {"sharpe": row["interval"], "verdict": row["verdict"]}
            for name, row in found["differences"].items()
        },
        confidence=config.backtest.confidence,
        replications=config.backtest.replications,
        deflated_sharpe=found["deflated_sharpe"],
        n_trials=found["n_trials"],
    )


def _allocation(config: Any, market: Market, done: dict[str, Stage[Any]]) -> ri.Allocation:
    arrays, found = done["backtest"].value.arrays, done["backtest"].value.metadata
    s = list(STRATEGIES).index(UNDER_TEST)
    seconds, session = _block_ends(config, market)
    weights = arrays["weights"][s]
    held = np.abs(arrays["position"][s]) * arrays["lot_value"]
    equity = arrays["equity"][s][0]
    names = [p.name for p in market.data.products]
    return ri.Allocation(
        seconds=seconds[1:],
        session=session[1:],
        weights=weights,
        gross_exposure=held.sum(axis=1) / np.maximum(equity, 1e-9),
        positions=arrays["position"][s],
        interventions={limit: arrays[f"intervention.{limit}"][s] for limit in ("leverage", "concentration")},
        costs={
            name: {shown: found["costs"][UNDER_TEST][name][item] for item, shown in COST_ITEMS.items()}
            for name in names
        },
    )


def _block_ends(config: Any, market: Market) -> tuple[np.ndarray, np.ndarray]:
    """Seconds and session of the test's start and of every block's last row, [N + 1] each."""
    rows = market.part("test").data
    blocks = cut_blocks(np.asarray(rows.session), config.allocation.rows_per_block)
    ends = np.asarray(blocks.start + blocks.length) - 1
    ends = np.concatenate([[0], ends])
    return np.asarray(rows.seconds)[ends], np.asarray(rows.session)[ends]
