"""The parameters of a Hawkes market: estimated from a recorded session, tuned, and kept as JSON.

Estimated are the excitation of the ten types by maximum likelihood, sizes, distances and improvements as quantiles, and
how the will to improve grows with the spread. What the closed loop makes of them then differs from the record in a few
ways, since an order's life depends on more than its type, and `Tuning` holds the numbers that bring it back.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from marljax.data.schema import InputError
from marljax.lob.flows.hawkes import TYPES, Excitation, HawkesParams, Placement, Profile
from marljax.lob.sessions import calibration
from marljax.lob.sessions.calibration import DECAYS
from marljax.lob.sessions.hawkes_fit import fit
from marljax.lob.sessions.session import EventKind, Session, market_orders

GOOG = Path(__file__).parent / "goog_like.json"
"""Parameters of a session like GOOG's of 2012-06-21, see the file's `provenance`."""

_DISTANCES = 100
_QUANTILES = 256
_HALF_HOUR = 1800.0


@dataclasses.dataclass(frozen=True)
class Tuning:
    """What is not estimated. Factors are of the estimate, which 1 leaves as it is."""

    limit_rate: float = 0.75
    """Factor of the mean rate of limit orders behind the best quote: some that want to improve stay behind, too."""
    improve_rate: float = 1.45
    """Factor of the mean rate of orders that improve: at a narrow spread most of them do not."""
    cancel_rate: float = 1.3
    """Factor of the mean rate of cancellations behind the best quote: some find nothing."""
    retreat_rate: float = 1.13
    """Factor of the mean rate of cancellations at the best quote."""
    market_rate: float = 1.3
    """Factor of the mean rate of market orders: some shun the spread."""
    patience: float = 0.17
    """Exponent of the estimated rate of market orders in a spread, relative to that in a spread of five ticks."""
    slow: float = 0.8
    """Factor of all branching of the slowest kernel; baselines make up for it."""
    middle: float = 1.1
    """The same of the next kernel."""
    follow: float = 1.42
    """Factor of branching from a market order to improvements of its side and retreats of the other."""
    flicker: float = 0.35
    """Factor of branching from an improvement to a retreat of its side."""
    momentum: float = 0.8
    """Share of branching in the two slowest kernels, from events that move the price down to ones that move it up, that
    goes to the mirrored cause instead; the other way round likewise. Rates stay as the sides are alike."""
    run: float = 1.1
    """Factor of branching from market orders to those of their side, at an unchanged rate of market orders."""
    run_kernels: tuple[float, ...] = (0.1, 0.2, 1.2, 1.5)
    """Weights by which that branching is shifted between the kernels, the slowest first."""
    line: float = 3500.0
    """Lots of a side that cancellations point at."""
    to_front: float = 2.5
    """They point uniform^to_front of the line from its front."""
    spare: float = 0.48
    """Share of cancellations other than retreats that leave orders at the best quote alone."""
    sweep: float = 0.0
    """Share of market orders that go beyond the best quote."""
    width: tuple[float, ...] = (3.8, 1.8, 1.45, 1.2, 1.15, 1.15, 1.15, 1.1, 1.1, 1.1, 1.1, 1.0, 0.9, 0.7)
    """Factor of distances behind the best quote, each half hour from the start."""
    limit_activity: tuple[float, ...] = (1.1, 1.25, 1.3, 1.1, 0.95, 0.8, 0.8, 0.75, 0.85, 0.9, 0.9, 1.0, 1.2, 1.6)
    """Factor of the rates of limit orders and cancellations, each half hour from the start."""
    market_activity: tuple[float, ...] = (1.6, 0.85, 0.85, 1.0, 1.0, 0.8, 0.8, 0.75, 0.75, 0.75, 0.8, 1.0, 1.8, 6.3)
    """The same of market orders."""
    half_spread: float = 12.0
    """Of the first book [ticks]."""


def estimate(session: Session, tuning: Tuning | None = None) -> HawkesParams:
    """The market of a recorded session, tuned; on the host."""
    tuning = Tuning() if tuning is None else tuning
    limits, improves, rows = _events(session)
    row = np.concatenate([rows[name] for name in TYPES])
    event_type = np.repeat(np.arange(len(TYPES)), [len(rows[name]) for name in TYPES])
    order = np.argsort(row, kind="stable")
    law = fit(session.seconds[row[order]], event_type[order], session.duration, DECAYS, len(TYPES))
    worthwhile = calibration.improvement(session)
    inside = np.maximum.accumulate(np.nan_to_num(worthwhile.probability))
    before = improves - 1
    room = session.ask_price[before, 0] - session.bid_price[before, 0] - 1
    own = np.where(session.side[improves] > 0, session.bid_price[before, 0], session.ask_price[before, 0])
    better = session.side[improves] * (session.price[improves] - own)
    behind = np.rint(calibration.placement(session, _DISTANCES).limit_own.sum(0) * session.duration)
    activity = np.stack([tuning.limit_activity, tuning.market_activity, tuning.limit_activity], axis=-1)
    return HawkesParams(
        excitation=_tuned(law.baseline, law.decay, law.branching, tuning),
        placement=Placement(
            behind=_quantiles(np.repeat(np.arange(_DISTANCES), behind.astype(np.int64))),
            spread_from=jnp.asarray(worthwhile.spread_from, jnp.int32),
            inside=_float(inside / inside.max()),
            improvement=_quantiles(better / room, "linear"),
            crossing=_float(_crossing(session, worthwhile.spread_from) ** tuning.patience),
            line=_float(tuning.line),
            to_front=_float(tuning.to_front),
            spare=_float(tuning.spare),
            sweep=_float(tuning.sweep),
        ),
        profile=Profile(grid=_float(_HALF_HOUR), activity=_float(activity), width=_float(tuning.width)),
        limit_sizes=_quantiles(session.size[limits]),
        improve_sizes=_quantiles(session.size[improves]),
        market_sizes=_quantiles(market_orders(session)[2]),
        reference=jnp.int32(np.median(session.bid_price[session.two_sided(), 0])),
        half_spread=_float(tuning.half_spread),
    )


def to_json(params: Any) -> dict[str, Any]:
    """Plain JSON values by name, of `HawkesParams` or a part of them."""
    values = {field.name: getattr(params, field.name) for field in dataclasses.fields(params)}
    return {
        name: to_json(value) if dataclasses.is_dataclass(value) else np.asarray(value).tolist()
        for name, value in values.items()
    }


def load(path: Path = GOOG) -> HawkesParams:
    """The parameters in a file. Raises InputError where it is not one of this version."""
    try:
        value = json.loads(path.read_text())["params"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError("is not a JSON file with the parameters of a Hawkes market", file=path) from error
    parts = {"excitation": Excitation, "placement": Placement, "profile": Profile}
    whole = {"spread_from", "reference"}
    try:
        read = {
            name: part if name not in parts else parts[name](**{k: _read(v, k in whole) for k, v in part.items()})
            for name, part in value.items()
        }
        return HawkesParams(**{k: v if k in parts else _read(v, k in whole) for k, v in read.items()})
    except (TypeError, ValueError, AttributeError) as error:
        raise InputError(f"does not hold the parameters of this version: {error}", file=path) from error


def _events(session: Session) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Rows of limit orders behind and inside the spread, and of each of TYPES. The first event only sets the scene."""
    before = np.maximum(np.arange(len(session)) - 1, 0)
    own = np.where(session.side > 0, session.bid_price[before, 0], session.ask_price[before, 0])
    better = session.side * (session.price.astype(np.int64) - own)
    later = np.arange(len(session)) > 0
    limit, cancel = (later & (session.kind == kind) for kind in (EventKind.LIMIT, EventKind.CANCEL))
    masks = {"limit": limit & (better <= 0), "improve": limit & (better > 0)}
    masks |= {"cancel": cancel & (better < 0), "retreat": cancel & (better >= 0)}
    first, sign, _ = market_orders(session)
    rows = {"market_buy": first[sign > 0], "market_sell": first[sign < 0]}
    for name, mask in masks.items():
        rows |= {f"{name}_{s}": np.flatnonzero(mask & (session.side == d)) for s, d in (("buy", 1), ("sell", -1))}
    return np.flatnonzero(masks["limit"]), np.flatnonzero(masks["improve"]), rows


