"""The meta-controller, trained under one mode of coordination or several and judged beside allocators that never learn.

    python experiments/train_meta.py --preset demo
    python experiments/train_meta.py --preset demo --modes risk_parity meta auction shared_critic
    python experiments/train_meta.py --preset demo --explain 7
    python experiments/train_meta.py --data.source lobster --data.path GOOG.zip AMZN.zip AAPL.zip --run-dir runs/three

Product agents are those of the main job: the stages up to them are taken from the run's folder, where
`pipeline.py` with the same settings has left them, or computed. Every mode then allocates capital among them on the
held-out rows, net of all costs, and so do equal weight, inverse volatility, risk parity, hierarchical risk parity,
minimum variance and equal weight with a volatility target, under the same guardrails, and with `--expectations`
mean-variance and Black-Litterman. Where joint tuning has changed a mode's agents, the page tells what the mode is worth
as a whole from what its allocation is worth alone.

Writes into the run's folder, under allocation/: config.json, provenance.json, report.html, summary.json, and for every
mode its curves, its policies, to be loaded by themselves, and decisions.jsonl, which tells of each rebalance what was
observed, what the policy asked for, what the guardrails made of it and why. With `--explain` one rebalance is told on
stdout, and of these nothing is written. The last line on stdout is the summary.
"""

import dataclasses
import json
import shlex
import sys
from pathlib import Path
from typing import Any

from command import run
from marljax.data.limits import require
from marljax.data.schema import InputError
from marljax.envs.portfolio import Coordination
from marljax.runtime.artefacts import canonical_json, jsonable, write_atomic, write_json
from marljax.runtime.config import to_json
from marljax.runtime.progress import print_line
from marljax.runtime.stages import Artefact, Stage, StageCache, provenance
from stages.allocation import benchmarks_stage, judgement_stage
from stages.allocation_report import page, rebalance_times, summary
from stages.run import RunConfig, allocation, blocks_per_year, books, presets, product_agents, untuned


@dataclasses.dataclass(frozen=True)
class TrainMetaConfig(RunConfig):
    """Everything that the training of meta-controllers depends on."""

    modes: tuple[Coordination, ...] = ()
    """Modes of coordination to train and to judge; by default that of allocation.coordination alone."""
    expectations: bool = False
    """Whether mean-variance and Black-Litterman are judged too; they need the extra `allocators`."""
    explain: int | None = None
    """Print how this rebalance of the test was decided, counted from 0, in every mode, and leave page and logs as they
    are [count]."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "at least 0", lambda n: n >= 0, "explain")
        if len(set(self.modes)) < len(self.modes):
            raise InputError(f"modes names one of {' '.join(self.modes)} twice")
        for mode in self.modes:
            RunConfig.__post_init__(self.under(mode))

    def under(self, mode: Coordination) -> RunConfig:
        """The same run under a mode of coordination."""
        own = {field.name: getattr(self, field.name) for field in dataclasses.fields(RunConfig)}
        return RunConfig(**own | {"allocation": dataclasses.replace(self.allocation, coordination=mode)})


PRESETS = presets(TrainMetaConfig)


def main(config: TrainMetaConfig) -> None:
    """Train, judge, tell."""
    out, context = config.folder / "allocation", {"seed": config.seed}
    sources = [Path(__file__).parent]
    cache = StageCache(config.folder, context=context, sources=sources)
    read = books(config, cache)
    trained = product_agents(config, cache, read)
    assert trained is not None, "all stages are wanted"
    yearly, times = blocks_per_year(config, trained.market), rebalance_times(config, trained.market)
    if config.explain is not None and not 0 <= config.explain < len(times) - 1:
        raise InputError(f"--explain {config.explain}: the test has {len(times) - 1} rebalances, counted from 0")
    same: dict[str, Any] = {"blocks_per_year": yearly, "seed": config.seed}
    alone = untuned(config.under("risk_parity"), trained)
    benchmarks = benchmarks_stage(
        cache, trained.upstream, alone, config.backtest, expectations=config.expectations, **same
    )
    judged: dict[str, Stage[Artefact]] = {}
    for mode in config.modes or (config.allocation.coordination,):
        print_line(f"[{mode}] {out / mode}")
        own = StageCache(out / mode, context=context, sources=sources)
        allocated = allocation(config.under(mode), trained, own, out / mode)
        judged[mode] = judgement_stage(own, allocated, benchmarks, config.backtest, **same)
    result = summary(config, trained.market, judged, benchmarks)
    if config.explain is None:
        # Page, figures and logs in the folder are of one run, the last that ended.
        logs = {out / mode / "decisions.jsonl": stage.value.metadata["decisions"] for mode, stage in judged.items()}
        for stale in set(out.glob("*/decisions.jsonl")) - logs.keys():
            stale.unlink()
        for log, decisions in logs.items():
            rows = enumerate(zip(times[:-1], decisions, strict=True))
            lines = [
                canonical_json({"rebalance": i, "session": int(session), "seconds": float(seconds), **told})
                for i, ((seconds, session), told) in rows
            ]
            write_atomic(log, "".join(f"{line}\n" for line in lines).encode())
        write_json(out / "config.json", to_json(config))
        origins = {"books": read.value.data.origin, "generated sessions": "synthetic"}
        write_json(out / "provenance.json", provenance(seed=config.seed, files=read.value.files, origins=origins))
        write_json(out / "summary.json", result)
        command = shlex.join(["python", *sys.argv])
        html = page(config, trained.market, judged, benchmarks, times, yearly, command)
        write_atomic(out / "report.html", html.encode())
        print_line(f"[report] {out / 'report.html'}")
    else:
        for mode, stage in judged.items():
            print(f"{mode}, rebalance {config.explain}\n{stage.value.metadata['told'][config.explain]}\n")
    print(json.dumps(jsonable(result), sort_keys=True, allow_nan=False))


if __name__ == "__main__":
    run(main, TrainMetaConfig, PRESETS, __doc__)
