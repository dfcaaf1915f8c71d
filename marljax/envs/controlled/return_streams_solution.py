"""What is best where returns follow a known hidden Markov law, on the host in float64, apart from the world's code.

Who knows the law and sees every return knows the regime as well as it can be known: by the recursive filter of Hamilton
(1989, Econometrica 57). What is allocated changes neither the regime nor what is seen of it, so where rebalancing is
free the best allocation at each rebalance is the one that is best for the periods up to the next one, at the belief
held then. It is found by numerical integration over draws of what those periods may bring. Rebalancing that costs
leaves less to anybody, so this optimum is a bound that no causal allocation passes on average.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
from scipy import interpolate, optimize

_GRID = 12
"""Parts into which beliefs are divided from certainty to certainty."""


class Law(NamedTuple):
    """Normal returns of A agents under S regimes."""

    mean: np.ndarray  # float64[S, A] per period
    covariance: np.ndarray  # float64[S, A, A] per period
    transition: np.ndarray  # float64[S, S] per period
    first: np.ndarray  # float64[S] before the first period


@dataclasses.dataclass(frozen=True)
class Investor:
    """What is allowed and what is wanted: long-only weights of at most `gross` in all, and the expectation of
    x - risk_aversion / 2 * x**2 for a log growth of x * scale between two rebalances."""

    gross: float
    rate: float
    """Of cash, per period."""
    scale: float
    risk_aversion: float

    def utility(self, log_growth: np.ndarray) -> np.ndarray:
        """Of log growths, in units of the scale."""
        x = np.asarray(log_growth) / self.scale
        return x - 0.5 * self.risk_aversion * x**2

    def certainty_equivalent(self, utility: np.ndarray) -> np.ndarray:
        """The sure log growth that is worth as much as an expected utility."""
        if self.risk_aversion == 0.0:
            return self.scale * np.asarray(utility)
        return self.scale * (1.0 - np.sqrt(1.0 - 2.0 * self.risk_aversion * np.asarray(utility))) / self.risk_aversion


def beliefs(law: Law, returns: np.ndarray) -> np.ndarray:
    """Probabilities of the last period's regime before each rebalance, float64[..., T, S], from returns
    float64[..., T, K, A] of the periods between rebalances."""
    *batch, n_steps, n_periods, n_agents = returns.shape
    rows = returns.reshape(*batch, n_steps * n_periods, n_agents)
    precision, (_, log_det) = np.linalg.inv(law.covariance), np.linalg.slogdet(law.covariance)
    off = rows[..., None, :] - law.mean
    log_density = -0.5 * (np.einsum("...sa,sab,...sb->...s", off, precision, off, optimize=True) + log_det)
    likelihood = np.exp(log_density - log_density.max(-1, keepdims=True))
    belief = np.broadcast_to(law.first, (*batch, len(law.first)))
    before = np.empty((*batch, n_steps, len(law.first)))
    for t in range(n_steps * n_periods):
        if t % n_periods == 0:
            before[..., t // n_periods, :] = belief
        belief = (belief @ law.transition) * likelihood[..., t, :]
        belief = belief / belief.sum(-1, keepdims=True)
    return before


def draw_growth(law: Law, n_periods: int, n_draws: int, rng: np.random.Generator) -> np.ndarray:
    """What capital left to each agent grows to until the next rebalance, float64[S, N, A] by the last period's regime.

    Draws come in pairs of opposite news, whose means are exact to first order.
    """
    n_regimes, n_agents = law.mean.shape
    roots = np.linalg.cholesky(law.covariance)
    ladder = law.transition.cumsum(1)
    growth = np.ones((n_regimes, n_draws, n_agents))
    for before in range(n_regimes):
        regime = np.full(n_draws // 2, before)
        for _ in range(n_periods):
            regime = (rng.random(len(regime))[:, None] >= ladder[regime]).sum(1).clip(max=n_regimes - 1)
            news = np.einsum("nab,nb->na", roots[regime], rng.standard_normal((len(regime), n_agents)))
            both = np.concatenate([law.mean[regime] + news, law.mean[regime] - news])
            growth[before] *= 1.0 + both
    return growth


def best_weights(belief: np.ndarray, growth: np.ndarray, n_periods: int, investor: Investor) -> np.ndarray:
    """The best allocation at one belief float64[S] for draws of growth float64[S, N, A]: float64[A] fractions."""
    n_draws, n_agents = growth.shape[1:]
    cash = (1.0 + investor.rate) ** n_periods
    excess = (growth - cash).reshape(-1, n_agents)
    chance = np.repeat(belief, n_draws) / n_draws

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        wealth = cash + excess @ weights
        x = np.log(wealth) / investor.scale
        slope = (1.0 - investor.risk_aversion * x) / (investor.scale * wealth)
        return -float(chance @ (x - 0.5 * investor.risk_aversion * x**2)), -((chance * slope) @ excess)

    found = optimize.minimize(
        loss,
        np.full(n_agents, 0.5 * investor.gross / n_agents),
        jac=True,
        method="SLSQP",
        bounds=[(0.0, investor.gross)] * n_agents,
        constraints={
            "type": "ineq",
            "fun": lambda w: investor.gross - w.sum(),
            "jac": lambda w: -np.ones(n_agents),
        },
        options={"ftol": 1e-9, "maxiter": 200},
    )
    if not found.success:
        raise ArithmeticError(f"no best allocation found at belief {belief.tolist()}: {found.message}")
    return np.clip(found.x, 0.0, investor.gross)


def belief_grid(n_regimes: int, parts: int = _GRID) -> np.ndarray:
    """float64[B, S] all beliefs that are multiples of 1 / parts."""
    counts = np.stack(np.meshgrid(*[np.arange(parts + 1)] * (n_regimes - 1), indexing="ij"), -1)
    counts = counts.reshape(-1, n_regimes - 1)
    counts = counts[counts.sum(1) <= parts]
    return np.concatenate([counts, parts - counts.sum(1, keepdims=True)], 1) / parts


@dataclasses.dataclass(frozen=True)
class BestAllocation:
    """The best allocation as a function of the belief, linear between those of a grid."""

    grid: np.ndarray  # float64[B, S] beliefs
    weights: np.ndarray  # float64[B, A]

    def __call__(self, belief: np.ndarray) -> np.ndarray:
        """float64[..., A] at float64[..., S]."""
        known = np.clip(belief[..., :-1], 0.0, 1.0)
        if known.shape[-1] == 1:
            order = np.argsort(self.grid[:, 0])
            columns = [np.interp(known[..., 0], self.grid[order, 0], w[order]) for w in self.weights.T]
            return np.stack(columns, -1)
        # Beliefs add up to one but for rounding; a little within, so that none falls out of the grid.
        centre = np.full(known.shape[-1], 1.0 / belief.shape[-1])
        inside = centre + (known - centre) * (1.0 - 1e-9)
        return interpolate.LinearNDInterpolator(self.grid[:, :-1], self.weights)(inside)


def solve(law: Law, n_periods: int, investor: Investor, *, n_draws: int = 3000, seed: int = 0) -> BestAllocation:
    """The optimum."""
    growth = draw_growth(law, n_periods, n_draws, np.random.default_rng(seed))
    grid = belief_grid(len(law.first))
    return BestAllocation(grid, np.stack([best_weights(b, growth, n_periods, investor) for b in grid]))
