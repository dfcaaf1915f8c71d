"""A market maker and an execution agent in one book: their market, whom they meet, and how they learn.

Each learns by PPO to correct the best classical strategy of its role (residual policy learning, Silver et al. 2018): it
begins as that strategy with some noise, and not as one that loses its place in the queue with every action. Meanwhile
the other role is played by a `Population`: one of several policies, drawn for every episode. In the first round these
are the classical strategies, later on also the learned counterpart as it was at the end of every earlier round
(fictitious play, Heinrich, Lanctot & Silver 2015). Seeds never meet each other, so that what they reach are independent
results.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from marljax.agents.classical.execution import TWAP, VWAP, AlmgrenChriss
from marljax.agents.classical.market_making import AvellanedaStoikov, GueantLehalleFernandezTapia
from marljax.agents.learner import choose
from marljax.agents.policy import PolicyParams, TanhGaussianPolicy
from marljax.agents.ppo import PPO
from marljax.agents.ppo_config import PPOConfig, PPORunner
from marljax.agents.teams import ONLY
from marljax.data.limits import require, require_counts, require_positive, require_shares
from marljax.data.schema import InputError
from marljax.envs.opening import order_book_params, run_in
from marljax.envs.order_book import OrderBookConfig, OrderBookEnv, OrderBookParams
from marljax.envs.roles import ROLES
from marljax.envs.roles.execution import ExecutionParams
from marljax.envs.roles.market_maker import MarketMakerParams
from marljax.envs.single_role import Policy
from marljax.lob.flows import zero_intelligence
from stages.order_book_players import (
    Corrected,
    CorrectedParams,
    CorrectedRole,
    CorrectedRoleParams,
    Population,
    PopulationParams,
)

MAKER, EXECUTION = "market_maker", "execution"
OTHER = {MAKER: EXECUTION, EXECUTION: MAKER}
CLASSICAL: dict[str, dict[str, Policy]] = {
    MAKER: {"avellaneda-stoikov": AvellanedaStoikov(), "glft": GueantLehalleFernandezTapia()},
    EXECUTION: {"twap": TWAP(), "vwap": VWAP(), "almgren-chriss": AlmgrenChriss()},
}
"""Benchmarks of each role, by name."""
LEARNED = "learned"
_PPO = PPOConfig(n_envs=96, n_steps=40, learning_rate=1e-3, discount=1.0, value_clip=10.0, entropy_coefficient=0.003)
"""An episode is judged by its sum, so nothing is discounted; a rollout is a whole episode, since all worlds are at the
same time of theirs and a part would teach that part alone."""


@dataclasses.dataclass(frozen=True)
class WorldConfig:
    """The simulated market, and the rules of its two agents."""

    messages: int = 100
    """Background messages in a step, after which both agents decide anew [count]."""
    slots: int = 64
    """Orders that can rest on one side of the book [count]."""
    episode_steps: int = 40
    """Length of an episode [steps]."""
    distances: int = 10
    """Distances from the opposite best quote at which the background's limit orders arrive [ticks]."""
    openings: int = 64
    """Markets, run in beforehand, of which an episode starts from one; as many each for training, validation and test
    [count]."""
    market_maker: MarketMakerParams = MarketMakerParams(
        nearest=0.0, furthest=1.5, skew=1.0, largest=4, max_position=12, aversion=5e-5
    )
    execution: ExecutionParams = ExecutionParams(
        parent=12, deadline=36, largest=0.25, behind=1.0, through=1.0, penalty=0.05
    )

    def __post_init__(self) -> None:
        require_counts(self, "messages", "slots", "episode_steps", "distances", "openings")
        if self.execution.deadline > self.episode_steps:
            raise InputError(
                f"world.execution.deadline {self.execution.deadline} is after the episode's {self.episode_steps} steps"
            )

    @property
    def rules(self) -> dict[str, Any]:
        return {MAKER: self.market_maker, EXECUTION: self.execution}


@dataclasses.dataclass(frozen=True)
class LeagueConfig:
    """How the two learn."""

    seeds: int = 10
    """Independent repetitions of the whole training [count]."""
    chunks: int = 100
    """Updates of each agent, each a rollout of n-envs x n-steps [count]."""
    critic_chunks: int = 5
    """Of these, at the beginning, updates in which only the critics learn: what an action costs later must be known
    before its gain at once can be weighed [count]."""
    rounds: int = 3
    """Parts of the training. Opponents are classical in the first, and after it also earlier selves of the learned
    counterpart [count]."""
    classical_share: float = 0.5
    """Share of episodes against classical opponents after the first round [1]."""
    reach: float = 1.0
    """How far a learned action may be from that of the classical strategy it corrects [half an action's range]."""
    market_maker: PPOConfig = dataclasses.replace(_PPO, reward_scale=10.0)
    execution: PPOConfig = dataclasses.replace(_PPO, reward_scale=4.0, entropy_coefficient=0.01)

    def __post_init__(self) -> None:
        require_counts(self, "seeds", "chunks", "rounds")
        require_shares(self, "classical_share")
        require_positive(self, "reach")
        require(self, "at least 0 and below chunks", lambda n: 0 <= n < self.chunks, "critic_chunks")
        require(self, "no more than chunks", lambda rounds: rounds <= self.chunks, "rounds")

    @property
    def ppo(self) -> dict[str, PPOConfig]:
        return {MAKER: self.market_maker, EXECUTION: self.execution}

    @property
    def steps_per_chunk(self) -> int:
        """Env steps of all seeds and both agents."""
        return self.seeds * sum(ppo.n_envs * ppo.n_steps for ppo in self.ppo.values())

    def policy(self, role: str) -> TanhGaussianPolicy:
        return TanhGaussianPolicy(len(ROLES[role].ACTION), self.ppo[role].body)


