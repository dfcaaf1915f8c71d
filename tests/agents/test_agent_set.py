"""A policy over agents treats them alike, however many they are."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marljax.agents.agent_set import AgentSet, resized
from marljax.agents.learner import train
from marljax.agents.normalisation import Moments
from marljax.agents.policy import TanhGaussianPolicy
from marljax.agents.ppo import PPO
from marljax.agents.ppo_config import PPOConfig
from marljax.data.schema import InputError
from marljax.portfolio.meta_controller import ask, observation_size, split
from tests.reference import capital
from tests.reference.capital import N_SHARED, Allocation, Desk
from tests.reference.tasks import Task

FORMS = {
    "feed-forward": AgentSet(3, (16, 16)),
    "recurrent": AgentSet(3, (16, 8), recurrent=True),
    "recurrence alone": AgentSet(3, (8,), heads=1, recurrent=True),
}
forms = pytest.mark.parametrize("form", FORMS)
WHOLE = jnp.float32(1.0)
QUICK = {"n_envs": 32, "n_steps": 16, "hidden": (16, 16), "discount": 0.5, "entropy_coefficient": 0.0}


def moved(params, seed=0, size=0.2):
    """Parameters as if something had been learned."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    return tree.unflatten([x + size * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)])


@functools.cache
def learned(form):
    """Parameters of a policy over three agents."""
    params = TanhGaussianPolicy(4, FORMS[form]).init(jax.random.key(0), observation_size(3))
    return dataclasses.replace(params, network=moved(params.network))


def policy_of(form, n_agents=3):
    """The same for any number of agents."""
    return resized(TanhGaussianPolicy(4, FORMS[form]), learned(form), n_agents)


def same_arrays(one, other):
    return zip(jax.tree.leaves(one.network), jax.tree.leaves(other.network), strict=True)


def observations(n_agents, n_steps=5, seed=1):
    return jax.random.normal(jax.random.key(seed), (n_steps, observation_size(n_agents)))


def permuted(policy, obs, order):
    rows, shared = obs[..., :-N_SHARED], obs[..., -N_SHARED:]
    rows = rows.reshape(*obs.shape[:-1], policy.action_size - 1, -1)
    return jnp.concatenate([rows[..., order, :].reshape(*obs.shape[:-1], -1), shared], -1)


@functools.partial(jax.jit, static_argnums=0)
def played(policy, params, obs):
    """Medians [T, A + 1] of actions along observations [T, n], the agents' tilts first, and logarithms of spreads."""

    def step(carry, x):
        distribution, carry = policy.forward(params, x, carry)
        return carry, (distribution.act(distribution.best()), distribution.log_std)

    return jax.lax.scan(step, policy.init_carry(), obs)[1]


def assert_alike(policy, params, obs):
    """Agents in another order are given the same in that order, and the portfolio the same."""
    n = policy.action_size - 1
    order = np.random.default_rng(0).permutation(n)
    for one, other, bound in zip(
        played(policy, params, obs), played(policy, params, permuted(policy, obs, order)), (1e-6, 1e-5), strict=True
    ):
        np.testing.assert_allclose(other[:, :n], one[:, order], atol=bound)
        np.testing.assert_allclose(other[:, n], one[:, n], atol=bound)
        assert float(jnp.abs(one[:, order] - one[:, :n]).max()) > 1e-3, "the order mattered"


@forms
@pytest.mark.parametrize("n_agents", [3, 10, 50])
def test_one_set_of_parameters_serves_any_number_of_agents_in_any_order(form, n_agents):
    policy, params = policy_of(form, n_agents)
    assert all(ours is theirs for ours, theirs in same_arrays(params, learned(form)))
    obs = observations(n_agents)
    chex.assert_shape(played(policy, params, obs)[0], (5, n_agents + 1))
    assert_alike(policy, params, obs)


@forms
def test_the_network_is_that_of_the_oracle(form):
    network, apply = FORMS[form], jax.jit(FORMS[form].apply)
    for n_out in (8, 1):
        params = moved(network.init(jax.random.key(1), observation_size(3), n_out, 1.0), seed=2)
        carry, slow = network.init_carry(), np.zeros((3, network.hidden[-1]))
        for x in observations(3):
            ours, carry = apply(params, x, carry)
            theirs, slow = capital.agent_set(params, x, slow, 3, N_SHARED)
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
            if network.recurrent:
                np.testing.assert_allclose(carry.reshape(3, -1), slow, rtol=1e-4, atol=1e-5)


def test_agents_in_pairs_of_equals_are_treated_as_each_of_them_alone():
    """What an agent is given depends on the others' distribution and not on their number."""
    policy, params = policy_of("feed-forward")
    twice, same = policy_of("feed-forward", 6)
    obs = observations(3)
    rows, shared = split(obs)
    doubled = jnp.concatenate([jnp.repeat(rows, 2, -2).reshape(5, -1), shared], -1)
    alone, paired = (played(*pair)[0] for pair in ((policy, params, obs), (twice, same, doubled)))
    np.testing.assert_allclose(paired[:, 0:6:2], alone[:, :3], atol=1e-6)
    np.testing.assert_allclose(paired[:, -1], alone[:, -1], atol=1e-6)


