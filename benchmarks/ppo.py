"""Throughput of learning: env steps per second of whole updates (rollout, advantages, epochs), not of the env alone.

    python benchmarks/ppo.py [--quick]

PPO at PureJaxRL's setting: 64 envs, 128 steps, 4 epochs of 4 minibatches, two hidden layers of 64 tanh units for the
actor and for the critic. SAC with 8 envs, one gradient step of batch 256 per 8 env steps. The last line on stdout is
one JSON object. `per_second` counts env steps of the whole process; pin it to one core (taskset -c 0) for a figure
per core.
"""

import argparse
import json
import os
import statistics
import time
from typing import Any

import jax
from replay_env import benchmark_params

from marljax.agents import PPO, SAC, Learner, PPOConfig, SACConfig, jit_update
from marljax.envs.controlled.cart_pole import CartPole, CartPoleParams
from marljax.envs.controlled.simple_spread import SimpleSpread, SimpleSpreadParams
from marljax.envs.replay import ReplayEnv


def measure(case: str, learner: Learner[Any], env_params: Any, n_products: int, repeats: int) -> dict[str, Any]:
    """Env steps per second: median of `repeats` updates after compiling. `n_products` 0 means without `vmap`."""
    key = jax.random.key(0)
    if n_products:
        env_params = jax.tree.map(lambda x: jax.numpy.stack([x] * n_products), env_params)
        runner = jax.jit(jax.vmap(learner.init))(jax.random.split(key, n_products), env_params)
    else:
        runner = jax.jit(learner.init)(key, env_params)
    n_bytes = sum(x.nbytes for x in jax.tree.leaves(runner))
    start = time.perf_counter()
    update = jit_update(learner, vmaps=min(n_products, 1)).lower(runner, env_params).compile()
    compile_s = time.perf_counter() - start
    seconds = []
    for _ in range(repeats + 2):
        start = time.perf_counter()
        runner, metrics = update(runner, env_params)
        jax.block_until_ready((runner, metrics))
        seconds.append(time.perf_counter() - start)
    steps, batch = learner.steps_per_chunk * max(n_products, 1), learner.config.n_envs * max(n_products, 1)
    result = {
        "case": case,
        "batch": batch,
        "per_second": steps / statistics.median(seconds[2:]),
        "unit": "env steps with learning",
        "compile_s": compile_s,
        "bytes_per_env": n_bytes // batch,
        "dtype": "float32",
        "reward": float(metrics["reward"].mean()),
    }
    print(f"{case}: {result['per_second'] / 1e3:.1f} thousand env steps/s, compiled in {compile_s:.1f} s", flush=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer repeats; ends within a minute")
    repeats = 10 if parser.parse_args().quick else 50
    replay, market = ReplayEnv(), benchmark_params(n_levels=10, n_features=40)
    navigation = SimpleSpread(), SimpleSpreadParams()
    results = [
        measure("PPO, CartPole", PPO(CartPole(), PPOConfig()), CartPoleParams(), 0, repeats),
        measure("PPO, continuous CartPole", PPO(CartPole(continuous=True), PPOConfig()), CartPoleParams(), 0, repeats),
        measure("PPO, replay env, 10 levels, 40 features", PPO(replay, PPOConfig()), market, 0, repeats),
        measure("PPO, replay env, 5 products under vmap", PPO(replay, PPOConfig()), market, 5, repeats),
        measure("independent PPO, simple_spread, 3 agents", PPO(navigation[0], PPOConfig()), navigation[1], 0, repeats),
        measure("the same, shared critic", PPO(navigation[0], PPOConfig(critic="shared")), navigation[1], 0, repeats),
        measure("PPO, GRU, replay env", PPO(replay, PPOConfig(network="gru")), market, 0, repeats),
        measure("SAC, replay env, 10 levels, 40 features", SAC(replay, SACConfig()), market, 0, repeats),
        measure("SAC, prioritised replay", SAC(replay, SACConfig(replay="prioritised")), market, 0, repeats),
    ]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    device = jax.devices()[0].device_kind
    print(json.dumps({"benchmark": "ppo", "device": device, "cores": cores, "results": results}))


if __name__ == "__main__":
    main()
