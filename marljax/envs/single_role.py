"""One agent of a many-agent env as an env of its own: the others follow given policies, whose parameters are data.

So a learner that knows environments with one role trains a market maker or an execution agent in the book, against
classical opponents or against trained ones, and the opponents' parameters may carry an axis to sweep over.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

import jax
from flax import struct

from marljax.envs.environment import Environment, Space, Step


class Policy(Protocol):
    """A policy for one agent; frozen, what it has learned comes as `params`."""

    def init_carry(self) -> Any:
        """What `apply` hands from step to step, at an episode's beginning."""
        ...

    def apply(
        self, params: Any, obs: jax.Array, carry: Any, key: jax.Array, deterministic: bool | jax.Array
    ) -> tuple[jax.Array, Any]:
        """The action at an observation, and the carry."""
        ...


@struct.dataclass
class SingleRoleParams:
    """The world, and what its other agents' policies need."""

    world: Any
    opponents: dict[str, Any]  # by role, the params of its policy, shared by its agents


@struct.dataclass
class SingleRoleState:
    world: Any
    obs: dict[str, jax.Array]  # by role, what its agents see now
    carry: dict[str, Any]  # by role, leaves [agents of the role]


@dataclasses.dataclass(frozen=True)
class SingleRole(Environment[SingleRoleState, SingleRoleParams]):
    """Made by `as_single_role`. Observations and actions are vectors, rewards and ends of episodes scalars."""

    env: Environment
    role: str
    agent: int
    opponents: tuple[tuple[str, Policy], ...]

    def observation_space(self, params: SingleRoleParams) -> Space:
        return self._of_agent(self.env.observation_space(params.world)[self.role])

    def action_space(self, params: SingleRoleParams) -> Space:
        return self._of_agent(self.env.action_space(params.world)[self.role])

    def reset_env(self, key: jax.Array, params: SingleRoleParams) -> tuple[jax.Array, SingleRoleState]:
        obs, world = self.env.reset_env(key, params.world)
        carry = {
            role: jax.vmap(lambda _, policy=policy: policy.init_carry())(obs[role]) for role, policy in self.opponents
        }
        return obs[self.role][self.agent], SingleRoleState(world, obs, carry)

    def step_env(self, key: jax.Array, state: SingleRoleState, action: jax.Array, params: SingleRoleParams) -> Step:
        world_key, *keys = jax.random.split(key, 1 + len(self.opponents))
        actions, carry = {}, {}
        for policy_key, (role, policy) in zip(keys, self.opponents, strict=True):
            seen = state.obs[role]
            actions[role], carry[role] = jax.vmap(policy.apply, (None, 0, 0, 0, None))(
                params.opponents[role], seen, state.carry[role], jax.random.split(policy_key, len(seen)), False
            )
        # Where the role has other agents they have acted, this one with them.
        others = actions.get(self.role, action[None])
        actions[self.role] = others.at[self.agent].set(action)
        obs, world, reward, terminated, truncated, info = self.env.step_env(
            world_key, state.world, actions, params.world
        )
        mine = (x[self.role][self.agent] for x in (reward, terminated, truncated))
        return obs[self.role][self.agent], SingleRoleState(world, obs, carry), *mine, info

    def _of_agent(self, space: Any) -> Space:
        return dataclasses.replace(space, shape=space.shape[1:])


def as_single_role(
    env: Environment, world: Any, role: str, opponents: Mapping[str, tuple[Policy, Any]], agent: int = 0
) -> tuple[SingleRole, SingleRoleParams]:
    """The env of one agent, and its params.

    Args:
        env: with several roles.
        world: its params.
        role: the agent's.
        opponents: by role, the policy of its agents and that policy's params; the agent's own role is one of them if it
            has other agents.
        agent: which of the role's.

    Raises:
        ValueError: the agent is not there, or an opponent has no policy or too many.
    """
    counts = {name: space.shape[0] for name, space in env.action_space(world).items()}
    if not 0 <= agent < counts.get(role, 0):
        raise ValueError(f"agent {agent} of role {role!r} is not there; there are {counts}")
    needed = {name for name, count in counts.items() if count > (name == role)}
    if opponents.keys() != needed:
        raise ValueError(f"opponents must be given for the roles {sorted(needed)}, got {sorted(opponents)}")
    single = SingleRole(env, role, agent, tuple((name, policy) for name, (policy, _) in sorted(opponents.items())))
    return single, SingleRoleParams(world, {name: params for name, (_, params) in opponents.items()})
