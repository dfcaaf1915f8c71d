"""Closed forms against formulas written anew, limits that they must have, and their place in the env."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marljax.agents.classical.directional import Momentum, MomentumParams, Noise, NoiseParams, SignalFollower
from marljax.agents.classical.directional import SignalParams as FollowerParams
from marljax.agents.classical.execution import (
    TWAP,
    VWAP,
    AlmgrenChriss,
    AlmgrenChrissParams,
    ScheduleParams,
    VolumeProfileParams,
)
from marljax.agents.classical.market_making import AvellanedaStoikov, GueantLehalleFernandezTapia, MakerParams
from marljax.agents.classical.zero_intelligence import ZeroIntelligenceAgent, ZeroIntelligenceAgentParams
from marljax.envs.roles import ROLES
from marljax.envs.roles.execution import ExecutionParams
from marljax.envs.roles.market_maker import MarketMakerParams
from marljax.envs.roles.role import Scales
from tests.reference.scripted_flow import scripted

KEY = jax.random.key(0)
SCALES = Scales(price=2.0, size=10.0, volatility=4.0)


def observation(role: str, **values: float) -> jax.Array:
    names = ROLES[role].OBSERVATION
    assert values.keys() <= set(names)
    return jnp.array([values.get(name, 0.0) for name in names], jnp.float32)


def maker(**changes: float) -> MakerParams:
    numbers = {"risk_aversion": 0.02, "decay": 0.3, "intensity": 0.9, "horizon": 60.0, "size": 1.0}
    rules = MarketMakerParams(nearest=0.0, furthest=100.0, skew=100.0, largest=10, max_position=50)
    return MakerParams(**{k: jnp.float32(v) for k, v in (numbers | changes).items()}, rules=rules, scales=SCALES)


def bid_and_ask(policy, params: MakerParams, inventory: float, volatility: float, left: float) -> tuple[float, float]:
    """Distances of the quotes from the mid that the policy's action asks for [ticks]."""
    rules = params.rules
    obs = observation(
        "market_maker",
        inventory=inventory / rules.max_position,
        volatility=volatility / SCALES.volatility,
        left=left / float(params.horizon),
    )
    (width, skew, *_), _ = policy.apply(params, obs, (), KEY, True)
    half = rules.nearest + (float(width) + 1) / 2 * (rules.furthest - rules.nearest)
    return half - float(skew) * rules.skew, half + float(skew) * rules.skew


@pytest.mark.parametrize(("q", "sigma", "tau"), [(0.0, 2.0, 30.0), (5.0, 1.5, 10.0), (-8.0, 3.0, 2.0)])
def test_avellaneda_stoikov_quotes_about_the_reservation_price(q, sigma, tau):
    gamma, k = 0.02, 0.3
    reservation = -q * gamma * sigma**2 * tau
    spread = gamma * sigma**2 * tau + 2 / gamma * np.log(1 + gamma / k)
    bid, ask = bid_and_ask(AvellanedaStoikov(), maker(), q, sigma, tau)
    np.testing.assert_allclose([bid, ask], [spread / 2 - reservation, spread / 2 + reservation], rtol=1e-3)


