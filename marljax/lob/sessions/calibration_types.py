"""What a model of order flow is calibrated with: the statistics of one session, by name, and their JSON form.

Rates by distance follow Cont, Stoikov & Talreja (2010), who count from the opposite best quote, and Smith, Farmer,
Gillemot & Krishnamurthy (2003); the same orders are also counted from the best quote of their own side. Distances are
measured in the book as it stood before the event. `marljax.lob.sessions.calibration` estimates them.
"""

import dataclasses
import typing
from typing import Any

import numpy as np

from marljax.data.schema import InputError


@dataclasses.dataclass(frozen=True)
class Placement:
    """Events per second by side and place. First axis: buy orders, sell orders; D distances in ticks, L levels.

    An order at `own` index k lies k ticks behind the best quote of its side; at `improving` index k it beats that quote
    by k + 1 ticks; at `opposite` index k it lies k + 1 ticks from the best quote of the other side. What lies
    deeper than D counts in the totals only: limit_rate = sum of improving and own, and the rest.
    """

    limit_rate: np.ndarray  # float64[2] orders/s
    market_rate: np.ndarray  # float64[2] orders/s, side of the incoming order; its fills are one order
    cancel_rate: np.ndarray  # float64[2] orders/s, partial cancellations too
    hidden_rate: np.ndarray  # float64[2] executions/s against hidden orders, side of the incoming order
    limit_improving: np.ndarray  # float64[2, D] orders/s
    limit_own: np.ndarray  # float64[2, D] orders/s
    limit_opposite: np.ndarray  # float64[2, D] orders/s
    cancel_own: np.ndarray  # float64[2, D] orders/s
    cancel_opposite: np.ndarray  # float64[2, D] orders/s
    limit_level: np.ndarray  # float64[2, L] orders/s, level of the price after the order rests
    cancel_level: np.ndarray  # float64[2, L] orders/s, level of the price before the cancellation
    lots_own: np.ndarray  # float64[2, D] lots resting, mean over the time in which the distance was recorded
    recorded: np.ndarray  # float64[2, D] share of time in which the distance lay within the recorded levels
    cancel_hazard: np.ndarray  # float64[2, D] 1/s at which a resting lot is cancelled; NaN where none was recorded


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Sizes of orders [lots]. Rows: limit, market, cancel."""

    quantiles: np.ndarray  # float64[3, Q] at FlowStatistics.probabilities
    log_mean: np.ndarray  # float64[3] of the log of the size
    log_sd: np.ndarray  # float64[3]
    round_sizes: np.ndarray  # int64[R] lots, sizes that stand out
    round_mass: np.ndarray  # float64[3, R] share of orders of exactly that size
    market_equals_touch: float  # share of market orders that take exactly the size at the best quote
    market_exceeds_touch: float  # share of market orders that take more


@dataclasses.dataclass(frozen=True)
class Improvement:
    """Limit orders inside the spread, by the spread they meet. B bins; the last is open."""

    spread_from: np.ndarray  # int64[B] ticks, smallest spread of the bin
    probability: np.ndarray  # float64[B] share of limit orders that beat their own side's best quote
    orders: np.ndarray  # int64[B] limit orders in the bin
    fraction_quantiles: np.ndarray  # float64[Q] ticks of improvement / (spread - 1), in (0, 1]


@dataclasses.dataclass(frozen=True)
class Arrivals:
    """The rhythm of messages of any kind. A burst is a run of messages less than 1 ms apart."""

    gap_quantiles: np.ndarray  # float64[Q] s between messages
    gap_cv: float  # standard deviation / mean
    gap_below_millisecond: float  # share
    burst_rate: float  # bursts/s
    burst_size_mean: float  # messages
    burst_size_quantiles: np.ndarray  # float64[Q] messages
    profile: np.ndarray  # float64[H] messages per half hour of the session / their mean; H = 1 if it is shorter


@dataclasses.dataclass(frozen=True)
class Trading:
    """Market orders in sequence, and the spread they meet."""

    sign_autocorrelation: np.ndarray  # float64[20] of the signs of market orders, lags 1..20
    spread_quantiles: np.ndarray  # float64[Q] ticks, weighted by time
    touch_size_quantiles: np.ndarray  # float64[Q] lots at the best quotes, weighted by time


HAWKES_TYPES = ("limit_buy", "limit_sell", "market_buy", "market_sell", "cancel_buy", "cancel_sell")
"""Event types of the Hawkes fit: the side of the order itself, of a market order that of who sends it."""


@dataclasses.dataclass(frozen=True)
class HawkesStatistics:
    """A multivariate Hawkes process with exponential kernels of K fixed decays (Hawkes 1971).

    intensity_i(t) = baseline[i] + sum over k, j, events s < t of type j: branching[k, i, j] decay[k]
        exp(-decay[k] (t - s))
    """

    decay: np.ndarray  # float64[K] 1/s
    baseline: np.ndarray  # float64[6] events/s
    branching: np.ndarray  # float64[K, 6, 6] events of type i that one of type j causes on average
    branching_ratio: float  # spectral radius of the sum of `branching` over k, < 1
    log_likelihood: float  # nats per event


@dataclasses.dataclass(frozen=True)
class FlowStatistics:
    """Everything a model of order flow can be calibrated with, from one session."""

    product: str
    seconds: float  # s observed
    messages: int
    tick_size: float  # currency
    probabilities: np.ndarray  # float64[Q] of all the quantiles
    placement: Placement
    sizes: Sizes
    improvement: Improvement
    arrivals: Arrivals
    trading: Trading
    hawkes: HawkesStatistics

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; arrays become lists and NaN null."""
        return _to_json(self)

    @classmethod
    def from_json(cls, value: Any) -> "FlowStatistics":
        """What `to_json` gave. Raises InputError for a key that is missing, unknown or of another type."""
        return _from_json(cls, value, "FlowStatistics")


def _to_json(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {field.name: _to_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, np.ndarray):
        return [_to_json(item) for item in value.tolist()]
    if isinstance(value, list):
        return [_to_json(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _array(value: Any, where: str) -> np.ndarray:
    try:
        array = np.asarray(value)
        # NaN was written as null, which makes an array of objects.
        array = array.astype(np.float64) if array.dtype == object else array
    except (TypeError, ValueError):
        array = np.asarray(where)
    if array.dtype.kind not in "if" or array.ndim == 0:
        raise InputError(f"{where} must be an array of numbers")
    return array


def _from_json(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        hints = typing.get_type_hints(hint)
        if not isinstance(value, dict) or value.keys() != hints.keys():
            difference = sorted(set(value) ^ hints.keys()) if isinstance(value, dict) else "not an object"
            raise InputError(f"{where} does not have the keys of this version: {difference}")
        return hint(**{name: _from_json(hints[name], value[name], f"{where}.{name}") for name in hints})  # type: ignore[operator]
    if hint is np.ndarray:
        return _array(value, where)
    if hint is float and value is None:
        return np.nan
    if not isinstance(value, (int, float) if hint is float else hint) or isinstance(value, bool):
        raise InputError(f"{where} must be {hint.__name__}, got {value!r}")
    return hint(value)
