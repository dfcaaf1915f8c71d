"""Terms of the reward: against a loop, what they sum to, and that they are finite whatever happens."""

import functools

import chex
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

from marljax.data.schema import InputError
from marljax.envs.rewards import Facts, RewardConfig, start, step
from tests.reference import rewards as reference

PATH = ("log_return", "sharpe", "sortino", "drawdown")
PLAIN = ("earnings", "turnover", "inventory")
CAPITAL, STEPS = 200.0, 60


@jax.jit
@functools.partial(chex.assert_max_traces, n=4)
def pay(weights, facts, capital=CAPITAL):
    """float32[T] rewards of one episode of facts [T]."""

    def one(state, now):
        return step(state, weights, now)

    return jax.lax.scan(one, start(weights, capital), Facts(*(jnp.float32(x) for x in facts)))[1]


def weights(**on):
    """Every term has a weight, 0 where it is not named; those of the path are there in any case."""
    inventory = on.pop("inventory", 0.0)
    made = RewardConfig(earnings=on.pop("earnings", 0.0), log_return=1.0, turnover=on.pop("turnover", 0.0)).weights(
        inventory
    )
    memory, least = on.pop("memory", 100.0), on.pop("least_deviation", 0.1)
    path = {name: jnp.float32(on.get(name, 0.0)) for name in PATH}
    return made.replace(
        path=made.path.replace(rate=jnp.float32(1 / memory), least_deviation=jnp.float32(least), **path)
    )


def history(seed=0, n=STEPS, drift=0.1):
    rng = np.random.default_rng(seed)
    return rng.normal(drift, 1.0, n), rng.uniform(-1, 1, n), rng.uniform(0, 2, n)


@pytest.mark.parametrize("term", PLAIN + PATH)
@pytest.mark.parametrize("scale", [1.0, 15.0])
def test_each_term_is_that_of_the_loop(term, scale):
    earned, position, traded = history()
    earned = earned * scale
    expected = reference.terms(earned, position, traded, CAPITAL, 20.0, 0.1)[term]
    got = pay(weights(memory=20.0, **{term: 2.0}), (earned, position, traded))
    np.testing.assert_allclose(got, 2.0 * expected, rtol=2e-4, atol=2e-4 * np.abs(expected).max())
    assert np.abs(expected).max() > 0.1


def test_the_reward_is_the_sum_of_its_weighted_terms():
    facts = history(1)
    mix = dict(zip(PLAIN + PATH, (0.3, 0.2, 0.5, 1.5, 0.1, 0.7, 2.0), strict=True))
    alone = sum(np.asarray(pay(weights(**{name: w}), facts)) for name, w in mix.items())
    np.testing.assert_allclose(pay(weights(**mix), facts), alone, rtol=1e-4, atol=1e-4)


@given(st.lists(st.floats(-30, 30, width=32), min_size=STEPS, max_size=STEPS))
def test_the_drawdown_penalty_of_an_episode_is_its_maximum_drawdown(earned):
    equity = np.maximum(CAPITAL + np.cumsum([0.0, *earned]), reference.RUIN * CAPITAL)
    if equity.min() < 1.0:
        return
    nothing = np.zeros(STEPS)
    paid = pay(weights(drawdown=1.0), (earned, nothing, nothing))
    assert (np.asarray(paid) <= 0).all()
    assert float(paid.sum()) == pytest.approx(-CAPITAL * reference.maximum_drawdown(list(equity)), abs=2e-2)


def test_an_old_drawdown_costs_nothing_again():
    earned = np.array([10.0, -6.0, 3.0, -3.0, 1.0, -2.0] + [0.0] * (STEPS - 6))
    paid = np.asarray(pay(weights(drawdown=1.0), (earned, 0 * earned, 0 * earned)))
    assert np.flatnonzero(paid).tolist() == [1, 5]
    assert paid[[1, 5]] == pytest.approx([-CAPITAL * 6 / 210, -CAPITAL * 1 / 210], rel=1e-4)


