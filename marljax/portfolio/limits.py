"""What a portfolio may hold, checked on the host: caps per product and class, leverage, cash and turnover."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marljax.data.schema import InputError

_SLACK = 1e-6


@struct.dataclass
class Limits:
    """What a portfolio of P products may hold. Build it with `limits`; every number may be traced, swept or vmapped.

    What is None is not limited, at no cost; which fields are None is static.
    """

    max_weight: jax.Array  # float32[P] largest long position [fraction of equity]
    max_short: jax.Array  # float32[P] largest short position, zero for long-only [fraction of equity, >= 0]
    leverage: jax.Array  # float32[] largest gross exposure, the sum of absolute weights [fraction of equity]
    cash_floor: jax.Array  # float32[] least cash, negative where borrowing is allowed [fraction of equity]
    turnover: jax.Array | None = None  # float32[] largest sum of absolute weight changes in one rebalance [fraction]
    long_leverage: jax.Array | None = None  # float32[] largest sum of long positions [fraction of equity]
    short_leverage: jax.Array | None = None  # float32[] largest sum of short positions [fraction of equity, >= 0]
    classes: jax.Array | None = None  # int32[P] each product's asset class, from zero
    class_cap: jax.Array | None = None  # float32[C] largest gross exposure in each class [fraction of equity]

    @property
    def gross(self) -> jax.Array:
        """float32[] the gross exposure that both leverage and the cash floor allow."""
        return jnp.minimum(self.leverage, 1.0 - self.cash_floor)

    @property
    def coupled(self) -> bool:
        """Whether sums other than gross exposure and turnover are limited (static)."""
        return not (self.long_leverage is None and self.short_leverage is None and self.class_cap is None)


def _within(name: str, value: float | None, other: str, most: float | None, meaning: str) -> None:
    """Refuse a `value` that `other` never lets anybody reach."""
    if value is not None and most is not None and value > most + _SLACK * max(1.0, value):
        raise InputError(
            f"limits: {name} {value:g} and {other} conflict: {meaning} is {most:g}, which {name} is above; "
            f"lower {name}, or change {other}"
        )


def _classes(
    classes: np.ndarray | None, class_cap: float | np.ndarray | None, n_products: int
) -> tuple[np.ndarray | None, np.ndarray]:
    """The checked label of every product and cap of every class; None and no cap without classes."""
    if classes is None and class_cap is None:
        return None, np.zeros(0)
    if classes is None or class_cap is None:
        raise InputError("limits: classes and class_cap go together: give both, or neither")
    labels = np.asarray(classes)
    if labels.shape != (n_products,) or not np.issubdtype(labels.dtype, np.integer):
        raise InputError(f"limits: classes must be {n_products} integers, got {labels.dtype} of shape {labels.shape}")
    n_classes = int(labels.max()) + 1 if np.ndim(class_cap) == 0 else len(np.asarray(class_cap))
    if labels.min() < 0 or labels.max() >= n_classes:
        raise InputError(
            f"limits: classes and class_cap conflict: labels must be from 0 to {n_classes - 1}, one for each cap, "
            f"got {labels.min()} to {labels.max()}"
        )
    return labels, _many("class_cap", class_cap, n_classes)


def _in_classes(products: np.ndarray, labels: np.ndarray | None, class_caps: np.ndarray) -> float:
    """The sum of the caps of `products` float64[P], as far as those of their classes let it."""
    if labels is None:
        return float(products.sum())
    return float(np.minimum(np.bincount(labels, products, minlength=len(class_caps)), class_caps).sum())


def _many(name: str, value: float | np.ndarray, n: int) -> np.ndarray:
    given = np.asarray(value, np.float64)
    if given.shape not in ((), (n,)):
        raise InputError(f"limits: {name} must be one number or {n}, got shape {given.shape}")
    if not (np.isfinite(given).all() and (given >= 0).all()):
        raise InputError(f"limits: {name} must be finite and not negative, got {value!r}")
    return np.broadcast_to(given, (n,))


def limits(
    n_products: int,
    *,
    leverage: float | None = None,
    max_weight: float | np.ndarray = 1.0,
    max_short: float | np.ndarray = 0.0,
    cash_floor: float | None = None,
    turnover: float | None = None,
    long_leverage: float | None = None,
    short_leverage: float | None = None,
    classes: np.ndarray | None = None,
    class_cap: float | np.ndarray | None = None,
) -> Limits:
    """Limits from host numbers, checked; fields and units as in `Limits`, scalars hold for every product or class.

    Left out: `leverage` is what cash floor and caps allow, at most one, or long and short leverage where both are
    given; `cash_floor` is zero, or the loan that leverage above one needs; the others are not limited. Raises
    InputError for a number that is not finite or out of range, and where a sum can never be reached because of
    caps, the floor or a smaller sum; the message names both.
    """
    if n_products < 1:
        raise InputError(f"limits: n_products must be at least 1, got {n_products}")
    longs = _many("max_weight", max_weight, n_products)
    shorts = _many("max_short", max_short, n_products)
    products = np.maximum(longs, shorts)
    if products.sum() == 0:
        raise InputError("limits: max_weight and max_short are zero for every product: nothing may be held")
    sums = {"leverage": leverage, "turnover": turnover, "long_leverage": long_leverage}
    for name, value in (sums | {"short_leverage": short_leverage}).items():
        if value is not None and not (np.isfinite(value) and value > 0):
            raise InputError(f"limits: {name} must be positive and finite, got {value!r}")
    labels, caps = _classes(classes, class_cap, n_products)
    in_caps = _in_classes(products, labels, caps)
    both = None if long_leverage is None or short_leverage is None else long_leverage + short_leverage
    if in_caps == 0:
        raise InputError("limits: class_cap and the caps of products are zero for every class: nothing may be held")
    if leverage is None:
        floor_leaves = np.inf if cash_floor is None else 1.0 - cash_floor
        leverage = min(1.0 if both is None else both, floor_leaves, in_caps)
    if cash_floor is None:
        cash_floor = min(0.0, 1.0 - leverage)
    if not (np.isfinite(cash_floor) and cash_floor < 1):
        raise InputError(f"limits: cash_floor must be finite and below 1, got {cash_floor!r}")

    floor = f"cash_floor {cash_floor:g}"
    for name, value, cap_name, cap in (
        ("leverage", leverage, "max_weight", products),
        ("long_leverage", long_leverage, "max_weight", longs),
        ("short_leverage", short_leverage, "max_short", shorts),
    ):
        _within(name, value, floor, 1.0 - cash_floor, "the gross exposure that the floor leaves")
        _within(name, value, cap_name, float(cap.sum()), f"the sum of the caps of {n_products} products")
        _within(name, value, "class_cap", _in_classes(cap, labels, caps), "what the caps of all classes allow")
        _within(name, value, f"leverage {leverage:g}", leverage, "all gross exposure")
    _within("leverage", leverage, "long_leverage and short_leverage", both, "their sum")

    def leaf(value: float | np.ndarray | None) -> jax.Array | None:
        return None if value is None else jnp.asarray(value, jnp.float32)

    return Limits(
        max_weight=jnp.asarray(longs, jnp.float32),
        max_short=jnp.asarray(shorts, jnp.float32),
        leverage=jnp.float32(leverage),
        cash_floor=jnp.float32(cash_floor),
        turnover=leaf(turnover),
        long_leverage=leaf(long_leverage),
        short_leverage=leaf(short_leverage),
        classes=None if labels is None else jnp.asarray(labels, jnp.int32),
        class_cap=None if labels is None else leaf(caps),
    )
