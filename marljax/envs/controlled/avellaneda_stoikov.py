"""Market making: the world of Avellaneda and Stoikov (2008). What is best in it is in `avellaneda_stoikov_solution`.

The mid is an arithmetic Brownian motion. Orders that would fill a quote at a distance d from the mid arrive on each
side as a Poisson process of intensity A exp(-k d). A quote is for one unit, so in a step of length dt it is filled at
most once, with probability 1 - exp(-A exp(-k d) dt). What is held is marked at the mid, also at the end.

Two objectives, each solved exactly (Guéant, Lehalle and Fernandez-Tapia 2013; Cartea, Jaimungal and Penalva 2015):

- "exponential": expected CARA utility of final wealth, by rewards that telescope: the utility of wealth after the step
  less that before it. Wealth is counted relative to what a maker who fears no risk would have earned by then, a
  constant which changes no comparison and keeps the utility's scale from decaying along the episode.
- "running penalty": expected wealth less gamma/2 sigma**2 times the time integral of squared inventory.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from flax import struct

from marljax.data.limits import require_counts, require_positive, require_shares
from marljax.envs.environment import Box, Environment, Step

Objective = Literal["exponential", "running penalty"]


@struct.dataclass
class AvellanedaStoikovParams:
    """The paper's numerical example."""

    horizon: float = 1.0
    """Length of an episode [units of time]."""
    volatility: float = 2.0
    """Of the mid, sigma [currency per sqrt(unit of time)]."""
    intensity: float = 140.0
    """Fills of a quote at the mid, A [per unit of time]."""
    decay: float = 1.5
    """How fast fills get rarer with distance from the mid, k [1/currency]."""
    risk_aversion: float = 0.1
    """Constant absolute risk aversion, gamma [1/currency]."""
    max_quote: float = 2.0
    """Largest distance of a quote from the mid [currency]."""
    max_inventory: float = 10.0
    """Largest inventory, long or short, a whole number: at it the side that would add is not quoted [units]."""
    price_noise: float = 1.0
    """Share of the mid's moves that reaches the reward, 0 to 1.

    The risk of the rest is charged as what it is worth, so that no policy's expected return depends on this: at 0
    learning is spared the noise of a price which cannot be predicted, at 1 nothing is charged that was not suffered.
    """

    def __post_init__(self) -> None:
        require_positive(self, "horizon", "volatility", "intensity", "decay", "risk_aversion", "max_quote")
        require_counts(self, "max_inventory")
        require_shares(self, "price_noise")


@struct.dataclass
class AvellanedaStoikovState:
    inventory: jax.Array  # float32[] units, a whole number
    wealth: jax.Array  # float32[] currency: cash and inventory at the mid, the mid's moves in full
    rewarded: jax.Array  # float32[] currency: wealth as the reward counts it, less its benchmark
    elapsed: jax.Array  # int32[] steps


@dataclasses.dataclass(frozen=True)
class AvellanedaStoikov(Environment[AvellanedaStoikovState, AvellanedaStoikovParams]):
    """Observation float32[2]: share of time left, inventory as a share of its limit.

    Action float32[2] in [-1, 1]: distance of the bid and of the ask from the mid, from 0 to the largest.
    Reward: see the module. Terminates after `n_steps`. `info["wealth"]` is what was earned so far [currency] and
    `info["inventory"]` what is held [units].
    """

    n_steps: int = 200
    objective: Objective = "exponential"

    def observation_space(self, params: AvellanedaStoikovParams) -> Box:
        return Box(-jnp.inf, jnp.inf, (2,))

    def action_space(self, params: AvellanedaStoikovParams) -> Box:
        return Box(-1.0, 1.0, (2,))

    def reset_env(self, key: jax.Array, params: AvellanedaStoikovParams) -> tuple[jax.Array, AvellanedaStoikovState]:
        zero = jnp.zeros(())
        state = AvellanedaStoikovState(zero, zero, zero, jnp.zeros((), jnp.int32))
        return self._observe(state, params), state

    def step_env(
        self, key: jax.Array, state: AvellanedaStoikovState, action: jax.Array, params: AvellanedaStoikovParams
    ) -> Step:
        dt = params.horizon / self.n_steps
        fill_key, mid_key = jax.random.split(key)
        distance = params.max_quote * (0.5 + 0.5 * jnp.clip(action, -1.0, 1.0))
        room = params.max_inventory - state.inventory * jnp.array([1.0, -1.0]) >= 1.0
        arrived = jax.random.uniform(fill_key, (2,)) < fill_probability(distance, params, dt)
        filled = (arrived & room).astype(jnp.float32)
        inventory = state.inventory + filled[0] - filled[1]
        spread = jnp.sum(filled * distance)
        marked = inventory * params.volatility * jnp.sqrt(dt) * jax.random.normal(mid_key)
        risk = 0.5 * params.risk_aversion * params.volatility**2 * dt * inventory**2
        noise = params.price_noise
        if self.objective == "exponential":
            gain = spread + noise * marked - (1.0 - noise**2) * risk - _benchmark(params, dt)
            # The utility -expm1(-gamma wealth) / gamma after the step less that before it.
            reward = -jnp.exp(-params.risk_aversion * state.rewarded) * jnp.expm1(-params.risk_aversion * gain)
            reward = reward / params.risk_aversion
        else:
            gain = reward = spread + noise * marked - risk
        state = AvellanedaStoikovState(
            inventory, state.wealth + spread + marked, state.rewarded + gain, state.elapsed + 1
        )
        info = {"wealth": state.wealth, "inventory": inventory}
        over = state.elapsed >= self.n_steps
        return self._observe(state, params), state, reward, over, jnp.zeros((), bool), info

    def _observe(self, state: AvellanedaStoikovState, params: AvellanedaStoikovParams) -> jax.Array:
        return jnp.stack([1.0 - state.elapsed / self.n_steps, state.inventory / params.max_inventory])


def fill_probability(distance: jax.Array, params: AvellanedaStoikovParams, dt: float | jax.Array) -> jax.Array:
    """Probability that a quote at a distance [currency] from the mid is filled within dt [units of time]."""
    return -jnp.expm1(-params.intensity * dt * jnp.exp(-params.decay * distance))


def benchmark_wealth(params: AvellanedaStoikovParams, n_steps: int) -> float:
    """What wealth is counted relative to at an episode's end, under the exponential objective [currency].

    So an episode's expected return is -expm1(-gamma (certainty equivalent - this)) / gamma.
    """
    return n_steps * float(_benchmark(params, params.horizon / n_steps))


def _benchmark(params: AvellanedaStoikovParams, dt: float | jax.Array) -> jax.Array:
    """float32[] currency per step: the spread earned with both quotes 1/k from the mid, best without risk aversion."""
    distance = 1.0 / jnp.asarray(params.decay)
    return 2.0 * distance * fill_probability(distance, params, dt)
