"""Proximal policy optimisation (Schulman et al. 2017) with separate actor and critic, one agent per Runner.

One update is a rollout of T steps in N worlds, generalised advantages, then E epochs over M minibatches. Two choices
make it fast on one core: values of the whole rollout come from two large matrix products after it rather than from
one small product per step, and a minibatch is a random set of whole time steps, so that shuffling permutes T numbers
and copies contiguous rows.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct

from marljax.agents.learner import (
    EnvParams,
    Metrics,
    Transition,
    Worlds,
    all_finite,
    choose,
    reset_worlds,
    sizes,
    step_worlds,
    summarise,
)
from marljax.agents.networks import apply_mlp, init_mlp
from marljax.agents.policy import PolicyParams, TanhGaussianPolicy
from marljax.agents.returns import generalised_advantage
from marljax.data.limits import require, require_counts, require_not_negative, require_positive, require_shares
from marljax.data.schema import InputError
from marljax.envs.environment import Environment


@struct.dataclass
class PPOConfig:
    """How PPO learns. Whole numbers fix shapes; floats may carry an axis."""

    n_envs: int = struct.field(pytree_node=False, default=64)
    """Worlds stepped side by side [count]."""
    n_steps: int = struct.field(pytree_node=False, default=128)
    """Steps per world in one rollout [steps]."""
    n_epochs: int = struct.field(pytree_node=False, default=4)
    """Passes over one rollout [count]."""
    n_minibatches: int = struct.field(pytree_node=False, default=4)
    """Gradient steps per pass [count]; must divide n_steps."""
    hidden: tuple[int, ...] = struct.field(pytree_node=False, default=(64, 64))
    """Widths of the hidden layers of actor and critic [units]."""
    learning_rate: float = 3e-4
    """Adam step size [1]."""
    learning_rate_decay: float = 0.0
    """Part of the learning rate lost per chunk, linearly [1 / chunk]; 0 keeps it constant."""
    discount: float = 0.99
    """Discount per step [1]."""
    gae_lambda: float = 0.95
    """Decay of advantage estimates [1]."""
    ratio_clip: float = 0.2
    """How far the probability ratio may move from 1 [1]."""
    value_clip: float = 1.0
    """How far a value may move from the rollout's in one chunk [scaled reward]."""
    value_coefficient: float = 0.5
    """Weight of the value loss [1]."""
    entropy_coefficient: float = 0.001
    """Weight of the entropy bonus [1 / nat]."""
    max_grad_norm: float = 0.5
    """Global norm to which gradients are clipped [1]."""
    reward_scale: float = 1.0
    """Factor on rewards before learning [1]; metrics stay unscaled."""

    def __post_init__(self) -> None:
        require_counts(self, "n_envs", "n_steps", "n_epochs", "n_minibatches", "hidden")
        require_positive(self, "learning_rate", "max_grad_norm", "reward_scale")
        require(self, "above 0 and at most 1", lambda x: 0 < x <= 1, "discount")
        require_shares(self, "gae_lambda")
        require_not_negative(
            self, "learning_rate_decay", "ratio_clip", "value_clip", "value_coefficient", "entropy_coefficient"
        )
        if self.n_steps % self.n_minibatches:
            raise InputError(f"n_minibatches {self.n_minibatches} does not divide n_steps {self.n_steps}")


@struct.dataclass
class PPORunner:
    """Everything that learning changes."""

    params: dict[str, Any]  # {"policy": PolicyParams, "critic": tuple[Dense, ...]}
    opt_state: optax.OptState
    worlds: Worlds
    key: jax.Array
    chunks: jax.Array  # int32[] updates done


class Batch(NamedTuple):
    """A rollout ready for learning, leaves [T, N, ...] or [B, ...]."""

    obs: jax.Array  # float32[..., obs_size]
    pre_tanh: jax.Array  # float32[..., A]
    noise: jax.Array  # float32[..., A] standard normal draws, reused to sample the entropy
    log_prob: jax.Array  # float32[...] of pre_tanh under the rollout's policy
    value: jax.Array  # float32[...] under the rollout's critic
    advantage: jax.Array  # float32[...]
    target: jax.Array  # float32[...] what the critic should say


