"""Search for hyperparameters: trials with seeds side by side in one program, of which every rung keeps the better half.

Successive halving (Jamieson and Talwalkar 2016), the inner loop of Hyperband: K trials drawn at random train for n
chunks, the better half of them for 2n further ones, the better half of those for 4n, and so on, so that every rung
costs the same. With a single rung it is random search. Trials carry an axis of the learner's floats, and all of them
learn from the same seeds, so that trials differ by their hyperparameters and not by their luck.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import struct

from marljax.agents.learner import EnvParams, Learner
from marljax.agents.rollout import Metrics
from marljax.data.schema import InputError

LearnerT = TypeVar("LearnerT", bound=Any)
Values = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Range:
    """Where a hyperparameter is drawn from, uniformly or log-uniformly."""

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise InputError(f"a range goes from low to a higher end, got {self.low:g} to {self.high:g}")
        if self.log and self.low <= 0:
            raise InputError(f"a logarithmic range must be positive, got {self.low:g} to {self.high:g}")


@struct.dataclass
class Trials:
    """K trials of S seeds."""

    index: jax.Array  # int32[K] their numbers in the first rung
    values: Values  # {hyperparameter: float32[K]}
    runners: Any  # leaves [K, S, ...]


def searchable(config: Any) -> list[str]:
    """The hyperparameters of a learner's configuration that may carry an axis: its floats that fix no shape."""
    return [field.name for field in dataclasses.fields(config) if _is_leaf(config, field)]


def check(config: Any, ranges: Mapping[str, Range]) -> None:
    """Raise InputError for a hyperparameter that is unknown or static, and for a range beyond what it may be."""
    fields = {field.name: field for field in dataclasses.fields(config)}
    if not ranges:
        raise InputError(f"nothing to search; ranges can be given of {', '.join(searchable(config))}")
    for name, wanted in ranges.items():
        if name not in fields:
            raise InputError(f"unknown hyperparameter {name!r}; there are {', '.join(searchable(config))}")
        if not _is_leaf(config, fields[name]):
            raise InputError(f"{name} is static and cannot be searched; {', '.join(searchable(config))} can")
        for end in (wanted.low, wanted.high):
            dataclasses.replace(config, **{name: float(end)})


def check_halvings(n_trials: int, n_rungs: int) -> None:
    """Raise InputError where `n_trials` cannot be halved between `n_rungs` rungs."""
    if n_trials < 1 or n_rungs < 1:
        raise InputError(f"a search needs at least one trial and one rung, got {n_trials} and {n_rungs}")
    if n_trials % 2 ** (n_rungs - 1):
        raise InputError(
            f"{n_trials} trials cannot be halved {n_rungs - 1} times for {n_rungs} rungs: "
            f"give a multiple of {2 ** (n_rungs - 1)} trials"
        )


def sample(key: jax.Array, ranges: Mapping[str, Range], n_trials: int) -> Values:
    """{hyperparameter: float32[n_trials]}, drawn independently and never beyond its range."""
    draws = {}
    for one, (name, wanted) in zip(jax.random.split(key, len(ranges)), ranges.items(), strict=True):
        uniform = jax.random.uniform(one, (n_trials,))
        if wanted.log:
            ends = math.log(wanted.low), math.log(wanted.high)
            draw = jnp.exp(ends[0] + uniform * (ends[1] - ends[0]))
        else:
            draw = wanted.low + uniform * (wanted.high - wanted.low)
        draws[name] = jnp.clip(draw, wanted.low, wanted.high)
    return draws


def with_values(learner: LearnerT, values: Mapping[str, Any]) -> LearnerT:
    """The learner with these hyperparameters."""
    return dataclasses.replace(learner, config=dataclasses.replace(learner.config, **values))


def start(learner: Learner, values: Values, keys: jax.Array, env_params: EnvParams) -> Trials:
    """Fresh trials: K of `values`, each with the seeds of `keys` [S]."""
    runners = jax.vmap(
        lambda one: jax.vmap(with_values(learner, one).init, in_axes=(0, None))(keys, env_params),
    )(values)
    return Trials(jnp.arange(len(next(iter(values.values())))), values, runners)


def update(learner: Learner, trials: Trials, env_params: EnvParams) -> tuple[Trials, Metrics]:
    """One chunk of every trial and seed; metrics float32[K, S].

    A chunk that diverged was undone by the learner. The trial goes on and is judged by what it has: `undone` says so.
    """
    runners, metrics = jax.vmap(
        lambda one, runners: jax.vmap(with_values(learner, one).update, in_axes=(0, None))(runners, env_params)
    )(trials.values, trials.runners)
    metrics = dict(metrics)
    metrics["undone"] = (metrics.pop("diverged") > 0).astype(jnp.float32)
    return dataclasses.replace(trials, runners=runners), metrics


def keep_best(trials: Trials, scores: jax.Array) -> Trials:
    """The better half of the trials by their seed-mean of `scores` float[K, S], in order of their index.

    A score that is not finite is the worst. Of equal trials the earlier one stays.
    """
    kept = best_half(scores)
    return jax.tree.map(lambda x: x[kept], trials)


def best_half(scores: jax.Array) -> jax.Array:
    """int32[K // 2] the places of the better half, ascending; see `keep_best`."""
    mean = scores.mean(1)
    mean = jnp.where(jnp.isfinite(mean), mean, -jnp.inf)
    # Comparing all with all rather than sorting: few trials, and ties are settled by the order in which they stand.
    place = jnp.arange(len(mean))
    beats = (mean[:, None] > mean) | ((mean[:, None] == mean) & (place[:, None] < place))
    return jnp.flatnonzero(beats.sum(0) < len(mean) // 2, size=len(mean) // 2)


def _is_leaf(config: Any, field: dataclasses.Field) -> bool:
    return field.metadata.get("pytree_node", True) and isinstance(getattr(config, field.name), float | jax.Array)
