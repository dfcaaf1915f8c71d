"""Books to channels and back: exact on real windows, valid on anything, fitted on the training part."""

from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from marljax.data.clean import clean
from marljax.data.readers import read
from marljax.data.schema import InputError, MarketData
from marljax.features import transform
from marljax.generative.books import cut_windows, decompose, market_data
from marljax.generative.interface import Anchor
from marljax.generative.quality import hill_index
from marljax.generative.representation import Representation, channel_names, fit
from tests.reference.generative import BOOK_FIELDS, toy_market

REAL = Path(__file__).parents[3] / "shared/data"


def decoded(representation: Representation, channels, anchor: Anchor) -> MarketData:
    """Books of channels, the schema's invariants checked."""
    (parts, double_mid), _ = jax.jit(type(representation).decode)(representation, channels, anchor)
    books = market_data(
        parts,
        double_mid,
        seconds=np.arange(len(channels)),
        session=np.zeros(len(channels), int),
        products=representation.products,
        origin="synthetic",
    )
    arrays = {k: v for k, v in vars(books).items() if k not in ("products", "origin")}
    return MarketData.build(products=books.products, origin=books.origin, **arrays)


def assert_round_trip(representation: Representation, data: MarketData, seed: int | None, length: int) -> None:
    encoded = representation.encode(data, seed)
    starts = cut_windows(data, length, length)
    assert len(starts) >= 2
    for start in starts:
        window = slice(start, start + length)
        anchor = Anchor(encoded.level[start - 1], encoded.variance[start])
        books = decoded(representation, encoded.channels[window], anchor)
        for field in BOOK_FIELDS:
            np.testing.assert_array_equal(getattr(books, field), getattr(data, field)[window], err_msg=field)


@pytest.mark.parametrize("seed", [None, 3])
@pytest.mark.parametrize(("n_products", "n_levels"), [(1, 1), (3, 4)])
def test_unseen_windows_round_trip_exactly(n_products, n_levels, seed):
    train = toy_market(0, n_products=n_products, n_levels=n_levels, clustering=0.95)
    unseen = toy_market(1, n_products=n_products, n_levels=n_levels, clustering=0.95, scale=40.0, invalid=0.01)
    assert_round_trip(fit(train), unseen, seed, 40)


def test_sizes_of_a_hundred_thousand_lots_round_trip_exactly():
    data = toy_market(2)
    sizes = np.random.default_rng(0).integers(1, 100_000, (2, *data.bid_size.shape))
    large = data.replace(bid_size=jnp.asarray(sizes[0]), ask_size=jnp.asarray(sizes[1]))
    assert_round_trip(fit(large), large, 5, 200)


@pytest.mark.parametrize(
    ("source", "path"),
    [
        ("prosperity", "prosperity/p2/round3/prices_round_3_day_0.csv.gz"),
        ("prosperity", "prosperity/p3/round7"),
        ("lobster", "lobster/LOBSTER_SampleFile_GOOG_2012-06-21_10.zip"),
    ],
)
def test_real_books_round_trip_exactly(source, path):
    if not (REAL / path).exists():
        pytest.skip(f"{REAL / path} is not on this machine")
    data, _ = clean(read(source, [REAL / path]))
    half = data.n_steps // 2
    assert_round_trip(fit(data.rows(0, half)), data.rows(half, data.n_steps), None, 500)


@given(
    seed=st.integers(0, 2**31),
    spread=st.sampled_from([0.1, 1.0, 10.0, 1e3, 1e30]),
    hostile=st.sampled_from([0.0, np.nan, np.inf, -np.inf]),
    n_levels=st.sampled_from([1, 3]),
)
def test_any_channels_decode_to_valid_books(seed, spread, hostile, n_levels):
    representation = fit(toy_market(0, n_levels=n_levels))
    rng = np.random.default_rng(seed)
    channels = rng.standard_normal((60, 2, representation.n_channels)).astype(np.float32) * np.float32(spread)
    channels[rng.random(channels.shape) < 0.1] = hostile
    books = decoded(representation, jnp.asarray(channels), Anchor(jnp.array([40_001, 2]), jnp.array([30.0, 1e9])))
    chex.assert_tree_all_finite([getattr(books, f) for f in BOOK_FIELDS])
    assert (np.asarray(books.bid_price)[..., 0] >= 1).all()
    absent = np.asarray(books.bid_size)[..., :-1] == 0
    assert (np.asarray(books.bid_size)[..., 1:][absent] == 0).all()


