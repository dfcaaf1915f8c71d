"""Who pays what for the capital that `auction.py` hands out. All of it stays inside the portfolio.

    score of agent i = what its capital earned - paid_i + rebate_i,   treasury = sum of paid - sum of rebates >= 0,

so that scores and treasury sum to what the portfolio earned. Payments are the price of using capital which others
value too, in return on equity per block; no cash moves, and equity is what it would be without them.

What a bidder can gain by not bidding its true schedule depends on the rule:
- `uniform`: all pay the clearing price. Overbidding never pays, whatever others bid: it cannot lower the price, and at
  the price it brings about the true schedule would have asked for the best quantity. Underbidding may pay (Ausubel et
  al. 2014, "Demand reduction and inefficiency in multi-unit auctions"): a large bidder lowers the price by it. The gain
  falls with the square of the bidder's part of the market. A rebate is a fixed share of what the market would have paid
  without its receiver, which no bid of the receiver changes (Cavallo 2006); the price only rises with one bidder more,
  so rebates never exceed payments, and the difference, which vanishes as bidders multiply, is the treasury's.
- `clarke`: everybody pays what its presence costs the others' value (Clarke 1971). No misreport pays at all, and an
  agent's value less its payment is the difference that it makes to the market's total value. The treasury keeps
  everything: no rule is efficient, truthful and hands back all (Green and Laffont 1977).
"""

import jax
import jax.numpy as jnp
from flax import struct

from marljax.portfolio.auction import Bids, Clearing, Supply, clear


@struct.dataclass
class Settlement:
    """Payments of A agents [return on equity per block]."""

    paid: jax.Array  # float32[A], >= 0
    rebate: jax.Array  # float32[A], >= 0

    @property
    def treasury(self) -> jax.Array:
        """float32[] what is paid and not handed back, the portfolio's own."""
        return jnp.sum(self.paid) - jnp.sum(self.rebate)

    def scores(self, earned: jax.Array) -> jax.Array:
        """float32[A] what is left of what each agent's capital `earned` float32[A], in return on equity per block."""
        return earned - self.paid + self.rebate


def worth(bids: Bids, weights: jax.Array) -> jax.Array:
    """What `weights` float32[A] are worth to their bidders: the area below each schedule. float32[A]."""
    return weights * (bids.value - 0.5 * bids.slope * weights)


def uniform(bids: Bids, supply: Supply, clearing: Clearing, shares: jax.Array) -> Settlement:
    """Everybody pays its price. `shares` float32[A], >= 0 with sum 1, fixed before the bids: whose the capital is."""
    others = _without_each(bids, supply)
    revenue = jnp.sum(others.price * others.weights, axis=1)
    return Settlement(paid=clearing.price * clearing.weights, rebate=shares * revenue)


def clarke(bids: Bids, supply: Supply, clearing: Clearing) -> Settlement:
    """Everybody pays what the others would hold without it, at their own schedules."""
    gained = _without_each(bids, supply).weights - clearing.weights
    gained = gained * (1.0 - jnp.eye(gained.shape[0], dtype=gained.dtype))
    # The difference of two areas below a line, without the cancellation of subtracting them.
    halfway = clearing.weights + 0.5 * gained
    harm = jnp.sum(gained * (bids.value - bids.slope * halfway), axis=1)
    return Settlement(paid=jnp.maximum(harm, 0.0), rebate=jnp.zeros_like(harm))


def _without_each(bids: Bids, supply: Supply) -> Clearing:
    """The market without each of its agents, leaves [A, ...]: A clearings."""
    n_agents = bids.value.shape[0]
    return jax.vmap(lambda agent: clear(bids, supply.without(agent)))(jnp.arange(n_agents))
