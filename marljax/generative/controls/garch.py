"""GARCH(1,1) with Student t innovations (Bollerslev 1987): volatility that clusters and fat tails, and nothing else.

Each column is fitted with `arch`; the standardised residuals of the columns are tied by the Gaussian copula of their
normal scores, a constant conditional correlation (Bollerslev 1990). Books take their mids from such paths, and their
spreads, gaps, sizes and trades from training rows drawn one by one.

Moves on a tick grid are mostly zero, and there the likelihood of Student's t grows without bound, with a variance that
is all wrong. Books are therefore fitted to moves spread over a tick, and the likelihood is only taken as a
quasi-likelihood, right up to the scale of the residuals (Fan, Qi & Xiu 2014): that scale and their kurtosis give the
rest, and simulated paths are given the variance of the sample.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
import scipy.stats

from marljax.data.schema import InputError, MarketData
from marljax.generative.books import next_mid, select_rows
from marljax.generative.controls.resampling import checked_increments
from marljax.generative.controls.sessions import (
    as_sessions,
    check_request,
    mid_bounds,
    step_seconds,
    training_parts,
)

Mean = Literal["zero", "constant"]
Method = Literal["likelihood", "quasi"]
"""Maximum likelihood, or quasi-likelihood corrected by the variance and the kurtosis that the sample has."""

_SCALE = 10.0
"""Standard deviation that a column is scaled to: `arch` asks for variances between 1 and 1000."""
_FITS = 6
_FEWEST = 100
_FEWEST_DEGREES = 2.05
"""Where `arch` ends its search."""
_TICK = 2.0
"""Half width of the noise that spreads moves [half ticks]."""
_MOST_PERSISTENT = 0.998
"""Largest alpha + beta of a quasi-likelihood, a half-life of 350 steps: at 1 the variance has no mean to return to."""
_TRIAL = (100, 1000)
"""Paths and steps that show the variance of a model."""
_MOST_DEGREES = 500.0
"""Degrees of freedom that stand for a normal distribution."""


@dataclasses.dataclass(frozen=True)
class Garch:
    """C columns: r = mean + e, e = sqrt(v) z, v' = omega + alpha e^2 + beta v, z Student t of unit variance."""

    mean: np.ndarray  # float64[C]
    omega: np.ndarray  # float64[C]
    alpha: np.ndarray  # float64[C]
    beta: np.ndarray  # float64[C]
    degrees: np.ndarray  # float64[C] degrees of freedom, above 2
    correlation: np.ndarray  # float64[C, C] of the normal scores of z
    variance: np.ndarray  # float64[T, C] of the rows it was fitted on, where simulated paths begin


def fit_garch(
    returns: np.ndarray,
    *,
    names: Sequence[str] | None = None,
    mean: Mean = "zero",
    method: Method = "likelihood",
) -> Garch:
    """Fit every column of `returns` float[T, C] by itself, then their correlation.

    Rows are taken as one series. `names` of the columns appear in errors. Raises InputError where `arch` is missing,
    there are fewer than 100 rows, a column never changes, or its likelihood has no maximum that the optimiser finds
    with more than 2.05 degrees of freedom.
    """
    returns, _ = checked_increments(returns, None)
    names = [str(c) for c in range(returns.shape[1])] if names is None else names
    if len(returns) < _FEWEST:
        raise InputError(f"GARCH needs at least {_FEWEST} returns, got {len(returns)}")
    columns = returns.T.astype(np.float64)
    fitted = [_fit_column(column, name, mean, method) for column, name in zip(columns, names, strict=True)]
    residuals = np.stack([column["residual"] for column in fitted], 1)
    scores = scipy.special.ndtri(scipy.stats.rankdata(residuals, axis=0) / (len(residuals) + 1))
    correlation = np.atleast_2d(np.corrcoef(scores, rowvar=False))
    parameters = {name: np.array([column[name] for column in fitted]) for name in _PARAMETERS}
    return Garch(**parameters, correlation=correlation, variance=np.stack([c["variance"] for c in fitted], 1))


