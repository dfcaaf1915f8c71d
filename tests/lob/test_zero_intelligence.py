"""Zero intelligence in a live book: Poisson rates by distance, proportional cancellation, stress that acts as named."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marljax.lob import matching
from marljax.lob.flows import zero_intelligence as model
from marljax.lob.snapshot import levels, touch
from marljax.lob.stress import calm, stressed
from marljax.lob.types import BUY, SELL, BookConfig, Kind

CONFIG = BookConfig(slots=100)
PARAMS = model.typical()
N, ENVS = 100, 32


@functools.partial(jax.jit, static_argnames="steps")
def simulated(key, params, stress, steps=40):
    """Draws, messages, receipts [ENVS, steps, N] and levels after each step."""

    def one(key):
        start, key = jax.random.split(key)
        carry = (model.initial_book(start, params, CONFIG), model.initial_state(params))

        def step(carry, key):
            book, state = carry
            draws, state = model.prepare(key, state, params, stress, N)

            def respond(book, draw):
                return model.message(draw, book)

            book, report = matching.process(book, draws, CONFIG, respond=respond)
            return (book, state), (draws, report.messages, report.receipts, levels(book, 20))

        return jax.lax.scan(step, carry, jax.random.split(key, steps))[1]

    return jax.vmap(one)(jax.random.split(key, ENVS))


def rates(draws, kind, side=None):
    """Events per second, and its standard error."""
    seconds = np.asarray(draws.seconds, np.float64)[..., -1].sum()
    count = np.sum((draws.kind == kind) & (True if side is None else draws.side == side))
    return count / seconds, np.sqrt(max(count, 1)) / seconds


@pytest.fixture(scope="module")
def run():
    return simulated(jax.random.key(0), PARAMS, calm(), steps=80)


def test_orders_arrive_at_their_rates_by_distance(run):
    draws = run[0]
    seconds = np.asarray(draws.seconds, np.float64)[..., -1].sum()
    for side in (BUY, SELL):
        mine = (draws.kind == Kind.LIMIT) & (draws.side == side)
        count = np.bincount(np.asarray(draws.distance[mine]), minlength=21)[1:]
        wanted = np.asarray(PARAMS.limit_rate) * seconds
        assert (np.abs(count - wanted) < 4.5 * np.sqrt(wanted)).all()
        measured, error = rates(draws, Kind.MARKET, side)
        assert abs(measured - 0.94) < 4 * error


def test_gaps_are_exponential(run):
    gaps = np.diff(np.asarray(run[0].seconds, np.float64), axis=-1)
    assert gaps.std() / gaps.mean() == pytest.approx(1, abs=0.01)


def test_limit_orders_stand_at_their_distance_from_the_opposite_quote(run):
    params = PARAMS.replace(limit_rate=PARAMS.limit_rate * (jnp.arange(20) == 4) * 20)
    book = model.initial_book(jax.random.key(1), PARAMS, CONFIG)
    draws, _ = model.prepare(jax.random.key(2), model.initial_state(params), params, calm(), 200)
    made = jax.vmap(lambda draw: model.message(draw, book))(draws)
    quote = touch(book)
    limit = np.asarray(made.kind) == Kind.LIMIT
    opposite = np.where(made.side == BUY, quote.ask_price, quote.bid_price)
    assert limit.sum() > 10
    assert ((opposite - made.side * 5) == made.price)[limit].all()
    wide, _ = model.prepare(jax.random.key(2), model.initial_state(params), params, stressed(half_spread=3.0), 200)
    made = jax.vmap(lambda draw: model.message(draw, book))(wide)
    assert ((opposite - made.side * 8) == made.price)[limit].all()


def test_each_order_is_cancelled_at_its_hazard_whatever_else_rests():
    """With unit orders a distance holds rate / hazard of them on average: an M/M/infinity queue (Smith et al. 2003)."""
    distances = 12
    params = PARAMS.replace(
        limit_rate=jnp.full(distances, 1.0),
        market_rate=jnp.float32(1e-6),
        cancel_hazard=jnp.where(jnp.arange(distances) < 6, 0.6, 0.3),
        line=jnp.float32(80.0),
    )
    _, _, receipts, shown = simulated(jax.random.key(3), params, calm(), steps=80)
    late = jax.tree.map(lambda x: np.asarray(x)[:, 20:], shown)
    for price, size, opposite in (
        (late.bid_price, late.bid_size, late.ask_price[..., :1]),
        (late.ask_price, late.ask_size, late.bid_price[..., :1]),
    ):
        away = np.abs(opposite - price)
        depth = [np.where((away == d) & (size > 0), size, 0).sum(-1).mean() for d in range(1, distances + 1)]
        np.testing.assert_allclose(np.mean(depth[2:5]), 1 / 0.6, rtol=0.15)
        np.testing.assert_allclose(np.mean(depth[8:11]), 1 / 0.3, rtol=0.15)
    assert (receipts.code == 0).all()


def test_a_cancellation_hits_in_proportion_to_what_rests(run):
    draws, made, _, shown = run
    resting = (np.asarray(shown.bid_size).sum(-1) + np.asarray(shown.ask_size).sum(-1)) / 2
    hits = np.sum(np.asarray(made.kind) == Kind.CANCEL) / np.sum(np.asarray(draws.kind) == Kind.CANCEL)
    # Hazards fall with distance, so fewer hit than lie on the line.
    assert 0.3 * resting.mean() / 60 < hits < 0.7 * resting.mean() / 60


@pytest.mark.parametrize(
    ("stress", "limit", "market", "cancel"),
    [
        ({"limit_rate": 2.0}, 2.0, 1.0, 1.0),
        ({"market_rate": 3.0}, 1.0, 3.0, 1.0),
        ({"cancel_rate": 0.5}, 1.0, 1.0, 0.5),
        ({"limit_rate": 0.3, "market_rate": 0.0}, 0.3, 0.0, 1.0),
    ],
)
def test_stress_multiplies_the_rate_it_names_alone(stress, limit, market, cancel):
    draws = simulated(jax.random.key(4), PARAMS, stressed(**stress))[0]
    calm_rates = {
        Kind.LIMIT: 2 * float(PARAMS.limit_rate.sum()) * limit,
        Kind.MARKET: 2 * 0.94 * market,
        Kind.CANCEL: 2 * float(PARAMS.cancel_hazard[0]) * 60 * cancel,
    }
    for kind, wanted in calm_rates.items():
        measured, error = rates(draws, kind)
        assert abs(measured - wanted) < 4 * error, kind


def test_stress_tilts_market_orders_and_no_others():
    draws = simulated(jax.random.key(5), PARAMS, stressed(buy_share=0.9))[0]
    for kind, share in ((Kind.LIMIT, 0.5), (Kind.MARKET, 0.9), (Kind.CANCEL, 0.5)):
        assert np.mean(np.asarray(draws.side == BUY)[draws.kind == kind]) == pytest.approx(share, abs=0.012)


def test_stress_multiplies_sizes_also_of_single_lots():
    draws = simulated(jax.random.key(6), PARAMS, stressed(size=1.5), steps=10)[0]
    assert float(jnp.mean(draws.size)) == pytest.approx(1.5, abs=0.02)


def test_sizes_and_half_spreads_are_rounded_independently():
    params = PARAMS.replace(limit_rate=PARAMS.limit_rate * (jnp.arange(20) == 4) * 20)
    stress = stressed(size=1.5, half_spread=0.5)
    draws, _ = model.prepare(jax.random.key(8), model.initial_state(params), params, stress, 20_000)
    limits = np.asarray(draws.kind) == Kind.LIMIT
    size, distance = np.asarray(draws.size)[limits], np.asarray(draws.distance)[limits]
    assert (set(size), set(distance)) == ({1, 2}, {5, 6})
    assert abs(np.corrcoef(size, distance)[0, 1]) < 4 / np.sqrt(limits.sum())


def test_more_market_orders_widen_the_spread():
    def spread(stress):
        shown = simulated(jax.random.key(7), PARAMS, stress)[3]
        both = (shown.bid_size[..., 0] > 0) & (shown.ask_size[..., 0] > 0)
        return float(jnp.mean((shown.ask_price - shown.bid_price)[..., 0][both]))

    narrow = spread(calm())
    assert spread(stressed(market_rate=4.0)) > 1.3 * narrow
    assert spread(stressed(half_spread=4.0)) > narrow + 3


def test_prepare_and_message_are_traced_once_for_any_numbers():
    import chex

    traced = jax.jit(chex.assert_max_traces(lambda key, params, stress: simulated(key, params, stress, steps=2), 1))
    traced(jax.random.key(0), PARAMS, calm())
    traced(jax.random.key(1), PARAMS.replace(market_rate=jnp.float32(2.0)), stressed(size=3.0))
