"""The named features: what each one computes for one product, and how long its windows are."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from marljax.data.schema import InputError
from marljax.features import classic, microstructure, returns, volume
from marljax.features.relative_value import residual_z_score


@dataclasses.dataclass(frozen=True)
class FeatureConfig:
    """Which features, over which windows. A step is one row of the data's time grid."""

    names: tuple[str, ...] = (
        "log_return",
        "volatility",
        "volatility_ratio",
        "rsi",
        "macd",
        "macd_histogram",
        "z_score",
        "spread",
        "imbalance",
        "depth_imbalance",
        "microprice",
        "order_flow_imbalance",
        "depth_order_flow_imbalance",
        "depth_volatility",
        "relative_volume",
        "signed_flow",
        "relative_value",
        "time_of_session",
    )
    """Features in the order of the last axis, names from the registry."""
    volatility_window: int = 50
    """Window of the short volatility, by which MACD is divided too [steps]."""
    long_volatility_window: int = 500
    """Window of the volatility that the short one is compared with [steps]."""
    rsi_period: int = 14
    """Period of the relative strength index [steps]."""
    macd_fast: int = 12
    """Period of the fast average of MACD [steps]."""
    macd_slow: int = 26
    """Period of the slow average of MACD [steps]."""
    macd_signal: int = 9
    """Period of the signal line of MACD [steps]."""
    z_score_window: int = 100
    """Window of the mean and deviation of the mid [steps]."""
    flow_window: int = 10
    """Window over which order flow and trades are added up [steps]."""
    liquidity_window: int = 200
    """Window of the usual depth and volume that flow is compared with [steps]."""
    relative_value_horizon: int = 10
    """Price changes over this many steps fit the relative-value relation [steps]."""
    relative_value_ridge: float = 0.01
    """Ridge penalty of that regression, relative to the unit variance of a regressor."""
    relative_value_span: int = 5000
    """Span of the slow average that the relative-value residual is measured from [steps]."""
    session_seconds: float | None = None
    """Length of a session [s]; None takes the longest of the training part."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.names if name not in REGISTRY]
        if unknown:
            raise InputError(f"unknown features {unknown}, known are {sorted(REGISTRY)}")
        if not self.names or len(set(self.names)) != len(self.names):
            raise InputError("feature names must be at least one and all different")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type in (int, "int") and not 1 <= value < 2**20:
                raise InputError(f"features: {field.name} must lie in 1..2**20 steps, got {value}")
        if self.macd_fast >= self.macd_slow or self.volatility_window >= self.long_volatility_window:
            raise InputError("features: a fast period or short window must be shorter than its slow one")
        if self.flow_window > self.liquidity_window:
            raise InputError("features: flow_window must not be longer than liquidity_window")
        if self.relative_value_ridge <= 0 or not (self.session_seconds is None or self.session_seconds > 0):
            raise InputError("features: relative_value_ridge and session_seconds must be positive")


class ProductView(NamedTuple):
    """One product's rows, as features see them. Leaves are int32 as in MarketData, or float32 for gradients."""

    bid_price: jax.Array  # int32[T, K] ticks
    ask_price: jax.Array  # int32[T, K] ticks
    bid_size: jax.Array  # int32[T, K] lots
    ask_size: jax.Array  # int32[T, K] lots
    trade_volume: jax.Array  # int32[T] lots
    trade_imbalance: jax.Array  # int32[T] lots
    residual: jax.Array  # float32[T] relative-value residual in training deviations
    age: jax.Array  # int32[T] steps since the product's session began
    seconds: jax.Array  # float32[T] since the session's start
    session_seconds: jax.Array  # float32[] length of a session

    @property
    def double_mid(self) -> jax.Array:
        """int32[T] half ticks."""
        return self.bid_price[:, 0] + self.ask_price[:, 0]


class Feature(NamedTuple):
    """A registered feature."""

    compute: Callable[[ProductView, FeatureConfig], jax.Array]
    """float32[T] of one product, causal and finite."""
    window: Callable[[FeatureConfig], int]
    """Steps into a session until its longest window is full."""


def _macd(view: ProductView, c: FeatureConfig) -> tuple[jax.Array, jax.Array, jax.Array]:
    return classic.macd(view.double_mid, view.age, c.macd_fast, c.macd_slow, c.macd_signal, c.volatility_window)


def _macd_window(c: FeatureConfig) -> int:
    return max(c.macd_slow + c.macd_signal - 2, c.volatility_window)


