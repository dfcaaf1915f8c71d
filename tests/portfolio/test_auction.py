from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marljax.portfolio import guardrails
from marljax.portfolio.auction import Bids, Supply, auction, clear
from tests.reference import auction as reference

DAILY = Path(__file__).parents[3] / "shared" / "data" / "daily"
_clear = jax.jit(clear)
_gradient = jax.jit(jax.grad(lambda b, s: clear(b, s).weights @ jnp.arange(3.0), argnums=(0, 1), allow_int=True))
_auction = jax.jit(auction, static_argnames="rounds")
_seeds = st.integers(0, 10**6)
_sizes = st.sampled_from([1, 8])


def _bids(value, slope) -> Bids:
    return Bids(jnp.asarray(value, jnp.float32), jnp.asarray(slope, jnp.float32))


def _supply(gross: float, cap) -> Supply:
    return Supply(jnp.float32(gross), jnp.asarray(cap, jnp.float32))


def _market(seed: int, n: int) -> tuple[Bids, Supply]:
    """Bids of a per cent or so, some negative, and a supply in three asset classes of which any limit may bind."""
    rng = np.random.default_rng(seed)
    supply = Supply(
        gross=np.float32(rng.uniform(0.1, 2)),
        cap=rng.uniform(0, 1, n).astype(np.float32),
        classes=rng.integers(0, 3, n).astype(np.int32),
        class_cap=rng.choice([rng.uniform(0.05, 1), np.inf], 3).astype(np.float32),
    )
    slope = 0.01 * np.exp(rng.normal(size=n) * rng.choice([0.0, 1.0, 2.0]))
    return Bids(rng.normal(0.01, 0.01, n).astype(np.float32), slope.astype(np.float32)), supply


def _excess(weights: jax.Array, supply: Supply) -> float:
    w = np.asarray(weights, np.float64)
    by_class = np.bincount(np.asarray(supply.classes), w, len(supply.class_cap)) - np.asarray(supply.class_cap)
    return max(by_class.max(), w.sum() - float(supply.gross), (w - np.asarray(supply.cap)).max(), -w.min())


def test_two_bidders_meet_where_their_demands_add_up_to_the_supply():
    # (0.10 - p) / 0.1 + (0.06 - p) / 0.1 = 0.5 at p = 0.055.
    outcome = _clear(_bids([0.10, 0.06], [0.1, 0.1]), _supply(0.5, [1.0, 1.0]))
    np.testing.assert_allclose(outcome.weights, [0.45, 0.05], atol=1e-6)
    np.testing.assert_allclose(outcome.price, [0.055, 0.055], atol=1e-7)
    # The first may have 0.3, so the second gets 0.2, at 0.06 - 0.1 * 0.2.
    outcome = _clear(_bids([0.10, 0.06], [0.1, 0.1]), _supply(0.5, [0.3, 1.0]))
    np.testing.assert_allclose(outcome.weights, [0.3, 0.2], atol=1e-6)
    assert float(outcome.scarcity) == pytest.approx(0.04, abs=1e-7)


def test_a_scarce_asset_class_costs_a_premium_and_leaves_the_rest_to_the_others():
    supply = Supply(jnp.float32(0.5), jnp.ones(3), jnp.array([0, 0, 1]), jnp.array([0.2, 1.0]))
    outcome = _clear(_bids([0.10, 0.06, 0.05], [0.1, 0.1, 0.1]), supply)
    np.testing.assert_allclose(outcome.weights, [0.2, 0.0, 0.3], atol=1e-6)
    np.testing.assert_allclose(outcome.price, [0.08, 0.08, 0.02], atol=1e-7)
    assert float(outcome.scarcity) == pytest.approx(0.02, abs=1e-7)


def test_nobody_gets_capital_and_it_costs_nothing_when_all_bids_are_negative():
    outcome = _clear(_bids([-0.1, -1e-9, 0.0], [0.1, 0.1, 0.0]), _supply(0.5, np.ones(3)))
    np.testing.assert_array_equal(outcome.weights, np.zeros(3))
    np.testing.assert_array_equal(outcome.price, np.zeros(3))


