"""Optimal execution: the world of Almgren and Chriss (2000), whose best schedule and its cost have a closed form.

A parent order is sold in N steps of length tau. Selling n shares in a step pays temporary impact and moves the price
for good, and what is held bears the risk of an arithmetic Brownian price:

    cost = permanent/2 X**2 + spread X + (temporary - permanent tau/2)/tau * sum n_k**2 - sum x_k sigma sqrt(tau) Z_k,

x_k being what is left after step k. Returns are minus the cost, less risk_aversion * sigma**2 * tau * sum x_k**2. For a
schedule fixed beforehand that is minus (expected cost + risk_aversion * variance), the paper's objective, and among
those that react to the price none is better under it.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marljax.data.limits import require, require_not_negative, require_positive
from marljax.envs.environment import Box, Environment, Step


@struct.dataclass
class AlmgrenChrissParams:
    """The paper's numerical example, with the parent order of 1e6 shares as the unit of quantity.

    So costs are dollars per share of the parent, and rewards are of order one.
    """

    horizon: float = 5.0
    """Time in which all is to be sold [days]."""
    volatility: float = 0.95
    """Of the price [dollars/share per sqrt(day)]."""
    spread: float = 0.0625
    """Fixed cost of selling: half the spread and the fees [dollars/share]."""
    permanent: float = 0.25
    """Lasting fall of the price [dollars/share per parent order sold]."""
    temporary: float = 2.5
    """Concession that is not lasting [dollars/share per parent order a day]."""
    risk_aversion: float = 1.0
    """Price of variance, lambda [1 / (dollars/share of the parent order)]."""
    risk_aversion_range: float = 1.0
    """An episode's risk aversion is log-uniform from the one above divided by this factor to times it; 1 or more."""

    def __post_init__(self) -> None:
        require_positive(self, "horizon", "volatility", "temporary", "risk_aversion")
        require_not_negative(self, "spread", "permanent")
        require(self, "1 or more", lambda x: x >= 1.0, "risk_aversion_range")


@struct.dataclass
class AlmgrenChrissState:
    left: jax.Array  # float32[] of the parent order
    risk_aversion: jax.Array  # float32[] of this episode
    elapsed: jax.Array  # int32[] steps


@dataclasses.dataclass(frozen=True)
class AlmgrenChriss(Environment[AlmgrenChrissState, AlmgrenChrissParams]):
    """Observation float32[3]: share of time left, share of the parent order left, log of the risk aversion.

    Action float32[1] in [-1, 1]: from nothing to all of what is left is sold in this step; in the last, all is.
    Reward: minus the cost of the step, less the price of the risk held after it. Terminates after `n_steps`.
    `info["cost"]` is the step's implementation shortfall [dollars per share of the parent order].
    """

    n_steps: int = 20

    def observation_space(self, params: AlmgrenChrissParams) -> Box:
        return Box(-jnp.inf, jnp.inf, (3,))

    def action_space(self, params: AlmgrenChrissParams) -> Box:
        return Box(-1.0, 1.0, (1,))

    def reset_env(self, key: jax.Array, params: AlmgrenChrissParams) -> tuple[jax.Array, AlmgrenChrissState]:
        power = jax.random.uniform(key, minval=-1.0, maxval=1.0)
        risk_aversion = params.risk_aversion * params.risk_aversion_range**power
        state = AlmgrenChrissState(jnp.float32(1.0), risk_aversion, jnp.zeros((), jnp.int32))
        return self._observe(state), state

    def step_env(
        self, key: jax.Array, state: AlmgrenChrissState, action: jax.Array, params: AlmgrenChrissParams
    ) -> Step:
        tau = params.horizon / self.n_steps
        last = state.elapsed >= self.n_steps - 1
        share = jnp.where(last, 1.0, 0.5 + 0.5 * jnp.clip(action[0], -1.0, 1.0))
        sold = share * state.left
        left = state.left - sold
        move = params.volatility * jnp.sqrt(tau) * jax.random.normal(key)
        # What is left is worth less by the lasting impact and more by the price's own move.
        cost = sold * (params.spread + params.temporary * sold / tau) + left * (params.permanent * sold - move)
        risk = params.volatility**2 * tau * left**2
        state = AlmgrenChrissState(left, state.risk_aversion, state.elapsed + 1)
        reward = -cost - state.risk_aversion * risk
        return self._observe(state), state, reward, last, jnp.zeros((), bool), {"cost": cost}

    def _observe(self, state: AlmgrenChrissState) -> jax.Array:
        return jnp.stack([1.0 - state.elapsed / self.n_steps, state.left, jnp.log(state.risk_aversion)])


def optimal_holdings(params: AlmgrenChrissParams, n_steps: int, risk_aversion: float | None = None) -> np.ndarray:
    """float64[N + 1] the share of the parent order held after each step of the best schedule, from 1 to 0.

    Their equation 17; `risk_aversion` is that of `params` where none is given.
    """
    tau = float(params.horizon) / n_steps
    price = float(params.risk_aversion if risk_aversion is None else risk_aversion)
    urgency = price * float(params.volatility) ** 2 / _net_temporary(params, tau)
    kappa = np.arccosh(0.5 * urgency * tau**2 + 1.0) / tau
    left = tau * np.arange(n_steps, -1, -1)
    return np.sinh(kappa * left) / np.sinh(kappa * params.horizon) if kappa * params.horizon > 1e-6 else left / left[0]


def expected_cost(holdings: np.ndarray, params: AlmgrenChrissParams) -> float:
    """What a schedule (float64[N + 1] shares of the parent order, from 1 to 0) costs on average [dollars per share]."""
    tau = float(params.horizon) / (len(holdings) - 1)
    trading = _net_temporary(params, tau) / tau * np.sum(np.diff(holdings) ** 2)
    return float(0.5 * params.permanent + params.spread + trading)


def cost_variance(holdings: np.ndarray, params: AlmgrenChrissParams) -> float:
    """Variance of a schedule's cost [(dollars per share)**2]."""
    tau = float(params.horizon) / (len(holdings) - 1)
    return float(params.volatility**2 * tau * np.sum(holdings[1:] ** 2))


def action_of(holdings: np.ndarray) -> np.ndarray:
    """float64[N] the actions that follow a schedule, -1 for nothing to 1 for all of what is left."""
    return 2.0 * (1.0 - holdings[1:] / holdings[:-1]) - 1.0


def _net_temporary(params: AlmgrenChrissParams, tau: float) -> float:
    return float(params.temporary) - 0.5 * float(params.permanent) * tau
