"""Order flow's estimates find what simulated flow was made of, and count recorded flow completely."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize

from marljax.data.readers.lobster_messages import read_messages
from marljax.data.schema import InputError
from marljax.lob.sessions import calibration
from marljax.lob.sessions.calibration import FlowStatistics, calibrate
from marljax.lob.sessions.hawkes_fit import excitation, fit
from marljax.lob.sessions.session import EventKind, Session, from_recorded, market_orders
from tests.reference.poisson_book import Rates, simulate

GOOG = Path(__file__).parents[3] / "shared/data/lobster/LOBSTER_SampleFile_GOOG_2012-06-21_10.zip"
LIMIT, CANCEL, EXECUTION, HIDDEN = EventKind.LIMIT, EventKind.CANCEL, EventKind.EXECUTION, EventKind.HIDDEN
RATES, SECONDS = Rates(), 2000.0


@pytest.fixture(scope="module")
def poisson():
    return simulate(0, SECONDS, RATES, lots=7)


@pytest.fixture(scope="module")
def goog():
    if not GOOG.exists():
        pytest.skip("the real data are not beside the repository")
    return from_recorded(read_messages([GOOG])[0])


def small_session(**changes) -> Session:
    """Bids 100 and 98, asks 103 and 104; then a bid at 101, half of it cancelled, the rest traded with more."""
    bid = [[100, 98], [101, 100], [101, 100], [100, 98], [100, 98], [100, 98]]
    bid_size = [[50, 20], [10, 50], [6, 50], [50, 20], [45, 20], [45, 20]]
    columns = {
        "seconds": [0.0, 1.0, 3.0, 4.0, 4.0, 6.0],
        "kind": [LIMIT, LIMIT, CANCEL, EXECUTION, EXECUTION, HIDDEN],
        "side": [-1, 1, 1, 1, 1, -1],
        "price": [104, 101, 101, 101, 100, 102],
        "size": [30, 10, 4, 6, 5, 9],
        "bid_price": bid,
        "bid_size": bid_size,
        "ask_price": [[103, 104]] * 6,
        "ask_size": [[30, 30]] * 6,
    } | changes
    return Session(**{name: np.array(column) for name, column in columns.items()}, duration=10.0)


def test_each_event_is_placed_in_the_book_before_it():
    p = calibration.placement(small_session(), 5)
    expected = np.zeros((2, 5))
    expected[0, 0] = 0.1
    assert p.limit_rate.tolist() == [0.1, 0.1]
    np.testing.assert_array_equal(p.limit_improving, expected)  # one tick better than 100
    np.testing.assert_array_equal(p.limit_own, np.zeros((2, 5)))
    assert p.limit_opposite[0].tolist() == [0, 0.1, 0, 0, 0]  # two ticks below 103
    np.testing.assert_array_equal(p.cancel_own, expected)
    assert p.cancel_level.tolist() == [[0.1, 0], [0, 0]]
    assert p.limit_level.tolist() == [[0.1, 0], [0, 0]]
    assert p.market_rate.tolist() == [0, 0.1], "two fills of one sell order"
    assert p.hidden_rate.tolist() == [0.1, 0], "a hidden ask was bought"


def test_resting_lots_are_means_over_the_time_in_view():
    p = calibration.placement(small_session(), 5)
    # Bids at the touch: 50 for 1 s, 10 for 2 s, 6 for 1 s, 45 for 6 s. Two levels reach one or two ticks deep.
    np.testing.assert_allclose(p.lots_own[0, 0], (50 * 1 + 10 * 2 + 6 * 1 + 45 * 6) / 10)
    assert p.recorded[0].tolist() == [1.0, 1.0, 0.7, 0, 0]
    np.testing.assert_allclose(p.lots_own[0, 1], (50 * 2 + 50 * 1) / 10)
    np.testing.assert_allclose(p.lots_own[0, 2], 20.0)
    np.testing.assert_allclose(p.cancel_hazard[0, 0], 4 / (50 * 1 + 10 * 2 + 6 * 1 + 45 * 6))
    assert np.isnan(p.cancel_hazard[0, 3])


def test_a_side_that_has_no_more_levels_is_in_view_to_any_depth():
    sizes = [[50, 0]] * 6
    p = calibration.placement(small_session(ask_size=sizes), 5)
    assert p.recorded[1].tolist() == [1.0] * 5


def test_fills_at_one_time_against_one_side_are_one_market_order():
    first, sign, size = market_orders(small_session())
    assert (first.tolist(), sign.tolist(), size.tolist()) == ([3], [-1], [11])
    apart = small_session(seconds=[0.0, 1.0, 3.0, 4.0, 4.001, 6.0])
    assert market_orders(apart)[2].tolist() == [6, 5]
    both_sides = small_session(side=[-1, 1, 1, 1, -1, -1])
    assert market_orders(both_sides)[1].tolist() == [-1, 1]


def test_market_orders_are_held_against_the_quote_they_meet():
    sizes = calibration.order_sizes(small_session())
    assert (sizes.market_equals_touch, sizes.market_exceeds_touch) == (0.0, 1.0)  # 11 lots against 6


def test_rates_of_a_poisson_book_are_recovered_within_their_errors(poisson):
    p = calibration.placement(poisson, 10)
    rates = np.array([*RATES.limit, *[0] * 5])
    within(p.limit_opposite, rates, errors=4 * np.sqrt(rates / SECONDS))
    within(p.market_rate, RATES.market, errors=4 * np.sqrt(RATES.market / SECONDS))
    rested = p.lots_own[:, :4] / 7 * SECONDS  # order-seconds: the hazard's error is that of a Poisson count over them
    within(p.cancel_hazard[:, :4], RATES.cancel, errors=4 * np.sqrt(RATES.cancel / rested) + 0.005)


def test_a_poisson_flow_has_no_bursts_no_memory_and_no_excitation_between_market_orders(poisson):
    flow = calibrate(poisson, decays=(1.0,))
    rate = flow.messages / flow.seconds
    assert flow.arrivals.gap_cv == pytest.approx(1, abs=0.03)
    assert flow.arrivals.gap_below_millisecond == pytest.approx(-np.expm1(-rate * 1e-3), rel=0.2)
    assert np.abs(flow.trading.sign_autocorrelation).max() < 4 / np.sqrt(flow.seconds)
    assert flow.hawkes.branching[0, 2:4, 2:4].sum() < 0.1
    # More cancellations follow from more limit orders, and nothing else is far from its Poisson rate.
    np.testing.assert_allclose(flow.hawkes.baseline[2:4], RATES.market, rtol=0.15)


def test_the_improving_share_is_the_share_of_rates_inside_the_spread():
    """In a book whose spread is s, orders less than s ticks from the opposite quote beat their own side's best."""
    session = simulate(1, 1000.0)
    better = calibration.improvement(session)
    limits = np.array(RATES.limit)
    for spread, probability, orders in zip(better.spread_from, better.probability, better.orders, strict=True):
        if orders > 300 and spread in (1, 2):
            expected = limits[: spread - 1].sum() / limits.sum()
            assert probability == pytest.approx(expected, abs=4 * np.sqrt(0.25 / orders))
    assert 0 < better.fraction_quantiles[0] <= better.fraction_quantiles[-1] <= 1


