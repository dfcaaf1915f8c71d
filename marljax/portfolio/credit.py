"""Who is to thank for what the portfolio earned: difference rewards (Wolpert and Tumer 2002, "Optimal payoff functions
for members of collectives").

    D_i = G(z) - G(z without i),

where G is the portfolio's utility of a period and the counterfactual replaces what agent i earned by what its capital
would have earned without it. In a world whose prices nobody moves that is exact: the other accounts stay as they are.
What replaces it is nothing the agent does in the period, so what raises D_i raises G by as much, and the noise of the
other agents, which a plain share of G is full of, is gone but for its part in the risk that agents share.

Replaced by cash (`in_cash`), D_i is the difference that the agent makes; replaced by what it is known to earn on
average, its record times its capital, D_i is the surprise, Wolpert and Tumer's aristocrat utility. A critic may learn
either as it learns any other reward; with a critic shared by all agents and the meta-controller (see `PPOConfig`),
one network values the portfolio's utility for whoever allocates and every agent's difference in it.
"""

import jax
import jax.numpy as jnp
from flax import struct

_WORST = -0.99


@struct.dataclass
class Utility:
    """How a portfolio's return of a period is valued."""

    scale: jax.Array  # float32[] log return that counts as one, positive
    risk_aversion: jax.Array  # float32[] utility per half of a squared one


def utility(portfolio_return: jax.Array, of: Utility) -> jax.Array:
    """Log return in units of `scale`, less risk_aversion / 2 times its square. float32[...].

    `portfolio_return` float32[...] is simple; a loss of more than 99 % counts as one of 99 %.
    """
    log_return = jnp.log1p(jnp.maximum(portfolio_return, _WORST)) / of.scale
    return log_return - 0.5 * of.risk_aversion * log_return**2


def in_cash(weights: jax.Array, cash_rate: jax.Array) -> jax.Array:
    """What agents' capital would have earned as cash, float32[A] of equity.

    `weights` float32[A] fractions of equity, a short position's proceeds being collateral like any other capital;
    `cash_rate` float32[] return of the period.
    """
    return jnp.abs(weights) * cash_rate


def difference_rewards(earned: jax.Array, rest: jax.Array, replacement: jax.Array, of: Utility) -> jax.Array:
    """What each of A agents adds to the portfolio's utility of a period, float32[A].

    To pay it row by row give the sums since the period's beginning and take the increments, which add up to the
    period's.

    Args:
        earned: float32[A] what each agent earned in the period, net of its costs [fraction of equity before it].
        rest: float32[] what the portfolio earned besides, as interest [fraction of equity before the period].
        replacement: float32[A] what the capital of each would have earned without it [likewise].
        of: the portfolio's utility.
    """
    portfolio_return = rest + jnp.sum(earned)
    together = jnp.maximum(portfolio_return, _WORST)
    without = jnp.maximum(portfolio_return - (earned - replacement), _WORST)
    # The difference of two utilities, factored: an agent's part is small beside the whole.
    gain = jnp.log1p((together - without) / (1.0 + without)) / of.scale
    total = (jnp.log1p(together) + jnp.log1p(without)) / of.scale
    return gain * (1.0 - 0.5 * of.risk_aversion * total)