def test_training_scores_are_standard_normal():
    # Long, because a held channel repeats itself and has fewer independent scores than rows.
    data = toy_market(0, n_steps=16_000)
    encoded = fit(data).encode(data, seed=1)
    scores = np.asarray(encoded.channels)
    held = np.asarray(fit(data).holding.held(encoded.channels.reshape(len(scores), -1))).reshape(scores.shape)
    for p, c in np.ndindex(scores.shape[1:]):
        # A kept touch has no move; what else is held repeats a score that is as good as any.
        free = np.asarray(encoded.joined) & ~(held[:, p, c] & (c == 0))
        assert scipy.stats.kstest(scores[free, p, c], "norm").statistic < 0.025, channel_names(3)[c]


def test_gaussian_scores_decode_to_the_training_tails():
    data = toy_market(0, n_steps=6000, tail=3.0)
    representation = fit(data)
    scores = jax.random.normal(jax.random.key(0), (6000, 2, representation.n_channels))
    books = decoded(representation, scores, Anchor(data.double_mid[0], representation.long_run))
    real, drawn = (np.asarray(decompose(x)[0].move, float)[1:] for x in (data, books))
    for p in range(2):
        assert abs(hill_index(real[:, p]) - hill_index(drawn[:, p])) < 0.5
        assert scipy.stats.ks_2samp(real[:, p], drawn[:, p]).statistic < 0.03
        assert scipy.stats.kurtosis(drawn[:, p]) > 3


@pytest.mark.parametrize("scale", [1.0, 6.0, 30.0])
def test_generated_moves_keep_their_mean_square(scale):
    data = toy_market(0, n_steps=6000, clustering=0.97, tail=8.0, scale=scale)
    representation = fit(data)
    scores = jax.random.normal(jax.random.key(1), (20_000, 2, representation.n_channels))
    moves = decompose(decoded(representation, scores, Anchor(data.double_mid[0], representation.long_run)))[0].move
    ratio = np.asarray(moves, float)[1:].std(0) / np.sqrt(np.asarray(representation.long_run))
    np.testing.assert_allclose(ratio, 1.0, atol=0.25)


def test_volatility_clusters_by_the_decoder_alone():
    data = toy_market(0, n_steps=6000, clustering=0.97, tail=8.0)
    representation = fit(data)
    scores = jax.random.normal(jax.random.key(1), (6000, 2, representation.n_channels))
    moves = decompose(decoded(representation, scores, Anchor(data.double_mid[0], representation.long_run)))[0].move
    size = np.abs(np.asarray(moves, float)[1:, 0])
    assert np.corrcoef(size[1:], size[:-1])[0, 1] > 0.1


def test_windows_stay_within_sessions_and_observed_stretches():
    data = toy_market(0, n_sessions=3, invalid=0.02)
    starts = cut_windows(data, 10, 3)
    valid, session = np.asarray(data.valid).all(1), np.asarray(data.session)
    assert len(starts) > 50
    for start in starts:
        assert valid[start - 1 : start + 10].all()
        assert len(set(session[start - 1 : start + 10])) == 1
    everywhere = [s for s in range(1, 1191) if valid[s - 1 : s + 10].all() and session[s - 1] == session[s + 9]]
    assert set(starts) <= set(everywhere)
    assert cut_windows(data, 10, 1).tolist() == everywhere


def test_channels_do_not_see_the_future():
    data = toy_market(0)
    other = jax.tree.map(lambda x, y: jnp.concatenate([x[:700], y[700:]]), data, toy_market(1))
    representation = fit(data)
    one, two = representation.encode(data), representation.encode(other)
    chex.assert_trees_all_equal(one.channels[:700], two.channels[:700])
    chex.assert_trees_all_equal(one.variance[:700], two.variance[:700])
    assert not np.array_equal(one.channels[700:], two.channels[700:])


def test_regimes_split_the_training_part_into_thirds():
    data = toy_market(0, clustering=0.97)
    representation = fit(data)
    regime = np.asarray(representation.regime(representation.encode(data).variance))
    share = np.stack([(regime == k).mean(0) for k in range(3)])
    np.testing.assert_allclose(share, 1 / 3, atol=0.03)


def test_a_part_that_is_too_short_or_another_market_is_refused():
    with pytest.raises(InputError, match="at least 64"):
        fit(toy_market(0, n_steps=60))
    with pytest.raises(InputError, match="not those the representation was fitted on"):
        fit(toy_market(0)).encode(toy_market(0, n_levels=2))
    with pytest.raises(InputError, match="positive length"):
        cut_windows(toy_market(0), 0, 1)


