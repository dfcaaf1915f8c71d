"""The optimum of a hidden Markov market against brute force."""

import itertools

import numpy as np
import pytest
from scipy import stats

from marljax.envs.controlled.return_streams_solution import (
    Investor,
    Law,
    belief_grid,
    beliefs,
    best_weights,
    draw_growth,
    solve,
)

COVARIANCE = np.array([[[4e-4, 1e-4], [1e-4, 9e-4]], [[9e-4, 8e-4], [8e-4, 1e-3]]])
LAW = Law(
    mean=np.array([[0.012, 0.006], [-0.01, 0.002]]),
    covariance=COVARIANCE,
    transition=np.array([[0.8, 0.2], [0.4, 0.6]]),
    first=np.array([2 / 3, 1 / 3]),
)
INVESTOR = Investor(gross=1.5, rate=0.001, scale=0.02, risk_aversion=0.5)


def test_the_belief_is_that_of_summing_over_all_paths_of_the_regime():
    returns = np.random.default_rng(0).multivariate_normal([0.0, 0.0], 9e-4 * np.eye(2), (3, 2))
    density = np.array(
        [
            stats.multivariate_normal(m, c).pdf(returns.reshape(6, 2))
            for m, c in zip(LAW.mean, LAW.covariance, strict=True)
        ]
    ).T
    wanted = []
    for n in (0, 2, 4):
        weight = np.zeros(2)
        for path in itertools.product(range(2), repeat=n + 1):
            p = LAW.first[path[0]]
            for t in range(n):
                p *= LAW.transition[path[t], path[t + 1]] * density[t, path[t + 1]]
            weight[path[-1]] += p
        wanted.append(weight / weight.sum())
    np.testing.assert_allclose(beliefs(LAW, returns), wanted, atol=1e-12)
    np.testing.assert_allclose(beliefs(LAW, np.stack([returns, returns]))[1], wanted, atol=1e-12)


@pytest.mark.parametrize("belief", [(1.0, 0.0), (0.5, 0.5)])
def test_the_best_allocation_is_that_of_a_search_over_all_by_quadrature(belief):
    nodes, chances = np.polynomial.hermite_e.hermegauss(12)
    pairs = np.array(list(itertools.product(nodes, nodes)))
    chance = np.prod(list(itertools.product(chances, chances)), axis=1) / (2 * np.pi)
    ahead = np.array(belief) @ LAW.transition
    grid = [np.array(w) for w in itertools.product(np.linspace(0.0, 1.5, 61), repeat=2) if sum(w) <= 1.5 + 1e-9]

    def worth(weights):
        total = 0.0
        for s in range(2):
            returns = LAW.mean[s] + pairs @ np.linalg.cholesky(COVARIANCE[s]).T
            wealth = 1.001 + (returns - 0.001) @ weights
            x = np.log(wealth) / 0.02
            total += ahead[s] * chance @ (x - 0.25 * x**2)
        return total

    values = np.array([worth(w) for w in grid])
    growth = draw_growth(LAW, 1, 40_000, np.random.default_rng(1))
    found = best_weights(np.array(belief), growth, 1, INVESTOR)
    assert worth(found) == pytest.approx(values.max(), abs=2e-4)
    np.testing.assert_allclose(found, grid[values.argmax()], atol=0.05)
    assert worth(np.zeros(2)) < 0.9 * values.max()


def test_between_beliefs_of_the_grid_the_best_allocation_is_nearly_exact():
    best = solve(LAW, 2, INVESTOR, n_draws=2000)
    belief = np.array([0.47, 0.53])
    growth = draw_growth(LAW, 2, 2000, np.random.default_rng(0))
    np.testing.assert_allclose(best(belief), best_weights(belief, growth, 2, INVESTOR), atol=0.03)
    assert best(np.full((3, 5, 2), 0.5)).shape == (3, 5, 2)
    assert np.all(best.weights.sum(1) <= INVESTOR.gross + 1e-6)


def test_beliefs_of_a_grid_are_probabilities_and_include_certainty():
    grid = belief_grid(3, 4)
    assert len(grid) == 15
    np.testing.assert_allclose(grid.sum(1), 1.0)
    for corner in np.eye(3):
        assert (grid == corner).all(1).any()


def test_a_certainty_equivalent_is_the_sure_growth_of_the_same_utility():
    sure = np.array([-0.02, 0.0, 0.01])
    np.testing.assert_allclose(INVESTOR.certainty_equivalent(INVESTOR.utility(sure)), sure, atol=1e-12)
    neutral = Investor(gross=1.0, rate=0.0, scale=0.02, risk_aversion=0.0)
    np.testing.assert_allclose(neutral.certainty_equivalent(neutral.utility(sure)), sure, atol=1e-12)
