"""Ridge and logistic regression on a few features, quick enough to fit for every candidate of a table."""

import numpy as np
from flax import struct

_CLIP = 5.0


@struct.dataclass
class Linear:
    """A linear model of standardised features."""

    mean: np.ndarray  # float64[F]
    deviation: np.ndarray  # float64[F]
    slope: np.ndarray  # float64[F]
    intercept: float

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """float64[N] prediction, a logit for a logistic model, from features [N, F]."""
        return _standardise(features, self.mean, self.deviation) @ self.slope + self.intercept


def fit_ridge(features: np.ndarray, target: np.ndarray, penalty: float = 1e-3) -> Linear:
    """Least squares of target [N] on features [N, F], `penalty` on squared slopes in units of the mean squared error.

    Features are standardised and cut at 5 standard deviations; the intercept is not penalised.
    """
    mean, deviation, x = _standardised(features)
    centre = x.mean(0)
    slope = np.linalg.solve(
        (x - centre).T @ (x - centre) / len(x) + penalty * np.eye(x.shape[1]),
        (x - centre).T @ (target - target.mean()) / len(x),
    )
    return Linear(mean, deviation, slope, float(target.mean() - centre @ slope))


def fit_logistic(
    features: np.ndarray, label: np.ndarray, weight: np.ndarray | None = None, penalty: float = 1e-2, rounds: int = 25
) -> Linear:
    """Logistic regression of bool[N] labels on features [N, F] by Newton's method.

    `weight` [N] of each row sums to 1 (equal, unless given); `penalty` is half the ridge on squared coefficients,
    the intercept's among them, which keeps separable classes finite.
    """
    mean, deviation, x = _standardised(features)
    x = np.concatenate([np.ones((len(x), 1)), x], 1)
    weight = np.full(len(x), 1 / len(x)) if weight is None else weight
    beta = np.zeros(x.shape[1])
    for _ in range(rounds):
        chance = 1 / (1 + np.exp(-np.clip(x @ beta, -30, 30)))
        gradient = x.T @ (weight * (chance - label)) + penalty * beta
        curvature = (x * (weight * chance * (1 - chance))[:, None]).T @ x + penalty * np.eye(len(beta))
        beta -= np.linalg.solve(curvature, gradient)
    return Linear(mean, deviation, beta[1:], float(beta[0]))


def judge_error(real: np.ndarray, other: np.ndarray, penalty: float = 1e-2) -> float:
    """Discriminative score |accuracy - 0.5| of a logistic judge on features [N, F], [M, F], in order of time.

    It sees features and their squares, learns on the first half of each side and is scored on the second, a fixed gap
    of a tenth between them; accuracy is the mean of both classes'. 0: cannot tell them apart, 0.5: always can.
    """
    (real_train, real_test), (other_train, other_test) = _halves(real), _halves(other)
    mean, deviation, _ = _standardised(np.concatenate([real_train, other_train]))

    def squares(x: np.ndarray) -> np.ndarray:
        z = _standardise(x, mean, deviation)
        return np.concatenate([z, z**2], 1)

    label = np.repeat([True, False], [len(real_train), len(other_train)])
    # Both classes weigh the same, however many windows each has.
    weight = np.where(label, 0.5 / len(real_train), 0.5 / len(other_train))
    model = fit_logistic(squares(np.concatenate([real_train, other_train])), label, weight, penalty)
    right = np.mean(model(squares(real_test)) > 0), np.mean(model(squares(other_test)) <= 0)
    return float(abs(np.mean(right) - 0.5))


def area_under_curve(score: np.ndarray, label: np.ndarray) -> float:
    """Probability that a positive's score exceeds a negative's, ties counting half; NaN where a class is missing."""
    label = np.asarray(label, bool)
    positive, negative = np.asarray(score)[label], np.sort(np.asarray(score)[~label])
    if not positive.size or not negative.size:
        return np.nan
    below = np.searchsorted(negative, positive, "left") + np.searchsorted(negative, positive, "right")
    return float(below.mean() / (2 * negative.size))


def _standardise(features: np.ndarray, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    return np.clip((features - mean) / deviation, -_CLIP, _CLIP)


def _standardised(features: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    mean = features.mean(0)
    deviation = features.std(0)
    # A constant feature says nothing: its rounding must not be taken for a signal.
    deviation = np.where(deviation > 1e-9 * np.maximum(np.abs(mean), 1e-30), deviation, 1.0)
    return mean, deviation, _standardise(features, mean, deviation)


def _halves(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return x[: int(0.45 * len(x))], x[int(0.55 * len(x)) :]
