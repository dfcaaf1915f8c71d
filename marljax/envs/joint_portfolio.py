"""The portfolio world in which two kinds of agents learn at once: those who trade, and the one who gives them capital.

Accounting, allocation, guardrails, drift, observations and costs are those of `PortfolioEnv`, whose functions are used.
A block takes one step more than it has rows: in the first the meta-controller acts, which moves no money and takes no
time, and in each of the others the product agents trade one row, knowing what capital they have. With the same
policies the equity is therefore exactly that of `PortfolioEnv`.

Roles: `product`, A agents; `meta`, one agent.
Observation: product float32[A, F + 1], the scaled features of the row and the position as a fraction of what a full
signal means. meta float32[1, 9 A + 6], see `marljax.portfolio.meta_controller.observe`; it stays what it was at the
block's beginning until the block ends.
Action: product float32[A, 1] in [-1, 1], the target position as in `ReplayEnv`, without effect in a block's first step.
meta float32[1, A + 1] in [-1, 1] as in `PortfolioEnv`, without effect in the others.
Reward: product float32[A], the weighted terms of `marljax.envs.rewards` as in `ReplayEnv`, in standard deviations of
what the position of a full signal earns in one row, and `portfolio_weight` times what the portfolio earned in that row,
in standard deviations of what an equally weighted one earns in a row. Under `shared_critic` that is replaced by the
agent's difference reward (`marljax.portfolio.credit`), in the same unit: what the block's utility up to this row would
lack had the agent held cash, less the same up to the row before. Utility is the log return in units of `reward_scale`
less `risk_aversion / 2` times its square, whatever else the meta-controller is paid for. meta float32[1],
`PortfolioEnv`'s reward of the block, and its cost in `info`, all of it in the block's last row. All are 0 in a block's
first step.
Termination and truncation: as in `PortfolioEnv`, at the end of a block, for all agents at once.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct

from marljax.envs import rewards
from marljax.envs.environment import Box, Environment, Step
from marljax.envs.portfolio import LEAST_EQUITY, Decision, PortfolioEnv, PortfolioParams, PortfolioState
from marljax.envs.priced import COST
from marljax.envs.product_agents import Holdings, carried, forgone, lot_values, observe_products, trade_row
from marljax.envs.rewards import Facts, PathState, RewardWeights
from marljax.portfolio.credit import Utility, difference_rewards

PRODUCT, META = "product", "meta"

Observations = dict[str, jax.Array]


@struct.dataclass
class JointParams:
    portfolio: PortfolioParams  # its world's policies are not asked
    rewards: RewardWeights  # leaves [A], of the product agents' own terms
    portfolio_weight: jax.Array  # float32[] of the portfolio's earnings, or of the credit for them, in that reward


@struct.dataclass
class JointState:
    portfolio: PortfolioState  # at the beginning of the block under way
    now: PortfolioState  # the same with the capital that was allocated, and the holdings as they are now
    rows: jax.Array  # int32[] rows of the block that were traded; -1 before its capital is allocated
    exerted: jax.Array  # float32[A] sum of the absolute signals in the block so far
    forgone: jax.Array  # float32[A] currency, interest that each agent's positions kept from being earned in the block,
    # where agents are paid for the difference they make
    path: PathState | None  # leaves [A], what terms of the product agents' reward remember


@dataclasses.dataclass(frozen=True)
class JointPortfolioEnv(Environment[JointState, JointParams]):
    """Product agents and the meta-controller in one world; see the module's docstring."""

    portfolio: PortfolioEnv
    """Its policy is not asked."""

    def observation_space(self, params: JointParams) -> dict[str, Box]:
        world = params.portfolio.world
        meta = self.portfolio.observation_space(params.portfolio)
        return {
            PRODUCT: Box(-jnp.inf, jnp.inf, (world.n_agents, world.features.shape[-1] + 1)),
            META: dataclasses.replace(meta, shape=(1, *meta.shape)),
        }

    def action_space(self, params: JointParams) -> dict[str, Box]:
        n_agents = params.portfolio.world.n_agents
        return {PRODUCT: Box(-1.0, 1.0, (n_agents, 1)), META: Box(-1.0, 1.0, (1, n_agents + 1))}

    def reset_env(self, key: jax.Array, params: JointParams) -> tuple[Observations, JointState]:
        _, portfolio = self.portfolio.reset_env(key, params.portfolio)
        state = self.open(portfolio, params)
        return self.observe(state, params), state

    def open(self, portfolio: PortfolioState, params: JointParams) -> JointState:
        """The state at the beginning of an episode's first block."""
        costs = params.portfolio.world.costs
        full = lot_values(params.portfolio.blocks.start[portfolio.block], params.portfolio.world)
        capital = full / (costs.tick_value * costs.volatility)
        return JointState(
            portfolio=portfolio,
            now=portfolio,
            rows=jnp.full((), -1, jnp.int32),
            exerted=jnp.zeros_like(portfolio.weights),
            forgone=jnp.zeros_like(portfolio.weights),
            path=jax.vmap(rewards.start)(params.rewards, capital),
        )

    def observe(self, state: JointState, params: JointParams) -> Observations:
        """What each role sees."""
        there, now = params.portfolio, state.now
        lots = self.portfolio.lots(now, there)
        held = carried(now.holdings.accounts.position, self._factor(state), lots)
        return {
            PRODUCT: observe_products(there.world, held, lots, self._row(state, params)),
            META: self.portfolio.observe(state.portfolio, there)[None],
        }

    def step_env(self, key: jax.Array, state: JointState, action: dict[str, jax.Array], params: JointParams) -> Step:
        there, allocates = params.portfolio, state.rows < 0
        allocated, decision = self._allocated(state, action[META][0], params)
        traded, product_reward = self._traded(key, state, action[PRODUCT], params)
        state = choose(allocates, allocated, traded)
        product_reward = jnp.where(allocates, 0.0, product_reward)

        closes = state.rows >= there.blocks.length[state.portfolio.block]
        after, portfolio_return = self.portfolio.settle(state.portfolio, state.now, state.exerted, there)
        after, reward, cost, terminated, truncated = self.portfolio.judge(after, portfolio_return, there)
        meta_reward, portfolio_return, cost = jnp.where(closes, jnp.stack([reward, portfolio_return, cost]), 0.0)
        terminated, truncated = closes & terminated, closes & truncated
        nothing = jnp.zeros_like(state.exerted)
        next_block = dataclasses.replace(
            state, portfolio=after, now=after, rows=jnp.int32(-1), exerted=nothing, forgone=nothing
        )
        state = choose(closes, next_block, state)
        return (
            self.observe(state, params),
            state,
            {PRODUCT: product_reward, META: meta_reward[None]},
            self._for_all(terminated, params),
            self._for_all(truncated, params),
            {"decision": decision, "return": portfolio_return, "allocates": allocates, COST: cost},
        )

    def _allocated(self, state: JointState, action: jax.Array, params: JointParams) -> tuple[JointState, Decision]:
        """The state once the capital of its block is allocated, and what was decided."""
        asked = self.portfolio.ask(state.portfolio, action, params.portfolio)
        now, decision = self.portfolio.rebalance(state.portfolio, asked, params.portfolio)
        return dataclasses.replace(state, now=now, rows=jnp.int32(0)), decision

    def _traded(
        self, key: jax.Array, state: JointState, action: jax.Array, params: JointParams
    ) -> tuple[JointState, jax.Array]:
        """The state once one more row of its block is traded, and what product agents are rewarded with, float32[A]."""
        there, before = params.portfolio, state.now.holdings
        lots = self.portfolio.lots(state.now, there)
        signal = jnp.clip(action[:, 0], -1.0, 1.0)
        row, factor = self._row(state, params), self._factor(state)
        holdings, earned = trade_row(key, there.world, before, there.capital, lots, row, signal, factor=factor)
        path, own = self._own_rewards(state, holdings, earned, lots, params)
        traded = dataclasses.replace(
            state,
            now=dataclasses.replace(state.now, holdings=holdings),
            rows=state.rows + 1,
            exerted=state.exerted + jnp.abs(signal),
            path=path,
        )
        if self.portfolio.coordination == "shared_critic":
            kept = forgone(there.world, before, holdings, there.capital, row)
            traded = dataclasses.replace(traded, forgone=state.forgone + kept)
            made = self._credit(traded, params) - self._credit(state, params)
        else:
            profit = holdings.profit(there.world.costs) - before.profit(there.world.costs)
            made = profit / self._equity(state, params) / there.reward_scale
        # In typical returns of a row instead of a block.
        return traded, own + params.portfolio_weight * self.portfolio.rows_per_block**0.5 * made

    def _credit(self, state: JointState, params: JointParams) -> jax.Array:
        """float32[A] the difference that each agent made to the block's utility so far."""
        there, costs, equity = params.portfolio, params.portfolio.world.costs, self._equity(state, params)
        now, before = state.now.holdings, state.portfolio.holdings
        earned = now.earned(costs) - before.earned(costs)
        rest = now.profit(costs) - before.profit(costs) - jnp.sum(earned)
        of = Utility(there.reward_scale, there.rewards.inventory)
        return difference_rewards(earned / equity, rest / equity, state.forgone / equity, of)

    def _equity(self, state: JointState, params: JointParams) -> jax.Array:
        """float32[] currency at the block's beginning."""
        return jnp.maximum(state.portfolio.equity, LEAST_EQUITY * params.portfolio.capital)

    def _row(self, state: JointState, params: JointParams) -> jax.Array:
        """int32[] the row that is traded next."""
        return params.portfolio.blocks.start[state.portfolio.block] + jnp.maximum(state.rows, 0)

    def _factor(self, state: JointState) -> jax.Array:
        """float32[A] by which the block's rebalance multiplies capital in the next row: all of it in the first."""
        return jnp.where(state.rows == 0, state.now.factor, 1.0)

    def _own_rewards(
        self, state: JointState, holdings: Holdings, earned: jax.Array, lots: jax.Array, params: JointParams
    ) -> tuple[PathState | None, jax.Array]:
        """What terms of the reward remember, and float32[A] the product agents' own terms."""
        costs, full = params.portfolio.world.costs, jnp.maximum(jnp.abs(lots), 1.0)
        position = holdings.accounts.position
        facts = Facts(
            earned=earned / (costs.tick_value * costs.volatility * full),
            position=position / full,
            traded=jnp.abs(position - state.now.holdings.accounts.position) / full,
        )
        return jax.vmap(rewards.step)(state.path, params.rewards, facts)

    def _for_all(self, over: jax.Array, params: JointParams) -> dict[str, jax.Array]:
        return {PRODUCT: jnp.broadcast_to(over, (params.portfolio.world.n_agents,)), META: over[None]}


def choose(condition: jax.Array, new: JointState, old: JointState) -> JointState:
    """`new` where the scalar `condition` holds, else `old`."""
    return jax.tree.map(lambda n, o: jnp.where(condition, n, o), new, old)
