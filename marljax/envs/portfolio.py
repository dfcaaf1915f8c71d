"""The meta-controller's world: capital is allocated among live product agents, block by block.

One env step allocates capital under the guardrails and then lets every product agent trade through the block's rows
with its own policy, whose parameters are data. The whole episode is therefore one jitted function over all policies.

Between rebalances capital drifts: an agent's grows and shrinks with what it earns. A rebalance multiplies an agent's
capital and its position with it, and that trade pays the product's book like any other. What is not invested is cash.

Observation: float32[9 A + 6], see `marljax.portfolio.meta_controller.observe`.
Action: float32[A + 1] in [-1, 1]: a tilt of each agent's risk-parity weight, and gross exposure; without effect where
risk parity is held or agents bid for capital.
Reward: float32[], the weighted terms of `marljax.envs.portfolio_rewards` for the block; by default its portfolio log
return in units of `reward_scale`, less `risk_aversion / 2` times its square. `info["cost"]` is the drawdown that the
block adds to the deepest of the episode, float32[] fraction of the peak.
Termination: the drawdown exceeds `max_drawdown`. Truncation: the episode's number of blocks.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from flax import struct

from marljax.envs import portfolio_rewards
from marljax.envs.environment import Box, Environment, Step
from marljax.envs.priced import COST
from marljax.envs.product_agents import BlockRows, Holdings, Policy, World, lot_values, trade_block
from marljax.envs.rewards import PathState, RewardWeights
from marljax.portfolio.bidding import AuctionRules, Offer, claims, offer
from marljax.portfolio.brake import BrakeState, released
from marljax.portfolio.calibration import Calibration
from marljax.portfolio.guardrails import Guardrails, Intervention, guard
from marljax.portfolio.market_state import Blocks, MarketState
from marljax.portfolio.meta_controller import MarketView, TrackRecord, ask, observation_size, observe

Coordination = Literal["risk_parity", "meta", "auction", "shared_critic"]
"""Who asks for capital: nobody, so that risk parity is held; the meta-controller, who tilts it; the agents, who bid for
it; or the meta-controller again, with whom the agents are judged by one critic and paid for the difference that each
makes where they learn together (`marljax.envs.joint_portfolio`)."""

POLICY_MODES: tuple[Coordination, ...] = ("meta", "shared_critic")
"""In which a meta-policy asks."""

LEAST_EQUITY = 1e-6
"""Of the capital: what a ruined portfolio's returns are measured against."""


@struct.dataclass
class PortfolioParams:
    world: World  # A agents on P products
    blocks: Blocks  # N blocks that tile the rows
    market: MarketState  # known at each block, of the P products
    typical_volatility: jax.Array  # float32[A] of returns per block of what each agent trades, of the training part
    starts: jax.Array  # int32[S] blocks at which an episode may start
    capital: jax.Array  # float32[] currency
    rails: Guardrails  # of the A agents; volatility per block
    tilt: jax.Array  # float32[] log factor of a full tilt
    auction: AuctionRules
    record_decay: jax.Array  # float32[] weight of the past in the agents' track record, per block
    reward_scale: jax.Array  # float32[] portfolio return per block that counts as one
    rewards: RewardWeights  # see `portfolio_rewards`
    max_drawdown: jax.Array  # float32[] fraction of the peak


@struct.dataclass
class PortfolioState:
    block: jax.Array  # int32[] the next block
    elapsed: jax.Array  # int32[] blocks since the episode's start
    holdings: Holdings
    weights: jax.Array  # float32[A] the agents' capital now, fractions of equity
    factor: jax.Array  # float32[A] by which the last rebalance multiplied it
    brake: BrakeState
    record: TrackRecord
    calibration: Calibration  # of what agents claim where they bid
    equity: jax.Array  # float32[] currency
    peak: jax.Array  # float32[] currency, highest equity so far
    turnover: jax.Array  # float32[] notional traded in the last block over equity before it
    path: PathState  # what terms of the reward remember


@struct.dataclass
class Decision:
    """A rebalance as it can be told afterwards: what was seen, what was asked for, and what became of it."""

    observation: jax.Array  # float32[9 A + 6] what a meta-policy sees
    base: jax.Array  # float32[A] risk parity
    before: jax.Array  # float32[A] what the agents had, after drift, fractions of equity
    asked: jax.Array  # float32[A] before the guardrails
    granted: jax.Array  # float32[A] by the guardrails
    intervention: Intervention  # what they did
    equity: jax.Array  # float32[] currency
    offer: Offer | None  # what was bid and paid, where agents bid


