import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marljax.data.schema import InputError
from marljax.portfolio import guardrails as rails
from tests.reference import portfolio as reference

_project = jax.jit(rails.project)
_sizes = st.sampled_from([1, 2, 5, 12])
_seeds = st.integers(0, 10**6)


def _problem(seed: int, n: int, signed: bool) -> tuple[np.ndarray, np.ndarray, rails.Limits]:
    """Weights asked for, weights held and limits, of which any number may bind; held may lie outside of them."""
    rng = np.random.default_rng(seed)
    caps = rng.uniform(0, 1, n) * rng.choice([0.3, 1, 2])
    limits = rails.Limits(
        max_weight=jnp.asarray(caps, jnp.float32),
        max_short=jnp.asarray(rng.uniform(0, 1, n) * signed, jnp.float32),
        leverage=jnp.float32(rng.uniform(0.1, 1.5)),
        cash_floor=jnp.float32(rng.choice([-1.0, 0.0, 0.3])),
        turnover=jnp.float32(rng.uniform(0.01, 1.0)),
    )
    asked = (rng.normal(size=n) * rng.choice([0.1, 1, 3])).astype(np.float32)
    held = (rng.normal(size=n) * rng.choice([0.02, 0.1, 0.5])).astype(np.float32)
    return asked, held if signed else np.abs(held), limits


@jax.jit
def _along(step, asked, direction, limits, held):
    return rails.project(asked + step * direction, limits, held)[0]


_slope = jax.jit(jax.jacrev(_along))


def _excess(weights: jax.Array, limits: rails.Limits) -> float:
    w = np.asarray(weights, np.float64)
    bounds = np.maximum(w - np.asarray(limits.max_weight), -np.asarray(limits.max_short) - w)
    return max(bounds.max(), np.abs(w).sum() - float(limits.gross))


@given(seed=_seeds, n=_sizes, signed=st.booleans())
def test_projection_is_the_nearest_feasible_point(seed, n, signed):
    asked, _, limits = _problem(seed, n, signed)
    weights, intervention = _project(asked, limits)
    low, high = -np.asarray(limits.max_short), np.asarray(limits.max_weight)
    expected = reference.project(asked, low, high, float(limits.gross))
    np.testing.assert_allclose(weights, expected, atol=1e-5)
    assert _excess(weights, limits) < 1e-6
    assert float(intervention.distance) == pytest.approx(np.linalg.norm(expected - asked), abs=1e-5)
    assert bool(intervention.any) == (not np.array_equal(weights, asked))


@given(seed=_seeds, n=_sizes, signed=st.booleans())
def test_projection_with_turnover_is_the_nearest_feasible_point(seed, n, signed):
    asked, held, limits = _problem(seed, n, signed)
    low, high = -np.asarray(limits.max_short), np.asarray(limits.max_weight)
    inside = np.clip(held, low, high)
    held = (inside * min(1.0, float(limits.gross) / max(np.abs(inside).sum(), 1e-9))).astype(np.float32)
    weights, intervention = _project(asked, limits, held)
    expected = reference.project(asked, low, high, float(limits.gross), held, float(limits.turnover))
    np.testing.assert_allclose(weights, expected, atol=1e-5)
    assert _excess(weights, limits) < 1e-6
    assert np.abs(np.asarray(weights, np.float64) - held).sum() < float(limits.turnover) + 1e-6
    assert float(intervention.overdraft) == 0


@given(seed=_seeds, n=_sizes, signed=st.booleans())
def test_hard_limits_hold_from_anywhere_and_overdraft_is_the_least_turnover_that_does_it(seed, n, signed):
    asked, held, limits = _problem(seed, n, signed)
    weights, intervention = _project(asked, limits, held)
    assert _excess(weights, limits) < 2e-6
    inside = np.clip(held, -np.asarray(limits.max_short), np.asarray(limits.max_weight))
    least = np.abs(held - inside).sum() + max(np.abs(inside).sum() - float(limits.gross), 0)
    traded = np.abs(np.asarray(weights) - held).sum()
    assert traded < max(least, float(limits.turnover)) + 1e-5
    assert float(intervention.overdraft) == pytest.approx(max(traded - float(limits.turnover), 0), abs=1e-5)


@given(seed=_seeds, n=_sizes, signed=st.booleans())
def test_projection_is_idempotent_and_the_identity_on_feasible_weights(seed, n, signed):
    asked, held, limits = _problem(seed, n, signed)
    for previous in (None, held):
        weights, _ = _project(asked, limits, previous)
        again, intervention = _project(weights, limits, previous)
        np.testing.assert_array_equal(again, weights)
        assert not bool(intervention.any)
        assert float(intervention.distance) == 0
    inside = np.clip(0.01 * asked, -np.asarray(limits.max_short), np.asarray(limits.max_weight)).astype(np.float32)
    unchanged, _ = _project(inside, limits.replace(leverage=jnp.float32(1), cash_floor=jnp.float32(-1)))
    np.testing.assert_array_equal(unchanged, inside)


