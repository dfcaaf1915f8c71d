"""Throughput of the matching engine: messages per second, accounts, trades and receipts included.

    python benchmarks/matching.py [--quick] [--yardstick PATH]

Blocks of 100 random messages meet books that already hold orders. With `--yardstick`, the path of a script with
`empty`, `run` and `mk` (a book on sorted arrays, without accounts), both run in turn in this process and `ratio`
compares them. The last line on stdout is one JSON object. `per_second` counts messages of the whole process; divide by
`cores` for a figure per core, or pin the process to one core (taskset -c 0) as we do for the figures in the docs.
"""

import argparse
import dataclasses
import importlib.util
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# 512-bit vectors where the CPU has them; the same for the yardstick. A user's own flags win.
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_prefer_vector_width=512")

import jax
import jax.numpy as jnp

from marljax.lob.lanes import in_chunks
from marljax.lob.matching import empty, process
from marljax.lob.types import BUY, SELL, BookConfig, Kind, Messages, SelfTrade

BLOCK = 100
OWNERS = 3


def block(key: jax.Array, self_trade: bool, peaks: bool) -> Messages:
    """BLOCK messages: 55 % limit orders within 15 ticks, 35 % cancels of recent orders, 10 % market orders."""
    keys = jax.random.split(key, 8)
    share = jax.random.uniform(keys[0], (BLOCK,))
    kind = jnp.where(share < 0.55, Kind.LIMIT, jnp.where(share < 0.9, Kind.CANCEL, Kind.MARKET))
    side = jnp.where(jax.random.bernoulli(keys[1], shape=(BLOCK,)), BUY, SELL)
    owner = jax.random.randint(keys[2], (BLOCK,), 0, OWNERS)
    number = jnp.arange(BLOCK)
    target = jnp.maximum(number - jax.random.randint(keys[3], (BLOCK,), 1, 50), 0)
    cancels = kind == Kind.CANCEL
    size = jax.random.randint(keys[4], (BLOCK,), 1, 100)
    rule = jax.random.randint(keys[5], (BLOCK,), SelfTrade.ALLOW, SelfTrade.CANCEL_NEWEST + 1)
    peak = jnp.where(jax.random.bernoulli(keys[7], 0.1, (BLOCK,)), 1 + size // 4, 0)
    fields = (
        kind,
        side,
        10_000 - side * jax.random.randint(keys[6], (BLOCK,), 0, 15) + 2 * side,
        size,
        jnp.where(cancels, target, number),
        jnp.where(cancels, owner[target], owner),
        peak if peaks else jnp.zeros_like(peak),
        rule if self_trade else jnp.zeros_like(rule),
    )
    return Messages(*(field.astype(jnp.int32) for field in fields))


def seconds_of(function: Callable[..., Any], arguments: tuple[Any, ...]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(function(*arguments))
    return time.perf_counter() - start


class Runner:
    """A compiled function of a batch of books, with its arguments."""

    def __init__(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        start = time.perf_counter()
        self.compiled = jax.jit(function).lower(*arguments).compile()
        self.compile_s = time.perf_counter() - start
        self.arguments = arguments
        jax.block_until_ready(self.compiled(*arguments))

    def seconds(self) -> float:
        return seconds_of(self.compiled, self.arguments)


def ours(config: BookConfig, batch: int, self_trade: bool = False, peaks: bool = False) -> tuple[Runner, int]:
    """The engine on `batch` books that a first block has filled, and the bytes of a book."""

    def blocks(seed: int) -> Messages:
        return jax.vmap(lambda key: block(key, self_trade, peaks))(jax.random.split(jax.random.key(seed), batch))

    run = in_chunks(lambda book, messages: process(book, messages, config))
    books = jax.tree.map(lambda x: jnp.broadcast_to(x, (batch, *x.shape)), empty(config))
    first = jax.vmap(lambda key: block(key, False, peaks))(jax.random.split(jax.random.key(0), batch))
    # Ids of the second block do not meet those of the first.
    second = blocks(1)
    runner = Runner(run, (books, second))
    runner.arguments = (runner.compiled(books, dataclasses.replace(first, id=first.id - 2 * BLOCK))[0], second)
    return runner, sum(x.nbytes for x in jax.tree.leaves(books)) // batch


def yardstick(path: Path, slots: int, batch: int) -> Runner:
    """The script's book on the same number of books, in the batches that it was written for."""
    arguments, sys.argv = sys.argv, [str(path), str(slots)]
    spec = importlib.util.spec_from_file_location("yardstick", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.argv = arguments
    messages = jax.vmap(lambda key: module.mk(key, BLOCK))(jax.random.split(jax.random.key(0), batch))
    books = jax.tree.map(lambda x: jnp.broadcast_to(x, (batch, *x.shape)), (module.empty(), module.empty()))
    filled, _ = jax.jit(jax.vmap(module.run))(books, messages.at[..., -1].add(-2 * BLOCK))
    return Runner(in_chunks(module.run), (filled, messages))


def measure(case: str, config: BookConfig, batch: int, repeats: int, path: Path | None, **kind: bool) -> dict[str, Any]:
    """One result row; the two take turns, so that the machine's other load is shared."""
    engine, size = ours(config, batch, **kind)
    other = yardstick(path, config.slots, batch) if path else None
    rounds = max(1, 4096 // batch)
    times: list[float] = []
    theirs: list[float] = []
    for _ in range(repeats):
        times.append(statistics.median(engine.seconds() for _ in range(rounds)))
        if other:
            theirs.append(statistics.median(other.seconds() for _ in range(rounds)))
    row = {
        "case": case,
        "batch": batch,
        "slots": config.slots,
        "reserves": config.reserves,
        "per_second": batch * BLOCK / statistics.median(times),
        "unit": "messages",
        "compile_s": engine.compile_s,
        "bytes_per_env": size,
        "dtype": "int32",
    }
    if other:
        row["yardstick_per_second"] = batch * BLOCK / statistics.median(theirs)
        row["ratio"] = statistics.median(b / a for a, b in zip(times, theirs, strict=True))
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three cases; ends within a minute")
    parser.add_argument("--yardstick", type=Path, help="a script to compare with")
    options = parser.parse_args()
    plain, rules, icebergs = "full accounting", "every self-trade rule at random", "with icebergs"
    if options.quick:
        cases = [(plain, 100, 128, {}), (plain, 100, 1024, {}), (rules, 100, 128, {"self_trade": True})]
    else:
        cases = [(plain, 100, batch, {}) for batch in (1, 16, 128, 1024, 4096)]
        cases += [(rules, 100, batch, {"self_trade": True}) for batch in (128, 1024)]
        cases += [(icebergs, 100, 1024, {"peaks": True})]
        cases += [(plain, slots, 1024, {}) for slots in (32, 400)]
    results = []
    for case, slots, batch, kind in cases:
        config = BookConfig(slots=slots, owners=OWNERS, reserves=8 if "peaks" in kind else 0)
        row = measure(case, config, batch, 5 if options.quick else 9, options.yardstick, **kind)
        results.append(row)
        versus = f", {row['ratio']:.2f} times the yardstick" if "ratio" in row else ""
        print(
            f"{case}, {slots} slots, {batch} books: {row['per_second'] / 1e6:.2f} million messages/s{versus}",
            flush=True,
        )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    device = jax.devices()[0].device_kind
    flags = os.environ["XLA_FLAGS"]
    print(
        json.dumps({"benchmark": "matching", "device": device, "cores": cores, "xla_flags": flags, "results": results})
    )


if __name__ == "__main__":
    main()
