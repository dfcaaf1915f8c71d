"""Delays against their distributions, and the order of arrival against plain sorting and fair shuffles."""

import itertools

import chex
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given

from marljax.market.latency import congested, constant, lognormal, merge, sample

DRAWS = 100_000

drawn = jax.jit(lambda latency, ratio: jax.vmap(lambda key: sample(key, latency, ratio))(KEYS))
KEYS = jax.random.split(jax.random.key(0), DRAWS)
merged = jax.jit(merge)


def rest(theirs: np.ndarray, count: int) -> np.ndarray:
    """The positions 0..count-1 that the agents leave to the stream; it is a fault if two share one."""
    free = np.setdiff1d(np.arange(count), theirs)
    assert len(free) == count - len(theirs)
    return free


def frequencies(outcomes: np.ndarray) -> dict[tuple[int, ...], float]:
    """How often each row occurs."""
    rows, counts = np.unique(outcomes, axis=0, return_counts=True)
    return {tuple(row.tolist()): count / len(outcomes) for row, count in zip(rows, counts, strict=True)}


def test_a_constant_latency_has_no_spread_whatever_the_volatility():
    np.testing.assert_array_equal(drawn(constant(3e-3), 7.0), np.float32(3e-3))


def test_lognormal_latency_has_its_median_mean_and_distribution():
    median, sigma, floor = 2e-3, 0.6, 5e-4
    seconds = np.asarray(drawn(lognormal(median, sigma, floor), 1.0), np.float64)
    mean = median * np.exp(sigma**2 / 2)
    error = mean * np.sqrt(np.expm1(sigma**2) / DRAWS)
    assert abs(seconds.mean() - (floor + mean)) < 4 * error
    assert abs(np.median(seconds) - (floor + median)) < 4 * median * sigma * np.sqrt(np.pi / 2 / DRAWS)
    assert seconds.min() > floor
    law = scipy.stats.lognorm(s=sigma, loc=floor, scale=median)
    assert scipy.stats.kstest(seconds, law.cdf).statistic < 1.95 / np.sqrt(DRAWS)


def test_volatility_stretches_the_random_part_by_its_power_and_leaves_the_floor():
    latency = congested(1e-3, 0.5, exponent=1.5, floor=1e-2)
    typical, stressed = drawn(latency, 1.0), drawn(latency, 4.0)
    np.testing.assert_allclose(stressed - 1e-2, 8 * (typical - 1e-2), atol=2e-8, rtol=1e-4)
    np.testing.assert_array_equal(typical, drawn(lognormal(1e-3, 0.5, floor=1e-2), 4.0))


def test_agents_of_different_families_are_drawn_in_one_call():
    families = (constant(1e-3), lognormal(1e-3, 0.0), congested(1e-3, 0.0, 2.0, floor=1e-3))
    agents = jax.tree.map(lambda *leaves: jnp.stack(leaves), *families)
    seconds = jax.vmap(sample, (0, 0, None))(KEYS[:3], agents, jnp.float32(3.0))
    chex.assert_shape(seconds, (3,))
    np.testing.assert_allclose(seconds, [1e-3, 1e-3, 1e-2], rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: constant(-1e-3), r"Latency\.floor .*got -0\.001"),
        (lambda: lognormal(float("nan"), 0.5), r"Latency\.median .*got nan"),
        (lambda: lognormal(1e-3, -0.5), r"Latency\.sigma .*got -0\.5"),
        (lambda: lognormal(1e-3, 0.5, floor=float("inf")), r"Latency\.floor .*got inf"),
        (lambda: congested(1e-3, 0.5, exponent=-1.0), r"Latency\.exponent .*got -1\.0"),
    ],
)
def test_an_impossible_latency_is_refused_by_field_and_value(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@given(
    st.lists(st.integers(0, 9), min_size=7, max_size=7),
    st.lists(st.integers(0, 9), min_size=4, max_size=4),
    st.integers(0, 999),
)
def test_merging_sorts_keeps_the_stream_and_takes_every_position_once(stream, few, seed):
    background, agents = np.sort(np.asarray(stream, np.float32)), np.asarray(few, np.float32)
    theirs = np.asarray(merged(jax.random.key(seed), background, agents))
    mine = rest(theirs, 11)
    times = np.zeros(11, np.float32)
    times[theirs], times[mine] = agents, background
    np.testing.assert_array_equal(times, np.sort([*background, *agents]))


@pytest.mark.parametrize("a", [1, 2, 16])
def test_merging_distinct_times_is_sorting_them(a):
    key = jax.random.key(a)
    times = jax.random.uniform(key, (100 + a,))
    background, agents = jnp.sort(times[:100]), times[100:]
    theirs = np.asarray(merged(key, background, agents))
    sorted_times = np.sort(times)
    np.testing.assert_array_equal(sorted_times[theirs], agents)
    np.testing.assert_array_equal(sorted_times[rest(theirs, 100 + a)], background)


def test_each_of_two_equal_arrivals_is_first_in_half_the_draws():
    def first(background, agents):
        return np.asarray(jax.vmap(lambda key: merge(key, background, agents))(KEYS[:20_000]))

    tolerance = 4 * np.sqrt(0.25 / 20_000)
    agent_or_background = first(jnp.array([0.1, 0.5, 0.9]), jnp.array([0.5]))[:, 0]
    assert set(agent_or_background) == {1, 2}
    assert abs((agent_or_background == 1).mean() - 0.5) < tolerance
    agent_or_agent = first(jnp.array([0.1]), jnp.array([0.5, 0.5]))
    assert abs((agent_or_agent[:, 0] == 1).mean() - 0.5) < tolerance


def test_two_agents_equal_to_two_of_the_stream_stand_as_in_a_random_permutation():
    theirs = jax.vmap(lambda key: merge(key, jnp.array([0.5, 0.5]), jnp.array([0.5, 0.5])))(KEYS[:24_000])
    found = frequencies(np.asarray(theirs))
    assert found.keys() == set(itertools.permutations(range(4), 2))
    assert all(abs(share - 1 / 12) < 4 * np.sqrt(11 / 144 / 24_000) for share in found.values())


def test_equal_tickets_of_equal_arrivals_still_take_different_positions(monkeypatch):
    monkeypatch.setattr(jax.random, "bits", lambda key, shape: jnp.zeros(shape, jnp.uint32))
    theirs = merge(KEYS[0], jnp.array([0.5, 0.5]), jnp.array([0.5, 0.5, 0.5]))
    assert sorted(theirs.tolist()) == [0, 1, 2]


def test_numbers_do_not_retrace():
    chex.clear_trace_counter()
    one = jax.jit(chex.assert_max_traces(sample, n=1))
    for latency in (constant(1e-3), lognormal(1e-3, 0.5), congested(1e-3, 0.5, 2.0)):
        one(KEYS[0], latency, jnp.float32(2.0))