def test_clipping_and_rescaling_would_break_the_cap_that_projection_keeps():
    limits = rails.limits(3, max_weight=0.4)
    weights, intervention = _project(jnp.array([0.9, 0.3, 0.3]), limits)
    np.testing.assert_allclose(weights, [0.4, 0.3, 0.3], atol=1e-6)
    np.testing.assert_array_equal(intervention.long_cap, [True, False, False])


def test_every_limit_acts_and_is_named():
    free = rails.limits(3, leverage=2.0, max_short=1.0)
    asked = jnp.array([0.6, 0.5, -0.3])
    held = jnp.array([0.5, 0.4, -0.2])

    def outcome(limits: rails.Limits, asked: jax.Array = asked) -> tuple[np.ndarray, set[str]]:
        weights, intervention = _project(asked, limits, held)
        names = ("invalid", "long_cap", "short_cap", "leverage", "cash", "turnover")
        return np.asarray(weights), {name for name in names if np.any(getattr(intervention, name))}

    cases = {
        "long_cap": (free.replace(max_weight=jnp.full(3, 0.55)), [0.55, 0.5, -0.3]),
        "short_cap": (free.replace(max_short=jnp.zeros(3)), [0.6, 0.5, 0.0]),
        "leverage": (free.replace(leverage=jnp.float32(1.1)), [0.5, 0.4, -0.2]),
        "cash": (free.replace(cash_floor=jnp.float32(-0.1)), [0.5, 0.4, -0.2]),
        "turnover": (free.replace(turnover=jnp.float32(0.15)), [0.55, 0.45, -0.25]),
    }
    assert outcome(free)[1] == set()
    np.testing.assert_array_equal(outcome(free)[0], asked)
    for name, (limits, expected) in cases.items():
        weights, names = outcome(limits)
        assert names == {name}
        np.testing.assert_allclose(weights, expected, atol=1e-6)


@pytest.mark.parametrize("hostile", [np.nan, np.inf, -np.inf, 1e30])
def test_a_weight_that_is_no_number_is_held_and_reported(hostile):
    limits = rails.limits(3, max_weight=0.5)
    asked = jnp.array([hostile, 0.2, 0.7])
    weights, intervention = _project(asked, limits, jnp.array([0.1, 0.1, 0.1]))
    np.testing.assert_allclose(weights, [0.1, 0.2, 0.5], atol=1e-6)
    np.testing.assert_array_equal(intervention.invalid, [True, False, False])
    np.testing.assert_allclose(_project(asked, limits)[0], [0.0, 0.2, 0.5], atol=1e-6)


def test_gradients_are_those_of_the_projection():
    limits = rails.limits(4, max_weight=0.4, leverage=1.0)
    asked = jnp.array([0.9, 0.5, 0.45, 0.01])
    jacobian = jax.jit(jax.jacrev(lambda w: rails.project(w, limits)[0]))(asked)
    # The capped product is stuck; the dearest gross exposure pushes the last to zero; the two others share the rest.
    expected = np.zeros((4, 4))
    expected[1:3, 1:3] = [[0.5, -0.5], [-0.5, 0.5]]
    np.testing.assert_allclose(jacobian, expected, atol=1e-6)
    feasible = jnp.array([0.2, 0.2, 0.2, 0.2])
    np.testing.assert_array_equal(jax.jacrev(lambda w: rails.project(w, limits)[0])(feasible), np.eye(4))


@given(seed=_seeds, signed=st.booleans())
def test_gradients_with_turnover_equal_differences_where_the_active_limits_stay(seed, signed):
    asked, held, limits = _problem(seed, 5, signed)
    direction = np.random.default_rng(seed).normal(size=5).astype(np.float32)

    points = [np.asarray(_along(s, asked, direction, limits, held)) for s in (-1e-2, 0.0, 1e-2)]
    if np.abs(points[0] + points[2] - 2 * points[1]).max() > 2e-6:
        return  # a kink lies between
    np.testing.assert_allclose(_slope(0.0, asked, direction, limits, held), (points[2] - points[0]) / 2e-2, atol=1e-3)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"leverage": 1.5, "cash_floor": 0.1}, ["leverage", "cash_floor"]),
        ({"leverage": 1.0, "max_weight": 0.2}, ["leverage", "max_weight"]),
        ({"leverage": np.nan}, ["leverage"]),
        ({"leverage": 0.0}, ["leverage"]),
        ({"turnover": np.inf}, ["turnover"]),
        ({"turnover": -0.1}, ["turnover"]),
        ({"cash_floor": 1.0}, ["cash_floor"]),
        ({"cash_floor": np.nan}, ["cash_floor"]),
        ({"max_weight": -0.1}, ["max_weight"]),
        ({"max_weight": [0.1, np.nan, 0.1]}, ["max_weight"]),
        ({"max_weight": [0.1, 0.1]}, ["max_weight"]),
        ({"max_weight": 0.0}, ["max_weight", "max_short"]),
    ],
)
def test_limits_that_cannot_be_met_are_refused_by_name(arguments, named):
    with pytest.raises(InputError) as error:
        rails.limits(3, **arguments)
    assert all(name in str(error.value) for name in named)


