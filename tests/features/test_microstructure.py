"""The book's own features by hand: every event of the order-flow definition, absent levels, one-level books."""

import jax.numpy as jnp
import numpy as np
import pytest

from marljax.features import microstructure


def book(*rows: tuple[int, int, int, int]) -> tuple[jnp.ndarray, ...]:
    """One-level rows of (bid, bid size, ask, ask size)."""
    bid, bid_size, ask, ask_size = np.array(rows).T[..., None]
    return tuple(map(jnp.asarray, (bid, ask, bid_size, ask_size)))


@pytest.mark.parametrize(
    ("after", "flow"),
    [
        ((100, 10, 102, 20), 0),
        ((100, 15, 102, 20), 5),  # five lots join the bid
        ((100, 4, 102, 20), -6),  # six leave it
        ((100, 10, 102, 26), -6),  # six join the ask
        ((101, 7, 102, 20), 7),  # a better bid counts in full
        ((99, 30, 102, 20), -10),  # the old bid is gone
        ((100, 10, 103, 9), 20),  # the old ask is gone
        ((100, 10, 101, 3), -3),  # a better ask counts in full
        ((101, 7, 103, 9), 27),
    ],
)
def test_order_flow_counts_what_joined_and_left(after, flow):
    result = microstructure.order_flow(*book((100, 10, 102, 20), after), jnp.arange(2))
    np.testing.assert_array_equal(result[:, 0], [0, flow])


def test_order_flow_over_a_session_boundary_is_nothing():
    result = microstructure.order_flow(*book((100, 10, 102, 20), (300, 5, 301, 5)), jnp.zeros(2, int))
    np.testing.assert_array_equal(result, 0)


def test_order_flow_imbalance_is_flow_over_usual_depth():
    quiet = [(100, 10, 102, 30)] * 5
    rows = book(*quiet, (100, 18, 102, 30))
    result = microstructure.order_flow_imbalance(*rows, jnp.arange(6), levels=1, window=3, depth_window=6)
    np.testing.assert_allclose(result, [0, 0, 0, 0, 0, 8 / ((5 * 20 + 24) / 6)], rtol=1e-6)


def test_all_levels_of_a_one_level_book_are_its_touch():
    rows = book((100, 10, 102, 20), (101, 7, 103, 9), (101, 7, 103, 2))
    age = jnp.arange(3)
    touch, deep = (
        microstructure.order_flow_imbalance(*rows, age, levels=n, window=2, depth_window=2)
        for n in (1, rows[0].shape[1])
    )
    np.testing.assert_array_equal(touch, deep)


def test_an_absent_level_adds_nothing_to_imbalance():
    bid_size, ask_size = jnp.array([[6, 0, 0]]), jnp.array([[2, 4, 0]])
    np.testing.assert_allclose(microstructure.imbalance(bid_size, ask_size, 1), 0.5)
    np.testing.assert_allclose(microstructure.imbalance(bid_size, ask_size, 3), 0.0)


def test_the_microprice_leans_to_the_lighter_side():
    bid, ask, bid_size, ask_size = book((100, 30, 104, 10))
    # (100 * 10 + 104 * 30) / 40 = 103, one tick above the mid
    np.testing.assert_allclose(microstructure.microprice_offset(bid, ask, bid_size, ask_size), 1.0)
    np.testing.assert_allclose(microstructure.spread(bid, ask), 4.0)


def test_depth_that_doubles_and_halves_has_the_volatility_of_a_coin():
    size = jnp.asarray(np.tile([10, 30], 20)[:, None])
    result = microstructure.depth_volatility(size, size, jnp.arange(40), 10)
    np.testing.assert_allclose(result[10:], 0.5, rtol=1e-5)
    assert result[0] == 0


def test_sizes_near_the_largest_integer_do_not_overflow():
    size = jnp.full((4, 3), 2**31 - 1)
    np.testing.assert_allclose(microstructure.imbalance(size, size, 3), 0.0)
    np.testing.assert_allclose(microstructure.depth_volatility(size, size, jnp.arange(4), 3), 0.0)
