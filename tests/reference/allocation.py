"""Slow and obvious in float64: the filter of correlation regimes by its definition, and allocators by other methods.

Nothing here shares code with marljax.
"""

import numpy as np
import scipy.cluster.hierarchy
import scipy.optimize
import scipy.spatial.distance
import scipy.stats


def regime_covariances(
    returns: np.ndarray,
    *,
    volatility_halflife: float,
    correlation_halflife: float,
    jump: float,
    evidence: float,
    calm_duration: float,
    stress_duration: float,
    warm_up: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Covariances [T, P, P] for the next step and probabilities [T] that it is stressed, neither shrunk nor floored.

    Every average is summed anew over all the steps; the density of a direction is that of Tyler for a full matrix.
    """
    n_steps, n = returns.shape
    standard = np.zeros((n_steps, n))
    stressed_share = np.zeros(n_steps)
    covariances, probabilities = [], []

    def correlation(shares: np.ndarray, t: int) -> np.ndarray:
        moments = np.zeros((n, n))
        for k in range(t):
            moments += 0.5 ** ((t - 1 - k) / correlation_halflife) * shares[k] * np.outer(standard[k], standard[k])
        scale = np.sqrt(np.diag(moments))
        scale[scale == 0] = 1
        result = moments / np.outer(scale, scale)
        np.fill_diagonal(result, 1)
        return result

    def log_density(direction: np.ndarray, common: float) -> float:
        matrix = np.full((n, n), common) + (1 - common) * np.eye(n)
        distance = direction @ np.linalg.solve(matrix, direction)
        return -0.5 * np.linalg.slogdet(matrix)[1] - n / 2 * np.log(distance)

    ahead = 0.0
    for t in range(n_steps):
        weights = 0.5 ** (np.arange(t, -1, -1) / volatility_halflife)
        shares = weights / weights.sum()
        before = weights[:-1] @ returns[:t] / weights[:-1].sum() if t else np.zeros(n)
        centred = returns[: t + 1] - shares @ returns[: t + 1]
        spread = np.sqrt(shares @ centred**2 / max(1 - (shares**2).sum(), 1e-300))
        if t:
            standard[t] = (returns[t] - before) / spread
        if t >= warm_up:
            matrix = correlation(1 - stressed_share, t)
            calm = np.clip(matrix[~np.eye(n, dtype=bool)].mean(), 0, 0.95)
            direction = standard[t] / np.linalg.norm(standard[t])
            odds = ahead / (1 - ahead)
            odds *= np.exp(log_density(direction, calm + jump * (1 - calm)) - log_density(direction, calm))
            stressed_share[t] = odds / (1 + odds)
        ahead = stressed_share[t] * (1 - 1 / stress_duration) + (1 - stressed_share[t]) / calm_duration
        calm_matrix = correlation(1 - stressed_share, t + 1)
        age = np.arange(t, -1, -1)
        seen = (0.5 ** (age / correlation_halflife) * stressed_share[: t + 1]).sum()
        assumed = calm_matrix + jump * (1 - calm_matrix)
        stressed = (seen * correlation(stressed_share, t + 1) + evidence * assumed) / (seen + evidence)
        covariances.append(((1 - ahead) * calm_matrix + ahead * stressed) * np.outer(spread, spread))
        probabilities.append(ahead)
    return np.array(covariances), np.array(probabilities)


def minimum_variance(covariance: np.ndarray) -> np.ndarray:
    """Long-only least variance as non-negative least squares, solved by Lawson and Hanson's active sets."""
    scale = np.sqrt(np.diag(covariance))
    factor = np.linalg.cholesky(covariance / np.outer(scale, scale))
    wish = scale.min() / scale
    positions, _ = scipy.optimize.nnls(factor.T, np.linalg.solve(factor, wish), maxiter=100 * len(wish))
    weights = positions / scale
    return weights / weights.sum()


def hierarchical_risk_parity(covariance: np.ndarray) -> np.ndarray:
    """Lopez de Prado's quasi-diagonalisation and recursive bisection, on SciPy's single linkage."""
    by_volatility = np.argsort(np.diag(covariance))
    ordered = covariance[np.ix_(by_volatility, by_volatility)]
    scale = np.sqrt(np.diag(ordered))
    distance = np.sqrt(np.maximum(1 - ordered / np.outer(scale, scale), 0) / 2)
    np.fill_diagonal(distance, 0)
    weights = np.ones(len(ordered))

    def variance(items: np.ndarray) -> float:
        block = ordered[np.ix_(items, items)]
        inverse = 1 / np.diag(block) / (1 / np.diag(block)).sum()
        return inverse @ block @ inverse

    def bisect(items: np.ndarray) -> None:
        if len(items) < 2:
            return
        left, right = items[: len(items) // 2], items[len(items) // 2 :]
        share = 1 - variance(left) / (variance(left) + variance(right))
        weights[left] *= share
        weights[right] *= 1 - share
        bisect(left)
        bisect(right)

    if len(ordered) > 1:
        condensed = scipy.spatial.distance.squareform(distance, checks=False)
        bisect(scipy.cluster.hierarchy.leaves_list(scipy.cluster.hierarchy.linkage(condensed, "single")))
    result = np.empty(len(weights))
    result[by_volatility] = weights
    return result


def black_litterman_moments(
    covariance: np.ndarray, market: np.ndarray, views: np.ndarray, risk_aversion: float, tau: float
) -> tuple[np.ndarray, np.ndarray]:
    """Posterior mean and covariance by inverses, as He and Litterman (1999) write them; one view on every product."""
    prior = np.linalg.inv(tau * covariance)
    certainty = np.diag(1 / (tau * np.diag(covariance)))
    spread = np.linalg.inv(prior + certainty)
    return spread @ (prior @ (risk_aversion * covariance @ market) + certainty @ views), covariance + spread


def mean_variance(mean: np.ndarray, covariance: np.ndarray, risk_aversion: float) -> np.ndarray:
    """Long-only, fully invested maximum of w'm - a/2 w'Cw: best of all sets of held products, each solved exactly."""
    n = len(mean)
    best, value = np.zeros(n), -np.inf
    for code in range(1, 2**n):
        held = np.array([code >> i & 1 for i in range(n)], bool)
        size = held.sum()
        system = np.zeros((size + 1, size + 1))
        system[:size, :size] = risk_aversion * covariance[np.ix_(held, held)]
        system[size, :size] = system[:size, size] = 1
        solution = np.linalg.solve(system, np.append(mean[held], 1))[:size]
        if (solution < 0).any():
            continue
        weights = np.zeros(n)
        weights[held] = solution
        gain = weights @ mean - risk_aversion / 2 * weights @ covariance @ weights
        if gain > value:
            best, value = weights, gain
    return best


def minimum_cvar(scenarios: np.ndarray, tail: float) -> np.ndarray:
    """Least mean loss of the worst `tail` of scenarios, as Rockafellar and Uryasev's linear program."""
    n_scenarios, n = scenarios.shape
    cost = np.concatenate([np.zeros(n), [1], np.full(n_scenarios, 1 / (tail * n_scenarios))])
    above = np.hstack([-scenarios, -np.ones((n_scenarios, 1)), -np.eye(n_scenarios)])
    budget = np.concatenate([np.ones(n), [0], np.zeros(n_scenarios)])[None]
    bounds = [(0, None)] * n + [(None, None)] + [(0, None)] * n_scenarios
    solved = scipy.optimize.linprog(cost, above, np.zeros(n_scenarios), budget, [1], bounds=bounds, method="highs")
    return solved.x[:n]
