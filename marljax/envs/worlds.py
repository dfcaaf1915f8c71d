"""From rows and trained policies to the worlds of whole portfolios: what their params are made of, done once."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from marljax.data.schema import InputError, MarketData
from marljax.envs import portfolio_rewards
from marljax.envs.joint_portfolio import JointParams
from marljax.envs.portfolio import Coordination, PortfolioParams
from marljax.envs.product_agents import World
from marljax.envs.rewards import RewardConfig
from marljax.envs.tapes import Rows, TradingConfig, check_countable, check_positive, tape
from marljax.features import fit_volatility_thresholds, volatility_regime
from marljax.market.financing import SECONDS_PER_YEAR, Rates, rates
from marljax.market.slippage import CostModel
from marljax.portfolio.bidding import AuctionConfig
from marljax.portfolio.brake import Brake, brake
from marljax.portfolio.correlation_regimes import Regimes, checked
from marljax.portfolio.guardrails import Guardrails, guardrails
from marljax.portfolio.limits import limits
from marljax.portfolio.market_state import Blocks, MarketState, cut_blocks, market_state, row_returns

_SECONDS_PER_DAY = 86_400.0


@dataclasses.dataclass(frozen=True)
class AllocationConfig:
    """How capital is allocated, what it costs, and within which limits."""

    coordination: Coordination = "meta"
    """Who asks for capital: the meta-controller; nobody, so that risk parity is held; the agents, who bid for it; or,
    with shared_critic, the meta-controller, and joint tuning judges all by one critic and pays each agent for the
    difference that it makes."""
    auction: AuctionConfig = AuctionConfig()
    """How they bid."""
    rows_per_block: int = 20
    """Steps between two rebalances [steps]."""
    covariance: Literal["exponential", "regimes"] = "exponential"
    """The covariance behind risk parity: exponentially weighted, or aware of regimes of correlation, whose memories and
    durations are in proportion to covariance_half_life."""
    covariance_half_life: float = 400.0
    """Half-life of that covariance [steps]."""
    shrinkage: float = 0.2
    """Weight of the diagonal in that covariance's correlations [0 to 1]."""
    tilt: float = 1.1
    """Log of the factor by which the meta-controller may raise or lower an agent's share [natural log]."""
    leverage: float = 1.0
    """Largest gross exposure; what it leaves of one is the least cash [multiples of equity]."""
    max_weight: float = 0.5
    """Largest allocation to one agent [fraction of equity]; never less than an equal share."""
    class_caps: dict[str, float] = dataclasses.field(default_factory=dict)
    """Largest gross exposure to products of an asset class, by its name [fraction of equity]; others have no cap."""
    turnover: float | None = None
    """Most that one rebalance may move [sum of absolute weight changes]; by default all of it."""
    volatility_target: float | None = None
    """Volatility above which exposure is cut [multiples of an equally weighted portfolio's in the training part]."""
    risk_budget: float | None = None
    """Most that one agent's capital may be worth in volatility, as if it stood alone [same unit]."""
    brake_drawdown: float | None = 0.2
    """Drawdown at which everything is sold [fraction of the peak]."""
    brake_recovery: float | None = None
    """Drawdown at or below which trading goes on [fraction of the peak]; by default half of the brake's."""
    brake_cooldown: int = 20
    """Rebalances out of the market after which it goes on from a new peak [count]."""
    cash_rate: float = 0.0
    """Earned on cash [fraction per year]; at 0 returns are those in excess of cash."""
    loan_rate: float = 0.02
    """Paid on what is borrowed [fraction per year]."""
    short_rate: float = 0.005
    """Paid on the value of short positions [fraction per year]."""
    record_half_life: float = 20.0
    """Half-life of the agents' track record that the meta-controller sees [rebalances]."""
    rewards: RewardConfig = portfolio_rewards.LOG_RETURN
    """What the meta-controller is paid for: `sd` and `capital` are a typical portfolio's, `turnover` is reward per
    equity traded, `memory` counts rebalances."""
    risk_aversion: float = 0.05
    """Penalty on the meta-controller's squared log return, halved, and on the variance that agents bid for [typical
    portfolio standard deviations]."""
    max_drawdown: float = 0.25
    """Drawdown at which a training episode terminates [fraction of the peak]."""

    def __post_init__(self) -> None:
        if self.rows_per_block < 1:
            raise InputError(f"allocation.rows_per_block must be at least 1, got {self.rows_per_block}")
        if not 0 <= self.shrinkage <= 1:
            raise InputError(f"allocation.shrinkage must lie between 0 and 1, got {self.shrinkage}")
        given = [x for x in ("turnover", "volatility_target", "risk_budget") if getattr(self, x) is not None]
        for name in ("covariance_half_life", "leverage", "max_weight", "record_half_life", "max_drawdown", *given):
            value = getattr(self, name)
            if not (np.isfinite(value) and value > 0):
                raise InputError(f"allocation.{name} must be positive and finite, got {value!r}")
        if not (np.isfinite(self.tilt) and self.tilt >= 0 and self.risk_aversion >= 0):
            raise InputError("allocation.tilt and allocation.risk_aversion must not be negative")
        self.stop()
        self.rates()
        self.regimes()
        portfolio_rewards.weights(self.rewards)
        if self.coordination == "auction" and self.risk_aversion == 0:
            raise InputError("allocation.risk_aversion must be positive where agents bid: it is what limits their bids")

    def regimes(self) -> Regimes | None:
        """What is assumed of regimes of correlation, where the covariance is aware of them."""
        if self.covariance == "exponential":
            return None
        usual = Regimes()
        longer = self.covariance_half_life / usual.correlation_halflife
        steps = {field.name: longer * getattr(usual, field.name) for field in dataclasses.fields(usual)}
        return checked(Regimes(**steps | {"jump": usual.jump}))

    def rates(self) -> Rates:
        """What money costs."""
        return rates(self.cash_rate, self.loan_rate, self.short_rate)

    def stop(self) -> Brake | None:
        """What sells everything in a drawdown."""
        if self.brake_drawdown is None:
            return None
        return brake(self.brake_drawdown, self.brake_recovery, self.brake_cooldown)

    def rails(self, asset_classes: Sequence[str], typical_volatility: float) -> Guardrails:
        """The guardrails of A agents.

        Args:
            asset_classes: of what each of them trades.
            typical_volatility: an equally weighted portfolio's, per block.

        Raises InputError for a cap on a class that nobody trades, and for limits that conflict.
        """
        n_agents, names = len(asset_classes), sorted(set(asset_classes))
        if unknown := sorted(set(self.class_caps) - set(names)):
            raise InputError(f"allocation.class_caps names {unknown[0]!r}; the asset classes are {', '.join(names)}")
        capped = bool(self.class_caps)
        within = limits(
            n_agents,
            leverage=self.leverage,
            max_weight=max(self.max_weight, self.leverage / n_agents),
            turnover=self.turnover,
            classes=np.array([names.index(name) for name in asset_classes]) if capped else None,
            class_cap=np.array([self.class_caps.get(name, self.leverage) for name in names]) if capped else None,
        )

        def per_block(multiple: float | None) -> float | None:
            return None if multiple is None else multiple * typical_volatility

        return guardrails(
            within,
            risk_budget=per_block(self.risk_budget),
            volatility_target=per_block(self.volatility_target),
            brake=self.stop(),
        )


