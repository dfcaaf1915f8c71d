"""A tiny world whose best behaviour and value are known, and several of its markets."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct

from marljax.envs.environment import Box, Environment


@struct.dataclass
class TaskParams:
    weights: jax.Array  # float32[n] the wanted action is weights @ obs
    penalty: jax.Array = 1.0  # float32[] on the squared distance from the wanted action
    cost: jax.Array = 0.0  # float32[] of |action|
    volatility: jax.Array = 0.0  # float32[] of a return that multiplies the action and that nothing foretells
    income: jax.Array = 0.0  # float32[] every step, whatever one does
    visible: jax.Array = 1.0  # float32[] factor on observations; 0 shows nothing
    terminates: jax.Array = False  # bool[] whether the last step ends the world or only the clock


def _market(weights=(0.0, 0.0, 0.0), penalty=1.0, cost=0.0, volatility=0.0, income=0.0, visible=1.0, terminates=False):
    floats = map(jnp.float32, (weights, penalty, cost, volatility, income, visible))
    return TaskParams(*floats, jnp.bool(terminates))


TARGET = _market(weights=(0.5, -0.3, 0.2))
"""The best action is linear in the observation."""

MARTINGALE = _market(penalty=0.0, cost=1.0, volatility=0.3)
"""Acting costs and gains nothing: the best action is none."""

PERPETUITY = _market(penalty=0.0, income=1.0, visible=0.0)
"""1 every step, nothing to see, a time limit: worth 1 / (1 - discount)."""

MORTAL = _market(penalty=0.0, income=1.0, visible=0.0, terminates=True)
"""The same where every n-th step ends the world: a one-step bootstrap sees 1 / (1 - discount (n - 1) / n)."""

BROKEN = _market(income=jnp.nan)
"""Rewards are not numbers."""


@dataclasses.dataclass(frozen=True)
class Task(Environment):
    """Reward income - penalty (action - weights @ obs)^2 - cost |action| + volatility action noise.

    A fresh observation, uniform in visible * [-1, 1]^n, every step.
    """

    n: int = 3
    episode_steps: int = 4

    def observation_space(self, params):
        return Box(-1.0, 1.0, (self.n,))

    def action_space(self, params):
        return Box(-1.0, 1.0, (1,))

    def reset_env(self, key, params):
        obs = params.visible * jax.random.uniform(key, (self.n,), minval=-1.0)
        return obs, (obs, jnp.int32(0))

    def step_env(self, key, state, action, params):
        obs, elapsed = state
        obs_key, noise_key = jax.random.split(key)
        distance = action[0] - params.weights @ obs
        gain = params.volatility * action[0] * jax.random.normal(noise_key) - params.cost * jnp.abs(action[0])
        reward = params.income + gain - params.penalty * distance**2
        obs, _ = self.reset_env(obs_key, params)
        elapsed = elapsed + 1
        over = elapsed >= self.episode_steps
        return obs, (obs, elapsed), reward, over & params.terminates, over & ~params.terminates, {}
