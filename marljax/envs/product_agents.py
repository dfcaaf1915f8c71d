"""Product agents at work: every one trades its product row by row with its own policy, on the capital it was given.

Policies are data, so that a whole hierarchy is one program. Several agents may trade one product: each has an account
of its own and meets the recorded book by itself; their orders are not netted, and nobody takes another's liquidity.
"""

from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import struct

from marljax.envs.replay import target_position
from marljax.market.financing import Financing, Rates, accrue, without_each
from marljax.market.slippage import Account, CostModel, Tape, trade


class Policy(Protocol):
    """What a product agent is: a function of parameters, observation and carry."""

    def init_carry(self) -> Any: ...

    def apply(
        self, params: Any, obs: jax.Array, carry: Any, key: jax.Array, deterministic: bool | jax.Array
    ) -> tuple[jax.Array, Any]: ...


@struct.dataclass
class World:
    """Everything that A product agents trade on: P products, and who trades which."""

    tape: Tape  # leaves [P, T, ...]
    features: jax.Array  # float32[P, T, F] scaled
    flat: jax.Array  # bool[T] rows on which agents are flat (see replay)
    last: jax.Array  # bool[T] rows on which everything is sold, whoever holds it: the end of the data
    years: jax.Array  # float32[T] from each row to the next
    product: jax.Array  # int32[A] what each agent trades
    policies: Any  # parameters of the agents, leaves [A, ...]
    costs: CostModel  # leaves [A]
    no_trade_band: jax.Array  # float32[] see replay
    rates: Rates

    @property
    def n_agents(self) -> int:
        return self.product.shape[0]


@struct.dataclass
class Holdings:
    """What A agents hold together, and what it was financed with."""

    accounts: Account  # leaves [A]
    financing: Financing

    @classmethod
    def none(cls, n_agents: int) -> "Holdings":
        """Nothing but cash."""
        empty = jax.tree.map(lambda x: jnp.broadcast_to(x, (n_agents,)), Account.open())
        return cls(empty, Financing.none(n_agents))

    def earned(self, costs: CostModel) -> jax.Array:
        """float32[A] currency, what each agent has earned net of all that it caused."""
        return jax.vmap(Account.net)(self.accounts, costs.tick_value) - self.financing.shorts

    def profit(self, costs: CostModel) -> jax.Array:
        """float32[] currency, all that was earned net of all costs, interest included."""
        return jnp.sum(jax.vmap(Account.net)(self.accounts, costs.tick_value)) + self.financing.net()

    def choose(self, condition: jax.Array, other: "Holdings") -> "Holdings":
        """These where the scalar `condition` holds, else the other."""
        return jax.tree.map(lambda mine, theirs: jnp.where(condition, mine, theirs), self, other)


@struct.dataclass
class BlockRows:
    """What happened on each row of a block; rows beyond its length repeat the last one."""

    net: jax.Array  # float32[R, A] currency, each account's net after the row
    position: jax.Array  # int32[R, A] lots held into the next row
    equity: jax.Array  # float32[R] currency, after the row


def lot_values(time: jax.Array, world: World) -> jax.Array:
    """Value of one lot of each agent's product at row `time`'s mid, float32[A] currency."""
    return 0.5 * jnp.abs(world.tape.mark[world.product, time, 0]) * world.costs.tick_value


def carried(position: jax.Array, factor: jax.Array | float, lots: jax.Array) -> jax.Array:
    """What is held once a rebalance has multiplied an agent's capital, int32[A] lots: the position scales with it.

    Args:
        position: int32[A] lots.
        factor: float32[A] of the agents' capital.
        lots: float32[A] position that a full signal means now; nothing grows beyond it.
    """
    most = jnp.maximum(jnp.abs(position), jnp.abs(lots))
    return jnp.round(jnp.clip(factor * position, -most, most)).astype(jnp.int32)


def observe_products(world: World, held: jax.Array, lots: jax.Array, time: jax.Array) -> jax.Array:
    """What product agents see, float32[A, F + 1]: the features of row `time`, and what they hold (int32[A] lots) as a
    part of `lots`."""
    fraction = _side(lots) * held / jnp.maximum(jnp.abs(lots), 1.0)
    n_products, n_rows, n_features = world.features.shape
    features = world.features.reshape(n_products * n_rows, n_features)[_places(world, time)]
    return jnp.concatenate([features, jnp.clip(fraction, -2.0, 2.0)[:, None]], axis=-1)


