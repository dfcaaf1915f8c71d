"""Discriminative scores: how well a recurrent judge tells generated windows from real ones it has not seen.

A judge is a gated recurrent network with a logistic readout of its last state, trained on real and other windows and
scored on others of both: `|accuracy - 0.5|`, 0 where it must guess and 0.5 where it is always right (Yoon, Jarrett and
van der Schaar 2019). The caller splits both sides by blocks of time: windows that share rows must not stand on
both sides of the split.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marljax.data.schema import InputError
from marljax.generative.scores.recurrent import Recurrent, RecurrentConfig, read, states, train

TIMEGAN_JUDGE = RecurrentConfig(hidden=3, steps=2_000, batch=128, seeds=1)
"""The published judge: three states, Adam at a constant rate of 0.001."""
STRONG_JUDGE = RecurrentConfig(hidden=32, steps=1_000, batch=64, seeds=5, learning_rate=3e-3, final_rate=0.01)
"""A judge that is not blind."""

# Whitened directions in which the real windows do not vary are enlarged this much at most, in standard deviations: what
# a candidate does there still shows, and rounding does not.
_LARGEST_GAIN = 100.0
_CLIP = 10.0


@struct.dataclass
class Whitening:
    """A linear map to channels with mean 0, variance 1 and no correlation on the windows it was fitted to."""

    mean: np.ndarray  # float64[C]
    matrix: np.ndarray  # float64[C, C]

    def __call__(self, windows: np.ndarray) -> np.ndarray:
        """float32[N, W, C] of windows [N, W, C], cut at 10 standard deviations."""
        white = (np.asarray(windows, np.float64) - self.mean) @ self.matrix
        return np.clip(white, -_CLIP, _CLIP).astype(np.float32)


def check_windows(what: str, windows: np.ndarray) -> np.ndarray:
    """The windows, or InputError where they are not [N, W, C], are none, or hold anything but finite numbers."""
    windows = np.asarray(windows)
    if windows.ndim != 3 or windows.size == 0:
        raise InputError(f"{what} must be [N, W, C] and not empty, got {windows.shape}")
    if not np.isfinite(windows).all():
        raise InputError(f"{what} hold values that are not finite")
    return windows


def fit_whitening(windows: np.ndarray) -> Whitening:
    """Whitening of windows [N, W, C] from the principal components of their channels' correlations.

    A direction without variance (a channel that copies another) is enlarged at most a hundredfold, and a constant
    channel is measured in the median deviation of those that move.
    """
    rows = check_windows("windows to whiten by", windows).reshape(-1, windows.shape[-1])
    deviation = rows.std(0)
    moves = deviation > 1e-9 * np.abs(rows).max(0)
    deviation = np.where(moves, deviation, np.median(deviation[moves]) if moves.any() else 1.0)
    mean = rows.mean(0)
    scaled = (rows - mean) / deviation
    values, vectors = np.linalg.eigh(scaled.T @ scaled / len(scaled))
    gain = 1 / np.sqrt(np.maximum(values, _LARGEST_GAIN**-2))
    return Whitening(mean, vectors * gain / deviation[:, None])


def min_max(windows: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """float32[N, W, C] windows in units of the reference's range per channel: 0 its least, 1 its greatest value."""
    rows = check_windows("windows to scale by", reference).reshape(-1, reference.shape[-1])
    low, high = rows.min(0), rows.max(0)
    return ((windows - low) / np.where(high > low, high - low, 1.0)).astype(np.float32)


def log_increments(levels: np.ndarray) -> np.ndarray:
    """float64[N, W - 1, C] changes of the logarithm of positive levels [N, W, C]."""
    if not np.all(np.asarray(levels) > 0):
        raise InputError("log increments need positive levels")
    return np.diff(np.log(np.asarray(levels, np.float64)), axis=1)


