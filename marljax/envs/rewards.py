"""What an agent is paid for: weighted terms of one step, composed by numbers that may be traced, swept, randomised.

    term        what it is                                 unit                   sum over an episode
    earnings    what the step earned, net of costs         sd                     net earnings
    log_return  capital x log of the growth of equity      sd                     capital x log growth
    sharpe      differential Sharpe ratio                  1                      see below
    sortino     differential downside deviation ratio      1                      see below
    drawdown    - capital x new drawdown                   sd                     - capital x maximum drawdown
    inventory   - squared position / 2                     squared share of limit
    turnover    - lots traded                              share of limit         - turnover

An `sd` is one standard deviation of what the full position earns in one step: every amount of money is counted in it,
so that a weight means the same for every product. New drawdown is what the largest relative loss from a peak of equity
grows by in the step; an old one costs nothing more, so the terms of an episode sum to its maximum drawdown.

The two ratios are the derivatives of Sharpe's ratio, and of its relative over downside deviation, by the rate of the
exponential moving moments they are made of (Moody and Saffell, IEEE Transactions on Neural Networks 12, 2001): rate x
term is to first order what the step adds to the ratio. Moments begin at mean 0 and variance 1, those of the full
position in a market without drift, and a deviation below `least_deviation` counts as that, which bounds the terms
where the earnings hardly vary.

Terms of the path (log_return, sharpe, sortino, drawdown) need a state. Where no such term is wanted `path` is None,
and the state too, which costs nothing.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from marljax.data.limits import require, require_not_negative, require_positive

RUIN = 1e-6
"""Equity below this part of the capital counts as it, so that a lost capital has a logarithm."""


@dataclasses.dataclass(frozen=True)
class RewardConfig:
    """Weights of the terms of the reward; inventory's is `risk_aversion`. An `sd` is the standard deviation of what the
    full position earns in one step."""

    earnings: float = 1.0
    """Weight of the step's net earnings [reward per sd]."""
    log_return: float = 0.0
    """Weight of the log return of equity, times the capital [reward per sd]."""
    sharpe: float = 0.0
    """Weight of the differential Sharpe ratio [reward per unit of it]."""
    sortino: float = 0.0
    """Weight of the differential downside deviation ratio [reward per unit of it]."""
    drawdown: float = 0.0
    """Penalty on new drawdown of equity, relative to its peak and times the capital [reward per sd]."""
    turnover: float = 0.0
    """Penalty on lots bought or sold [reward per position limit]."""
    memory: float = 100.0
    """Mean age of what the moments of the two ratios remember [steps]."""
    least_deviation: float = 0.1
    """Smallest deviation the two ratios divide by [sd]."""

    def __post_init__(self) -> None:
        require_not_negative(self, "earnings", "log_return", "sharpe", "sortino", "drawdown", "turnover")
        require(self, "at least 1", lambda x: x >= 1, "memory")
        require_positive(self, "least_deviation")

    def weights(self, inventory: float) -> "RewardWeights":
        """The same as float32[] leaves; `path` is None where its weights are all 0."""
        path = PathWeights(
            log_return=jnp.float32(self.log_return),
            sharpe=jnp.float32(self.sharpe),
            sortino=jnp.float32(self.sortino),
            drawdown=jnp.float32(self.drawdown),
            rate=jnp.float32(1.0 / self.memory),
            least_deviation=jnp.float32(self.least_deviation),
        )
        return RewardWeights(
            earnings=jnp.float32(self.earnings),
            inventory=jnp.float32(inventory),
            turnover=jnp.float32(self.turnover),
            path=path if any((self.log_return, self.sharpe, self.sortino, self.drawdown)) else None,
        )


@struct.dataclass
class PathWeights:
    """Weights of the terms that depend on earlier steps."""

    log_return: jax.Array  # float32[] reward per sd
    sharpe: jax.Array  # float32[] reward per unit of the differential ratio
    sortino: jax.Array  # float32[] reward per unit of the differential ratio
    drawdown: jax.Array  # float32[] reward per sd
    rate: jax.Array  # float32[] of the moving moments, per step, in (0, 1]
    least_deviation: jax.Array  # float32[] sd, > 0


@struct.dataclass
class RewardWeights:
    """Weights of all terms. A weight of 0 switches its term off exactly."""

    earnings: jax.Array  # float32[] reward per sd
    inventory: jax.Array  # float32[] reward per squared fraction of the position limit
    turnover: jax.Array  # float32[] reward per position limit
    path: PathWeights | None = None


