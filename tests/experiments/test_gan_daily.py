"""The protocols of daily bars end to end in small, and what their parts promise."""

import dataclasses
import json

import jax
import numpy as np
import pandas as pd
import pytest

from marljax.data.schema import InputError
from marljax.generative import bar_representation, bars
from marljax.generative.dataset import make_dataset
from marljax.generative.wgan_gp import GanConfig
from stages import gan_index, gan_stocks
from stages.gan_protocol import add, kept_generators, regime_scores, windows_of

TINY = GanConfig(
    window=24,
    context=8,
    hidden=4,
    latents=1,
    half_lives=(0.0, 8.0),
    batch=4,
    critic_steps=1,
    steps_per_chunk=2,
    chunks=2,
)


def toy_levels(n: int) -> np.ndarray:
    """float64[n, 6] of Open, High, Low, Close, Adj_Close, Volume."""
    rng = np.random.default_rng(0)
    close = 50 * np.exp(np.cumsum(0.02 * rng.standard_normal(n)))
    opened = np.concatenate([close[:1], close[:-1]]) * np.exp(0.01 * rng.standard_normal(n))
    high = np.maximum(opened, close) * np.exp(0.01 * rng.random(n))
    low = np.minimum(opened, close) * np.exp(-0.01 * rng.random(n))
    return np.stack([opened, high, low, close, close, 1e6 * np.exp(0.3 * rng.standard_normal(n))], 1)


def test_blocks_of_time_keep_kinds_apart():
    levels = np.arange(1500.0)[:, None] + np.ones(6)
    parts = gan_stocks.split(levels, 100)
    days = {kind: np.concatenate(blocks)[:, 0] for kind, blocks in parts.items()}
    assert [len(parts[kind]) for kind in ("train", "validation", "judged")] == [10, 3, 2]
    assert len(np.unique(np.concatenate(list(days.values())))) == 1500
    assert all(len(blocks) and (np.diff(x[:, 0]) == 1).all() for blocks in parts.values() for x in blocks)
    with pytest.raises(InputError, match="hold no 12 blocks"):
        gan_stocks.split(levels[:900], 100)


def test_controls_keep_a_bar_per_day_and_the_shuffled_ones_every_increment():
    blocks = gan_stocks.split(toy_levels(1300), 100)["train"]
    found = gan_stocks.controls(blocks, 100, 0)
    for name, sides in found.items():
        assert sides.test.shape[1:] == (24, 6), name
        assert (sides.test > 0).all()
        np.testing.assert_allclose(sides.test[..., 3], sides.test[..., 4], rtol=1e-9)
    increments = {round(x, 9) for block in blocks for x in np.diff(np.log(block[:, 0]))}
    for name in ("iid bootstrap", "block bootstrap", "shuffled"):
        made = np.diff(np.log(found[name].test[:50, :, 0]), axis=1).ravel()
        assert all(round(x, 9) in increments for x in made)


def test_regime_scores_tell_windows_whose_volatility_lasts_from_those_where_it_does_not():
    rng = np.random.default_rng(0)
    volatility = np.exp(rng.normal(0, 0.7, (4000, 1)))
    lasting, other = volatility * rng.standard_normal((2, 4000, 24))
    forgetful = rng.permuted(lasting, axis=0)
    assert regime_scores(lasting, other, lasting)["volatility_error"] < 0.1
    assert regime_scores(lasting, forgetful, lasting)["volatility_error"] > 0.5


def test_windows_and_intervals():
    assert windows_of(np.arange(10.0).reshape(5, 2), 3).tolist()[1] == [[2, 3], [4, 5], [6, 7]]
    table = {}
    add(table, "score", "one", np.array([1.0, 2.0, 3.0]))
    row = table["score"]["one"]
    assert row["estimate"] == 2
    assert row["low"] < 1 < 3 < row["high"]


@pytest.mark.nightly
def test_the_stocks_protocol_runs_from_file_to_scores(tmp_path):
    file = tmp_path / "stock.csv"
    pd.DataFrame(toy_levels(1300), columns=list(gan_stocks.COLUMNS)).to_csv(file, index=False)
    config = gan_stocks.StockProtocol(data=file, gan=TINY, block=100, windows=100, kept=2)
    result = gan_stocks.run(config, seed=0, out=tmp_path)
    assert json.loads((tmp_path / "scores.json").read_text())["best"] == result["best"]
    judge = result["scores"]["judge"]
    assert {"last", "best", "initial", "real", "block bootstrap", "shuffled"} <= set(judge)
    assert result["scores"]["memorisation"]["block bootstrap"]["estimate"] < 0.5
    assert result["scores"]["memorisation"]["last"]["estimate"] > 0.7
    windows = np.load(tmp_path / "windows.npz")
    assert windows["synthetic"].shape == (100, 24, 6)
    assert windows["channels"].tolist() == list(gan_stocks.COLUMNS)


@pytest.mark.nightly
def test_the_index_protocol_runs_from_file_to_scores(tmp_path):
    days = pd.bdate_range("2008-06-01", "2019-12-31")
    close = 1000 * np.exp(np.cumsum(0.01 * np.random.default_rng(0).standard_t(4, len(days))))
    file = tmp_path / "index.csv"
    pd.DataFrame({"Date": days, "SP500": close}).to_csv(file, index=False)
    config = gan_index.IndexProtocol(data=file, gan=TINY, paths=4, draws=2, kept=2)
    result = gan_index.run(config, seed=0, out=tmp_path)
    scores = result["scores"]
    assert scores["acf_abs_returns"]["reach"] == 0.0245
    assert scores["acf_abs_returns"]["real"]["estimate"] == 0
    assert abs(scores["deviation"]["last"]["estimate"] - 1) < 0.2
    assert np.load(tmp_path / "windows.npz")["real"].shape[1:] == (24, 1)


def test_an_impossible_size_is_refused_by_name():
    with pytest.raises(InputError, match="kept must be at least 1, got 0"):
        gan_stocks.StockProtocol(kept=0)
    with pytest.raises(InputError, match="paths must be at least 1, got 0"):
        gan_index.IndexProtocol(paths=0)
    with pytest.raises(InputError, match="is not there"):
        gan_index.load(dataclasses.replace(gan_index.IndexProtocol()).data / "nowhere")


@pytest.mark.nightly
def test_no_training_goes_on_with_anothers_checkpoint(tmp_path):
    """In one folder, another seed or another rate is another training; the same one again is the same."""
    rng = np.random.default_rng(0)
    close = 100 * np.exp(np.cumsum(0.01 * rng.standard_normal((400, 1)), 0))
    training = bars.Bars.of_closes(close, np.zeros(400, np.int32), ("toy",))
    dataset, encoded = make_dataset(bar_representation.fit(training), training, TINY, 0)

    def trained(config: GanConfig, seed: int) -> np.ndarray:
        found = kept_generators(dataset, encoded, config, 2, seed=seed, name="toy", out=tmp_path)[-1]
        return np.concatenate([np.ravel(x) for x in jax.tree.leaves(found.params)])

    first = trained(TINY, 0)
    np.testing.assert_array_equal(trained(TINY, 0), first)
    assert np.abs(trained(TINY, 1) - first).max() > 0
    assert np.abs(trained(dataclasses.replace(TINY, generator_rate=1e-2), 0) - first).max() > 0
    with pytest.raises(InputError, match="lower kept"):
        kept_generators(dataset, encoded, TINY, 3, seed=0, name="toy", out=tmp_path)
