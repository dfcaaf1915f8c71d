"""What a generator must beat: resampling, GARCH(1,1)-t and a zero-intelligence book."""

from marljax.generative.controls.garch import garch_books, garch_paths
from marljax.generative.controls.resampling import (
    block_bootstrap_paths,
    iid_bootstrap,
    iid_bootstrap_paths,
    resampled_rows,
    shuffled_in_time,
    stationary_bootstrap,
    var_paths,
)

__all__ = [
    "block_bootstrap_paths",
    "garch_books",
    "garch_paths",
    "iid_bootstrap",
    "iid_bootstrap_paths",
    "resampled_rows",
    "shuffled_in_time",
    "stationary_bootstrap",
    "var_paths",
]