def test_capital_that_nobody_wants_is_left_over_at_price_zero():
    outcome = _clear(_bids([0.02, -0.01], [0.1, 0.1]), _supply(0.5, np.ones(2)))
    np.testing.assert_allclose(outcome.weights, [0.2, 0.0], atol=1e-7)
    np.testing.assert_array_equal(outcome.price, np.zeros(2))


@pytest.mark.parametrize("slope", [0.0, 1e-12, 0.02])
def test_equal_bids_share_equally_even_where_they_never_fall(slope):
    outcome = _clear(_bids([0.01] * 4, [slope] * 4), _supply(0.5, np.ones(4)))
    np.testing.assert_allclose(outcome.weights, np.full(4, 0.125), atol=1e-6)
    higher = _clear(_bids([0.01] * 3 + [0.011], [0.0] * 4), _supply(0.5, np.full(4, 0.2)))
    np.testing.assert_allclose(higher.weights, [0.1, 0.1, 0.1, 0.2], atol=1e-6)
    assert float(higher.scarcity) == pytest.approx(0.01, rel=1e-5)


def test_a_single_bidder_gets_what_it_asks_for_or_all_there_is():
    assert float(_clear(_bids([0.02], [0.1]), _supply(0.5, [1.0])).weights[0]) == pytest.approx(0.2, abs=1e-7)
    outcome = _clear(_bids([0.1], [0.1]), _supply(0.5, [1.0]))
    assert float(outcome.weights[0]) == pytest.approx(0.5, abs=1e-7)
    assert float(outcome.scarcity) == pytest.approx(0.05, abs=1e-7)


@given(seed=_seeds, n=_sizes)
def test_equals_the_price_found_by_sorting_kinks(seed, n):
    bids, supply = _market(seed, n)
    supply = supply.replace(class_cap=np.full(3, np.inf, np.float32))
    outcome = _clear(bids, supply)
    numbers = (np.asarray(x, np.float64) for x in (bids.value, bids.slope, supply.cap))
    weights, price = reference.clear_by_sorting(*numbers, float(supply.gross))
    np.testing.assert_allclose(outcome.weights, weights, atol=1e-5)
    assert float(outcome.scarcity) == pytest.approx(price, abs=1e-7)


@given(seed=_seeds, n=_sizes)
def test_equals_the_best_allocation_and_its_shadow_prices_with_asset_classes(seed, n):
    bids, supply = _market(seed, n)
    outcome = _clear(bids, supply)
    value, slope, cap, of, class_cap = (
        np.asarray(x) for x in (bids.value, bids.slope, supply.cap, supply.classes, supply.class_cap)
    )
    weights, _, _ = reference.best_allocation(value, np.diag(slope), cap, float(supply.gross), of, class_cap)
    np.testing.assert_allclose(outcome.weights, weights, atol=2e-5)
    assert _excess(outcome.weights, supply) < 1e-6
    # A price is what each would pay for one unit more, if it could have more and has some.
    inside = (weights > 1e-3) & (weights < cap - 1e-3)
    np.testing.assert_allclose((outcome.price - (value - slope * weights))[inside], 0.0, atol=2e-6)


@pytest.mark.parametrize("seed", range(5))
def test_prices_are_the_shadow_prices_of_the_limits(seed):
    bids, supply = _market(seed, 8)
    bids = bids.replace(value=0.01 + np.abs(bids.value) + 0.02 * (supply.classes == 0))
    supply = supply.replace(gross=np.float32(0.6), class_cap=np.array([0.1, 0.8, 0.8], np.float32))
    outcome = _clear(bids, supply)
    value, slope, cap, of, class_cap = (
        np.asarray(x) for x in (bids.value, bids.slope, supply.cap, supply.classes, supply.class_cap)
    )
    _, price, premium = reference.best_allocation(value, np.diag(slope), cap, 0.6, of, class_cap)
    assert price > 0.001
    assert premium[0] > 0.001
    np.testing.assert_allclose(outcome.price, price + premium[of], atol=1e-6)


