"""What every learner is.

A learner is a frozen pair of environment and configuration with two pure functions, `init` and `update`. The market
travels as an argument and never inside the Runner, so that `vmap(learner.update, in_axes=(0, 0))` trains one agent
per product, a further `vmap` with `in_axes=(0, None)` adds seeds, and neither copies a market. Floats of the
configuration are pytree leaves and may carry an axis too.
"""

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import jax
import jax.numpy as jnp

from marljax.agents.rollout import Metrics

Runner = TypeVar("Runner")
EnvParams = Any

CAUSES = ("", "a reward or an observation is not finite", "a loss is not finite", "a loss is larger than max_loss")
"""What a chunk's metric `diverged` says, by its number; 0 is a sound chunk."""


class Learner(Protocol[Runner]):
    """`PPO` and `SAC` are of this form."""

    def init(self, key: jax.Array, env_params: EnvParams) -> Runner:
        """A Runner: everything that learning changes."""
        ...

    def update(self, runner: Runner, env_params: EnvParams) -> tuple[Runner, Metrics]:
        """One chunk of environment steps and learning from them; metrics are float32[] scalars.

        Where `diverged` among them is not zero, the chunk was undone for the cause of that number in `CAUSES`.
        """
        ...

    def policy(self, env_params: EnvParams) -> Any:
        """The policy that is learned, for `policy_params`; with several roles by role."""
        ...

    def policy_params(self, runner: Runner) -> Any:
        """What the policy has learned so far; with several roles by role."""
        ...

    @property
    def steps_per_chunk(self) -> int:
        """Environment steps in one `update`."""
        ...


def jit_update(learner: Learner[Runner], vmaps: int = 0) -> Callable[[Runner, EnvParams], tuple[Runner, Metrics]]:
    """`learner.update` compiled, its Runner donated (the one passed in must not be used again).

    `vmaps` 1 maps over a leading product axis of Runner and env_params; 2 over seeds of products, where only the
    Runner has the seed axis, which comes first.
    """
    update = learner.update
    for in_axes in [(0, 0), (0, None)][:vmaps]:
        update = jax.vmap(update, in_axes=in_axes)
    return jax.jit(update, donate_argnums=0)


def train(learner: Learner[Runner], key: jax.Array, env_params: EnvParams, n_chunks: int) -> tuple[Runner, Metrics]:
    """Init and `n_chunks` updates in one scan; metrics are float32[n_chunks]. `vmap` over keys for seeds."""

    def chunk(runner: Runner, _: None) -> tuple[Runner, Metrics]:
        return learner.update(runner, env_params)

    return jax.lax.scan(chunk, learner.init(key, env_params), None, length=n_chunks)


def all_finite(tree: Any) -> jax.Array:
    """bool[] whether every number of every leaf is finite."""
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()


def choose(condition: jax.Array, new: Runner, old: Runner) -> Runner:
    """`new` where the scalar `condition` holds, else `old`, leaf by leaf."""
    return jax.tree.map(lambda n, o: jnp.where(condition, n, o), new, old)
