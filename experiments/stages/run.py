"""What the main job and the training of meta-controllers share: the configuration of a run, the stages from files to
product agents, and those from product agents to whoever allocates capital among them.

Each function computes what the run's folder does not hold already, so that two jobs in one folder share their work.
"""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

import jax
import numpy as np

from marljax.agents.policy import TanhGaussianPolicy
from marljax.data.clean import CleaningConfig
from marljax.data.schema import InputError
from marljax.data.splits import SplitConfig
from marljax.envs.portfolio import PortfolioEnv
from marljax.envs.stream import session_rows
from marljax.envs.tapes import CostConfig, TradingConfig
from marljax.envs.worlds import AllocationConfig
from marljax.features import FeatureConfig
from marljax.generative.wgan_gp import GanConfig
from marljax.portfolio.market_state import cut_blocks
from marljax.portfolio.meta_controller import observation_size
from marljax.runtime.progress import print_line
from marljax.runtime.stages import Stage, StageCache
from marljax.serving import TrainedPolicy
from stages.agents import AgentsConfig, Trading, agents_stage, stored_policy
from stages.evaluation import BacktestConfig
from stages.generator import SyntheticConfig, fresh_sessions, generator_stage, stored_generator, synthetic_rows
from stages.joint import META, PRODUCT, Agents, JointConfig, joint_stage, stored_agents
from stages.market import FEATURES, CleanBooks, DataConfig, Market, check_market, data_stage, features_stage
from stages.meta import MetaConfig, Portfolio, meta_stage
from stages.training import SearchConfig

StageName = Literal["data", "features", "generator", "agents", "meta", "joint", "backtest", "report"]
STAGES: tuple[StageName, ...] = ("data", "features", "generator", "agents", "meta", "joint", "backtest", "report")

Wanted = Callable[[StageName], bool]
"""Whether a stage is to be computed."""

ConfigT = TypeVar("ConfigT", bound="RunConfig")


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """Everything a run depends on, whichever job asks for it."""

    preset: Literal["smoke", "demo", "full"] = "demo"
    """How much to compute: smoke shows that it runs, demo takes seven minutes on two cores where nothing is compiled
    yet, full is for a long run."""
    run_dir: Path | None = None
    """Folder of the run; runs/<preset> by default. The same folder resumes or extends the run."""
    seed: int = 0
    """Seed of everything random."""
    data: DataConfig = DataConfig()
    cleaning: CleaningConfig = CleaningConfig()
    split: SplitConfig = SplitConfig()
    features: FeatureConfig = FEATURES
    generator: GanConfig = GanConfig()
    synthetic: SyntheticConfig = SyntheticConfig()
    costs: CostConfig = CostConfig()
    trading: TradingConfig = TradingConfig()
    agents: AgentsConfig = AgentsConfig()
    allocation: AllocationConfig = AllocationConfig()
    meta: MetaConfig = MetaConfig()
    joint: JointConfig = JointConfig()
    backtest: BacktestConfig = BacktestConfig()

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**32:
            raise InputError(f"seed must lie within 0 and 2**32 - 1, got {self.seed}")
        if self.folder.exists() and not self.folder.is_dir():
            raise InputError("--run-dir names a file, not a folder", file=self.folder)
        if self.joint.chunks:
            self.joint.ppo(self.agents.ppo, self.meta.ppo, self.allocation.coordination)

    @property
    def folder(self) -> Path:
        return self.run_dir or Path("runs") / self.preset