@given(seed=_seeds, n=_sizes)
def test_a_higher_bid_never_gets_less_nor_anyone_else_more_and_never_lowers_a_price(seed, n):
    bids, supply = _market(seed, n)
    rng = np.random.default_rng(seed)
    agent, before = rng.integers(n), _clear(bids, supply)
    one = np.eye(n, dtype=np.float32)[agent]
    for higher in (
        bids.replace(value=bids.value + np.float32(rng.exponential(0.01)) * one),
        bids.replace(slope=bids.slope * np.float32(1 - rng.uniform() * one)),
    ):
        after = _clear(higher, supply)
        assert float(after.weights[agent] - before.weights[agent]) > -1e-6
        others = np.delete(np.asarray(after.weights - before.weights), agent)
        assert np.max(others, initial=0.0) < 1e-6
        assert float(jnp.min(after.price - before.price)) > -1e-8


@given(seed=_seeds, n=_sizes)
def test_more_supply_never_raises_a_price_nor_takes_capital_from_anyone(seed, n):
    bids, supply = _market(seed, n)
    before = _clear(bids, supply)
    after = _clear(bids, supply.replace(gross=1.3 * supply.gross))
    assert float(jnp.max(after.price - before.price)) < 1e-8
    assert float(jnp.min(after.weights - before.weights)) > -1e-6


@pytest.mark.parametrize("class_cap", [0.25, 1.0])
def test_derivatives_are_those_of_the_outcome(class_cap):
    bids = _bids([0.012, 0.02, 0.015, 0.03, 0.001, 0.05], [0.02, 0.05, 0.03, 0.1, 0.02, 0.05])
    of = jnp.array([0, 0, 0, 1, 1, 1])
    supply = Supply(jnp.float32(0.5), jnp.array([1.0, 1.0, 1.0, 1.0, 1.0, 0.1]), of, jnp.array([class_cap, 1.0]))
    slopes = jax.jit(jax.jacrev(lambda b, s: clear(b, s).weights, argnums=(0, 1), allow_int=True))(bids, supply)
    value, slope, cap = (np.asarray(x, np.float64) for x in (bids.value, bids.slope, supply.cap))
    of, class_cap = np.asarray(supply.classes), np.asarray(supply.class_cap, np.float64)

    def best(value=value, slope=slope, gross=0.5):
        return reference.best_allocation(value, np.diag(slope), cap, gross, of, class_cap)[0]

    step, largest = 1e-5, 0.0
    for agent in range(6):
        nudge = step * np.eye(6)[agent]
        by_value = (best(value=value + nudge) - best(value=value - nudge)) / (2 * step)
        np.testing.assert_allclose(slopes[0].value[:, agent], by_value, atol=0.02)
        largest = max(largest, np.abs(by_value).max())
        by_slope = (best(slope=slope + nudge) - best(slope=slope - nudge)) / (2 * step)
        np.testing.assert_allclose(slopes[0].slope[:, agent], by_slope, atol=0.02)
    by_gross = (best(gross=0.5 + 1e-4) - best(gross=0.5 - 1e-4)) / 2e-4
    np.testing.assert_allclose(slopes[1].gross, by_gross, atol=1e-3)
    assert largest > 5


@pytest.mark.parametrize("case", ["negative", "ties", "caps of zero", "one unit for sale"])
def test_derivatives_are_finite_where_the_outcome_has_a_kink(case):
    bids, supply = _bids([0.02, 0.02, 0.01], [0.0, 0.0, 0.1]), _supply(0.5, np.ones(3))
    if case == "negative":
        bids = bids.replace(value=-bids.value)
    if case == "caps of zero":
        supply = supply.replace(cap=jnp.zeros(3))
    if case == "one unit for sale":
        supply = _supply(0.0, np.ones(3))
    for leaf in jax.tree.leaves(_gradient(bids, supply)):
        assert leaf.dtype == jax.dtypes.float0 or bool(jnp.all(jnp.isfinite(leaf)))


def test_a_thousand_agents_clear_at_the_price_found_by_sorting_kinks():
    bids, supply = _market(0, 1000)
    supply = supply.replace(gross=np.float32(1), class_cap=np.full(3, np.inf, np.float32))
    outcome = _clear(bids, supply)
    numbers = (np.asarray(x, np.float64) for x in (bids.value, bids.slope, supply.cap))
    weights, price = reference.clear_by_sorting(*numbers, 1.0)
    np.testing.assert_allclose(outcome.weights, weights, atol=1e-5)
    assert float(outcome.scarcity) == pytest.approx(price, abs=1e-7)
    assert float(outcome.weights.sum()) == pytest.approx(1.0, abs=1e-5)


