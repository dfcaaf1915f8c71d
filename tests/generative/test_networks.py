"""The networks' causality and the critic's spectral normalisation."""

import jax
import jax.numpy as jnp
import numpy as np

from marljax.generative.networks import (
    LATENT_HALF_LIVES,
    CriticNetwork,
    GeneratorNetwork,
    coloured,
    initial_singular_vectors,
    noise_width,
    power_iteration,
    spectrally_normalised,
)

CHANNELS, STEPS, CONTEXT = 12, 16, 8


def inputs(key):
    noise = jax.random.normal(key, (STEPS + 1, noise_width(2, CHANNELS)))
    return noise, jax.random.normal(key, (CONTEXT, CHANNELS)), jnp.float32(1.0), jnp.ones(5)


def generator(key):
    network = GeneratorNetwork(16, 2)
    params = network.init(key, *inputs(key))["params"]
    noisy = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(key, x.shape), params)
    return lambda *xs: network.apply({"params": noisy}, *xs)


def test_generated_steps_do_not_depend_on_later_noise():
    key = jax.random.key(0)
    noise, *rest = inputs(key)
    draw = generator(key)
    later = noise.at[10:].add(1.0)
    one, two = draw(noise, *rest), draw(later, *rest)
    np.testing.assert_array_equal(one[:9], two[:9])
    assert (np.abs(one[9:] - two[9:]).max(1) > 1e-3).all()


def test_a_hidden_context_has_no_influence_and_a_present_one_has():
    key = jax.random.key(1)
    noise, context, _, condition = inputs(key)
    draw = generator(key)
    hidden = [draw(noise, c, jnp.float32(0.0), condition) for c in (context, context + 1)]
    np.testing.assert_array_equal(*hidden)
    present = [draw(noise, c, jnp.float32(1.0), condition) for c in (context, context + 1)]
    assert np.abs(present[0] - present[1]).max() > 0.05


def test_coloured_noise_is_standard_and_has_the_stated_half_lives():
    noise = np.asarray(coloured(jax.random.normal(jax.random.key(0), (40_001, 4))))
    np.testing.assert_allclose(noise.std(0), 1.0, atol=0.1)
    for x, half_life in zip(noise.T, LATENT_HALF_LIVES, strict=True):
        lag = max(int(half_life), 1)
        expected = 0.5 if half_life else 0.0
        assert abs(np.corrcoef(x[lag:], x[:-lag])[0, 1] - expected) < 0.1


def test_every_critic_kernel_has_largest_singular_value_one():
    key = jax.random.key(2)
    network = CriticNetwork(24, CONTEXT, 3)
    params = network.init(key, jnp.zeros((CONTEXT + STEPS, CHANNELS)), jnp.float32(1.0), jnp.ones(5))["params"]
    vectors = power_iteration(params, initial_singular_vectors(params), 50)
    bounded = spectrally_normalised(params, vectors)
    kernels = [x for x in jax.tree.leaves(bounded) if x.ndim == 2]
    assert len(kernels) == 6
    for kernel in kernels:
        assert abs(np.linalg.svd(kernel, compute_uv=False)[0] - 1) < 0.02
    for before, after in zip(jax.tree.leaves(params), jax.tree.leaves(bounded), strict=True):
        if before.ndim == 1:
            np.testing.assert_array_equal(before, after)


def test_the_gradient_of_a_normalised_kernel_ignores_its_length():
    """d/ds of (s W) / sigma(s W) is zero: the gradient must flow through the singular value."""
    kernel = {"kernel": jax.random.normal(jax.random.key(0), (6, 4))}
    vectors = power_iteration(kernel, initial_singular_vectors(kernel), 100)
    target = jax.random.normal(jax.random.key(1), (6, 4))

    def loss(params):
        return jnp.sum(target * spectrally_normalised(params, vectors)["kernel"])

    gradient = jax.grad(loss)(kernel)["kernel"]
    assert abs(float(jnp.sum(gradient * kernel["kernel"]))) < 1e-3
    assert float(jnp.abs(gradient).max()) > 0.05
