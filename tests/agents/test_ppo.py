import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marljax.agents.ppo import PPO
from marljax.agents.ppo_config import PPOConfig
from marljax.agents.ppo_loss import along, loss, prepare, take, values
from marljax.data.schema import InputError
from tests.reference import learning
from tests.reference.tasks import ALIKE, TARGET, Matching, Task

SETTINGS = {"n_envs": 4, "n_steps": 8, "n_minibatches": 2, "hidden": (8,), "value_clip": 0.3, "learning_rate": 0.05}
KINDS = {
    "own critics": PPOConfig(**SETTINGS),
    "shared critic": PPOConfig(**SETTINGS, critic="shared"),
    "separate parameters": PPOConfig(**SETTINGS, separate=("mover",)),
    "recurrent": PPOConfig(**SETTINGS, network="gru"),
    "recurrent, shared critic": PPOConfig(**SETTINGS, network="gru", critic="shared"),
}
kinds = pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.nightly) if kind == "recurrent" else kind for kind in KINDS]
)
CONFIG = KINDS["own critics"]


def perturbed(params, seed, size=0.3):
    leaves, form = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    return form.unflatten([x + size * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)])


def networks_perturbed(params, seed, size=0.3):
    """Every network moved, scalings of observations as they were."""
    moved = perturbed(params, seed, size)
    for name, group in params.items():
        if "policy" in group:
            policy = dataclasses.replace(moved[name]["policy"], scaler=group["policy"].scaler)
            moved[name] = moved[name] | {"policy": policy}
    return moved


@functools.cache
def rollout(kind):
    """(learner, agents, runner, rollout, batch) of two roles in the world `Matching`."""
    learner = PPO(Matching(), KINDS[kind])
    runner = jax.jit(learner.init)(jax.random.key(0), ALIKE)
    runner = dataclasses.replace(runner, params=networks_perturbed(runner.params, 1))
    agents = learner.roster(ALIKE)
    worlds, memory, made = jax.jit(lambda r, k: learner._rollout(r, k, agents, ALIKE))(runner, jax.random.key(2))
    # A second one, which begins in the middle of episodes.
    runner = dataclasses.replace(runner, worlds=worlds, memory=memory)
    _, _, made = jax.jit(lambda r, k: learner._rollout(r, k, agents, ALIKE))(runner, jax.random.key(3))
    batch, _ = prepare(runner, agents, made, learner.config)
    return learner, agents, runner, made, batch


def agent_params(params, team, i):
    return params[team.name] if team.shares else jax.tree.map(lambda x: x[i], params[team.name])


def loop_outputs(learner, agents, params, batch):
    """{team: (network outputs [t, n, G, ...], values [t, n, G])} of a batch, agent by agent and step by step."""
    config = learner.config
    recurrent = config.network == "gru"
    found = {}
    n_times, n_worlds = batch.done.shape
    for team in agents.teams:
        obs = np.asarray(batch.obs[team.name], np.float64)
        heads = np.zeros((n_times, n_worlds, team.n_agents, team.policy.n_outputs))
        value = np.zeros((n_times, n_worlds, team.n_agents))
        for n in range(n_worlds):
            for g in range(team.n_agents):
                own = agent_params(params, team, g)
                heads[:, n, g] = learning.along(
                    own["policy"].network,
                    obs[:, n, g],
                    recurrent,
                    batch.memory.policy[team.name],
                    (n, g),
                    batch.done[:, n],
                )
                if config.critic == "own":
                    value[:, n, g] = learning.along(
                        own["critic"], obs[:, n, g], recurrent, batch.memory.critic[team.name], (n, g), batch.done[:, n]
                    )[:, 0]
        found[team.name] = heads, value
    if config.critic == "shared":
        everything = np.concatenate(
            [np.asarray(batch.obs[t.name], np.float64).reshape(n_times, n_worlds, -1) for t in agents.teams], -1
        )
        for n in range(n_worlds):
            y = learning.along(
                params["centre"]["critic"],
                everything[:, n],
                recurrent,
                batch.memory.critic["centre"],
                (n,),
                batch.done[:, n],
            )
            first = 0
            for team in agents.teams:
                found[team.name][1][:, n] = y[:, first : first + team.n_agents]
                first += team.n_agents
    return found