def test_a_thousand_markets_clear_side_by_side_as_they_do_alone():
    markets = [_market(seed, 8) for seed in range(1000)]
    bids, supplies = jax.tree.map(lambda *leaves: np.stack(leaves), *markets)
    weights = np.asarray(jax.jit(jax.vmap(clear))(bids, supplies).weights)
    assert max(_excess(w, supply) for w, (_, supply) in zip(weights, markets, strict=True)) < 1e-6
    for i in range(0, 1000, 100):
        np.testing.assert_allclose(weights[i], _clear(*markets[i]).weights, atol=1e-6)


def _correlated(seed: int, n: int, correlation: float) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    volatility = 0.01 * np.exp(0.7 * rng.normal(size=n))
    covariance = (correlation + (1 - correlation) * np.eye(n)) * np.outer(volatility, volatility)
    return volatility * rng.normal(0.05, 0.1, n), covariance


@given(
    seed=_seeds,
    n=st.sampled_from([1, 12]),
    correlation=st.sampled_from([0.0, 0.3, 0.6]),
    risk_aversion=st.sampled_from([1.0, 5.0, 30.0]),
)
def test_rounds_of_bidding_end_at_the_best_mean_variance_portfolio(seed, n, correlation, risk_aversion):
    mean, covariance = _correlated(seed, n, correlation)
    _, supply = _market(seed, n)
    outcome, bids = _auction(jnp.float32(mean), jnp.float32(covariance), jnp.float32(risk_aversion), supply)
    cap, of, class_cap = (np.asarray(x) for x in (supply.cap, supply.classes, supply.class_cap))
    weights, _, _ = reference.best_allocation(mean, risk_aversion * covariance, cap, float(supply.gross), of, class_cap)
    np.testing.assert_allclose(outcome.weights, weights, atol=1e-4)
    assert _excess(outcome.weights, supply) < 1e-6
    np.testing.assert_array_equal(outcome.weights, _clear(bids, supply).weights)


@pytest.mark.parametrize(("name", "n"), [("futures", 25), ("stocks", 20)])
def test_rounds_of_bidding_end_at_the_best_portfolio_on_real_covariances(name, n):
    if not DAILY.exists():
        pytest.skip(f"real daily data is not at {DAILY}")
    file = {"stocks": "skfolio_sp500_dataset.csv.gz", "futures": "futures_return.csv.gz"}[name]
    table = pd.read_csv(DAILY / file, index_col=0)
    returns = (table.pct_change(fill_method=None) if name == "stocks" else table).dropna().to_numpy()
    mean, covariance = returns.mean(0), np.cov(returns.T)
    assert len(mean) == n
    for risk_aversion in (2.0, 10.0):
        outcome, _ = _auction(
            jnp.float32(mean), jnp.float32(covariance), jnp.float32(risk_aversion), _supply(1.0, np.full(n, 0.2))
        )
        weights, price, _ = reference.best_allocation(mean, risk_aversion * covariance, np.full(n, 0.2), 1.0)
        np.testing.assert_allclose(outcome.weights, weights, atol=1e-4)
        assert float(outcome.scarcity) == pytest.approx(price, abs=2e-3 * np.abs(mean).max())


def test_uncorrelated_agents_bid_their_mean_less_their_own_risk_and_need_one_round():
    mean, variance = np.array([0.004, 0.003, -0.001]), np.array([0.04, 0.01, 0.02]) ** 2
    supply = _supply(0.8, np.ones(3))
    outcome, bids = _auction(jnp.float32(mean), jnp.diag(jnp.float32(variance)), jnp.float32(5.0), supply, rounds=1)
    np.testing.assert_allclose(bids.value, mean, rtol=1e-6)
    np.testing.assert_allclose(bids.slope, 5.0 * variance, rtol=1e-6)
    weights, price = reference.clear_by_sorting(mean, 5.0 * variance, np.ones(3), 0.8)
    np.testing.assert_allclose(outcome.weights, weights, atol=1e-5)
    assert float(outcome.scarcity) == pytest.approx(price, abs=1e-8)
    more, _ = _auction(jnp.float32(mean), jnp.diag(jnp.float32(variance)), jnp.float32(5.0), supply)
    np.testing.assert_allclose(more.weights, outcome.weights, atol=1e-5)


