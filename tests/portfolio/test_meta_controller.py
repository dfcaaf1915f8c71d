"""What the meta-controller sees and what its actions mean."""

import chex
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import arrays

from marljax.portfolio.market_state import cut_blocks, market_state, row_returns
from marljax.portfolio.meta_controller import (
    AGENT_FEATURES,
    PORTFOLIO_FEATURES,
    MarketView,
    TrackRecord,
    ask,
    observation_size,
    observe,
    split,
)
from marljax.portfolio.risk_parity import risk_parity
from tests.reference.books import random_market

BASE = jnp.array([0.5, 0.3, 0.2])


def view(n=3, seed=0):
    rng = np.random.default_rng(seed)
    base = rng.dirichlet(np.ones(n))
    volatility, typical = rng.uniform(0.5, 2.0, (2, n)) * 0.01
    return MarketView(*map(jnp.float32, (base, volatility, typical, 0.3, 0.05, -0.5)))


def record(n=3, seed=1, steps=4, decay=0.8):
    """A track record of some rebalances, and the returns, turnovers and confidences it is of."""
    rows = np.random.default_rng(seed).normal(size=(steps, 3, n)).astype(np.float32) * [[[0.01], [0.1], [0.3]]]
    kept = TrackRecord.start(n, jnp.full(n, 0.01))
    for returns, turnover, confidence in rows:
        kept = kept.update(*map(jnp.float32, (returns, turnover, confidence)), jnp.float32(decay))
    return kept, rows


@pytest.mark.parametrize("gross", [1.0, 1.5, 0.3])
def test_without_tilts_at_full_exposure_the_base_is_asked_for_bit_by_bit(gross):
    for seed in range(20):
        base = jnp.float32(np.random.default_rng(seed).dirichlet(np.ones(7)))
        action = jnp.zeros(8).at[-1].set(1.0)
        np.testing.assert_array_equal(jax.jit(ask)(action, base, jnp.log(3.0), jnp.float32(gross)), gross * base)


def test_a_full_tilt_raises_a_share_threefold_against_another():
    asked = ask(jnp.array([1.0, 0.0, 0.0, 1.0]), BASE, jnp.log(3.0), 1.0)
    assert float(asked.sum()) == pytest.approx(1.0, rel=1e-5)
    assert float(asked[0] / asked[1]) == pytest.approx(3 * 0.5 / 0.3, rel=1e-5)
    assert float(asked[1] / asked[2]) == pytest.approx(0.3 / 0.2, rel=1e-5)


def test_a_tilt_of_zero_allows_none():
    np.testing.assert_array_equal(ask(jnp.array([1.0, -1.0, 0.5, 1.0]), BASE, 0.0, 1.0), BASE)


@given(arrays(np.float32, 6, elements=st.floats(-1, 1, width=32)), st.floats(0.0, 3.0), st.floats(0.1, 4.0))
def test_what_is_asked_for_is_long_and_of_the_gross_exposure_that_the_last_entry_says(action, tilt, gross):
    base = jnp.float32([0.4, 0.3, 0.2, 0.1, 0.0])
    asked = np.asarray(ask(jnp.asarray(action), base, tilt, gross), np.float64)
    assert (asked >= 0).all()
    assert asked.sum() == pytest.approx(gross * (1 + float(action[-1])) / 2, rel=1e-5, abs=1e-7)


def test_agents_in_another_order_are_asked_for_in_that_order():
    order = np.array([2, 0, 1])
    action = jnp.array([0.7, -0.2, 0.1, 0.5])
    asked = ask(action, BASE, 1.0, 1.0)
    np.testing.assert_allclose(ask(action[np.append(order, 3)], BASE[order], 1.0, 1.0), asked[order], rtol=1e-6)


def test_every_column_of_the_observation_is_what_its_name_says():
    kept, rows = record()
    market, weights = view(), np.array([0.1, -0.3, 0.2])
    agents, portfolio = split(observe(kept, market, jnp.float32(weights), jnp.float32(0.04)))
    mean, square = np.zeros(3), np.full(3, 0.01**2)
    for returns in rows[:, 0]:
        mean, square = 0.8 * mean + 0.2 * returns, 0.8 * square + 0.2 * returns**2
    equity = np.cumsum(rows[:, 0], 0)
    typical = np.asarray(market.typical_volatility)
    expected = {
        "mean_return": mean / np.sqrt(square),
        "last_return": rows[-1, 0] / np.sqrt(square),
        "volatility": np.log(np.sqrt(square) / typical),
        "drawdown": (np.maximum(equity.max(0), 0) - equity[-1]) / (10 * typical),
        "turnover": rows[-1, 1],
        "confidence": rows[-1, 2],
        "weight": 3 * weights,
        "market_volatility": np.log(np.asarray(market.volatility) / typical),
        "base_weight": 3 * np.asarray(market.base),
    }
    assert tuple(expected) == AGENT_FEATURES
    np.testing.assert_allclose(agents, np.stack(list(expected.values()), -1), rtol=1e-4, atol=1e-5)
    seen = {"drawdown": 0.04 / (10 * typical.mean()), "gross": 0.6, "cash": 0.4}
    seen |= {"correlation": 0.3, "correlation_change": 0.05, "volatility_regime": -0.5}
    assert tuple(seen) == PORTFOLIO_FEATURES
    np.testing.assert_allclose(portfolio, list(seen.values()), rtol=1e-4)


