"""Learning in a stream of fresh generated sessions: before every chunk of all agents some are drawn anew.

Agents side by side, of all products and seeds, meet the same sessions, since a generator draws all products jointly.
What they meet is carried with their Runners, so that a training that was stopped resumes bit for bit.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from marljax.agents.learner import EnvParams
from marljax.agents.rollout import Metrics
from marljax.envs.stream import Slots, Source, Stream, entered, refresh


@struct.dataclass
class Streamed:
    """All of a training in a stream."""

    runners: Any  # of agents side by side, leaves [..., P, ...]
    stream: Stream


@struct.dataclass
class InStream:
    """A learner of one product's agent whose world has generated rows after its real ones."""

    learner: Any
    slots: Slots

    def init(self, key: jax.Array, env_params: EnvParams) -> Any:
        return self.learner.init(key, entered(env_params, self.slots))

    def update(self, runner: Any, env_params: EnvParams) -> tuple[Any, Metrics]:
        return self.learner.update(runner, entered(env_params, self.slots))

    def policy(self, env_params: EnvParams) -> Any:
        return self.learner.policy(env_params)

    def policy_params(self, runner: Any) -> Any:
        return self.learner.policy_params(runner)

    @property
    def steps_per_chunk(self) -> int:
        return self.learner.steps_per_chunk


def streamed(update: Callable[..., tuple[Any, Metrics]], n_real: int) -> Callable[..., tuple[Streamed, Metrics]]:
    """A chunk of all agents for the host loop: `chunk(state, source, *operands)`.

    `update(runners, slots, *operands)` maps an `InStream` over agents, `slots` with leaves [P, ...]. Runners are of the
    form of PPO's and SAC's, in `ReplayEnv` with `n_real` real rows. Among the metrics is how many sessions were drawn.
    """

    def chunk(state: Streamed, source: Source, *operands: Any) -> tuple[Streamed, Metrics]:
        stream = refresh(state.stream, source, state.runners.worlds.state.time, n_real)
        runners, metrics = update(state.runners, stream.slots(source), *operands)
        return Streamed(runners, stream), metrics | {"sessions_drawn": stream.drawn.astype(jnp.float32)}

    return chunk
