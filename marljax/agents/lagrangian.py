"""PPO under a constraint: the most reward at a mean cost per step within a limit.

The cost has a price in the reward, and the price is learned: it rises while the cost is above the limit and falls while
it is below (dual ascent: PPO-Lagrangian of Ray, Achiam and Amodei 2019, "Benchmarking safe exploration"). A
proportional term damps the swings that the integral alone makes (Stooke, Achiam and Abbeel 2020, "Responsive safety in
reinforcement learning by PID Lagrangian methods"). The multiplier lives in the Runner, beside what PPO learns, and
enters the world as a leaf of its params, so that PPO needs to know nothing of it.

A world reports `info["cost"]`, such as the drawdown that a step adds to the deepest of its episode: over an episode
these costs sum to its maximum drawdown, so the limit is that of the drawdown over the steps of an episode.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from marljax.agents.learner import EnvParams, choose
from marljax.agents.ppo import PPO
from marljax.agents.ppo_config import PPOConfig, PPORunner
from marljax.agents.rollout import Metrics
from marljax.data.limits import require_not_negative, require_positive
from marljax.envs.environment import Environment
from marljax.envs.priced import Priced, PricedParams


@struct.dataclass
class ConstraintConfig:
    """The limit, and how its price is learned. Floats may carry an axis."""

    limit: float
    """Largest mean cost per step, in whatever the world counts it [cost]."""
    rate: float = 0.02
    """What a cost of twice the limit adds to the multiplier's memory in a chunk [reward per cost]."""
    proportional: float = 0.1
    """What it adds to the multiplier in the next chunk alone [reward per cost]."""
    multiplier: float = 0.0
    """Before anything is learned [reward per cost]."""
    largest: float = 100.0
    """Largest multiplier: where the limit cannot be kept, reward still counts [reward per cost]."""

    def __post_init__(self) -> None:
        require_positive(self, "limit", "largest")
        require_not_negative(self, "rate", "proportional", "multiplier")


@struct.dataclass
class LagrangianRunner:
    """Everything that learning changes."""

    ppo: PPORunner
    integral: jax.Array  # float32[] the multiplier's memory
    multiplier: jax.Array  # float32[] in force in the next chunk, reward per cost


@struct.dataclass
class LagrangianPPO:
    """The learner; see marljax.agents.learner for its contract. Params are those of `env`, which knows no price."""

    env: Environment = struct.field(pytree_node=False)
    constraint: ConstraintConfig
    config: PPOConfig = PPOConfig()
    role: str | None = struct.field(pytree_node=False, default=None)
    """Whose reward pays for the cost; None where there are no roles."""

    @property
    def steps_per_chunk(self) -> int:
        return self._ppo.steps_per_chunk

    def policy(self, env_params: EnvParams) -> Any:
        """As of PPO."""
        return PPO(self.env, self.config).policy(env_params)

    def policy_params(self, runner: LagrangianRunner) -> Any:
        """As of PPO."""
        return self._ppo.policy_params(runner.ppo)

    def init(self, key: jax.Array, env_params: EnvParams) -> LagrangianRunner:
        # Two arrays: a donated Runner must not hold one twice.
        integral, multiplier = (jnp.asarray(self.constraint.multiplier, jnp.float32) + 0.0 for _ in range(2))
        return LagrangianRunner(self._ppo.init(key, PricedParams(env_params, multiplier)), integral, multiplier)

    def update(self, runner: LagrangianRunner, env_params: EnvParams) -> tuple[LagrangianRunner, Metrics]:
        """One chunk of PPO at the multiplier in force, then a step of the multiplier.

        Metrics are PPO's, of priced rewards; `cost` and `multiplier` are those of the chunk, `unpriced_reward` is what
        those who pay were given before they did.
        """
        ppo, metrics = self._ppo.update(runner.ppo, PricedParams(env_params, runner.multiplier))
        tally = ppo.worlds.state
        cost = tally.spent.sum() / jnp.maximum(tally.steps.sum(), 1.0)
        cleared = dataclasses.replace(tally, spent=jnp.zeros_like(tally.spent), steps=jnp.zeros_like(tally.steps))
        ppo = dataclasses.replace(ppo, worlds=dataclasses.replace(ppo.worlds, state=cleared))
        reward = metrics["reward" if self.role is None else f"{self.role}.reward"]
        metrics = metrics | {
            "cost": cost,
            "multiplier": runner.multiplier,
            "unpriced_reward": reward + runner.multiplier * cost,
        }
        new = LagrangianRunner(ppo, *self._priced(runner.integral, cost))
        kept = LagrangianRunner(ppo, runner.integral, runner.multiplier)
        # A chunk that was undone has spent nothing and says nothing of the price.
        return choose(metrics["diverged"] == 0, new, kept), metrics

    @property
    def _ppo(self) -> PPO:
        return PPO(Priced(self.env, self.role), self.config)

    def _priced(self, integral: jax.Array, cost: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The multiplier's memory and the multiplier after a chunk of this mean cost."""
        constraint = self.constraint
        violation = cost / constraint.limit - 1.0
        integral = jnp.clip(integral + constraint.rate * violation, 0.0, constraint.largest)
        return integral, jnp.clip(integral + constraint.proportional * violation, 0.0, constraint.largest)
