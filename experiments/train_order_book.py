"""A market maker and an execution agent learn in one simulated order book, and are compared with classical strategies.

    python experiments/train_order_book.py --preset smoke
    python experiments/train_order_book.py --preset full
    python experiments/train_order_book.py --preset full --evaluate-on validation --league.chunks 60

Avellaneda-Stoikov and GLFT as market makers, TWAP, VWAP and Almgren-Chriss as schedules are tuned first, on validation
episodes; settings of the learners are to be chosen there, too. Then ten seeds of both agents learn by PPO, against
these and against each other, and everybody meets everybody on test episodes that nothing before has seen. The run's
folder gets config.json, provenance.json, metrics.jsonl, summary.json and report.html; the last line on stdout is one
JSON object. A run that was stopped continues where it was.
"""

import dataclasses
import json
import shlex
import sys
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from command import run
from marljax.agents.learner import CAUSES
from marljax.agents.teams import ONLY
from marljax.data.limits import require_counts
from marljax.data.schema import InputError
from marljax.envs.order_book import OrderBookParams
from marljax.envs.roles import ROLES
from marljax.runtime.artefacts import jsonable, named_leaves, write_atomic, write_json
from marljax.runtime.config import to_json
from marljax.runtime.devices import describe_device
from marljax.runtime.progress import print_line, run_chunks
from marljax.runtime.stages import Artefact, Stage, StageCache, provenance
from stages.order_book import (
    CLASSICAL,
    EXECUTION,
    LEARNED,
    MAKER,
    OTHER,
    LeagueConfig,
    Training,
    WorldConfig,
    market,
)
from stages.order_book_benchmarks import BenchmarkConfig, strategies, tune
from stages.order_book_contest import Contest, Judge
from stages.order_book_players import CorrectedParams
from stages.order_book_report import compare, render


@dataclasses.dataclass(frozen=True)
class OrderBookTraining:
    """Everything a run depends on."""

    preset: Literal["smoke", "full"] = "full"
    """How much to compute: smoke shows that it runs, full is the comparison over ten seeds."""
    run_dir: Path | None = None
    """Folder of the run; runs/order-book-<preset> by default. The same folder resumes or extends the run."""
    seed: int = 0
    """Seed of everything random."""
    evaluate_on: Literal["validation", "test"] = "test"
    """Episodes of the comparison. Settings are chosen on validation, and what is reported comes from test."""
    evaluation_episodes: int = 64
    """Episodes of each pairing for every seed [count]."""
    batch: int = 64
    """Episodes played at once outside of training [count]; divides the numbers of episodes."""
    world: WorldConfig = WorldConfig()
    benchmarks: BenchmarkConfig = BenchmarkConfig()
    league: LeagueConfig = LeagueConfig()

    def __post_init__(self) -> None:
        require_counts(self, "evaluation_episodes", "batch")
        if not 0 <= self.seed < 2**32:
            raise InputError(f"seed must lie within 0 and 2**32 - 1, got {self.seed}")
        for name, count in (
            ("evaluation_episodes", self.evaluation_episodes),
            ("benchmarks.episodes", self.benchmarks.episodes),
        ):
            if count % self.batch:
                raise InputError(f"batch {self.batch} does not divide {name} {count}")
        if self.league.seeds < 2:
            raise InputError(f"league.seeds must be at least 2 for an interval, got {self.league.seeds}")
        if self.folder.exists() and not self.folder.is_dir():
            raise InputError("--run-dir names a file, not a folder", file=self.folder)

    @property
    def folder(self) -> Path:
        return self.run_dir or Path("runs") / f"order-book-{self.preset}"


def _presets() -> dict[str, OrderBookTraining]:
    full = OrderBookTraining()
    few = {"n_envs": 8, "n_steps": 20}
    league = dataclasses.replace(
        full.league,
        seeds=2,
        chunks=4,
        critic_chunks=1,
        rounds=2,
        market_maker=full.league.market_maker.replace(**few),
        execution=full.league.execution.replace(**few),
    )
    smoke = dataclasses.replace(
        full,
        preset="smoke",
        evaluation_episodes=8,
        batch=8,
        world=dataclasses.replace(
            full.world, openings=8, episode_steps=20, execution=full.world.execution.replace(deadline=16)
        ),
        benchmarks=BenchmarkConfig(trials=4, episodes=8),
        league=league,
    )
    return {"smoke": smoke, "full": full}


PRESETS = _presets()


@dataclasses.dataclass(frozen=True)
class Keys:
    """Random keys of all parts of a run; those of training, validation and test have nothing in common."""

    market: jax.Array
    training: jax.Array
    search: jax.Array
    validation: jax.Array
    test: jax.Array

    @classmethod
    def of(cls, seed: int) -> "Keys":
        return cls(*jax.random.split(jax.random.key(seed), len(dataclasses.fields(cls))))


