"""A curriculum: the numbers of a world change, phase by phase, while an agent learns in it.

Phases share every shape, so that all of them are one program and the Runner goes from one to the next as it is.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marljax.agents.learner import EnvParams, Learner
from marljax.agents.rollout import Metrics


@struct.dataclass
class Curriculum:
    """K phases of one world."""

    ends: jax.Array  # int32[K] chunks after which each phase is over; the last one never is
    changes: dict[str, Any]  # by field of the env's params, leaves [K, ...]

    def phase(self, chunks: jax.Array) -> jax.Array:
        """int32[] which phase comes after this many chunks."""
        return jnp.minimum((chunks >= self.ends).sum(), len(self.ends) - 1)

    def at(self, env_params: EnvParams, chunks: jax.Array) -> EnvParams:
        """The world as it is after this many chunks."""
        phase = self.phase(chunks)
        return dataclasses.replace(env_params, **jax.tree.map(lambda x: x[phase], self.changes))


def curriculum(phases: Sequence[Mapping[str, Any]], shares: Sequence[float], n_chunks: int) -> Curriculum:
    """Phases that take these shares of `n_chunks`, one after the other.

    Each phase says the same fields of the env's params, of equal shapes. Raises ValueError where they do not, and where
    shares are not one for each phase or not within 0 to 1 and 1 in all.
    """
    if len(shares) != len(phases) or min(shares) < 0 or not np.isclose(sum(shares), 1.0):
        raise ValueError(f"{len(phases)} phases need as many shares that add up to 1, got {tuple(shares)}")
    if len({frozenset(phase) for phase in phases}) != 1:
        raise ValueError(f"all phases must change the same fields, got {[sorted(phase) for phase in phases]}")
    ends = np.round(np.cumsum(shares) * n_chunks).astype(np.int32)
    return Curriculum(jnp.asarray(ends), jax.tree.map(lambda *x: jnp.stack(x), *map(dict, phases)))


def update(learner: Learner[Any], runner: Any, env_params: EnvParams, stages: Curriculum) -> tuple[Any, Metrics]:
    """One chunk of learning in the world of the phase that the Runner has reached; `phase` is among the metrics."""
    runner, metrics = learner.update(runner, stages.at(env_params, runner.chunks))
    return runner, metrics | {"phase": stages.phase(runner.chunks - 1).astype(jnp.float32)}
