"""Markets for capital in float64: prices by sorting kinks, allocations and their shadow prices as a quadratic program.

Nothing here shares code with marljax.
"""

import itertools

import cvxpy
import numpy as np


def clear_by_sorting(
    value: np.ndarray, slope: np.ndarray, cap: np.ndarray, quantity: float
) -> tuple[np.ndarray, float]:
    """One good: demand is linear between the prices at which somebody enters or is sated, so look there."""

    def demand(price: float) -> list[float]:
        return [min(max((v - price) / s, 0.0), c) for v, s, c in zip(value, slope, cap, strict=True)]

    if sum(demand(0.0)) <= quantity:
        return np.array(demand(0.0)), 0.0
    kinks = sorted({0.0, *(k for k in (*value, *(value - slope * cap)) if k > 0)}, reverse=True)
    for above, below in itertools.pairwise(kinks):
        few, many = sum(demand(above)), sum(demand(below))
        if few <= quantity < many:
            price = above - (quantity - few) / (many - few) * (above - below)
            return np.array(demand(price)), price
    raise AssertionError("demand at price zero exceeds supply, so some price in between clears the market")


def best_allocation(
    mean: np.ndarray,
    quadratic: np.ndarray,
    cap: np.ndarray,
    gross: float,
    asset_class: np.ndarray | None = None,
    class_cap: np.ndarray | None = None,
) -> tuple[np.ndarray, float, np.ndarray]:
    """The w of the greatest mean @ w - w @ quadratic @ w / 2 in the limits: (w, price of gross, prices of classes)."""
    unit = max(np.abs(mean).max(), 1e-12)
    w = cvxpy.Variable(len(mean))
    root = np.linalg.cholesky(quadratic / unit)
    whole = cvxpy.sum(w) <= gross
    parts = []
    if asset_class is not None:
        parts = [cvxpy.sum(w[np.flatnonzero(asset_class == k)]) <= c for k, c in enumerate(class_cap)]
    program = cvxpy.Problem(
        cvxpy.Maximize(mean / unit @ w - 0.5 * cvxpy.sum_squares(root.T @ w)), [w >= 0, w <= cap, whole, *parts]
    )
    program.solve(solver="CLARABEL", tol_gap_abs=1e-12, tol_gap_rel=1e-12, tol_feas=1e-12)
    class_prices = np.array([unit * float(np.sum(part.dual_value)) for part in parts])
    return w.value, unit * float(whole.dual_value), class_prices
