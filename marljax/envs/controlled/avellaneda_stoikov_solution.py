"""What is best in the market of Avellaneda and Stoikov, on the host in float64: closed forms, and the true optimum.

Three sets of quotes by time and inventory, and one exact measure of any such quotes:

- `approximate_quotes`: the paper's own, from an expansion in inventory.
- `continuous_quotes`: exact in continuous time, by the linear ordinary differential equations of Guéant, Lehalle and
  Fernandez-Tapia (2013) for the exponential utility, and of Cartea, Jaimungal and Penalva (2015, section 10.2) for the
  running penalty, which is its limit of no aversion to the risk of being filled or not.
- `optimal_quotes`: exact for the world in discrete time, by dynamic programming.
- `value_of`: the objective that quotes reach in the world, exact to rounding, without simulating it.

The objective is a certainty equivalent in currency. The mid's risk integrates out of the exponential utility into the
charge gamma/2 sigma**2 dt inventory**2 a step, which is also the running penalty. What is left is a certainty
equivalent over fills, under an aversion of gamma in the one case and of none in the other.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from marljax.envs.controlled.avellaneda_stoikov import AvellanedaStoikovParams, Objective

ZOOMS = 6
"""Rounds of the search for a quote; each makes the interval 8 times as short."""
SWEEPS = 3
"""Rounds over both sides in one step, each starting from the other side's quote."""


class Quotes(NamedTuple):
    """Distances from the mid by step and inventory, from the largest short to the largest long one.

    Infinite at the limit, on the side that would go beyond it.
    """

    bid: np.ndarray  # float64[N, 2Q + 1] currency
    ask: np.ndarray  # float64[N, 2Q + 1] currency


class Solution(NamedTuple):
    """Quotes, and what they are worth."""

    quotes: Quotes
    value: np.ndarray  # float64[N + 1, 2Q + 1] currency: objective from a step and inventory to the end


def inventories(params: AvellanedaStoikovParams) -> np.ndarray:
    """float64[2Q + 1] units, the axis of all tables here."""
    limit = int(params.max_inventory)
    return np.arange(-limit, limit + 1, dtype=np.float64)


def as_actions(quotes: Quotes, params: AvellanedaStoikovParams) -> np.ndarray:
    """float64[N, 2Q + 1, 2] the actions that place quotes, those out of reach at the nearest within it."""
    return np.clip(2.0 * np.stack(quotes, axis=-1) / params.max_quote - 1.0, -1.0, 1.0)


def approximate_quotes(params: AvellanedaStoikovParams, n_steps: int) -> Quotes:
    """The paper's: a spread of gamma sigma**2 (T - t) + 2/gamma log(1 + gamma/k) around the reservation price."""
    gamma, left = params.risk_aversion, _time_left(params, n_steps)[:-1, None]
    variance = gamma * params.volatility**2 * left
    half, shift = 0.5 * variance + np.log1p(gamma / params.decay) / gamma, variance * inventories(params)
    return Quotes(half + shift, half - shift)


def continuous_quotes(params: AvellanedaStoikovParams, n_steps: int, objective: Objective = "exponential") -> Solution:
    """Best quotes in continuous time at the start of each step, and their value in continuous time.

    With alpha = k gamma sigma**2 / 2 and eta = A (1 + gamma/k)**-(1 + k/gamma), or A/e for the running penalty,
    v(t) = exp(-(T - t) M) 1 with M = diag(alpha q**2) - eta (both first off-diagonals); the value is log(v) / k, and a
    quote is the certainty equivalent margin plus the value of inventory given up.
    """
    q, k, gamma = inventories(params), params.decay, params.risk_aversion
    if objective == "exponential":
        margin, eta = np.log1p(gamma / k) / gamma, params.intensity * np.exp(-(1.0 + k / gamma) * np.log1p(gamma / k))
    else:
        margin, eta = 1.0 / k, params.intensity * np.exp(-1.0)
    neighbours = np.diag(np.ones(len(q) - 1), 1) + np.diag(np.ones(len(q) - 1), -1)
    rates, modes = np.linalg.eigh(np.diag(0.5 * k * gamma * params.volatility**2 * q**2) - eta * neighbours)
    growth = np.exp(-np.outer(_time_left(params, n_steps), rates - rates[0]))
    value = (np.log((growth * modes.sum(0)) @ modes.T) - _time_left(params, n_steps)[:, None] * rates[0]) / k
    bid, ask = np.full((2, n_steps, len(q)), np.inf)
    bid[:, :-1] = margin + value[:-1, :-1] - value[:-1, 1:]
    ask[:, 1:] = margin + value[:-1, 1:] - value[:-1, :-1]
    return Solution(Quotes(bid, ask), value)


