import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from marljax.data.schema import InputError
from marljax.portfolio.allocators import allocators
from marljax.portfolio.allocators_skfolio import (
    Prospect,
    black_litterman,
    expecting_the_past,
    host_allocators,
    mean_variance,
    minimum_cvar,
    prospect,
)
from tests.reference import allocation as reference

DAILY = Path(__file__).parents[3] / "shared" / "data" / "daily"
HOST = host_allocators(target=0.01)
ON_HOST_ALONE = ["mean_variance", "black_litterman", "minimum_cvar"]


@pytest.fixture(scope="module", autouse=True)
def _needs_skfolio():
    pytest.importorskip("skfolio")


def _scenarios(n: int = 6, n_scenarios: int = 200, size: float = 0.01, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    returns = rng.standard_t(4, size=(n_scenarios, n)) + rng.normal(size=(n_scenarios, 1))
    return size * np.geomspace(0.5, 2, n) * (returns + rng.normal(size=n) * 0.05)


def test_every_allocator_has_one_form_and_a_name():
    assert HOST.keys() == {*allocators(0.01), *ON_HOST_ALONE}
    given = prospect(_scenarios(), budget=[1, 2, 0, 1, 1, 1])
    for name, choose in HOST.items():
        weights = choose(given)
        assert weights.shape == (6,), name
        assert weights.dtype == np.float64, name
        assert weights.min() >= 0, name
        assert weights[2] == 0, name
        if name != "volatility_targeted_equal_weight":
            assert weights.sum() == pytest.approx(1.0, abs=1e-6), name


@pytest.mark.parametrize("name", ON_HOST_ALONE)
@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_products_decides_nothing(name, seed):
    scenarios, order = _scenarios(seed=seed), np.random.default_rng(seed).permutation(6)
    budget = np.arange(1.0, 7.0)
    weights = HOST[name](prospect(scenarios, budget=budget))
    permuted = HOST[name](prospect(scenarios[:, order], budget=budget[order]))
    np.testing.assert_allclose(permuted, weights[order], atol=1e-4)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("size", [1e-6, 1.0])
def test_the_unit_of_returns_decides_nothing_but_what_risk_is_worth(seed, size):
    one, other = (prospect(_scenarios(size=s, seed=seed)) for s in (0.01, size))
    np.testing.assert_allclose(minimum_cvar(other, 0.05), minimum_cvar(one, 0.05), atol=1e-4)
    aversion = 3.0 * 0.01 / size
    np.testing.assert_allclose(mean_variance(other, aversion), mean_variance(one, 3.0), atol=1e-4)
    np.testing.assert_allclose(black_litterman(other, aversion, 0.1), black_litterman(one, 3.0, 0.1), atol=1e-4)


@pytest.mark.parametrize("seed", range(5))
def test_mean_variance_is_the_best_of_all_sets_of_products(seed):
    given = prospect(_scenarios(seed=seed))
    for aversion in (0.5, 3.0, 50.0):
        expected = reference.mean_variance(given.mean, given.covariance, aversion)
        np.testing.assert_allclose(mean_variance(given, aversion), expected, atol=1e-4)


@pytest.mark.parametrize("seed", range(5))
def test_black_litterman_is_mean_variance_on_the_posterior(seed):
    given = prospect(_scenarios(seed=seed), budget=np.arange(1.0, 7.0))
    for tau in (0.01, 0.5):
        moments = reference.black_litterman_moments(given.covariance, given.budget, given.mean, 3.0, tau)
        np.testing.assert_allclose(black_litterman(given, 3.0, tau), reference.mean_variance(*moments, 3.0), atol=1e-4)


def test_black_litterman_without_a_view_of_its_own_holds_nearly_the_budget():
    scenarios, budget = _scenarios(), np.arange(1.0, 7.0) / 21
    covariance = np.cov(scenarios.T)
    given = prospect(scenarios, mean=3.0 * covariance @ budget, budget=budget)
    np.testing.assert_allclose(black_litterman(given, 3.0, 1e-4), budget, atol=1e-3)


@pytest.mark.parametrize("seed", range(3))
def test_minimum_cvar_loses_as_little_in_the_tail_as_the_linear_program(seed):
    scenarios = _scenarios(seed=seed)
    weights, expected = minimum_cvar(prospect(scenarios), 0.05), reference.minimum_cvar(scenarios, 0.05)

    def loss(weights: np.ndarray) -> float:
        return -np.sort(scenarios @ weights)[:10].mean()

    assert loss(weights) <= loss(expected) * (1 + 1e-5)
    np.testing.assert_allclose(weights, expected, atol=1e-3)


@pytest.mark.parametrize("name", ON_HOST_ALONE)
def test_one_product_gets_all(name):
    np.testing.assert_allclose(HOST[name](prospect(_scenarios(1))), [1.0], atol=1e-9)


@pytest.mark.parametrize("name", ON_HOST_ALONE)
def test_equal_products_get_equal_weights(name):
    # Every product has every place in the scenarios once, so that nothing tells them apart.
    drawn = 0.01 * np.random.default_rng(0).standard_t(4, size=(60, 4))
    scenarios = np.concatenate([np.roll(drawn, shift, axis=1) for shift in range(4)])
    np.testing.assert_allclose(HOST[name](prospect(scenarios)), 0.25, atol=2e-3)


def test_given_moments_and_budget_are_used():
    scenarios = _scenarios()
    covariance = np.diag(np.arange(1.0, 7.0) ** 2)
    given = prospect(scenarios, covariance=covariance, mean=np.zeros(6), budget=np.full(6, 5.0))
    expected = 1 / np.arange(1.0, 7.0) ** 2
    for name in ("minimum_variance", "mean_variance"):
        np.testing.assert_allclose(HOST[name](given), expected / expected.sum(), atol=1e-5)
    assert given.budget.sum() == pytest.approx(1.0)
    sample = prospect(scenarios)
    np.testing.assert_allclose(sample.covariance, np.cov(scenarios.T))
    np.testing.assert_allclose(sample.mean, scenarios.mean(0))


@pytest.mark.parametrize("name", ["risk_aversion", "uncertainty", "tail", "target", "gross"])
def test_every_number_acts(name):
    given = prospect(_scenarios(seed=1))
    base = {"target": 0.02, "gross": 1.0, "risk_aversion": 3.0, "uncertainty": 0.5, "tail": 0.1}
    low, high = (host_allocators(**base | {name: factor * base[name]}) for factor in (0.4, 0.8))
    changed = {key for key in low if np.abs(low[key](given) - high[key](given)).max() > 1e-3}
    assert (
        changed
        == {
            "risk_aversion": {"mean_variance", "black_litterman"},
            "uncertainty": {"black_litterman"},
            "tail": {"minimum_cvar"},
            "target": {"volatility_targeted_equal_weight"},
            "gross": {"volatility_targeted_equal_weight"},
        }[name]
    )


def test_stocks_and_futures_are_allocated_by_every_name():
    if not DAILY.exists():
        pytest.skip(f"real daily data is not at {DAILY}")
    stocks = pd.read_csv(DAILY / "skfolio_sp500_dataset.csv.gz", index_col=0).pct_change(fill_method=None)
    futures = pd.read_csv(DAILY / "futures_return.csv.gz", index_col=0)
    for table in (stocks, futures):
        given = prospect(table.dropna().to_numpy()[-250:])
        least = HOST["minimum_variance"](given)
        for name in ON_HOST_ALONE:
            weights = HOST[name](given)
            assert weights.sum() == pytest.approx(1.0, abs=1e-9)
            assert weights @ given.covariance @ weights > 1.01 * (least @ given.covariance @ least)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scenarios": np.zeros(5)}, r"must be \[S, P\]"),
        ({"scenarios": np.zeros((1, 6))}, "S >= 2"),
        ({"covariance": np.eye(5)}, r"covariance must have shape \(6, 6\)"),
        ({"mean": np.zeros(5)}, r"mean must have shape \(6,\)"),
        ({"mean": np.array([0, 0, np.inf, 0, 0, 0])}, "mean of product 2 must be finite"),
        ({"budget": np.zeros(6)}, "not all zero"),
        ({"budget": np.array([1, 1, -1, 1, 1, 1])}, ">= 0"),
        ({"covariance": np.ones((6, 6))}, "positive definite"),
        ({"covariance": np.eye(6) + np.eye(6, k=1) * 0.1}, "symmetric"),
        ({"covariance": np.diag([1, 1, 1, 0, 1, 1])}, "variance of product 3 must be above zero"),
    ],
)
def test_bad_input_is_refused_by_name(change, message):
    with pytest.raises(InputError, match=message):
        prospect(**{"scenarios": _scenarios()} | change)


