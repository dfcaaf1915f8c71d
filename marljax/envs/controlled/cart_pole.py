"""The cart and pole of Barto, Sutton and Anderson (1983), stepped as CartPole-v1, with a discrete or continuous force.

A world whose step costs next to nothing and whose returns are known: 500 at best, about 22 under random pushes.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marljax.data.limits import require_positive
from marljax.envs.environment import Box, Discrete, Environment, Step


@struct.dataclass
class CartPoleParams:
    """The physics, and where an episode ends."""

    gravity: float = 9.8
    """Acceleration [m/s**2]."""
    cart_mass: float = 1.0
    """[kg]."""
    pole_mass: float = 0.1
    """[kg]."""
    half_length: float = 0.5
    """Half the pole's length [m]."""
    max_force: float = 10.0
    """The push [N]; the largest one where it is continuous."""
    time_step: float = 0.02
    """Of the Euler steps [s]."""
    max_angle: float = 12 * 2 * np.pi / 360
    """The episode ends beyond it [rad]."""
    max_position: float = 2.4
    """The episode ends beyond it [m from the centre]."""

    def __post_init__(self) -> None:
        require_positive(self, "cart_mass", "pole_mass", "half_length", "time_step")


@struct.dataclass
class CartPoleState:
    physics: jax.Array  # float32[4] position [m], velocity [m/s], angle [rad], angular velocity [rad/s]
    elapsed: jax.Array  # int32[] steps


@dataclasses.dataclass(frozen=True)
class CartPole(Environment[CartPoleState, CartPoleParams]):
    """Observation float32[4]: the physics. Reward 1 per step.

    Action: int32[] 0 pushes left and 1 right; where `continuous`, float32[1] in [-1, 1], share of the largest force.
    Terminates beyond the angle's or position's limit, truncates after `episode_steps`.
    """

    episode_steps: int = 500
    continuous: bool = False

    def observation_space(self, params: CartPoleParams) -> Box:
        return Box(-jnp.inf, jnp.inf, (4,))

    def action_space(self, params: CartPoleParams) -> Box | Discrete:
        return Box(-1.0, 1.0, (1,)) if self.continuous else Discrete(2)

    def reset_env(self, key: jax.Array, params: CartPoleParams) -> tuple[jax.Array, CartPoleState]:
        physics = jax.random.uniform(key, (4,), minval=-0.05, maxval=0.05)
        return physics, CartPoleState(physics, jnp.zeros((), jnp.int32))

    def step_env(self, key: jax.Array, state: CartPoleState, action: jax.Array, params: CartPoleParams) -> Step:
        push = jnp.clip(action[0], -1.0, 1.0) if self.continuous else 2.0 * action - 1.0
        physics = state.physics + params.time_step * _rates(state.physics, params.max_force * push, params)
        state = CartPoleState(physics, state.elapsed + 1)
        terminated = (jnp.abs(physics[0]) > params.max_position) | (jnp.abs(physics[2]) > params.max_angle)
        truncated = (state.elapsed >= self.episode_steps) & ~terminated
        return physics, state, jnp.float32(1.0), terminated, truncated, {}


def _rates(physics: jax.Array, force: jax.Array, params: CartPoleParams) -> jax.Array:
    """float32[4] per second of each entry of the physics, under a force [N] on the cart."""
    _, velocity, angle, spin = physics
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    mass, moment = params.cart_mass + params.pole_mass, params.pole_mass * params.half_length
    push = (force + moment * spin**2 * sin) / mass
    spin_rate = (params.gravity * sin - cos * push) / (
        params.half_length * (4.0 / 3.0 - params.pole_mass * cos**2 / mass)
    )
    return jnp.stack([velocity, push - moment * spin_rate * cos / mass, spin, spin_rate])
