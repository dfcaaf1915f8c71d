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
from marljax.data.limits import require, require_counts, require_positive, require_shares
from marljax.data.schema import InputError
from marljax.envs.replay import ReplayEnv, ReplayParams
from marljax.envs.tapes import Rows
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
    judged: float = 0.25
    """Part of the generated sessions on which trials are judged, and on which none learns [0 to 1]."""

    def __post_init__(self) -> None:
        require_counts(self, "trials", "env_steps")
        require(self, "above 0 and below 1", lambda x: 0 < x < 1, "judged")


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

    def of(self, learner: Learner) -> Callable[[Any, Any], Metrics]:
        """What `run_chunks` adds to its metrics, of one agent."""
        key = jax.random.fold_in(jax.random.key(self.seed), 7)
        env = ReplayEnv(self.episode_steps)
        return evaluator(env, learner, key, n_episodes=_EPISODES, max_steps=self.episode_steps)


def search(
    name: str,
    learner: Learner,
    key: jax.Array,
    params: ReplayParams,
    stages: Curriculum,
    config: SearchConfig,
    judge: Callable[[Any], np.ndarray],
    folder: Path,
    metrics_path: Path,
) -> tuple[Values, list[dict[str, Any]]]:
    """Each product's best hyperparameters, {name: float32[P]}, and one row per trial and product.

    `stages` are the generated sessions to learn on; `judge` maps policies' params, leaves [K, P, ...], to scores
    float[K, P].
    """
    n_products = params.max_position.shape[0]
    init_key, draw_key = jax.random.split(key)
    values = {one: jnp.full((1, n_products), getattr(learner.config, one)) for one in RANGES[name]}
    if config.trials == 1:
        return {one: x[0] for one, x in values.items()}, []
    drawn = sample(draw_key, RANGES[name], (config.trials - 1) * n_products)
    values = {one: jnp.concatenate([x, drawn[one].reshape(-1, n_products)]) for one, x in values.items()}
    # Trials of one product begin alike and meet the same episodes.
    keys = jnp.broadcast_to(jax.random.split(init_key, n_products), (config.trials, n_products))
    n_chunks = chunks(learner, config.env_steps, f"agents.search.env-steps of {name}")
    trained = _learn(
        f"{name} search", learner, values, keys, params, stages, n_chunks, folder, metrics_path, strict=False
    )
    scores = np.asarray(judge(jax.vmap(jax.vmap(learner.policy_params))(trained.runner)))
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
    keys = jax.random.split(key, (n_seeds, n_products))
    values = {one: jnp.broadcast_to(x, (n_seeds, n_products)) for one, x in values.items()}
    trained = _learn(
        name, learner, values, keys, params, stages, n_chunks, folder, metrics_path, strict=True, evaluation=evaluation
    )
    judged = [row for row in trained.rows if "deterministic_return" in row]
    curves = {
        "env_steps": [row["chunk"] * learner.steps_per_chunk for row in trained.rows],
        "reward": [row["reward"] for row in trained.rows],
        "judged_steps": [row["chunk"] * learner.steps_per_chunk for row in judged],
        "validation_return": [row["deterministic_return"] for row in judged],
    }
    return jax.vmap(jax.vmap(learner.policy_params))(trained.runner), curves


def _learn(
    name: str,
    learner: Learner,
    values: Values,
    keys: jax.Array,
    params: ReplayParams,
    stages: Curriculum,
    n_chunks: int,
    folder: Path,
    metrics_path: Path,
    strict: bool,
    evaluation: "Evaluation | None" = None,
) -> Trained:
    """Agents from keys [L, P] with hyperparameters float32[L, P], side by side; a search and a training of as many are
    one program. Unless `strict`, an agent that diverged goes on from its last good state."""

    def start(key: jax.Array, values: Values, params: ReplayParams, stages: Curriculum) -> Any:
        return with_values(learner, values).init(key, stages.at(params, jnp.int32(0)))

    def step(runner: Any, values: Values, params: ReplayParams, stages: Curriculum, strict: jax.Array) -> Any:
        runner, metrics = update(with_values(learner, values), runner, params, stages)
        undone = metrics["diverged"]
        return runner, metrics | {"diverged": undone * strict, "undone": undone}

    def judge(runners: Any, *_: Any) -> Metrics:
        assert evaluation is not None
        return jax.vmap(jax.vmap(evaluation.of(learner)), in_axes=(0, None))(runners, evaluation.params)

    return run_chunks(
        jax.vmap(jax.vmap(step, in_axes=(0, 0, 0, 0, None)), in_axes=(0, 0, None, None, None)),
        jax.jit(jax.vmap(jax.vmap(start), in_axes=(0, 0, None, None)))(keys, values, params, stages),
        n_chunks,
        operands=(values, params, stages, jnp.float32(strict)),
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
    params: ReplayParams,
    synthetic: Rows,
    n_real: int,
    config: CurriculumConfig,
    search_config: SearchConfig,
    n_chunks: int,
) -> tuple[Curriculum, Curriculum, Rows]:
    """The worlds of the search, the curriculum's phases, and the generated rows on which trials are judged.

    Args:
        params: leaves [P, ...], whose tape is `n_real` real rows followed by the generated ones.
        synthetic: those generated ones.
        n_chunks: of the curriculum.
    """
    session = np.asarray(synthetic.data.session)
    names = np.unique(session)
    first_judged = names[len(names) - max(1, round(search_config.judged * len(names)))]
    starts = np.asarray(params.synthetic_starts[0])
    of_start = session[starts - n_real]
    wildness = volatility(synthetic)
    learned = of_start < first_judged
    if not learned.any() and search_config.trials > 1:
        raise InputError("search.judged leaves no generated session to learn on: raise synthetic.sessions")
    wild = wildness[np.searchsorted(names, of_start)] > np.median(wildness)
    n_products = params.max_position.shape[0]

    def only(which: np.ndarray) -> jax.Array:
        # As many starts as there are in all, so that every phase has the same shapes.
        chosen = starts[which] if which.any() else starts
        return jnp.broadcast_to(jnp.asarray(np.resize(chosen, starts.shape)), (n_products, len(starts)))

    always = jnp.ones(n_products)
    stressed = dataclasses.replace(
        params.costs,
        impact_coefficient=params.costs.impact_coefficient * config.stressed_costs,
        latency_mean=params.costs.latency_mean * config.stressed_costs,
    )
    phases = [
        {"synthetic_starts": only(~wild), "synthetic_fraction": always, "costs": params.costs},
        {"synthetic_starts": only(wild), "synthetic_fraction": always, "costs": stressed},
        {
            "synthetic_starts": params.synthetic_starts,
            "synthetic_fraction": params.synthetic_fraction,
            "costs": params.costs,
        },
    ]
    searched = {"synthetic_starts": only(learned), "synthetic_fraction": always, "costs": params.costs}
    per_product = jax.vmap(lambda *phases: curriculum(phases, config.shares, n_chunks))
    first_row = int(np.searchsorted(session, first_judged))
    # The search's three phases are the same world, so that its program is that of the training.
    return per_product(*[searched] * 3), per_product(*phases), synthetic.part(slice(first_row, len(session)))


def volatility(rows: Rows) -> np.ndarray:
    """float64[sessions] how wild each session is: its moves' standard deviation, relative to the mean over sessions, on
    average over products."""
    session = np.asarray(rows.data.session)
    mid = np.asarray(rows.data.double_mid, np.float64)
    spread = np.array([np.diff(mid[session == s], axis=0).std(axis=0) for s in np.unique(session)])
    return (spread / np.maximum(spread.mean(axis=0), 1e-9)).mean(axis=1)
