"""What the embedded sample gives, number by number: a change of any of these is meant, or it is a fault.

`python tests/golden/test_golden.py` writes `sample.json` anew; look at its difference before it is committed.
"""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from marljax.agents.networks import MLP
from marljax.agents.policy import TanhGaussianPolicy
from marljax.data.clean import clean
from marljax.data.readers import read
from marljax.data.splits import split
from marljax.envs.portfolio import PortfolioEnv
from marljax.envs.tapes import CostConfig, Rows, cost_models, default_capital, position_limits
from marljax.envs.worlds import AllocationConfig, portfolio_params
from marljax.evaluation.backtest import BASELINES, STRATEGIES, backtest, costs_by_item
from marljax.features import FeatureConfig, fit, transform, warm_up_steps
from marljax.portfolio.meta_controller import observation_size

GOLDEN = Path(__file__).with_name("sample.json")
POLICY = TanhGaussianPolicy(1, MLP((8, 8)))


def measure() -> dict[str, Any]:
    """Cleaning, features, costs and passive strategies on the embedded sample; nothing that is trained."""
    data, report = clean(read("prosperity", [Path(__file__).parents[2] / "data" / "sample"]))
    parts = split(data)
    train = data.rows(parts.train.start, parts.train.stop)
    config = FeatureConfig(volatility_window=30, long_volatility_window=120, z_score_window=60, liquidity_window=60)
    features = transform(fit(train, config), data)
    costs, capital = cost_models(train, CostConfig()), default_capital(train)
    rows = Rows.of(data, features, warm_up_steps(config), closing_rows=5).part(parts.test)
    policies = jax.vmap(lambda key: POLICY.init(key, features.shape[-1] + 1))(jax.random.split(jax.random.key(0), 5))
    params = portfolio_params(
        data,
        parts.test,
        rows,
        train,
        policies=policies,
        costs=costs,
        no_trade_band=0.4,
        capital=capital,
        config=AllocationConfig(),
    )
    network = TanhGaussianPolicy(6, MLP((8, 8)))
    meta = network.init(jax.random.key(1), observation_size(5))
    env = PortfolioEnv(POLICY, rows_per_block=20)
    strategies = {}
    for name in BASELINES:
        record, accounts = backtest(env, network, jax.random.key(2), params, meta, STRATEGIES[name])
        items = costs_by_item(accounts, costs.tick_value)
        strategies[name] = {
            "net": float(record.equity[-1]) - capital,
            "turnover": float(record.turnover.sum()),
            **{item: float(amount.sum()) for item, amount in items.items() if item != "net"},
        }
    tested = np.asarray(features[parts.test], np.float64)
    return {
        "cleaning": report.counts(),
        "steps": data.n_steps,
        "split": [[p.start, p.stop] for p in (parts.train, parts.validation, parts.test)],
        "capital": capital,
        "limits": position_limits(train, capital).tolist(),
        "volatility": np.asarray(costs.volatility, np.float64).tolist(),
        "features": {name: tested[..., f].mean(axis=0).tolist() for f, name in enumerate(config.names)},
        "strategies": strategies,
    }


@pytest.fixture(scope="module")
def measured() -> dict[str, Any]:
    return measure()


@pytest.mark.parametrize("part", ["cleaning", "steps", "split", "limits"])
def test_counts_are_the_golden_ones(measured, part):
    assert measured[part] == json.loads(GOLDEN.read_text())[part]


@pytest.mark.parametrize("part", ["capital", "volatility", "features"])
def test_estimates_are_the_golden_ones(measured, part):
    golden = json.loads(GOLDEN.read_text())[part]
    assert jax.tree.structure(measured[part]) == jax.tree.structure(golden)
    np.testing.assert_allclose(jax.tree.leaves(measured[part]), jax.tree.leaves(golden), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("strategy", BASELINES)
def test_baselines_earn_and_pay_the_golden_amounts(measured, strategy):
    golden = json.loads(GOLDEN.read_text())["strategies"][strategy]
    for item, amount in measured["strategies"][strategy].items():
        assert amount == pytest.approx(golden[item], rel=1e-4, abs=0.5), item


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(measure(), indent=1, sort_keys=True) + "\n")
