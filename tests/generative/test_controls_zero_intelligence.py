"""A zero-intelligence book: the rates of a Poisson book are found in messages and on a grid, and make one like it."""

import jax.numpy as jnp
import numpy as np
import pytest

from marljax.data.schema import InputError, MarketData, Product
from marljax.generative.controls.flow_rates import fit_flow, fit_flow_of_messages
from marljax.generative.controls.zero_intelligence import zero_intelligence_books
from marljax.lob.sessions.session import market_orders
from tests.reference import poisson_book

RATES = poisson_book.Rates(limit=(1.0, 0.8, 0.6, 0.4, 0.2), market=0.4, cancel=0.2)
STEP, LOTS = 0.25, 3


@pytest.fixture(scope="module")
def session():
    return poisson_book.simulate(0, 3000.0, RATES, lots=LOTS)


def on_a_grid(session, n_products=1, step=STEP):
    """The last book at or before each grid time, and what takers bought and sold since the one before."""
    grid = np.arange(step, session.duration, step)
    row = np.searchsorted(session.seconds, grid, side="right") - 1
    first, sign, size = market_orders(session)
    cell = np.searchsorted(grid, session.seconds[first])
    lots = [np.bincount(cell, weights=w, minlength=len(grid) + 1)[: len(grid), None] for w in (size, sign * size)]
    volume, imbalance = (np.repeat(x, n_products, axis=1) for x in lots)

    def side(price, size, away):
        price, size = price[row].copy(), size[row]
        for k in range(1, price.shape[1]):
            price[:, k] = np.where(size[:, k] > 0, price[:, k], price[:, k - 1] + away)
        return [np.repeat(x[:, None], n_products, axis=1) for x in (price, size)]

    bid_price, bid_size = side(session.bid_price, session.bid_size, -1)
    ask_price, ask_size = side(session.ask_price, session.ask_size, 1)
    return MarketData.build(
        bid_price=bid_price,
        ask_price=ask_price,
        bid_size=bid_size,
        ask_size=ask_size,
        trade_volume=volume,
        trade_imbalance=imbalance,
        pnl=np.full((len(grid), n_products), np.nan),
        valid=np.ones((len(grid), n_products), bool),
        seconds=grid,
        products=tuple(Product(f"P{p}") for p in range(n_products)),
        origin="simulated",
    )


@pytest.fixture(scope="module")
def training(session):
    return on_a_grid(session, n_products=2)


@pytest.fixture(scope="module")
def books(training):
    return zero_intelligence_books(training, n_sessions=3, n_steps=3000, seed=0, warm_up=60.0)


def test_every_message_gives_the_rates_it_was_made_with(session):
    found = fit_flow_of_messages([session.within(0, 1400.0), session.within(1600.0, 3000.0)])
    np.testing.assert_allclose(found.limit_rate[:5], RATES.limit, rtol=0.1)
    assert float(found.limit_rate[5:].sum()) < 0.01
    # The last order of a side neither trades nor is cancelled, and that is why a little less goes.
    np.testing.assert_allclose(found.cancel_hazard[:5], RATES.cancel, rtol=0.15)
    assert float(found.market_rate) == pytest.approx(RATES.market, rel=0.12)
    assert set(np.asarray(found.sizes)) == {LOTS}


def test_books_on_a_fine_grid_give_nearly_the_same_rates(session):
    found = fit_flow(on_a_grid(session, step=0.1))
    lots = float(found.sizes.mean())
    np.testing.assert_allclose(found.limit_rate[:5] * lots, np.array(RATES.limit) * LOTS, rtol=0.15)
    np.testing.assert_allclose(found.cancel_hazard[:4], RATES.cancel, rtol=0.12)
    assert float(found.market_rate) * lots == pytest.approx(RATES.market * LOTS, rel=0.12)
    assert lots == pytest.approx(LOTS, rel=0.1)


def test_on_a_coarse_grid_less_comes_and_goes_and_as_much_rests(session):
    def resting(found):
        return float(np.sum(found.limit_rate / found.cancel_hazard) * found.sizes.mean())

    fine, coarse = (fit_flow(on_a_grid(session, step=step)) for step in (0.1, 1.0))
    assert resting(coarse) == pytest.approx(resting(fine), rel=0.12)
    # A fifth of what rests is cancelled in a second, and orders at one price hide each other.
    assert 0.5 < float(coarse.cancel_hazard[2] / fine.cancel_hazard[2]) < 0.8