def presets(kind: type[ConfigT]) -> dict[str, ConfigT]:
    """The presets of a configuration, by name."""
    demo = kind()
    smoke = dataclasses.replace(
        demo,
        preset="smoke",
        generator=dataclasses.replace(demo.generator, chunks=2, derived=False),
        synthetic=SyntheticConfig(sessions=16, fresh_sessions=8),
        # Untrained agents would sit inside the usual band, and a smoke run is to show that orders flow.
        trading=TradingConfig(no_trade_band=0.05),
        # Nothing is searched and nothing tuned: what takes longest here is compiling.
        agents=dataclasses.replace(demo.agents, env_steps=16_384, evaluate_every=0, search=SearchConfig(trials=1)),
        meta=dataclasses.replace(demo.meta, seeds=1, chunks=2),
        joint=dataclasses.replace(demo.joint, seeds=1, chunks=0, critic_chunks=1, replications=2, resamples=500),
        backtest=BacktestConfig(replications=2, resamples=500),
    )
    full = dataclasses.replace(
        demo,
        preset="full",
        generator=dataclasses.replace(demo.generator, chunks=200),
        synthetic=SyntheticConfig(sessions=512),
        agents=dataclasses.replace(
            demo.agents,
            seeds=8,
            env_steps=4_096_000,
            evaluate_every=50,
            search=SearchConfig(trials=16, env_steps=819_200),
        ),
        meta=dataclasses.replace(demo.meta, seeds=8, chunks=200),
        joint=dataclasses.replace(demo.joint, seeds=8, chunks=120, critic_chunks=20, replications=16, resamples=2000),
        backtest=BacktestConfig(replications=32, resamples=5000),
    )
    return {"smoke": smoke, "demo": demo, "full": full}


@dataclasses.dataclass(frozen=True)
class Trained:
    """The product agents, and what they were made from."""

    done: dict[str, Stage[Any]]
    market: Market
    trading: Trading
    policies: Any  # leaves [P, ...]

    @property
    def upstream(self) -> dict[str, str]:
        """Keys of the stages so far."""
        return {name: stage.key for name, stage in self.done.items()}


@dataclasses.dataclass(frozen=True)
class Allocated:
    """Everybody who trades or allocates, as they are to be judged."""

    done: dict[str, Stage[Any]]  # meta, and joint where agents were tuned together
    portfolio: Portfolio
    agents: Agents
    network: TanhGaussianPolicy  # the meta-controller's
    upstream: dict[str, str]
    trials: list[dict[str, Any]]

    @property
    def tuned(self) -> bool:
        """Whether joint tuning has changed the agents."""
        return "joint" in self.done and self.done["joint"].value.metadata["adopted"]


def everything(name: StageName) -> bool:
    """All stages are wanted."""
    return True


def books(config: RunConfig, cache: StageCache) -> Stage[CleanBooks]:
    """The first stage. Raises InputError for books that a later one could not use."""

    def check(data: Any) -> None:
        check_market(data, splits=config.split, window=config.generator.window)

    return data_stage(cache, config.data, config.cleaning, check, config.folder)


def blocks_per_year(config: RunConfig, market: Market) -> float:
    """Rebalances in a year like the sessions of the market."""
    session = np.asarray(market.data.session)
    n_blocks = cut_blocks(session, config.allocation.rows_per_block).start.shape[0]
    return config.backtest.trading_days * n_blocks / len(np.unique(session))


