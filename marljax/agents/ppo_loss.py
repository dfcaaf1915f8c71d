"""What PPO computes from a rollout: values, advantages, the loss. Pure functions of arrays by team.

Every array of a team is [time, worlds, agents, ...]. Losses are means over times and worlds; over the agents that share
parameters they are means too, and over agents that do not they add up, so that each learns as if it were alone.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from marljax.agents.memory import unroll
from marljax.agents.networks import Carry, Network
from marljax.agents.ppo_config import Batch, Memory, PPOConfig, PPORunner
from marljax.agents.returns import generalised_advantage
from marljax.agents.rollout import Metrics, Transition
from marljax.agents.teams import CENTRE, Roster, Team

ByTeam = dict[str, jax.Array]


class Rollout(NamedTuple):
    """T steps of N worlds, as they were made."""

    steps: Transition  # leaves [T, N, ...], in the environment's form
    greedy: Transition | None  # likewise: where each step would have led had nobody explored in it
    choice: ByTeam  # [T, N, G, ...]
    noise: ByTeam  # [T, N, G, ...]
    discounted: ByTeam  # float32[T, N, G] discounted sums of rewards in their episodes, this one's included
    memory: Memory  # at its start


def prepare(runner: PPORunner, agents: Roster, rollout: Rollout, config: PPOConfig) -> tuple[Batch, dict[str, Carry]]:
    """The batch that a rollout makes under the parameters that made it, and the critics' memories after it."""
    steps, memory = rollout.steps, rollout.memory
    obs, final_obs = agents.gather_vectors(steps.obs), agents.gather_vectors(steps.final_obs)
    reward, terminated, truncated = map(agents.gather, (steps.reward, steps.terminated, steps.truncated))
    value, next_value, critic_memory = values_along(runner.params, agents, obs, final_obs, memory, steps.done, config)
    without = _greedily(runner, agents, rollout, obs, config)
    log_density, advantage, target = {}, {}, {}
    for team in agents.teams:
        name = team.name
        distribution = along(team, runner.params, obs, memory, steps.done)
        # An episode ends for all at once, also for agents of whom the world says neither.
        over = truncated[name] | (steps.done[..., None] & ~terminated[name])
        log_density[name] = distribution.log_density(rollout.choice[name])
        advantage[name], target[name] = generalised_advantage(
            reward[name] * reward_factor(runner, name, config),
            value[name],
            next_value[name],
            terminated[name],
            over,
            config.discount,
            config.gae_lambda,
        )
        if without is not None:
            advantage[name] = target[name] - without[name]
    return (
        Batch(obs, rollout.choice, rollout.noise, log_density, value, advantage, target, steps.done, memory),
        critic_memory,
    )


def _greedily(runner: PPORunner, agents: Roster, rollout: Rollout, obs: ByTeam, config: PPOConfig) -> ByTeam | None:
    """What each step would have been worth had nobody explored in it, float32[T, N, G] by team.

    What is compared with it has the luck of the draws in common, and an action's advantage is left: the greedy
    baseline of Rennie et al. (2017), "Self-critical sequence training", of one step. It does not depend on what was
    explored, so the gradient is as unbiased as with a critic.
    """
    if rollout.greedy is None:
        return None
    steps, memory = rollout.greedy, rollout.memory
    final_obs = agents.gather_vectors(steps.final_obs)
    _, next_value, _ = values_along(runner.params, agents, obs, final_obs, memory, rollout.steps.done, config)
    reward, terminated = agents.gather(steps.reward), agents.gather(steps.terminated)
    return {
        name: reward[name] * reward_factor(runner, name, config)
        + config.discount * jnp.where(terminated[name], 0.0, next_value[name])
        for name in reward
    }


def reward_factor(runner: PPORunner, team: str, config: PPOConfig) -> jax.Array | float:
    """float32[] or [G], by which rewards are multiplied before anything is learned from them."""
    if not config.normalise_returns:
        return config.reward_scale
    variance = runner.statistics[team].returns.variance
    # Returns that never varied say nothing about their scale.
    varies = variance > 1e-8
    return config.reward_scale * jnp.where(varies, jax.lax.rsqrt(jnp.where(varies, variance, 1.0)), 1.0)


def along(team: Team, params: dict[str, Any], obs: ByTeam, memory: Memory, done: jax.Array) -> Any:
    """A team's distributions of choices along time, [T, N, G, ...]."""

    def one(params: Any, obs: jax.Array, carry: Carry) -> Any:
        output, _, _ = unroll(team.policy.network, params.network, params.scaler(obs), carry, done)
        return team.policy.choices(output, obs)

    return team.across(one, params[team.name]["policy"], obs[team.name], memory.policy[team.name])


def values_along(
    params: dict[str, Any],
    agents: Roster,
    obs: ByTeam,
    final_obs: ByTeam,
    memory: Memory,
    done: jax.Array,
    config: PPOConfig,
) -> tuple[ByTeam, ByTeam, dict[str, Carry]]:
    """Values of observations and of what was seen after each step before any reset, float32[T, N, G] by team, and the
    critics' memories after the last step."""

    def judge(network: Network, critic: Any, x: jax.Array, final_x: jax.Array, carry: Carry) -> Any:
        y, left, last = unroll(network, critic, x, carry, done)
        return y, network.apply(critic, final_x, left)[0], last

    if config.critic == "shared":
        seen, finally_seen = joined(params, agents, obs), joined(params, agents, final_obs)
        y, final_y, carry = judge(config.body, params[CENTRE]["critic"], seen, finally_seen, memory.critic[CENTRE])
        return parted(agents, y), parted(agents, final_y), {CENTRE: carry}
    value: ByTeam = {}
    next_value: ByTeam = {}
    last: dict[str, Carry] = {}
    for team in agents.teams:
        name = team.name

        def own(params: Any, obs: jax.Array, final_obs: jax.Array, carry: Carry, team: Team = team) -> Any:
            scaler = params["policy"].scaler
            return judge(team.policy.network, params["critic"], scaler(obs), scaler(final_obs), carry)

        now, after, last[name] = team.across(own, params[name], obs[name], final_obs[name], memory.critic[name])
        value[name], next_value[name] = now[..., 0], after[..., 0]
    return value, next_value, last


