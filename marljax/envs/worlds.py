"""From rows and trained policies to the worlds of whole portfolios: what their params are made of, done once."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from marljax.data.schema import InputError, MarketData
from marljax.envs.joint_portfolio import JointParams
from marljax.envs.portfolio import PortfolioParams, World
from marljax.envs.tapes import Rows, TradingConfig, check_countable, check_positive, tape
from marljax.market.slippage import CostModel
from marljax.portfolio.guardrails import limits
from marljax.portfolio.market_state import Blocks, MarketState, cut_blocks, market_state, row_returns


@dataclasses.dataclass(frozen=True)
class AllocationConfig:
    """How capital is allocated, and within which limits."""

    rows_per_block: int = 20
    """Steps between two rebalances [steps]."""
    covariance_half_life: float = 400.0
    """Half-life of the covariance behind risk parity [steps]."""
    shrinkage: float = 0.2
    """Weight of the diagonal in that covariance's correlations [0 to 1]."""
    tilt: float = 1.1
    """Log of the factor by which the meta-controller may raise or lower a product's share [natural log]."""
    leverage: float = 1.0
    """Largest gross exposure [multiples of equity]."""
    max_weight: float = 0.5
    """Largest allocation to one product [fraction of equity]; never less than an equal share."""
    record_half_life: float = 20.0
    """Half-life of the agents' track record that the meta-controller sees [rebalances]."""
    risk_aversion: float = 0.05
    """Penalty on the meta-controller's squared reward [typical portfolio standard deviations]."""
    max_drawdown: float = 0.25
    """Drawdown at which a training episode terminates [fraction of the peak]."""

    def __post_init__(self) -> None:
        if self.rows_per_block < 1:
            raise InputError(f"allocation.rows_per_block must be at least 1, got {self.rows_per_block}")
        if not 0 <= self.shrinkage <= 1:
            raise InputError(f"allocation.shrinkage must lie between 0 and 1, got {self.shrinkage}")
        for name in ("covariance_half_life", "leverage", "max_weight", "record_half_life", "max_drawdown"):
            value = getattr(self, name)
            if not (np.isfinite(value) and value > 0):
                raise InputError(f"allocation.{name} must be positive and finite, got {value!r}")
        if not (np.isfinite(self.tilt) and self.tilt >= 0 and self.risk_aversion >= 0):
            raise InputError("allocation.tilt and allocation.risk_aversion must not be negative")


def world(rows: Rows, policies: Any, costs: CostModel, no_trade_band: float) -> World:
    """What product agents trade on. The last two rows sell everything: nothing can be marked after them.

    `policies` has leaves [P, ...], `costs` leaves [P]; `no_trade_band` as in `TradingConfig`.
    """
    n = rows.data.n_steps
    return World(
        tape=jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), tape(rows.data)),
        features=jnp.moveaxis(rows.features, 1, 0),
        flat=jnp.asarray(rows.flat),
        last=jnp.arange(n) >= n - 2,
        policies=policies,
        costs=costs,
        no_trade_band=jnp.float32(no_trade_band),
    )


def portfolio_params(
    data: MarketData,
    part: slice,
    rows: Rows,
    train: MarketData,
    *,
    policies: Any,
    costs: CostModel,
    no_trade_band: float,
    capital: float,
    config: AllocationConfig,
    episode_blocks: int = 1,
) -> PortfolioParams:
    """Params of the meta-controller's env over the rows `part` of `data`.

    The covariance has seen everything before `part`, as it would have in use, and nothing after the row it is used on.

    Args:
        data: every row up to the end of `part`, at least.
        part: the rows to trade.
        rows: those rows with their features.
        train: the training part, which typical volatility is estimated on.
        policies: the product agents' parameters, leaves [P, ...].
        costs: leaves [P].
        no_trade_band: see `TradingConfig`.
        capital: of the portfolio [currency].
        episode_blocks: the env's episode length, where episodes are to start within the part [blocks].

    Raises InputError where no session of the part holds an episode.
    """
    check_positive(rows.data)
    lot_value = 0.5 * np.asarray(rows.data.double_mid).min(axis=0) * data.tick_values()
    check_countable(rows.data, 2.0 * capital * config.leverage / lot_value)
    blocks, market = _market_along(data, part, config)
    length = np.asarray(blocks.length)
    start, session = np.asarray(blocks.start), np.asarray(rows.data.session)
    ahead = np.minimum(np.arange(len(start)) + episode_blocks, len(start)) - 1
    fits = (np.arange(len(start)) + episode_blocks <= len(start)) & (session[start] == session[start[ahead]])
    starts = np.flatnonzero(fits & rows.warm[start])
    if len(starts) == 0:
        raise InputError(
            f"no session holds an episode of {episode_blocks} rebalances every {config.rows_per_block} steps: the "
            f"part has {length[rows.warm[start]].sum()} warm rows in all; use shorter episodes or a finer grid"
        )
    train_returns = np.asarray(row_returns(train), np.float64)
    typical = np.maximum(train_returns.std(axis=0), 1e-9) * np.sqrt(config.rows_per_block)
    equal_weight = max(train_returns.mean(axis=1).std(), 1e-9) * np.sqrt(config.rows_per_block)
    return PortfolioParams(
        world=world(rows, policies, costs, no_trade_band),
        blocks=blocks,
        market=market,
        typical_volatility=jnp.asarray(typical, jnp.float32),
        starts=jnp.asarray(starts, jnp.int32),
        capital=jnp.float32(capital),
        limits=limits(
            train.n_products,
            leverage=config.leverage,
            max_weight=max(config.max_weight, config.leverage / train.n_products),
        ),
        tilt=jnp.float32(config.tilt),
        record_decay=jnp.float32(0.5 ** (1.0 / config.record_half_life)),
        reward_scale=jnp.float32(equal_weight),
        risk_aversion=jnp.float32(config.risk_aversion),
        max_drawdown=jnp.float32(config.max_drawdown),
    )


def joint_params(portfolio: PortfolioParams, trading: TradingConfig, portfolio_weight: float) -> JointParams:
    """Params of the env in which product agents and the meta-controller learn together.

    Product agents earn what `trading` says, as where they learned alone, and `portfolio_weight` [reward per standard
    deviation of an equally weighted portfolio in one row] of what all of them earn.
    """
    weights = trading.rewards.weights(inventory=trading.risk_aversion)
    n_products = portfolio.typical_volatility.shape[0]
    return JointParams(
        portfolio=portfolio,
        rewards=jax.tree.map(lambda x: jnp.broadcast_to(x, (n_products,)), weights),
        portfolio_weight=jnp.float32(portfolio_weight),
    )


def _market_along(data: MarketData, part: slice, config: AllocationConfig) -> tuple[Blocks, MarketState]:
    """Blocks of the rows `part`, counted from its start, and what is known at each."""
    session = np.asarray(data.session)
    before = cut_blocks(session[: part.start], config.rows_per_block)
    blocks = cut_blocks(session[part], config.rows_per_block)
    n_before = before.start.shape[0]
    along = Blocks(
        jnp.concatenate([before.start, blocks.start + part.start]), jnp.concatenate([before.length, blocks.length])
    )
    state = market_state(
        row_returns(data.rows(0, part.stop)),
        along,
        jnp.float32(config.covariance_half_life),
        jnp.float32(config.shrinkage),
        config.rows_per_block,
    )
    return blocks, jax.tree.map(lambda x: x[n_before:], state)
