"""Allocations per second, risk parity and others that solve, batched with vmap. The last line is one JSON object.

python benchmarks/risk_parity.py [--quick]
"""

import argparse
import json
import os
import time

import jax
import jax.numpy as jnp
import numpy as np

from marljax.portfolio.allocators import Allocate
from marljax.portfolio.hierarchical_risk_parity import hierarchical_risk_parity
from marljax.portfolio.minimum_variance import minimum_variance
from marljax.portfolio.risk_parity import risk_contributions, risk_parity

ALLOCATORS = {
    "risk_parity": risk_parity,
    "minimum_variance": minimum_variance,
    "hierarchical_risk_parity": hierarchical_risk_parity,
}
REPEATS = 5
CASES = ((10, 256), (25, 128), (100, 16), (500, 1), (1000, 1))
"""(products, batch): batches that stay in a core's cache."""


def covariances(n_products: int, batch: int) -> jax.Array:
    """float32[batch, P, P] covariances with three common factors, per-step volatilities of about 1e-4."""
    rng = np.random.default_rng(0)
    loadings = rng.normal(size=(batch, n_products, 3)) * [0.5, 0.4, 0.3] + [0.6, 0, 0]
    common = loadings @ loadings.transpose(0, 2, 1) + np.eye(n_products) * rng.uniform(0.2, 1.0, n_products)
    volatility = 1e-4 * np.exp(0.5 * rng.normal(size=(batch, n_products)))
    return jnp.asarray(common * volatility[:, :, None] * volatility[:, None, :], jnp.float32)


def measure(name: str, allocate: Allocate, n_products: int, batch: int, seconds: float) -> dict[str, object]:
    """One result row, the median of five runs; for risk parity also how far its contributions are from the budget."""
    inputs = covariances(n_products, batch)
    budget = jnp.full((batch, n_products), 1.0 / n_products)
    start = time.perf_counter()
    compiled = jax.jit(jax.vmap(allocate)).lower(inputs, budget).compile()
    compile_s = time.perf_counter() - start
    weights = jax.block_until_ready(compiled(inputs, budget))
    error = jnp.abs(jax.vmap(risk_contributions)(weights, inputs) * n_products - 1.0).max()
    speeds = []
    for _ in range(REPEATS):
        calls, start = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - start) < seconds / REPEATS:
            jax.block_until_ready(compiled(inputs, budget))
            calls += 1
        speeds.append(calls * batch / elapsed)
    memory = compiled.memory_analysis()
    total = memory.temp_size_in_bytes + memory.argument_size_in_bytes + memory.output_size_in_bytes
    row = {
        "case": f"{name}, {n_products} products",
        "batch": batch,
        "per_second": float(np.median(speeds)),
        "unit": "solves",
        "dtype": "float32",
        "compile_s": compile_s,
        "bytes_per_env": total // batch,
    }
    return row | ({"relative_budget_error": float(error)} if name == "risk_parity" else {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="up to 100 products, half a second each")
    quick = parser.parse_args().quick
    results = []
    for name, allocate in ALLOCATORS.items():
        for n_products, batch in CASES[:3] if quick else CASES:
            row = measure(name, allocate, n_products, batch, 0.5 if quick else 3.0)
            results.append(row)
            print(
                f"{row['case']:>40}: {row['per_second']:12,.1f} solves/s, compiled in {row['compile_s']:.2f} s",
                flush=True,
            )
    device = jax.devices()[0]
    cores = len(os.sched_getaffinity(0)) if device.platform == "cpu" else 0
    print(json.dumps({"benchmark": "risk_parity", "device": device.device_kind, "cores": cores, "results": results}))


if __name__ == "__main__":
    main()
