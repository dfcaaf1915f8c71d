"""Making a market in one product against recorded (or generated) books: quotes that wait in a queue.

The tape, the sessions, the costs of taking and the episodes are those of `marljax.envs.replay`; instead of a target
position the agent posts a bid and an ask, which rest in the recorded levels as `marljax.market.queueing` says. Both
quotes of a step arrive together, and late with the probability that a market order has (`marljax.market.latency`): then
the old ones stand for one row more. A quote that would trade on arrival is refused. On rows marked `flat` (features
warming up, the session about to close) quotes have expired and the position is closed at the taker's cost.

Observation: float32[F + 7], the scaled features of the row, the position as a fraction of its limit, and of the
orders, bid before ask: how far they stand behind the touch [fraction of `furthest`], what is left of them [fraction of
the largest quote], and their share of the lots up to their own end (1 at the front). These are 0 where none stands.
Action: float32[4] in [-1, 1]: width (from `nearest` to `furthest` ticks behind the touch), skew (both prices moved by
up to `skew` ticks, up where positive), size of the bid and size of the ask (from nothing to the largest quote). Where
any is NaN the quotes stay as they are.
Reward: as in the replay env.
Termination: the loss since the start exceeds `max_loss` of the agent's capital. Truncation: the episode's length.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marljax.data.schema import InputError
from marljax.envs import rewards
from marljax.envs.environment import Box, Environment, Step
from marljax.envs.replay import ReplayEnv, ReplayParams
from marljax.envs.rewards import Facts, PathState
from marljax.envs.tapes import Rows, TradingConfig, check_countable, replay_params
from marljax.lob.tally import Tally
from marljax.market.fees import taker_fee
from marljax.market.latency import arrives_late
from marljax.market.queueing import Order, QuoteTape, quote_tape, rest
from marljax.market.slippage import Account, CostModel, trade

TOWARD = np.array([1, -1], np.int32)
"""What a lot filled on each side does to the position, and the sign under which its prices are kept."""

_LONGEST_REACH = 4096
"""Ticks: a row of the tape takes eight bytes for each."""


@dataclasses.dataclass(frozen=True)
class QuotingConfig:
    """Where an agent may quote and what its fills pay."""

    nearest: float = -1.0
    """Closest quote [ticks behind the touch; negative lies within the spread]."""
    furthest: float = 5.0
    """Furthest quote before skew [ticks behind the touch]."""
    skew: float = 3.0
    """Largest shift of both quotes [ticks]."""
    reach: int = 32
    """How far behind the touch the book is laid out [ticks]; an order further behind waits until it is seen."""
    largest: float = 0.25
    """Largest quote [fraction of the position limit; at least one lot]."""
    hazard: float = 1.0
    """Queue model: how many times as readily an order ahead is cancelled as the average of its level [0 pessimistic,
    1 proportional, inf front of queue]."""
    fee_rate: float = 0.0
    """Maker fee [fraction of notional; negative is a rebate]."""
    fee_per_lot: float = 0.0
    """Maker fee [currency per lot; negative is a rebate]."""

    def __post_init__(self) -> None:
        for name in ("nearest", "furthest", "skew", "fee_rate", "fee_per_lot"):
            if not np.isfinite(getattr(self, name)):
                raise InputError(f"quoting.{name} must be finite, got {getattr(self, name)!r}")
        if not (self.nearest <= self.furthest and self.furthest > 0 and self.skew >= 0):
            raise InputError(
                "quoting.furthest must be positive and not below quoting.nearest, quoting.skew not negative, got "
                f"furthest {self.furthest!r}, nearest {self.nearest!r}, skew {self.skew!r}"
            )
        if not self.furthest + self.skew <= self.reach <= _LONGEST_REACH:
            raise InputError(
                f"quoting.reach must cover quoting.furthest and quoting.skew, {self.furthest + self.skew:g} ticks, and "
                f"not be beyond {_LONGEST_REACH}, got {self.reach}"
            )
        if not 0 < self.largest <= 1:
            raise InputError(f"quoting.largest must lie above 0 and not above 1, got {self.largest!r}")
        if not self.hazard >= 0:
            raise InputError(f"quoting.hazard must not be negative or NaN, got {self.hazard!r}")


@struct.dataclass
class QuotingParams:
    """One product's market and rules. Leaves may carry a product axis: `vmap` over it."""

    market: ReplayParams
    tape: QuoteTape
    nearest: jax.Array  # float32[] ticks behind the touch
    furthest: jax.Array  # float32[] ticks behind the touch, > 0
    skew: jax.Array  # float32[] ticks
    largest: jax.Array  # int32[] lots, the largest quote, > 0
    hazard: jax.Array  # float32[] the queue model, see marljax.market.queueing
    fee_rate: jax.Array  # float32[] fraction of notional, negative is a rebate
    fee_per_lot: jax.Array  # float32[] currency per lot, negative is a rebate