def test_an_observation_is_of_agents_in_their_order_and_of_a_portfolio_that_has_none():
    order = np.array([3, 1, 4, 0, 2])
    kept, market, weights = record(5)[0], view(5), jnp.float32(np.random.default_rng(2).dirichlet(np.ones(5)))
    reordered = jax.tree.map(lambda x: x[order] if x.ndim else x, (kept, market))
    agents, portfolio = split(observe(kept, market, weights, jnp.float32(0.1)))
    moved, same = split(observe(*reordered, weights[order], jnp.float32(0.1)))
    np.testing.assert_array_equal(moved, agents[order])
    np.testing.assert_allclose(same, portfolio, rtol=1e-6)


def test_the_observation_is_bounded_and_finite_whatever_the_record():
    wild = jnp.array([1e9, -1e9, 0.0])
    still = MarketView(BASE, jnp.zeros(3), jnp.zeros(3), jnp.float32(1.0), jnp.float32(-2.0), jnp.float32(1.0))
    for kept in (
        TrackRecord.start(3, jnp.zeros(3)),
        TrackRecord(wild, wild**2, wild, wild, jnp.abs(wild), jnp.abs(wild), jnp.ones(3)),
    ):
        seen = observe(kept, still, BASE, jnp.float32(0.9))
        chex.assert_shape(seen, (observation_size(3),))
        chex.assert_tree_all_finite(seen)
        assert float(jnp.abs(seen).max()) <= 5.0


def test_the_record_forgets_with_its_half_life():
    kept = TrackRecord.start(1, jnp.ones(1)).update(jnp.array([0.2]), jnp.zeros(1), jnp.zeros(1), jnp.float32(0.5))
    assert float(kept.mean[0]) == pytest.approx(0.1)
    for _ in range(10):
        kept = kept.update(jnp.zeros(1), jnp.zeros(1), jnp.zeros(1), jnp.float32(0.5))
    assert float(kept.mean[0]) == pytest.approx(0.1 / 2**10, rel=1e-4)
    assert float(kept.peak[0]) == pytest.approx(0.2)
    assert float(kept.last[0]) == 0.0


def test_blocks_tile_every_session():
    blocks = cut_blocks(np.repeat([3, 4, 9], [10, 4, 7]), 4)
    assert blocks.start.tolist() == [0, 4, 8, 10, 14, 18]
    assert blocks.length.tolist() == [4, 4, 2, 4, 4, 3]


def test_the_base_is_risk_parity_on_the_returns_up_to_the_blocks_first_row():
    data = random_market(n_products=3, n_steps=120)
    returns = np.asarray(row_returns(data), np.float64)
    blocks = cut_blocks(np.asarray(data.session), 10)
    state = market_state(row_returns(data), blocks, jnp.float32(25.0), jnp.float32(0.0), 10)
    seen = returns[:71]
    weights = 0.5 ** (np.arange(70, -1, -1) / 25.0)
    centred = seen - np.average(seen, axis=0, weights=weights)
    covariance = (weights[:, None] * centred).T @ centred / weights.sum()
    np.testing.assert_allclose(state.base[7], risk_parity(jnp.asarray(covariance, jnp.float32)), atol=2e-3)
    bias = 1 - (weights**2).sum() / weights.sum() ** 2
    np.testing.assert_allclose(state.volatility[7], np.sqrt(np.diag(covariance) / bias), rtol=2e-3)
    changed = jnp.asarray(returns, jnp.float32).at[71:].set(9.0)
    after = market_state(changed, blocks, jnp.float32(25.0), jnp.float32(0.0), 10)
    chex.assert_trees_all_equal(*(jax.tree.map(lambda x: x[:8], s) for s in (state, after)))


def test_returns_across_sessions_are_zero():
    data = random_market(n_products=2, n_steps=40, n_sessions=2)
    returns = row_returns(data)
    assert not jnp.any(returns[jnp.array([0, 20])])
    mid = np.asarray(data.double_mid, np.float64)
    np.testing.assert_allclose(returns[7], np.log(mid[7] / mid[6]), rtol=1e-4, atol=1e-8)


def test_one_trace_serves_every_market_of_one_shape():
    chex.clear_trace_counter()
    traced = chex.assert_max_traces(market_state.__wrapped__, n=1)
    along = jax.jit(traced, static_argnames="rows_per_block")
    for seed in range(3):
        data = random_market(seed, n_products=2, n_steps=60)
        blocks = cut_blocks(np.asarray(data.session), 10)
        along(row_returns(data), blocks, jnp.float32(10.0 + seed), jnp.float32(0.1), rows_per_block=10)
