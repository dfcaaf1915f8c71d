"""Stage `joint`: the product agents and the meta-controller, each trained, are tuned together on the training part.

All begin as they are, with fresh critics, and in the first updates the critics alone learn: one that knows nothing yet
would unlearn what the policies know. Then product agents and meta-controller move in turns, an update each, so that
nobody learns against somebody who is moving; critics learn all the time. The tuned agents take the place of the others
only where the validation part establishes that they are better. The others were chosen on that same part, so the
comparison favours them.

A limit on drawdown goes on where the meta-controller's own training left it: at the price learned there, which stands
still while the critics alone learn.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from marljax.agents.lagrangian import ConstraintConfig, LagrangianPPO, LagrangianRunner
from marljax.agents.learner import CAUSES, choose
from marljax.agents.policy import TanhGaussianPolicy
from marljax.agents.ppo import PPO
from marljax.agents.ppo_config import PPOConfig, PPORunner
from marljax.agents.rollout import Metrics
from marljax.agents.selection import sharpe
from marljax.data.limits import require, require_counts, require_not_negative, require_positive
from marljax.data.schema import InputError
from marljax.envs.joint_portfolio import META, PRODUCT, JointParams, JointPortfolioEnv
from marljax.envs.portfolio import Coordination, PortfolioEnv, PortfolioParams
from marljax.envs.tapes import TradingConfig
from marljax.envs.worlds import joint_params
from marljax.evaluation.backtest import STRATEGIES, backtest
from marljax.evaluation.statistics import difference
from marljax.runtime.artefacts import named_leaves
from marljax.runtime.progress import run_chunks
from marljax.runtime.stages import Artefact, Stage, StageCache
from stages.agents import AgentsConfig
from stages.meta import MetaConfig, Portfolio

Agents = dict[str, Any]
"""Policies' params by role: of the product agents with leaves [P, ...], and of the meta-controller."""

Runner = PPORunner | LagrangianRunner
"""The second where drawdowns are limited."""


@dataclasses.dataclass(frozen=True)
class JointConfig:
    """How product agents and meta-controller are tuned together. All else is as in agents.ppo."""

    seeds: int = 2
    """Repetitions of the tuning; all are judged, and the best is taken if they are better [count]."""
    chunks: int = 24
    """Updates, each a rollout of n-envs x n-steps rows [count]; 0 leaves all agents as they are."""
    critic_chunks: int = 6
    """Of these, at the beginning, updates in which only the critics learn, at the rate of agents.ppo [count]."""
    learning_rate: float = 3e-5
    """Adam step size of the others [1]."""
    n_envs: int = 16
    """Portfolios traded side by side [count]."""
    n_steps: int = 128
    """Steps per portfolio in one rollout; a rebalance takes one, and so does a row [steps]."""
    portfolio_weight: float = 0.5
    """What the portfolio earns in a product agent's reward, under shared_critic what the agent adds to it [reward per
    standard deviation of an equally weighted portfolio in one row]."""
    replications: int = 4
    """Runs of the validation under different random latencies [count]."""
    confidence: float = 0.95
    """Coverage of the interval that decides [0 to 1]."""
    resamples: int = 1000
    """Bootstrap resamples of that interval [count]."""

    def __post_init__(self) -> None:
        require_counts(self, "seeds", "n_envs", "n_steps", "replications")
        require_positive(self, "learning_rate")
        require_not_negative(self, "chunks", "critic_chunks", "portfolio_weight")
        require(self, "below chunks", lambda n: n < self.chunks or self.chunks == 0, "critic_chunks")
        require(self, "within 0.5 to 1", lambda x: 0.5 <= x < 1, "confidence")
        require(self, "at least 100", lambda n: n >= 100, "resamples")

    def ppo(self, agents: PPOConfig, meta: PPOConfig, coordination: Coordination = "meta") -> PPOConfig:
        """How PPO tunes agents that were trained as `agents` and `meta` say.

        Raises InputError where their networks are of different kinds or widths.
        """
        if agents.body != meta.body:
            raise InputError(
                "agents.ppo and meta.ppo must have equal networks to be tuned in one program; make network and hidden "
                "agree, or set joint.chunks to 0"
            )
        # Scales of observations stay those that the policies were trained with.
        return dataclasses.replace(
            agents,
            n_envs=self.n_envs,
            n_steps=self.n_steps,
            learning_rate=self.learning_rate,
            critic="shared" if coordination == "shared_critic" else agents.critic,
            separate=(PRODUCT,),
            over_agents=(META,) if meta.over_agents else (),
            heads=meta.heads,
            exposure=meta.exposure,
            normalise_observations=False,
        )


