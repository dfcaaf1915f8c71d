"""Search for a learner's hyperparameters: random search, or successive halving, with all trials in one program.

    python experiments/sweep.py --range learning_rate 1e-4 1e-2 log
    python experiments/sweep.py --learner sac --env replay --range discount 0.8 0.99 linear
    python experiments/sweep.py --rungs 1 --trials 32 --range ratio_clip 0.05 0.4 linear

Every rung but the last drops the worse half of the trials and doubles what the others learn from next, so that all
rungs cost the same. Trials are judged by episodes of their own, never by the reward of training; in the replay env
they are of the validation part. A maximum over trials flatters, so the best one is trained again from seeds that the
search has not seen, beside the learner's unchanged configuration, and only that is reported with an interval. The
run's folder gets config.json, provenance.json, metrics.jsonl, trials.jsonl (a row for each trial, rung and seed) and
summary.json, which is the last line on stdout, too. A run that was stopped continues where it was.
"""

import dataclasses
import json
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from command import run
from marljax.agents import PPO, SAC, Learner, PPOConfig, SACConfig, search
from marljax.agents.evaluate import WAYS, evaluator
from marljax.agents.learner import CAUSES
from marljax.data.limits import require, require_counts
from marljax.data.schema import InputError
from marljax.evaluation.findings import verdict
from marljax.evaluation.seeds import CONFIDENCE, seed_interval
from marljax.runtime.artefacts import canonical_json, jsonable, write_atomic, write_json
from marljax.runtime.config import to_json
from marljax.runtime.progress import Row, print_line, run_chunks
from marljax.runtime.stages import Artefact, Stage, StageCache, provenance
from stages.sweep_worlds import ReplayConfig, World, cart_pole_world, replay_world

Ranges = tuple[tuple[str, float, float, Literal["log", "linear"]], ...]

BEST, UNCHANGED = "best", "unchanged"


@dataclasses.dataclass(frozen=True)
class SweepConfig:
    """Everything a search depends on."""

    preset: Literal["smoke", "standard"] = "standard"
    """How much to compute: smoke shows that it runs."""
    run_dir: Path | None = None
    """Folder of the run; runs/sweep-<env>-<learner> by default. The same folder resumes the run."""
    seed: int = 0
    """Seed of everything random."""
    learner: Literal["ppo", "sac"] = "ppo"
    """What is tuned."""
    env: Literal["cart-pole", "replay"] = "cart-pole"
    """Where it learns."""
    range: Annotated[Ranges, tyro.conf.UseAppendAction] = ()
    """A hyperparameter, its lowest and highest value, and `log` or `linear`; give the flag once for each. Of two ranges
    of one name the later counts."""
    trials: int = 16
    """Hyperparameters drawn [count]; a multiple of 2^(rungs - 1)."""
    rungs: int = 3
    """Times that trials are judged [count]; all but the last time the worse half is dropped. 1 is random search."""
    seeds: int = 3
    """Agents of each trial, trained side by side [count]."""
    chunks: int = 8
    """Updates of the learner in the first rung [count]; each later rung has twice those of the one before."""
    score: Literal["deterministic", "stochastic"] = "deterministic"
    """Whether trials are judged without or with exploration; both are written."""
    episodes: int = 32
    """Episodes that judge an agent [count]."""
    confirmation_seeds: int = 8
    """Fresh agents, each judged by fresh episodes, behind the interval of the best trial [count]; at least 2."""
    ppo: PPOConfig = PPOConfig(n_envs=8)
    sac: SACConfig = SACConfig(n_iterations=128, batch_size=128, capacity=16384)
    replay: ReplayConfig = ReplayConfig()

    def __post_init__(self) -> None:
        require_counts(self, "seeds", "chunks", "episodes")
        require(self, "at least 2: one has no spread", lambda x: x >= 2, "confirmation_seeds")
        search.check_halvings(self.trials, self.rungs)
        if not 0 <= self.seed < 2**32:
            raise InputError(f"seed must lie within 0 and 2**32 - 1, got {self.seed}")
        if self.folder.exists() and not self.folder.is_dir():
            raise InputError("--run-dir names a file, not a folder", file=self.folder)

    @property
    def folder(self) -> Path:
        return self.run_dir or Path("runs") / f"sweep-{self.env}-{self.learner}"

    @property
    def ranges(self) -> dict[str, search.Range]:
        """By hyperparameter. Raises InputError for an empty or reversed one."""
        found = {}
        for name, low, high, scale in self.range:
            try:
                found[name] = search.Range(low, high, scale == "log")
            except InputError as error:
                raise InputError(f"--range {name}: {error.message}") from error
        return found

    @property
    def learner_config(self) -> PPOConfig | SACConfig:
        """Of the learner that is tuned, before its hyperparameters change."""
        return self.ppo if self.learner == "ppo" else self.sac

    @property
    def total_chunks(self) -> int:
        """Updates of a trial that reaches the end [count]."""
        return self.chunks * (2**self.rungs - 1)


