"""The numbers behind the stylized facts of one session: returns, tails, signs, spreads, order flow, rhythm.

Each function is one fact of Cont (2001), or of the order book literature named beside it, computed from a
`Session`. The first minute is left out of everything but the volume profile: real sessions open into a book that is
still forming, simulated ones start from one that nobody traded. Everything is NumPy on the host, and a fact that the
session does not define (no trades, a price that never moves) is NaN.
"""

import dataclasses

import numpy as np

from marljax.data.schema import InputError
from marljax.generative.quality import excess_kurtosis as kurtosis_of
from marljax.generative.quality import hill_index
from marljax.lob.sessions.session import EventKind, Session, market_orders

OPENING = 60.0
"""Seconds at the start that are left out."""
SLICES = 13
"""Parts of the volume profile: half hours of a trading day of six and a half hours."""
_MIDDLE = slice(5, 8)


@dataclasses.dataclass(frozen=True)
class Tape:
    """A session as the facts look at it: from the opening on, with the touch as of the last two-sided book."""

    session: Session
    mid: np.ndarray  # float64[n] ticks
    imbalance: np.ndarray  # float64[n] (bid size - ask size) / (bid size + ask size) at the touch, -1..1
    profile: np.ndarray  # float64[13] see `volume_profile`

    @classmethod
    def of(cls, session: Session) -> "Tape":
        """Raises InputError for a session that ends within the opening or never has two sides."""
        if session.duration < 2 * OPENING:
            raise InputError(f"facts need a session of {2 * OPENING:.0f} s at least, got {session.duration:g} s")
        cut = session.within(OPENING, np.nextafter(session.duration, np.inf))
        two_sided = cut.two_sided()
        if not two_sided.any():
            raise InputError("the book never has two sides after the opening")
        last = np.maximum.accumulate(np.where(two_sided, np.arange(len(cut)), int(np.argmax(two_sided))))
        bid, ask = cut.bid_size[last, 0].astype(np.float64), cut.ask_size[last, 0].astype(np.float64)
        mid = (cut.bid_price[last, 0] + cut.ask_price[last, 0]) / 2.0
        return cls(cut, mid, (bid - ask) / (bid + ask), volume_profile(session))

    def rows_at(self, every: float) -> np.ndarray:
        """int64[m] the last row at or before each multiple of `every` seconds, the first row where there is none."""
        # A whole number of steps, not one less by rounding.
        grid = np.arange(int(self.session.duration / every + 1e-9) + 1) * every
        return np.maximum(np.searchsorted(self.session.seconds, grid, side="right") - 1, 0)

    def returns(self, every: float) -> np.ndarray:
        """float64[m] log returns of the mid over `every` seconds; of a mid that is not positive, its changes."""
        mid = self.mid[self.rows_at(every)]
        return np.diff(np.log(mid) if mid.min() > 0 else mid)


def autocorrelation(x: np.ndarray, lag: int) -> float:
    """Autocorrelation of x [n] at `lag`, NaN where it is too short or constant."""
    return lagged_correlation(x, x, lag)


def lagged_correlation(x: np.ndarray, y: np.ndarray, lag: int) -> float:
    """corr(x[t], y[t + lag]) with the means and variances of the whole series [n]; NaN where not defined."""
    if len(x) <= lag + 1 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return np.nan
    a, b = x - x.mean(), y - y.mean()
    return float(np.mean(a[: len(a) - lag] * b[lag:]) / np.sqrt(np.mean(a**2) * np.mean(b**2)))


def return_autocorrelation(tape: Tape) -> float:
    """First autocorrelation of returns over 1 s."""
    return autocorrelation(tape.returns(1), 1)


def tail_index(tape: Tape) -> float:
    """Hill's index from the largest 5 % of the absolute returns over 1 s, those which are not zero."""
    returns = tape.returns(1)
    moved = returns[returns != 0]
    return hill_index(moved) if len(moved) else np.nan


def excess_kurtosis(tape: Tape, every: float) -> float:
    """Excess kurtosis of returns over `every` seconds."""
    return kurtosis_of(tape.returns(every))


def clustering(tape: Tape) -> float:
    """Mean autocorrelation of absolute returns over 1 s, lags 1 to 20."""
    return float(np.mean(_absolute_autocorrelations(tape)))


def clustering_exponent(tape: Tape) -> float:
    """Exponent b of the decay lag^-b of that autocorrelation, least squares in logs over the lags where it is > 0."""
    values = _absolute_autocorrelations(tape)
    lags = np.arange(1, len(values) + 1)
    positive = values > 0
    if positive.sum() < 3:
        return np.nan
    return float(-np.polyfit(np.log(lags[positive]), np.log(values[positive]), 1)[0])


