from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marljax.portfolio.risk_parity import equal_weight, inverse_volatility, risk_contributions, risk_parity
from tests.reference import portfolio as reference

DAILY = Path(__file__).parents[3] / "shared" / "data" / "daily"
_solve = jax.jit(risk_parity)


def _real_returns(name: str) -> np.ndarray:
    if not DAILY.exists():
        pytest.skip(f"real daily data is not at {DAILY}")
    file = {"stocks": "skfolio_sp500_dataset.csv.gz", "futures": "futures_return.csv.gz"}[name]
    table = pd.read_csv(DAILY / file, index_col=0)
    returns = table.pct_change(fill_method=None) if name == "stocks" else table
    return returns.dropna().to_numpy()


def _skfolio_weights(returns: np.ndarray, budget: np.ndarray | None = None) -> np.ndarray:
    optimization = pytest.importorskip("skfolio.optimization")
    names = [f"p{i}" for i in range(returns.shape[1])]
    options = None if budget is None else dict(zip(names, budget, strict=True))
    model = optimization.RiskBudgeting(risk_budget=options).fit(pd.DataFrame(returns, columns=names))
    return model.weights_


@pytest.mark.parametrize("name", ["stocks", "futures"])
@pytest.mark.parametrize("tilted", [False, True])
def test_equals_skfolio_on_real_covariances(name, tilted):
    returns = _real_returns(name)
    budget = np.linspace(1, 4, returns.shape[1]) if tilted else np.ones(returns.shape[1])
    weights = _solve(jnp.asarray(np.cov(returns.T), jnp.float32), jnp.asarray(budget, jnp.float32))
    expected = _skfolio_weights(returns, budget if tilted else None)
    assert returns.shape[1] == {"stocks": 20, "futures": 25}[name]
    np.testing.assert_allclose(weights, expected, atol=1e-4)


@given(
    seed=st.integers(0, 10**6),
    n=st.sampled_from([1, 2, 10]),
    condition=st.sampled_from([1.0, 1e3, 1e6]),
    scale=st.sampled_from([1e-5, 1.0]),
)
def test_equals_the_oracle_for_random_covariances_up_to_condition_1e6(seed, n, condition, scale):
    rng = np.random.default_rng(seed)
    volatility = scale * np.exp(rng.normal(size=n))
    covariance = (reference.random_correlation(rng, n, condition) * np.outer(volatility, volatility)).astype(np.float32)
    budget = np.exp(0.5 * rng.normal(size=n)).astype(np.float32)
    weights = _solve(covariance, budget)
    expected = reference.risk_parity(covariance.astype(np.float64), budget.astype(np.float64))
    np.testing.assert_allclose(weights, expected, atol=1e-5)
    assert float(weights.sum()) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("n", [100, pytest.param(500, marks=pytest.mark.nightly)])
