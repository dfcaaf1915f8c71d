"""`oracle.py`: the optimum it judges by, against enumeration and the env itself, and what its agents are told."""

import dataclasses
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.controlled import oracle
from experiments.controlled.foresight import (
    best_path,
    earned_by,
    earnings,
    follow_rule,
    informed_rule,
    late_probability,
    walk_cost,
)
from experiments.controlled.martingale import (
    LIMIT,
    WARM_UP,
    martingale_market,
    moves,
    past,
    trade_through,
    world,
)
from marljax.agents.ppo_config import PPOConfig
from marljax.envs.replay import ReplayEnv
from marljax.envs.tapes import CostConfig

VOLATILITY = oracle.VOLATILITY
TRAIN = martingale_market(1, 3000, VOLATILITY)
DATA = martingale_market(2, 200, VOLATILITY)
ALWAYS = {"latency_floor": 5.0}
NEVER = {"latency_floor": 0.0, "latency_mean": 0.0}


def test_a_walk_through_a_book_pays_every_level_its_distance_from_the_mid():
    cost = walk_cost(np.array([101, 102, 105]), np.array([2, 1, 2]), 100.0, most=4)
    np.testing.assert_array_equal(cost, [0, 1, 2, 4, 9])
    with pytest.raises(ValueError, match="5 lots, and an order may be of 6"):
        walk_cost(np.array([101, 102, 105]), np.array([2, 1, 2]), 100.0, most=6)


@pytest.mark.parametrize(("floor", "mean"), [(0.001, 0.05), (0.3, 0.5), (0.0, 2.0), (0.2, 0.0), (1.5, 0.1)])
def test_the_probability_of_a_late_order_is_that_of_a_million_draws(floor, mean):
    rng = np.random.default_rng(0)
    late = floor + mean * rng.exponential(size=10**6) > 2.0 * rng.random(10**6)
    costs = CostConfig(latency_floor=floor, latency_mean=mean)
    assert late_probability(costs, step_seconds=2.0) == pytest.approx(late.mean(), abs=2e-3)


@pytest.mark.parametrize("latency", [NEVER, ALWAYS])
def test_the_optimums_earnings_are_those_of_the_env_to_the_last_cent(latency):
    costs = CostConfig(fee_rate=3e-4, fee_per_lot=0.7, impact=0.8, **latency)
    params = world(DATA, past(DATA, VOLATILITY), TRAIN, episode_steps=150)
    models = [jnp.float32(getattr(costs, name)) for name in ("fee_rate", "fee_per_lot", "impact")]
    params = dataclasses.replace(
        params,
        costs=dataclasses.replace(
            params.costs,
            **dict(zip(("fee_rate", "fee_per_lot", "impact_coefficient"), models, strict=True)),
            **{name: jnp.float32(x) for name, x in latency.items()},
        ),
    )
    table = earnings(DATA, TRAIN, LIMIT, costs)
    env = ReplayEnv(150)
    _, state = env.reset(jax.random.key(0), dataclasses.replace(params, real_starts=jnp.int32([WARM_UP])))
    step, held = jax.jit(env.step_env), 0
    for t, target in enumerate(np.random.default_rng(3).integers(-LIMIT, LIMIT + 1, 40), start=int(state.time)):
        _, state, _, _, _, info = step(jax.random.key(t), state, jnp.float32([target / LIMIT]), params)
        assert int(state.account.position) == target
        assert float(info["earned"]) == pytest.approx(table[t, held + LIMIT, target + LIMIT], abs=0.02)
        held = target


def test_the_best_path_is_the_best_of_all_paths():
    rng = np.random.default_rng(0)
    earned, flat = rng.normal(size=(5, 3, 3)), np.array([False, False, True, False, False])
    paths = [p for p in itertools.product((-1, 0, 1), repeat=5) if p[2] == 0]
    values = [earned_by(earned, np.array(p)) for p in paths]
    best = best_path(earned, flat)
    assert best.value == pytest.approx(max(values))
    np.testing.assert_array_equal(best.position, paths[int(np.argmax(values))])


def test_the_rule_that_knows_the_next_move_is_the_best_of_all_rules():
    rng = np.random.default_rng(3)
    move = np.array([-1.0, 2.0, 2.0, 2.0])
    earned = rng.normal(size=(2, 2, 2))[[0, 1, 1, 1]]

    def mean_earnings(rule):
        """Of choices [move, position], moves drawn with probabilities 1/4 and 3/4."""
        at, earns = np.full(2, 0.5), 0.0
        for _ in range(200):
            after, earns = np.zeros(2), 0.0
            for (m, p), held in itertools.product(((0, 0.25), (1, 0.75)), (0, 1)):
                earns += p * at[held] * earned[m][held, rule[m, held]]
                after[rule[m, held]] += p * at[held]
            at = 0.5 * (at + after)
        return earns

    rules = [np.array(r).reshape(2, 2) for r in itertools.product((0, 1), repeat=4)]
    best = max(mean_earnings(rule) for rule in rules)
    found = informed_rule(earned, move)
    np.testing.assert_array_equal(found.moves, [-1.0, 2.0])
    assert mean_earnings(found.target) == pytest.approx(best, abs=1e-6)
    greedy = np.stack([earned[0].argmax(1), earned[1].argmax(1)])
    assert best > mean_earnings(greedy) + 0.1


