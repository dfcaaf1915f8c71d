import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from marljax.portfolio.auction import Bids, Supply, clear
from marljax.portfolio.settlement import Settlement, clarke, uniform, worth
from tests.reference import auction as reference

N_MARKETS, N_AGENTS = 200, 5
_MISREPORTS = np.array([0.0, 0.5, 0.8, 0.9, 0.95, 1.0, 1.02, 1.05, 1.1, 1.3, 2.0, 5.0])
_HONEST = 5


def _markets() -> tuple[Bids, Supply]:
    """Many markets, in most of which a limit binds; leaves [N_MARKETS, ...]."""
    rng = np.random.default_rng(1)
    shape = (N_MARKETS, N_AGENTS)
    bids = Bids(
        jnp.asarray(rng.normal(0.01, 0.01, shape), jnp.float32),
        jnp.asarray(0.02 * np.exp(rng.normal(size=shape)), jnp.float32),
    )
    supply = Supply(
        gross=jnp.asarray(rng.uniform(0.1, 1, N_MARKETS), jnp.float32),
        cap=jnp.asarray(rng.uniform(0.05, 1, shape), jnp.float32),
        classes=jnp.asarray(rng.integers(0, 2, shape), jnp.int32),
        class_cap=jnp.asarray(rng.uniform(0.05, 1, (N_MARKETS, 2)), jnp.float32),
    )
    return bids, supply


def _market_of(value: list[float], slope: float, gross: float) -> tuple[Bids, Supply]:
    """A few bidders among N_AGENTS, of which the rest may hold nothing."""
    absent = N_AGENTS - len(value)
    cap = jnp.array([2 * gross] * len(value) + [0.0] * absent)
    of_one_class = Supply(jnp.float32(gross), cap, jnp.zeros(N_AGENTS, jnp.int32), jnp.full(2, jnp.inf))
    return Bids(jnp.array(value + [0.0] * absent), jnp.full(N_AGENTS, slope)), of_one_class


def _settle(rule: str, bids: Bids, supply: Supply) -> tuple[jax.Array, Settlement]:
    outcome = clear(bids, supply)
    if rule == "clarke":
        return outcome.weights, clarke(bids, supply, outcome)
    return outcome.weights, uniform(bids, supply, outcome, jnp.full(N_AGENTS, 1 / N_AGENTS))


_settled = jax.jit(_settle, static_argnums=0)
_all_settled = jax.jit(jax.vmap(_settle, (None, 0, 0)), static_argnums=0)


def _misreporting(rule: str, supply: Supply, truth: Bids, value: jax.Array, slope: jax.Array) -> jax.Array:
    """What the first bidder's capital is worth to it, truly, less what it pays, when it reports value and slope."""
    reported = Bids(truth.value.at[0].set(value), truth.slope.at[0].set(slope))
    weights, settlement = _settle(rule, reported, supply)
    return settlement.scores(worth(truth, weights))[0]


def _score(rule: str, supply: Supply, truth: Bids, value: float) -> float:
    return float(_misreported(rule, supply, truth, value, truth.slope[0]))


_misreported = jax.jit(_misreporting, static_argnums=0)


@pytest.fixture(scope="module")
def gains() -> dict[str, np.ndarray]:
    """By rule [N_MARKETS, values, slopes]: what the first bidder gains by reporting other values and slopes, each the
    true one times a factor, with its true value between nothing and twice the others'."""
    truth, supply = _markets()
    truth = truth.replace(value=truth.value.at[:, 0].set(jnp.abs(truth.value[:, 0]) + 1e-3))
    factors = jnp.asarray(_MISREPORTS, jnp.float32)
    found = {}
    for rule in ("uniform", "clarke"):

        def grid(truth: Bids, supply: Supply, rule: str = rule) -> jax.Array:
            def report(of_value: jax.Array, of_slope: jax.Array) -> jax.Array:
                return _misreporting(rule, supply, truth, of_value * truth.value[0], of_slope * truth.slope[0])

            return jax.vmap(jax.vmap(report, (None, 0)), (0, None))(factors, factors)

        scores = np.asarray(jax.jit(jax.vmap(grid))(truth, supply), np.float64)
        found[rule] = scores - scores[:, _HONEST, _HONEST][:, None, None]
    return found


