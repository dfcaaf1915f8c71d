"""Where a program runs, and the cache of compiled programs.

Compiling takes most of a short run. JAX's persistent cache stores the executable under a hash of the program, the
compiler's options, its version and the device, so that a second process loads it instead. A loaded program gives the
same bits as a compiled one; another number of CPU cores does not, since XLA then adds up in another order.
"""

import os
from pathlib import Path
from typing import Any

import jax


def enable_compilation_cache(directory: str | Path | None = None) -> Path:
    """Keep compiled programs on disk and return the folder.

    The folder is `directory`, else $JAX_COMPILATION_CACHE_DIR, else $MARLJAX_CACHE/jax, else ~/.cache/marljax/jax.
    Every program is kept, however small: a pipeline compiles hundreds. Call it before the first compilation.
    """
    given = directory or os.environ.get("JAX_COMPILATION_CACHE_DIR")
    house = os.environ.get("MARLJAX_CACHE") or Path.home() / ".cache" / "marljax"
    folder = Path(given or Path(house) / "jax").expanduser().absolute()
    folder.mkdir(parents=True, exist_ok=True)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return folder


def describe_device() -> dict[str, Any]:
    """The device programs run on: {"platform", "kind", "count", "cores"}, cores being those this process may use."""
    devices = jax.devices()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"platform": devices[0].platform, "kind": devices[0].device_kind, "count": len(devices), "cores": cores}
