"""Limits of a configuration's numbers, so that an impossible one is refused by its name and not deep in a training."""

import math
from collections.abc import Callable
from typing import Any

from marljax.data.schema import InputError


def require(config: Any, wanted: str, holds: Callable[[float], bool], *names: str) -> None:
    """Raise InputError for the first of the fields `names` that is not finite or for which `holds` is false.

    A tuple is checked item by item. Arrays and tracers pass: what a sweep carries is not known when it is traced.
    """
    for name in names:
        value = getattr(config, name)
        for number in value if isinstance(value, tuple) else (value,):
            if not isinstance(number, int | float) or isinstance(number, bool):
                continue
            if not (math.isfinite(number) and holds(number)):
                raise InputError(f"{name} must be {wanted}, got {value!r}")


def require_counts(config: Any, *names: str) -> None:
    """Raise InputError for the first field below 1."""
    require(config, "at least 1", lambda x: x >= 1, *names)


def require_positive(config: Any, *names: str) -> None:
    """Raise InputError for the first field that is not positive and finite."""
    require(config, "positive and finite", lambda x: x > 0, *names)


def require_not_negative(config: Any, *names: str) -> None:
    """Raise InputError for the first field that is negative or not finite."""
    require(config, "finite and not negative", lambda x: x >= 0, *names)


def require_shares(config: Any, *names: str) -> None:
    """Raise InputError for the first field outside [0, 1]."""
    require(config, "within 0 to 1", lambda x: 0 <= x <= 1, *names)
