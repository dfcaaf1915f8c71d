"""Proximal policy optimisation (Schulman et al. 2017) of all agents of an environment at once.

Independent learning judges every agent by its own observation; with a shared critic one network sees the observations
of all in training, and nothing but its own observation decides what an agent does (Yu et al. 2022, MAPPO). Teams, the
agents of a role, differ in sizes and kinds of actions; each learns with its own optimiser.

One update is a rollout of T steps in N worlds, generalised advantages, then E epochs over M minibatches. Two choices
make it fast on one core: values of the whole rollout come from two large matrix products after it rather than from
one small product per step, and a minibatch is a random set of whole time steps, so that shuffling permutes T numbers
and copies contiguous rows. A recurrent network takes worlds instead of times, and is run along time anew.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from marljax.agents.agent_set import AgentSet
from marljax.agents.learner import EnvParams, all_finite, choose
from marljax.agents.memory import forget
from marljax.agents.networks import Carry, Network
from marljax.agents.normalisation import Moments, Scaler
from marljax.agents.policy import TanhGaussianPolicy
from marljax.agents.ppo_config import Memory, PPOConfig, PPORunner, Statistics
from marljax.agents.ppo_loss import Rollout, loss, prepare, take
from marljax.agents.rollout import Metrics, Worlds, remember_returns, reset_worlds, step_worlds
from marljax.agents.teams import CENTRE, Roster, Team, roster
from marljax.envs.environment import Environment


@struct.dataclass
class PPO:
    """The learner; see marljax.agents.learner for its contract."""

    env: Environment = struct.field(pytree_node=False)
    config: PPOConfig = PPOConfig()

    @property
    def steps_per_chunk(self) -> int:
        return self.config.n_envs * self.config.n_steps

    def policy(self, env_params: EnvParams) -> Any:
        """The policy of one agent; with several roles by role."""
        agents = self.roster(env_params)
        policies = {team.name: team.policy for team in agents.teams}
        return policies if agents.by_role else policies[agents.teams[0].name]

    def policy_params(self, runner: PPORunner) -> Any:
        """What policies have learned, with a leading axis of a team's agents where they do not share; with several
        roles by role."""
        learned = {name: group["policy"] for name, group in runner.params.items() if name != CENTRE}
        by_role = isinstance(runner.worlds.obs, dict)
        return learned if by_role else next(iter(learned.values()))

    def roster(self, env_params: EnvParams) -> Roster:
        """The agents."""
        return roster(self.env, env_params, self.config)

    def init(self, key: jax.Array, env_params: EnvParams) -> PPORunner:
        config, agents = self.config, self.roster(env_params)
        params_key, reset_key, warm_key, key = jax.random.split(key, 4)
        params = init_params(params_key, agents, config)
        opt_state = {name: agents.each(name, self._optimiser().init)(group) for name, group in params.items()}
        worlds = reset_worlds(self.env, reset_key, config.n_envs, env_params)
        memory = first_memory(agents, config)
        runner = PPORunner(params, opt_state, no_statistics(agents), worlds, memory, key, jnp.zeros((), jnp.int32))
        if not (config.normalise_observations or config.normalise_returns):
            return runner
        # One rollout that nobody learns from, so that the first lesson is scaled like the later ones.
        *_, rollout = self._rollout(runner, warm_key, agents, env_params)
        return rescaled(runner, agents, rollout, config)

    def update(self, runner: PPORunner, env_params: EnvParams) -> tuple[PPORunner, Metrics]:
        config, agents = self.config, self.roster(env_params)
        rollout_key, shuffle_key, key = jax.random.split(runner.key, 3)
        worlds, memory, rollout = self._rollout(runner, rollout_key, agents, env_params)
        batch, critic_memory = prepare(runner, agents, rollout, config)
        memory = dataclasses.replace(memory, critic=critic_memory)
        worlds, episodes = remember_returns(worlds, rollout.steps)
        learning_rate = config.learning_rate * _left(config.learning_rate_decay, runner.chunks)
        entropy_coefficient = config.entropy_coefficient * _left(config.entropy_decay, runner.chunks)

        def learn(carry: Any, index: jax.Array) -> tuple[Any, Any]:
            params, opt_state, going = carry
            minibatch = take(batch, index, config)
            grads, losses = jax.grad(loss, has_aux=True)(params, agents, minibatch, config, entropy_coefficient)
            going = going | {
                team.name: going[team.name] & _within(losses[team.name]["approx_kl"], config.target_kl)
                for team in agents.teams
            }
            stepped = {
                name: agents.each(name, functools.partial(self._descend, learning_rate))(
                    params[name], opt_state[name], grads[name], going[name]
                )
                for name in params
            }
            params, opt_state, norms = ({name: step[i] for name, step in stepped.items()} for i in range(3))
            return (params, opt_state, going), (losses, norms, going)

        going = {name: jnp.ones(agents.learners(name), bool) for name in runner.params}
        (params, opt_state, _), (losses, norms, going) = jax.lax.scan(
            learn, (runner.params, runner.opt_state, going), self._minibatches(shuffle_key)
        )
        seen = rollout.steps.reward, rollout.steps.final_obs, rollout.steps.obs, worlds.obs
        cause = divergence(seen, losses, params, config)
        old = runner.params, runner.opt_state, runner.statistics, runner.worlds, runner.memory
        after = rescaled(dataclasses.replace(runner, params=params), agents, rollout, config)
        new = after.params, opt_state, after.statistics, worlds, memory
        metrics = describe(agents, worlds, rollout, losses, norms, going) | {
            "episodes": episodes,
            "learning_rate": learning_rate,
            "diverged": cause,
        }
        return PPORunner(*choose(cause == 0, new, old), key, runner.chunks + 1), metrics

    def _optimiser(self) -> optax.GradientTransformation:
        # One vector of all parameters: a few kernels per gradient step rather than a few per layer.
        return optax.flatten(
            optax.chain(optax.clip_by_global_norm(self.config.max_grad_norm), optax.scale_by_adam(eps=1e-5))
        )

    def _descend(
        self, learning_rate: jax.Array, params: Any, opt_state: optax.OptState, grads: Any, going: jax.Array
    ) -> tuple[Any, optax.OptState, jax.Array]:
        """One Adam step of one set of parameters, unless its learning has stopped; and the gradient's norm."""
        updates, new_state = self._optimiser().update(grads, opt_state)
        new = jax.tree.map(lambda p, u: p - learning_rate * u, params, updates)
        return *choose(going, (new, new_state), (params, opt_state)), optax.tree.norm(grads)

    def _minibatches(self, key: jax.Array) -> jax.Array:
        """int32[E * M, B] indices of times, or of worlds for a recurrent network, one row per gradient step."""
        config = self.config
        n = config.n_envs if config.body.recurrent else config.n_steps
        shuffled = jax.vmap(jax.random.permutation, in_axes=(0, None))(jax.random.split(key, config.n_epochs), n)
        return shuffled.reshape(config.n_epochs * config.n_minibatches, -1)

    def _rollout(
        self, runner: PPORunner, key: jax.Array, agents: Roster, env_params: EnvParams
    ) -> tuple[Worlds, Memory, Rollout]:
        """Worlds and memories (but the critics') after T steps, and what happened in them."""
        config = self.config
        step_key, *noise_keys = jax.random.split(key, 1 + len(agents.teams))
        shape = (config.n_steps, config.n_envs)
        noise = {
            team.name: team.policy.noise(k, (*shape, team.n_agents))
            for team, k in zip(agents.teams, noise_keys, strict=True)
        }

        def step(carry: tuple[Worlds, Memory], draws: Any) -> tuple[tuple[Worlds, Memory], Any]:
            worlds, memory = carry
            keys, step_noise = draws
            seen, choice, action, median, carries = agents.gather_vectors(worlds.obs), {}, {}, {}, {}
            for team in agents.teams:
                name = team.name
                distribution, carries[name] = team.across(
                    team.policy.forward, runner.params[name]["policy"], seen[name], memory.policy[name]
                )
                choice[name] = distribution.choose(step_noise[name])
                action[name] = distribution.act(choice[name])
                median[name] = distribution.act(distribution.best())
            greedy = None
            if config.baseline == "greedy":
                greedy = step_worlds(self.env, keys, worlds, agents.actions(median), env_params)[1]
            worlds, transition = step_worlds(self.env, keys, worlds, agents.actions(action), env_params)
            reward = agents.gather(transition.reward)
            discounted = {name: config.discount * memory.discounted[name] + reward[name] for name in reward}
            memory = dataclasses.replace(
                memory, policy=forget(carries, transition.done), discounted=forget(discounted, transition.done)
            )
            return (worlds, memory), (transition, greedy, choice, discounted)

        (worlds, memory), (steps, greedy, choice, discounted) = jax.lax.scan(
            step, (runner.worlds, runner.memory), (jax.random.split(step_key, shape), noise)
        )
        return worlds, memory, Rollout(steps, greedy, choice, noise, discounted, runner.memory)