@struct.dataclass
class Maker:
    """What resting orders earned since the account was opened, beside the account of positions and market orders.

    A fill is counted from the mid of the row before it: what it is better than that mid is the spread earned, and what
    the mid moved against it before the row was over is the adverse move. What it earns after that is the account's.
    """

    spread: Tally  # half ticks x lots
    adverse: Tally  # half ticks x lots, a loss
    fees: jax.Array  # float32[] currency, negative where rebates prevail

    @classmethod
    def open(cls) -> "Maker":
        return cls(Tally.zero(), Tally.zero(), jnp.zeros((), jnp.float32))

    def net(self, tick_value: jax.Array) -> jax.Array:
        """float32[] currency: spread earned less adverse moves and fees."""
        return 0.5 * tick_value * self.spread.minus(self.adverse).value() - self.fees


@struct.dataclass
class QuotingState:
    time: jax.Array  # int32[] row of the tape
    elapsed: jax.Array  # int32[] steps since the episode's start
    account: Account
    maker: Maker
    orders: Order  # [2] bid and ask
    path: PathState | None  # what terms of the reward remember; None where none does

    def net(self, tick_value: jax.Array) -> jax.Array:
        """float32[] currency earned since the start; equity is the capital at opening plus this."""
        return self.account.net(tick_value) + self.maker.net(tick_value)


@dataclasses.dataclass(frozen=True)
class QuotingEnv(Environment[QuotingState, QuotingParams]):
    """Per-product market making; see the module's docstring."""

    episode_steps: int = 128

    def observation_space(self, params: QuotingParams) -> Box:
        return Box(-jnp.inf, jnp.inf, (params.market.features.shape[-1] + 7,))

    def action_space(self, params: QuotingParams) -> Box:
        return Box(-1.0, 1.0, (4,))

    def reset_env(self, key: jax.Array, params: QuotingParams) -> tuple[jax.Array, QuotingState]:
        _, start = ReplayEnv(self.episode_steps).reset_env(key, params.market)
        state = QuotingState(start.time, start.elapsed, start.account, Maker.open(), Order.none((2,)), start.path)
        return observe(state, params), state

    def step_env(self, key: jax.Array, state: QuotingState, action: jax.Array, params: QuotingParams) -> Step:
        market, time = params.market, state.time
        flat, (mid, move, last) = market.flat[time], market.tape.mark[time]
        target = jnp.where(flat, 0, state.account.position)
        account, earned = trade(key, state.account, target, market.tape, time, market.costs)

        orders = _standing_if(~flat, state.orders)
        price, size, sent = quotes(action, orders, params.tape.touch[time], params)
        # The draw that `trade` makes from this key: quotes and market orders travel together.
        late = sent & arrives_late(
            jax.random.uniform(key, (2,)),
            market.costs.latency_floor,
            market.costs.latency_mean,
            market.costs.step_seconds,
        )

        def one_side(position: jax.Array, quote: Any) -> tuple[jax.Array, Any]:
            side, toward, order, price, size = quote
            order, filled, at = rest(
                order,
                price,
                size,
                late,
                toward * position,
                tape=params.tape,
                time=time,
                side=side,
                limit=market.max_position,
                hazard=params.hazard,
            )
            # On a session's last row the next one is another day's.
            filled = jnp.where(last == 1, 0, filled)
            return position + toward * filled, (order, filled, at)

        # One after the other: besides halving the program, a loop keeps XLA's CPU backend from repeating it for every
        # number that is made from it.
        position, (orders, filled, at) = jax.lax.scan(
            one_side, account.position, (np.arange(2), TOWARD, orders, price, jnp.where(flat, 0, size))
        )
        maker, gained = fill(state.maker, filled, at, mid, move, params)
        earned = earned + gained
        facts = Facts(
            earned=earned / market.reward_scale,
            position=position / market.max_position,
            traded=(jnp.abs(account.position - state.account.position) + filled.sum()) / market.max_position,
        )
        path, reward = rewards.step(state.path, market.rewards, facts)
        state = QuotingState(
            time=time + 1,
            elapsed=state.elapsed + 1,
            account=dataclasses.replace(account, position=position),
            maker=maker,
            orders=_standing_if(last == 0, orders),
            path=path,
        )
        terminated = state.net(market.costs.tick_value) < -market.max_loss
        truncated = (state.elapsed >= self.episode_steps) & ~terminated
        return observe(state, params), state, reward, terminated, truncated, {"earned": earned, "filled": filled}


