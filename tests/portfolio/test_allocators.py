"""What every allocator of the loop keeps, and those but risk parity against oracles."""

from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from marljax.portfolio.allocators import allocators, volatility_targeted
from marljax.portfolio.risk_parity import equal_weight, inverse_volatility
from tests.reference import allocation as reference
from tests.reference.portfolio import random_correlation

DAILY = Path(__file__).parents[3] / "shared" / "data" / "daily"
TARGET = 0.01
ALLOCATORS = {name: jax.jit(allocate) for name, allocate in allocators(TARGET).items()}
FULLY_INVESTED = [name for name in ALLOCATORS if name != "volatility_targeted_equal_weight"]
BUDGETED = ["equal_weight", "inverse_volatility", "risk_parity", "hierarchical_risk_parity"]
each = pytest.mark.parametrize("name", ALLOCATORS)


def _real_returns(name: str) -> np.ndarray:
    if not DAILY.exists():
        pytest.skip(f"real daily data is not at {DAILY}")
    file = {"stocks": "skfolio_sp500_dataset.csv.gz", "futures": "futures_return.csv.gz"}[name]
    table = pd.read_csv(DAILY / file, index_col=0)
    returns = table.pct_change(fill_method=None) if name == "stocks" else table
    return returns.dropna().to_numpy()


def _covariance(rng: np.random.Generator, n: int, condition: float = 30.0, size: float = 0.01) -> np.ndarray:
    volatility = size * np.exp(0.7 * rng.normal(size=n))
    return (random_correlation(rng, n, condition) * np.outer(volatility, volatility)).astype(np.float32)


@each
@given(seed=st.integers(0, 10**6), n=st.sampled_from([1, 7]), scale=st.sampled_from([1e-5, 1.0, 1e3]))
def test_weights_are_positive_and_spend_all_capital_but_for_cash(name, seed, n, scale):
    covariance = _covariance(np.random.default_rng(seed), n, size=scale)
    weights = np.asarray(ALLOCATORS[name](covariance), np.float64)
    chex.assert_shape(weights, (n,))
    assert weights.min() >= 0
    if name in FULLY_INVESTED:
        assert weights.sum() == pytest.approx(1.0, abs=1e-6)
    else:
        assert weights.sum() <= 1.0 + 1e-6
        risk = np.sqrt(weights @ covariance @ weights)
        assert risk <= TARGET * (1 + 1e-5)
        assert max(risk / TARGET, weights.sum()) == pytest.approx(1.0, rel=1e-5)


@each
@given(seed=st.integers(0, 10**6))
def test_the_order_of_products_decides_nothing(name, seed):
    rng = np.random.default_rng(seed)
    covariance, budget, order = _covariance(rng, 7), rng.uniform(0.5, 2, 7).astype(np.float32), rng.permutation(7)
    weights = ALLOCATORS[name](covariance, budget)
    permuted = ALLOCATORS[name](covariance[np.ix_(order, order)], budget[order])
    np.testing.assert_allclose(permuted, weights[order], atol=2e-5)


@pytest.mark.parametrize("name", FULLY_INVESTED)
@given(seed=st.integers(0, 10**6), scale=st.sampled_from([1e-5, 1e3]))
def test_the_unit_of_returns_decides_nothing(name, seed, scale):
    covariance = _covariance(np.random.default_rng(seed), 7, size=1.0)
    scaled = (np.float64(covariance) * scale**2).astype(np.float32)
    np.testing.assert_allclose(ALLOCATORS[name](scaled), ALLOCATORS[name](covariance), atol=2e-5)


@each
def test_a_product_without_budget_is_as_if_absent_and_budgets_have_no_unit(name):
    covariance = _covariance(np.random.default_rng(2), 7)
    budget = np.array([1, 0, 2, 0, 1, 3, 1], np.float32)
    kept = np.flatnonzero(budget)
    weights = ALLOCATORS[name](covariance, budget)
    np.testing.assert_array_equal(weights[np.array([1, 3])], 0.0)
    alone = ALLOCATORS[name](covariance[np.ix_(kept, kept)], budget[kept])
    np.testing.assert_allclose(weights[kept], alone, atol=2e-6)
    np.testing.assert_allclose(ALLOCATORS[name](covariance, 7 * budget), weights, atol=2e-6)


@pytest.mark.parametrize("name", BUDGETED)
def test_a_larger_budget_draws_capital(name):
    covariance = _covariance(np.random.default_rng(3), 7)
    for product in range(7):
        tilted = ALLOCATORS[name](covariance, np.where(np.arange(7) == product, 2, 1).astype(np.float32))
        assert tilted[product] > 1.05 * ALLOCATORS[name](covariance)[product]


