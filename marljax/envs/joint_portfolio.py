"""The portfolio world in which two kinds of agents learn at once: those who trade, and the one who gives them capital.

Accounting, allocation, guardrails, observations and costs are those of `PortfolioEnv`, whose functions are used. A
block takes one step more than it has rows: in the first the meta-controller acts, which moves no money and takes no
time, and in each of the others the product agents trade one row, knowing what capital they have. With the same
policies the equity is therefore exactly that of `PortfolioEnv`.

Roles: `product`, P agents, one per product; `meta`, one agent.
Observation: product float32[P, F + 1], the scaled features of the row and the position as a fraction of what a full
signal means. meta float32[1, 9 P + 6], see `marljax.portfolio.meta_controller.observe`; it stays what it was at the
block's beginning until the block ends.
Action: product float32[P, 1] in [-1, 1], the target position as in `ReplayEnv`, without effect in a block's first step.
meta float32[1, P + 1] in [-1, 1] as in `PortfolioEnv`, without effect in the others.
Reward: product float32[P], the weighted terms of `marljax.envs.rewards` as in `ReplayEnv`, in standard deviations of
what the position of a full signal earns in one row, and `portfolio_weight` times what the portfolio earned in that row,
in standard deviations of what an equally weighted one earns in a row. meta float32[1], `PortfolioEnv`'s reward of the
block, all of it in the block's last row. All are 0 in a block's first step.
Termination and truncation: as in `PortfolioEnv`, at the end of a block, for all agents at once.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct

from marljax.envs import rewards
from marljax.envs.environment import Box, Environment, Step
from marljax.envs.portfolio import (
    PortfolioEnv,
    PortfolioParams,
    PortfolioState,
    lot_values,
    observe_products,
    trade_row,
)
from marljax.envs.rewards import Facts, PathState, RewardWeights
from marljax.market.slippage import Account

PRODUCT, META = "product", "meta"

Observations = dict[str, jax.Array]


@struct.dataclass
class JointParams:
    portfolio: PortfolioParams  # its world's policies are not asked
    rewards: RewardWeights  # leaves [P], of the product agents' own terms
    portfolio_weight: jax.Array  # float32[] of the portfolio's earnings in the product agents' reward


@struct.dataclass
class JointState:
    portfolio: PortfolioState  # at the beginning of the block under way
    rows: jax.Array  # int32[] rows of the block that were traded; -1 before its capital is allocated
    accounts: Account  # leaves [P], now
    weights: jax.Array  # float32[P] allocation in force, fractions of equity
    exerted: jax.Array  # float32[P] sum of the absolute signals in the block so far
    path: PathState | None  # leaves [P], what terms of the product agents' reward remember


@dataclasses.dataclass(frozen=True)
class JointPortfolioEnv(Environment[JointState, JointParams]):
    """Product agents and the meta-controller in one world; see the module's docstring."""

    portfolio: PortfolioEnv
    """Its policy is not asked."""

    def observation_space(self, params: JointParams) -> dict[str, Box]:
        n_products, _, n_features = params.portfolio.world.features.shape
        meta = self.portfolio.observation_space(params.portfolio)
        return {
            PRODUCT: Box(-jnp.inf, jnp.inf, (n_products, n_features + 1)),
            META: dataclasses.replace(meta, shape=(1, *meta.shape)),
        }

    def action_space(self, params: JointParams) -> dict[str, Box]:
        n_products = params.portfolio.typical_volatility.shape[0]
        return {PRODUCT: Box(-1.0, 1.0, (n_products, 1)), META: Box(-1.0, 1.0, (1, n_products + 1))}

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
            rows=jnp.full((), -1, jnp.int32),
            accounts=portfolio.accounts,
            weights=portfolio.weights,
            exerted=jnp.zeros_like(portfolio.weights),
            path=jax.vmap(rewards.start)(params.rewards, capital),
        )

    def observe(self, state: JointState, params: JointParams) -> Observations:
        """What each role sees."""
        time, lots = self._row(state, params), self.portfolio.lots(state.portfolio, state.weights, params.portfolio)
        return {
            PRODUCT: observe_products(params.portfolio.world, state.accounts, lots, time),
            META: self.portfolio.observe(state.portfolio, params.portfolio)[None],
        }

    def step_env(self, key: jax.Array, state: JointState, action: dict[str, jax.Array], params: JointParams) -> Step:
        before, there = state.portfolio, params.portfolio
        allocates = state.rows < 0
        granted, asked, intervention = self.portfolio.allocate(before, action[META][0], there)
        weights = jnp.where(allocates, granted, state.weights)
        lots = self.portfolio.lots(before, weights, there)

        signal = jnp.clip(action[PRODUCT][:, 0], -1.0, 1.0)
        traded, earned = trade_row(key, there.world, state.accounts, lots, self._row(state, params), signal)
        path, own = self._own_rewards(state, traded, earned, lots, params)
        state = choose(
            allocates,
            dataclasses.replace(state, weights=weights, rows=jnp.int32(0)),
            dataclasses.replace(
                state, accounts=traded, path=path, exerted=state.exerted + jnp.abs(signal), rows=state.rows + 1
            ),
        )
        row_scale = there.reward_scale / self.portfolio.rows_per_block**0.5
        together = jnp.sum(earned) / jnp.maximum(before.equity, 1e-6 * there.capital) / row_scale
        product_reward = jnp.where(allocates, 0.0, own + params.portfolio_weight * together)

        closes = state.rows >= there.blocks.length[before.block]
        after, portfolio_return = self.portfolio.settle(before, state.accounts, weights, state.exerted, there)
        after, reward, terminated, truncated = self.portfolio.judge(after, portfolio_return, there)
        meta_reward, portfolio_return = jnp.where(closes, jnp.stack([reward, portfolio_return]), 0.0)
        terminated, truncated = closes & terminated, closes & truncated
        next_block = dataclasses.replace(
            state, portfolio=after, rows=jnp.int32(-1), exerted=jnp.zeros_like(state.exerted)
        )
        state = choose(closes, next_block, state)
        info = {"asked": asked, "granted": granted, "intervention": intervention, "return": portfolio_return}
        return (
            self.observe(state, params),
            state,
            {PRODUCT: product_reward, META: meta_reward[None]},
            self._for_all(terminated, params),
            self._for_all(truncated, params),
            info | {"allocates": allocates},
        )

    def _row(self, state: JointState, params: JointParams) -> jax.Array:
        """int32[] the row that is traded next."""
        return params.portfolio.blocks.start[state.portfolio.block] + jnp.maximum(state.rows, 0)

    def _own_rewards(
        self, state: JointState, traded: Account, earned: jax.Array, lots: jax.Array, params: JointParams
    ) -> tuple[PathState | None, jax.Array]:
        """What terms of the reward remember, and float32[P] the product agents' own terms."""
        costs, full = params.portfolio.world.costs, jnp.maximum(jnp.abs(lots), 1.0)
        facts = Facts(
            earned=earned / (costs.tick_value * costs.volatility * full),
            position=traded.position / full,
            traded=jnp.abs(traded.position - state.accounts.position) / full,
        )
        return jax.vmap(rewards.step)(state.path, params.rewards, facts)

    def _for_all(self, over: jax.Array, params: JointParams) -> dict[str, jax.Array]:
        n_products = params.portfolio.typical_volatility.shape[0]
        return {PRODUCT: jnp.broadcast_to(over, (n_products,)), META: over[None]}


def choose(condition: jax.Array, new: JointState, old: JointState) -> JointState:
    """`new` where the scalar `condition` holds, else `old`."""
    return jax.tree.map(lambda n, o: jnp.where(condition, n, o), new, old)
