"""Estimates of order flow from one session: how often, where, how large and in what rhythm orders come and go.

Everything is NumPy on the host. An event is placed in the book as it stood before it, so the session's first event only
sets the scene. What the levels of the session do not reach was never recorded: rates at a distance are per second
of the whole session, and `Placement.recorded` says for what share of it that distance was in view.
"""

from collections.abc import Sequence

import numpy as np

from marljax.data.schema import InputError
from marljax.lob.sessions.calibration_types import Arrivals, FlowStatistics, Improvement, Placement, Sizes, Trading
from marljax.lob.sessions.hawkes_fit import fit_session
from marljax.lob.sessions.session import EventKind, Session, market_orders

__all__ = ["FlowStatistics", "calibrate"]

PROBABILITIES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
SPREADS_FROM = (1, 2, 3, 5, 8, 12, 18, 25, 35, 50)
ROUND_SIZES = (1, 10, 50, 100, 200, 300, 400, 500, 1000)
DECAYS = (0.1, 10.0, 1000.0, 10000.0)
"""Of the Hawkes kernels [1/s]: what follows within ten seconds, a tenth, a millisecond and a tenth of that."""
_BURST = 1e-3
_HALF_HOUR = 1800.0
_SIGN_LAGS = 20


def calibrate(
    session: Session, *, tick_size: float = 0.01, max_distance: int = 100, decays: Sequence[float] = DECAYS
) -> FlowStatistics:
    """Everything about the session's order flow.

    Args:
        session: at least one limit order, market order and cancellation of each side.
        tick_size: of a price [currency].
        max_distance: distances 0..max_distance-1 [ticks] are told apart.
        decays: of the Hawkes process' kernels [1/s].

    Raises:
        InputError: a kind of order is missing, or an argument is out of range.
    """
    if max_distance < 1:
        raise InputError(f"max_distance must be a positive number of ticks, got {max_distance!r}")
    _, sign, _ = market_orders(session)
    for name, sides in (
        ("limit order", session.side[session.kind == EventKind.LIMIT]),
        ("market order", sign),
        ("cancellation", session.side[session.kind == EventKind.CANCEL]),
    ):
        if len(np.unique(sides)) < 2:
            raise InputError(f"a flow is calibrated with both sides of every kind of order, and a {name} is missing")
    return FlowStatistics(
        product=session.product,
        seconds=float(session.duration),
        messages=len(session),
        tick_size=float(tick_size),
        probabilities=np.array(PROBABILITIES),
        placement=placement(session, max_distance),
        sizes=order_sizes(session),
        improvement=improvement(session),
        arrivals=arrivals(session),
        trading=trading(session),
        hawkes=fit_session(session, decays),
    )


def placement(session: Session, max_distance: int) -> Placement:
    """Rates of orders by side, distance and level, the mean depth by distance, and the hazard of cancellation."""
    s, duration = session, session.duration
    limits, cancels = (_placed(s, kind) for kind in (EventKind.LIMIT, EventKind.CANCEL))
    own_limit, opposite_limit = _distances(s, limits)
    own_cancel, opposite_cancel = _distances(s, cancels)
    lots_seconds, seconds = _resting(s, max_distance)
    cancelled = _by_side(s.side[cancels], own_cancel, max_distance, weights=s.size[cancels])
    _, sign, _ = market_orders(s)
    hidden = s.kind == EventKind.HIDDEN
    with np.errstate(divide="ignore", invalid="ignore"):
        lots = np.where(seconds > 0, lots_seconds / seconds, 0.0)
        hazard = np.where(lots_seconds > 0, cancelled / lots_seconds, np.nan)
    return Placement(
        limit_rate=_sides(s.side[s.kind == EventKind.LIMIT]) / duration,
        market_rate=_sides(sign) / duration,
        cancel_rate=_sides(s.side[s.kind == EventKind.CANCEL]) / duration,
        hidden_rate=_sides(-s.side[hidden]) / duration,
        limit_improving=_by_side(s.side[limits], -own_limit - 1, max_distance) / duration,
        limit_own=_by_side(s.side[limits], own_limit, max_distance) / duration,
        limit_opposite=_by_side(s.side[limits], opposite_limit - 1, max_distance) / duration,
        cancel_own=_by_side(s.side[cancels], own_cancel, max_distance) / duration,
        cancel_opposite=_by_side(s.side[cancels], opposite_cancel - 1, max_distance) / duration,
        limit_level=_by_side(s.side[limits], _level(s, limits, limits), s.bid_price.shape[1]) / duration,
        cancel_level=_by_side(s.side[cancels], _level(s, cancels, cancels - 1), s.bid_price.shape[1]) / duration,
        lots_own=lots,
        recorded=seconds / duration,
        cancel_hazard=hazard,
    )


