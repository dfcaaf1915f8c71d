"""The kill switch on a drawdown, with hysteresis: all is sold at one loss, and trading goes on at a smaller one."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from marljax.data.schema import InputError


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
    if not (cooldown >= 1 and float(cooldown).is_integer()):
        raise InputError(f"brake: cooldown must be at least one step, and whole, got {cooldown!r}")
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
