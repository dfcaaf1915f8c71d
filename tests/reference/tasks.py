"""Tiny worlds whose best behaviour or value is known."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct

from marljax.envs.environment import Box, Environment


@struct.dataclass
class TargetParams:
    weights: jax.Array  # float32[n] the best action is weights @ obs
    cost: jax.Array = 0.0  # float32[] cost of |action|


@dataclasses.dataclass(frozen=True)
class Target(Environment):
    """Reward 1 - (action - weights @ obs)^2 - cost |action|, fresh observation in [-1, 1]^n every step."""

    n: int = 3
    episode_steps: int = 16

    def observation_space(self, params):
        return Box(-1.0, 1.0, (self.n,))

    def action_space(self, params):
        return Box(-1.0, 1.0, (1,))

    def reset_env(self, key, params):
        obs = jax.random.uniform(key, (self.n,), minval=-1.0)
        return obs, (obs, jnp.int32(0))

    def step_env(self, key, state, action, params):
        obs, elapsed = state
        reward = 1.0 - (action[0] - params.weights @ obs) ** 2 - params.cost * jnp.abs(action[0])
        obs = jax.random.uniform(key, (self.n,), minval=-1.0)
        elapsed = elapsed + 1
        return obs, (obs, elapsed), reward, jnp.bool(False), elapsed >= self.episode_steps, {}


@dataclasses.dataclass(frozen=True)
class Martingale(Environment):
    """The next return is noise that no feature foretells, and holding a position costs: the best action is none.

    Params: float32[] the cost of a full position [standard deviations of a step].
    """

    episode_steps: int = 16

    def observation_space(self, params):
        return Box(-jnp.inf, jnp.inf, (3,))

    def action_space(self, params):
        return Box(-1.0, 1.0, (1,))

    def reset_env(self, key, params):
        return jax.random.normal(key, (3,)), jnp.int32(0)

    def step_env(self, key, state, action, params):
        obs_key, return_key = jax.random.split(key)
        reward = action[0] * jax.random.normal(return_key) - params * jnp.abs(action[0])
        state = state + 1
        return jax.random.normal(obs_key, (3,)), state, reward, jnp.bool(False), state >= self.episode_steps, {}


@struct.dataclass
class PerpetuityParams:
    terminates: jax.Array  # bool[] whether the last step ends the world or only the clock
    reward: jax.Array = 1.0  # float32[] every step


@dataclasses.dataclass(frozen=True)
class Perpetuity(Environment):
    """Pays the same every step whatever one does; the observation is the part of the episode that has passed."""

    episode_steps: int = 4

    def observation_space(self, params):
        return Box(0.0, 1.0, (1,))

    def action_space(self, params):
        return Box(-1.0, 1.0, (1,))

    def reset_env(self, key, params):
        return jnp.zeros(1), jnp.int32(0)

    def step_env(self, key, state, action, params):
        state = state + 1
        over = state >= self.episode_steps
        obs = jnp.full(1, state / self.episode_steps, jnp.float32)
        reward = jnp.asarray(params.reward, jnp.float32)
        return obs, state, reward, over & params.terminates, over & ~params.terminates, {}
