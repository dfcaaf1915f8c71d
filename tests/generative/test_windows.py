"""What a critic is shown in training is what a session would hold."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marljax.generative.books import decompose
from marljax.generative.dataset import draw_numbers, make_dataset, sample_batch
from marljax.generative.interface import Anchor
from marljax.generative.representation import HALF_LIFE, fit
from marljax.generative.wgan_gp import GanConfig, critic_of, gradient_penalty, init, networks
from marljax.generative.windows import Seen, between, derived_features, distance, generated_windows, real_windows
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
    network = networks(CONFIG, 2)[0]
    # In one program, which compiles sooner than its operations do one by one.
    fake = jax.jit(lambda *given: generated_windows(network, *given, CONFIG))(state.generator, dataset, batch)
    starts = np.asarray(dataset.starts)[(np.asarray(drawn.uniform)[:, 0] * len(dataset.starts)).astype(int)]
    return data, dataset, state, batch, real_windows(dataset.representation, batch), fake, starts


def regime_by_hand(representation, variance: np.ndarray) -> np.ndarray:
    return (variance[..., None] > np.asarray(representation.regime_edges)).sum(-1)


def test_a_generated_window_stands_under_the_regime_that_its_own_context_leaves():
    """The trailing variance is redone in NumPy along the moves of the books that the context decodes to."""
    _, dataset, _, batch, _, fake, _ = shown()
    representation, differs = dataset.representation, 0
    decode = jax.jit(representation.decode)
    for b in np.flatnonzero(np.asarray(batch.present)):
        anchor = Anchor(fake.level[b], fake.seen.told()[1][b])
        (parts, _), _ = decode(fake.seen.scores[b, : CONFIG.context].reshape(CONFIG.context, 2, -1), anchor)
        variance, decay = np.asarray(anchor.variance, np.float64), 0.5 ** (1 / HALF_LIFE)
        for move in np.asarray(parts.move, np.float64):
            variance = decay * variance + (1 - decay) * move**2
        np.testing.assert_array_equal(
            np.asarray(fake.seen.condition[b, :, :3]).argmax(-1), regime_by_hand(representation, variance)
        )
        differs += (np.asarray(fake.seen.condition[b, :, :3]).argmax(-1) != np.asarray(batch.regime[b])).any()
    assert differs > 5, "some contexts must leave another regime than the real rows did"


def test_the_anchor_of_a_generated_context_is_that_of_the_recorded_rows_it_begins_with():
    """A context longer than the window begins with real rows, whose variance and price the data set knows."""
    data, dataset, _, batch, real, fake, starts = shown()
    seen = np.asarray(batch.present) > 0
    first = starts[seen] + CONFIG.window
    np.testing.assert_array_equal(np.asarray(fake.level)[seen], np.asarray(data.double_mid)[first - 1])
    for windows, rows in ((fake, first), (real, starts[seen])):
        variance = np.asarray(windows.seen.told()[1])[seen]
        np.testing.assert_allclose(variance, np.asarray(dataset.variance)[rows], rtol=1e-4)
    np.testing.assert_array_equal(np.asarray(real.level), np.asarray(data.double_mid)[starts - 1])


def test_a_window_without_context_begins_with_what_is_typical_of_its_regime():
    _, dataset, _, batch, real, fake, _ = shown()
    typical = np.asarray(dataset.representation.regime_variance)
    for b in np.flatnonzero(np.asarray(batch.present) == 0):
        expected = [typical[p, r] for p, r in enumerate(np.asarray(batch.regime[b]))]
        for windows in (real, fake):
            np.testing.assert_allclose(windows.seen.told()[1][b], expected, rtol=1e-4)


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
            np.asarray(real.seen.condition[b, :, :3]).argmax(-1).tolist()
            == regime_by_hand(dataset.representation, variance).tolist()
        )


def test_the_clock_of_a_generated_window_is_one_window_later():
    _, dataset, _, batch, _, fake, _ = shown()
    passing = dataset.representation.step_seconds * CONFIG.window / dataset.representation.session_seconds
    clock = np.asarray(batch.clock) + np.where(batch.present > 0, float(passing), 0)
    clock = np.where(batch.present > 0, np.minimum(clock, 1), clock)
    np.testing.assert_allclose(fake.seen.told()[0][:, 0, 3], np.cos(np.pi * clock), atol=1e-5)


@pytest.mark.parametrize("present", [0.0, 1.0])
def test_a_hidden_context_tells_the_critic_nothing(present):
    _, dataset, state, _, real, _, _ = shown()
    windows = real.replace(present=jnp.full(CONFIG.batch, present))
    critic = critic_of(networks(CONFIG, 2)[1], state.critic, state, dataset, windows)
    known = windows.seen.scores
    other = jnp.roll(known, 1, 0).at[:, CONFIG.context :].set(known[:, CONFIG.context :])
    rows = jnp.arange(CONFIG.batch)
    one, two = (jax.jit(jax.vmap(critic))(rows, windows.seen.replace(scores=x)) for x in (known, other))
    assert (np.abs(np.asarray(one - two)).max() > 1e-3) == (present > 0)
    if present == 0:
        np.testing.assert_array_equal(one, two)


def test_windows_between_mix_every_condition():
    _, _, _, _, real, fake, _ = shown()
    middle = between(jnp.full(CONFIG.batch, 0.25), real, fake)
    np.testing.assert_allclose(
        middle.seen.condition, 0.25 * real.seen.condition + 0.75 * fake.seen.condition, atol=1e-5
    )
    assert middle.level.dtype == jnp.int32
    np.testing.assert_allclose(middle.level, 0.25 * real.level + 0.75 * fake.level, atol=1)


def test_derived_features_depend_on_the_variance_before_the_first_row():
    """Moves are in units of that variance: four times as much doubles them."""
    _, dataset, _, _, real, _, _ = shown()
    calm = Anchor(real.level[0], real.seen.told()[1][0])
    wild = calm.replace(variance=4 * calm.variance)
    derive = jax.jit(lambda anchor: derived_features(dataset, CONFIG, real.seen.scores[0], anchor))
    one, two = derive(calm), derive(wild)
    volatility = dataset.representation.features.feature_names.index("volatility")
    assert (np.asarray(two)[10:16, :, volatility] > np.asarray(one)[10:16, :, volatility]).mean() > 0.8


def test_a_critics_slope_is_bounded_in_what_it_is_told_beside_the_scores():
    """Real and generated windows stand under different conditions: a slope there is penalised as one in the scores."""
    _, _, _, batch, real, fake, _ = shown()

    def critic(i, seen):
        return 5 * seen.condition.sum() + 3 * seen.log_variance.sum()

    squared = 25 * real.seen.condition[0].size + 9 * real.seen.log_variance[0].size
    expected = (np.sqrt(squared) - 1) ** 2
    assert float(gradient_penalty(critic, real.seen, fake.seen, batch.mix)) == pytest.approx(expected, rel=1e-4)


def test_distances_are_over_all_that_is_seen():
    _, _, _, _, real, fake, _ = shown()
    pairs = zip(jax.tree.leaves(real.seen), jax.tree.leaves(fake.seen), strict=True)
    expected = np.sqrt(sum(((np.asarray(x) - np.asarray(y)) ** 2).reshape(CONFIG.batch, -1).sum(1) for x, y in pairs))
    np.testing.assert_allclose(distance(real.seen, fake.seen), expected, rtol=1e-5)


def test_a_condition_counts_once_for_every_row_of_a_window():
    """As far apart as if it stood in a column of its own beside each row's scores."""
    scores, condition = np.zeros((24, 6), np.float32), np.eye(2, 5, dtype=np.float32)
    one, two = (Seen.of(scores, c, np.ones(2, np.float32)) for c in (condition, 3 * condition))
    tiled = np.sqrt(sum(np.sum((2 * condition) ** 2) for _ in range(24)))
    batch = [jax.tree.map(lambda x: jnp.asarray(x)[None], seen) for seen in (one, two)]
    np.testing.assert_allclose(distance(*batch), tiled, rtol=1e-5)
    for given, told in zip((condition, np.ones(2)), one.told(), strict=True):
        np.testing.assert_allclose(told, given, rtol=1e-5)
