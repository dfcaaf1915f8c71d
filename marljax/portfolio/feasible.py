"""The weights that limits allow, as what the two projections take, and the least turnover that leads there."""

import jax
import jax.numpy as jnp
from flax import struct

from marljax.portfolio.halfspaces import Polytope, nearest_within
from marljax.portfolio.limits import Limits
from marljax.portfolio.projection import Region, nearest


@struct.dataclass
class Binding:
    """Which sums bind at a projection."""

    gross: jax.Array  # bool[]
    long: jax.Array  # bool[]
    short: jax.Array  # bool[]
    classes: jax.Array  # bool[C]
    turnover: jax.Array  # bool[]


def _members(classes: jax.Array, n_classes: int) -> jax.Array:
    """float32[C, P] one where a product is of a class."""
    return jnp.where(jnp.arange(n_classes)[:, None] == classes, 1.0, 0.0)


def _polytope(limits: Limits, held: jax.Array, turnover: jax.Array | None) -> Polytope:
    """The limits as rows: gross exposure, longs, shorts, classes, each where it is limited."""
    one, zero = jnp.ones_like(limits.max_weight)[None], jnp.zeros_like(limits.max_weight)[None]
    longs, shorts, caps = [one], [one], [limits.gross[None]]
    for cap, counts_long, counts_short in ((limits.long_leverage, one, zero), (limits.short_leverage, zero, one)):
        if cap is not None:
            longs, shorts, caps = [*longs, counts_long], [*shorts, counts_short], [*caps, cap[None]]
    if limits.classes is not None and limits.class_cap is not None:
        members = _members(limits.classes, limits.class_cap.shape[0])
        longs, shorts, caps = [*longs, members], [*shorts, members], [*caps, limits.class_cap]
    return Polytope(
        low=-limits.max_short,
        high=limits.max_weight,
        longs=jnp.concatenate(longs),
        shorts=jnp.concatenate(shorts),
        caps=jnp.concatenate(caps),
        held=held,
        turnover=turnover,
    )


def least_turnover(held: jax.Array, limits: Limits) -> jax.Array:
    """The least turnover that leads from `held` float32[P] to where all other limits hold. float32[].

    What must go, goes toward zero: first beyond the caps of products, then so much of every class, of longs, of shorts
    and of all as is too much. What classes must give up counts for longs or for shorts as either needs it, within what
    each class has of them.
    """
    low, high = -limits.max_short, limits.max_weight
    bounded = jnp.clip(held, low, high)
    longs, shorts = jnp.maximum(bounded, 0.0), jnp.maximum(-bounded, 0.0)
    none = jnp.zeros_like(limits.leverage)
    too_long = none if limits.long_leverage is None else jnp.maximum(longs.sum() - limits.long_leverage, 0.0)
    too_short = none if limits.short_leverage is None else jnp.maximum(shorts.sum() - limits.short_leverage, 0.0)
    too_much = jnp.maximum(longs.sum() + shorts.sum() - limits.gross, 0.0)
    by_class = least_long = most_long = none
    if limits.classes is not None and limits.class_cap is not None:
        member = _members(limits.classes, limits.class_cap.shape[0])
        class_longs, class_shorts = member @ longs, member @ shorts
        over = jnp.maximum(class_longs + class_shorts - limits.class_cap, 0.0)
        by_class = over.sum()
        least_long, most_long = jnp.maximum(over - class_shorts, 0.0).sum(), jnp.minimum(over, class_longs).sum()
    beyond_classes = jnp.maximum(
        jnp.maximum(too_long - most_long, too_short - (by_class - least_long)), too_long + too_short - by_class
    )
    return jnp.abs(held - bounded).sum() + jnp.maximum(too_much, by_class + jnp.maximum(beyond_classes, 0.0))


def nearest_allowed(
    asked: jax.Array, limits: Limits, held: jax.Array, turnover: jax.Array | None
) -> tuple[jax.Array, Binding]:
    """The nearest weights and the sums that bind, by the shorter program where gross exposure is the only one."""
    no = jnp.zeros((), bool)
    if not limits.coupled:
        limit = limits.gross if turnover is None else turnover
        region = Region(held=held, low=-limits.max_short, high=limits.max_weight, gross=limits.gross, turnover=limit)
        allowed, gross, traded = nearest(asked, region, limit_turnover=turnover is not None)
        return allowed, Binding(gross=gross, long=no, short=no, classes=jnp.zeros(0, bool), turnover=traded)
    allowed, binds = nearest_within(asked, _polytope(limits, held, turnover))
    n_sums = 1 + (limits.long_leverage is not None) + (limits.short_leverage is not None)
    n_classes = 0 if limits.class_cap is None else limits.class_cap.shape[0]
    return allowed, Binding(
        gross=binds[0],
        long=no if limits.long_leverage is None else binds[1],
        short=no if limits.short_leverage is None else binds[n_sums - 1],
        classes=binds[n_sums : n_sums + n_classes],
        turnover=no if turnover is None else binds[-1],
    )
