"""The distributions that policies sample from: a tanh-squashed diagonal normal, and a categorical one with a mask.

Both have one form for the learners. What is drawn and stored is a *choice*, from which the action follows: the sample
before the squashing, so that its density is never computed through an inverse tanh, or the index. Noise comes as an
argument, so that a rollout draws all of it at once. The only file that imports distrax.
"""

from typing import Any, Protocol

import distrax
import jax
import jax.numpy as jnp
from flax import struct


class Actions(Protocol):
    """A distribution over actions; leading axes are batch axes."""

    def choose(self, noise: jax.Array) -> jax.Array:
        """The choice at a draw of noise."""
        ...

    def best(self) -> jax.Array:
        """The choice without noise: median or mode."""
        ...

    def act(self, choice: jax.Array) -> jax.Array:
        """The action that a choice stands for."""
        ...

    def log_density(self, choice: jax.Array) -> jax.Array:
        """float32[...] of the choice; ratios of it are ratios of the actions' densities."""
        ...

    def entropy(self, noise: jax.Array) -> jax.Array:
        """float32[...] of the action [nats], exact or sampled at `noise`."""
        ...


def log_det_tanh(pre_tanh: jax.Array) -> jax.Array:
    """log d tanh(u)/du = log(1 - tanh(u)^2), element by element, as 2 (log 2 - u - softplus(-2u)).

    This form does not overflow for wide distributions (Haarnoja et al. 2018, Soft Actor-Critic, appendix C).
    """
    return 2.0 * (jnp.log(2.0) - pre_tanh - jax.nn.softplus(-2.0 * pre_tanh))


@struct.dataclass
class TanhNormal:
    """Distribution of tanh(u), u ~ N(mean, exp(log_std)^2), on (-1, 1)^A; a choice is u, noise is standard normal."""

    mean: jax.Array  # float32[..., A] of u
    log_std: jax.Array  # float32[..., A] of u

    @property
    def normal(self) -> distrax.Independent:
        """The distribution of u. At one u, ratios of densities before and after the squashing are the same."""
        return distrax.Independent(distrax.Normal(self.mean, jnp.exp(self.log_std)), reinterpreted_batch_ndims=1)

    def pre_tanh(self, noise: jax.Array) -> jax.Array:
        """u at standard normal `noise` float32[..., A]: reparameterised, so gradients reach mean and log_std."""
        return self.mean + jnp.exp(self.log_std) * noise

    def log_prob(self, pre_tanh: jax.Array) -> jax.Array:
        """float32[...] log density of the action tanh(`pre_tanh`)."""
        return self.normal.log_prob(pre_tanh) - log_det_tanh(pre_tanh).sum(-1)

    def choose(self, noise: jax.Array) -> jax.Array:
        return self.pre_tanh(noise)

    def best(self) -> jax.Array:
        return self.mean

    def act(self, choice: jax.Array) -> jax.Array:
        return jnp.tanh(choice)

    def log_density(self, choice: jax.Array) -> jax.Array:
        return self.normal.log_prob(choice)

    def entropy(self, noise: jax.Array) -> jax.Array:
        """float32[...] differential entropy [nats], exact for the normal, sampled at `noise` for the squashing."""
        return self.normal.entropy() + log_det_tanh(self.pre_tanh(noise)).sum(-1)


@struct.dataclass
class Categorical:
    """Distribution over 0..n-1; a choice is the index int32[...], noise is uniform on [0, 1) float32[...].

    A masked index has a logit of `MASKED` and so probability zero, exactly, and no gradient.
    """

    logits: jax.Array  # float32[..., n], normalised

    @classmethod
    def of(cls, logits: jax.Array, allowed: jax.Array | None = None) -> "Categorical":
        """From any float32[..., n], and bool[..., n] where not everything is allowed; with nothing allowed at all,
        everything is."""
        if allowed is not None:
            logits = jnp.where(allowed | ~allowed.any(-1, keepdims=True), logits, MASKED)
        return cls(jax.nn.log_softmax(logits))

    @property
    def _distribution(self) -> Any:
        return distrax.Categorical(logits=self.logits)

    def choose(self, noise: jax.Array) -> jax.Array:
        below = jnp.cumsum(jnp.exp(self.logits), -1) <= noise[..., None]
        # Rounding can leave the last sum below the noise: the last allowed index is the largest there is.
        n = self.logits.shape[-1]
        last = n - 1 - jnp.argmax(jnp.flip(self.logits > 0.5 * MASKED, -1), -1)
        return jnp.minimum(below.sum(-1), last).astype(jnp.int32)

    def best(self) -> jax.Array:
        return jnp.argmax(self.logits, -1).astype(jnp.int32)

    def act(self, choice: jax.Array) -> jax.Array:
        return choice

    def log_density(self, choice: jax.Array) -> jax.Array:
        return self._distribution.log_prob(choice)

    def entropy(self, noise: jax.Array) -> jax.Array:
        return self._distribution.entropy()


MASKED = -1e9
"""The logit of what is not allowed: its probability rounds to zero and nothing overflows."""
