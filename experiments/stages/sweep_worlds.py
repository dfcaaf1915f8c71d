"""The worlds in which `sweep.py` lets a learner learn, and those in which it is judged."""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import jax

from marljax.data.clean import CleaningConfig
from marljax.data.limits import require_counts
from marljax.data.schema import InputError, MarketData, SourceFile
from marljax.data.splits import SplitConfig, split
from marljax.envs.controlled.cart_pole import CartPole, CartPoleParams
from marljax.envs.environment import Environment
from marljax.envs.replay import ReplayEnv
from marljax.envs.tapes import CostConfig, TradingConfig, check_positive, replay_params
from marljax.features import FeatureConfig
from marljax.runtime.config import closest
from marljax.runtime.stages import StageCache
from stages.agents import Trading
from stages.market import FEATURES, DataConfig, data_stage, features_stage


@dataclasses.dataclass(frozen=True)
class World:
    """Where an agent learns, and where it is judged."""

    env: Environment
    train: Any
    """Parameters of the env in training."""
    judged: Any
    """Parameters of the env in evaluation."""
    max_steps: int
    """Steps after which an episode has ended [steps]."""
    inputs: Any
    """What all of this was made from, as JSON values."""
    unit: str
    """Of the return of an episode."""
    judged_on: str
    source: str
    origin: str
    """`recorded`, `simulated` or `synthetic`."""
    files: tuple[SourceFile, ...] = ()


@dataclasses.dataclass(frozen=True)
class ReplayConfig:
    """Trading one product of recorded books: learned on the training part, judged on the validation part."""

    data: DataConfig = DataConfig()
    cleaning: CleaningConfig = CleaningConfig()
    split: SplitConfig = SplitConfig()
    features: FeatureConfig = FEATURES
    costs: CostConfig = CostConfig()
    trading: TradingConfig = TradingConfig()
    product: str | None = None
    """Name of the product that is traded; the first one by default."""
    episode_steps: int = 128
    """Length of an episode [steps]."""

    def __post_init__(self) -> None:
        require_counts(self, "episode_steps")


def cart_pole_world() -> World:
    """The cart and pole with a continuous force."""
    env, params = CartPole(continuous=True), CartPoleParams()
    return World(
        env,
        params,
        params,
        env.episode_steps,
        {"env": "cart-pole", "episode_steps": env.episode_steps},
        unit="steps that the pole stood",
        judged_on="in episodes apart from training",
        source="cart-pole",
        origin="simulated",
    )


def replay_world(cache: StageCache, config: ReplayConfig, run_dir: Path) -> World:
    """One product's replay through the stages `data` and `features`."""
    books = data_stage(cache, config.data, config.cleaning, partial(_check, config), run_dir)
    features, market = features_stage(cache, books, config.features, config.split, config.trading.closing_rows)
    trading = Trading.of(market, config.costs, config.trading)
    product = _place(market.data, config.product)

    def params(part: Any) -> Any:
        every = replay_params(
            market.training_rows() if part == "train" else market.part(part),
            costs=trading.costs,
            max_position=trading.max_position,
            trading=config.trading,
            episode_steps=config.episode_steps,
        )
        return jax.tree.map(lambda x: x[product], every)

    return World(
        ReplayEnv(config.episode_steps),
        params("train"),
        params("validation"),
        config.episode_steps,
        {"env": "replay", "features": features.key, "replay": config, "product": product},
        unit="standard deviations of holding the full position for one step, net of costs and of the risk penalty",
        judged_on=f"{market.data.products[product].name} on the validation part",
        source=config.data.source,
        origin=market.data.origin,
        files=books.value.files,
    )


def _check(config: ReplayConfig, data: MarketData) -> None:
    """Raise InputError where the books cannot be priced or divided, or lack the product."""
    check_positive(data)
    split(data, config.split)
    _place(data, config.product)


def _place(data: MarketData, name: str | None) -> int:
    names = [product.name for product in data.products]
    if name is not None and name not in names:
        raise InputError(f"no product {name!r} among {', '.join(names)}{closest(name, names)}")
    return 0 if name is None else names.index(name)
