"""Stage `backtest`: every strategy over the held-out rows, metrics with intervals, differences with verdicts."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from marljax.data.schema import InputError
from marljax.envs.product_agents import Holdings
from marljax.evaluation.backtest import STRATEGIES, Record, backtest, costs_by_item, financing_by_item
from marljax.evaluation.metrics import performance
from marljax.evaluation.statistics import deflated_sharpe_ratio, difference, metric_intervals
from marljax.runtime.artefacts import named_leaves
from marljax.runtime.stages import Artefact, Stage, StageCache
from stages.meta import MetaConfig, Portfolio

UNDER_TEST = "meta_controller"


@dataclasses.dataclass(frozen=True)
class BacktestConfig:
    """How the held-out test is run and judged."""

    replications: int = 8
    """Runs under different random latencies, over which metrics are averaged [count]."""
    confidence: float = 0.95
    """Coverage of every interval [0 to 1]."""
    resamples: int = 2000
    """Bootstrap resamples [count]."""
    trading_days: float = 252.0
    """Sessions in a year, for annualising [count]."""

    def __post_init__(self) -> None:
        if self.replications < 1 or self.resamples < 100 or not 0.5 <= self.confidence < 1:
            raise InputError("backtest needs replications >= 1, resamples >= 100 and confidence within 0.5 to 1")
        if not self.trading_days > 0:
            raise InputError("backtest.trading_days must be positive")


def latencies(config: BacktestConfig, seed: int) -> jax.Array:
    """A key for every replication; equal for all that are compared."""
    return jax.random.split(jax.random.fold_in(jax.random.key(seed), 3), config.replications)


def measure(
    returns: jax.Array, turnover: jax.Array, config: BacktestConfig, blocks_per_year: float, seed: int
) -> dict[str, Any]:
    """Metrics of float32[R, N] each, means over R replications, and their intervals."""
    metrics = jax.vmap(performance, in_axes=(0, None, 0))(returns, blocks_per_year, turnover)
    return {
        "metrics": {name: float(jnp.mean(values)) for name, values in metrics.items()},
        "intervals": metric_intervals(
            _resampling(seed),
            returns,
            blocks_per_year,
            confidence=config.confidence,
            n_resamples=config.resamples,
        ),
    }


def compare(
    returns: jax.Array, others: jax.Array, config: BacktestConfig, blocks_per_year: float, seed: int
) -> dict[str, Any]:
    """The paired difference in Sharpe ratio of returns float32[R, N], with its interval and verdict."""
    return difference(
        _resampling(seed),
        returns,
        others,
        blocks_per_year,
        confidence=config.confidence,
        n_resamples=config.resamples,
    )


def _resampling(seed: int) -> jax.Array:
    return jax.random.fold_in(jax.random.key(seed), 4)


def backtest_stage(
    cache: StageCache,
    upstream: dict[str, str],
    portfolio: Portfolio,
    meta: MetaConfig,
    meta_params: Any,
    config: BacktestConfig,
    trials: list[dict[str, Any]],
    *,
    blocks_per_year: float,
    seed: int,
) -> Stage[Artefact]:
    """Returns, equity, allocation and costs of every strategy in arrays; metrics and verdicts in metadata."""

    def compute(_: Any) -> Artefact:
        params = portfolio.params("test")
        network = meta.network(portfolio.market.data.n_products)
        keys = latencies(config, seed)
        strategies = jax.tree.map(lambda *x: jnp.stack(x), *STRATEGIES.values())
        replicated = jax.vmap(backtest, in_axes=(None, None, 0, None, None, None))
        run = jax.vmap(replicated, in_axes=(None, None, None, None, None, 0))
        records, holdings = run(portfolio.env, network, keys, params, meta_params, strategies)
        return _summarise(records, holdings, portfolio, config, trials, blocks_per_year, seed)

    inputs = {**upstream, "backtest": config, "blocks_per_year": blocks_per_year}
    return cache.run("backtest", inputs, compute)


def _summarise(
    records: Record,
    holdings: Holdings,
    portfolio: Portfolio,
    config: BacktestConfig,
    trials: list[dict[str, Any]],
    blocks_per_year: float,
    seed: int,
) -> Artefact:
    """`records` and `holdings` have leaves [strategy, replication, ...]."""
    returns = {name: records.returns[s] for s, name in enumerate(STRATEGIES)}
    tick_value = portfolio.trading.costs.tick_value
    costs, financing = costs_by_item(holdings, tick_value), financing_by_item(holdings)
    metadata: dict[str, Any] = {
        "capital": portfolio.trading.capital,
        "metrics": {},
        "intervals": {},
        "costs": {},
        "financing": {},
        "differences": {},
    }
    for s, name in enumerate(STRATEGIES):
        measured = measure(returns[name], records.turnover[s], config, blocks_per_year, seed)
        metadata["metrics"][name], metadata["intervals"][name] = measured["metrics"], measured["intervals"]
        mean_costs = {item: np.asarray(amount[s].mean(axis=0), np.float64) for item, amount in costs.items()}
        metadata["costs"][name] = {
            product.name: {item: float(amount[p]) for item, amount in mean_costs.items()}
            for p, product in enumerate(portfolio.market.data.products)
        }
        metadata["financing"][name] = {item: float(amount[s].mean()) for item, amount in financing.items()}
    for name in STRATEGIES:
        if name != UNDER_TEST:
            metadata["differences"][name] = compare(returns[UNDER_TEST], returns[name], config, blocks_per_year, seed)
    sharpes = np.array([trial["validation_sharpe"] for trial in trials]) / np.sqrt(blocks_per_year)
    metadata["n_trials"] = len(trials)
    metadata["deflated_sharpe"] = float(
        jnp.mean(
            jax.vmap(deflated_sharpe_ratio, in_axes=(0, None, None))(
                returns[UNDER_TEST], len(trials), float(sharpes.var())
            )
        )
    )
    decision = records.decision
    done = decision.intervention
    arrays = {
        "returns": records.returns,
        "equity": records.equity,
        "weights": decision.granted.mean(axis=1),
        "asked": decision.asked.mean(axis=1),
        "intervention.leverage": done.leverage.any(axis=1),
        "intervention.concentration": done.long_cap.any(axis=(1, -1)),
        "intervention.turnover": done.turnover.any(axis=1),
        "intervention.volatility": (done.volatility < 1).any(axis=1),
        "intervention.brake": done.brake.any(axis=1),
        "turnover": records.turnover,
        "position": records.position[:, 0],
        "lot_value": records.lot_value[0, 0],
        "net": records.net.mean(axis=1),
    }
    told = jax.tree.map(lambda x: x[list(STRATEGIES).index(UNDER_TEST), 0], decision)
    arrays |= {f"decision{name}": leaf for name, leaf in named_leaves(told).items()}
    arrays |= {f"accounts{name}": leaf for name, leaf in named_leaves(holdings.accounts).items()}
    return Artefact({name: np.asarray(x) for name, x in arrays.items()}, metadata)
