"""What a rebalance was worth to whoever allocates, and the drawdown it added: the terms of `marljax.envs.rewards`.

A portfolio counts in standard deviations of its own: `scale`, the return per rebalance that counts as one, so that an
equity of one is 1 / scale of them. Log return is then log growth over scale, and the two differential ratios are those
of the portfolio's returns. The drawdown that a rebalance adds to the deepest of its episode is reported beside the
reward, unweighted: what a constraint (`marljax.agents.lagrangian`) prices. Over an episode it sums to the maximum
drawdown.
"""

import jax
import jax.numpy as jnp

from marljax.data.schema import InputError
from marljax.envs import rewards
from marljax.envs.rewards import Facts, PathState, RewardConfig, RewardWeights

LOG_RETURN = RewardConfig(earnings=0.0, log_return=1.0)
"""The log return of the portfolio and nothing else."""


def weights(config: RewardConfig) -> RewardWeights:
    """The weights of a portfolio's terms; `turnover` is reward per equity traded, `memory` counts rebalances.

    Raises InputError where no term of the path has a weight: the drawdown could not be followed.
    """
    made = config.weights(inventory=0.0)
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
    state: PathState, weights: RewardWeights, portfolio_return: jax.Array, turnover: jax.Array
) -> tuple[PathState, jax.Array, jax.Array]:
    """The state after a rebalance and what followed, its reward float32[], and the drawdown it added.

    `portfolio_return` float32[] is simple and net of costs, `turnover` float32[] is what was traded [fraction of
    equity]. The drawdown added is float32[] >= 0 [fraction of the peak].
    """
    earned = (state.capital + state.net) * portfolio_return
    facts = Facts(earned=earned, position=jnp.zeros(()), traded=turnover)
    after, reward = rewards.step(state, weights, facts)
    assert after is not None, "weights come from `weights`"
    return after, reward, (after.worst - state.worst) / state.capital