@dataclasses.dataclass(frozen=True)
class Tuning:
    """The learner: of one seed, and of all."""

    env: JointPortfolioEnv
    ppo: PPOConfig
    critic_learning_rate: float
    critic_chunks: int
    constraint: ConstraintConfig | None = None
    """Of the meta-controller."""

    def learner(self, learning_rate: float | jax.Array) -> PPO | LagrangianPPO:
        """PPO of everybody, in which the meta-controller pays for its drawdowns where they are limited."""
        config = dataclasses.replace(self.ppo, learning_rate=learning_rate)
        if self.constraint is None:
            return PPO(self.env, config)
        return LagrangianPPO(self.env, self.constraint, config, role=META)

    def init(self, key: jax.Array, params: JointParams, agents: Agents) -> Runner:
        """A Runner whose policies are `agents`, with fresh critics."""
        return with_policies(self.learner(self.ppo.learning_rate).init(key, params), agents)

    def update(self, runner: Runner, params: JointParams) -> tuple[Runner, Metrics]:
        """One chunk; in the first ones policies and the price of drawdowns stay as they are, then one role's move."""
        past = _ppo(runner).chunks - self.critic_chunks
        tunes = past >= 0
        learner = self.learner(jnp.where(tunes, self.ppo.learning_rate, self.critic_learning_rate))
        after, metrics = learner.update(runner, params)
        if isinstance(after, LagrangianRunner):
            old, new = ((one.integral, one.multiplier) for one in (runner, after))
            integral, multiplier = choose(tunes, new, old)
            after = dataclasses.replace(after, integral=integral, multiplier=multiplier)
        old_policies, new_policies = learner.policy_params(runner), learner.policy_params(after)
        policies = {
            role: choose(tunes & (past % 2 == turn), new_policies[role], old_policies[role])
            for turn, role in enumerate((PRODUCT, META))
        }
        return with_policies(after, policies), metrics

    # One seed after the other: what side by side would save is less than its larger program takes to compile.
    def init_all(self, keys: jax.Array, params: JointParams, agents: Agents) -> Runner:
        """A Runner for each of `keys` [S], leaves [S, ...]."""
        return jax.lax.map(lambda key: self.init(key, params, agents), keys)

    def update_all(self, runners: Runner, params: JointParams) -> tuple[Runner, Metrics]:
        """One chunk of every seed; metrics float32[S]."""
        return jax.lax.map(lambda runner: self.update(runner, params), runners)


def with_policies(runner: Runner, agents: Agents) -> Runner:
    """The Runner with the policies of `agents`."""
    if isinstance(runner, LagrangianRunner):
        return dataclasses.replace(runner, ppo=with_policies(runner.ppo, agents))
    params = {role: runner.params[role] | {"policy": policy} for role, policy in agents.items()}
    return dataclasses.replace(runner, params=runner.params | params)


def _ppo(runner: Runner) -> PPORunner:
    return runner.ppo if isinstance(runner, LagrangianRunner) else runner


def constraint(meta: MetaConfig, env: PortfolioEnv, train: PortfolioParams, price: float) -> ConstraintConfig | None:
    """The limit on drawdowns by step of the joint env, which takes one more for a block than it has rows."""
    episode_steps = env.episode_blocks * (1.0 + float(np.mean(train.blocks.length)))
    return meta.drawdown.constraint(episode_steps, float(train.reward_scale), price)