@forms
@pytest.mark.parametrize("exposure", [0.5, 0.95])
def test_a_fresh_policy_asks_for_the_base_at_the_exposure_it_is_to_start_from(form, exposure):
    network = dataclasses.replace(FORMS[form], exposure=exposure)
    policy, base = TanhGaussianPolicy(4, network), jnp.array([0.5, 0.3, 0.2])
    params = policy.init(jax.random.key(3), observation_size(3))
    for action in played(policy, params, 5.0 * observations(3))[0]:
        np.testing.assert_allclose(ask(action, base, jnp.log(3.0), WHOLE), exposure * base, atol=1e-6)


def test_what_an_agent_did_earlier_stays_with_it():
    """All agents look the same now and only their pasts differ: with these exchanged, so is what they are given."""
    policy, params = policy_of("recurrent")
    before, now = observations(3, 2), observations(3, 1, seed=5)
    rows, shared = split(now)
    alike = jnp.concatenate([jnp.repeat(rows[:, :1], 3, 1).reshape(1, -1), shared], -1)
    order = np.array([2, 0, 1])
    first, second = (
        played(policy, params, jnp.concatenate([past, alike]))[0][-1]
        for past in (before, permuted(policy, before, order))
    )
    assert float(jnp.abs(first[:3] - first[order]).min()) > 1e-3
    np.testing.assert_allclose(second[:3], first[order], atol=1e-6)
    unmoved = played(*policy_of("feed-forward"), alike)[0][-1]
    np.testing.assert_allclose(unmoved[:3], unmoved[0], atol=1e-6)


