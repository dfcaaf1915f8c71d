"""The allocator's view of the market with regimes of correlation, against the filter's own scan over the rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marljax.data.schema import InputError
from marljax.envs.worlds import AllocationConfig
from marljax.portfolio import correlation_regimes
from marljax.portfolio.correlation_regimes import Regimes
from marljax.portfolio.market_state import cut_blocks, market_state

ASSUMED = AllocationConfig(covariance="regimes", covariance_half_life=50.0).regimes()
BEGIN = 150


@pytest.fixture(scope="module")
def returns():
    """Three products, correlated 0.1 and from row `BEGIN` on 0.9."""
    rng = np.random.default_rng(0)
    shared = np.where(np.arange(240) >= BEGIN, 0.9, 0.1)[:, None]
    drawn = np.sqrt(shared) * rng.normal(size=(240, 1)) + np.sqrt(1 - shared) * rng.normal(size=(240, 3))
    return jnp.float32(1e-3 * drawn)


def seen(returns, assumed, regimes=None):
    blocks = cut_blocks(np.zeros(240, int), 10)
    return market_state(returns, blocks, jnp.float32(50.0), jnp.float32(0.2), 10, regimes, assumed), blocks.start


def test_covariance_and_regime_of_a_block_are_those_of_the_filter_at_its_first_row(returns):
    state, starts = seen(returns, ASSUMED)
    rows = correlation_regimes.scan(correlation_regimes.init(3), returns, ASSUMED)
    expected = jax.vmap(lambda one: correlation_regimes.covariance(one, 0.2))(rows)[starts]
    np.testing.assert_allclose(state.covariance, expected, rtol=1e-4, atol=1e-12)
    np.testing.assert_allclose(state.regime, np.maximum(0.0, 2 * np.asarray(rows.probability)[starts] - 1), atol=1e-4)
    stressed = np.asarray(starts) >= BEGIN + 30
    assert np.asarray(state.regime)[stressed].mean() > 0.5
    assert np.asarray(state.regime)[np.asarray(starts) < BEGIN].mean() < 0.1


def test_correlation_is_noticed_sooner_than_by_the_exponential_average(returns):
    (aware, starts), (plain, _) = seen(returns, ASSUMED), seen(returns, None)
    soon = int(np.flatnonzero(np.asarray(starts) >= BEGIN + 20)[0])
    assert float(aware.correlation[soon] - plain.correlation[soon]) > 0.1


def test_a_turbulent_volatility_stays_turbulent_in_calm_correlations(returns):
    state, _ = seen(returns, ASSUMED, jnp.ones(240))
    np.testing.assert_array_equal(state.regime, 1.0)


def test_the_regimes_memories_are_in_proportion_to_the_half_life():
    assert AllocationConfig().regimes() is None
    usual, longer = Regimes(), AllocationConfig(covariance="regimes", covariance_half_life=500.0).regimes()
    assert (longer.stress_duration, longer.warm_up, longer.jump) == (2 * usual.stress_duration, 120.0, usual.jump)
    with pytest.raises(InputError, match="stress_duration"):
        AllocationConfig(covariance="regimes", covariance_half_life=5.0)
