"""Agents tuned together: how they begin, on which rows, and when the tuned ones are used."""

import dataclasses
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marljax.agents.agent_set import AgentSet
from marljax.agents.lagrangian import LagrangianRunner
from marljax.agents.ppo_config import PPOConfig
from marljax.agents.sac_config import SACConfig
from marljax.agents.teams import CENTRE
from marljax.data.schema import InputError
from marljax.data.splits import Split
from marljax.envs.joint_portfolio import META, PRODUCT, JointPortfolioEnv
from marljax.envs.portfolio import PortfolioEnv, base_weights
from marljax.envs.tapes import CostConfig, TradingConfig
from marljax.envs.worlds import AllocationConfig, joint_params
from marljax.portfolio.meta_controller import observation_size
from marljax.runtime.progress import run_chunks
from marljax.runtime.stages import StageCache
from stages import joint
from stages.agents import AgentsConfig, Trading
from stages.joint import JointConfig, Tuning, constraint, joint_stage, stored_agents, verdict
from stages.market import Market
from stages.meta import DrawdownConfig, MetaConfig, Portfolio
from tests.reference.books import random_market
from tests.reference.worlds import POLICY, policies, rows

PPO_CONFIG = PPOConfig(n_envs=4, n_steps=8, hidden=(8, 8), learning_rate=1e-2)
AGENTS = AgentsConfig(ppo=PPO_CONFIG, sac=SACConfig(hidden=(8, 8)))
META_CONFIG = MetaConfig(ppo=dataclasses.replace(PPO_CONFIG, over_agents=("agent",)))
TINY = JointConfig(
    seeds=2, chunks=3, critic_chunks=1, learning_rate=1e-3, n_envs=2, n_steps=24, replications=2, resamples=100
)
SPLIT = Split(slice(0, 120), slice(120, 180), slice(180, 240))


@pytest.fixture(scope="module")
def portfolio() -> Portfolio:
    data = random_market(n_products=2, n_steps=240)
    market = Market(data, rows(data), SPLIT, ("a", "b", "c", "d"), None, 5)
    return Portfolio(
        env=PortfolioEnv(POLICY, 5, 4),
        market=market,
        trading=Trading.of(market, CostConfig(), TradingConfig(no_trade_band=0.05)),
        policies=policies(2),
        allocation=AllocationConfig(rows_per_block=5, covariance_half_life=30.0),
    )


@pytest.fixture(scope="module")
def originals(portfolio):
    meta = META_CONFIG.network(2).init(jax.random.key(3), observation_size(2))
    return {PRODUCT: portfolio.policies, META: meta}


def tune(portfolio, originals, folder, config=TINY):
    return joint_stage(
        StageCache(folder, context={"seed": 0}, log=lambda line: None),
        {},
        portfolio,
        originals,
        AGENTS,
        META_CONFIG,
        TradingConfig(),
        config,
        blocks_per_year=1000.0,
        seed=0,
        metrics_path=folder / "metrics.jsonl",
    )


def differ(one, other) -> bool:
    return any(bool(jnp.any(x != y)) for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))


@pytest.fixture(scope="module")
def tuned(portfolio, originals):
    """[(params, metrics)] of one seed at the start and after each chunk."""
    env = JointPortfolioEnv(portfolio.env)
    tuning = Tuning(env, TINY.ppo(PPO_CONFIG, META_CONFIG.ppo), PPO_CONFIG.learning_rate, critic_chunks=2)
    params = joint_params(portfolio.params("train"), TradingConfig(), 0.5)
    runner = jax.jit(tuning.init)(jax.random.key(0), params, originals)
    update = jax.jit(chex.assert_max_traces(tuning.update, n=1))
    found = [(runner.params, {})]
    for _ in range(4):
        runner, metrics = update(runner, params)
        found.append((runner.params, metrics))
    return found


def test_agents_begin_as_they_are_stay_so_while_the_critics_learn_and_then_move_in_turns(tuned, originals):
    policies = [{role: params[role]["policy"] for role in (PRODUCT, META)} for params, _ in tuned]
    for policy in policies[:3]:
        chex.assert_trees_all_equal(policy, originals)
    for i, mover, waits in ((3, PRODUCT, META), (4, META, PRODUCT)):
        assert differ(policies[i][mover], policies[i - 1][mover])
        chex.assert_trees_all_equal(policies[i][waits], policies[i - 1][waits])
    for (before, _), (after, _) in itertools.pairwise(tuned):
        assert all(differ(before[role]["critic"], after[role]["critic"]) for role in (PRODUCT, META))


