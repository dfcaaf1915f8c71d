"""The Hawkes flow has the process' analytic rates, the second moments of thinning, and stress that acts as named."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marljax.data.schema import InputError
from marljax.lob import matching
from marljax.lob.flows import flow, hawkes, hawkes_market
from marljax.lob.flows.hawkes import TYPES, Excitation
from marljax.lob.snapshot import touch
from marljax.lob.stress import calm, stressed
from marljax.lob.types import BUY, SELL, BookConfig, Kind
from tests.reference import hawkes_thinning

DECAY = np.array([1.0, 20.0])
BASELINE = np.array([0.3, 0.5, 0.2])
BRANCHING = np.array(
    [
        [[0.2, 0.1, 0.0], [0.1, 0.1, 0.3], [0.0, 0.0, 0.2]],
        [[0.2, 0.0, 0.1], [0.0, 0.3, 0.0], [0.2, 0.1, 0.0]],
    ]
)
LAW = Excitation(*(jnp.asarray(x, jnp.float32) for x in (BASELINE, DECAY, BRANCHING)))
RATES = np.linalg.solve(np.eye(3) - BRANCHING.sum(0), BASELINE)
CONFIG = BookConfig(slots=100)
N = 100


@pytest.fixture(scope="module")
def goog():
    return hawkes_market.load()


@functools.partial(jax.jit, static_argnames="n")
def sample(key, law, multiplier, n):
    """[64, n] gaps and types of independent stationary runs."""

    def one(key):
        exciting = hawkes.mean_rates(law) / law.decay[:, None]
        return hawkes.events(key, exciting, law, multiplier, n)[:2]

    return jax.vmap(one)(jax.random.split(key, 64))


@pytest.fixture(scope="module")
def run():
    gaps, types = sample(jax.random.key(0), LAW, jnp.ones(3), 4000)
    return np.asarray(gaps, np.float64), np.asarray(types)


@pytest.fixture(scope="module")
def thinned():
    return [hawkes_thinning.simulate(seed, 700.0, BASELINE, DECAY, BRANCHING) for seed in range(36)]


def counts(seconds, types, duration, bins, n_types=3):
    edges = np.arange(0, duration + 1e-9, bins)
    return np.stack([np.histogram(seconds[types == i], edges)[0] for i in range(n_types)], -1)


def second_moments(runs, warm, duration):
    """Mean rate, variance of counts in 1 s over their mean, and autocovariances at lags 1..3, each [..., 3]."""
    series = [counts(seconds - warm, types, duration, 1.0) for seconds, types in runs]
    mean = np.mean([x.mean(0) for x in series], 0)
    centred = [x - mean for x in series]
    fano = np.mean([(x**2).mean(0) for x in centred], 0) / mean
    lags = [np.mean([(x[:-lag] * x[lag:]).mean(0) for x in centred], 0) for lag in (1, 2, 3)]
    return mean, fano, np.array(lags)


def test_mean_rates_are_the_analytic_ones(run):
    gaps, types = run
    np.testing.assert_allclose(hawkes.mean_rates(LAW), RATES, rtol=1e-5)
    seconds = gaps.sum(1)
    measured = np.array([(types == i).sum() for i in range(3)]) / seconds.sum()
    error = np.array([((types == i).sum(1) / seconds).std() / 8 for i in range(3)])
    np.testing.assert_array_less(np.abs(measured - RATES), 4 * error)
    assert (error < 0.02 * RATES).all(), "the test can tell 2 % of a rate"


def test_second_moments_are_those_of_thinning(run, thinned):
    gaps, types = run
    duration = 600.0
    ours = [(np.cumsum(g), t) for g, t in zip(gaps, types, strict=True) if g.sum() > duration + 50]
    assert len(ours) > 40
    mean, fano, lags = second_moments(ours, 50.0, duration)
    their_mean, their_fano, their_lags = second_moments(thinned, 50.0, duration)
    np.testing.assert_allclose(mean, their_mean, rtol=0.08)
    np.testing.assert_allclose(fano, their_fano, rtol=0.1)
    assert (their_fano > 1.5).all(), "a Poisson process has 1"
    np.testing.assert_allclose(lags, their_lags, atol=0.15 * their_lags.max(0).max())


def test_gaps_vary_as_those_of_thinning(run, thinned):
    gaps = run[0].ravel()
    theirs = np.concatenate([np.diff(seconds[seconds > 50]) for seconds, _ in thinned])
    assert gaps.std() / gaps.mean() == pytest.approx(theirs.std() / theirs.mean(), rel=0.02)
    for q in (0.1, 0.5, 0.9, 0.99):
        assert np.quantile(gaps, q) == pytest.approx(np.quantile(theirs, q), rel=0.06)
    # Types follow each other as they do there.
    ours, theirs = (
        np.mean([np.histogram2d(t[:-1], t[1:], bins=np.arange(4) - 0.5)[0] / (len(t) - 1) for t in runs], 0)
        for runs in (run[1], [types for _, types in thinned])
    )
    np.testing.assert_allclose(ours, theirs, atol=0.012)


def test_a_process_without_branching_is_poisson():
    law = LAW.replace(branching=jnp.zeros_like(LAW.branching))
    gaps, types = (np.asarray(x) for x in sample(jax.random.key(1), law, jnp.ones(3), 2000))
    assert gaps.std() / gaps.mean() == pytest.approx(1, abs=0.02)
    np.testing.assert_allclose(np.bincount(types.ravel()) / types.size, BASELINE, atol=0.005)


def test_steps_carry_on_the_excitation():
    def chained(key):
        exciting = hawkes.mean_rates(LAW) / LAW.decay[:, None]

        def step(exciting, key):
            gaps, _, exciting = hawkes.events(key, exciting, LAW, jnp.ones(3), 10)
            return exciting, gaps

        return jax.lax.scan(step, exciting, jax.random.split(key, 300))[1].reshape(-1)

    gaps = np.asarray(jax.jit(jax.vmap(chained))(jax.random.split(jax.random.key(2), 64)))
    assert gaps.size / gaps.sum() == pytest.approx(RATES.sum(), rel=0.02)
    whole = np.asarray(sample(jax.random.key(3), LAW, jnp.ones(3), 3000)[0])
    # A forgotten past would show in the correlation of neighbouring gaps.
    ours, theirs = (np.corrcoef(np.log(g[:, :-1]).ravel(), np.log(g[:, 1:]).ravel())[0, 1] for g in (gaps, whole))
    assert ours == pytest.approx(theirs, abs=0.02)
    assert theirs > 0.1


@pytest.mark.parametrize("factor", [0.25, 3.0])
def test_a_multiplier_multiplies_its_rate_and_no_other(factor):
    gaps, types = (
        np.asarray(x, np.float64) for x in sample(jax.random.key(4), LAW, jnp.array([1.0, factor, 1.0]), 4000)
    )
    measured = np.array([(types == i).sum() for i in range(3)]) / gaps.sum()
    np.testing.assert_allclose(measured, RATES * [1, factor, 1], rtol=0.05)


@functools.partial(jax.jit, static_argnames="steps")
def simulated(key, params, stress, steps=60):
    """Draws and messages [32, steps, N] of runs in a live book, and the touch after each step."""

    def one(key):
        start, key = jax.random.split(key)
        carry = (hawkes.initial_book(start, params, CONFIG), hawkes.initial_state(params))

        def step(carry, key):
            book, state = carry
            draws, state = hawkes.prepare(key, state, params, stress, N)
            book, report = matching.process(book, draws, CONFIG, respond=lambda book, draw: hawkes.message(draw, book))
            return (book, state), (draws, report.messages, report.receipts, touch(book))

        return jax.lax.scan(step, carry, jax.random.split(key, steps))[1]

    return jax.vmap(one)(jax.random.split(key, 32))


def rates(draws):
    """Events per second by kind and side of the draws."""
    seconds = np.asarray(draws.seconds, np.float64)[..., -1].sum()
    return {
        (kind, side): np.sum((draws.kind == kind) & (draws.side == side)) / seconds
        for kind in (Kind.LIMIT, Kind.MARKET, Kind.CANCEL)
        for side in (BUY, SELL)
    }


def expected(params, limit=1.0, market=1.0, cancel=1.0, buys=0.5):
    """The same from the law, at the session's start."""
    mean = dict(zip(TYPES, np.asarray(hawkes.mean_rates(params.excitation), np.float64), strict=True))
    factor = np.asarray(params.profile.activity)[0]
    share = {"buy": 2 * buys, "sell": 2 - 2 * buys}
    return {
        key: value
        for name, side in (("buy", BUY), ("sell", SELL))
        for key, value in {
            (Kind.LIMIT, side): limit * factor[0] * (mean[f"limit_{name}"] + mean[f"improve_{name}"]),
            (Kind.MARKET, side): market * factor[1] * mean[f"market_{name}"] * share[name],
            (Kind.CANCEL, side): cancel * factor[2] * (mean[f"cancel_{name}"] + mean[f"retreat_{name}"]),
        }.items()
    }