def order_sizes(session: Session) -> Sizes:
    """Sizes of limit orders, market orders and cancellations, and of market orders against the quote they meet."""
    first, sign, market = market_orders(session)
    samples = (session.size[session.kind == EventKind.LIMIT], market, session.size[session.kind == EventKind.CANCEL])
    known = first > 0
    before = first[known] - 1
    touch = np.where(sign[known] > 0, session.ask_size[before, 0], session.bid_size[before, 0])
    return Sizes(
        quantiles=np.stack([np.quantile(sample, PROBABILITIES) for sample in samples]),
        log_mean=np.array([np.log(sample).mean() for sample in samples]),
        log_sd=np.array([np.log(sample).std() for sample in samples]),
        round_sizes=np.array(ROUND_SIZES),
        round_mass=np.stack([(sample[:, None] == ROUND_SIZES).mean(0) for sample in samples]),
        market_equals_touch=float(np.mean(market[known] == touch)),
        market_exceeds_touch=float(np.mean(market[known] > touch)),
    )


def improvement(session: Session) -> Improvement:
    """How often and how far limit orders beat the best quote of their side, by the spread they meet."""
    limits = _placed(session, EventKind.LIMIT)
    own, opposite = _distances(session, limits)
    spread = opposite - own
    which = np.searchsorted(SPREADS_FROM, spread, side="right") - 1
    orders = np.bincount(which, minlength=len(SPREADS_FROM))
    better = np.bincount(which[own < 0], minlength=len(SPREADS_FROM))
    inside = own < 0
    fraction = -own[inside] / (spread[inside] - 1)
    return Improvement(
        spread_from=np.array(SPREADS_FROM),
        probability=np.where(orders > 0, better / np.maximum(orders, 1), np.nan),
        orders=orders,
        fraction_quantiles=_quantiles(fraction),
    )


def arrivals(session: Session) -> Arrivals:
    """The times between messages, their bursts and their profile over the session."""
    gaps = np.diff(session.seconds)
    begins = np.concatenate([[0], np.flatnonzero(gaps >= _BURST) + 1])
    bursts = np.diff(np.append(begins, len(session)))
    parts = max(1, round(session.duration / _HALF_HOUR))
    counts = np.histogram(session.seconds, np.linspace(0, session.duration, parts + 1))[0]
    return Arrivals(
        gap_quantiles=np.quantile(gaps, PROBABILITIES),
        gap_cv=float(gaps.std() / gaps.mean()) if gaps.any() else np.nan,
        gap_below_millisecond=float(np.mean(gaps < _BURST)),
        burst_rate=len(bursts) / session.duration,
        burst_size_mean=float(bursts.mean()),
        burst_size_quantiles=np.quantile(bursts, PROBABILITIES),
        profile=counts / counts.mean(),
    )


def trading(session: Session) -> Trading:
    """The persistence of market orders' signs, and spread and sizes at the touch over time."""
    _, sign, _ = market_orders(session)
    centred = sign - sign.mean()
    variance = np.mean(centred**2)
    signs = [
        np.mean(centred[lag:] * centred[:-lag]) / variance if len(sign) > lag + 1 else np.nan
        for lag in range(1, _SIGN_LAGS + 1)
    ]
    held, two_sided = _held(session), session.two_sided()
    spread = (session.ask_price[:, 0] - session.bid_price[:, 0])[two_sided]
    sizes = np.concatenate([session.bid_size[two_sided, 0], session.ask_size[two_sided, 0]])
    return Trading(
        sign_autocorrelation=np.array(signs),
        spread_quantiles=_quantiles(spread, held[two_sided]),
        touch_size_quantiles=_quantiles(sizes, np.tile(held[two_sided], 2)),
    )