def leverage(tape: Tape) -> float:
    """Mean correlation of a return over 1 s with the squared return 1 to 10 s later."""
    returns = tape.returns(1)
    return float(np.mean([lagged_correlation(returns, returns**2, lag) for lag in range(1, 11)]))


def volume_and_return(tape: Tape) -> float:
    """Correlation of the visible volume and the absolute return of a minute."""
    return _correlation(_volume(tape.session, tape.rows_at(60)), np.abs(tape.returns(60)))


def sign_autocorrelation(tape: Tape, lag: int) -> float:
    """Autocorrelation of the signs of market orders at `lag`; the fills of one order are one."""
    return autocorrelation(market_orders(tape.session)[1].astype(np.float64), lag)


def median_spread(tape: Tape) -> float:
    """Median over events of the best ask less the best bid [ticks]."""
    two_sided = tape.session.two_sided()
    return float(np.median((tape.session.ask_price[:, 0] - tape.session.bid_price[:, 0])[two_sided]))


def imbalance_auc(tape: Tape) -> float:
    """Probability that the imbalance after an event ranks higher if the mid next goes up than if down (ROC area)."""
    moves = np.flatnonzero(np.diff(tape.mid))
    following = np.searchsorted(moves, np.arange(len(tape.mid)))
    known = following < len(moves)
    up = np.diff(tape.mid)[moves[following[known]]] > 0 if len(moves) else np.zeros(0, bool)
    return roc_area(tape.imbalance[known], up)


def roc_area(score: np.ndarray, positive: np.ndarray) -> float:
    """Area under the ROC curve of `score` float[n] for `positive` bool[n], ties counted half."""
    n_positive, n = int(positive.sum()), len(score)
    if n_positive in (0, n):
        return np.nan
    _, inverse, counts = np.unique(score, return_inverse=True, return_counts=True)
    rank = np.cumsum(counts) - (counts - 1) / 2
    return float((rank[inverse][positive].sum() / n_positive - (n_positive + 1) / 2) / (n - n_positive))


def order_flow_imbalance_r2(tape: Tape) -> float:
    """R^2 of the mid's change over 10 s on the order flow imbalance of the touch (Cont, Kukanov & Stoikov 2014)."""
    s = tape.session
    (bid, ask), (bid_size, ask_size) = (
        (first[:, 0].astype(np.float64), second[:, 0].astype(np.float64))
        for first, second in ((s.bid_price, s.ask_price), (s.bid_size, s.ask_size))
    )
    flow = np.zeros(len(s))
    flow[1:] = (
        np.where(bid[1:] >= bid[:-1], bid_size[1:], 0)
        - np.where(bid[1:] <= bid[:-1], bid_size[:-1], 0)
        - np.where(ask[1:] <= ask[:-1], ask_size[1:], 0)
        + np.where(ask[1:] >= ask[:-1], ask_size[:-1], 0)
    )
    rows = tape.rows_at(10)
    return _correlation(np.diff(np.cumsum(flow)[rows]), np.diff(tape.mid[rows])) ** 2


def interarrival_variation(tape: Tape) -> float:
    """Standard deviation over mean of the times between events: 1 for a Poisson process."""
    gaps = np.diff(tape.session.seconds)
    return float(gaps.std() / gaps.mean()) if gaps.any() else np.nan


def below_a_millisecond(tape: Tape) -> float:
    """Share of the times between events that are below 1 ms."""
    return float(np.mean(np.diff(tape.session.seconds) < 1e-3))


def volume_profile(session: Session) -> np.ndarray:
    """float64[13] visible volume in each thirteenth of the whole session, over the mean of the sixth to the eighth."""
    edges = np.linspace(0, session.duration, SLICES + 1)
    executed = session.kind == EventKind.EXECUTION
    volume = np.histogram(session.seconds[executed], edges, weights=session.size[executed])[0]
    middle = volume[_MIDDLE].mean()
    return volume / middle if middle > 0 else np.full(SLICES, np.nan)


def opening_volume(tape: Tape) -> float:
    """Visible volume of the first thirteenth of the session over that of its middle."""
    return float(tape.profile[0])


def closing_volume(tape: Tape) -> float:
    """Visible volume of the last thirteenth of the session over that of its middle."""
    return float(tape.profile[-1])


def _absolute_autocorrelations(tape: Tape) -> np.ndarray:
    size = np.abs(tape.returns(1))
    return np.array([autocorrelation(size, lag) for lag in range(1, 21)])


def _volume(session: Session, rows: np.ndarray) -> np.ndarray:
    """float64[m-1] lots traded visibly after rows[i] up to rows[i + 1]."""
    traded = np.cumsum(np.where(session.kind == EventKind.EXECUTION, session.size, 0)).astype(np.float64)
    return np.diff(traded[rows])


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    return lagged_correlation(x, y, 0)
