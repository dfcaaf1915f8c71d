"""Two correlated products under one risk limit: what is best for one trader depends on what the other holds.

Each of two agents holds one product, and sees that product's signal alone. Returns are edge * signal plus noise,
correlated between the products; the signals are correlated, too. Each has clients besides, who bring in an income that
it foresees and cannot change. Both agents earn what the desk earns: the profit and income of both less a charge on the
portfolio's variance beyond the limit,

    x . r + income . 1 - charge * max(0, volatility**2 (x_1**2 + x_2**2 + 2 correlation x_1 x_2) - limit**2).

Signals and clients' business persist as Gaussian autoregressions. To one who sees one product alone, most of what the
desk earns is noise; to one who sees both in training it is foreseen, and what remains is what the agents did.

The expected reward is concave in the two rules from signal to position, and such a team is best when each is best
against the other (Radner 1962). Without a limit (0) both rules are linear, with a closed form; with one they are found
by each answering the other in turn, to within 0.2 % of the best.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marljax.data.limits import require, require_not_negative, require_positive
from marljax.envs.environment import Box, Environment, Step

_ROUNDS = 200
_HALVINGS = 50


@struct.dataclass
class TwoProductsParams:
    """The products, their signals and the limit."""

    edge: float = 1.0
    """Expected return per signal [price/step]; signals have unit variance."""
    volatility: float = 0.25
    """Of returns beyond the signal [price/step]."""
    correlation: float = 0.8
    """Of these returns between the products."""
    signal_correlation: float = 0.3
    """Of the signals between the products."""
    persistence: float = 0.95
    """First autocorrelation of a signal, and of clients' business."""
    limit: float = 0.25
    """Standard deviation that the portfolio may have [currency/step]."""
    charge: float = 16.0
    """Price of variance beyond the limit [1/currency]."""
    income: float = 3.0
    """Standard deviation of what each trader's clients bring in, whatever it does [currency/step]."""
    max_position: float = 2.0
    """Largest position in a product, long or short [units]."""

    def __post_init__(self) -> None:
        require_positive(self, "volatility", "charge", "max_position")
        require_not_negative(self, "edge", "limit", "income")
        for name in ("correlation", "signal_correlation", "persistence"):
            require(self, "above -1 and below 1", lambda x: -1.0 < x < 1.0, name)


@struct.dataclass
class TwoProductsState:
    signal: jax.Array  # float32[2] of each product
    business: jax.Array  # float32[2] of each trader's clients; income in standard deviations
    elapsed: jax.Array  # int32[] steps


@dataclasses.dataclass(frozen=True)
class TwoProducts(Environment[TwoProductsState, TwoProductsParams]):
    """Observation float32[2, 2]: each agent the signal of its own product and its own clients' business. Action
    float32[2, 1] in [-1, 1]: its position, as a share of the largest. Reward float32[2]: what the desk earns, for both
    the same. Truncates after `episode_steps`. `info["risk"]` is the portfolio's standard deviation [currency/step].
    """

    episode_steps: int = 64

    def observation_space(self, params: TwoProductsParams) -> Box:
        return Box(-jnp.inf, jnp.inf, (2, 2))

    def action_space(self, params: TwoProductsParams) -> Box:
        return Box(-1.0, 1.0, (2, 1))

    def reset_env(self, key: jax.Array, params: TwoProductsParams) -> tuple[jax.Array, TwoProductsState]:
        news, business = jax.random.normal(key, (2, 2))
        state = TwoProductsState(correlated(news, params.signal_correlation), business, jnp.zeros((), jnp.int32))
        return self._observe(state), state

    def step_env(self, key: jax.Array, state: TwoProductsState, action: jax.Array, params: TwoProductsParams) -> Step:
        noise, news, clients = jax.random.normal(key, (3, 2))
        position = params.max_position * jnp.clip(action[:, 0], -1.0, 1.0)
        risk = variance(position[0], position[1], params)
        returns = params.edge * state.signal + params.volatility * correlated(noise, params.correlation)
        charge = params.charge * jnp.maximum(0.0, risk - params.limit**2)
        earned = jnp.sum(position * returns) + params.income * jnp.sum(state.business) - charge
        keep, renew = params.persistence, jnp.sqrt(1.0 - params.persistence**2)
        state = TwoProductsState(
            signal=keep * state.signal + renew * correlated(news, params.signal_correlation),
            business=keep * state.business + renew * clients,
            elapsed=state.elapsed + 1,
        )
        truncated = jnp.broadcast_to(state.elapsed >= self.episode_steps, (2,))
        reward = jnp.broadcast_to(earned, (2,))
        info = {"risk": jnp.sqrt(risk)}
        return self._observe(state), state, reward, jnp.zeros(2, bool), truncated, info

    def _observe(self, state: TwoProductsState) -> jax.Array:
        return jnp.stack([state.signal, state.business], axis=-1)


