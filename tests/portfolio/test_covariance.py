import chex
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.covariance import LedoitWolf

from marljax.portfolio import covariance as cov
from tests.reference import portfolio as reference


def _returns(seed: int, n_steps: int, n_products: int, scale: float = 1.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(n_products, n_products))
    return (scale * (rng.standard_t(4, size=(n_steps, n_products)) @ mixing + 0.3)).astype(np.float32)


def _relative_error(got: jax.Array, expected: np.ndarray) -> float:
    volatility = np.sqrt(np.diag(expected))
    return float(np.abs((np.asarray(got, np.float64) - expected) / np.outer(volatility, volatility)).max())


_after = jax.jit(lambda returns, halflife: jax.tree.map(lambda x: x[-1], cov.scan(cov.init(4), returns, halflife)))
_batch = jax.jit(cov.batch)
_covariance = jax.jit(cov.covariance, static_argnames="target")
_ledoit_wolf = jax.jit(cov.ledoit_wolf, static_argnames="target")


@pytest.mark.parametrize("scale", [1e-5, 1.0, 1e3])
@given(seed=st.integers(0, 10**6), halflife=st.floats(2, 1e5))
def test_online_equals_batch_and_definition_for_returns_of_any_size(scale, seed, halflife):
    returns = _returns(seed, 60, 4, scale)
    expected = reference.weighted_covariance(returns.astype(np.float64), halflife)
    for state in (_after(returns, halflife), _batch(returns, halflife)):
        got = _covariance(state, 0.0, 0.0, 0.0)
        assert _relative_error(got, expected) < 2e-5
        # Kish's number is a difference of nearly equal terms nowhere: three digits would already betray a wrong weight.
        weights = 0.5 ** (np.arange(60) / halflife)
        assert state.observations == pytest.approx(weights.sum() ** 2 / (weights**2).sum(), rel=1e-4)


def test_matches_pandas_at_every_step():
    returns = _returns(0, 40, 4)
    states = cov.scan(cov.init(4), jnp.asarray(returns), 7.0)
    got = jax.vmap(lambda s: cov.covariance(s, 0.0, 0.0, 0.0))(states)
    frame = pd.DataFrame(returns.astype(np.float64)).ewm(halflife=7).cov()
    for t in range(2, 40):
        assert _relative_error(got[t], frame.loc[t].to_numpy()) < 1e-5


def test_infinite_halflife_is_the_sample_covariance():
    returns = _returns(3, 200, 4)
    expected = np.cov(returns.astype(np.float64).T)
    assert _relative_error(_covariance(_after(returns, np.inf), 0.0, 0.0, 0.0), expected) < 1e-5


def test_the_future_does_not_touch_the_past():
    returns = _returns(1, 50, 4)
    later = np.where(np.arange(50)[:, None] < 30, returns, -7 * returns)
    past = jax.tree.map(lambda x: x[:30], cov.scan(cov.init(4), returns, 10.0))
    same = jax.tree.map(lambda x: x[:30], cov.scan(cov.init(4), later, 10.0))
    chex.assert_trees_all_equal(past, same)


@given(
    n_rows=st.integers(0, 5),
    scale=st.sampled_from([0.0, 1e-12, 1e-5, 1.0]),
    shrinkage=st.sampled_from([0.0, 0.3, 1.0]),
    target=st.sampled_from(["diagonal", "constant_correlation"]),
)
def test_covariance_is_positive_definite_with_few_or_constant_observations(n_rows, scale, shrinkage, target):
    returns = np.zeros((5, 8), np.float32)
    returns[:] = _returns(n_rows, 5, 8, scale)
    returns[:, 0] = 0.01
    state = cov.init(8)
    for row in returns[:n_rows]:
        state = cov.update(state, row, 20.0)
    got = np.asarray(_covariance(state, shrinkage, 1e-3, 1e-8, target=target), np.float64)
    assert np.isfinite(got).all()
    np.testing.assert_array_equal(got, got.T)
    volatility = np.sqrt(np.diag(got))
    assert (volatility >= 0.999e-8).all()
    assert np.linalg.eigvalsh(got / np.outer(volatility, volatility)).min() > 0.99e-3


