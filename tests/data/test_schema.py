"""MarketData refuses what later arithmetic could not hold, by step and product."""

import numpy as np
import pytest

from marljax.data.schema import InputError, MarketData
from tests.reference.books import random_market

ARRAYS = {
    name: np.asarray(value)
    for name, value in vars(random_market(n_steps=6)).items()
    if name not in ("products", "origin")
}


def build(**changes) -> MarketData:
    data = random_market(n_steps=6)
    return MarketData.build(products=data.products, origin="simulated", **(ARRAYS | changes))


def changed(name: str, value: int, index: tuple[int, ...] = (3, 1, 0)) -> np.ndarray:
    array = ARRAYS[name].astype(np.int64)
    array[index] = value
    return array


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("bid_size", -1, "a size is negative"),
        ("ask_size", 0, "a best level is absent"),
        ("bid_price", 10**6, "crossed or locked"),
        ("ask_price", 2**28, "beyond 2"),
        ("bid_size", 2**30 + 1, "more than 2"),
        ("bid_size", 2**40, "whole numbers within 32 bits"),
    ],
)
def test_a_broken_invariant_is_named_with_its_place(name, value, said):
    with pytest.raises(InputError, match=said) as error:
        build(**{name: changed(name, value)})
    if "32 bits" not in said:
        assert "step 3" in str(error.value)
        assert "'P1'" in str(error.value)


def test_time_that_does_not_increase_within_a_session_is_refused():
    with pytest.raises(InputError, match="seconds do not increase after step 2"):
        build(seconds=np.array([0, 1, 2, 2, 4, 5]))
