"""The reader and the cleaning rules find what was planted in the embedded sample, and nothing else."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from marljax.data.clean import clean
from marljax.data.cleaning_report import CleaningReport
from marljax.data.readers import prosperity
from marljax.data.sample import DAYS, LISTINGS, STEPS
from marljax.data.schema import MarketData, RawBooks

FOLDER = Path(__file__).parents[2] / "data" / "sample"


@pytest.fixture(scope="module")
def faults() -> list[dict[str, Any]]:
    return json.loads((FOLDER / "truth.json").read_text())["faults"]


@pytest.fixture(scope="module")
def raw() -> RawBooks:
    return prosperity.read([FOLDER])


@pytest.fixture(scope="module")
def cleaned(raw: RawBooks) -> tuple[MarketData, CleaningReport]:
    return clean(raw)


def planted(faults: list[dict[str, Any]], report: CleaningReport, *kinds: str) -> list[int]:
    names = [product.name for product in report.products]
    return [sum(fault["kind"] in kinds for fault in faults if fault["product"] == name) for name in names]


def test_the_reader_takes_products_and_origin_from_the_folder(raw: RawBooks) -> None:
    assert raw.origin == "simulated"
    assert raw.n_levels == 3
    assert {product.name: product for product in raw.products} == {item.name: item.product for item in LISTINGS}


def test_each_rule_touches_exactly_the_rows_planted_for_it(
    faults: list[dict[str, Any]], cleaned: tuple[MarketData, CleaningReport]
) -> None:
    _, report = cleaned
    for found, kinds in (
        (report.dropped["duplicate_row"], ("duplicate",)),
        (report.touched["time_order"], ("out_of_order",)),
        (report.dropped["missing_side"], ("missing_side", "missing_best_value")),
        (report.touched["incomplete_level"], ("missing_deep_value",)),
        (report.dropped["crossed_book"], ("crossed", "locked")),
        (report.dropped["outlier"], ("outlier",)),
    ):
        assert found.tolist() == planted(faults, report, *kinds), kinds


def test_what_was_lost_is_filled_and_marked(
    faults: list[dict[str, Any]], cleaned: tuple[MarketData, CleaningReport]
) -> None:
    data, report = cleaned
    lost = planted(faults, report, "missing_side", "missing_best_value", "crossed", "locked", "outlier")
    for p, product in enumerate(report.products):
        lost[p] += sum(fault.get("rows", 0) for fault in faults if fault["product"] == product.name)
    assert data.n_steps == DAYS * STEPS
    assert (~np.asarray(data.valid)).sum(axis=0).tolist() == lost
    assert report.filled["alignment"].tolist() == lost
    assert report.trades_in > 0
    assert report.trades_kept >= 0.99 * report.trades_in


def test_clean_books_are_the_simulated_ones(cleaned: tuple[MarketData, CleaningReport]) -> None:
    data, _ = cleaned
    assert data.origin == "simulated"
    mid = np.asarray(data.double_mid) / 2
    largest = np.abs(np.diff(mid, axis=0))[np.diff(np.asarray(data.session)) == 0].max()
    assert largest < 30
    seconds = np.asarray(data.seconds).reshape(DAYS, STEPS)
    np.testing.assert_allclose(seconds, np.broadcast_to(12.0 * np.arange(STEPS), seconds.shape), rtol=1e-6)