def main(config: OrderBookTraining) -> None:
    """Tune, train, compare, and say how it went."""
    folder, keys = config.folder, Keys.of(config.seed)
    write_json(folder / "config.json", to_json(config))
    write_json(
        folder / "provenance.json",
        provenance(seed=config.seed, files=[], origins={"order book": "simulated"}),
    )
    print_line("[market] simulated: orders of zero intelligence; compiling and running in")
    env, worlds = market(config.world, keys.market)
    judge = Judge(Contest(env), config.batch)
    cache = StageCache(folder, context={"seed": config.seed}, sources=[Path(__file__)])

    done: dict[str, Stage[Artefact]] = {}
    inputs: dict[str, Any] = {"world": config.world, "benchmarks": config.benchmarks, "batch": config.batch}
    tuned = partial(_tune, config, keys, judge, worlds["validation"])
    done["benchmarks"] = cache.run("benchmarks", inputs, tuned)
    found = done["benchmarks"].value.metadata
    classical = _classical(worlds["train"], found)
    training = Training(env, config.league, tuple(sorted(found["best"].items())))
    judge = Judge(Contest(env, tuple((role, training.policy(role)) for role in OTHER)), config.batch)
    inputs = {"benchmarks": done["benchmarks"].key, "league": config.league}
    done["training"] = cache.run(
        "training",
        inputs,
        lambda checkpoints: _train(config, keys, training, worlds["train"], classical, checkpoints, folder),
    )
    learned = _learned(training, done["training"].value, classical)
    inputs = {"training": done["training"].key, "episodes": config.evaluation_episodes, "on": config.evaluate_on}
    done["comparison"] = cache.run(
        "comparison",
        inputs,
        lambda _: _compare(config, keys, judge, worlds[config.evaluate_on], classical, learned),
    )
    summary = _summary(config, worlds["train"], done)
    write_json(folder / "summary.json", summary)
    command = shlex.join(["python", *sys.argv])
    page = render(summary, done["training"].value.metadata["curves"], done["comparison"].value.arrays, command)
    write_atomic(folder / "report.html", page.encode())
    for line in summary["findings"]:
        print_line(f"[result] {line}")
    print_line(f"[report] {folder / 'report.html'}")
    print(json.dumps(jsonable(_last_line(summary)), sort_keys=True))


def _tune(config: OrderBookTraining, keys: Keys, judge: Judge, world: OrderBookParams, _: Path) -> Artefact:
    search_key, first_key, last_key, clock_key = jax.random.split(keys.validation, 4)
    del search_key
    episodes = config.benchmarks.episodes
    at = {
        "search": keys.search,
        "first": jax.random.split(first_key, episodes),
        "last": jax.random.split(last_key, 4 * episodes),
    }
    # A clock runs the same whoever trades: messages come at their own rate.
    untuned = _classical(world, {"horizon": 1.0, "order_seconds": 1.0, "points": None})
    players = judge.players(untuned, {role: list(CLASSICAL[role]) for role in OTHER})
    seen, _moments = judge.play(jax.random.split(clock_key, config.batch), world, players)
    horizon = float(np.mean(seen["seconds"]))
    order_seconds = horizon * config.world.execution.deadline / config.world.episode_steps
    _params, searched = tune(judge, at, world, config.benchmarks, horizon, order_seconds)
    found = {
        "horizon": horizon,
        "order_seconds": order_seconds,
        "points": {name: row["point"] for name, row in searched.items()},
        # Shortfall is what is little of, and was negated for the search.
        "values": {name: -row["value"] if row["role"] == EXECUTION else row["value"] for name, row in searched.items()},
        "best": {role: max(CLASSICAL[role], key=lambda name: searched[name]["value"]) for role in OTHER},
    }
    return Artefact({}, jsonable(found))


def _classical(world: OrderBookParams, found: dict[str, Any]) -> dict[str, tuple[Any, ...]]:
    """The params of the classical strategies at the points that were found for them, or in the middle."""
    made = strategies(world, found["horizon"], found["order_seconds"])
    middle = {name: [0.5] * size for role in made.values() for name, (size, _) in role.items()}
    points = found["points"] or middle
    return {
        role: tuple(make(jnp.asarray(points[name], jnp.float32)) for name, (_, make) in made[role].items())
        for role in OTHER
    }


