"""Regimes change what they name, by how much and when; products correlate as asked."""

import chex
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

from marljax.lob.stress import BOUNDS, Stress, calm, stressed
from marljax.market import regimes
from marljax.market.regimes import (
    REGIMES,
    Regime,
    Schedule,
    correlated_increments,
    correlation_to_one,
    fair_value_paths,
    join,
    mirrored,
    play,
    steady,
    stress_at,
    table,
)

CHANGES = {
    "calm": {},
    "liquidity drought": {"limit_rate": 0.3, "cancel_rate": 1.5, "size": 0.5},
    "volatility burst": {"volatility": 4.0},
    "one-sided flow": {"buy_share": 0.15},
    "spread blow-out": {"half_spread": 20.0},
    "trading halt": {"halted": 1.0},
    "correlation to one": {"correlation": 1.0},
    "toxic informed trader": {"informed_share": 0.3, "informed_edge": 5.0},
}
TIMES = jnp.linspace(0.0, 300.0, 3001)

at = jax.jit(stress_at)
course = jax.jit(jax.vmap(stress_at, (None, 0)))


def event(regime: Regime, strength: float = 1.0) -> Schedule:
    """From 100 s to 200 s."""
    return play(regime, jnp.float32(100.0), jnp.float32(100.0), strength)


def assert_stress(felt: Stress, expected: Stress) -> None:
    chex.assert_trees_all_close(felt, expected, rtol=1e-5, atol=1e-6)


def test_every_regime_but_the_crash_is_in_the_table_of_changes():
    assert REGIMES.keys() - CHANGES.keys() == {"flash crash"}


@pytest.mark.parametrize("name", CHANGES)
def test_a_regime_changes_exactly_what_it_names(name):
    assert_stress(at(event(REGIMES[name]()), 150.0), stressed(**CHANGES[name]))


@pytest.mark.parametrize("name", CHANGES)
def test_half_strength_is_half_way_from_calm(name):
    felt = at(event(REGIMES[name](), 0.5), 150.0)
    expected = jax.tree.map(lambda x, y: (x + y) / 2, calm(), stressed(**CHANGES[name]))
    halted = jnp.float32(name == "trading halt")
    assert_stress(felt, Stress(**(vars(expected) | {"halted": halted})))


@pytest.mark.parametrize("name", REGIMES)
def test_a_regime_without_strength_is_calm(name):
    chex.assert_trees_all_equal(course(event(REGIMES[name](), 0.0), TIMES), course(event(steady(calm())), TIMES))


@pytest.mark.parametrize("name", REGIMES)
def test_outside_of_its_event_the_market_is_exactly_calm(name):
    schedule = event(REGIMES[name]())
    for seconds in (0.0, 99.99, 200.0, 1e6):
        chex.assert_trees_all_equal(at(schedule, seconds), calm())


@pytest.mark.parametrize("name", REGIMES)
def test_stress_is_continuous_but_for_halts_and_stays_within_bounds(name):
    felt = course(event(REGIMES[name]()), TIMES)
    for field, values in vars(felt).items():
        values = np.asarray(values)
        least, most = BOUNDS[field]
        assert values.min() >= least
        assert values.max() <= most
        if field != "halted":
            # The steepest ramp lasts 6 s, of 60 samples 0.1 s apart.
            assert np.abs(np.diff(values)).max() <= max(np.ptp(values) / 30, 1e-6)


def test_a_halt_is_on_from_its_start_up_to_its_end():
    felt = course(event(regimes.trading_halt()), jnp.array([99.99, 100.0, 150.0, 199.99, 200.0]))
    np.testing.assert_array_equal(felt.halted, [0, 1, 1, 1, 0])


def test_a_ramp_is_linear():
    schedule = event(steady(stressed(volatility=3.0), ramp=0.2))
    felt = course(schedule, jnp.array([100.0, 105.0, 110.0, 120.0, 150.0, 180.0, 195.0]))
    np.testing.assert_allclose(felt.volatility, [1.0, 1.5, 2.0, 3.0, 3.0, 3.0, 1.5], rtol=1e-5)


