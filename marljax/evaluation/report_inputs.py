"""What the report is made from: plain arrays and names, one dataclass per section of the page.

A stage that was not run is None, and the page says so in its place. T counts steps of the series at hand, P products
in the order of `ReportInputs.products`.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from marljax.data.schema import Origin, Product, SourceFile

Interval = tuple[float, float, float] | list[float]
"""Low, estimate, high."""


@dataclasses.dataclass(frozen=True)
class Cleaning:
    """What cleaning did: `rows_in` = `rows_kept` + all that is counted in `dropped`."""

    rows_in: int
    rows_kept: int
    dropped: Mapping[str, Mapping[str, int]]
    """rule -> product -> rows dropped."""
    repaired: Mapping[str, Mapping[str, int]] = dataclasses.field(default_factory=dict)
    """rule -> product -> rows kept but changed, or added as not observed."""

    def __post_init__(self) -> None:
        dropped = sum(sum(by_product.values()) for by_product in self.dropped.values())
        if self.rows_in != self.rows_kept + dropped:
            raise ValueError(f"{self.rows_in} rows in, {self.rows_kept} kept and {dropped} dropped do not add up")


@dataclasses.dataclass(frozen=True)
class Overview:
    """The clean market and how it was split in time."""

    seconds: np.ndarray
    """float[T] seconds since each session's start."""
    session: np.ndarray
    """int[T] trading session."""
    mid: np.ndarray
    """float[T, P] mid prices, in any unit: shown as a fraction of the first."""
    spread: np.ndarray
    """float[T, P] best ask less best bid [ticks]."""
    parts: Mapping[str, tuple[int, int]]
    """name -> (first step, step after the last), for example train, validation, test."""


@dataclasses.dataclass(frozen=True)
class GeneratorScore:
    """One measure of generated books beside the same measure of a block bootstrap of the training data."""

    name: str
    synthetic: float
    bootstrap: float
    perfect: float = 0.0
    """The value of a perfect generator: nearer to it is better."""
    floor: float | None = None
    """What another stretch of real data scores, where that was measured: no generator need be nearer."""
    meaning: str = ""
    """What is measured, in a few words."""


@dataclasses.dataclass(frozen=True)
class Generator:
    """Real against synthetic. Sources in the mappings are `real`, `synthetic` and `bootstrap`, each may be missing."""

    scores: tuple[GeneratorScore, ...]
    returns: Mapping[str, np.ndarray]
    """source -> float[N] mid returns in standard deviations of the real ones."""
    autocorrelation: Mapping[str, np.ndarray]
    """source -> float[L] autocorrelation of absolute returns at lags 1..L."""
    spread: Mapping[str, np.ndarray]
    """source -> float[N] spreads [ticks]."""


@dataclasses.dataclass(frozen=True)
class Curve:
    """How one learner did while it learned."""

    name: str
    """The product, or the portfolio."""
    algorithm: str
    env_steps: np.ndarray
    """float[N] environment steps taken."""
    value: np.ndarray
    """float[N] score."""


@dataclasses.dataclass(frozen=True)
class Learning:
    products: tuple[Curve, ...]
    meta: tuple[Curve, ...] = ()
    score: str = "reward per step"
    """What the curves show, in a few words."""
    where: str = "on the training part"
    """Which data product agents learn on, as the end of a sentence."""


@dataclasses.dataclass(frozen=True)
class Selection:
    """The algorithm that a product uses, and its margin over the other on validation data."""

    product: str
    algorithm: str
    interval: Interval
    """Margin in Sharpe ratio."""
    settings: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """The hyperparameters that its search found."""


@dataclasses.dataclass(frozen=True)
class Chances:
    """What each of the algorithms was given for every product."""

    env_steps: int
    """Per agent [steps]."""
    seeds: int
    trials: int
    """Settings tried [count]."""
    trial_steps: int
    """Per trial [steps]."""


@dataclasses.dataclass(frozen=True)
class JointTuning:
    """What came of tuning all agents together."""

    interval: Interval
    """Sharpe ratio of the tuned agents less that of the agents as they were, on validation data."""
    confidence: float
    """Of the interval."""
    adopted: bool
    """Whether the tuned agents are the ones in use."""


@dataclasses.dataclass(frozen=True)
class Strategy:
    name: str
    equity: np.ndarray
    """float[T+1] equity at the ends of the test periods [currency]."""
    metrics: Mapping[str, float]
    """As `metrics.performance` names them."""
    intervals: Mapping[str, Interval] = dataclasses.field(default_factory=dict)
    costs: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """component (fees, spread and slippage, impact, latency) -> amount paid over the test [currency]."""


@dataclasses.dataclass(frozen=True)
class Backtest:
    """The held-out test. The first strategy is the one under test, the others are its baselines."""

    strategies: tuple[Strategy, ...]
    seconds: np.ndarray
    """float[T+1] seconds since each session's start."""
    session: np.ndarray
    """int[T+1] trading session."""
    periods_per_year: float
    differences: Mapping[str, Mapping]
    """baseline -> {"sharpe": [low, estimate, high], "verdict": "established" or "not established"}."""
    confidence: float = 0.95
    """Of every interval in the report."""
    replications: int = 1
    """How often the test was run under different random latency and slippage; equity is their mean."""
    deflated_sharpe: float | None = None
    """Probability of skill after the trials that were made (Bailey & López de Prado, 2014)."""
    n_trials: int = 1
    """Configurations that were tried before the one reported."""


@dataclasses.dataclass(frozen=True)
class Allocation:
    """What the strategy under test held over the test's T steps."""

    seconds: np.ndarray
    """float[T] seconds since each session's start."""
    session: np.ndarray
    """int[T] trading session."""
    weights: np.ndarray
    """float[T, P] risk or capital given to each product, as a fraction of equity; signed."""
    gross_exposure: np.ndarray
    """float[T] sum of absolute position values over equity."""
    positions: np.ndarray
    """float[T, P] lots."""
    interventions: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    """guardrail -> bool[T], where it changed what the policy wanted."""
    costs: Mapping[str, Mapping[str, float]] = dataclasses.field(default_factory=dict)
    """product -> component -> amount paid over the test [currency]."""
    risk: np.ndarray | None = None
    """float[T, P] each product's share of the variance of what was granted; signed, sum 1."""


@dataclasses.dataclass(frozen=True)
class ReportInputs:
    title: str
    preset: str
    seed: int
    source: str
    """Where the data came from, in a few words."""
    origin: Origin
    products: tuple[Product, ...]
    files: tuple[SourceFile, ...]
    command: str
    """What a reader types to make this run again."""
    versions: Mapping[str, str]
    """name -> version, of Python, jax, marljax, the device and so on."""
    currency: str = "currency units"
    features: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """name -> what it is, in a few words."""
    cleaning: Cleaning | None = None
    overview: Overview | None = None
    generator: Generator | None = None
    learning: Learning | None = None
    selection: tuple[Selection, ...] | None = None
    chances: Chances = Chances(0, 0, 1, 0)
    """Of the algorithms among which `selection` chose."""
    joint: JointTuning | None = None
    backtest: Backtest | None = None
    allocation: Allocation | None = None
    notes: tuple[str, ...] = ()
    """Further sentences for the section on what is not established."""
