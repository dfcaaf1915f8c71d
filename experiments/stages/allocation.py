"""Stages `benchmarks` and `judgement`: who allocates best among product agents, on the held-out rows.

Benchmarks learn nothing and know the causal covariance, some of them what agents earned before as well. All meet the
same random latencies, so that differences are paired. A mode of coordination may have tuned its agents, so it is
compared twice: as a whole, with benchmarks over the agents as they were trained alone, and for its allocation alone,
with benchmarks over its own agents. What it did is kept decision by decision.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from marljax.envs.portfolio import PortfolioParams
from marljax.envs.product_agents import Holdings
from marljax.evaluation.backtest import (
    STRATEGIES,
    Record,
    allocated,
    backtest,
    backtest_weights,
    costs_by_item,
)
from marljax.evaluation.decision_log import decision_at, entry, tell
from marljax.portfolio.allocators import allocators, equal_weight
from marljax.portfolio.interventions import Intervention
from marljax.portfolio.risk_parity import risk_contributions
from marljax.runtime.stages import Artefact, Stage, StageCache
from stages.evaluation import BacktestConfig, compare, latencies, measure
from stages.expectations import expecting
from stages.joint import META
from stages.meta import Portfolio
from stages.run import Allocated

HELD = "equal_weight_held"
"""The products in equal parts, without agents."""


def benchmarks_stage(
    cache: StageCache,
    upstream: dict[str, str],
    portfolio: Portfolio,
    config: BacktestConfig,
    *,
    expectations: bool,
    blocks_per_year: float,
    seed: int,
) -> Stage[Artefact]:
    """Every allocator over the agents of `portfolio`, with `expectations` also those that need an expected return, and
    the products held in equal parts.

    Arrays `returns.<name>` float32[R, N] and `equity.<name>` float32[N + 1], the mean of R runs; figures of each in the
    metadata. An allocator with a volatility target aims at that of an equally weighted portfolio in the training part.
    """

    def compute(_: Any) -> Artefact:
        params = portfolio.params("test")
        arrays, found = {}, {}
        for name, run in _by_rule(portfolio, params, config, expectations, seed).items():
            arrays |= _series(name, run[0], params)
            found[name] = _figures(*run, params, config, blocks_per_year, seed)
        return Artefact(arrays, {"figures": found})

    inputs = {
        **upstream,
        "allocation": portfolio.allocation,
        "backtest": config,
        "expectations": expectations,
        "blocks_per_year": blocks_per_year,
    }
    return cache.run("benchmarks", inputs, compute)


def judgement_stage(
    cache: StageCache,
    mode: Allocated,
    benchmarks: Stage[Artefact],
    config: BacktestConfig,
    *,
    blocks_per_year: float,
    seed: int,
) -> Stage[Artefact]:
    """A mode of coordination, against every benchmark.

    Arrays: `returns` and `equity` as of `benchmarks_stage`, and of the first run by rebalance: `asked`, `granted` and
    `risk` float32[N, A], the latter each agent's share of the variance of what was granted, `gross` float32[N] of the
    positions held at its end, and `acted.<limit>` bool[N]. Metadata: figures, differences in Sharpe ratio of the whole
    and of the allocation alone, and every decision as values and in words.
    """
    portfolio = mode.portfolio

    def compute(_: Any) -> Artefact:
        params, env = portfolio.params("test"), portfolio.env
        runs = jax.vmap(backtest, in_axes=(None, None, 0, None, None, None))
        strategy = STRATEGIES["meta_controller"]
        records, holdings = runs(env, mode.network, latencies(config, seed), params, mode.agents[META], strategy)
        first = jax.tree.map(lambda x: np.asarray(x[0]), records)
        product = np.asarray(params.world.product)
        covariance = params.market.covariance[:, product][:, :, product]
        held = np.abs(first.position) * first.lot_value
        arrays = _series("", records, params) | {
            "asked": first.decision.asked,
            "granted": first.decision.granted,
            "risk": np.asarray(jax.vmap(risk_contributions)(jnp.asarray(first.decision.granted), covariance)),
            "gross": held.sum(axis=1) / np.maximum(first.equity, 1e-9),
        }
        arrays |= {f"acted.{limit}": flags for limit, flags in acted(first.decision.intervention).items()}
        figures = _figures(records, holdings, params, config, blocks_per_year, seed)
        names = [p.name for p in portfolio.market.data.products]
        classes = sorted({p.asset_class for p in portfolio.market.data.products})
        decisions = [decision_at(first.decision, i) for i in range(len(first.equity))]
        limits = params.rails.limits
        whole = {name: benchmarks.value.arrays[f"returns.{name}"] for name in benchmarks.value.metadata["figures"]}
        alone = whole
        if mode.tuned:
            expectations = "mean_variance" in whole
            by_rule = _by_rule(portfolio, params, config, expectations, seed)
            alone = {name: run[0].returns for name, run in by_rule.items()}
        return Artefact(
            arrays,
            {
                "figures": figures,
                "differences": _differences(records.returns, whole, config, blocks_per_year, seed),
                "differences_alone": _differences(records.returns, alone, config, blocks_per_year, seed),
                "decisions": [entry(one, limits, names, classes) for one in decisions],
                "told": [tell(one, limits, names, classes) for one in decisions],
            },
        )

    inputs = {
        **mode.upstream,
        "benchmarks": benchmarks.key,
        "backtest": config,
        "blocks_per_year": blocks_per_year,
    }
    return cache.run("judgement", inputs, compute)


def acted(done: Intervention) -> dict[str, np.ndarray]:
    """bool[N] by limit, whether it changed what was asked for, from leaves [N, ...]."""
    flags: dict[str, Any] = {
        "not a number": done.invalid,
        "max weight": done.long_cap,
        "max short": done.short_cap,
        "risk budget": done.risk_budget,
        "class cap": done.class_cap,
        "long leverage": done.long_leverage,
        "short leverage": done.short_leverage,
        "leverage": done.leverage,
        "cash floor": done.cash,
        "turnover": done.turnover,
        "volatility target": np.asarray(done.volatility) < 1,
        "brake": done.brake,
    }
    return {name: np.asarray(x).reshape(len(done.distance), -1).any(axis=1) for name, x in flags.items()}


def _by_rule(
    portfolio: Portfolio, params: PortfolioParams, config: BacktestConfig, expectations: bool, seed: int
) -> dict[str, tuple[Record, Holdings]]:
    """What every benchmark does with the agents of a portfolio, leaves [R, ...]."""
    env = dataclasses.replace(portfolio.env, coordination="risk_parity")
    rules = allocators(params.reward_scale) | {HELD: equal_weight}
    asked = {name: allocated(env, params, rule) for name, rule in rules.items()}
    if expectations:
        asked |= expecting(portfolio, params, latencies(config, seed)[0])
    weights = jnp.stack(list(asked.values()))
    passive = jnp.array([name == HELD for name in asked])
    runs = jax.vmap(backtest_weights, in_axes=(None, 0, None, None, None))
    every = jax.vmap(runs, in_axes=(None, None, None, 0, 0))(env, latencies(config, seed), params, weights, passive)
    return {name: jax.tree.map(lambda x, i=i: x[i], every) for i, name in enumerate(asked)}


def _series(name: str, records: Record, params: PortfolioParams) -> dict[str, np.ndarray]:
    suffix = f".{name}" if name else ""
    equity = np.asarray(records.equity.mean(axis=0))
    opening = np.asarray(params.capital, np.float32)[None]
    return {f"returns{suffix}": np.asarray(records.returns), f"equity{suffix}": np.concatenate([opening, equity])}


def _figures(
    records: Record,
    holdings: Holdings,
    params: PortfolioParams,
    config: BacktestConfig,
    blocks_per_year: float,
    seed: int,
) -> dict[str, Any]:
    """Means over runs, leaves [R, ...]: metrics with intervals, and what was paid by item."""
    items = costs_by_item(holdings, params.world.costs.tick_value)
    del items["gross"], items["net"]
    return measure(records.returns, records.turnover, config, blocks_per_year, seed) | {
        "costs": {item: float(amount.mean(axis=0).sum()) for item, amount in items.items()}
    }


def _differences(
    returns: jax.Array, benchmarks: Mapping[str, Any], config: BacktestConfig, blocks_per_year: float, seed: int
) -> dict[str, Any]:
    return {
        name: compare(returns, jnp.asarray(other), config, blocks_per_year, seed) for name, other in benchmarks.items()
    }
