"""Judges find what they should: order, volatility and correlation; equals they cannot tell apart."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marljax.data.schema import InputError
from marljax.generative.scores import judges as j
from marljax.generative.scores import recurrent
from marljax.generative.scores.recurrent import RecurrentConfig

QUICK = RecurrentConfig(hidden=16, steps=200, batch=32, seeds=2, learning_rate=5e-3, final_rate=0.01)
KEY = jax.random.key(0)
SHAPES = ({"hidden": 5}, {"steps": 7}, {"batch": 9})
SMALLEST = RecurrentConfig(hidden=2, steps=1, batch=2, seeds=1)
STOCKS = Path(__file__).parents[3] / "shared/data/daily/timegan_google_stock_data.csv.gz"


def oscillating(seed, n=600):
    """Windows of two channels whose first has a first autocorrelation of -0.8."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, 12, 2))
    for t in range(1, 12):
        x[:, t, 0] = -0.8 * x[:, t - 1, 0] + 0.6 * x[:, t, 0]
    return x


def shuffled(windows, seed=9):
    order = np.random.default_rng(seed).permuted(np.tile(np.arange(windows.shape[1]), (len(windows), 1)), axis=1)
    return np.take_along_axis(windows, order[:, :, None], 1)


def judged(real, other, config=QUICK, **kwargs):
    half = len(real) // 2
    return j.strong_judge(real[:half], other[:half], real[half:], other[half:], config=config, **kwargs)


def test_equals_are_at_chance_and_a_shuffle_is_found_by_its_order_alone():
    real = oscillating(0)
    assert judged(real, oscillating(1)).mean() < 0.06
    assert judged(real, shuffled(oscillating(1))).min() > 0.35


def test_the_state_is_that_of_the_published_cell():
    rng = np.random.default_rng(0)
    weights = recurrent.init(jax.random.key(0), 2, 3)
    window = rng.standard_normal((5, 2))
    state = np.zeros(3)
    w = jax.tree.map(np.asarray, weights)
    for row in window:
        gates = 1 / (1 + np.exp(-(row @ w.gates_input + state @ w.gates_state + w.gates_bias)))
        reset, update = gates[:3], gates[3:]
        state = update * state + (1 - update) * np.tanh(row @ w.new_input + (reset * state) @ w.new_state + w.new_bias)
    found = recurrent.states(weights, jnp.asarray(window[None], jnp.float32))[-1, 0]
    np.testing.assert_allclose(found, state, atol=1e-6)
    np.testing.assert_allclose(recurrent.read(weights, found), state @ w.readout, atol=1e-6)


def test_every_setting_of_a_judge_acts():
    real = jnp.asarray(oscillating(0, 80), jnp.float32)

    def weights(config):
        def loss(weights, key):
            picked = real[jax.random.randint(key, (config.batch,), 0, len(real))]
            return jnp.mean(recurrent.read(weights, recurrent.states(weights, picked)[-1]) ** 2)

        return jnp.concatenate([x.ravel() for x in jax.tree.leaves(recurrent.train(KEY, 2, config, loss))])

    base = RecurrentConfig(hidden=4, steps=6, batch=8, seeds=1, learning_rate=1e-2)
    programs = [str(jax.make_jaxpr(weights)(c)) for c in (base, *(base.replace(**x) for x in SHAPES))]
    assert len(set(programs)) == 1 + len(SHAPES)
    train = jax.jit(weights)
    for changed in ({"learning_rate": 2e-2}, {"final_rate": 0.1}):
        assert np.abs(train(base.replace(**changed)) - train(base)).max() > 1e-3
    assert judged(oscillating(0, 40), oscillating(1, 40), SMALLEST.replace(seeds=3)).shape == (3,)
    for name in ("hidden", "steps", "batch", "seeds"):
        with pytest.raises(InputError, match=name):
            base.replace(**{name: 0})


def test_a_seed_repeats_and_another_seed_is_another_judge():
    real, other = oscillating(0), shuffled(oscillating(1))
    np.testing.assert_array_equal(judged(real, other), judged(real, other))
    assert not np.array_equal(judged(real, other), judged(real, other, seed=1))


def test_a_rate_is_no_reason_to_compile_again():
    j._accuracies.clear_cache()
    real = oscillating(0, 40)
    for rate in (1e-3, 1e-2):
        judged(real, real, SMALLEST.replace(learning_rate=rate))
    assert j._accuracies._cache_size() == 1


def test_classes_of_different_size_weigh_the_same():
    real = oscillating(0)
    equal = j.strong_judge(real[:300], oscillating(1, 30), real[300:], oscillating(2, 60), config=QUICK)
    assert equal.mean() < 0.12, "always saying `real` would be right in 5 of 6 windows"


