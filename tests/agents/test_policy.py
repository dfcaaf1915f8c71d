import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marljax.agents.networks import MLP, orthogonal
from marljax.agents.policy import TanhGaussianPolicy
from marljax.agents.ppo import PPO
from marljax.agents.ppo_config import PPOConfig
from marljax.agents.sac import SAC, SACConfig
from tests.reference.learning import gaussian
from tests.reference.tasks import TARGET, Task

POLICY = TanhGaussianPolicy(2, MLP((16, 16)))
PARAMS = POLICY.init(jax.random.key(0), 3)


def test_hidden_kernels_are_orthogonal_and_biases_zero():
    kernel = PARAMS.network[1].kernel
    np.testing.assert_allclose(kernel.T @ kernel, 2.0 * np.eye(16), atol=1e-5)
    assert all((layer.bias == 0).all() for layer in PARAMS.network)


def test_fresh_actions_centre_on_zero_and_stay_within_bounds():
    obs = jax.random.normal(jax.random.key(1), (4096, 3)) * 10
    action, carry = POLICY.apply(PARAMS, obs, POLICY.init_carry(), jax.random.key(2), False)
    assert carry == ()
    assert jnp.abs(action).max() <= 1.0
    np.testing.assert_allclose(action.mean(0), 0.0, atol=0.05)
    np.testing.assert_allclose(action.std(0), 0.33, atol=0.05)


def test_distribution_is_that_of_the_oracle():
    obs = np.array([0.3, -2.0, 1.0])
    params = jax.tree.map(lambda x: x + 0.3, PARAMS)
    mean, log_std = gaussian(params, obs)
    ours = POLICY.distribution(params, jnp.float32(obs))
    np.testing.assert_allclose(ours.mean, mean, rtol=1e-4)
    np.testing.assert_allclose(ours.log_std, log_std, rtol=1e-4)


def test_deterministic_action_ignores_the_key_and_may_be_traced():
    apply = jax.jit(lambda key, deterministic: POLICY.apply(PARAMS, jnp.ones(3), (), key, deterministic)[0])
    keys = jax.random.split(jax.random.key(0))
    np.testing.assert_array_equal(apply(keys[0], True), apply(keys[1], True))
    assert (apply(keys[0], False) != apply(keys[1], False)).any()


def test_policies_of_both_algorithms_stack_and_run_under_one_vmap():
    ppo, sac = PPO(Task(), PPOConfig()), SAC(Task(), SACConfig())
    policy = ppo.policy(TARGET)
    assert policy == sac.policy(TARGET)
    runners = [jax.eval_shape(learner.init, jax.random.key(0), TARGET) for learner in (ppo, sac)]
    shapes = [learner.policy_params(runner) for learner, runner in zip((ppo, sac), runners, strict=True)]
    chex.assert_trees_all_equal_shapes_and_dtypes(
        *shapes, jax.eval_shape(lambda key: policy.init(key, 3), jax.random.key(0))
    )

    params = [jax.tree.map(lambda x, i=i: x + 0.1 * i, policy.init(jax.random.key(0), 3)) for i in range(2)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *params)
    obs, keys = jnp.ones((2, 3)), jax.random.split(jax.random.key(0))
    together, _ = jax.vmap(lambda p, o, k: policy.apply(p, o, (), k, False))(stacked, obs, keys)
    for i in range(2):
        alone, _ = policy.apply(params[i], obs[i], (), keys[i], False)
        np.testing.assert_allclose(together[i], alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(64, 64), (19, 64), (64, 2), (1, 1)])
def test_kernels_start_orthogonal_whatever_the_draw(shape):
    matrices = jax.vmap(lambda key: orthogonal(key, *shape))(jax.random.split(jax.random.key(0), 50))
    gram = jnp.einsum("nij,nik->njk", matrices, matrices)
    if shape[0] < shape[1]:
        gram = jnp.einsum("nij,nkj->nik", matrices, matrices)
    np.testing.assert_allclose(gram, np.broadcast_to(np.eye(min(shape)), gram.shape), atol=1e-4)
    assert float(jnp.abs(matrices.mean(axis=0)).max()) < (1.0 if shape == (1, 1) else 0.5)