def test_lognormal_sizes_are_recovered(poisson):
    rng = np.random.default_rng(3)
    sizes = np.maximum(np.round(np.exp(rng.normal(5.0, 0.7, len(poisson)))), 1).astype(int)
    fitted = calibration.order_sizes(dataclasses.replace(poisson, size=sizes))
    limits = np.sum(poisson.kind == LIMIT)
    assert fitted.log_mean[0] == pytest.approx(5.0, abs=4 * 0.7 / np.sqrt(limits))
    assert fitted.log_sd[0] == pytest.approx(0.7, abs=4 * 0.7 / np.sqrt(2 * limits))
    half = calibration.PROBABILITIES.index(0.5)
    assert fitted.quantiles[0, half] == pytest.approx(np.exp(5.0), rel=0.05)
    round_lots = calibration.order_sizes(
        dataclasses.replace(poisson, size=np.where(rng.uniform(size=len(sizes)) < 0.3, 100, 7))
    )
    assert round_lots.round_mass[0][list(round_lots.round_sizes).index(100)] == pytest.approx(0.3, abs=0.03)


def test_spread_quantiles_are_weighted_by_time():
    wide_for_long = small_session(ask_price=[[103, 104]] * 3 + [[113, 114]] * 3)
    half = calibration.PROBABILITIES.index(0.5)
    assert calibration.trading(wide_for_long).spread_quantiles[half] == 13


def test_bursts_are_runs_of_messages_within_a_millisecond():
    seconds = np.array([0.0, 0.0005, 0.001, 5.0, 7.0, 7.0015])
    a = calibration.arrivals(small_session(seconds=seconds))
    assert (a.burst_rate, a.burst_size_mean) == (0.4, 1.5)
    assert a.gap_below_millisecond == pytest.approx(2 / 5)
    assert a.profile.tolist() == [1.0]


DECAY = np.array([2.0, 40.0])
BASELINE = np.array([0.6, 0.3])
BRANCHING = np.array([[[0.2, 0.1], [0.0, 0.15]], [[0.1, 0.0], [0.3, 0.2]]])


