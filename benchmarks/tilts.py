"""What it costs to tilt risk parity, and what it does: by multiplying weights, or by solving with a tilted budget.

    python benchmarks/tilts.py [--quick]

`ask` multiplies weights by exp(tilt * action); the other way is `risk_parity(covariance, exp(tilt * action))`, which
makes risk shares exactly proportional to the budget. `slope` is how much a log risk share moves per log weight (1 for
a tilted budget per log budget), `fit` the R^2 of that line over agents and draws, `apart` the mean of half the sum of
absolute weight differences between the two ways, the budget's tilt scaled by the slope; `tilted` is the same distance
between the multiplied weights and the base; `hedges` the part of agents whose share of the risk is negative. The last
line on stdout is one JSON object.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from risk_parity import covariances

from marljax.portfolio.meta_controller import ask
from marljax.portfolio.risk_parity import risk_contributions, risk_parity

CASES = ((10, 256), (25, 128), (100, 16))
"""(agents, batch): batches that stay in a core's cache."""

TILT = float(np.log(3.0))


def multiplied(action: jax.Array, base: jax.Array, covariance: jax.Array) -> jax.Array:
    """Weights of an action, the way of the meta-controller."""
    return ask(action, base, TILT, 1.0)


def solved(action: jax.Array, base: jax.Array, covariance: jax.Array) -> jax.Array:
    """Weights of an action whose tilts are of risk budgets."""
    return 0.5 * (1.0 + action[-1]) * risk_parity(covariance, jnp.exp(TILT * action[:-1]))


def seconds(way: Callable[..., jax.Array], inputs: Any, repeats: int) -> float:
    """Median time of one batch."""
    compiled = jax.jit(jax.vmap(way)).lower(*inputs).compile()
    jax.block_until_ready(compiled(*inputs))
    # Enough calls to a measurement that the clock and the call do not count.
    start = time.perf_counter()
    jax.block_until_ready(compiled(*inputs))
    calls = max(1, int(0.05 / (time.perf_counter() - start)))
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        for _ in range(calls):
            out = compiled(*inputs)
        jax.block_until_ready(out)
        times.append((time.perf_counter() - start) / calls)
    return statistics.median(times)


def measure(n_agents: int, batch: int, repeats: int) -> dict[str, Any]:
    """One result row."""
    matrices = covariances(n_agents, batch)
    action = jax.random.uniform(jax.random.key(0), (batch, n_agents + 1), minval=-1.0).at[:, -1].set(1.0)
    base = jax.jit(jax.vmap(risk_parity))(matrices)
    inputs = action, base, matrices
    times = {way.__name__: seconds(way, inputs, repeats) / batch for way in (multiplied, solved)}
    weights = jax.vmap(multiplied)(*inputs)
    shares = np.asarray(jax.vmap(risk_contributions)(weights, matrices)).ravel()
    # What hedges all others has a negative share of the risk, and a share without logarithm.
    adds = shares > 0
    x, y = TILT * np.asarray(action[:, :-1]).ravel()[adds], np.log(shares[adds] * n_agents)
    slope = np.cov(x, y)[0, 1] / x.var(ddof=1)
    scaled = action.at[:, :-1].multiply(slope)
    apart = 0.5 * jnp.abs(weights - jax.vmap(solved)(scaled, base, matrices)).sum(-1)
    return {
        "case": f"{n_agents} agents",
        "batch": batch,
        "dtype": "float32",
        "per_second": 1.0 / times["multiplied"],
        "unit": "tilted allocations",
        "microseconds_multiplied": 1e6 * times["multiplied"],
        "microseconds_solved": 1e6 * times["solved"],
        "slope": float(slope),
        "fit": float(np.corrcoef(x, y)[0, 1] ** 2),
        "hedges": float(1.0 - adds.mean()),
        "apart": float(apart.mean()),
        "tilted": float(0.5 * jnp.abs(weights - base).sum(-1).mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="up to 25 agents")
    quick = parser.parse_args().quick
    results = []
    for n_agents, batch in CASES[:2] if quick else CASES:
        row = measure(n_agents, batch, repeats=5 if quick else 11)
        results.append(row)
        print(
            f"{row['case']:>10}: {row['microseconds_multiplied']:.2f} us multiplied, "
            f"{row['microseconds_solved']:.1f} us solved; slope {row['slope']:.2f}, R2 {row['fit']:.3f}, "
            f"{row['apart']:.1%} of {row['tilted']:.1%} apart",
            flush=True,
        )
    device = jax.devices()[0]
    cores = len(os.sched_getaffinity(0)) if device.platform == "cpu" else 0
    print(json.dumps({"benchmark": "tilts", "device": device.device_kind, "cores": cores, "results": results}))


if __name__ == "__main__":
    main()
