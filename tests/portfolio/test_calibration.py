import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marljax.data.schema import InputError
from marljax.portfolio.auction import Supply, auction
from marljax.portfolio.calibration import Calibration, Prior, prior

N_AGENTS = 4000
_VOLATILITY = 0.01


@jax.jit
def _seen(claimed: jax.Array, realised: jax.Array, observed: jax.Array, decay: jax.Array) -> Calibration:
    """After all blocks; claims, outcomes and whether they were observed are [blocks, A]."""
    n_agents = claimed.shape[1]
    volatility = jnp.full(n_agents, _VOLATILITY)

    def block(calibration: Calibration, seen: tuple[jax.Array, ...]) -> tuple[Calibration, None]:
        return calibration.update(seen[0], seen[1], volatility, seen[2], decay), None

    return jax.lax.scan(block, Calibration.start(n_agents), (claimed, realised, observed))[0]


def _after(n_blocks: int, claimed: float, mean: float, seed: int = 0, decay: float = 1.0) -> Calibration:
    """N_AGENTS alike whose returns have `mean` and who always claim `claimed`, both in units of volatility."""
    rng = np.random.default_rng(seed)
    realised = _VOLATILITY * rng.normal(mean, 1, (n_blocks, N_AGENTS))
    claims = np.full((n_blocks, N_AGENTS), _VOLATILITY * claimed)
    return _seen(jnp.float32(claims), jnp.float32(realised), np.ones(claims.shape, bool), jnp.float32(decay))


@given(seed=st.integers(0, 10**6), decay=st.sampled_from([1.0, 0.9]))
def test_equals_ridge_regression_of_outcomes_on_claims(seed, decay):
    rng = np.random.default_rng(seed)
    claimed, realised = 0.01 * rng.normal(size=(2, 30, 3)).astype(np.float32)
    observed = rng.uniform(size=(30, 3)) < 0.7
    calibration = _seen(claimed, realised, observed, jnp.float32(decay))
    worth = calibration.worth(prior(worth=0.3, deviation=0.5))
    for agent in range(3):
        use = observed[:, agent]
        root = np.sqrt(decay ** np.arange(29, -1, -1.0))[use]
        x, y = (a[use, agent].astype(np.float64) / _VOLATILITY * root for a in (claimed, realised))
        # The prior is one more observation: of 1 / deviation, with outcome worth / deviation.
        x, y = np.append(x, 2.0), np.append(y, 0.6)
        expected = np.linalg.lstsq(x[:, None], y, rcond=None)[0][0]
        assert float(worth[agent]) == pytest.approx(max(expected, 0.0), abs=1e-5)


def test_an_overconfident_agent_comes_to_be_believed_what_it_earns():
    # It claims 0.6 and earns 0.2 volatilities a block. The posterior mean is off by 2 / 3 / (1 + 0.36 n) of the claim
    # on average, and spreads by sqrt(0.36 n) / (1 + 0.36 n) of it.
    for n_blocks, tolerance in ((100, 0.11), (1000, 0.034)):
        claims = jnp.full(N_AGENTS, 0.6 * _VOLATILITY)
        estimate = _after(n_blocks, claimed=0.6, mean=0.2).estimate(claims, prior(worth=1.0, deviation=1.0))
        error = np.asarray(estimate, np.float64) / _VOLATILITY - 0.2
        evidence = 0.36 * n_blocks
        spread = 0.6 * np.sqrt(evidence) / (1 + evidence)
        assert error.mean() == pytest.approx(0.4 / (1 + evidence), abs=4 * spread / np.sqrt(N_AGENTS))
        assert error.std() == pytest.approx(spread, rel=0.05)
        assert np.sqrt((error**2).mean()) < tolerance


def test_an_agent_without_skill_is_shrunk_to_zero_however_bold():
    # What noise alone leaves of a claim c is the positive part of a normal of deviation c sqrt(E) / (1 + E), E = c^2 n.
    for claimed in (0.2, 1.0):
        worth = _after(1000, claimed=claimed, mean=0.0).worth(prior(worth=0.0, deviation=1.0))
        evidence = 1000 * claimed**2
        left = np.sqrt(evidence) / (1 + evidence) / np.sqrt(2 * np.pi)
        assert float(worth.mean()) == pytest.approx(left, rel=0.06)
        assert claimed * float(worth.mean()) < 0.013
        assert float((worth == 0).mean()) == pytest.approx(0.5, abs=0.03)


def test_choosing_the_highest_estimate_brings_no_winners_curse():
    # Worths are drawn from the prior, fifty agents of alike claims compete, and the winner's estimate is taken.
    rng = np.random.default_rng(3)
    n_blocks, known = 50, Prior(jnp.float32(0.5), jnp.float32(4.0))
    worths = rng.normal(0.5, 0.5, N_AGENTS)
    realised = _VOLATILITY * (0.2 * worths + rng.normal(size=(n_blocks, N_AGENTS)))
    claimed = np.full(realised.shape, 0.2 * _VOLATILITY)
    calibration = _seen(jnp.float32(claimed), jnp.float32(realised), np.ones(claimed.shape, bool), jnp.float32(1.0))

    def winners_excess(estimate: np.ndarray) -> float:
        groups, truth = estimate.reshape(-1, 50), worths.reshape(-1, 50)
        best = groups.argmax(1)[:, None]
        return float(np.mean(np.take_along_axis(groups, best, 1) - np.take_along_axis(truth, best, 1)))

    error = 0.5 * np.sqrt(4 / (4 + 2)) / np.sqrt(N_AGENTS / 50)
    assert abs(winners_excess(np.asarray(calibration.worth(known)))) < 3 * error
    assert winners_excess(np.asarray(calibration.agreement / calibration.evidence)) > 1.0


