"""What allocators that expect a return ask for among product agents: mean-variance and Black-Litterman.

An agent is expected to earn what it earned on its capital of late, in a run at equal weights through the validation
part and on through the test part, in which a rebalance knows nothing but what came before it. They are solved on the
host by skfolio, outside the jitted hierarchy.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from marljax.envs.portfolio import PortfolioEnv, PortfolioParams, base_weights
from marljax.evaluation.backtest import allocated, backtest_weights
from marljax.portfolio.allocators import equal_weight
from marljax.portfolio.allocators_skfolio import expecting_the_past
from stages.meta import Portfolio


def expecting(portfolio: Portfolio, test: PortfolioParams, key: jax.Array) -> dict[str, jax.Array]:
    """float32[N, A] by name, what each asks for in each block of `test`. They look back over as many rebalances as the
    validation part has. Raises InputError without skfolio."""
    env = dataclasses.replace(portfolio.env, coordination="risk_parity")
    past = [earned(env, params, key) for params in (portfolio.params("validation"), test)]
    product = np.asarray(test.world.product)
    covariance = np.asarray(test.market.covariance, np.float64)[:, product][:, :, product] * env.rows_per_block
    base = jax.vmap(lambda block: base_weights(block, test))(jnp.arange(len(covariance)))
    asked = expecting_the_past(
        np.concatenate(past),
        covariance,
        np.asarray(base, np.float64),
        risk_aversion=portfolio.allocation.risk_aversion / float(test.reward_scale),
    )
    return {name: jnp.asarray(test.rails.limits.gross * weights, jnp.float32) for name, weights in asked.items()}


def earned(env: PortfolioEnv, params: PortfolioParams, key: jax.Array) -> np.ndarray:
    """float64[N, A] what agents earned on their capital in each block at equal weights, net of all that trading cost;
    0 where one had none."""
    weights = allocated(env, params, equal_weight)
    record, _ = backtest_weights(env, key, params, weights, jnp.array(False))
    equity = np.concatenate([np.atleast_1d(params.capital), np.asarray(record.equity)[:-1]]).astype(np.float64)
    capital = np.asarray(record.decision.granted, np.float64) * equity[:, None]
    gained = np.diff(np.asarray(record.net, np.float64), axis=0, prepend=0.0)
    return np.divide(gained, capital, out=np.zeros_like(gained), where=capital > 0)
