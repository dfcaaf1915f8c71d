"""Sessions of any length from a generator: valid, labelled, on the grid, obeying where they start."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marljax.data.schema import InputError, assert_not_synthetic
from marljax.generative.books import decompose
from marljax.generative.representation import fit
from marljax.generative.stitching import Condition, draw_conditions, generate, generate_sessions, make_generator
from marljax.generative.wgan_gp import GanConfig, init, make_dataset
from tests.reference.generative import BOOK_FIELDS, toy_market

SMALL = GanConfig(window=16, context=8, hidden=16, latents=1, batch=8)


@functools.cache
def untrained():
    data = toy_market(0, n_levels=2, clustering=0.97)
    representation = fit(data)
    dataset, encoded = make_dataset(representation, data, SMALL, 0)
    return make_generator(init(jax.random.key(0), dataset, SMALL), dataset, encoded), data


def test_sessions_are_valid_labelled_and_on_the_training_grid():
    generator, data = untrained()
    books = generate_sessions(generator, jax.random.key(0), 3, 50)
    assert books.origin == "synthetic"
    assert books.products == data.products
    assert books.session.tolist() == [0] * 50 + [1] * 50 + [2] * 50
    seconds = np.asarray(books.seconds).reshape(3, 50)
    np.testing.assert_allclose(np.diff(seconds, axis=1), 0.5, atol=1e-4)
    assert seconds.max() <= float(np.asarray(data.seconds).max()) + 0.5
    with pytest.raises(InputError, match="synthetic"):
        assert_not_synthetic(books, "testing")


def test_a_longer_session_begins_like_a_shorter_one_of_the_same_windows():
    """Lengths that need the same windows differ only in where the last one is cut."""
    generator, _ = untrained()
    start = jax.tree.map(lambda x: x[0], generator.starts)
    short, long = (generate(generator, jax.random.key(0), start, n) for n in (35, 47))
    assert long.n_steps == 47
    for field in BOOK_FIELDS:
        np.testing.assert_array_equal(getattr(short, field), getattr(long, field)[:35])


def test_many_sessions_are_one_vmapped_call():
    generator, _ = untrained()
    conditions = draw_conditions(generator, jax.random.key(1), 5, 20)
    keys = jax.random.split(jax.random.key(2), 5)
    chex.clear_trace_counter()

    @chex.assert_max_traces(n=1)
    def draw(generator, key, condition):
        return generate(generator, key, condition, 20)

    many = jax.jit(jax.vmap(draw, in_axes=(None, 0, 0)))
    books = many(generator, keys, conditions)
    many(generator, keys[::-1], conditions)
    assert books.bid_price.shape == (5, 20, 2, 2)
    alone = generate(generator, keys[3], jax.tree.map(lambda x: x[3], conditions), 20)
    np.testing.assert_array_equal(books.bid_price[3], alone.bid_price)
    assert len({x.tobytes() for x in np.asarray(books.bid_size)}) == 5


def test_a_session_starts_where_its_condition_says():
    generator, _ = untrained()
    clock = jnp.float32(0.25)
    condition = Condition(jnp.array([30_000, 50_000]), jnp.zeros(2, jnp.int32), clock)
    books = generate(generator, jax.random.key(0), condition, 4)
    assert (abs(np.asarray(books.double_mid[0]) - [30_000, 50_000]) < 200).all()
    assert float(books.seconds[0]) == pytest.approx(0.25 * float(generator.representation.session_seconds))


def test_a_volatile_start_makes_larger_moves():
    generator, data = untrained()

    def size(regime: int) -> float:
        condition = Condition(data.double_mid[5], jnp.full(2, regime, jnp.int32), jnp.float32(0.0))
        keys = jax.random.split(jax.random.key(3), 200)
        books = jax.vmap(lambda k: generate(generator, k, condition, 8))(keys)
        return float(np.abs(np.diff(np.asarray(books.double_mid), axis=1)).mean())

    low, middle, high = map(size, range(3))
    assert low < middle < high
    assert high > 1.5 * low


@pytest.mark.nightly
def test_volatility_after_each_regime_is_that_of_real_rows():
    """Monotone in the regime and within 15 % of what real rows of that regime show over the next eight steps."""
    data = toy_market(0, n_steps=24_000, n_levels=1, n_sessions=4, clustering=0.97)
    representation = fit(data)
    dataset, encoded = make_dataset(representation, data, SMALL, 0)
    generator = make_generator(init(jax.random.key(0), dataset, SMALL), dataset, encoded)
    moves = np.asarray(decompose(data)[0].move, float) ** 2
    ahead = np.mean([np.roll(moves, -k, axis=0) for k in range(8)], axis=0)
    usable = np.asarray(dataset.starts) + SMALL.context
    regime = np.asarray(dataset.regime)
    real = [np.sqrt(np.mean(ahead[usable][regime[usable] == r])) for r in range(3)]

    def drawn(regime: int) -> float:
        condition = Condition(data.double_mid[5], jnp.full(2, regime, jnp.int32), jnp.float32(0.0))
        keys = jax.random.split(jax.random.key(3), 1000)
        books = jax.jit(jax.vmap(lambda k: generate(generator, k, condition, 8)))(keys)
        mid = np.concatenate([np.full((1000, 1, 2), np.asarray(condition.level)), np.asarray(books.double_mid)], 1)
        return float(np.sqrt(np.mean(np.diff(mid, axis=1) ** 2)))

    found = [drawn(r) for r in range(3)]
    assert found[0] < found[1] < found[2]
    np.testing.assert_allclose(found, real, rtol=0.15)


def test_consecutive_windows_join_without_a_seam():
    """Slow channels do not jump where a window begins more than elsewhere."""
    generator, _ = untrained()
    slow = {**generator.params, "persistence": jnp.full_like(generator.params["persistence"], 2.0)}
    scale = {**slow, "mixing": jnp.eye(len(slow["mixing"])) * 0.27}
    books = generate_sessions(generator.replace(params=scale), jax.random.key(0), 40, 160)
    size = np.log(np.asarray(decompose(books)[0].bid_size)[..., 0]).reshape(40, 160, 2)
    jump = np.abs(np.diff(size, axis=1)).mean((0, 2))
    seams = jump[15::16]
    assert seams.mean() < 1.15 * jump.mean()