def test_the_flash_crash_falls_to_its_depth_and_recovers_its_part():
    felt = course(event(regimes.flash_crash(depth=200.0, recovered=0.9)), TIMES)
    path = np.cumsum(np.asarray(felt.drift)) * 0.1
    crash, trough, end = path[1310], path[1490], path[-1]
    np.testing.assert_allclose([crash, trough, end], [-200.0, -200.0, -20.0], atol=0.5)
    assert path.min() > -200.5
    assert_stress(at(event(regimes.flash_crash()), 140.0), ILLIQUID)


ILLIQUID = stressed(limit_rate=0.3, cancel_rate=2.0, size=0.5, half_spread=10.0, volatility=3.0)


def test_the_flash_crash_is_sold_into_and_bought_back():
    felt = course(event(regimes.flash_crash()), jnp.array([115.0, 140.0, 175.0]))
    np.testing.assert_allclose(felt.buy_share, [0.1, 0.5, 0.7], rtol=1e-5)
    np.testing.assert_allclose(felt.market_rate, [3.0, 1.0, 1.5], rtol=1e-5)


def test_a_crash_of_any_length_and_strength_moves_fair_value_by_its_share():
    for seconds, strength in ((20.0, 1.0), (250.0, 0.5)):
        schedule = play(regimes.flash_crash(100.0, recovered=0.0), 10.0, seconds, strength)
        path = np.cumsum(np.asarray(course(schedule, TIMES).drift)) * 0.1
        np.testing.assert_allclose(path[-1], -100.0 * strength, rtol=0.01)


def test_overlapping_events_compound():
    first = stressed(limit_rate=0.5, drift=2.0, informed_share=0.5, buy_share=0.1, correlation=0.5)
    second = stressed(limit_rate=0.5, drift=-1.0, informed_share=0.5, buy_share=0.3, halted=1.0, correlation=1.0)
    schedule = join(event(steady(first)), event(steady(second)))
    expected = stressed(limit_rate=0.25, drift=1.0, informed_share=0.75, buy_share=0.0, halted=1.0, correlation=1.0)
    assert_stress(at(schedule, 150.0), expected)
    apart = join(event(steady(first)), play(steady(second), 300.0, 50.0))
    assert_stress(at(apart, 150.0), first)
    assert_stress(at(apart, 325.0), second)


def test_mirroring_exchanges_up_and_down_and_is_its_own_inverse():
    falling = stressed(drift=-3.0, buy_share=0.1, volatility=2.0)
    assert_stress(mirrored(falling), stressed(drift=3.0, buy_share=0.9, volatility=2.0))
    assert_stress(mirrored(mirrored(falling)), falling)
    chex.assert_trees_all_equal(mirrored(calm()), calm())


def test_regimes_are_played_side_by_side():
    rows = table()
    schedules = jax.vmap(play, (0, None, None))(rows, 100.0, 100.0)
    felt = jax.jit(jax.vmap(stress_at, (0, None)))(schedules, 140.0)
    chex.assert_tree_shape_prefix(felt, (len(REGIMES),))
    for i, name in enumerate(REGIMES):
        assert_stress(jax.tree.map(lambda x, i=i: x[i], felt), at(event(REGIMES[name]()), 140.0))


