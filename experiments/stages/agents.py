"""Stage `agents`: a PPO and a SAC agent per product and seed, all at once, and the choice on validation data."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from marljax.agents.learner import CAUSES, Learner
from marljax.agents.policy import TanhGaussianPolicy
from marljax.agents.ppo import PPO
from marljax.agents.ppo_config import PPOConfig
from marljax.agents.sac import SAC, SACConfig
from marljax.agents.selection import SelectionConfig, select
from marljax.data.schema import InputError
from marljax.envs.replay import ReplayEnv, ReplayParams
from marljax.envs.tapes import (
    CostConfig,
    Rows,
    TradingConfig,
    cost_models,
    default_capital,
    position_limits,
    replay_params,
)
from marljax.envs.worlds import world
from marljax.evaluation.backtest import agent_returns
from marljax.market.slippage import CostModel
from marljax.runtime.artefacts import named_leaves
from marljax.runtime.progress import run_chunks
from marljax.runtime.stages import Artefact, Stage, StageCache
from stages.market import Market


@dataclasses.dataclass(frozen=True)
class AgentsConfig:
    """How product agents are trained and chosen."""

    seeds: int = 2
    """Agents of each algorithm per product, trained side by side [count]."""
    episode_steps: int = 128
    """Length of a training episode [steps]."""
    ppo_chunks: int = 200
    """Updates of PPO, each a rollout of ppo.n-envs x ppo.n-steps [count]."""
    sac_chunks: int = 25
    """Updates of SAC, each sac.n-envs x sac.n-iterations env steps [count]."""
    ppo: PPOConfig = PPOConfig(n_envs=32)
    sac: SACConfig = SACConfig(n_iterations=128, batch_size=128, capacity=16384)
    selection: SelectionConfig = SelectionConfig()

    def __post_init__(self) -> None:
        for name in ("seeds", "episode_steps", "ppo_chunks", "sac_chunks"):
            if getattr(self, name) < 1:
                raise InputError(f"agents.{name} must be at least 1, got {getattr(self, name)}")
        if self.ppo.hidden != self.sac.hidden:
            raise InputError("agents.ppo.hidden and agents.sac.hidden must agree: both fill one form of policy")

    @property
    def policy(self) -> TanhGaussianPolicy:
        """The network of every product agent."""
        return TanhGaussianPolicy(1, self.ppo.body)


@dataclasses.dataclass(frozen=True)
class Trading:
    """What every later stage needs to know to trade: capital, costs and limits, all from the training part."""

    capital: float
    costs: CostModel
    max_position: np.ndarray  # int32[P] lots
    no_trade_band: float

    @classmethod
    def of(cls, market: Market, costs: CostConfig, trading: TradingConfig) -> "Trading":
        capital = trading.capital or default_capital(market.train)
        return cls(
            capital, cost_models(market.train, costs), position_limits(market.train, capital), trading.no_trade_band
        )


def agents_stage(
    cache: StageCache,
    upstream: dict[str, str],
    market: Market,
    trading: Trading,
    config: AgentsConfig,
    trading_config: TradingConfig,
    synthetic: Rows | None,
    synthetic_fraction: float,
    *,
    steps_per_year: float,
    seed: int,
    metrics_path: Path,
) -> Stage[Artefact]:
    """Train, judge on the validation part, choose. The artefact holds the chosen policies' parameters, leaves [P, ...],
    and in its metadata the selection, every trial and the learning curves."""

    def compute(checkpoints: Path) -> Artefact:
        env = ReplayEnv(config.episode_steps)
        params = replay_params(
            market.part("train"),
            costs=trading.costs,
            max_position=trading.max_position,
            trading=trading_config,
            episode_steps=config.episode_steps,
            synthetic=synthetic,
            synthetic_fraction=synthetic_fraction,
        )
        learners: dict[str, tuple[Learner, int]] = {
            "ppo": (PPO(env, config.ppo), config.ppo_chunks),
            "sac": (SAC(env, config.sac), config.sac_chunks),
        }
        policies, validation, curves = {}, {}, {}
        for i, (name, (learner, n_chunks)) in enumerate(learners.items()):
            key = jax.random.fold_in(jax.random.key(seed), i)
            policies[name], curves[name] = _train(
                name, learner, n_chunks, key, params, config.seeds, checkpoints, metrics_path
            )
            validation[name] = np.asarray(_validate(config.policy, market, trading, policies[name]))
        names = [product.name for product in market.data.products]
        choices, trials = select(validation, names, steps_per_year=steps_per_year, config=config.selection)
        chosen = [(policies[c["algorithm"]], c["seed"]) for c in (choices[n] for n in names)]
        stacked = jax.tree.map(
            lambda *leaves: jnp.stack(leaves),
            *(jax.tree.map(lambda x, s=s, p=p: x[s, p], tree) for p, (tree, s) in enumerate(chosen)),
        )
        return Artefact(
            {k: np.asarray(v) for k, v in named_leaves(stacked).items()},
            {"selection": choices, "trials": trials, "curves": curves},
        )

    inputs = {
        **upstream,
        "agents": config,
        "trading": trading_config,
        "costs": [np.asarray(x).tolist() for x in jax.tree.leaves(trading.costs)],
        "capital": trading.capital,
        "synthetic_fraction": synthetic_fraction,
        "steps_per_year": steps_per_year,
    }
    return cache.run("agents", inputs, compute)


def stored_policy(stage: Stage[Artefact], policy: TanhGaussianPolicy, obs_size: int) -> Any:
    """The parameters in a stage's artefact, in the form of `policy`'s; a leading axis of products stays."""
    like = jax.eval_shape(lambda key: policy.init(key, obs_size), jax.random.key(0))
    leaves = [jnp.asarray(stage.value.arrays[name]) for name in named_leaves(like)]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def _train(
    name: str,
    learner: Learner,
    n_chunks: int,
    key: jax.Array,
    params: ReplayParams,
    n_seeds: int,
    checkpoints: Path,
    metrics_path: Path,
) -> tuple[Any, dict[str, list]]:
    """Policies with leaves [S, P, ...], and curves {metric: [chunk][seed][product]}."""
    n_products = params.max_position.shape[0]
    init = jax.jit(jax.vmap(jax.vmap(learner.init), in_axes=(0, None)))
    keys = jax.random.split(key, (n_seeds, n_products))
    trained = run_chunks(
        jax.vmap(jax.vmap(learner.update), in_axes=(0, None)),
        init(keys, params),
        n_chunks,
        operands=(params,),
        name=name,
        checkpoint_dir=checkpoints / name,
        metrics_path=metrics_path,
        steps_per_chunk=learner.steps_per_chunk * n_seeds * n_products,
        show=("reward", "absolute_action"),
        causes=CAUSES,
    )
    curves = {
        "env_steps": [row["chunk"] * learner.steps_per_chunk for row in trained.rows],
        "reward": [row["reward"] for row in trained.rows],
    }
    return jax.vmap(jax.vmap(learner.policy_params))(trained.runner), curves


def _validate(policy: TanhGaussianPolicy, market: Market, trading: Trading, policies: Any) -> jax.Array:
    """float32[S, P, T] what each agent earns per row of the validation part."""
    rows = market.part("validation")
    lots = jnp.asarray(trading.max_position, jnp.float32)

    def one_seed(params: Any) -> jax.Array:
        earned = agent_returns(
            policy,
            jax.random.key(0),
            world(rows, params, trading.costs, trading.no_trade_band),
            lots,
            rows.data.n_steps - 1,
        )
        return earned.T

    return jnp.stack([one_seed(jax.tree.map(lambda x, s=s: x[s], policies)) for s in range(_n_seeds(policies))])


def _n_seeds(policies: Any) -> int:
    return jax.tree.leaves(policies)[0].shape[0]
