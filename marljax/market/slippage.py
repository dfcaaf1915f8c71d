"""The stochastic slippage model: an order becomes a fill and an itemised bill.

It walks the visible depth of the row it meets, which random latency may make the next one, pays square-root impact on
top and a fee. The same function trades in the replay env, in the portfolio env and in the backtest, so that an agent
is judged on the costs it was trained on.
"""

import jax
import jax.numpy as jnp
from flax import struct

from marljax.lob.tally import Tally
from marljax.market.fees import taker_fee
from marljax.market.impact import square_root_impact
from marljax.market.ladder import walk
from marljax.market.latency import arrives_late


@struct.dataclass
class CostModel:
    """What trading one product costs. Every field is a number, so it can be swept, vmapped and randomised."""

    tick_value: jax.Array  # float32[] currency of one tick on one lot
    fee_rate: jax.Array  # float32[] fraction of notional
    fee_per_lot: jax.Array  # float32[] currency per lot
    impact_coefficient: jax.Array  # float32[] dimensionless
    volatility: jax.Array  # float32[] ticks per step, of the training part
    typical_volume: jax.Array  # float32[] lots per step, of the training part
    latency_floor: jax.Array  # float32[] seconds
    latency_mean: jax.Array  # float32[] seconds, mean of the exponential part
    step_seconds: jax.Array  # float32[] seconds between rows


@struct.dataclass
class Tape:
    """One product's market as orders meet it, row by row. Built by `marljax.envs.tapes.tape`."""

    ladder: jax.Array  # int32[T, 2, 2K] see marljax.market.ladder
    mark: jax.Array  # int32[T, 3] twice the mid [half ticks], its change to the next row, 1 on a session's last row


@struct.dataclass
class Account:
    """A trading account in one product since it was opened.

    Counted from the mid at the moment of decision: gross is what the positions would have earned had every order
    filled there, and everything that stood in the way is an item of its own. What the book and the mid decide is
    counted in whole numbers, exactly.
    """

    position: jax.Array  # int32[] lots, signed
    gross: Tally  # half ticks x lots, sum of position x change of the mid
    slippage: Tally  # half ticks x lots paid to the book: half spread and depth
    latency: Tally  # half ticks x lots lost (or won) because the mid moved before the fill
    impact: jax.Array  # float32[] currency
    fees: jax.Array  # float32[] currency
    traded: jax.Array  # float32[] currency, notional bought plus sold

    @classmethod
    def open(cls) -> "Account":
        """An empty account."""
        real = jnp.zeros((), jnp.float32)
        return cls(jnp.zeros((), jnp.int32), Tally.zero(), Tally.zero(), Tally.zero(), real, real, real)

    def net(self, tick_value: jax.Array) -> jax.Array:
        """float32[] currency: gross less every cost. Equity is the capital at opening plus this."""
        counted = self.gross.minus(self.slippage).minus(self.latency).value()
        return 0.5 * tick_value * counted - self.impact - self.fees


def trade(
    key: jax.Array, account: Account, target: jax.Array, tape: Tape, time: jax.Array, costs: CostModel
) -> tuple[Account, jax.Array]:
    """Trade toward `target` at row `time` and mark the account at the next row.

    An order on a session's last row meets that row, however slow it is: the next one is another day's.

    Args:
        key: decides the order's latency.
        account: before the order.
        target: int32[] lots wanted; what the visible book does not hold stays unfilled.
        tape: the product's rows.
        time: int32[] row of the decision.
        costs: the product's cost model.

    Returns:
        The account at row `time + 1`, and what the step earned net of costs, float32[] currency.
    """
    mid, move, last = tape.mark[time]
    order = target - account.position
    uniforms = jax.random.uniform(key, (2,))
    late = arrives_late(uniforms, costs.latency_floor, costs.latency_mean, costs.step_seconds) & (last == 0)
    ladder = tape.ladder[time + late, (order < 0).astype(jnp.int32)]
    filled, slippage = walk(ladder, jnp.abs(order))
    signed = jnp.sign(order) * filled
    position = account.position + signed

    gross = position * move
    latency = jnp.where(late, signed * move, 0)
    impact = costs.tick_value * square_root_impact(
        filled, costs.impact_coefficient, costs.volatility, costs.typical_volume
    )
    notional = 0.5 * costs.tick_value * jnp.abs(mid) * filled
    fees = taker_fee(filled, notional, costs.fee_rate, costs.fee_per_lot)
    earned = 0.5 * costs.tick_value * (gross - slippage - latency) - impact - fees
    return Account(
        position=position,
        gross=account.gross.plus(gross),
        slippage=account.slippage.plus(slippage),
        latency=account.latency.plus(latency),
        impact=account.impact + impact,
        fees=account.fees + fees,
        traded=account.traded + notional,
    ), earned