@each
@pytest.mark.parametrize("correlation", [0.0, 0.6, 0.99])
def test_equal_products_get_equal_weights(name, correlation):
    covariance = 1e-4 * (correlation + (1 - correlation) * np.eye(4, dtype=np.float32))
    weights = ALLOCATORS[name](covariance)
    np.testing.assert_allclose(weights / weights.sum(), 0.25, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in ALLOCATORS if name != "equal_weight"])
@pytest.mark.parametrize("bad", [np.nan, 0.0])
def test_a_single_product_that_never_moves_or_is_unknown_gets_nan(name, bad):
    assert np.isnan(ALLOCATORS[name](np.full((1, 1), bad, np.float32))).all()
    np.testing.assert_array_equal(ALLOCATORS[name](np.full((1, 1), TARGET**2, np.float32)), 1.0)


@pytest.mark.parametrize("name", [name for name in ALLOCATORS if name != "equal_weight"])
@pytest.mark.parametrize("bad", [np.nan, 0.0])
def test_a_product_that_never_moves_or_is_unknown_makes_all_weights_nan(name, bad):
    covariance = _covariance(np.random.default_rng(4), 7)
    covariance[2], covariance[:, 2] = bad, bad
    assert np.isnan(ALLOCATORS[name](covariance)).all()
    # Unless it has no budget: then nothing of it is read.
    budget = np.array([1, 0, 0, 1, 1, 1, 1], np.float32)
    kept = np.flatnonzero(budget)
    weights = ALLOCATORS[name](covariance, budget)
    alone = ALLOCATORS[name](covariance[np.ix_(kept, kept)], budget[kept])
    np.testing.assert_allclose(weights[kept], alone, atol=2e-6)
    assert weights[2] == 0


@each
def test_batches_have_one_trace_and_a_fixed_program(name):
    allocate = allocators(TARGET)[name]
    traced = jax.jit(jax.vmap(chex.assert_max_traces(allocate, n=1)))
    rng = np.random.default_rng(0)
    covariances = jnp.stack([_covariance(rng, 7) for _ in range(4)])
    first = traced(covariances)
    traced(2 * covariances)
    np.testing.assert_allclose(first, jnp.stack([ALLOCATORS[name](c) for c in covariances]), atol=1e-6)
    assert "while[" not in str(jax.make_jaxpr(allocate)(covariances[0]))


@each
def test_gradients_equal_differences(name):
    rng = np.random.default_rng(6)
    covariance = _covariance(rng, 7)
    tilt = rng.normal(size=(7, 7)) * np.sqrt(np.outer(np.diag(covariance), np.diag(covariance)))
    tilt = (tilt + tilt.T).astype(np.float32)

    def along(step):
        return ALLOCATORS[name](covariance + step * tilt)

    slope = jax.jit(jax.jacrev(along))(0.0)
    difference = (np.float64(along(3e-3)) - np.float64(along(-3e-3))) / 6e-3
    np.testing.assert_allclose(slope, difference, atol=5e-3)


@pytest.mark.parametrize("name", ["stocks", "futures"])
def test_minimum_variance_and_hierarchy_equal_the_oracles_on_real_covariances(name):
    covariance = np.cov(_real_returns(name).T).astype(np.float32)
    exact = covariance.astype(np.float64)
    np.testing.assert_allclose(ALLOCATORS["minimum_variance"](covariance), reference.minimum_variance(exact), atol=1e-5)
    np.testing.assert_allclose(
        ALLOCATORS["hierarchical_risk_parity"](covariance), reference.hierarchical_risk_parity(exact), atol=1e-5
    )


@pytest.mark.parametrize("name", ["stocks", "futures"])
def test_allocators_equal_skfolio_on_real_returns(name):
    optimization = pytest.importorskip("skfolio.optimization")
    from skfolio.cluster import HierarchicalClustering, LinkageMethod
    from skfolio.seriation import HierarchicalSeriation

    returns = _real_returns(name)
    # skfolio puts the first of two products left, and we the calmer one.
    returns = returns[:, np.argsort(returns.std(0))]
    single = HierarchicalClustering(linkage_method=LinkageMethod.SINGLE)
    order = HierarchicalSeriation(optimal_ordering=False, hierarchical_clustering_estimator=single)
    models = {
        "equal_weight": optimization.EqualWeighted(),
        "inverse_volatility": optimization.InverseVolatility(),
        "risk_parity": optimization.RiskBudgeting(),
        "hierarchical_risk_parity": optimization.HierarchicalRiskParity(seriation_estimator=order),
        "minimum_variance": optimization.MeanRisk(
            solver_params={"tol_gap_abs": 1e-12, "tol_gap_rel": 1e-12, "tol_feas": 1e-12}
        ),
    }
    covariance = np.cov(returns.T).astype(np.float32)
    for allocator, model in models.items():
        expected = model.fit(returns).weights_
        np.testing.assert_allclose(ALLOCATORS[allocator](covariance), expected, atol=1e-4, err_msg=allocator)


