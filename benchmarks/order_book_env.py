"""Throughput of the order book env: 100 background messages, a market maker and an execution agent that act at random.

    python benchmarks/order_book_env.py [--quick]

Randomness, the flow's draws, latency, accounts, observations and auto-reset are included. The last line on stdout is
one JSON object. `per_second` counts env steps of the whole process; pin it to one core (taskset -c 0) for a figure per
core, and set XLA_FLAGS=--xla_cpu_prefer_vector_width=512 where the core has such registers; the object says which flags
were set. Envs run in chunks of 64, whose books stay in the cache.
"""

import argparse
import json
import os
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp

from marljax.envs.environment import sample
from marljax.envs.opening import order_book_params, run_in
from marljax.envs.order_book import OrderBookEnv
from marljax.envs.order_book_types import OrderBookConfig, OrderBookParams
from marljax.lob.flows import zero_intelligence

CHUNK = 64


def world(slots: int) -> tuple[OrderBookEnv, OrderBookParams]:
    """The env over a zero-intelligence background."""
    env = OrderBookEnv(zero_intelligence, OrderBookConfig(market_makers=1, executions=1, messages=100, slots=slots))
    flow = zero_intelligence.typical(line=60.0)
    openings, scales = run_in(jax.random.key(0), zero_intelligence, flow, env.config.book, count=16, blocks=20)
    return env, order_book_params(env, flow, openings, scales)


def measure(slots: int, batch: int, steps: int, repeats: int) -> dict[str, Any]:
    """Env steps per second at one batch size: median of `repeats` timed calls after compiling."""
    env, params = world(slots)
    space = env.action_space(params)

    def one(key: jax.Array, state: Any) -> tuple[Any, jax.Array]:
        action_key, env_key = jax.random.split(key)
        obs, state, reward, *_ = env.step(env_key, state, sample(action_key, space), params)
        return state, sum(jnp.sum(x) for x in (*obs.values(), *reward.values()))

    def rollout(key: jax.Array, state: Any) -> tuple[Any, jax.Array]:
        def step(state: Any, key: jax.Array) -> tuple[Any, jax.Array]:
            keys = jax.random.split(key, batch)
            return jax.lax.map(lambda x: one(*x), (keys, state), batch_size=min(CHUNK, batch))

        return jax.lax.scan(step, state, jax.random.split(key, steps))

    key = jax.random.key(0)
    _, state = jax.jit(jax.vmap(env.reset, (0, None)))(jax.random.split(key, batch), params)
    bytes_per_env = sum(x.nbytes for x in jax.tree.leaves(state)) // batch
    start = time.perf_counter()
    compiled = jax.jit(rollout, donate_argnums=1).lower(key, state).compile()
    compile_s = time.perf_counter() - start
    state, _ = jax.block_until_ready(compiled(key, state))
    seconds = []
    for i in range(repeats):
        start = time.perf_counter()
        state, _ = jax.block_until_ready(compiled(jax.random.key(i), state))
        seconds.append(time.perf_counter() - start)
    return {
        "case": "market maker and execution agent, 100 background messages",
        "batch": batch,
        "slots": slots,
        "per_second": batch * steps / statistics.median(seconds),
        "unit": "env steps",
        "compile_s": compile_s,
        "bytes_per_env": bytes_per_env,
        "dtype": "int32 book and money, float32 observations",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one case; ends within a minute")
    quick = parser.parse_args().quick
    cases = [(100, 64)] if quick else [(32, 64), (32, 1024), (100, 64), (100, 1024), (400, 64), (400, 1024)]
    results = []
    for slots, batch in cases:
        steps = max(8, (4096 if quick else 16384) // batch)
        results.append(measure(slots, batch, steps, 3 if quick else 5))
        print(f"slots {slots}, batch {batch}: {results[-1]['per_second'] / 1e3:.1f} thousand env steps/s", flush=True)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    summary = {
        "benchmark": "order_book_env",
        "device": jax.devices()[0].device_kind,
        "cores": cores,
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "results": results,
    }
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