def test_derived_features_are_those_of_the_books_that_the_channels_decode_to():
    """The critic's features need no rounding, which is all that sets them apart from the pipeline's on real books."""
    data = toy_market(0, n_steps=3000, scale=60.0, clustering=0.95, n_sessions=1)
    representation = fit(data)
    encoded = representation.encode(data, seed=0)
    window = slice(500, 548)
    anchor = Anchor(encoded.level[499], encoded.variance[500])
    derived = jax.jit(type(representation).derive)(representation, encoded.channels[window], anchor)
    books = decoded(representation, encoded.channels[window], anchor)
    expected = np.asarray(transform(representation.features, books))
    assert derived.shape == (48, 2, representation.n_derived) == expected.shape
    assert np.isfinite(derived).all()
    for f, name in enumerate(representation.features.feature_names):
        difference = np.abs(np.asarray(derived)[1:, :, f] - expected[1:, :, f])
        assert np.median(difference) < 0.05, name
        assert np.mean(difference > 0.5) < 0.05, name


@pytest.mark.nightly
def test_gradients_reach_every_kind_of_channel_through_the_derived_features():
    data = toy_market(0, n_levels=2)
    representation = fit(data)
    encoded = representation.encode(data, seed=0)
    channels, anchor = encoded.channels[100:130], Anchor(encoded.level[99], encoded.variance[100])

    def total(channels):
        return jnp.sum(jnp.square(representation.derive(channels, anchor)))

    gradient = np.asarray(jax.grad(total)(channels))
    assert np.isfinite(gradient).all()
    reached = dict(zip(channel_names(2), np.abs(gradient).max((0, 1)) > 0, strict=True))
    assert all(reached[name] for name in ("move", "spread", "bid_size_1", "ask_size_1", "bid_size_2", "sign"))


def test_volume_follows_the_size_of_the_move_and_its_sign_the_direction_by_construction():
    """In the market each half tick trades 20 lots, bought where the mid rises; channels are drawn independently."""
    data = toy_market(0, n_steps=4000, n_levels=1, scale=20.0)
    move = np.asarray(decompose(data)[0].move)
    rng = np.random.default_rng(0)
    volume = (20 * np.abs(move) * rng.uniform(0.5, 1.5, move.shape)).astype(int)
    bought = (np.sign(move) * volume * rng.uniform(0.2, 1.0, move.shape)).astype(int)
    busy = data.replace(trade_volume=jnp.asarray(volume), trade_imbalance=jnp.asarray(bought))
    representation = fit(busy)
    encoded = representation.encode(busy)
    noise = jax.random.normal(jax.random.key(0), (6000, 2, representation.n_channels))
    drawn = decoded(representation, noise, Anchor(encoded.level[9], encoded.variance[10]))

    def ties(some: MarketData) -> np.ndarray:
        parts, joined = decompose(some)
        pairs = ((np.abs(parts.move), parts.volume), (np.sign(parts.move), np.sign(parts.imbalance)))
        return np.array([[np.corrcoef(x[joined][:, p], y[joined][:, p])[0, 1] for p in range(2)] for x, y in pairs])

    real, made = ties(busy), ties(drawn)
    assert (real > 0.8).all()
    assert (made[0] > 0.6 * real[0]).all()
    assert (made[1] > 0.9).all()
    assert_round_trip(representation, busy, 3, 40)


def test_what_a_book_repeats_is_flagged_and_held_to_the_last_bit():
    """A touch that stays put for half of the rows stays put as often in channels."""
    data = toy_market(0, n_levels=2)
    keep = np.random.default_rng(0).random(data.n_steps) < 0.5
    last = np.maximum.accumulate(np.where(keep & (np.diff(data.session, prepend=-1) == 0), 0, np.arange(data.n_steps)))
    arrays = {
        name: np.asarray(getattr(data, name))[last] for name in ("bid_price", "ask_price", "bid_size", "ask_size")
    }
    still = data.replace(**{name: jnp.asarray(x) for name, x in arrays.items()})
    representation = fit(still)
    channels = representation.encode(still, seed=0).channels
    held = np.asarray(representation.holding.held(channels.reshape(len(channels), -1))).reshape(channels.shape)
    names = channel_names(2)
    repeated = last != np.arange(data.n_steps)
    assert held[repeated][..., names.index("spread")].all()
    assert (np.asarray(channels)[repeated][..., names.index("move")] == 0).all()
    for name in ("spread", "bid_size_1", "ask_size_2", "bid_gap_2"):
        c = names.index(name)
        same = np.diff(np.asarray(channels)[..., c], axis=0)[repeated[1:]] == 0
        assert same.all(), name
    assert_round_trip(representation, still, 1, 40)
