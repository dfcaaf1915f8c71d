"""Allocators of the host, `choose(prospect) -> weights`: those that need an expected return or scenarios as well.

They are baselines, solved by skfolio in float64, outside any loop. `host_allocators` adds those that run in a loop, in
the same form, so that an experiment can go through all of them by name.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from marljax.data.schema import InputError
from marljax.portfolio.allocators import Allocate, allocators


@dataclasses.dataclass(frozen=True)
class Prospect:
    """What is known of the next step's returns when capital is allocated, float64. `prospect` builds and checks it."""

    scenarios: np.ndarray  # [S, P] returns that are equally likely
    covariance: np.ndarray  # [P, P] positive definite
    mean: np.ndarray  # [P] expected return
    budget: np.ndarray  # [P] >= 0, sum 1: of risk, or the portfolio held where nothing else is known


Choose = Callable[[Prospect], np.ndarray]
"""Long-only weights float64[P] that sum to one, unless the rest is cash; zero where the budget is."""

_PRECISION = {"tol_gap_abs": 1e-9, "tol_gap_rel": 1e-9, "tol_feas": 1e-9}


def prospect(
    scenarios: np.ndarray,
    *,
    covariance: np.ndarray | None = None,
    mean: np.ndarray | None = None,
    budget: np.ndarray | None = None,
) -> Prospect:
    """The prospect of `scenarios` float[S, P], S >= 2, whose sample moments stand where none are given.

    Without a `budget` [P], of any scale, it is equal. Raises InputError, naming the product by its column, where a
    number is not finite, a product never moves, shapes differ, a budget is negative or nothing but zero, or the
    covariance is not symmetric and positive definite.
    """
    scenarios = np.asarray(scenarios, np.float64)
    if scenarios.ndim != 2 or len(scenarios) < 2 or scenarios.shape[1] < 1:
        raise InputError(f"scenarios must be [S, P] with S >= 2, got shape {scenarios.shape}")
    _check_finite("scenarios", scenarios)
    n_products = scenarios.shape[1]
    still = np.ptp(scenarios, axis=0) == 0
    if covariance is None and still.any():
        raise InputError(f"product {np.argmax(still)} never moves in the scenarios: no risk can be allocated to it")
    covariance = np.atleast_2d(np.cov(scenarios.T)) if covariance is None else np.asarray(covariance, np.float64)
    mean = scenarios.mean(0) if mean is None else np.asarray(mean, np.float64)
    budget = np.ones(n_products) if budget is None else np.asarray(budget, np.float64)
    for name, value, shape in (
        ("covariance", covariance, (n_products, n_products)),
        ("mean", mean, (n_products,)),
        ("budget", budget, (n_products,)),
    ):
        if value.shape != shape:
            raise InputError(f"{name} must have shape {shape} to fit the scenarios, got {value.shape}")
        _check_finite(name, value)
    _check_definite(covariance)
    if (budget < 0).any() or budget.sum() == 0:
        raise InputError(f"budget must be >= 0 and not all zero, got {budget.tolist()}")
    return Prospect(scenarios, covariance, mean, budget / budget.sum())


def mean_variance(prospect: Prospect, risk_aversion: float) -> np.ndarray:
    """Weights that maximise w'm - risk_aversion / 2 * w'Cw (Markowitz 1952). At one this is Kelly's growth rate."""

    def best(given: Prospect, unit: float) -> np.ndarray:
        return _mean_variance(given, _given_moments(given), risk_aversion * unit)

    return _among_budgeted(prospect, best)


def black_litterman(prospect: Prospect, risk_aversion: float, uncertainty: float) -> np.ndarray:
    """Mean-variance weights for the mean and covariance of Black and Litterman (1992, Financial Analysts Journal 48).

    The market held in equilibrium is the budget, the views are the prospect's mean, one on every product, and
    `uncertainty` is their tau: small trusts the covariance of the prior, and has views as uncertain as the prior mean.
    """

    def best(given: Prospect, unit: float) -> np.ndarray:
        names = [f"p{i}" for i in range(len(given.mean))]
        equilibrium = risk_aversion * unit * given.covariance @ given.budget
        prior = _skfolio().prior.BlackLitterman(
            views=[f"{name} == {view:.17f}" for name, view in zip(names, given.mean, strict=True)],
            groups=[names],
            prior_estimator=_given_moments(dataclasses.replace(given, mean=equilibrium)),
            tau=uncertainty,
        )
        return _mean_variance(given, prior, risk_aversion * unit)

    return _among_budgeted(prospect, best)


def minimum_cvar(prospect: Prospect, tail: float) -> np.ndarray:
    """Weights with the least mean loss in the worst `tail` in (0, 1) of scenarios (Rockafellar and Uryasev 2000)."""

    def best(given: Prospect, _: float) -> np.ndarray:
        skfolio = _skfolio()
        model = skfolio.optimization.MeanRisk(
            risk_measure=skfolio.RiskMeasure.CVAR,
            cvar_beta=1.0 - tail,
            prior_estimator=_given_moments(given),
            solver_params=_PRECISION,
        )
        return model.fit(given.scenarios).weights_

    return _among_budgeted(prospect, best)


