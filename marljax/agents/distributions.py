"""The tanh-squashed diagonal normal that every continuous policy samples from.

The idea that keeps it finite: the sample is carried before the squashing (`pre_tanh`), so that its density is never
computed through an inverse tanh, and the change of variables is written in the softplus form of Haarnoja et al. 2018
(Soft Actor-Critic, appendix C), which does not overflow for wide distributions. The only file that imports distrax.
"""

import distrax
import jax
import jax.numpy as jnp
from flax import struct


def log_det_tanh(pre_tanh: jax.Array) -> jax.Array:
    """log d tanh(u)/du = log(1 - tanh(u)^2), element by element, as 2 (log 2 - u - softplus(-2u))."""
    return 2.0 * (jnp.log(2.0) - pre_tanh - jax.nn.softplus(-2.0 * pre_tanh))


@struct.dataclass
class TanhNormal:
    """Distribution of tanh(u), u ~ N(mean, exp(log_std)^2), on (-1, 1)^A. Leading axes are batch axes."""

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

    def entropy(self, noise: jax.Array) -> jax.Array:
        """float32[...] differential entropy [nats], exact for the normal, sampled at `noise` for the squashing."""
        return self.normal.entropy() + log_det_tanh(self.pre_tanh(noise)).sum(-1)
