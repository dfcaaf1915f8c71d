"""Portfolio choice: the world of Merton (1969), in which the best share of wealth in the risky asset is known.

Wealth is split between a riskless asset and one that follows a geometric Brownian motion. The share in the risky asset
is chosen at each step and held within it by trading continuously, as in the paper, so that wealth grows by
exp((r + pi (mu - r) - pi**2 sigma**2 / 2) dt + pi sigma sqrt(dt) Z): it stays positive, and there is no error of time
steps. The reward is the CRRA utility of that growth. Steps are independent, so an investor of constant relative risk
aversion maximises each step's by itself (Samuelson 1969), and the best share at every step, whatever its length, is
(mu - r) / (gamma sigma**2).
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marljax.data.limits import require, require_not_negative, require_positive
from marljax.envs.environment import Box, Environment, Step


@struct.dataclass
class MertonParams:
    """The assets and the investor."""

    rate: float = 0.02
    """Of the riskless asset [1/year]."""
    drift: float = 0.22
    """Of the risky asset [1/year]."""
    drift_range: float = 0.0
    """An episode's drift is uniform within this of the one above [1/year]."""
    volatility: float = 0.4
    """Of the risky asset [1/sqrt(year)]."""
    volatility_range: float = 1.0
    """An episode's volatility is log-uniform from the one above divided by this factor to times it; 1 or more."""
    risk_aversion: float = 2.0
    """Constant relative risk aversion, gamma; 1 is logarithmic utility."""
    limit: float = 2.0
    """Largest share of wealth in the risky asset, long or short."""
    time_step: float = 1.0
    """Between decisions [years]."""

    def __post_init__(self) -> None:
        require_positive(self, "volatility", "risk_aversion", "limit", "time_step")
        require_not_negative(self, "drift_range")
        require(self, "1 or more", lambda x: x >= 1.0, "volatility_range")


@struct.dataclass
class MertonState:
    drift: jax.Array  # float32[] of this episode, 1/year
    volatility: jax.Array  # float32[] of this episode, 1/sqrt(year)
    log_wealth: jax.Array  # float32[] logarithm of wealth over that at the start
    elapsed: jax.Array  # int32[] steps


@dataclasses.dataclass(frozen=True)
class Merton(Environment[MertonState, MertonParams]):
    """Observation float32[3]: the risky asset's drift over the riskless rate, its volatility, the share of time left.

    Action float32[1] in [-1, 1]: the share of wealth in the risky asset, as a share of its limit.
    Reward: CRRA utility of the step's growth factor, (G**(1 - gamma) - 1) / (1 - gamma), or log G where gamma is 1.
    Terminates after `n_steps`. `info["log_wealth"]` is the logarithm of wealth over that at the start.
    """

    n_steps: int = 10

    def observation_space(self, params: MertonParams) -> Box:
        return Box(-jnp.inf, jnp.inf, (3,))

    def action_space(self, params: MertonParams) -> Box:
        return Box(-1.0, 1.0, (1,))

    def reset_env(self, key: jax.Array, params: MertonParams) -> tuple[jax.Array, MertonState]:
        offset, power = jax.random.uniform(key, (2,), minval=-1.0, maxval=1.0)
        state = MertonState(
            drift=params.drift + params.drift_range * offset,
            volatility=params.volatility * params.volatility_range**power,
            log_wealth=jnp.zeros(()),
            elapsed=jnp.zeros((), jnp.int32),
        )
        return self._observe(state, params), state

    def step_env(self, key: jax.Array, state: MertonState, action: jax.Array, params: MertonParams) -> Step:
        fraction = params.limit * jnp.clip(action[0], -1.0, 1.0)
        exposure = fraction * state.volatility
        mean = params.rate + fraction * (state.drift - params.rate) - 0.5 * exposure**2
        growth = mean * params.time_step + exposure * jnp.sqrt(params.time_step) * jax.random.normal(key)
        state = dataclasses.replace(state, log_wealth=state.log_wealth + growth, elapsed=state.elapsed + 1)
        reward = utility(growth, params.risk_aversion)
        over = state.elapsed >= self.n_steps
        return self._observe(state, params), state, reward, over, jnp.zeros((), bool), {"log_wealth": state.log_wealth}

    def _observe(self, state: MertonState, params: MertonParams) -> jax.Array:
        return jnp.stack([state.drift - params.rate, state.volatility, 1.0 - state.elapsed / self.n_steps])


def utility(log_growth: jax.Array, risk_aversion: jax.Array | float) -> jax.Array:
    """float32[] CRRA utility of wealth multiplied by exp(log_growth), zero where it stays the same."""
    excess = 1.0 - jnp.asarray(risk_aversion)
    logarithmic = excess == 0.0
    powered = jnp.expm1(excess * log_growth) / jnp.where(logarithmic, 1.0, excess)
    return jnp.where(logarithmic, log_growth, powered)


def optimal_fraction(drift: np.ndarray, volatility: np.ndarray, params: MertonParams) -> np.ndarray:
    """Merton's share of wealth in the risky asset, of the shape of the drift and volatility, within the limit."""
    fraction = (np.asarray(drift) - params.rate) / (params.risk_aversion * np.asarray(volatility) ** 2)
    return np.clip(fraction, -params.limit, params.limit)


def equivalent_rate(
    fraction: np.ndarray, drift: np.ndarray, volatility: np.ndarray, params: MertonParams
) -> np.ndarray:
    """The sure rate of growth [1/year] worth as much as a constant share of wealth in the risky asset.

    Expected utility of a step is the utility of exp(this rate * time_step); it is highest at `optimal_fraction`.
    """
    carry = params.rate + fraction * (np.asarray(drift) - params.rate)
    return carry - 0.5 * params.risk_aversion * np.square(fraction * np.asarray(volatility))
