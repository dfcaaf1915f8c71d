"""The out-of-sample backtest: every strategy through the same books, the same costs and the same limits.

A strategy is data (how capital is allocated, and whether agents or nobody decides within a block), so that all of them,
and many draws of the random latency, run side by side as one jitted function. Nothing is estimated here.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from marljax.envs.portfolio import Decision, PortfolioEnv, PortfolioParams, PortfolioState, base_weights
from marljax.envs.product_agents import Holdings, Policy, World, lot_values, trade_block
from marljax.portfolio.allocators import Allocate

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

    decision: Decision  # leaves [N, ...], how its capital was allocated and why
    returns: jax.Array  # float32[N] simple return of the portfolio, net of all costs
    equity: jax.Array  # float32[N] currency, after the block
    weights: jax.Array  # float32[N, A] the agents' capital after the block, drifted, fractions of equity
    lot_value: jax.Array  # float32[N, A] currency of one lot at the block's first row
    turnover: jax.Array  # float32[N] notional traded over equity before the block
    position: jax.Array  # int32[N, A] lots after the block
    net: jax.Array  # float32[N, A] currency, each account's net since the start


@partial(jax.jit, static_argnames=("env", "network"))
def backtest(
    env: PortfolioEnv, network: Policy, key: jax.Array, params: PortfolioParams, meta_policy: Any, strategy: Strategy
) -> tuple[Record, Holdings]:
    """Run one strategy through every block of `params`, from cash to cash.

    Args:
        env: with the product agents' network.
        network: the meta-controller's.
        key: for the latencies.
        params: over the held-out rows.
        meta_policy: parameters of `network`.
        strategy: one of `STRATEGIES`, or a stack of them under `vmap`.

    Returns:
        What happened, and what is held at the end: accounts with nothing but their items, and what was financed.
    """
    n_agents = params.world.n_agents
    equal = jnp.full(n_agents, 1.0 / n_agents)

    def decide(before: PortfolioState, memory: Any, key: jax.Array) -> tuple[jax.Array, Any]:
        action, memory = network.apply(meta_policy, env.observe(before, params), memory, key, True)
        fixed = jnp.stack([jnp.zeros(n_agents), equal, base_weights(before.block, params)]) * params.rails.limits.gross
        return jnp.concatenate([fixed, env.ask(before, action, params)[None]])[strategy.allocation], memory

    return _run(env, key, params, decide, network.init_carry(), strategy.passive, strategy.hold)


@partial(jax.jit, static_argnames=("env",))
def backtest_weights(
    env: PortfolioEnv, key: jax.Array, params: PortfolioParams, weights: jax.Array, passive: jax.Array
) -> tuple[Record, Holdings]:
    """As `backtest`, of capital that is allocated elsewhere, by `allocated` for example: `weights` float32[N, A] is
    asked for in each block, and `passive` bool[] holds it instead of asking the product agents."""

    def decide(before: PortfolioState, memory: Any, key: jax.Array) -> tuple[jax.Array, Any]:
        return weights[before.block], memory

    return _run(env, key, params, decide, (), passive, jnp.array(False))


def allocated(env: PortfolioEnv, params: PortfolioParams, allocate: Allocate) -> jax.Array:
    """float32[N, A] what an allocator asks for in each block, from the covariance known then; agents of one product
    share its weight evenly, and what a product without an agent would get stays in cash."""
    product = params.world.product
    crowd = jnp.zeros(params.market.covariance.shape[-1]).at[product].add(1.0)
    weights = jax.vmap(allocate)(params.market.covariance * env.rows_per_block)
    return params.rails.limits.gross * (weights / jnp.maximum(crowd, 1.0))[:, product]


def _run(
    env: PortfolioEnv,
    key: jax.Array,
    params: PortfolioParams,
    decide: Callable[[PortfolioState, Any, jax.Array], tuple[jax.Array, Any]],
    memory: Any,
    passive: jax.Array,
    hold: jax.Array,
) -> tuple[Record, Holdings]:
    """As of `backtest`; `decide` is given the state, its memory and a key, and says the weights and its memory then."""
    n_blocks = params.blocks.start.shape[0]

    def block(carry: tuple[PortfolioState, Any], xs: tuple[jax.Array, jax.Array]) -> tuple[Any, Record]:
        (state, memory), (i, key) = carry, xs
        before = dataclasses.replace(state, block=i)
        asked, memory = decide(before, memory, key)
        state, decision, rows, portfolio_return = env.run_block(
            key, before, asked, params, passive=passive, hold=hold & (i > 0)
        )
        record = Record(
            decision=decision,
            returns=portfolio_return,
            equity=state.equity,
            weights=state.weights,
            lot_value=lot_values(params.blocks.start[i], params.world),
            turnover=state.turnover,
            position=state.holdings.accounts.position,
            net=rows.net[-1],
        )
        return (state, memory), record

    keys, opened = jax.random.split(key, n_blocks), env.start(jnp.int32(0), params)
    (state, _), record = jax.lax.scan(block, (opened, memory), (jnp.arange(n_blocks), keys))
    return record, state.holdings


@partial(jax.jit, static_argnames=("policy", "n_rows"))
def agent_returns(policy: Policy, key: jax.Array, world: World, lots: jax.Array, n_rows: int) -> jax.Array:
    """What each product agent earns alone over all rows, per row and as a fraction of its full position's value.

    Args:
        policy: their network.
        key: for the latencies.
        world: T rows and the agents' parameters.
        lots: float32[A] position that a full signal means.
        n_rows: T - 1, the rows that can be marked.

    Returns:
        float32[T - 1, A], what money costs left out.
    """
    value = lots * lot_values(jnp.int32(0), world)
    nothing, start, length = Holdings.none(world.n_agents), jnp.int32(0), jnp.int32(n_rows)
    *_, rows = trade_block(key, policy, world, nothing, jnp.sum(value), lots, start, length, n_rows)
    return jnp.diff(rows.net, axis=0, prepend=jnp.zeros((1, world.n_agents))) / value


def costs_by_item(holdings: Holdings, tick_value: jax.Array) -> dict[str, jax.Array]:
    """Gross earnings, every cost that an account caused and what is left of them, float32[..., A] currency each.

    `holdings` has leaves [..., A]. Gross less slippage, latency, impact, fees and the cost of short positions is net.
    All nets, and what `financing_by_item` says was earned on cash less what loans cost, are what equity gained.
    """
    accounts, shorts = holdings.accounts, holdings.financing.shorts
    half_tick = 0.5 * tick_value
    return {
        "gross": half_tick * accounts.gross.value(),
        "slippage": half_tick * accounts.slippage.value(),
        "latency": half_tick * accounts.latency.value(),
        "impact": accounts.impact,
        "fees": accounts.fees,
        "shorts": shorts,
        "net": accounts.net(tick_value) - shorts,
    }


def financing_by_item(holdings: Holdings) -> dict[str, jax.Array]:
    """What the portfolio's cash earned and its loans cost, float32[...] currency each."""
    return {"interest": holdings.financing.interest, "loans": holdings.financing.loans}
