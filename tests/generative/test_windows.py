"""What a critic is shown in training is what a session would hold."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marljax.generative.books import decompose
from marljax.generative.dataset import draw_numbers, make_dataset, sample_batch
from marljax.generative.representation import HALF_LIFE, fit
from marljax.generative.wgan_gp import GanConfig, critic_of, init, networks
from marljax.generative.windows import between, derived_features, generated_windows, real_windows
from tests.reference.generative import toy_market

CONFIG = GanConfig(window=8, context=16, stride=3, hidden=8, latents=1, batch=64, context_dropout=0.3)


@functools.cache
def shown():
    """A market, its dataset, a state, a batch, and the windows of both kinds."""
    data = toy_market(0, n_steps=2500, n_levels=1, clustering=0.97)
    dataset, _ = make_dataset(fit(data), data, CONFIG, 0)
    state = init(jax.random.key(0), dataset, CONFIG)
    drawn = jax.tree.map(lambda x: x[0], draw_numbers(jax.random.key(1), dataset, CONFIG))
    batch = sample_batch(drawn, dataset, CONFIG)
    fake = generated_windows(networks(CONFIG, 2)[0], state.generator, dataset, batch, CONFIG)
    starts = np.asarray(dataset.starts)[(np.asarray(drawn.uniform)[:, 0] * len(dataset.starts)).astype(int)]
    return data, dataset, state, batch, real_windows(batch), fake, starts


def regime_by_hand(representation, variance: np.ndarray) -> np.ndarray:
    return (variance[..., None] > np.asarray(representation.regime_edges)).sum(-1)


def test_a_generated_window_stands_under_the_regime_that_its_own_context_leaves():
    """The trailing variance is redone in NumPy along the moves of the books that the context decodes to."""
    _, dataset, _, batch, _, fake, _ = shown()
    representation, differs = dataset.representation, 0
    for b in np.flatnonzero(np.asarray(batch.present)):
        anchor = jax.tree.map(lambda x, b=b: x[b], fake.anchor)
        (parts, _), _ = representation.decode(fake.scores[b, : CONFIG.context].reshape(CONFIG.context, 2, -1), anchor)
        variance, decay = np.asarray(anchor.variance, np.float64), 0.5 ** (1 / HALF_LIFE)
        for move in np.asarray(parts.move, np.float64):
            variance = decay * variance + (1 - decay) * move**2
        np.testing.assert_array_equal(
            np.asarray(fake.condition[b, :, :3]).argmax(-1), regime_by_hand(representation, variance)
        )
        differs += (np.asarray(fake.condition[b, :, :3]).argmax(-1) != np.asarray(batch.regime[b])).any()
    assert differs > 5, "some contexts must leave another regime than the real rows did"


def test_the_anchor_of_a_generated_context_is_that_of_the_recorded_rows_it_begins_with():
    """A context longer than the window begins with real rows, whose variance and price the data set knows."""
    data, dataset, _, batch, real, fake, starts = shown()
    seen = np.asarray(batch.present) > 0
    first = starts[seen] + CONFIG.window
    np.testing.assert_array_equal(np.asarray(fake.anchor.level)[seen], np.asarray(data.double_mid)[first - 1])
    np.testing.assert_allclose(np.asarray(fake.anchor.variance)[seen], np.asarray(dataset.variance)[first], rtol=1e-4)
    np.testing.assert_array_equal(np.asarray(real.anchor.level), np.asarray(data.double_mid)[starts - 1])
    np.testing.assert_array_equal(np.asarray(fake.anchor.variance)[~seen], np.asarray(real.anchor.variance)[~seen])


def test_real_windows_stand_under_the_regime_before_their_first_row():
    data, dataset, _, _, real, _, starts = shown()
    moves = np.asarray(decompose(data)[0].move, np.float64)
    session, decay = np.asarray(data.session), 0.5 ** (1 / HALF_LIFE)
    for b in range(10):
        first = starts[b] + CONFIG.context
        variance = np.asarray(dataset.representation.long_run, np.float64)
        begin = np.flatnonzero(session == session[first])[0]
        for move in moves[begin + 1 : first]:
            variance = decay * variance + (1 - decay) * move**2
        assert (
            np.asarray(real.condition[b, :, :3]).argmax(-1).tolist()
            == regime_by_hand(dataset.representation, variance).tolist()
        )


def test_the_clock_of_a_generated_window_is_one_window_later():
    _, dataset, _, batch, _, fake, _ = shown()
    passing = dataset.representation.step_seconds * CONFIG.window / dataset.representation.session_seconds
    clock = np.asarray(batch.clock) + np.where(batch.present > 0, float(passing), 0)
    clock = np.where(batch.present > 0, np.minimum(clock, 1), clock)
    np.testing.assert_allclose(fake.condition[:, 0, 3], np.cos(np.pi * clock), atol=1e-5)


@pytest.mark.parametrize("present", [0.0, 1.0])
def test_a_hidden_context_tells_the_critic_nothing(present):
    _, dataset, state, _, real, _, _ = shown()
    windows = real.replace(present=jnp.full(CONFIG.batch, present))
    critic = critic_of(networks(CONFIG, 2)[1], state.critic, state, dataset, windows)
    other = jnp.roll(windows.scores, 1, 0).at[:, CONFIG.context :].set(windows.scores[:, CONFIG.context :])
    one, two = (jax.vmap(critic)(jnp.arange(CONFIG.batch), x) for x in (windows.scores, other))
    assert (np.abs(np.asarray(one - two)).max() > 1e-3) == (present > 0)
    if present == 0:
        np.testing.assert_array_equal(one, two)


def test_windows_between_mix_every_condition():
    _, _, _, _, real, fake, _ = shown()
    middle = between(jnp.full(CONFIG.batch, 0.25), real, fake)
    np.testing.assert_allclose(middle.condition, 0.25 * real.condition + 0.75 * fake.condition, atol=1e-6)
    np.testing.assert_allclose(
        middle.anchor.variance, 0.25 * real.anchor.variance + 0.75 * fake.anchor.variance, rtol=1e-5
    )
    assert middle.anchor.level.dtype == jnp.int32


def test_derived_features_depend_on_the_variance_before_the_first_row():
    """Moves are in units of that variance: four times as much doubles them."""
    _, dataset, _, _, real, _, _ = shown()
    calm = jax.tree.map(lambda x: x[0], real.anchor)
    wild = calm.replace(variance=4 * calm.variance)
    one, two = (derived_features(dataset, CONFIG, real.scores[0], anchor) for anchor in (calm, wild))
    volatility = dataset.representation.features.feature_names.index("volatility")
    assert (np.asarray(two)[10:16, :, volatility] > np.asarray(one)[10:16, :, volatility]).mean() > 0.8
