"""How good a policy is: the undiscounted return of whole episodes, played apart from training.

Both ways of playing, without and with exploration, meet the same episodes, which are those of a fixed key. So two
evaluations differ by what was learned and not by luck, and nothing here touches what a learner carries.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, TypeVar

import jax
import jax.numpy as jnp
from flax import struct

from marljax.agents.learner import EnvParams, Learner
from marljax.agents.rollout import Metrics
from marljax.envs.environment import Arrays, Environment, over

Runner = TypeVar("Runner")

WAYS = ("deterministic", "stochastic")
"""A policy's ways of playing: without exploration, and with it."""


class Policy(Protocol):
    """What can be evaluated: anything of this form, learned or not, for all agents of an environment at once."""

    def init_carry(self) -> Any: ...

    def apply(
        self, params: Any, obs: Arrays, carry: Any, key: jax.Array, deterministic: bool
    ) -> tuple[Arrays, Any]: ...


@dataclasses.dataclass(frozen=True)
class JointPolicy:
    """The policies of single agents as one of all agents of an environment.

    Agents of a role share their parameters or have their own, a leading axis [G, ...] of them.
    """

    policies: Any
    """One policy, or one for each role."""
    observation_space: Any
    """Of the environment."""

    def init_carry(self) -> Any:
        if not isinstance(self.policies, dict):
            return _first_carry(self.policies, self.observation_space)
        return {role: _first_carry(policy, self.observation_space[role]) for role, policy in self.policies.items()}

    def apply(self, params: Any, obs: Arrays, carry: Any, key: jax.Array, deterministic: bool) -> tuple[Arrays, Any]:
        if not isinstance(self.policies, dict):
            return _act(self.policies, self.observation_space, params, obs, carry, key, deterministic)
        action, after = {}, {}
        for k, (role, policy) in zip(jax.random.split(key, len(self.policies)), self.policies.items(), strict=True):
            action[role], after[role] = _act(
                policy, self.observation_space[role], params[role], obs[role], carry[role], k, deterministic
            )
        return action, after


@struct.dataclass
class Episodes:
    """How N episodes went."""

    returns: Arrays  # float32[N] sum of rewards; [N, G] for G agents; by role where there are several
    steps: jax.Array  # int32[N] their lengths
    ended: jax.Array  # bool[N] whether they ended; if not, returns are of the first `max_steps` steps


def play(
    env: Environment,
    policy: Policy,
    params: Any,
    keys: jax.Array,
    env_params: EnvParams,
    *,
    max_steps: int,
    deterministic: bool,
) -> Episodes:
    """One episode for each of `keys` [N], side by side and cut after `max_steps`."""
    return jax.vmap(lambda key: _episode(env, policy, params, key, env_params, max_steps, deterministic))(keys)


def evaluate(
    env: Environment,
    policy: Policy,
    params: Any,
    key: jax.Array,
    env_params: EnvParams,
    *,
    n_episodes: int,
    max_steps: int,
) -> dict[str, Episodes]:
    """`n_episodes` episodes, the same ones for each of `WAYS`. Pure: `vmap` over params for seeds."""
    keys = jax.random.split(key, n_episodes)
    return {
        way: play(env, policy, params, keys, env_params, max_steps=max_steps, deterministic=way == "deterministic")
        for way in WAYS
    }


def evaluator(
    env: Environment, learner: Learner[Runner], key: jax.Array, *, n_episodes: int, max_steps: int
) -> Callable[[Runner, EnvParams], Metrics]:
    """A function of Runner and environment parameters for the host loop over chunks, with one key for all times.

    Its metrics are means over episodes: `deterministic_return` and `stochastic_return`, float32[] or [G] for G agents
    (with several roles `deterministic_return/<role>`), and for both ways `..._steps` and `..._ended`, the mean length
    and the part of the episodes that ended. `vmap` it as `learner.update`.
    """

    def metrics(runner: Runner, env_params: EnvParams) -> Metrics:
        policy = JointPolicy(learner.policy(env_params), env.observation_space(env_params))
        params = learner.policy_params(runner)
        played = evaluate(env, policy, params, key, env_params, n_episodes=n_episodes, max_steps=max_steps)
        return {name: value for way, episodes in played.items() for name, value in _means(way, episodes).items()}

    return metrics


def _first_carry(policy: Any, space: Any) -> Any:
    if len(space.shape) == 1:
        return policy.init_carry()
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (space.shape[0], *jnp.shape(x))), policy.init_carry())


def _act(
    policy: Any, space: Any, params: Any, obs: jax.Array, carry: Any, key: jax.Array, deterministic: bool
) -> tuple[jax.Array, Any]:
    if len(space.shape) == 1:
        return policy.apply(params, obs, carry, key, deterministic)
    shared = jax.eval_shape(lambda k: policy.init(k, space.shape[1]), key)
    own = jax.tree.leaves(params)[0].ndim > jax.tree.leaves(shared)[0].ndim
    agent = partial(policy.apply, deterministic=deterministic)
    keys = jax.random.split(key, space.shape[0])
    return jax.vmap(agent, in_axes=(0 if own else None, 0, 0, 0))(params, obs, carry, keys)


def _episode(
    env: Environment,
    policy: Policy,
    params: Any,
    key: jax.Array,
    env_params: EnvParams,
    max_steps: int,
    deterministic: bool,
) -> Episodes:
    reset_key, key = jax.random.split(key)
    obs, state = env.reset(reset_key, env_params)

    def act(t: jax.Array, obs: Arrays, state: Any, carry: Any) -> tuple[Any, Arrays, jax.Array]:
        action_key, step_key = jax.random.split(jax.random.fold_in(key, t))
        action, carry = policy.apply(params, obs, carry, action_key, deterministic)
        obs, state, reward, terminated, truncated, _ = env.step_env(step_key, state, action, env_params)
        return (obs, state, carry), reward, over(terminated, truncated)

    def step(loop: tuple) -> tuple:
        t, world, returns, _ = loop
        world, reward, ended = act(t, *world)
        return t + 1, world, jax.tree.map(jnp.add, returns, reward), ended

    world = jax.tree.map(jnp.asarray, (obs, state, policy.init_carry()))
    _, reward, _ = jax.eval_shape(act, jnp.int32(0), *world)
    nothing = jax.tree.map(lambda r: jnp.zeros(r.shape, jnp.float32), reward)
    # Episodes side by side stop together when the last of them ends, and those that ended stand still.
    t, _, returns, ended = jax.lax.while_loop(
        lambda loop: ~loop[3] & (loop[0] < max_steps), step, (jnp.int32(0), world, nothing, jnp.zeros((), bool))
    )
    return Episodes(returns, t, ended)


def _means(way: str, episodes: Episodes) -> Metrics:
    returns = jax.tree.map(lambda x: x.mean(0), episodes.returns)
    by_role = returns if isinstance(returns, dict) else {"": returns}
    return {
        **{f"{way}_return/{role}".rstrip("/"): value for role, value in by_role.items()},
        f"{way}_steps": episodes.steps.mean(),
        f"{way}_ended": episodes.ended.mean(),
    }
