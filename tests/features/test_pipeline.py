"""The pipeline's promises: right against loops, causal to the bit, finite, scaled by the training part alone."""

import dataclasses
import time

import chex
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra import numpy as hnp

from marljax.data.schema import LARGEST_TICK, InputError, MarketData, Product
from marljax.features import REGISTRY, FeatureConfig, compute, fit, transform, warm_up_steps
from marljax.features.registry import MEANINGS
from marljax.features.returns import MINIMUM_COUNT
from tests.reference import features as oracle
from tests.reference.books import random_market

ALL = FeatureConfig(
    names=tuple(REGISTRY),
    volatility_window=12,
    long_volatility_window=40,
    z_score_window=25,
    flow_window=5,
    liquidity_window=30,
    relative_value_span=50,
    macd_fast=5,
    macd_slow=11,
    macd_signal=4,
    rsi_period=6,
)


def related_market(seed: int = 0, n_steps: int = 240, n_sessions: int = 3) -> MarketData:
    """Three products, the first of which is worth the other two, on random books with unobserved rows."""
    data = random_market(seed, n_steps, n_products=3, n_sessions=n_sessions, invalid=0.1)
    mid = data.double_mid // 2
    stray = np.random.default_rng(seed).integers(-3, 4, n_steps)
    move = (mid[:, 1] + mid[:, 2] + stray - mid[:, 0])[:, None]
    return data.replace(
        bid_price=data.bid_price.at[:, 0].add(move),
        ask_price=data.ask_price.at[:, 0].add(move),
    )


@pytest.fixture(scope="module")
def fitted():
    data = related_market()
    pipeline = fit(data, ALL)
    assert (pipeline.reference.relative_value.scale > 0).any()
    return data, pipeline


@pytest.mark.parametrize("seed", [1, 2])
def test_every_feature_is_what_the_loops_say(fitted, seed):
    _, pipeline = fitted
    data = related_market(seed)
    expected = oracle.all_features(data, ALL, pipeline.reference)
    assert set(expected) == set(REGISTRY)
    features = compute(data, ALL, pipeline.reference)
    for i, name in enumerate(ALL.names):
        np.testing.assert_allclose(features[..., i], expected[name], rtol=2e-4, atol=2e-4, err_msg=name)


def disturbed(data: MarketData, rows: np.ndarray, seed: int) -> MarketData:
    """Another history: every field of these rows drawn anew, the others untouched. `rows` bool[T]."""
    other = related_market(seed + 100, data.n_steps, n_sessions=7)
    other = other.replace(
        bid_price=other.bid_price + 777, ask_price=other.ask_price + 777, session=other.session + data.session[-1]
    )
    return jax.tree.map(
        lambda mine, theirs: jnp.where(rows.reshape((-1,) + (1,) * (mine.ndim - 1)), theirs, mine), data, other
    )


@pytest.mark.parametrize("after", [0, 1, 79, 80, 130, 238])
def test_no_feature_knows_the_future(fitted, after):
    data, pipeline = fitted
    future = disturbed(data, np.arange(240) > after, seed=after)
    for function in (lambda d: compute(d, ALL, pipeline.reference), lambda d: transform(pipeline, d)):
        one, other = np.asarray(function(data)), np.asarray(function(future))
        for i, name in enumerate(ALL.names):
            np.testing.assert_array_equal(one[: after + 1, :, i], other[: after + 1, :, i], err_msg=name)
        if after < 200:
            assert (one[after + 1 :] != other[after + 1 :]).mean() > 0.5


def test_no_session_knows_the_one_before(fitted):
    data, pipeline = fitted
    other = disturbed(data, np.arange(240) < 80, seed=1).replace(session=data.session)
    one, two = (np.asarray(compute(d, ALL, pipeline.reference)) for d in (data, other))
    assert (one[:80] != two[:80]).mean() > 0.5
    for i, name in enumerate(ALL.names):
        np.testing.assert_array_equal(one[80:, :, i], two[80:, :, i], err_msg=name)


def test_products_side_by_side_are_products_one_by_one(fitted):
    data, _ = fitted
    together = compute(data, ALL)
    for p in range(data.n_products):
        one = jax.tree.map(lambda x, p=p: x[:, p : p + 1] if x.ndim > 1 else x, data)
        alone = compute(one.replace(products=data.products[p : p + 1]), ALL)
        np.testing.assert_allclose(together[:, p], alone[:, 0], rtol=1e-6, atol=1e-6)


