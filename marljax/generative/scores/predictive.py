"""Train on synthetic, test on real: is what a model learns from generated data worth as much as what real data teach?

Two small linear models for returns and books, and the published recurrent predictor of TimeGAN. A score of a model
trained on the generated side is to be read beside that of the same model trained on the real training part.
"""

import jax
import jax.numpy as jnp
import numpy as np

from marljax.data.schema import InputError
from marljax.generative.scores.judges import check_windows, min_max
from marljax.generative.scores.linear import area_under_curve, fit_logistic, fit_ridge
from marljax.generative.scores.recurrent import Recurrent, RecurrentConfig, read, states, train

TIMEGAN_PREDICTOR = RecurrentConfig(hidden=3, steps=5_000, batch=128, seeds=1)
"""The published predictor: three states, Adam at a constant rate of 0.001."""

_SPANS = (1, 5, 20)
_FLOOR = 0.1


def volatility_features(returns: np.ndarray, stretch: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """float64[M, 4] features of returns [N] and int64[M] the rows that they predict.

    The mean absolute return of the last 1, 5 and 20 rows (the heterogeneous autoregression of Corsi 2009) and the last
    return, which carries leverage. Only rows with 20 rows before them in their own stretch (int[N]) are predicted.
    """
    returns = np.asarray(returns, np.float64)
    longest = _SPANS[-1]
    if stretch is None:
        stretch = np.zeros(len(returns), int)
    rows = np.arange(longest, len(returns))
    rows = rows[stretch[rows] == stretch[rows - longest]]
    running = np.concatenate([[0.0], np.cumsum(np.abs(returns))])
    means = [(running[rows] - running[rows - span]) / span for span in _SPANS]
    return np.stack([*means, returns[rows - 1]], 1), rows


def volatility_r2(
    train_returns: np.ndarray,
    test_returns: np.ndarray,
    train_stretch: np.ndarray | None = None,
    test_stretch: np.ndarray | None = None,
) -> float:
    """Out-of-sample R^2 of the next row's log absolute return, for a ridge model learnt on other returns.

    `log(|r| + a tenth of the mean |r|)`, with the test part's mean on both sides, so that zeros are defined and all
    candidates face one target; 1 less the squared error over that of the test part's mean. Negative where the
    training side teaches what is not so. NaN where the test part is constant or either side too short.
    """
    floor = _FLOOR * float(np.mean(np.abs(test_returns))) if len(test_returns) else 0.0
    if floor == 0:
        return np.nan

    def prepared(returns: np.ndarray, stretch: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        features, rows = volatility_features(returns, stretch)
        features[:, :-1] = np.log(features[:, :-1] + floor)
        return features, np.log(np.abs(np.asarray(returns, np.float64)[rows]) + floor)

    learn, test = prepared(train_returns, train_stretch), prepared(test_returns, test_stretch)
    if len(learn[1]) < 2 or len(test[1]) < 2 or np.ptp(test[1]) == 0:
        return np.nan
    error = test[1] - fit_ridge(*learn)(test[0])
    return float(1 - np.mean(error**2) / np.var(test[1]))


def direction_scores(
    train_features: np.ndarray, train_moves: np.ndarray, test_features: np.ndarray, test_moves: np.ndarray
) -> dict[str, float]:
    """`accuracy` and `auc` on the test part of a logistic model of the sign of the next move, learnt on the other part.

    Features [N, F] are known before their moves [N]; rows whose move is 0 have no direction and are left out. NaN where
    a class is missing on either side.
    """

    def moved(features: np.ndarray, moves: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.asarray(features, np.float64)[moves != 0], np.asarray(moves)[moves != 0] > 0

    learn, test = moved(train_features, train_moves), moved(test_features, test_moves)
    if any(len(np.unique(label)) < 2 for _, label in (learn, test)):
        return {"accuracy": np.nan, "auc": np.nan}
    logit = fit_logistic(*learn)(test[0])
    right = np.where(logit == 0, 0.5, (logit > 0) == test[1])
    return {"accuracy": float(right.mean()), "auc": area_under_curve(logit, test[1])}


def timegan_predictive_score(
    train_windows: np.ndarray,
    test_windows: np.ndarray,
    real_windows: np.ndarray,
    seed: int = 0,
    config: RecurrentConfig = TIMEGAN_PREDICTOR,
) -> np.ndarray:
    """float64[seeds] the published predictive score: mean absolute error of the next row's last column, 0 is perfect.

    Windows are levels [N, W, C], C >= 2, scaled to 0..1 by the range of `real_windows`. The model reads the other
    columns of rows 0..W-2, learns on `train_windows` and is scored on `test_windows`, real ones.
    """
    learn, test = (min_max(check_windows("windows to predict", x), real_windows) for x in (train_windows, test_windows))
    if learn.shape[1:] != test.shape[1:] or learn.shape[1] < 2 or learn.shape[2] < 2:
        raise InputError(f"windows to predict need two rows and columns, and to agree: {learn.shape}, {test.shape}")
    keys = jax.random.split(jax.random.key(seed), config.seeds)
    return np.asarray(_prediction_errors(keys, jnp.asarray(learn), jnp.asarray(test), config), np.float64)


@jax.jit
def _prediction_errors(keys: jax.Array, learn: jax.Array, test: jax.Array, config: RecurrentConfig) -> jax.Array:
    """float32[S] mean absolute error on the test windows for each key of [S]."""

    def error(weights: Recurrent, windows: jax.Array) -> jax.Array:
        predicted = jax.nn.sigmoid(read(weights, states(weights, windows[:, :-1, :-1])))
        return jnp.mean(jnp.abs(predicted - windows[:, 1:, -1].T))

    def loss(weights: Recurrent, key: jax.Array) -> jax.Array:
        return error(weights, learn[jax.random.randint(key, (config.batch,), 0, len(learn))])

    def one(key: jax.Array) -> jax.Array:
        return error(train(key, learn.shape[-1] - 1, config, loss), test)

    return jax.lax.map(one, keys)
