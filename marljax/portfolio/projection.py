"""The nearest weights within bounds, gross exposure and turnover: an exact Euclidean projection in a fixed program.

Product by product the answer is known once the prices (dual variables) of gross exposure and of turnover are, and what
a limit measures falls as its price rises. Bisection on the prices finds which products stand at a kink, a linear
equation then gives the others exactly. So gradients are those of the projection, and the program is one for all data.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct

_BISECTIONS = 28
_TOLERANCE = 9e-7


@struct.dataclass
class Region:
    """Weights w with low <= w <= high, low <= 0 <= high, sum |w| <= gross and sum |w - held| <= turnover."""

    held: jax.Array  # float32[P]
    low: jax.Array  # float32[P]
    high: jax.Array  # float32[P]
    gross: jax.Array  # float32[]
    turnover: jax.Array  # float32[]


@struct.dataclass
class _Prices:
    """What a unit of each kind of position costs. Dual variables: gross plus turnover, and gross less turnover."""

    joint: jax.Array  # of a position beyond held, or across zero from it: more gross, more turnover
    opposed: jax.Array  # of a position between zero and held: more gross, less turnover
    gross_binds: jax.Array
    turnover_binds: jax.Array


def _respond(asked: jax.Array, region: Region, joint: jax.Array, opposed: jax.Array) -> jax.Array:
    """Every product's best weight at these prices: as near to `asked` as its marginal price lets it, within bounds."""
    side = jnp.where(region.held < 0, -1.0, 1.0)
    held, wish = side * region.held, side * asked
    across_zero = jnp.minimum(wish + joint, 0.0)
    up_to_held = jnp.clip(wish - opposed, 0.0, held)
    beyond_held = jnp.maximum(wish - joint - held, 0.0)
    return jnp.clip(side * (across_zero + up_to_held + beyond_held), region.low, region.high)


def _prices(asked: jax.Array, region: Region, *, limit_turnover: bool) -> _Prices:
    """The prices at the projection.

    A limit that binds alone has one price. Where both bind, the split into joint and opposed positions makes one
    equation for each: gross = |held| + joint - opposed and turnover = joint + opposed, summed over products.
    """
    ceiling = jnp.max(jnp.abs(asked)) + jnp.max(jnp.abs(region.held))

    def gross(weights: jax.Array) -> jax.Array:
        return jnp.abs(weights).sum()

    def traded(weights: jax.Array) -> jax.Array:
        return jnp.abs(weights - region.held).sum()

    def respond(joint: jax.Array, opposed: jax.Array) -> jax.Array:
        return _respond(asked, region, joint, opposed)

    gross_only = _least_price(lambda price: gross(respond(price, price)), region.gross, ceiling)
    if not limit_turnover:
        return _Prices(gross_only, gross_only, gross_only > 0, jnp.zeros((), bool))
    turnover_only = _least_price(lambda price: traded(respond(price, -price)), region.turnover, ceiling)
    gross_suffices = traded(respond(gross_only, gross_only)) <= region.turnover + tolerance(region.turnover)
    turnover_suffices = gross(respond(turnover_only, -turnover_only)) <= region.gross + tolerance(region.gross)

    gross_held = gross(region.held)
    most_joint = 0.5 * (region.turnover + region.gross - gross_held)
    most_opposed = 0.5 * (region.turnover - region.gross + gross_held)

    def joint_part(weights: jax.Array) -> jax.Array:
        return 0.5 * (traded(weights) + gross(weights) - gross_held)

    def opposed_part(weights: jax.Array) -> jax.Array:
        return 0.5 * (traded(weights) - gross(weights) + gross_held)

    joint = _least_price(lambda price: joint_part(respond(price, price)), most_joint, ceiling)
    opposed = ceiling - _least_price(
        lambda price: opposed_part(respond(ceiling, ceiling - price)), most_opposed, 2.0 * ceiling
    )

    def choose(if_gross: jax.Array, if_turnover: jax.Array, if_both: jax.Array) -> jax.Array:
        return jnp.where(gross_suffices, if_gross, jnp.where(turnover_suffices, if_turnover, if_both))

    return _Prices(
        joint=choose(gross_only, turnover_only, joint),
        opposed=choose(gross_only, -turnover_only, opposed),
        gross_binds=choose(gross_only > 0, jnp.zeros((), bool), jnp.ones((), bool)),
        turnover_binds=~gross_suffices,
    )


