"""Throughput of the replay env and of market making on it, under a random policy, randomness and auto-reset included.

    python benchmarks/replay_env.py [--quick]

The last line on stdout is one JSON object. `per_second` counts env steps of the whole process; divide by `cores` for a
figure per core, or pin the process to one core (taskset -c 0) as we do for the figures in the docs.
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

from marljax.data.schema import MarketData, Product
from marljax.envs.environment import Environment
from marljax.envs.quoting import QuotingConfig, QuotingEnv, QuotingParams, quoting_params
from marljax.envs.replay import ReplayEnv, ReplayParams
from marljax.envs.tapes import (
    CostConfig,
    Rows,
    TradingConfig,
    cost_models,
    default_capital,
    position_limits,
)

LEVELS, FEATURES = 10, 40


def benchmark_params(n_levels: int = LEVELS, n_features: int = FEATURES) -> ReplayParams:
    """One product's params for taking, see `quoting_benchmark_params`."""
    return quoting_benchmark_params(n_levels, n_features).market


def quoting_benchmark_params(
    n_levels: int = LEVELS, n_features: int = FEATURES, n_steps: int = 20_000, seed: int = 0
) -> QuotingParams:
    """One product's params over a random walk with `n_levels` full levels and `n_features` noise features."""
    rng = np.random.default_rng(seed)
    shape = (n_steps, 1, n_levels)
    mid = 10_000 + np.cumsum(rng.integers(-1, 2, n_steps))[:, None, None]
    data = MarketData.build(
        bid_price=mid - np.cumsum(rng.integers(1, 3, shape), axis=-1),
        ask_price=mid + np.cumsum(rng.integers(1, 3, shape), axis=-1),
        bid_size=rng.integers(1, 200, shape),
        ask_size=rng.integers(1, 200, shape),
        trade_volume=rng.integers(0, 50, (n_steps, 1)),
        trade_imbalance=np.zeros((n_steps, 1)),
        pnl=np.full((n_steps, 1), np.nan),
        valid=np.ones((n_steps, 1)),
        seconds=np.arange(n_steps),
        products=(Product("WALK"),),
        origin="simulated",
    )
    features = jnp.asarray(rng.normal(size=(n_steps, 1, n_features)), jnp.float32)
    params = quoting_params(
        Rows.of(data, features, warm_up=50, closing_rows=5),
        costs=cost_models(data, CostConfig()),
        max_position=position_limits(data, default_capital(data)),
        trading=TradingConfig(),
        quoting=QuotingConfig(),
        episode_steps=128,
    )
    return jax.tree.map(lambda x: x[0], params)


def measure(case: str, env: Environment, params: Any, batch: int, steps: int, repeats: int) -> dict[str, Any]:
    """Env steps per second at one batch size: median of `repeats` timed calls after compiling."""

    def rollout(key: jax.Array, state: Any) -> tuple[Any, jax.Array]:
        def step(state: Any, key: jax.Array) -> tuple[Any, jax.Array]:
            action_key, env_key = jax.random.split(key)
            action = jax.random.uniform(action_key, (batch, *env.action_space(params).shape), minval=-1.0)
            keys = jax.random.split(env_key, batch)
            obs, state, reward, *_ = jax.vmap(env.step, (0, 0, 0, None))(keys, state, action, params)
            return state, reward.mean() + obs.mean()

        return jax.lax.scan(step, state, jax.random.split(key, steps))

    key = jax.random.key(0)
    _, state = jax.jit(jax.vmap(env.reset, (0, None)))(jax.random.split(key, batch), params)
    start = time.perf_counter()
    compiled = jax.jit(rollout).lower(key, state).compile()
    compile_s = time.perf_counter() - start
    jax.block_until_ready(compiled(key, state))
    seconds = []
    for i in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(compiled(jax.random.key(i), state))
        seconds.append(time.perf_counter() - start)
    return {
        "case": case,
        "batch": batch,
        "levels": LEVELS,
        "features": FEATURES,
        "per_second": batch * steps / statistics.median(seconds),
        "unit": "env steps",
        "compile_s": compile_s,
        "bytes_per_env": sum(x.nbytes for x in jax.tree.leaves(state)) // batch,
        "dtype": "int32 book, float32 features",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer batches and repeats; ends within a minute")
    quick = parser.parse_args().quick
    params = quoting_benchmark_params()
    cases = {
        "replay env, random policy": (ReplayEnv(), params.market),
        "replay env, passive quoting": (QuotingEnv(), params),
    }
    results = []
    for case, (env, world) in cases.items():
        for batch in (1024,) if quick else (1, 64, 1024, 8192):
            steps = max(16, (100_000 if quick else 400_000) // batch)
            results.append(measure(case, env, world, batch, min(steps, 20_000), 5 if quick else 9))
            print(f"{case}, batch {batch}: {results[-1]['per_second'] / 1e6:.2f} million env steps/s", flush=True)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    device = jax.devices()[0].device_kind
    print(json.dumps({"benchmark": "replay_env", "device": device, "cores": cores, "results": results}))


if __name__ == "__main__":
    main()