def _train(
    config: OrderBookTraining,
    keys: Keys,
    training: Training,
    world: OrderBookParams,
    classical: dict[str, tuple[Any, ...]],
    checkpoints: Path,
    folder: Path,
) -> Artefact:
    """Policies with leaves [seeds, ...], and curves {metric: [chunk][seed]}."""
    print_line(f"[training] {config.league.seeds} seeds of both agents; compiling")
    init = jax.jit(jax.vmap(training.init, (0, None, None)))
    league = init(jax.random.split(keys.training, config.league.seeds), world, classical)

    def update(leagues: Any, world: OrderBookParams, classical: dict[str, tuple[Any, ...]]) -> Any:
        # Seed by seed: the worlds of one stay in the cache, and its matrix products are not batched ones.
        return jax.lax.map(lambda one: training.update(one, world, classical), leagues)

    trained = run_chunks(
        update,
        league,
        config.league.chunks,
        operands=(world, classical),
        name="training",
        checkpoint_dir=checkpoints / "league",
        metrics_path=folder / "metrics.jsonl",
        steps_per_chunk=config.league.steps_per_chunk,
        show=tuple(f"{role}.episode_return" for role in OTHER),
        causes=CAUSES,
    )
    policies = {role: trained.runner.runners[role].params[ONLY]["policy"] for role in OTHER}
    kept = [name for name in trained.rows[0] if name.endswith(("episode_return", "entropy"))]
    curves = {name: [row[name] for row in trained.rows] for name in kept}
    return Artefact({name: np.asarray(x) for name, x in named_leaves(policies).items()}, {"curves": curves})


def _learned(
    training: Training, artefact: Artefact, classical: dict[str, tuple[Any, ...]]
) -> list[dict[str, CorrectedParams]]:
    """What every seed's agents have become."""
    like = {
        role: jax.eval_shape(
            lambda key, role=role: training.config.policy(role).init(key, len(ROLES[role].OBSERVATION)),
            jax.random.key(0),
        )
        for role in OTHER
    }
    leaves = [jnp.asarray(artefact.arrays[name]) for name in named_leaves(like)]
    stacked = jax.tree.unflatten(jax.tree.structure(like), leaves)
    return [
        {
            role: training.corrected(role, classical, jax.tree.map(lambda x, s=seed: x[s], stacked[role]))
            for role in OTHER
        }
        for seed in range(training.config.seeds)
    ]


def _compare(
    config: OrderBookTraining,
    keys: Keys,
    judge: Judge,
    world: OrderBookParams,
    classical: dict[str, tuple[Any, ...]],
    learned: list[dict[str, CorrectedParams]],
) -> Artefact:
    """Every maker against every schedule on the same episodes; every seed has its own."""
    key = getattr(keys, config.evaluate_on)
    cells: dict[str, dict[str, Any]] = {}
    moments: dict[str, np.ndarray] = {}
    for maker in (*CLASSICAL[MAKER], LEARNED):
        for schedule in (*CLASSICAL[EXECUTION], LEARNED):
            means: dict[str, list[float]] = {}
            for seed in range(config.league.seeds):
                # Offset, so that validation episodes of the comparison are none of the tuning's.
                episodes = jax.random.split(jax.random.fold_in(key, 1000 + seed), config.evaluation_episodes)
                players = judge.players(classical, {MAKER: [maker], EXECUTION: [schedule]}, learned[seed])
                outcomes, seen = judge.play(episodes, world, players)
                for name, values in outcomes.items():
                    means.setdefault(name, []).append(float(np.mean(values)))
                if (maker, schedule, seed) == (LEARNED, LEARNED, 0):
                    moments = {name: np.asarray(value) for name, value in vars(seen).items()}
            cells.setdefault(maker, {})[schedule] = means
            print_line(
                f"[comparison] {maker} and {schedule}: profit {np.mean(means['adjusted']):.4f} adjusted, "
                f"shortfall {np.mean(means['shortfall']):.3f} ticks"
            )
    return Artefact(moments, {"cells": cells})


def _summary(config: OrderBookTraining, world: OrderBookParams, done: dict[str, Stage[Artefact]]) -> dict[str, Any]:
    found = done["benchmarks"].value.metadata
    cells = done["comparison"].value.metadata["cells"]
    parent_value = float(world.tick_value) * config.world.execution.parent
    differences, findings = compare(cells, found["values"], parent_value)
    return {
        "preset": config.preset,
        "seed": config.seed,
        "seeds": config.league.seeds,
        "source": "zero-intelligence",
        "simulated": True,
        "evaluated_on": config.evaluate_on,
        "episodes": config.evaluation_episodes,
        "seconds_per_episode": found["horizon"],
        "stages": {name: stage.summary for name, stage in done.items()},
        "device": describe_device(),
        "dtype": "int32 book and money, float32 observations and networks",
        "training_steps": config.league.chunks * config.league.steps_per_chunk,
        "steps_per_seed": {role: config.league.chunks * p.n_envs * p.n_steps for role, p in config.league.ppo.items()},
        "tick_value": float(world.tick_value),
        "parent": config.world.execution.parent,
        "scales": {name: float(value) for name, value in vars(world.scales).items()},
        "benchmarks": {name: found[name] for name in ("points", "values", "best")},
        "cells": cells,
        "differences": differences,
        "findings": findings,
    }


def _last_line(summary: dict[str, Any]) -> dict[str, Any]:
    kept = ("preset", "seed", "seeds", "simulated", "evaluated_on", "device", "differences", "stages")
    return {"experiment": "train_order_book", **{name: summary[name] for name in kept}}


if __name__ == "__main__":
    run(main, OrderBookTraining, PRESETS, __doc__)
