import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marljax.agents.learner import Transition
from marljax.agents.policy import TanhGaussianPolicy
from marljax.agents.ppo import PPO, Batch, PPOConfig, loss, prepare
from marljax.data.schema import InputError
from tests.reference import learning
from tests.reference.tasks import TARGET, Task

POLICY = TanhGaussianPolicy(2, hidden=(8,))
CONFIG = PPOConfig(value_clip=0.3, entropy_coefficient=0.05)
LOSS = jax.jit(lambda params, batch: loss(params, POLICY, batch, CONFIG))


def parameters(seed):
    keys = jax.random.split(jax.random.key(seed))
    perturbed = jax.tree.map(
        lambda x: x + 0.2 * jax.random.normal(keys[1], x.shape),
        {"policy": POLICY.init(keys[0], 3), "critic": TanhGaussianPolicy(1, (8,)).init(keys[0], 3)},
    )
    return perturbed | {
        "critic": (*perturbed["critic"][:-1], jax.tree.map(lambda x: x[..., :1], perturbed["critic"][-1]))
    }


def minibatch(params, n=32, seed=0):
    keys = jax.random.split(jax.random.key(seed), 6)
    obs, noise = jax.random.normal(keys[0], (n, 3)), jax.random.normal(keys[1], (n, 2))
    old = POLICY.distribution(params["policy"], obs)
    pre_tanh = old.pre_tanh(noise)
    value, advantage, target = jax.random.normal(keys[2], (3, n))
    return Batch(obs, pre_tanh, noise, old.normal.log_prob(pre_tanh), value, advantage, target)


def test_loss_is_that_of_the_loop():
    batch, params = minibatch(parameters(0)), parameters(1)
    total, parts = LOSS(params, batch)
    expected = learning.ppo_loss(
        params["policy"], params["critic"], {k: np.asarray(v) for k, v in batch._asdict().items()}, 0.2, 0.3, 0.5, 0.05
    )
    assert float(parts["clip_fraction"]) > 0.2, "the case should reach the clip"
    assert float(total) == pytest.approx(expected, rel=1e-4)


def test_targets_bootstrap_from_the_observation_before_the_reset():
    rng, params = np.random.default_rng(0), parameters(0)
    shape = (12, 2)
    obs, final_obs = rng.normal(size=(2, *shape, 3))
    reward, pre_tanh = rng.normal(size=shape), rng.normal(size=(*shape, 2))
    truncated = rng.random(shape) < 0.3
    terminated = ~truncated & (rng.random(shape) < 0.2)
    floats = map(jnp.float32, (obs, pre_tanh, reward, final_obs))
    steps = Transition(*floats, jnp.asarray(terminated), jnp.asarray(truncated), jnp.zeros(shape))
    batch = prepare(params, POLICY, steps, jnp.float32(pre_tanh), CONFIG.replace(reward_scale=3.0))
    for n in range(2):
        value, next_value = (
            np.array([learning.mlp(params["critic"], x)[0] for x in seen[:, n]]) for seen in (obs, final_obs)
        )
        advantage = learning.advantages(
            3.0 * reward[:, n], value, next_value, terminated[:, n], truncated[:, n], 0.99, 0.95
        )
        np.testing.assert_allclose(batch.advantage[:, n], advantage, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(batch.target[:, n], advantage + value, rtol=1e-3, atol=1e-4)


def test_gradient_is_the_slope_of_the_loss():
    batch, params = minibatch(parameters(0)), parameters(1)
    grads = jax.grad(lambda p: LOSS(p, batch)[0])(params)
    for seed in range(3):
        leaves, form = jax.tree.flatten(params)
        keys = jax.random.split(jax.random.key(seed), len(leaves))
        step = form.unflatten([1e-3 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)])
        ahead, behind = (LOSS(jax.tree.map(lambda p, s, d=d: p + d * s, params, step), batch)[0] for d in (1, -1))
        slope = sum(float((g * s).sum()) for g, s in zip(jax.tree.leaves(grads), jax.tree.leaves(step), strict=True))
        assert float(ahead - behind) / 2 == pytest.approx(slope, rel=0.02, abs=2e-6)


@functools.cache
def one_gradient_step_per_chunk():
    """(policy parameters, metrics) after each of four chunks whose learning rate halves, then ends."""
    settings = {"n_envs": 16, "n_steps": 8, "n_minibatches": 1, "n_epochs": 1, "hidden": (8,), "ratio_clip": 1e-5}
    learner = PPO(Task(), PPOConfig(**settings, learning_rate_decay=0.5))
    runner, update, seen = jax.jit(learner.init)(jax.random.key(0), TARGET), jax.jit(learner.update), []
    for _ in range(4):
        runner, metrics = update(runner, TARGET)
        seen.append((runner.params, metrics))
    return learner.config, seen


def test_ratio_is_one_at_an_unchanged_policy():
    """In the compiled update itself: the first gradient step on a rollout sees the policy that made it."""
    for _, metrics in one_gradient_step_per_chunk()[1]:
        assert float(metrics["clip_fraction"]) == 0.0
        assert float(metrics["approx_kl"]) == pytest.approx(0.0, abs=1e-11)


def test_learning_rate_decays_linearly_to_zero():
    config, seen = one_gradient_step_per_chunk()
    rates = [float(metrics["learning_rate"]) / config.learning_rate for _, metrics in seen]
    assert rates == pytest.approx([1.0, 0.5, 0.0, 0.0])
    jax.tree.map(np.testing.assert_array_equal, seen[1][0], seen[3][0])


def test_minibatches_must_divide_the_rollout():
    with pytest.raises(ValueError, match="does not divide"):
        PPOConfig(n_steps=10, n_minibatches=4)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n_envs", 0),
        ("n_steps", 0),
        ("n_epochs", 0),
        ("n_minibatches", 0),
        ("hidden", (8, 0)),
        ("learning_rate", 0.0),
        ("learning_rate", float("inf")),
        ("discount", 0.0),
        ("discount", 1.01),
        ("gae_lambda", -0.1),
        ("entropy_coefficient", -1.0),
    ],
)
def test_an_impossible_setting_is_refused_by_name(name, value):
    with pytest.raises(InputError, match=f"{name} must be .*, got {re.escape(repr(value))}"):
        PPOConfig(**{name: value})


def test_a_sweep_may_carry_any_number():
    swept = jax.vmap(lambda rate: PPOConfig(learning_rate=rate))(jnp.array([-1.0, 1.0]))
    assert swept.learning_rate.tolist() == [-1.0, 1.0]
