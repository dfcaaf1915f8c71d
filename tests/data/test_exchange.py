"""The exchange simulator behind the embedded sample: matching, makers, takers, the participant's account."""

from random import Random

import pytest

from marljax.data.exchange import (
    BUY,
    PARTICIPANT,
    SELL,
    VISIBLE_LEVELS,
    Book,
    Conditions,
    Maker,
    Market,
    Order,
    Style,
    normal,
    whole,
)

CALM = Conditions(fair=1000.3, spread=1.0, depth=1.0, pressure=0.0, arrivals=1.0)


def maker(name: str = "") -> Maker:
    return Maker(name, distance=1.0, size=10, skew=0.0, position_limit=100)


def test_market_order_fills_best_price_first_then_longest_wait() -> None:
    book = Book()
    first, second, better = maker("first"), maker("second"), maker("better")
    for owner, price in ((first, 102), (second, 102), (better, 101)):
        book.post(Order(owner, SELL, price, 10))
    fills = book.take(BUY, 25, deepest=102)
    assert [(order.maker.name, order.price, lots) for order, lots in fills] == [
        ("better", 101, 10),
        ("first", 102, 10),
        ("second", 102, 5),
    ]
    assert book.levels(SELL, 3) == [(102, 5)]


def test_market_order_stops_at_its_deepest_price() -> None:
    book = Book()
    for price in (99, 98, 97):
        book.post(Order(maker(), BUY, price, 10))
    assert sum(lots for _, lots in book.take(SELL, 100, deepest=98)) == 20
    assert book.levels(BUY, 3) == [(97, 10)]
    assert book.best(SELL) is None


def test_book_is_never_crossed_and_no_side_ever_empties() -> None:
    rng, market = Random(5), Market(Style(half_spread=0.7, size=40), Random(1))
    fair = 1000.0
    for _ in range(3000):
        now = Conditions(fair, 1.0 + rng.random(), 0.2 + rng.random(), 2 * normal(rng), 4.0)
        market.quote(now)
        bids, asks = market.snapshot()
        assert bids[0][0] < asks[0][0]
        assert 1 <= len(bids) <= VISIBLE_LEVELS
        assert 1 <= len(asks) <= VISIBLE_LEVELS
        fair += 3 * normal(rng)
        market.trade(now, fair)


def test_trades_meet_visible_levels_and_the_account_follows_from_them() -> None:
    rng, market = Random(6), Market(Style(half_spread=0.7, size=40), Random(2))
    fair, cash, position, own = 1000.0, 0, 0, 0
    for _ in range(2000):
        now = Conditions(fair, 1.0, 1.0, normal(rng), 3.0)
        market.quote(now)
        bids, asks = market.snapshot()
        assert market.double_pnl() == 2 * cash + position * (bids[0][0] + asks[0][0])
        fair += normal(rng)
        for trade in market.trade(now, fair):
            assert trade.price in [price for price, _ in (asks if trade.side == BUY else bids)]
            if PARTICIPANT in (trade.buyer, trade.seller):
                sign = BUY if trade.buyer == PARTICIPANT else SELL
                assert sign == -trade.side
                cash -= sign * trade.size * trade.price
                position += sign * trade.size
                own += 1
        assert position == market.participant.inventory
        assert abs(position) <= market.participant.position_limit
    assert own > 200


def test_informed_takers_buy_before_a_rise() -> None:
    market = Market(Style(half_spread=1.0, size=40, arrivals=0.0, informed=1.0), Random(3))
    market.quote(CALM)
    trades = market.trade(CALM, next_fair=CALM.fair + 10)
    assert trades
    assert all(trade.side == BUY for trade in trades)


def test_makers_show_larger_bids_under_buying_pressure() -> None:
    def imbalance(pressure: float) -> float:
        total = 0.0
        for seed in range(200):
            market = Market(Style(half_spread=1.0, size=100), Random(seed))
            market.quote(Conditions(1000.0, 1.0, 1.0, pressure, 1.0))
            (_, bid), (_, ask) = (side[0] for side in market.snapshot())
            total += (bid - ask) / (bid + ask)
        return total / 200

    assert imbalance(1.0) == pytest.approx(0.25, abs=0.08)
    assert imbalance(-1.0) == pytest.approx(-0.25, abs=0.08)


def test_random_numbers_have_the_moments_they_claim() -> None:
    rng = Random(0)
    draws = [normal(rng) for _ in range(20_000)]
    assert sum(draws) / len(draws) == pytest.approx(0, abs=0.03)
    assert sum(x * x for x in draws) / len(draws) == pytest.approx(1, abs=0.04)
    assert {whole(rng, 2, 5) for _ in range(200)} == {2, 3, 4, 5}
