"""The nearest weights under any number of limits on sums of positions, by Newton's method on their prices.

A product's position is split where its effect on a limit changes: across zero from what is held, between zero and
held, and beyond held. In these parts every limit is linear, and the nearest weights are the nearest point of a box
within a few half-spaces. Given the prices (dual variables) each part is known; the prices minimise a convex, piecewise
quadratic function, on which Newton's method with an exact line search ends on the right piece after a handful of steps
(Keerthi and DeCoste, 2005, "A modified finite Newton method"). The program takes a fixed number, with damping that
alternates because no single one suits all ties. A linear equation on that piece then gives the weights, and their
gradients.
"""

import jax
import jax.numpy as jnp
from flax import struct

from marljax.portfolio.projection import tolerance

_DAMPING = (0.1, 0.3, 1.0, 3.0) * 8
_LEAST_DAMPING = 1e-4
_BISECTIONS = 16


@struct.dataclass
class Polytope:
    """Weights w with low <= w <= high, low <= 0 <= high, sums of positions within caps, and sum |w - held| <= turnover.

    Limit k is on sum longs[k] max(w, 0) + shorts[k] max(-w, 0). Turnover None is not limited, and held then unused.
    """

    low: jax.Array  # float32[P]
    high: jax.Array  # float32[P]
    longs: jax.Array  # float32[K, P] one where limit k counts a product's long position, else zero
    shorts: jax.Array  # float32[K, P] the same for its short position
    caps: jax.Array  # float32[K]
    held: jax.Array  # float32[P]
    turnover: jax.Array | None  # float32[]


@struct.dataclass
class _Parts:
    """The same as the nearest point to `wish` with 0 <= v <= length and marks @ v <= budget, for N parts, M limits."""

    wish: jax.Array  # float32[N]
    length: jax.Array  # float32[N]
    marks: jax.Array  # float32[M, N] what a unit of a part adds to a limit: one, zero or minus one
    budget: jax.Array  # float32[M]
    tolerance: jax.Array  # float32[M]


def _split(asked: jax.Array, region: Polytope) -> _Parts:
    """Every product's position in three parts: across zero, between zero and held, beyond held."""
    held = jnp.zeros_like(asked) if region.turnover is None else region.held
    is_short = held < 0
    side = jnp.where(is_short, -1.0, 1.0)
    held, wish = side * held, side * asked
    across, along = jnp.where(is_short, region.high, -region.low), jnp.where(is_short, -region.low, region.high)
    across_marks = jnp.where(is_short, region.longs, region.shorts)
    along_marks = jnp.where(is_short, region.shorts, region.longs)
    marks = jnp.concatenate([across_marks, along_marks, along_marks], axis=1)
    budget, slack = region.caps, tolerance(region.caps)
    if region.turnover is not None:
        one = jnp.ones_like(held)
        marks = jnp.concatenate([marks, jnp.concatenate([one, -one, one])[None]])
        budget = jnp.append(budget, region.turnover - held.sum())
        slack = jnp.append(slack, tolerance(region.turnover))
    return _Parts(
        wish=jnp.concatenate([-wish, wish, wish - held]),
        length=jnp.concatenate([across, jnp.minimum(held, along), jnp.maximum(along - held, 0.0)]),
        marks=marks,
        budget=budget,
        tolerance=slack,
    )


def _join(parts: jax.Array, length: jax.Array, region: Polytope) -> jax.Array:
    """The weights that the parts make, exactly the bound where they reach it."""
    is_short = jnp.zeros_like(region.low, bool) if region.turnover is None else region.held < 0
    across, between, beyond = jnp.split(parts, 3)
    along = jnp.where(is_short, -region.low, region.high)
    full = (parts == length).reshape(3, -1)[1:].all(0)
    return jnp.where(is_short, -1.0, 1.0) * (jnp.where(full, along, between + beyond) - across)


def _respond(parts: _Parts, prices: jax.Array) -> jax.Array:
    return jnp.clip(parts.wish - prices @ parts.marks, 0.0, parts.length)


def _curvature(parts: _Parts, response: jax.Array) -> jax.Array:
    """How fast what the limits measure falls with the prices: the sum over parts at no bound. float32[M, M]."""
    free = (response > 0) & (response < parts.length)
    return (parts.marks * free) @ parts.marks.T


def _direction(prices: jax.Array, excess: jax.Array, curvature: jax.Array, damping: jax.Array) -> jax.Array:
    """A damped Newton step on the prices that leads none below zero; uphill never, then the gradient instead."""
    active = (prices > 0) | (excess > 0)
    given_up = jnp.zeros_like(active)
    step = jnp.zeros_like(prices)
    for _ in range(3):
        given_up = given_up | (active & (prices + step < 0))
        step = jnp.where(given_up, -prices, 0.0)
        solved = active & ~given_up
        matrix = jnp.where(solved[:, None] & solved, curvature, 0.0) + jnp.diag(jnp.where(solved, damping, 1.0))
        step = step + jnp.linalg.solve(matrix, jnp.where(solved, excess - curvature @ step, 0.0))
    step = jnp.maximum(step, -prices)
    return jnp.where(excess @ step > 0, step, jnp.where(active, excess, 0.0))