def at_the_start(params):
    """The params with the profile's first point for good."""
    flat = params.profile.replace(
        activity=jnp.broadcast_to(params.profile.activity[0], params.profile.activity.shape),
        width=jnp.broadcast_to(params.profile.width[0], params.profile.width.shape),
    )
    return params.replace(profile=flat)


@pytest.mark.parametrize(
    ("stress", "acts"),
    [
        ({}, {}),
        ({"limit_rate": 2.0}, {"limit": 2.0}),
        ({"market_rate": 3.0}, {"market": 3.0}),
        ({"cancel_rate": 0.5}, {"cancel": 0.5}),
        ({"buy_share": 0.8}, {"buys": 0.8}),
    ],
)
def test_stress_multiplies_the_rate_it_names_alone(goog, stress, acts):
    params = at_the_start(goog)
    draws = simulated(jax.random.key(5), params, stressed(**stress))[0]
    measured, wanted = rates(draws), expected(params, **acts)
    for key, value in wanted.items():
        assert measured[key] == pytest.approx(value, rel=0.12), key


def test_stress_of_size_multiplies_lots_and_half_spread_moves_limit_orders_away(goog):
    key = jax.random.key(6)
    calm_draws, _ = hawkes.prepare(key, hawkes.initial_state(goog), goog, calm(), 4096)
    large, _ = hawkes.prepare(key, hawkes.initial_state(goog), goog, stressed(size=2.5), 4096)
    wide, _ = hawkes.prepare(key, hawkes.initial_state(goog), goog, stressed(half_spread=7.0), 4096)
    assert float(jnp.mean(large.size) / jnp.mean(calm_draws.size)) == pytest.approx(2.5, rel=0.01)
    book = hawkes.initial_book(key, goog, CONFIG)
    price = jax.vmap(lambda draws: hawkes.message(draws, book).price)
    limits = np.asarray(calm_draws.kind) == Kind.LIMIT
    moved = (np.asarray(price(calm_draws)) - np.asarray(price(wide))) * np.asarray(calm_draws.side)
    assert (moved[limits] == 7).all()
    for name in ("seconds", "kind", "side", "size"):
        np.testing.assert_array_equal(getattr(wide, name), getattr(calm_draws, name))


