"""Who owns what in one book: cash and positions in whole numbers, so that not a tick appears or disappears.

Every trade moves the same lots and the same cash between two owners. So the sums over all owners stay 0, whatever the
mark, and the only money that leaves is fees, which are kept apart.
"""

import jax
import jax.numpy as jnp
from flax import struct

from marljax.lob.tally import LOW_BITS, Tally
from marljax.lob.types import Turnover
from marljax.market.fees import FeeSchedule, turnover_fee


@struct.dataclass
class Ledger:
    """The accounts of all owners, opened empty."""

    cash: Tally  # [owners] ticks x lots, before fees
    position: jax.Array  # int32[owners] lots, within +-2**22
    fees: jax.Array  # float32[owners] currency, paid since the opening; negative where rebates prevail

    @classmethod
    def open(cls, owners: int) -> "Ledger":
        return cls(Tally.zero((owners,)), jnp.zeros(owners, jnp.int32), jnp.zeros(owners, jnp.float32))


def record(ledger: Ledger, turnover: Turnover, schedule: FeeSchedule, tick_value: jax.Array) -> Ledger:
    """The accounts after a block of messages.

    Args:
        ledger: before it.
        turnover: what the owners traded in it.
        schedule: fees, leaves float32[] or float32[owners].
        tick_value: float32[] currency of one tick on one lot.
    """
    lots = turnover.lots[0] + turnover.lots[1]
    value = jax.tree.map(lambda x: x[0], turnover.value).add(jax.tree.map(lambda x: x[1], turnover.value))
    bought, sold = (jax.tree.map(lambda x, side=side: x[side], value) for side in (0, 1))
    return Ledger(
        cash=ledger.cash.add(sold).minus(bought),
        position=ledger.position + lots[0] - lots[1],
        fees=ledger.fees + turnover_fee(schedule, turnover, tick_value),
    )


def equity(ledger: Ledger, mark: jax.Array) -> Tally:
    """Cash and position before fees, [owners] half ticks x lots, exact.

    Args:
        ledger: the accounts.
        mark: int32[] half ticks, what a lot is worth.
    """
    return ledger.cash.add(ledger.cash).add(product(ledger.position, mark))


def product(a: jax.Array, b: jax.Array) -> Tally:
    """a x b exactly, for int32[...] |a| <= 2**22 and |b| <= 2**24."""
    total = Tally.zero(jnp.broadcast_shapes(a.shape, b.shape))
    for bits, digit in ((0, b & 255), (8, (b >> 8) & 255), (16, b >> 16)):
        kept = LOW_BITS - bits
        part = a * digit
        total = total.add(Tally(part >> kept, (part & (2**kept - 1)) << bits))
    return total