def values(params: dict[str, Any], agents: Roster, batch: Batch, config: PPOConfig) -> ByTeam:
    """float32[T, N, G] by team."""
    if config.critic == "shared":
        carry = batch.memory.critic[CENTRE]
        y, _, _ = unroll(config.body, params[CENTRE]["critic"], joined(params, agents, batch.obs), carry, batch.done)
        return parted(agents, y)

    def own(team: Team, params: Any, obs: jax.Array, carry: Carry) -> jax.Array:
        return unroll(team.policy.network, params["critic"], params["policy"].scaler(obs), carry, batch.done)[0]

    return {
        team.name: team.across(
            functools.partial(own, team), params[team.name], batch.obs[team.name], batch.memory.critic[team.name]
        )[..., 0]
        for team in agents.teams
    }


def joined(params: dict[str, Any], agents: Roster, obs: ByTeam) -> jax.Array:
    """float32[..., sum of G * obs_size] what all agents see, side by side, for the shared critic."""
    scaled = [
        team.across(lambda params, x: params.scaler(x), params[team.name]["policy"], obs[team.name])
        for team in agents.teams
    ]
    return jnp.concatenate([x.reshape(*x.shape[:-2], -1) for x in scaled], -1)


def parted(agents: Roster, x: jax.Array) -> ByTeam:
    """From float32[..., all agents] to float32[..., G] by team."""
    parts, first = {}, 0
    for team in agents.teams:
        parts[team.name] = x[..., first : first + team.n_agents]
        first += team.n_agents
    return parts


def take(batch: Batch, index: jax.Array, config: PPOConfig) -> Batch:
    """The minibatch of these times, or of these worlds where networks have a memory."""
    rows = {name: x for name, x in batch._asdict().items() if name != "memory"}
    if not config.body.recurrent:
        return Batch(**jax.tree.map(lambda x: x[index], rows), memory=batch.memory)
    memory = jax.tree.map(lambda x: x[index], batch.memory)
    return Batch(**jax.tree.map(lambda x: x[:, index], rows), memory=memory)


def loss(
    params: dict[str, Any], agents: Roster, batch: Batch, config: PPOConfig, entropy_coefficient: float | jax.Array
) -> tuple[jax.Array, dict[str, Metrics]]:
    """Clipped surrogate, clipped value loss and entropy bonus of a minibatch: float32[], and its parts by team,
    float32[] each or, where agents do not share parameters, [G].

    Densities are of choices, before any tanh: the squashing cancels in the ratio.
    """
    value = values(params, agents, batch, config)
    total, parts = jnp.zeros(()), {}
    for team in agents.teams:
        name = team.name
        distribution = along(team, params, batch.obs, batch.memory, batch.done)
        log_ratio = distribution.log_density(batch.choice[name]) - batch.log_density[name]
        entropy = distribution.entropy(batch.noise[name])
        parts[name] = team_loss(
            log_ratio,
            entropy,
            batch.advantage[name],
            value[name],
            batch.value[name],
            batch.target[name],
            config,
            entropy_coefficient,
            mean=functools.partial(_mean, team),
        )
        total += parts[name]["loss"].sum()
    return total, parts


def team_loss(
    log_ratio: jax.Array,
    entropy: jax.Array,
    advantage: jax.Array,
    value: jax.Array,
    old_value: jax.Array,
    target: jax.Array,
    config: PPOConfig,
    entropy_coefficient: float | jax.Array,
    mean: Any = jnp.mean,
) -> Metrics:
    """The loss of one team from float32[t, n, G] each, and its parts; advantages are normalised agent by agent."""
    ratio = jnp.exp(log_ratio)
    spread = advantage.std((0, 1), keepdims=True) + 1e-8
    advantage = (advantage - advantage.mean((0, 1), keepdims=True)) / spread
    clipped_ratio = jnp.clip(ratio, 1.0 - config.ratio_clip, 1.0 + config.ratio_clip)
    policy_loss = -mean(jnp.minimum(ratio * advantage, clipped_ratio * advantage))

    clipped_value = old_value + jnp.clip(value - old_value, -config.value_clip, config.value_clip)
    value_loss = 0.5 * mean(jnp.maximum((value - target) ** 2, (clipped_value - target) ** 2))
    bonus = mean(entropy)
    return {
        "loss": policy_loss + config.value_coefficient * value_loss - entropy_coefficient * bonus,
        "policy_loss": policy_loss,
        "value_loss": value_loss,
        "entropy": bonus,
        "approx_kl": mean(jnp.expm1(log_ratio) - log_ratio),
        "clip_fraction": mean(jnp.abs(ratio - 1.0) > config.ratio_clip),
    }


def _mean(team: Team, x: jax.Array) -> jax.Array:
    """Over times and worlds of [t, n, G], and over agents who share parameters."""
    return x.mean() if team.shares else x.mean((0, 1))
