import importlib.util
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marljax.evaluation import metrics

_spec = importlib.util.spec_from_file_location(
    "reference_metrics", Path(__file__).parents[1] / "reference" / "metrics.py"
)
reference = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(reference)

performance = jax.jit(metrics.performance)


def test_four_quarters_worked_by_hand():
    # 100 -> 110 -> 99 -> 99 -> 118.8
    values = performance(jnp.array([0.1, -0.1, 0.0, 0.2]), 4.0, jnp.array([1.0, 0.0, 0.5, 2.0]))
    deviation = np.sqrt((0.05**2 + 0.15**2 + 0.05**2 + 0.15**2) / 3)
    expected = {
        "total_return": 0.188,
        "cagr": 0.188,
        "volatility": 2 * deviation,
        "sharpe": 2 * 0.05 / deviation,
        "sortino": 2 * 0.05 / 0.05,
        "calmar": 1.88,
        "max_drawdown": 0.1,
        "max_drawdown_duration": 2.0,
        "hit_rate": 2 / 3,
        "turnover": 3.5,
    }
    assert values.keys() == expected.keys()
    for name, value in expected.items():
        assert float(values[name]) == pytest.approx(value, rel=1e-5), name


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(-500, 500), min_size=30, max_size=30).filter(lambda r: len(set(r)) > 1),
    st.sampled_from([1.0, 12.0, 30.0]),
)
def test_metrics_equal_the_reference(thousandths, periods_per_year):
    returns = np.float32(np.array(thousandths) / 1000)
    values = performance(jnp.asarray(returns), periods_per_year)
    for name, expected in reference.performance(returns, periods_per_year).items():
        assert float(values[name]) == pytest.approx(expected, rel=1e-3, abs=2e-5), name


def test_a_second_by_second_day_keeps_its_digits_in_float32():
    rng = np.random.default_rng(0)
    returns = np.float32(rng.standard_t(4, 23_400) * 1e-6 + 2e-8)
    values = performance(jnp.asarray(returns), 252 * 23_400.0)
    wide = returns.astype(np.float64)
    level = np.concatenate([[0], np.cumsum(np.log1p(wide))])
    assert float(values["total_return"]) == pytest.approx(np.expm1(level[-1]), rel=1e-4)
    assert float(values["sharpe"]) == pytest.approx(wide.mean() / wide.std(ddof=1) * np.sqrt(252 * 23_400), rel=1e-4)
    assert float(values["max_drawdown"]) == pytest.approx(
        -np.expm1((level - np.maximum.accumulate(level)).min()), rel=1e-3
    )


def test_no_trade_is_zero_in_every_metric():
    values = performance(jnp.zeros(50), 252.0, jnp.zeros(50))
    assert {name: float(value) for name, value in values.items()} == dict.fromkeys(values, 0.0)


@pytest.mark.parametrize("level", [1e-3, 1e-7, 0.1])
def test_equal_gains_have_no_risk_and_no_ratio(level):
    values = performance(jnp.full(997, level, jnp.float32), 252.0)
    assert float(values["volatility"]) == 0
    assert float(values["sharpe"]) == float(values["sortino"]) == float(values["calmar"]) == 0
    assert float(values["max_drawdown"]) == float(values["max_drawdown_duration"]) == 0
    assert float(values["hit_rate"]) == 1


def test_ruin_is_final_and_finite():
    values = performance(jnp.array([0.1, -1.0, 0.5, 0.5]), 252.0)
    assert float(values["total_return"]) == float(values["cagr"]) == -1
    assert float(values["max_drawdown"]) == 1
    assert all(np.isfinite(float(v)) for v in values.values())


@pytest.mark.parametrize("returns", [[0.0], [0.3], [-0.3], [5.0] * 60, [1e-38, -1e-38], [1e-20, 2e-20, -1e-20]])
@pytest.mark.parametrize("periods_per_year", [1.0, 6e6])
def test_no_finite_returns_make_a_metric_infinite(returns, periods_per_year):
    values = performance(jnp.array(returns, jnp.float32), periods_per_year)
    assert {name: bool(jnp.isfinite(v)) for name, v in values.items()} == dict.fromkeys(values, True)


def test_a_sharpe_ratio_does_not_depend_on_the_scale_of_returns():
    returns = jnp.asarray(np.random.default_rng(1).standard_normal(500) + 0.1, jnp.float32)
    expected = float(metrics.sharpe_ratio(returns, 252.0))
    for scale in (1e-12, 1e-25):
        assert float(metrics.sharpe_ratio(returns * scale, 252.0)) == pytest.approx(expected, rel=1e-4)


def test_equity_falls_again_to_its_start_and_the_drawdown_counts_from_the_high():
    returns = metrics.returns_from_equity(jnp.array([100.0, 120.0, 90.0, 100.0]))
    np.testing.assert_allclose(returns, [0.2, -0.25, 1 / 9], rtol=1e-6)
    np.testing.assert_allclose(metrics.drawdown(returns), [0, 0, 0.25, 1 / 6], atol=1e-6)


def test_returns_from_profit_keep_what_a_rounded_equity_loses():
    profit = jnp.full(1000, 1e-3, jnp.float32)
    from_profit = metrics.total_return(metrics.returns_from_profit(profit, 1e6))
    assert float(from_profit) == pytest.approx(1e-6, rel=1e-4)


def test_a_ruined_account_stays_ruined():
    returns = metrics.returns_from_profit(jnp.array([-50.0, -60.0, 500.0]), 100.0)
    np.testing.assert_allclose(returns, [-0.5, -1.0, 0.0])


def test_performance_maps_over_series_and_compiles_once():
    traced = jax.jit(jax.vmap(chex.assert_max_traces(metrics.performance, n=1), in_axes=(0, None)))
    series = jnp.asarray(np.random.default_rng(2).standard_normal((3, 40)) * 0.01, jnp.float32)
    for years in (252.0, 365.0):
        batched = traced(series, years)
        for row in range(3):
            chex.assert_trees_all_close(
                jax.tree.map(lambda v, row=row: v[row], batched), performance(series[row], years), rtol=1e-4
            )


@pytest.mark.parametrize(("gains", "still", "seed"), [(500, 20_000, 0), (3000, 5000, 2)])
def test_rounding_of_a_long_sum_is_no_drawdown(gains, still, seed):
    returns = np.concatenate([np.random.default_rng(seed).random(gains) * 1e-3, np.zeros(still)])
    assert float(metrics.max_drawdown(jnp.asarray(returns, jnp.float32))) == 0
    assert float(metrics.max_drawdown_duration(jnp.asarray(returns, jnp.float32))) == 0
