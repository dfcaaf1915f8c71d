"""Splits keep time's order and never share a step."""

import dataclasses
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marljax.data.schema import InputError, MarketData, Product
from marljax.data.splits import SplitConfig, split, walk_forward


def market(lengths: list[int]) -> MarketData:
    n = sum(lengths)
    level, flat = np.ones((n, 1, 1), int), np.zeros((n, 1))
    arrays = dict.fromkeys(("bid_size", "ask_size"), level)
    arrays |= dict.fromkeys(("trade_volume", "trade_imbalance", "pnl"), flat)
    return MarketData.build(
        products=(Product("A"),),
        origin="simulated",
        bid_price=level,
        ask_price=level + 1,
        valid=flat == 0,
        seconds=np.concatenate([np.arange(m) for m in lengths]),
        session=np.repeat(np.arange(len(lengths)), lengths),
        **arrays,
    )


def rows_of(part: slice) -> range:
    return range(part.start, part.stop)


def test_three_sessions_are_one_part_each():
    parts = split(market([50, 60, 70]), SplitConfig(purge_steps=0, embargo_steps=0))
    assert (parts.train, parts.validation, parts.test) == (slice(0, 50), slice(50, 110), slice(110, 180))


def test_ten_sessions_divide_six_two_two_with_steps_dropped_between():
    parts = split(market([100] * 10), SplitConfig(purge_steps=5, embargo_steps=7))
    assert (parts.train, parts.validation, parts.test) == (slice(0, 595), slice(607, 795), slice(807, 1000))


def test_two_sessions_divide_by_steps():
    parts = split(market([100, 100]), SplitConfig(purge_steps=0, embargo_steps=0))
    assert (parts.train, parts.validation, parts.test) == (slice(0, 120), slice(120, 160), slice(160, 200))


@pytest.mark.parametrize("wrong", [{"train": 0.9, "validation": 0.1}, {"train": 0.0}, {"purge_steps": -1}])
def test_a_config_without_three_parts_is_refused(wrong):
    with pytest.raises(InputError):
        SplitConfig(**wrong)


def test_too_little_data_is_refused():
    with pytest.raises(InputError, match="validation part is empty: 8 steps less purge 16 and embargo 16"):
        split(market([40]))
    with pytest.raises(InputError, match="2 steps cannot be divided"):
        split(market([2]))


@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=8),
    train=st.floats(0.05, 0.9),
    share=st.floats(0.05, 0.95),
    purge=st.integers(0, 5),
    embargo=st.integers(0, 5),
    folds=st.integers(1, 4),
    expanding=st.booleans(),
)
def test_no_step_is_in_two_parts_and_time_only_goes_forward(lengths, train, share, purge, embargo, folds, expanding):
    data = market(lengths)
    config = SplitConfig(train, (1 - train) * share, purge, embargo)
    made = []
    for make in (lambda: [split(data, config)], lambda: list(walk_forward(data, folds, config, expanding=expanding))):
        try:
            made += make()
        except InputError:
            continue
    for parts in made:
        train_rows, validation_rows, test_rows = (rows_of(getattr(parts, f.name)) for f in dataclasses.fields(parts))
        assert train_rows[0] >= 0
        assert test_rows[-1] < data.n_steps
        assert validation_rows[0] - train_rows[-1] == test_rows[0] - validation_rows[-1] == purge + embargo + 1


@pytest.mark.parametrize(("lengths", "edges"), [([10] * 6, [0, 10, 20, 40, 50, 60]), ([50], [0, 10, 20, 30, 40, 50])])
def test_walk_forward_tests_every_block_after_the_first_two_once(lengths, edges):
    config = SplitConfig(purge_steps=0, embargo_steps=0)
    folds = list(walk_forward(market(lengths), 3, config))
    assert [fold.test for fold in folds] == [slice(a, b) for a, b in pairwise(edges[2:])]
    assert all(fold.train.start == 0 and fold.train.stop == fold.validation.start for fold in folds)
    rolling = list(walk_forward(market(lengths), 3, config, expanding=False))
    assert [fold.train.start for fold in rolling] == edges[:3]
