"""Who plays in an order book: one of several policies, or a classical strategy that a learned policy corrects."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from marljax.agents.policy import PolicyParams, TanhGaussianPolicy
from marljax.envs.environment import Step
from marljax.envs.order_book_types import OrderBookParams, OrderBookState
from marljax.envs.single_role import Policy, SingleRole, SingleRoleParams, SingleRoleState


@struct.dataclass
class PopulationParams:
    """Who is met how often."""

    weights: jax.Array  # float32[N] relative frequency of each policy
    members: tuple[Any, ...]  # the params of each


@dataclasses.dataclass(frozen=True)
class Population:
    """N policies of one role, of which one is drawn at the first step of an episode and acts to its end."""

    policies: tuple[Policy, ...]

    def init_carry(self) -> tuple[jax.Array, tuple[Any, ...]]:
        return jnp.int32(-1), tuple(policy.init_carry() for policy in self.policies)

    def apply(
        self, params: PopulationParams, obs: jax.Array, carry: Any, key: jax.Array, deterministic: bool | jax.Array
    ) -> tuple[jax.Array, Any]:
        """The action of the one who was drawn. Everybody's is computed: they are cheap next to a step of the market."""
        chosen, carries = carry
        draw_key, *keys = jax.random.split(key, 1 + len(self.policies))
        drawn = jax.random.categorical(draw_key, jnp.log(params.weights)).astype(jnp.int32)
        chosen = jnp.where(chosen < 0, drawn, chosen)
        actions, carries = zip(
            *(
                policy.apply(member, obs, c, k, deterministic)
                for policy, member, c, k in zip(self.policies, params.members, carries, keys, strict=True)
            ),
            strict=True,
        )
        mine = (chosen == jnp.arange(len(actions)))[:, None]
        return jnp.sum(jnp.where(mine, jnp.stack(actions), 0.0), axis=0), (chosen, carries)


@struct.dataclass
class CorrectedParams:
    """What a corrected strategy needs."""

    base: Any  # the params of the classical strategy
    reach: jax.Array  # float32[] of the largest correction
    learned: PolicyParams

    def act(self, base: Policy, obs: jax.Array, correction: jax.Array) -> jax.Array:
        """The corrected action, float32[A] in [-1, 1]. Classical strategies of both roles remember nothing."""
        action, _ = base.apply(self.base, obs, base.init_carry(), jax.random.key(0), True)
        return jnp.clip(action + self.reach * correction, -1.0, 1.0)


@dataclasses.dataclass(frozen=True)
class Corrected:
    """A classical strategy whose action a learned policy corrects."""

    base: Policy
    learned: TanhGaussianPolicy

    def init_carry(self) -> tuple[()]:
        return ()

    def apply(
        self, params: CorrectedParams, obs: jax.Array, carry: tuple[()], key: jax.Array, deterministic: bool | jax.Array
    ) -> tuple[jax.Array, tuple[()]]:
        correction, carry = self.learned.apply(params.learned, obs, carry, key, deterministic)
        return params.act(self.base, obs, correction), carry


@struct.dataclass
class CorrectedRoleParams(SingleRoleParams):
    """The params of the env of one agent, and those of the strategy that it corrects."""

    correction: CorrectedParams  # but for `learned`, which is what learns


@dataclasses.dataclass(frozen=True)
class CorrectedRole(SingleRole):
    """One agent's env, in which actions are corrections.

    What is judged is an episode, and its end is observed, so that to the learner it is one: nothing comes after it, and
    a market maker has to close its position. Without that, it would buy at the end whatever is cheaper than the mid.
    """

    base: Policy

    def step_env(self, key: jax.Array, state: SingleRoleState, action: jax.Array, params: CorrectedRoleParams) -> Step:
        corrected = params.correction.act(self.base, state.obs[self.role][self.agent], action)
        obs, state, reward, terminated, truncated, info = super().step_env(key, state, corrected, params)
        ends = terminated | truncated
        if self.role == "market_maker":
            reward = reward - jnp.where(ends, closing_cost(state.world, params.world), 0.0)
        return obs, state, reward, ends, jnp.zeros_like(truncated), info


def closing_cost(state: OrderBookState, params: OrderBookParams) -> jax.Array:
    """What the first agent pays, against the mid and in fees, to trade its position into the book that it faces,
    float32[] currency. Its own order is left out, and what exceeds the book is priced at its worst order."""
    book, position, owner = state.book, state.ledger.position[1], 1
    facing = jnp.where(position > 0, 0, 1)
    key, end, size, owners = (x[facing] for x in (book.key, book.end, book.size, book.owner))
    lots, start = jnp.abs(position), end - size - book.consumed[facing]
    alive = end > book.consumed[facing]
    own = alive & (owners == owner)
    ahead = start - jnp.where(start > jnp.max(jnp.where(own, start, -1)), jnp.sum(jnp.where(own, size, 0)), 0)
    theirs = alive & ~own
    taken = jnp.where(theirs, jnp.clip(lots - ahead, 0, size), 0)
    away = 0.5 * jnp.abs(2 * (key >> 1) * jnp.where(facing == 0, -1, 1) - state.market.mark)
    worst = jnp.max(jnp.where(theirs, away, 0.0))
    ticks = jnp.sum(taken * away) + (lots - jnp.sum(taken)) * worst
    fees = jax.tree.map(lambda x: x[1] if x.ndim else x, state.conditions.fees)
    return params.tick_value * ticks + fees.taker_per_lot * lots
