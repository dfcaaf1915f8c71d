"""Stage `meta`: the meta-controller, trained over the product agents' live policies on the training part."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np

from marljax.agents.lagrangian import ConstraintConfig, LagrangianPPO
from marljax.agents.learner import CAUSES
from marljax.agents.policy import TanhGaussianPolicy
from marljax.agents.ppo import PPO
from marljax.agents.ppo_config import PPOConfig
from marljax.agents.selection import sharpe
from marljax.agents.teams import ONLY
from marljax.data.limits import require, require_not_negative
from marljax.data.schema import InputError
from marljax.envs.environment import Box
from marljax.envs.portfolio import POLICY_MODES, PortfolioEnv, PortfolioParams
from marljax.envs.worlds import AllocationConfig, portfolio_params
from marljax.evaluation.backtest import STRATEGIES, backtest
from marljax.runtime.artefacts import named_leaves
from marljax.runtime.progress import run_chunks
from marljax.runtime.stages import Artefact, Stage, StageCache
from stages.agents import Trading
from stages.market import Market

_MOST = 100.0
"""Of the drawdown's price, reward per typical portfolio standard deviation: reward still counts."""


@dataclasses.dataclass(frozen=True)
class DrawdownConfig:
    """The constraint on the drawdown of training episodes, and how its price is learned."""

    limit: float | None = None
    """Largest mean of an episode's maximum drawdown [fraction of the peak]; by default there is none."""
    rate: float = 0.02
    """What a drawdown of twice the limit adds to its price in an update [reward per typical portfolio standard
    deviation]."""
    proportional: float = 0.1
    """What it adds to the price in the next update alone [likewise]."""

    def __post_init__(self) -> None:
        require(self, "above 0 and below 1", lambda x: 0 < x < 1, "limit")
        require_not_negative(self, "rate", "proportional")

    def constraint(self, episode_steps: float, scale: float, price: float = 0.0) -> ConstraintConfig | None:
        """The same by step of an env whose episodes have `episode_steps`, and by drawdown as it counts it.

        `scale` is a typical portfolio's standard deviation; `price` the multiplier to begin with, reward per drawdown.
        """
        if self.limit is None:
            return None
        return ConstraintConfig(
            self.limit / episode_steps,
            rate=self.rate / scale,
            proportional=self.proportional / scale,
            multiplier=price,
            largest=_MOST / scale,
        )


@dataclasses.dataclass(frozen=True)
class MetaConfig:
    """How the meta-controller is trained."""

    seeds: int = 2
    """Meta-controllers trained side by side; validation chooses one [count]."""
    chunks: int = 60
    """Updates, each a rollout of ppo.n-envs x ppo.n-steps rebalances [count]."""
    episode_blocks: int = 16
    """Length of a training episode [rebalances]."""
    drawdown: DrawdownConfig = DrawdownConfig()
    ppo: PPOConfig = PPOConfig(n_envs=16, n_steps=32, discount=0.95, over_agents=(ONLY,))

    def __post_init__(self) -> None:
        for name in ("seeds", "chunks", "episode_blocks"):
            if getattr(self, name) < 1:
                raise InputError(f"meta.{name} must be at least 1, got {getattr(self, name)}")

    def network(self, n_agents: int) -> TanhGaussianPolicy:
        """The meta-controller's policy."""
        return TanhGaussianPolicy(n_agents + 1, self.ppo.network_of(ONLY, Box(-1.0, 1.0, (n_agents + 1,))))

    def learner(self, env: PortfolioEnv, train: PortfolioParams) -> PPO | LagrangianPPO:
        """PPO, under the constraint where there is one."""
        constraint = self.drawdown.constraint(env.episode_blocks, float(train.reward_scale))
        return PPO(env, self.ppo) if constraint is None else LagrangianPPO(env, constraint, self.ppo)


@dataclasses.dataclass(frozen=True)
class Portfolio:
    """The meta-controller's env, and its params over any part."""

    env: PortfolioEnv
    market: Market
    trading: Trading
    policies: Any
    allocation: AllocationConfig

    def params(self, part: str) -> PortfolioParams:
        """The env's params over the rows of `part`: train, validation or test."""
        return portfolio_params(
            self.market.data,
            getattr(self.market.split, part),
            self.market.training_rows() if part == "train" else self.market.part(part),
            self.market.train,
            policies=self.policies,
            costs=self.trading.costs,
            no_trade_band=self.trading.no_trade_band,
            capital=self.trading.capital,
            config=self.allocation,
            episode_blocks=self.env.episode_blocks if part == "train" else 1,
        )


def meta_stage(
    cache: StageCache,
    upstream: dict[str, str],
    portfolio: Portfolio,
    config: MetaConfig,
    *,
    blocks_per_year: float,
    seed: int,
    metrics_path: Path,
) -> Stage[Artefact]:
    """Train the seeds, choose by validation Sharpe. The artefact holds the chosen policy's parameters, and in its
    metadata the price of a drawdown that its seed has learned.

    Where it is not asked, because risk parity is held or agents bid, they are those of a policy that was not trained.
    """
    algorithm = portfolio.env.coordination
    seeds, chunks = (config.seeds, config.chunks) if algorithm in POLICY_MODES else (1, 0)
    earned = "reward" if config.drawdown.limit is None else "unpriced_reward"

    def compute(checkpoints: Path) -> Artefact:
        train, validation = portfolio.params("train"), portfolio.params("validation")
        learner = config.learner(portfolio.env, train)
        keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), 2), seeds)
        trained = run_chunks(
            jax.vmap(learner.update, in_axes=(0, None)),
            jax.jit(jax.vmap(learner.init, in_axes=(0, None)))(keys, train),
            chunks,
            operands=(train,),
            name="meta",
            checkpoint_dir=checkpoints / "meta",
            metrics_path=metrics_path,
            steps_per_chunk=learner.steps_per_chunk * seeds,
            show=(earned,),
            causes=CAUSES,
        )
        policies = jax.vmap(learner.policy_params)(trained.runner)
        network = config.network(portfolio.market.data.n_products)
        strategy = STRATEGIES["meta_controller"]
        scores = []
        for s in range(seeds):
            policy = jax.tree.map(lambda x, s=s: x[s], policies)
            record, _ = backtest(portfolio.env, network, jax.random.key(seed), validation, policy, strategy)
            scores.append(float(sharpe(np.asarray(record.returns), blocks_per_year)))
        best = int(np.argmax(scores))
        chosen = jax.tree.map(lambda x: np.asarray(x[best]), policies)
        limited = isinstance(learner, LagrangianPPO)
        return Artefact(
            named_leaves(chosen),
            {
                "price": float(trained.runner.multiplier[best]) if limited else 0.0,
                "trials": [
                    {"product": "portfolio", "algorithm": algorithm, "seed": s, "validation_sharpe": score}
                    for s, score in enumerate(scores)
                ],
                "curves": {
                    "env_steps": [row["chunk"] * learner.steps_per_chunk for row in trained.rows],
                    "reward": [row[earned] for row in trained.rows],
                },
            },
        )

    inputs = {**upstream, "meta": config, "allocation": portfolio.allocation, "blocks_per_year": blocks_per_year}
    return cache.run("meta", inputs, compute)
