"""Real against synthetic against both: pairs begin alike, nothing generated is judged on, differences are right."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import augmentation
from marljax.agents.ppo_config import PPOConfig
from marljax.data.schema import InputError
from marljax.data.splits import SplitConfig, split
from marljax.envs.tapes import Rows, TradingConfig
from marljax.features import transform, warm_up_steps
from marljax.portfolio.market_state import row_returns
from stages.agents import Trading
from stages.market import Market
from tests.reference import streams

CONFIG = augmentation.AugmentationConfig(
    preset="quick",
    seeds=2,
    env_steps=256,
    episode_steps=12,
    fresh_sessions=4,
    fresh_every=1,
    trading=TradingConfig(no_trade_band=0.0, closing_rows=streams.CLOSING),
    ppo=PPOConfig(n_envs=4, n_steps=16, n_minibatches=1, n_epochs=1, hidden=(8,)),
)


@pytest.fixture(scope="module")
def market():
    data, pipeline, _ = streams.market(2)
    warm_up = warm_up_steps(streams.FEATURES)
    rows = Rows.of(data, jnp.asarray(transform(pipeline, data)), warm_up, streams.CLOSING)
    return Market(data, rows, split(data, SplitConfig()), pipeline.feature_names, pipeline, warm_up)


@pytest.fixture(scope="module")
def trading(market):
    return Trading.of(market, CONFIG.costs, CONFIG.trading)


def learned(market, trading, folder, **changes):
    config = dataclasses.replace(CONFIG, **changes)
    generator = streams.market(2)[2]
    return augmentation.train(config, market, trading, generator, folder, folder / "metrics.jsonl")


@pytest.mark.nightly
def test_what_agents_learn_from_is_all_that_tells_them_apart(market, trading, tmp_path):
    """A share of synthetic episodes too small to draw one makes `both` what `real` is, to the bit, seed by seed."""
    policies, drawn = learned(market, trading, tmp_path, fraction=1e-30)
    real, synthetic, both = (
        np.concatenate([np.asarray(x[arm]).reshape(2, 2, -1) for x in jax.tree.leaves(policies)], axis=-1)
        for arm in range(3)
    )
    np.testing.assert_array_equal(both, real)
    assert (np.abs(synthetic - real).max(axis=-1) > 1e-5).all(), "every seed and product learned from something else"
    assert np.abs(real[0] - real[1]).max() > 1e-2, "seeds differ"
    # One half at the beginning and another as soon as its last episode was over, in four chunks.
    assert 2 * 4 <= drawn <= 5 * 4


def test_who_does_not_trade_earns_nothing_and_who_holds_earns_what_the_market_moved(market, trading):
    size = len(market.feature_names) + 1
    policy = augmentation.TanhGaussianPolicy(1, CONFIG.ppo.body)
    idle = policy.init(jax.random.key(0), size)
    idle = dataclasses.replace(idle, network=jax.tree.map(jnp.zeros_like, idle.network))
    idle = jax.tree.map(lambda x: jnp.broadcast_to(x, (3, 2, 2, *x.shape)), idle)
    scores = augmentation.score(CONFIG, market, trading, idle)
    assert scores.shape == (3, 2, 2)
    assert (scores == 0).all()

    *body, last = idle.network
    holding = dataclasses.replace(idle, network=(*body, last._replace(bias=last.bias.at[..., 0].set(20.0))))
    free = dataclasses.replace(
        trading,
        costs=jax.tree.map(jnp.zeros_like, trading.costs).replace(
            tick_value=trading.costs.tick_value,
            volatility=trading.costs.volatility,
            typical_volume=trading.costs.typical_volume,
            step_seconds=trading.costs.step_seconds,
        ),
    )
    scores = augmentation.score(CONFIG, market, free, holding)
    rows = market.part("test")
    mid = 0.5 * np.asarray(rows.data.double_mid, np.float64)
    held = ~rows.flat[:-1, None]
    days = len(np.unique(rows.data.session))
    deviation = np.asarray(row_returns(market.train), np.float64).std(axis=0) * (len(mid) / days) ** 0.5
    moved = (np.diff(mid, axis=0) * held).sum(axis=0) / mid[0] / days / deviation
    # The half spread is paid on the way in and out, whatever else costs nothing.
    assert (scores < moved + 0.02).all()
    np.testing.assert_allclose(scores, np.broadcast_to(moved, scores.shape), atol=0.25)


def test_generated_days_are_no_test(market, trading):
    generated = dataclasses.replace(market, data=market.data.replace(origin="synthetic"))
    with pytest.raises(InputError, match="synthetic data may not be used for test"):
        augmentation.score(CONFIG, generated, trading, None)


def test_differences_are_between_agents_of_one_seed():
    rng = np.random.default_rng(0)
    luck = rng.normal(0.0, 5.0, (10, 3))
    gain = np.linspace(0.9, 1.1, 10)[:, None]
    found = augmentation.compare(np.stack([luck, luck - 2.0, luck + gain]))
    assert found["estimate"] == pytest.approx(1.0)
    low, high = found["interval"]
    assert 0.9 < low < 1.0 < high < 1.1, "the seeds' luck cancels"
    assert found["verdict"] == "helps"
    assert found["differences"]["synthetic - real"] == pytest.approx((-2.0, -2.0, -2.0))
    assert found["scores"]["real"][1] == pytest.approx(luck.mean())
    assert augmentation.compare(np.stack([luck, luck, luck - gain]))["verdict"] == "harms"
    noise = np.stack([luck, luck, luck + rng.normal(0.0, 1.0, (10, 3))])
    assert augmentation.compare(noise)["verdict"] == "not established"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": 1}, "seeds must be"),
        ({"env_steps": 0}, "env_steps must be"),
        ({"fraction": 1.0}, "above 0 and below 1, so that both"),
        ({"fresh_sessions": 0}, "fresh_sessions must be"),
        ({"fresh_every": -1}, "fresh_every must"),
    ],
)
def test_impossible_settings_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(CONFIG, **changes)


@pytest.mark.nightly
def test_the_last_line_is_the_answer(tmp_path):
    script = Path(augmentation.__file__)
    result = subprocess.run(
        [sys.executable, script, "--preset=quick", f"--run-dir={tmp_path}"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    said = json.loads(result.stdout.splitlines()[-1])
    assert said["task"] == "augmentation"
    assert said["interval"][0] <= said["estimate"] <= said["interval"][1]
    assert said["origins"] == {"books": "simulated", "generated sessions": "synthetic"}
    kept = json.loads((tmp_path / "result.json").read_text())
    assert said.items() <= kept.items()
    assert np.shape(kept["every_score"]) == (3, 2, 5)
