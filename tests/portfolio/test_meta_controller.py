"""What the meta-controller sees and what its actions mean."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marljax.portfolio.guardrails import limits
from marljax.portfolio.market_state import cut_blocks, market_state, row_returns
from marljax.portfolio.meta_controller import TrackRecord, allocate, observation_size, observe
from marljax.portfolio.risk_parity import risk_parity
from tests.reference.books import random_market

BASE = jnp.array([0.5, 0.3, 0.2])
WIDE = limits(3, leverage=1.0, max_weight=1.0)


def test_a_neutral_action_keeps_the_base_at_half_exposure():
    weights, asked, _ = allocate(jnp.zeros(4), BASE, jnp.log(3.0), WIDE)
    np.testing.assert_allclose(weights, 0.5 * BASE, rtol=1e-6)
    np.testing.assert_array_equal(weights, asked)


def test_a_full_tilt_raises_a_share_threefold_against_another():
    weights, _, _ = allocate(jnp.array([1.0, 0.0, 0.0, 1.0]), BASE, jnp.log(3.0), WIDE)
    assert float(weights.sum()) == pytest.approx(1.0, rel=1e-5)
    assert float(weights[0] / weights[1]) == pytest.approx(3 * 0.5 / 0.3, rel=1e-5)
    assert float(weights[1] / weights[2]) == pytest.approx(0.3 / 0.2, rel=1e-5)


def test_the_guardrails_have_the_last_word_and_say_so():
    weights, asked, intervention = allocate(
        jnp.array([1.0, -1.0, -1.0, 1.0]), BASE, jnp.log(3.0), limits(3, leverage=1.0, max_weight=0.4)
    )
    assert float(asked[0]) > 0.8
    assert float(weights[0]) == pytest.approx(0.4, abs=1e-6)
    assert intervention.long_cap.tolist() == [True, False, False]


def test_the_observation_is_bounded_and_finite_whatever_the_record():
    wild = jnp.array([1e9, -1e9, 0.0])
    for record in (
        TrackRecord.start(3, jnp.zeros(3)),
        TrackRecord(wild, wild**2, wild, jnp.abs(wild), jnp.abs(wild), jnp.ones(3)),
    ):
        seen = observe(record, BASE, jnp.float32(0.9), BASE, jnp.zeros(3), jnp.zeros(3), jnp.float32(1.0))
        chex.assert_shape(seen, (observation_size(3),))
        chex.assert_tree_all_finite(seen)
        assert float(jnp.abs(seen).max()) <= 5.0


def test_the_record_forgets_with_its_half_life():
    record = TrackRecord.start(1, jnp.ones(1)).update(jnp.array([0.2]), jnp.zeros(1), jnp.zeros(1), jnp.float32(0.5))
    assert float(record.mean[0]) == pytest.approx(0.1)
    for _ in range(10):
        record = record.update(jnp.zeros(1), jnp.zeros(1), jnp.zeros(1), jnp.float32(0.5))
    assert float(record.mean[0]) == pytest.approx(0.1 / 2**10, rel=1e-4)
    assert float(record.peak[0]) == pytest.approx(0.2)


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