def quotes(
    action: jax.Array, orders: Order, touch: jax.Array, params: QuotingParams
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """What an action asks for.

    Args:
        action: float32[4], see the module's docstring.
        orders: [2] what stands.
        touch: int32[2] best prices of the decision's row [ticks, the ask's negated].

    Returns:
        price: int32[2] ticks, the ask's negated.
        size: int32[2] lots; both 0 where the quotes would meet each other.
        sent: bool[] False where an entry of the action is NaN: then price and size are those that stand.
    """
    keeps = jnp.any(jnp.isnan(action))
    width, skew, *wanted = jnp.clip(jnp.where(keeps, 0.0, action), -1.0, 1.0)
    width = params.nearest + 0.5 * (width + 1.0) * (params.furthest - params.nearest)
    behind = jnp.round(width - skew * params.skew * TOWARD).astype(jnp.int32)
    price = touch - behind
    size = jnp.round(0.5 * (jnp.stack(wanted) + 1.0) * params.largest).astype(jnp.int32)
    size = jnp.where(jnp.sum(price) >= 0, 0, size)
    return jnp.where(keeps, orders.price, price), jnp.where(keeps, orders.remaining, size), ~keeps


def fill(
    maker: Maker, filled: jax.Array, price: jax.Array, mid: jax.Array, move: jax.Array, params: QuotingParams
) -> tuple[Maker, jax.Array]:
    """Book fills of resting orders.

    Args:
        maker: before them.
        filled: int32[2] lots of bid and ask.
        price: int32[2] ticks, the ask's negated.
        mid: int32[] twice the mid of the row before the fill [half ticks].
        move: int32[] its change to the row after [half ticks].

    Returns:
        The ledger, and what the fills are worth at the mid of the row after, net of fees, float32[] currency.
    """
    half_tick = 0.5 * params.market.costs.tick_value
    spread = jnp.sum(filled * (TOWARD * mid - 2 * price))
    adverse = -move * jnp.sum(TOWARD * filled)
    notional = half_tick * jnp.sum(filled * jnp.abs(2 * price).astype(jnp.float32))
    fees = taker_fee(jnp.sum(filled), notional, params.fee_rate, params.fee_per_lot)
    return Maker(
        spread=maker.spread.plus(spread),
        adverse=maker.adverse.plus(adverse),
        fees=maker.fees + fees,
    ), half_tick * (spread - adverse) - fees


def observe(state: QuotingState, params: QuotingParams) -> jax.Array:
    """float32[F + 7] what the agent sees: a row's features, its position and its orders."""
    orders = state.orders
    exposure = state.account.position / params.market.max_position
    behind = (params.tape.touch[state.time] - orders.price) / params.furthest
    behind = jnp.where(orders.remaining > 0, behind, 0.0)
    share = orders.remaining / jnp.maximum(orders.remaining + orders.ahead, 1.0)
    own = jnp.concatenate([exposure[None], behind, orders.remaining / params.largest, share])
    # Written into place at once, since XLA's CPU backend would compute it for every column of a concatenation.
    return jnp.pad(params.market.features[state.time], (0, 7)).at[-7:].set(own)


def quoting_params(
    real: Rows,
    *,
    costs: CostModel,
    max_position: np.ndarray,
    trading: TradingConfig,
    quoting: QuotingConfig,
    episode_steps: int,
    synthetic: Rows | None = None,
    synthetic_fraction: float = 0.0,
) -> QuotingParams:
    """Quoting params of every product, leaves with a leading axis P.

    Arguments and errors are those of `marljax.envs.tapes.replay_params`, and `quoting` says where an agent may quote.
    """
    largest = np.maximum(np.floor(quoting.largest * np.asarray(max_position)), 1).astype(np.int32)
    # A fill may lie a level's distance and a move from the mid, on both sides at once.
    check_countable(real.data, 4.0 * largest)
    market = replay_params(
        real,
        costs=costs,
        max_position=max_position,
        trading=trading,
        episode_steps=episode_steps,
        synthetic=synthetic,
        synthetic_fraction=synthetic_fraction,
    )
    tapes = [quote_tape(part.data, quoting.reach) for part in (real, synthetic) if part is not None]

    def shared(x: float) -> jax.Array:
        return jnp.full(len(largest), x, jnp.float32)

    return QuotingParams(
        market=market,
        tape=jax.tree.map(lambda *x: jnp.moveaxis(jnp.concatenate(x), 1, 0), *tapes),
        nearest=shared(quoting.nearest),
        furthest=shared(quoting.furthest),
        skew=shared(quoting.skew),
        largest=jnp.asarray(largest),
        hazard=shared(quoting.hazard),
        fee_rate=shared(quoting.fee_rate),
        fee_per_lot=shared(quoting.fee_per_lot),
    )


def _standing_if(condition: jax.Array, orders: Order) -> Order:
    return dataclasses.replace(orders, remaining=jnp.where(condition, orders.remaining, 0))
