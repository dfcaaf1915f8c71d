"""What a rebalance is worth, against a loop over the whole history of equity."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marljax.data.schema import InputError
from marljax.envs import portfolio_rewards
from marljax.envs.portfolio_rewards import LOG_RETURN
from marljax.envs.rewards import RewardConfig
from tests.reference import rewards as reference

SCALE = 0.01
RETURNS = np.random.default_rng(0).normal(0.001, SCALE, 40)
TURNOVER = np.random.default_rng(1).uniform(0.0, 0.5, 40)


@jax.jit
def pay(weights, returns, turnover):
    """(rewards, drawdowns added), float32[T] each."""

    def one(state, now):
        state, reward, added = portfolio_rewards.step(state, weights, jnp.float32(SCALE), *now)
        return state, (reward, added)

    start = portfolio_rewards.start(weights, jnp.float32(SCALE))
    return jax.lax.scan(one, start, (jnp.float32(returns), jnp.float32(turnover)))[1]


def test_the_default_is_log_growth_over_the_scale():
    got, _ = pay(portfolio_rewards.weights(LOG_RETURN), RETURNS, TURNOVER)
    np.testing.assert_allclose(got, np.log1p(RETURNS) / SCALE, rtol=1e-5, atol=1e-6)


def test_risk_aversion_charges_half_the_squared_log_return_over_the_scale():
    got, _ = pay(portfolio_rewards.weights(LOG_RETURN, risk_aversion=0.4), RETURNS, TURNOVER)
    log_return = np.log1p(RETURNS) / SCALE
    np.testing.assert_allclose(got, log_return - 0.2 * log_return**2, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("term", ["earnings", "log_return", "sharpe", "sortino", "drawdown", "turnover"])
def test_each_term_is_that_of_the_loop_and_its_weight_acts(term):
    """Beside a log return of weight one, which the others need or do not touch."""
    config = RewardConfig(**({"earnings": 0.0, "log_return": 1.0, "memory": 20.0} | {term: 3.0}))
    got, _ = pay(portfolio_rewards.weights(config), RETURNS, TURNOVER)
    equity = np.append(1.0, np.cumprod(1.0 + RETURNS)) / SCALE
    terms = reference.terms(np.diff(equity), np.zeros(40), TURNOVER, 1.0 / SCALE, 20.0, 0.1)
    expected = 3.0 * terms[term] + (terms["log_return"] if term != "log_return" else 0.0)
    np.testing.assert_allclose(got, expected, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("config", [LOG_RETURN, RewardConfig(earnings=0.0, sharpe=1.0)])
def test_drawdowns_added_sum_to_the_maximum_drawdown_whatever_is_rewarded(config):
    _, added = pay(portfolio_rewards.weights(config), RETURNS, TURNOVER)
    equity = np.append(1.0, np.cumprod(1.0 + RETURNS))
    worst = (1.0 - equity / np.maximum.accumulate(equity)).max()
    assert worst > 0.02
    assert float(added.sum()) == pytest.approx(worst, rel=1e-3)
    assert float(added.min()) >= 0.0


def test_a_ruined_portfolio_has_a_finite_reward():
    reward, added = pay(portfolio_rewards.weights(LOG_RETURN), np.array([0.1, -3.0, 0.5]), np.zeros(3))
    assert jnp.isfinite(reward).all()
    assert float(added.sum()) == pytest.approx(1.0, abs=1e-5)


def test_a_reward_that_does_not_follow_equity_is_refused():
    with pytest.raises(InputError, match="needs a weight on log_return, sharpe, sortino or drawdown"):
        portfolio_rewards.weights(RewardConfig(earnings=1.0))