def test_a_hedge_is_worth_capital_though_it_earns_nothing():
    covariance = jnp.array([[4e-4, -2e-4], [-2e-4, 4e-4]])
    outcome, _ = _auction(jnp.array([0.002, 0.0]), covariance, jnp.float32(10.0), _supply(2.0, np.ones(2)))
    # Stationarity: 10 C w = (0.002, 0), so w = (2 / 3, 1 / 3) and half of what the first gets.
    np.testing.assert_allclose(outcome.weights, [2 / 3, 1 / 3], atol=1e-4)


@pytest.mark.parametrize("silent", [0.0, 1e-12])
def test_an_agent_without_variance_does_not_spoil_the_market(silent):
    covariance = jnp.diag(jnp.array([1e-4, silent, 1e-4]))
    outcome, bids = _auction(jnp.array([0.001, 0.0, 0.001]), covariance, jnp.float32(10.0), _supply(1.0, np.ones(3)))
    np.testing.assert_allclose(outcome.weights, [0.5, 0.0, 0.5], atol=1e-5)
    assert bool(jnp.all(jnp.isfinite(bids.slope)))
    nothing, _ = _auction(jnp.zeros(3), jnp.zeros((3, 3)), jnp.float32(10.0), _supply(1.0, np.ones(3)))
    np.testing.assert_array_equal(nothing.weights, np.zeros(3))


def test_agents_who_earn_the_same_way_make_room_for_one_another():
    # 10 C w = m for every one of twelve, so w = m / (10 v (1 + 11 * 0.9)); whoever bid as if alone would ask for ten
    # times that, then for nothing.
    covariance = 1e-4 * (0.9 + 0.1 * np.eye(12))
    outcome, _ = _auction(
        jnp.full(12, 0.002), jnp.float32(covariance), jnp.float32(10.0), _supply(30.0, np.full(12, 3))
    )
    np.testing.assert_allclose(outcome.weights, np.full(12, 2 / 10.9), rtol=1e-4)


def test_the_guardrails_let_the_outcome_pass_untouched_whichever_limit_makes_capital_scarce():
    limits = guardrails.limits(
        12, max_weight=0.3, leverage=0.8, cash_floor=0.1, long_leverage=0.7, classes=np.arange(12) % 3, class_cap=0.3
    )
    rails = guardrails.guardrails(limits, risk_budget=0.002)
    nothing, cash = jnp.zeros(12), jnp.float32(1.0)
    bound = {"class": 0, "budget": 0, "gross": 0}
    for seed in range(10):
        mean, covariance = (jnp.float32(x) for x in _correlated(seed, 12, 0.3))
        supply = Supply.under(rails, covariance)
        outcome, _ = _auction(mean, covariance, jnp.float32(2.0), supply)
        _, granted, intervention = guardrails.guard(
            rails, guardrails.released(cash), outcome.weights, nothing, covariance, cash
        )
        np.testing.assert_array_equal(granted, outcome.weights)
        assert not bool(intervention.any)
        bound["class"] += int(np.max(outcome.price) > float(outcome.scarcity) + 1e-6)
        bound["budget"] += int(np.any((outcome.weights == supply.cap) & (supply.cap < 0.29)))
        bound["gross"] += int(float(outcome.weights.sum()) > 0.7 - 1e-5)
    assert min(bound.values()) >= 2


def test_the_auction_is_compiled_once_and_its_derivatives_are_finite():
    n = 10
    chex.clear_trace_counter()
    traced = jax.jit(chex.assert_max_traces(auction, n=1))
    supply = _supply(1.0, np.ones(n))
    for seed in range(3):
        mean, covariance = _correlated(seed, n, 0.3)
        traced(jnp.float32(mean), jnp.float32(covariance), jnp.float32(2.0), supply)

    def first(mean, covariance, risk_aversion):
        return auction(mean, covariance, risk_aversion, supply, rounds=4)[0].weights[0]

    gradient = jax.jit(jax.grad(first, argnums=(0, 1, 2)))(
        jnp.abs(jnp.float32(mean)), jnp.float32(covariance), jnp.float32(2.0)
    )
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in gradient)
