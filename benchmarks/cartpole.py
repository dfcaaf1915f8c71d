"""The cart and pole of Barto, Sutton and Anderson (1983) with a continuous force, on the house's protocol.

A world whose step costs next to nothing and whose returns are known (500 at best), to time a learner rather than an
environment.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct

from marljax.envs.environment import Box, Environment, Step


@struct.dataclass
class CartPoleParams:
    gravity: float = 9.8
    cart_mass: float = 1.0
    pole_mass: float = 0.1
    half_length: float = 0.5
    max_force: float = 10.0
    time_step: float = 0.02
    max_angle: float = 12 * 2 * jnp.pi / 360
    max_position: float = 2.4


@struct.dataclass
class CartPoleState:
    physics: jax.Array  # float32[4] position [m], velocity [m/s], angle [rad], angular velocity [rad/s]
    elapsed: jax.Array  # int32[] steps


@dataclasses.dataclass(frozen=True)
class CartPole(Environment[CartPoleState, CartPoleParams]):
    """Observation float32[4] the physics; action float32[1] in [-1, 1], force as a fraction of the largest.

    Reward 1 per step. Terminates beyond the angle or position limit, truncates after `episode_steps`.
    """

    episode_steps: int = 500

    def observation_space(self, params: CartPoleParams) -> Box:
        return Box(-jnp.inf, jnp.inf, (4,))

    def action_space(self, params: CartPoleParams) -> Box:
        return Box(-1.0, 1.0, (1,))

    def reset_env(self, key: jax.Array, params: CartPoleParams) -> tuple[jax.Array, CartPoleState]:
        physics = jax.random.uniform(key, (4,), minval=-0.05, maxval=0.05)
        return physics, CartPoleState(physics, jnp.zeros((), jnp.int32))

    def step_env(self, key: jax.Array, state: CartPoleState, action: jax.Array, params: CartPoleParams) -> Step:
        _, velocity, angle, spin = state.physics
        force = params.max_force * jnp.clip(action[0], -1.0, 1.0)
        cos, sin = jnp.cos(angle), jnp.sin(angle)
        mass, moment = params.cart_mass + params.pole_mass, params.pole_mass * params.half_length
        push = (force + moment * spin**2 * sin) / mass
        spin_rate = (params.gravity * sin - cos * push) / (
            params.half_length * (4.0 / 3.0 - params.pole_mass * cos**2 / mass)
        )
        rate = jnp.stack([velocity, push - moment * spin_rate * cos / mass, spin, spin_rate])
        physics = state.physics + params.time_step * rate
        state = CartPoleState(physics, state.elapsed + 1)
        terminated = (jnp.abs(physics[0]) > params.max_position) | (jnp.abs(physics[2]) > params.max_angle)
        truncated = (state.elapsed >= self.episode_steps) & ~terminated
        return physics, state, jnp.float32(1.0), terminated, truncated, {}