@pytest.mark.parametrize(("q", "sigma"), [(0.0, 2.0), (5.0, 1.5), (-8.0, 3.0)])
def test_glft_quotes_are_those_of_the_paper(q, sigma):
    gamma, k, intensity = 0.02, 0.3, 0.9
    root = np.sqrt(sigma**2 * gamma / (2 * k * intensity) * (1 + gamma / k) ** (1 + k / gamma))
    base = np.log(1 + gamma / k) / gamma
    expected = [base + (2 * q + 1) / 2 * root, base - (2 * q - 1) / 2 * root]
    np.testing.assert_allclose(
        bid_and_ask(GueantLehalleFernandezTapia(), maker(), q, sigma, 9.0), expected, rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize("policy", [AvellanedaStoikov(), GueantLehalleFernandezTapia()])
def test_a_maker_without_risk_aversion_quotes_the_inverse_decay_whatever_its_inventory(policy):
    for gamma in (0.0, 1e-9):
        bid, ask = bid_and_ask(policy, maker(risk_aversion=gamma), 20.0, 2.0, 30.0)
        np.testing.assert_allclose([bid, ask], 1 / 0.3, rtol=2e-2)


@pytest.mark.parametrize("policy", [AvellanedaStoikov(), GueantLehalleFernandezTapia()])
def test_a_long_maker_bids_lower_and_offers_lower(policy):
    (flat_bid, flat_ask), (bid, ask) = (bid_and_ask(policy, maker(), q, 2.0, 30.0) for q in (0.0, 5.0))
    np.testing.assert_allclose(flat_bid, flat_ask, rtol=1e-5)
    assert bid > flat_bid + 1.0
    assert ask < flat_ask - 1.0


def test_quotes_of_any_size_are_those_of_the_rescaled_problem():
    """Lots of ten at gamma are lots of one at ten gamma, a tenth the inventory, and prices per lot."""
    ten = bid_and_ask(GueantLehalleFernandezTapia(), maker(size=10.0), 20.0, 2.0, 9.0)
    one = bid_and_ask(GueantLehalleFernandezTapia(), maker(risk_aversion=0.2), 2.0, 2.0, 9.0)
    np.testing.assert_allclose(ten, one, rtol=1e-3)


RULES = ExecutionParams(parent=1000, deadline=20, largest=1.0)


def almgren_chriss(**changes: float) -> AlmgrenChrissParams:
    numbers = {"risk_aversion": 1e-2, "volatility": 0.3, "temporary": 0.05, "permanent": 0.001, "horizon": 200.0}
    return AlmgrenChrissParams(
        aggression=jnp.float32(1.0), rules=RULES, **{k: jnp.float32(v) for k, v in (numbers | changes).items()}
    )


def trajectory(policy, params: ScheduleParams) -> np.ndarray:
    """Fraction of the parent left after each of the steps, when every order is filled."""
    left, path = 1.0, [1.0]
    for step in range(RULES.deadline):
        obs = observation("execution", parent_left=left, time_left=1 - step / RULES.deadline)
        (size, aggression), _ = policy.apply(params, obs, (), KEY, True)
        assert float(aggression) == 1.0
        left -= (float(size) + 1) / 2 * RULES.largest
        path.append(left)
    return np.array(path)


def test_twap_trades_equal_parts():
    path = trajectory(TWAP(), ScheduleParams(jnp.float32(1.0), RULES))
    np.testing.assert_allclose(path, np.linspace(1, 0, 21), atol=1e-5)


def test_twap_makes_up_for_what_it_missed():
    obs = observation("execution", parent_left=0.8, time_left=0.5)
    (size, _), _ = TWAP().apply(ScheduleParams(jnp.float32(1.0), RULES), obs, (), KEY, True)
    np.testing.assert_allclose((size + 1) / 2, 0.8 - 0.45, rtol=1e-4)


def test_vwap_follows_the_profile_and_a_flat_one_is_twap():
    flat = trajectory(VWAP(), VolumeProfileParams(jnp.float32(1.0), RULES, jnp.ones(7)))
    np.testing.assert_allclose(flat, np.linspace(1, 0, 21), atol=1e-5)
    path = trajectory(VWAP(), VolumeProfileParams(jnp.float32(1.0), RULES, jnp.array([3.0, 1.0, 1.0, 5.0])))
    np.testing.assert_allclose(path[::5], [1.0, 0.7, 0.6, 0.5, 0.0], atol=1e-5)
    np.testing.assert_allclose(np.diff(path)[:5], -0.06, atol=1e-5)


def test_almgren_chriss_follows_the_hyperbolic_trajectory_of_the_discrete_problem():
    step, lam, sigma, eta, gamma = 10.0, 1e-2, 0.3, 0.05, 0.001
    tilde = lam * sigma**2 / (eta * (1 - gamma * step / (2 * eta)))
    kappa = np.arccosh(tilde * step**2 / 2 + 1) / step
    time = np.arange(21) * step
    expected = np.sinh(kappa * (200 - time)) / np.sinh(kappa * 200)
    assert expected[10] < 0.2, "far from a straight line"
    np.testing.assert_allclose(trajectory(AlmgrenChriss(), almgren_chriss()), expected, atol=1e-4)


def test_almgren_chriss_minimises_cost_and_risk():
    """Every small change of the trajectory makes the objective of the paper larger."""
    step, lam, sigma, eta, gamma = 10.0, 1e-2, 0.3, 0.05, 0.001

    def objective(left):
        sold = -np.diff(left)
        cost = 0.5 * gamma + (eta - 0.5 * gamma * step) / step * np.sum(sold**2)
        return cost + lam * sigma**2 * step * np.sum(left[1:] ** 2)

    path = trajectory(AlmgrenChriss(), almgren_chriss()).astype(np.float64)
    path[-1] = 0.0
    rng = np.random.default_rng(0)
    for _ in range(50):
        change = np.concatenate([[0.0], rng.normal(0, 0.02, 19), [0.0]])
        assert objective(path + change) > objective(path)


def test_almgren_chriss_without_risk_aversion_is_twap_and_with_much_sells_at_once():
    for lam in (0.0, 1e-9):
        path = trajectory(AlmgrenChriss(), almgren_chriss(risk_aversion=lam))
        np.testing.assert_allclose(path, np.linspace(1, 0, 21), atol=2e-3)
    path = trajectory(AlmgrenChriss(), almgren_chriss(risk_aversion=1e6))
    np.testing.assert_allclose(path[1:], 0.0, atol=1e-3)


def test_a_schedule_refuses_the_params_of_another():
    obs = observation("execution", parent_left=1.0, time_left=1.0)
    for policy in (VWAP(), AlmgrenChriss()):
        with pytest.raises(TypeError, match="got ScheduleParams"):
            policy.apply(ScheduleParams(jnp.float32(1.0), RULES), obs, (), KEY, True)


def test_a_signal_follower_is_long_in_proportion_to_the_signal_up_to_its_limit():
    params = FollowerParams(jnp.float32(0.4), jnp.float32(0.5))
    for signal, target in ((0.0, 0.0), (1.0, 0.4), (-2.0, -0.8), (9.0, 1.0)):
        action, _ = SignalFollower().apply(params, observation("directional", signal=signal), (), KEY, True)
        np.testing.assert_allclose(action, [target, 0.5], rtol=1e-5)


def test_momentum_follows_the_weighted_sum_of_moves():
    params = MomentumParams(jnp.float32(0.1), jnp.float32(1.0), decay=jnp.float32(0.25))
    carry, moves = Momentum().init_carry(), [1.0, -2.0, 4.0]
    for move in moves:
        action, carry = Momentum().apply(params, observation("directional", move=move), carry, KEY, True)
    np.testing.assert_allclose(action, [0.1 * (1 * 0.75**2 - 2 * 0.75 + 4), 1.0], rtol=1e-5)


def test_noise_changes_its_mind_as_often_as_it_is_told():
    obs, params = observation("directional"), NoiseParams(jnp.float32(0.25), jnp.float32(0.0))

    def step(carry, key):
        action, after = Noise().apply(params, obs, carry, key, True)
        return after, (action[0], after != carry)

    _, (target, changed) = jax.lax.scan(step, Noise().init_carry(), jax.random.split(KEY, 4000))
    np.testing.assert_allclose(changed.mean(), 0.25, atol=0.03)
    np.testing.assert_allclose([target.mean(), target.std()], [0.0, 3**-0.5], atol=0.06)


def test_an_agent_of_zero_intelligence_acts_uniformly_and_else_leaves_its_orders():
    policy, params = ZeroIntelligenceAgent(4), ZeroIntelligenceAgentParams(jnp.float32(0.3))
    keys = jax.random.split(KEY, 2000)
    action = jax.vmap(lambda key: policy.apply(params, jnp.zeros(3), (), key, False)[0])(keys)
    acts = ~jnp.isnan(action)
    np.testing.assert_array_equal(acts.all(1), acts.any(1))
    np.testing.assert_allclose(acts.mean(), 0.3, atol=0.04)
    np.testing.assert_allclose(jnp.nanstd(action, axis=0), 3**-0.5, atol=0.05)


@pytest.mark.nightly
def test_twap_fills_its_parent_in_the_book_on_schedule():
    rules = ExecutionParams(parent=40, buys=1.0, deadline=5, largest=0.5, through=0.0)
    env, params = scripted(market_makers=0, executions=1, roles={"execution": rules})
    policy = ScheduleParams(jnp.float32(1.0), rules)
    step = jax.jit(env.step_env)
    obs, state = env.reset_env(KEY, params)
    for n in range(1, 6):
        action, _ = TWAP().apply(policy, obs["execution"][0], (), KEY, True)
        obs, state, *_ = step(jax.random.key(n), state, {"execution": action[None]}, params)
        assert int(state.ledger.position[1]) == 8 * n
    assert float(obs["execution"][0, ROLES["execution"].OBSERVATION.index("parent_left")]) == 0.0


@pytest.mark.parametrize(("strategy", "missing"), [(TWAP, "left"), (AvellanedaStoikov, "quotes")])
def test_a_strategy_without_its_rule_cannot_be_made(strategy, missing):
    ruleless = type("Ruleless", (strategy.__base__,), {})
    with pytest.raises(TypeError, match=f"abstract.* '?{missing}"):
        ruleless()