PRESETS = {
    "standard": SweepConfig(),
    "smoke": SweepConfig(
        "smoke",
        trials=4,
        rungs=2,
        seeds=2,
        chunks=2,
        episodes=8,
        confirmation_seeds=3,
        ppo=PPOConfig(n_envs=4, n_steps=64),
        sac=SACConfig(n_envs=4, n_iterations=16, batch_size=32, capacity=2048),
    ),
}


class Keys(NamedTuple):
    """What is drawn apart: nothing that confirms has been seen by the search."""

    values: jax.Array
    training: jax.Array
    episodes: jax.Array
    confirmation_training: jax.Array
    confirmation_episodes: jax.Array


def main(config: SweepConfig) -> None:
    """Search, confirm, write."""
    folder, ranges = config.folder, config.ranges
    search.check(config.learner_config, ranges)
    cache = StageCache(folder, context={"seed": config.seed}, sources=[Path(__file__).parent])
    world = cart_pole_world() if config.env == "cart-pole" else replay_world(cache, config.replay, folder)
    write_json(folder / "config.json", to_json(config))
    write_json(
        folder / "provenance.json", provenance(seed=config.seed, files=world.files, origins={config.env: world.origin})
    )
    learner: Learner = PPO(world.env, config.ppo) if config.learner == "ppo" else SAC(world.env, config.sac)
    keys = Keys(*jax.random.split(jax.random.key(config.seed), len(Keys._fields)))

    searched = {
        "world": world.inputs,
        "learner": {config.learner: config.learner_config},
        "ranges": ranges,
        **{name: getattr(config, name) for name in ("trials", "rungs", "seeds", "chunks", "score", "episodes")},
    }
    done = {"search": cache.run("search", searched, partial(_search, config, world, learner, keys))}
    best = done["search"].value.metadata["best"]
    done["confirmation"] = cache.run(
        "confirmation",
        {"search": done["search"].key, "seeds": config.confirmation_seeds},
        partial(_confirm, config, world, learner, keys, best["hyperparameters"]),
    )
    rows = [row for stage in done.values() for row in stage.value.metadata["rows"]]
    write_atomic(folder / "trials.jsonl", "".join(f"{canonical_json(row)}\n" for row in rows).encode())
    summary = jsonable(_summary(config, world, learner, done))
    write_json(folder / "summary.json", summary)
    for line in _findings(summary):
        print_line(line)
    print(json.dumps({"experiment": "sweep", **summary}, sort_keys=True))


