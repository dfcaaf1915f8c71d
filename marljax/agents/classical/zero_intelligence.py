"""An agent of zero intelligence in any role: it acts at random within its rules (after Gode & Sunder 1993)."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct


@struct.dataclass
class ZeroIntelligenceAgentParams:
    """How often it acts."""

    activity: jax.Array  # float32[] 0..1, probability of a new action at each step; else its orders stay


@dataclasses.dataclass(frozen=True)
class ZeroIntelligenceAgent:
    """Uniformly random actions of `action_size` entries."""

    action_size: int

    def init_carry(self) -> tuple[()]:
        return ()

    def apply(
        self,
        params: ZeroIntelligenceAgentParams,
        obs: jax.Array,
        carry: tuple[()],
        key: jax.Array,
        deterministic: bool | jax.Array,
    ) -> tuple[jax.Array, tuple[()]]:
        """float32[action_size] action, NaN where orders stay."""
        when_key, what_key = jax.random.split(key)
        acts = jax.random.bernoulli(when_key, params.activity)
        action = jax.random.uniform(what_key, (self.action_size,), minval=-1.0)
        return jnp.where(acts, action, jnp.nan), carry