def simulate_garch(model: Garch, *, n_paths: int, n_steps: int, seed: int) -> np.ndarray:
    """float64[n_paths, n_steps, C] returns, each path from the conditional variances of one row of the fit."""
    check_request(n_paths, n_steps)
    generator = np.random.default_rng(seed)
    n_columns = len(model.mean)
    variance = model.variance[generator.integers(len(model.variance), size=n_paths)]
    values, vectors = np.linalg.eigh(model.correlation)
    mixing = vectors * np.sqrt(np.maximum(values, 0))
    paths = np.empty((n_paths, n_steps, n_columns))
    unit = np.sqrt((model.degrees - 2) / model.degrees)
    for t in range(n_steps):
        scores = generator.standard_normal((n_paths, n_columns)) @ mixing.T
        # The lower half of the distribution has the finer floating point numbers: tails are equally fat.
        innovation = -np.sign(scores) * unit * scipy.special.stdtrit(model.degrees, scipy.special.ndtr(-np.abs(scores)))
        shock = np.sqrt(variance) * innovation
        paths[:, t] = model.mean + shock
        variance = model.omega + model.alpha * shock**2 + model.beta * variance
    return paths


def garch_paths(
    returns: np.ndarray,
    *,
    n_paths: int,
    n_steps: int,
    seed: int,
    names: Sequence[str] | None = None,
    mean: Mean = "zero",
    method: Method = "likelihood",
) -> np.ndarray:
    """float64[n_paths, n_steps, C] of the GARCH(1,1)-t that `fit_garch` finds for `returns` float[T, C]."""
    model = fit_garch(returns, names=names, mean=mean, method=method)
    return simulate_garch(model, n_paths=n_paths, n_steps=n_steps, seed=seed)


def garch_books(training: MarketData, *, n_sessions: int, n_steps: int, seed: int) -> MarketData:
    """Sessions 0..n_sessions-1 whose mids follow GARCH(1,1)-t, each from a real row's prices; origin synthetic.

    The moves of the double mid [half ticks] are fitted over all rows that continue the one before; each mid is the one
    nearest to the simulated path that the spread allows. Spread, gaps, sizes and trades of all products come from one
    training row, drawn anew each step. Raises InputError where the training part is synthetic or cannot be fitted,
    naming the product.
    """
    parts, joined = training_parts(training, "a GARCH of real books")
    check_request(n_sessions, n_steps)
    generator = np.random.default_rng(seed)
    usable = np.flatnonzero(joined)
    names = [product.name for product in training.products]
    moves = np.asarray(parts.move)[usable]
    # A product that never moves is left so, for the fit to refuse.
    noise = generator.uniform(-_TICK, _TICK, moves.shape) * (np.ptp(moves, axis=0) > 0)
    model = fit_garch(moves + noise, names=names, method="quasi")
    model = _with_variance(model, np.mean(np.square(moves, dtype=np.float64), axis=0), seed)
    drawn = simulate_garch(model, n_paths=n_sessions, n_steps=n_steps, seed=int(generator.integers(2**32)))
    bounds = mid_bounds(training)
    width = (bounds[1] - bounds[0]).astype(np.float64)
    path = np.clip(np.cumsum(drawn, axis=1), -width, width)
    taken = select_rows(parts, generator.choice(usable, (n_sessions, n_steps)))
    start = np.asarray(training.double_mid)[generator.choice(usable, n_sessions)]
    double_mid = _nearest_mids(jnp.asarray(start), jnp.asarray(path, jnp.float32), taken.spread, jnp.asarray(bounds))
    return as_sessions(taken, double_mid, step_seconds(training, joined), training.products)


_PARAMETERS = ("mean", "omega", "alpha", "beta", "degrees")


def _fit_column(returns: np.ndarray, name: str, mean: Mean, method: Method) -> dict[str, Any]:
    """Parameters, conditional variance and standardised residuals of one column, in its own unit."""
    try:
        from arch import arch_model
    except ImportError as error:
        raise InputError("GARCH needs the package arch: install marljax with its extra `garch`") from error
    if np.ptp(returns) == 0:
        raise InputError(f"the returns of {name} never change: no GARCH is fitted")
    scale = _SCALE / returns.std()
    drift: Literal["Zero", "Constant"] = "Zero" if mean == "zero" else "Constant"
    result = _maximum(arch_model(returns * scale, mean=drift, p=1, q=1, dist="t", rescale=False), name)
    found = dict(result.params)
    fitted = {
        "mean": found.get("mu", 0.0) / scale,
        "omega": found["omega"] / scale**2,
        "alpha": found["alpha[1]"],
        "beta": found["beta[1]"],
        "degrees": found["nu"],
        "variance": np.square(result.conditional_volatility / scale),
        "residual": result.std_resid,
    }
    if method == "quasi":
        return _corrected(fitted, name)
    if found["nu"] <= 1.001 * _FEWEST_DEGREES:
        raise InputError(f"the GARCH of {name} did not converge: its tails have no variance, fit it by method='quasi'")
    return fitted


