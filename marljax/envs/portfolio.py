"""The meta-controller's world: capital is allocated among live product agents, block by block.

One env step allocates capital and then lets every product agent trade through the block's rows with its own policy,
whose parameters are data. The whole episode is therefore one jitted function over all policies.

Observation: float32[9 P + 6], see `marljax.portfolio.meta_controller.observe`.
Action: float32[P + 1] in [-1, 1]: a tilt of each product's risk-parity weight, and gross exposure.
Reward: float32[], the block's portfolio log return in units of `reward_scale`, less `risk_aversion / 2` times its
square.
Termination: the drawdown exceeds `max_drawdown`. Truncation: the episode's number of blocks.
"""

import dataclasses
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import struct

from marljax.envs.environment import Box, Environment, Step
from marljax.envs.replay import target_position
from marljax.market.slippage import Account, CostModel, Tape, trade
from marljax.portfolio.guardrails import Intervention, Limits, project
from marljax.portfolio.market_state import Blocks, MarketState
from marljax.portfolio.meta_controller import MarketView, TrackRecord, ask, observation_size, observe


class Policy(Protocol):
    """What a product agent is: a function of parameters, observation and carry."""

    def init_carry(self) -> Any: ...

    def apply(
        self, params: Any, obs: jax.Array, carry: Any, key: jax.Array, deterministic: bool | jax.Array
    ) -> tuple[jax.Array, Any]: ...


@struct.dataclass
class World:
    """Everything the product agents trade on: tapes, features, policies and costs, one axis entry per product."""

    tape: Tape  # leaves [P, T, ...]
    features: jax.Array  # float32[P, T, F] scaled
    flat: jax.Array  # bool[T] rows on which agents are flat (see replay)
    last: jax.Array  # bool[T] rows on which everything is sold, whoever holds it: the end of the data
    policies: Any  # parameters of the product agents, leaves [P, ...]
    costs: CostModel  # leaves [P]
    no_trade_band: jax.Array  # float32[] see replay


@struct.dataclass
class PortfolioParams:
    world: World
    blocks: Blocks  # N blocks that tile the rows
    market: MarketState  # known at each block
    typical_volatility: jax.Array  # float32[P] of returns per block, of the training part
    starts: jax.Array  # int32[S] blocks at which an episode may start
    capital: jax.Array  # float32[] currency
    limits: Limits
    tilt: jax.Array  # float32[] log factor of a full tilt
    record_decay: jax.Array  # float32[] weight of the past in the agents' track record, per block
    reward_scale: jax.Array  # float32[] portfolio return per block that counts as one
    risk_aversion: jax.Array  # float32[] reward units per squared reward
    max_drawdown: jax.Array  # float32[] fraction of the peak


@struct.dataclass
class PortfolioState:
    block: jax.Array  # int32[] the next block
    elapsed: jax.Array  # int32[] blocks since the episode's start
    accounts: Account  # leaves [P]
    weights: jax.Array  # float32[P] allocation in force, fractions of equity
    record: TrackRecord
    equity: jax.Array  # float32[] currency
    peak: jax.Array  # float32[] currency, highest equity so far


@struct.dataclass
class BlockRows:
    """What happened on each row of a block; `active` is False on rows beyond the block's length."""

    active: jax.Array  # bool[R]
    net: jax.Array  # float32[R, P] currency, each account's net after the row
    position: jax.Array  # int32[R, P] lots held into the next row
    exerted: jax.Array  # float32[R, P] sum of the absolute signals (target fractions) of the block's rows so far


def observe_products(world: World, accounts: Account, lots: jax.Array, time: jax.Array) -> jax.Array:
    """What product agents see, float32[P, F + 1]: the features of row `time`, and the position as a part of `lots`."""
    held = accounts.position / jnp.maximum(jnp.abs(lots), 1.0)
    return jnp.concatenate([world.features[:, time], jnp.clip(held, -2.0, 2.0)[:, None]], axis=-1)


def trade_row(
    key: jax.Array,
    world: World,
    accounts: Account,
    lots: jax.Array,
    time: jax.Array,
    signal: jax.Array,
    passive: jax.Array | bool = False,
    hold: jax.Array | bool = False,
) -> tuple[Account, jax.Array]:
    """Trade every product toward its agent's `signal` at row `time`.

    Args:
        key: for the latencies.
        world: what is traded on.
        accounts: leaves [P].
        lots: float32[P] position that a full signal means.
        time: int32[] row.
        signal: float32[P] target fractions of `lots`; NaN keeps the position.
        passive: bool[] trade whatever the rows are marked, and toward any other position.
        hold: bool[] keep the positions, whatever the signal.

    Returns:
        The accounts at the next row, and what each earned net of costs, float32[P] currency.
    """
    band = jnp.where(passive, 0.0, world.no_trade_band)
    wanted = jax.vmap(target_position, (0, 0, 0, None))(signal, accounts.position, lots, band)
    wanted = jnp.where(hold, accounts.position, wanted)
    flat = (world.flat[time] & ~jnp.asarray(passive)) | world.last[time]
    keys = jax.random.split(key, lots.shape[0])
    return jax.vmap(trade, (0, 0, 0, 0, None, 0))(
        keys, accounts, jnp.where(flat, 0, wanted), world.tape, time, world.costs
    )