def init_params(key: jax.Array, agents: Roster, config: PPOConfig) -> dict[str, Any]:
    """Fresh networks by team, and of the shared critic."""
    params = {}
    *team_keys, centre_key = jax.random.split(key, 1 + len(agents.teams))
    for team, team_key in zip(agents.teams, team_keys, strict=True):

        def one(key: jax.Array, team: Team = team) -> dict[str, Any]:
            policy_key, critic_key = jax.random.split(key)
            learned = {"policy": team.policy.init(policy_key, team.obs_size)}
            if config.critic == "own":
                learned["critic"] = team.policy.network.init(critic_key, team.obs_size, 1, final_scale=1.0)
            return learned

        params[team.name] = one(team_key) if team.shares else jax.vmap(one)(jax.random.split(team_key, team.n_agents))
    if config.critic == "shared":
        n_in = sum(team.n_agents * team.obs_size for team in agents.teams)
        n_out = sum(team.n_agents for team in agents.teams)
        params[CENTRE] = {"critic": config.body.init(centre_key, n_in, n_out, final_scale=1.0)}
    return params


def first_memory(agents: Roster, config: PPOConfig) -> Memory:
    """At an episode's beginning, of N worlds."""

    def of(network: Network, *shape: int) -> Carry:
        return jax.tree.map(lambda c: jnp.zeros((*shape, *c.shape)), network.init_carry())

    n = config.n_envs

    def by_team() -> dict[str, Carry]:
        return {team.name: of(team.policy.network, n, team.n_agents) for team in agents.teams}

    # Two of them: a donated Runner must not hold one array twice.
    return Memory(
        policy=by_team(),
        critic={CENTRE: of(config.body, n)} if config.critic == "shared" else by_team(),
        discounted={team.name: jnp.zeros((n, team.n_agents)) for team in agents.teams},
    )


