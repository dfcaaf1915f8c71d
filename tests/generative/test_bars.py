"""Bars and channels: validity by construction, round trips, and the recursion of the scale."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marljax.data.schema import InputError
from marljax.generative import bar_representation, bars
from marljax.generative.bars import Bars
from marljax.generative.dataset import make_dataset
from marljax.generative.interface import Anchor
from marljax.generative.stitching import generate_rows, make_generator
from marljax.generative.wgan_gp import GanConfig, init

FIELDS = ("open", "high", "low", "close", "volume")


def clustered_returns(n: int, seed: int = 0) -> np.ndarray:
    """float64[n, 2] whose volatility follows their own squares, more after losses in the first column."""
    rng = np.random.default_rng(seed)
    returns, variance = np.zeros((n, 2)), np.full(2, 1e-4)
    for t in range(n):
        returns[t] = np.sqrt(variance) * rng.standard_normal(2)
        news = (returns[t] - np.array([1.0, 0.0]) * np.sqrt(variance)) ** 2 / np.array([2.0, 1.0])
        variance = 1e-5 + 0.75 * variance + 0.15 * news
    return returns


@functools.cache
def toy(ranged: bool, n: int = 1500) -> Bars:
    rng = np.random.default_rng(1)
    close = 100 * np.exp(np.cumsum(clustered_returns(n), 0))
    session = np.arange(n) // 500
    if not ranged:
        return Bars.of_closes(close, session, ("A", "B"))
    before = np.concatenate([close[:1], close[:-1]])
    opened = before * np.exp(0.003 * rng.standard_t(4, (n, 2)))
    above, below = np.abs(rng.normal(0, 0.004, (2, n, 2))) * (rng.random((2, n, 2)) > 0.1)
    return Bars.build(
        open=opened,
        high=np.maximum(opened, close).astype(np.float32) * np.exp(above),
        low=np.minimum(opened, close).astype(np.float32) * np.exp(-below),
        close=close,
        volume=1e6 * np.exp(rng.normal(0, 0.3, (n, 2))),
        session=session,
        products=("A", "B"),
    )


@functools.cache
def fitted(ranged: bool) -> bar_representation.BarRepresentation:
    return bar_representation.fit(toy(ranged))


@pytest.mark.parametrize("ranged", [False, True])
def test_real_windows_come_back_to_float_precision(ranged):
    data, representation = toy(ranged), fitted(ranged)
    for seed in (None, 3):
        encoded = representation.encode(data, seed)
        rows, after = representation.decode(
            encoded.channels[601:650], Anchor(encoded.level[600], encoded.variance[601])
        )
        for name in FIELDS:
            np.testing.assert_allclose(getattr(rows, name), getattr(data, name)[601:650], rtol=3e-5)
        np.testing.assert_allclose(after.variance, encoded.variance[650], rtol=1e-3)
        np.testing.assert_allclose(after.level, encoded.level[649], atol=1e-4)


@pytest.mark.parametrize("ranged", [False, True])
def test_any_channels_decode_to_valid_bars(ranged):
    representation = fitted(ranged)
    wild = 6 * jax.random.normal(jax.random.key(0), (400, 2, representation.n_channels))
    wild = wild.at[5].set(jnp.nan).at[6].set(jnp.inf).at[7].set(-1e9)
    encoded = representation.encode(toy(ranged))
    rows, _ = representation.decode(wild, Anchor(encoded.level[10], encoded.variance[11]))
    arrays = {name: getattr(rows, name) for name in FIELDS}
    Bars.build(**arrays, session=rows.session, products=rows.products)
    assert rows.origin == "synthetic"
    assert ranged == bool((np.asarray(rows.volume) > 0).all())


def test_channels_are_standard_normal_and_their_scale_takes_the_clusters_out():
    channels = np.asarray(fitted(False).encode(toy(False), 0).channels)[1:, 0, 0]
    assert abs(channels.mean()) < 0.02
    assert abs(channels.std() - 1) < 0.02
    returns = np.diff(np.log(np.asarray(toy(False).close)[:, 0]))

    def clustering(x: np.ndarray) -> float:
        return float(np.corrcoef(x[1:] ** 2, x[:-1] ** 2)[0, 1])

    assert clustering(returns) > 0.12
    assert abs(clustering(channels)) < 0.08


def test_the_asymmetry_is_found_where_losses_move_the_volatility_more():
    """Product A was made with an asymmetry of 1, product B with none."""
    asymmetry = np.asarray(fitted(False).asymmetry)
    assert asymmetry[0] > 0.5
    assert asymmetry[1] < 0.3


@pytest.mark.parametrize("ranged", [False, True])
def test_independent_normal_channels_have_the_training_parts_variance(ranged):
    """The recursion neither dies out nor explodes, whatever the drift and the asymmetry."""
    data, representation = toy(ranged), fitted(ranged)
    noise = jax.random.normal(jax.random.key(1), (20_000, 2, representation.n_channels))
    start = Anchor(representation.encode(data).level[500], representation.long_run)
    made, known = (bars.take_apart(x) for x in (representation.decode(noise, start)[0], data))
    square, expected = (np.asarray(bars.bar_variance(jnp.asarray(x)))[joined].mean(0) for x, joined in (made, known))
    np.testing.assert_allclose(square / expected, 1.0, atol=0.25)


def test_rescaled_returns_are_larger_and_otherwise_alike():
    representation = fitted(False)
    noise = jax.random.normal(jax.random.key(2), (200, 2, 1))
    level = representation.encode(toy(False)).level[9]
    one, two = (
        np.diff(np.log(np.asarray(r.decode(noise, Anchor(level, r.long_run))[0].close, np.float64)), axis=0)
        for r in (representation, representation.rescaled(1.3))
    )
    np.testing.assert_allclose(two, 1.3 * one, atol=2e-6)


def test_nothing_of_a_row_depends_on_later_rows():
    data = toy(True)
    cut = jax.tree.map(lambda x: x[:700], data)
    whole, part = (fitted(True).encode(x) for x in (data, cut))
    for name in ("channels", "variance", "level"):
        np.testing.assert_array_equal(getattr(whole, name)[:700], getattr(part, name))


@pytest.mark.parametrize("ranged", [False, True])
def test_derived_features_are_standard_and_differentiable(ranged):
    data, representation = toy(ranged), fitted(ranged)
    encoded = representation.encode(data, 0)
    anchor = Anchor(encoded.level[0], encoded.variance[1])
    features = representation.derive(encoded.channels[1:500], anchor)
    assert features.shape == (499, 2, representation.n_derived)
    assert np.abs(np.asarray(features).mean(0)).max() < 1.0
    assert np.asarray(features).std() == pytest.approx(1, abs=0.3)
    slope = jax.grad(lambda z: jnp.sum(representation.derive(z, anchor)[-1]))(encoded.channels[1:40])
    assert np.isfinite(slope).all()
    assert np.abs(slope)[-1].max() > 0.01


def test_volume_follows_its_own_bar_where_it_did_in_the_training_part():
    """Bars whose log volume rises by 0.5 with the log of their own size; channels of price and volume drawn apart."""
    data = toy(True)
    parts, _ = bars.take_apart(data)
    size = np.asarray(bars.bar_variance(jnp.asarray(parts))) + parts[..., 1] ** 2
    busy = data.replace(volume=data.volume * jnp.asarray(size / size.mean(0), jnp.float32) ** 0.25)
    representation = bar_representation.fit(busy)
    noise = jax.random.normal(jax.random.key(3), (4000, 2, 5))
    encoded = representation.encode(busy)
    drawn, _ = representation.decode(noise, Anchor(encoded.level[9], encoded.variance[10]))

    def loading(some: Bars) -> np.ndarray:
        parts, joined = bars.take_apart(some)
        moved = 0.5 * np.log(np.asarray(bars.bar_variance(jnp.asarray(parts))) + parts[..., 1] ** 2 + 1e-7)
        return np.array([np.corrcoef(moved[joined][:, p], parts[joined][:, p, -1])[0, 1] for p in range(2)])

    assert (np.asarray(representation.volume_loading) > 0.3).all()
    assert (loading(busy) > 0.4).all()
    np.testing.assert_allclose(loading(drawn), loading(busy), atol=0.1)


def test_regimes_hold_a_third_of_the_training_part_each():
    encoded = fitted(False).encode(toy(False))
    regime = np.asarray(fitted(False).regime(encoded.variance))[np.asarray(encoded.joined)]
    np.testing.assert_allclose([(regime == r).mean() for r in range(3)], 1 / 3, atol=0.01)


def test_sessions_of_any_length_can_be_generated_and_synthetic_bars_teach_nothing():
    config = GanConfig(window=16, context=8, hidden=8, latents=1, half_lives=(0.0, 8.0), batch=4)
    dataset, encoded = make_dataset(fitted(True), toy(True), config, 0)
    generator = make_generator(init(jax.random.key(0), dataset, config), dataset, encoded)
    start = jax.tree.map(lambda x: x[0], generator.starts)
    rows = generate_rows(generator, jax.random.key(1), start, 40)
    assert rows.close.shape == (40, 2)
    Bars.build(**{name: getattr(rows, name) for name in FIELDS}, session=rows.session, products=rows.products)
    with pytest.raises(InputError, match="synthetic data"):
        make_dataset(fitted(True), toy(True).replace(origin="synthetic"), config, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"high": 0.5}, "open or close lies outside"),
        ({"low": -1.0}, "a price is not positive"),
        ({"volume": -1.0}, "volume is negative"),
        ({"close": np.nan}, "a number is not finite"),
    ],
)
def test_bars_that_cannot_be_are_refused_by_row_and_product(change, message):
    arrays = dict.fromkeys(FIELDS, np.ones((3, 2)))
    for name, value in change.items():
        arrays[name] = arrays[name].copy()
        arrays[name][1, 1] = value
    with pytest.raises(InputError, match=f"{message}.* at row 1, product 'B'"):
        Bars.build(**arrays, session=np.zeros(3), products=("A", "B"))


def test_other_products_and_too_few_bars_are_refused():
    with pytest.raises(InputError, match="not those the representation was fitted on"):
        fitted(True).encode(toy(False))
    with pytest.raises(InputError, match="needs 64 bars"):
        bar_representation.fit(jax.tree.map(lambda x: x[:40], toy(True)))