@given(st.lists(st.floats(-3, 3, width=32), min_size=STEPS, max_size=STEPS))
def test_log_returns_of_an_episode_are_the_log_growth_of_equity(earned):
    nothing = np.zeros(STEPS)
    paid = pay(weights(log_return=1.0), (earned, nothing, nothing))
    assert float(paid.sum()) == pytest.approx(CAPITAL * np.log1p(np.sum(earned) / CAPITAL), abs=2e-2)


@pytest.mark.parametrize(("term", "path"), [("sharpe", reference.sharpe_path), ("sortino", reference.sortino_path)])
def test_differential_ratios_add_up_to_the_change_of_the_ratio(term, path):
    memory = 2000.0
    earned, *rest = history(3, n=STEPS, drift=0.3)
    got = np.asarray(pay(weights(memory=memory, **{term: 1.0}), (earned, *rest))) / memory
    ratio = path(earned, memory)
    assert got.sum() == pytest.approx(ratio[-1] - ratio[0], rel=0.01)
    assert got.sum() > 0.005


def test_the_same_mean_with_more_variance_is_worth_less_to_both_ratios():
    even, nothing = np.full(STEPS, 0.3), np.zeros(STEPS)
    uneven = even + np.where(np.arange(STEPS) % 2, 1.5, -1.5)
    for term in ("sharpe", "sortino"):
        config = weights(memory=10.0, **{term: 1.0})
        assert float(pay(config, (even, nothing, nothing)).sum()) > 2 * float(
            pay(config, (uneven, nothing, nothing)).sum()
        )


@pytest.mark.parametrize("earned", [0.0, 1.0, -1.0, 1e-6, -150.0, 1e4, -1e6])
@pytest.mark.parametrize("memory", [1.0, 3.0, 1e4])
def test_first_steps_constant_earnings_and_ruin_give_finite_terms(earned, memory):
    facts = (np.full(STEPS, earned), np.zeros(STEPS), np.zeros(STEPS))
    for term in PATH:
        paid = np.asarray(pay(weights(memory=memory, **{term: 1.0}), facts))
        assert np.isfinite(paid).all(), term
        if earned == 0.0:
            assert not paid.any(), "nothing happens and nothing is paid"


def test_a_lost_capital_is_a_drawdown_of_all_of_it():
    facts = (np.full(STEPS, -CAPITAL), np.zeros(STEPS), np.zeros(STEPS))
    assert float(pay(weights(drawdown=1.0), facts).sum()) == pytest.approx(-CAPITAL, rel=1e-4)


def test_constant_earnings_end_as_no_surprise():
    facts = (np.full(400, 1.0), np.zeros(400), np.zeros(400))
    for term in ("sharpe", "sortino"):
        paid = np.asarray(pay(weights(memory=10.0, **{term: 1.0}), facts))
        assert np.abs(paid[-20:]).max() < 1e-2 * paid[0]


def test_a_weight_of_zero_switches_a_term_off_even_where_it_is_not_a_number():
    broken = np.full(STEPS, np.nan)
    paid = pay(weights(turnover=1.0), (broken, broken, np.ones(STEPS)))
    np.testing.assert_array_equal(paid, -np.ones(STEPS))


def test_no_state_is_carried_where_no_term_needs_it():
    plain = RewardConfig().weights(0.05)
    assert start(plain, jnp.float32(1.0)) is None
    assert RewardConfig(drawdown=0.1).weights(0.05).path is not None
    earned, position, traded = history(2)
    np.testing.assert_array_equal(
        pay(plain, (earned, position, traded)), pay(weights(earnings=1.0, inventory=0.05), (earned, position, traded))
    )


def test_weights_may_carry_an_axis():
    facts, sweep = history(4), jnp.array([0.0, 1.0, 2.0])
    one = weights(drawdown=1.0)
    swept = jax.vmap(lambda w: pay(one.replace(path=one.path.replace(drawdown=w)), facts).sum())(sweep)
    assert swept[0] == 0.0
    assert float(swept[2]) == pytest.approx(2 * float(swept[1]))


@pytest.mark.parametrize(
    ("name", "value"),
    [("earnings", -1.0), ("sharpe", float("nan")), ("drawdown", -0.1), ("memory", 0.5), ("least_deviation", 0.0)],
)
def test_an_impossible_weight_is_refused_by_name(name, value):
    with pytest.raises(InputError, match=name):
        RewardConfig(**{name: value})