@struct.dataclass
class PathState:
    """What the terms of the path remember."""

    capital: jax.Array  # float32[] sd, equity at the start, > 0
    net: jax.Array  # float32[] sd, equity less capital
    peak: jax.Array  # float32[] sd, largest `net` so far, >= 0
    worst: jax.Array  # float32[] sd, capital x largest relative loss from a peak so far
    mean: jax.Array  # float32[] sd, moving mean of earnings
    square: jax.Array  # float32[] sd^2, moving mean of their squares
    downside: jax.Array  # float32[] sd^2, moving mean of the squares of losses, gains counted as 0


class Facts(NamedTuple):
    """What happened in one step."""

    earned: jax.Array  # float32[] sd, net of costs
    position: jax.Array  # float32[] fraction of the limit, after the step's order
    traded: jax.Array  # float32[] fraction of the limit, bought or sold


def start(weights: RewardWeights, capital: jax.Array) -> PathState | None:
    """The state at the start of an episode with equity `capital` (float32[] sd, > 0)."""
    if weights.path is None:
        return None
    zero, one = jnp.zeros((), jnp.float32), jnp.ones((), jnp.float32)
    return PathState(
        capital=jnp.asarray(capital, jnp.float32),
        net=zero,
        peak=zero,
        worst=zero,
        mean=zero,
        square=one,
        downside=one / 2,
    )


def step(state: PathState | None, weights: RewardWeights, facts: Facts) -> tuple[PathState | None, jax.Array]:
    """The state after one step, and the step's reward, float32[].

    `state` is None exactly where `weights.path` is.
    """
    reward = _weighted(weights.earnings, facts.earned)
    reward -= _weighted(0.5 * weights.inventory, facts.position**2)
    reward -= _weighted(weights.turnover, facts.traded)
    if weights.path is None or state is None:
        return state, reward
    path, after = weights.path, _advance(state, weights.path.rate, facts.earned)
    reward += _weighted(path.log_return, log_return(state, after))
    reward += _weighted(path.sharpe, differential_sharpe(state, facts.earned, path.least_deviation))
    reward += _weighted(path.sortino, differential_sortino(state, facts.earned, path.least_deviation))
    reward -= _weighted(path.drawdown, after.worst - state.worst)
    return after, reward


def log_return(before: PathState, after: PathState) -> jax.Array:
    """float32[] sd: capital x log(equity after / equity before). Near the capital it is what was earned."""
    return before.capital * jnp.log1p((after.net - before.net) / (before.capital + before.net))


def differential_sharpe(state: PathState, earned: jax.Array, least_deviation: jax.Array) -> jax.Array:
    """float32[] (B dA - A dB / 2) / (B - A^2)^(3/2), the derivative of mean / deviation (Moody and Saffell 2001).

    A is the mean and B the mean square before the step, dA and dB their distance to what was `earned` (float32[] sd)
    and its square. The deviation is at least `least_deviation`.
    """
    variance = jnp.maximum(state.square - state.mean**2, least_deviation**2)
    to_mean, to_square = earned - state.mean, earned**2 - state.square
    # B dA = (variance + A^2) dA: written so, the floor on the variance bounds the whole.
    scaled = (variance + state.mean**2) * to_mean - 0.5 * state.mean * to_square
    return scaled / variance**1.5


def differential_sortino(state: PathState, earned: jax.Array, least_deviation: jax.Array) -> jax.Array:
    """float32[] dA / D - A dD^2 / (2 D^3), the derivative of mean / downside deviation (Moody and Saffell 2001).

    A is the mean and D^2 the mean square of losses before the step, dA and dD^2 their distance to what was `earned`
    (float32[] sd) and its squared loss. D is at least `least_deviation`.
    """
    squared = jnp.maximum(state.downside, least_deviation**2)
    to_mean, to_squared = earned - state.mean, jnp.minimum(earned, 0.0) ** 2 - state.downside
    return (to_mean - 0.5 * state.mean * to_squared / squared) / jnp.sqrt(squared)


def _advance(state: PathState, rate: jax.Array, earned: jax.Array) -> PathState:
    net = jnp.maximum(state.net + earned, (RUIN - 1.0) * state.capital)
    peak = jnp.maximum(state.peak, net)
    drawdown = state.capital * (peak - net) / (state.capital + peak)
    return PathState(
        capital=state.capital,
        net=net,
        peak=peak,
        worst=jnp.maximum(state.worst, drawdown),
        mean=state.mean + rate * (earned - state.mean),
        square=state.square + rate * (earned**2 - state.square),
        downside=state.downside + rate * (jnp.minimum(earned, 0.0) ** 2 - state.downside),
    )


def _weighted(weight: jax.Array, term: jax.Array) -> jax.Array:
    # Where the weight is 0 the product would still be NaN for a term that is not finite.
    return jnp.where(weight == 0.0, 0.0, weight * term)