def trade_row(
    key: jax.Array,
    world: World,
    holdings: Holdings,
    capital: jax.Array,
    lots: jax.Array,
    time: jax.Array,
    signal: jax.Array,
    *,
    factor: jax.Array | float = 1.0,
    passive: jax.Array | bool = False,
    hold: jax.Array | bool = False,
) -> tuple[Holdings, jax.Array]:
    """Trade every product toward its agents' signals at row `time`, and book what the time to the next row costs.

    A rebalance and an agent's own wish are one order: the position that capital carries along, traded to the target.

    Args:
        key: for the latencies.
        world: what is traded on.
        holdings: before the row.
        capital: float32[] currency that the portfolio began with.
        lots: float32[A] position that a full signal means; below zero for an agent whose signals are sold.
        time: int32[] row.
        signal: float32[A] target fractions of `lots`; NaN keeps the position.
        factor: float32[A] by which a rebalance at this row multiplies each agent's capital.
        passive: bool[] trade whatever the rows are marked, and toward any other position.
        hold: bool[] keep the positions, scaled by `factor`, whatever the signal.

    Returns:
        The holdings at the next row, and what each agent earned net of costs, float32[A] currency.
    """
    accounts, costs = holdings.accounts, world.costs
    band = jnp.where(passive, 0.0, world.no_trade_band)
    held = carried(accounts.position, factor, lots)
    wanted = jax.vmap(target_position, (0, 0, 0, None))(_side(lots) * signal, held, jnp.abs(lots), band)
    wanted = jnp.where(hold, held, wanted)
    flat = (world.flat[time] & ~jnp.asarray(passive)) | world.last[time]
    tape = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), world.tape)
    places = _places(world, time)
    traded, earned = jax.vmap(trade, (0, 0, 0, None, 0, 0))(
        jax.random.split(key, world.n_agents), accounts, jnp.where(flat, 0, wanted), tape, places, costs
    )
    equity, values = _standing(world, Holdings(traded, holdings.financing), capital, time)
    financing = accrue(holdings.financing, world.rates, equity, values, world.years[time])
    return Holdings(traded, financing), earned - (financing.shorts - holdings.financing.shorts)


def forgone(world: World, before: Holdings, after: Holdings, capital: jax.Array, time: jax.Array) -> jax.Array:
    """Interest that each agent's position kept from being earned at row `time`, were it cash: float32[A] currency.

    `before` and `after` are the holdings that `trade_row` was given and returned.
    """
    equity, values = _standing(world, Holdings(after.accounts, before.financing), capital, time)
    return without_each(world.rates, equity, values, world.years[time])


def trade_block(
    key: jax.Array,
    policy: Policy,
    world: World,
    holdings: Holdings,
    capital: jax.Array,
    lots: jax.Array,
    start: jax.Array,
    length: jax.Array,
    n_rows: int,
    *,
    factor: jax.Array | float = 1.0,
    passive: jax.Array | bool = False,
    hold: jax.Array | bool = False,
) -> tuple[Holdings, jax.Array, BlockRows]:
    """Let the product agents trade from row `start` on, `length` of at most `n_rows` rows.

    Args:
        key: for the latencies.
        policy: the product agents' network.
        world: what they trade on.
        holdings: before the block.
        capital: float32[] currency that the portfolio began with.
        lots: float32[A] position that a full signal means.
        start: int32[] first row.
        length: int32[] rows to trade.
        n_rows: the most rows a block can have (static).
        factor: float32[A] by which the rebalance multiplies each agent's capital, on the first row.
        passive: bool[] hold `lots` from the first row on instead of asking the policies.
        hold: bool[] keep the positions that capital carries along, on the first row too.

    Returns:
        The holdings after the block, the sum of each agent's absolute signals over its rows, float32[A], and the rows.
    """

    def row(carry: tuple[Holdings, jax.Array], xs: tuple[jax.Array, jax.Array]) -> tuple[Any, BlockRows]:
        (holdings, exerted), (i, key) = carry, xs
        time, first, active = start + jnp.minimum(i, length - 1), i == 0, i < length
        scale = jnp.where(first, factor, jnp.ones(world.n_agents))
        held = carried(holdings.accounts.position, scale, lots)
        action, _ = jax.vmap(policy.apply, (0, 0, None, None, None))(
            world.policies, observe_products(world, held, lots, time), policy.init_carry(), key, True
        )
        signal = jnp.where(passive, 1.0, action[:, 0])
        stays = jnp.asarray(hold) | (jnp.asarray(passive) & ~first)
        traded, _ = trade_row(
            key, world, holdings, capital, lots, time, signal, factor=scale, passive=passive, hold=stays
        )
        holdings = traded.choose(active, holdings)
        exerted = exerted + jnp.where(active, jnp.abs(signal), 0.0)
        return (holdings, exerted), BlockRows(
            net=jax.vmap(Account.net)(holdings.accounts, world.costs.tick_value),
            position=holdings.accounts.position,
            equity=capital + holdings.profit(world.costs),
        )

    xs = jnp.arange(n_rows), jax.random.split(key, n_rows)
    (holdings, exerted), rows = jax.lax.scan(row, (holdings, jnp.zeros(world.n_agents)), xs)
    return holdings, exerted, rows


def _standing(world: World, holdings: Holdings, capital: jax.Array, time: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Equity float32[] and the agents' positions float32[A], currency, at the marks of the row after `time`."""
    mark = world.tape.mark.reshape(-1, world.tape.mark.shape[-1])[_places(world, time)]
    values = holdings.accounts.position * (0.5 * (mark[:, 0] + mark[:, 1]) * world.costs.tick_value)
    return capital + holdings.profit(world.costs), values


def _side(lots: jax.Array) -> jax.Array:
    return jnp.where(lots < 0, -1.0, 1.0)


def _places(world: World, time: jax.Array) -> jax.Array:
    """int32[A] where row `time` of each agent's product stands once the products' rows are joined, P x T."""
    return world.product * world.flat.shape[0] + time