def test_critics_learn_alone_at_the_rate_of_the_agents_and_then_all_at_the_small_one(tuned):
    rates = [float(metrics["learning_rate"]) for _, metrics in tuned[1:]]
    np.testing.assert_allclose(rates, [1e-2, 1e-2, 1e-3, 1e-3])
    policies_moved = np.abs(
        np.asarray(tuned[3][0][PRODUCT]["policy"].network[0].kernel - tuned[2][0][PRODUCT]["policy"].network[0].kernel)
    )
    # Adam moves a weight by about the rate at most, in each of 16 steps.
    assert 0 < policies_moved.max() < 20 * 1e-3


def test_every_product_has_parameters_of_its_own(tuned):
    kernel = tuned[-1][0][PRODUCT]["policy"].network[0].kernel
    assert kernel.shape[0] == 2
    assert differ(kernel[0], kernel[1])


def test_the_meta_controller_is_tuned_as_the_set_network_that_it_was_trained_as(tuned, originals):
    learned, before = tuned[-1][0][META], originals[META]
    chex.assert_trees_all_equal_shapes_and_dtypes(learned["policy"], before)
    assert META_CONFIG.network(2).network == AgentSet(2, (8, 8))
    for name in ("each", "whole", "score"):
        assert differ(learned["policy"].network[name], before.network[name]), name
    assert "each" not in learned["critic"], "a critic's value is of the whole"


@pytest.fixture(scope="module")
def limited(portfolio, originals):
    """[(runner, metrics)] of agents who share a critic and whose meta-controller has a limit on its drawdowns, at the
    start and after each chunk; their constraint; and a typical portfolio's standard deviation."""
    shared = dataclasses.replace(portfolio.env, coordination="shared_critic")
    train = portfolio.params("train")
    meta = dataclasses.replace(META_CONFIG, drawdown=DrawdownConfig(limit=1e-4, rate=0.01, proportional=0.05))
    limit = constraint(meta, shared, train, price=7.0)
    ppo = TINY.ppo(PPO_CONFIG, META_CONFIG.ppo, "shared_critic")
    tuning = Tuning(JointPortfolioEnv(shared), ppo, PPO_CONFIG.learning_rate, critic_chunks=2, constraint=limit)
    params = joint_params(train, TradingConfig(), 0.5)
    runner = jax.jit(tuning.init)(jax.random.key(0), params, originals)
    update = jax.jit(tuning.update)
    found = [(runner, {})]
    for _ in range(4):
        runner, metrics = update(runner, params)
        found.append((runner, metrics))
    return found, limit, float(train.reward_scale)


@pytest.mark.nightly
def test_under_a_shared_critic_one_network_judges_all_and_learns_before_they_do(limited, originals):
    found, *_ = limited
    params = [runner.ppo.params for runner, _ in found]
    for after in params:
        assert after.keys() == {PRODUCT, META, CENTRE}
        assert [role for role in (PRODUCT, META) if "critic" in after[role]] == []
    for before, after in itertools.pairwise(params):
        assert differ(before[CENTRE], after[CENTRE])
    # It sees everything that anybody sees, and says a value for each of three.
    first, *_, last = params[0][CENTRE]["critic"]
    assert first.kernel.shape[0] == 2 * (4 + 1) + observation_size(2)
    assert last.kernel.shape[1] == 3
    learned = [{role: after[role]["policy"] for role in originals} for after in params]
    chex.assert_trees_all_equal(learned[2], originals)
    assert all(differ(learned[4][role], originals[role]) for role in originals)


@pytest.mark.nightly
def test_the_price_of_drawdown_goes_on_from_what_the_meta_controller_learned_once_policies_move(limited):
    found, limit, scale = limited
    assert all(isinstance(runner, LagrangianRunner) for runner, _ in found)
    price = [float(runner.multiplier) for runner, _ in found]
    np.testing.assert_allclose(price[:3], 7.0, rtol=1e-6)
    cost = [float(metrics["cost"]) for _, metrics in found[1:]]
    # Episodes have 4 blocks of 5 rows and a step more each.
    over = np.array(cost) * 4 * (5 + 1) / 1e-4 - 1.0
    assert limit.limit == pytest.approx(1e-4 / 24)
    assert (over > 1.0).all(), "untrained agents lose more than twice a ten-thousandth"
    assert price[3] * scale == pytest.approx(7.0 * scale + (0.01 + 0.05) * over[2], rel=1e-3)
    assert price[4] * scale == pytest.approx(7.0 * scale + 0.01 * over[2:].sum() + 0.05 * over[3], rel=1e-3)


