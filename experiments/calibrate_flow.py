"""Order flow calibrated from recorded messages: one LOBSTER pair to one flow.json.

    python experiments/calibrate_flow.py --path GOOG_2012-06-21_10.zip
    python experiments/calibrate_flow.py --path GOOG_2012-06-21_10.zip --run-dir runs/goog --decays 1 100

Writes rates of limit, market and cancel orders by side, distance and level, their sizes, the rhythm of arrivals, the
persistence of trade signs, and a Hawkes process of the six event types: `FlowStatistics` of
marljax.lob.sessions.calibration.
"""

import dataclasses
from pathlib import Path
from typing import Literal

from command import run
from marljax.data.readers.lobster_messages import read_messages
from marljax.data.schema import InputError, SourceFile
from marljax.lob.sessions.calibration import DECAYS, FlowStatistics, calibrate
from marljax.lob.sessions.session import from_recorded
from marljax.runtime.artefacts import write_json
from marljax.runtime.config import to_json
from marljax.runtime.progress import print_line
from marljax.runtime.stages import hash_file, provenance


@dataclasses.dataclass(frozen=True)
class CalibrationConfig:
    """What is calibrated, and how finely."""

    preset: Literal["standard"] = "standard"
    """Values which the other flags change."""
    path: tuple[Path, ...] = ()
    """The message and order book file of one stock and day, or the folder or archive that holds them."""
    run_dir: Path | None = None
    """Folder of the run; runs/flow by default."""
    max_distance: int = 100
    """Distances from the best quotes that are told apart [ticks]."""
    decays: tuple[float, ...] = DECAYS
    """Decays of the Hawkes process' kernels [1/s]."""

    def __post_init__(self) -> None:
        if not 1 <= self.max_distance <= 10_000:
            raise InputError(f"max_distance must lie within 1 and 10000 ticks, got {self.max_distance}")
        if not self.decays or min(self.decays) <= 0 or len(set(self.decays)) < len(self.decays):
            raise InputError(f"decays must be distinct positive numbers [1/s], got {list(self.decays)}")
        if not all(1e-6 <= decay <= 1e6 for decay in self.decays):
            raise InputError(f"decays must lie within 1e-6 and 1e6 [1/s], got {list(self.decays)}")
        if self.folder.exists() and not self.folder.is_dir():
            raise InputError("--run-dir names a file, not a folder", file=self.folder)

    @property
    def folder(self) -> Path:
        return self.run_dir or Path("runs") / "flow"


def main(config: CalibrationConfig) -> None:
    """Read, estimate, write."""
    if not config.path:
        raise InputError("--path is missing: name the LOBSTER files of one stock and day")
    recorded = read_messages(config.path)
    if len(recorded) != 1:
        found = ", ".join(f"{messages.product.name} {messages.day}" for messages in recorded)
        raise InputError(f"one stock and day is calibrated at a time, and the path holds {found}")
    messages = recorded[0]
    print_line(f"[read] {messages.product.name} {messages.day}: {len(messages)} messages, {messages.levels} levels")
    flow = calibrate(
        from_recorded(messages),
        tick_size=messages.product.tick_size,
        max_distance=config.max_distance,
        decays=config.decays,
    )
    folder = config.folder
    write_json(folder / "config.json", to_json(config))
    files = [SourceFile(str(file), hash_file(file), len(messages)) for file in _files(config.path)]
    write_json(folder / "provenance.json", provenance(seed=0, files=files, origins={messages.product.name: "recorded"}))
    write_json(folder / "flow.json", flow.to_json())
    for line in summary(flow):
        print_line(line)
    print_line(f"[flow] {folder / 'flow.json'}")


def summary(flow: FlowStatistics) -> list[str]:
    """What a person wants to see of it."""
    p, arrivals, hawkes = flow.placement, flow.arrivals, flow.hawkes
    rates = ", ".join(
        f"{name} {buy:.3f} {sell:.3f}"
        for name, (buy, sell) in (("limit", p.limit_rate), ("market", p.market_rate), ("cancel", p.cancel_rate))
    )
    inside = p.limit_improving.sum() / p.limit_rate.sum()
    touch = (p.limit_own[:, 0].sum() + p.limit_improving.sum()) / p.limit_rate.sum()
    return [
        f"[flow] orders per second (buy, sell): {rates}",
        f"[flow] limit orders inside the spread {inside:.1%}, there or at the best quote {touch:.1%}",
        f"[flow] times between messages: CV {arrivals.gap_cv:.2f}, below 1 ms {arrivals.gap_below_millisecond:.1%}",
        f"[flow] trade signs: autocorrelation {flow.trading.sign_autocorrelation[0]:.2f} at lag 1",
        f"[flow] Hawkes: branching ratio {hawkes.branching_ratio:.3f}, {hawkes.log_likelihood:.3f} nats per event",
    ]


def _files(paths: tuple[Path, ...]) -> list[Path]:
    return [
        file
        for path in paths
        for file in (sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path])
    ]


if __name__ == "__main__":
    run(main, CalibrationConfig, {"standard": CalibrationConfig()}, __doc__, resumes=False)