def test_whitened_channels_have_unit_variance_and_no_correlation():
    rng = np.random.default_rng(0)
    windows = 3 + rng.standard_normal((500, 8, 3)) @ rng.standard_normal((3, 3)) * [1e-6, 1.0, 1e6]
    white = j.fit_whitening(windows)(windows).reshape(-1, 3)
    np.testing.assert_allclose(np.cov(white, rowvar=False), np.eye(3), atol=2e-2)
    np.testing.assert_allclose(white.mean(0), 0, atol=1e-3)


def test_copied_and_constant_channels_do_not_blow_up_but_a_break_of_the_copy_shows():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((300, 8, 1))
    windows = np.concatenate([x, x, np.full_like(x, 0.1)], -1)
    whiten = j.fit_whitening(windows)
    white = whiten(windows)
    assert np.isfinite(white).all()
    assert np.abs(white).max() < 10
    rounded = windows * (1 + 1e-7 * rng.standard_normal(windows.shape))
    assert np.abs(whiten(rounded) - white).max() < 1e-3, "rounding is no difference"
    broken = windows + 0.2 * rng.standard_normal(windows.shape) * [1, 0, 0]
    assert np.abs(whiten(broken)).std() > 2 * np.abs(white).std(), "a copy that is none is"
    moving = windows + 1.0 * rng.standard_normal(windows.shape) * [0, 0, 1]
    assert np.abs(whiten(moving)).max() > 2 * np.abs(white).max(), "a constant that moves is a difference"
    nothing = np.zeros((4, 3, 2))
    np.testing.assert_array_equal(j.fit_whitening(nothing)(nothing), nothing)


def test_whitening_learns_from_the_real_training_windows_alone():
    real, other = oscillating(0, 40), oscillating(1, 40)
    seen = []
    original = j.discriminative_scores
    try:
        j.discriminative_scores = lambda *args: seen.append(args)
        j.strong_judge(real[:20], 5 * other[:20], 7 * real[20:], other[20:])
    finally:
        j.discriminative_scores = original
    expected = j.fit_whitening(real[:20])
    np.testing.assert_array_equal(seen[0][0], expected(real[:20]))
    np.testing.assert_array_equal(seen[0][1], expected(5 * other[:20]))
    np.testing.assert_array_equal(seen[0][2], expected(7 * real[20:]))


def test_levels_are_scaled_by_the_range_and_their_increments_are_of_the_logarithm():
    levels = np.exp(np.cumsum(oscillating(0, 5), 1))
    scaled = j.min_max(levels, levels)
    np.testing.assert_allclose([scaled.min((0, 1)), scaled.max((0, 1))], [[0, 0], [1, 1]], atol=1e-6)
    assert np.isfinite(j.min_max(np.ones((2, 3, 1)), np.ones((2, 3, 1)))).all()
    np.testing.assert_allclose(j.log_increments(levels), oscillating(0, 5)[:, 1:], atol=1e-9)
    with pytest.raises(InputError, match="positive"):
        j.log_increments(np.zeros((2, 3, 1)))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda x: x[:, :, 0], "must be"),
        (lambda x: x[:0], "not empty"),
        (lambda x: x * np.nan, "not finite"),
        (lambda x: x[:, :5], "differ in length or channels"),
    ],
)
def test_windows_that_cannot_be_judged_are_refused(spoil, said):
    x = oscillating(0, 20)
    for judge in (j.strong_judge, j.timegan_judge):
        with pytest.raises(InputError, match=said):
            judge(x, spoil(x), x, x, config=SMALLEST)


@pytest.fixture(scope="module")
def stock_windows():
    if not STOCKS.exists():
        pytest.skip(f"{STOCKS} is not there")
    import pandas as pd

    levels = pd.read_csv(STOCKS).to_numpy(float)
    blocks = [
        np.lib.stride_tricks.sliding_window_view(b, 25, axis=0).swapaxes(1, 2) for b in np.array_split(levels, 20)
    ]
    return [np.concatenate([b for i, b in enumerate(blocks) if (i % 5 == 4) == test]) for test in (False, True)]


@pytest.mark.nightly
def test_on_stocks_the_strong_judge_sees_the_shuffle_to_which_the_published_one_is_blind(stock_windows):
    train, test = stock_windows
    sides = train, shuffled(train), test, shuffled(test)
    assert j.strong_judge(*(j.log_increments(x) for x in sides)).mean() > 0.47
    assert j.timegan_judge(*sides, config=j.TIMEGAN_JUDGE.replace(seeds=3)).mean() < 0.05


@pytest.mark.nightly
def test_on_stocks_the_strong_judge_cannot_tell_real_windows_from_real_windows(stock_windows):
    train, test = (x[np.random.default_rng(0).permutation(len(x))] for x in stock_windows)
    sides = train[::2], train[1::2], test[::2], test[1::2]
    assert j.strong_judge(*(j.log_increments(x) for x in sides)).mean() < 0.03