def trade_block(
    key: jax.Array,
    policy: Policy,
    world: World,
    accounts: Account,
    lots: jax.Array,
    start: jax.Array,
    length: jax.Array,
    n_rows: int,
    passive: jax.Array | bool = False,
) -> tuple[Account, BlockRows]:
    """Let the product agents trade from row `start` on, `length` of at most `n_rows` rows.

    Args:
        key: for the latencies.
        policy: the product agents' network.
        world: what they trade on.
        accounts: leaves [P].
        lots: float32[P] position that a full signal means for each product.
        start: int32[] first row.
        length: int32[] rows to trade.
        n_rows: the most rows a block can have (static).
        passive: bool[] hold `lots` from the first row on instead of asking the policies.
    """
    n_products = lots.shape[0]

    def row(carry: tuple[Account, jax.Array], xs: tuple[jax.Array, jax.Array]) -> tuple[Any, BlockRows]:
        (accounts, exerted), (i, key) = carry, xs
        time = start + jnp.minimum(i, length - 1)
        obs = observe_products(world, accounts, lots, time)
        action, _ = jax.vmap(policy.apply, (0, 0, None, None, None))(
            world.policies, obs, policy.init_carry(), key, True
        )
        signal = jnp.where(passive, 1.0, action[:, 0])
        traded, _ = trade_row(key, world, accounts, lots, time, signal, passive, hold=jnp.asarray(passive) & (i > 0))
        active = i < length
        accounts = jax.tree.map(lambda new, old: jnp.where(active, new, old), traded, accounts)
        exerted = exerted + jnp.where(active, jnp.abs(signal), 0.0)
        net = jax.vmap(Account.net)(accounts, world.costs.tick_value)
        return (accounts, exerted), BlockRows(active, net, accounts.position, exerted)

    xs = jnp.arange(n_rows), jax.random.split(key, n_rows)
    (accounts, _), rows = jax.lax.scan(row, (accounts, jnp.zeros(n_products)), xs)
    return accounts, rows


def lot_values(time: jax.Array, world: World) -> jax.Array:
    """Value of one lot of each product at row `time`'s mid, float32[P] currency."""
    return 0.5 * jnp.abs(world.tape.mark[:, time, 0]) * world.costs.tick_value


