"""How product agents come to be: a search for hyperparameters on generated sessions, then a curriculum.

Both algorithms get the same: as many trials of as many env steps, drawn from ranges of two hyperparameters each, and
then as many env steps and seeds of the winner. Every product has its own winner. Trials learn on some generated
sessions and are judged on others; real rows come in with the curriculum's last phase, and those of the training part
alone.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from marljax.agents.curriculum import Curriculum, curriculum, update
from marljax.agents.evaluate import evaluator
from marljax.agents.learner import CAUSES, Learner
from marljax.agents.rollout import Metrics
from marljax.agents.search import Range, sample, with_values
from marljax.agents.streaming import InStream, Streamed, streamed
from marljax.data.limits import require_counts, require_positive, require_shares
from marljax.data.schema import InputError
from marljax.envs.replay import ReplayEnv, ReplayParams
from marljax.envs.stream import Slots, Source, begin
from marljax.runtime.progress import Trained, run_chunks

RANGES = {
    "ppo": {"learning_rate": Range(1e-4, 3e-3, log=True), "entropy_coefficient": Range(1e-4, 1e-2, log=True)},
    "sac": {"learning_rate": Range(1e-4, 3e-3, log=True), "target_entropy": Range(-2.0, 0.0)},
}
"""Two hyperparameters of each algorithm, the most telling ones, so that neither is searched better than the other."""

_EPISODES = 32
"""Validation episodes per evaluation."""

Values = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class SearchConfig:
    """The search that each algorithm's hyperparameters come from."""

    trials: int = 4
    """Settings tried per product and algorithm, the configured one first [count]; 1 takes that as it is."""
    env_steps: int = 81_920
    """Env steps that each trial learns from [steps]."""

    def __post_init__(self) -> None:
        require_counts(self, "trials", "env_steps")


