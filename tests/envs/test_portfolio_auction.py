"""Capital by auction in the portfolio env: who gets what, against a solver, and what claims come to be believed."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import LinearConstraint, minimize

from marljax.data.schema import InputError
from marljax.envs.worlds import AllocationConfig
from marljax.evaluation.decision_log import decision_at, tell
from marljax.portfolio.bidding import AuctionConfig
from marljax.portfolio.calibration import Calibration
from tests.reference.books import random_market
from tests.reference.worlds import portfolio

BLOCKS = 8
CONFIG = AuctionConfig(optimism=0.3, worth=0.4, deviation=2.0, half_life=5.0)


@partial(jax.jit, static_argnums=0)
def episode(env, params):
    def one(state, i):
        _, after, _, _, _, info = env.step_env(jax.random.key(i), state, jnp.zeros(4), params)
        return after, (state, after, info["decision"])

    return jax.lax.scan(one, env.start(params.starts[0], params), jnp.arange(BLOCKS))[1]


@pytest.fixture(scope="module")
def world():
    data = random_market(2, n_products=3, n_steps=200)
    return portfolio(data, coordination="auction", leverage=0.9, max_weight=0.6, auction=CONFIG, risk_aversion=2.0)


@pytest.fixture(scope="module")
def told(world):
    return jax.tree.map(np.asarray, episode(*world))


def on_record(env, params, mean_in_sd, agreement=0.0):
    """A state whose agents have earned these means, float[A] standard deviations of what they trade, and this much of
    what they claimed."""
    state = env.start(params.starts[0], params)
    volatility = jnp.sqrt(jnp.diagonal(env.covariance(state, params)))
    record = state.record.replace(mean=jnp.float32(mean_in_sd) * volatility)
    return state.replace(record=record, calibration=Calibration(jnp.ones(3), jnp.full(3, agreement)))


@pytest.mark.parametrize("risk_aversion", [2.0, 0.2])
def test_what_agents_get_is_the_best_portfolio_on_what_they_are_believed_to_earn(world, risk_aversion):
    """By risk alone at the larger aversion, at the smaller up to the guardrails."""
    env, params = world
    params = params.replace(auction=CONFIG.rules(risk_aversion / float(params.reward_scale)))
    state = on_record(env, params, [0.5, 0.2, -0.1], 0.6)
    covariance = np.asarray(env.covariance(state, params), np.float64)
    volatility, variance = np.sqrt(np.diag(covariance)), CONFIG.deviation**2
    worth = (CONFIG.worth / variance + 0.6) / (1.0 / variance + 1.0)
    mean = worth * np.maximum(np.array([0.5, 0.2, -0.1]) + CONFIG.optimism, 0.0) * volatility
    aversion, unit = risk_aversion / float(params.reward_scale), volatility.mean()
    best = minimize(
        lambda w: -(mean @ w - 0.5 * aversion * w @ covariance @ w) / unit,
        np.full(3, 0.2),
        jac=lambda w: -(mean - aversion * covariance @ w) / unit,
        bounds=[(0.0, 0.6)] * 3,
        constraints=[LinearConstraint(np.ones(3), ub=0.9)],
        method="SLSQP",
        options={"ftol": 1e-12},
    ).x
    asked, offer = env.bid(state, params)
    np.testing.assert_allclose(asked, best, atol=2e-3)
    np.testing.assert_array_equal(env.ask(state, jnp.ones(4), params), asked)
    np.testing.assert_allclose(offer.believed, mean, rtol=1e-4)
    assert best[0] > 2.0 * best[1] > 0.1 or best.sum() == pytest.approx(0.9)
    assert (best.sum() < 0.5) == (risk_aversion == 2.0)


def test_claims_are_held_against_what_came_of_them(told, world):
    """Against a loop in NumPy over what the log says."""
    before, after, decision = told
    env, params = world
    mids = np.asarray(random_market(2, n_products=3, n_steps=200).double_mid)
    evidence, agreement, decay = np.zeros(3), np.zeros(3), 0.5 ** (1.0 / CONFIG.half_life)
    for i in range(BLOCKS):
        covariance = np.asarray(params.market.covariance[before.block[i]], np.float64) * env.rows_per_block
        volatility = np.sqrt(np.diag(covariance))
        lot = 0.5 * mids[params.blocks.start[before.block[i]]] * np.asarray(params.world.costs.tick_value)
        seen = decision.granted[i] * decision.equity[i] >= lot
        claim = np.maximum(before.record.mean[i] + CONFIG.optimism * volatility, 0.0)
        np.testing.assert_allclose(decision.offer.claim[i], claim, rtol=1e-4)
        evidence = decay * evidence + np.where(seen, (claim / volatility) ** 2, 0.0)
        agreement = decay * agreement + np.where(seen, claim * after.record.last[i] / volatility**2, 0.0)
        np.testing.assert_allclose(after.calibration.evidence[i], evidence, rtol=1e-3)
        np.testing.assert_allclose(after.calibration.agreement[i], agreement, rtol=1e-3, atol=1e-5)
    assert np.abs(agreement)[:2].min() > 1e-3


def test_an_agent_that_never_earned_what_it_claimed_gets_nothing(world):
    env, params = world
    state = on_record(env, params, [0.5, 0.5, 0.5])
    liar = state.replace(calibration=Calibration(jnp.full(3, 4.0), jnp.array([4.0, -4.0, 4.0])))
    asked, _ = env.bid(liar, params)
    assert float(asked[1]) == 0.0
    assert float(asked[0]) > 0.1


def test_an_agent_that_was_granted_less_than_a_lot_is_not_held_to_its_claim(world):
    env, params = world
    state = on_record(env, params, [0.5, 0.5, 0.5], 0.6)
    asked = (
        jnp.array([0.3, 0.0, 0.0])
        .at[1:]
        .set(jnp.array([0.9, 1.1]) / env.lots(state.replace(weights=jnp.ones(3)), params)[1:])
    )
    after, decision, *_ = jax.jit(env.run_block)(jax.random.key(0), state, asked, params)
    np.testing.assert_allclose(decision.granted, asked, rtol=1e-5)
    forgotten = np.asarray(params.auction.decay)
    assert float(after.calibration.evidence[1]) == pytest.approx(forgotten, rel=1e-6)
    assert float(after.calibration.agreement[1]) == pytest.approx(0.6 * forgotten, rel=1e-6)
    assert (np.asarray(after.calibration.evidence)[[0, 2]] > forgotten + 0.1).all()


@pytest.mark.parametrize("key", ["optimism", "worth", "deviation", "half_life"])
def test_every_key_of_the_auction_acts(world, told, key):
    env, params = world
    doubled = AuctionConfig(**{**vars(CONFIG), key: 2.0 * getattr(CONFIG, key)})
    changed = params.replace(auction=doubled.rules(2.0 / float(params.reward_scale)))
    if key == "half_life":
        _, after, _ = episode(env, changed)
        assert np.abs(after.calibration.evidence / told[1].calibration.evidence - 1.0)[-1].max() > 0.05
    else:
        state = on_record(env, params, [0.5, 0.2, -0.1], 0.1)
        one, other = (env.bid(state, p)[1].believed for p in (params, changed))
        assert np.abs(one / other - 1.0).max() > 0.1


def test_the_log_tells_claims_bids_and_prices(told):
    text = tell(decision_at(told[2], 3), portfolio_limits(), ["one", "two", "three"])
    heads = text.splitlines()[1].split()
    assert heads[-4:] == ["claim_bp", "believed_bp", "bid_bp", "price_bp"]
    said = [float(x) for x in text.splitlines()[2].split()[-4:]]
    offer = told[2].offer
    expected = [1e4 * x[3, 0] for x in (offer.claim, offer.believed, offer.bid, offer.price)]
    np.testing.assert_allclose(said, expected, atol=0.006)


def portfolio_limits():
    return AllocationConfig(leverage=0.9, max_weight=0.6).rails(["unknown"] * 3, 1.0).limits


def test_bids_that_nothing_limits_are_refused():
    with pytest.raises(InputError, match="risk_aversion must be positive where agents bid"):
        AllocationConfig(coordination="auction", risk_aversion=0.0)


@pytest.mark.parametrize("wrong", [{"worth": 0.0}, {"deviation": 0.0}, {"half_life": -1.0}, {"optimism": -0.1}])
def test_an_impossible_auction_is_refused_by_name(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        AuctionConfig(**wrong)
