import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from marljax.agents.networks import init_mlp
from marljax.agents.policy import TanhGaussianPolicy
from marljax.agents.sac import SAC, Experience, Learnt, SACConfig, gradient_step, loss
from marljax.data.schema import InputError
from tests.reference import learning
from tests.reference.tasks import TARGET, Task

POLICY = TanhGaussianPolicy(2, hidden=(8,))
CONFIG = SACConfig(discount=0.9, reward_scale=2.0, target_rate=0.1)


def critics(seed):
    keys = jax.random.split(jax.random.key(seed))
    return jax.vmap(lambda k: init_mlp(k, (5, 8, 1), final_scale=1.0))(keys)


PARAMS = {
    "policy": jax.tree.map(lambda x: x + 0.1, POLICY.init(jax.random.key(0), 3)),
    "critics": critics(1),
    "log_temperature": jnp.float32(-0.7),
}
TARGETS = critics(2)


def experience(n=16):
    rng = np.random.default_rng(0)
    return Experience(
        obs=jnp.float32(rng.normal(size=(n, 3))),
        action=jnp.float32(rng.uniform(-1, 1, (n, 2))),
        reward=jnp.float32(rng.normal(size=n)),
        next_obs=jnp.float32(rng.normal(size=(n, 3))),
        terminated=jnp.asarray(rng.random(n) < 0.3),
    )


NOISE = jax.random.normal(jax.random.key(3), (2, 16, 2))
LOSS = jax.jit(lambda params: loss(params, TARGETS, POLICY, experience(), NOISE, CONFIG))


def twin(tree, i):
    return jax.tree.map(lambda x: x[i], tree)


def test_critic_loss_is_against_the_targets_of_the_loop():
    batch = {k: np.asarray(v) for k, v in experience()._asdict().items()}
    assert batch["terminated"].any()
    targets = learning.soft_targets(
        PARAMS["policy"], [twin(TARGETS, 0), twin(TARGETS, 1)], batch, np.asarray(NOISE[0]), np.exp(-0.7), 0.9, 2.0
    )
    inputs = np.concatenate([batch["obs"], batch["action"]], -1)
    errors = [
        [learning.mlp(twin(PARAMS["critics"], c), x)[0] - t for x, t in zip(inputs, targets, strict=True)]
        for c in range(2)
    ]
    assert float(LOSS(PARAMS)[1]["critic_loss"]) == pytest.approx(0.5 * np.square(errors).mean(1).sum(), rel=1e-4)


def test_policy_loss_is_that_of_the_loop():
    total = 0.0
    for obs, noise in zip(np.asarray(experience().obs), np.asarray(NOISE[1]), strict=True):
        mean, log_std = learning.gaussian(PARAMS["policy"], obs)
        u = mean + np.exp(log_std) * noise
        value = min(learning.mlp(twin(PARAMS["critics"], c), np.concatenate([obs, np.tanh(u)]))[0] for c in range(2))
        total += (np.exp(-0.7) * learning.squashed_log_prob(mean, log_std, u) - value) / 16
    assert float(LOSS(PARAMS)[1]["policy_loss"]) == pytest.approx(total, rel=1e-4)


@pytest.mark.parametrize(
    ("group", "part"), [("critics", "critic_loss"), ("policy", "policy_loss"), ("log_temperature", "temperature_loss")]
)
def test_each_group_follows_the_slope_of_its_own_loss_only(group, part):
    grads = jax.grad(lambda p: LOSS(p)[0])(PARAMS)[group]
    leaves, form = jax.tree.flatten(PARAMS[group])
    keys = jax.random.split(jax.random.key(5), len(leaves))
    step = form.unflatten([1e-3 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)])

    def at(sign):
        moved = PARAMS | {group: jax.tree.map(lambda p, s: p + sign * s, PARAMS[group], step)}
        parts = LOSS(moved)[1]
        if part == "temperature_loss":
            return float(moved[group]) * (float(parts["entropy"]) + 2.0)
        return float(parts[part])

    slope = sum(float((g * s).sum()) for g, s in zip(jax.tree.leaves(grads), jax.tree.leaves(step), strict=True))
    assert (at(1) - at(-1)) / 2 == pytest.approx(slope, rel=0.02, abs=2e-6)


def test_target_critics_move_a_tenth_of_the_way():
    start = Learnt(PARAMS, jax.tree.map(jnp.zeros_like, TARGETS), optax.flatten(optax.scale_by_adam()).init(PARAMS))
    moved, _ = jax.jit(lambda learnt: gradient_step(learnt, POLICY, experience(), NOISE, CONFIG))(start)
    jax.tree.map(
        lambda target, new: np.testing.assert_allclose(target, 0.1 * new, rtol=1e-5, atol=1e-7),
        moved.target_critics,
        moved.params["critics"],
    )


def test_replay_holds_the_observation_before_the_reset():
    env = Task(episode_steps=1)
    learner = SAC(env, SACConfig(n_envs=2, warmup_steps=8, capacity=16, hidden=(4,)))
    runner = jax.jit(learner.init)(jax.random.key(0), TARGET)
    held = runner.replay.items
    assert int(runner.replay.size) == 16
    assert not held.terminated.any()
    # Every step is the last one, so the next row of the same world starts anew, elsewhere.
    assert (held.next_obs[:-2] != held.obs[2:]).all()


def test_capacity_must_hold_the_warm_up():
    with pytest.raises(ValueError, match="warm-up"):
        SACConfig(n_envs=8, warmup_steps=10, capacity=64)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n_envs", 0),
        ("n_iterations", 0),
        ("updates_per_iteration", 0),
        ("batch_size", 0),
        ("warmup_steps", 0),
        ("learning_rate", -1e-3),
        ("initial_temperature", 0.0),
        ("target_rate", 1.5),
        ("discount", 2.0),
    ],
)
def test_an_impossible_setting_is_refused_by_name(name, value):
    with pytest.raises(InputError, match=f"{name} must be .*, got {value}"):
        SACConfig(**{name: value})
