"""Soft actor-critic (Haarnoja et al. 2018): twin critics, learned temperature, replay, one agent per Runner.

One update is `n_iterations` rounds of: a step in each of N worlds, then `updates_per_iteration` gradient steps. The
three losses are summed with stopped gradients, so that one backward pass and one optimiser serve actor, critics and
temperature. A stored transition knows only whether it terminated: a time limit bootstraps from the observation before
the reset like any other step.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from marljax.agents.buffers import PrioritisedReplay, ReplayBuffer
from marljax.agents.learner import EnvParams, all_finite, choose
from marljax.agents.networks import MLP, apply_mlp, init_mlp
from marljax.agents.normalisation import Moments, Scaler
from marljax.agents.policy import PolicyParams, TanhGaussianPolicy, policy_for
from marljax.agents.rollout import Metrics, Transition, Worlds, remember_returns, reset_worlds, step_worlds
from marljax.agents.sac_config import Draws, Experience, Learnt, Replay, SACConfig, SACRunner
from marljax.envs.environment import Box, Environment

_REPLAYS: dict[str, Any] = {"uniform": ReplayBuffer, "prioritised": PrioritisedReplay}


@struct.dataclass
class SAC:
    """The learner; see marljax.agents.learner for its contract."""

    env: Environment = struct.field(pytree_node=False)
    config: SACConfig = SACConfig()

    @property
    def steps_per_chunk(self) -> int:
        return self.config.n_envs * self.config.n_iterations

    def policy(self, env_params: EnvParams) -> TanhGaussianPolicy:
        """The policy. Raises ValueError where the world is not one agent's, with observations and actions that are
        vectors, the latter in [-1, 1]."""
        observation, action = self.env.observation_space(env_params), self.env.action_space(env_params)
        if not (isinstance(observation, Box) and len(observation.shape) == 1 and isinstance(action, Box)):
            raise ValueError(f"SAC needs one agent with vectors to see and to choose, got {observation} and {action}")
        policy = policy_for(action, MLP(self.config.hidden))
        assert isinstance(policy, TanhGaussianPolicy)
        return policy

    def policy_params(self, runner: SACRunner) -> PolicyParams:
        return runner.learnt.params["policy"]

    def init(self, key: jax.Array, env_params: EnvParams) -> SACRunner:
        """A Runner whose replay holds the warm-up."""
        config, policy = self.config, self.policy(env_params)
        policy_key, critic_key, reset_key, warmup_key, key = jax.random.split(key, 5)
        worlds = reset_worlds(self.env, reset_key, config.n_envs, env_params)
        obs_size, action_size = worlds.obs.shape[-1], policy.action_size
        example = Experience(
            worlds.obs[0], jnp.zeros(action_size), jnp.zeros(()), worlds.obs[0], jnp.zeros((), jnp.bool)
        )
        replay = _REPLAYS[config.replay].empty(example, config.capacity)

        def warm(carry: tuple[Worlds, Replay], draws: tuple[jax.Array, jax.Array]) -> tuple[tuple[Worlds, Replay], Any]:
            action, keys = draws
            worlds, replay, steps = self._step(*carry, action, keys, env_params)
            return (worlds, replay), steps.obs

        action_key, step_key = jax.random.split(warmup_key)
        shape = (config.warmup_steps, config.n_envs)
        actions = jax.random.uniform(action_key, (*shape, action_size), minval=-0.999, maxval=0.999)
        (worlds, replay), seen = jax.lax.scan(warm, (worlds, replay), (actions, jax.random.split(step_key, shape)))
        params = {
            "policy": policy.init(policy_key, obs_size),
            "critics": init_critics(critic_key, obs_size, action_size, config.hidden),
            "log_temperature": jnp.log(jnp.asarray(config.initial_temperature, jnp.float32)),
        }
        learnt = Learnt(params, jax.tree.map(jnp.copy, params["critics"]), _OPTIMISER.init(params))
        runner = SACRunner(learnt, replay, worlds, Moments.none((obs_size,)), key, jnp.int32(0))
        return self._scaled(runner, seen)

    def update(self, runner: SACRunner, env_params: EnvParams) -> tuple[SACRunner, Metrics]:
        policy, config = self.policy(env_params), self.config
        beta = jnp.minimum(1.0, config.importance_exponent + config.importance_growth * runner.chunks)

        def learn(
            carry: tuple[Learnt, Replay], draws: tuple[jax.Array, jax.Array]
        ) -> tuple[tuple[Learnt, Replay], Metrics]:
            learnt, replay = carry
            bits, noise = draws
            sample = replay.sample(bits, beta)
            learnt, error, losses = gradient_step(learnt, policy, sample.items, sample.weight, noise, config)
            priority = (error + config.priority_floor) ** config.priority_exponent
            return (learnt, replay.reprioritise(sample.slot, priority)), losses

        def iterate(
            carry: tuple[Learnt, Replay, Worlds], draws: Draws
        ) -> tuple[tuple[Learnt, Replay, Worlds], tuple[Transition, jax.Array, Metrics]]:
            learnt, replay, worlds = carry
            action = jnp.tanh(policy.distribution(learnt.params["policy"], worlds.obs).pre_tanh(draws.action_noise))
            worlds, replay, steps = self._step(worlds, replay, action, draws.step_keys, env_params)
            (learnt, replay), losses = jax.lax.scan(learn, (learnt, replay), (draws.bits, draws.noise))
            return (learnt, replay, worlds), (steps, action, losses)

        chunk_key, key = jax.random.split(runner.key)
        (learnt, replay, worlds), (steps, action, losses) = jax.lax.scan(
            iterate, (runner.learnt, runner.replay, runner.worlds), self._draws(chunk_key, policy.action_size)
        )
        worlds, episodes = remember_returns(worlds, steps)
        cause = divergence(steps, action, losses, learnt, config)
        after = self._scaled(dataclasses.replace(runner, learnt=learnt), steps.obs)
        learnt, worlds, moments = choose(
            cause == 0, (after.learnt, worlds, after.moments), (runner.learnt, runner.worlds, runner.moments)
        )
        metrics = jax.tree.map(jnp.mean, losses) | {
            "reward": steps.reward.mean(),
            "episode_return": worlds.last_return,
            "episodes": episodes,
            "terminated_fraction": steps.terminated.mean(),
            "absolute_action": jnp.abs(action).mean(),
            "diverged": cause,
        }
        return SACRunner(learnt, replay, worlds, moments, key, runner.chunks + 1), metrics

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
        self, worlds: Worlds, replay: Replay, action: jax.Array, keys: jax.Array, env_params: EnvParams
    ) -> tuple[Worlds, Replay, Transition]:
        """One step of every world into the replay, which refuses what is not finite."""
        worlds, step = step_worlds(self.env, keys, worlds, action, env_params)
        experience = Experience(step.obs, action, step.reward, step.final_obs, step.terminated)
        return worlds, replay.add(experience, all_finite(experience)), step

    def _scaled(self, runner: SACRunner, obs: jax.Array) -> SACRunner:
        """The Runner whose moments, and the scaler made of them, know of float32[T, N, obs_size] more observations."""
        if not self.config.normalise_observations:
            return runner
        moments = runner.moments.seen(obs.reshape(-1, obs.shape[-1]))
        params = runner.learnt.params
        params = params | {"policy": params["policy"].replace(scaler=Scaler.of(moments))}
        return dataclasses.replace(runner, moments=moments, learnt=dataclasses.replace(runner.learnt, params=params))


# One vector of all parameters: a few kernels per gradient step rather than a few per layer.
_OPTIMISER = optax.flatten(optax.scale_by_adam())


def init_critics(key: jax.Array, obs_size: int, action_size: int, hidden: tuple[int, ...]) -> Any:
    """Fresh twin critics, leaves [2, ...]."""
    layers = (obs_size + action_size, *hidden, 1)
    return jax.vmap(lambda k: init_mlp(k, layers, final_scale=1.0))(jax.random.split(key))


def action_values(critics: Any, obs: jax.Array, action: jax.Array) -> jax.Array:
    """float32[2, B] the twin critics' values of actions [B, A] at scaled observations [B, obs_size]."""
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
    weight: jax.Array,
    noise: jax.Array,
    config: SACConfig,
) -> tuple[jax.Array, tuple[jax.Array, Metrics]]:
    """Sum of the losses of critics, actor and temperature, float32[]; the critics' error float32[B], and the parts.

    `noise` float32[2, B, A] draws the actions at the next and at the present observations; `weight` float32[B] is that
    of each transition in the critics' loss (Schaul et al. 2016). An error is the mean of the twins' distances.
    """
    frozen = jax.lax.stop_gradient(params)
    temperature = jnp.exp(frozen["log_temperature"])
    obs, next_obs = (frozen["policy"].scaler(x) for x in (experience.obs, experience.next_obs))

    next_policy = policy.distribution(frozen["policy"], experience.next_obs)
    next_pre_tanh = next_policy.pre_tanh(noise[0])
    next_value = action_values(target_critics, next_obs, jnp.tanh(next_pre_tanh))
    target = soft_target(experience, next_value, next_policy.log_prob(next_pre_tanh), temperature, config)
    value = action_values(params["critics"], obs, experience.action)
    critic_loss = 0.5 * (weight * (value - target) ** 2).sum(0).mean()

    distribution = policy.distribution(params["policy"], experience.obs)
    pre_tanh = distribution.pre_tanh(noise[1])
    log_prob = distribution.log_prob(pre_tanh)
    own_value = action_values(frozen["critics"], obs, jnp.tanh(pre_tanh)).min(0)
    policy_loss = (temperature * log_prob - own_value).mean()

    entropy = -jax.lax.stop_gradient(log_prob).mean()
    surplus = entropy - config.target_entropy * policy.action_size
    temperature_loss = params["log_temperature"] * surplus

    total = critic_loss + policy_loss + temperature_loss
    return total, (
        jnp.abs(value - target).mean(0),
        {
            "loss": total,
            "critic_loss": critic_loss,
            "policy_loss": policy_loss,
            "temperature": temperature,
            "entropy": entropy,
            "value": value.mean(),
        },
    )