def optimal_quotes(params: AvellanedaStoikovParams, n_steps: int, objective: Objective = "exponential") -> Solution:
    """Best quotes within reach in the world itself, and their value."""
    value = np.zeros((n_steps + 1, len(inventories(params))))
    bid, ask = np.full((2, *value.shape), 0.5 * params.max_quote)
    for i in reversed(range(n_steps)):
        step = _Step(value[i + 1], params, n_steps, objective)
        bid[i], ask[i] = step.best(bid[i + 1], ask[i + 1])
        value[i] = step.value(bid[i, :, None], ask[i, :, None])[:, 0]
    bid[:, -1] = ask[:, 0] = np.inf
    return Solution(Quotes(bid[:-1], ask[:-1]), value)


def value_of(quotes: Quotes, params: AvellanedaStoikovParams, objective: Objective = "exponential") -> np.ndarray:
    """float64[N + 1, 2Q + 1] currency: what quotes reach in the world from each step and inventory to the end.

    Certainty equivalent of wealth, or expected wealth less the running penalty. The start of an episode is `[0, Q]`.
    Quotes out of reach are placed at the nearest distance within it, as the world does.
    """
    n_steps = len(quotes.bid)
    bid, ask = (np.clip(side, 0.0, params.max_quote)[..., None] for side in quotes)
    value = np.zeros((n_steps + 1, len(inventories(params))))
    for i in reversed(range(n_steps)):
        value[i] = _Step(value[i + 1], params, n_steps, objective).value(bid[i], ask[i])[:, 0]
    return value


def _time_left(params: AvellanedaStoikovParams, n_steps: int) -> np.ndarray:
    return params.horizon * np.arange(n_steps, -1, -1) / n_steps


class _Step:
    """One step of the world for every inventory, given the value after it."""

    def __init__(self, after: np.ndarray, params: AvellanedaStoikovParams, n_steps: int, objective: Objective) -> None:
        dt, q = params.horizon / n_steps, inventories(params)
        self.arrivals, self.decay, self.reach = params.intensity * dt, params.decay, params.max_quote
        self.aversion = params.risk_aversion if objective == "exponential" else 0.0
        after = after - 0.5 * params.risk_aversion * params.volatility**2 * dt * q**2
        self.same, self.more, self.less = after[:, None], np.roll(after, -1)[:, None], np.roll(after, 1)[:, None]
        self.may_buy, self.may_sell = (q < q[-1])[:, None], (q > q[0])[:, None]

    def value(self, bid: np.ndarray, ask: np.ndarray) -> np.ndarray:
        """float64[2Q + 1, M] certainty equivalent of quoting at distances [2Q + 1, M] or [2Q + 1, 1] within reach."""
        bought = -np.expm1(-self.arrivals * np.exp(-self.decay * bid)) * self.may_buy
        sold = -np.expm1(-self.arrivals * np.exp(-self.decay * ask)) * self.may_sell
        cases = [
            ((1.0 - bought) * (1.0 - sold), self.same),
            (bought * (1.0 - sold), bid + self.more),
            ((1.0 - bought) * sold, ask + self.less),
            (bought * sold, bid + ask + self.same),
        ]
        if self.aversion == 0.0:
            return np.add.reduce([probability * gain for probability, gain in cases])
        # Relative to not being filled, so that no exponential is far from one.
        factors = [probability * np.exp(-self.aversion * (gain - self.same)) for probability, gain in cases]
        return self.same - np.log(np.add.reduce(factors)) / self.aversion

    def best(self, bid: np.ndarray, ask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """float64[2Q + 1] each the best distances within reach, by turns from a guess at them."""
        for _ in range(SWEEPS):
            bid = self._search(functools.partial(self.value, ask=ask[:, None]))
            ask = self._search(functools.partial(self.value, bid[:, None]))
        return bid, ask

    def _search(self, value: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """float64[2Q + 1] the distance within reach at which `value` ([2Q + 1, M] of [2Q + 1, M]) is highest."""
        low, width, grid = np.zeros_like(self.same), self.reach, np.linspace(0.0, 1.0, 17)
        for _ in range(ZOOMS):
            candidates = low + width * grid
            best = np.take_along_axis(candidates, np.argmax(value(candidates), axis=1)[:, None], axis=1)
            width /= 8.0
            low = np.clip(best - 0.5 * width, 0.0, self.reach - width)
        return best[:, 0]
