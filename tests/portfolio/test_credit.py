import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marljax.portfolio.credit import Utility, difference_rewards, in_cash, utility

_difference = jax.jit(difference_rewards)


def _utility(scale: float = 1.0, risk_aversion: float = 0.0) -> Utility:
    return Utility(jnp.float32(scale), jnp.float32(risk_aversion))


def _plain_utility(portfolio_return: float, scale: float, risk_aversion: float) -> float:
    log_return = np.log(max(1 + portfolio_return, 0.01)) / scale
    return log_return - risk_aversion / 2 * log_return**2


@given(
    seed=st.integers(0, 10**6),
    n=st.sampled_from([1, 7]),
    scale=st.sampled_from([1e-3, 1.0]),
    risk_aversion=st.sampled_from([0.0, 0.5]),
    size=st.sampled_from([1e-4, 1e-2, 1.0]),
)
def test_a_difference_reward_is_the_utility_less_that_of_the_portfolio_without_the_agent(
    seed, n, scale, risk_aversion, size
):
    rng = np.random.default_rng(seed)
    earned = (size * rng.normal(size=n)).astype(np.float32)
    weights, cash_rate, rest = rng.uniform(0, 0.5, n).astype(np.float32), 1e-4, 3e-5
    of = _utility(scale, risk_aversion)
    rewards = _difference(earned, rest, in_cash(weights, cash_rate), of)
    total = earned.astype(np.float64).sum() + rest
    together = _plain_utility(total, scale, risk_aversion)
    largest = max(1.0, abs(together))
    assert float(utility(jnp.float32(total), of)) == pytest.approx(together, rel=1e-5, abs=1e-6)
    for agent in range(n):
        without = total - float(earned[agent]) + float(weights[agent]) * cash_rate
        expected = together - _plain_utility(without, scale, risk_aversion)
        assert float(rewards[agent]) == pytest.approx(expected, rel=2e-4, abs=2e-6 * largest / min(scale, 1))


def test_by_hand():
    # A portfolio that makes 10 % of which the first agent made 6 and lost interest of 1 on its half.
    of = _utility(scale=0.1, risk_aversion=0.2)
    rewards = _difference(
        jnp.array([0.06, 0.04]), jnp.float32(0.0), in_cash(jnp.array([0.5, -0.5]), jnp.float32(0.02)), of
    )
    for reward, without in zip(rewards, (0.05, 0.07), strict=True):
        expected = _plain_utility(0.10, 0.1, 0.2) - _plain_utility(without, 0.1, 0.2)
        assert float(reward) == pytest.approx(expected, abs=1e-5)


@given(seed=st.integers(0, 10**6), agent=st.integers(0, 3))
def test_what_an_agent_does_moves_its_difference_reward_and_the_portfolios_utility_by_the_same(seed, agent):
    rng = np.random.default_rng(seed)
    earned = rng.normal(0, 0.02, 4)
    replacement, rest, of = jnp.float32(rng.uniform(0, 1e-3, 4)), jnp.float32(1e-4), _utility(0.02, 0.3)

    def judged(own: float) -> tuple[float, float]:
        now = earned.copy()
        now[agent] = own
        reward = _difference(jnp.float32(now), rest, replacement, of)[agent]
        return float(reward), float(utility(jnp.float32(now.sum() + 1e-4), of))

    first, second = judged(earned[agent]), judged(earned[agent] + rng.normal(0, 0.02))
    assert second[0] - first[0] == pytest.approx(second[1] - first[1], abs=2e-5)
    # Where the others' actions are held, the derivatives are equal: the same optimum, by the same way.
    by_agent = jax.jacfwd(lambda e: difference_rewards(e, rest, replacement, of))(jnp.float32(earned))
    of_all = jax.grad(lambda e: utility(rest + e.sum(), of))(jnp.float32(earned))
    np.testing.assert_allclose(jnp.diagonal(by_agent), of_all, rtol=1e-4, atol=1e-4)


def test_risk_that_agents_share_is_charged_to_those_who_add_to_it():
    of = _utility(scale=0.01, risk_aversion=0.5)
    same = _difference(jnp.array([0.01, 0.01]), jnp.float32(0), jnp.zeros(2), of)
    hedge = _difference(jnp.array([0.01, -0.01]), jnp.float32(0), jnp.zeros(2), of)
    # To second order with u = e / scale: u (1 - a / 2 (u + 2 v)) beside an agent that earned v.
    assert float(same[0]) == pytest.approx(1 - 0.25 * 3, abs=0.02)
    assert float(hedge[0]) == pytest.approx(1 + 0.25 * 1, abs=0.02)
    assert float(hedge[1]) == pytest.approx(-1 - 0.25 * -1 * -1 + 0.25 * 2, abs=0.02)


def test_increments_of_the_rows_add_up_to_the_reward_of_the_block():
    rng = np.random.default_rng(0)
    rows = rng.normal(0, 0.003, (20, 5)).astype(np.float32)
    so_far = np.concatenate([np.zeros((1, 5)), rows.cumsum(0)]).astype(np.float32)
    of = _utility(0.01, 0.3)
    rewards = jax.vmap(lambda e: difference_rewards(e, jnp.float32(0), jnp.zeros(5), of))(so_far)
    np.testing.assert_array_equal(rewards[0], np.zeros(5))
    np.testing.assert_allclose(jnp.diff(rewards, axis=0).sum(0), rewards[-1], atol=1e-5)
    block = _difference(so_far[-1], jnp.float32(0), jnp.zeros(5), of)
    np.testing.assert_allclose(rewards[-1], block, atol=1e-6)


