"""The cache of compiled programs serves the next process."""

import os
import subprocess
import sys
from pathlib import Path

import jax

from marljax.runtime import devices

PROGRAM = """
import jax, jax.numpy as jnp, numpy as np
from jax import monitoring
hits = []
monitoring.register_event_listener(lambda event, **_: hits.append(event) if event.endswith("cache_hits") else None)
from marljax.runtime.devices import enable_compilation_cache
print(enable_compilation_cache())
def step(x, key):
    x = jnp.tanh(x @ x.T / 8 + jax.random.normal(key, x.shape))
    return x, jnp.exp(x).sum()
x, sums = jax.jit(lambda key: jax.lax.scan(step, jnp.ones((8, 8)), jax.random.split(key, 5)))(jax.random.key(0))
print(len(hits))
print(np.asarray(x).tobytes().hex() + np.asarray(sums).tobytes().hex())
"""


def run(**environment: str) -> list[str]:
    inherited = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=inherited | environment)
    return done.stdout.splitlines()


def test_a_second_process_loads_what_the_first_compiled_and_computes_the_same_bits(tmp_path):
    folder, hits, fresh = run(MARLJAX_CACHE=str(tmp_path))
    assert folder == str(tmp_path / "jax")
    assert hits == "0"
    _, hits, loaded = run(JAX_COMPILATION_CACHE_DIR=folder)
    assert int(hits) >= 1
    assert loaded == fresh


def test_a_device_is_described():
    found = devices.describe_device()
    assert found["platform"] == jax.devices()[0].platform
    assert found["count"] >= 1
    assert found["cores"] >= 1


def test_the_folder_is_that_of_the_environment(monkeypatch, tmp_path):
    before = jax.config.jax_compilation_cache_dir
    try:
        monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "given"))
        assert devices.enable_compilation_cache() == tmp_path / "given"
        monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
        monkeypatch.setenv("MARLJAX_CACHE", str(tmp_path))
        assert devices.enable_compilation_cache() == tmp_path / "jax"
        monkeypatch.delenv("MARLJAX_CACHE")
        monkeypatch.setattr(Path, "home", lambda: tmp_path)
        assert devices.enable_compilation_cache() == tmp_path / ".cache" / "marljax" / "jax"
    finally:
        devices.enable_compilation_cache(before)
