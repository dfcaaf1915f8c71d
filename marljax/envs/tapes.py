"""From clean books to what the envs run on: tapes, session boundaries, cost models and position limits.

Host-side and done once. Everything estimated here (volatility, typical volume, limits) is estimated on the training
part, which the caller hands over as such.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from marljax.data.schema import InputError, MarketData
from marljax.envs.replay import ReplayParams
from marljax.envs.rewards import RewardConfig
from marljax.lob.tally import LARGEST_STEP
from marljax.market.ladder import ladders
from marljax.market.slippage import CostModel, Tape


@dataclasses.dataclass(frozen=True)
class CostConfig:
    """What trading costs beyond the visible book."""

    fee_rate: float = 1e-5
    """Taker fee [fraction of notional; 1e-4 is one basis point]."""
    fee_per_lot: float = 0.0
    """Taker fee [currency per lot]."""
    impact: float = 0.1
    """Coefficient of square-root impact beyond the visible depth [dimensionless; 0 switches it off]."""
    latency_floor: float = 0.001
    """Smallest latency of an order [seconds]."""
    latency_mean: float = 0.05
    """Mean of the exponential part of latency on top of the floor [seconds]."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not (np.isfinite(value) and value >= 0):
                raise InputError(f"costs.{field.name} must be finite and not negative, got {value!r}")


@dataclasses.dataclass(frozen=True)
class TradingConfig:
    """How a product's agent may trade."""

    capital: float | None = None
    """Capital of the whole portfolio [currency]; by default what an equal share of it lets each product hold is, for
    the median product, the lots that usually stand at the touch in the training part."""
    no_trade_band: float = 0.4
    """How far target and position must differ before an order is sent [fraction of the position limit]."""
    risk_aversion: float = 0.05
    """Penalty on the squared position fraction in the agents' reward, halved [standard deviations of a step]."""
    rewards: RewardConfig = RewardConfig()
    """The other terms of the agents' reward."""
    max_loss: float = 0.2
    """Loss at which an episode terminates [fraction of the agent's capital]."""
    closing_rows: int = 5
    """Rows before a session's end from which agents trade to a flat position [steps]."""

    def __post_init__(self) -> None:
        if self.capital is not None and not (np.isfinite(self.capital) and self.capital > 0):
            raise InputError(f"trading.capital must be positive, got {self.capital!r}")
        if self.closing_rows < 1:
            raise InputError(f"trading.closing_rows must be at least 1, got {self.closing_rows}")
        if not 0 <= self.no_trade_band < 1:
            raise InputError(f"trading.no_trade_band must lie within 0 to 1, got {self.no_trade_band!r}")
        if not (np.isfinite(self.max_loss) and self.max_loss > 0 and self.risk_aversion >= 0):
            raise InputError("trading.max_loss must be positive and trading.risk_aversion not negative")


def tape(data: MarketData) -> Tape:
    """The tapes of all products: `ladder` int32[T, P, 2, 2K], `mark` int32[T, P, 3].

    The mid's change on the last row is 0.
    """
    mid = data.double_mid
    move = jnp.diff(mid, axis=0, append=mid[-1:])
    last = jnp.diff(data.session, append=data.session[-1:] + 1) != 0
    last = jnp.broadcast_to(last[:, None], mid.shape).astype(jnp.int32)
    return Tape(ladder=ladders(data), mark=jnp.stack([mid, move, last], axis=-1))


def check_positive(data: MarketData) -> None:
    """Raise InputError for the first mid that is not positive: it has no return and buys no share of capital."""
    mid = np.asarray(data.double_mid)
    if (mid <= 0).any():
        t, p = np.argwhere(mid <= 0)[0]
        raise InputError(
            f"product {data.products[p].name!r} has a mid of {mid[t, p] / 2:g} ticks at step {t}: returns and shares "
            "of capital need positive prices"
        )