@pytest.mark.nightly
def test_the_meta_controller_is_paid_less_by_the_price_of_its_drawdowns(limited):
    found, *_ = limited
    for _, metrics in found[1:]:
        paid = float(metrics["multiplier"] * metrics["cost"])
        assert float(metrics["unpriced_reward"] - metrics["meta.reward"]) == pytest.approx(paid, rel=1e-3)
        assert paid > 0


@pytest.mark.parametrize("name", ["meta", "risk_parity", "auction"])
def test_every_other_mode_leaves_agents_the_critics_that_they_are_configured_with(name):
    assert TINY.ppo(PPO_CONFIG, META_CONFIG.ppo, name) == TINY.ppo(PPO_CONFIG, META_CONFIG.ppo)
    assert TINY.ppo(PPO_CONFIG, META_CONFIG.ppo).critic == "own"
    assert TINY.ppo(PPO_CONFIG, META_CONFIG.ppo, "shared_critic").critic == "shared"


def test_where_meta_does_not_read_agents_as_a_set_it_is_tuned_as_a_perceptron():
    assert TINY.ppo(PPO_CONFIG, PPO_CONFIG).over_agents == ()
    plain = MetaConfig(ppo=PPO_CONFIG).network(2).network
    assert plain == PPO_CONFIG.body
    tuned = TINY.ppo(PPO_CONFIG, dataclasses.replace(META_CONFIG.ppo, heads=3, exposure=0.5))
    assert (tuned.over_agents, tuned.heads, tuned.exposure) == ((META,), 3, 0.5)


def test_a_fresh_meta_controller_holds_risk_parity_at_the_exposure_of_its_config(portfolio):
    """And without the set network whatever its first weights say: `over_agents` and `exposure` act."""
    env, params = portfolio.env, portfolio.params("train")
    state = env.start(params.starts[0], params)
    obs, base = env.observe(state, params), base_weights(state.block, params)

    def asked(**changes):
        network = MetaConfig(ppo=dataclasses.replace(META_CONFIG.ppo, **changes)).network(2)
        fresh = network.init(jax.random.key(0), observation_size(2))
        action, _ = network.apply(fresh, obs, network.init_carry(), jax.random.key(0), True)
        return env.ask(state, action, params)

    np.testing.assert_allclose(asked(), 0.95 * base, rtol=1e-5)
    np.testing.assert_allclose(asked(exposure=0.5), 0.5 * base, rtol=1e-5)
    assert float(asked(over_agents=()).sum()) < 0.6


@pytest.mark.nightly
def test_agents_stay_as_they_were_unless_the_interval_lies_above_zero(portfolio, originals, tmp_path, monkeypatch):
    stage = tune(portfolio, originals, tmp_path / "as found")
    found = stage.value.metadata
    low, high = found["interval"]
    assert low <= found["difference"] <= high
    assert found["adopted"] == (low > 0)
    assert [row["seed"] for row in found["trials"]] == [0, 1]
    assert {row["env_steps"] for row in found["trials"]} == {3 * 2 * 24}
    chosen = {}
    for name, interval in (("better", [0.1, 1.0, 2.0]), ("unclear", [-0.1, 1.0, 2.0]), ("worse", [-2.0, -1.0, -0.1])):
        told = {"interval": interval, "verdict": "not established" if name == "unclear" else "established"}
        monkeypatch.setattr(joint, "difference", lambda *_, told=told, **__: told)
        stage = tune(portfolio, originals, tmp_path / name)
        chosen[name] = stored_agents(stage, originals)
        assert stage.value.metadata["adopted"] == (name == "better")
        assert stage.value.metadata["interval"] == [interval[0], interval[2]]
    chex.assert_trees_all_equal(chosen["unclear"], originals)
    chex.assert_trees_all_equal(chosen["worse"], originals)
    assert all(differ(chosen["better"][role], originals[role]) for role in originals)
    chex.assert_trees_all_equal_shapes_and_dtypes(chosen["better"], originals)


