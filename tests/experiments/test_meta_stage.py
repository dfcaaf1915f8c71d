"""The meta-controller's training: what it is paid for, and at what price."""

import dataclasses
import json

import numpy as np
import pytest

from marljax.agents.lagrangian import LagrangianPPO
from marljax.agents.ppo import PPO
from marljax.agents.ppo_config import PPOConfig
from marljax.data.schema import InputError
from marljax.data.splits import Split
from marljax.envs.portfolio import PortfolioEnv
from marljax.envs.tapes import CostConfig, TradingConfig
from marljax.envs.worlds import AllocationConfig
from marljax.runtime.stages import StageCache
from stages.agents import Trading
from stages.market import Market
from stages.meta import DrawdownConfig, MetaConfig, Portfolio, meta_stage
from tests.reference.books import random_market
from tests.reference.worlds import POLICY, policies, rows

TINY = PPOConfig(n_envs=4, n_steps=8, hidden=(8,), over_agents=("agent",))
SPLIT = Split(slice(0, 120), slice(120, 180), slice(180, 240))
BLOCKS = 4


@pytest.fixture(scope="module")
def portfolio() -> Portfolio:
    data = random_market(n_products=2, n_steps=240)
    market = Market(data, rows(data), SPLIT, ("a", "b", "c", "d"), None, 5)
    return Portfolio(
        env=PortfolioEnv(POLICY, 5, BLOCKS),
        market=market,
        trading=Trading.of(market, CostConfig(), TradingConfig(no_trade_band=0.05)),
        policies=policies(2),
        allocation=AllocationConfig(rows_per_block=5, covariance_half_life=30.0, risk_aversion=0.0),
    )


@pytest.mark.nightly
def test_the_price_of_drawdown_is_learned_at_the_rates_of_the_config(portfolio, tmp_path):
    """And in units of it that are the same for a calm portfolio and a wild one."""
    drawdown = DrawdownConfig(limit=1e-4, rate=0.01, proportional=0.05)
    config = MetaConfig(seeds=1, chunks=3, episode_blocks=BLOCKS, drawdown=drawdown, ppo=TINY)
    stage = meta_stage(
        StageCache(tmp_path, context={"seed": 0}, log=lambda line: None),
        {},
        portfolio,
        config,
        blocks_per_year=1000.0,
        seed=0,
        metrics_path=tmp_path / "metrics.jsonl",
    )
    found = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    cost, multiplier, reward, unpriced = (
        np.ravel([row[name] for row in found]) for name in ("cost", "multiplier", "reward", "unpriced_reward")
    )
    scale = float(portfolio.params("train").reward_scale)
    over = cost * BLOCKS / 1e-4 - 1.0
    assert (over > 1.0).all(), "untrained agents lose more than twice a ten-thousandth"
    assert multiplier[0] == 0.0
    np.testing.assert_allclose(multiplier[1] * scale, (0.01 + 0.05) * over[0], rtol=1e-4)
    np.testing.assert_allclose(multiplier[2] * scale, 0.01 * over[:2].sum() + 0.05 * over[1], rtol=1e-4)
    learned = 0.01 * over.sum() + 0.05 * over[2]
    assert stage.value.metadata["price"] * scale == pytest.approx(learned, rel=1e-4), "for joint tuning to go on from"
    np.testing.assert_allclose(reward, unpriced - multiplier * cost, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(np.ravel(stage.value.metadata["curves"]["reward"]), unpriced)


def test_without_a_limit_it_is_plain_ppo_and_with_one_the_limit_is_that_of_an_episode(portfolio):
    train = portfolio.params("train")
    assert type(MetaConfig(ppo=TINY).learner(portfolio.env, train)) is PPO
    limited = MetaConfig(drawdown=DrawdownConfig(limit=0.08), ppo=TINY)
    longer = dataclasses.replace(portfolio.env, episode_blocks=16)
    for env, per_block in ((portfolio.env, 0.02), (longer, 0.005)):
        learner = limited.learner(env, train)
        assert isinstance(learner, LagrangianPPO)
        assert learner.constraint.limit == pytest.approx(per_block)


@pytest.mark.parametrize("wrong", [{"limit": 0.0}, {"limit": 1.0}, {"rate": -1.0}, {"proportional": float("nan")}])
def test_an_impossible_constraint_is_refused_by_name(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        DrawdownConfig(**wrong)