@kinds
def test_policies_and_values_are_those_of_a_loop_over_agents_and_steps(kind):
    learner, agents, runner, _, batch = rollout(kind)
    params = networks_perturbed(runner.params, 5)
    found = loop_outputs(learner, agents, params, batch)
    seen = values(params, agents, batch, learner.config)
    for team in agents.teams:
        heads, value = found[team.name]
        np.testing.assert_allclose(seen[team.name], value, rtol=1e-3, atol=1e-4)
        expected = team.policy.choices(jnp.float32(heads), batch.obs[team.name])
        got = along(team, params, batch.obs, batch.memory, batch.done)
        for ours, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)


@kinds
def test_loss_is_that_of_the_loop(kind):
    learner, agents, runner, _, batch = rollout(kind)
    config, params = learner.config, networks_perturbed(runner.params, 6)
    part = take(batch, jnp.array([3, 1]), config)
    total, parts = jax.jit(lambda p, b: loss(p, agents, b, config, 0.05))(params, part)
    found = loop_outputs(learner, agents, params, part)
    expected = 0.0
    clipped = []
    for team in agents.teams:
        name, (heads, value) = team.name, found[team.name]
        per_agent = [
            learning.ppo_loss(
                heads[:, :, g],
                value[:, :, g],
                {
                    key: np.asarray(getattr(part, key)[name], np.float64)[:, :, g]
                    for key in ("obs", "choice", "noise", "log_density", "value", "advantage", "target")
                },
                n_choices=4 if name == "picker" else 0,
                ratio_clip=config.ratio_clip,
                value_clip=config.value_clip,
                value_coefficient=config.value_coefficient,
                entropy_coefficient=0.05,
            )
            for g in range(team.n_agents)
        ]
        expected += np.mean(per_agent) if team.shares else np.sum(per_agent)
        np.testing.assert_allclose(
            parts[name]["loss"], np.mean(per_agent) if team.shares else per_agent, rtol=2e-4, atol=1e-4
        )
        clipped.append(float(parts[name]["clip_fraction"].mean()))
    assert min(clipped) > 0.1, "the case should reach the clip"
    assert float(total) == pytest.approx(expected, rel=2e-4)


def test_targets_bootstrap_from_the_observation_before_the_reset():
    _, agents, runner, made, _ = rollout("own critics")
    rng, config = np.random.default_rng(0), KINDS["own critics"].replace(reward_scale=3.0)
    shape = made.steps.done.shape
    ends = rng.random(shape) < 0.4
    for team in agents.teams:
        terminated = ends[..., None] & (rng.random((*shape, team.n_agents)) < 0.5)
        steps = made.steps._replace(
            final_obs={name: jnp.float32(rng.normal(size=x.shape)) for name, x in made.steps.final_obs.items()},
            terminated=made.steps.terminated | {team.name: jnp.asarray(terminated)},
            truncated=made.steps.truncated | {team.name: jnp.asarray(ends[..., None] & ~terminated)},
            done=jnp.asarray(ends),
        )
        batch, _ = prepare(runner, agents, made._replace(steps=steps), config)
        critic, name = runner.params[team.name]["critic"], team.name
        for n, g in np.ndindex(shape[1], team.n_agents):
            value, next_value = (
                np.array([learning.mlp(critic, x)[0] for x in np.asarray(seen[name])[:, n, g]])
                for seen in (steps.obs, steps.final_obs)
            )
            advantage = learning.advantages(
                3.0 * np.asarray(steps.reward[name])[:, n, g],
                value,
                next_value,
                terminated[:, n, g],
                (ends[..., None] & ~terminated)[:, n, g],
                0.99,
                0.95,
            )
            np.testing.assert_allclose(batch.advantage[name][:, n, g], advantage, rtol=1e-3, atol=1e-4)
            np.testing.assert_allclose(batch.target[name][:, n, g], advantage + value, rtol=1e-3, atol=1e-4)


