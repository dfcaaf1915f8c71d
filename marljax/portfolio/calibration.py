"""What an agent's word is worth: its claims of return against what came of them.

A claim is the return per unit of capital that an agent expects of the coming block. In units of volatility claims c
and outcomes r are taken to obey r = worth * c + noise of variance one, with a normal prior of `worth`, and the estimate
is worth * c at the posterior mean: ridge regression through the origin, updated block by block, the past forgotten at
a rate (West and Harrison 1997, "Bayesian forecasting and dynamic models", chapter 2). An agent that claims three times
what it earns comes to be believed a third, one without skill not at all, and a bold claim is found out sooner than a
modest one. Since estimates are posterior means, choosing the agent with the highest brings no winner's curse as far as
the prior is right.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marljax.data.schema import InputError


@struct.dataclass
class Prior:
    """What claims are worth before anything is known of an agent. Build it with `prior`."""

    worth: jax.Array  # float32[] return per claimed return
    precision: jax.Array  # float32[] one over the variance of `worth` among agents


def prior(worth: float = 0.0, deviation: float = 1.0) -> Prior:
    """A prior from host numbers, checked: mean and standard deviation of what agents' claims are worth.

    Where only agents with capital can be observed, `worth` must be above zero, or none ever gets any. Raises InputError
    for a number out of range.
    """
    if not (np.isfinite(worth) and worth >= 0):
        raise InputError(f"prior: worth must be finite and not negative, got {worth!r}")
    if not (np.isfinite(deviation) and deviation > 0):
        raise InputError(f"prior: deviation must be positive and finite, got {deviation!r}")
    return Prior(jnp.float32(worth), jnp.float32(deviation**-2))


@struct.dataclass
class Calibration:
    """What was seen of A agents: discounted sums over blocks, in units of their volatility."""

    evidence: jax.Array  # float32[A] of squared claims [1]
    agreement: jax.Array  # float32[A] of claims times outcomes [1]

    @classmethod
    def start(cls, n_agents: int) -> "Calibration":
        """Nothing seen yet."""
        nothing = jnp.zeros(n_agents, jnp.float32)
        return cls(nothing, nothing)

    def update(
        self,
        claimed: jax.Array,
        realised: jax.Array,
        volatility: jax.Array,
        observed: jax.Array,
        decay: jax.Array | float,
    ) -> "Calibration":
        """After a block.

        Args:
            claimed: float32[A] return per unit of capital that was claimed before the block.
            realised: float32[A] return per unit of capital in it.
            volatility: float32[A] of that return as known before the block, positive.
            observed: bool[A] whether the agent had enough capital to show it with; of the others nothing is learned.
            decay: float32[] weight of the past in [0, 1], per block, of all agents.
        """
        claim, outcome = claimed / volatility, realised / volatility
        return Calibration(
            evidence=decay * self.evidence + jnp.where(observed, claim**2, 0.0),
            agreement=decay * self.agreement + jnp.where(observed, claim * outcome, 0.0),
        )

    def worth(self, prior: Prior) -> jax.Array:
        """float32[A] expected return per claimed return, >= 0: no claim is read as its opposite."""
        mean = (prior.precision * prior.worth + self.agreement) / (prior.precision + self.evidence)
        return jnp.maximum(mean, 0.0)

    def estimate(self, claimed: jax.Array, prior: Prior) -> jax.Array:
        """float32[A] expected return per unit of capital in the coming block, for which `claimed` float32[A] is."""
        return self.worth(prior) * claimed
