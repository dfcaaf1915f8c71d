import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate

from marljax.agents.distributions import TanhNormal, log_det_tanh
from tests.reference.learning import squashed_log_prob


@pytest.mark.parametrize(("mean", "log_std"), [(0.0, -1.0), (0.8, 0.0), (-2.0, 0.5), (0.3, -3.5)])
def test_density_of_the_action_integrates_to_one(mean, log_std):
    distribution = TanhNormal(jnp.array([mean]), jnp.array([log_std]))
    u = np.linspace(mean - 9 * np.exp(log_std), mean + 9 * np.exp(log_std), 4001)
    density = np.exp(np.asarray(jax.vmap(distribution.log_prob)(jnp.asarray(u[:, None], jnp.float32)), np.float64))
    # Integrated over the action a = tanh(u), da = du / cosh(u)^2, where the density may grow without bound.
    assert integrate.trapezoid(density / np.cosh(u) ** 2, u) == pytest.approx(1.0, abs=1e-4)


def test_log_prob_is_that_of_the_oracle():
    rng = np.random.default_rng(0)
    for _ in range(20):
        mean, log_std, u = rng.normal(size=3), rng.uniform(-3, 1, 3), rng.normal(size=3)
        ours = TanhNormal(*map(jnp.float32, (mean, log_std))).log_prob(jnp.float32(u))
        assert float(ours) == pytest.approx(squashed_log_prob(mean, log_std, u), rel=1e-4, abs=1e-4)


def test_log_det_tanh_is_the_derivative_of_tanh():
    u = jnp.linspace(-4, 4, 33)
    np.testing.assert_allclose(np.exp(log_det_tanh(u)), jax.vmap(jax.grad(jnp.tanh))(u), rtol=2e-3, atol=1e-7)


def test_wide_distributions_stay_finite_with_gradients():
    def total(mean, log_std):
        distribution = TanhNormal(mean, log_std)
        pre_tanh = distribution.pre_tanh(jnp.array([6.0, -6.0]))
        return distribution.log_prob(pre_tanh) + distribution.entropy(jnp.array([6.0, -6.0]))

    value, grads = jax.value_and_grad(total, argnums=(0, 1))(jnp.array([20.0, -20.0]), jnp.array([2.0, 2.0]))
    assert np.isfinite(value)
    assert all(np.isfinite(g).all() for g in grads)


def test_sampled_entropy_averages_to_minus_the_mean_log_prob():
    distribution = TanhNormal(jnp.array([0.5]), jnp.array([-0.3]))
    noise = jax.random.normal(jax.random.key(0), (200_000, 1))
    sampled = jax.vmap(distribution.entropy)(noise).mean()
    direct = -jax.vmap(distribution.log_prob)(distribution.pre_tanh(noise)).mean()
    assert float(sampled) == pytest.approx(float(direct), abs=0.01)
    assert float(sampled) < np.log(2.0)
