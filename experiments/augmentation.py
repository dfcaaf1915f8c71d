"""Does it help agents to learn on generated sessions? Real, synthetic and both, in equal amounts, on held-out days.

    python experiments/augmentation.py --preset quick
    python experiments/augmentation.py --data.source lobster --data.path GOOG.zip

A generator is trained on the real training part. Then the same agents, from the same first parameters, learn in
episodes of the real training part alone, in fresh generated ones alone, and in both; each as long as the others and
with the same settings, which nothing here chooses. All are judged on the test part, where nothing is generated: whole
days in which they meet the same books and latencies. What is reported is what an agent earns in a day, net of all
costs, in standard deviations of what its full position makes in a day, on average over products; not to trade earns 0.

Differences are between agents of one seed, with 95 % intervals over seeds. They say how sure one can be for this
generator and these test days, and not for others. The last line on stdout is one JSON object, which also stands in
result.json of the run's folder, with what every seed earned in every product.
"""

import dataclasses
import json
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from command import run
from marljax.agents.learner import CAUSES
from marljax.agents.policy import TanhGaussianPolicy
from marljax.agents.ppo import PPO
from marljax.agents.ppo_config import PPOConfig
from marljax.agents.streaming import InStream, Streamed, streamed
from marljax.data.clean import CleaningConfig
from marljax.data.limits import require, require_counts, require_not_negative
from marljax.data.splits import SplitConfig
from marljax.envs import stream
from marljax.envs.replay import ReplayEnv, ReplayParams
from marljax.envs.tapes import CostConfig, TradingConfig, replay_params
from marljax.evaluation.seeds import seed_interval
from marljax.features import FeatureConfig
from marljax.generative.stitching import Generator
from marljax.generative.wgan_gp import GanConfig
from marljax.portfolio.market_state import row_returns
from marljax.runtime.artefacts import jsonable, write_json
from marljax.runtime.config import to_json
from marljax.runtime.devices import describe_device
from marljax.runtime.progress import run_chunks
from marljax.runtime.stages import Artefact, StageCache, provenance
from pipeline import PRESETS as MAIN_JOB
from stages.agents import Trading, earned
from stages.generator import train_generator
from stages.market import DataConfig, Market, check_market, data_stage, features_stage
from stages.training import chunks

ARMS = ("real", "synthetic", "both")
"""What agents learn from."""


@dataclasses.dataclass(frozen=True)
class AugmentationConfig:
    """Everything a run depends on; what is not said here is as in the main job."""

    preset: Literal["full", "quick"] = "full"
    """full is the comparison over ten seeds; quick runs the same program for moments, to see that it does."""
    run_dir: Path | None = None
    """Folder of the run; runs/augmentation-<preset> by default. The same folder resumes the run."""
    seed: int = 0
    """Seed of everything random."""
    seeds: int = 10
    """Agents of each product and kind of training, side by side [count]."""
    env_steps: int = 614_400
    """Env steps that every agent learns from [steps]."""
    episode_steps: int = 128
    """Length of a training episode [steps]."""
    fraction: float = 0.5
    """Probability that an episode is generated where agents learn from both [0 to 1]."""
    fresh_sessions: int = 32
    """Generated sessions that episodes start in at a time [count]."""
    fresh_every: int = 4
    """Chunks after which others take their place, as in the main job's synthetic.fresh-every [count]."""
    data: DataConfig = DataConfig()
    cleaning: CleaningConfig = CleaningConfig()
    split: SplitConfig = SplitConfig()
    features: FeatureConfig = MAIN_JOB["demo"].features
    generator: GanConfig = GanConfig(chunks=100)
    costs: CostConfig = CostConfig()
    trading: TradingConfig = TradingConfig()
    ppo: PPOConfig = MAIN_JOB["demo"].agents.ppo

    def __post_init__(self) -> None:
        require_counts(self, "env_steps", "episode_steps", "fresh_sessions")
        require_not_negative(self, "fresh_every")
        require(self, "at least 2, for an interval over seeds", lambda x: x >= 2, "seeds")
        require(self, "above 0 and below 1, so that both is neither of the others", lambda x: 0 < x < 1, "fraction")

    @property
    def folder(self) -> Path:
        return self.run_dir or Path("runs") / f"augmentation-{self.preset}"

    @property
    def fractions(self) -> jax.Array:
        """float32[3] share of synthetic episodes, by arm."""
        return jnp.array([0.0, 1.0, self.fraction], jnp.float32)


PRESETS = {
    "quick": AugmentationConfig(
        preset="quick",
        seeds=2,
        env_steps=1024,
        episode_steps=32,
        generator=GanConfig(chunks=1, steps_per_chunk=2),
        fresh_sessions=4,
        fresh_every=1,
        # Untrained agents would sit inside the usual band.
        trading=TradingConfig(no_trade_band=0.05),
        ppo=dataclasses.replace(MAIN_JOB["demo"].agents.ppo, n_envs=8, n_steps=32),
    ),
    "full": AugmentationConfig(),
}


