"""The out-of-sample backtest: every strategy through the same books, the same costs and the same limits.

A strategy is data (how capital is allocated, and whether agents or nobody decides within a block), so that all of them,
and many draws of the random latency, run side by side as one jitted function. Nothing is estimated here.
"""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from marljax.envs.portfolio import Policy, PortfolioEnv, PortfolioParams, PortfolioState, World, lot_values, trade_block
from marljax.market.slippage import Account
from marljax.portfolio.guardrails import project
from marljax.portfolio.meta_controller import ask

NOTHING, EQUAL_WEIGHT, RISK_PARITY, META_CONTROLLER = range(4)


@struct.dataclass
class Strategy:
    """How a portfolio is run."""

    allocation: jax.Array  # int32[] one of the four above
    passive: jax.Array  # bool[] holds its allocation instead of asking the product agents
    hold: jax.Array  # bool[] buys once and never rebalances


def _strategy(allocation: int, passive: bool, hold: bool = False) -> Strategy:
    return Strategy(jnp.int32(allocation), jnp.array(passive), jnp.array(hold))


STRATEGIES: dict[str, Strategy] = {
    "meta_controller": _strategy(META_CONTROLLER, passive=False),
    "agents_risk_parity": _strategy(RISK_PARITY, passive=False),
    "agents_equal_weight": _strategy(EQUAL_WEIGHT, passive=False),
    "equal_weight": _strategy(EQUAL_WEIGHT, passive=True),
    "buy_and_hold": _strategy(EQUAL_WEIGHT, passive=True, hold=True),
    "risk_parity": _strategy(RISK_PARITY, passive=True),
    "no_trade": _strategy(NOTHING, passive=True),
}
"""The strategy under test, what it is without the meta-controller, and the baselines."""

BASELINES = ("equal_weight", "buy_and_hold", "risk_parity", "no_trade")


@struct.dataclass
class Record:
    """What happened in each of N blocks."""

    returns: jax.Array  # float32[N] simple return of the portfolio, net of all costs
    equity: jax.Array  # float32[N] currency, after the block
    weights: jax.Array  # float32[N, P] allocation granted, fractions of equity
    asked: jax.Array  # float32[N, P] allocation before the guardrails
    leverage_bound: jax.Array  # bool[N] the guardrails cut gross exposure
    concentration_bound: jax.Array  # bool[N] they cut a product's share
    lot_value: jax.Array  # float32[N, P] currency of one lot at the block's first row
    turnover: jax.Array  # float32[N] notional traded over equity before the block
    position: jax.Array  # int32[N, P] lots after the block
    net: jax.Array  # float32[N, P] currency, each product's net since the start


@partial(jax.jit, static_argnames=("env", "network"))
def backtest(
    env: PortfolioEnv, network: Policy, key: jax.Array, params: PortfolioParams, meta_policy: Any, strategy: Strategy
) -> tuple[Record, Account]:
    """Run one strategy through every block of `params`, from cash to cash.

    Args:
        env: with the product agents' network.
        network: the meta-controller's.
        key: for the latencies.
        params: over the held-out rows.
        meta_policy: parameters of `network`.
        strategy: one of `STRATEGIES`, or a stack of them under `vmap`.

    Returns:
        What happened, and the accounts at the end, leaves [P].
    """
    n_blocks, n_products = params.market.base.shape
    equal = jnp.full(n_products, 1.0 / n_products)

    def block(state: PortfolioState, xs: tuple[jax.Array, jax.Array]) -> tuple[PortfolioState, Record]:
        i, key = xs
        state = dataclasses.replace(state, block=i)
        base = params.market.base[i]
        action, _ = network.apply(meta_policy, env.observe(state, params), network.init_carry(), key, True)
        wanted = ask(action, base, params.tilt, params.limits.gross)
        fixed = jnp.stack([jnp.zeros(n_products), equal, base]) * params.limits.gross
        asked = jnp.concatenate([fixed, wanted[None]])[strategy.allocation]
        granted, intervention = project(asked, params.limits)
        before = state
        state, rows, portfolio_return = env.run_block(
            key, state, granted, params, passive=strategy.passive, hold=strategy.hold & (i > 0)
        )
        traded = jnp.sum(state.accounts.traded - before.accounts.traded)
        record = Record(
            returns=portfolio_return,
            equity=state.equity,
            weights=granted,
            asked=asked,
            leverage_bound=intervention.leverage,
            concentration_bound=jnp.any(intervention.long_cap),
            lot_value=lot_values(params.blocks.start[i], params.world),
            turnover=traded / jnp.maximum(before.equity, 1e-6 * params.capital),
            position=state.accounts.position,
            net=rows.net[-1],
        )
        return state, record

    keys = jax.random.split(key, n_blocks)
    state, record = jax.lax.scan(block, env.start(jnp.int32(0), params), (jnp.arange(n_blocks), keys))
    return record, state.accounts


@partial(jax.jit, static_argnames=("policy", "n_rows"))
def agent_returns(policy: Policy, key: jax.Array, world: World, lots: jax.Array, n_rows: int) -> jax.Array:
    """What each product agent earns alone over all rows, per row and as a fraction of its full position's value.

    Args:
        policy: their network.
        key: for the latencies.
        world: T rows and the agents' parameters.
        lots: float32[P] position that a full signal means.
        n_rows: T - 1, the rows that can be marked.

    Returns:
        float32[T - 1, P].
    """
    n_products = lots.shape[0]
    accounts = jax.tree.map(lambda x: jnp.broadcast_to(x, (n_products,)), Account.open())
    _, rows = trade_block(key, policy, world, accounts, lots, jnp.int32(0), jnp.int32(n_rows), n_rows)
    value = lots * 0.5 * jnp.abs(world.tape.mark[:, 0, 0]) * world.costs.tick_value
    return jnp.diff(rows.net, axis=0, prepend=jnp.zeros((1, n_products))) / value


def costs_by_item(accounts: Account, tick_value: jax.Array) -> dict[str, jax.Array]:
    """Gross earnings, every cost and what is left of them, float32[..., P] currency each.

    `accounts` has leaves [..., P]; gross less slippage, latency, impact and fees is net.
    """
    half_tick = 0.5 * tick_value
    return {
        "gross": half_tick * accounts.gross.value(),
        "slippage": half_tick * accounts.slippage.value(),
        "latency": half_tick * accounts.latency.value(),
        "impact": accounts.impact,
        "fees": accounts.fees,
        "net": accounts.net(tick_value),
    }