def _least_price(measure: Callable[[jax.Array], jax.Array], limit: jax.Array, ceiling: jax.Array) -> jax.Array:
    """The least price in [0, ceiling] at which the falling `measure` is within `limit`; zero if it costs nothing."""

    def halve(bracket: tuple[jax.Array, jax.Array], _: None) -> tuple[tuple[jax.Array, jax.Array], None]:
        low, high = bracket
        middle = 0.5 * (low + high)
        enough = measure(middle) <= limit
        return (jnp.where(enough, low, middle), jnp.where(enough, middle, high)), None

    free = jnp.zeros_like(ceiling)
    (_, price), _ = jax.lax.scan(halve, (free, ceiling), length=_BISECTIONS)
    return jnp.where(measure(free) <= limit + tolerance(limit), free, price)


def _settle(asked: jax.Array, region: Region, prices: _Prices) -> jax.Array:
    """The weights at these prices, what is left of the binding limits shared out among the products at no kink."""
    weights = jax.lax.stop_gradient(_respond(asked, region, prices.joint, prices.opposed))
    away_from_zero, away_from_held = jnp.sign(weights), jnp.sign(weights - region.held)
    held_is_kink = prices.turnover_binds & (weights == region.held)
    free = (weights != region.low) & (weights != region.high) & (weights != 0) & ~held_is_kink
    is_joint = away_from_zero == away_from_held
    n_free, n_joint, n_opposed = (jnp.maximum(jnp.sum(m), 1) for m in (free, free & is_joint, free & ~is_joint))
    # The same weights as functions of what they depend on, so that a tie at a kink leaks no gradient.
    at_kink = jnp.where(held_is_kink, region.held, 0.0)
    at_bound = jnp.where(weights == region.high, region.high, jnp.where(weights == region.low, region.low, at_kink))
    moved = asked - away_from_zero * jnp.where(is_joint, prices.joint, prices.opposed)
    weights = jnp.where(free, moved, at_bound)
    gross_left = jnp.abs(weights).sum() - region.gross
    turnover_left = jnp.abs(weights - region.held).sum() - region.turnover
    both = jnp.where(
        is_joint, (gross_left + turnover_left) / (2 * n_joint), (gross_left - turnover_left) / (2 * n_opposed)
    )
    one = jnp.where(
        prices.gross_binds, gross_left / n_free, jnp.where(is_joint, turnover_left, -turnover_left) / n_free
    )
    step = jnp.where(prices.gross_binds & prices.turnover_binds, both, one)
    return jnp.clip(weights - jnp.where(free, away_from_zero * step, 0.0), region.low, region.high)


def nearest(asked: jax.Array, region: Region, *, limit_turnover: bool = True) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The weights in `region` nearest to `asked`, and whether gross exposure and turnover bind.

    `asked` float32[P], finite. Returns (float32[P], bool[], bool[]). Static `limit_turnover` False leaves turnover out.
    Limits hold within 1e-6 (times the limit, if above one); weights within them come back bit by bit. The region must
    not be empty: bounds hold zero, and turnover is at least what leads from `held` into the bounds and gross.
    """
    prices = _prices(*jax.lax.stop_gradient((asked, region)), limit_turnover=limit_turnover)
    bounded = jnp.clip(asked, region.low, region.high)
    weights = jnp.where(prices.gross_binds | prices.turnover_binds, _settle(asked, region, prices), bounded)
    return weights, prices.gross_binds, prices.turnover_binds


def tolerance(limit: jax.Array) -> jax.Array:
    """How far a sum of weights may stand above its limit and still count as within it, for float32."""
    return _TOLERANCE * jnp.maximum(1.0, limit)
