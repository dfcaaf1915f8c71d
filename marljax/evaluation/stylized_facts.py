"""Does a session look like a market? Its stylized facts (Cont 2001) against bands measured on recorded sessions.

`MEASURED` holds what `measure` gives for four recorded files (NASDAQ, 2012-06-21, the LOBSTER samples): each fact over
the whole day, and its mean and standard deviation over the six consecutive hours (65 minutes each) of that day. A band
is made of them by one rule and by nothing else:

- a whole day:   day value -+ 2 sd / sqrt(6), the sampling error of a mean of six hours;
- about an hour: mean of the hours -+ 2 sd;

from the lowest of these to the highest over the files of `like`. A session shorter than three hours is held against
an hour, since several facts (kurtosis, order flow's R^2) depend on how long one looks. A day has one opening and one
close, and hours say nothing of the error of its volume profile: that band is the range over all files, whatever `like`.
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from marljax.data.schema import InputError
from marljax.evaluation import session_statistics as statistics
from marljax.evaluation.session_statistics import OPENING, Tape
from marljax.lob.sessions.session import Session

HOUR_UP_TO = 3 * 3600.0
"""Sessions shorter than this [s] are held against an hour."""
_HOURS = 6


@dataclasses.dataclass(frozen=True)
class Fact:
    """A stylized fact: what it is and how it is computed."""

    name: str
    definition: str
    compute: Callable[[Tape], float]
    whole_day: bool = False
    """Whether it has a meaning for a whole trading day only; a shorter session is not judged by it."""


@dataclasses.dataclass(frozen=True)
class Measured:
    """A fact of one recorded file."""

    day: float
    hour: float = np.nan
    """Mean over the hours."""
    hour_sd: float = 0.0
    """Standard deviation over the hours."""

    def band(self, hourly: bool) -> tuple[float, float]:
        """Low and high, see the module."""
        centre, error = (self.hour, self.hour_sd) if hourly else (self.day, self.hour_sd / np.sqrt(_HOURS))
        return centre - 2 * error, centre + 2 * error


@dataclasses.dataclass(frozen=True)
class FactResult:
    """A fact of the session that was judged."""

    name: str
    value: float
    low: float
    high: float
    passed: bool
    """Whether the value lies within low..high; a value that is not defined does not."""
    definition: str


FACTS: tuple[Fact, ...] = (
    Fact("return autocorrelation", "first, of 1 s mid returns", statistics.return_autocorrelation),
    Fact("tail index", "Hill, top 5 % of non-zero absolute 1 s returns", statistics.tail_index),
    *(
        Fact(f"kurtosis {every} s", f"excess, of {every} s returns", partial(statistics.excess_kurtosis, every=every))
        for every in (1, 10, 60)
    ),
    Fact("clustering", "mean autocorrelation of absolute 1 s returns, lags 1-20", statistics.clustering),
    Fact("clustering exponent", "b of its decay lag^-b", statistics.clustering_exponent),
    Fact("leverage", "mean corr(r, later r^2), 1 s, lags 1-10", statistics.leverage),
    Fact("volume and return", "corr(visible volume, absolute return), 1 min", statistics.volume_and_return),
    *(
        Fact(
            f"trade sign lag {lag}",
            "autocorrelation of market orders' signs",
            partial(statistics.sign_autocorrelation, lag=lag),
        )
        for lag in (1, 10)
    ),
    Fact("median spread", "over events [ticks]", statistics.median_spread),
    Fact("imbalance AUC", "touch imbalance telling the next mid move", statistics.imbalance_auc),
    Fact("order flow R^2", "mid change on order flow imbalance, 10 s", statistics.order_flow_imbalance_r2),
    Fact("inter-arrival CV", "sd / mean of times between events", statistics.interarrival_variation),
    Fact("below 1 ms", "share of times between events", statistics.below_a_millisecond),
    Fact("opening volume", "first half hour / middle of the day", statistics.opening_volume, whole_day=True),
    Fact("closing volume", "last half hour / middle of the day", statistics.closing_volume, whole_day=True),
)

MEASURED: dict[str, dict[str, Measured]] = {
    "AAPL-1": {
        "return autocorrelation": Measured(0.01791, 0.02129, 0.04165),
        "tail index": Measured(3.153, 3.325, 0.2493),
        "kurtosis 1 s": Measured(28.21, 19.9, 10.05),
        "kurtosis 10 s": Measured(7.004, 3.469, 1.882),
        "kurtosis 60 s": Measured(2.4, 0.7918, 0.6413),
        "clustering": Measured(0.06977, 0.04238, 0.01805),
        "clustering exponent": Measured(0.3462, 0.6131, 0.199),
        "leverage": Measured(-0.0003984, -0.001845, 0.008871),
        "volume and return": Measured(0.3621, 0.3974, 0.1843),
        "trade sign lag 1": Measured(0.6298, 0.6183, 0.01921),
        "trade sign lag 10": Measured(0.1292, 0.1068, 0.0336),
        "median spread": Measured(15.0, 15.0, 3.347),
        "imbalance AUC": Measured(0.5481, 0.5526, 0.02356),
        "order flow R^2": Measured(0.4117, 0.4853, 0.1165),
        "inter-arrival CV": Measured(3.119, 2.962, 0.2164),
        "below 1 ms": Measured(0.4801, 0.4722, 0.0268),
        "opening volume": Measured(2.1212244070545307),
        "closing volume": Measured(5.341398266178557),
    },
    "AMZN-1": {
        "return autocorrelation": Measured(0.02378, 0.02838, 0.02326),
        "tail index": Measured(3.015, 3.417, 0.6011),
        "kurtosis 1 s": Measured(32.29, 28.96, 9.738),
        "kurtosis 10 s": Measured(5.637, 4.492, 1.906),
        "kurtosis 60 s": Measured(3.362, 2.471, 2.24),
        "clustering": Measured(0.04831, 0.0343, 0.01631),
        "clustering exponent": Measured(0.4411, 0.6133, 0.1921),
        "leverage": Measured(0.004746, 0.003182, 0.01211),
        "volume and return": Measured(0.3274, 0.4361, 0.2265),
        "trade sign lag 1": Measured(0.6216, 0.6121, 0.02873),
        "trade sign lag 10": Measured(0.0802, 0.08716, 0.04627),
        "median spread": Measured(13.0, 13.5, 2.345),
        "imbalance AUC": Measured(0.6062, 0.6079, 0.01638),
        "order flow R^2": Measured(0.3163, 0.4858, 0.1323),
        "inter-arrival CV": Measured(3.189, 3.097, 0.2281),
        "below 1 ms": Measured(0.4445, 0.4445, 0.02265),
        "opening volume": Measured(1.6595062777847978),
        "closing volume": Measured(4.420169322137089),
    },
    "GOOG-1": {
        "return autocorrelation": Measured(-0.02442, 0.006384, 0.04518),
        "tail index": Measured(2.865, 3.361, 0.8),
        "kurtosis 1 s": Measured(75.5, 31.52, 14.93),
        "kurtosis 10 s": Measured(5.068, 3.725, 0.8793),
        "kurtosis 60 s": Measured(2.492, 0.7681, 1.274),
        "clustering": Measured(0.05573, 0.03502, 0.01673),
        "clustering exponent": Measured(0.3918, 0.5864, 0.1298),
        "leverage": Measured(0.006326, 0.005261, 0.01141),
        "volume and return": Measured(0.2695, 0.3212, 0.1574),
        "trade sign lag 1": Measured(0.6444, 0.6202, 0.04809),
        "trade sign lag 10": Measured(0.05352, 0.0106, 0.07764),
        "median spread": Measured(28.0, 29.5, 7.259),
        "imbalance AUC": Measured(0.5845, 0.5867, 0.02836),
        "order flow R^2": Measured(0.17, 0.3715, 0.1756),
        "inter-arrival CV": Measured(2.99, 2.893, 0.2455),
        "below 1 ms": Measured(0.4818, 0.4785, 0.03876),
        "opening volume": Measured(1.1806148533800875),
        "closing volume": Measured(5.51701754620769),
    },
    "GOOG-10": {
        "return autocorrelation": Measured(-0.02449, 0.006317, 0.04532),
        "tail index": Measured(2.873, 3.375, 0.801),
        "kurtosis 1 s": Measured(75.74, 31.59, 15.02),
        "kurtosis 10 s": Measured(5.096, 3.739, 0.8789),
        "kurtosis 60 s": Measured(2.511, 0.8144, 1.371),
        "clustering": Measured(0.05483, 0.03472, 0.01626),
        "clustering exponent": Measured(0.4058, 0.5933, 0.1172),
        "leverage": Measured(0.00315, 0.004444, 0.01125),
        "volume and return": Measured(0.2745, 0.3246, 0.1564),
        "trade sign lag 1": Measured(0.6444, 0.6202, 0.04809),
        "trade sign lag 10": Measured(0.05352, 0.0106, 0.07764),
        "median spread": Measured(28.0, 28.33, 6.088),
        "imbalance AUC": Measured(0.5756, 0.576, 0.01674),
        "order flow R^2": Measured(0.1703, 0.3714, 0.1755),
        "inter-arrival CV": Measured(3.385, 3.336, 0.1294),
        "below 1 ms": Measured(0.5159, 0.5149, 0.01688),
        "opening volume": Measured(1.1806148533800875),
        "closing volume": Measured(5.51701754620769),
    },
}


def measure(session: Session) -> dict[str, Measured]:
    """Every fact of a whole day and of its six hours; how `MEASURED` was made."""
    if session.duration < 2 * HOUR_UP_TO:
        raise InputError(f"a day of {2 * HOUR_UP_TO:.0f} s at least is measured, got {session.duration:g} s")
    day = Tape.of(session)
    edges = np.linspace(OPENING, session.duration, _HOURS + 1)
    hours = [Tape.of(session.within(start - OPENING, stop)) for start, stop in itertools.pairwise(edges)]
    measured = {}
    for fact in FACTS:
        values = [] if fact.whole_day else [fact.compute(hour) for hour in hours]
        spread = (float(np.mean(values)), float(np.std(values, ddof=1))) if values else ()
        measured[fact.name] = Measured(fact.compute(day), *spread)
    return measured


def judge(session: Session, like: Sequence[str] = ("AAPL-1", "AMZN-1", "GOOG-1", "GOOG-10")) -> list[FactResult]:
    """Every fact of a session with its band. `like` names the files of `MEASURED` that the band is made of.

    A session of all its messages, deep ones too, compares with GOOG-10, the one file that has ten levels; the others
    hold what touched the best quotes. Raises InputError for an unknown name.
    """
    unknown = sorted(set(like) - MEASURED.keys())
    if unknown or not like:
        raise InputError(f"like must name some of {', '.join(MEASURED)}, got {', '.join(unknown) or 'none'}")
    tape, hourly = Tape.of(session), session.duration < HOUR_UP_TO
    results = []
    for fact in FACTS:
        if fact.whole_day and hourly:
            continue
        bands = [MEASURED[name][fact.name].band(hourly) for name in (MEASURED if fact.whole_day else like)]
        low, high = min(band[0] for band in bands), max(band[1] for band in bands)
        value = float(fact.compute(tape))
        results.append(FactResult(fact.name, value, low, high, bool(low <= value <= high), fact.definition))
    return results


def to_markdown(results: Sequence[FactResult]) -> str:
    """A Markdown table of judged facts, one line each, and a last line with the count."""
    lines = ["| fact | value | band | |", "|---|---|---|---|"]
    for r in results:
        verdict = "pass" if r.passed else "fail"
        lines.append(f"| {r.name}: {r.definition} | {r.value:.3g} | {r.low:.3g} to {r.high:.3g} | {verdict} |")
    return "\n".join([*lines, "", f"{sum(r.passed for r in results)} of {len(results)} within their band"]) + "\n"
