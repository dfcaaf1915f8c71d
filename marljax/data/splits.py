"""Time-ordered splits of steps into training, validation and test parts, with purge and embargo between them.

Purge drops steps whose labels reach into the next part, embargo those whose features reach back (López
de Prado, Advances in Financial Machine Learning, chapter 7).
"""

import dataclasses
from collections.abc import Iterator

import numpy as np

from marljax.data.schema import InputError, MarketData

_FEWEST_SESSIONS = 3
"""From so many sessions on, parts are whole sessions."""


@dataclasses.dataclass(frozen=True)
class SplitConfig:
    """How steps are divided; the test part is what training and validation leave."""

    train: float = 0.6
    """Training part of the sessions, or of the steps where there are fewer than three sessions [1]."""
    validation: float = 0.2
    """Validation part [1]."""
    purge_steps: int = 16
    """Steps dropped from the end of a part that another follows [steps]: at least the horizon of a label."""
    embargo_steps: int = 16
    """Steps dropped from the start of a part that follows another [steps]."""

    def __post_init__(self) -> None:
        if not (self.train > 0 and self.validation > 0 and self.train + self.validation < 1):
            raise InputError(
                f"train {self.train!r} and validation {self.validation!r} must leave a part for each and test"
            )
        for name in ("purge_steps", "embargo_steps"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} must not be negative, got {getattr(self, name)!r}")


@dataclasses.dataclass(frozen=True)
class Split:
    """Rows of each part of MarketData, in time order and disjoint: `data.rows(part.start, part.stop)`."""

    train: slice
    validation: slice
    test: slice


def split(data: MarketData, config: SplitConfig | None = None) -> Split:
    """One split, by whole sessions where there are at least three, else by steps.

    Every part has at least one session or step; raises InputError where one would be empty.
    """
    config = config or SplitConfig()
    starts = _session_starts(data)
    units = starts if len(starts) - 1 >= _FEWEST_SESSIONS else np.arange(data.n_steps + 1)
    n = len(units) - 1
    if n < 3:
        raise InputError(f"{n} steps cannot be divided into training, validation and test")
    first = min(max(1, round(config.train * n)), n - 2)
    second = min(max(first + 1, round((config.train + config.validation) * n)), n - 1)
    return _parts((0, units[first], units[second], units[n]), config)


def walk_forward(
    data: MarketData, folds: int, config: SplitConfig | None = None, *, expanding: bool = True
) -> Iterator[Split]:
    """`folds` splits whose test parts follow one another and end with the data.

    Time is cut into `folds` + 2 equal blocks, of whole sessions where there are enough of them: fold i is validated on
    block i + 1 and tested on block i + 2, and trained on all blocks before, or on block i alone unless `expanding`. The
    fractions of `config` do not apply. Raises InputError where a part would be empty.
    """
    config = config or SplitConfig()
    if folds < 1:
        raise InputError(f"walk-forward needs at least one fold, got {folds!r}")
    starts = _session_starts(data)
    units = starts if len(starts) - 1 >= folds + 2 else np.arange(data.n_steps + 1)
    if len(units) - 1 < folds + 2:
        raise InputError(f"{len(units) - 1} steps cannot be divided into {folds + 2} blocks")
    edges = units[np.round(np.linspace(0, len(units) - 1, folds + 3)).astype(int)]
    for i in range(folds):
        yield _parts((0 if expanding else edges[i], edges[i + 1], edges[i + 2], edges[i + 3]), config)


def _session_starts(data: MarketData) -> np.ndarray:
    """int[sessions + 1] first step of every session, and the number of steps."""
    session = np.asarray(data.session)
    return np.concatenate([[0], np.flatnonzero(np.diff(session)) + 1, [len(session)]])


def _parts(edges: tuple[int, ...], config: SplitConfig) -> Split:
    """The parts between four edges, purged before an inner edge and embargoed after it."""
    parts = []
    for i, name in enumerate(("train", "validation", "test")):
        start = int(edges[i]) + (config.embargo_steps if i > 0 else 0)
        stop = int(edges[i + 1]) - (config.purge_steps if i < 2 else 0)
        if start >= stop:
            length = int(edges[i + 1]) - int(edges[i])
            raise InputError(
                f"the {name} part is empty: {length} steps less purge {config.purge_steps} and embargo "
                f"{config.embargo_steps}"
            )
        parts.append(slice(start, stop))
    return Split(*parts)
