"""Capital among given return streams, rebalance by rebalance, for any number of strategies under the same guardrails.

What is known of the market does not depend on what is held, so that a strategy which looks at nothing else is a table
of what it asks for at every rebalance (`hold`). A policy also sees its own weights and drawdown and is played
(`follow`), with the parameters of the fold that a rebalance falls into; its account goes on from fold to fold.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from marljax.agents.policy import TanhGaussianPolicy
from marljax.envs.controlled.return_streams import ReturnStreams, ReturnStreamsParams, ReturnStreamsState
from marljax.portfolio.interventions import Intervention


class Account(NamedTuple):
    """What S strategies did at N rebalances, leaves [S, N, ...]."""

    granted: jax.Array  # float32[S, N, A] fractions of equity
    log_growth: jax.Array  # float32[S, N] net of what reallocating costs
    turnover: jax.Array  # float32[S, N] sum of absolute differences to what was held
    intervention: Intervention


class Seen(NamedTuple):
    """What is known of the agents at N rebalances."""

    covariance: jax.Array  # float32[N, A, A] of returns per rebalance
    base: jax.Array  # float32[N, A]
    mean: jax.Array  # float32[N, A] return per rebalance, on record
    last: jax.Array  # float32[N, A] since the rebalance before


def _account(info: dict[str, Any]) -> Account:
    return Account(info["granted"], info["log_growth"], info["turnover"], info["intervention"])


def seen(state: ReturnStreamsState) -> Seen:
    """What is known at one rebalance, without the axis of rebalances."""
    return Seen(state.covariance, state.market.base, state.record.mean, state.record.last)


def hold(env: ReturnStreams, world: ReturnStreamsParams, asked: jax.Array) -> tuple[Account, Seen]:
    """Strategies that ask for float32[S, N, A], all from the same start in cash."""

    def play(asked: jax.Array) -> tuple[Account, Seen]:
        # A recording is as long as the episode, so that no key decides anything.
        key = jax.random.key(0)

        def step(state: ReturnStreamsState, asked: jax.Array) -> tuple[ReturnStreamsState, tuple[Account, Seen]]:
            _, after, _, _, _, info = env.rebalance(key, state, asked, world)
            return after, (_account(info), seen(state))

        return jax.lax.scan(step, env.reset_env(key, world)[1], asked)[1]

    account, known = jax.vmap(play)(asked)
    return account, jax.tree.map(lambda x: x[0], known)


def follow(
    env: ReturnStreams,
    world: ReturnStreamsParams,
    policy: TanhGaussianPolicy,
    params: Any,
    fold: jax.Array,
    typical_volatility: jax.Array,
) -> Account:
    """Policies without exploration, one strategy for each seed.

    Args:
        env: the world.
        world: its numbers; the recording is as long as the episode.
        policy: the form of all of them.
        params: leaves [seeds, folds, ...].
        fold: int32[N] whose parameters act at each rebalance.
        typical_volatility: float32[folds, A] that observations are in units of, in each fold.
    """
    key = jax.random.key(0)

    def as_in(fold: jax.Array) -> ReturnStreamsParams:
        return dataclasses.replace(world, typical_volatility=typical_volatility[fold])

    def play(params: Any) -> Account:
        obs, state = env.reset_env(key, as_in(fold[0]))

        def step(carry: Any, folds: tuple[jax.Array, jax.Array]) -> tuple[Any, Account]:
            obs, state, memory = carry
            now, following = folds
            own = jax.tree.map(lambda leaf: leaf[now], params)
            action, memory = policy.apply(own, obs, memory, key, True)
            # What comes of a step is seen by the one after it.
            obs, state, _, _, _, info = env.step_env(key, state, action, as_in(following))
            return (obs, state, memory), _account(info)

        folds = fold, jnp.append(fold[1:], fold[-1])
        return jax.lax.scan(step, (obs, state, policy.init_carry()), folds)[1]

    return jax.vmap(play)(params)