def test_two_bidders_pay_what_the_rules_say():
    bids, supply = _market_of([0.10, 0.06], 0.1, 0.5)
    _, at_price = _settled("uniform", bids, supply)
    np.testing.assert_allclose(at_price.paid[:2], [0.055 * 0.45, 0.055 * 0.05], atol=1e-7)
    # Alone the second pays 0.01 for all 0.5 and the first 0.05; without the absent both pay what they do. A fifth each.
    np.testing.assert_allclose(at_price.rebate, [0.001, 0.005, 0.0055, 0.0055, 0.0055], atol=1e-7)
    assert float(at_price.treasury) == pytest.approx(0.0275 - 0.0225, abs=1e-7)
    # The first keeps 0.45 from the second, between marginal values 0.055 and 0.01; the second 0.05, 0.055 to 0.05.
    _, harm = _settled("clarke", bids, supply)
    np.testing.assert_allclose(harm.paid, [0.45 * 0.0325, 0.05 * 0.0525, 0, 0, 0], atol=1e-7)
    np.testing.assert_array_equal(harm.rebate, np.zeros(N_AGENTS))


@pytest.mark.parametrize("rule", ["uniform", "clarke"])
def test_scores_and_treasury_add_up_to_what_the_portfolio_earned(rule):
    bids, supply = _markets()
    weights, settlement = _all_settled(rule, bids, supply)
    earned = weights * np.random.default_rng(2).normal(0, 0.02, weights.shape)
    scores = np.asarray(jax.vmap(Settlement.scores)(settlement, earned), np.float64)
    treasury = np.asarray(jax.vmap(lambda s: s.treasury)(settlement))
    np.testing.assert_allclose(scores.sum(1) + treasury, np.asarray(earned, np.float64).sum(1), atol=1e-8)
    paid = np.asarray(settlement.paid)
    assert paid.min() >= 0
    assert np.asarray(settlement.rebate).min() >= 0
    assert treasury.min() > -1e-8
    assert (paid.sum(1) > 1e-4).mean() > 0.6
    assert paid[np.asarray(weights) == 0].max() < 1e-8
    # Nobody pays more than its capital is worth to it: taking part is voluntary.
    assert float(jnp.min(jax.vmap(worth)(bids, weights) - paid)) > -1e-7


def test_what_bidders_pay_by_clarke_lies_between_the_prices_with_and_without_them():
    bids, supply = _markets()

    @jax.jit
    @jax.vmap
    def settle(bids: Bids, supply: Supply) -> tuple[jax.Array, ...]:
        outcome = clear(bids, supply)
        without = jax.vmap(lambda i: clear(bids, supply.without(i)).price[i])(jnp.arange(N_AGENTS))
        paid = clarke(bids, supply, outcome).paid
        return paid, outcome.weights * without, outcome.weights * outcome.price

    paid, least, most = (np.asarray(x) for x in settle(bids, supply))
    assert (paid - least).min() > -1e-7
    assert (most - paid).min() > -1e-7
    assert (most - paid).max() > 1e-4


@pytest.mark.parametrize("market", range(4))
def test_clarke_payments_are_the_others_loss_and_leave_each_its_part_in_the_total(market):
    bids, supply = jax.tree.map(lambda leaf: leaf[market], _markets())
    paid = _settled("clarke", bids, supply)[1].paid
    value, slope, cap, of, class_cap = (
        np.asarray(x, np.float64) for x in (bids.value, bids.slope, supply.cap, supply.classes, supply.class_cap)
    )

    def total(cap: np.ndarray) -> tuple[float, np.ndarray]:
        w = reference.best_allocation(value, np.diag(slope), cap, float(supply.gross), of, class_cap)[0]
        return float(value @ w - 0.5 * slope @ w**2), w * (value - 0.5 * slope * w)

    everyone, each = total(cap)
    for agent in range(N_AGENTS):
        without, _ = total(np.where(np.arange(N_AGENTS) == agent, 0.0, cap))
        assert float(paid[agent]) == pytest.approx(without - (everyone - each[agent]), abs=1e-6)
        assert each[agent] - float(paid[agent]) == pytest.approx(everyone - without, abs=1e-6)