def cluster_hawkes(seed: int, seconds: float) -> tuple[np.ndarray, np.ndarray]:
    """Times and types by the immigrants and their offspring (Hawkes & Oakes 1974), `BRANCHING` [k, caused, causing]."""
    rng = np.random.default_rng(seed)
    waiting = [(t, i) for i in (0, 1) for t in rng.uniform(0, seconds, rng.poisson(BASELINE[i] * seconds))]
    born = []
    while waiting:
        time, cause = waiting.pop()
        born.append((time, cause))
        for k, decay in enumerate(DECAY):
            for effect in (0, 1):
                after = time + rng.exponential(1 / decay, rng.poisson(BRANCHING[k, effect, cause]))
                waiting += [(t, effect) for t in after if t < seconds]
    born.sort()
    return np.array([t for t, _ in born]), np.array([i for _, i in born])


def negative_log_likelihood(x, seconds, event_type, duration, i):
    """Directly from the definition, O(n^2): x = [baseline_i, branching[:, i, :]]."""
    mine = np.flatnonzero(event_type == i)
    gap = seconds[mine][:, None] - seconds[None, :]
    intensity, expected = np.full(len(mine), x[0]), x[0] * duration
    for (k, j), weight in np.ndenumerate(x[1:].reshape(2, 2)):
        earlier = (gap > 0) & (event_type == j)[None, :]
        intensity = intensity + weight * np.where(earlier, DECAY[k] * np.exp(-DECAY[k] * np.abs(gap)), 0).sum(1)
        expected += weight * np.sum(1 - np.exp(-DECAY[k] * (duration - seconds[event_type == j])))
    return expected - np.log(intensity).sum()


def test_a_hawkes_process_is_recovered():
    seconds, event_type = cluster_hawkes(0, 20_000.0)
    fitted = fit(seconds, event_type, 20_000.0, DECAY, 2)
    within(fitted.baseline, BASELINE, errors=0.03)
    within(fitted.branching, BRANCHING, errors=0.035)
    true_ratio = np.abs(np.linalg.eigvals(BRANCHING.sum(0))).max()
    assert fitted.branching_ratio == pytest.approx(true_ratio, abs=0.03)
    # What it says of the mean rates is exact: (1 - branching)^-1 baseline.
    rates = np.linalg.solve(np.eye(2) - fitted.branching.sum(0), fitted.baseline)
    np.testing.assert_allclose(rates, np.bincount(event_type) / 20_000.0, rtol=1e-3)


def test_the_fit_is_the_maximum_of_the_likelihood_as_it_is_defined():
    seconds, event_type = cluster_hawkes(1, 300.0)
    fitted = fit(seconds, event_type, 300.0, DECAY, 2)
    total = 0.0
    for i in (0, 1):
        ours = np.array([fitted.baseline[i], *fitted.branching[:, i, :].ravel()])
        value = negative_log_likelihood(ours, seconds, event_type, 300.0, i)
        best = minimize(
            negative_log_likelihood, np.full(5, 0.2), (seconds, event_type, 300.0, i), bounds=[(1e-9, None)] * 5
        )
        assert value == pytest.approx(best.fun, abs=0.01)
        total -= value
    assert fitted.log_likelihood == pytest.approx(total / len(seconds), abs=1e-6)


def test_the_recursion_of_the_excitation_is_the_sum_over_all_earlier_events():
    seconds, event_type = cluster_hawkes(2, 50.0)
    ours = excitation(seconds, event_type, DECAY, 2)
    for row in range(len(seconds)):
        for (k, j), value in np.ndenumerate(ours[row]):
            earlier = seconds[:row][event_type[:row] == j]
            assert value == pytest.approx(np.sum(DECAY[k] * np.exp(-DECAY[k] * (seconds[row] - earlier))), abs=1e-9)


@pytest.mark.parametrize("decays", [(), (0.0,), (1.0, 1.0), (np.nan,), (-1.0, 2.0)])
def test_decays_that_are_no_distinct_rates_are_refused(decays):
    with pytest.raises(InputError, match="decays must be distinct positive numbers"):
        fit(np.array([0.0, 1.0]), np.array([0, 0]), 2.0, decays, 1)


def test_a_type_without_events_is_refused():
    with pytest.raises(InputError, match=r"every event type needs an event, got the counts \[2, 0\]"):
        fit(np.array([0.0, 1.0]), np.array([0, 0]), 2.0, (1.0,), 2)


def test_an_exploding_process_is_refused():
    seconds = np.cumsum(0.999 ** np.arange(3000)) / 100
    with pytest.raises(InputError, match="explodes"):
        fit(seconds, np.zeros(3000, int), float(seconds[-1]), (0.05,), 1)


