"""What a generator must beat: resampling, GARCH(1,1)-t and a zero-intelligence book."""

from marljax.generative.controls.flow_rates import fit_flow, fit_flow_of_messages
from marljax.generative.controls.garch import fit_garch, garch_books, garch_paths, simulate_garch
from marljax.generative.controls.resampling import (
    block_bootstrap_paths,
    iid_bootstrap,
    iid_bootstrap_paths,
    resampled_rows,
    shuffled_in_time,
    stationary_bootstrap,
    var_paths,
)
from marljax.generative.controls.zero_intelligence import zero_intelligence_books

__all__ = [
    "block_bootstrap_paths",
    "fit_flow",
    "fit_flow_of_messages",
    "fit_garch",
    "garch_books",
    "garch_paths",
    "iid_bootstrap",
    "iid_bootstrap_paths",
    "resampled_rows",
    "shuffled_in_time",
    "simulate_garch",
    "stationary_bootstrap",
    "var_paths",
    "zero_intelligence_books",
]
