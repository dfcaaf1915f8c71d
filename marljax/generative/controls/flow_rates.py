"""Rates of a zero-intelligence flow, from books on a time grid or, better, from every message of a session.

Limit orders are counted in lots by their distance from the opposite best quote, cancellations per lot that rests there.
Both sides are pooled. Books on a grid show net changes only: a lot that came and went between two rows was never seen,
and what is known of its lifetime corrects the counts as if lots came and went independently.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import scipy.optimize

from marljax.data.schema import InputError, MarketData
from marljax.generative.books import decompose
from marljax.generative.controls.sessions import step_seconds
from marljax.lob.flows.zero_intelligence import ZeroIntelligenceParams
from marljax.lob.sessions.session import EventKind, Session, market_orders

_DISTANCES = 1000
"""Most distances told apart [ticks]."""
_IN_VIEW = 0.05
"""Least share of time for which a distance must be in view to count."""
_SIZES = 20
"""Sizes that stand for all, equally likely."""
_SPARE = 1.5
"""Length of the line that cancellations point at, in what rests on it at the fitted rates."""
_LARGEST_SHARE = 0.98
"""Share of the lots at a distance that a step can be seen to cancel; more is too fast for the grid."""


class Counts(NamedTuple):
    """What both sides of one product show together. D distances, d + 1 ticks from the opposite best quote."""

    arrived: np.ndarray  # float64[D] lots of limit orders
    cancelled: np.ndarray  # float64[D] lots
    rested: np.ndarray  # float64[D] lots times seconds
    viewed: np.ndarray  # float64[D] seconds, of each side
    traded: float  # lots of market orders
    seconds: float  # of each side
    sizes: np.ndarray  # float64[m] lots of single limit orders
    reference: int  # ticks


def fit_flow(training: MarketData, product: int = 0) -> ZeroIntelligenceParams:
    """The flow of one product, from its books and traded volumes of the training part's rows that continue each other.

    Raises InputError where nothing arrived, nothing traded or no distance was in view.
    """
    _, joined = decompose(training)
    after = np.flatnonzero(joined)
    if not len(after):
        raise InputError("the training part has no row that continues the one before")
    step = step_seconds(training, joined)
    prices = np.stack([training.bid_price[:, product], training.ask_price[:, product]]).astype(np.int64)
    sizes = np.stack([training.bid_size[:, product], training.ask_size[:, product]]).astype(np.int64)
    volume, imbalance = (np.asarray(x)[after, product] for x in (training.trade_volume, training.trade_imbalance))
    # Takers who sell meet bids; of trades with unknown side half are taken to.
    hit = np.stack([volume - imbalance, volume + imbalance]) / 2
    arrived, cancelled, rested, viewed = np.zeros((4, _DISTANCES))
    single = []
    for side, sign in enumerate((1, -1)):
        price, size, opposite = sign * prices[side], sizes[side], sign * prices[1 - side][:, 0]
        came, went, both = _changes(price[after - 1], size[after - 1], price[after], size[after])
        taken = np.clip(hit[side][:, None] - (np.cumsum(went, axis=1) - went), 0, went)
        before, now = opposite[after - 1, None] - price[after - 1], opposite[after, None] - price[after]
        arrived += _by_distance(now, came)
        cancelled += _by_distance(before, went - taken)
        rested += step * _by_distance(before, size[after - 1] * both)
        viewed += step * _in_view(before, size[after - 1])
        single.append(came[came > 0])
    total = 2 * step * len(after)
    share = np.divide(cancelled * step, rested, out=np.zeros(_DISTANCES), where=rested > 0)
    # A lot with the hazard h is gone after a step with probability 1 - exp(-h step); what came since is missing alike.
    gone = -np.log1p(-np.minimum(share, _LARGEST_SHARE))
    unseen = np.divide(gone, -np.expm1(-gone), out=np.ones(_DISTANCES), where=gone > 1e-9)
    counts = Counts(
        arrived=arrived * unseen,
        cancelled=gone / step * rested,
        rested=rested,
        viewed=viewed,
        traded=float(volume.sum()),
        seconds=total,
        sizes=np.concatenate(single),
        reference=int(np.median(prices[0][:, 0])),
    )
    return _params(counts, training.products[product].name)


def fit_flow_of_messages(sessions: Sequence[Session]) -> ZeroIntelligenceParams:
    """The flow of one product from every message of the training part: pieces of one or several days, pooled.

    Events are placed in the book before them, so a piece's first one only sets the scene. Raises InputError where
    nothing arrived, nothing traded or no distance was in view.
    """
    if not sessions:
        raise InputError("a flow needs at least one session of messages")
    pieces = [_count_messages(session) for session in sessions]
    pooled = Counts(
        **{name: sum(getattr(piece, name) for piece in pieces) for name in Counts._fields[:6]},
        sizes=np.concatenate([piece.sizes for piece in pieces]),
        reference=int(np.median([piece.reference for piece in pieces])),
    )
    return _params(pooled, sessions[0].product)


def _count_messages(session: Session) -> Counts:
    two_sided = session.two_sided()
    placed = np.append(False, two_sided[:-1])
    before = np.maximum(np.arange(len(session)) - 1, 0)
    side = session.side.astype(np.int64)
    opposite = np.where(side > 0, session.ask_price[before, 0], session.bid_price[before, 0])
    distance = side * (opposite - session.price)
    limits, cancels = (placed & (session.kind == kind) for kind in (EventKind.LIMIT, EventKind.CANCEL))
    held = np.where(two_sided, np.diff(session.seconds, append=session.duration), 0.0)
    rested, viewed = np.zeros((2, _DISTANCES))
    for price, size, other in (
        (session.bid_price, session.bid_size, session.ask_price[:, :1]),
        (session.ask_price, session.ask_size, session.bid_price[:, :1]),
    ):
        away = np.abs(other.astype(np.int64) - price)
        rested += _by_distance(away, size * held[:, None])
        viewed += _in_view(away, size, held)
    return Counts(
        arrived=_by_distance(distance[limits], session.size[limits]),
        cancelled=_by_distance(distance[cancels], session.size[cancels]),
        rested=rested,
        viewed=viewed,
        traded=float(market_orders(session)[2].sum()),
        seconds=2 * float(held.sum()),
        sizes=session.size[limits].astype(np.float64),
        reference=int(np.median(session.bid_price[two_sided, 0])) if two_sided.any() else 0,
    )


def _params(counts: Counts, name: str) -> ZeroIntelligenceParams:
    """Rates of one side from what both sides showed together."""
    seen = np.flatnonzero(counts.viewed >= _IN_VIEW * max(counts.seconds, 1e-9))
    if not len(seen) or not len(counts.sizes) or counts.traded <= 0:
        raise InputError(f"no flow can be fitted to {name}: it needs books in view, arriving orders and trades")
    reach = slice(0, int(seen[-1]) + 1)
    sizes = _typical_sizes(counts.sizes)
    lots = counts.arrived[reach] / np.maximum(counts.viewed[reach], 1e-9)
    hazard = _falling(counts.cancelled[reach], counts.rested[reach], 1 / counts.seconds)
    return ZeroIntelligenceParams(
        limit_rate=jnp.asarray(lots / sizes.mean(), jnp.float32),
        market_rate=jnp.float32(counts.traded / counts.seconds / sizes.mean()),
        cancel_hazard=jnp.asarray(hazard, jnp.float32),
        sizes=jnp.asarray(sizes, jnp.float32),
        line=jnp.float32(_SPARE * np.sum(lots / hazard)),
        reference=jnp.int32(counts.reference),
    )


def _typical_sizes(lots: np.ndarray) -> np.ndarray:
    """float64[_SIZES] that each stand for an equal part of all lots that arrived.

    The flow cancels an order in proportion to its size, so that of many sizes the small ones would fill the book.
    Drawn in proportion to their lots, orders rest in the mix in which they were seen to arrive.
    """
    ascending = np.sort(lots).astype(np.float64)
    reached = np.cumsum(ascending)
    middles = (np.arange(_SIZES) + 0.5) / _SIZES
    return ascending[np.searchsorted(reached, middles * reached[-1])]


def _falling(cancelled: np.ndarray, rested: np.ndarray, least: float) -> np.ndarray:
    """float64[D] hazards [1/s] that do not rise with distance (isotonic regression), at least `least`."""
    known = np.flatnonzero(rested > 0)
    if not len(known):
        return np.full(len(rested), least)
    fitted = scipy.optimize.isotonic_regression(
        cancelled[known] / rested[known], weights=rested[known], increasing=False
    ).x
    return np.maximum(np.interp(np.arange(len(rested)), known, fitted), least)


def _changes(
    price: np.ndarray, size: np.ndarray, next_price: np.ndarray, next_size: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What each level [n, K] of the next rows gained and of these rows lost [lots], and bool which of these levels the
    next rows show or would show. Prices rise towards the opposite side. A level that is not in view both times counts
    for nothing.
    """
    same = (price[:, :, None] == next_price[:, None, :]) & (size[:, :, None] > 0) & (next_size[:, None, :] > 0)
    was, is_now = (same * size[:, :, None]).sum(1), (same * next_size[:, None, :]).sum(2)
    seen_before = (next_price >= price[:, -1:]) | (size[:, -1:] == 0)
    seen_after = (price >= next_price[:, -1:]) | (next_size[:, -1:] == 0)
    gained = np.where(seen_before, np.maximum(next_size - was, 0), 0)
    lost = np.where(seen_after, np.maximum(size - is_now, 0), 0)
    return gained, lost, seen_after


def _by_distance(distance: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """float64[D] sums of weights by distance, from 1 tick on; what is farther is left out."""
    inside = (distance >= 1) & (distance <= _DISTANCES)
    return np.bincount(distance[inside] - 1, weights=weights[inside], minlength=_DISTANCES)


def _in_view(distance: np.ndarray, size: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """float64[D] rows, or sums of `weights` [n], in which a distance lies within levels [n, K] of which all are known
    where the last is absent."""
    deepest = np.where(size[:, -1] > 0, np.clip(distance[:, -1], 1, _DISTANCES), _DISTANCES) - 1
    return np.cumsum(np.bincount(deepest, weights=weights, minlength=_DISTANCES)[::-1])[::-1].astype(np.float64)
