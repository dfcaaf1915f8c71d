"""Sizes and rates of the generator and its training."""

from flax import struct

from marljax.data.limits import require_counts, require_not_negative, require_positive, require_shares
from marljax.data.schema import InputError


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
    """Noise channels for each half-life."""
    half_lives: tuple[float, ...] = struct.field(default=(0.0, 2.0, 8.0, 32.0), pytree_node=False)
    """Half-lives of the generator's noise [steps]: memory that reaches beyond its convolutions."""
    spectral_norm: bool = struct.field(default=True, pytree_node=False)
    """Whether every kernel of the critic is divided by its largest singular value."""
    derived: bool = struct.field(default=True, pytree_node=False)
    """Whether the critic is shown the features of a window beside its channels."""
    batch: int = struct.field(default=32, pytree_node=False)
    """Windows in a batch."""
    critic_steps: int = struct.field(default=5, pytree_node=False)
    """Critic updates for each generator update."""
    steps_per_chunk: int = struct.field(default=20, pytree_node=False)
    """Generator updates in one call of `update`."""
    chunks: int = struct.field(default=20, pytree_node=False)
    """Calls of `update` in a whole training."""
    generator_rate: float = 2e-4
    """Adam's step for the generator."""
    critic_rate: float = 1e-3
    """Adam's step for the critic."""
    final_rates: float = 0.1
    """Share of both rates that is left at the end of training, to which they fall in a straight line: the two networks
    come to rest instead of circling each other."""
    penalty: float = 10.0
    """Weight of the gradient penalty; 0 leaves the critic to spectral normalisation alone."""
    average_decay: float = 0.995
    """How much of the generator's running average each step keeps."""
    context_dropout: float = 0.2
    """Share of windows trained without context, which is how a session starts."""
    clock_jitter: float = 0.05
    """Half-width of the noise on the time of session, so that it identifies no window [share of a session]."""
    blow_up: float = 10.0
    """Critic's distance that ends a training, over the mean distance between a real and a generated window, which no
    critic of slope 1 exceeds."""
    least_spread: float = 0.1
    """Mean distance of generated windows to their nearest neighbours, over that of real ones, below which a training
    ends as collapsed."""

    def __post_init__(self) -> None:
        require_counts(
            self,
            "window",
            "context",
            "stride",
            "hidden",
            "latents",
            "batch",
            "critic_steps",
            "steps_per_chunk",
            "chunks",
        )
        require_positive(self, "generator_rate", "critic_rate", "blow_up")
        require_not_negative(self, "penalty", "clock_jitter", "least_spread")
        require_shares(self, "average_decay", "context_dropout", "final_rates")
        if self.batch < 2:
            raise InputError(
                f"batch must be at least 2, for a window has neighbours within its batch, got {self.batch}"
            )
        if not self.half_lives or min(self.half_lives) < 0:
            raise InputError(f"half_lives must be at least one number, none of them negative, got {self.half_lives}")

    @property
    def latent_half_lives(self) -> tuple[float, ...]:
        """Half-life of each of the H latents [steps]."""
        return tuple(half_life for half_life in self.half_lives for _ in range(self.latents))
