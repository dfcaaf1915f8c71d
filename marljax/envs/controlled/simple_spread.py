"""Cooperative navigation: agents spread over landmarks without colliding (Mordatch, Abbeel 2018; Lowe et al. 2017).

The world is the multi-agent particle environment's `simple_spread`, version 3: point masses with damping, soft contact
forces, five discrete pushes. An episode of the published curves of JaxMARL has 26 steps, not 25, and what they call the
return is the sum over agents (each agent's return times their number, averaged over agents).
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marljax.data.limits import require_positive, require_shares
from marljax.envs.environment import Box, Discrete, Environment, Step

PUSHES = np.array([[0, 0], [-1, 0], [1, 0], [0, -1], [0, 1]], np.float32)
"""The direction of each action: none, left, right, down, up."""


@struct.dataclass
class SimpleSpreadParams:
    """The physics and the reward."""

    time_step: float = 0.1
    """[s]."""
    damping: float = 0.25
    """Share of its velocity that an agent loses in a step."""
    acceleration: float = 5.0
    """Of a push [length per s**2]; agents have unit mass."""
    radius: float = 0.15
    """Of an agent [length]; landmarks do not collide."""
    contact_force: float = 100.0
    """Force per penetration [1/s**2]."""
    contact_margin: float = 1e-3
    """Softness of a contact [length]."""
    local_ratio: float = 0.5
    """Weight of an agent's own collisions in its reward; one less it, the weight of the distances all share."""

    def __post_init__(self) -> None:
        require_positive(self, "time_step", "contact_margin")
        require_shares(self, "damping", "local_ratio")


@struct.dataclass
class SimpleSpreadState:
    position: jax.Array  # float32[G, 2] of the agents, about within [-1, 1]
    velocity: jax.Array  # float32[G, 2] per second
    landmarks: jax.Array  # float32[G, 2]
    elapsed: jax.Array  # int32[] steps


@dataclasses.dataclass(frozen=True)
class SimpleSpread(Environment[SimpleSpreadState, SimpleSpreadParams]):
    """`n_agents` agents, as many landmarks.

    Observation float32[G, 4G + 2 + 2(G - 1)]: own velocity and position, the landmarks and the other agents relative to
    oneself, and 2(G - 1) zeros where the agents of other scenarios would speak. Action int32[G]: none, left, right,
    down, up. Reward float32[G]: `1 - local_ratio` times minus the sum over landmarks of the distance to the nearest
    agent, less `local_ratio` for every agent one overlaps. Truncates after `episode_steps`.
    """

    n_agents: int = 3
    episode_steps: int = 25

    def observation_space(self, params: SimpleSpreadParams) -> Box:
        n = self.n_agents
        return Box(-jnp.inf, jnp.inf, (n, 4 + 2 * n + 4 * (n - 1)))

    def action_space(self, params: SimpleSpreadParams) -> Discrete:
        return Discrete(len(PUSHES), (self.n_agents,))

    def reset_env(self, key: jax.Array, params: SimpleSpreadParams) -> tuple[jax.Array, SimpleSpreadState]:
        agents, landmarks = jax.random.uniform(key, (2, self.n_agents, 2), minval=-1.0, maxval=1.0)
        state = SimpleSpreadState(agents, jnp.zeros_like(agents), landmarks, jnp.zeros((), jnp.int32))
        return self._observe(state), state

    def step_env(self, key: jax.Array, state: SimpleSpreadState, action: jax.Array, params: SimpleSpreadParams) -> Step:
        push = jax.nn.one_hot(action, len(PUSHES)) @ PUSHES
        force = params.acceleration * push + contact_forces(state.position, params)
        state = SimpleSpreadState(
            # A step moves by the velocity before it, as the particle environment does.
            position=state.position + params.time_step * state.velocity,
            velocity=(1.0 - params.damping) * state.velocity + params.time_step * force,
            landmarks=state.landmarks,
            elapsed=state.elapsed + 1,
        )
        truncated = jnp.full(self.n_agents, state.elapsed >= self.episode_steps)
        reward = rewards(state.position, state.landmarks, params)
        return self._observe(state), state, reward, jnp.zeros(self.n_agents, bool), truncated, {}

    def _observe(self, state: SimpleSpreadState) -> jax.Array:
        n = self.n_agents
        others = state.position[None] - state.position[:, None]
        # Of an n x n table in one row, the entries off the diagonal are all but the first of every n + 1.
        others = others.reshape(n * n, 2)[1:].reshape(n - 1, n + 1, 2)[:, :-1].reshape(n, n - 1, 2)
        landmarks = state.landmarks[None] - state.position[:, None]
        return jnp.concatenate(
            [
                state.velocity,
                state.position,
                landmarks.reshape(n, -1),
                others.reshape(n, -1),
                jnp.zeros((n, 2 * (n - 1))),
            ],
            axis=1,
        )


def contact_forces(position: jax.Array, params: SimpleSpreadParams) -> jax.Array:
    """float32[G, 2] forces with which agents at float32[G, 2] push each other apart, soft over the margin."""
    pairs = _pairs(len(position))
    # At full precision: a contact is decided within a thousandth of a length.
    apart = jnp.matmul(pairs.T, position, precision=jax.lax.Precision.HIGHEST)
    distance = jnp.sqrt(jnp.sum(apart**2, axis=-1))
    penetration = params.contact_margin * jax.nn.softplus((2.0 * params.radius - distance) / params.contact_margin)
    strength = params.contact_force * penetration / distance
    return jnp.matmul(pairs, strength[:, None] * apart, precision=jax.lax.Precision.HIGHEST)


def rewards(position: jax.Array, landmarks: jax.Array, params: SimpleSpreadParams) -> jax.Array:
    """float32[G] what each agent receives for agents and landmarks at float32[G, 2]."""
    to_landmarks = jnp.sqrt(jnp.sum((position[:, None] - landmarks[None]) ** 2, axis=-1))
    shared = -jnp.sum(jnp.min(to_landmarks, axis=0))
    pairs = _pairs(len(position))
    apart = jnp.matmul(pairs.T, position, precision=jax.lax.Precision.HIGHEST)
    overlap = jnp.sum(apart**2, axis=-1) < (2.0 * params.radius) ** 2
    return (1.0 - params.local_ratio) * shared - params.local_ratio * (np.abs(pairs) @ overlap.astype(jnp.float32))


def _pairs(n_agents: int) -> np.ndarray:
    """float32[G, pairs of agents] 1 for the one agent of a pair and -1 for the other, 0 for all others."""
    one, other = np.tril_indices(n_agents, -1)
    agents = np.arange(n_agents)[:, None]
    return (agents == one).astype(np.float32) - (agents == other).astype(np.float32)
