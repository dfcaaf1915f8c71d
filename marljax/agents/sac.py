"""Soft actor-critic (Haarnoja et al. 2018): twin critics, learned temperature, uniform replay, one agent per Runner.

One update is `n_iterations` rounds of: a step in each of N worlds, then `updates_per_iteration` gradient steps. The
three losses are summed with stopped gradients, so that one backward pass and one optimiser serve actor, critics and
temperature. A stored transition knows only whether it terminated: a time limit bootstraps from the observation before
the reset like any other step.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct

from marljax.agents.buffers import ReplayBuffer
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
from marljax.data.limits import require, require_counts, require_positive, require_shares
from marljax.data.schema import InputError
from marljax.envs.environment import Environment


@struct.dataclass
class SACConfig:
    """How SAC learns. Whole numbers fix shapes; floats may carry an axis."""

    n_envs: int = struct.field(pytree_node=False, default=8)
    """Worlds stepped side by side [count]."""
    n_iterations: int = struct.field(pytree_node=False, default=256)
    """Steps of every world in one chunk [steps]."""
    updates_per_iteration: int = struct.field(pytree_node=False, default=1)
    """Gradient steps after each step of the worlds [count]."""
    batch_size: int = struct.field(pytree_node=False, default=256)
    """Transitions in one gradient step [count]."""
    capacity: int = struct.field(pytree_node=False, default=65536)
    """Transitions that the replay holds [count]; a multiple of n_envs."""
    warmup_steps: int = struct.field(pytree_node=False, default=128)
    """Uniformly random steps of every world before learning starts [steps]."""
    hidden: tuple[int, ...] = struct.field(pytree_node=False, default=(64, 64))
    """Widths of the hidden layers of actor and critics [units]."""
    learning_rate: float = 1e-3
    """Adam step size [1]."""
    discount: float = 0.99
    """Discount per step [1]."""
    target_rate: float = 0.005
    """Part of the way that target critics move towards the critics per gradient step [1]."""
    target_entropy: float = -1.0
    """Entropy per action dimension that the temperature holds the policy to [nats]; log 2 is uniform."""
    initial_temperature: float = 0.1
    """Weight of entropy against scaled reward at the start [scaled reward / nat]."""
    reward_scale: float = 1.0
    """Factor on rewards before learning [1]; metrics stay unscaled."""

    def __post_init__(self) -> None:
        require_counts(self, "n_envs", "n_iterations", "updates_per_iteration", "batch_size", "capacity", "hidden")
        require(self, "at least 1: learning samples from the replay at once", lambda x: x >= 1, "warmup_steps")
        require_positive(self, "learning_rate", "initial_temperature", "reward_scale")
        require(self, "above 0 and at most 1", lambda x: 0 < x <= 1, "discount")
        require_shares(self, "target_rate")
        require(self, "finite", lambda _: True, "target_entropy")
        if self.capacity % self.n_envs or self.capacity < self.n_envs * self.warmup_steps:
            raise InputError(
                f"capacity {self.capacity} must be a multiple of n_envs {self.n_envs} and hold the warm-up of "
                f"{self.n_envs * self.warmup_steps} transitions"
            )


class Experience(NamedTuple):
    """What the replay holds of one step, leaves [B, ...] when sampled."""

    obs: jax.Array  # float32[..., obs_size]
    action: jax.Array  # float32[..., A] in [-1, 1]
    reward: jax.Array  # float32[...] unscaled
    next_obs: jax.Array  # float32[..., obs_size] before any reset
    terminated: jax.Array  # bool[...]


class Draws(NamedTuple):
    """The randomness of one chunk: I iterations of U gradient steps on B transitions, N worlds."""

    step_keys: jax.Array  # key[I, N]
    action_noise: jax.Array  # float32[I, N, A]
    bits: jax.Array  # uint32[I, U, B] which transitions are sampled
    noise: jax.Array  # float32[I, U, 2, B, A] of the actions in the losses


@struct.dataclass
class Learnt:
    """What gradient steps change."""

    params: dict[str, Any]  # {"policy": PolicyParams, "critics": leaves [2, ...], "log_temperature": float32[]}
    target_critics: Any  # leaves [2, ...]
    opt_state: optax.OptState


@struct.dataclass
class SACRunner:
    """Everything that learning changes."""

    learnt: Learnt
    replay: ReplayBuffer[Experience]
    worlds: Worlds
    key: jax.Array
    chunks: jax.Array  # int32[] updates done


@struct.dataclass
class SAC:
    """The learner; see marljax.agents.learner for its contract."""

    env: Environment = struct.field(pytree_node=False)
    config: SACConfig = SACConfig()

    @property
    def steps_per_chunk(self) -> int:
        return self.config.n_envs * self.config.n_iterations

    def policy(self, env_params: EnvParams) -> TanhGaussianPolicy:
        return TanhGaussianPolicy(sizes(self.env, env_params)[1], self.config.hidden)

    def policy_params(self, runner: SACRunner) -> PolicyParams:
        return runner.learnt.params["policy"]

    def init(self, key: jax.Array, env_params: EnvParams) -> SACRunner:
        """A Runner whose replay holds the warm-up."""
        policy_key, critic_key, reset_key, warmup_key, key = jax.random.split(key, 5)
        obs_size, action_size = sizes(self.env, env_params)
        critic_sizes = (obs_size + action_size, *self.config.hidden, 1)
        params = {
            "policy": self.policy(env_params).init(policy_key, obs_size),
            "critics": jax.vmap(lambda k: init_mlp(k, critic_sizes, final_scale=1.0))(jax.random.split(critic_key)),
            "log_temperature": jnp.log(jnp.asarray(self.config.initial_temperature, jnp.float32)),
        }
        learnt = Learnt(params, jax.tree.map(jnp.copy, params["critics"]), _OPTIMISER.init(params))
        worlds = reset_worlds(self.env, reset_key, self.config.n_envs, env_params)
        example = Experience(
            worlds.obs[0], jnp.zeros(action_size), jnp.zeros(()), worlds.obs[0], jnp.zeros((), jnp.bool)
        )
        replay = ReplayBuffer.empty(example, self.config.capacity)

        def warm(
            carry: tuple[Worlds, ReplayBuffer[Experience]], draws: tuple[jax.Array, jax.Array]
        ) -> tuple[tuple[Worlds, ReplayBuffer[Experience]], None]:
            worlds, replay, _ = self._step(*carry, *draws, env_params)
            return (worlds, replay), None

        action_key, step_key = jax.random.split(warmup_key)
        shape = (self.config.warmup_steps, self.config.n_envs)
        pre_tanh = jnp.arctanh(jax.random.uniform(action_key, (*shape, action_size), minval=-0.999, maxval=0.999))
        (worlds, replay), _ = jax.lax.scan(warm, (worlds, replay), (pre_tanh, jax.random.split(step_key, shape)))
        return SACRunner(learnt, replay, worlds, key, jnp.int32(0))

    def update(self, runner: SACRunner, env_params: EnvParams) -> tuple[SACRunner, Metrics]:
        policy, config = self.policy(env_params), self.config

        def learn(
            carry: tuple[Learnt, ReplayBuffer[Experience]], draws: tuple[jax.Array, jax.Array]
        ) -> tuple[tuple[Learnt, ReplayBuffer[Experience]], Metrics]:
            learnt, replay = carry
            bits, noise = draws
            learnt, losses = gradient_step(learnt, policy, replay.sample(bits), noise, config)
            return (learnt, replay), losses

        def iterate(
            carry: tuple[Learnt, ReplayBuffer[Experience], Worlds], draws: Draws
        ) -> tuple[tuple[Learnt, ReplayBuffer[Experience], Worlds], tuple[Transition, Metrics]]:
            learnt, replay, worlds = carry
            pre_tanh = policy.distribution(learnt.params["policy"], worlds.obs).pre_tanh(draws.action_noise)
            worlds, replay, steps = self._step(worlds, replay, pre_tanh, draws.step_keys, env_params)
            (learnt, replay), losses = jax.lax.scan(learn, (learnt, replay), (draws.bits, draws.noise))
            return (learnt, replay, worlds), (steps, losses)

        chunk_key, key = jax.random.split(runner.key)
        (learnt, replay, worlds), (steps, losses) = jax.lax.scan(
            iterate, (runner.learnt, runner.replay, runner.worlds), self._draws(chunk_key, policy.action_size)
        )
        worlds, metrics = summarise(worlds, steps)
        sound = all_finite((losses, learnt, steps.reward))
        learnt, worlds = choose(sound, (learnt, worlds), (runner.learnt, runner.worlds))
        metrics |= jax.tree.map(jnp.mean, losses)
        return SACRunner(learnt, replay, worlds, key, runner.chunks + 1), metrics | {"diverged": 1.0 - sound}

    def _draws(self, key: jax.Array, action_size: int) -> Draws:
        """All randomness of a chunk at once, which costs far less than a little of it in every iteration."""
        config, keys = self.config, jax.random.split(key, 4)
        rounds, updates = config.n_iterations, config.updates_per_iteration
        return Draws(
            step_keys=jax.random.split(keys[0], (rounds, config.n_envs)),
            action_noise=jax.random.normal(keys[1], (rounds, config.n_envs, action_size)),
            bits=jax.random.bits(keys[2], (rounds, updates, config.batch_size)),
            noise=jax.random.normal(keys[3], (rounds, updates, 2, config.batch_size, action_size)),
        )

    def _step(
        self,
        worlds: Worlds,
        replay: ReplayBuffer[Experience],
        pre_tanh: jax.Array,
        keys: jax.Array,
        env_params: EnvParams,
    ) -> tuple[Worlds, ReplayBuffer[Experience], Transition]:
        """One step of every world into the replay, which refuses what is not finite."""
        worlds, step = step_worlds(self.env, keys, worlds, pre_tanh, env_params)
        experience = Experience(step.obs, jnp.tanh(pre_tanh), step.reward, step.final_obs, step.terminated)
        return worlds, replay.add(experience, all_finite(experience)), step


# One vector of all parameters: a few kernels per gradient step rather than a few per layer.
_OPTIMISER = optax.flatten(optax.scale_by_adam())


def action_values(critics: Any, obs: jax.Array, action: jax.Array) -> jax.Array:
    """float32[2, B] the twin critics' values of actions [B, A] at observations [B, obs_size]."""
    return jax.vmap(apply_mlp, in_axes=(0, None))(critics, jnp.concatenate([obs, action], -1))[..., 0]


