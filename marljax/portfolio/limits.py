"""What a portfolio may hold, checked on the host: caps per product, gross exposure, cash and turnover."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marljax.data.schema import InputError


@struct.dataclass
class Limits:
    """What a portfolio of P products may hold. Build it with `limits`; every number may be traced, swept or vmapped."""

    max_weight: jax.Array  # float32[P] largest long position [fraction of equity]
    max_short: jax.Array  # float32[P] largest short position, zero for long-only [fraction of equity, >= 0]
    leverage: jax.Array  # float32[] largest gross exposure, the sum of absolute weights [fraction of equity]
    cash_floor: jax.Array  # float32[] least cash, negative where borrowing is allowed [fraction of equity]
    turnover: jax.Array  # float32[] largest sum of absolute weight changes in one rebalance [fraction of equity]

    @property
    def gross(self) -> jax.Array:
        """float32[] the gross exposure that both leverage and the cash floor allow."""
        return jnp.minimum(self.leverage, 1.0 - self.cash_floor)


def _per_product(name: str, value: float | np.ndarray, n_products: int) -> np.ndarray:
    given = np.asarray(value, np.float64)
    if given.shape not in ((), (n_products,)):
        raise InputError(f"limits: {name} must be one number or {n_products}, got shape {given.shape}")
    if not (np.isfinite(given).all() and (given >= 0).all()):
        raise InputError(f"limits: {name} must be finite and not negative, got {value!r}")
    return np.broadcast_to(given, (n_products,))


def limits(
    n_products: int,
    *,
    leverage: float | None = None,
    max_weight: float | np.ndarray = 1.0,
    max_short: float | np.ndarray = 0.0,
    cash_floor: float | None = None,
    turnover: float | None = None,
) -> Limits:
    """Limits from host numbers, checked; fields and units as in `Limits`, scalars hold for every product.

    Left out: `leverage` is what cash floor and caps allow, at most one; `cash_floor` is zero, or the loan that leverage
    above one needs; `turnover` is twice gross exposure, which allows any rebalance. Raises InputError for a number that
    is not finite or out of range, and for a pair of which one can never be reached because of the other: leverage
    beyond what the cash floor leaves, or beyond the sum of all caps.
    """
    if n_products < 1:
        raise InputError(f"limits: n_products must be at least 1, got {n_products}")
    longs = _per_product("max_weight", max_weight, n_products)
    shorts = _per_product("max_short", max_short, n_products)
    capacity = float(np.maximum(longs, shorts).sum())
    if capacity == 0:
        raise InputError("limits: max_weight and max_short are zero for every product: nothing may be held")
    for name, value in {"leverage": leverage, "turnover": turnover}.items():
        if value is not None and not (np.isfinite(value) and value > 0):
            raise InputError(f"limits: {name} must be positive and finite, got {value!r}")
    if cash_floor is None:
        cash_floor = 0.0 if leverage is None else min(0.0, 1.0 - leverage)
    if not (np.isfinite(cash_floor) and cash_floor < 1):
        raise InputError(f"limits: cash_floor must be finite and below 1, got {cash_floor!r}")
    if leverage is None:
        leverage = min(1.0, 1.0 - cash_floor, capacity)
    if turnover is None:
        turnover = 2.0 * leverage
    slack = 1e-6 * max(1.0, leverage)
    if leverage > 1.0 - cash_floor + slack:
        raise InputError(
            f"limits: leverage {leverage:g} and cash_floor {cash_floor:g} conflict: the floor leaves a gross "
            f"exposure of {1.0 - cash_floor:g}; lower one of them"
        )
    if leverage > capacity + slack:
        raise InputError(
            f"limits: leverage {leverage:g} and max_weight conflict: the caps of {n_products} products sum to "
            f"{capacity:g}; lower leverage or raise the caps"
        )
    return Limits(
        max_weight=jnp.asarray(longs, jnp.float32),
        max_short=jnp.asarray(shorts, jnp.float32),
        leverage=jnp.float32(leverage),
        cash_floor=jnp.float32(cash_floor),
        turnover=jnp.float32(turnover),
    )