def test_what_was_seen_long_ago_fades_and_an_agent_without_capital_returns_to_the_prior():
    calibration = _after(200, claimed=1.0, mean=-0.5, decay=0.95)
    assert float((calibration.worth(prior(worth=0.5, deviation=0.5)) == 0).mean()) > 0.98
    idle = _seen_idle(calibration, 200)
    np.testing.assert_allclose(idle.worth(prior(worth=0.5, deviation=0.5)), 0.5, atol=1e-3)


def _seen_idle(calibration: Calibration, n_blocks: int) -> Calibration:
    nothing, whole = jnp.zeros(N_AGENTS), jnp.full(N_AGENTS, _VOLATILITY)
    for _ in range(n_blocks):
        calibration = calibration.update(whole, nothing, whole, jnp.zeros(N_AGENTS, bool), 0.95)
    return calibration


def test_an_estimate_knows_nothing_of_the_block_it_is_for_and_of_later_ones():
    rng = np.random.default_rng(5)
    claimed, realised = 0.01 * rng.normal(size=(2, 40, 3)).astype(np.float32)

    @jax.jit
    def estimates(claimed: jax.Array, realised: jax.Array) -> jax.Array:
        def block(calibration: Calibration, seen: tuple[jax.Array, jax.Array]) -> tuple[Calibration, jax.Array]:
            claim, outcome = seen
            after = calibration.update(claim, outcome, jnp.full(3, _VOLATILITY), jnp.ones(3, bool), 0.9)
            return after, calibration.estimate(claim, prior(worth=0.5))

        return jax.lax.scan(block, Calibration.start(3), (claimed, realised))[1]

    before = estimates(claimed, realised)
    claimed[21:], realised[20:] = 7.0, -9.0
    after = estimates(claimed, realised)
    np.testing.assert_array_equal(after[:21], before[:21])
    assert float(jnp.abs(after[21] - before[21]).min()) > 1e-4


def test_calibrated_bids_move_capital_from_a_boaster_to_the_skilled():
    # Both have volatility 1 %. One earns 0.1 volatilities a block and says so, one nothing and claims five times that.
    rng = np.random.default_rng(0)
    claims = _VOLATILITY * np.array([0.1, 0.5])
    realised = _VOLATILITY * rng.normal([0.1, 0.0], 1, (2000, 2))
    supply = Supply(jnp.float32(1.0), jnp.ones(2))
    known = prior(worth=1.0, deviation=1.0)

    def capital(calibration: Calibration) -> jax.Array:
        mean = calibration.estimate(jnp.float32(claims), known)
        return auction(mean, _VOLATILITY**2 * jnp.eye(2), jnp.float32(20.0), supply, rounds=1)[0].weights

    observed = np.ones(realised.shape, bool)
    told = jnp.broadcast_to(jnp.float32(claims), realised.shape)
    np.testing.assert_allclose(capital(Calibration.start(2)), [0.0, 1.0], atol=1e-6)
    # Who knew the truth would give 0.001 / (20 * 0.01^2) and nothing; 2,000 blocks leave an error of a fifth of 0.001.
    after = capital(_seen(told, jnp.float32(realised), observed, jnp.float32(1.0)))
    np.testing.assert_allclose(after, [0.5, 0.0], atol=0.15)


@pytest.mark.parametrize(
    ("wrong", "name"),
    [({"worth": -0.1}, "worth"), ({"worth": np.nan}, "worth"), ({"deviation": 0.0}, "deviation")],
)
def test_an_impossible_prior_is_refused_by_its_name(wrong, name):
    with pytest.raises(InputError, match=name):
        prior(**wrong)


def test_a_prior_acts_by_both_its_numbers():
    calibration = _after(1, claimed=1.0, mean=0.0)
    base = calibration.worth(prior(worth=0.5, deviation=1.0))
    assert float(jnp.abs(calibration.worth(prior(worth=0.9, deviation=1.0)) - base).max()) > 0.1
    assert float(jnp.abs(calibration.worth(prior(worth=0.5, deviation=0.1)) - base).max()) > 0.1


def test_derivatives_are_finite_and_the_update_is_compiled_once():
    calibration, whole = Calibration.start(3), jnp.full(3, _VOLATILITY)
    chex.clear_trace_counter()
    update = jax.jit(chex.assert_max_traces(Calibration.update, n=1))
    for _ in range(3):
        calibration = update(calibration, whole, whole, whole, jnp.ones(3, bool), jnp.float32(0.9))

    def total(claims: jax.Array) -> jax.Array:
        return calibration.update(claims, whole, whole, jnp.ones(3, bool), 0.9).estimate(claims, prior()).sum()

    assert bool(jnp.all(jnp.isfinite(jax.grad(total)(jnp.zeros(3)))))