def test_no_advantage_crosses_the_end_of_an_episode_of_others():
    """A world that ends by one agent's termination and says nothing of the rest ends for the rest, too."""
    _, agents, runner, made, _ = rollout("own critics")
    done = made.steps.done
    assert bool(done[:-1].any())
    silent = {name: jnp.zeros_like(x) for name, x in made.steps.truncated.items()}
    ended = {name: jnp.broadcast_to(done[..., None], x.shape) for name, x in made.steps.truncated.items()}
    one_ends = made.steps.terminated | {"mover": made.steps.terminated["mover"].at[..., 0].set(done)}
    batches = [
        prepare(runner, agents, made._replace(steps=made.steps._replace(terminated=one_ends, truncated=said)), CONFIG)[
            0
        ]
        for said in (silent, {name: x & ~one_ends[name] for name, x in ended.items()})
    ]
    for name in ("mover", "picker"):
        np.testing.assert_array_equal(batches[0].advantage[name], batches[1].advantage[name])


@kinds
def test_gradient_is_the_slope_of_the_loss(kind):
    learner, agents, runner, _, batch = rollout(kind)
    part, params = take(batch, jnp.array([0, 2]), learner.config), networks_perturbed(runner.params, 7, 0.05)
    of = jax.jit(lambda p: loss(p, agents, part, learner.config, 0.05)[0])
    grads = jax.grad(of)(params)
    for seed in range(3):
        step = networks_perturbed(jax.tree.map(jnp.zeros_like, params), seed, 1e-3)
        ahead, behind = (of(jax.tree.map(lambda p, s, d=d: p + d * s, params, step)) for d in (1, -1))
        slope = sum(float((g * s).sum()) for g, s in zip(jax.tree.leaves(grads), jax.tree.leaves(step), strict=True))
        assert float(ahead - behind) / 2 == pytest.approx(slope, rel=0.03, abs=4e-6)


@kinds
def test_ratio_is_one_at_an_unchanged_policy(kind):
    """In the compiled update itself: the first gradient step on a rollout sees the policy that made it."""
    learner = rollout(kind)[0]
    config = learner.config.replace(n_minibatches=1, n_epochs=1, ratio_clip=1e-5)
    learner = learner.replace(config=config)
    _, metrics = jax.jit(learner.update)(jax.jit(learner.init)(jax.random.key(0), ALIKE), ALIKE)
    for role in ("mover", "picker"):
        assert float(metrics[f"{role}.clip_fraction"]) == 0.0
        assert float(metrics[f"{role}.approx_kl"]) == pytest.approx(0.0, abs=1e-11)


@functools.cache
def decaying():
    """(policy parameters, metrics) after each of four chunks whose learning rate halves, then ends."""
    settings = {"n_envs": 16, "n_steps": 8, "n_minibatches": 1, "n_epochs": 1, "hidden": (8,)}
    learner = PPO(Task(), PPOConfig(**settings, learning_rate_decay=0.5))
    runner, update, seen = jax.jit(learner.init)(jax.random.key(0), TARGET), jax.jit(learner.update), []
    for _ in range(4):
        runner, metrics = update(runner, TARGET)
        seen.append((runner.params, metrics))
    return learner.config, seen


def test_learning_rate_decays_linearly_to_zero():
    config, seen = decaying()
    rates = [float(metrics["learning_rate"]) / config.learning_rate for _, metrics in seen]
    assert rates == pytest.approx([1.0, 0.5, 0.0, 0.0])
    jax.tree.map(np.testing.assert_array_equal, seen[1][0], seen[3][0])


