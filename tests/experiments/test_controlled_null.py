"""`null.py`: the market foretells nothing, turnover is counted right, and agents that stop are told from those that do
not."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.controlled import null
from experiments.controlled.martingale import LIMIT, martingale_market, moves, past, trade_through, world
from experiments.controlled.random_policy import RandomPolicy
from marljax.agents.ppo_config import PPOConfig
from marljax.envs.environment import Box, Discrete

VOLATILITY = null.VOLATILITY
TRAIN = martingale_market(1, 1000, VOLATILITY)


class Constant:
    """Always the same target."""

    def init_carry(self):
        return ()

    def apply(self, params, obs, carry, key, deterministic):
        return jnp.full(1, params), carry


@pytest.fixture(scope="module")
def tape():
    data = martingale_market(2, 1500, VOLATILITY)
    return null.held_out([data], TRAIN)


def play(policy, params, tape):
    one = jax.tree.map(lambda x: x[0], tape)
    return jax.jit(lambda key: trade_through(policy, params, one, key, True))(jax.random.key(0))


def test_no_feature_of_the_past_foretells_the_next_move():
    data = martingale_market(3, 40_000, VOLATILITY)
    move = moves(data)[10:-1]
    assert move.std() == pytest.approx(VOLATILITY, rel=0.02)
    for column in past(data, VOLATILITY)[10:-1].T:
        assert abs(np.corrcoef(column, move)[0, 1]) < 3.0 / len(move) ** 0.5
    assert abs(np.corrcoef(move[1:], move[:-1])[0, 1]) < 3.0 / len(move) ** 0.5


def test_random_targets_turn_over_two_thirds_of_the_limit_in_a_row(tape):
    path = play(RandomPolicy(Box(-1.0, 1.0, (1,))), 0.0, tape)
    # The mean distance of two uniform draws from [-1, 1].
    assert float(path.traded.mean()) / LIMIT == pytest.approx(2 / 3, rel=0.05)
    assert float(path.earned.mean()) < 0


def test_who_does_not_trade_earns_nothing_and_who_holds_trades_twice(tape):
    idle, holding = play(Constant(), 0.0, tape), play(Constant(), 1.0, tape)
    assert not np.any(idle.traded)
    assert not np.any(idle.earned)
    assert int(holding.traded.sum()) == 2 * LIMIT
    assert int(holding.position[0]) == LIMIT
    assert int(holding.position[-1]) == 0


def test_nothing_but_learning_keeps_an_agent_from_trading():
    params = world(TRAIN, past(TRAIN, VOLATILITY), TRAIN, episode_steps=128)
    assert float(params.no_trade_band) == 0.0
    weights = params.rewards
    assert (float(weights.earnings), float(weights.inventory), float(weights.turnover)) == (1.0, 0.0, 0.0)
    assert weights.path is None


def test_random_actions_are_drawn_for_every_role():
    policy = RandomPolicy({"a": Box(-1.0, 1.0, (2, 1)), "b": Discrete(3, (4,))})
    action, carry = policy.apply(None, None, policy.init_carry(), jax.random.key(0), True)
    assert (action["a"].shape, action["b"].shape, carry) == ((2, 1), (4,), ())


@pytest.mark.nightly
def test_the_proof_runs_from_end_to_end(tmp_path):
    ppo = PPOConfig(n_envs=4, n_steps=16, hidden=(8,))
    config = dataclasses.replace(null.PRESETS["quick"], chunks=2, ppo=ppo, run_dir=tmp_path)
    said, more = null.main(config, tmp_path)
    assert said.met == (said.estimate < 0.02)
    assert not said.met, "agents that learned nothing yet still trade"
    assert said.estimate == pytest.approx(
        np.mean(more["turnover_with_exploration"] / more["turnover_of_random_actions"])
    )
    np.testing.assert_allclose(more["turnover_of_random_actions"], 2 / 3, rtol=0.1)
    assert "learning_curves.html" in {path.name for path in tmp_path.iterdir()}
