"""Tiny worlds in which capital is allocated and the best way to is known."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marljax.envs.environment import Box, Environment
from marljax.portfolio.meta_controller import PORTFOLIO_FEATURES
from tests.reference.learning import mlp, recurrence

N_SHARED = len(PORTFOLIO_FEATURES)


@dataclasses.dataclass(frozen=True)
class Allocation(Environment):
    """Every agent shows a signal and noise, the portfolio one signal. Wanted of an agent's tilt is how far its signal
    is above the mean of all, of the exposure half the portfolio's signal. Reward: minus the mean squared distances."""

    n_agents: int = 3
    episode_steps: int = 4

    def observation_space(self, params):
        return Box(-1.0, 1.0, (2 * self.n_agents + N_SHARED,))

    def action_space(self, params):
        return Box(-1.0, 1.0, (self.n_agents + 1,))

    def reset_env(self, key, params):
        obs = params * jax.random.uniform(key, self.observation_space(params).shape, minval=-0.5, maxval=0.5)
        return obs, (obs, jnp.int32(0))

    def step_env(self, key, state, action, params):
        obs, elapsed = state
        reward = -jnp.mean((action - self.wanted(obs)) ** 2)
        obs, _ = self.reset_env(key, params)
        return obs, (obs, elapsed + 1), reward, jnp.bool(False), elapsed + 1 >= self.episode_steps, {}

    def wanted(self, obs):
        signal = obs[..., : 2 * self.n_agents : 2]
        above = signal - signal.mean(-1, keepdims=True)
        return jnp.concatenate([above, 0.5 * obs[..., 2 * self.n_agents, None]], -1)


@dataclasses.dataclass(frozen=True)
class Desk(Environment):
    """Two roles: `trader`, two that see one number and want it as action, and `meta`, one, of `Allocation`."""

    meta: Allocation = Allocation(2)

    def observation_space(self, params):
        return {"trader": Box(-1.0, 1.0, (2, 1)), "meta": Box(-1.0, 1.0, (1, 4 + N_SHARED))}

    def action_space(self, params):
        return {"trader": Box(-1.0, 1.0, (2, 1)), "meta": Box(-1.0, 1.0, (1, 3))}

    def reset_env(self, key, params):
        seen, state = self.meta.reset_env(key, params)
        obs = {"trader": seen[:2, None], "meta": seen[None]}
        return obs, (obs, state)

    def step_env(self, key, state, action, params):
        obs, inner = state
        seen, inner, reward, terminated, truncated, _ = self.meta.step_env(key, inner, action["meta"][0], params)
        of_traders = -((action["trader"] - obs["trader"])[:, 0] ** 2)
        obs = {"trader": seen[:2, None], "meta": seen[None]}
        ends = [{"trader": jnp.full(2, x), "meta": jnp.full(1, x)} for x in (terminated, truncated)]
        return obs, (obs, inner), {"trader": of_traders, "meta": reward[None]}, *ends, {}


@dataclasses.dataclass(frozen=True)
class Costly(Desk):
    """The same with a cost, the sum of the traders' squared actions."""

    def step_env(self, key, state, action, params):
        *step, _ = super().step_env(key, state, action, params)
        return *step, {"cost": jnp.sum(action["trader"] ** 2)}


@struct.dataclass
class BudgetParams:
    cost: jax.Array = 1.0  # float32[] of a squared action
    reward: jax.Array = 1.0  # float32[] on signal times action


@dataclasses.dataclass(frozen=True)
class Budget(Environment):
    """A signal x, 0.2 or 0.6; reward x times the action a, cost a^2: with a mean cost of at most d the best action is
    x sqrt(d / E x^2), worth sqrt(d E x^2), and the price of the cost that makes it so is sqrt(E x^2 / d) / 2."""

    episode_steps: int = 4

    def observation_space(self, params):
        return Box(-1.0, 1.0, (1,))

    def action_space(self, params):
        return Box(-1.0, 1.0, (1,))

    def reset_env(self, key, params):
        obs = 0.2 + 0.4 * jax.random.bernoulli(key, shape=(1,)).astype(jnp.float32)
        return obs, (obs, jnp.int32(0))

    def step_env(self, key, state, action, params):
        obs, elapsed = state
        reward, cost = params.reward * obs[0] * action[0], params.cost * action[0] ** 2
        obs, _ = self.reset_env(key, params)
        over = elapsed + 1 >= self.episode_steps
        return obs, (obs, elapsed + 1), reward, jnp.bool(False), over, {"cost": cost}


SIGNALS = np.array([0.2, 0.6])


def agent_set(params, x, carry, n_agents, n_shared):
    """One observation [n] through a network over agents, agent by agent: (outputs, next carries [A, W] or None)."""
    rows, shared = np.asarray(x, np.float64)[:-n_shared].reshape(n_agents, -1), np.asarray(x, np.float64)[-n_shared:]
    h = [np.concatenate([row, shared]) for row in rows]

    def context(score, h):
        read = []
        for k in range(len(np.asarray(score[1]))):
            size = np.exp(np.array([mlp([score], row)[k] for row in h]))
            read.append(sum(s * row for s, row in zip(size / size.sum(), h, strict=True)))
        return np.concatenate(read)

    for layer in params["layers"]:
        seen = mlp([layer["context"]], context(layer["score"], h))
        h = [np.tanh(mlp([layer["own"]], row) + seen) for row in h]
        if "recurrence" in layer:
            h = [recurrence(layer["recurrence"], row, left) for row, left in zip(h, carry, strict=True)]
            carry = np.stack(h)
    whole = mlp([params["whole"]], context(params["score"], h))
    if "each" not in params:
        return whole, carry
    each = [mlp([params["each"]], row) for row in h]
    return np.concatenate([[*(e[k] for e in each), whole[k]] for k in range(len(whole))]), carry
