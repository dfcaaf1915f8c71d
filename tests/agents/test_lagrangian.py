"""PPO under a constraint finds the constrained optimum, and its price."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marljax.agents.lagrangian import ConstraintConfig, LagrangianPPO
from marljax.agents.learner import jit_update, train
from marljax.agents.ppo import PPO
from marljax.agents.ppo_config import PPOConfig
from marljax.data.schema import InputError
from marljax.runtime import checkpoint
from tests.reference.allocation import SIGNALS, Budget, BudgetParams, Costly

PLAIN = BudgetParams(jnp.float32(1.0), jnp.float32(1.0))
LIMIT = 0.05
CHUNKS = 150
PPO_CONFIG = PPOConfig(
    n_envs=64,
    n_steps=32,
    hidden=(16,),
    learning_rate=3e-3,
    learning_rate_decay=0.95 / CHUNKS,
    discount=0.01,
    gae_lambda=0.0,
    entropy_coefficient=0.0,
)
SMALL = dataclasses.replace(PPO_CONFIG, n_envs=4, n_steps=8)


@functools.cache
def trained():
    """Policies of three seeds, and the metrics [seeds, chunks] of their training."""
    learner = LagrangianPPO(Budget(), ConstraintConfig(LIMIT), PPO_CONFIG)
    runs = jax.jit(jax.vmap(lambda key: train(learner, key, PLAIN, CHUNKS)))
    runner, metrics = runs(jax.random.split(jax.random.key(0), 3))
    policy, params = learner.policy(PLAIN), learner.policy_params(runner)
    seen = jnp.float32(SIGNALS)[:, None]
    action, _ = jax.vmap(lambda p: policy.apply(p, seen, (), jax.random.key(0), True))(params)
    return np.asarray(action[..., 0]), runner, metrics


def test_the_constrained_optimum_is_found_and_its_price():
    """At a mean squared action of d the best is to be proportional to the signal x: worth sqrt(d E x^2), and the price
    is sqrt(E x^2 / d) / 2. Unconstrained it would be the largest action, at twenty times the cost."""
    action, _, metrics = trained()
    square = (SIGNALS**2).mean()
    assert float(metrics["diverged"].max()) == 0.0
    cost, reward = (action**2).mean(-1), (action * SIGNALS).mean(-1)
    assert cost.max() <= 1.05 * LIMIT
    assert reward.min() >= 0.95 * np.sqrt(LIMIT * square)
    np.testing.assert_allclose(metrics["multiplier"][:, -30:].mean(-1), 0.5 * np.sqrt(square / LIMIT), rtol=0.05)


def test_what_exploring_agents_cost_and_earn_is_reported_and_keeps_the_limit_too():
    _, _, metrics = trained()
    np.testing.assert_allclose(metrics["cost"][:, -30:].mean(-1), LIMIT, rtol=0.05)
    priced = metrics["reward"] + metrics["multiplier"] * metrics["cost"]
    np.testing.assert_allclose(metrics["unpriced_reward"], priced, rtol=1e-5, atol=1e-7)
    assert (metrics["unpriced_reward"][:, -30:].mean(-1) > 0.09).all()


def test_the_price_rises_where_the_limit_is_violated():
    _, _, metrics = trained()
    violated = metrics["cost"][:, :3] > 1.2 * LIMIT
    assert violated.all()
    assert (jnp.diff(metrics["multiplier"][:, :4]) > 0.0).all()


@functools.cache
def one_update():
    """The update of a tiny learner, compiled once for every constraint."""

    def update(constraint, runner, params):
        return LagrangianPPO(Budget(), constraint, SMALL).update(runner, params)

    return jax.jit(chex.assert_max_traces(update, n=1))


def started(constraint):
    return LagrangianPPO(Budget(), constraint, SMALL).init(jax.random.key(0), PLAIN)


def numbers(**settings):
    """Of a constraint, as arrays: others are no other program."""
    return jax.tree.map(jnp.float32, ConstraintConfig(**({"limit": LIMIT} | settings)))


def test_the_price_decays_where_there_is_slack():
    """No squared action exceeds one: a limit of two always leaves half of it or more."""
    constraint = numbers(limit=2.0, multiplier=0.5, rate=0.1, proportional=0.0)
    runner, seen = started(constraint), []
    for _ in range(12):
        runner, metrics = one_update()(constraint, runner, PLAIN)
        seen.append(float(metrics["multiplier"]))
        assert float(metrics["cost"]) <= 1.0
    assert (np.diff(seen[:5]) <= -0.05 + 1e-6).all()
    assert float(runner.multiplier) == 0.0


def test_every_key_of_the_constraint_acts():
    """The multiplier after a chunk is what the law of Stooke et al. makes of its cost."""
    runner = started(numbers())
    base = {"limit": LIMIT, "rate": 0.02, "proportional": 0.1, "multiplier": 0.0, "largest": 100.0}
    for settings in ({}, {"limit": 0.4}, {"rate": 0.5}, {"proportional": 0.0}, {"largest": 0.01}, {"multiplier": 0.3}):
        law = base | settings
        constraint = numbers(**settings)
        begun = started(constraint) if "multiplier" in settings else runner
        assert float(begun.multiplier) == pytest.approx(law["multiplier"])
        after, metrics = one_update()(constraint, begun, PLAIN)
        violation = float(metrics["cost"]) / law["limit"] - 1.0
        integral = np.clip(law["multiplier"] + law["rate"] * violation, 0.0, law["largest"])
        assert float(after.integral) == pytest.approx(integral, rel=1e-4)
        wanted = np.clip(integral + law["proportional"] * violation, 0.0, law["largest"])
        assert float(after.multiplier) == pytest.approx(wanted, rel=1e-4)


def test_the_cost_reported_is_that_of_the_chunk():
    """Doubling what the world charges doubles it, chunk after chunk and across ends of episodes."""
    free = numbers(rate=0.0, proportional=0.0)
    runner = started(free)
    for _ in range(3):
        _, once = one_update()(free, runner, PLAIN)
        runner, twice = one_update()(free, runner, dataclasses.replace(PLAIN, cost=jnp.float32(2.0)))
        assert float(twice["cost"]) == pytest.approx(2.0 * float(once["cost"]), rel=1e-5)
        assert float(runner.ppo.worlds.state.steps.max()) == 0.0


def test_a_chunk_that_was_undone_leaves_the_price_as_it_was():
    constraint = numbers(multiplier=0.3)
    runner = started(constraint)
    broken = dataclasses.replace(PLAIN, cost=jnp.float32(jnp.nan))
    after, metrics = one_update()(constraint, runner, broken)
    assert float(metrics["diverged"]) == 1.0
    assert float(after.multiplier) == float(runner.multiplier) == pytest.approx(0.3)
    _, metrics = one_update()(constraint, after, PLAIN)
    assert float(metrics["diverged"]) == 0.0


def test_a_training_that_was_interrupted_goes_on_bit_by_bit(tmp_path):
    constraint = numbers()
    runner, _ = one_update()(constraint, started(constraint), PLAIN)
    checkpoint.save(tmp_path / "c", 1, runner)
    restored = checkpoint.restore_latest(tmp_path / "c", started(constraint)).tree
    ends = [one_update()(constraint, r, PLAIN)[0] for r in (runner, restored)]
    assert float(ends[0].multiplier) > 0.0
    chex.assert_trees_all_equal(
        *({"params": r.ppo.params, "multiplier": r.multiplier, "integral": r.integral} for r in ends)
    )


@pytest.mark.nightly
def test_at_a_price_of_zero_that_never_changes_it_is_ppo():
    constraint = numbers(rate=0.0, proportional=0.0)
    plain = PPO(Budget(), SMALL)
    runner, _ = one_update()(constraint, started(constraint), PLAIN)
    alone, _ = jax.jit(plain.update)(plain.init(jax.random.key(0), PLAIN), PLAIN)
    chex.assert_trees_all_close(runner.ppo.params, alone.params, rtol=1e-4, atol=1e-6)


def test_where_there_are_roles_the_one_that_pays_is_named():
    learner = LagrangianPPO(Costly(), ConstraintConfig(1.0), dataclasses.replace(SMALL, n_minibatches=2), role="meta")
    runner = jax.eval_shape(learner.init, jax.random.key(0), jnp.float32(1.0))
    _, metrics = jax.eval_shape(learner.update, runner, jnp.float32(1.0))
    assert {"cost", "multiplier", "unpriced_reward", "meta.reward"} <= set(metrics)
    assert set(learner.policy_params(runner)) == {"trader", "meta"}


def test_a_runner_may_be_donated():
    learner = LagrangianPPO(Budget(), ConstraintConfig(LIMIT), SMALL)
    runner = jax.eval_shape(learner.init, jax.random.key(0), PLAIN)
    jit_update(learner).lower(runner, PLAIN)
    integral, multiplier = started(numbers()).integral, started(numbers()).multiplier
    assert integral.unsafe_buffer_pointer() != multiplier.unsafe_buffer_pointer()


@pytest.mark.parametrize(
    ("name", "value"),
    [("limit", 0.0), ("rate", -0.1), ("proportional", -1.0), ("multiplier", -1.0), ("largest", 0.0)],
)
def test_an_impossible_constraint_is_refused_by_name(name, value):
    with pytest.raises(InputError, match=f"{name} must be"):
        ConstraintConfig(**({"limit": 1.0} | {name: value}))