def _search(config: SweepConfig, world: World, learner: Learner, keys: Keys, checkpoints: Path) -> Artefact:
    """Every trial at every rung, and the best of the last one."""
    values = search.sample(keys.values, config.ranges, config.trials)
    seeds = jax.random.split(keys.training, config.seeds)
    # All trials meet the same episodes at every rung.
    episodes = jnp.broadcast_to(keys.episodes, (config.seeds,))
    trials = _start(learner, values, seeds, world)
    rows: list[Row] = []
    for rung in range(config.rungs):
        n_chunks = config.chunks * 2**rung
        trials, outcome = _learn(
            config, world, learner, trials, episodes, n_chunks, checkpoints / f"rung{rung}", f"rung{rung}"
        )
        scores = outcome[f"{config.score}_return"]
        last = rung == config.rungs - 1
        kept = np.atleast_1d(np.nanargmax(_seed_means(scores))) if last else np.asarray(search.best_half(scores))
        rows += _rows(config, learner, trials, outcome, rung, config.chunks * (2 ** (rung + 1) - 1), kept)
        if not last:
            trials = jax.jit(search.keep_best)(trials, scores)
    winner = int(kept[0])
    best = {
        "trial": int(trials.index[winner]),
        "hyperparameters": {name: float(value[winner]) for name, value in trials.values.items()},
        "search_score": float(_seed_means(scores)[winner]),
    }
    return Artefact({}, jsonable({"rows": rows, "best": best}))


def _confirm(
    config: SweepConfig, world: World, learner: Learner, keys: Keys, best: dict[str, float], checkpoints: Path
) -> Artefact:
    """The best hyperparameters and the unchanged ones, from fresh seeds, for as long as the best trial learned."""
    unchanged = {name: getattr(config.learner_config, name) for name in best}
    values = {name: jnp.float32([best[name], unchanged[name]]) for name in best}
    seeds = jax.random.split(keys.confirmation_training, config.confirmation_seeds)
    # A seed has episodes of its own, so that the spread over seeds holds that of episodes.
    episodes = jax.random.split(keys.confirmation_episodes, config.confirmation_seeds)
    trials = _start(learner, values, seeds, world)
    trials, outcome = _learn(
        config, world, learner, trials, episodes, config.total_chunks, checkpoints / "confirmation", "confirmation"
    )
    rows = _rows(config, learner, trials, outcome, None, config.total_chunks, np.array([], int))
    for row in rows:
        row["trial"] = (BEST, UNCHANGED)[row["trial"]]
    scores = {way: outcome[f"{way}_return"] for way in WAYS}
    return Artefact({}, jsonable({"rows": rows, "scores": scores, "unchanged": unchanged}))


def _start(learner: Learner, values: search.Values, seeds: jax.Array, world: World) -> search.Trials:
    return jax.jit(partial(search.start, learner))(values, seeds, world.train)


def _learn(
    config: SweepConfig,
    world: World,
    learner: Learner,
    trials: search.Trials,
    episodes: jax.Array,
    n_chunks: int,
    checkpoints: Path,
    name: str,
) -> tuple[search.Trials, dict[str, np.ndarray]]:
    """The trials after `n_chunks`, and how they did then: {name: float[K, S]}, `undone` chunks among it.

    `episodes` key[S] fixes what each seed is judged by.
    """

    def update(trials: search.Trials, train: Any, judged: Any) -> tuple[search.Trials, dict[str, jax.Array]]:
        trials, metrics = search.update(learner, trials, train)
        return trials, {"trial": trials.index, **metrics}

    def judge(trials: search.Trials, train: Any, judged: Any) -> dict[str, jax.Array]:
        def one(runner: Any, key: jax.Array) -> dict[str, jax.Array]:
            return evaluator(world.env, learner, key, n_episodes=config.episodes, max_steps=world.max_steps)(
                runner, judged
            )

        return jax.vmap(lambda runners: jax.vmap(one)(runners, episodes))(trials.runners)

    n_trials = len(trials.index)
    trained = run_chunks(
        update,
        trials,
        n_chunks,
        operands=(world.train, world.judged),
        name=name,
        checkpoint_dir=checkpoints,
        metrics_path=config.folder / "metrics.jsonl",
        steps_per_chunk=learner.steps_per_chunk * n_trials * len(episodes),
        show=("reward", f"{config.score}_return"),
        causes=CAUSES,
        axes=("place", "seed"),
        evaluate=judge,
        evaluate_every=n_chunks,
    )
    last = trained.rows[-1]
    outcome = {
        key: np.asarray(last[key], np.float32) for key in last if key.startswith(("deterministic", "stochastic"))
    }
    return trained.runner, outcome | {"undone": np.sum([row["undone"] for row in trained.rows], axis=0)}