def gradient_step(
    learnt: Learnt,
    policy: TanhGaussianPolicy,
    experience: Experience,
    weight: jax.Array,
    noise: jax.Array,
    config: SACConfig,
) -> tuple[Learnt, jax.Array, Metrics]:
    """One Adam step of all parameters, then the target critics' step towards the critics; and the errors float32[B]."""
    grads, (error, losses) = jax.grad(loss, has_aux=True)(
        learnt.params, learnt.target_critics, policy, experience, weight, noise, config
    )
    updates, opt_state = _OPTIMISER.update(grads, learnt.opt_state)
    params = jax.tree.map(lambda p, u: p - config.learning_rate * u, learnt.params, updates)
    target_critics = optax.incremental_update(params["critics"], learnt.target_critics, config.target_rate)
    return Learnt(params, target_critics, opt_state), error, losses | {"grad_norm": optax.tree.norm(grads)}


def divergence(steps: Transition, action: jax.Array, losses: Metrics, learnt: Learnt, config: SACConfig) -> jax.Array:
    """float32[] the number of the cause in `marljax.agents.learner.CAUSES`; 0 where all is sound.

    The world is not to blame for what follows an `action` float32[T, N, A] that is not finite.
    """
    seen = jnp.isfinite(steps.final_obs).all(-1) & jnp.isfinite(steps.obs).all(-1)
    sound = jnp.isfinite(steps.reward) & seen | ~jnp.isfinite(action).all(-1)
    learned = all_finite((losses, action, learnt))
    return jnp.select([~sound.all(), ~learned, jnp.abs(losses["loss"]).max() > config.max_loss], [1.0, 2.0, 3.0], 0.0)
