"""A market maker and an execution agent in one book: their market, whom they meet, how they learn, what they are worth.

Both learn by PPO, each in an environment of its own in which the other follows a `Population`: one of several policies,
drawn for every episode. In the first round these are the classical strategies, later on also the learned counterpart as
it was at the end of every earlier round (fictitious play, Heinrich, Lanctot & Silver 2015). Seeds never meet each
other, so that what they reach are independent results.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from marljax.agents.classical.execution import TWAP, VWAP, AlmgrenChriss
from marljax.agents.classical.market_making import AvellanedaStoikov, GueantLehalleFernandezTapia
from marljax.agents.policy import PolicyParams, TanhGaussianPolicy
from marljax.agents.ppo import PPO, PPOConfig, PPORunner
from marljax.data.limits import require, require_counts, require_shares
from marljax.data.schema import InputError
from marljax.envs.opening import order_book_params, run_in
from marljax.envs.order_book import OrderBookConfig, OrderBookEnv, OrderBookParams
from marljax.envs.roles import ROLES
from marljax.envs.roles.execution import ExecutionParams
from marljax.envs.roles.market_maker import MarketMakerParams
from marljax.envs.single_role import Policy, SingleRole, SingleRoleParams
from marljax.lob import zero_intelligence

MAKER, EXECUTION = "market_maker", "execution"
OTHER = {MAKER: EXECUTION, EXECUTION: MAKER}
CLASSICAL: dict[str, dict[str, Policy]] = {
    MAKER: {"avellaneda-stoikov": AvellanedaStoikov(), "glft": GueantLehalleFernandezTapia()},
    EXECUTION: {"twap": TWAP(), "vwap": VWAP(), "almgren-chriss": AlmgrenChriss()},
}
"""Benchmarks of each role, by name."""
LEARNED = "learned"


@dataclasses.dataclass(frozen=True)
class WorldConfig:
    """The simulated market, and the rules of its two agents."""

    messages: int = 20
    """Background messages in a step, after which both agents decide anew [count]."""
    slots: int = 64
    """Orders that can rest on one side of the book [count]."""
    episode_steps: int = 200
    """Length of an episode [steps]."""
    distances: int = 10
    """Distances from the opposite best quote at which the background's limit orders arrive [ticks]."""
    openings: int = 64
    """Markets, run in beforehand, of which an episode starts from one; as many each for training, validation and test
    [count]."""
    market_maker: MarketMakerParams = MarketMakerParams(
        furthest=3.5, skew=3.0, largest=4, max_position=12, aversion=5e-5
    )
    execution: ExecutionParams = ExecutionParams(
        parent=12, deadline=180, largest=0.25, behind=2.0, through=2.0, penalty=0.05
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
    chunks: int = 120
    """Updates of each agent, each a rollout of n-envs x n-steps [count]."""
    rounds: int = 3
    """Parts of the training. Opponents are classical in the first, and after it also earlier selves of the learned
    counterpart [count]."""
    classical_share: float = 0.5
    """Share of episodes against classical opponents after the first round [1]."""
    market_maker: PPOConfig = PPOConfig(n_envs=64, n_steps=64, reward_scale=20.0)
    execution: PPOConfig = PPOConfig(n_envs=64, n_steps=64, reward_scale=20.0)

    def __post_init__(self) -> None:
        require_counts(self, "seeds", "chunks", "rounds")
        require_shares(self, "classical_share")
        require(self, "no more than chunks", lambda rounds: rounds <= self.chunks, "rounds")

    @property
    def ppo(self) -> dict[str, PPOConfig]:
        return {MAKER: self.market_maker, EXECUTION: self.execution}

    @property
    def steps_per_chunk(self) -> int:
        """Env steps of all seeds and both agents."""
        return self.seeds * sum(ppo.n_envs * ppo.n_steps for ppo in self.ppo.values())

    def policy(self, role: str) -> TanhGaussianPolicy:
        return TanhGaussianPolicy(len(ROLES[role].ACTION), self.ppo[role].hidden)


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

    def learner(self, role: str) -> PPO:
        """PPO for one role, the other played by a population."""
        other = OTHER[role]
        past = (self.config.policy(other),) * (self.config.rounds - 1)
        population = Population((*CLASSICAL[other].values(), *past))
        return PPO(SingleRole(self.env, role, 0, ((other, population),)), self.config.ppo[role])

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
        runners, metrics, diverged = {}, {}, jnp.zeros((), bool)
        for role in OTHER:
            params = self._params(role, world, classical, league.past, round_)
            runners[role], seen = self.learner(role).update(league.runners[role], params)
            diverged |= seen.pop("diverged") > 0
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
    ) -> SingleRoleParams:
        """The env's params in a round: classical opponents equally often, and earlier selves equally often."""
        other, n_past = OTHER[role], self.config.rounds - 1
        met = jnp.arange(n_past) < round_
        share = jnp.where(round_ > 0, self.config.classical_share, 1.0)
        n_classical = len(classical[other])
        weights = jnp.concatenate(
            [jnp.full(n_classical, share / n_classical), jnp.where(met, (1.0 - share) / jnp.maximum(round_, 1), 0.0)]
        )
        earlier = (jax.tree.map(lambda x, i=i: x[i], past[other]) for i in range(n_past))
        return SingleRoleParams(world, {other: PopulationParams(weights, (*classical[other], *earlier))})


@struct.dataclass
class Outcome:
    """What one episode came to."""

    profit: jax.Array  # float32[] currency, of the market maker, net of fees, its inventory at the mid
    adjusted: jax.Array  # float32[] currency, the same less the charge on inventory: the sum of its rewards
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
    learned: tuple[tuple[str, Policy], ...]

    def population(self, role: str) -> Population:
        """The classical policies and the learned one."""
        return Population((*CLASSICAL[role].values(), dict(self.learned)[role]))

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
        outcome = Outcome(
            profit=state.net(world.tick_value)[1],
            adjusted=jnp.sum(reward[MAKER]),
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
