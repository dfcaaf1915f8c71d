"""Stage `agents`: PPO and SAC for every product and seed, given equal chances, and the choice on validation data."""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from marljax.agents.learner import Learner
from marljax.agents.policy import TanhGaussianPolicy
from marljax.agents.ppo import PPO
from marljax.agents.ppo_config import PPOConfig
from marljax.agents.sac import SAC, SACConfig
from marljax.agents.selection import SelectionConfig, select, sharpe
from marljax.data.limits import require, require_counts, require_not_negative
from marljax.data.schema import InputError
from marljax.envs.replay import ReplayEnv
from marljax.envs.stream import Source, opened
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
from marljax.runtime.stages import Artefact, Stage, StageCache
from stages.generator import SyntheticConfig
from stages.market import Market
from stages.training import CurriculumConfig, Evaluation, SearchConfig, chunks, search, train, worlds


@dataclasses.dataclass(frozen=True)
class AgentsConfig:
    """How product agents are trained and chosen."""

    seeds: int = 2
    """Agents of each algorithm per product, trained side by side [count]."""
    episode_steps: int = 128
    """Length of a training episode [steps]."""
    env_steps: int = 614_400
    """Env steps that every agent learns from, whichever its algorithm [steps]."""
    evaluate_every: int = 15
    """Chunks between two evaluations on validation episodes, for the learning curves; 0 for none [count]."""
    search: SearchConfig = SearchConfig()
    curriculum: CurriculumConfig = CurriculumConfig()
    ppo: PPOConfig = PPOConfig(n_envs=32)
    sac: SACConfig = SACConfig(n_envs=64, n_iterations=64, batch_size=128, capacity=16384, warmup_steps=16)
    selection: SelectionConfig = SelectionConfig()

    def __post_init__(self) -> None:
        require(self, "at least 2, for an interval over them", lambda x: x >= 2, "seeds")
        require_counts(self, "episode_steps", "env_steps")
        require_not_negative(self, "evaluate_every")
        if self.ppo.hidden != self.sac.hidden or self.ppo.network != "mlp":
            raise InputError(
                "agents.ppo.hidden and agents.sac.hidden must agree and agents.ppo.network be mlp: both algorithms "
                "fill one form of policy"
            )

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
    synthetic: SyntheticConfig,
    source: Source,
    judged: Rows,
    *,
    steps_per_year: float,
    seed: int,
    metrics_path: Path,
) -> Stage[Artefact]:
    """Search, train, judge on the validation part, choose. Generated sessions to learn in come from `source`; trials of
    the search are judged on those of `judged`.

    The artefact holds the chosen policies' parameters, leaves [P, ...], and in its metadata the selection, every trial,
    the learning curves and how many generated sessions agents met.
    """

    def compute(checkpoints: Path) -> Artefact:
        env = ReplayEnv(config.episode_steps)
        of_rows = partial(
            replay_params,
            costs=trading.costs,
            max_position=trading.max_position,
            trading=trading_config,
            episode_steps=config.episode_steps,
        )
        params = opened(of_rows(market.training_rows()), source, synthetic.fraction)
        shown = Evaluation(of_rows(market.part("validation")), config.evaluate_every, config.episode_steps, seed)
        learners: dict[str, Learner] = {"ppo": PPO(env, config.ppo), "sac": SAC(env, config.sac)}
        policies, validation, curves, tried = {}, {}, {}, []
        for i, (name, learner) in enumerate(learners.items()):
            search_key, train_key = jax.random.split(jax.random.fold_in(jax.random.key(seed), i))
            n_chunks = chunks(learner, config.env_steps, f"agents.env-steps of {name}")
            searched, phases = worlds(params, source, config.curriculum, n_chunks)

            def judge(policies: Any) -> np.ndarray:
                return sharpe(earned(config.policy, judged, trading, policies), steps_per_year)

            values, trials = search(
                name, learner, search_key, source, params, searched, config.search, judge, checkpoints, metrics_path
            )
            tried += trials
            policies[name], curves[name] = train(
                name,
                learner,
                values,
                train_key,
                source,
                params,
                phases,
                n_chunks,
                config.seeds,
                shown,
                checkpoints,
                metrics_path,
            )
            validation[name] = earned(config.policy, market.part("validation"), trading, policies[name])
        names = [product.name for product in market.data.products]
        choices, trials = select(validation, names, steps_per_year=steps_per_year, config=config.selection)
        chosen = [(policies[c["algorithm"]], c["seed"]) for c in (choices[n] for n in names)]
        stacked = jax.tree.map(
            lambda *leaves: jnp.stack(leaves),
            *(jax.tree.map(lambda x, s=s, p=p: x[s, p], tree) for p, (tree, s) in enumerate(chosen)),
        )
        return Artefact(
            {k: np.asarray(v) for k, v in named_leaves(stacked).items()},
            {
                "selection": choices,
                "trials": [row | {"env_steps": config.env_steps} for row in trials],
                "search": [row | {"product": names[row["product"]]} for row in tried],
                "curves": curves,
                "trained_on": {
                    "origins": [market.data.origin, "synthetic"],
                    "synthetic_fraction": synthetic.fraction,
                    "sessions_drawn": {name: int(curve["sessions_drawn"][-1]) for name, curve in curves.items()},
                },
            },
        )

    inputs = {
        **upstream,
        "agents": config,
        "trading": trading_config,
        "costs": [np.asarray(x).tolist() for x in jax.tree.leaves(trading.costs)],
        "capital": trading.capital,
        "synthetic": synthetic,
        "steps_per_year": steps_per_year,
    }
    return cache.run("agents", inputs, compute)


def stored_policy(stage: Stage[Artefact], policy: TanhGaussianPolicy, obs_size: int) -> Any:
    """The parameters in a stage's artefact, in the form of `policy`'s; a leading axis of products stays."""
    like = jax.eval_shape(lambda key: policy.init(key, obs_size), jax.random.key(0))
    leaves = [jnp.asarray(stage.value.arrays[name]) for name in named_leaves(like)]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def earned(policy: TanhGaussianPolicy, rows: Rows, trading: Trading, policies: Any) -> np.ndarray:
    """float32[S, P, T - 1] what each agent earns alone in each row, net of costs, as a fraction of its full position's
    value; `policies` has leaves [S, P, ...], and all meet the same latencies."""
    lots = jnp.asarray(trading.max_position, jnp.float32)

    def one(params: Any) -> np.ndarray:
        there = world(rows, params, trading.costs, trading.no_trade_band)
        return np.asarray(agent_returns(policy, jax.random.key(0), there, lots, rows.data.n_steps - 1)).T

    n = jax.tree.leaves(policies)[0].shape[0]
    return np.stack([one(jax.tree.map(lambda x, s=s: x[s], policies)) for s in range(n)])
