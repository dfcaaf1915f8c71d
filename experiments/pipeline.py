"""The main job: raw level-2 order books to an out-of-sample report.

    python experiments/pipeline.py --preset demo
    python experiments/pipeline.py --preset demo --data.source lobster --data.path GOOG.zip AAPL.zip

Stages: data (read and clean), features, generator (conditional WGAN-GP), agents (PPO and SAC for each product, given
equal chances and chosen on validation data), meta (the meta-controller), joint (all of them tuned together, which is
kept where validation data establish that it is better), backtest (held-out rows only, net of all costs) and report.
Each keeps its artefact in the run's folder under a hash of all it depends on: a second run, and one that was
interrupted, computes what is missing and ends with the same numbers.
"""

import dataclasses
import re
import shlex
import sys
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from command import run
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
from marljax.runtime.artefacts import canonical_json, write_atomic, write_json
from marljax.runtime.config import to_json
from marljax.runtime.progress import print_line
from marljax.runtime.stages import Stage, StageCache, provenance
from marljax.serving import TrainedPolicy
from stages.agents import AgentsConfig, Trading, agents_stage, stored_policy
from stages.evaluation import BacktestConfig, backtest_stage
from stages.generator import SyntheticConfig, fresh_sessions, generator_stage, stored_generator, synthetic_rows
from stages.joint import META, PRODUCT, JointConfig, joint_stage, stored_agents
from stages.market import DataConfig, Market, check_market, data_stage, features_stage
from stages.meta import MetaConfig, Portfolio, meta_stage
from stages.report import report_stage
from stages.training import SearchConfig

StageName = Literal["data", "features", "generator", "agents", "meta", "joint", "backtest", "report"]
STAGES: tuple[StageName, ...] = ("data", "features", "generator", "agents", "meta", "joint", "backtest", "report")


@dataclasses.dataclass(frozen=True)
class PipelineConfig:
    """Everything a run depends on."""

    preset: Literal["smoke", "demo", "full"] = "demo"
    """How much to compute: smoke shows that it runs, demo fits four minutes on two cores, full is for a long run."""
    run_dir: Path | None = None
    """Folder of the run; runs/<preset> by default. The same folder resumes or extends the run."""
    seed: int = 0
    """Seed of everything random."""
    stages: tuple[StageName, ...] = ()
    """Compute these stages anew, take earlier ones from the run's folder, and stop after the last; all by default."""
    data: DataConfig = DataConfig()
    cleaning: CleaningConfig = CleaningConfig()
    split: SplitConfig = SplitConfig()
    features: FeatureConfig = FeatureConfig(
        volatility_window=30, long_volatility_window=120, z_score_window=60, liquidity_window=60
    )
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


def _presets() -> dict[str, PipelineConfig]:
    demo = PipelineConfig()
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


PRESETS = _presets()