def _rows(
    config: SweepConfig,
    learner: Learner,
    trials: search.Trials,
    outcome: dict[str, np.ndarray],
    rung: int | None,
    chunks: int,
    kept: np.ndarray,
) -> list[Row]:
    return [
        {
            "trial": int(index),
            "rung": rung,
            "seed": seed,
            "hyperparameters": {name: float(value[place]) for name, value in trials.values.items()},
            "env_steps": _env_steps(learner, chunks),
            "score": float(outcome[f"{config.score}_return"][place, seed]),
            "kept": place in kept,
            **{name: float(value[place, seed]) for name, value in outcome.items()},
        }
        for place, index in enumerate(np.asarray(trials.index))
        for seed in range(outcome["undone"].shape[1])
    ]


def _env_steps(learner: Any, chunks: int) -> int:
    """Of one agent, SAC's warm-up among them."""
    warm_up = learner.config.n_envs * getattr(learner.config, "warmup_steps", 0)
    return warm_up + chunks * learner.steps_per_chunk


def _seed_means(scores: np.ndarray) -> np.ndarray:
    means = np.asarray(scores, np.float64).mean(1)
    return np.where(np.isfinite(means), means, -np.inf)


def _summary(config: SweepConfig, world: World, learner: Learner, done: dict[str, Stage[Artefact]]) -> dict[str, Any]:
    found, confirmed = done["search"].value.metadata, done["confirmation"].value.metadata
    best, unchanged = np.asarray(confirmed["scores"][config.score], np.float64)
    difference = seed_interval(best - unchanged)
    return {
        "preset": config.preset,
        "seed": config.seed,
        "source": world.source,
        "simulated": world.origin != "recorded",
        "env": config.env,
        "learner": config.learner,
        "method": "random search" if config.rungs == 1 else "successive halving",
        "score": f"{config.score} return per episode, {world.unit}, {world.judged_on}",
        "stages": {name: stage.summary for name, stage in done.items()},
        "budget": {
            "trials": [config.trials // 2**rung for rung in range(config.rungs)],
            "chunks_per_trial": [config.chunks * 2**rung for rung in range(config.rungs)],
            "env_steps_per_rung": config.trials * config.seeds * config.chunks * learner.steps_per_chunk,
            "env_steps_per_agent_at_the_end": _env_steps(learner, config.total_chunks),
        },
        "best": found["best"] | {"score": seed_interval(best)},
        "unchanged": {"hyperparameters": confirmed["unchanged"], "score": seed_interval(unchanged)},
        "difference": {"interval": difference, "verdict": verdict(difference)},
        "interval": f"low, estimate, high at {CONFIDENCE:.0%}, Student's t over {config.confirmation_seeds} fresh "
        "seeds, paired in the difference; the best trial's search_score is a maximum and flatters",
    }


def _findings(summary: dict[str, Any]) -> list[str]:
    best, unchanged, difference = summary["best"], summary["unchanged"], summary["difference"]
    values = ", ".join(f"{name} {value:.3g}" for name, value in best["hyperparameters"].items())
    low, middle, high = best["score"]
    return [
        f"[sweep] best of {summary['budget']['trials'][0]} trials: {values}",
        f"[sweep] confirmed {middle:.4g} [{low:.4g}, {high:.4g}], in the search {best['search_score']:.4g}; "
        f"unchanged {unchanged['score'][1]:.4g}: {difference['verdict']}",
    ]


if __name__ == "__main__":
    run(main, SweepConfig, PRESETS, __doc__)