def discriminative_scores(
    real_train: np.ndarray,
    other_train: np.ndarray,
    real_test: np.ndarray,
    other_test: np.ndarray,
    config: RecurrentConfig,
    seed: int = 0,
) -> np.ndarray:
    """float64[seeds] `|accuracy - 0.5|` on the test windows, one for each training of the judge.

    Windows are [N, W, C] and are judged as they are; both classes weigh the same however many windows each has.
    Raises InputError for windows that differ in shape, are none, or hold anything but finite numbers.
    """
    named = {
        "real training": real_train,
        "other training": other_train,
        "real test": real_test,
        "other test": other_test,
    }
    windows = [jnp.asarray(check_windows(f"{name} windows", x), jnp.float32) for name, x in named.items()]
    if len({x.shape[1:] for x in windows}) > 1:
        raise InputError(f"windows to judge differ in length or channels: {[x.shape[1:] for x in windows]}")
    keys = jax.random.split(jax.random.key(seed), config.seeds)
    return np.abs(np.asarray(_accuracies(keys, *windows, config), np.float64) - 0.5)


def timegan_judge(
    real_train: np.ndarray,
    other_train: np.ndarray,
    real_test: np.ndarray,
    other_test: np.ndarray,
    seed: int = 0,
    config: RecurrentConfig = TIMEGAN_JUDGE,
) -> np.ndarray:
    """float64[seeds] the published discriminative score of windows of levels [N, W, C].

    Levels are scaled to 0..1 by the range of the real training and test windows together, as published. It is nearly
    blind: real windows shuffled in time pass it.
    """
    reference = np.concatenate([check_windows("real windows", real_train), check_windows("real windows", real_test)])

    def scaled(windows: np.ndarray) -> np.ndarray:
        return min_max(check_windows("windows to judge", windows), reference)

    return discriminative_scores(
        scaled(real_train), scaled(other_train), scaled(real_test), scaled(other_test), config, seed
    )


def strong_judge(
    real_train: np.ndarray,
    other_train: np.ndarray,
    real_test: np.ndarray,
    other_test: np.ndarray,
    seed: int = 0,
    config: RecurrentConfig = STRONG_JUDGE,
) -> np.ndarray:
    """float64[seeds] discriminative score of windows of increments [N, W, C], whitened by the real training windows.

    For levels, hand in their `log_increments`. The mean over seeds is the score, their spread the judge's own noise.
    """
    whitening = fit_whitening(real_train)

    def white(windows: np.ndarray) -> np.ndarray:
        return whitening(check_windows("windows to judge", windows))

    return discriminative_scores(
        white(real_train), white(other_train), white(real_test), white(other_test), config, seed
    )


@jax.jit
def _accuracies(
    keys: jax.Array,
    real_train: jax.Array,
    other_train: jax.Array,
    real_test: jax.Array,
    other_test: jax.Array,
    config: RecurrentConfig,
) -> jax.Array:
    """float32[S] accuracy on both test sides, mean of the two classes', for each key of [S]."""

    def logits(weights: Recurrent, windows: jax.Array) -> jax.Array:
        return read(weights, states(weights, windows)[-1])

    def loss(weights: Recurrent, key: jax.Array) -> jax.Array:
        picks = (
            x[jax.random.randint(k, (config.batch,), 0, len(x))]
            for k, x in zip(jax.random.split(key), (real_train, other_train), strict=True)
        )
        real, other = jnp.split(logits(weights, jnp.concatenate(list(picks))), 2)
        return (jax.nn.softplus(-real).mean() + jax.nn.softplus(other).mean()) / 2

    def one(key: jax.Array) -> jax.Array:
        weights = train(key, real_train.shape[-1], config, loss)
        # A judge that has no opinion is half right, however the tie falls.
        right = [
            jnp.mean((sign * score > 0) + 0.5 * (score == 0))
            for sign, score in ((1, logits(weights, real_test)), (-1, logits(weights, other_test)))
        ]
        return (right[0] + right[1]) / 2

    # One after the other: batched products of small matrices take three times as long on a CPU.
    return jax.lax.map(one, keys)