@struct.dataclass
class PPO:
    """The learner; see marljax.agents.learner for its contract."""

    env: Environment = struct.field(pytree_node=False)
    config: PPOConfig = PPOConfig()

    @property
    def steps_per_chunk(self) -> int:
        return self.config.n_envs * self.config.n_steps

    def policy(self, env_params: EnvParams) -> TanhGaussianPolicy:
        return TanhGaussianPolicy(sizes(self.env, env_params)[1], self.config.hidden)

    def policy_params(self, runner: PPORunner) -> PolicyParams:
        return runner.params["policy"]

    def init(self, key: jax.Array, env_params: EnvParams) -> PPORunner:
        policy_key, critic_key, reset_key, key = jax.random.split(key, 4)
        obs_size, _ = sizes(self.env, env_params)
        params = {
            "policy": self.policy(env_params).init(policy_key, obs_size),
            "critic": init_mlp(critic_key, (obs_size, *self.config.hidden, 1), final_scale=1.0),
        }
        worlds = reset_worlds(self.env, reset_key, self.config.n_envs, env_params)
        return PPORunner(params, self._optimiser().init(params), worlds, key, jnp.int32(0))

    def update(self, runner: PPORunner, env_params: EnvParams) -> tuple[PPORunner, Metrics]:
        config, policy = self.config, self.policy(env_params)
        rollout_key, shuffle_key, key = jax.random.split(runner.key, 3)
        worlds, steps, noise = self._rollout(runner, rollout_key, policy, env_params)
        batch = prepare(runner.params, policy, steps, noise, config)
        worlds, metrics = summarise(worlds, steps)
        decay = jnp.maximum(0.0, 1.0 - config.learning_rate_decay * runner.chunks)
        optimiser, learning_rate = self._optimiser(), config.learning_rate * decay

        def learn(carry: tuple[Any, optax.OptState], times: jax.Array) -> tuple[tuple[Any, optax.OptState], Metrics]:
            params, opt_state = carry
            minibatch = jax.tree.map(lambda x: x[times].reshape(-1, *x.shape[2:]), batch)
            grads, losses = jax.grad(loss, has_aux=True)(params, policy, minibatch, config)
            updates, opt_state = optimiser.update(grads, opt_state)
            params = jax.tree.map(lambda p, u: p - learning_rate * u, params, updates)
            return (params, opt_state), losses | {"grad_norm": optax.tree.norm(grads)}

        shuffled = jax.vmap(jax.random.permutation, in_axes=(0, None))(
            jax.random.split(shuffle_key, config.n_epochs), config.n_steps
        )
        minibatches = shuffled.reshape(config.n_epochs * config.n_minibatches, -1)
        (params, opt_state), losses = jax.lax.scan(learn, (runner.params, runner.opt_state), minibatches)

        sound = all_finite((losses, params))
        kept = choose(sound, (params, opt_state, worlds), (runner.params, runner.opt_state, runner.worlds))
        metrics |= jax.tree.map(jnp.mean, losses)
        return PPORunner(*kept, key, runner.chunks + 1), metrics | {
            "learning_rate": learning_rate,
            "diverged": 1.0 - sound,
        }

    def _optimiser(self) -> optax.GradientTransformation:
        # One vector of all parameters: a few kernels per gradient step rather than a few per layer.
        return optax.flatten(
            optax.chain(optax.clip_by_global_norm(self.config.max_grad_norm), optax.scale_by_adam(eps=1e-5))
        )

    def _rollout(
        self, runner: PPORunner, key: jax.Array, policy: TanhGaussianPolicy, env_params: EnvParams
    ) -> tuple[Worlds, Transition, jax.Array]:
        """Worlds after T steps, transitions [T, N] and the noise float32[T, N, A] behind their actions."""
        step_key, noise_key = jax.random.split(key)
        shape = (self.config.n_steps, self.config.n_envs)
        noise = jax.random.normal(noise_key, (*shape, policy.action_size))

        def step(worlds: Worlds, draws: tuple[jax.Array, jax.Array]) -> tuple[Worlds, Transition]:
            keys, step_noise = draws
            pre_tanh = policy.distribution(runner.params["policy"], worlds.obs).pre_tanh(step_noise)
            return step_worlds(self.env, keys, worlds, pre_tanh, env_params)

        worlds, steps = jax.lax.scan(step, runner.worlds, (jax.random.split(step_key, shape), noise))
        return worlds, steps, noise


def value_of(critic: Any, obs: jax.Array) -> jax.Array:
    """float32[...] the critic's value of float32[..., obs_size]."""
    return apply_mlp(critic, obs)[..., 0]


def prepare(
    params: dict[str, Any], policy: TanhGaussianPolicy, steps: Transition, noise: jax.Array, config: PPOConfig
) -> Batch:
    """Advantages, targets and densities of a rollout [T, N] under the parameters that made it."""
    value = value_of(params["critic"], steps.obs)
    advantage, target = generalised_advantage(
        steps.reward * config.reward_scale,
        value,
        value_of(params["critic"], steps.final_obs),
        steps.terminated,
        steps.truncated,
        config.discount,
        config.gae_lambda,
    )
    log_prob = policy.distribution(params["policy"], steps.obs).normal.log_prob(steps.pre_tanh)
    return Batch(steps.obs, steps.pre_tanh, noise, log_prob, value, advantage, target)


def loss(
    params: dict[str, Any], policy: TanhGaussianPolicy, batch: Batch, config: PPOConfig
) -> tuple[jax.Array, Metrics]:
    """Clipped surrogate, clipped value loss and entropy bonus of a minibatch [B]: float32[] and its parts.

    Densities are of the action before the tanh: the squashing cancels in the ratio.
    """
    distribution = policy.distribution(params["policy"], batch.obs)
    log_ratio = distribution.normal.log_prob(batch.pre_tanh) - batch.log_prob
    ratio = jnp.exp(log_ratio)
    advantage = (batch.advantage - batch.advantage.mean()) / (batch.advantage.std() + 1e-8)
    clipped_ratio = jnp.clip(ratio, 1.0 - config.ratio_clip, 1.0 + config.ratio_clip)
    policy_loss = -jnp.minimum(ratio * advantage, clipped_ratio * advantage).mean()

    value = value_of(params["critic"], batch.obs)
    clipped_value = batch.value + jnp.clip(value - batch.value, -config.value_clip, config.value_clip)
    error = jnp.maximum((value - batch.target) ** 2, (clipped_value - batch.target) ** 2)
    value_loss = 0.5 * error.mean()

    entropy = distribution.entropy(batch.noise).mean()
    total = policy_loss + config.value_coefficient * value_loss - config.entropy_coefficient * entropy
    return total, {
        "loss": total,
        "policy_loss": policy_loss,
        "value_loss": value_loss,
        "entropy": entropy,
        "approx_kl": (jnp.expm1(log_ratio) - log_ratio).mean(),
        "clip_fraction": (jnp.abs(ratio - 1.0) > config.ratio_clip).mean(),
    }
