"""What the three proofs of the meta-controller share: how it is trained among return streams, and how it is judged.

A judged policy plays without exploration on episodes of its own, the same for every seed; returns do not depend on what
is allocated, so that others are compared on them by an accounting of their own, in float64 and apart from the world's.
"""

import dataclasses
from typing import Any

import jax
import numpy as np
from meta_learner import CHUNKS, LEARNER
from proof import ProofConfig

from marljax.agents.ppo import PPO
from marljax.agents.ppo_config import PPOConfig
from marljax.data.limits import require, require_counts
from marljax.envs.controlled.return_streams import ReturnStreams, ReturnStreamsParams
from marljax.envs.controlled.return_streams_laws import RegimeStreams
from marljax.envs.controlled.return_streams_solution import Investor, Law

JUDGED = 2
"""Folded into the seed: for the episodes that judge."""


@dataclasses.dataclass(frozen=True)
class MetaConfig(ProofConfig):
    """How the meta-controller learns and is judged."""

    ppo: PPOConfig = LEARNER
    """How it learns; the learning rate falls to zero over the chunks."""
    episodes: int = 200
    """That every seed is judged on, and the other strategies with it [count]."""
    steps: int = 104
    """Rebalances in each of them [count]."""
    burn_in: int = 8
    """Rebalances at their beginning that are not judged: whoever filters returns knows nothing yet [count]."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_counts(self, "episodes", "steps")
        require(self, "at least 0 and below steps", lambda x: 0 <= x < self.steps, "burn_in")

    def learner(self, env: ReturnStreams) -> PPO:
        return PPO(env, dataclasses.replace(self.ppo, learning_rate_decay=1.0 / self.chunks))


PRESETS = {
    "full": MetaConfig(chunks=CHUNKS),
    "quick": MetaConfig(preset="quick", seeds=2, chunks=2, episodes=8, ppo=dataclasses.replace(LEARNER, n_envs=8)),
}
"""Of the proofs and the ablations."""


@dataclasses.dataclass(frozen=True)
class Played:
    """What policies did, without what came before the judged part. E episodes, T rebalances, K periods, A agents."""

    weights: np.ndarray  # float64[seeds, E, T, A] granted
    log_growth: np.ndarray  # float64[seeds, E, T] net of costs
    turnover: np.ndarray  # float64[seeds, E, T]
    base: np.ndarray  # float64[E, T, A] risk parity
    growth: np.ndarray  # float64[E, T, A] of capital left to each agent
    returns: np.ndarray  # float64[E, T, K, A]
    regime: np.ndarray  # int[E, T, K]


def play(learner: PPO, params: Any, world: ReturnStreamsParams, config: MetaConfig) -> Played:
    """Policies of parameters [seeds, ...] through the judged episodes, their beginnings included."""
    env, policy = learner.env, learner.policy(world)

    def episode(params: Any, key: jax.Array) -> Any:
        reset_key, key = jax.random.split(key)
        obs, state = env.reset_env(reset_key, world)

        def step(carry: Any, key: jax.Array) -> tuple[Any, Any]:
            obs, state, memory = carry
            action, memory = policy.apply(params, obs, memory, key, True)
            obs, state, _, _, _, info = env.step_env(key, state, action, world)
            return (obs, state, memory), info

        info = jax.lax.scan(step, (obs, state, policy.init_carry()), jax.random.split(key, config.steps))[1]
        own = info["granted"], info["log_growth"], info["turnover"]
        return own, (info["base"], info["growth"], info["returns"], info["regime"])

    keys = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), JUDGED), config.episodes)
    own, shared = jax.jit(jax.vmap(jax.vmap(episode, (None, 0)), (0, None)))(params, keys)
    return Played(*(np.asarray(x, np.float64) for x in own), *(np.asarray(x[0], np.float64) for x in shared))


def judged(x: np.ndarray, burn_in: int, axis: int = 1) -> np.ndarray:
    """`x` without its beginning along the axis of rebalances."""
    return np.take(x, np.arange(burn_in, x.shape[axis]), axis)


def log_growth(weights: np.ndarray, growth: np.ndarray, cost: float, rate: float, n_periods: int) -> np.ndarray:
    """Of equity between rebalances, float64[E, T], for weights float64[E, T, A] set at each and left to drift.

    The first rebalance is from cash. `cost` is paid on the sum of absolute differences to what is held by then.
    """
    invested = weights * growth
    total = invested.sum(-1) + (1.0 - weights.sum(-1)) * (1.0 + rate) ** n_periods
    held = np.zeros_like(weights)
    held[:, 1:] = (invested / total[..., None])[:, :-1]
    return np.log(total) + np.log1p(-cost * np.abs(weights - held).sum(-1))


def law_of(streams: RegimeStreams) -> Law:
    """The law as its solution takes it."""
    mean, volatility, root, transition, first = (
        np.asarray(x, np.float64)
        for x in (streams.mean, streams.volatility, streams.root, streams.transition, streams.first)
    )
    factor = volatility[:, :, None] * root
    # Probabilities were rounded to float32.
    return Law(mean, factor @ factor.swapaxes(1, 2), transition / transition.sum(1, keepdims=True), first / first.sum())


def investor_of(world: ReturnStreamsParams) -> Investor:
    """What the world rewards, as the solution takes it."""
    return Investor(
        gross=float(world.gross),
        rate=float(world.rate),
        scale=float(world.reward_scale),
        risk_aversion=float(world.risk_aversion),
    )