def entropy_after(chunks, **settings):
    learner = PPO(Task(), PPOConfig(n_envs=16, n_steps=8, hidden=(8,), learning_rate=0.01, **settings))
    runner, update = jax.jit(learner.init)(jax.random.key(0), TARGET), jax.jit(learner.update)
    for _ in range(chunks):
        runner, metrics = update(runner, TARGET)
    return float(metrics["entropy"])


@pytest.mark.nightly
def test_the_entropy_bonus_decays_linearly_to_zero():
    """At once with a decay of one: after the first chunk nothing but reward is learned."""
    none, decayed, kept = (
        entropy_after(12, entropy_coefficient=0.0),
        *(entropy_after(12, entropy_coefficient=10.0, entropy_decay=decay) for decay in (1.0, 0.0)),
    )
    assert kept > decayed + 0.1
    assert decayed == pytest.approx(none, abs=0.3)


@pytest.mark.nightly
def test_learning_from_a_rollout_stops_at_the_target_divergence():
    def chunk(target_kl, separate=()):
        config = dataclasses.replace(KINDS["own critics"], target_kl=target_kl, separate=separate, n_epochs=8)
        learner = PPO(Matching(), config)
        return jax.jit(learner.update)(jax.jit(learner.init)(jax.random.key(0), ALIKE), ALIKE)[1]

    free, stopped = chunk(0.0), chunk(0.003)
    for role in ("mover", "picker"):
        assert float(free[f"{role}.learned_fraction"]) == 1.0
        assert 0.0 < float(stopped[f"{role}.learned_fraction"]) < 0.9
        assert float(stopped[f"{role}.approx_kl"]) < float(free[f"{role}.approx_kl"])
    # Agents with parameters of their own stop each by itself.
    assert 0.0 < float(chunk(0.003, ("mover",))["mover.learned_fraction"]) < 1.0


def test_minibatches_must_divide_what_they_split():
    with pytest.raises(ValueError, match="does not divide n_steps 10"):
        PPOConfig(n_steps=10, n_minibatches=4)
    with pytest.raises(ValueError, match="does not divide n_envs 10"):
        PPOConfig(n_envs=10, n_minibatches=4, network="gru")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n_envs", 0),
        ("n_steps", 0),
        ("n_epochs", 0),
        ("n_minibatches", 0),
        ("hidden", (8, 0)),
        ("network", "lstm"),
        ("critic", "none"),
        ("baseline", "none"),
        ("tokens", 0),
        ("heads", 0),
        ("learning_rate", 0.0),
        ("learning_rate", float("inf")),
        ("discount", 0.0),
        ("discount", 1.01),
        ("gae_lambda", -0.1),
        ("target_kl", -1.0),
        ("entropy_decay", -1.0),
        ("max_loss", 0.0),
        ("entropy_coefficient", -1.0),
    ],
)
def test_an_impossible_setting_is_refused_by_name(name, value):
    with pytest.raises(InputError, match=f"{name} must be .*, got {re.escape(repr(value))}"):
        PPOConfig(**{name: value})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"network": "attention", "critic": "shared"}, "critic must be own"),
        ({"baseline": "greedy"}, "gae_lambda must be 0 with a greedy baseline.*got 0.95"),
        ({"tokens": 3}, "tokens 3 are for network attention"),
        ({"heads": 4}, "heads 4 are for network attention and over_agents"),
        ({"network": "gru", "hidden": ()}, "hidden must have a width at least for network gru"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        PPOConfig(**settings)


def test_a_role_that_is_not_there_cannot_be_separate():
    learner = PPO(Matching(), PPOConfig(separate=("taker",)))
    with pytest.raises(InputError, match=r"separate names \['taker'\], and the roles are \['mover', 'picker'\]"):
        learner.init(jax.random.key(0), ALIKE)


def test_a_sweep_may_carry_any_number():
    swept = jax.vmap(lambda rate: PPOConfig(learning_rate=rate))(jnp.array([-1.0, 1.0]))
    assert swept.learning_rate.tolist() == [-1.0, 1.0]
