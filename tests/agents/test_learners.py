"""What holds for PPO and SAC alike."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marljax.agents.learner import jit_update, train
from marljax.agents.networks import apply_mlp
from marljax.agents.ppo import PPO
from marljax.agents.ppo_config import PPOConfig
from marljax.agents.rollout import remember_returns, reset_worlds, step_worlds
from marljax.agents.sac import SAC, SACConfig, action_values
from tests.reference.tasks import BROKEN, MARTINGALE, MORTAL, PERPETUITY, TARGET, Task

SMALL = {
    "ppo": PPO(Task(), PPOConfig(n_envs=4, n_steps=8, n_minibatches=2, hidden=(8,))),
    "sac": SAC(
        Task(),
        SACConfig(
            n_envs=4,
            n_iterations=4,
            warmup_steps=4,
            capacity=64,
            batch_size=8,
            hidden=(8,),
            normalise_observations=False,
        ),
    ),
}
both = pytest.mark.parametrize("algorithm", ["ppo", "sac"])

DISCOUNT = 0.8
MARKETS = {"target": TARGET, "martingale": MARTINGALE, "perpetuity": PERPETUITY, "mortal": MORTAL}


def stack(trees):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def pick(tree, *index):
    return jax.tree.map(lambda x: x[index], tree)


def unwrap(tree):
    """Keys as their numbers, everything on the host."""
    return jax.tree.map(
        lambda x: np.asarray(jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x), tree
    )


@functools.cache
def compiled(algorithm):
    """(init, update) of the small learner. All tests of this file together may trace its update once."""
    learner = SMALL[algorithm]
    return jax.jit(learner.init), jax.jit(chex.assert_max_traces(learner.update, n=1))


@functools.cache
def trained(algorithm):
    """One run per market, side by side: (learner, {market: Runner}, {market: metrics})."""
    shared = {"hidden": (32, 32), "learning_rate": 3e-3, "discount": DISCOUNT}
    if algorithm == "ppo":
        config = PPOConfig(n_envs=64, n_steps=16, gae_lambda=0.0, entropy_coefficient=0.0, **shared)
        learner, chunks = PPO(Task(), config), 50
    else:
        config = SACConfig(n_envs=16, n_iterations=128, batch_size=128, target_rate=0.02, **shared)
        learner, chunks = SAC(Task(), config), 16
    keys = jax.random.split(jax.random.key(0), len(MARKETS))
    run = jax.jit(jax.vmap(lambda k, m: train(learner, k, m, chunks)))
    runners, metrics = run(keys, stack(MARKETS.values()))
    return learner, *({name: pick(tree, i) for i, name in enumerate(MARKETS)} for tree in (runners, metrics))


def median_action(learner, runner, market, n=2000):
    obs = jax.vmap(lambda k: learner.env.reset(k, market)[0])(jax.random.split(jax.random.key(9), n))
    action, _ = learner.policy(market).apply(learner.policy_params(runner), obs, (), jax.random.key(0), True)
    return obs, action[:, 0]


@both
def test_learns_the_linear_target_to_nine_tenths_of_the_optimum(algorithm):
    learner, runners, _ = trained(algorithm)
    obs, action = median_action(learner, runners["target"], TARGET)
    best = obs @ TARGET.weights
    missed = ((action - best) ** 2).mean() / (best**2).mean()
    assert float(missed) < 0.1, "part of the reward between doing nothing and the optimum"


@both
def test_stops_acting_where_action_costs_and_gains_nothing(algorithm):
    learner, runners, metrics = trained(algorithm)
    _, action = median_action(learner, runners["martingale"], MARTINGALE)
    assert float(jnp.abs(action).mean()) < 0.05
    taken = metrics["martingale"]["absolute_action"]
    assert float(taken[-1]) < 0.5 * float(taken[0])


@both
def test_a_time_limit_is_worth_the_perpetuity_and_a_termination_is_not(algorithm):
    _, runners, _ = trained(algorithm)

    def value(runner):
        obs = jnp.zeros((1, 3))
        if algorithm == "ppo":
            return float(apply_mlp(runner.params["agent"]["critic"], obs)[0, 0])
        return float(action_values(runner.learnt.params["critics"], obs, jnp.zeros((1, 1))).mean())

    assert value(runners["perpetuity"]) == pytest.approx(1 / (1 - DISCOUNT), rel=0.05)
    assert value(runners["mortal"]) == pytest.approx(1 / (1 - DISCOUNT * 3 / 4), rel=0.05)


@both
def test_resuming_from_a_copy_on_the_host_is_bit_exact(algorithm):
    init, update = compiled(algorithm)
    runner, _ = update(init(jax.random.key(0), TARGET), TARGET)
    saved = unwrap(runner)
    is_key = jax.tree.map(lambda x: jnp.issubdtype(x.dtype, jax.dtypes.prng_key), runner)
    resumed = jax.tree.map(
        lambda x, key: jax.random.wrap_key_data(jnp.asarray(x)) if key else jnp.asarray(x), saved, is_key
    )
    for _ in range(2):
        runner, metrics = update(runner, TARGET)
        resumed, again = update(resumed, TARGET)
    jax.tree.map(np.testing.assert_array_equal, unwrap((runner, metrics)), unwrap((resumed, again)))


@both
def test_products_and_seeds_under_vmap_are_the_runs_alone(algorithm):
    learner, (init, update) = SMALL[algorithm], compiled(algorithm)
    markets, n_seeds = [TARGET, MARTINGALE], 3
    keys = jax.random.split(jax.random.key(0), (n_seeds, len(markets)))
    alone = [[init(keys[s, p], market) for p, market in enumerate(markets)] for s in range(n_seeds)]
    start = stack([stack(row) for row in alone])
    together, metrics = jit_update(learner, vmaps=2)(start, stack(markets))
    assert start.worlds.obs.is_deleted(), "donated"
    assert metrics["reward"].shape == (n_seeds, len(markets))
    for s, p in [(0, 0), (2, 1)]:
        runner, one = update(alone[s][p], markets[p])
        chex.assert_trees_all_close(pick(metrics, s, p), one, rtol=1e-3, atol=1e-4)
        ours = pick(learner.policy_params(together), s, p)
        chex.assert_trees_all_close(ours, learner.policy_params(runner), rtol=1e-3, atol=1e-4)


@both
def test_a_float_hyperparameter_may_carry_an_axis(algorithm):
    learner, start = SMALL[algorithm], compiled(algorithm)[0](jax.random.key(0), TARGET)

    @jax.jit
    @jax.vmap
    def learnt(learning_rate):
        swept = learner.replace(config=learner.config.replace(learning_rate=learning_rate))
        return swept.policy_params(swept.update(start, TARGET)[0])

    ends, begin = learnt(jnp.array([0.0, 1e-4, 1e-2])), learner.policy_params(start)
    moved = sum(
        np.abs(end - old).reshape(3, -1).sum(1)
        for end, old in zip(jax.tree.leaves(ends), jax.tree.leaves(begin), strict=True)
    )
    assert moved[0] == 0.0
    assert moved[2] > 10 * moved[1] > 0.0


@both
def test_metrics_are_float_scalars_and_markets_of_one_shape_share_a_program(algorithm):
    init, update = compiled(algorithm)
    runner = init(jax.random.key(0), TARGET)
    for market in MARKETS.values():
        runner, metrics = update(runner, market)
    assert int(runner.chunks) == len(MARKETS)
    assert all(m.shape == () and m.dtype == jnp.float32 and np.isfinite(m) for m in metrics.values())


@both
def test_a_chunk_that_diverges_keeps_the_last_good_parameters(algorithm):
    learner, (init, update) = SMALL[algorithm], compiled(algorithm)
    runner, metrics = update(init(jax.random.key(0), TARGET), TARGET)
    assert float(metrics["diverged"]) == 0.0
    after, metrics = update(runner, BROKEN)
    assert float(metrics["diverged"]) == 1.0
    jax.tree.map(np.testing.assert_array_equal, learner.policy_params(runner), learner.policy_params(after))
    recovered, metrics = update(after, TARGET)
    assert float(metrics["diverged"]) == 0.0
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(unwrap(recovered)))


def test_episode_return_is_the_mean_of_the_episodes_that_ended():
    env, n_envs, market = Task(episode_steps=8), 5, PERPETUITY

    @jax.jit
    def chunk(worlds, key):
        def step(worlds, key):
            return step_worlds(env, jax.random.split(key, n_envs), worlds, jnp.zeros((n_envs, 1)), market)

        return remember_returns(*jax.lax.scan(step, worlds, jax.random.split(key, 4)))

    worlds, seen = reset_worlds(env, jax.random.key(0), n_envs, market), []
    for i in range(4):
        worlds, episodes = chunk(worlds, jax.random.key(i))
        seen.append((float(episodes), float(worlds.last_return)))
    assert seen == [(0.0, 0.0), (5.0, 8.0), (0.0, 8.0), (5.0, 8.0)]


def test_actions_outside_the_unit_box_are_refused():
    class Wide(Task):
        def action_space(self, params):
            return type(super().action_space(params))(-2.0, 2.0, (1,))

    with pytest.raises(ValueError, match="actions must be vectors"):
        PPO(Wide()).init(jax.random.key(0), TARGET)
