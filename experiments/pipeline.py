"""The main job: raw level-2 order books to an out-of-sample report.

    python experiments/pipeline.py --preset demo
    python experiments/pipeline.py --preset demo --data.source lobster --data.path GOOG.zip AAPL.zip

Stages: data (read and clean), features, generator (conditional WGAN-GP), agents (PPO and SAC for each product, given
equal chances and chosen on validation data), meta (the meta-controller), joint (all of them tuned together, which is
kept where validation data establish that it is better), backtest (held-out rows only, net of all costs) and report.
Each keeps its artefact in the run's folder under a hash of all it depends on: a second run, and one that was
interrupted, computes what is missing and ends with the same numbers.
"""

import dataclasses
import shlex
import sys
from pathlib import Path
from typing import Any

from command import run
from marljax.runtime.artefacts import canonical_json, write_atomic, write_json
from marljax.runtime.config import to_json
from marljax.runtime.stages import Stage, StageCache, provenance
from stages.evaluation import backtest_stage
from stages.joint import META
from stages.report import report_stage
from stages.run import STAGES, RunConfig, StageName, allocation, blocks_per_year, books, presets, product_agents


@dataclasses.dataclass(frozen=True)
class PipelineConfig(RunConfig):
    """Everything a run of the main job depends on."""

    stages: tuple[StageName, ...] = ()
    """Compute these stages anew, take earlier ones from the run's folder, and stop after the last; all by default."""


PRESETS = presets(PipelineConfig)


def main(config: PipelineConfig) -> None:
    """Run the stages that `config` asks for."""
    folder = config.folder
    last = max((STAGES.index(name) for name in config.stages), default=len(STAGES) - 1)
    cache = StageCache(
        folder, context={"seed": config.seed}, sources=[Path(__file__).parent], force=config.stages or ()
    )

    def wanted(name: StageName) -> bool:
        return STAGES.index(name) <= last

    read = books(config, cache)
    write_json(folder / "config.json", to_json(config))
    write_json(
        folder / "provenance.json",
        provenance(
            seed=config.seed,
            files=read.value.files,
            origins={"books": read.value.data.origin, "generated sessions": "synthetic"},
        ),
    )
    if not wanted("features"):
        return
    trained = product_agents(config, cache, read, wanted)
    if trained is None or not wanted("meta"):
        return
    allocated = allocation(config, trained, cache, folder, wanted)
    done: dict[str, Stage[Any]] = trained.done | allocated.done
    selected = done["agents"].value.metadata
    trials = selected["trials"] + allocated.trials
    # What was only tried on generated sessions stands among the trials, and is no trial of real data.
    choices = [{"product": name, **row} for name, row in selected["selection"].items()]
    tried = selected["search"] + choices + trials
    write_atomic(folder / "trials.jsonl", "".join(f"{canonical_json(trial)}\n" for trial in tried).encode())
    if not wanted("backtest"):
        return
    yearly = blocks_per_year(config, trained.market)
    done["backtest"] = backtest_stage(
        cache,
        allocated.upstream,
        allocated.portfolio,
        config.meta,
        allocated.agents[META],
        config.backtest,
        trials,
        blocks_per_year=yearly,
        seed=config.seed,
    )
    if not wanted("report"):
        return
    report_stage(folder, config, trained.market, done, yearly, shlex.join(["python", *sys.argv]))


if __name__ == "__main__":
    run(main, PipelineConfig, PRESETS, __doc__)