def _order_flow_imbalance(view: ProductView, c: FeatureConfig, levels: int) -> jax.Array:
    book = (view.bid_price, view.ask_price, view.bid_size, view.ask_size)
    return microstructure.order_flow_imbalance(
        *book, view.age, levels=levels, window=c.flow_window, depth_window=c.liquidity_window
    )


REGISTRY: dict[str, Feature] = {
    "log_return": Feature(lambda v, c: returns.log_returns(v.double_mid, v.age), lambda c: 1),
    "volatility": Feature(
        lambda v, c: returns.rolling_volatility(v.double_mid, v.age, c.volatility_window),
        lambda c: c.volatility_window,
    ),
    "volatility_ratio": Feature(
        lambda v, c: returns.volatility_ratio(v.double_mid, v.age, c.volatility_window, c.long_volatility_window),
        lambda c: c.long_volatility_window,
    ),
    "rsi": Feature(lambda v, c: classic.rsi(v.double_mid, v.age, c.rsi_period), lambda c: c.rsi_period),
    "macd": Feature(lambda v, c: _macd(v, c)[0], _macd_window),
    "macd_signal": Feature(lambda v, c: _macd(v, c)[1], _macd_window),
    "macd_histogram": Feature(lambda v, c: _macd(v, c)[2], _macd_window),
    "z_score": Feature(
        lambda v, c: classic.z_score(v.double_mid, v.age, c.z_score_window), lambda c: c.z_score_window - 1
    ),
    "spread": Feature(lambda v, c: microstructure.spread(v.bid_price, v.ask_price), lambda c: 0),
    "imbalance": Feature(lambda v, c: microstructure.imbalance(v.bid_size, v.ask_size, 1), lambda c: 0),
    "depth_imbalance": Feature(
        lambda v, c: microstructure.imbalance(v.bid_size, v.ask_size, v.bid_size.shape[1]), lambda c: 0
    ),
    "microprice": Feature(
        lambda v, c: microstructure.microprice_offset(v.bid_price, v.ask_price, v.bid_size, v.ask_size), lambda c: 0
    ),
    "order_flow_imbalance": Feature(
        lambda v, c: _order_flow_imbalance(v, c, levels=1), lambda c: max(c.flow_window, c.liquidity_window - 1)
    ),
    "depth_order_flow_imbalance": Feature(
        lambda v, c: _order_flow_imbalance(v, c, levels=v.bid_size.shape[1]),
        lambda c: max(c.flow_window, c.liquidity_window - 1),
    ),
    "depth_volatility": Feature(
        lambda v, c: microstructure.depth_volatility(v.bid_size, v.ask_size, v.age, c.liquidity_window),
        lambda c: c.liquidity_window - 1,
    ),
    "relative_volume": Feature(
        lambda v, c: volume.relative_volume(v.trade_volume, v.age, c.flow_window, c.liquidity_window),
        lambda c: c.liquidity_window,
    ),
    "signed_flow": Feature(
        lambda v, c: volume.signed_flow(v.trade_volume, v.trade_imbalance, v.age, c.flow_window),
        lambda c: c.flow_window,
    ),
    "relative_value": Feature(lambda v, c: residual_z_score(v.residual, v.age, c.relative_value_span), lambda c: 0),
    "time_of_session": Feature(lambda v, c: jnp.clip(v.seconds / v.session_seconds, 0.0, 1.0), lambda c: 0),
}


MEANINGS: dict[str, str] = {
    "log_return": "log return of the mid since the row before",
    "volatility": "standard deviation of log returns over a short window",
    "volatility_ratio": "log of short over long volatility",
    "rsi": "relative strength index (Wilder), centred",
    "macd": "fast less slow average of the mid, in units of volatility",
    "macd_signal": "average of MACD",
    "macd_histogram": "MACD less its average",
    "z_score": "distance of the mid from its trailing mean, in trailing deviations",
    "spread": "best ask less best bid",
    "imbalance": "bid less ask size at the touch, over their sum",
    "depth_imbalance": "the same over all visible levels",
    "microprice": "mid weighted by the size of the other side, less the mid",
    "order_flow_imbalance": "net flow of orders at the touch (Cont, Kukanov and Stoikov 2014)",
    "depth_order_flow_imbalance": "the same over all visible levels",
    "depth_volatility": "variability of visible depth",
    "relative_volume": "recent traded volume against its trailing mean",
    "signed_flow": "bought less sold volume over traded volume, recently",
    "relative_value": "residual of the price against the other products', as fitted on the training part",
    "time_of_session": "share of the session that has passed",
}
"""What each feature is, in a few words."""


def warm_up_steps(config: FeatureConfig) -> int:
    """Steps after a session's first row until every window of these features is full."""
    return max(REGISTRY[name].window(config) for name in config.names)
