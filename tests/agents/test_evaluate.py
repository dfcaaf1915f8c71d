"""A policy is judged by whole episodes of its own, the same ones whatever was learned, and training does not notice."""

import dataclasses
from functools import partial
from types import SimpleNamespace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marljax.agents import PPO, PPOConfig, TanhGaussianPolicy
from marljax.agents.evaluate import JointPolicy, evaluate, evaluator, play
from marljax.envs.environment import Box, Environment
from marljax.runtime.progress import run_chunks
from tests.reference.tasks import PERPETUITY, TARGET, Task


@dataclasses.dataclass(frozen=True)
class Shaky:
    """The best action of a task, and noise of standard deviation 0.1 where it explores."""

    def init_carry(self):
        return ()

    def apply(self, params, obs, carry, key, deterministic):
        noise = 0.0 if deterministic else 0.1 * jax.random.normal(key, (1,))
        return params @ obs + noise, carry


@dataclasses.dataclass(frozen=True)
class Lifetimes(Environment):
    """An episode lasts a random 1 to 6 steps. The reward is the action, plus `carried` memory of it."""

    def observation_space(self, params):
        return Box(-jnp.inf, jnp.inf, (1,))

    def action_space(self, params):
        return Box(-1.0, 1.0, (1,))

    def reset_env(self, key, params):
        life = jax.random.randint(key, (), 1, 7)
        return jnp.float32(life)[None], life

    def step_env(self, key, life, action, params):
        life = life - 1
        return jnp.float32(life)[None], life, action[0], life == 0, jnp.zeros((), bool), {}


@dataclasses.dataclass(frozen=True)
class Counting:
    """Acts by the number of steps since its episode began."""

    def init_carry(self):
        return jnp.zeros(())

    def apply(self, params, obs, carry, key, deterministic):
        return carry[None], carry + 1.0


class Desk(Environment):
    """Two makers and one taker. A reward is the agent's own observation times its action; lasts three steps."""

    def observation_space(self, params):
        return {"maker": Box(-1, 1, (2, 3)), "taker": Box(-1, 1, (1, 2))}

    def action_space(self, params):
        return {"maker": Box(-1, 1, (2, 1)), "taker": Box(-1, 1, (1, 1))}

    def reset_env(self, key, params):
        return {"maker": jnp.array([[1.0, 0, 0], [2.0, 0, 0]]), "taker": jnp.array([[3.0, 0]])}, jnp.int32(0)

    def step_env(self, key, elapsed, action, params):
        obs, _ = self.reset_env(key, params)
        reward = {role: obs[role][:, 0] * action[role][:, 0] for role in obs}
        over = elapsed >= 2
        truncated = {role: jnp.full(r.shape, over) for role, r in reward.items()}
        return obs, elapsed + 1, reward, jax.tree.map(jnp.zeros_like, truncated), truncated, {}


@dataclasses.dataclass(frozen=True)
class Constant:
    """A parameter is the action; the carry is how often it acted."""

    def init(self, key, obs_size):
        return jnp.zeros(1)

    def init_carry(self):
        return jnp.zeros((), jnp.int32)

    def apply(self, params, obs, carry, key, deterministic):
        assert obs.ndim == 1
        return params, carry + 1


def test_returns_are_those_of_a_loop_over_episodes_of_different_lengths():
    keys = jax.random.split(jax.random.key(0), 64)
    episodes = jax.jit(partial(play, Lifetimes(), Counting(), None, env_params=None, max_steps=6, deterministic=True))(
        keys
    )
    steps = np.asarray(episodes.steps)
    assert set(steps) == {1, 2, 3, 4, 5, 6}
    # An agent that acts 0, 1, 2, ... from the beginning of its own episode.
    np.testing.assert_array_equal(episodes.returns, [sum(range(n)) for n in steps])
    assert bool(episodes.ended.all())


def test_an_episode_that_does_not_end_is_cut_and_says_so():
    keys = jax.random.split(jax.random.key(0), 3)
    policy = TanhGaussianPolicy(1)
    params = policy.init(jax.random.key(1), 3)
    for max_steps, ended in ((3, False), (4, True), (9, True)):
        episodes = play(Task(), policy, params, keys, PERPETUITY, max_steps=max_steps, deterministic=False)
        np.testing.assert_array_equal(episodes.returns, np.full(3, min(max_steps, 4)))
        np.testing.assert_array_equal(episodes.ended, ended)