def joint_stage(
    cache: StageCache,
    upstream: dict[str, str],
    portfolio: Portfolio,
    originals: Agents,
    agents: AgentsConfig,
    meta: MetaConfig,
    trading: TradingConfig,
    config: JointConfig,
    *,
    price: float = 0.0,
    blocks_per_year: float,
    seed: int,
    metrics_path: Path,
) -> Stage[Artefact]:
    """Tune, judge, decide. The artefact holds the agents to use from here on, tuned or as they were, and in its
    metadata the decision and what it rests on. `price` is that of a drawdown which the meta-controller has learned."""

    def compute(checkpoints: Path) -> Artefact:
        env, train = JointPortfolioEnv(portfolio.env), portfolio.params("train")
        ppo = config.ppo(agents.ppo, meta.ppo, portfolio.env.coordination)
        limit = constraint(meta, portfolio.env, train, price)
        tuning = Tuning(env, ppo, agents.ppo.learning_rate, config.critic_chunks, limit)
        learner = tuning.learner(ppo.learning_rate)
        params = joint_params(train, trading, config.portfolio_weight)
        keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), 5), config.seeds)
        trained = run_chunks(
            tuning.update_all,
            jax.jit(tuning.init_all)(keys, params, originals),
            config.chunks,
            operands=(params,),
            name="joint",
            axes=("seed",),
            checkpoint_dir=checkpoints / "joint",
            metrics_path=metrics_path,
            steps_per_chunk=learner.steps_per_chunk * config.seeds,
            show=("product.reward", "meta.reward"),
            causes=CAUSES,
        )
        tuned = learner.policy_params(trained.runner)
        candidates = [jax.tree.map(lambda x, s=s: x[s], tuned) for s in range(config.seeds)]
        network = meta.network(portfolio.market.data.n_products)
        validation = portfolio.params("validation")
        before, *after = (
            earned(portfolio.env, network, validation, one, config.replications, seed)
            for one in (originals, *candidates)
        )
        found = verdict(before, after, config, blocks_per_year, seed)
        chosen = originals if found["seed"] is None else candidates[found["seed"]]
        return Artefact(
            {name: np.asarray(leaf) for name, leaf in named_leaves(chosen).items()},
            found
            | {
                "trials": [
                    {
                        "product": "portfolio",
                        "algorithm": "joint",
                        "seed": s,
                        "validation_sharpe": float(sharpe(returns, blocks_per_year).mean()),
                        "env_steps": config.chunks * learner.steps_per_chunk,
                    }
                    for s, returns in enumerate(after)
                ]
            },
        )

    return cache.run("joint", {**upstream, "joint": config, "blocks_per_year": blocks_per_year}, compute)


def earned(
    env: PortfolioEnv,
    network: TanhGaussianPolicy,
    params: PortfolioParams,
    agents: Agents,
    replications: int,
    seed: int,
) -> np.ndarray:
    """float32[replications, N] what agents earn in each block of `params`, net of all costs."""
    params = params.replace(world=params.world.replace(policies=agents[PRODUCT]))
    keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), 6), replications)
    strategy = STRATEGIES["meta_controller"]
    # One run after the other, in the program that has judged the meta-controllers.
    return np.stack([np.asarray(backtest(env, network, k, params, agents[META], strategy)[0].returns) for k in keys])


def verdict(
    before: np.ndarray, after: list[np.ndarray], config: JointConfig, blocks_per_year: float, seed: int
) -> dict[str, Any]:
    """Whether the tuned agents are better, by the seed-mean Sharpe ratio of returns [replications, N] on validation.

    {"difference", "interval", "verdict", "adopted", "seed"}: `seed` is the best one's where the interval lies above
    zero, so that they are adopted, else None.
    """
    key = jax.random.fold_in(jax.random.key(seed), 7)
    found = difference(
        key,
        jnp.asarray(np.concatenate(after)),
        jnp.asarray(before),
        blocks_per_year,
        confidence=config.confidence,
        n_resamples=config.resamples,
    )
    low, estimate, high = found["interval"]
    best = int(np.argmax([sharpe(returns).mean() for returns in after]))
    return {
        "difference": estimate,
        "interval": [low, high],
        "verdict": found["verdict"],
        "adopted": low > 0,
        "seed": best if low > 0 else None,
    }


def stored_agents(stage: Stage[Artefact], like: Agents) -> Agents:
    """The agents in the stage's artefact, in the form of `like`."""
    leaves = [jnp.asarray(stage.value.arrays[name]) for name in named_leaves(like)]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)
