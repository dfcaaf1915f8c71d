"""What all flow models share: quotes, places on the line, uniform draws made into kinds, sizes and times."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marljax.lob import matching, messages
from marljax.lob.flows import fair_value, flow, hawkes, hawkes_market, zero_intelligence
from marljax.lob.snapshot import levels, touch
from marljax.lob.stress import calm, stressed
from marljax.lob.types import BUY, SELL, BookConfig, Kind

CONFIG = BookConfig(slots=20)
FAR = flow.DEEPEST
MODELS = {
    "zero intelligence": (zero_intelligence, zero_intelligence.typical()),
    "hawkes": (hawkes, hawkes_market.load()),
    "fair value": (fair_value, fair_value.typical(np.full(10, 10_000.0))),
}


def book_of(*resting):
    """A book after limit orders (side, price, size, id, owner)."""
    block = messages.stack([messages.limit(*order) for order in resting])
    return matching.process(matching.empty(CONFIG), block, CONFIG)[0]


def test_quotes_are_the_touch_and_an_empty_side_stands_a_tick_beyond_the_other():
    one = book_of((BUY, 99, 5, 1, 0), (BUY, 97, 5, 2, 0), (SELL, 103, 5, 3, 0))
    assert [int(x) for x in flow.quotes(one, 50)] == [99, 103]
    assert [int(x) for x in flow.quotes(book_of((BUY, 99, 5, 1, 0)), 50)] == [99, 100]
    assert [int(x) for x in flow.quotes(book_of((SELL, 103, 5, 1, 0)), 50)] == [102, 103]
    assert [int(x) for x in flow.quotes(matching.empty(CONFIG), 50)] == [50, 51]


def test_agents_orders_move_the_quotes_and_cancellations_pass_them_by():
    book = book_of((BUY, 99, 5, 7, 1), (BUY, 98, 4, 8, 0), (BUY, 98, 3, 9, 0), (SELL, 103, 5, 10, 0))
    assert int(flow.quotes(book, 0).bid) == 99
    places = jnp.arange(14)
    found, id = jax.vmap(lambda place: flow.background_at(book, BUY, place, FAR, -FAR))(places)
    assert found.tolist() == [False] * 5 + [True] * 7 + [False] * 2
    assert id[5:12].tolist() == [8] * 4 + [9] * 3
    found, id = jax.vmap(lambda place: flow.background_at(book, SELL, place, -FAR, FAR))(places)
    assert found.tolist() == [True] * 5 + [False] * 9
    assert set(id[:5].tolist()) == {10}


@pytest.mark.parametrize(("side", "best", "worst", "hit"), [(BUY, 99, 98, [False, True, True, False])])
def test_orders_beyond_the_named_prices_are_left_alone(side, best, worst, hit):
    book = book_of(*((BUY, price, 1, 100 - price, 0) for price in (100, 99, 98, 97)))
    found, _ = jax.vmap(lambda place: flow.background_at(book, side, place, best, worst))(jnp.arange(4))
    assert found.tolist() == hit


def test_places_are_counted_behind_what_traded():
    book = book_of((SELL, 101, 5, 1, 0), (SELL, 102, 5, 2, 0))
    book, _ = matching.process(book, messages.stack([messages.market(BUY, 3, 9, 1)]), CONFIG)
    found, id = jax.vmap(lambda place: flow.background_at(book, SELL, place, -FAR, FAR))(jnp.arange(8))
    assert (found.tolist(), id[:7].tolist()) == ([True] * 7 + [False], [1, 1, 2, 2, 2, 2, 2])


def test_a_filled_book_is_the_one_that_its_orders_make():
    price = jnp.array([[98, 99, 98, 97], [103, 101, 101, 104]])
    size = jnp.array([[5, 1, 2, 0], [3, 4, 5, 6]])
    shown = levels(flow.filled(CONFIG, price, size), 3)
    made = book_of(
        *((BUY, p, s, i, 0) for i, (p, s) in enumerate(zip([98, 99, 98], [5, 1, 2], strict=True))),
        *((SELL, p, s, 9 + i, 0) for i, (p, s) in enumerate(zip([103, 101, 101, 104], [3, 4, 5, 6], strict=True))),
    )
    jax.tree.map(np.testing.assert_array_equal, shown, levels(made, 3))
    book = flow.filled(CONFIG, price, size)
    _, report = matching.process(book, messages.stack([messages.market(SELL, 8, 50, 1)]), CONFIG)
    # At one price the first in the row is the first in the queue.
    assert report.trades.maker[:3].tolist() == [-2, -1, -3]
    with pytest.raises(ValueError, match="too few"):
        flow.filled(BookConfig(slots=3), price, size)


def test_categories_are_drawn_in_proportion_and_never_with_weight_zero():
    uniform = flow.uniforms(jax.random.key(0), 1, 200_000)[0]
    assert float(uniform.min()) >= 0
    assert float(uniform.max()) < 1
    share = np.bincount(flow.choose(uniform, jnp.array([1.0, 0.0, 3.0, 0.0])), minlength=4) / 200_000
    np.testing.assert_allclose(share, [0.25, 0, 0.75, 0], atol=0.004)
    largest = jnp.full(1, 1 - 2.0**-23)
    for total in (0.1, 1.0, 1.9999999, 7.3):
        assert flow.choose(largest, jnp.array([total, 0.0])).tolist() == [0]


def test_exponentials_have_mean_and_variance_one():
    x = np.asarray(flow.exponentials(flow.uniforms(jax.random.key(1), 1, 200_000)[0]))
    assert (x > 0).all()
    assert (x.mean(), x.var()) == (pytest.approx(1, abs=0.01), pytest.approx(1, abs=0.03))


def test_an_event_survives_with_its_hazards_ratio():
    hazard = jnp.array([1.0, 0.5, 0.2])
    within = np.asarray(flow.survives(flow.uniforms(jax.random.key(2), 1, 100_000)[0], hazard))
    for distance, share in ((1, 1.0), (2, 0.5), (3, 0.2), (50, 0.2)):
        assert np.mean(within >= distance) == pytest.approx(share, abs=0.006)


def test_rounding_at_random_keeps_the_mean():
    u = flow.uniforms(jax.random.key(3), 1, 100_000)[0]
    drawn = flow.whole(jnp.float32(2.3), u)
    assert set(drawn.tolist()) == {2, 3}
    assert float(jnp.mean(drawn)) == pytest.approx(2.3, abs=0.01)


def test_a_profile_is_linear_between_its_points_and_constant_beyond():
    values = jnp.array([1.0, 3.0, 2.0])
    read = [float(flow.along(values, jnp.float32(10.0), jnp.float32(t))) for t in (-5, 0, 5, 10, 15, 20, 99)]
    assert read == pytest.approx([1, 1, 2, 3, 2.5, 2, 2])


def test_the_share_of_buyers_multiplies_odds_and_a_half_is_neutral():
    assert float(flow.buy_share(jnp.float32(0.6), calm())) == pytest.approx(0.6)
    assert float(flow.buy_share(jnp.float32(0.5), stressed(buy_share=0.8))) == pytest.approx(0.8)
    assert float(flow.buy_share(jnp.float32(0.6), stressed(buy_share=0.8))) == pytest.approx(0.48 / 0.56)


@pytest.mark.parametrize("name", MODELS)
def test_every_model_has_the_interface(name):
    """One step of any model: times ascend, messages are the background's, and the book takes all of them."""
    model, params = MODELS[name]
    config = BookConfig(slots=100)

    @jax.jit
    def step(key, stress):
        book = model.initial_book(key, params, config)
        draws, state = model.prepare(key, model.initial_state(params), params, stress, 100)
        after, report = matching.process(book, draws, config, respond=lambda book, draw: model.message(draw, book))
        return book, draws, state, report, after

    book, draws, state, report, _ = step(jax.random.key(4), calm())
    assert (draws.seconds.dtype, draws.seconds.shape) == (jnp.float32, (100,))
    assert (jnp.diff(draws.seconds) >= 0).all()
    assert float(draws.seconds[0]) > 0
    assert int(state.next_id) == 100
    assert (report.messages.owner == flow.BACKGROUND).all()
    assert (report.receipts.code == 0).all()
    before = touch(book)
    assert int(before.bid_price) < int(before.ask_price)
    alive = np.asarray(book.end > book.consumed[:, None])
    assert (alive.sum(1) >= 15).all(), "the first book is one to trade in"
    assert (np.asarray(book.id)[alive] < 0).all()
    _, halted, _, report, after = step(jax.random.key(4), stressed(halted=1.0))
    assert (halted.kind == Kind.NOTHING).all()
    assert (report.messages.kind == Kind.NOTHING).all()
    np.testing.assert_array_equal(after.end[alive], book.end[alive])
    _, idle, _, _, _ = step(jax.random.key(4), stressed(limit_rate=0.0, market_rate=0.0, cancel_rate=0.0))
    assert (idle.kind == Kind.NOTHING).all()
    assert np.isfinite(idle.seconds).all()


@pytest.mark.parametrize("name", MODELS)
def test_one_rate_can_be_stopped_alone(name):
    model, params = MODELS[name]
    prepare = jax.jit(
        lambda stress: model.prepare(jax.random.key(5), model.initial_state(params), params, stress, 500)[0]
    )
    for field, kind in (("limit_rate", Kind.LIMIT), ("market_rate", Kind.MARKET), ("cancel_rate", Kind.CANCEL)):
        draws = prepare(stressed(**{field: 0.0}))
        assert not (draws.kind == kind).any()
        assert len(np.unique(draws.kind)) == 2