def _crossing(session: Session, spread_from: np.ndarray) -> np.ndarray:
    """Rate of market orders by the spread they meet, relative to a spread of five ticks and at most 1, not rising."""
    spread = (session.ask_price - session.bid_price)[:, 0]
    bins = np.searchsorted(spread_from, spread, side="right") - 1
    held = np.diff(session.seconds, append=session.duration)
    two_sided = session.two_sided()
    first, _, _ = market_orders(session)
    met = first[first > 0] - 1
    orders = np.bincount(bins[met[two_sided[met]]], minlength=len(spread_from))
    seconds = np.bincount(bins[two_sided], held[two_sided], minlength=len(spread_from))
    rate = orders / np.maximum(seconds, 1e-9)
    five = np.searchsorted(spread_from, 5, side="right") - 1
    return np.minimum.accumulate(np.minimum(rate / rate[five], 1.0))


def _tuned(baseline: np.ndarray, decay: np.ndarray, branching: np.ndarray, tuning: Tuning) -> Excitation:
    """The estimated law with its branching tuned at unchanged mean rates, and then its mean rates."""
    at = {name: i for i, name in enumerate(TYPES)}
    branching = branching.copy()
    one = np.eye(len(TYPES))
    rates = np.linalg.solve(one - branching.sum(0), baseline)
    branching[0] *= tuning.slow
    branching[1] *= tuning.middle
    for side, other in (("buy", "sell"), ("sell", "buy")):
        market = at[f"market_{side}"]
        branching[:, at[f"improve_{side}"], market] *= tuning.follow
        branching[:, at[f"retreat_{other}"], market] *= tuning.follow
        branching[:, at[f"retreat_{side}"], at[f"improve_{side}"]] *= tuning.flicker
        for effect in (f"improve_{side}", f"retreat_{other}"):
            for kind, upward in (
                ("limit", side),
                ("cancel", other),
                ("market", side),
                ("improve", side),
                ("retreat", other),
            ):
                downward = other if upward == side else side
                shift = tuning.momentum * branching[:2, at[effect], at[f"{kind}_{downward}"]]
                branching[:2, at[effect], at[f"{kind}_{downward}"]] -= shift
                branching[:2, at[effect], at[f"{kind}_{upward}"]] += shift
    baseline = (one - branching.sum(0)) @ rates
    for side in ("buy", "sell"):
        i = at[f"market_{side}"]
        run = branching[:, i, i].sum()
        shifted = branching[:, i, i] * tuning.run_kernels
        left = (1 - run * tuning.run) / (1 - run)
        branching[:, i] *= left
        baseline[i] *= left
        branching[:, i, i] = shifted * run * tuning.run / shifted.sum()
    if baseline.min() < 0:
        raise InputError("tuned branching leaves a type of event less than no baseline")
    factor = np.ones(len(TYPES))
    for name in ("limit", "market", "improve", "cancel", "retreat"):
        factor[[at[f"{name}_buy"], at[f"{name}_sell"]]] = getattr(tuning, f"{name}_rate")
    # What arrives f times as often is excited that much more, and excites that much less: no other rate changes.
    return Excitation(_float(baseline * factor), _float(decay), _float(branching * factor[:, None] / factor))


def _quantiles(sample: np.ndarray, method: Any = "inverted_cdf") -> Any:
    return _float(np.quantile(sample, (np.arange(_QUANTILES) + 0.5) / _QUANTILES, method=method))


def _float(value: Any) -> Any:
    return jnp.asarray(value, jnp.float32)


def _read(value: Any, whole: bool) -> Any:
    return jnp.asarray(value, jnp.int32 if whole else jnp.float32)
