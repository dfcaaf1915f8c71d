"""What a generator must beat: training books resampled in blocks, without learning anything.

The stationary bootstrap (Politis & Romano 1994) strings together blocks of consecutive rows whose lengths are geometric
and whose starts are uniform; with blocks of one row it is the iid bootstrap. Rows are resampled as moves, spreads,
gaps, sizes and trades of all products at once, so that what comes out is a valid book with real cross-sections.
"""

import numpy as np

from marljax.data.schema import InputError, MarketData, assert_not_synthetic
from marljax.generative.books import compose, decompose, market_data, select_rows
from marljax.generative.representation import Representation


def resampled_rows(
    joined: np.ndarray, n_sessions: int, n_steps: int, mean_block: float, generator: np.random.Generator
) -> np.ndarray:
    """int64[n_sessions, n_steps] rows to take: uniform starts, blocks of geometric length with mean `mean_block`.

    Only rows that continue the one before (`joined` bool[T]) are drawn, and a block ends where the next does not.
    """
    usable = np.flatnonzero(joined)
    fresh = generator.choice(usable, (n_sessions, n_steps))
    ends = generator.random((n_sessions, n_steps)) < 1.0 / mean_block
    goes_on = np.append(joined[1:], False)
    rows = fresh.copy()
    for t in range(1, n_steps):
        last = rows[:, t - 1]
        rows[:, t] = np.where(ends[:, t] | ~goes_on[last], fresh[:, t], last + 1)
    return rows


def stationary_bootstrap(
    representation: Representation,
    training: MarketData,
    *,
    n_sessions: int,
    n_steps: int,
    mean_block: float,
    seed: int,
) -> MarketData:
    """Sessions 0..n_sessions-1 of resampled training rows, origin synthetic, each from a real row's prices.

    `mean_block` is the mean length of a block [steps], at least 1. Where two blocks meet, a mid that the spread does
    not allow moves to the nearest that it does, half a tick away. Raises InputError where the training part is
    synthetic, or none of its rows continues the one before.
    """
    assert_not_synthetic(training, "a bootstrap of real books")
    if mean_block < 1:
        raise InputError(f"a bootstrap's blocks have at least one step, got a mean of {mean_block}")
    parts, joined = decompose(training)
    if not joined.any():
        raise InputError("the training part has no row that continues the one before")
    generator = np.random.default_rng(seed)
    rows = resampled_rows(joined, n_sessions, n_steps, mean_block, generator)
    first = np.asarray(training.double_mid)[generator.choice(np.flatnonzero(joined), n_sessions)]
    paths = [
        np.asarray(compose(select_rows(parts, taken), start, representation.mid_bounds))
        for taken, start in zip(rows, first, strict=True)
    ]
    seconds = np.arange(n_steps) * float(representation.step_seconds)
    books = market_data(
        select_rows(parts, rows.reshape(-1)),
        np.concatenate(paths),
        seconds=np.tile(seconds, n_sessions),
        session=np.repeat(np.arange(n_sessions), n_steps),
        products=training.products,
        origin="synthetic",
    )
    arrays = {name: value for name, value in vars(books).items() if name not in ("products", "origin")}
    return MarketData.build(products=books.products, origin=books.origin, **arrays)


def iid_bootstrap(
    representation: Representation, training: MarketData, *, n_sessions: int, n_steps: int, seed: int
) -> MarketData:
    """The stationary bootstrap with blocks of one row: real cross-sections, no memory."""
    return stationary_bootstrap(
        representation, training, n_sessions=n_sessions, n_steps=n_steps, mean_block=1.0, seed=seed
    )
