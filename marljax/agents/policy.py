"""The forms of policy that learners share, so that a trained agent is a function and a pytree of parameters.

A world that holds product agents as data stacks their parameters, whichever algorithm trained them, and vmaps `apply`.
"""

import abc
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from marljax.agents.attention import Attention
from marljax.agents.distributions import Categorical, TanhNormal
from marljax.agents.networks import MLP, Carry, Network
from marljax.agents.normalisation import Scaler
from marljax.envs.environment import Box, Space

LOG_STD_CENTRE = -1.0
LOG_STD_REACH = 3.0


@struct.dataclass
class PolicyParams:
    """What a policy has learned."""

    network: Any
    scaler: Scaler  # of observations


class Policy(abc.ABC):
    """What both forms have in common; frozen and hashable."""

    network: Network

    @property
    @abc.abstractmethod
    def n_outputs(self) -> int:
        """Of the network."""

    @abc.abstractmethod
    def choices(self, output: jax.Array, obs: jax.Array) -> Any:
        """The distribution (`marljax.agents.distributions.Actions`) that the network's output float32[..., n_outputs]
        says, at float32[..., obs_size]."""

    @abc.abstractmethod
    def noise(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """Noise for choices of this shape, float32[*shape, ...]."""

    def init(self, key: jax.Array, obs_size: int) -> PolicyParams:
        """Fresh parameters, observations unscaled."""
        # A small last layer makes the first actions centre on zero, and the first choices even.
        network = self.network.init(key, obs_size, self.n_outputs, final_scale=0.01)
        return PolicyParams(network, Scaler.identity(obs_size))

    def init_carry(self) -> Carry:
        """What `apply` is handed first in an episode."""
        return self.network.init_carry()

    def forward(self, params: PolicyParams, obs: jax.Array, carry: Carry) -> tuple[Any, Carry]:
        """The distribution of choices at float32[..., obs_size], and the carry."""
        output, carry = self.network.apply(params.network, params.scaler(obs), carry)
        return self.choices(output, obs), carry

    def apply(
        self, params: PolicyParams, obs: jax.Array, carry: Carry, key: jax.Array, deterministic: bool | jax.Array
    ) -> tuple[jax.Array, Carry]:
        """The action at float32[..., obs_size], and the carry. `deterministic` (bool or bool[]) ignores the key."""
        distribution, carry = self.forward(params, obs, carry)
        drawn = distribution.choose(self.noise(key, obs.shape[:-1]))
        return distribution.act(jnp.where(deterministic, distribution.best(), drawn)), carry


@dataclasses.dataclass(frozen=True)
class TanhGaussianPolicy(Policy):
    """From observation to a tanh-squashed normal over actions in [-1, 1]^A; deterministic it gives the median.

    The log standard deviation depends on the observation and is bounded smoothly to -1 +- 3, so that its gradient
    never dies and a fresh policy explores with a standard deviation of about 0.37.
    """

    action_size: int
    network: Network = MLP()

    @property
    def n_outputs(self) -> int:
        return 2 * self.action_size

    def choices(self, output: jax.Array, obs: jax.Array) -> TanhNormal:
        mean, raw = jnp.split(output, 2, axis=-1)
        return TanhNormal(mean, LOG_STD_CENTRE + LOG_STD_REACH * jnp.tanh(raw / LOG_STD_REACH))

    def noise(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        return jax.random.normal(key, (*shape, self.action_size))

    def distribution(self, params: PolicyParams, obs: jax.Array) -> TanhNormal:
        """Of a feed-forward policy, at float32[..., obs_size]."""
        return self.forward(params, obs, ())[0]


@dataclasses.dataclass(frozen=True)
class CategoricalPolicy(Policy):
    """From observation to a choice among 0..n-1; deterministic it gives the mode.

    Where `masked`, the last n entries of the observation say what is allowed (see `Discrete`), and nothing else is
    ever chosen.
    """

    n: int
    masked: bool = False
    network: Network = MLP()

    @property
    def n_outputs(self) -> int:
        return self.n

    def choices(self, output: jax.Array, obs: jax.Array) -> Categorical:
        return Categorical.of(output, obs[..., -self.n :] > 0.5 if self.masked else None)

    def noise(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        return jax.random.uniform(key, shape)


def policy_for(space: Space, network: Network) -> TanhGaussianPolicy | CategoricalPolicy:
    """The policy for one agent's action space. Raises ValueError for a box that is not [-1, 1]^A."""
    if isinstance(space, Box):
        if (space.low, space.high) != (-1.0, 1.0) or len(space.shape) != 1:
            raise ValueError(f"actions must be vectors in [-1, 1] or discrete, got {space}")
        if isinstance(network, Attention) and space.shape[0] % network.tokens:
            # Products cannot share out the actions evenly; halves of mean and spread would be taken for products.
            network = dataclasses.replace(network, pooled=True)
        return TanhGaussianPolicy(space.shape[0], network)
    return CategoricalPolicy(space.n, space.masked, network)