def test_a_session_of_one_side_cannot_be_calibrated(poisson):
    with pytest.raises(InputError, match="both sides of every kind of order, and a market order is missing"):
        calibrate(dataclasses.replace(poisson, kind=np.where(poisson.kind == EXECUTION, HIDDEN, poisson.kind)))
    with pytest.raises(InputError, match="max_distance must be a positive number of ticks, got 0"):
        calibrate(poisson, max_distance=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": [9, 1, 2, 3, 3, 4]}, "Session.kind"),
        ({"side": [0, 1, 1, 1, 1, -1]}, "Session.side"),
        ({"size": [0, 1, 1, 1, 1, 1]}, "Session.size must be positive"),
        ({"seconds": [1.0, 0.0, 3.0, 4.0, 4.0, 6.0]}, "Session.seconds goes backward"),
        ({"seconds": [0.0, 1.0, 3.0, 4.0, 4.0, 60.0]}, "must lie within 0 and duration 10.0"),
        ({"ask_size": [[1]] * 6}, r"Session.ask_size must have the shape \(6, 2\)"),
        ({"price": [1, 2]}, r"Session.price must have the shape \(6,\)"),
    ],
)
def test_a_broken_session_says_what_is_broken(change, message):
    with pytest.raises(InputError, match=message):
        small_session(**change)


def test_a_part_of_a_session_starts_its_own_clock():
    part = small_session().within(3.0, 6.0)
    assert (part.seconds.tolist(), part.duration) == ([0.0, 1.0, 1.0], 3.0)
    assert part.price.tolist() == [101, 101, 100]


def test_flow_statistics_survive_json(poisson):
    flow = calibrate(poisson, max_distance=12, decays=(1.0, 20.0))
    text = json.dumps(flow.to_json(), allow_nan=False)
    again = FlowStatistics.from_json(json.loads(text))
    assert again.to_json() == flow.to_json()
    np.testing.assert_array_equal(again.placement.cancel_hazard, flow.placement.cancel_hazard)
    assert again.hawkes.branching.shape == (2, 6, 6)
    assert again.sizes.round_sizes.dtype.kind == "i"


def test_json_of_another_shape_is_refused_by_name(poisson):
    value = calibrate(poisson, decays=(1.0,)).to_json()
    with pytest.raises(InputError, match=r"FlowStatistics.hawkes does not have the keys .*\['decay', 'decays'\]"):
        FlowStatistics.from_json(
            value | {"hawkes": {("decays" if k == "decay" else k): v for k, v in value["hawkes"].items()}}
        )
    with pytest.raises(InputError, match="FlowStatistics does not have the keys of this version: not an object"):
        FlowStatistics.from_json([1])
    with pytest.raises(InputError, match=r"FlowStatistics.seconds must be float, got 'long'"):
        FlowStatistics.from_json(value | {"seconds": "long"})
    with pytest.raises(InputError, match=r"FlowStatistics.probabilities must be an array of numbers"):
        FlowStatistics.from_json(value | {"probabilities": [[1], "a"]})


def test_every_recorded_order_is_counted_once(goog):
    p = calibration.placement(goog, 5000)
    assert p.limit_rate.sum() * goog.duration == pytest.approx(np.sum(goog.kind == LIMIT))
    # All but the first event met a book, and lay either inside the spread or behind the best quote.
    placed = (p.limit_improving + p.limit_own).sum() * goog.duration
    assert placed == pytest.approx(np.sum(goog.kind == LIMIT), abs=1)
    np.testing.assert_allclose(p.limit_level.sum(1), p.limit_rate, rtol=1e-3)
    np.testing.assert_allclose(p.cancel_level.sum(1), p.cancel_rate, rtol=1e-3)
    np.testing.assert_allclose(p.limit_opposite.sum(1), (p.limit_improving + p.limit_own).sum(1))


def test_goog_is_a_market_of_rare_trades_in_bursts(goog):
    flow = calibrate(goog)
    p = flow.placement
    assert 20 < p.limit_rate.sum() / p.market_rate.sum() * 2 < 30, "limit orders for a market order"
    assert 0.85 < flow.hawkes.branching_ratio < 0.95
    assert flow.trading.sign_autocorrelation[0] == pytest.approx(0.643, abs=0.001)
    assert flow.arrivals.gap_cv == pytest.approx(3.39, abs=0.01)
    assert flow.trading.spread_quantiles[calibration.PROBABILITIES.index(0.5)] == 25
    assert np.nanmedian(p.cancel_hazard[:, :20]) == pytest.approx(0.15, abs=0.03)


def within(values, expected, errors):
    """`values` are within `errors` of what is expected, element by element."""
    distance = np.abs(np.asarray(values) - expected)
    assert (distance <= errors).all(), f"{distance} beyond {errors}"
