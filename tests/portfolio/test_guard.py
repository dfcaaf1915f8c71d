"""Every guardrail in turn, as one function of what was asked for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marljax.data.schema import InputError
from marljax.portfolio import guardrails as rails

_guard = jax.jit(rails.guard)
_COVARIANCE = jnp.asarray(np.diag([0.1, 0.2, 0.4]) @ (0.5 * np.eye(3) + 0.5) @ np.diag([0.1, 0.2, 0.4]), jnp.float32)
_FREE = rails.limits(3, leverage=2.0, max_short=1.0)


def _risk(weights: np.ndarray) -> float:
    w = np.asarray(weights, np.float64)
    return float(np.sqrt(w @ np.asarray(_COVARIANCE, np.float64) @ w))


def _granted(guardrails: rails.Guardrails, asked: list[float], equity: float = 1.0, held=(0.0, 0.0, 0.0)):
    _, granted, done = _guard(
        guardrails, rails.released(1.0), jnp.array(asked), jnp.array(held), _COVARIANCE, jnp.float32(equity)
    )
    return np.asarray(granted), done


def test_without_guardrails_but_the_caps_what_is_allowed_comes_back_bit_by_bit():
    asked = [0.3, -0.2, 0.1]
    granted, done = _granted(rails.guardrails(_FREE), asked)
    np.testing.assert_array_equal(granted, np.float32(asked))
    assert not bool(done.any)


def test_a_risk_budget_caps_what_each_agent_could_lose_alone_on_either_side():
    granted, done = _granted(rails.guardrails(_FREE, risk_budget=[0.05, 0.05, 0.05]), [0.7, -0.5, 0.1])
    np.testing.assert_allclose(granted, [0.5, -0.25, 0.1], atol=1e-6)
    np.testing.assert_array_equal(done.risk_budget, [True, True, False])
    assert not np.any(done.long_cap)
    assert not np.any(done.short_cap)


def test_an_agent_whose_risk_is_unknown_gets_no_capital_under_a_risk_budget_and_one_without_risk_is_not_limited():
    covariance = _COVARIANCE.at[0, 0].set(jnp.nan).at[2, 2].set(0.0)
    guardrails = rails.guardrails(_FREE, risk_budget=0.05)
    _, granted, _ = _guard(
        guardrails, rails.released(1.0), jnp.array([0.3, 0.1, 0.6]), jnp.zeros(3), covariance, jnp.float32(1.0)
    )
    np.testing.assert_allclose(granted, [0.0, 0.1, 0.6], atol=1e-6)


def test_a_volatility_target_scales_all_weights_to_it_and_leaves_less_alone():
    asked = [0.5, 0.4, 0.3]
    granted, done = _granted(rails.guardrails(_FREE, volatility_target=0.1), asked)
    assert _risk(granted) == pytest.approx(0.1, rel=1e-5)
    np.testing.assert_allclose(granted / np.float32(asked), 0.1 / _risk(np.array(asked)), rtol=1e-5)
    assert float(done.volatility) == pytest.approx(0.1 / _risk(np.array(asked)), rel=1e-5)
    again, nothing = _granted(rails.guardrails(_FREE, volatility_target=0.1), granted.tolist())
    np.testing.assert_array_equal(again, granted)
    assert not bool(nothing.any)


def test_unknown_portfolio_risk_under_a_volatility_target_gets_no_capital():
    covariance = jnp.full((3, 3), jnp.nan)
    guardrails = rails.guardrails(_FREE, volatility_target=0.1)
    _, granted, done = _guard(
        guardrails, rails.released(1.0), jnp.array([0.3, 0.1, 0.6]), jnp.zeros(3), covariance, jnp.float32(1.0)
    )
    np.testing.assert_array_equal(granted, 0.0)
    assert float(done.volatility) == 0


def test_a_drawdown_sells_everything_whatever_turnover_allows_and_says_by_how_much():
    limits = rails.limits(3, leverage=2.0, max_short=1.0, turnover=0.2)
    guardrails = rails.guardrails(limits, brake=rails.brake(0.1))
    granted, done = _granted(guardrails, [0.3, 0.3, 0.3], equity=0.89, held=(0.3, 0.3, 0.3))
    np.testing.assert_array_equal(granted, 0.0)
    assert bool(done.brake)
    assert float(done.overdraft) == pytest.approx(0.7, abs=1e-6)
    _, done = _granted(guardrails, [0.3, 0.3, 0.3], equity=0.91, held=(0.3, 0.3, 0.3))
    assert not bool(done.any)


@given(seed=st.integers(0, 10**6))
def test_whatever_is_asked_for_what_is_granted_is_within_every_guardrail(seed):
    rng = np.random.default_rng(seed)
    limits = rails.limits(3, leverage=1.0, max_weight=0.6, max_short=0.3, turnover=0.8)
    guardrails = rails.guardrails(limits, risk_budget=0.08, volatility_target=0.06, brake=rails.brake(0.1))
    asked = rng.normal(size=3) * 10.0 ** rng.integers(-2, 3)
    asked = np.where(rng.random(3) < 0.2, rng.choice([np.nan, np.inf, -np.inf], 3), asked)
    held = rng.normal(size=3) * 0.2
    held[rng.random(3) < 0.05] = np.nan
    granted, done = _granted(guardrails, asked.tolist(), equity=rng.choice([1.0, 0.8, np.nan]), held=held.tolist())
    assert np.isfinite(granted).all()
    assert np.abs(granted).sum() < 1.0 + 1e-6
    assert granted.max() < 0.6 + 1e-6
    assert granted.min() > -0.3 - 1e-6
    assert (np.abs(granted) * np.sqrt(np.diag(_COVARIANCE)) < 0.08 + 1e-6).all()
    assert _risk(granted) < 0.06 + 1e-6
    traded = np.abs(granted - np.nan_to_num(held)).sum()
    assert float(done.overdraft) == pytest.approx(max(traded - 0.8, 0.0), abs=1e-5)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"risk_budget": 0.02, "volatility_target": 0.1}, ["volatility_target", "risk_budget"]),
        ({"risk_budget": [0.1, 0.1]}, ["risk_budget"]),
        ({"risk_budget": 0.0}, ["risk_budget"]),
        ({"volatility_target": np.nan}, ["volatility_target"]),
        ({"volatility_target": 0.0}, ["volatility_target"]),
    ],
)
def test_guardrails_that_make_no_sense_are_refused_by_name(arguments, named):
    with pytest.raises(InputError) as error:
        rails.guardrails(_FREE, **arguments)
    assert all(name in str(error.value) for name in named)


def test_an_intervention_reads_as_words_that_name_the_limit_and_both_ends_of_the_move():
    names, held = ("GOOG", "AMZN", "AAPL"), (0.0, 0.0, 0.0)
    cases = [
        (
            rails.guardrails(rails.limits(3, max_weight=0.5)),
            [0.62, 0.1, 0.1],
            ["GOOG cut from 0.62 to 0.50 by max_weight"],
        ),
        (rails.guardrails(rails.limits(3)), [0.5, 0.4, 0.4], ["gross from 1.30 to 1.00 by leverage"]),
        (rails.guardrails(rails.limits(3)), [0.5, -0.1, 0.1], ["AMZN cut from -0.10 to 0.00 by max_short"]),
        (rails.guardrails(rails.limits(3, turnover=0.3)), [0.2, 0.2, 0.2], ["turnover from 0.60 to 0.30 by turnover"]),
        (rails.guardrails(_FREE, risk_budget=0.05), [0.7, 0.0, 0.0], ["GOOG cut from 0.70 to 0.50 by risk_budget"]),
        (
            rails.guardrails(_FREE, volatility_target=0.05),
            [1.0, 0.0, 0.0],
            ["gross from 1.00 to 0.50 by volatility_target"],
        ),
        (rails.guardrails(_FREE), [np.nan, 0.0, 0.0], ["GOOG held at 0.00: no number was asked for"]),
        (rails.guardrails(_FREE), [0.1, 0.0, 0.0], []),
    ]
    for guardrails, asked, words in cases:
        granted, done = _granted(guardrails, asked)
        assert rails.describe(done, granted, np.array(held), guardrails.limits, names) == words
    sectors = rails.guardrails(rails.limits(3, leverage=0.8, classes=[0, 0, 1], class_cap=[0.4, 0.4]))
    granted, done = _granted(sectors, [0.3, 0.3, 0.1])
    words = rails.describe(done, granted, np.array(held), sectors.limits, names, ("search", "hardware"))
    assert words == ["gross of class search from 0.60 to 0.40 by class_cap"]
    granted, done = _granted(rails.guardrails(_FREE, brake=rails.brake(0.1)), [0.3, 0.3, 0.1], equity=0.5)
    assert rails.describe(done, granted, np.array(held), _FREE, names) == [
        "everything sold by brake: gross from 0.70 to 0.00"
    ]


def test_unknown_risk_and_unknown_holdings_are_told_in_numbers():
    guardrails = rails.guardrails(rails.limits(3, turnover=0.3), volatility_target=0.05)
    unknown = jnp.full((3, 3), jnp.nan)
    held = jnp.array([jnp.nan, 0.0, 0.0])
    _, granted, done = rails.guard(guardrails, rails.released(1.0), jnp.full(3, 0.3), held, unknown, jnp.float32(1.0))
    assert granted.tolist() == [0.0, 0.0, 0.0]
    words = rails.describe(done, np.asarray(granted), np.asarray(held), guardrails.limits, ("a", "b", "c"))
    assert words[-1] == "gross from 0.90 to 0.00 by volatility_target"
    assert not any("nan" in phrase for phrase in words)