def main(config: PipelineConfig) -> None:
    """Run the stages that `config` asks for."""
    folder = config.folder
    last = max((STAGES.index(name) for name in config.stages), default=len(STAGES) - 1)
    cache = StageCache(
        folder, context={"seed": config.seed}, sources=[Path(__file__).parent], force=config.stages or ()
    )
    done: dict[str, Stage[Any]] = {}

    def wanted(name: StageName) -> bool:
        return STAGES.index(name) <= last

    check = partial(check_market, splits=config.split, window=config.generator.window)
    done["data"] = data_stage(cache, config.data, config.cleaning, check, folder)
    books = done["data"].value
    write_json(folder / "config.json", to_json(config))
    write_json(
        folder / "provenance.json",
        provenance(
            seed=config.seed,
            files=books.files,
            origins={"books": books.data.origin, "generated sessions": "synthetic"},
        ),
    )
    if not wanted("features"):
        return
    done["features"], market = features_stage(
        cache, done["data"], config.features, config.split, config.trading.closing_rows
    )
    trading = Trading.of(market, config.costs, config.trading)
    limits = ", ".join(
        f"{product.name} {lots}" for product, lots in zip(market.data.products, trading.max_position, strict=True)
    )
    print_line(f"[features] {market.data.n_steps} steps; capital {trading.capital:,.0f}; limits in lots: {limits}")
    if not wanted("generator"):
        return
    closing_rows = config.trading.closing_rows
    episode_rows = session_rows(market.warm_up, closing_rows, config.agents.episode_steps)
    upstream = {"features": done["features"].key, "data": done["data"].key}
    metrics = folder / "metrics.jsonl"
    done["generator"] = generator_stage(
        cache,
        upstream,
        market,
        config.generator,
        config.synthetic,
        episode_rows,
        seed=config.seed,
        metrics_path=metrics,
    )
    if not wanted("agents"):
        return
    upstream["generator"] = done["generator"].key
    generator = stored_generator(done["generator"], market, config.generator, config.seed)
    session = np.asarray(market.data.session)
    n_sessions = len(np.unique(session))
    # Rows are counted, not seconds: a lunch break that is left out of the grid earns nothing.
    steps_per_year = config.backtest.trading_days * len(session) / n_sessions
    done["agents"] = agents_stage(
        cache,
        upstream,
        market,
        trading,
        config.agents,
        config.trading,
        config.synthetic,
        fresh_sessions(generator, market, config.synthetic, closing_rows, config.agents.episode_steps),
        synthetic_rows(done["generator"], market, closing_rows),
        steps_per_year=steps_per_year,
        seed=config.seed,
        metrics_path=metrics,
    )
    policies = stored_policy(done["agents"], config.agents.policy, len(market.feature_names) + 1)
    _save_policies(folder, market, config, policies)
    if not wanted("meta"):
        return
    upstream["agents"] = done["agents"].key
    portfolio = Portfolio(
        env=PortfolioEnv(
            config.agents.policy,
            config.allocation.rows_per_block,
            config.meta.episode_blocks,
            config.allocation.coordination,
        ),
        market=market,
        trading=trading,
        policies=policies,
        allocation=config.allocation,
    )
    n_blocks = cut_blocks(session, config.allocation.rows_per_block).start.shape[0]
    blocks_per_year = config.backtest.trading_days * n_blocks / n_sessions
    done["meta"] = meta_stage(
        cache,
        upstream,
        portfolio,
        config.meta,
        blocks_per_year=blocks_per_year,
        seed=config.seed,
        metrics_path=metrics,
    )
    n_products = market.data.n_products
    chosen = {
        PRODUCT: policies,
        META: stored_policy(done["meta"], config.meta.network(n_products), observation_size(n_products)),
    }
    upstream["meta"] = done["meta"].key
    if wanted("joint") and config.joint.chunks:
        done["joint"] = joint_stage(
            cache,
            upstream,
            portfolio,
            chosen,
            config.agents,
            config.meta,
            config.trading,
            config.joint,
            price=done["meta"].value.metadata["price"],
            blocks_per_year=blocks_per_year,
            seed=config.seed,
            metrics_path=metrics,
        )
        chosen = stored_agents(done["joint"], chosen)
        upstream["joint"] = done["joint"].key
        portfolio = dataclasses.replace(portfolio, policies=chosen[PRODUCT])
        _save_policies(folder, market, config, chosen[PRODUCT])
    trials = [
        row for name in ("agents", "meta", "joint") if name in done for row in done[name].value.metadata["trials"]
    ]
    # What was only tried on generated sessions stands among the trials, and is no trial of real data.
    choices = [{"product": name, **row} for name, row in done["agents"].value.metadata["selection"].items()]
    tried = done["agents"].value.metadata["search"] + choices + trials
    write_atomic(folder / "trials.jsonl", "".join(f"{canonical_json(trial)}\n" for trial in tried).encode())
    if not wanted("backtest"):
        return
    done["backtest"] = backtest_stage(
        cache,
        upstream,
        portfolio,
        config.meta,
        chosen[META],
        config.backtest,
        trials,
        blocks_per_year=blocks_per_year,
        seed=config.seed,
    )
    if not wanted("report"):
        return
    report_stage(folder, config, market, done, blocks_per_year, shlex.join(["python", *sys.argv]))


def _save_policies(folder: Path, market: Market, config: PipelineConfig, policies: Any) -> None:
    """Each product's agent, to be loaded by itself; `policies` has leaves [P, ...]."""
    for p, product in enumerate(market.data.products):
        own = TrainedPolicy(config.agents.policy, jax.tree.map(lambda x, p=p: x[p], policies))
        own.save(folder / "policies" / re.sub(r"[^\w.-]+", "_", product.name))


if __name__ == "__main__":
    run(main, PipelineConfig, PRESETS, __doc__)
