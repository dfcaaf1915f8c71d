"""Conditions drawn per episode cover their ranges, keep within them and are drawn for many episodes at once."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from marljax.market.fees import FeeSchedule, fee_schedule
from marljax.market.latency import Latency, congested, constant
from marljax.market.randomisation import draw, randomisation
from marljax.market.regimes import LAYERS, stress_at

EPISODES = 8_000
FEES = (fee_schedule(1e-4, -1e-4), fee_schedule(5e-4, 0.0, 0.02))
LATENCY = (congested(1e-4, 0.2, 0.0), congested(1e-2, 1.0, 2.0, floor=1e-3))
ODDS = {"calm": 1.0, "volatility burst": 2.0, "one-sided flow": 1.0}

worlds = jax.jit(jax.vmap(draw, (0, None)))


def conditions(**changes):
    settings = {"fees": FEES, "latency": LATENCY, "start": (10.0, 50.0), "seconds": (5.0, 500.0), "strength": (0.2, 1)}
    odds = changes.pop("odds", ODDS)
    return worlds(jax.random.split(jax.random.key(0), EPISODES), randomisation(odds, **(settings | changes)))


DRAWN = conditions()


def assert_uniform(values, low: float, high: float) -> None:
    """Kolmogorov-Smirnov, at one in a thousand."""
    values = np.asarray(values, np.float64)
    assert low <= values.min() * (1 + 1e-6)
    assert values.max() * (1 - 1e-6) <= high
    uniforms = (values - low) / (high - low)
    assert scipy.stats.kstest(uniforms, "uniform").statistic < 1.95 / np.sqrt(values.size)


def test_times_and_strengths_cover_their_ranges():
    schedule = DRAWN.schedule
    chex.assert_shape(schedule.start, (EPISODES, LAYERS))
    assert_uniform(schedule.start[:, 0], 10.0, 50.0)
    assert_uniform(schedule.strength[:, 0], 0.2, 1.0)
    assert_uniform(np.log(schedule.end[:, 0] - schedule.start[:, 0]), np.log(5.0), np.log(500.0))


def test_fees_and_latencies_cover_their_ranges():
    assert_uniform(DRAWN.fees.taker_rate, 1e-4, 5e-4)
    assert_uniform(DRAWN.fees.maker_rate + 1e-4, 0.0, 1e-4)
    assert_uniform(DRAWN.fees.taker_per_lot, 0.0, 0.02)
    assert not DRAWN.fees.maker_per_lot.any()
    assert_uniform(DRAWN.latency.floor, 0.0, 1e-3)
    assert_uniform(np.log(DRAWN.latency.median), np.log(1e-4), np.log(1e-2))
    assert_uniform(DRAWN.latency.sigma, 0.2, 1.0)
    assert_uniform(DRAWN.latency.exponent, 0.0, 2.0)


def test_regimes_come_as_often_as_their_odds_and_half_of_them_mirrored():
    stress, tolerance = DRAWN.schedule.stress, 4 * np.sqrt(0.25 / EPISODES)
    np.testing.assert_allclose((stress.volatility[:, 0] == 4.0).mean(), 0.5, atol=tolerance)
    np.testing.assert_allclose((stress.buy_share[:, 0] < 0.5).mean(), 0.125, atol=tolerance)
    np.testing.assert_allclose((stress.buy_share[:, 0] > 0.5).mean(), 0.125, atol=tolerance)


def test_nothing_is_mirrored_unless_asked():
    stress = conditions(odds={"flash crash": 1.0}, mirror=0.0).schedule.stress
    assert stress.buy_share[:, 1].max() < 0.5
    assert stress.drift[:, 1].max() < 0


def test_a_regime_without_odds_never_comes():
    drawn = conditions(odds={"calm": 1.0, "trading halt": 0.0})
    assert not drawn.schedule.stress.halted.any()


def test_events_of_an_episode_are_independent():
    schedule = conditions(events=2).schedule
    chex.assert_shape(schedule.start, (EPISODES, 2 * LAYERS))
    first, second = schedule.start[:, 0], schedule.start[:, LAYERS]
    assert abs(np.corrcoef(first, second)[0, 1]) < 4 / np.sqrt(EPISODES)


def test_each_agent_has_a_latency_of_its_own_where_the_ranges_say_so():
    low, high = (jax.tree.map(lambda x: jnp.full(3, x), each) for each in LATENCY)
    latency = conditions(latency=(low, high)).latency
    chex.assert_shape(latency.median, (EPISODES, 3))
    matrix = np.corrcoef(np.log(latency.median).T)
    assert np.abs(matrix[np.triu_indices(3, 1)]).max() < 4 / np.sqrt(EPISODES)


def test_a_range_of_one_point_is_that_point():
    drawn = conditions(fees=(FEES[1], FEES[1]), latency=(constant(1e-3), constant(1e-3)), strength=(1.0, 1.0))
    for name, value in vars(FEES[1]).items():
        np.testing.assert_array_equal(getattr(drawn.fees, name), value)
    for name, value in vars(constant(1e-3)).items():
        np.testing.assert_array_equal(getattr(drawn.latency, name), value)
    np.testing.assert_array_equal(drawn.schedule.strength, 1.0)


def test_one_key_draws_one_world_and_all_of_them_are_calm_before_their_event():
    chex.assert_trees_all_equal(conditions(), DRAWN)
    felt = jax.vmap(stress_at, (0, None))(DRAWN.schedule, 9.0)
    np.testing.assert_array_equal(felt.volatility, 1.0)
    felt = jax.vmap(stress_at)(DRAWN.schedule, (DRAWN.schedule.start + DRAWN.schedule.end)[:, 0] / 2)
    burst = DRAWN.schedule.stress.volatility[:, 0] == 4.0
    np.testing.assert_allclose(felt.volatility, jnp.where(burst, 1 + 3 * DRAWN.schedule.strength[:, 0], 1), rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"odds": {"storm": 1.0}}, "'storm'"),
        ({"odds": {"calm": -1.0}}, r"odds\['calm'\] .*got -1\.0"),
        ({"odds": {"calm": 0.0}}, r"odds must not all be 0"),
        ({"odds": {}}, r"odds must not all be 0"),
        ({"events": 0}, r"events .*got 0"),
        ({"mirror": 1.5}, r"mirror .*got 1\.5"),
        ({"mirror": float("nan")}, r"mirror .*got nan"),
        ({"start": (5.0, 1.0)}, r"start .*got \(5\.0, 1\.0\)"),
        ({"start": (float("nan"), 1.0)}, r"start .*got \(nan, 1\.0\)"),
        ({"seconds": (0.0, 1.0)}, r"seconds .*got \(0\.0, 1\.0\)"),
        ({"seconds": (1.0, float("inf"))}, r"seconds .*got \(1\.0, inf\)"),
        ({"strength": (0.5, 2.0)}, r"strength .*got \(0\.5, 2\.0\)"),
        ({"fees": FEES[::-1]}, r"fees\.taker_rate must ascend"),
        ({"latency": LATENCY[::-1]}, r"latency\.floor must ascend"),
    ],
)
def test_impossible_ranges_are_refused_by_field_and_value(changes, words):
    with pytest.raises(ValueError, match=words):
        conditions(**changes)


def test_low_and_high_are_of_one_shape():
    wide = Latency(*(jnp.full(2, 1.0) for _ in range(4)))
    with pytest.raises(ValueError, match=r"latency\.floor must ascend"):
        conditions(latency=(constant(0.0), wide))
    several = FeeSchedule(*(jnp.zeros(2) for _ in range(4)))
    chex.assert_shape(conditions(fees=(several, several)).fees.maker_rate, (EPISODES, 2))