@dataclasses.dataclass(frozen=True)
class PortfolioEnv(Environment[PortfolioState, PortfolioParams]):
    """The meta-controller's env; see the module's docstring."""

    policy: Policy
    rows_per_block: int = 20
    episode_blocks: int = 16

    def observation_space(self, params: PortfolioParams) -> Box:
        return Box(-5.0, 5.0, (observation_size(params.typical_volatility.shape[0]),))

    def action_space(self, params: PortfolioParams) -> Box:
        return Box(-1.0, 1.0, (params.typical_volatility.shape[0] + 1,))

    def reset_env(self, key: jax.Array, params: PortfolioParams) -> tuple[jax.Array, PortfolioState]:
        block = params.starts[jax.random.randint(key, (), 0, params.starts.shape[0])]
        state = self.start(block, params)
        return self.observe(state, params), state

    def start(self, block: jax.Array, params: PortfolioParams) -> PortfolioState:
        """The state of a portfolio that opens at `block` with nothing but cash."""
        n_products = params.typical_volatility.shape[0]
        empty = Account.open()
        return PortfolioState(
            block=jnp.asarray(block, jnp.int32),
            elapsed=jnp.zeros((), jnp.int32),
            accounts=jax.tree.map(lambda x: jnp.broadcast_to(x, (n_products,)), empty),
            weights=jnp.zeros(n_products, jnp.float32),
            record=TrackRecord.start(n_products, params.typical_volatility),
            equity=params.capital,
            peak=params.capital,
        )

    def observe(self, state: PortfolioState, params: PortfolioParams) -> jax.Array:
        """What the meta-policy sees before it allocates; see `meta_controller.observe`."""
        market, block = params.market, state.block
        volatility = market.volatility[block] * jnp.sqrt(self.rows_per_block)
        view = MarketView(
            base=market.base[block],
            volatility=volatility,
            typical_volatility=params.typical_volatility,
            correlation=market.correlation[block],
            correlation_change=market.correlation[block] - market.correlation[jnp.maximum(block - 1, 0)],
            volatility_regime=jnp.clip(jnp.mean(jnp.log(volatility / params.typical_volatility)), -1.0, 1.0),
        )
        return observe(state.record, view, state.weights, 1.0 - state.equity / state.peak)

    def step_env(self, key: jax.Array, state: PortfolioState, action: jax.Array, params: PortfolioParams) -> Step:
        weights, asked, intervention = self.allocate(state, action, params)
        state, _, portfolio_return = self.run_block(key, state, weights, params)
        state, reward, terminated, truncated = self.judge(state, portfolio_return, params)
        info = {"asked": asked, "granted": weights, "intervention": intervention, "return": portfolio_return}
        return self.observe(state, params), state, reward, terminated, truncated, info

    def allocate(
        self, state: PortfolioState, action: jax.Array, params: PortfolioParams
    ) -> tuple[jax.Array, jax.Array, Intervention]:
        """What an action is granted and asks for in the state's block, and what the guardrails did."""
        asked = ask(jnp.clip(action, -1.0, 1.0), params.market.base[state.block], params.tilt, params.limits.gross)
        granted, intervention = project(asked, params.limits)
        return granted, asked, intervention

    def lots(self, state: PortfolioState, weights: jax.Array, params: PortfolioParams) -> jax.Array:
        """float32[P] the position that a full signal means in the state's block under `weights`."""
        value = lot_values(params.blocks.start[state.block], params.world)
        return weights * jnp.maximum(state.equity, 0.0) / value

    def judge(
        self, state: PortfolioState, portfolio_return: jax.Array, params: PortfolioParams
    ) -> tuple[PortfolioState, jax.Array, jax.Array, jax.Array]:
        """From a block's end to the next one: (state, reward float32[], terminated bool[], truncated bool[])."""
        state = dataclasses.replace(state, block=jnp.minimum(state.block + 1, params.blocks.start.shape[0] - 1))
        log_return = jnp.log1p(jnp.maximum(portfolio_return, -0.99)) / params.reward_scale
        reward = log_return - 0.5 * params.risk_aversion * log_return**2
        terminated = 1.0 - state.equity / state.peak > params.max_drawdown
        truncated = (state.elapsed >= self.episode_blocks) & ~terminated
        return state, reward, terminated, truncated

    def run_block(
        self,
        key: jax.Array,
        state: PortfolioState,
        weights: jax.Array,
        params: PortfolioParams,
        *,
        passive: jax.Array | bool = False,
        hold: jax.Array | bool = False,
    ) -> tuple[PortfolioState, BlockRows, jax.Array]:
        """Trade through the state's block under `weights`; the state's `block` is left for the caller to advance.

        `passive` holds the weights themselves instead of asking the agents; `hold` keeps the positions as they are.
        Returns the state, the block's rows and the portfolio's simple return, float32[].
        """
        start, length = params.blocks.start[state.block], params.blocks.length[state.block]
        lots = jnp.where(hold, state.accounts.position, self.lots(state, weights, params))
        accounts, rows = trade_block(
            key, self.policy, params.world, state.accounts, lots, start, length, self.rows_per_block, passive
        )
        state, portfolio_return = self.settle(state, accounts, weights, rows.exerted[-1], params)
        return state, rows, portfolio_return

    def settle(
        self,
        state: PortfolioState,
        accounts: Account,
        weights: jax.Array,
        exerted: jax.Array,
        params: PortfolioParams,
    ) -> tuple[PortfolioState, jax.Array]:
        """Close the state's block, which was traded under `weights` and led to `accounts`.

        `exerted` is float32[P], the sum of each agent's absolute signals over the block's rows. Returns the state and
        the portfolio's simple return, float32[].
        """
        tick_value = params.world.costs.tick_value
        before = jax.vmap(Account.net)(state.accounts, tick_value)
        after = jax.vmap(Account.net)(accounts, tick_value)
        allocated = jnp.maximum(jnp.abs(weights) * state.equity, 1e-6 * params.capital)
        record = state.record.update(
            (after - before) / allocated,
            (accounts.traded - state.accounts.traded) / allocated,
            exerted / params.blocks.length[state.block],
            params.record_decay,
        )
        equity = params.capital + jnp.sum(after)
        portfolio_return = jnp.sum(after - before) / jnp.maximum(state.equity, 1e-6 * params.capital)
        state = dataclasses.replace(
            state,
            elapsed=state.elapsed + 1,
            accounts=accounts,
            weights=weights,
            record=record,
            equity=equity,
            peak=jnp.maximum(state.peak, equity),
        )
        return state, portfolio_return