def test_exploration_costs_what_its_noise_costs():
    episodes = jax.jit(partial(evaluate, Task(), Shaky(), n_episodes=4000, max_steps=4))(
        TARGET.weights[None], jax.random.key(0), TARGET
    )
    np.testing.assert_allclose(episodes["deterministic"].returns, 0.0, atol=1e-6)
    # Four steps, each less the variance of the noise.
    error = 4 * 0.01 * np.sqrt(2 / (4 * 4000))
    assert float(episodes["stochastic"].returns.mean()) == pytest.approx(-4 * 0.01, abs=4 * error)


def test_both_ways_meet_the_same_episodes():
    episodes = evaluate(Lifetimes(), Counting(), None, jax.random.key(3), None, n_episodes=16, max_steps=6)
    chex.assert_trees_all_equal(episodes["deterministic"], episodes["stochastic"])
    other = evaluate(Lifetimes(), Counting(), None, jax.random.key(4), None, n_episodes=16, max_steps=6)
    assert (np.asarray(other["stochastic"].steps) != np.asarray(episodes["stochastic"].steps)).any()


@pytest.mark.parametrize("own", [True, False])
def test_returns_are_of_every_agent_of_every_role(own):
    params = {"maker": jnp.array([[0.5], [0.25]]) if own else jnp.array([0.5]), "taker": jnp.array([-1.0])}
    learner = SimpleNamespace(policy=lambda _: {"maker": Constant(), "taker": Constant()}, policy_params=lambda x: x)
    metrics = jax.jit(evaluator(Desk(), learner, jax.random.key(0), n_episodes=2, max_steps=5))(params, None)
    np.testing.assert_allclose(metrics["deterministic_return/maker"], [1.5, 1.5 if own else 3.0])
    np.testing.assert_allclose(metrics["stochastic_return/taker"], [-9.0])
    assert float(metrics["deterministic_steps"]) == 3.0
    assert float(metrics["stochastic_ended"]) == 1.0


def test_agents_of_a_role_explore_apart_and_remember_apart():
    policy = TanhGaussianPolicy(1)
    joint = JointPolicy(policy, Box(-1, 1, (2, 3)))
    params, obs = policy.init(jax.random.key(0), 3), jnp.ones((2, 3))
    action, _ = joint.apply(params, obs, joint.init_carry(), jax.random.key(1), False)
    assert abs(float(action[0, 0] - action[1, 0])) > 1e-3
    same, _ = joint.apply(params, obs, joint.init_carry(), jax.random.key(1), True)
    assert float(same[0, 0]) == float(same[1, 0])
    counting = JointPolicy(Constant(), Box(-1, 1, (2, 3)))
    np.testing.assert_array_equal(
        counting.apply(jnp.ones(1), obs, counting.init_carry(), jax.random.key(1), True)[1], 1
    )


@pytest.mark.nightly
def test_training_with_evaluation_is_training_without_it_bit_for_bit(tmp_path):
    learner = PPO(Task(), PPOConfig(n_envs=4, n_steps=8))
    keys = jax.random.split(jax.random.key(0), 2)
    runners = jax.jit(jax.vmap(learner.init, in_axes=(0, None)))(keys, TARGET)
    judge = jax.vmap(evaluator(Task(), learner, jax.random.key(9), n_episodes=8, max_steps=4), in_axes=(0, None))
    train = partial(
        run_chunks,
        jax.vmap(learner.update, in_axes=(0, None)),
        runners,
        operands=(TARGET,),
        name="toy",
        log=lambda _: None,
    )
    plain = train(4)
    judged = train(4, evaluate=judge, evaluate_every=2)
    chex.assert_trees_all_equal(bits(plain.runner), bits(judged.runner))
    assert [{name: row[name] for name in plain.rows[0]} for row in judged.rows] == plain.rows
    assert len(judged.rows[1]["stochastic_return"]) == 2
    assert "stochastic_return" not in judged.rows[2]
    for n_chunks in (2, 4):
        resumed = train(n_chunks, evaluate=judge, evaluate_every=2, checkpoint_dir=tmp_path)
    assert resumed.rows == judged.rows


def bits(tree):
    return jax.tree.map(lambda x: jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x, tree)
