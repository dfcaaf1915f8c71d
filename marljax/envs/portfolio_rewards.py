"""What a rebalance was worth to whoever allocates, and the drawdown it added: the terms of `marljax.envs.rewards`.

A portfolio counts in standard deviations of its own: `scale`, the return per rebalance that counts as one, so that an
equity of one is 1 / scale of them. Log return is then log growth over scale, and the two differential ratios are those
of the portfolio's returns. The drawdown that a rebalance adds to the deepest of its episode is reported beside the
reward, unweighted: what a constraint (`marljax.agents.lagrangian`) prices. Over an episode it sums to the maximum
drawdown.
"""

import dataclasses

import jax
import jax.numpy as jnp

from marljax.data.schema import InputError
from marljax.envs import rewards
from marljax.envs.rewards import Facts, PathState, RewardConfig, RewardWeights

_WORST = -0.99

LOG_RETURN = RewardConfig(earnings=0.0, log_return=1.0)
"""The log return of the portfolio and nothing else."""


def weights(config: RewardConfig, risk_aversion: float = 0.0) -> RewardWeights:
    """The weights of a portfolio's terms; `turnover` is reward per equity traded, `memory` counts rebalances, and
    `risk_aversion / 2` is the penalty on the squared log return over scale.

    Raises InputError where no term of the path has a weight: the drawdown could not be followed.
    """
    made = config.weights(inventory=risk_aversion)
    if made.path is None:
        raise InputError(
            "the reward of a portfolio needs a weight on log_return, sharpe, sortino or drawdown: they follow equity"
        )
    return made


def start(weights: RewardWeights, scale: jax.Array) -> PathState:
    """At the start of an episode; `scale` float32[] is the return per rebalance that counts as one, > 0."""
    state = rewards.start(weights, 1.0 / scale)
    assert state is not None, "weights come from `weights`"
    return state


def step(
    state: PathState, weights: RewardWeights, scale: jax.Array, portfolio_return: jax.Array, turnover: jax.Array
) -> tuple[PathState, jax.Array, jax.Array]:
    """The state after a rebalance and what followed, its reward float32[], and the drawdown it added.

    `scale` is that of `start`; `portfolio_return` float32[] is simple and net of costs, a loss of more than 99 % has
    the log return of one of 99 %; `turnover` float32[] is what was traded [fraction of equity]. The drawdown added is
    float32[] >= 0 [fraction of the peak].
    """
    assert weights.path is not None, "weights come from `weights`"
    earned = (state.capital + state.net) * portfolio_return
    # Of the return itself: the equity that the other terms follow has fewer digits for it.
    log_return = jnp.log1p(jnp.maximum(portfolio_return, _WORST)) / scale
    facts = Facts(earned=earned, position=log_return, traded=turnover)
    path = dataclasses.replace(weights.path, log_return=jnp.zeros_like(weights.path.log_return))
    others = dataclasses.replace(weights, path=path)
    after, reward = rewards.step(state, others, facts)
    assert after is not None, "weights come from `weights`"
    return after, reward + weights.path.log_return * log_return, (after.worst - state.worst) / state.capital