def test_books_resemble_the_training_part(training, books):
    assert (books.origin, books.products, books.n_levels) == ("synthetic", training.products, training.n_levels)
    assert np.asarray(books.valid).mean() > 0.99
    np.testing.assert_allclose(np.diff(np.asarray(books.seconds[:3000])), STEP, rtol=1e-4)

    def means(data):
        return {
            "spread": np.mean(data.ask_price[..., 0] - data.bid_price[..., 0]),
            "touch": np.mean(data.bid_size[..., 0] + data.ask_size[..., 0]),
            "depth": np.mean(np.sum(data.bid_size + data.ask_size, -1)),
            "volume": np.mean(data.trade_volume),
            "volatility": np.std(np.diff(np.asarray(data.double_mid)[:3000], axis=0)),
        }

    real, drawn = means(training), means(books)
    for name, factor in (("spread", 1.2), ("touch", 1.2), ("depth", 1.2), ("volume", 1.15), ("volatility", 1.4)):
        assert 1 / factor < drawn[name] / real[name] < factor, (name, real[name], drawn[name])
    assert abs(np.mean(books.trade_imbalance)) < 0.1 * np.mean(books.trade_volume)


def test_takers_push_the_mid_their_way(books):
    moves = np.diff(np.asarray(books.double_mid)[:3000, 0])
    assert np.corrcoef(moves, np.asarray(books.trade_imbalance)[1:3000, 0])[0, 1] > 0.2


def test_sessions_begin_at_prices_that_were_seen_and_products_go_their_own_ways(training, books):
    for p in range(2):
        first = np.asarray(books.bid_price)[::3000, p, 0]
        assert np.isin(first, np.asarray(training.bid_price)[:, p, 0]).all()
    moves = np.diff(np.asarray(books.double_mid)[:3000], axis=0)
    assert abs(np.corrcoef(moves.T)[0, 1]) < 0.1
    assert not np.array_equal(books.bid_size[:3000], books.bid_size[3000:6000])


@pytest.mark.nightly
def test_the_same_seed_draws_the_same_books_and_another_does_not(training, books):
    again, other = (
        zero_intelligence_books(training, n_sessions=3, n_steps=3000, seed=seed, warm_up=60.0) for seed in (0, 1)
    )
    np.testing.assert_array_equal(books.ask_price, again.ask_price)
    assert not np.array_equal(books.ask_price, other.ask_price)


def test_given_rates_are_used_whatever_the_training_part_shows(training):
    quiet = [fit_flow(training, p).replace(market_rate=jnp.float32(0.04)) for p in range(2)]
    books = zero_intelligence_books(training, n_sessions=3, n_steps=3000, seed=0, flows=quiet, warm_up=60.0)
    lots = float(quiet[0].sizes.mean())
    assert np.mean(books.trade_volume) == pytest.approx(2 * 0.04 * STEP * lots, rel=0.2)


@pytest.mark.nightly
def test_one_product_is_as_good_as_several(session):
    training = on_a_grid(session)
    books = zero_intelligence_books(training, n_sessions=1, n_steps=8000, seed=0)
    spread = [float(np.mean(x.ask_price[..., 0] - x.bid_price[..., 0])) for x in (training, books)]
    assert spread[1] == pytest.approx(spread[0], rel=0.15)


def test_bad_requests_are_refused(training):
    request = {"n_sessions": 1, "n_steps": 10, "seed": 0}
    with pytest.raises(InputError, match="synthetic data"):
        zero_intelligence_books(training.replace(origin="synthetic"), **request)
    with pytest.raises(InputError, match="as many flows"):
        zero_intelligence_books(training, **request, flows=[fit_flow(training)])
    silent = training.replace(trade_volume=0 * training.trade_volume, trade_imbalance=0 * training.trade_imbalance)
    with pytest.raises(InputError, match="no flow can be fitted to P0"):
        zero_intelligence_books(silent, **request)
    with pytest.raises(InputError, match="at least one session"):
        fit_flow_of_messages([])
