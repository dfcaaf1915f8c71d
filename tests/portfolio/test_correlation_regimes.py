import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marljax.data.schema import InputError
from marljax.portfolio import correlation_regimes as regimes
from marljax.portfolio import covariance as plain
from tests.reference import allocation as reference

BEGIN, END, N_STEPS, N_PRODUCTS = 700, 800, 900, 10
CALM, STRESSED = 0.2, 0.8
PAIRS = ~np.eye(N_PRODUCTS, dtype=bool)
ASSUMED = regimes.Regimes()


def _market(seed: int, *, stressed: float = STRESSED, burst: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Returns with Student t tails and volatility that wanders; in [BEGIN, END) correlations are `stressed`, and moves
    `burst` times as large. Also the calm correlation matrix, whose pairs differ."""
    rng = np.random.default_rng(seed)
    loading = np.sqrt(CALM) * np.linspace(0.5, 1.5, N_PRODUCTS)
    volatility = np.clip(np.exp(0.03 * np.cumsum(rng.normal(size=N_STEPS))), 0.5, 2.0)
    volatility[BEGIN:END] *= burst
    in_stress = (np.arange(N_STEPS) >= BEGIN) & (np.arange(N_STEPS) < END)
    loadings = np.where(in_stress[:, None], np.sqrt(stressed) if stressed > CALM else loading, loading)
    common, own = rng.normal(size=(N_STEPS, 1)), rng.normal(size=(N_STEPS, N_PRODUCTS))
    size = volatility * np.sqrt(5 / rng.chisquare(5, size=N_STEPS))
    returns = size[:, None] * (loadings * common + np.sqrt(1 - loadings**2) * own)
    calm = np.outer(loading, loading)
    np.fill_diagonal(calm, 1.0)
    return (1e-3 * np.geomspace(1, 20, N_PRODUCTS) * returns).astype(np.float32), calm


@jax.jit
def _aware(returns, assumed):
    states = regimes.scan(regimes.init(returns.shape[1]), returns, assumed)
    return jax.vmap(lambda state: regimes.covariance(state, 0.0))(states), states.probability


@jax.jit
def _unaware(returns, halflife):
    states = plain.scan(plain.init(returns.shape[1]), returns, halflife)
    return jax.vmap(lambda state: plain.covariance(state, 0.0))(states)


def _correlations(covariances: jax.Array) -> np.ndarray:
    volatility = np.sqrt(np.diagonal(covariances, axis1=1, axis2=2))
    return np.asarray(covariances) / (volatility[:, :, None] * volatility[:, None, :])


@pytest.mark.parametrize("scale", [1e-5, 1.0])
@given(seed=st.integers(0, 10**6), n=st.sampled_from([2, 4]), jump=st.floats(0.2, 0.8))
def test_every_step_equals_the_sums_over_all_steps_before_it(scale, seed, n, jump):
    rng = np.random.default_rng(seed)
    returns = (scale * (rng.standard_t(5, size=(50, n)) @ rng.normal(size=(n, n)) + 0.2)).astype(np.float32)
    assumed = {
        "volatility_halflife": 9.0,
        "correlation_halflife": 25.0,
        "jump": jump,
        "evidence": 5.0,
        "calm_duration": 30.0,
        "stress_duration": 12.0,
        "warm_up": 10,
    }
    expected, ahead = reference.regime_covariances(returns.astype(np.float64), **assumed)
    got, probability = _exact(returns, regimes.Regimes(**assumed))
    np.testing.assert_allclose(probability, ahead, atol=2e-4)
    volatility = np.sqrt(np.diagonal(expected, axis1=1, axis2=2))[1:]
    error = (np.asarray(got, np.float64)[1:] - expected[1:]) / (volatility[:, :, None] * volatility[:, None, :])
    assert np.abs(error).max() < 2e-4


@jax.jit
def _exact(returns, assumed):
    states = regimes.scan(regimes.init(returns.shape[1]), returns, assumed)
    return jax.vmap(lambda state: regimes.covariance(state, 0.0, 0.0, 0.0))(states), states.probability


@functools.cache
def _jumps() -> dict[str, np.ndarray]:
    """Correlations [20, T, P, P] of twenty markets, by estimator, the probability of stress, and the truth in calm."""
    markets = [_market(seed) for seed in range(20)]
    returns = np.stack([returns for returns, _ in markets])
    covariances, probability = jax.vmap(_aware, (0, None))(returns, ASSUMED)
    estimates = {"aware": covariances}
    for name, halflife in (("slow", 250.0), ("fast", 20.0)):
        estimates[name] = jax.vmap(_unaware, (0, None))(returns, halflife)
    found = {name: np.stack([_correlations(c) for c in covariances]) for name, covariances in estimates.items()}
    return found | {"probability": np.asarray(probability), "calm": markets[0][1]}


def test_a_jump_of_correlations_is_known_ten_times_sooner_at_no_more_noise_in_calm():
    jumps, delay, noise = _jumps(), {}, {}
    for name in ("aware", "slow", "fast"):
        noise[name] = np.sqrt(np.mean((jumps[name][:, 300:BEGIN] - jumps["calm"])[..., PAIRS] ** 2))
        known = jumps[name][:, BEGIN:END, PAIRS].mean(-1) > (CALM + STRESSED) / 2
        delay[name] = np.median(np.where(known.any(1), known.argmax(1), END - BEGIN))
    # With equal memory the plain average never gets half way in a hundred steps; one that does is far noisier in calm.
    assert delay["aware"] <= 8
    assert delay["slow"] >= 10 * delay["aware"]
    assert noise["aware"] <= noise["slow"]
    assert delay["fast"] >= 3 * delay["aware"]
    assert noise["fast"] >= 2 * noise["aware"]


def test_calm_is_back_within_twenty_steps_of_its_return():
    after = {name: _jumps()[name][:, END + 20, PAIRS].mean() for name in ("aware", "slow")}
    assert abs(after["aware"] - CALM) < 0.07
    assert after["slow"] - CALM > 0.1


def test_the_stressed_regime_is_found_and_a_burst_of_volatility_does_not_pass_for_it():
    probability = _jumps()["probability"].mean(0)
    assert probability[300:BEGIN].mean() < 0.06
    assert probability[BEGIN + 10 : END].mean() > 0.85
    bursts = np.stack([_market(seed, stressed=CALM, burst=5.0)[0] for seed in range(20)])
    assert jax.vmap(_aware, (0, None))(bursts, ASSUMED)[1][:, BEGIN:END].mean() < 0.08


def test_the_assumed_jump_gives_way_to_the_correlations_that_stress_is_seen_to_have():
    # Calm correlations of 0.2 are taken to 0.44, and those of stress are 0.9: 0.72 is the better part of the way. What
    # the filter gave to stress in calm, a few steps in a hundred, weighs against it.
    assumed = ASSUMED.replace(jump=0.3, evidence=10.0)
    markets = np.stack([_market(seed, stressed=0.9)[0] for seed in range(20)])
    covariances, _ = jax.vmap(_aware, (0, None))(markets, assumed)
    along = np.mean([_correlations(c)[:, PAIRS].mean(1) for c in covariances], 0)
    assert along[BEGIN + 5] < 0.5
    assert along[END - 1] > 0.72


def test_the_future_does_not_touch_the_past():
    returns, _ = _market(1)
    later = np.where(np.arange(N_STEPS)[:, None] < 720, returns, -7 * returns[::-1])
    past, same = (jax.tree.map(lambda x: x[:720], _aware(r, ASSUMED)) for r in (returns, later))
    chex.assert_trees_all_equal(past, same)


def test_units_and_the_order_of_products_decide_nothing():
    returns, _ = _market(2)
    order = np.random.default_rng(0).permutation(N_PRODUCTS)
    covariance, probability = _aware(returns, ASSUMED)
    scaled, same = _aware(256.0 * returns, ASSUMED)
    np.testing.assert_allclose(same, probability, atol=1e-5)
    # At the first step nothing has moved, and the floor of volatility is in no unit but its own.
    np.testing.assert_allclose(scaled[1:], 256.0**2 * covariance[1:], rtol=1e-4)
    permuted, same = _aware(returns[:, order], ASSUMED)
    np.testing.assert_allclose(same, probability, atol=1e-3)
    np.testing.assert_allclose(permuted, covariance[:, order][:, :, order], rtol=1e-2, atol=1e-8)


@given(
    n_rows=st.integers(0, 5),
    scale=st.sampled_from([0.0, 1e-12, 1e-5, 1.0]),
    shrinkage=st.sampled_from([0.0, 0.3]),
    warm_up=st.sampled_from([0, 3]),
)
def test_covariance_is_positive_definite_with_few_or_constant_observations(n_rows, scale, shrinkage, warm_up):
    rng = np.random.default_rng(n_rows)
    returns = (scale * rng.normal(size=(5, 8))).astype(np.float32)
    returns[:, 0] = 0.01
    state = regimes.init(8)
    for row in returns[:n_rows]:
        state = _update(state, row, ASSUMED.replace(warm_up=jnp.float32(warm_up)))
    got = np.asarray(_covariance(state, shrinkage, 1e-3), np.float64)
    assert np.isfinite(got).all()
    np.testing.assert_array_equal(got, got.T)
    volatility = np.sqrt(np.diag(got))
    assert (volatility >= 0.999e-8).all()
    assert np.linalg.eigvalsh(got / np.outer(volatility, volatility)).min() > 0.99e-3


_update = jax.jit(regimes.update)
_covariance = jax.jit(regimes.covariance)


def test_one_product_has_volatility_and_no_regime():
    returns, _ = _market(0)
    covariance, probability = _aware(returns[:, :1], ASSUMED)
    expected = _unaware(returns[:, :1], ASSUMED.volatility_halflife)
    np.testing.assert_allclose(covariance[1:], expected[1:], rtol=1e-4)
    # Without evidence the probability is what the durations alone say: calm a share 250 / 300 of the time.
    assert float(probability[-1]) == pytest.approx(1 / 6, abs=1e-3)


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(regimes.Regimes)])
def test_every_number_of_the_regimes_acts(name):
    returns, _ = _market(0)
    changed = ASSUMED.replace(**{name: 0.5 * getattr(ASSUMED, name)})
    difference = _correlations(_aware(returns, changed)[0]) - _correlations(_aware(returns, ASSUMED)[0])
    assert np.abs(difference).max() > 0.02


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("jump", 1.0),
        ("jump", 0.0),
        ("calm_duration", 1.0),
        ("stress_duration", np.nan),
        ("evidence", 0.0),
        ("volatility_halflife", 0.0),
        ("correlation_halflife", -1.0),
        ("warm_up", -1.0),
    ],
)
def test_numbers_that_mean_nothing_are_refused_by_name(name, value):
    assert regimes.checked(ASSUMED) is ASSUMED
    with pytest.raises(InputError, match=f"{name} of the correlation regimes must be"):
        regimes.checked(ASSUMED.replace(**{name: value}))


def test_update_is_traced_once_for_all_numbers_and_vmaps():
    update = jax.jit(chex.assert_max_traces(regimes.update, n=1))
    state = regimes.init(3)
    for halflife in (5.0, 10.0, 20.0):
        numbers = jax.tree.map(jnp.float32, ASSUMED.replace(volatility_halflife=halflife))
        state = update(state, jnp.ones(3) * halflife, numbers)
    states = jax.jit(jax.vmap(regimes.update, in_axes=(None, 0, None)))(state, jnp.ones((2, 3)), ASSUMED)
    chex.assert_shape(states.correlation, (2, 3, 3))