def main(config: AugmentationConfig) -> None:
    """Train, judge, compare."""
    folder = config.folder
    cache = StageCache(folder, context={"seed": config.seed}, sources=[Path(__file__).parent])
    check = partial(check_market, splits=config.split, window=config.generator.window)
    books = data_stage(cache, config.data, config.cleaning, check, folder)
    write_json(folder / "config.json", to_json(config))
    origins = {"books": books.value.data.origin, "generated sessions": "synthetic"}
    write_json(folder / "provenance.json", provenance(seed=config.seed, files=books.value.files, origins=dict(origins)))
    features, market = features_stage(cache, books, config.features, config.split, config.trading.closing_rows)
    trading = Trading.of(market, config.costs, config.trading)

    def compute(checkpoints: Path) -> Artefact:
        metrics = folder / "metrics.jsonl"
        _, generator = train_generator(market, config.generator, checkpoints / "generator", metrics, config.seed)
        policies, drawn = train(config, market, trading, generator, checkpoints / "agents", metrics)
        return Artefact({"score": score(config, market, trading, policies)}, {"sessions_drawn": drawn})

    settings = to_json(dataclasses.replace(config, run_dir=None))
    found = cache.run("augmentation", {"features": features.key, "config": settings}, compute)
    result = compare(found.value.arrays["score"]) | {
        "preset": config.preset,
        "seeds": config.seeds,
        "env_steps": config.env_steps,
        "fraction": config.fraction,
        "test_days": len(np.unique(market.part("test").data.session)),
        "sessions_drawn": found.value.metadata["sessions_drawn"],
        "origins": origins,
    }
    products = [product.name for product in market.data.products]
    more = {"products": products, "every_score": found.value.arrays["score"].tolist(), "device": describe_device()}
    write_json(folder / "result.json", jsonable(result | more))
    print(json.dumps(jsonable(result)), flush=True)


def train(
    config: AugmentationConfig,
    market: Market,
    trading: Trading,
    generator: Generator,
    checkpoint_dir: Path,
    metrics_path: Path,
) -> tuple[Any, int]:
    """Policies' params, leaves [3 arms, seeds, P, ...], and how many generated sessions were drawn in all.

    Agents of one seed begin alike whatever they learn from, and synthetic episodes are of the same sessions.
    """
    learner = PPO(ReplayEnv(config.episode_steps), config.ppo)
    n_chunks = chunks(learner, config.env_steps, "env-steps")
    source = stream.source(
        generator,
        market.pipeline,
        n_sessions=config.fresh_sessions,
        every=config.fresh_every,
        warm_up=market.warm_up,
        closing_rows=config.trading.closing_rows,
        episode_steps=config.episode_steps,
    )
    real = replay_params(
        market.training_rows(),
        costs=trading.costs,
        max_position=trading.max_position,
        trading=config.trading,
        episode_steps=config.episode_steps,
    )
    n_products, n_real = real.features.shape[:2]

    def mixed(params: ReplayParams, fraction: jax.Array) -> ReplayParams:
        return dataclasses.replace(params, synthetic_fraction=fraction)

    def start(key: jax.Array, slots: stream.Slots, params: ReplayParams, fraction: jax.Array) -> Any:
        return InStream(learner, slots).init(key, mixed(params, fraction))

    def step(runner: Any, slots: stream.Slots, params: ReplayParams, fraction: jax.Array) -> Any:
        return InStream(learner, slots).update(runner, mixed(params, fraction))

    def side_by_side(one: Any, same_for_arms: bool) -> Any:
        """By product, by seed, by arm."""
        one = jax.vmap(jax.vmap(one, in_axes=(0, 0, 0, None)), in_axes=(0, None, None, None))
        return jax.vmap(one, in_axes=(None if same_for_arms else 0, None, None, 0))

    key, stream_key = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), 8))
    keys = jax.random.split(key, (config.seeds, n_products))
    first = jax.jit(stream.begin)(source, stream_key)
    params = stream.opened(real, source, 0.0)
    runners = jax.jit(side_by_side(start, same_for_arms=True))(keys, first.slots(source), params, config.fractions)
    trained = run_chunks(
        streamed(side_by_side(step, same_for_arms=False), n_real),
        Streamed(runners, first),
        n_chunks,
        operands=(source, params, config.fractions),
        name="agents",
        axes=("arm", "seed", "product"),
        checkpoint_dir=checkpoint_dir,
        metrics_path=metrics_path,
        steps_per_chunk=learner.steps_per_chunk * len(ARMS) * keys.size,
        show=("reward", "absolute_action", "sessions_drawn"),
        causes=CAUSES,
    )
    return learner.policy_params(trained.runner.runners), int(trained.runner.stream.drawn)


def score(config: AugmentationConfig, market: Market, trading: Trading, policies: Any) -> np.ndarray:
    """float64[3, seeds, P] net earnings of an average test day, in standard deviations of a day's full position.

    Those are of the training part, of whose rows a test day has so many.
    """
    rows = market.part("test")
    session = np.asarray(rows.data.session)
    n_days = len(np.unique(session))
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), policies)
    made = earned(TanhGaussianPolicy(1, config.ppo.body), rows, trading, flat).sum(axis=-1, dtype=np.float64) / n_days
    deviation = np.asarray(row_returns(market.train), np.float64).std(axis=0) * (len(session) / n_days) ** 0.5
    return (made / np.maximum(deviation, 1e-12)).reshape(len(ARMS), config.seeds, -1)


def compare(scores: np.ndarray) -> dict[str, Any]:
    """What float[3, seeds, P] scores say: each arm's mean and the differences between them, all with intervals.

    `estimate` is both less real: whether generated sessions help where there are real ones.
    """
    by_seed = dict(zip(ARMS, scores.mean(axis=-1), strict=True))
    pairs = (("both", "real"), ("synthetic", "real"), ("both", "synthetic"))
    differences = {f"{a} - {b}": seed_interval(by_seed[a] - by_seed[b]) for a, b in pairs}
    low, estimate, high = differences["both - real"]
    return {
        "task": "augmentation",
        "estimate": estimate,
        "interval": [low, high],
        "verdict": "helps" if low > 0 else "harms" if high < 0 else "not established",
        "scores": {arm: seed_interval(values) for arm, values in by_seed.items()},
        "differences": differences,
    }


if __name__ == "__main__":
    run(main, AugmentationConfig, PRESETS, __doc__)
