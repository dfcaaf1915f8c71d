"""Fair-value flow: the mid follows the path, arbitrage pays those who see it, informed orders precede the news."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marljax.lob import matching, messages
from marljax.lob.flows import fair_value as model
from marljax.lob.flows import flow
from marljax.lob.snapshot import touch
from marljax.lob.stress import calm, stressed
from marljax.lob.types import BUY, SELL, BookConfig, Kind

CONFIG = BookConfig(slots=100)
PATH = 10_000 + np.cumsum(np.random.default_rng(0).normal(0, 0.5, 1200))
STILL = np.full(10, 10_000.0)
ENVS = 16


@functools.partial(jax.jit, static_argnames=("steps", "n"))
def simulated(key, params, stress, steps=300, n=20):
    def one(key):
        start, key = jax.random.split(key)
        carry = (model.initial_book(start, params, CONFIG), model.initial_state(params))

        def step(carry, key):
            book, state = carry
            draws, state = model.prepare(key, state, params, stress, n)
            respond = lambda book, draw: model.message(draw, book)  # noqa: E731
            book, report = matching.process(book, draws, CONFIG, respond=respond)
            return (book, state), (draws, report.messages, report.receipts, touch(book), state)

        return jax.lax.scan(step, carry, jax.random.split(key, steps))[1]

    return jax.vmap(one)(jax.random.split(key, ENVS))


def mid(quotes):
    return (np.asarray(quotes.bid_price) + np.asarray(quotes.ask_price)) / 2


@pytest.fixture(scope="module")
def run():
    return simulated(jax.random.key(0), model.typical(PATH), calm())


def test_fair_value_is_the_path(run):
    state = run[4]
    np.testing.assert_allclose(state.fair, np.interp(state.elapsed, np.arange(len(PATH)), PATH), atol=0.02)


def test_the_mid_follows_the_path_within_ticks(run):
    _, _, receipts, quotes, state = run
    assert (receipts.code == 0).all()
    both = (np.asarray(quotes.bid_size) > 0) & (np.asarray(quotes.ask_size) > 0)
    assert both.all()
    error = np.abs(mid(quotes) - np.asarray(state.fair))
    assert np.ptp(PATH[:400]) > 12, "a mid that stood still would be caught"
    assert np.median(error) < 1.0
    assert np.quantile(error, 0.99) < 4.0
    assert error.max() < 8.0
    assert 1 <= np.median(np.asarray(quotes.ask_price - quotes.bid_price)) <= 3


def test_a_jump_is_followed_within_seconds():
    path = np.where(np.arange(200) < 60, 10_000.0, 10_060.0)
    _, _, _, quotes, state = simulated(jax.random.key(1), model.typical(path), calm(), steps=120)
    late = np.asarray(state.elapsed) > 66
    assert late.any(1).all()
    assert np.quantile(np.abs(mid(quotes) - 10_060)[late], 0.95) < 5


def draws_of(stress, n=20_000, path=STILL, key=2):
    params = model.typical(path)
    return model.prepare(jax.random.key(key), model.initial_state(params), params, stress, n)


def test_drift_and_volatility_act_on_fair_value():
    _, still = draws_of(calm())
    _, drifting = draws_of(stressed(drift=0.25))
    assert float(drifting.fair - still.fair) == pytest.approx(0.25 * float(still.elapsed), rel=1e-4)
    line = np.arange(1000.0)
    _, once = draws_of(calm(), n=2000, path=line)
    _, twice = draws_of(stressed(volatility=2.0), n=2000, path=line)
    assert float(twice.fair) == pytest.approx(2 * float(once.fair), rel=1e-5)


def test_an_informed_share_of_market_orders_precedes_the_news():
    draws, state = draws_of(stressed(informed_share=0.4, informed_edge=3.0))
    market, informed = np.asarray(draws.kind) == Kind.MARKET, np.asarray(draws.informed)
    assert not (informed & ~market).any()
    assert informed.sum() / market.sum() == pytest.approx(0.4, abs=0.05)
    fair = np.append(np.asarray(draws.fair), state.fair)
    np.testing.assert_allclose(np.diff(fair), np.where(informed, 3.0 * np.asarray(draws.side), 0.0), atol=0.02)
    assert not np.asarray(draws_of(calm())[0].informed).any()


def test_an_informed_order_keeps_its_side_where_others_arbitrage():
    config = BookConfig(slots=20)
    quotes = [messages.limit(BUY, 90, 5, 1, 0), messages.limit(SELL, 92, 5, 2, 0)]
    book, _ = matching.process(matching.empty(config), messages.stack(quotes), config)
    draws, _ = draws_of(stressed(informed_share=0.5), n=4000)
    market = np.flatnonzero(np.asarray(draws.kind) == Kind.MARKET)
    draws = jax.tree.map(lambda x: x[market], draws)
    made = jax.vmap(lambda draw: model.message(draw, book))(draws.replace(fair=jnp.full(len(market), 100.0)))
    informed = np.asarray(draws.informed)
    assert (np.asarray(made.side)[~informed] == BUY).all(), "the ask is below fair value"
    assert (np.asarray(made.kind)[~informed] == Kind.IMMEDIATE_OR_CANCEL).all()
    assert (np.asarray(made.price)[~informed] == 100).all()
    np.testing.assert_array_equal(np.asarray(made.side)[informed], np.asarray(draws.side)[informed])
    assert (np.asarray(made.kind)[informed] == Kind.MARKET).all()


def test_limit_orders_stand_behind_fair_value_and_stress_moves_them_away():
    calm_draws, wide = draws_of(calm())[0], draws_of(stressed(half_spread=4.0))[0]
    limit = np.asarray(calm_draws.kind) == Kind.LIMIT
    away = (10_000 - np.asarray(calm_draws.price)) * np.asarray(calm_draws.side)
    assert away[limit].min() >= 1
    assert away[limit].mean() == pytest.approx(0.5 + 5.0 + 0.5, rel=0.05), "half spread, depth and rounding away"
    moved = (np.asarray(calm_draws.price) - np.asarray(wide.price)) * np.asarray(calm_draws.side)
    assert (moved[limit] == 4).all()


@pytest.mark.parametrize(
    ("field", "kind", "base"),
    [("limit_rate", Kind.LIMIT, 5.0), ("market_rate", Kind.MARKET, 0.5), ("cancel_rate", Kind.CANCEL, 6.0)],
)
def test_stress_multiplies_the_rate_it_names_alone(field, kind, base):
    def rates(draws, state):
        return {k: np.sum(np.asarray(draws.kind) == k) / float(state.elapsed) for k in (1, 2, 6)}

    before, after = rates(*draws_of(calm())), rates(*draws_of(stressed(**{field: 3.0})))
    assert before[kind] == pytest.approx(base, rel=0.1)
    for other in (Kind.LIMIT, Kind.MARKET, Kind.CANCEL):
        assert after[other] / before[other] == pytest.approx(3.0 if other == kind else 1.0, rel=0.12)


def test_stress_of_size_and_of_buyers():
    draws = draws_of(stressed(size=0.25, buy_share=0.2))[0]
    assert float(jnp.mean(draws.size)) == pytest.approx(2.5, rel=0.01)
    for kind, share in ((Kind.LIMIT, 0.5), (Kind.MARKET, 0.2), (Kind.CANCEL, 0.5)):
        side = np.asarray(draws.side)[np.asarray(draws.kind) == kind]
        assert np.mean(side == BUY) == pytest.approx(share, abs=0.05)


def test_the_path_ends_and_fair_value_stays():
    path = np.array([100.0, 110.0, 105.0])
    at = flow.along(jnp.asarray(path), jnp.float32(1.0), jnp.array([0.0, 0.5, 1.5, 2.0, 50.0]))
    assert at.tolist() == [100.0, 105.0, 107.5, 105.0, 105.0]
