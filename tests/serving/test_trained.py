import json

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from marljax.agents.agent_set import AgentSet
from marljax.agents.attention import Attention
from marljax.agents.memory import GRU
from marljax.agents.networks import MLP
from marljax.agents.policy import CategoricalPolicy, TanhGaussianPolicy
from marljax.agents.ppo import PPO
from marljax.agents.ppo_config import PPOConfig
from marljax.data.schema import InputError
from marljax.serving.trained import TrainedPolicy, trained_policies
from tests.reference.tasks import ALIKE, Matching

FORMS = {
    "perceptron": TanhGaussianPolicy(2, MLP((8,))),
    "memory": TanhGaussianPolicy(2, GRU((8,))),
    "attention": TanhGaussianPolicy(2, Attention((8,), tokens=2, heads=2)),
    "agents": TanhGaussianPolicy(3, AgentSet(2, (8,), n_shared=2)),
    "agents with memory": TanhGaussianPolicy(3, AgentSet(2, (4,), n_shared=2, recurrent=True)),
    "discrete": CategoricalPolicy(3, masked=True, network=MLP((8, 4))),
}
forms = pytest.mark.parametrize("form", FORMS)


def agent(form, obs_size=6):
    params = FORMS[form].init(jax.random.key(0), obs_size)
    keys = iter(jax.random.split(jax.random.key(1), 99))
    return TrainedPolicy(FORMS[form], jax.tree.map(lambda x: x + 0.3 * jax.random.uniform(next(keys), x.shape), params))


def observations(n=5, obs_size=6):
    return jax.random.normal(jax.random.key(2), (n, obs_size))


@forms
def test_a_saved_agent_acts_as_before(form, tmp_path):
    ours = agent(form)
    ours.save(tmp_path / "agent")
    theirs = TrainedPolicy.load(tmp_path / "agent")
    assert theirs.policy == ours.policy
    for obs in observations():
        for key in (None, jax.random.key(3)):
            np.testing.assert_array_equal(
                ours.act(obs, ours.init_carry(), key)[0], theirs.act(obs, theirs.init_carry(), key)[0]
            )


@forms
def test_an_exported_program_does_what_the_agent_holds_best_for_any_number_of_observations(form, tmp_path):
    ours = agent(form)
    ours.export(tmp_path / "policy.stablehlo")
    program = jax.export.deserialize(bytearray((tmp_path / "policy.stablehlo").read_bytes()))
    assert set(program.platforms) == {"cpu", "cuda", "tpu"}
    for n in (1, 7):
        obs = observations(n)
        if not ours.policy.network.recurrent:
            got, expected = program.call(obs), ours.act(obs)[0]
        else:
            memory = jnp.zeros((n, 8))
            got, after = program.call(obs, memory)
            expected, carry = ours.act(obs, memory)
            np.testing.assert_allclose(after, carry, atol=1e-6)
            assert np.abs(after).max() > 0.01
        np.testing.assert_allclose(got, expected, atol=1e-6)


def test_without_a_memory_an_episode_begins():
    ours, obs = agent("memory"), observations(3)
    first = ours.act(obs)
    np.testing.assert_allclose(first[0], ours.act(obs, jnp.zeros((3, 8)))[0], atol=1e-6)
    assert np.abs(ours.act(obs, first[1])[0] - first[0]).max() > 1e-4


def test_without_a_key_the_best_is_done_and_with_one_it_explores():
    ours, obs = agent("perceptron"), observations(1)[0]
    assert (ours.act(obs)[0] == ours.act(obs)[0]).all()
    explored = [ours.act(obs, key=k)[0] for k in jax.random.split(jax.random.key(4), 3)]
    assert len({float(x[0]) for x in explored}) == 3


def test_all_agents_of_a_learner_are_found_by_role_and_number():
    learner = PPO(Matching(), PPOConfig(n_envs=2, n_steps=4, hidden=(4,), separate=("mover",)))
    runner = jax.jit(learner.init)(jax.random.key(0), ALIKE)
    found = trained_policies(learner.policy(ALIKE), learner.policy_params(runner))
    assert sorted(found) == ["mover/0", "mover/1", "picker"]
    assert [found[name].obs_size for name in sorted(found)] == [1, 1, 8]
    assert found["mover/0"].act(jnp.ones(1))[0].shape == (1,)
    first, second = (found[f"mover/{i}"].params.network[0].kernel for i in (0, 1))
    assert (first != second).any()


def test_an_observation_of_another_size_is_refused():
    with pytest.raises(ValueError, match="observations have 6 entries, got shape \\(5,\\)"):
        agent("perceptron").act(jnp.ones(5))


def test_a_folder_that_holds_no_agent_says_what_is_wrong(tmp_path):
    with pytest.raises(InputError, match=r"policy\.json"):
        TrainedPolicy.load(tmp_path)
    agent("perceptron").save(tmp_path)
    described = json.loads((tmp_path / "policy.json").read_text())
    (tmp_path / "policy.json").write_text(json.dumps({**described, "network": {"form": "LSTM"}}))
    with pytest.raises(InputError, match="does not describe a policy: no 'LSTM' is known there"):
        TrainedPolicy.load(tmp_path)
    (tmp_path / "policy.json").write_text(json.dumps({**described, "network": "MLP"}))
    with pytest.raises(InputError, match="does not describe a policy"):
        TrainedPolicy.load(tmp_path)
    (tmp_path / "policy.json").write_text(json.dumps({**described, "obs_size": 4}))
    with pytest.raises(InputError, match=r"float32\[6,8\], expected float32\[4,8\]"):
        TrainedPolicy.load(tmp_path)
    (tmp_path / "policy.json").write_text(json.dumps(described))
    whole = (tmp_path / "policy.npz").read_bytes()
    (tmp_path / "policy.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"not a whole \.npz file"):
        TrainedPolicy.load(tmp_path)
