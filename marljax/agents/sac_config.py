"""How SAC learns, and what it carries from chunk to chunk."""

from typing import Any, Literal, NamedTuple

import jax
import optax
from flax import struct

from marljax.agents.buffers import PrioritisedReplay, ReplayBuffer
from marljax.agents.normalisation import Moments
from marljax.agents.rollout import Worlds
from marljax.data.limits import require, require_counts, require_not_negative, require_positive, require_shares
from marljax.data.schema import InputError


@struct.dataclass
class SACConfig:
    """How SAC learns. Whole numbers and names fix shapes; floats may carry an axis."""

    n_envs: int = struct.field(pytree_node=False, default=8)
    """Worlds stepped side by side [count]."""
    n_iterations: int = struct.field(pytree_node=False, default=256)
    """Steps of every world in one chunk [steps]."""
    updates_per_iteration: int = struct.field(pytree_node=False, default=1)
    """Gradient steps after each step of the worlds [count]."""
    batch_size: int = struct.field(pytree_node=False, default=256)
    """Transitions in one gradient step [count]."""
    capacity: int = struct.field(pytree_node=False, default=65536)
    """Transitions that the replay holds [count]; a multiple of n_envs."""
    warmup_steps: int = struct.field(pytree_node=False, default=128)
    """Uniformly random steps of every world before learning starts [steps]."""
    hidden: tuple[int, ...] = struct.field(pytree_node=False, default=(64, 64))
    """Widths of the hidden layers of actor and critics [units]."""
    replay: Literal["uniform", "prioritised"] = struct.field(pytree_node=False, default="uniform")
    """Whether transitions are drawn evenly, or the more often the larger their last error was."""
    normalise_observations: bool = struct.field(pytree_node=False, default=True)
    """Whether observations are scaled by their running moments."""
    learning_rate: float = 1e-3
    """Adam step size [1]."""
    discount: float = 0.99
    """Discount per step [1]."""
    target_rate: float = 0.02
    """Part of the way that target critics move towards the critics per gradient step [1]."""
    target_entropy: float = -1.0
    """Entropy per action dimension that the temperature holds the policy to [nats]; log 2 is uniform."""
    initial_temperature: float = 0.1
    """Weight of entropy against scaled reward at the start [scaled reward / nat]."""
    reward_scale: float = 1.0
    """Factor on rewards before learning [1]; critics learn soonest where scaled values stay within some ten. Metrics
    stay unscaled."""
    priority_exponent: float = 0.6
    """Power of the error that a transition's priority is [1]; 0 is uniform."""
    priority_floor: float = 1e-2
    """What an error counts in addition, so that none is never drawn again [scaled reward]."""
    importance_exponent: float = 0.4
    """Part of the non-uniformity of draws that weights make up for at the start [1]; it rises to 1."""
    importance_growth: float = 0.01
    """How much that rises per chunk until it is 1 [1 / chunk]."""
    max_loss: float = 1e8
    """Largest loss [scaled reward^2] that does not count as divergence."""

    def __post_init__(self) -> None:
        require_counts(self, "n_envs", "n_iterations", "updates_per_iteration", "batch_size", "capacity", "hidden")
        require(self, "at least 1: learning samples from the replay at once", lambda x: x >= 1, "warmup_steps")
        require_positive(self, "learning_rate", "initial_temperature", "reward_scale", "priority_floor", "max_loss")
        require(self, "above 0 and at most 1", lambda x: 0 < x <= 1, "discount")
        require_shares(self, "target_rate", "importance_exponent", "priority_exponent")
        require_not_negative(self, "importance_growth")
        require(self, "finite", lambda _: True, "target_entropy")
        if self.replay not in ("uniform", "prioritised"):
            raise InputError(f"replay must be uniform or prioritised, got {self.replay!r}")
        if self.capacity % self.n_envs or self.capacity < self.n_envs * self.warmup_steps:
            raise InputError(
                f"capacity {self.capacity} must be a multiple of n_envs {self.n_envs} and hold the warm-up of "
                f"{self.n_envs * self.warmup_steps} transitions"
            )


class Experience(NamedTuple):
    """What the replay holds of one step, leaves [B, ...] when sampled."""

    obs: jax.Array  # float32[..., obs_size] unscaled
    action: jax.Array  # float32[..., A] in [-1, 1]
    reward: jax.Array  # float32[...] unscaled
    next_obs: jax.Array  # float32[..., obs_size] before any reset, unscaled
    terminated: jax.Array  # bool[...]


Replay = ReplayBuffer[Experience] | PrioritisedReplay[Experience]


class Draws(NamedTuple):
    """The randomness of one chunk: I iterations of U gradient steps on B transitions, N worlds."""

    step_keys: jax.Array  # key[I, N]
    action_noise: jax.Array  # float32[I, N, A]
    bits: jax.Array  # uint32[I, U, B] which transitions are sampled
    noise: jax.Array  # float32[I, U, 2, B, A] of the actions in the losses


@struct.dataclass
class Learnt:
    """What gradient steps change."""

    params: dict[str, Any]  # {"policy": PolicyParams, "critics": leaves [2, ...], "log_temperature": float32[]}
    target_critics: Any  # leaves [2, ...]
    opt_state: optax.OptState


@struct.dataclass
class SACRunner:
    """Everything that learning changes."""

    learnt: Learnt
    replay: Replay
    worlds: Worlds
    moments: Moments  # of observations; of none where they are not normalised
    key: jax.Array
    chunks: jax.Array  # int32[] updates done
