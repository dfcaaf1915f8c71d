"""train_meta.py: which modes it trains, how it judges them, and what it leaves behind."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from marljax.data.schema import InputError
from marljax.data.splits import Split
from marljax.envs.portfolio import PortfolioEnv
from marljax.envs.tapes import CostConfig, TradingConfig
from marljax.envs.worlds import AllocationConfig
from marljax.portfolio.meta_controller import observation_size
from marljax.runtime.stages import StageCache
from marljax.serving import TrainedPolicy
from stages.agents import Trading
from stages.allocation import benchmarks_stage, judgement_stage
from stages.evaluation import BacktestConfig
from stages.expectations import earned
from stages.joint import META, PRODUCT
from stages.market import Market
from stages.meta import MetaConfig, Portfolio
from stages.run import Allocated
from tests.reference.books import random_market
from tests.reference.browser import CHROMIUM, problems, seen_by_browser
from tests.reference.worlds import POLICY, policies, rows
from train_meta import PRESETS, TrainMetaConfig

ROOT = Path(__file__).parents[2]
SPLIT = Split(slice(0, 120), slice(120, 180), slice(180, 240))


def test_by_default_the_configured_mode_alone_is_trained():
    config = PRESETS["demo"]
    assert config.modes == ()
    assert config.under("auction").allocation == dataclasses.replace(config.allocation, coordination="auction")
    assert config.under("auction").agents == config.agents


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"modes": ("meta", "auction", "meta")}, "twice"),
        ({"modes": ("auction",), "allocation": AllocationConfig(risk_aversion=0.0)}, "where agents bid"),
        ({"seed": -1}, "seed"),
        ({"explain": -1}, "explain must be at least 0"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_is_computed(wrong, said):
    with pytest.raises(InputError, match=said):
        TrainMetaConfig(**wrong)


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """(benchmarks, risk parity as a mode, its params, its portfolio) over untrained agents on two products."""
    thin = random_market(n_products=2, n_steps=240)
    data = thin.replace(bid_size=thin.bid_size + 200, ask_size=thin.ask_size + 200)
    market = Market(data, rows(data), SPLIT, ("a", "b", "c", "d"), None, 5)
    allocation = AllocationConfig(
        coordination="risk_parity", rows_per_block=5, covariance_half_life=30.0, max_weight=0.55, leverage=0.9
    )
    portfolio = Portfolio(
        env=PortfolioEnv(POLICY, 5, 4, "risk_parity"),
        market=market,
        trading=Trading.of(market, CostConfig(), TradingConfig(no_trade_band=0.05)),
        policies=policies(2),
        allocation=allocation,
    )
    network = MetaConfig().network(2)
    agents = {PRODUCT: portfolio.policies, META: network.init(jax.random.key(0), observation_size(2))}
    cache = StageCache(tmp_path_factory.mktemp("judged"), context={"seed": 0}, log=lambda line: None)
    config = BacktestConfig(replications=2, resamples=100)
    benchmarks = benchmarks_stage(cache, {}, portfolio, config, expectations=True, blocks_per_year=1000.0, seed=0)
    mode = Allocated({}, portfolio, agents, network, {}, [])
    return (
        benchmarks.value,
        judgement_stage(cache, mode, benchmarks, config, blocks_per_year=1000.0, seed=0).value,
        portfolio.params("test"),
        portfolio,
    )


@pytest.mark.nightly
def test_risk_parity_as_a_mode_is_the_benchmark_of_that_name(judged):
    """To the last position, under the same latencies; and the others are others."""
    benchmarks, mode, *_ = judged
    np.testing.assert_allclose(mode.arrays["returns"], benchmarks.arrays["returns.risk_parity"], atol=1e-7)
    for kind in ("differences", "differences_alone"):
        assert mode.metadata[kind]["risk_parity"]["interval"][1] == pytest.approx(0.0, abs=0.05), kind
    assert set(benchmarks.metadata["figures"]) == {
        "equal_weight",
        "inverse_volatility",
        "risk_parity",
        "hierarchical_risk_parity",
        "minimum_variance",
        "volatility_targeted_equal_weight",
        "equal_weight_held",
        "mean_variance",
        "black_litterman",
    }
    returns = [tuple(benchmarks.arrays[f"returns.{name}"].ravel()) for name in benchmarks.metadata["figures"]]
    # With two assets inverse volatility, risk parity and its hierarchical form are one.
    assert len(set(returns)) >= 4


@pytest.mark.nightly
def test_agents_are_expected_to_earn_what_they_earned_on_the_capital_that_they_had(judged):
    """At equal weights, by which the benchmark of that name is what they earned together."""
    benchmarks, _, params, portfolio = judged
    key = jax.random.split(jax.random.fold_in(jax.random.key(0), 3), 2)[0]
    own = earned(portfolio.env, params, key)
    assert own.shape == (12, 2)
    assert (own != 0).any()
    # 0.9 of equity, in halves; no rates, so that the portfolio earns what its agents do.
    together = 0.9 * own.mean(axis=1)
    np.testing.assert_allclose(together, benchmarks.arrays["returns.equal_weight"][0], atol=2e-6)


@pytest.mark.nightly
def test_what_is_drawn_and_told_is_what_happened(judged):
    _, mode, params, _ = judged
    arrays, decisions = mode.arrays, mode.metadata["decisions"]
    n = len(np.asarray(params.blocks.start))
    assert len(decisions) == len(mode.metadata["told"]) == n == 12
    granted = np.array([list(one["granted"].values()) for one in decisions])
    np.testing.assert_allclose(arrays["granted"], granted, rtol=1e-6)
    covariance = np.asarray(params.market.covariance, np.float64)
    marginal = np.einsum("nij,nj->ni", covariance, granted)
    variance = np.einsum("ni,ni->n", granted, marginal)[:, None]
    np.testing.assert_allclose(arrays["risk"], granted * marginal / variance, atol=1e-4)
    equity = np.mean([np.cumprod(1 + run.astype(np.float64)) for run in arrays["returns"]], axis=0)
    np.testing.assert_allclose(arrays["equity"][1:] / arrays["equity"][0], equity, rtol=1e-5)
    for limit, flags in ((k.removeprefix("acted."), v) for k, v in arrays.items() if k.startswith("acted.")):
        named = [any(limit.replace(" ", "_") in phrase for phrase in one["why"]) for one in decisions]
        np.testing.assert_array_equal(flags, named, err_msg=limit)
    assert 0 < arrays["gross"].max() <= 0.92


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    folder = tmp_path_factory.mktemp("smoke")
    flags = ["--preset=smoke", f"--run-dir={folder}", "--modes", "meta", "shared_critic"]
    command = [sys.executable, str(ROOT / "experiments" / "train_meta.py"), *flags]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert ended.returncode == 0, ended.stderr
    return folder, ended


@pytest.mark.nightly
def test_a_run_ends_with_its_figures_and_leaves_a_log_of_every_rebalance(smoke):
    folder, ended = smoke
    (last,) = ended.stdout.splitlines()
    result = json.loads(last)
    assert result == json.loads((folder / "allocation" / "summary.json").read_text())
    assert set(result["modes"]) == {"meta", "shared_critic"}
    for mode, found in result["modes"].items():
        low, estimate, high = found["sharpe"]
        assert low <= estimate <= high
        assert found["sharpe_over"].keys() == found["allocation_over"].keys() == result["benchmarks"].keys()
        lines = (folder / "allocation" / mode / "decisions.jsonl").read_text().splitlines()
        decisions = [json.loads(line) for line in lines]
        assert [one["rebalance"] for one in decisions] == list(range(result["rebalances"]))
        assert {"session", "seconds", "observed", "asked", "granted", "why"} <= decisions[0].keys()
        agent = TrainedPolicy.load(folder / "allocation" / mode / "meta_policy")
        assert agent.act(np.zeros(agent.obs_size))[0].shape == (6,)
    # Nothing was tuned together, which is all that tells the two apart.
    assert result["modes"]["meta"] == result["modes"]["shared_critic"]


@pytest.mark.nightly
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium or Chrome is installed")
def test_the_page_opens_in_a_browser_with_every_plot_drawn_and_no_error(smoke, tmp_path):
    folder, _ = smoke
    seen = seen_by_browser((folder / "allocation" / "report.html").read_text(encoding="utf-8"), tmp_path)
    assert problems(seen) == []
    assert len(seen["plots"]) == 3


@pytest.mark.nightly
def test_product_agents_that_are_there_are_not_trained_again_and_any_rebalance_can_be_asked_for(smoke):
    folder, _ = smoke
    out = folder / "allocation"
    files = ["report.html", "summary.json", "config.json", "meta/decisions.jsonl", "shared_critic/decisions.jsonl"]
    written = {out / name: (out / name).read_bytes() for name in files}
    command = [sys.executable, str(ROOT / "experiments" / "train_meta.py"), "--preset=smoke", f"--run-dir={folder}"]
    ended = subprocess.run([*command, "--explain=0"], capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0
    assert "[agents] from the cache" in ended.stderr
    assert "[meta] from the cache" in ended.stderr
    assert ended.stdout.splitlines()[0] == "meta, rebalance 0"
    # What was asked for is told; the page of both modes, and the log of each, stay.
    assert {path: path.read_bytes() for path in written} == written
    beyond = subprocess.run([*command, "--explain=100000"], capture_output=True, text=True, timeout=300, check=False)
    assert beyond.returncode == 2
    assert "rebalances, counted from 0" in beyond.stderr