def test_scales_of_observations_are_those_of_all_agents_together():
    network, rng = AgentSet(3), np.random.default_rng(0)
    x = rng.normal(size=(40, 3 * 2 + N_SHARED)) * rng.uniform(0.5, 3.0, 3 * 2 + N_SHARED) + rng.normal(size=12)
    pooled = network.pooled(Moments.none((12,)).seen(jnp.float32(x[:15])).seen(jnp.float32(x[15:])))
    by_feature = x[:, :6].reshape(-1, 2)
    np.testing.assert_allclose(pooled.mean, [*np.tile(by_feature.mean(0), 3), *x[:, 6:].mean(0)], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(pooled.variance, [*np.tile(by_feature.var(0), 3), *x[:, 6:].var(0)], rtol=1e-4)


@functools.cache
def trained(network, chunks, **settings):
    config = PPOConfig(**(QUICK | settings), network=network, over_agents=("agent",), learning_rate=3e-3)
    learner = PPO(Allocation(), config)
    runner, metrics = jax.jit(lambda key: train(learner, key, WHOLE, chunks))(jax.random.key(0))
    return learner, runner, metrics


def error(policy, params, n_agents, rows=slice(None)):
    """Mean squared distance from what is wanted, of fresh observations of any number of agents."""
    env = Allocation(n_agents)
    obs = jax.vmap(lambda key: env.reset_env(key, WHOLE)[0])(jax.random.split(jax.random.key(9), 500))
    action, _ = policy.apply(params, obs, (), jax.random.key(0), True)
    return float(jnp.mean((action - env.wanted(obs))[:, rows] ** 2))


@pytest.mark.nightly
def test_what_was_learned_with_three_agents_holds_for_ten():
    """Doing nothing about tilts costs their variance, (1 - 1 / A) / 12."""
    learner, runner, metrics = trained("mlp", 60, normalise_observations=True)
    policy, params = learner.policy(WHOLE), learner.policy_params(runner)
    assert float(metrics["diverged"].max()) == 0.0
    assert error(policy, params, 3) < 0.004
    ten, same = resized(policy, params, 10)
    assert error(ten, same, 10, slice(0, 10)) < 0.1 * (1 - 1 / 10) / 12
    for one, learned, n_agents in ((policy, params, 3), (ten, same, 10)):
        env = Allocation(n_agents)
        obs = jax.vmap(lambda key, env=env: env.reset_env(key, WHOLE)[0])(jax.random.split(jax.random.key(3), 5))
        assert_alike(one, learned, obs)


@pytest.mark.nightly
def test_a_recurrent_policy_still_treats_agents_alike_after_it_has_learned():
    learner, runner, _ = trained("gru", 4, n_envs=8, n_steps=8, normalise_observations=True)
    policy, params = learner.policy(WHOLE), learner.policy_params(runner)
    fresh = policy.init(jax.random.key(0), Allocation().observation_space(WHOLE).shape[0])
    assert float(jnp.abs(params.network["each"].kernel - fresh.network["each"].kernel).max()) > 1e-3
    obs = jax.random.normal(jax.random.key(3), (5, 12))
    assert_alike(policy, params, obs)
    assert_alike(*resized(policy, params, 10), jax.random.normal(jax.random.key(3), (5, 26)))


@pytest.mark.nightly
def test_the_critic_too_does_not_care_for_the_order_or_the_number_of_agents():
    learner, runner, _ = trained("gru", 4, n_envs=8, n_steps=8, normalise_observations=True)
    network, critic = learner.policy(WHOLE).network, runner.params["agent"]["critic"]
    obs = jax.random.normal(jax.random.key(3), (12,))
    value, _ = network.apply(critic, obs, network.init_carry())
    rows, shared = obs[:6].reshape(3, 2), obs[6:]
    other, _ = network.apply(critic, jnp.concatenate([rows[::-1].reshape(-1), shared]), network.init_carry())
    np.testing.assert_allclose(other, value, atol=1e-6)
    ten = dataclasses.replace(network, n_agents=10)
    many = jnp.concatenate([jax.random.normal(jax.random.key(4), (20,)), shared])
    assert jnp.isfinite(ten.apply(critic, many, ten.init_carry())[0]).all()


def desk(network):
    separate = ("trader", "meta")
    config = PPOConfig(n_envs=4, n_steps=8, hidden=(8,), network=network, over_agents=("meta",), separate=separate)
    return PPO(Desk(), config)


@pytest.mark.parametrize("network", ["mlp", "gru"])
def test_one_role_may_be_over_agents_beside_others_that_are_not(network):
    learner = desk(network)
    policies = learner.policy(WHOLE)
    assert policies["meta"].network == AgentSet(2, (8,), recurrent=network == "gru")
    assert policies["trader"].network == learner.config.body
    runner = jax.eval_shape(learner.init, jax.random.key(0), WHOLE)
    after, _ = jax.eval_shape(learner.update, runner, WHOLE)
    chex.assert_trees_all_equal_shapes_and_dtypes(runner, after)
    chex.assert_tree_shape_prefix(learner.policy_params(runner)["trader"].network, (2,))
    chex.assert_tree_shape_prefix(learner.policy_params(runner)["meta"].network, (1,))


@pytest.mark.nightly
@pytest.mark.parametrize("network", ["mlp", "gru"])
def test_roles_over_agents_and_others_learn_in_one_program(network):
    learner = desk(network)
    runner, metrics = jax.jit(lambda key: train(learner, key, WHOLE, 1))(jax.random.key(0))
    assert float(metrics["diverged"].max()) == 0.0
    learned = learner.policy_params(runner)
    head = learned["trader"].network["head"] if network == "gru" else learned["trader"].network[-1]
    for bias in (head.bias, learned["meta"].network["each"].bias):
        assert float(jnp.abs(bias).min()) > 1e-5, "a bias that began at zero learned"


def test_every_key_of_a_policy_over_agents_acts():
    def network(**settings):
        return PPO(Allocation(), PPOConfig(over_agents=("agent",), **settings)).policy(WHOLE).network

    assert network() == AgentSet(3, (64, 64), heads=2, recurrent=False, exposure=0.95)
    assert network(hidden=(8,)).hidden == (8,)
    assert network(heads=3).heads == 3
    assert network(network="gru").recurrent
    assert network(exposure=0.4).exposure == 0.4
    sizes = [
        sum(x.size for x in jax.tree.leaves(jax.eval_shape(lambda k, n=n: n.init(k, 12, 8, 1.0), jax.random.key(0))))
        for n in (network(), network(heads=3), network(hidden=(8,)), network(network="gru"))
    ]
    assert len(set(sizes)) == 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"exposure": 1.0}, "exposure must be above 0 and below 1"),
        ({"exposure": 0.5, "over_agents": ()}, "exposure 0.5 is for roles named in over_agents"),
        ({"hidden": ()}, "hidden must have a width"),
    ],
)
def test_settings_that_make_no_policy_over_agents_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        PPOConfig(**({"over_agents": ("agent",)} | settings))


def test_what_is_not_an_allocation_is_refused():
    with pytest.raises(InputError, match=r"over_agents names \['meta'\], and the roles are \['agent'\]"):
        PPO(Allocation(), PPOConfig(over_agents=("meta",))).policy(WHOLE)
    with pytest.raises(InputError, match="not a tilt for each agent and an exposure"):
        PPO(Task(), PPOConfig(over_agents=("agent",))).policy(WHOLE)
    with pytest.raises(InputError, match="an observation of 14 entries is not 3 equal parts"):
        AgentSet(3).init(jax.random.key(0), 14, 8, 1.0)
    with pytest.raises(InputError, match="only a policy over agents"):
        resized(TanhGaussianPolicy(4), None, 5)
