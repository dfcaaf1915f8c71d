"""The quality table tells a copy and a stranger from the real thing, and says only what the data define."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marljax.data.schema import InputError
from marljax.features.microstructure import order_flow
from marljax.generative import quality
from marljax.generative.scores.distributions import total_variation
from marljax.generative.scores.recurrent import RecurrentConfig
from marljax.generative.scores.series import channels, direction_features, join, series
from tests.reference.generative import toy_market

OF_CANDIDATES_ALONE = {"memorisation"}


@functools.cache
def markets():
    training, held_out = toy_market(0, n_steps=2000), toy_market(1, n_steps=2000)
    stranger = toy_market(2, n_steps=2000, scale=25.0, tail=50.0, clustering=0.97).replace(origin="synthetic")
    return held_out, {"synthetic": stranger, "bootstrap": training.replace(origin="synthetic")}, training


@functools.cache
def table():
    return quality.quality_table(*markets())


def test_a_stranger_scores_worse_than_a_copy_except_for_memorisation():
    scores = table()
    worse = ("wasserstein_returns", "ks_returns", "total_variation_returns", "acf_abs_returns", "acf_squared_returns")
    for name in (*worse, "discriminative", "regime_volatility", "regime_returns"):
        assert scores[name]["synthetic"] > 2 * scores[name]["bootstrap"] + 0.02, name
    assert scores["memorisation"]["bootstrap"] < 1e-3
    assert 0.9 < scores["memorisation"]["synthetic"] < 1.3
    assert scores["coverage"]["synthetic"] < 0.2 < 0.9 < scores["coverage"]["bootstrap"]


def test_the_table_holds_finite_numbers_and_the_real_floor():
    scores = table()
    assert scores.keys() == quality.SCORES.keys() - {"discriminative_recurrent"}
    for name, row in scores.items():
        assert np.isfinite(list(row.values())).all()
        assert set(row) == {"synthetic", "bootstrap"} | (set() if name in OF_CANDIDATES_ALONE else {"real_vs_real"})
        if name not in OF_CANDIDATES_ALONE:
            assert row["real_vs_real"] == row["bootstrap"], "here the bootstrap is the training part itself"


def test_zero_returns_and_volumes_have_a_bin_of_their_own():
    held_out, candidates, _ = markets()
    real, other = series(held_out), series(candidates["synthetic"])
    for field in ("returns", "volume", "spread"):
        pairs = list(zip(getattr(real, field).T, getattr(other, field).T, strict=True))
        expected, otherwise = (
            np.mean([total_variation(x, y, zero_apart=apart) for x, y in pairs])
            for apart in (field != "spread", field == "spread")
        )
        assert table()[f"total_variation_{field}"]["synthetic"] == expected
        assert field == "spread" or expected != otherwise


def test_regimes_are_those_of_the_window_before():
    volatility = np.exp(np.random.default_rng(0).standard_normal(300))[:, None, None]
    windows = volatility * np.random.default_rng(1).standard_normal((300, 32, 2))
    forgets = np.concatenate([windows[:, :16], windows[::-1, 16:]], 1)
    assert quality._after_regimes(windows, windows[::-1], 16)["regime_volatility"] == pytest.approx(0.0, abs=1e-12)
    # Without memory every regime has the volatility of all, several times that of the calm third.
    assert quality._after_regimes(windows, forgets, 16)["regime_volatility"] > 1.0


def test_the_held_out_part_against_itself_is_perfect():
    held_out, _, training = markets()
    scores = quality.quality_table(held_out, {"itself": held_out.replace(origin="synthetic")}, training)
    for name, score in quality.SCORES.items():
        if score.perfect == 0.0 and not name.startswith("discriminative"):
            assert scores[name]["itself"] == pytest.approx(0.0, abs=1e-12), name
    assert scores["memorisation"]["itself"] == 1.0
    assert scores["coverage"]["itself"] == 1.0
    assert scores["discriminative"]["itself"] == 0.0


def test_every_candidate_has_its_column_and_none_may_take_the_floors_name():
    held_out, candidates, training = markets()
    scores = quality.quality_table(held_out, {"garch": candidates["synthetic"]}, training)
    assert set(scores["hill"]) == {"garch", "real_vs_real"}
    assert scores["hill"]["garch"] == table()["hill"]["synthetic"]
    for wrong in ({}, {"real_vs_real": training}):
        with pytest.raises(InputError, match="candidates"):
            quality.quality_table(held_out, wrong, training)


def test_resamples_add_intervals_to_scores_of_series_and_change_no_estimate():
    held_out, candidates, training = markets()
    scores = quality.quality_table(held_out, candidates, training, n_resamples=20)
    for name, row in table().items():
        assert {key: scores[name][key] for key in row} == row
    for name in ("wasserstein_returns", "total_variation", "acf_abs_returns", "order_flow"):
        row = scores[name]
        for candidate in ("synthetic", "bootstrap", "real_vs_real"):
            assert 0 <= row[f"{candidate}.low"] <= row[candidate] <= row[f"{candidate}.high"]
    row = scores["wasserstein_returns"]
    assert row["synthetic.low"] > row["bootstrap.high"], "the stranger is established to be one"
    assert "synthetic.low" not in scores["memorisation"]


def test_the_recurrent_judge_is_asked_for_and_has_the_interval_of_its_seeds():
    held_out, candidates, training = markets()
    judge = RecurrentConfig(hidden=8, steps=60, batch=16, seeds=3, learning_rate=1e-2)
    row = quality.quality_table(held_out, candidates, training, window=8, judge=judge)["discriminative_recurrent"]
    assert row["synthetic"] > 0.25 > row["real_vs_real"]
    assert row["synthetic.low"] < row["synthetic"] < row["synthetic.high"]


def test_one_product_has_no_correlation_score():
    one, two = (toy_market(s, n_products=1, n_steps=400) for s in (0, 1))
    scores = quality.quality_table(two, {"synthetic": one.replace(origin="synthetic")}, one, window=8)
    assert not {"correlation", "correlation_by_horizon"} & scores.keys()
    assert "wasserstein_returns" in scores


def test_a_product_that_never_moves_makes_no_nan():
    one = toy_market(0, n_steps=400)

    def frozen(data):
        return jax.tree.map(lambda x: jnp.broadcast_to(x[:1], x.shape) if x.ndim > 1 else x, data)

    still = frozen(one)
    scores = quality.quality_table(still, {"synthetic": still}, still, window=8, n_resamples=3)
    assert np.isfinite([x for row in scores.values() for x in row.values()]).all()
    assert not {"hill", "kurtosis", "leverage", "volatility_r2", "direction_auc", "regime_volatility"} & scores.keys()
    moves_alone = quality.quality_table(one, {"synthetic": still}, one, window=8)
    assert moves_alone["total_variation_returns"]["synthetic"] > 0.8
    assert moves_alone["regime_volatility"]["synthetic"] == 1.0


def test_books_too_short_for_windows_still_have_their_distributions():
    short = toy_market(0, n_steps=40)
    scores = quality.quality_table(toy_market(1), {"synthetic": short.replace(origin="synthetic")}, toy_market(2))
    assert "wasserstein_returns" in scores
    assert "synthetic" not in scores["discriminative"]
    assert "memorisation" not in scores


def test_synthetic_books_are_no_evidence():
    held_out, candidates, training = markets()
    with pytest.raises(InputError, match="held-out side"):
        quality.quality_table(candidates["synthetic"], candidates, training)
    with pytest.raises(InputError, match="training side"):
        quality.quality_table(held_out, candidates, candidates["synthetic"])


def test_every_score_says_what_it_measures_and_what_is_perfect():
    assert len({score.meaning for score in quality.SCORES.values()}) == len(quality.SCORES)
    assert quality.SCORES["memorisation"].perfect == 1.0
    assert quality.SCORES["volatility_r2"].perfect is None


def test_series_are_what_the_book_says():
    data = toy_market(0, n_steps=300, invalid=0.02)
    found = series(data)
    observed = np.asarray(data.valid).all(1)
    kept = np.flatnonzero(observed[1:] & observed[:-1] & (np.diff(np.asarray(data.session)) == 0)) + 1
    np.testing.assert_array_equal(found.volume, np.asarray(data.trade_volume)[kept])
    np.testing.assert_array_equal(
        found.depth, (np.asarray(data.bid_size) + np.asarray(data.ask_size)).sum(-1)[kept] / 2
    )
    np.testing.assert_array_equal(found.returns, np.diff(np.asarray(data.double_mid), axis=0)[kept - 1])
    for p in range(data.n_products):
        book = (x[:, p] for x in (data.bid_price, data.ask_price, data.bid_size, data.ask_size))
        np.testing.assert_array_equal(found.flow[:, p], order_flow(*book, jnp.arange(300))[kept, 0])
    # Rows are of one stretch as long as none is missing between them.
    np.testing.assert_array_equal(np.diff(found.stretch) == 0, np.diff(kept) == 1)


def test_joined_blocks_keep_their_rows_and_are_stretches_of_their_own():
    found = series(toy_market(0, n_steps=100))
    joined = join(found, [np.arange(5, 8), np.arange(5, 8), np.arange(50, 52)])
    np.testing.assert_array_equal(joined.returns, found.returns[[5, 6, 7, 5, 6, 7, 50, 51]])
    assert joined.stretch.tolist() == [0, 0, 0, 1, 1, 1, 2, 2]


def test_direction_is_foretold_from_the_past_alone():
    found = series(toy_market(0, n_steps=200, n_sessions=4))
    features, target = direction_features(found, 1)
    # Each session loses its first row and the three before the first forecast.
    assert len(target) == 4 * (50 - 1 - 3)
    np.testing.assert_array_equal(features[0, :3], found.returns[[2, 1, 0], 1])
    np.testing.assert_array_equal(features[0, 3:], [found.imbalance[2, 1], found.flow[2, 1]])
    assert target[0] == found.returns[3, 1]


def test_what_the_recurrent_judge_sees_is_finite_and_of_every_product():
    assert channels(toy_market(0), 16).shape[1:] == (16, 12)
    assert np.isfinite(channels(toy_market(0), 16)).all()
