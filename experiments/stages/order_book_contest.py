"""What players are worth to each other in one book: episodes between any pair of policies, classical or learned."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marljax.envs.order_book import OrderBookEnv, OrderBookParams
from marljax.envs.roles import ROLES
from stages.order_book import (
    CLASSICAL,
    EXECUTION,
    LEARNED,
    MAKER,
    OTHER,
)
from stages.order_book_players import Corrected, Population, PopulationParams, closing_cost


@struct.dataclass
class Outcome:
    """What one episode came to."""

    adjusted: jax.Array  # float32[] currency, the market maker's profit less the charge on its inventory
    profit: jax.Array  # float32[] currency, net of fees and of closing its last position
    marked: jax.Array  # float32[] currency, net of fees, its last position at the mid
    shortfall: jax.Array  # float32[] ticks per lot of the parent order, cost against the arrival price, net of fees
    inventory: jax.Array  # float32[] lots, mean absolute position of the market maker
    swept: jax.Array  # float32[] fraction of the parent that was left for the closing order
    seconds: jax.Array  # float32[] of the market


@struct.dataclass
class Moment:
    """The market after a step, for a picture. Quotes are NaN where there is none."""

    seconds: jax.Array  # float32[] since the episode's start
    touch: jax.Array  # float32[2] ticks, best bid and ask
    quotes: jax.Array  # float32[2] ticks, of the market maker
    order: jax.Array  # float32[] ticks, of the execution agent
    inventory: jax.Array  # int32[] lots
    left: jax.Array  # float32[] fraction of the parent


@dataclasses.dataclass(frozen=True)
class Contest:
    """Episodes between a policy of each role, over given keys: equal keys are equal markets, whoever plays."""

    env: OrderBookEnv
    learned: tuple[tuple[str, Corrected], ...] = ()

    def population(self, role: str) -> Population:
        """The classical policies, and the learned one where there is one."""
        return Population((*CLASSICAL[role].values(), *(policy for name, policy in self.learned if name == role)))

    def play(
        self, keys: jax.Array, world: OrderBookParams, players: dict[str, PopulationParams]
    ) -> tuple[Outcome, Moment]:
        """Outcomes [E] of episodes with `keys` [E], and the moments [T] of the first."""
        outcomes, moments = jax.vmap(self._episode, (0, None, None))(keys, world, players)
        return outcomes, jax.tree.map(lambda x: x[0], moments)

    def _episode(
        self, key: jax.Array, world: OrderBookParams, players: dict[str, PopulationParams]
    ) -> tuple[Outcome, Moment]:
        reset_key, key = jax.random.split(key)
        obs, state = self.env.reset_env(reset_key, world)
        populations = {role: self.population(role) for role in OTHER}
        carry = {role: population.init_carry() for role, population in populations.items()}

        def step(carry: Any, key: jax.Array) -> Any:
            obs, state, carries = carry
            env_key, *keys = jax.random.split(key, 3)
            actions = {}
            for role_key, (role, population) in zip(keys, populations.items(), strict=True):
                action, carries[role] = population.apply(
                    players[role], obs[role][0], carries[role], role_key, deterministic=True
                )
                actions[role] = action[None]
            seen = obs[EXECUTION][0][ROLES[EXECUTION].OBSERVATION.index("parent_left")]
            obs, state, reward, *_ = self.env.step_env(env_key, state, actions, world)
            return (obs, state, carries), (reward, seen, self._moment(state, seen))

        keys = jax.random.split(key, self.env.config.episode_steps)
        (_, state, _), (reward, left, moments) = jax.lax.scan(step, (obs, state, carry), keys)
        rules = world.roles[EXECUTION]
        marked = state.net(world.tick_value)[1]
        closing = closing_cost(state, world)
        outcome = Outcome(
            adjusted=jnp.sum(reward[MAKER]) - closing,
            profit=marked - closing,
            marked=marked,
            shortfall=-jnp.sum(reward[EXECUTION]) / (world.tick_value * rules.parent[0]),
            inventory=jnp.mean(jnp.abs(moments.inventory).astype(jnp.float32)),
            swept=left[rules.deadline[0] - 1],
            seconds=state.seconds,
        )
        return outcome, moments

    def _moment(self, state: Any, left: jax.Array) -> Moment:
        price = jnp.where(state.standing.there, state.standing.price, jnp.nan)
        return Moment(
            seconds=state.seconds,
            touch=jnp.stack([state.market.bid, state.market.ask]).astype(jnp.float32),
            quotes=price[0],
            order=jnp.where(jnp.isnan(price[1, 0]), price[1, 1], price[1, 0]),
            inventory=state.ledger.position[1],
            left=left,
        )


class Judge:
    """Plays contests in batches of one size, so that one compiled program serves all of them."""

    def __init__(self, contest: Contest, batch: int) -> None:
        self._play, self._batch = jax.jit(contest.play), batch

    def players(
        self,
        classical: dict[str, tuple[Any, ...]],
        met: dict[str, Sequence[str]],
        learned: dict[str, Any] | None = None,
    ) -> dict[str, PopulationParams]:
        """Of each role the policies named in `met`, equally often; `learned` where the contest has learned policies."""
        players = {}
        for role in OTHER:
            names, members = list(CLASSICAL[role]), classical[role]
            if learned is not None:
                names, members = [*names, LEARNED], (*members, learned[role])
            players[role] = PopulationParams(jnp.array([name in met[role] for name in names], jnp.float32), members)
        return players

    def play(
        self, keys: jax.Array, world: OrderBookParams, players: dict[str, PopulationParams]
    ) -> tuple[dict[str, np.ndarray], Moment]:
        """Outcomes by name, float32[E], of episodes with `keys` [E], a multiple of the batch; and one's moments."""
        parts, moments = [], None
        for first in range(0, keys.shape[0], self._batch):
            outcomes, seen = self._play(keys[first : first + self._batch], world, players)
            parts.append({name: np.asarray(value) for name, value in vars(outcomes).items()})
            moments = seen if moments is None else moments
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}, moments