def world(
    rows: Rows,
    policies: Any,
    costs: CostModel,
    no_trade_band: float,
    *,
    product: np.ndarray | None = None,
    financing: Rates | None = None,
) -> World:
    """What product agents trade on. The last two rows sell everything: nothing can be marked after them.

    Args:
        rows: of P products.
        policies: leaves [A, ...].
        costs: leaves [P].
        no_trade_band: as in `TradingConfig`.
        product: int[A] what each agent trades; left out, there is one agent for each product.
        financing: what money costs; left out, nothing.

    Raises InputError where an agent trades a product that is not there.
    """
    n, n_products = rows.data.n_steps, rows.data.n_products
    traded = np.arange(n_products) if product is None else np.asarray(product)
    if traded.ndim != 1 or len(traded) == 0 or not ((traded >= 0) & (traded < n_products)).all():
        raise InputError(f"product must say which of {n_products} products each agent trades, got {product!r}")
    return World(
        tape=jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), tape(rows.data)),
        features=jnp.moveaxis(rows.features, 1, 0),
        flat=jnp.asarray(rows.flat),
        last=jnp.arange(n) >= n - 2,
        years=jnp.asarray(years_ahead(rows.data)),
        product=jnp.asarray(traded, jnp.int32),
        policies=policies,
        costs=jax.tree.map(lambda x: x[traded], costs),
        no_trade_band=jnp.float32(no_trade_band),
        rates=financing or rates(),
    )


