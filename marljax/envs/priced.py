"""A world in which what should stay within a limit has a price: reward less multiplier times cost.

With the right multiplier the best policy of the priced world is the best one of those within the limit (the Lagrangian
of a constrained Markov decision process, Altman 1999). Who finds it is `marljax.agents.lagrangian`.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from marljax.envs.environment import Arrays, Environment, Step

COST = "cost"
"""What a world's `info` calls the cost of a step, float32[] >= 0, to be kept within a limit on average."""


@struct.dataclass
class PricedParams:
    world: Any  # params of the world
    multiplier: jax.Array  # float32[] reward per unit of cost, >= 0


@struct.dataclass
class PricedState:
    world: Any  # state of the world
    spent: jax.Array  # float32[] sum of costs since it was last cleared, over the ends of episodes
    steps: jax.Array  # float32[] that it is of


@dataclasses.dataclass(frozen=True)
class Priced(Environment[PricedState, PricedParams]):
    """`env` with every agent's reward, or that of one role's agents, less multiplier times `info["cost"]`."""

    env: Environment
    role: str | None = None
    """Who pays where there are roles; None where there are none."""

    def observation_space(self, params: PricedParams) -> Any:
        return self.env.observation_space(params.world)

    def action_space(self, params: PricedParams) -> Any:
        return self.env.action_space(params.world)

    def reset_env(self, key: jax.Array, params: PricedParams) -> tuple[Arrays, PricedState]:
        return self._opened(self.env.reset_env(key, params.world))

    def reset(self, key: jax.Array, params: PricedParams) -> tuple[Arrays, PricedState]:
        return self._opened(self.env.reset(key, params.world))

    def step_env(self, key: jax.Array, state: PricedState, action: Arrays, params: PricedParams) -> Step:
        return self._charged(state, self.env.step_env(key, state.world, action, params.world), params)

    def step(self, key: jax.Array, state: PricedState, action: Arrays, params: PricedParams) -> Step:
        return self._charged(state, self.env.step(key, state.world, action, params.world), params)

    def _opened(self, opened: tuple[Arrays, Any]) -> tuple[Arrays, PricedState]:
        obs, world = opened
        return obs, PricedState(world, jnp.zeros(()), jnp.zeros(()))

    def _charged(self, state: PricedState, step: Step, params: PricedParams) -> Step:
        obs, world, reward, terminated, truncated, info = step
        price = params.multiplier * info[COST]
        reward = reward - price if self.role is None else reward | {self.role: reward[self.role] - price}
        state = PricedState(world, state.spent + info[COST], state.steps + 1.0)
        return obs, state, reward, terminated, truncated, info