def no_statistics(agents: Roster) -> dict[str, Statistics]:
    """Before anything was seen."""
    statistics = {}
    for team in agents.teams:
        blank = Statistics(Moments.none((team.obs_size,)), Moments.none())
        copies = (lambda x, n=team.n_agents: x) if team.shares else lambda x, n=team.n_agents: jnp.stack([x] * n)
        statistics[team.name] = jax.tree.map(copies, blank)
    return statistics


def rescaled(runner: PPORunner, agents: Roster, rollout: Rollout, config: PPOConfig) -> PPORunner:
    """The Runner with the statistics that a rollout adds to, and observations scaled by them."""
    if not (config.normalise_observations or config.normalise_returns):
        return runner
    seen = agents.gather_vectors(rollout.steps.obs)
    params, statistics = dict(runner.params), {}
    for team in agents.teams:
        # Samples first; agents who share parameters are samples too.
        samples = (seen[team.name], rollout.discounted[team.name][..., None])
        if team.shares:
            obs, returns = (x.reshape(-1, x.shape[-1]) for x in samples)
        else:
            obs, returns = (jnp.moveaxis(x, -2, 0).reshape(team.n_agents, -1, x.shape[-1]) for x in samples)

        def add(past: Statistics, obs: jax.Array, returns: jax.Array) -> Statistics:
            return Statistics(past.obs.seen(obs), past.returns.seen(returns[:, 0]))

        statistics[team.name] = agents.each(team.name, add)(runner.statistics[team.name], obs, returns)
        if config.normalise_observations:
            scaler = agents.each(team.name, functools.partial(_scaler, team))(statistics[team.name].obs)
            policy = dataclasses.replace(params[team.name]["policy"], scaler=scaler)
            params[team.name] = params[team.name] | {"policy": policy}
    return dataclasses.replace(runner, params=params, statistics=statistics)


def divergence(world: Any, losses: Any, params: Any, config: PPOConfig) -> jax.Array:
    """float32[] the number of the cause in `marljax.agents.learner.CAUSES`; 0 where all is sound."""
    largest = jnp.stack([jnp.abs(parts["loss"]).max() for parts in losses.values()]).max()
    causes = [all_finite(world), all_finite((losses, params)), largest <= config.max_loss]
    return jnp.select([~sound for sound in causes], [1.0, 2.0, 3.0], 0.0)


def describe(agents: Roster, worlds: Worlds, rollout: Rollout, losses: Any, norms: Any, going: Any) -> Metrics:
    """Scalars of a chunk: by team with its role's name before each, without where there are no roles."""
    steps = rollout.steps
    reward, returns = agents.gather(steps.reward), agents.gather(worlds.last_return)
    terminated = agents.gather(steps.terminated)
    metrics: Metrics = {}
    for team in agents.teams:
        name = team.name
        own = {
            "reward": reward[name].mean(),
            "episode_return": returns[name].mean(),
            "terminated_fraction": terminated[name].mean(),
            **jax.tree.map(jnp.mean, losses[name]),
            "grad_norm": norms[name].mean(),
            "learned_fraction": going[name].mean(),
        }
        if isinstance(team.policy, TanhGaussianPolicy):
            own["absolute_action"] = jnp.abs(jnp.tanh(rollout.choice[name])).mean()
        metrics |= {f"{name}.{key}": value for key, value in own.items()} if agents.by_role else own
    if CENTRE in norms:
        metrics["critic_grad_norm"] = norms[CENTRE].mean()
    return metrics


def _scaler(team: Team, seen: Moments) -> Scaler:
    network = team.policy.network
    return Scaler.of(network.pooled(seen) if isinstance(network, AgentSet) else seen)


def _left(decay: float | jax.Array, chunks: jax.Array) -> jax.Array:
    return jnp.maximum(0.0, 1.0 - decay * chunks)


def _within(kl: jax.Array, target: float | jax.Array) -> jax.Array:
    return (kl <= target) | (jnp.asarray(target) <= 0.0)