def years_ahead(data: MarketData) -> np.ndarray:
    """float32[T] years from each row to the next, 0 for the last. Sessions are taken to begin days apart."""
    seconds = np.asarray(data.seconds, np.float64) + _SECONDS_PER_DAY * np.asarray(data.session)
    passed = np.maximum(np.diff(seconds, append=seconds[-1:]), 0.0)
    return (passed / SECONDS_PER_YEAR).astype(np.float32)


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
    product: np.ndarray | None = None,
) -> PortfolioParams:
    """Params of the meta-controller's env over the rows `part` of `data`.

    The covariance has seen everything before `part`, as it would have in use, and nothing after the row it is used on.

    Args:
        data: every row up to the end of `part`, at least.
        part: the rows to trade.
        rows: those rows with their features.
        train: the training part, which typical volatility and its regimes are estimated on.
        policies: the product agents' parameters, leaves [A, ...].
        costs: leaves [P].
        no_trade_band: see `TradingConfig`.
        capital: of the portfolio [currency].
        config: how capital is allocated.
        episode_blocks: the env's episode length, where episodes are to start within the part [blocks].
        product: int[A] what each agent trades; left out, there is one agent for each product.

    Raises InputError where no session of the part holds an episode.
    """
    check_positive(rows.data)
    lot_value = 0.5 * np.asarray(rows.data.double_mid).min(axis=0) * data.tick_values()
    check_countable(rows.data, 2.0 * capital * config.leverage / lot_value)
    blocks, market = _market_along(data, part, train, config)
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
    there = world(rows, policies, costs, no_trade_band, product=product, financing=config.rates())
    train_returns = np.asarray(row_returns(train), np.float64)
    typical = np.maximum(train_returns.std(axis=0), 1e-9) * np.sqrt(config.rows_per_block)
    equal_weight = max(train_returns.mean(axis=1).std(), 1e-9) * np.sqrt(config.rows_per_block)
    return PortfolioParams(
        world=there,
        blocks=blocks,
        market=market,
        typical_volatility=jnp.asarray(typical, jnp.float32)[there.product],
        starts=jnp.asarray(starts, jnp.int32),
        capital=jnp.float32(capital),
        rails=config.rails([data.products[p].asset_class for p in np.asarray(there.product)], equal_weight),
        tilt=jnp.float32(config.tilt),
        # That of the reward, whose unit is equal_weight.
        auction=config.auction.rules(config.risk_aversion / equal_weight),
        record_decay=jnp.float32(0.5 ** (1.0 / config.record_half_life)),
        reward_scale=jnp.float32(equal_weight),
        rewards=portfolio_rewards.weights(config.rewards, config.risk_aversion),
        max_drawdown=jnp.float32(config.max_drawdown),
    )


def joint_params(portfolio: PortfolioParams, trading: TradingConfig, portfolio_weight: float) -> JointParams:
    """Params of the env in which product agents and the meta-controller learn together.

    Product agents earn what `trading` says, as where they learned alone, and `portfolio_weight` [reward per standard
    deviation of an equally weighted portfolio in one row] of what all of them earn, or of the credit for it.
    """
    weights = trading.rewards.weights(inventory=trading.risk_aversion)
    n_agents = portfolio.world.n_agents
    return JointParams(
        portfolio=portfolio,
        rewards=jax.tree.map(lambda x: jnp.broadcast_to(x, (n_agents,)), weights),
        portfolio_weight=jnp.float32(portfolio_weight),
    )


def _market_along(
    data: MarketData, part: slice, train: MarketData, config: AllocationConfig
) -> tuple[Blocks, MarketState]:
    """Blocks of the rows `part`, counted from its start, and what is known at each."""
    session = np.asarray(data.session)
    before = cut_blocks(session[: part.start], config.rows_per_block)
    blocks = cut_blocks(session[part], config.rows_per_block)
    n_before = before.start.shape[0]
    along = Blocks(
        jnp.concatenate([before.start, blocks.start + part.start]), jnp.concatenate([before.length, blocks.length])
    )
    seen = data.rows(0, part.stop)
    # Terciles: low, middle and high become -1, 0 and 1.
    regimes = volatility_regime(seen, fit_volatility_thresholds(train)) - 1
    state = market_state(
        row_returns(seen),
        along,
        jnp.float32(config.covariance_half_life),
        jnp.float32(config.shrinkage),
        config.rows_per_block,
        jnp.mean(regimes.astype(jnp.float32), axis=1),
        config.regimes(),
    )
    return blocks, jax.tree.map(lambda x: x[n_before:], state)
