"""Stylized facts: the published values on recorded days, known answers on made-up ones, and bands by their rule."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from scipy import integrate, stats

from marljax.data.readers.lobster_messages import read_messages
from marljax.data.schema import InputError
from marljax.evaluation import session_statistics as statistics
from marljax.evaluation import stylized_facts
from marljax.evaluation.session_statistics import OPENING, Tape
from marljax.evaluation.stylized_facts import FACTS, MEASURED, FactResult, judge, measure, to_markdown
from marljax.lob.sessions.session import EventKind, Session, from_recorded
from tests.reference.poisson_book import simulate

REAL = Path(__file__).parents[3] / "shared" / "data" / "lobster"
PUBLISHED = {
    "kurtosis 1 s": {"AAPL-1": 28, "AMZN-1": 32, "GOOG-10": 76},
    "kurtosis 10 s": {"AAPL-1": 7.0, "AMZN-1": 5.6, "GOOG-10": 5.1},
    "kurtosis 60 s": {"AAPL-1": 2.4, "AMZN-1": 3.4, "GOOG-10": 2.5},
    "median spread": {"AAPL-1": 15, "AMZN-1": 13, "GOOG-10": 28},
    "order flow R^2": {"AAPL-1": 0.41, "AMZN-1": 0.32, "GOOG-10": 0.17},
}
"""Values known of these files before there was this code, to the digits given."""
PUBLISHED_RANGE = {
    "return autocorrelation": (-0.02, 0.02, 0.005),
    "tail index": (2.8, 3.2, 0.05),
    "clustering": (0.048, 0.070, 0.0005),
    "clustering exponent": (0.31, 0.45, 0.005),
    "leverage": (0.0, 0.0, 0.01),
    "volume and return": (0.28, 0.36, 0.015),
    "trade sign lag 1": (0.62, 0.62, 0.03),
    "trade sign lag 10": (0.05, 0.13, 0.005),
    "imbalance AUC": (0.55, 0.61, 0.005),
    "inter-arrival CV": (3.0, 3.6, 0.05),
    "below 1 ms": (0.44, 0.53, 0.005),
    "opening volume": (1.2, 2.1, 0.05),
    "closing volume": (4.4, 5.5, 0.05),
}
"""Low and high over all stocks, and how far off their last digit, or their definition, may leave a value."""


@pytest.fixture(scope="module")
def recorded():
    if not REAL.is_dir():
        pytest.skip("the real data are not beside the repository")
    files = {name: REAL / f"LOBSTER_SampleFile_{name.replace('-', '_2012-06-21_')}.zip" for name in MEASURED}
    return {name: from_recorded(read_messages([path])[0]) for name, path in files.items()}


@pytest.fixture(scope="module")
def measured(recorded):
    return {name: measure(session) for name, session in recorded.items()}


@pytest.mark.parametrize("fact", PUBLISHED)
def test_recorded_days_give_the_published_value(measured, fact):
    for name, published in PUBLISHED[fact].items():
        digits = 0 if published >= 10 else 2 if published < 1 else 1
        assert round(measured[name][fact].day, digits) == published


@pytest.mark.parametrize("fact", PUBLISHED_RANGE)
def test_recorded_days_lie_in_the_published_range(measured, fact):
    low, high, slack = PUBLISHED_RANGE[fact]
    for facts in measured.values():
        assert low - slack <= facts[fact].day <= high + slack


def test_the_bands_are_made_of_what_is_measured_on_the_files(measured):
    assert {name: facts.keys() for name, facts in measured.items()} == {n: f.keys() for n, f in MEASURED.items()}
    for name, facts in measured.items():
        for fact, value in facts.items():
            for ours, stored in zip(dataclasses.astuple(value), dataclasses.astuple(MEASURED[name][fact]), strict=True):
                assert ours == pytest.approx(stored, rel=1e-3, nan_ok=True), f"{name} {fact}"


def test_recorded_days_pass_and_recorded_hours_nearly_always(recorded):
    for session in recorded.values():
        assert all(result.passed for result in judge(session))
    hours = [
        result.passed
        for session in recorded.values()
        for stop in np.arange(session.duration, 3700, -3600)
        for result in judge(session.within(stop - 3660, stop))
    ]
    assert len(hours) == 4 * 6 * 16
    assert 0.95 < np.mean(hours) < 1


def session_of(mid: np.ndarray, **changes) -> Session:
    """One event a second whose touch is one tick to either side of `mid` (whole ticks)."""
    n = len(mid)
    columns = {
        "seconds": np.arange(n, dtype=np.float64),
        "kind": np.full(n, EventKind.LIMIT),
        "side": np.ones(n, int),
        "price": mid - 1,
        "size": np.ones(n, int),
        "bid_price": (mid - 1)[:, None],
        "bid_size": np.full((n, 1), 10),
        "ask_price": (mid + 1)[:, None],
        "ask_size": np.full((n, 1), 10),
    } | changes
    return Session(**columns, duration=float(columns["seconds"][-1]))


def tape_of_returns(returns: np.ndarray, scale: float = 1e5) -> Tape:
    """A tape whose returns over 1 s are `returns` after the opening, up to a scale and the rounding to ticks."""
    path = np.concatenate([np.zeros(int(OPENING) + 1), np.cumsum(returns * scale)])
    return Tape.of(session_of(np.round(path).astype(np.int64) + 10**12))


def normal(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=n)


def test_white_noise_has_no_stylized_fact():
    tape = tape_of_returns(normal(20_000))
    error = 1 / np.sqrt(20_000)
    assert abs(statistics.return_autocorrelation(tape)) < 4 * error
    assert abs(statistics.clustering(tape)) < 4 * error / np.sqrt(20)
    assert abs(statistics.leverage(tape)) < 4 * error / np.sqrt(10)
    for every in (1, 10, 60):
        assert abs(statistics.excess_kurtosis(tape, every)) < 4 * np.sqrt(24 * every / 20_000)
    assert statistics.tail_index(tape) > 4


def test_the_autocorrelation_of_an_ar1_is_its_coefficient():
    noise, returns = normal(20_000), np.zeros(20_000)
    for t in range(1, len(noise)):
        returns[t] = 0.3 * returns[t - 1] + noise[t]
    assert statistics.return_autocorrelation(tape_of_returns(returns)) == pytest.approx(0.3, abs=4 / np.sqrt(20_000))


@pytest.mark.parametrize("degrees", [2, 3, 5])
def test_the_tail_index_of_students_t_is_the_one_its_density_has_beyond_the_quantile(degrees):
    returns = np.random.default_rng(1).standard_t(degrees, 40_000)
    t = stats.t(degrees)
    quantile = t.isf(0.025)  # two-sided: 5 % of the absolute values lie beyond it
    mean_excess = integrate.quad(lambda x: np.log(x / quantile) * t.pdf(x) / 0.025, quantile, np.inf)[0]
    index = statistics.tail_index(tape_of_returns(returns))
    assert index == pytest.approx(1 / mean_excess, rel=4 / np.sqrt(0.05 * 40_000))


def test_zero_returns_do_not_count_for_the_tail():
    returns = np.random.default_rng(1).standard_t(3, 10_000)
    padded = np.zeros(30_000)
    padded[::3] = returns
    assert statistics.tail_index(tape_of_returns(padded)) == pytest.approx(
        statistics.tail_index(tape_of_returns(returns)), rel=1e-3
    )


def test_kurtosis_of_independent_returns_falls_as_one_over_the_horizon():
    tape = tape_of_returns(np.random.default_rng(2).laplace(size=60_000))
    for every, tolerance in ((1, 0.3), (10, 0.25)):
        assert statistics.excess_kurtosis(tape, every) == pytest.approx(3 / every, abs=tolerance)


def test_clustering_of_stochastic_volatility_is_what_its_covariance_says():
    """r = z exp(x) with Gaussian x of covariance c(l): corr(|r|, |r'|) = (exp(c) - 1) / (pi/2 exp(c(0)) - 1)."""
    n, lags = 2**17, np.arange(2**17 + 1)
    covariance = 0.25 * (1.0 + lags) ** -0.4
    spectrum = np.fft.fft(np.concatenate([covariance, covariance[-2:0:-1]])).real
    rng = np.random.default_rng(4)
    noise = rng.normal(size=len(spectrum)) + 1j * rng.normal(size=len(spectrum))
    log_volatility = np.fft.fft(np.sqrt(np.maximum(spectrum, 0) / len(spectrum)) * noise).real[:n]
    tape = tape_of_returns(rng.normal(size=n) * np.exp(log_volatility))
    expected = np.expm1(covariance[1:21]) / (np.pi / 2 * np.exp(covariance[0]) - 1)
    assert statistics.clustering(tape) == pytest.approx(expected.mean(), rel=0.1)
    exponent = -np.polyfit(np.log(np.arange(1, 21)), np.log(expected), 1)[0]
    assert statistics.clustering_exponent(tape) == pytest.approx(exponent, abs=0.06)


def test_leverage_of_a_volatility_that_falls_with_returns():
    """r = sign * sqrt(1 - a * last sign): corr(r, next r^2) = -E sqrt(1 -+ a), and nothing at later lags."""
    a, sign = 0.8, np.where(normal(20_000) > 0, 1.0, -1.0)
    returns = sign[1:] * np.sqrt(1 - a * sign[:-1])
    expected = -(np.sqrt(1 - a) + np.sqrt(1 + a)) / 2 / 10
    assert statistics.leverage(tape_of_returns(returns)) == pytest.approx(expected, abs=4 / np.sqrt(10 * 20_000))


def trades(sign: np.ndarray, seconds: np.ndarray, size: np.ndarray | None = None) -> Session:
    n = len(sign)
    mid = np.full(n, 1000)
    executed = {"kind": np.full(n, EventKind.EXECUTION), "side": -sign, "seconds": seconds}
    return session_of(mid, **executed, **({} if size is None else {"size": size}))


def test_sign_autocorrelation_of_a_chain_decays_geometrically_whatever_the_fills():
    rng = np.random.default_rng(5)
    n, persistence = 20_000, 0.8
    sign = np.cumprod(np.where(rng.uniform(size=n) < persistence, 1, -1))
    seconds = OPENING + np.arange(n, dtype=np.float64)
    whole = Tape.of(trades(sign, seconds))
    fills = rng.integers(1, 6, n)
    split = Tape.of(trades(np.repeat(sign, fills), np.repeat(seconds, fills)))
    for lag in (1, 10):
        value = statistics.sign_autocorrelation(whole, lag)
        assert value == pytest.approx((2 * persistence - 1) ** lag, abs=4 / np.sqrt(n))
        assert statistics.sign_autocorrelation(split, lag) == pytest.approx(value, abs=1e-12)


def test_the_volume_profile_is_volume_by_thirteenth_over_the_middle():
    seconds = np.arange(0.5, 1300.0)
    volume = np.where(seconds < 100, 4, np.where(seconds >= 1200, 10, 2))
    session = dataclasses.replace(trades(np.ones(1300, int), seconds, volume), duration=1300.0)
    profile = statistics.volume_profile(session)
    assert profile.tolist() == [2.0, *[1.0] * 11, 5.0]
    hidden = dataclasses.replace(session, kind=np.full(1300, EventKind.HIDDEN))
    assert np.isnan(statistics.volume_profile(hidden)).all()


def test_volume_and_return_correlate_fully_where_one_is_the_other():
    rng = np.random.default_rng(6)
    minutes = 300
    jump = rng.integers(1, 50, minutes)
    steps = np.cumsum(jump * rng.choice([-1, 1], minutes))
    # A minute's price is set in its first second, its volume spread over all of them; the first 61 s are quiet.
    mid = 10**9 + np.concatenate([np.zeros(61, int), np.repeat(steps, 60)])
    size = np.concatenate([np.ones(61, int), np.repeat(jump, 60)])
    tape = Tape.of(session_of(mid, kind=np.full(len(mid), EventKind.EXECUTION), size=size))
    assert statistics.volume_and_return(tape) == pytest.approx(1, abs=1e-6)


def test_the_roc_area_is_the_share_of_pairs_ranked_rightly():
    rng = np.random.default_rng(7)
    score, positive = rng.integers(0, 10, 200) / 10, rng.uniform(size=200) < 0.4
    pairs = [(a > b) + 0.5 * (a == b) for a in score[positive] for b in score[~positive]]
    assert statistics.roc_area(score, positive) == pytest.approx(np.mean(pairs))
    assert np.isnan(statistics.roc_area(score, np.ones(200, bool)))


def test_imbalance_that_foretells_every_move_has_area_one_and_one_that_lies_zero():
    steps = np.where(normal(1000) > 0, 1, -1)
    mid = 10_000 + np.concatenate([np.zeros(61, int), np.cumsum(steps)])
    ahead = np.append(np.concatenate([np.full(60, steps[0]), steps]), 1)[:, None]
    for tilt, area in ((9, 1.0), (-9, 0.0)):
        tape = Tape.of(session_of(mid, bid_size=10 + tilt * (ahead > 0), ask_size=10 + tilt * (ahead < 0)))
        assert statistics.imbalance_auc(tape) == area


def order_flow_r2_by_loops(session: Session) -> float:
    """Cont, Kukanov & Stoikov (2014), equation by equation."""
    flow, move = [], []
    start = np.flatnonzero(session.seconds >= OPENING)[0]
    rows = [(x[start:, 0]).tolist() for x in (session.bid_price, session.bid_size, session.ask_price, session.ask_size)]
    seconds = session.seconds[start:] - OPENING

    def last(time):
        return max(int(np.sum(seconds <= time)) - 1, 0)

    for k in range(int((session.duration - OPENING) // 10)):
        total = 0
        for n in range(last(10 * k) + 1, last(10 * k + 10) + 1):
            (b, q, a, r), (b0, q0, a0, r0) = ([x[m] for x in rows] for m in (n, n - 1))
            total += (q if b >= b0 else 0) - (q0 if b <= b0 else 0) - (r if a <= a0 else 0) + (r0 if a >= a0 else 0)
        flow.append(total)
        mids = [(rows[0][last(t)] + rows[2][last(t)]) / 2 for t in (10 * k, 10 * k + 10)]
        move.append(mids[1] - mids[0])
    slope, intercept = np.polyfit(flow, move, 1)
    return 1 - np.var(np.array(move) - slope * np.array(flow) - intercept) / np.var(move)


def test_order_flow_imbalance_is_that_of_its_paper():
    session = simulate(3, 700.0)
    assert statistics.order_flow_imbalance_r2(Tape.of(session)) == pytest.approx(
        order_flow_r2_by_loops(session), abs=1e-9
    )


def test_a_poisson_book_is_told_from_a_market():
    session = simulate(2, 3700.0)
    tape = Tape.of(session)
    rate = len(session) / session.duration
    assert statistics.interarrival_variation(tape) == pytest.approx(1, abs=0.03)
    assert statistics.below_a_millisecond(tape) == pytest.approx(-np.expm1(-rate * 1e-3), rel=0.2)
    failed = {result.name for result in judge(session) if not result.passed}
    assert failed >= {"trade sign lag 1", "median spread", "inter-arrival CV", "below 1 ms"}


def test_the_price_of_a_book_that_lost_a_side_is_the_last_it_had():
    mid = np.concatenate([np.full(100, 1000), np.full(100, 1010)])
    ask_size = np.full((200, 1), 10)
    ask_size[100:150] = 0
    tape = Tape.of(session_of(mid, ask_size=ask_size))
    changes = np.flatnonzero(np.diff(tape.mid))
    assert changes.tolist() == [150 - int(OPENING) - 1]
    with pytest.raises(InputError, match="never has two sides"):
        Tape.of(session_of(mid, ask_size=np.zeros((200, 1), int)))
    with pytest.raises(InputError, match="a session of 120 s at least, got 59 s"):
        Tape.of(session_of(np.full(60, 1000)))


def test_a_band_reaches_two_sampling_errors_beyond_the_files_it_is_made_of():
    flat = session_of(np.full(7201, 1000))
    spread = next(result for result in judge(flat, like=["AAPL-1", "GOOG-10"]) if result.name == "median spread")
    aapl, goog = (MEASURED[name]["median spread"] for name in ("AAPL-1", "GOOG-10"))
    assert (spread.low, spread.high) == (aapl.hour - 2 * aapl.hour_sd, goog.hour + 2 * goog.hour_sd)
    assert (spread.value, spread.passed) == (2.0, False)
    day = dataclasses.replace(flat, seconds=flat.seconds * 3.25, duration=23400.0)
    spread = next(result for result in judge(day, like=["AAPL-1"]) if result.name == "median spread")
    error = aapl.hour_sd / np.sqrt(6)
    assert (spread.low, spread.high) == (aapl.day - 2 * error, aapl.day + 2 * error)
    closing = next(result for result in judge(day, like=["AAPL-1"]) if result.name == "closing volume")
    assert closing.low == MEASURED["AMZN-1"]["closing volume"].day < closing.high


def test_what_is_not_defined_does_not_pass_and_hours_have_no_opening():
    still = judge(session_of(np.full(4000, 1000)))
    assert {r.name for r in still if np.isnan(r.value)} >= {"tail index", "kurtosis 1 s", "trade sign lag 1"}
    assert not any(result.passed for result in still if np.isnan(result.value))
    assert {fact.name for fact in FACTS} - {result.name for result in still} == {"opening volume", "closing volume"}


def test_an_unknown_file_and_half_a_day_are_refused():
    flat = session_of(np.full(4000, 1000))
    with pytest.raises(InputError, match="like must name some of AAPL-1, AMZN-1, GOOG-1, GOOG-10, got MSFT"):
        judge(flat, like=["MSFT"])
    with pytest.raises(InputError, match="got none"):
        judge(flat, like=[])
    with pytest.raises(InputError, match="a day of 21600 s at least is measured, got 3999 s"):
        measure(flat)


def test_the_table_says_each_verdict_and_their_count():
    results = [FactResult("a", 1.0, 0.0, 2.0, True, "of x"), FactResult("b", np.nan, 0.0, 2.0, False, "of y")]
    text = to_markdown(results)
    assert "| a: of x | 1 | 0 to 2 | pass |" in text
    assert "| b: of y | nan | 0 to 2 | fail |" in text
    assert text.endswith("1 of 2 within their band\n")
    assert stylized_facts.FACTS[0].name in to_markdown(judge(session_of(np.full(4000, 1000))))