def test_shrinkage_keeps_variances_and_moves_correlations_all_the_way():
    state = _batch(_returns(5, 300, 4), 1e6)
    plain = np.asarray(_covariance(state, 0.0, 0.0))
    np.testing.assert_allclose(_covariance(state, 1.0, 0.0), np.diag(np.diag(plain)), rtol=1e-6)
    half = _covariance(state, 0.5, 0.0)
    np.testing.assert_allclose(half, (plain + np.diag(np.diag(plain))) / 2, rtol=1e-5)
    volatility = np.sqrt(np.diag(plain))
    correlation = plain / np.outer(volatility, volatility)
    mean = (correlation.sum() - 4) / 12
    constant = np.asarray(_covariance(state, 1.0, 0.0, target="constant_correlation")) / np.outer(
        volatility, volatility
    )
    np.testing.assert_allclose(constant[~np.eye(4, dtype=bool)], mean, atol=1e-6)


@given(seed=st.integers(0, 10**6), scale=st.sampled_from([1e-5, 1.0]), n_steps=st.sampled_from([10, 200]))
def test_ledoit_wolf_equals_scikit_learn_on_standardised_returns(seed, scale, n_steps):
    returns = _returns(seed, n_steps, 6, scale)
    exact = returns.astype(np.float64)
    sklearn = LedoitWolf().fit((exact - exact.mean(0)) / exact.std(0))
    got, intensity = _ledoit_wolf(returns, floor=0.0)
    assert float(intensity) == pytest.approx(sklearn.shrinkage_, abs=1e-4)
    expected = sklearn.covariance_ * np.outer(exact.std(0), exact.std(0))
    assert _relative_error(got, expected) < 1e-4


@given(seed=st.integers(0, 10**6), scale=st.sampled_from([1e-5, 1.0]))
def test_constant_correlation_intensity_equals_the_papers_sums(seed, scale):
    returns = _returns(seed, 50, 6, scale)
    _, intensity = _ledoit_wolf(returns, target="constant_correlation")
    expected = reference.constant_correlation_intensity(returns.astype(np.float64))
    assert float(intensity) == pytest.approx(expected, abs=2e-4)


def test_shrinkage_cuts_the_error_of_a_short_history():
    rng = np.random.default_rng(0)
    truth = np.full((20, 20), 0.3) + 0.7 * np.eye(20)
    errors = {"sample": [], "diagonal": [], "constant_correlation": []}
    for _ in range(20):
        returns = jnp.asarray(rng.multivariate_normal(np.zeros(20), truth, size=30), jnp.float32)
        sample = np.cov(returns.T, bias=True)
        errors["sample"].append(((sample - truth) ** 2).sum())
        for target in ("diagonal", "constant_correlation"):
            errors[target].append(((_ledoit_wolf(returns, target=target)[0] - truth) ** 2).sum())
    error = {name: np.mean(values) for name, values in errors.items()}
    assert error["diagonal"] < 0.9 * error["sample"]
    assert error["constant_correlation"] < 0.5 * error["sample"]


def test_update_is_traced_once_for_all_numbers():
    update = jax.jit(chex.assert_max_traces(cov.update, n=1))
    read = jax.jit(chex.assert_max_traces(lambda s, k, f: cov.covariance(s, k, f), n=1))
    state = cov.init(3)
    for halflife in (5.0, 10.0, 20.0):
        state = update(state, jnp.ones(3) * halflife, jnp.float32(halflife))
        read(state, jnp.float32(1 / halflife), jnp.float32(1e-3))
    states = jax.vmap(cov.update, in_axes=(None, 0, 0))(state, jnp.ones((2, 3)), jnp.array([5.0, 50.0]))
    chex.assert_shape(states.covariance, (2, 3, 3))


def test_unknown_target_is_refused():
    with pytest.raises(ValueError, match="target must be"):
        cov.shrink(jnp.eye(2), 0.5, "identity")
