"""A session of background flow in a live book, judged by the stylized facts of recorded sessions.

    python experiments/simulate_market.py
    python experiments/simulate_market.py --seeds 0 1 2 --like GOOG-10
    python experiments/simulate_market.py --model zero-intelligence --seconds 7200
    python experiments/simulate_market.py --tune-on GOOG_2012-06-21_10.zip

Writes, for each seed, facts.md (each fact, its value, its band, pass or fail) and events.npz (the events and the ten
best levels after each), and summary.json. `--tune-on` estimates the Hawkes market of a LOBSTER session first and
writes it to market.json; without, the one that comes with marljax is used. All of it is simulated.
"""

import dataclasses
import time
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import jax
import numpy as np

from command import run
from marljax.data.readers.lobster_messages import read_messages
from marljax.data.schema import InputError, SourceFile
from marljax.evaluation.stylized_facts import MEASURED, FactResult, judge, to_markdown
from marljax.lob.flows import fair_value, hawkes, hawkes_market, zero_intelligence
from marljax.lob.sessions.session import Session, from_recorded
from marljax.lob.sessions.simulated import simulate
from marljax.lob.types import BookConfig
from marljax.runtime.artefacts import write_atomic, write_json
from marljax.runtime.config import to_json
from marljax.runtime.progress import print_line
from marljax.runtime.stages import hash_file, provenance

_LEAST_SECONDS = 120.0
_MOST_SECONDS = 86_400.0


@dataclasses.dataclass(frozen=True)
class SimulationConfig:
    """What is simulated, and what it is held against."""

    preset: Literal["standard"] = "standard"
    """Values which the other flags change."""
    model: Literal["hawkes", "zero-intelligence", "fair-value"] = "hawkes"
    """The background flow. Fair value follows a Gaussian random walk of the seed, 3.9 ticks a second."""
    seconds: float = 23_400.0
    """Length of the session [s]; a trading day has 23400."""
    seeds: tuple[int, ...] = (0,)
    """One session each."""
    slots: int = 100
    """Orders that can rest on one side of the book."""
    market: Path | None = None
    """Parameters of the Hawkes market, as `--tune-on` writes them; those that come with marljax by default."""
    tune_on: Path | None = None
    """A LOBSTER pair (archive or folder) of one stock and day to estimate the Hawkes market on first."""
    like: tuple[str, ...] = tuple(MEASURED)
    """Recorded files that the bands are made of."""
    run_dir: Path | None = None
    """Folder of the run; runs/market by default."""

    def __post_init__(self) -> None:
        if not _LEAST_SECONDS <= self.seconds <= _MOST_SECONDS:
            raise InputError(f"seconds must lie within {_LEAST_SECONDS:g} and {_MOST_SECONDS:g}, got {self.seconds:g}")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise InputError(f"seeds must be distinct numbers, at least one, got {list(self.seeds)}")
        if not all(0 <= seed < 2**32 for seed in self.seeds):
            raise InputError(f"seeds must lie within 0 and 2**32 - 1, got {list(self.seeds)}")
        if not 20 <= self.slots <= 4096:
            raise InputError(f"slots must lie within 20 and 4096, got {self.slots}")
        unknown = sorted(set(self.like) - MEASURED.keys())
        if unknown or not self.like:
            raise InputError(f"like must name some of {', '.join(MEASURED)}, got {', '.join(unknown) or 'none'}")
        if self.model != "hawkes" and (self.market or self.tune_on):
            raise InputError("--market and --tune-on belong to --model hawkes")
        if self.market and self.tune_on:
            raise InputError("--market and --tune-on exclude each other")
        if self.folder.exists() and not self.folder.is_dir():
            raise InputError("--run-dir names a file, not a folder", file=self.folder)

    @property
    def folder(self) -> Path:
        return self.run_dir or Path("runs") / "market"


def main(config: SimulationConfig) -> None:
    """Estimate if asked to, simulate, judge, write."""
    folder = config.folder
    market = _market(config) if config.model == "hawkes" else None
    write_json(folder / "config.json", to_json(config))
    sessions = {}
    for seed in config.seeds:
        model, params = _flow(config, market, seed)
        started = time.perf_counter()
        book = BookConfig(slots=config.slots, owners=1)
        session = simulate(jax.random.key(seed), model, params, book, config.seconds)
        took = time.perf_counter() - started
        print_line(f"[simulate] seed {seed}: {len(session)} events in {took:.1f} s")
        results = judge(session, config.like)
        part = folder / f"seed-{seed}"
        _write_events(part / "events.npz", session)
        facts_page = f"Simulated, {config.model}, seed {seed}.\n\n{to_markdown(results)}"
        write_atomic(part / "facts.md", facts_page.encode())
        for line in summary(results):
            print_line(line)
        sessions[str(seed)] = {r.name: {"value": r.value, "band": [r.low, r.high], "pass": r.passed} for r in results}
    passes = {
        fact: sum(bool(facts[fact]["pass"]) for facts in sessions.values()) for fact in next(iter(sessions.values()))
    }
    write_json(
        folder / "summary.json",
        {"simulated": True, "model": config.model, "like": list(config.like), "passes": passes, "seeds": sessions},
    )
    print_line(f"[facts] {folder / 'summary.json'}")


def summary(results: list[FactResult]) -> list[str]:
    """One line for each fact, and the count."""
    lines = [
        f"[fact] {'pass' if r.passed else 'FAIL'} {r.name} {r.value:.3g}, band {r.low:.3g} to {r.high:.3g}"
        for r in results
    ]
    return [*lines, f"[facts] {sum(r.passed for r in results)} of {len(results)} within their band"]


def _market(config: SimulationConfig) -> hawkes.HawkesParams:
    if config.tune_on is None:
        return hawkes_market.load(config.market) if config.market else hawkes_market.load()
    recorded = read_messages([config.tune_on])
    if len(recorded) != 1:
        raise InputError(f"a market is estimated on one stock and day, and the path holds {len(recorded)}")
    tuning = hawkes_market.Tuning()
    params = hawkes_market.estimate(from_recorded(recorded[0]), tuning)
    name, count = recorded[0].product.name, len(recorded[0])
    path = config.tune_on
    files = sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]
    sources = [SourceFile(file.name, hash_file(file), count) for file in files]
    value = {
        "what": f"a Hawkes market like {name} of {recorded[0].day}: statistics of it, and `tuning` by hand",
        "provenance": provenance(seed=0, files=sources, origins={name: "recorded"}),
        "tuning": dataclasses.asdict(tuning),
        "params": hawkes_market.to_json(params),
    }
    write_json(config.folder / "market.json", value)
    print_line(f"[market] {config.folder / 'market.json'}, estimated on {count} messages of {name}")
    return params


def _flow(config: SimulationConfig, market: Any, seed: int) -> tuple[ModuleType, Any]:
    if config.model == "hawkes":
        return hawkes, market
    if config.model == "zero-intelligence":
        return zero_intelligence, zero_intelligence.typical()
    steps = np.random.default_rng(seed).normal(0.0, 3.9, int(config.seconds) + 1)
    return fair_value, fair_value.typical(50_000.0 + np.cumsum(steps))


def _write_events(path: Path, session: Session) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {
        field.name: getattr(session, field.name)
        for field in dataclasses.fields(session)
        if isinstance(getattr(session, field.name), np.ndarray)
    }
    np.savez_compressed(path, duration=session.duration, **columns)


if __name__ == "__main__":
    run(main, SimulationConfig, {"standard": SimulationConfig()}, __doc__, resumes=False)