def test_one_program_serves_every_regime_and_moment():
    chex.clear_trace_counter()
    counted = jax.jit(chex.assert_max_traces(stress_at, n=1))
    for regime in REGIMES.values():
        for seconds in (0.0, 150.0):
            counted(event(regime()), seconds)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: table("calm", "storm"), "'storm'"),
        (lambda: steady(calm(), ramp=0.6), r"ramp .*got 0\.6"),
        (lambda: regimes.liquidity_drought(size=-1.0), r"Stress\.size .*got -1\.0"),
        (lambda: regimes.one_sided_flow(1.5), r"Stress\.buy_share .*got 1\.5"),
        (lambda: regimes.flash_crash(depth=-1.0), r"flash_crash\.depth .*got -1\.0"),
        (lambda: regimes.flash_crash(recovered=2.0), r"flash_crash\.recovered .*got 2\.0"),
    ],
)
def test_an_impossible_regime_is_refused_by_field_and_value(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@given(st.integers(0, 999), st.floats(0.0, 400.0))
def test_any_schedule_keeps_stress_within_bounds(seed, seconds):
    start, length, strength = np.random.default_rng(seed).uniform(size=(3, len(REGIMES))).astype(np.float32)
    schedules = jax.vmap(play)(table(), 200 * start, 1 + 200 * length, strength)
    felt = at(jax.tree.map(lambda x: x.reshape(-1), schedules), seconds)
    for field, (least, most) in BOUNDS.items():
        assert least <= float(getattr(felt, field)) <= most


@pytest.mark.parametrize("correlation", [0.0, 0.3, 0.8, 1.0])
def test_products_correlate_as_asked(correlation):
    volatility = jnp.array([1.0, 5.0, 20.0])
    keys = jax.random.split(jax.random.key(1), 100_000)
    moves = jax.jit(jax.vmap(correlated_increments, (0, None, None, None)))(
        keys, stressed(correlation=correlation), volatility, jnp.float32(4.0)
    )
    matrix = np.corrcoef(np.asarray(moves).T)
    np.testing.assert_allclose(matrix[np.triu_indices(3, 1)], correlation, atol=0.02)
    np.testing.assert_allclose(moves.std(axis=0), 2 * volatility, rtol=0.02)


def test_volatility_and_drift_of_stress_move_fair_value():
    keys = jax.random.split(jax.random.key(2), 20_000)
    moves = jax.vmap(correlated_increments, (0, None, None, None))(
        keys, stressed(volatility=3.0, drift=-2.0), jnp.array([2.0, 4.0]), jnp.float32(0.25)
    )
    np.testing.assert_allclose(moves.std(axis=0), [3.0, 6.0], rtol=0.02)
    np.testing.assert_allclose(moves.mean(axis=0), -0.5, atol=0.15)


def test_the_correlation_regime_ties_the_products_only_while_it_lasts():
    schedule, volatility = event(regimes.correlation_to_one()), jnp.array([1.0, 1.0])
    keys = jax.random.split(jax.random.key(3), 10_000)
    for seconds, expected in ((50.0, 0.0), (105.0, 0.5), (150.0, 1.0)):
        stress = at(schedule, seconds)
        moves = jax.vmap(correlated_increments, (0, None, None, None))(keys, stress, volatility, 1.0)
        np.testing.assert_allclose(np.corrcoef(np.asarray(moves).T)[0, 1], expected, atol=0.03)


def test_paths_move_as_one_while_correlation_is_one_and_apart_before():
    schedule = play(correlation_to_one(), start=jnp.float32(500.0), seconds=jnp.float32(500.0))
    start, volatility = jnp.array([10_000.0, 5_000.0]), jnp.array([1.0, 3.0])
    paths = jax.jit(fair_value_paths, static_argnames="steps")(
        jax.random.key(0), schedule, start, volatility, jnp.float32(1.0), steps=1000
    )
    np.testing.assert_array_equal(paths[0], start)
    moves = np.diff(np.asarray(paths), axis=0)
    assert abs(np.corrcoef(moves[:450].T)[0, 1]) < 0.15
    assert np.corrcoef(moves[600:900].T)[0, 1] > 0.85
    np.testing.assert_allclose(moves.std(0), volatility, rtol=0.1)


def test_paths_leave_volatility_and_drift_to_the_books_that_follow_them():
    start, volatility = jnp.array([10_000.0]), jnp.array([1.0])
    calm_schedule, wild = (
        play(steady(stressed(**changes), ramp=0.0), start=jnp.float32(0.0), seconds=jnp.float32(100.0))
        for changes in ({}, {"volatility": 5.0, "drift": 3.0})
    )
    key, second = jax.random.key(1), jnp.float32(1.0)
    np.testing.assert_array_equal(
        fair_value_paths(key, wild, start, volatility, second, 50),
        fair_value_paths(key, calm_schedule, start, volatility, second, 50),
    )
