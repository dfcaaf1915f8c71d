"""Maximum likelihood for a multivariate Hawkes process with exponential kernels of fixed decays (Hawkes 1971).

With the decays fixed the likelihood is concave and falls apart into one problem for each event type, which projected
Newton steps climb. The excitation that earlier events still exert follows the O(n) recursion of Ozaki (1979). The last
step is one of expectation-maximisation (Veen & Schoenberg 2008): each event is shared out among the baseline and the
earlier events that may have caused it, and the shares are counted. Everything is NumPy on the host.
"""

from collections.abc import Sequence

import numpy as np

from marljax.data.schema import InputError
from marljax.lob.sessions.calibration_types import HAWKES_TYPES, HawkesStatistics
from marljax.lob.sessions.session import EventKind, Session, market_orders

_TOLERANCE = 1e-9
_ALL_BUT_ZERO = 1e-9
_RIDGE = 1e-9
_MAX_ITERATIONS = 200
_MAX_HALVINGS = 30


def fit_session(session: Session, decays: Sequence[float]) -> HawkesStatistics:
    """The Hawkes process of a session's limit orders, market orders and cancellations, see `HAWKES_TYPES`."""
    first, sign, _ = market_orders(session)
    rows = {"market_buy": first[sign > 0], "market_sell": first[sign < 0]}
    for name, kind in (("limit", EventKind.LIMIT), ("cancel", EventKind.CANCEL)):
        for suffix, side in (("buy", 1), ("sell", -1)):
            rows[f"{name}_{suffix}"] = np.flatnonzero((session.kind == kind) & (session.side == side))
    row = np.concatenate([rows[name] for name in HAWKES_TYPES])
    event_type = np.repeat(np.arange(len(HAWKES_TYPES)), [len(rows[name]) for name in HAWKES_TYPES])
    order = np.argsort(row, kind="stable")
    return fit(session.seconds[row[order]], event_type[order], session.duration, decays, len(HAWKES_TYPES))


def fit(
    seconds: np.ndarray, event_type: np.ndarray, duration: float, decays: Sequence[float], n_types: int
) -> HawkesStatistics:
    """The most likely process of `n_types` for events seen from 0 to `duration`.

    Args:
        seconds: float64[n] times of the events, never decreasing; of events at one time the earlier in the array
            excites the later.
        event_type: int[n] within 0..n_types-1, each present.
        duration: seconds observed.
        decays: the K decays of the kernels [1/s], distinct and positive.
        n_types: event types, E.

    Returns:
        `HawkesStatistics` with E for the six types of its shapes.

    Raises:
        InputError: a decay is not positive or stands twice, a type has no event, or the likeliest process explodes.
    """
    decay = np.asarray(decays, np.float64)
    if not (len(decay) and (decay > 0).all() and np.isfinite(decay).all() and len(np.unique(decay)) == len(decay)):
        raise InputError(f"decays must be distinct positive numbers [1/s], got {list(decays)!r}")
    counts = np.bincount(event_type, minlength=n_types)
    if len(counts) != n_types or not counts.all():
        raise InputError(f"every event type needs an event, got the counts {counts.tolist()}")
    density = excitation(seconds, event_type, decay, n_types).reshape(len(seconds), -1)
    remaining = duration - seconds
    # Of the events that one event of type j causes through kernel k, the share that falls within the observed time.
    seen = np.stack([np.bincount(event_type, -np.expm1(-d * remaining), minlength=n_types) for d in decay]).ravel()
    exposure = np.append(seen, duration)
    weights = np.zeros((n_types, len(exposure)))
    log_likelihood = 0.0
    for i in range(n_types):
        features = np.column_stack([density[event_type == i], np.ones(counts[i])])
        weights[i], value = _maximise(features, exposure)
        log_likelihood += value
    branching = weights[:, :-1].reshape(n_types, len(decay), n_types).transpose(1, 0, 2)
    ratio = float(np.abs(np.linalg.eigvals(branching.sum(0))).max())
    if ratio >= 1:
        raise InputError(f"the likeliest Hawkes process explodes: branching ratio {ratio:.4f}; give it slower decays")
    return HawkesStatistics(
        decay=decay,
        baseline=weights[:, -1],
        branching=branching,
        branching_ratio=ratio,
        log_likelihood=float(log_likelihood / len(seconds)),
    )


def excitation(seconds: np.ndarray, event_type: np.ndarray, decay: np.ndarray, n_types: int) -> np.ndarray:
    """Sum of decay[k] exp(-decay[k] (t - s)) over the earlier events s of each type, at each event t: [n, K, E] 1/s.

    One pass over the events: what is left of the sum at the event before, and of that event itself.
    """
    left = np.exp(-decay * np.diff(seconds, prepend=seconds[0])[:, None])[:, :, None]
    density = np.zeros((len(seconds), len(decay), n_types))
    for row in range(1, len(seconds)):
        density[row] = density[row - 1]
        density[row, :, event_type[row - 1]] += decay
        density[row] *= left[row]
    return density


def _maximise(features: np.ndarray, exposure: np.ndarray) -> tuple[np.ndarray, float]:
    """Weights w >= 0 [F] that maximise sum(log(features @ w)) - exposure @ w, and that maximum; features [n, F].

    Newton steps projected onto w >= 0 (Bertsekas 1982): a weight that is all but zero and should fall is held there.
    The last step is one of expectation-maximisation, after which the events expected are as many as those seen.
    """
    n, n_features = features.shape
    weights = n / (n_features * exposure)
    value = _log_likelihood(features, exposure, weights)
    for _ in range(_MAX_ITERATIONS):
        shares = features / _intensity(features, weights)[:, None]
        gradient = shares.sum(0) - exposure
        free = (weights * exposure > _ALL_BUT_ZERO * n) | (gradient > 0)
        curvature = shares[:, free].T @ shares[:, free]
        step = np.zeros(n_features)
        # A ridge, for types that always come together cannot be told apart.
        step[free] = np.linalg.solve(curvature + _RIDGE * np.diag(np.diag(curvature)), gradient[free])
        start, before = np.where(free, weights, 0.0), value
        for halvings in range(_MAX_HALVINGS):
            candidate = np.maximum(start + step * 0.5**halvings, 0)
            value = _log_likelihood(features, exposure, candidate)
            if value > before:
                weights = candidate
                break
        if value - before < _TOLERANCE * n:
            break
    weights = weights * (features / _intensity(features, weights)[:, None]).sum(0) / exposure
    return weights, _log_likelihood(features, exposure, weights)


def _log_likelihood(features: np.ndarray, exposure: np.ndarray, weights: np.ndarray) -> float:
    intensity = _intensity(features, weights)
    return float(np.log(intensity).sum() - exposure @ weights) if intensity.min() > 0 else -np.inf


def _intensity(features: np.ndarray, weights: np.ndarray) -> np.ndarray:
    # Not `@`: so small a product gains nothing from BLAS threads, which wait for each other on a busy machine.
    return np.einsum("nf,f->n", features, weights)