def _corrected(fitted: dict[str, Any], name: str) -> dict[str, Any]:
    """The same dynamics with residuals of unit variance, whose kurtosis gives the degrees of freedom."""
    size = float(np.mean(np.square(fitted["residual"])))
    excess = float(scipy.stats.kurtosis(fitted["residual"]))
    beta = fitted["beta"]
    alpha = min(size * fitted["alpha"], _MOST_PERSISTENT - beta)
    if alpha < 0:
        raise InputError(f"the GARCH of {name} did not converge: its variance never returns to a mean")
    return fitted | {
        "omega": size * fitted["omega"],
        "alpha": alpha,
        "degrees": min(4 + 6 / excess, _MOST_DEGREES) if excess > 0 else _MOST_DEGREES,
        "variance": size * fitted["variance"],
        "residual": fitted["residual"] / np.sqrt(size),
    }


def _with_variance(model: Garch, variance: np.ndarray, seed: int) -> Garch:
    """The model whose paths have the mean square float64[C], all else equal.

    Where volatility hardly returns to its mean the theoretical variance is not what paths show: it is simulated.
    """
    paths = simulate_garch(model, n_paths=_TRIAL[0], n_steps=_TRIAL[1], seed=seed)
    ratio = variance / np.mean(np.square(paths), axis=(0, 1))
    return dataclasses.replace(model, omega=model.omega * ratio, variance=model.variance * ratio)


@jax.jit
def _nearest_mids(start: jax.Array, path: jax.Array, spread: jax.Array, bounds: jax.Array) -> jax.Array:
    """int32[N, W, P] double mids that the spreads [N, W, P] allow, nearest to `start` [N, P] plus `path` [N, W, P]."""
    along = jax.vmap(next_mid, (None, 0, 0, None))
    return jax.vmap(along, (0, 0, 0, None))(start, path, spread, bounds)


def _maximum(model: Any, name: str) -> Any:
    """The fit of a model of `arch`, begun again where a neighbour is likelier.

    The optimiser sometimes reports success at the very values it began with, so its word alone is not taken.
    """
    start = None
    for _ in range(_FITS):
        result = model.fit(disp="off", show_warning=False, starting_values=start)
        better = _likelier_neighbour(model, result)
        if result.convergence_flag == 0 and better is None:
            return result
        start = _inside(np.asarray(result.params) if better is None else better)
    raise InputError(f"the GARCH of {name} did not converge: {result.optimization_result.message}")


def _inside(parameters: np.ndarray) -> np.ndarray:
    """Parameters ([mean,] omega, alpha, beta, degrees) from which the optimiser is willing to begin: off its bounds."""
    *mean, omega, alpha, beta, degrees = parameters
    alpha, beta = max(alpha, 1e-4), max(beta, 1e-4)
    excess = max((alpha + beta) / 0.9999, 1.0)
    return np.array([*mean, max(omega, 1e-4), alpha / excess, beta / excess, max(degrees, 1.01 * _FEWEST_DEGREES)])


def _likelier_neighbour(model: Any, result: Any) -> np.ndarray | None:
    """The parameters a little off in one of them where that is likelier than the fit by more than a half, or None."""
    best, found = result.loglikelihood + 0.5, None
    for index in range(len(result.params)):
        for sign in (-1, 1):
            moved = np.asarray(result.params, np.float64).copy()
            moved[index] += sign * max(0.02 * abs(moved[index]), 0.005)
            omega, alpha, beta, degrees = moved[-4:]
            if min(omega, alpha, beta) >= 0 and alpha + beta < 1 and degrees > _FEWEST_DEGREES:
                likelihood = model.fix(moved).loglikelihood
                if likelihood > best:
                    best, found = likelihood, moved
    return found