def soft_target(
    experience: Experience, next_value: jax.Array, next_log_prob: jax.Array, temperature: jax.Array, config: SACConfig
) -> jax.Array:
    """float32[B] r + discount * (1 - terminated) * (min Q(s', a') - temperature * log pi(a'|s')).

    `next_value` float32[2, B] are the target critics at actions a' drawn from the policy with density `next_log_prob`.
    """
    soft_value = next_value.min(0) - temperature * next_log_prob
    return experience.reward * config.reward_scale + config.discount * jnp.where(experience.terminated, 0.0, soft_value)


def loss(
    params: dict[str, Any],
    target_critics: Any,
    policy: TanhGaussianPolicy,
    experience: Experience,
    noise: jax.Array,
    config: SACConfig,
) -> tuple[jax.Array, Metrics]:
    """Sum of the losses of critics, actor and temperature, float32[], and its parts.

    `noise` float32[2, B, A] draws the actions at the next and at the present observations.
    """
    frozen = jax.lax.stop_gradient(params)
    temperature = jnp.exp(frozen["log_temperature"])

    next_policy = policy.distribution(frozen["policy"], experience.next_obs)
    next_pre_tanh = next_policy.pre_tanh(noise[0])
    next_value = action_values(target_critics, experience.next_obs, jnp.tanh(next_pre_tanh))
    target = soft_target(experience, next_value, next_policy.log_prob(next_pre_tanh), temperature, config)
    value = action_values(params["critics"], experience.obs, experience.action)
    critic_loss = 0.5 * ((value - target) ** 2).sum(0).mean()

    distribution = policy.distribution(params["policy"], experience.obs)
    pre_tanh = distribution.pre_tanh(noise[1])
    log_prob = distribution.log_prob(pre_tanh)
    own_value = action_values(frozen["critics"], experience.obs, jnp.tanh(pre_tanh)).min(0)
    policy_loss = (temperature * log_prob - own_value).mean()

    entropy = -jax.lax.stop_gradient(log_prob).mean()
    surplus = entropy - config.target_entropy * policy.action_size
    temperature_loss = params["log_temperature"] * surplus

    total = critic_loss + policy_loss + temperature_loss
    return total, {
        "loss": total,
        "critic_loss": critic_loss,
        "policy_loss": policy_loss,
        "temperature": temperature,
        "entropy": entropy,
        "value": value.mean(),
    }


def gradient_step(
    learnt: Learnt, policy: TanhGaussianPolicy, experience: Experience, noise: jax.Array, config: SACConfig
) -> tuple[Learnt, Metrics]:
    """One Adam step of all parameters, then the target critics' step towards the critics."""
    grads, losses = jax.grad(loss, has_aux=True)(
        learnt.params, learnt.target_critics, policy, experience, noise, config
    )
    updates, opt_state = _OPTIMISER.update(grads, learnt.opt_state)
    params = jax.tree.map(lambda p, u: p - config.learning_rate * u, learnt.params, updates)
    target_critics = optax.incremental_update(params["critics"], learnt.target_critics, config.target_rate)
    return Learnt(params, target_critics, opt_state), losses | {"grad_norm": optax.tree.norm(grads)}