def test_overbidding_never_pays_at_the_uniform_price(gains):
    by_value_and_slope = gains["uniform"]
    over = by_value_and_slope[:, _HONEST:, : _HONEST + 1]  # at least the true value, at most the true slope
    assert over.max() < 2e-8
    assert over[:, 1:].mean() < -1e-4
    assert (over[:, -1, _HONEST] < -1e-6).mean() > 0.3


def test_no_misreport_pays_by_clarke_but_shading_does_at_the_uniform_price(gains):
    assert gains["clarke"].max() < 2e-8
    assert gains["clarke"].mean() < -1e-4
    shaded = gains["uniform"][:, :_HONEST, _HONEST].max(1)
    assert (shaded > 1e-6).mean() > 0.1


@pytest.mark.parametrize("n", [2, 3, 5])
def test_the_most_that_shading_gains_falls_with_the_square_of_the_number_of_bidders(n):
    # n equal bidders v - s w for a supply G: one that shades by s G / (n^2 - 1) gains most, 1 / (n^2 - 1) of what
    # honesty gets it, and by Clarke's rule nothing. No rebate depends on it.
    value, slope, gross = 0.05, 0.02, 1.0
    truth, supply = _market_of([value] * n, slope, gross)
    shading = slope * gross / (n**2 - 1) * np.array([0.0, 0.5, 1.0, 1.5, 2.0])
    scores = {
        rule: np.array([_score(rule, supply, truth, value - shade) for shade in shading])
        for rule in ("uniform", "clarke")
    }
    honest = slope * gross**2 / (2 * n**2)
    gain = (scores["uniform"] - scores["uniform"][0]) / honest
    np.testing.assert_allclose(gain, np.array([0, 0.75, 1, 0.75, 0]) / (n**2 - 1), atol=2e-4)
    assert np.diff(scores["clarke"]).max() < 0
    assert scores["clarke"][-1] < scores["clarke"][0] - 1e-2 * honest


def test_a_rebate_does_not_depend_on_the_bid_of_its_receiver():
    bids, supply = jax.tree.map(lambda leaf: leaf[1], _markets())
    before = _settled("uniform", bids, supply)[1].rebate
    for agent in range(N_AGENTS):
        raised = bids.replace(value=bids.value.at[agent].add(0.02))
        after = _settled("uniform", raised, supply)[1].rebate
        assert float(after[agent]) == float(before[agent])
    assert float(jnp.abs(after - before).max()) > 1e-5


def test_to_hand_back_what_was_paid_in_equal_parts_would_reward_overbidding():
    # Whoever holds less than its part of the capital sells the rest, at a price that it raises itself: bidding d more
    # moves the price by d / 4 and the weight by 15 d, and gains 0.0375 d - 9.375 d^2.
    truth, supply = _market_of([0.04, 0.05, 0.05, 0.05], 0.05, 1.0)

    def score(value: float) -> tuple[float, float]:
        weights, settlement = _settled("uniform", truth.replace(value=truth.value.at[0].set(value)), supply)
        own = worth(truth, weights)[0] - settlement.paid[0]
        return float(own + 0.25 * settlement.paid.sum()), float(own + settlement.rebate[0])

    honest, bold = score(0.04), score(0.042)
    assert bold[0] - honest[0] == pytest.approx(3.75e-5, rel=1e-2)
    assert bold[1] - honest[1] == pytest.approx(-0.1 / 4 * 0.002 - 9.375 * 0.002**2, rel=1e-2)


@pytest.mark.parametrize("n", [2, 3, 5])
def test_what_the_treasury_keeps_is_what_rivalry_adds_to_the_price(n):
    # n equal bidders pay v - s G / n for all of G, and without one of them v - s G / (n - 1).
    bids, supply = _market_of([0.05] * n, 0.02, 1.0)
    _, settled = _settled("uniform", bids, supply)
    assert float(settled.treasury) == pytest.approx(n / N_AGENTS * 0.02 / (n * (n - 1)), rel=1e-3)


def test_a_settlement_is_compiled_once():
    bids, supply = _markets()
    chex.clear_trace_counter()
    traced = jax.jit(chex.assert_max_traces(_settle, n=1), static_argnums=0)
    for market in range(3):
        traced("clarke", *jax.tree.map(lambda leaf, market=market: leaf[market], (bids, supply)))
