"""Walking forward over a recording: what is learned from the rows before a fold is judged on the fold, never else."""

from typing import NamedTuple

import numpy as np

from marljax.data.schema import InputError


class Fold(NamedTuple):
    """Rows of the recording: those learned from, and those judged on right after them."""

    train: slice
    test: slice


def folds(n_rows: int, first: int, *, train: int, test: int, periods: int) -> tuple[Fold, ...]:
    """Folds whose test parts follow one another from row `first` on, in whole rebalances of `periods` rows.

    Each is learned from the `train` rows before it; the last test part may be shorter than `test` rows, and what makes
    no whole rebalance is left out. Raises InputError where rows are missing before `first`, or there is nothing after.
    """
    if test % periods:
        raise InputError(f"a fold of {test} rows is not made of whole rebalances of {periods}")
    if first < train:
        raise InputError(f"there are {first} rows before the first fold, and it is to be learned from {train}")
    last = first + (n_rows - first) // periods * periods
    if last <= first:
        raise InputError(f"{n_rows} rows end before the first rebalance from row {first} on does")
    starts = range(first, last, test)
    return tuple(Fold(slice(start - train, start), slice(start, min(start + test, last))) for start in starts)


def fold_of(cut: tuple[Fold, ...], periods: int) -> np.ndarray:
    """int[N] the fold of every rebalance of the joined test parts."""
    return np.repeat(np.arange(len(cut)), [(fold.test.stop - fold.test.start) // periods for fold in cut])


def compounded(returns: np.ndarray, periods: int) -> np.ndarray:
    """float64[N, A] returns per rebalance from float64[N * periods, A] per row."""
    return np.prod(1.0 + returns.reshape(-1, periods, returns.shape[1]), axis=1) - 1.0