@given(seed=st.integers(0, 10**6), n=st.sampled_from([1, 2, 7]), condition=st.sampled_from([1.0, 1e3, 1e5, 1e6]))
@example(seed=287, n=7, condition=1e6)  # The interior point takes for held what is not.
def test_minimum_variance_is_exact_up_to_what_float32_holds(seed, n, condition):
    _assert_least_variance(_covariance(np.random.default_rng(seed), n, condition))


@pytest.mark.parametrize("n", [100, pytest.param(500, marks=pytest.mark.nightly)])
@pytest.mark.parametrize("condition", [1e2, 1e6])
def test_minimum_variance_is_exact_for_many_products(n, condition):
    _assert_least_variance(_covariance(np.random.default_rng(n), n, condition))


def _assert_least_variance(covariance: np.ndarray) -> None:
    exact = covariance.astype(np.float64)
    weights = np.asarray(ALLOCATORS["minimum_variance"](covariance), np.float64)
    expected = reference.minimum_variance(exact)
    np.testing.assert_allclose(weights, expected, atol=1e-5)
    assert weights @ exact @ weights <= (1 + 1e-5) * (expected @ exact @ expected)


@given(seed=st.integers(0, 10**6), n=st.sampled_from([1, 2, 7, 25]))
def test_hierarchy_equals_scipys_linkage_and_bisection(seed, n):
    covariance = _covariance(np.random.default_rng(seed), n)
    expected = reference.hierarchical_risk_parity(covariance.astype(np.float64))
    np.testing.assert_allclose(ALLOCATORS["hierarchical_risk_parity"](covariance), expected, atol=2e-6)


def test_hierarchy_equals_the_oracle_for_many_products():
    covariance = _covariance(np.random.default_rng(0), 100)
    expected = reference.hierarchical_risk_parity(covariance.astype(np.float64))
    np.testing.assert_allclose(ALLOCATORS["hierarchical_risk_parity"](covariance), expected, atol=2e-6)


def test_hierarchy_halves_capital_between_groups_by_inverse_variance():
    # Two groups of two: correlated within, nearly not across. The group twice as volatile gets a fifth of the capital.
    correlation = np.array([[1, 0.9, 0, 0], [0.9, 1, 0.01, 0], [0, 0.01, 1, 0.9], [0, 0, 0.9, 1]])
    volatility = np.array([1, 1, 2, 2])
    allocate = ALLOCATORS["hierarchical_risk_parity"]
    weights = allocate(jnp.asarray(correlation * np.outer(volatility, volatility), jnp.float32))
    np.testing.assert_allclose(weights, [0.4, 0.4, 0.1, 0.1], atol=1e-6)
    tilted = allocate(jnp.diag(jnp.array([1.0, 4.0])), jnp.array([1.0, 3.0]))
    np.testing.assert_allclose(tilted, np.array([1, 3 / 4]) / 1.75, atol=1e-6)


def test_minimum_variance_of_two_products_is_known():
    # w1 = (s2^2 - r s1 s2) / (s1^2 + s2^2 - 2 r s1 s2); beyond r = s1 / s2 the riskier product is left out.
    for correlation, expected in ((0.0, 0.8), (-0.5, 5 / 7), (0.4, 3.2 / 3.4), (0.6, 1.0)):
        covariance = jnp.array([[1.0, 2 * correlation], [2 * correlation, 4.0]])
        np.testing.assert_allclose(ALLOCATORS["minimum_variance"](covariance), [expected, 1 - expected], atol=1e-6)


def test_volatility_target_scales_any_allocator_up_to_its_gross():
    covariance = _covariance(np.random.default_rng(7), 5)
    for allocate in (equal_weight, inverse_volatility):
        weights = allocate(covariance)
        risk = float(jnp.sqrt(weights @ covariance @ weights))
        for target, gross in ((0.5 * risk, 1.0), (1.5 * risk, 1.0), (1.5 * risk, 2.0), (3 * risk, 2.0)):
            scaled = volatility_targeted(allocate, target, gross)(covariance)
            np.testing.assert_allclose(scaled, min(gross, target / risk) * weights, rtol=1e-5)
