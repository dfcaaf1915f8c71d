"""Class caps, long and short leverage together with everything else: the projection that couples all of them."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marljax.data.schema import InputError
from marljax.portfolio import guardrails as rails
from marljax.portfolio.feasible import least_turnover
from tests.reference import portfolio as reference

_project = jax.jit(rails.project)
_seeds = st.integers(0, 10**6)
_N_CLASSES = 3
_N_PRODUCTS = 7


def _problem(seed: int, signed: bool, rounded: bool) -> tuple[np.ndarray, np.ndarray, rails.Limits]:
    """Weights asked for, held and limits, any of which may bind; ties where `rounded`, and caps of zero at times."""
    rng, n = np.random.default_rng(seed), _N_PRODUCTS
    asked = rng.normal(size=n) * rng.choice([0.1, 1, 3])
    held = rng.normal(size=n) * rng.choice([0.0, 0.02, 0.1, 0.5])
    caps = rng.uniform(0, 1, n) * rng.choice([0.3, 1, 2]) * (rng.random(n) > 0.1)
    class_cap = rng.uniform(0.05, 1, _N_CLASSES) * rng.choice([0.3, 1])
    gross = rng.uniform(0.1, 1.5)
    if rounded:
        asked, held, caps = np.round(4 * asked) / 4, np.round(8 * held) / 8, np.round(4 * caps) / 4
        class_cap = np.full(_N_CLASSES, gross / _N_CLASSES)
        class_cap[0] *= rng.integers(2)
    limits = rails.Limits(
        max_weight=jnp.asarray(caps, jnp.float32),
        max_short=jnp.asarray(rng.uniform(0, 1, n) * signed, jnp.float32),
        leverage=jnp.float32(gross),
        cash_floor=jnp.float32(-1),
        turnover=jnp.float32(rng.uniform(0.01, 1)),
        long_leverage=jnp.float32(gross * rng.uniform(0.3, 1)),
        short_leverage=jnp.float32(gross * rng.uniform(0.2, 1)),
        classes=jnp.asarray(rng.integers(0, _N_CLASSES, n), jnp.int32),
        class_cap=jnp.asarray(class_cap, jnp.float32),
    )
    return asked.astype(np.float32), (held if signed else np.abs(held)).astype(np.float32), limits


def _expected(
    asked: np.ndarray, limits: rails.Limits, held: np.ndarray | None = None, turnover: float = 0.0
) -> np.ndarray:
    low, high = -np.asarray(limits.max_short, np.float64), np.asarray(limits.max_weight, np.float64)
    return reference.project(
        asked.astype(np.float64),
        low,
        high,
        float(limits.gross),
        None if held is None else held.astype(np.float64),
        turnover,
        float(limits.long_leverage),
        float(limits.short_leverage),
        np.asarray(limits.classes),
        np.asarray(limits.class_cap, np.float64),
    )


def _excess(weights: jax.Array, limits: rails.Limits) -> float:
    """How far the weights stand beyond the worst of all limits but turnover."""
    w, classes = np.asarray(weights, np.float64), np.asarray(limits.classes)
    beyond = [
        np.max(w - np.asarray(limits.max_weight)),
        np.max(-np.asarray(limits.max_short) - w),
        np.abs(w).sum() - float(limits.gross),
        np.maximum(w, 0).sum() - float(limits.long_leverage),
        np.maximum(-w, 0).sum() - float(limits.short_leverage),
    ]
    beyond += [np.abs(w[classes == c]).sum() - float(limits.class_cap[c]) for c in range(_N_CLASSES)]
    return float(max(beyond))


@given(seed=_seeds, signed=st.booleans(), rounded=st.booleans())
def test_projection_on_all_limits_is_feasible_idempotent_and_the_identity_on_what_is_allowed(seed, signed, rounded):
    asked, held, limits = _problem(seed, signed, rounded)
    for previous in (None, held):
        weights, intervention = _project(asked, limits, previous)
        assert _excess(weights, limits) < 1e-6
        again, nothing = _project(weights, limits, previous)
        np.testing.assert_array_equal(again, weights)
        assert not bool(nothing.any)
        assert float(nothing.distance) == 0
        assert bool(intervention.any) == (not np.array_equal(weights, asked))
    allowed = np.asarray(_project(asked, limits)[0]) * np.float32(0.5)
    np.testing.assert_array_equal(_project(allowed, limits)[0], allowed)


@given(seed=_seeds, signed=st.booleans())
def test_projection_on_all_limits_is_the_nearest_point_of_a_quadratic_program(seed, signed):
    asked, held, limits = _problem(seed, signed, rounded=False)
    np.testing.assert_allclose(_project(asked, limits)[0], _expected(asked, limits), atol=1e-5)
    inside = (0.9 * _expected(held, limits)).astype(np.float32)
    weights, intervention = _project(asked, limits, inside)
    expected = _expected(asked, limits, inside, float(limits.turnover))
    np.testing.assert_allclose(weights, expected, atol=1e-5)
    assert np.abs(np.asarray(weights, np.float64) - inside).sum() < float(limits.turnover) + 1e-6
    assert float(intervention.distance) == pytest.approx(np.linalg.norm(expected - asked), abs=1e-5)


@given(seed=_seeds, signed=st.booleans(), rounded=st.booleans())
def test_least_turnover_back_inside_is_that_of_a_linear_program(seed, signed, rounded):
    _, held, limits = _problem(seed, signed, rounded)
    least = float(least_turnover(jnp.asarray(held), limits))
    assert least == pytest.approx(reference.least_turnover(held, *_arrays(limits)), abs=1e-5)


def _arrays(limits: rails.Limits) -> tuple[np.ndarray, ...]:
    names = ("max_short", "max_weight", "gross", "long_leverage", "short_leverage", "classes", "class_cap")
    return tuple(np.asarray(getattr(limits, name)) for name in names)


@given(seed=_seeds, signed=st.booleans(), rounded=st.booleans())
def test_what_drifted_outside_comes_back_by_no_more_than_the_least_turnover(seed, signed, rounded):
    asked, held, limits = _problem(seed, signed, rounded)
    weights, intervention = _project(asked, limits, held)
    traded = np.abs(np.asarray(weights, np.float64) - held).sum()
    least = reference.least_turnover(held, *_arrays(limits))
    assert traded < max(least, float(limits.turnover)) + 5e-6
    assert float(intervention.overdraft) == pytest.approx(max(traded - float(limits.turnover), 0), abs=1e-5)


@jax.jit
def _along(step, asked, direction, limits, held):
    return rails.project(asked + step * direction, limits, held)[0]


_slope = jax.jit(jax.jacrev(_along))


@given(seed=_seeds, signed=st.booleans())
def test_gradients_equal_differences_where_the_binding_limits_stay(seed, signed):
    asked, held, limits = _problem(seed, signed, rounded=False)
    direction = np.random.default_rng(seed).normal(size=_N_PRODUCTS).astype(np.float32)
    points = [np.asarray(_along(s, asked, direction, limits, held)) for s in (-1e-2, 0.0, 1e-2)]
    if np.abs(points[0] + points[2] - 2 * points[1]).max() > 2e-6:
        return  # a kink lies between
    np.testing.assert_allclose(_slope(0.0, asked, direction, limits, held), (points[2] - points[0]) / 2e-2, atol=1e-3)


def test_every_coupled_limit_acts_alone_and_is_named():
    asked = jnp.array([0.6, 0.4, -0.2, -0.4])
    free = {"max_short": 1.0, "leverage": 2.0}
    cases = {
        "long_leverage": ({"long_leverage": 0.8}, [0.5, 0.3, -0.2, -0.4]),
        "short_leverage": ({"short_leverage": 0.4}, [0.6, 0.4, -0.1, -0.3]),
        "class_cap": ({"classes": [0, 1, 0, 1], "class_cap": [0.6, 1.5]}, [0.5, 0.4, -0.1, -0.4]),
    }
    for name, (arguments, expected) in cases.items():
        weights, done = _project(asked, rails.limits(4, **free, **arguments))
        np.testing.assert_allclose(weights, expected, atol=1e-6)
        acted = (
            "long_leverage",
            "short_leverage",
            "class_cap",
            "leverage",
            "cash",
            "turnover",
            "long_cap",
            "short_cap",
        )
        assert {n for n in acted if np.any(getattr(done, n))} == {name}
    _, done = _project(asked, rails.limits(4, **free, classes=[0, 1, 0, 1], class_cap=[0.6, 1.5]))
    np.testing.assert_array_equal(done.class_cap, [True, False])


def test_limits_that_never_bind_leave_the_shorter_program_s_answer():
    rng = np.random.default_rng(0)
    plain = rails.limits(8, max_weight=0.4, max_short=0.4, leverage=1.0, turnover=0.5)
    loose = rails.limits(
        8, max_weight=0.4, max_short=0.4, leverage=1.0, turnover=0.5, classes=np.arange(8) % 2, class_cap=2.0
    )
    for _ in range(20):
        asked, held = (rng.normal(size=8).astype(np.float32) * s for s in (0.5, 0.05))
        short, long = _project(asked, plain, held), _project(asked, loose, held)
        np.testing.assert_allclose(long[0], short[0], atol=2e-6)
        assert bool(long[1].leverage) == bool(short[1].leverage)
        assert bool(long[1].turnover) == bool(short[1].turnover)


@pytest.mark.parametrize(
    ("arguments", "pair"),
    [
        ({"leverage": 1.5, "cash_floor": 0.1}, ["leverage", "cash_floor"]),
        ({"leverage": 1.0, "max_weight": 0.2}, ["leverage", "max_weight"]),
        ({"leverage": 1.0, "classes": [0, 0, 1], "class_cap": 0.4}, ["leverage", "class_cap"]),
        (
            {"leverage": 1.0, "max_short": 1.0, "long_leverage": 0.5, "short_leverage": 0.4},
            ["leverage", "long_leverage and short_leverage"],
        ),
        ({"leverage": 1.0, "long_leverage": 1.2}, ["long_leverage", "leverage"]),
        ({"leverage": 1.0, "max_short": 1.0, "short_leverage": 1.2}, ["short_leverage", "leverage"]),
        ({"long_leverage": 0.8, "max_weight": 0.2}, ["long_leverage", "max_weight"]),
        ({"long_leverage": 0.9, "classes": [0, 0, 1], "class_cap": 0.4}, ["long_leverage", "and class_cap"]),
        (
            {"short_leverage": 0.9, "max_short": 0.3, "classes": [0, 0, 1], "class_cap": 0.4},
            ["short_leverage", "and class_cap"],
        ),
        ({"short_leverage": 0.3}, ["short_leverage", "max_short"]),
        ({"long_leverage": 0.9, "cash_floor": 0.2}, ["long_leverage", "cash_floor"]),
        ({"short_leverage": 0.9, "max_short": 1.0, "cash_floor": 0.2}, ["short_leverage", "cash_floor"]),
        ({"classes": [0, 1, 2]}, ["classes", "class_cap"]),
        ({"class_cap": 0.5}, ["classes", "class_cap"]),
        ({"classes": [0, 1, 3], "class_cap": [0.5, 0.5, 0.5]}, ["classes", "class_cap"]),
        ({"classes": [0, -1, 0], "class_cap": 0.5}, ["classes", "class_cap"]),
        ({"classes": [0, 1], "class_cap": 0.5}, ["classes", "3 integers"]),
        ({"classes": [0, 1, 0], "class_cap": 0.0}, ["class_cap", "nothing may be held"]),
        ({"classes": [0, 1, 0], "class_cap": [np.nan, 1.0]}, ["class_cap", "finite"]),
        ({"long_leverage": 0.0}, ["long_leverage", "positive"]),
    ],
)
def test_limits_that_conflict_are_refused_and_both_are_named(arguments, pair):
    with pytest.raises(InputError) as error:
        rails.limits(3, **arguments)
    assert all(name in str(error.value) for name in pair)


def test_long_and_short_leverage_make_the_gross_exposure_and_the_loan_that_they_need():
    limits = rails.limits(5, max_short=1.0, long_leverage=1.3, short_leverage=0.3)
    assert float(limits.gross) == pytest.approx(1.6)
    assert float(limits.cash_floor) == pytest.approx(-0.6)


def test_one_trace_serves_all_coupled_limits_and_batches():
    project = jax.jit(chex.assert_max_traces(rails.project, n=1))
    both = [rails.limits(4, classes=[0, 0, 1, 1], class_cap=cap, leverage=0.5) for cap in (0.4, 0.5)]
    for limits in both:
        project(jnp.array([0.5, 0.5, 0.1, 0.1]), limits)
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *both)
    weights, _ = jax.vmap(rails.project, (None, 0))(jnp.array([0.9, 0.9, 0.0, 0.0]), stacked)
    np.testing.assert_allclose(weights[:, :2].sum(1), [0.4, 0.5], atol=1e-6)


@pytest.mark.parametrize("scale", [1e2, 1e3, 1e5])
@pytest.mark.parametrize("trades", [False, True])
def test_limits_hold_however_much_is_asked_for(scale, trades):
    """A network that has exploded is still a number, and no guardrail gives way to it."""
    for seed in range(40):
        asked, held, limits = _problem(seed, signed=seed % 2 == 0, rounded=False)
        inside, _ = _project(jnp.asarray(held), limits, None)
        granted, done = _project(jnp.asarray(scale * asked), limits, inside if trades else None)
        w, held = np.asarray(granted, np.float64), np.asarray(inside, np.float64)
        gross = float(limits.gross)
        sums = [
            np.max(w - limits.max_weight),
            np.max(-w - limits.max_short),
            np.abs(w).sum() - gross,
            np.maximum(w, 0).sum() - float(limits.long_leverage),
            np.maximum(-w, 0).sum() - float(limits.short_leverage),
            np.max(np.bincount(limits.classes, np.abs(w), minlength=_N_CLASSES) - np.asarray(limits.class_cap)),
            np.abs(w - held).sum() - float(limits.turnover) if trades else 0.0,
        ]
        assert max(sums) < 1e-6 * max(1.0, gross) + 1e-7, (seed, sums)
        np.testing.assert_allclose(done.moved, w - scale * asked, rtol=1e-5)