@st.composite
def hostile_books(draw) -> MarketData:
    """Any valid data: prices of either sign up to the largest, huge or absent levels, late and missing rows."""
    n_steps, n_products, n_levels = 24, 2, draw(st.sampled_from([1, 3]))
    shape = (n_steps, n_products, n_levels)
    kind = draw(st.sampled_from(["still", "small", "wild"]))
    room = LARGEST_TICK - 1 - 3 * 10_000
    reach = {"still": 0, "small": 3, "wild": room}[kind]
    start = draw(st.sampled_from([0, 10, 5_000, room])) if kind != "wild" else 0
    mid = np.clip(start + draw(hnp.arrays(int, shape[:2], elements=st.integers(-reach, reach))), -room, room)
    gaps = draw(hnp.arrays(int, (2, *shape), elements=st.sampled_from([1, 2, 10_000]), fill=st.just(1)))
    largest = draw(st.sampled_from([1, 50, 2**30 // shape[-1]]))
    sizes = draw(hnp.arrays(int, (2, *shape), elements=st.sampled_from([0, 1, largest]), fill=st.just(1)))
    sizes[..., 0] = np.maximum(sizes[..., 0], 1)
    volume = draw(hnp.arrays(int, shape[:2], elements=st.sampled_from([0, 0, 5, largest]), fill=st.just(0)))
    return MarketData.build(
        bid_price=mid[..., None] - gaps[0].cumsum(axis=-1),
        ask_price=mid[..., None] + gaps[1].cumsum(axis=-1),
        bid_size=sizes[0],
        ask_size=sizes[1],
        trade_volume=volume,
        trade_imbalance=volume * draw(st.sampled_from([-1, 0, 1])),
        pnl=np.full(shape[:2], np.nan),
        valid=draw(hnp.arrays(bool, shape[:2])),
        seconds=np.arange(n_steps),
        session=np.arange(n_steps) // draw(st.sampled_from([1, 5, 24])),
        products=(Product("a"), Product("b")),
        origin="simulated",
    )


@given(train=hostile_books(), test=hostile_books())
def test_every_feature_is_finite_on_any_valid_books(train, test):
    pipeline = fit(train, ALL)
    chex.assert_tree_all_finite((pipeline.mean, pipeline.scale, pipeline.reference))
    if train.n_levels != test.n_levels:
        test = train
    assert np.isfinite(compute(test, ALL, pipeline.reference)).all()
    scaled = np.asarray(transform(pipeline, test))
    assert np.isfinite(scaled).all()
    assert np.abs(scaled).max() <= 5


def total_gradient(data: MarketData) -> MarketData:
    """Derivative of the sum of all features by every float leaf of the data."""
    return jax.jit(jax.grad(lambda d: compute(d, ALL).sum(), allow_int=True))(data)


@pytest.mark.parametrize("moving", [True, False])
def test_gradients_reach_float_books_and_are_finite(moving):
    data = related_market(n_steps=40, n_sessions=1)
    if not moving:
        still = jax.tree.map(lambda x: jnp.broadcast_to(x[:1], x.shape), data)
        data = still.replace(seconds=data.seconds, trade_volume=jnp.zeros_like(data.trade_volume))
    names = ("bid_price", "ask_price", "bid_size", "ask_size")
    gradient = total_gradient(data.replace(**{name: getattr(data, name).astype(jnp.float32) for name in names}))
    for name in names:
        reached = np.asarray(getattr(gradient, name))
        assert np.isfinite(reached).all()
        if moving:
            assert (reached[..., 0] != 0).mean() > 0.8


def test_scales_come_from_the_training_part_and_nothing_else(fitted):
    data, pipeline = fitted
    wilder = data.replace(bid_size=data.bid_size * 7, trade_volume=data.trade_volume * 3)
    raw = np.asarray(compute(wilder, ALL, pipeline.reference))
    known = np.asarray(transform(pipeline, wilder)) != 0
    expected = np.clip((raw - np.asarray(pipeline.mean)) / np.where(pipeline.scale > 0, pipeline.scale, np.inf), -5, 5)
    np.testing.assert_allclose(np.asarray(transform(pipeline, wilder))[known], expected[known], rtol=1e-4, atol=1e-4)


def test_the_training_part_itself_has_mean_zero_and_deviation_one(fitted):
    data, pipeline = fitted
    scaled = np.asarray(transform(pipeline, data), np.float64)
    for p, i in np.ndindex(*pipeline.scale.shape):
        if pipeline.scale[p, i] > 0:
            counted = scaled[np.asarray(data.valid)[:, p] & (scaled[:, p, i] != 0), p, i]
            np.testing.assert_allclose([counted.mean(), counted.std()], [0, 1], atol=0.1, err_msg=ALL.names[i])


def test_a_wild_row_does_not_flatten_the_rest():
    data = random_market(seed=4, n_steps=3000)
    wild = data.replace(ask_price=data.ask_price.at[1500].add(100_000))
    names = ("spread",)
    calm, hit = (fit(d, dataclasses.replace(ALL, names=names)) for d in (data, wild))
    np.testing.assert_allclose(hit.scale, calm.scale, rtol=0.05)


def test_a_feature_that_was_constant_in_training_is_zero_ever_after():
    data = random_market(seed=4, n_steps=100)
    constant = data.replace(bid_price=data.ask_price - 2 * jnp.arange(1, 4), bid_size=data.ask_size)
    pipeline = fit(constant, dataclasses.replace(ALL, names=("imbalance", "depth_imbalance", "log_return")))
    scaled = transform(pipeline, data)
    np.testing.assert_array_equal(scaled[..., :2], 0)
    assert np.abs(scaled[..., 2]).max() > 1


def test_what_is_not_yet_known_is_the_training_mean(fitted):
    data, pipeline = fitted
    scaled = np.asarray(transform(pipeline, data))
    for name in ("volatility", "rsi", "z_score", "order_flow_imbalance", "relative_volume"):
        needed = min(MINIMUM_COUNT, REGISTRY[name].window(ALL))
        for start in (0, 80, 160):
            np.testing.assert_array_equal(scaled[start : start + needed, :, ALL.names.index(name)], 0, err_msg=name)
            assert (scaled[start + needed + 5 :, :, ALL.names.index(name)] != 0).any()


def test_windows_are_full_when_warm_up_says_so(fitted):
    """From there on, what stood before no longer moves a windowed feature (exponential averages never quite forget)."""
    _, pipeline = fitted
    data = related_market(n_sessions=1)
    other = disturbed(data, np.arange(240) < 100, seed=2).replace(session=data.session, valid=data.valid)
    one, two = (np.asarray(compute(d, ALL, pipeline.reference)) for d in (data, other))
    windowed = [i for i, n in enumerate(ALL.names) if n not in ("rsi", "relative_value") and not n.startswith("macd")]
    full = 100 + warm_up_steps(ALL)
    np.testing.assert_array_equal(one[full:, :, windowed], two[full:, :, windowed])
    assert (one[full - 1] != two[full - 1])[:, windowed].any()
    assert warm_up_steps(FeatureConfig()) == 500


def test_time_of_session_runs_from_zero_to_one(fitted):
    data, pipeline = fitted
    fraction = np.asarray(compute(data, ALL, pipeline.reference))[..., ALL.names.index("time_of_session")]
    np.testing.assert_allclose(fraction[[0, 79, 80, 159], 0], [0, 1, 0, 1])
    half = compute(data, FeatureConfig(names=("time_of_session",), session_seconds=158.0))
    np.testing.assert_allclose(half[79, 0], 0.5)


def test_one_shape_is_traced_once():
    config = FeatureConfig(names=("log_return", "spread"))
    traced = jax.jit(chex.assert_max_traces(lambda d: compute(d, config), n=1))
    scaled = jax.jit(chex.assert_max_traces(lambda p, d: transform(p, d), n=1))
    for seed in range(3):
        data = random_market(seed, n_steps=50)
        traced(data)
        scaled(fit(data, config), data)


@pytest.mark.nightly
def test_ten_thousand_steps_of_five_products_take_a_third_of_a_second_of_one_core():
    data = random_market(n_steps=10_000, n_products=5)
    started = time.process_time()
    jax.block_until_ready(compute(data, FeatureConfig()))
    compiled = time.process_time()
    jax.block_until_ready(compute(data, FeatureConfig()))
    assert time.process_time() - compiled < 0.3
    assert compiled - started < 5


@pytest.mark.parametrize(
    "change",
    [
        {"names": ("rsi", "astrology")},
        {"names": ("rsi", "rsi")},
        {"names": ()},
        {"flow_window": 0},
        {"flow_window": 31},
        {"macd_fast": 11},
        {"volatility_window": 40},
        {"relative_value_ridge": 0.0},
        {"session_seconds": -1.0},
    ],
)
def test_a_config_that_cannot_be_meant_is_refused(change):
    with pytest.raises(InputError):
        dataclasses.replace(ALL, **change)


def test_every_registered_feature_says_what_it_is():
    assert MEANINGS.keys() == REGISTRY.keys()