@pytest.mark.parametrize("condition", [1e2, 1e6])
def test_equals_the_oracle_for_many_products(n, condition):
    rng = np.random.default_rng(n)
    volatility = 1e-3 * np.exp(rng.normal(size=n))
    covariance = (reference.random_correlation(rng, n, condition) * np.outer(volatility, volatility)).astype(np.float32)
    budget = np.ones(n, np.float32)
    expected = reference.risk_parity(covariance.astype(np.float64), budget.astype(np.float64))
    np.testing.assert_allclose(_solve(covariance, budget), expected, atol=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_budgets_may_differ_a_thousandfold(seed):
    rng = np.random.default_rng(seed)
    covariance = reference.random_correlation(rng, 60, 1e4).astype(np.float32)
    budget = np.geomspace(1, 1e-3, 60)[rng.permutation(60)].astype(np.float32)
    expected = reference.risk_parity(covariance.astype(np.float64), budget.astype(np.float64))
    np.testing.assert_allclose(_solve(covariance, budget), expected, atol=1e-5)


@pytest.mark.nightly
@pytest.mark.parametrize("n", [10, 100, 500])
def test_equals_skfolio_for_random_covariances(n):
    rng = np.random.default_rng(n)
    noise = rng.normal(size=(3 * n, n))
    noise -= noise.mean(0)
    whitened = np.linalg.solve(np.linalg.cholesky(np.cov(noise.T)), noise.T).T
    returns = 0.01 * whitened @ np.linalg.cholesky(reference.random_correlation(rng, n, 1e6)).T
    weights = _solve(jnp.asarray(np.cov(returns.T), jnp.float32), jnp.ones(n))
    np.testing.assert_allclose(weights, _skfolio_weights(returns), atol=1e-4)


@given(seed=st.integers(0, 10**6))
def test_risk_contributions_equal_the_budget(seed):
    rng = np.random.default_rng(seed)
    loadings = rng.normal(size=(30, 8))
    covariance = jnp.asarray(np.cov(loadings.T) * 1e-8, jnp.float32)
    budget = rng.dirichlet(np.ones(8)).astype(np.float32)
    weights = _solve(covariance, budget)
    np.testing.assert_allclose(risk_contributions(weights, covariance), budget, atol=2e-5)
    assert float(weights.min()) > 0


def test_known_answers():
    volatility = np.array([0.1, 0.2, 0.4], np.float32)
    uncorrelated = jnp.diag(jnp.asarray(volatility) ** 2)
    np.testing.assert_allclose(_solve(uncorrelated, jnp.ones(3)), inverse_volatility(uncorrelated), atol=1e-6)
    np.testing.assert_allclose(inverse_volatility(uncorrelated), np.array([4, 2, 1]) / 7, atol=1e-6)
    np.testing.assert_allclose(equal_weight(uncorrelated), np.ones(3) / 3, atol=1e-6)
    # Without correlation x_i^2 = b_i, so weights go with the root of the budget over volatility.
    budget = np.array([0.1, 0.3, 0.6], np.float32)
    expected = np.sqrt(budget) / volatility
    np.testing.assert_allclose(_solve(uncorrelated, budget), expected / expected.sum(), atol=1e-6)
    np.testing.assert_allclose(equal_weight(uncorrelated, budget), budget, atol=1e-6)


@pytest.mark.parametrize("allocate", [risk_parity, inverse_volatility, equal_weight])
def test_a_product_without_budget_is_as_if_absent(allocate):
    covariance = jnp.asarray(np.cov(np.random.default_rng(2).normal(size=(40, 5)).T), jnp.float32)
    budget = jnp.array([1.0, 0.0, 2.0, 0.0, 1.0])
    kept = np.array([0, 2, 4])
    weights = allocate(covariance, budget)
    np.testing.assert_array_equal(weights[np.array([1, 3])], 0.0)
    np.testing.assert_allclose(weights[kept], allocate(covariance[np.ix_(kept, kept)], budget[kept]), atol=1e-6)
    np.testing.assert_allclose(allocate(covariance, 7.0 * budget), weights, atol=1e-6)


def test_permuting_products_permutes_weights():
    covariance = jnp.asarray(np.cov(np.random.default_rng(4).normal(size=(40, 6)).T), jnp.float32)
    order = np.random.default_rng(5).permutation(6)
    np.testing.assert_allclose(
        _solve(covariance[np.ix_(order, order)], jnp.arange(1.0, 7.0)[order]),
        _solve(covariance, jnp.arange(1.0, 7.0))[order],
        atol=1e-6,
    )


@jax.jit
def _along(step, covariance, tilt, budget, direction):
    return risk_parity(covariance + 0.1 * step * tilt, budget * jnp.exp(step * direction))


_slopes = [jax.jit(jax.jacrev(_along)), jax.jit(jax.jacfwd(_along))]


@given(seed=st.integers(0, 10**6))
def test_gradients_equal_differences_of_the_oracle(seed):
    rng = np.random.default_rng(seed)
    covariance = np.cov(rng.normal(size=(20, 4)).T)
    budget = rng.dirichlet(5 * np.ones(4))
    direction = rng.normal(size=4)
    tilt = rng.normal(size=(4, 4))
    tilt = tilt + tilt.T

    def oracle(step: float) -> np.ndarray:
        return reference.risk_parity(covariance + 0.1 * step * tilt, budget * np.exp(step * direction))

    expected = (oracle(1e-5) - oracle(-1e-5)) / 2e-5
    for slope in _slopes:
        np.testing.assert_allclose(slope(0.0, covariance, tilt, budget, direction), expected, atol=2e-3)


def test_one_trace_serves_batches_and_loops_a_fixed_number_of_times():
    traced = jax.jit(jax.vmap(chex.assert_max_traces(risk_parity, n=1)))
    rng = np.random.default_rng(0)
    covariances = jnp.asarray(np.stack([np.cov(rng.normal(size=(20, 3)).T) for _ in range(8)]), jnp.float32)
    first = traced(covariances, jnp.ones((8, 3)))
    traced(2 * covariances, jnp.ones((8, 3)))
    single = jnp.stack([_solve(c, jnp.ones(3)) for c in covariances])
    np.testing.assert_allclose(first, single, atol=1e-6)
    assert "while[" not in str(jax.make_jaxpr(risk_parity)(covariances[0], jnp.ones(3)))


def test_covariance_of_wrong_shape_is_refused():
    with pytest.raises(ValueError, match=r"must be \[P, P\]"):
        risk_parity(jnp.ones((3, 2)))


def test_no_position_has_no_risk_contribution():
    np.testing.assert_array_equal(risk_contributions(jnp.zeros(3), jnp.eye(3)), 0.0)
