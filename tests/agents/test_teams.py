"""Many agents in one learner: what they share, what they do not, what they can remember and look at."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marljax.agents.learner import jit_update, train
from marljax.agents.policy import policy_for
from marljax.agents.ppo import PPO
from marljax.agents.ppo_config import PPOConfig
from marljax.envs.environment import Box, Discrete
from tests.reference.tasks import ALIKE, OPPOSITE, TARGET, Matching, Recall, Task

QUICK = {
    "n_envs": 32,
    "n_steps": 16,
    "hidden": (32,),
    "learning_rate": 3e-3,
    "discount": 0.5,
    "entropy_coefficient": 0.0,
}


@functools.cache
def returns(world, chunks, market="alike", **settings):
    """Metrics float[chunks] of one run."""
    env = {"matching": Matching(), "recall": Recall()}[world]
    params = {"alike": ALIKE, "opposite": OPPOSITE}[market]
    learner = PPO(env, PPOConfig(**(QUICK | settings)))
    _, metrics = jax.jit(lambda key: train(learner, key, params, chunks))(jax.random.key(0))
    return metrics


@pytest.mark.parametrize("critic", [pytest.param("own", marks=pytest.mark.nightly), "shared"])
def test_roles_of_different_sizes_and_kinds_of_action_learn_together(critic):
    """An episode is four steps: a picker can earn four, a mover loses 4 * 0.64 / 3 by doing nothing."""
    metrics = returns("matching", 80, critic=critic)
    assert float(metrics["picker.episode_return"][-1]) > 3.6
    assert float(metrics["mover.episode_return"][-1]) > -0.15
    assert float(metrics["mover.episode_return"][0]) < -0.8


@pytest.mark.nightly
def test_agents_that_must_differ_need_parameters_of_their_own():
    """Both movers see a number and nothing of who they are; one is to do the opposite of the other."""
    together, apart = (returns("matching", 80, "opposite", separate=s) for s in ((), ("mover",)))
    assert float(together["mover.episode_return"][-1]) < -0.7, "as bad as doing nothing"
    assert float(apart["mover.episode_return"][-1]) > -0.15


def test_agents_with_parameters_of_their_own_learn_as_if_alone():
    """One agent's rewards are the other's no business: the parameters it ends with are the same bits."""

    def ends(market):
        learner = PPO(Matching(), PPOConfig(n_envs=4, n_steps=8, hidden=(8,), separate=("mover",)))
        runner, _ = jax.jit(learner.update)(jax.jit(learner.init)(jax.random.key(0), ALIKE), market)
        return learner.policy_params(runner)["mover"]

    first, second = (
        jax.tree.map(lambda alike, opposite, i=i: np.abs(alike[i] - opposite[i]).max(), ends(ALIKE), ends(OPPOSITE))
        for i in (0, 1)
    )
    assert max(jax.tree.leaves(first)) == 0.0
    assert max(jax.tree.leaves(second)) > 1e-4


@pytest.mark.parametrize("network", ["mlp", "gru"])
def test_memory_does_not_grow_with_training(network):
    learner = PPO(Matching(), PPOConfig(n_envs=4, n_steps=8, hidden=(8,), network=network))
    update, runner, held = jit_update(learner), jax.jit(learner.init)(jax.random.key(0), ALIKE), []
    for _ in range(4):
        runner, _ = update(runner, ALIKE)
        held.append(sum(x.nbytes for x in jax.live_arrays()))
    assert held[1] == held[2] == held[3]


@pytest.mark.nightly
def test_only_a_memory_solves_what_was_shown_before():
    settings = {"n_steps": 12, "discount": 1.0, "n_minibatches": 4}
    without = returns("recall", 60, **settings)["episode_return"][-1]
    with_memory = returns("recall", 60, **settings, network="gru")["episode_return"][-1]
    assert abs(float(without)) < 0.3
    assert float(with_memory) > 0.9


def test_a_policy_with_memory_is_the_same_outside_the_learner():
    learner = PPO(Recall(), PPOConfig(n_envs=4, n_steps=6, hidden=(8,), network="gru"))
    runner = jax.jit(learner.init)(jax.random.key(0), ALIKE)
    policy, params, env = learner.policy(ALIKE), learner.policy_params(runner), Recall()
    moved = dataclasses.replace(params, network=jax.tree.map(lambda x: x + 0.5, params.network))
    obs, state = env.reset(jax.random.key(1), ALIKE)
    outputs, carry = [], policy.init_carry()
    for _ in range(3):
        distribution, _ = policy.forward(moved, obs, carry)
        outputs.append(distribution.logits)
        action, carry = policy.apply(moved, obs, carry, jax.random.key(2), True)
        assert int(action) == int(jnp.argmax(distribution.logits))
        obs, state, *_ = env.step_env(jax.random.key(3), state, action, ALIKE)
    assert np.abs(outputs[1] - policy.forward(moved, obs, policy.init_carry())[0].logits).max() > 1e-3


@dataclasses.dataclass(frozen=True)
class Ranking(Task):
    """Each of P products shows a number; wanted is 0.5 for the largest and -0.5 for the others."""

    n: int = 4

    def action_space(self, params):
        return Box(-1.0, 1.0, (self.n,))

    def step_env(self, key, state, action, params):
        obs, elapsed = state
        wanted = jnp.where(obs == obs.max(), 0.5, -0.5)
        reward = -((action - wanted) ** 2).sum()
        obs, (_, _) = self.reset_env(key, params)
        return obs, (obs, elapsed + 1), reward, jnp.bool(False), elapsed + 1 >= self.episode_steps, {}


@pytest.mark.nightly
def test_attention_decides_on_each_product_having_seen_all():
    settings = {"network": "attention", "hidden": (16,), "tokens": 4, "heads": 2}
    learner = PPO(Ranking(), PPOConfig(**(QUICK | settings)))
    _, metrics = jax.jit(lambda key: train(learner, key, TARGET, 120))(jax.random.key(0))
    # Blind to the others, the best is a threshold per product; blind to everything -3/4 a step, four steps.
    assert float(metrics["episode_return"][0]) < -2.7
    assert float(metrics["episode_return"][-1]) > -1.0


def test_what_attention_says_of_a_product_moves_with_it():
    from marljax.agents.attention import Attention

    network = Attention((16,), tokens=3, heads=2)
    params = network.init(jax.random.key(0), 6, 6, 1.0)
    params = params | {"which": jnp.zeros_like(params["which"])}
    x = jax.random.normal(jax.random.key(1), (5, 3, 2))
    order = jnp.array([2, 0, 1])
    y, moved = (network.apply(params, v.reshape(5, 6), ())[0].reshape(5, 2, 3) for v in (x, x[:, order]))
    np.testing.assert_allclose(moved, y[:, :, order], atol=1e-5)
    assert (
        np.abs(np.asarray(y - network.apply(params, (x.at[:, 0].add(1.0)).reshape(5, 6), ())[0].reshape(5, 2, 3)))[
            :, :, 1:
        ].min()
        > 1e-5
    ), "what happens to one product reaches the others"


def test_an_observation_that_is_not_whole_products_is_refused():
    learner = PPO(Task(), PPOConfig(network="attention", hidden=(8,), tokens=2))
    with pytest.raises(ValueError, match="an observation of 3 entries is not 2 equal parts"):
        learner.init(jax.random.key(0), TARGET)
    with pytest.raises(ValueError, match="that 3 heads divide"):
        PPO(Task(), PPOConfig(network="attention", hidden=(8,), heads=3)).init(jax.random.key(0), TARGET)


def test_update_of_several_roles_is_traced_once_and_resumes_bit_for_bit():
    learner = PPO(Matching(), PPOConfig(n_envs=4, n_steps=8, hidden=(8,), network="gru", separate=("mover",)))
    update = jax.jit(chex.assert_max_traces(learner.update, n=1))
    runner = jax.jit(learner.init)(jax.random.key(0), ALIKE)
    for _ in range(2):
        runner, metrics = update(runner, ALIKE)
    saved = jax.tree.map(lambda x: x.copy(), runner)
    ends = [update(r, ALIKE)[0] for r in (runner, saved)]
    jax.tree.map(np.testing.assert_array_equal, *(learner.policy_params(end) for end in ends))
    jax.tree.map(np.testing.assert_array_equal, *(end.worlds.obs for end in ends))
    assert all(m.shape == () and m.dtype == jnp.float32 for m in metrics.values())


@dataclasses.dataclass(frozen=True)
class Uneven(Task):
    """The same task seen through strange units, its reward in others."""

    def reset_env(self, key, params):
        obs, state = Task().reset_env(key, params)
        return self._strange(obs), state

    def step_env(self, key, state, action, params):
        obs, state, reward, *ends = Task().step_env(key, state, action, params)
        return self._strange(obs), state, 1e4 * reward, *ends

    def _strange(self, obs):
        return obs * jnp.array([1e-3, 1.0, 1e3]) + jnp.array([0.0, 50.0, 2000.0])


@pytest.mark.nightly
def test_normalised_observations_and_returns_make_units_irrelevant():
    def ends(**settings):
        learner = PPO(Uneven(), PPOConfig(**(QUICK | settings)))
        runner, metrics = jax.jit(lambda key: train(learner, key, TARGET, 80))(jax.random.key(0))
        return learner, runner, float(metrics["reward"][-1]) / 1e4

    doing_nothing = -float((TARGET.weights**2).sum()) / 3
    learner, runner, normalised = ends(normalise_observations=True, normalise_returns=True)
    assert normalised > 0.35 * doing_nothing
    assert ends()[2] < 0.8 * doing_nothing
    # Moments are those of a uniform variable in these units, and the policy carries them along.
    scaler = learner.policy_params(runner).scaler
    np.testing.assert_allclose(scaler.mean, [0.0, 50.0, 2000.0], rtol=0.01, atol=1e-4)
    np.testing.assert_allclose(scaler.std, np.array([1e-3, 1.0, 1e3]) / 3**0.5, rtol=0.02)


def test_returns_that_never_varied_do_not_scale_rewards():
    learner = PPO(Task(), PPOConfig(n_envs=2, n_steps=4, hidden=(4,), normalise_returns=True))
    market = dataclasses.replace(TARGET, penalty=jnp.float32(0.0))
    runner, metrics = jax.jit(learner.update)(jax.jit(learner.init)(jax.random.key(0), market), market)
    paid = dataclasses.replace(market, income=jnp.float32(3.0))
    _, metrics = jax.jit(learner.update)(runner, paid)
    assert float(metrics["value_loss"]) < 1e3
    assert float(metrics["diverged"]) == 0.0


def test_attention_whose_products_cannot_share_out_the_actions_reads_their_mean():
    network = PPOConfig(network="attention", hidden=(8,), tokens=2).body
    one, two = (policy_for(Box(-1.0, 1.0, (n,)), network).init(jax.random.key(0), 4).network for n in (1, 2))
    assert "pooled" in one
    assert one["pooled"].bias.shape == (2,)
    assert "each" in two


def test_a_recurrent_learner_can_be_donated_without_compiling_its_start():
    learner = PPO(Recall(), PPOConfig(n_envs=2, n_steps=4, n_minibatches=1, hidden=(4,), network="gru"))
    runner, _ = jit_update(learner)(learner.init(jax.random.key(0), ALIKE), ALIKE)
    assert int(runner.chunks) == 1


def test_running_moments_are_those_of_everything_seen():
    from marljax.agents.normalisation import Moments, Scaler

    rng, moments, seen = np.random.default_rng(0), Moments.none((2,)), []
    for n in (5, 100, 17):
        x = rng.normal(size=(n, 2)) * [1.0, 30.0] + [100.0, -5.0]
        seen.append(x)
        moments = moments.seen(jnp.float32(x))
    everything = np.concatenate(seen)
    np.testing.assert_allclose(moments.mean, everything.mean(0), rtol=1e-5)
    np.testing.assert_allclose(moments.variance, everything.var(0), rtol=1e-3)
    constant = Scaler.of(Moments.none((1,)).seen(jnp.full((8, 1), 3.0)))
    assert float(constant(jnp.array([3.0]))[0]) == 0.0
    assert float(constant(jnp.array([1e9]))[0]) == 10.0


def test_masked_choices_are_never_made_and_the_rest_is_as_likely_as_said():
    from marljax.agents.distributions import Categorical

    logits, allowed = jnp.array([0.0, 1.0, 2.0, 3.0]), jnp.array([True, False, True, False])
    distribution = Categorical.of(logits, allowed)
    noise = jnp.concatenate([jnp.linspace(0.0, 0.999999, 20_001), jnp.array([1.0])])
    drawn = np.bincount(jax.vmap(lambda u: Categorical.of(logits, allowed).choose(u))(noise), minlength=4) / len(noise)
    weights = np.exp([0.0, 2.0])
    np.testing.assert_allclose(drawn, [weights[0] / weights.sum(), 0, weights[1] / weights.sum(), 0], atol=1e-3)
    assert int(distribution.best()) == 2
    chance = weights / weights.sum()
    assert float(distribution.entropy(noise[0])) == pytest.approx(-(chance * np.log(chance)).sum(), rel=1e-5)
    gradient = jax.grad(lambda x: Categorical.of(x, allowed).log_density(jnp.int32(2)))(logits)
    assert gradient[1] == gradient[3] == 0.0
    everything = Categorical.of(logits, jnp.zeros(4, bool))
    assert float(jnp.exp(everything.logits).sum()) == pytest.approx(1.0)


def test_a_policy_obeys_the_mask_in_its_observation():
    from marljax.agents.networks import MLP

    policy = policy_for(Discrete(3, masked=True), MLP((8,)))
    params = policy.init(jax.random.key(0), 5)
    keys = jax.random.split(jax.random.key(1), 200)
    obs = jnp.array([0.3, -1.0, 0.0, 1.0, 1.0])
    drawn = jax.vmap(lambda k: policy.apply(params, obs, (), k, False)[0])(keys)
    assert set(np.unique(drawn)) == {1, 2}
