"""What the venue and the broker charge: a taker's fee, or a schedule that tells makers from takers.

Exchanges commonly charge the incoming order and pay the resting one a part of it, so a maker's rate may be negative.
"""

import math

import jax
import jax.numpy as jnp
from flax import struct

from marljax.lob.types import Turnover


@struct.dataclass
class FeeSchedule:
    """What trading costs by role. Leaves may carry an axis of owners with terms of their own."""

    taker_rate: jax.Array  # float32[] fraction of the value traded by incoming orders (1e-4 is one basis point)
    maker_rate: jax.Array  # float32[] fraction of the value traded by resting orders, negative is a rebate
    taker_per_lot: jax.Array  # float32[] currency per lot traded by incoming orders
    maker_per_lot: jax.Array  # float32[] currency per lot traded by resting orders, negative is a rebate


def fee_schedule(
    taker_rate: float = 0.0, maker_rate: float = 0.0, taker_per_lot: float = 0.0, maker_per_lot: float = 0.0
) -> FeeSchedule:
    """A checked schedule; either role may be paid, but not the two together.

    Raises:
        ValueError: a number is not finite, a rate is not within -1..1, or a trade between two would be paid for.
    """
    fields = {
        "taker_rate": taker_rate,
        "maker_rate": maker_rate,
        "taker_per_lot": taker_per_lot,
        "maker_per_lot": maker_per_lot,
    }
    for name, value in fields.items():
        if not math.isfinite(value) or (name.endswith("rate") and abs(value) > 1):
            bound = " and within -1..1" if name.endswith("rate") else ""
            raise ValueError(f"FeeSchedule.{name} must be finite{bound}, got {value!r}")
    for part, taker, maker in (("rate", taker_rate, maker_rate), ("per_lot", taker_per_lot, maker_per_lot)):
        if taker + maker < 0:
            raise ValueError(
                f"FeeSchedule.maker_{part} must not rebate more than the taker pays ({taker!r}), or trading with "
                f"oneself would earn money: got {maker!r}"
            )
    return FeeSchedule(**{name: jnp.float32(value) for name, value in fields.items()})


def fee(
    schedule: FeeSchedule, maker_lots: jax.Array, maker_value: jax.Array, taker_lots: jax.Array, taker_value: jax.Array
) -> jax.Array:
    """What is owed for trading, float32[...] currency; negative where rebates exceed fees. Elementwise.

    Args:
        schedule: the terms.
        maker_lots: int32[...] lots traded by resting orders, bought plus sold.
        maker_value: float32[...] currency, their value; its sign, which a negative price brings, does not count.
        taker_lots: int32[...] lots traded by incoming orders, bought plus sold.
        taker_value: float32[...] currency, their value.
    """
    maker = taker_fee(maker_lots, jnp.abs(maker_value), schedule.maker_rate, schedule.maker_per_lot)
    return maker + taker_fee(taker_lots, jnp.abs(taker_value), schedule.taker_rate, schedule.taker_per_lot)


def turnover_fee(schedule: FeeSchedule, turnover: Turnover, tick_value: jax.Array) -> jax.Array:
    """What each owner owes for a block of messages, float32[owners] currency.

    Args:
        schedule: the terms, of all owners or with an axis of them.
        turnover: what they traded.
        tick_value: float32[] currency of one tick on one lot.
    """
    lots = jnp.sum(turnover.lots, axis=1)
    value = tick_value * jnp.sum(jnp.abs(turnover.value.value()), axis=1)
    return fee(schedule, lots[0], value[0], lots[1], value[1])


def taker_fee(filled: jax.Array, notional: jax.Array, rate: jax.Array, per_lot: jax.Array) -> jax.Array:
    """Fee of a fill: a fraction of its notional plus an amount per lot, float32[] currency.

    Args:
        filled: int32[] lots, >= 0.
        notional: float32[] currency, the fill's value at the mid, >= 0.
        rate: float32[] fraction of notional (1e-4 is one basis point).
        per_lot: float32[] currency per lot.
    """
    return rate * notional + per_lot * filled
