"""Throughput and memory of the whole hierarchy: meta-controller, guardrails and live product agents in one program.

    python benchmarks/portfolio_env.py [--quick]

Ten product agents with networks of 2 x 64 trade 20 rows between two decisions of the meta-controller, whose network is
of 2 x 64 too; then a thousand agents trade in one portfolio. The last line on stdout is one JSON object. `per_second`
counts steps of product agents in the whole process, everything included; `bytes_per_env` is a portfolio's state and
`program_bytes_per_env` what a portfolio more adds to the compiled program's buffers. Pin the process to one core
(taskset -c 1) for a figure per core, as for those in the docs.
"""

import argparse
import json
import os
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from marljax.agents.networks import MLP
from marljax.agents.policy import TanhGaussianPolicy
from marljax.data.schema import MarketData, Product
from marljax.envs.portfolio import PortfolioEnv, PortfolioParams
from marljax.envs.tapes import CostConfig, Rows, cost_models, default_capital
from marljax.envs.worlds import AllocationConfig, portfolio_params

LEVELS, FEATURES, ROWS_PER_BLOCK, EPISODE_BLOCKS = 10, 40, 20, 4
BODY = MLP((64, 64))
POLICY = TanhGaussianPolicy(1, BODY)


def walks(n_products: int, n_steps: int, seed: int = 0) -> MarketData:
    """Random walks with `LEVELS` full levels."""
    rng = np.random.default_rng(seed)
    shape = (n_steps, n_products, LEVELS)
    mid = 10_000 + np.cumsum(rng.integers(-3, 4, shape[:2]), axis=0)[..., None]
    return MarketData.build(
        bid_price=mid - np.cumsum(rng.integers(1, 3, shape), axis=-1),
        ask_price=mid + np.cumsum(rng.integers(1, 3, shape), axis=-1),
        bid_size=rng.integers(1, 200, shape),
        ask_size=rng.integers(1, 200, shape),
        trade_volume=rng.integers(0, 50, shape[:2]),
        trade_imbalance=np.zeros(shape[:2]),
        pnl=np.full(shape[:2], np.nan),
        valid=np.ones(shape[:2]),
        seconds=np.arange(n_steps),
        products=tuple(Product(f"WALK{i}") for i in range(n_products)),
        origin="simulated",
    )


def hierarchy(n_products: int, n_steps: int) -> tuple[PortfolioEnv, PortfolioParams]:
    """One agent for each of so many walks, every guardrail of a demanding configuration in force."""
    data = walks(n_products, n_steps)
    features = np.random.default_rng(1).normal(size=(n_steps, n_products, FEATURES))
    keys = jax.random.split(jax.random.key(0), n_products)
    config = AllocationConfig(rows_per_block=ROWS_PER_BLOCK, turnover=0.5, volatility_target=1.0)
    params = portfolio_params(
        data,
        slice(0, n_steps),
        Rows.of(data, jnp.asarray(features, jnp.float32), warm_up=20, closing_rows=5),
        data,
        policies=jax.vmap(lambda key: POLICY.init(key, FEATURES + 1))(keys),
        costs=cost_models(data, CostConfig()),
        no_trade_band=0.1,
        capital=default_capital(data),
        config=config,
        episode_blocks=EPISODE_BLOCKS,
    )
    return PortfolioEnv(POLICY, ROWS_PER_BLOCK, EPISODE_BLOCKS), params


def measure(
    case: str, env: PortfolioEnv, params: PortfolioParams, batch: int, steps: int, repeats: int
) -> dict[str, Any]:
    """Product-agent steps per second of `batch` portfolios: median of `repeats` timed calls after compiling."""
    n_agents = params.world.n_agents
    meta = TanhGaussianPolicy(n_agents + 1, BODY)
    weights = meta.init(jax.random.key(1), env.observation_space(params).shape[0])

    def rollout(key: jax.Array, obs: jax.Array, state: Any, params: PortfolioParams, weights: Any) -> Any:
        def step(carry: tuple[jax.Array, Any], key: jax.Array) -> tuple[tuple[jax.Array, Any], jax.Array]:
            obs, state = carry
            action, _ = meta.apply(weights, obs, meta.init_carry(), key, True)
            obs, state, reward, *_ = jax.vmap(env.step, (0, 0, 0, None))(
                jax.random.split(key, batch), state, action, params
            )
            return (obs, state), reward.mean()

        return jax.lax.scan(step, (obs, state), jax.random.split(key, steps))

    key = jax.random.key(0)
    obs, state = jax.jit(jax.vmap(env.reset, (0, None)))(jax.random.split(key, batch), params)
    start = time.perf_counter()
    compiled = jax.jit(rollout).lower(key, obs, state, params, weights).compile()
    compile_s = time.perf_counter() - start
    jax.block_until_ready(compiled(key, obs, state, params, weights))
    seconds = []
    for i in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(compiled(jax.random.key(i), obs, state, params, weights))
        seconds.append((time.perf_counter() - start) / steps)
    outer = statistics.median(seconds)
    used = compiled.memory_analysis()
    return {
        "case": case,
        "batch": batch,
        "agents": n_agents,
        "rows_per_block": ROWS_PER_BLOCK,
        "per_second": batch * n_agents * ROWS_PER_BLOCK / outer,
        "unit": "product-agent steps",
        "outer_step_ms": 1e3 * outer,
        "inner_step_ms": 1e3 * outer / ROWS_PER_BLOCK,
        "compile_s": compile_s,
        "bytes_per_env": sum(x.nbytes for x in jax.tree.leaves(state)) // batch,
        "program_bytes": used.temp_size_in_bytes + used.output_size_in_bytes,
        "dtype": "float32 networks, int32 books",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer steps and repeats; ends within a minute")
    quick = parser.parse_args().quick
    repeats, work = (5, 100_000) if quick else (9, 1_000_000)
    env, params = hierarchy(10, 2000)
    results = []
    for batch in (1, 64, 1024):
        steps = min(max(1, work // (batch * 10 * ROWS_PER_BLOCK)), 500)
        results.append(measure("ten agents a portfolio", env, params, batch, steps, repeats))
    slope = (results[2]["program_bytes"] - results[1]["program_bytes"]) / (1024 - 64)
    for result in results:
        result["program_bytes_per_env"] = round(slope)
    results.append(measure("a thousand agents in one portfolio", *hierarchy(1000, 160), 1, 1 if quick else 5, repeats))
    for result in results:
        print(
            f"{result['case']}, batch {result['batch']}: {result['per_second'] / 1e6:.2f} million agent steps/s, "
            f"{result['outer_step_ms']:.2f} ms between decisions, {result['inner_step_ms']:.3f} ms a row",
            flush=True,
        )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    device = jax.devices()[0].device_kind
    print(json.dumps({"benchmark": "portfolio_env", "device": device, "cores": cores, "results": results}))


if __name__ == "__main__":
    main()
