"""Trailing statistics that know where a session begins.

Everything here runs along axis 0 of `[T]` or `[T, K]` and takes `age` int32[T], the steps since the session's first
row: a window never reaches beyond that row, so that overnight gaps and stitched episodes do not bleed into each
other. Until a session is long enough a window is simply shorter. Sums double their reach (1, 2, 4, ... steps)
instead of differencing one long running sum: float32 would lose the small against the large, and a row would depend
on how long the series before it is.
"""

import jax
import jax.numpy as jnp


def session_age(session: jax.Array, valid: jax.Array) -> jax.Array:
    """int32[T] steps since the product's session began: 0 at its first row and until its first observed book.

    `session` int32[T], `valid` bool[T]. A row before the first observation still shows the last session's book; the
    step away from it is an overnight gap, whatever the clock says.
    """
    step = jnp.arange(session.shape[0], dtype=jnp.int32)
    starts = jnp.concatenate([jnp.ones(1, bool), session[1:] != session[:-1]])
    start = jax.lax.cummax(jnp.where(starts, step, 0))
    last_observed = jax.lax.cummax(jnp.where(valid, step, -1))
    observed_before = jnp.concatenate([jnp.zeros(1, bool), (last_observed >= start)[:-1]])
    return step - jax.lax.cummax(jnp.where(starts | ~observed_before, step, 0))


def lag(x: jax.Array, steps: int | jax.Array, age: jax.Array) -> jax.Array:
    """x `steps` rows ago, 0 where that lies before the session: shape and dtype of x."""
    padded = jnp.concatenate([jnp.zeros_like(x), x])
    earlier = jax.lax.dynamic_slice_in_dim(padded, x.shape[0] - steps, x.shape[0])
    return jnp.where(_along(age, x) >= steps, earlier, jnp.zeros_like(x))


def changes(x: jax.Array, age: jax.Array) -> jax.Array:
    """float32, x less its row before, 0 at a session's first row. Integers are subtracted before the cast: exact."""
    before = jnp.where(_along(age, x) > 0, jnp.concatenate([x[:1], x[:-1]]), x)
    return (x - before).astype(jnp.float32)


def flows(x: jax.Array, age: jax.Array) -> jax.Array:
    """float32, what happened since the row before: x, but 0 at a session's first row, which has none before it."""
    return jnp.where(_along(age, x) > 0, x, jnp.zeros_like(x)).astype(jnp.float32)


def rolling_sum(x: jax.Array, age: jax.Array, window: int) -> jax.Array:
    """float32, sum over the last `window` rows of the session (fewer where it is younger)."""

    def double(bit: jax.Array, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        block, total, covered = carry
        length = 1 << bit
        in_window = (window & length) > 0
        total = jnp.where(in_window, total + lag(block, covered, age), total)
        return block + lag(block, length, age), total, covered + jnp.where(in_window, length, 0)

    x = x.astype(jnp.float32)
    start = (x, jnp.zeros_like(x), jnp.int32(0))
    return jax.lax.fori_loop(0, window.bit_length(), double, start)[1]


def rolling_mean(x: jax.Array, age: jax.Array, window: int) -> jax.Array:
    """float32, mean over the last `window` rows of the session (fewer where it is younger)."""
    count = jnp.minimum(age + 1, window)
    return rolling_sum(x, age, window) / _along(count, x)


def rolling_flow_mean(x: jax.Array, age: jax.Array, window: int) -> jax.Array:
    """float32, mean of `flows(x)` over the last `window` steps of the session; 0 at its first row, which has none."""
    count = jnp.clip(age, 1, window)
    return rolling_sum(flows(x, age), age, window) / _along(count, x)


def rolling_deviation(x: jax.Array, age: jax.Array, window: int) -> tuple[jax.Array, jax.Array]:
    """float32 x less its rolling mean, and float32 its rolling (population) variance.

    Both are taken relative to the latest row, which no window mean is further from than (window - 1) standard
    deviations over the square root of the window: what cancels is bounded, however large the level of x.
    """

    def add(steps: jax.Array, sums: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        inside = _along(age, x) >= steps
        distance = jnp.where(inside, lag(x, steps, age) - x, jnp.zeros_like(x)).astype(jnp.float32)
        return sums[0] + distance, sums[1] + distance**2

    zeros = jnp.zeros(x.shape, jnp.float32)
    first, second = jax.lax.fori_loop(1, window, add, (zeros, zeros))
    count = _along(jnp.minimum(age + 1, window), x)
    mean = first / count
    return -mean, jnp.maximum(second / count - mean**2, 0.0)


def linear_recurrence(decay: jax.Array, drive: jax.Array) -> jax.Array:
    """float32[T] h with h_t = decay_t h_{t-1} + drive_t, in log T parallel steps (Hillis and Steele, 1986).

    `decay` must be 0 at a session's first row, which is what forgets the session before.
    """
    n_steps = drive.shape[0]
    everywhere = jnp.full(n_steps, n_steps, jnp.int32)

    def double(bit: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        gain, value = carry
        return gain * lag(gain, 1 << bit, everywhere), value + gain * lag(value, 1 << bit, everywhere)

    return jax.lax.fori_loop(0, max(n_steps - 1, 1).bit_length(), double, (decay, drive))[1]


def ratio(numerator: jax.Array, denominator: jax.Array, otherwise: float = 0.0) -> jax.Array:
    """numerator / denominator, and `otherwise` where the denominator is not positive. Its gradient is finite too."""
    positive = denominator > 0
    return jnp.where(positive, numerator / jnp.where(positive, denominator, 1.0), otherwise)


def root(x: jax.Array) -> jax.Array:
    """Square root whose gradient at 0 is 0 instead of infinite."""
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1.0)), 0.0)


def _along(age: jax.Array, x: jax.Array) -> jax.Array:
    return age.reshape(age.shape + (1,) * (x.ndim - 1))
