"""The one form of policy that PPO and SAC share, so that a trained agent is a function and a pytree of parameters.

A world that holds product agents as data stacks their parameters, whichever algorithm trained them, and vmaps `apply`.
"""

import dataclasses

import jax
import jax.numpy as jnp

from marljax.agents.distributions import TanhNormal
from marljax.agents.networks import Dense, apply_mlp, init_mlp

LOG_STD_CENTRE = -1.0
LOG_STD_REACH = 3.0

PolicyParams = tuple[Dense, ...]
Carry = tuple[()]


@dataclasses.dataclass(frozen=True)
class TanhGaussianPolicy:
    """Feed-forward tanh MLP from observation to a tanh-squashed normal over actions in [-1, 1]^A.

    The log standard deviation depends on the observation and is bounded smoothly to -1 +- 3, so that its gradient
    never dies and a fresh policy explores with a standard deviation of about 0.37.
    """

    action_size: int
    hidden: tuple[int, ...] = (64, 64)

    def init(self, key: jax.Array, obs_size: int) -> PolicyParams:
        """Fresh parameters; a small last layer makes the first actions centre on zero."""
        return init_mlp(key, (obs_size, *self.hidden, 2 * self.action_size), final_scale=0.01)

    def init_carry(self) -> Carry:
        """What `apply` hands from step to step: nothing, for a feed-forward policy."""
        return ()

    def distribution(self, params: PolicyParams, obs: jax.Array) -> TanhNormal:
        """The distribution of the action at float32[..., obs_size]."""
        mean, raw = jnp.split(apply_mlp(params, obs), 2, axis=-1)
        return TanhNormal(mean, LOG_STD_CENTRE + LOG_STD_REACH * jnp.tanh(raw / LOG_STD_REACH))

    def apply(
        self, params: PolicyParams, obs: jax.Array, carry: Carry, key: jax.Array, deterministic: bool | jax.Array
    ) -> tuple[jax.Array, Carry]:
        """Action float32[..., A] in [-1, 1] at float32[..., obs_size], and the carry.

        `deterministic` (bool or bool[]) gives the median, tanh(mean), whatever the key.
        """
        distribution = self.distribution(params, obs)
        noise = jnp.where(deterministic, 0.0, jax.random.normal(key, distribution.mean.shape))
        return jnp.tanh(distribution.pre_tanh(noise)), carry