def test_replaced_by_what_an_agent_earns_on_average_its_reward_is_the_surprise():
    of, mean = _utility(scale=0.01), jnp.array([0.002, 0.004])
    expected = _difference(mean, jnp.float32(0), mean, of)
    np.testing.assert_allclose(expected, [0.0, 0.0], atol=1e-6)
    surprised = _difference(mean + jnp.array([0.001, 0.0]), jnp.float32(0), mean, of)
    assert float(surprised[0]) == pytest.approx(0.1, rel=0.01)
    assert float(surprised[1]) == pytest.approx(0.0, abs=1e-6)


def _estimates(theta: np.ndarray, n_samples: int, seed: int) -> tuple[dict[str, np.ndarray], tuple]:
    """Policy gradients float64[n_samples, 2] of two agents by the portfolio's utility and by difference rewards.

    Agent i holds theta_i + s xi_i and earns (theta_i + s xi_i) mu_i + sigma_i eps_i; xi and eps are standard normal.
    """
    mean, deviation, exploration = np.array([0.4, 0.3]) * 1e-4, np.array([0.5, 1.5]) * 1e-4, 0.5
    rng = np.random.default_rng(seed)
    explored = rng.normal(size=(n_samples, 2))
    earned = (theta + exploration * explored) * mean + deviation * rng.normal(size=(n_samples, 2))
    of = _utility(scale=1e-4)
    rewards = {
        "difference": jax.vmap(lambda e: difference_rewards(e, jnp.float32(0), jnp.zeros(2), of))(jnp.float32(earned)),
        "share": utility(jnp.float32(earned.sum(1)), of)[:, None],
    }
    estimates = {name: np.asarray(r, np.float64) * explored / exploration for name, r in rewards.items()}
    return estimates, (mean * 1e4, deviation * 1e4, exploration)


def test_difference_rewards_have_the_signal_of_a_share_and_less_noise_as_in_closed_form():
    theta = np.array([0.5, 1.0])
    estimates, (mean, deviation, exploration) = _estimates(theta, 400_000, seed=1)

    def variance(level: float, own: float, noise: float) -> float:
        # Of X xi / s with X = level + s own xi + noise, by the moments of the normal distribution.
        return (level**2 + 2 * (exploration * own) ** 2 + noise) / exploration**2

    for i, other in ((0, 1), (1, 0)):
        alone = variance(theta[i] * mean[i], mean[i], deviation[i] ** 2)
        beside = (exploration * mean[other]) ** 2 + deviation[other] ** 2
        shared = variance(theta @ mean, mean[i], deviation[i] ** 2 + beside)
        for name, expected in (("difference", alone), ("share", shared)):
            found = estimates[name][:, i]
            assert found.mean() == pytest.approx(mean[i], abs=4 * np.sqrt(expected / len(found)))
            assert found.var() == pytest.approx(expected, rel=0.02)
        ratio = np.sqrt(estimates["share"][:, i].var() / estimates["difference"][:, i].var())
        assert ratio == pytest.approx(np.sqrt(shared / alone), rel=0.02)
        assert ratio > {0: 2.5, 1: 1.05}[i]


def test_agents_who_learn_from_difference_rewards_come_nearer_to_the_known_optimum():
    # G = R - a / 2 R^2 with R = w @ r: the best w is (E r r')^-1 E r / a. Each learns its own w by policy gradients.
    mean, deviation, risk_aversion, scale, exploration = np.array([0.3, 0.2]), np.array([1.0, 1.0]), 0.5, 1e-4, 0.3
    second = np.diag(deviation**2) + np.outer(mean, mean)
    best = np.linalg.solve(second, mean) / risk_aversion
    of = _utility(scale, risk_aversion)

    def train(key: jax.Array, by_difference: bool) -> jax.Array:
        def step(theta: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
            explored, noise = jax.random.normal(key, (2, 256, 2))
            returns = jnp.asarray(mean) + jnp.asarray(deviation) * noise
            earned = scale * (theta + exploration * explored) * returns
            if by_difference:
                reward = jax.vmap(lambda e: difference_rewards(e, jnp.float32(0), jnp.zeros(2), of))(earned)
            else:
                reward = utility(earned.sum(1), of)[:, None]
            gradient = jnp.mean((reward - reward.mean(0)) * explored, 0) / exploration
            return theta + 0.05 * gradient, theta

        _, path = jax.lax.scan(step, jnp.zeros(2), jax.random.split(key, 1000))
        return path[500:]

    keys = jax.random.split(jax.random.key(0), 16)
    distance = {}
    for by_difference in (True, False):
        path = np.asarray(jax.jit(jax.vmap(lambda key, by=by_difference: train(key, by)))(keys), np.float64)
        np.testing.assert_allclose(path.mean((0, 1)), best, atol=0.03)
        distance[by_difference] = ((path - best) ** 2).sum(-1).mean()
    assert distance[True] < 0.8 * distance[False]


@pytest.mark.parametrize("n", [1, 1000])
def test_a_ruined_portfolio_and_a_thousand_agents_have_finite_rewards_and_derivatives(n):
    for total in (-2.0, -0.995, 0.0):
        earned = jnp.full(n, total / n)
        value, slope = jax.value_and_grad(
            lambda e: difference_rewards(e, jnp.float32(0), jnp.zeros(n), _utility(0.01, 0.5)).sum()
        )(earned)
        assert bool(jnp.isfinite(value) & jnp.all(jnp.isfinite(slope)))
    np.testing.assert_array_equal(_difference(jnp.zeros(n), jnp.float32(0.01), jnp.zeros(n), _utility()), np.zeros(n))


def test_difference_rewards_are_compiled_once():
    chex.clear_trace_counter()
    traced = jax.jit(chex.assert_max_traces(difference_rewards, n=1))
    for scale in (0.1, 0.2, 0.3):
        traced(jnp.full(3, 0.01), jnp.float32(0), jnp.zeros(3), _utility(scale))