def product_agents(
    config: RunConfig, cache: StageCache, read: Stage[CleanBooks], wanted: Wanted = everything
) -> Trained | None:
    """Features, generator and product agents; None where the last of them is not wanted. Agents are saved in the run's
    folder, to be loaded by themselves."""
    done: dict[str, Stage[Any]] = {"data": read}
    done["features"], market = features_stage(cache, read, config.features, config.split, config.trading.closing_rows)
    trading = Trading.of(market, config.costs, config.trading)
    limits = ", ".join(
        f"{product.name} {lots}" for product, lots in zip(market.data.products, trading.max_position, strict=True)
    )
    print_line(f"[features] {market.data.n_steps} steps; capital {trading.capital:,.0f}; limits in lots: {limits}")
    if not wanted("generator"):
        return None
    closing_rows, metrics = config.trading.closing_rows, config.folder / "metrics.jsonl"
    done["generator"] = generator_stage(
        cache,
        {name: stage.key for name, stage in done.items()},
        market,
        config.generator,
        config.synthetic,
        session_rows(market.warm_up, closing_rows, config.agents.episode_steps),
        seed=config.seed,
        metrics_path=metrics,
    )
    if not wanted("agents"):
        return None
    generator = stored_generator(done["generator"], market, config.generator, config.seed)
    session = np.asarray(market.data.session)
    done["agents"] = agents_stage(
        cache,
        {name: stage.key for name, stage in done.items()},
        market,
        trading,
        config.agents,
        config.trading,
        config.synthetic,
        fresh_sessions(generator, market, config.synthetic, closing_rows, config.agents.episode_steps),
        synthetic_rows(done["generator"], market, closing_rows),
        # Rows are counted, not seconds: a lunch break that is left out of the grid earns nothing.
        steps_per_year=config.backtest.trading_days * len(session) / len(np.unique(session)),
        seed=config.seed,
        metrics_path=metrics,
    )
    policies = stored_policy(done["agents"], config.agents.policy, len(market.feature_names) + 1)
    _save_policies(config.folder, market, config, policies)
    return Trained(done, market, trading, policies)


def untuned(config: RunConfig, trained: Trained) -> Portfolio:
    """The portfolio of the product agents as they were trained, each by itself."""
    env = PortfolioEnv(
        config.agents.policy,
        config.allocation.rows_per_block,
        config.meta.episode_blocks,
        config.allocation.coordination,
    )
    return Portfolio(env, trained.market, trained.trading, trained.policies, config.allocation)


def allocation(
    config: RunConfig, trained: Trained, cache: StageCache, folder: Path, wanted: Wanted = everything
) -> Allocated:
    """The meta-controller of the configured mode and, where there are chunks for it, everybody tuned together.

    Metrics and policies go to `folder`.
    """
    market, n_products = trained.market, trained.market.data.n_products
    portfolio = untuned(config, trained)
    network, yearly = config.meta.network(n_products), blocks_per_year(config, market)
    done: dict[str, Stage[Any]] = {}
    upstream, metrics = trained.upstream, folder / "metrics.jsonl"
    done["meta"] = meta_stage(
        cache, upstream, portfolio, config.meta, blocks_per_year=yearly, seed=config.seed, metrics_path=metrics
    )
    agents = {
        PRODUCT: trained.policies,
        META: stored_policy(done["meta"], network, observation_size(n_products)),
    }
    upstream = upstream | {"meta": done["meta"].key}
    if wanted("joint") and config.joint.chunks:
        done["joint"] = joint_stage(
            cache,
            upstream,
            portfolio,
            agents,
            config.agents,
            config.meta,
            config.trading,
            config.joint,
            price=done["meta"].value.metadata["price"],
            blocks_per_year=yearly,
            seed=config.seed,
            metrics_path=metrics,
        )
        agents = stored_agents(done["joint"], agents)
        upstream = upstream | {"joint": done["joint"].key}
        portfolio = dataclasses.replace(portfolio, policies=agents[PRODUCT])
    _save_policies(folder, market, config, agents[PRODUCT])
    # Not among the products: one of them may be called META.
    TrainedPolicy(network, agents[META]).save(folder / "meta_policy")
    trials = [row for stage in done.values() for row in stage.value.metadata["trials"]]
    return Allocated(done, portfolio, agents, network, upstream, trials)


def _save_policies(folder: Path, market: Market, config: RunConfig, policies: Any) -> None:
    """Each product's agent, to be loaded by itself; `policies` has leaves [P, ...]."""
    for p, product in enumerate(market.data.products):
        own = TrainedPolicy(config.agents.policy, jax.tree.map(lambda x, p=p: x[p], policies))
        own.save(folder / "policies" / re.sub(r"[^\w.-]+", "_", product.name))