def correlated(noise: jax.Array, correlation: jax.Array | float) -> jax.Array:
    """float32[2] of unit variance and this correlation, from two independent ones."""
    return jnp.stack([noise[0], correlation * noise[0] + jnp.sqrt(1.0 - correlation**2) * noise[1]])


def variance(first: Any, second: Any, params: TwoProductsParams) -> Any:
    """Of the portfolio of two positions, beyond what signals explain [currency**2/step**2]."""
    return params.volatility**2 * (first**2 + second**2 + 2.0 * params.correlation * first * second)


@dataclasses.dataclass(frozen=True)
class SignalGrid:
    """Pairs of signals with their probabilities, on which rules are judged without noise."""

    nodes: np.ndarray  # float64[N] values of a signal
    probability: np.ndarray  # float64[N, N] of pairs of the first and the second product's

    @classmethod
    def of(cls, params: TwoProductsParams, n: int = 121, reach: float = 4.5) -> "SignalGrid":
        """`n` values up to `reach` standard deviations, weighted by the signals' stationary density."""
        nodes = np.linspace(-reach, reach, n)
        c = float(params.signal_correlation)
        square = nodes[:, None] ** 2 + nodes**2 - 2.0 * c * nodes[:, None] * nodes
        density = np.exp(-0.5 * square / (1.0 - c**2))
        return cls(nodes, density / density.sum())


def expected_reward(first: np.ndarray, second: np.ndarray, params: TwoProductsParams, grid: SignalGrid) -> np.ndarray:
    """What the desk earns per step on average [currency] when positions are float[..., N] at the grid's nodes; clients'
    income is zero on average."""
    x, y = first[..., :, None], second[..., None, :]
    excess = np.maximum(0.0, variance(x, y, params) - params.limit**2)
    earned = params.edge * (grid.nodes[:, None] * x + grid.nodes * y) - params.charge * excess
    return np.sum(grid.probability * earned, axis=(-2, -1))


def best_rule(params: TwoProductsParams, grid: SignalGrid) -> np.ndarray:
    """float64[N] the best position of either agent at the grid's nodes, found by each answering the other in turn."""
    rule = np.clip(linear_slope(params) * grid.nodes, -params.max_position, params.max_position)
    for _ in range(_ROUNDS):
        answer = _answer(rule, params, grid)
        if np.abs(answer - rule).max() < 1e-9:
            break
        # Half way: two who answer at once would overshoot each other.
        rule = 0.5 * (rule + answer)
    return rule


def linear_slope(params: TwoProductsParams) -> float:
    """Of the best rules, position = slope * signal, where every variance is charged (limit 0): Radner (1962)."""
    coupling = 1.0 + params.correlation * params.signal_correlation
    return float(params.edge / (2.0 * params.charge * params.volatility**2 * coupling))


def _answer(other: np.ndarray, params: TwoProductsParams, grid: SignalGrid) -> np.ndarray:
    """float64[N] the best positions against another's rule: where the slope of the expected reward changes its sign."""
    low = np.full_like(grid.nodes, -float(params.max_position))
    high = -low
    given = grid.probability / grid.probability.sum(1, keepdims=True)
    for _ in range(_HALVINGS):
        x = 0.5 * (low + high)
        over = variance(x[:, None], other, params) > params.limit**2
        marginal = 2.0 * params.volatility**2 * (x[:, None] + params.correlation * other)
        slope = params.edge * grid.nodes - params.charge * np.sum(given * over * marginal, axis=1)
        low, high = np.where(slope > 0, x, low), np.where(slope > 0, high, x)
    return 0.5 * (low + high)