def test_limits_left_out_follow_from_those_given():
    assert float(rails.limits(10, cash_floor=0.2).gross) == pytest.approx(0.8)
    assert float(rails.limits(2, max_weight=0.3).gross) == pytest.approx(0.6)
    assert float(rails.limits(2, leverage=1.5).gross) == pytest.approx(1.5)
    with pytest.raises(InputError, match="at least 1"):
        rails.limits(0)


def test_one_trace_serves_all_limits_and_batches():
    project = jax.jit(chex.assert_max_traces(rails.project, n=1))
    for leverage in (0.5, 1.0):
        project(jnp.ones(3), rails.limits(3, leverage=leverage))
    limits = jax.tree.map(lambda *x: jnp.stack(x), rails.limits(3, leverage=0.5), rails.limits(3, leverage=1.0))
    weights, _ = jax.vmap(rails.project)(jnp.ones((2, 3)), limits)
    np.testing.assert_allclose(weights.sum(1), [0.5, 1.0], atol=1e-6)


@pytest.mark.parametrize("unit", [1e-5, 1.0])
def test_volatility_scale_reaches_the_target_from_above_and_leaves_less_alone(unit):
    rng = np.random.default_rng(0)
    covariance = jnp.asarray(np.cov(rng.normal(size=(40, 4)).T) * unit**2, jnp.float32)
    weights = jnp.array([0.4, 0.3, -0.2, 0.1])
    volatility = float(
        np.sqrt(np.asarray(weights, np.float64) @ np.asarray(covariance, np.float64) @ np.asarray(weights))
    )
    assert float(rails.volatility_scale(weights, covariance, 0.5 * volatility)) == pytest.approx(0.5, rel=1e-5)
    assert float(rails.volatility_scale(weights, covariance, 2 * volatility)) == 1.0
    assert float(rails.volatility_scale(weights, covariance, 2 * volatility, 3.0)) == pytest.approx(2.0, rel=1e-5)
    assert float(rails.volatility_scale(jnp.zeros(4), covariance, 0.1)) == 1.0
    gradient = jax.grad(lambda w: rails.volatility_scale(w, covariance, 0.1).sum())(jnp.zeros(4))
    assert np.isfinite(gradient).all()


def _brake_path(equity: list[float], **arguments) -> list[float]:
    params = rails.brake(**arguments)
    _, scales = jax.lax.scan(
        lambda state, e: rails.apply_brake(state, e, params), rails.released(equity[0]), jnp.array(equity)
    )
    return scales.tolist()


def test_brake_goes_on_at_the_limit_and_off_only_after_recovery():
    path = [100, 120, 109, 108, 110, 113, 114.5, 109, 107]
    assert _brake_path(path, drawdown=0.1, recovery=0.05, cooldown=100) == [1, 1, 1, 0, 0, 0, 1, 1, 0]


def test_brake_goes_off_after_the_cool_down_and_measures_from_there():
    flat = [100, 85, 85, 85, 85, 85, 84, 76]
    assert _brake_path(flat, drawdown=0.1, recovery=0.02, cooldown=3) == [1, 0, 0, 0, 1, 1, 1, 0]


@given(seed=_seeds)
def test_no_loss_from_the_peak_goes_beyond_the_limit_but_for_the_step_that_reaches_it(seed):
    rng = np.random.default_rng(seed)
    params = rails.brake(0.1, cooldown=10**6)
    apply = jax.jit(rails.apply_brake)
    equity, peak, state, scale = 1.0, 1.0, rails.released(1.0), 1.0
    for change in 0.02 * rng.standard_t(3, size=100).clip(-5, 5):
        before = 1 - equity / peak
        equity *= 1 + float(scale) * change
        peak = max(peak, equity)
        assert before < 0.1 + 1e-6 or 1 - equity / peak == pytest.approx(before)
        state, scale = apply(state, jnp.float32(equity), params)


@pytest.mark.parametrize("ruin", [0.0, -5.0, np.nan, np.inf])
def test_brake_stays_on_while_equity_is_gone(ruin):
    assert _brake_path([100.0, ruin, ruin, ruin, ruin], drawdown=0.5, cooldown=2) == [1, 0, 0, 0, 0]


@pytest.mark.parametrize(
    "arguments",
    [
        {"drawdown": 0.0},
        {"drawdown": np.nan},
        {"drawdown": 1.5},
        {"drawdown": 0.1, "recovery": 0.1},
        {"drawdown": 0.1, "recovery": np.nan},
        {"drawdown": 0.1, "cooldown": 0},
        {"drawdown": 0.1, "cooldown": 1.9},
        {"drawdown": 0.1, "cooldown": np.nan},
    ],
)
def test_brakes_that_make_no_sense_are_refused(arguments):
    with pytest.raises(InputError):
        rails.brake(**arguments)
