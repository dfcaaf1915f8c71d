"""The two worlds of coordination against closed forms, simulation and brute force."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from marljax.data.schema import InputError
from marljax.envs.controlled.desk import (
    Desk,
    DeskParams,
    LinearDesk,
    best_desk,
    expected,
    expected_of_rule,
    garleanu_pedersen,
)
from marljax.envs.controlled.two_products import (
    SignalGrid,
    TwoProducts,
    TwoProductsParams,
    best_rule,
    expected_reward,
    linear_slope,
)

NEVER = jnp.zeros((1, 1))


def test_without_a_limit_the_best_rules_are_radners_linear_ones():
    params = TwoProductsParams(limit=0.0)
    grid = SignalGrid.of(params)
    inner = np.abs(grid.nodes) < 2.5  # beyond, the grid's edge cuts what the other may do
    rule = best_rule(params, grid)
    np.testing.assert_allclose(rule[inner], linear_slope(params) * grid.nodes[inner], atol=0.01)
    # Half the certainty: profit at the optimum of a quadratic is half of what the linear part earns.
    np.testing.assert_allclose(expected_reward(rule, rule, params, grid), linear_slope(params), rtol=0.01)


def test_no_pair_of_rules_found_by_direct_search_beats_the_best_rule_by_more_than_a_trifle():
    params = TwoProductsParams()
    grid = SignalGrid.of(params, n=21)
    rule = best_rule(params, grid)
    best = float(expected_reward(rule, rule, params, grid))

    def loss(z):
        return -float(expected_reward(z[:21], z[21:], params, grid))

    found = optimize.minimize(loss, np.tile(0.9 * rule, 2), method="L-BFGS-B", bounds=[(-2.0, 2.0)] * 42)
    # Each may be caught at a kink of the limit, and by no more than this.
    assert best < -found.fun < 1.002 * best
    for nudged in (0.9 * rule, 1.1 * rule, np.clip(rule, -0.5, 0.5), np.sign(grid.nodes)):
        assert float(expected_reward(nudged, nudged, params, grid)) < best - 1e-3


def test_the_limit_makes_positions_depend_on_what_the_other_holds():
    free, tight = TwoProductsParams(), TwoProductsParams(correlation=-0.8)
    grid = SignalGrid.of(free)
    rules = [best_rule(params, grid) for params in (free, tight)]
    # Products that offset each other's risk can be held in larger size.
    assert np.abs(rules[1]).mean() > 1.3 * np.abs(rules[0]).mean()


def test_two_products_earn_in_simulation_what_the_grid_says():
    env, params = TwoProducts(episode_steps=50), TwoProductsParams(income=0.5)
    grid = SignalGrid.of(params)
    rule = best_rule(params, grid)

    def episode(key):
        obs, state = env.reset(key, params)

        def step(carry, key):
            obs, state = carry
            position = jnp.interp(obs[:, 0], jnp.asarray(grid.nodes), jnp.asarray(rule))
            after, state, reward, *_, info = env.step_env(key, state, position[:, None] / params.max_position, params)
            return (after, state), (reward, obs, info["risk"])

        return jax.lax.scan(step, (obs, state), jax.random.split(key, env.episode_steps))[1]

    reward, obs, risk = jax.jit(jax.vmap(episode))(jax.random.split(jax.random.key(0), 3000))
    np.testing.assert_array_equal(reward[..., 0], reward[..., 1])
    np.testing.assert_allclose(reward.mean(), expected_reward(rule, rule, params, grid), rtol=0.02)
    signal, business = np.moveaxis(np.asarray(obs, np.float64), -1, 0)
    flat = signal.reshape(-1, 2)
    np.testing.assert_allclose(np.corrcoef(flat.T)[0, 1], params.signal_correlation, atol=0.03)
    np.testing.assert_allclose(flat.std(axis=0), 1.0, atol=0.03)
    for x in (signal[..., 0], business[..., 1]):
        lagged = np.corrcoef(x[:, 1:].ravel(), x[:, :-1].ravel())[0, 1]
        np.testing.assert_allclose(lagged, params.persistence, atol=0.02)
    foreseen = params.income * business.sum(axis=-1)
    slope = np.polyfit(foreseen.ravel(), np.asarray(reward[..., 0], np.float64).ravel(), 1)[0]
    np.testing.assert_allclose(slope, 1.0, atol=0.03)
    assert 0.2 * params.limit < float(risk.mean()) < 1.5 * params.limit


def simulate_desk(env, params, alpha, execution, n=2000):
    """[N, T] reward, profit, shortfall, decided under linear policies."""

    def episode(key):
        obs, state = env.reset(key, params)

        def step(carry, key):
            obs, state = carry
            action = {"alpha": alpha(obs["alpha"]), "execution": execution(obs["execution"])}
            obs, state, reward, *_, info = env.step_env(key, state, action, params)
            return (obs, state), (
                reward["alpha"][0],
                info["profit"],
                info["shortfall"],
                info["decided"],
                state.position,
            )

        return jax.lax.scan(step, (obs, state), jax.random.split(key, env.n_parents * (env.n_slices + 1)))[1]

    return jax.jit(jax.vmap(episode))(jax.random.split(jax.random.key(1), n))


@pytest.fixture(scope="module")
def far_desk():
    """Params under which no target is cut, and a long episode, so that its beginning from flat does not count."""
    return Desk(n_slices=3, n_parents=40), DeskParams(max_position=8.0)


def test_a_linear_desk_comes_to_what_its_moments_say(far_desk):
    env, params = far_desk
    desk = LinearDesk(0.6, 0.2, np.array([0.6, 0.3, 0.1]))

    def alpha(obs):
        target = desk.signal_weight * obs[0, 0] + desk.position_weight * obs[0, 1] * params.max_position
        return jnp.reshape(target / params.max_position, (1, 1))

    left = np.concatenate([[1.0], 1.0 - np.cumsum(desk.schedule)])
    shares = jnp.asarray(desk.schedule / left[:-1])

    def execution(obs):
        share = shares[jnp.minimum(jnp.round(obs[0, 2] * 3).astype(int), 2)]
        return jnp.reshape(2.0 * share - 1.0, (1, 1))

    reward, profit, shortfall, decided, _ = simulate_desk(env, params, alpha, execution)
    says, n_slices = expected(desk, params), env.n_slices * env.n_parents
    np.testing.assert_allclose(reward.sum(1).mean() / n_slices, says.reward, rtol=0.05)
    np.testing.assert_allclose(profit.sum(1).mean() / n_slices, says.profit, rtol=0.05)
    np.testing.assert_allclose(shortfall.sum(1).mean() / env.n_parents, says.shortfall, rtol=0.05)
    np.testing.assert_allclose(decided.sum(1).mean() / env.n_parents, says.parent, rtol=0.03)


def test_profit_is_that_of_the_paper_portfolio_less_the_shortfall_and_parents_are_done(far_desk):
    env, params = far_desk
    obs, state = env.reset(jax.random.key(0), params)
    paper = filled = done = 0.0
    for i in range(1, 17):
        key = jax.random.key(i)
        action = {"alpha": jnp.array([[0.1 * (-1) ** i]]), "execution": jnp.array([[-0.5]])}
        before = state
        obs, state, reward, _, _, info = env.step_env(key, state, action, params)
        deciding = int(before.slices) == env.n_slices
        if deciding:
            assert reward["alpha"][0] == 0.0
            assert state.position == before.position
            done += 1
            continue
        traded = float(state.position - before.position)
        move = (float(info["profit"]) + params.impact * traded**2) / float(state.position)
        paper += float(state.target) * move
        filled += float(info["profit"] + info["shortfall"])
        charge = 0.5 * params.risk_aversion * params.volatility**2 * float(state.position) ** 2
        np.testing.assert_allclose(reward["execution"][0], float(info["profit"]) - charge, rtol=1e-5)
        if int(state.slices) == env.n_slices:
            np.testing.assert_allclose(state.position, state.target, rtol=1e-6)
            np.testing.assert_allclose(obs["execution"][0, 0], 0.0, atol=1e-7)
    assert done == 4
    np.testing.assert_allclose(filled, paper, rtol=1e-4)


def test_garleanu_and_pedersens_rule_is_the_best_of_its_form_and_no_desk_beats_it():
    params = DeskParams()
    rate, aim = garleanu_pedersen(params)
    best = expected_of_rule(rate, aim, params).reward
    found = optimize.minimize(lambda z: -expected_of_rule(z[0], z[1], params).reward, [0.3, 0.5], method="Nelder-Mead")
    np.testing.assert_allclose(found.x, [rate, aim], rtol=1e-3)
    np.testing.assert_allclose(-found.fun, best, rtol=1e-6)
    together, equal = best_desk(params, 5), best_desk(params, 5, np.full(5, 0.2))
    assert expected(equal, params).reward < 0.8 * expected(together, params).reward
    assert expected(together, params).reward < best
    # With a parent per slice the desk may do what the rule does.
    np.testing.assert_allclose(expected(best_desk(params, 1), params).reward, best, rtol=1e-4)


def test_a_fading_signal_makes_the_best_schedule_trade_early():
    fading, lasting = (best_desk(DeskParams(persistence=p), 5).schedule for p in (0.7, 0.99))
    assert fading[0] > lasting[0] + 0.2


def test_equal_slices_ignore_execution_and_random_parents_ignore_alpha():
    params = DeskParams()
    bold, shy = (lambda obs: jnp.ones((1, 1))), (lambda obs: -jnp.ones((1, 1)))
    twap = Desk(execution="twap")
    runs = [simulate_desk(twap, params, bold, execution, n=4) for execution in (bold, shy)]
    for one, other in zip(*runs, strict=True):
        np.testing.assert_array_equal(one, other)
    path = np.asarray(runs[0][-1])[0, : twap.n_slices + 1]
    np.testing.assert_allclose(path, params.max_position * np.arange(6) / 5, rtol=1e-5)

    drawn = Desk(alpha="random")
    runs = [simulate_desk(drawn, params, alpha, bold, n=500) for alpha in (bold, shy)]
    for one, other in zip(*runs, strict=True):
        np.testing.assert_array_equal(one, other)
    reward, _, shortfall, decided, _ = runs[0]
    np.testing.assert_array_equal(reward, -shortfall)
    # Two independent targets, even over +-2, are 4/3 apart on average.
    np.testing.assert_allclose(decided[:, twap.n_slices + 1 :: twap.n_slices + 1].mean(), 4.0 / 3.0, rtol=0.05)


@pytest.mark.parametrize(
    ("cls", "field", "value"),
    [
        (TwoProductsParams, "volatility", 0.0),
        (TwoProductsParams, "charge", 0.0),
        (TwoProductsParams, "correlation", 1.0),
        (TwoProductsParams, "limit", -1.0),
        (DeskParams, "impact", 0.0),
        (DeskParams, "persistence", 1.0),
        (DeskParams, "edge", -1.0),
    ],
)
def test_impossible_numbers_are_refused_by_name(cls, field, value):
    with pytest.raises(InputError, match=field):
        cls(**{field: value})


def test_a_desk_knows_only_its_own_ways_to_train_apart():
    with pytest.raises(InputError, match="twap"):
        Desk(execution="vwap")
