"""Stress of a moment: calm is neutral, and what a host asks for is checked."""

import dataclasses

import chex
import jax.numpy as jnp
import pytest

from marljax.lob.stress import BOUNDS, Stress, calm, stressed

FIELDS = [field.name for field in dataclasses.fields(Stress)]


def test_calm_multiplies_by_one_adds_nothing_and_is_balanced():
    ones = {"limit_rate", "market_rate", "cancel_rate", "size", "volatility"}
    assert {name for name, x in vars(calm()).items() if x == 1.0} == ones
    assert {name for name, x in vars(calm()).items() if x == 0.5} == {"buy_share"}
    assert {name for name, x in vars(calm()).items() if x == 0.0} == set(FIELDS) - ones - {"buy_share"}
    for leaf in vars(calm()).values():
        chex.assert_shape(leaf, ())
        chex.assert_type(leaf, jnp.float32)


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_changes_alone(name):
    changed = vars(stressed(**{name: 0.25}))
    assert changed.pop(name) == 0.25
    chex.assert_trees_all_equal(changed, {other: x for other, x in vars(calm()).items() if other != name})


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_out_of_bounds_is_refused_by_name_and_value(name):
    least, most = BOUNDS[name]
    for bad in (float("nan"), float("inf"), least - 0.125, most + 0.125):
        with pytest.raises(ValueError, match=rf"Stress\.{name} .*got {bad!r}"):
            stressed(**{name: bad})


def test_an_unknown_field_is_refused():
    with pytest.raises(ValueError, match="'limits'"):
        stressed(limits=1.0)