def _placed(session: Session, kind: int) -> np.ndarray:
    """int64[m] rows of a kind that met a two-sided book."""
    rows = np.flatnonzero(session.kind == kind)
    rows = rows[rows > 0]
    return rows[session.two_sided()[rows - 1]]


def _distances(session: Session, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int64[m] ticks of the prices behind the best quote of their own side, and from that of the other one."""
    side, price = session.side[rows].astype(np.int64), session.price[rows].astype(np.int64)
    bid, ask = session.bid_price[rows - 1, 0], session.ask_price[rows - 1, 0]
    own, opposite = np.where(side > 0, bid, ask), np.where(side > 0, ask, bid)
    return side * (own - price), side * (opposite - price)


def _level(session: Session, events: np.ndarray, books: np.ndarray) -> np.ndarray:
    """int64[m] level at which the price of `events` stands in `books` (rows), -1 where it is not in view."""
    buy = (session.side[events] > 0)[:, None]
    price = np.where(buy, session.bid_price[books], session.ask_price[books])
    size = np.where(buy, session.bid_size[books], session.ask_size[books])
    found = (price == session.price[events][:, None]) & (size > 0)
    return np.where(found.any(1), found.argmax(1), -1)


def _resting(session: Session, max_distance: int) -> tuple[np.ndarray, np.ndarray]:
    """float64[2, D] lot-seconds resting at each distance behind the best quote, and seconds it was in view for."""
    held = _held(session)
    lots_seconds, seconds = np.zeros((2, max_distance)), np.zeros((2, max_distance))
    for i, (price, size, sign) in enumerate(
        ((session.bid_price, session.bid_size, 1), (session.ask_price, session.ask_size, -1))
    ):
        present = size > 0
        distance = np.where(present, sign * (price[:, :1] - price), 0)
        inside = present & (distance < max_distance)
        weight = size * held[:, None]
        lots_seconds[i] = np.bincount(distance[inside], weights=weight[inside], minlength=max_distance)
        # Where a level is absent, the side has no more to show: every distance is in view.
        deepest = np.where(present.all(1), np.minimum(distance.max(1), max_distance - 1), max_distance - 1)
        ends = np.bincount(deepest, weights=np.where(present[:, 0], held, 0), minlength=max_distance)
        seconds[i] = np.cumsum(ends[::-1])[::-1]
    return lots_seconds, seconds


def _held(session: Session) -> np.ndarray:
    """float64[n] seconds for which the book stood as it was after each event."""
    return np.diff(session.seconds, append=session.duration)


def _sides(side: np.ndarray) -> np.ndarray:
    return np.array([np.sum(side > 0), np.sum(side < 0)], np.float64)


def _by_side(side: np.ndarray, index: np.ndarray, size: int, weights: np.ndarray | None = None) -> np.ndarray:
    """float64[2, size] counts, or sums of `weights`, by side (buy, sell) and index; indices outside are left out."""
    inside = (index >= 0) & (index < size)
    flat = np.where(side > 0, 0, size)[inside] + index[inside]
    counts = np.bincount(flat, weights=None if weights is None else weights[inside], minlength=2 * size)
    return counts.reshape(2, size).astype(np.float64)


def _quantiles(sample: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """float64[Q] quantiles at PROBABILITIES; under `weights` the smallest values that reach them. NaN if empty."""
    if not len(sample):
        return np.full(len(PROBABILITIES), np.nan)
    if weights is None:
        return np.quantile(sample, PROBABILITIES)
    order = np.argsort(sample, kind="stable")
    reached = np.cumsum(weights[order])
    return sample[order][np.searchsorted(reached, np.array(PROBABILITIES) * reached[-1])].astype(np.float64)
