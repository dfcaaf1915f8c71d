"""What background flow costs beside the matching: messages per second of engine and flow, engine alone, flow alone.

    python benchmarks/flow.py [--quick]

`full` prepares and answers each message in the book as it stands, `engine` puts the same messages to the same books as
given, `prepare` is the part of the flow that needs no book. The flow's share is 1 / full - 1 / engine.
"""

import argparse
import json
import os
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from marljax.lob import matching
from marljax.lob.flows import fair_value, hawkes, hawkes_market, zero_intelligence
from marljax.lob.lanes import in_chunks
from marljax.lob.stress import calm
from marljax.lob.types import BookConfig
from marljax.runtime.devices import enable_compilation_cache

_MESSAGES = 100
_STEPS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one batch and few repetitions, within 60 s")
    quick = parser.parse_args().quick
    enable_compilation_cache()
    models = {
        "zero intelligence": (zero_intelligence, zero_intelligence.typical()),
        "fair value": (fair_value, fair_value.typical(np.full(1000, 10_000.0))),
        "hawkes": (hawkes, hawkes_market.load()),
    }
    results = []
    for batch in (128,) if quick else (128, 1024, 4096):
        for name, (model, params) in models.items():
            results += measure(name, model, params, batch, repeats=3 if quick else 7)
    device = jax.devices()[0].device_kind
    cores = len(os.sched_getaffinity(0))
    print(json.dumps({"benchmark": "flow", "device": device, "cores": cores, "results": results}))


def measure(name, model, params, batch, repeats):
    config = BookConfig(slots=100)
    stress = calm()
    keys = jax.random.split(jax.random.key(0), batch)
    respond = lambda book, draw: model.message(draw, book)  # noqa: E731

    def full(carry, key):
        book, state = carry
        draws, state = model.prepare(key, state, params, stress, _MESSAGES)
        book, report = matching.process(book, draws, config, respond=respond)
        return (book, state), report.trades.count

    def engine(carry, key):
        book, messages = carry
        book, report = matching.process(book, messages, config)
        return (book, messages), report.trades.count

    def prepare(carry, key):
        book, state = carry
        draws, state = model.prepare(key, state, params, stress, _MESSAGES)
        return (book, state), sum(jnp.sum(x) for x in jax.tree.leaves(draws))

    def made(carry, key):
        draws, _ = model.prepare(key, carry[1], params, stress, _MESSAGES)
        return matching.process(carry[0], draws, config, respond=respond)[1].messages

    def steps(function):
        return jax.jit(in_chunks(lambda carry, key: jax.lax.scan(function, carry, jax.random.split(key, _STEPS))))

    books = jax.jit(jax.vmap(partial(model.initial_book, params=params, config=config)))(keys)
    states = jax.jit(jax.vmap(lambda _: model.initial_state(params)))(keys)
    carry, _ = steps(full)((books, states), keys)
    messages = jax.jit(jax.vmap(made))(carry, keys)
    cases = {"full": (full, carry), "engine": (engine, (carry[0], messages)), "prepare": (prepare, carry)}
    compiled, compile_s, seconds = {}, {}, {case: [] for case in cases}
    for case, (function, start) in cases.items():
        began = time.perf_counter()
        compiled[case] = steps(function).lower(start, keys).compile()
        compile_s[case] = time.perf_counter() - began
        jax.block_until_ready(compiled[case](start, keys))
    # Interleaved, so that a busy moment of the machine meets all of them.
    for _ in range(repeats):
        for case, (_, start) in cases.items():
            began = time.perf_counter()
            jax.block_until_ready(compiled[case](start, keys))
            seconds[case].append(time.perf_counter() - began)
    bytes_per_env = sum(x.nbytes for x in jax.tree.leaves(carry)) // batch
    return [
        {
            "case": f"{name}, {case}",
            "batch": batch,
            "slots": config.slots,
            "per_second": batch * _STEPS * _MESSAGES / float(np.median(seconds[case])),
            "unit": "messages",
            "compile_s": round(compile_s[case], 2),
            "bytes_per_env": bytes_per_env,
        }
        for case in cases
    ]


if __name__ == "__main__":
    main()