def _advance(parts: _Parts, prices: jax.Array, damping: jax.Array, reach: jax.Array) -> jax.Array:
    """One step on the prices, as far as it improves and leaves none below zero."""
    response = _respond(parts, prices)
    excess = parts.marks @ response - parts.budget
    error = jnp.max(jnp.abs(jnp.minimum(prices, -excess)))
    step = _direction(prices, excess, _curvature(parts, response), jnp.clip(damping * error, _LEAST_DAMPING, 10.0))
    downward = step < 0
    room = jnp.where(downward, prices / jnp.where(downward, -step, 1.0), jnp.inf)
    longest = jnp.minimum(jnp.minimum(room.min(), 1.0), reach / jnp.maximum(jnp.abs(step).max(), 1e-12))
    moved, worth = step @ parts.marks, step @ parts.budget
    start = parts.wish - prices @ parts.marks

    def gains(length: jax.Array) -> jax.Array:
        return jnp.clip(start - length * moved, 0.0, parts.length) @ moved > worth

    def halve(bracket: tuple[jax.Array, jax.Array], _: None) -> tuple[tuple[jax.Array, jax.Array], None]:
        low, high = bracket
        middle = 0.5 * (low + high)
        more = gains(middle)
        return (jnp.where(more, middle, low), jnp.where(more, high, middle)), None

    (low, high), _ = jax.lax.scan(halve, (jnp.zeros_like(longest), longest), length=_BISECTIONS)
    length = jnp.where(gains(longest), longest, 0.5 * (low + high))
    return jnp.where(room <= length, 0.0, jnp.maximum(prices + length * step, 0.0))


def _prices(parts: _Parts) -> jax.Array:
    """The price of every limit at the nearest point, float32[M], zero where it does not bind."""
    reach = 2.0 * jnp.max(jnp.abs(parts.wish))

    def advance(prices: jax.Array, damping: jax.Array) -> tuple[jax.Array, None]:
        return _advance(parts, prices, damping, reach), None

    prices, _ = jax.lax.scan(advance, jnp.zeros_like(parts.budget), jnp.array(_DAMPING, parts.wish.dtype))
    return prices


def _settle(parts: _Parts, prices: jax.Array) -> jax.Array:
    """The parts at these prices, what is left of the binding limits shared out among those at no bound.

    Then twice again for limits that stand broken, as when that led a part to a bound, or one of two limits that nearly
    coincide was taken to bind. A limit that follows from others makes the equation singular; damped and refined, its
    solution is the shortest.
    """
    response = jax.lax.stop_gradient(_respond(parts, prices))
    moved = parts.wish - jax.lax.stop_gradient(prices @ parts.marks)
    at_bound = jnp.where(response >= parts.length, parts.length, 0.0)
    settled = jnp.where((response > 0) & (response < parts.length), moved, at_bound)
    for again in range(3):
        excess = parts.marks @ settled - parts.budget
        active = excess > 0 if again else prices > 0
        fixed = jax.lax.stop_gradient(settled)
        marks = parts.marks * active[:, None] * ((fixed > 0) & (fixed < parts.length))
        curvature = marks @ marks.T
        matrix = curvature + jnp.diag(jnp.where(active, 1e-2, 1.0))
        share = jnp.zeros_like(excess)
        for _ in range(4):
            share = share + jnp.linalg.solve(matrix, jnp.where(active, excess, 0.0) - curvature @ share)
        settled = jnp.clip(settled - share @ marks, 0.0, parts.length)
    return settled


def nearest_within(asked: jax.Array, region: Polytope) -> tuple[jax.Array, jax.Array]:
    """The weights in `region` nearest to `asked`, and which limits bind.

    `asked` float32[P], finite. Returns float32[P] and bool[K], or bool[K + 1] with turnover as the last. Limits hold
    within 1e-6 (times the limit, if above one); weights within them come back bit by bit. The region must not be
    empty: turnover is at least what leads from `held` to where the other limits hold.
    """
    parts = _split(asked, region)
    fixed = jax.lax.stop_gradient(parts)
    suffices = jnp.all(fixed.marks @ _respond(fixed, jnp.zeros_like(fixed.budget)) <= fixed.budget + fixed.tolerance)
    prices = _prices(fixed)
    settled = _join(_settle(parts, prices), parts.length, region)
    weights = jnp.where(suffices, jnp.clip(asked, region.low, region.high), settled)
    return weights, (prices > 0) & ~suffices