@dataclasses.dataclass(frozen=True)
class CurriculumConfig:
    """The worlds that an agent learns in, one after the other: calm, then stress, then real."""

    calm: float = 0.15
    """Share of an agent's env steps in the calmer half of the generated sessions [0 to 1]."""
    stress: float = 0.15
    """Share in the wilder half, at stressed costs [0 to 1]; the rest is spent in the real training part."""
    stressed_costs: float = 3.0
    """Factor on impact and mean latency under stress [1]."""

    def __post_init__(self) -> None:
        require_shares(self, "calm", "stress")
        require_positive(self, "stressed_costs")
        if self.calm + self.stress > 1:
            raise InputError(f"curriculum.calm and curriculum.stress take {self.calm + self.stress:g} of the time")

    @property
    def shares(self) -> tuple[float, float, float]:
        """Of calm, stress and real."""
        return self.calm, self.stress, 1.0 - self.calm - self.stress


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Episodes of the validation part, with keys of their own, that are played while agents learn."""

    params: ReplayParams
    """Of the validation part, leaves [P, ...]."""
    every: int
    """Chunks between two of them, 0 for none [count]."""
    episode_steps: int
    """[steps]"""
    seed: int

    def __post_init__(self) -> None:
        if np.any(np.asarray(self.params.synthetic_fraction) > 0):
            raise InputError("synthetic episodes may not be used for validation")

    def of(self, learner: Learner) -> Callable[[Any, Any], Metrics]:
        """What `run_chunks` adds to its metrics, of one agent."""
        key = jax.random.fold_in(jax.random.key(self.seed), 7)
        env = ReplayEnv(self.episode_steps)
        return evaluator(env, learner, key, n_episodes=_EPISODES, max_steps=self.episode_steps)


def search(
    name: str,
    learner: Learner,
    key: jax.Array,
    source: Source,
    params: ReplayParams,
    stages: Curriculum,
    config: SearchConfig,
    judge: Callable[[Any], np.ndarray],
    folder: Path,
    metrics_path: Path,
) -> tuple[Values, list[dict[str, Any]]]:
    """Each product's best hyperparameters, {name: float32[P]}, and one row per trial and product.

    `stages` are the generated sessions to learn on, drawn from `source`; `judge` maps policies' params, leaves
    [K, P, ...], to scores float[K, P].
    """
    n_products = params.max_position.shape[0]
    init_key, draw_key, stream_key = jax.random.split(key, 3)
    values = {one: jnp.full((1, n_products), getattr(learner.config, one)) for one in RANGES[name]}
    if config.trials == 1:
        return {one: x[0] for one, x in values.items()}, []
    drawn = sample(draw_key, RANGES[name], (config.trials - 1) * n_products)
    values = {one: jnp.concatenate([x, drawn[one].reshape(-1, n_products)]) for one, x in values.items()}
    # Trials of one product begin alike and meet the same episodes.
    keys = jnp.broadcast_to(jax.random.split(init_key, n_products), (config.trials, n_products))
    n_chunks = chunks(learner, config.env_steps, f"agents.search.env-steps of {name}")
    trained = _learn(
        f"{name} search",
        learner,
        values,
        keys,
        stream_key,
        source,
        params,
        stages,
        n_chunks,
        folder,
        metrics_path,
        strict=False,
    )
    scores = np.asarray(judge(jax.vmap(jax.vmap(learner.policy_params))(trained.runner.runners)))
    best = np.argmax(np.where(np.isfinite(scores), scores, -np.inf), axis=0)
    rows = [
        {
            "product": p,
            "algorithm": name,
            "trial": k,
            "hyperparameters": {one: float(x[k, p]) for one, x in values.items()},
            "env_steps": config.env_steps,
            "synthetic_sharpe": float(scores[k, p]),
            "taken": bool(k == best[p]),
        }
        for p in range(n_products)
        for k in range(config.trials)
    ]
    return {one: x[best, np.arange(n_products)] for one, x in values.items()}, rows


def train(
    name: str,
    learner: Learner,
    values: Values,
    key: jax.Array,
    source: Source,
    params: ReplayParams,
    stages: Curriculum,
    n_chunks: int,
    n_seeds: int,
    evaluation: Evaluation,
    folder: Path,
    metrics_path: Path,
) -> tuple[Any, dict[str, list]]:
    """Policies' params with leaves [S, P, ...], and curves {metric: [chunk][seed][product]}.

    `values` are float32[P]; leaves of `params` and of `stages` have a leading axis P.
    """
    n_products = params.max_position.shape[0]
    key, stream_key = jax.random.split(key)
    keys = jax.random.split(key, (n_seeds, n_products))
    values = {one: jnp.broadcast_to(x, (n_seeds, n_products)) for one, x in values.items()}
    trained = _learn(
        name,
        learner,
        values,
        keys,
        stream_key,
        source,
        params,
        stages,
        n_chunks,
        folder,
        metrics_path,
        strict=True,
        evaluation=evaluation,
    )
    judged = [row for row in trained.rows if "deterministic_return" in row]
    curves = {
        "env_steps": [row["chunk"] * learner.steps_per_chunk for row in trained.rows],
        "reward": [row["reward"] for row in trained.rows],
        "judged_steps": [row["chunk"] * learner.steps_per_chunk for row in judged],
        "validation_return": [row["deterministic_return"] for row in judged],
        "sessions_drawn": [row["sessions_drawn"] for row in trained.rows],
    }
    return jax.vmap(jax.vmap(learner.policy_params))(trained.runner.runners), curves


def _learn(
    name: str,
    learner: Learner,
    values: Values,
    keys: jax.Array,
    stream_key: jax.Array,
    source: Source,
    params: ReplayParams,
    stages: Curriculum,
    n_chunks: int,
    folder: Path,
    metrics_path: Path,
    strict: bool,
    evaluation: "Evaluation | None" = None,
) -> Trained:
    """Agents from keys [L, P] with hyperparameters float32[L, P], side by side in one stream of sessions; a search and
    a training of as many are one program. Unless `strict`, an agent that diverged goes on from its last good state."""

    def start(key: jax.Array, slots: Slots, values: Values, params: ReplayParams, stages: Curriculum) -> Any:
        return InStream(with_values(learner, values), slots).init(key, stages.at(params, jnp.int32(0)))

    def step(
        runner: Any, slots: Slots, values: Values, params: ReplayParams, stages: Curriculum, strict: jax.Array
    ) -> Any:
        runner, metrics = update(InStream(with_values(learner, values), slots), runner, params, stages)
        undone = metrics["diverged"]
        return runner, metrics | {"diverged": undone * strict, "undone": undone}

    def judge(state: Streamed, *_: Any) -> Metrics:
        assert evaluation is not None
        return jax.vmap(jax.vmap(evaluation.of(learner)), in_axes=(0, None))(state.runners, evaluation.params)

    stream = jax.jit(begin)(source, stream_key)
    starts = jax.jit(jax.vmap(jax.vmap(start), in_axes=(0, None, 0, None, None)))
    runners = starts(keys, stream.slots(source), values, params, stages)
    by_product = jax.vmap(step, in_axes=(0, 0, 0, 0, 0, None))
    return run_chunks(
        streamed(jax.vmap(by_product, in_axes=(0, None, 0, None, None, None)), n_real=params.features.shape[1]),
        Streamed(runners, stream),
        n_chunks,
        operands=(source, values, params, stages, jnp.float32(strict)),
        name=name,
        axes=("seed" if strict else "trial", "product"),
        checkpoint_dir=folder / name.replace(" ", "-"),
        metrics_path=metrics_path,
        steps_per_chunk=learner.steps_per_chunk * keys.size,
        show=("reward", "absolute_action"),
        causes=CAUSES,
        evaluate=judge if evaluation is not None and evaluation.every else None,
        evaluate_every=evaluation.every if evaluation is not None and evaluation.every else 1,
    )


def chunks(learner: Learner, env_steps: int, what: str) -> int:
    """How many chunks these env steps are. Raises InputError where they are no whole number of them."""
    if env_steps % learner.steps_per_chunk:
        raise InputError(f"{what}, {env_steps}, are no whole number of chunks of {learner.steps_per_chunk} steps")
    return env_steps // learner.steps_per_chunk


def worlds(
    params: ReplayParams, source: Source, config: CurriculumConfig, n_chunks: int
) -> tuple[Curriculum, Curriculum]:
    """The worlds of the search and the curriculum's phases.

    Args:
        params: leaves [P, ...], see `marljax.envs.stream.opened`.
        n_chunks: of the curriculum.
    """
    n_products, n_real = params.features.shape[:2]
    starts = n_real + source.starts
    calm = len(starts) // 2

    def only(which: slice) -> jax.Array:
        # As many starts as there are in all, so that every phase has the same shapes.
        chosen = starts[which] if starts[which].size else starts
        return jnp.broadcast_to(jnp.asarray(np.resize(chosen, starts.size)), (n_products, starts.size))

    always = jnp.ones(n_products)
    stressed = dataclasses.replace(
        params.costs,
        impact_coefficient=params.costs.impact_coefficient * config.stressed_costs,
        latency_mean=params.costs.latency_mean * config.stressed_costs,
    )
    # Sessions of a stream lie in order of their volatility.
    searched = {"synthetic_starts": only(slice(None)), "synthetic_fraction": always, "costs": params.costs}
    phases = [
        searched | {"synthetic_starts": only(slice(calm))},
        searched | {"synthetic_starts": only(slice(calm, None)), "costs": stressed},
        searched | {"synthetic_fraction": params.synthetic_fraction},
    ]
    per_product = jax.vmap(lambda *phases: curriculum(phases, config.shares, n_chunks))
    # The search's three phases are the same world, so that its program is that of the training.
    return per_product(*[searched] * 3), per_product(*phases)