@dataclasses.dataclass(frozen=True)
class PortfolioEnv(Environment[PortfolioState, PortfolioParams]):
    """The meta-controller's env; see the module's docstring."""

    policy: Policy
    rows_per_block: int = 20
    episode_blocks: int = 16
    coordination: Coordination = "meta"

    def observation_space(self, params: PortfolioParams) -> Box:
        return Box(-5.0, 5.0, (observation_size(params.world.n_agents),))

    def action_space(self, params: PortfolioParams) -> Box:
        return Box(-1.0, 1.0, (params.world.n_agents + 1,))

    def reset_env(self, key: jax.Array, params: PortfolioParams) -> tuple[jax.Array, PortfolioState]:
        block = params.starts[jax.random.randint(key, (), 0, params.starts.shape[0])]
        state = self.start(block, params)
        return self.observe(state, params), state

    def start(self, block: jax.Array, params: PortfolioParams) -> PortfolioState:
        """The state of a portfolio that opens at `block` with nothing but cash."""
        n_agents = params.world.n_agents
        return PortfolioState(
            block=jnp.asarray(block, jnp.int32),
            elapsed=jnp.zeros((), jnp.int32),
            holdings=Holdings.none(n_agents),
            weights=jnp.zeros(n_agents, jnp.float32),
            factor=jnp.ones(n_agents, jnp.float32),
            brake=released(params.capital),
            record=TrackRecord.start(n_agents, params.typical_volatility),
            calibration=Calibration.start(n_agents),
            equity=params.capital,
            peak=params.capital,
            turnover=jnp.zeros((), jnp.float32),
            path=portfolio_rewards.start(params.rewards, params.reward_scale),
        )

    def observe(self, state: PortfolioState, params: PortfolioParams) -> jax.Array:
        """What the meta-policy sees before it allocates; see `meta_controller.observe`."""
        market, block = params.market, state.block
        view = MarketView(
            base=base_weights(block, params),
            volatility=market.volatility[block, params.world.product] * jnp.sqrt(self.rows_per_block),
            typical_volatility=params.typical_volatility,
            correlation=market.correlation[block],
            correlation_change=market.correlation_change[block],
            volatility_regime=market.regime[block],
        )
        return observe(state.record, view, state.weights, 1.0 - state.equity / state.peak)

    def step_env(self, key: jax.Array, state: PortfolioState, action: jax.Array, params: PortfolioParams) -> Step:
        asked = self.ask(state, action, params)
        state, decision, _, portfolio_return = self.run_block(key, state, asked, params)
        state, reward, cost, terminated, truncated = self.judge(state, portfolio_return, params)
        info = {"decision": decision, "return": portfolio_return, COST: cost}
        return self.observe(state, params), state, reward, terminated, truncated, info

    def ask(self, state: PortfolioState, action: jax.Array, params: PortfolioParams) -> jax.Array:
        """float32[A] the weights asked for in the state's block, as the mode of coordination has it."""
        base, gross = base_weights(state.block, params), params.rails.limits.gross
        if self.coordination == "risk_parity":
            return gross * base
        if self.coordination == "auction":
            return self.bid(state, params)[0]
        return ask(jnp.clip(action, -1.0, 1.0), base, params.tilt, gross)

    def bid(self, state: PortfolioState, params: PortfolioParams) -> tuple[jax.Array, Offer]:
        """float32[A] what the agents' bids come to in the state's block, and how."""
        covariance = self.covariance(state, params)
        return offer(state.record.mean, covariance, state.calibration, params.auction, params.rails)

    def covariance(self, state: PortfolioState, params: PortfolioParams) -> jax.Array:
        """float32[A, A] of returns per block of what each agent trades, as known in the state's block."""
        product = params.world.product
        return (params.market.covariance[state.block] * self.rows_per_block)[product][:, product]

    def rebalance(
        self, state: PortfolioState, asked: jax.Array, params: PortfolioParams
    ) -> tuple[PortfolioState, Decision]:
        """Allocate capital: the state with what the guardrails grant of the weights `asked` for, float32[A]."""
        brake, granted, intervention = guard(
            params.rails, state.brake, asked, state.weights, self.covariance(state, params), state.equity
        )
        decision = Decision(
            observation=self.observe(state, params),
            base=base_weights(state.block, params),
            before=state.weights,
            asked=asked,
            granted=granted,
            intervention=intervention,
            equity=state.equity,
            offer=self.bid(state, params)[1] if self.coordination == "auction" else None,
        )
        had = state.weights != 0
        factor = jnp.where(had, granted / jnp.where(had, state.weights, 1.0), 1.0)
        return dataclasses.replace(state, brake=brake, weights=granted, factor=factor), decision

    def lots(self, state: PortfolioState, params: PortfolioParams) -> jax.Array:
        """float32[A] the position that a full signal means in the state's block under its weights."""
        value = lot_values(params.blocks.start[state.block], params.world)
        return state.weights * jnp.maximum(state.equity, 0.0) / value

    def run_block(
        self,
        key: jax.Array,
        state: PortfolioState,
        asked: jax.Array,
        params: PortfolioParams,
        *,
        passive: jax.Array | bool = False,
        hold: jax.Array | bool = False,
    ) -> tuple[PortfolioState, Decision, BlockRows, jax.Array]:
        """Rebalance and trade through the state's block; the state's `block` is left for the caller to advance.

        `asked` float32[A] are the weights asked for. `passive` holds what is granted itself instead of asking the
        agents; `hold` keeps what is held as far as the guardrails let it, whatever is asked for. Returns the state,
        what was decided, the block's rows and the portfolio's simple return, float32[].
        """
        allocated, decision = self.rebalance(state, jnp.where(hold, state.weights, asked), params)
        holdings, exerted, rows = trade_block(
            key,
            self.policy,
            params.world,
            state.holdings,
            params.capital,
            self.lots(allocated, params),
            params.blocks.start[state.block],
            params.blocks.length[state.block],
            self.rows_per_block,
            factor=allocated.factor,
            passive=passive,
            hold=hold,
        )
        after, portfolio_return = self.settle(state, dataclasses.replace(allocated, holdings=holdings), exerted, params)
        return after, decision, rows, portfolio_return

    def settle(
        self, before: PortfolioState, after: PortfolioState, exerted: jax.Array, params: PortfolioParams
    ) -> tuple[PortfolioState, jax.Array]:
        """Close a block: let capital drift with what was earned, and remember it.

        Args:
            before: the state before the rebalance.
            after: the same with what was granted, and with the holdings at the block's end.
            exerted: float32[A] the sum of each agent's absolute signals over the block's rows.
            params: of the env.

        Returns:
            The state and the portfolio's simple return, float32[].
        """
        costs, floor = params.world.costs, LEAST_EQUITY * params.capital
        earned = after.holdings.earned(costs) - before.holdings.earned(costs)
        traded = after.holdings.accounts.traded - before.holdings.accounts.traded
        # What an agent gave up was its capital too, when its positions were sold.
        share = jnp.maximum(jnp.abs(after.weights), jnp.abs(before.weights))
        allocated = jnp.maximum(share * before.equity, floor)
        returns = earned / allocated
        calibration = before.calibration
        if self.coordination == "auction":
            volatility = jnp.sqrt(jnp.diagonal(self.covariance(before, params)))
            claimed = claims(before.record.mean, volatility, params.auction)
            # Whose capital bought no lot could not show what its claim was worth.
            observed = jnp.abs(self.lots(after, params)) >= 1.0
            calibration = calibration.update(claimed, returns, volatility, observed, params.auction.decay)
        record = before.record.update(
            returns, traded / allocated, exerted / params.blocks.length[before.block], params.record_decay
        )
        profit = after.holdings.profit(costs)
        equity = params.capital + profit
        kept = after.weights * before.equity + earned
        # An agent that lost more than it had has nothing; the portfolio's cash bears the rest.
        kept = jnp.where(kept * after.weights > 0, kept, 0.0)
        settled = dataclasses.replace(
            after,
            elapsed=before.elapsed + 1,
            weights=kept / jnp.maximum(equity, floor),
            record=record,
            calibration=calibration,
            equity=equity,
            peak=jnp.maximum(before.peak, equity),
            turnover=jnp.sum(traded) / jnp.maximum(before.equity, floor),
        )
        return settled, (profit - before.holdings.profit(costs)) / jnp.maximum(before.equity, floor)

    def judge(
        self, state: PortfolioState, portfolio_return: jax.Array, params: PortfolioParams
    ) -> tuple[PortfolioState, jax.Array, jax.Array, jax.Array, jax.Array]:
        """From a block's end to the next one: (state, reward float32[], drawdown added float32[], terminated bool[],
        truncated bool[])."""
        path, reward, added = portfolio_rewards.step(
            state.path, params.rewards, params.reward_scale, portfolio_return, state.turnover
        )
        block = jnp.minimum(state.block + 1, params.blocks.start.shape[0] - 1)
        state = dataclasses.replace(state, block=block, path=path)
        terminated = 1.0 - state.equity / state.peak > params.max_drawdown
        truncated = (state.elapsed >= self.episode_blocks) & ~terminated
        return state, reward, added, terminated, truncated


def base_weights(block: jax.Array, params: PortfolioParams) -> jax.Array:
    """Risk parity at a block, float32[A] summing to one; agents of one product share its weight evenly."""
    product, base = params.world.product, params.market.base[block]
    crowd = jnp.zeros_like(base).at[product].add(1.0)
    traded = jnp.where(crowd > 0, base, 0.0)
    return (traded / jnp.maximum(crowd, 1.0) / jnp.sum(traded))[product]
