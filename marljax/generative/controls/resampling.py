"""Controls without a model of the market: training rows strung together anew, and a vector autoregression.

The stationary bootstrap (Politis & Romano 1994) strings together blocks of consecutive rows whose lengths are geometric
and whose starts are uniform; with blocks of one row it is the iid bootstrap. Books are resampled as moves, spreads,
gaps, sizes and trades of all products at once, so that what comes out is a valid book with real cross-sections; plain
arrays as increments. Windows shuffled in time and a Gaussian VAR(1) calibrate a judge: the one keeps every marginal and
no order, the other the linear dependence of one step and nothing else.
"""

import numpy as np

from marljax.data.schema import InputError, MarketData
from marljax.generative.books import select_rows
from marljax.generative.controls.sessions import as_sessions, check_request, composed, training_parts
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
    parts, joined = training_parts(training, "a bootstrap of real books")
    check_request(n_sessions, n_steps)
    _check_block(mean_block)
    generator = np.random.default_rng(seed)
    rows = resampled_rows(joined, n_sessions, n_steps, mean_block, generator)
    start = np.asarray(training.double_mid)[generator.choice(np.flatnonzero(joined), n_sessions)]
    taken = select_rows(parts, rows)
    double_mid = composed(taken, start, representation.mid_bounds)
    return as_sessions(taken, double_mid, float(representation.step_seconds), training.products)


def iid_bootstrap(
    representation: Representation, training: MarketData, *, n_sessions: int, n_steps: int, seed: int
) -> MarketData:
    """The stationary bootstrap with blocks of one row: real cross-sections, no memory."""
    return stationary_bootstrap(
        representation, training, n_sessions=n_sessions, n_steps=n_steps, mean_block=1.0, seed=seed
    )


def block_bootstrap_paths(
    increments: np.ndarray,
    *,
    n_paths: int,
    n_steps: int,
    mean_block: float,
    seed: int,
    joined: np.ndarray | None = None,
) -> np.ndarray:
    """float[n_paths, n_steps, C] the stationary bootstrap of rows of `increments` float[T, C].

    `mean_block` is the mean length of a block [steps], at least 1. Rows where `joined` bool[T] is False begin a new
    stretch and are not drawn; without it all rows are one stretch. Raises InputError for what it cannot resample.
    """
    increments, joined = checked_increments(increments, joined)
    check_request(n_paths, n_steps)
    _check_block(mean_block)
    return increments[resampled_rows(joined, n_paths, n_steps, mean_block, np.random.default_rng(seed))]


def iid_bootstrap_paths(
    increments: np.ndarray, *, n_paths: int, n_steps: int, seed: int, joined: np.ndarray | None = None
) -> np.ndarray:
    """The bootstrap of increments with blocks of one row: real cross-sections, no memory."""
    return block_bootstrap_paths(increments, n_paths=n_paths, n_steps=n_steps, mean_block=1.0, seed=seed, joined=joined)


def shuffled_in_time(windows: np.ndarray, *, seed: int) -> np.ndarray:
    """float[N, W, C] the same windows, each with its steps in an order of its own; columns stay together."""
    if windows.ndim != 3:
        raise InputError(f"windows have the shape [N, W, C], got {windows.shape}")
    order = np.argsort(np.random.default_rng(seed).random(windows.shape[:2]), axis=1)
    return np.take_along_axis(windows, order[..., None], axis=1)


def var_paths(
    increments: np.ndarray, *, n_paths: int, n_steps: int, seed: int, joined: np.ndarray | None = None
) -> np.ndarray:
    """float64[n_paths, n_steps, C] of x' = c + A x + e, fitted to `increments` float[T, C] by least squares.

    e is Gaussian with the residuals' covariance (Luetkepohl 2005, ch. 3). Each path follows a training row, which is
    no part of it. Raises InputError where A has an eigenvalue of modulus 1 or more, for paths would explode.
    """
    increments, joined = checked_increments(increments, joined)
    check_request(n_paths, n_steps)
    after = np.flatnonzero(joined[1:]) + 1
    n_columns = increments.shape[1]
    if len(after) <= 2 * n_columns:
        raise InputError(f"a VAR(1) of {n_columns} columns needs more than {len(after)} pairs of rows")
    before = np.column_stack([np.ones(len(after)), increments[after - 1]])
    coefficients = np.linalg.lstsq(before, increments[after], rcond=None)[0]
    residuals = increments[after] - before @ coefficients
    covariance = residuals.T @ residuals / (len(after) - n_columns - 1)
    radius = np.abs(np.linalg.eigvals(coefficients[1:])).max()
    if radius >= 1:
        raise InputError(f"the fitted VAR(1) is not stationary: an eigenvalue has modulus {radius:.4g}")
    generator = np.random.default_rng(seed)
    state = increments[generator.choice(after, n_paths)]
    noise = generator.multivariate_normal(np.zeros(n_columns), covariance, (n_paths, n_steps), method="eigh")
    paths = np.empty_like(noise)
    for t in range(n_steps):
        state = coefficients[0] + state @ coefficients[1:] + noise[:, t]
        paths[:, t] = state
    return paths


def checked_increments(increments: np.ndarray, joined: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """`increments` float[T, C] and `joined` bool[T] (all True where None). Raises InputError unless both are usable."""
    increments = np.asarray(increments)
    if increments.ndim != 2 or 0 in increments.shape or not np.isfinite(increments).all():
        raise InputError(f"increments must be finite, of the shape [T, C] and not empty, got {increments.shape}")
    joined = np.ones(len(increments), bool) if joined is None else np.asarray(joined, bool)
    if joined.shape != increments.shape[:1] or not joined.any():
        raise InputError(f"joined must be bool[{len(increments)}] and True somewhere, got the shape {joined.shape}")
    return increments, joined


def _check_block(mean_block: float) -> None:
    if not mean_block >= 1:
        raise InputError(f"a bootstrap's blocks have at least one step, got a mean of {mean_block}")