def test_who_knows_the_next_move_earns_less_than_who_knows_all_and_more_than_its_sign_alone():
    data = martingale_market(3, 1500, VOLATILITY)
    earned, move = earnings(data, TRAIN, LIMIT, oracle.COSTS), moves(data)[:-1]
    free = np.zeros(len(earned), bool)
    best = best_path(earned, free).value
    rule = informed_rule(earnings(TRAIN, TRAIN, LIMIT, oracle.COSTS), moves(TRAIN)[:-1])
    informed = follow_rule(rule, earned, move, free) / best
    sign = earned_by(earned, np.where(move > 0, LIMIT, -LIMIT)) / best
    assert 0.92 < informed < 0.97
    assert 0.84 < sign < informed - 0.03


def test_one_agent_is_told_the_next_return_one_the_last_and_one_a_return_of_another_row():
    told = {name: oracle.told(DATA, name, np.random.default_rng(0))[:, -1] for name in oracle.VARIANTS}
    mid = np.asarray(DATA.double_mid)[:, 0] / 2
    np.testing.assert_allclose(told["told"][:-1] * VOLATILITY, np.diff(mid), rtol=1e-5)
    np.testing.assert_allclose(told["late"][1:] * VOLATILITY, np.diff(mid), rtol=1e-5)
    np.testing.assert_array_equal(np.sort(told["shuffled"]), np.sort(told["told"]))
    assert (told["shuffled"] == told["told"]).mean() < 0.1


def test_features_of_the_past_do_not_know_what_comes():
    row = 120
    changed = np.asarray(DATA.ask_price).copy(), np.asarray(DATA.bid_price).copy()
    for price in changed:
        price[row + 1 :] += 50
    other = dataclasses.replace(DATA, ask_price=jnp.asarray(changed[0]), bid_price=jnp.asarray(changed[1]))
    np.testing.assert_array_equal(past(other, VOLATILITY)[: row + 1], past(DATA, VOLATILITY)[: row + 1])
    assert not np.array_equal(past(other, VOLATILITY)[row + 1], past(DATA, VOLATILITY)[row + 1])


class Foresight:
    """Plays a list of positions: what the optimum's path earns in the env."""

    def init_carry(self):
        return jnp.int32(0)

    def apply(self, params, obs, carry, key, deterministic):
        return jnp.asarray(params, jnp.float32)[carry][None], carry + 1


def test_the_optimums_path_earns_in_the_env_what_the_optimum_says():
    earned = earnings(DATA, TRAIN, LIMIT, oracle.COSTS)
    params = world(DATA, past(DATA, VOLATILITY), TRAIN, len(np.asarray(DATA.seconds)) - 1 - WARM_UP)
    flat = np.asarray(params.flat)[WARM_UP:-1]
    best = best_path(earned[WARM_UP:], flat)
    played = jax.vmap(lambda key: trade_through(Foresight(), best.position / LIMIT, params, key, True))
    path = jax.jit(played)(jax.random.split(jax.random.key(0), 64))
    np.testing.assert_array_equal(path.position[0], best.position)
    # Random latencies alone tell them apart.
    assert float(path.earned.sum(1).mean()) == pytest.approx(best.value, rel=0.005)
    assert path.position[0, -1] == 0


def test_a_leak_proves_something_only_if_what_is_no_leak_earns_nothing():
    rng = np.random.default_rng(0)
    share, nothing = rng.normal(0.95, 0.01, 10), rng.normal(-0.02, 0.01, 10)
    quiet = {"told": share, "late": nothing, "shuffled": nothing}
    assert oracle.verdict(share, quiet)[0].met
    assert not oracle.verdict(share - 0.1, quiet)[0].met
    for name in ("late", "shuffled"):
        said, more = oracle.verdict(share, quiet | {name: nothing + 0.05})
        assert not said.met
        assert not more["sharpe_not_above_zero"]


def test_an_agent_that_does_not_trade_has_a_sharpe_ratio_of_zero():
    earned = np.stack([np.zeros(4), np.array([1.0, 3.0, 1.0, 3.0])])
    np.testing.assert_allclose(oracle.sharpe(earned), [0.0, 2.0])


@pytest.mark.nightly
def test_the_proof_runs_from_end_to_end(tmp_path):
    config = dataclasses.replace(
        oracle.PRESETS["quick"], chunks=2, ppo=PPOConfig(n_envs=4, n_steps=16, hidden=(8,)), run_dir=tmp_path
    )
    said, more = oracle.main(config, tmp_path)
    assert said.task == "oracle"
    assert not said.met
    assert len(more["optimum"]) == 2
    assert len([json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]) == 2
    assert "agents earn" in (tmp_path / "learning_curves.html").read_text()