def test_the_seed_of_the_best_sharpe_is_taken_and_only_if_all_seeds_together_are_better():
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(2, 400)).astype(np.float32)
    better = [noise + 0.2, noise + 0.5, noise + 0.3]
    found = verdict(noise, better, TINY, 250.0, 0)
    assert found["adopted"]
    assert found["seed"] == 1
    assert found["verdict"] == "established"
    expected = np.sqrt(250.0) * np.mean([(b.mean(1) / b.std(1)).mean() for b in better])
    expected -= np.sqrt(250.0) * (noise.mean(1) / noise.std(1)).mean()
    assert found["difference"] == pytest.approx(expected, rel=0.02)
    worse = verdict(noise, [noise - 0.5, noise - 0.2], TINY, 250.0, 0)
    assert (worse["adopted"], worse["seed"], worse["verdict"]) == (False, None, "established")
    other = [rng.normal(size=(2, 400)).astype(np.float32)]
    unclear = verdict(noise, other, TINY, 250.0, 0)
    assert (unclear["adopted"], unclear["seed"], unclear["verdict"]) == (False, None, "not established")
    same = verdict(noise, [noise, noise], TINY, 250.0, 0)
    assert same["difference"] == pytest.approx(0.0, abs=1e-6)
    assert not same["adopted"]


def test_a_higher_confidence_widens_the_interval():
    rng = np.random.default_rng(1)
    before, after = rng.normal(size=(2, 1, 400)).astype(np.float32)
    widths = []
    for confidence in (0.6, 0.95):
        low, high = verdict(before, [after], dataclasses.replace(TINY, confidence=confidence), 250.0, 0)["interval"]
        widths.append(high - low)
    assert widths[1] > 1.5 * widths[0]


def test_nobody_is_tuned_on_rows_that_reach_into_validation(portfolio, originals, tmp_path):
    leaky = Split(slice(0, 140), slice(120, 180), slice(180, 240))
    market = dataclasses.replace(portfolio.market, split=leaky)
    with pytest.raises(AssertionError, match="validation begins"):
        tune(dataclasses.replace(portfolio, market=market), originals, tmp_path)


@pytest.mark.nightly
def test_what_happens_after_the_training_part_does_not_change_the_tuning(portfolio, originals, tmp_path, monkeypatch):
    seen = []

    def remember(*args, **kwargs):
        seen.append(run_chunks(*args, **kwargs))
        return seen[-1]

    monkeypatch.setattr(joint, "run_chunks", remember)
    data = portfolio.market.data
    later = jnp.arange(data.n_steps)[:, None, None] >= SPLIT.validation.start
    changed = data.replace(bid_price=jnp.where(later, data.bid_price - 300, data.bid_price))
    for name, market in (("one", data), ("other", changed)):
        market = dataclasses.replace(portfolio.market, data=market, rows=rows(market))
        tune(dataclasses.replace(portfolio, market=market), originals, tmp_path / name)
    chex.assert_trees_all_equal(seen[0].runner.params, seen[1].runner.params)


def test_products_and_meta_controller_must_have_equal_networks():
    with pytest.raises(InputError, match="equal networks"):
        TINY.ppo(PPO_CONFIG, dataclasses.replace(PPO_CONFIG, hidden=(16,)))


def test_the_agents_own_settings_hold_but_for_those_of_the_tuning():
    trained = dataclasses.replace(PPO_CONFIG, ratio_clip=0.07, normalise_observations=True)
    found = TINY.ppo(trained, PPO_CONFIG)
    assert (found.n_envs, found.n_steps, found.learning_rate, found.ratio_clip) == (2, 24, 1e-3, 0.07)
    assert found.separate == (PRODUCT,)
    assert not found.normalise_observations, "scales stay those that the policies were trained with"


@pytest.mark.parametrize(
    "wrong",
    [
        {"seeds": 0},
        {"chunks": -1},
        {"critic_chunks": 30},
        {"learning_rate": 0.0},
        {"n_envs": 0},
        {"n_steps": 0},
        {"portfolio_weight": -1.0},
        {"replications": 0},
        {"confidence": 1.0},
        {"resamples": 10},
    ],
)
def test_an_impossible_setting_is_refused_by_name(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        JointConfig(**wrong)


def test_tuning_is_left_out_by_its_chunks_alone():
    assert JointConfig(chunks=0).chunks == 0
