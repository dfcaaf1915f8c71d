"""Decisions of the meta-controller per second: policies over a set of agents, and a perceptron for comparison.

    python benchmarks/meta_policy.py [--quick]

Two layers of 64 units each, median of 15 batches. The last line on stdout is one JSON object.
"""

import argparse
import json
import os
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp

from marljax.agents.agent_set import AgentSet
from marljax.agents.networks import MLP, Network
from marljax.agents.policy import TanhGaussianPolicy
from marljax.portfolio.meta_controller import observation_size

CASES = ((10, 16), (10, 256), (50, 16), (1000, 1))
"""(agents, batch)."""


def measure(name: str, network: Network, n_agents: int, batch: int) -> dict[str, Any]:
    """One result row."""
    policy, n_in = TanhGaussianPolicy(n_agents + 1, network), observation_size(n_agents)
    params = jax.jit(lambda key: policy.init(key, n_in))(jax.random.key(0))
    obs = jax.random.normal(jax.random.key(1), (batch, n_in))
    carry = jax.tree.map(lambda c: jnp.zeros((batch, *c.shape)), policy.init_carry())
    inputs = params, obs, carry, jax.random.key(2)
    start = time.perf_counter()
    decide = jax.jit(lambda params, obs, carry, key: policy.apply(params, obs, carry, key, True))
    compiled = decide.lower(*inputs).compile()
    compile_s, seconds = time.perf_counter() - start, []
    for _ in range(16):
        start = time.perf_counter()
        jax.block_until_ready(compiled(*inputs))
        seconds.append(time.perf_counter() - start)
    return {
        "case": f"{name}, {n_agents} agents",
        "batch": batch,
        "per_second": batch / statistics.median(seconds[1:]),
        "unit": "decisions",
        "compile_s": compile_s,
        "parameters": sum(x.size for x in jax.tree.leaves(params.network)),
        "dtype": "float32",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="ten agents alone")
    quick, results = parser.parse_args().quick, []
    for n_agents, batch in CASES[:2] if quick else CASES:
        networks = {"perceptron": MLP(), "set": AgentSet(n_agents), "recurrent set": AgentSet(n_agents, recurrent=True)}
        for name, network in networks.items():
            row = measure(name, network, n_agents, batch)
            results.append(row)
            each = 1e6 / row["per_second"]
            print(
                f"{row['case']:>26} x {batch:3}: {each:8.2f} us a decision, {row['parameters']} parameters", flush=True
            )
    device = jax.devices()[0]
    cores = len(os.sched_getaffinity(0)) if device.platform == "cpu" else 0
    print(json.dumps({"benchmark": "meta_policy", "device": device.device_kind, "cores": cores, "results": results}))


if __name__ == "__main__":
    main()
