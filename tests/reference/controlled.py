"""Slow, obvious oracles of the controlled worlds."""

import itertools
import math
from typing import Any

import numpy as np

from marljax.envs.controlled.almgren_chriss import AlmgrenChrissParams
from marljax.envs.controlled.avellaneda_stoikov import AvellanedaStoikovParams
from marljax.envs.controlled.simple_spread import SimpleSpreadParams

_nodes, _weights = np.polynomial.hermite_e.hermegauss(64)
NORMAL = _nodes, _weights / _weights.sum()
"""Nodes and weights of an expectation over a standard normal."""


def cart_pole_step(physics: np.ndarray, force: float) -> np.ndarray:
    """One Euler step of the published equations, solved for both accelerations as a linear system."""
    x, v, angle, spin = physics
    cart, pole, half, gravity, dt = 1.0, 0.1, 0.5, 9.8, 0.02
    equations = np.array(
        [
            [cart + pole, pole * half * math.cos(angle)],  # momentum along the track
            [math.cos(angle), 4.0 / 3.0 * half],  # rotation about the pivot
        ]
    )
    right = np.array([force + pole * half * spin**2 * math.sin(angle), gravity * math.sin(angle)])
    push, spin_rate = np.linalg.solve(equations, right)
    return np.array([x + dt * v, v + dt * push, angle + dt * spin, spin + dt * spin_rate])


def simple_spread_step(
    position: np.ndarray, velocity: np.ndarray, landmarks: np.ndarray, action: np.ndarray, params: SimpleSpreadParams
) -> dict[str, np.ndarray]:
    """One step, agent by agent: position and velocity [G, 2], observation [G, O], reward [G]."""
    n = len(position)
    directions = {0: (0, 0), 1: (-1, 0), 2: (1, 0), 3: (0, -1), 4: (0, 1)}
    force = np.array([params.acceleration * np.array(directions[int(a)], float) for a in action])
    for i, j in itertools.permutations(range(n), 2):
        apart = position[i] - position[j]
        distance = math.hypot(*apart)
        depth = np.logaddexp(0.0, -(distance - 2 * params.radius) / params.contact_margin) * params.contact_margin
        force[i] += params.contact_force * depth * apart / distance
    moved = position + params.time_step * velocity
    velocity = (1 - params.damping) * velocity + params.time_step * force
    shared = -sum(min(math.dist(moved[i], mark) for i in range(n)) for mark in landmarks)
    observation, reward = [], []
    for i in range(n):
        others = [j for j in range(n) if j != i]
        hits = sum(math.dist(moved[i], moved[j]) < 2 * params.radius for j in others)
        reward.append((1 - params.local_ratio) * shared - params.local_ratio * hits)
        relative = [mark - moved[i] for mark in landmarks] + [moved[j] - moved[i] for j in others]
        observation.append(np.concatenate([velocity[i], moved[i], *relative, np.zeros(2 * (n - 1))]))
    return {
        "position": moved,
        "velocity": velocity,
        "observation": np.array(observation),
        "reward": np.array(reward),
    }


def execution_schedule(params: AlmgrenChrissParams, n_steps: int) -> np.ndarray:
    """Holdings [N + 1] that minimise expected cost + risk aversion * variance: the quadratic programme's equations."""
    tau, n = params.horizon / n_steps, n_steps
    left = 1.0 - np.tril(np.ones((n, n)))  # holdings after each step are 1 - (cumulative sales); this is d/d sales + 1
    held = left - 1.0  # row k: minus one for every sale up to k
    # cost = spread + permanent * sum x_k n_k + temporary / tau * sum n_k**2, with x = 1 + held @ n.
    quadratic = params.permanent * (held.T + held) / 2 + params.temporary / tau * np.eye(n)
    linear = params.permanent * np.ones(n)
    risk = params.risk_aversion * params.volatility**2 * tau
    quadratic = quadratic + risk * held.T @ held
    linear = linear + 2 * risk * held.T @ np.ones(n)
    system = np.block([[2 * quadratic, np.ones((n, 1))], [np.ones((1, n)), np.zeros((1, 1))]])
    sales = np.linalg.solve(system, np.append(-linear, 1.0))[:n]
    return np.append(1.0, 1.0 + held @ sales)


def expected_utility(fraction: float, drift: float, volatility: float, params: Any) -> float:
    """Expected CRRA utility of one step's growth at a constant share of wealth, by Gauss-Hermite quadrature."""
    nodes, weights = NORMAL
    rate, dt, gamma = params.rate, params.time_step, params.risk_aversion
    exposure = fraction * volatility
    growth = (rate + fraction * (drift - rate) - exposure**2 / 2) * dt + exposure * math.sqrt(dt) * nodes
    utility = growth if gamma == 1.0 else (np.exp((1 - gamma) * growth) - 1) / (1 - gamma)
    return float(weights @ utility)


def market_making_value(quotes: Any, params: AvellanedaStoikovParams, exponential: bool) -> float:
    """The objective of quotes by enumerating fills and integrating each step's move of the mid by quadrature.

    Wealth and inventory are followed along every branch, so keep the steps few.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(12)
    n_steps, limit, dt = len(quotes.bid), int(params.max_inventory), params.horizon / len(quotes.bid)

    def expectation(step: int, inventory: int, wealth: float, penalty: float) -> float:
        if step == n_steps:
            return -math.exp(-params.risk_aversion * wealth) if exponential else wealth - penalty
        total = 0.0
        bid, ask = quotes.bid[step, inventory + limit], quotes.ask[step, inventory + limit]
        for buys, sells in itertools.product((0, 1), (0, 1)):
            fill_bid = (
                0.0 if inventory == limit else 1 - math.exp(-params.intensity * dt * math.exp(-params.decay * bid))
            )
            fill_ask = (
                0.0 if inventory == -limit else 1 - math.exp(-params.intensity * dt * math.exp(-params.decay * ask))
            )
            chance = (fill_bid if buys else 1 - fill_bid) * (fill_ask if sells else 1 - fill_ask)
            if chance == 0.0:
                continue
            held = inventory + buys - sells
            earned = (bid if buys else 0.0) + (ask if sells else 0.0)
            charge = 0.5 * params.risk_aversion * params.volatility**2 * dt * held**2
            for node, weight in zip(nodes, weights / weights.sum(), strict=True):
                moved = wealth + earned + held * params.volatility * math.sqrt(dt) * node
                total += chance * weight * expectation(step + 1, held, moved, penalty + charge)
        return total

    value = expectation(0, 0, 0.0, 0.0)
    return -math.log(-value) / params.risk_aversion if exponential else value
