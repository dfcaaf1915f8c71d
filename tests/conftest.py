"""Tests run on the CPU, share one cache of compiled programs and draw few examples (`make nightly` draws many)."""

import os
from pathlib import Path

import hypothesis
import jax
import pytest

from marljax.runtime.devices import enable_compilation_cache

# Set for the processes that tests start, too.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".jax_cache"))
jax.config.update("jax_platforms", os.environ["JAX_PLATFORMS"])
# Most of the tests' time is compiling, a third of it in LLVM's optimiser, and without it numbers differ by no more than
# rounding; `make nightly` tests the programs that users run. XLA reads it when its first program is compiled.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
enable_compilation_cache()

# Compiling makes the first example slow and the rest fast, so a deadline for each would tell nothing.
hypothesis.settings.register_profile("ci", deadline=None, max_examples=20, derandomize=True)
hypothesis.settings.register_profile("nightly", deadline=None, max_examples=300)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

_MAPS = Path("/proc/self/maps")
_MANY = 20_000
"""Memory maps of a process. Every compiled program takes several, and Linux allows 65,530."""


@pytest.fixture(autouse=True, scope="module")
def _programs_do_not_pile_up():
    """Without it a process that has compiled some thousand programs dies of a segmentation fault in the next one."""
    yield
    if _MAPS.exists() and len(_MAPS.read_bytes().splitlines()) > _MANY:
        jax.clear_caches()