def test_no_message_arrives_while_halted_and_time_goes_on(goog):
    draws, state = hawkes.prepare(jax.random.key(7), hawkes.initial_state(goog), goog, stressed(halted=1.0), N)
    assert (draws.kind == Kind.NOTHING).all()
    assert float(state.elapsed) > 0


@pytest.mark.nightly
def test_the_closed_loop_keeps_a_plausible_book(goog):
    _, messages, receipts, quotes = simulated(jax.random.key(8), goog, calm(), steps=150)
    assert (receipts.code == 0).all(), "no message of the flow is refused"
    late = jax.tree.map(lambda x: np.asarray(x)[:, 50:], quotes)
    there = (late.bid_size > 0) & (late.ask_size > 0)
    assert there.mean() > 0.995
    spread = (late.ask_price - late.bid_price)[there]
    assert 20 < np.median(spread) < 70, "GOOG's first half hour has 48 ticks"
    cancels = np.asarray(messages.kind) == Kind.CANCEL
    assert (np.asarray(receipts.cancelled)[cancels] > 0).all()


def test_retreats_take_the_first_order_and_spared_cancellations_leave_the_touch(goog):
    book = hawkes.initial_book(jax.random.key(9), goog, CONFIG)
    draws, _ = hawkes.prepare(jax.random.key(10), hawkes.initial_state(goog), goog, calm(), 4096)
    made = jax.vmap(lambda draw: hawkes.message(draw, book))(draws)
    best = np.asarray(touch(book).bid_price)
    price = dict(zip(np.asarray(book.id[0]).tolist(), (-np.asarray(book.key[0]) // 2).tolist(), strict=True))
    hits = (np.asarray(made.kind) == Kind.CANCEL) & (np.asarray(made.side) == BUY)
    first = hits & (np.asarray(draws.place) == 0) & np.asarray(draws.retreats)
    spared = hits & ~np.asarray(draws.retreats)
    assert first.sum() > 50
    assert spared.sum() > 50
    assert all(price[id] == best for id in np.asarray(made.id)[first])
    assert all(price[id] < best for id in np.asarray(made.id)[spared])


def test_parameters_survive_their_file(goog, tmp_path):
    import json

    file = tmp_path / "market.json"
    file.write_text(json.dumps({"params": hawkes_market.to_json(goog)}))
    again = hawkes_market.load(file)
    jax.tree.map(np.testing.assert_array_equal, goog, again)
    assert jax.tree.map(lambda x: x.dtype, goog) == jax.tree.map(lambda x: x.dtype, again)
    file.write_text("{}")
    with pytest.raises(InputError, match="Hawkes market"):
        hawkes_market.load(file)
    file.write_text('{"params": {"excitation": {}}}')
    with pytest.raises(InputError, match="this version"):
        hawkes_market.load(file)


def test_tuning_leaves_the_mean_rates_that_it_does_not_name():
    rng = np.random.default_rng(0)
    branching = rng.uniform(0, 0.02, (4, 10, 10)) + np.eye(10) * 0.1
    baseline = rng.uniform(0.5, 1.0, 10)
    plain = np.linalg.solve(np.eye(10) - branching.sum(0), baseline)
    tuning = dataclasses.replace(
        hawkes_market.Tuning(), improve_rate=1.0, cancel_rate=1.0, retreat_rate=1.0, market_rate=1.0
    )
    law = hawkes_market._tuned(baseline, np.array([0.1, 1, 10, 100.0]), branching, tuning)
    wanted = plain * np.where(np.char.startswith(TYPES, "limit"), tuning.limit_rate, 1.0)
    np.testing.assert_allclose(hawkes.mean_rates(law), wanted, rtol=1e-4)


def test_ids_stay_below_those_of_agents():
    assert flow.new_ids(jnp.int32(flow.AGENT_ID - 2), 4).tolist() == [flow.AGENT_ID - 2, flow.AGENT_ID - 1, 0, 1]