def market(config: WorldConfig, key: jax.Array) -> tuple[OrderBookEnv, dict[str, OrderBookParams]]:
    """The env, and its params with the markets of each split; all are scaled by what is typical of training."""
    flow = zero_intelligence.typical(distances=config.distances)
    env = OrderBookEnv(
        zero_intelligence,
        OrderBookConfig(messages=config.messages, slots=config.slots, episode_steps=config.episode_steps),
    )
    worlds: dict[str, OrderBookParams] = {}
    scales = None
    for split, split_key in zip(("train", "validation", "test"), jax.random.split(key, 3), strict=True):
        openings, typical = run_in(split_key, zero_intelligence, flow, env.config.book, count=config.openings)
        scales = typical if scales is None else scales
        worlds[split] = order_book_params(env, flow, openings, scales, roles=config.rules)
    return env, worlds


@struct.dataclass
class League:
    """Everything that learning changes, of one seed."""

    runners: dict[str, PPORunner]
    past: dict[str, PolicyParams]  # by role, leaves [rounds - 1, ...], what it was at the end of each round
    chunks: jax.Array  # int32[] updates done


@dataclasses.dataclass(frozen=True)
class Training:
    """The learner of both agents: `init` and `update` of one seed."""

    env: OrderBookEnv
    config: LeagueConfig
    bases: tuple[tuple[str, str], ...]  # role and name of the strategy that it corrects

    def base(self, role: str, classical: dict[str, tuple[Any, ...]]) -> Any:
        """The params of the strategy that a role corrects."""
        return classical[role][list(CLASSICAL[role]).index(dict(self.bases)[role])]

    def policy(self, role: str) -> Corrected:
        return Corrected(CLASSICAL[role][dict(self.bases)[role]], self.config.policy(role))

    def learner(self, role: str) -> PPO:
        """PPO for one role, the other played by a population."""
        other = OTHER[role]
        past = (self.policy(other),) * (self.config.rounds - 1)
        population = Population((*CLASSICAL[other].values(), *past))
        env = CorrectedRole(self.env, role, 0, ((other, population),), self.policy(role).base)
        return PPO(env, self.config.ppo[role])

    def corrected(self, role: str, classical: dict[str, tuple[Any, ...]], learned: PolicyParams) -> CorrectedParams:
        """The params of `policy`."""
        return CorrectedParams(self.base(role, classical), jnp.float32(self.config.reach), learned)

    def init(self, key: jax.Array, world: OrderBookParams, classical: dict[str, tuple[Any, ...]]) -> League:
        keys = dict(zip(OTHER, jax.random.split(key), strict=True))
        fresh = {role: self.config.policy(role).init(keys[role], len(ROLES[role].OBSERVATION)) for role in OTHER}
        past = jax.tree.map(lambda x: jnp.zeros((self.config.rounds - 1, *x.shape), x.dtype), fresh)
        runners = {
            role: self.learner(role).init(keys[role], self._params(role, world, classical, past, jnp.int32(0)))
            for role in OTHER
        }
        return League(runners, past, jnp.int32(0))

    def update(
        self, league: League, world: OrderBookParams, classical: dict[str, tuple[Any, ...]]
    ) -> tuple[League, dict[str, jax.Array]]:
        """One update of each agent; metrics are those of PPO, by role."""
        round_ = league.chunks * self.config.rounds // self.config.chunks
        runners, metrics, diverged = {}, {}, jnp.zeros(())
        for role in OTHER:
            params = self._params(role, world, classical, league.past, round_)
            runners[role], seen = self.learner(role).update(league.runners[role], params)
            diverged = jnp.maximum(diverged, seen.pop("diverged"))
            learns = league.chunks >= self.config.critic_chunks
            before, after = league.runners[role].params[ONLY], runners[role].params[ONLY]
            policy = choose(learns, after["policy"], before["policy"])
            runners[role] = dataclasses.replace(runners[role], params={ONLY: after | {"policy": policy}})
            metrics |= {f"{role}.{name}": value for name, value in seen.items()}
        chunks = league.chunks + 1
        ends = chunks * self.config.rounds // self.config.chunks > round_
        here = ends & (jnp.arange(self.config.rounds - 1) == round_)
        now = {role: self.learner(role).policy_params(runners[role]) for role in OTHER}
        past = jax.tree.map(lambda old, new: jnp.where(here.reshape(-1, *[1] * new.ndim), new, old), league.past, now)
        return League(runners, past, chunks), metrics | {"diverged": diverged}

    def _params(
        self,
        role: str,
        world: OrderBookParams,
        classical: dict[str, tuple[Any, ...]],
        past: dict[str, PolicyParams],
        round_: jax.Array,
    ) -> CorrectedRoleParams:
        """The env's params in a round: classical opponents equally often, and earlier selves equally often."""
        other, n_past = OTHER[role], self.config.rounds - 1
        met = jnp.arange(n_past) < round_
        share = jnp.where(round_ > 0, self.config.classical_share, 1.0)
        n_classical = len(classical[other])
        weights = jnp.concatenate(
            [jnp.full(n_classical, share / n_classical), jnp.where(met, (1.0 - share) / jnp.maximum(round_, 1), 0.0)]
        )
        earlier = (
            self.corrected(other, classical, jax.tree.map(lambda x, i=i: x[i], past[other])) for i in range(n_past)
        )
        opponents = {other: PopulationParams(weights, (*classical[other], *earlier))}
        return CorrectedRoleParams(world, opponents, self.corrected(role, classical, ()))
