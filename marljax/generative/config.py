"""Sizes and rates of the generator and its training."""

from flax import struct

from marljax.data.limits import require_counts, require_not_negative, require_positive, require_shares


@struct.dataclass
class GanConfig:
    """Sizes are static; rates are numbers that a sweep may vmap over."""

    window: int = struct.field(default=32, pytree_node=False)
    """Length of a generated window [steps]."""
    context: int = struct.field(default=16, pytree_node=False)
    """Steps before a window that both networks see [steps]."""
    stride: int = struct.field(default=4, pytree_node=False)
    """Distance between the starts of training windows [steps]."""
    hidden: int = struct.field(default=32, pytree_node=False)
    """Width of the networks' first layers."""
    latents: int = struct.field(default=4, pytree_node=False)
    """Noise channels for each of four half-lives."""
    batch: int = struct.field(default=32, pytree_node=False)
    """Windows in a batch."""
    critic_steps: int = struct.field(default=5, pytree_node=False)
    """Critic updates for each generator update."""
    steps_per_chunk: int = struct.field(default=20, pytree_node=False)
    """Generator updates in one call of `update`."""
    chunks: int = struct.field(default=20, pytree_node=False)
    """Calls of `update` in a whole training."""
    generator_rate: float = 5e-5
    """Adam's step for the generator."""
    critic_rate: float = 1e-3
    """Adam's step for the critic."""
    penalty: float = 10.0
    """Weight of the gradient penalty."""
    average_decay: float = 0.995
    """How much of the generator's running average each step keeps."""
    context_dropout: float = 0.2
    """Share of windows trained without context, which is how a session starts."""
    clock_jitter: float = 0.05
    """Half-width of the noise on the time of session, so that it identifies no window [share of a session]."""

    def __post_init__(self) -> None:
        require_counts(
            self, "window", "stride", "hidden", "latents", "batch", "critic_steps", "steps_per_chunk", "chunks"
        )
        require_positive(self, "generator_rate", "critic_rate")
        require_not_negative(self, "context", "penalty", "clock_jitter")
        require_shares(self, "average_decay", "context_dropout")