def test_a_missing_return_or_a_product_that_never_moves_is_refused_by_its_column():
    scenarios = _scenarios()
    scenarios[3, 4] = np.nan
    with pytest.raises(InputError, match="scenarios of product 4 must be finite"):
        prospect(scenarios)
    scenarios = _scenarios()
    scenarios[:, 1] = 0.01
    with pytest.raises(InputError, match="product 1 never moves"):
        prospect(scenarios)


def test_without_skfolio_the_error_names_the_extra(monkeypatch):
    given: Prospect = prospect(_scenarios())
    monkeypatch.setitem(sys.modules, "skfolio", None)
    for name in ON_HOST_ALONE:
        with pytest.raises(InputError, match="extra `allocators`"):
            HOST[name](given)
    assert HOST["risk_parity"](given).sum() == pytest.approx(1.0, abs=1e-6)


def test_a_rebalance_expects_the_mean_of_the_window_before_it_and_nothing_later():
    past, base = _scenarios(3, 24), np.array([0.5, 0.3, 0.2])
    covariance = np.stack([np.cov(_scenarios(3, 50, seed=seed).T) for seed in range(4)])
    asked = expecting_the_past(past, covariance, np.tile(base, (4, 1)), risk_aversion=5.0, uncertainty=0.1)
    assert {name: x.shape for name, x in asked.items()} == {"mean_variance": (4, 3), "black_litterman": (4, 3)}
    known = prospect(past[2:22], covariance=covariance[2], budget=base)
    np.testing.assert_allclose(asked["mean_variance"][2], mean_variance(known, 5.0), atol=1e-9)
    np.testing.assert_allclose(asked["black_litterman"][2], black_litterman(known, 5.0, 0.1), atol=1e-9)
    later = past.copy()
    later[22:] += 0.1 * np.array([1.0, -1.0, 0.0])
    changed = expecting_the_past(later, covariance, np.tile(base, (4, 1)), risk_aversion=5.0, uncertainty=0.1)
    for name, weights in asked.items():
        np.testing.assert_array_equal(changed[name][:3], weights[:3])
        assert np.abs(changed[name][3] - weights[3]).max() > 0.01
