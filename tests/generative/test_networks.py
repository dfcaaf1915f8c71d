"""The networks' causality and the critic's spectral normalisation."""

import jax
import jax.numpy as jnp
import numpy as np

from marljax.generative.interface import Holding
from marljax.generative.networks import CriticNetwork, GeneratorNetwork, coloured
from marljax.generative.spectral import initial_singular_vectors, power_iteration, spectrally_normalised

PRODUCTS, CHANNELS, STEPS, CONTEXT = 3, 12, 16, 8
HALF_LIVES = (0.0, 2.0, 8.0, 32.0)


def inputs(key):
    noise = jax.random.normal(key, (STEPS + 1, CHANNELS + len(HALF_LIVES)))
    context = jax.random.normal(key, (CONTEXT, CHANNELS))
    free = Holding.nothing(CHANNELS)
    return noise, jnp.zeros(len(HALF_LIVES)), context, jnp.float32(1.0), jnp.ones((PRODUCTS, 5)), free


def generator(key):
    network = GeneratorNetwork(16, PRODUCTS, HALF_LIVES)
    params = network.init(key, *inputs(key))["params"]
    noisy = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(key, x.shape), params)
    return lambda *xs: network.apply({"params": noisy}, *xs)[0]


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
    noise, latents, context, _, *rest = inputs(key)
    draw = generator(key)
    hidden = [draw(noise, latents, c, jnp.float32(0.0), *rest) for c in (context, context + 1)]
    np.testing.assert_array_equal(*hidden)
    present = [draw(noise, latents, c, jnp.float32(1.0), *rest) for c in (context, context + 1)]
    assert np.abs(present[0] - present[1]).max() > 0.05


def test_coloured_noise_is_standard_and_has_the_stated_half_lives():
    white = jax.random.normal(jax.random.key(0), (40_001, 4))
    noise = np.asarray(coloured(HALF_LIVES, white[0], white[1:]))
    np.testing.assert_allclose(noise.std(0), 1.0, atol=0.1)
    for x, half_life in zip(noise.T, HALF_LIVES, strict=True):
        lag = max(int(half_life), 1)
        expected = 0.5 if half_life else 0.0
        assert abs(np.corrcoef(x[lag:], x[:-lag])[0, 1] - expected) < 0.1


def test_every_critic_kernel_has_largest_singular_value_one():
    key = jax.random.key(2)
    network = CriticNetwork(24, CONTEXT, PRODUCTS)
    shown = (jnp.zeros((CONTEXT + STEPS, CHANNELS)), jnp.zeros((CONTEXT + STEPS, PRODUCTS, 2)))
    params = network.init(key, *shown, jnp.float32(1.0), jnp.ones((PRODUCTS, 5)))["params"]
    vectors = power_iteration(params, initial_singular_vectors(params), 8)
    bounded = spectrally_normalised(params, vectors)
    normalised = jax.tree_util.tree_leaves_with_path(bounded)
    assert sum(path[-1].key == "kernel" for path, _ in normalised) == 8
    for before, (path, after) in zip(jax.tree.leaves(params), normalised, strict=True):
        if path[-1].key == "kernel":
            assert abs(np.linalg.svd(after, compute_uv=False)[0] - 1) < 0.01
        else:
            np.testing.assert_array_equal(before, after)


def test_the_gradient_of_a_normalised_kernel_ignores_its_length():
    """d/ds of (s W) / sigma(s W) is zero: the gradient must flow through the singular value."""
    kernel = {"kernel": jax.random.normal(jax.random.key(0), (6, 4))}
    vectors = power_iteration(kernel, initial_singular_vectors(kernel), 8)
    target = jax.random.normal(jax.random.key(1), (6, 4))

    def loss(params):
        return jnp.sum(target * spectrally_normalised(params, vectors)["kernel"])

    gradient = jax.grad(loss)(kernel)["kernel"]
    assert abs(float(jnp.sum(gradient * kernel["kernel"]))) < 1e-3
    assert float(jnp.abs(gradient).max()) > 0.05


def test_latents_go_on_from_window_to_window():
    """A latent of half-life 32 remembers the window before; without its state it would begin anew."""
    key = jax.random.key(3)
    network = GeneratorNetwork(16, PRODUCTS, HALF_LIVES)
    noise, latents, *rest = inputs(key)
    params = network.init(key, noise, latents, *rest)
    _, quiet = network.apply(params, jnp.zeros_like(noise), jnp.ones(4), *rest)
    np.testing.assert_allclose(quiet, [0.0, 0.5**8, 0.5**2, 0.5**0.5], rtol=1e-5)


def test_products_differ_by_their_embedding_alone():
    """Two products with the same numbers and the same embedding are treated alike; another embedding is not."""
    key = jax.random.key(4)
    network = GeneratorNetwork(16, 2, HALF_LIVES)
    noise = jax.random.normal(key, (STEPS + 1, 8 + 4)).at[:, 4:8].set(0.0).at[:, :4].set(0.0)
    inputs = (noise, jnp.zeros(4), jnp.zeros((CONTEXT, 8)), jnp.float32(1.0), jnp.ones((2, 5)), Holding.nothing(8))
    params = network.init(key, *inputs)["params"]
    params = jax.tree.map(lambda x: x + 0.02, params)
    same = {**params, "products": jnp.ones((2, 8))}
    one, two = jnp.split(network.apply({"params": same}, *inputs)[0], 2, -1)
    np.testing.assert_allclose(one, two, atol=1e-6)
    other = {**params, "products": jnp.stack([jnp.ones(8), -jnp.ones(8)])}
    one, two = jnp.split(network.apply({"params": other}, *inputs)[0], 2, -1)
    assert float(jnp.abs(one - two).max()) > 0.01


def test_a_held_channel_keeps_its_value_exactly_until_its_flag_falls():
    key = jax.random.key(5)
    network = GeneratorNetwork(16, 1, HALF_LIVES)
    flags = jnp.array([2, 2, 0])
    holding = Holding(flags, jnp.array([0.3, 0.3, jnp.inf]), jnp.array([False, True, False]))
    inputs = (
        jax.random.normal(key, (STEPS + 1, 3 + 4)),
        jnp.zeros(4),
        jnp.ones((CONTEXT, 3)),
        jnp.float32(1.0),
        jnp.ones((1, 5)),
    )
    params = network.init(key, *inputs, holding)["params"] | {"mixing": jnp.eye(3)}
    scores = np.asarray(network.apply({"params": params}, *inputs, holding)[0])
    held = scores[1:, 2] > 0.3
    assert 2 < held.sum() < STEPS - 3
    np.testing.assert_array_equal(scores[1:, 0][held], scores[:-1, 0][held])
    np.testing.assert_array_equal(scores[1:, 1][held], 0.0)
    assert (np.abs(np.diff(scores, axis=0))[~held] > 1e-6).all()
