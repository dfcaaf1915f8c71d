"""Hard limits on a portfolio, outside every network: what is asked for becomes the nearest weights that are allowed.

`project` is the exact Euclidean projection onto caps per product, gross exposure and turnover: clipping and rescaling
breaks its own caps. Allowed weights come back untouched, and gradients pass. Weights are fractions of equity and cash
is one less gross exposure: a short sale's proceeds stay as collateral.

Then `volatility_scale` holds a volatility target and `apply_brake` takes everything off in a drawdown.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marljax.data.schema import InputError
from marljax.portfolio.projection import Region, least_turnover, nearest, tolerance

_LARGEST_WEIGHT = 1e6


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


@struct.dataclass
class Intervention:
    """Which limits bound when weights were projected, so that every intervention can be logged."""

    invalid: jax.Array  # bool[P] the weight asked for was not a number, or beyond a million times equity
    long_cap: jax.Array  # bool[P] held at max_weight
    short_cap: jax.Array  # bool[P] held at -max_short; for long-only, a short position was refused
    leverage: jax.Array  # bool[] gross exposure held at leverage
    cash: jax.Array  # bool[] gross exposure held at what the cash floor leaves
    turnover: jax.Array  # bool[] not all of the trade was allowed
    overdraft: jax.Array  # float32[] turnover beyond its limit that the other limits forced [fraction of equity]
    distance: jax.Array  # float32[] Euclidean distance between asked for and allowed [fraction of equity]

    @property
    def any(self) -> jax.Array:
        """bool[] whether any limit changed the weights."""
        products = self.invalid | self.long_cap | self.short_cap
        return jnp.any(products) | self.leverage | self.cash | self.turnover


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


def project(weights: jax.Array, limits: Limits, previous: jax.Array | None = None) -> tuple[jax.Array, Intervention]:
    """The nearest weights that the limits allow, and which limits bound.

    `weights` float32[P] as asked for. `previous` float32[P] is what is held before the rebalance; without it turnover
    is not limited. Where `previous` itself stands outside the other limits, after drift or a cut, those come first:
    turnover may then reach what leads back inside, counted as `overdraft`. A weight that is no number counts as its
    previous weight (zero without one). Limits hold within 1e-6 (times gross, if above one) for weights of ordinary
    size; allowed weights come back bit by bit.
    """
    chex.assert_equal_shape([weights, limits.max_weight])
    held = jnp.zeros_like(weights) if previous is None else previous
    invalid = ~(jnp.abs(weights) <= _LARGEST_WEIGHT)
    asked = jnp.where(invalid, held, weights)
    low, high = -limits.max_short, limits.max_weight
    turnover = jnp.maximum(limits.turnover, least_turnover(held, low, high, limits.gross))
    region = Region(held=held, low=low, high=high, gross=limits.gross, turnover=turnover)
    allowed, gross_binds, turnover_binds = nearest(asked, region, limit_turnover=previous is not None)
    cash_is_tighter = 1.0 - limits.cash_floor < limits.leverage
    overdraft = jnp.float32(0) if previous is None else jnp.abs(allowed - held).sum() - limits.turnover
    return allowed, Intervention(
        invalid=invalid,
        long_cap=(asked > high) & (allowed == high),
        short_cap=(asked < low) & (allowed == low),
        leverage=gross_binds & ~cash_is_tighter,
        cash=gross_binds & cash_is_tighter,
        turnover=turnover_binds,
        overdraft=jnp.where(overdraft > 2 * tolerance(limits.turnover), overdraft, 0.0),
        distance=_length(allowed - asked),
    )


def volatility_scale(
    weights: jax.Array, covariance: jax.Array, target: jax.Array | float, ceiling: jax.Array | float = 1.0
) -> jax.Array:
    """The factor on `weights` float32[P] that brings the portfolio's volatility to `target`. float32[].

    `covariance` float32[P, P]; `target` float32[] in the same unit and period. At most `ceiling`: one only ever takes
    risk off, more also adds it, and then the limits still have to hold. No position gives `ceiling`.
    """
    volatility = jnp.sqrt(jnp.diagonal(covariance))
    unit = jnp.maximum(jnp.max(volatility), jnp.finfo(weights.dtype).tiny)
    risk = weights * (volatility / unit)
    correlation = covariance / jnp.outer(volatility, volatility)
    variance = risk @ (correlation @ risk)
    some = variance > 0
    portfolio_volatility = jnp.sqrt(jnp.where(some, variance, 1.0)) * unit
    return jnp.where(some, jnp.minimum(target / portfolio_volatility, ceiling), ceiling)


@struct.dataclass
class Brake:
    """When to leave the market, and when to come back. Build it with `brake`."""

    drawdown: jax.Array  # float32[] loss from the peak at which everything is sold [fraction of the peak]
    recovery: jax.Array  # float32[] loss from the peak at or below which trading goes on, smaller [fraction]
    cooldown: jax.Array  # int32[] steps out of the market after which trading goes on, with a new peak [steps]


@struct.dataclass
class BrakeState:
    """Where a drawdown is measured from, and whether the brake is on."""

    peak: jax.Array  # float32[] highest equity so far, or since the last cool-down [currency]
    on: jax.Array  # bool[] out of the market
    waited: jax.Array  # int32[] steps since the brake went on [steps]


def brake(drawdown: float, recovery: float | None = None, cooldown: int = 20) -> Brake:
    """A brake from host numbers, checked; units as in `Brake`, `recovery` left out is half of `drawdown`.

    Raises InputError for numbers out of range and for a recovery level that is not below the drawdown limit.
    """
    if recovery is None:
        recovery = 0.5 * drawdown
    if not (np.isfinite(drawdown) and 0 < drawdown <= 1):
        raise InputError(f"brake: drawdown must be in (0, 1], got {drawdown!r}")
    if not (np.isfinite(recovery) and recovery >= 0):
        raise InputError(f"brake: recovery must be finite and not negative, got {recovery!r}")
    if not recovery < drawdown:
        raise InputError(
            f"brake: recovery {recovery:g} and drawdown {drawdown:g} conflict: without a gap between them the brake "
            "would go on and off with every step"
        )
    if cooldown < 1:
        raise InputError(f"brake: cooldown must be at least one step, got {cooldown!r}")
    return Brake(drawdown=jnp.float32(drawdown), recovery=jnp.float32(recovery), cooldown=jnp.int32(cooldown))


def released(equity: jax.Array | float) -> BrakeState:
    """The brake off, drawdown measured from `equity` float32[] [currency]."""
    return BrakeState(peak=jnp.asarray(equity, jnp.float32), on=jnp.zeros((), bool), waited=jnp.zeros((), jnp.int32))


def apply_brake(state: BrakeState, equity: jax.Array, params: Brake) -> tuple[BrakeState, jax.Array]:
    """One step of the kill switch: (state, the factor on gross exposure, float32[] zero or one).

    `equity` float32[] [currency]. The brake goes on once the drawdown reaches its limit, or equity is no number. It
    goes off once the drawdown has come back to the recovery level, as it can where positions are not quite closed or
    equity is that of a shadow account, or after the cool-down: then the loss is written off and the peak is equity.
    Ruined (equity not positive) it stays on.
    """
    alive = jnp.isfinite(equity) & (equity > 0)
    peak = jnp.where(alive, jnp.maximum(state.peak, equity), state.peak)
    drawdown = jnp.where(alive, 1.0 - equity / peak, 1.0)
    waited = jnp.where(state.on, state.waited + 1, 0)
    recovered = state.on & (drawdown <= params.recovery)
    rested = state.on & alive & ~recovered & (waited >= params.cooldown)
    stays = state.on & ~recovered & ~rested
    on = stays | (~state.on & (drawdown >= params.drawdown))
    peak = jnp.where(rested, equity, peak)
    return BrakeState(peak=peak, on=on, waited=jnp.where(on, waited, 0)), jnp.where(on, jnp.float32(0), jnp.float32(1))


def _length(vector: jax.Array) -> jax.Array:
    """Euclidean length, with gradient zero at zero."""
    square = jnp.sum(vector**2)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)


def _per_product(name: str, value: float | np.ndarray, n_products: int) -> np.ndarray:
    given = np.asarray(value, np.float64)
    if given.shape not in ((), (n_products,)):
        raise InputError(f"limits: {name} must be one number or {n_products}, got shape {given.shape}")
    if not (np.isfinite(given).all() and (given >= 0).all()):
        raise InputError(f"limits: {name} must be finite and not negative, got {value!r}")
    return np.broadcast_to(given, (n_products,))
