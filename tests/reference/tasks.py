"""Tiny worlds whose best behaviour and value are known."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct

from marljax.envs.environment import Box, Discrete, Environment


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


@dataclasses.dataclass(frozen=True)
class Matching(Environment):
    """Two roles: `movers`, two of them, pick a number in [-1, 1], `pickers`, three, one of four indices.

    Every agent is told in its own observation what is wanted of it: a mover the number, times a sign of its own in the
    params; a picker a one-hot index, of which the mask allows the lower half or all. Reward of each: minus the squared
    distance, or 1 for the right index. Observations of the two roles have different sizes.
    """

    episode_steps: int = 4
    n_choices: int = 4

    def observation_space(self, params):
        return {"mover": Box(-jnp.inf, jnp.inf, (2, 1)), "picker": Box(-jnp.inf, jnp.inf, (3, 2 * self.n_choices))}

    def action_space(self, params):
        return {"mover": Box(-1.0, 1.0, (2, 1)), "picker": Discrete(self.n_choices, (3,), masked=True)}

    def reset_env(self, key, params):
        wanted_key, index_key = jax.random.split(key)
        wanted = jax.random.uniform(wanted_key, (2,), minval=-0.8, maxval=0.8)
        allowed = jnp.array([[True] * self.n_choices, [True] * self.n_choices, [True, True, False, False]])
        index = jax.random.randint(index_key, (3,), 0, jnp.array([self.n_choices, self.n_choices, 2]))
        obs = {
            "mover": wanted[:, None],
            "picker": jnp.concatenate([jax.nn.one_hot(index, self.n_choices), allowed.astype(jnp.float32)], -1),
        }
        return obs, (wanted, index, jnp.int32(0))

    def step_env(self, key, state, action, params):
        wanted, index, elapsed = state
        distance = action["mover"][:, 0] - params * wanted
        reward = {"mover": -(distance**2), "picker": (action["picker"] == index).astype(jnp.float32)}
        obs, (wanted, index, _) = self.reset_env(key, params)
        over = elapsed + 1 >= self.episode_steps
        none, all_over = (
            jax.tree.map(lambda r: jnp.zeros(r.shape, bool), reward),
            jax.tree.map(lambda r: jnp.full(r.shape, over), reward),
        )
        return obs, (wanted, index, elapsed + 1), reward, none, all_over, {}


ALIKE = jnp.float32([1.0, 1.0])
"""Both movers are to do the same with what they see."""

OPPOSITE = jnp.float32([1.0, -1.0])
"""One is to do the opposite."""


@dataclasses.dataclass(frozen=True)
class Recall(Environment):
    """What is wanted at an episode's last step was shown at its first alone: only a memory can earn more than zero.

    Observation [cue, whether now counts]; reward cue * action at the last step, cue +1 or -1.
    """

    episode_steps: int = 3

    def observation_space(self, params):
        return Box(-1.0, 1.0, (2,))

    def action_space(self, params):
        return Discrete(2)

    def reset_env(self, key, params):
        cue = jax.random.rademacher(key, (), jnp.float32)
        return jnp.stack([cue, 0.0]), (cue, jnp.int32(0))

    def step_env(self, key, state, action, params):
        cue, elapsed = state
        elapsed = elapsed + 1
        over = elapsed >= self.episode_steps
        reward = jnp.where(over, cue * (2.0 * action - 1.0), 0.0)
        obs = jnp.stack([0.0, (elapsed == self.episode_steps - 1).astype(jnp.float32)])
        return obs, (cue, elapsed), reward, over, over & False, {}