def check_countable(data: MarketData, lots: np.ndarray) -> None:
    """Raise InputError where positions of `lots` (float[P]) are too large for an account to count a step of them."""
    mid = np.asarray(data.double_mid, np.float64)
    reach = np.abs(np.diff(mid, axis=0)).max(axis=0, initial=1.0)
    for side in (data.ask_price, data.bid_price):
        # The dearest lot of an order costs this much beyond the mid.
        reach = np.maximum(reach, np.abs(2.0 * np.asarray(side)[..., -1] - mid).max(axis=0))
    for product, most, n in zip(data.products, reach, lots, strict=True):
        if n >= 2**24 or n * most >= LARGEST_STEP:
            raise InputError(
                f"product {product.name!r}: a position of {n:.4g} lots against a move of {most:.4g} half ticks is more "
                "than an account counts in one step; give the product a larger lot_size or lower --trading.capital"
            )


def session_bounds(session: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First row and end (exclusive) of the session each row lies in, int[T] each. `session` never decreases."""
    session = np.asarray(session)
    return np.searchsorted(session, session, "left"), np.searchsorted(session, session, "right")


def warmed_up(session: np.ndarray, warm_up: int) -> np.ndarray:
    """bool[T] rows that have at least `warm_up` rows of their session before them."""
    first, _ = session_bounds(session)
    return np.arange(len(first)) - first >= warm_up


def flat_rows(session: np.ndarray, warm_up: int, closing_rows: int) -> np.ndarray:
    """bool[T] rows on which agents must be flat: not warmed up yet, or the last `closing_rows` + 1 of a session.

    An order on a session's very last row would be marked overnight, so the close begins one row earlier.
    """
    _, end = session_bounds(session)
    return ~warmed_up(session, warm_up) | (end - np.arange(len(end)) <= closing_rows + 1)


def episode_starts(session: np.ndarray, warm: np.ndarray, episode_steps: int) -> np.ndarray:
    """int32[S] rows at which an episode may start: warmed up (bool[T]), and ending within its session."""
    _, end = session_bounds(session)
    return np.flatnonzero(warm & (np.arange(len(end)) + episode_steps < end)).astype(np.int32)


def cost_models(train: MarketData, config: CostConfig) -> CostModel:
    """The cost models of all products, leaves float32[P], estimated on the training part.

    Volatility is the standard deviation of the mid's moves within sessions; typical volume is the mean traded volume
    per step or, where the data hold no trades, the mean size at the touch.
    """
    moves, seconds = _within_session_moves(train)
    volatility = np.maximum(moves.std(axis=0), 0.5)
    traded = np.asarray(train.trade_volume).mean(axis=0)
    touch = _touch_size(train).mean(axis=0)
    per_product = [
        train.tick_values(),
        config.fee_rate,
        config.fee_per_lot,
        config.impact,
        volatility,
        np.where(traded > 0, traded, touch),
        config.latency_floor,
        config.latency_mean,
        np.median(seconds),
    ]
    return CostModel(*(jnp.broadcast_to(jnp.asarray(x, jnp.float32), (train.n_products,)) for x in per_product))


def default_capital(train: MarketData) -> float:
    """The portfolio's capital [currency] for which an equal share of it is, for the median product, the touch."""
    return float(np.median(np.median(_touch_size(train), axis=0) * _lot_value(train)) * train.n_products)


def position_limits(train: MarketData, capital: float) -> np.ndarray:
    """int32[P] lots that an equal share of `capital` buys at the training part's median mid.

    Raises InputError where that is less than one lot.
    """
    lots = capital / train.n_products / _lot_value(train)
    for product, n in zip(train.products, lots, strict=True):
        if n < 1:
            raise InputError(
                f"product {product.name!r}: an equal share of the capital {capital:.6g} buys no lot; one needs "
                f"--trading.capital of at least {capital / n:.6g}"
            )
    return np.floor(lots).astype(np.int32)


@dataclasses.dataclass(frozen=True)
class Rows:
    """A stretch of market with its features, and which of its rows may be traded."""

    data: MarketData
    features: jax.Array  # float32[T, P, F] scaled
    warm: np.ndarray  # bool[T] enough of the session lies behind the row
    flat: np.ndarray  # bool[T] agents must be flat

    @classmethod
    def of(cls, data: MarketData, features: jax.Array, warm_up: int, closing_rows: int) -> "Rows":
        """All rows of `data`; take a part of them with `part`, so that a session cut in two stays warm."""
        session = np.asarray(data.session)
        return cls(data, features, warmed_up(session, warm_up), flat_rows(session, warm_up, closing_rows))

    def part(self, rows: slice) -> "Rows":
        """The given rows."""
        return Rows(self.data.rows(rows.start, rows.stop), self.features[rows], self.warm[rows], self.flat[rows])


def replay_params(
    real: Rows,
    *,
    costs: CostModel,
    max_position: np.ndarray,
    trading: TradingConfig,
    episode_steps: int,
    synthetic: Rows | None = None,
    synthetic_fraction: float = 0.0,
) -> ReplayParams:
    """Replay params of every product, leaves with a leading axis P.

    Args:
        real: the rows to trade on; of the training part, where an agent learns on them.
        costs: see `cost_models`.
        max_position: int32[P] lots, see `position_limits`.
        episode_steps: the env's episode length [steps].
        synthetic: sessions of generated books to mix in.
        synthetic_fraction: probability that an episode is synthetic.

    Raises InputError where no session is long enough for an episode.
    """
    n_products = real.data.n_products
    check_countable(real.data, 2.0 * max_position)
    starts = _starts(real, episode_steps, "session")
    parts, synthetic_starts = [real], starts
    if synthetic is not None:
        parts.append(synthetic)
        synthetic_starts = real.data.n_steps + _starts(synthetic, episode_steps, "synthetic session")
    tapes = [tape(part.data) for part in parts]

    def shared(x: Any) -> jax.Array:
        return jnp.broadcast_to(jnp.asarray(x), (n_products, *np.shape(x)))

    capital = 0.5 * jnp.abs(tapes[0].mark[0, :, 0]) * costs.tick_value * max_position
    return ReplayParams(
        tape=jax.tree.map(lambda *x: jnp.moveaxis(jnp.concatenate(x), 1, 0), *tapes),
        features=jnp.moveaxis(jnp.concatenate([part.features for part in parts]), 1, 0),
        flat=shared(np.concatenate([part.flat for part in parts])),
        real_starts=shared(starts),
        synthetic_starts=shared(synthetic_starts),
        synthetic_fraction=shared(np.float32(synthetic_fraction if synthetic is not None else 0.0)),
        costs=costs,
        max_position=jnp.asarray(max_position),
        no_trade_band=shared(np.float32(trading.no_trade_band)),
        reward_scale=costs.tick_value * costs.volatility * max_position,
        rewards=jax.tree.map(shared, trading.rewards.weights(inventory=trading.risk_aversion)),
        capital=capital,
        max_loss=trading.max_loss * capital,
    )


def _starts(rows: Rows, episode_steps: int, what: str) -> np.ndarray:
    session = np.asarray(rows.data.session)
    starts = episode_starts(session, rows.warm, episode_steps)
    if len(starts) == 0:
        raise InputError(
            f"no {what} is long enough for an episode of {episode_steps} steps after the features' warm-up: the "
            f"longest has {np.unique(session, return_counts=True)[1].max()} rows, {int(rows.warm.sum())} rows are warm"
        )
    return starts


def _within_session_moves(data: MarketData) -> tuple[np.ndarray, np.ndarray]:
    """Changes of the mid between rows of one session, float64[N, P] ticks, and the seconds they took, float64[N]."""
    same = np.diff(np.asarray(data.session)) == 0
    if not same.any():
        raise InputError("the training part has no two rows in one session; use a finer grid or more data")
    moves = 0.5 * np.diff(np.asarray(data.double_mid).astype(np.float64), axis=0)[same]
    return moves, np.diff(np.asarray(data.seconds).astype(np.float64))[same]


def _touch_size(data: MarketData) -> np.ndarray:
    """Mean size of the best bid and the best ask, float64[T, P] lots."""
    return 0.5 * (np.asarray(data.bid_size)[..., 0] + np.asarray(data.ask_size)[..., 0]).astype(np.float64)


def _lot_value(data: MarketData) -> np.ndarray:
    """Value of one lot at the median mid, float64[P] currency."""
    return np.abs(np.median(0.5 * np.asarray(data.double_mid), axis=0)) * data.tick_values()
