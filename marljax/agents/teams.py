"""Who learns: the agents of an environment as teams, one per role, whatever form its arrays have.

Inside a learner every array of a team has an axis of its agents, [..., G, size]; an environment speaks of one agent
without that axis, of several with it, and of several roles in a dict. A team's agents either share their parameters or
each has its own, a leading axis [G, ...] of them.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from marljax.agents.policy import CategoricalPolicy, TanhGaussianPolicy, policy_for
from marljax.agents.ppo_config import PPOConfig
from marljax.data.schema import InputError
from marljax.envs.environment import Environment

ONLY = "agent"
"""The name of the team of an environment without roles."""

CENTRE = "centre"
"""The name under which a shared critic learns; no role may have it."""


@dataclasses.dataclass(frozen=True)
class Team:
    """The agents of one role."""

    name: str
    n_agents: int
    obs_size: int
    policy: TanhGaussianPolicy | CategoricalPolicy
    shares: bool  # one set of parameters for all

    def across(self, f: Callable[..., Any], params: Any, *arrays: Any) -> Any:
        """`f(params, *arrays)` for all agents. Leaves of `arrays` and of what f returns have the agents' axis last but
        one; where agents share parameters f sees it as one more batch axis."""
        if self.shares:
            return f(params, *arrays)
        return jax.vmap(f, in_axes=(0, *(-2,) * len(arrays)), out_axes=-2)(params, *arrays)


@dataclasses.dataclass(frozen=True)
class Roster:
    """All teams of an environment, and the way between its arrays and theirs."""

    teams: tuple[Team, ...]
    by_role: bool  # the environment's arrays are dicts
    agent_axis: bool  # they have an axis of agents

    def learners(self, name: str) -> tuple[int, ...]:
        """The leading axes of the parameters of a team, or of the shared critic: () or (G,)."""
        return next(((team.n_agents,) for team in self.teams if team.name == name and not team.shares), ())

    def each(self, name: str, f: Callable[..., Any]) -> Callable[..., Any]:
        """`f` for every set of parameters of a team, or of the shared critic: as it is, or over a leading axis."""
        return jax.vmap(f) if self.learners(name) else f

    def gather(self, arrays: Any) -> dict[str, jax.Array]:
        """From the environment's arrays without entries, [...] or [..., G]: by team, [..., G]."""
        return self._gather(arrays, 0)

    def gather_vectors(self, arrays: Any) -> dict[str, jax.Array]:
        """The same for arrays of vectors, [..., size] or [..., G, size]: by team, [..., G, size]."""
        return self._gather(arrays, 1)

    def actions(self, by_team: dict[str, jax.Array]) -> Any:
        """From actions by team, [..., G] or [..., G, A], to the environment's form."""
        if self.by_role:
            return by_team
        team, action = self.teams[0], by_team[self.teams[0].name]
        if self.agent_axis:
            return action
        return jnp.squeeze(action, -1 if isinstance(team.policy, CategoricalPolicy) else -2)

    def _gather(self, arrays: Any, entries: int) -> dict[str, jax.Array]:
        if self.by_role:
            return {team.name: arrays[team.name] for team in self.teams}
        if not self.agent_axis:
            arrays = jnp.expand_dims(arrays, arrays.ndim - entries)
        return {self.teams[0].name: arrays}


def roster(env: Environment, env_params: Any, config: PPOConfig) -> Roster:
    """The teams of an environment: which agents have parameters of their own and which are over agents, `config` says.

    Raises:
        InputError: `separate` or `over_agents` names a role that is not there or does not fit, or a role is named
            "centre".
        ValueError: observations are not vectors, or actions neither in [-1, 1]^A nor discrete.
    """
    observation, action = env.observation_space(env_params), env.action_space(env_params)
    by_role = isinstance(observation, dict)
    observations = observation if by_role else {ONLY: observation}
    actions = action if by_role else {ONLY: action}
    for field in ("separate", "over_agents"):
        if unknown := [name for name in getattr(config, field) if name not in observations]:
            raise InputError(f"{field} names {unknown}, and the roles are {sorted(observations)}")
    if CENTRE in observations:
        raise InputError(f"a role must not be called {CENTRE!r}: the shared critic is")
    ranks = {len(space.shape) for space in observations.values()}
    if ranks not in ({1}, {2}) or (by_role and ranks != {2}):
        raise ValueError(f"observations must be vectors, with an axis of agents where there are roles: {observation}")
    agent_axis = ranks == {2}
    teams = []
    for name, space in observations.items():
        own = actions[name]
        own = dataclasses.replace(own, shape=own.shape[1:]) if agent_axis else own
        teams.append(
            Team(
                name,
                n_agents=space.shape[0] if agent_axis else 1,
                obs_size=space.shape[-1],
                policy=policy_for(own, config.network_of(name, own)),
                shares=name not in config.separate,
            )
        )
    return Roster(tuple(teams), by_role, agent_axis)