def host_allocators(
    *,
    target: float,
    gross: float = 1.0,
    risk_aversion: float = 3.0,
    uncertainty: float = 0.05,
    tail: float = 0.05,
) -> dict[str, Choose]:
    """All allocators by name, those of `allocators.allocators` (which take `target` and `gross`) included."""
    in_loop = {name: partial(_compiled, jax.jit(allocate)) for name, allocate in allocators(target, gross).items()}
    return in_loop | {
        "mean_variance": partial(mean_variance, risk_aversion=risk_aversion),
        "black_litterman": partial(black_litterman, risk_aversion=risk_aversion, uncertainty=uncertainty),
        "minimum_cvar": partial(minimum_cvar, tail=tail),
    }


def expecting_the_past(
    past: np.ndarray, covariance: np.ndarray, base: np.ndarray, *, risk_aversion: float, uncertainty: float = 0.05
) -> dict[str, np.ndarray]:
    """What mean-variance and Black-Litterman around `base` ask for at each of N rebalances, float64[N, P] by name, who
    expect of returns the mean of those before.

    `past` float64[W + N, P] are returns per rebalance, W >= 2: rebalance i knows rows i to W + i - 1, its `covariance`
    float64[N, P, P] and its `base` float64[N, P]. Raises InputError as `prospect` does.
    """
    window = len(past) - len(covariance)
    asked: dict[str, list[np.ndarray]] = {"mean_variance": [], "black_litterman": []}
    for i, (known_covariance, held) in enumerate(zip(covariance, base, strict=True)):
        known = prospect(past[i : i + window], covariance=known_covariance, budget=held)
        asked["mean_variance"].append(mean_variance(known, risk_aversion))
        asked["black_litterman"].append(black_litterman(known, risk_aversion, uncertainty))
    return {name: np.array(weights) for name, weights in asked.items()}


def _compiled(allocate: Allocate, prospect: Prospect) -> np.ndarray:
    weights = allocate(jnp.asarray(prospect.covariance, jnp.float32), jnp.asarray(prospect.budget, jnp.float32))
    return np.asarray(weights, np.float64)


def _mean_variance(prospect: Prospect, prior: Any, risk_aversion: float) -> np.ndarray:
    optimization = _skfolio().optimization
    model = optimization.MeanRisk(
        objective_function=optimization.ObjectiveFunction.MAXIMIZE_UTILITY,
        risk_aversion=risk_aversion / 2,
        prior_estimator=prior,
        solver_params=_PRECISION,
    )
    return model.fit(prospect.scenarios).weights_


def _among_budgeted(prospect: Prospect, choose: Callable[[Prospect, float], np.ndarray]) -> np.ndarray:
    """What `choose` gives to the products that have a budget, as if the others were not there.

    It is shown returns in the unit of the largest volatility, and told this unit, for solvers know no small numbers.
    What a solver leaves below zero is its tolerance, and no position.
    """
    kept = prospect.budget > 0
    covariance = prospect.covariance[np.ix_(kept, kept)]
    unit = float(np.sqrt(np.diagonal(covariance).max()))
    scenarios, mean = prospect.scenarios[:, kept] / unit, prospect.mean[kept] / unit
    weights = np.zeros(len(kept))
    weights[kept] = np.maximum(choose(Prospect(scenarios, covariance / unit**2, mean, prospect.budget[kept]), unit), 0)
    return weights / weights.sum()


def _given_moments(prospect: Prospect) -> Any:
    """A prior of skfolio that estimates nothing: it is the prospect."""
    _skfolio()
    from skfolio.prior import BasePrior, ReturnDistribution

    class Given(BasePrior):
        def __init__(self, prospect: Prospect) -> None:
            self.prospect = prospect

        def fit(self, X: np.ndarray, y: None = None, **fit_params: Any) -> "Given":
            known = self.prospect
            self.return_distribution_ = ReturnDistribution(
                mu=known.mean, covariance=known.covariance, returns=known.scenarios
            )
            return self

    return Given(prospect)


def _skfolio() -> Any:
    try:
        import skfolio
        import skfolio.optimization
        import skfolio.prior
    except ImportError as error:
        raise InputError("this allocator needs skfolio: install marljax with its extra `allocators`") from error
    return skfolio


def _check_finite(name: str, values: np.ndarray) -> None:
    bad = ~np.isfinite(values)
    if bad.any():
        column = int(np.flatnonzero(bad.any(axis=tuple(range(values.ndim - 1))) if values.ndim > 1 else bad)[0])
        raise InputError(f"{name} of product {column} must be finite: drop the product or its incomplete rows")


def _check_definite(covariance: np.ndarray) -> None:
    variance = np.diagonal(covariance)
    if (variance <= 0).any():
        product = int(np.argmin(variance))
        raise InputError(f"the variance of product {product} must be above zero, it is {variance[product]:g}")
    correlation = covariance / np.sqrt(np.outer(variance, variance))
    if np.abs(correlation - correlation.T).max() > 1e-6:
        raise InputError("covariance must be symmetric")
    least = np.linalg.eigvalsh(correlation)[0]
    if least <= 0:
        raise InputError(
            f"covariance must be positive definite, its correlations have the eigenvalue {least:.2g}: shrink it"
        )
