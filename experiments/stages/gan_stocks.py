"""Protocol `timegan-stocks` (Yoon, Jarrett and van der Schaar 2019): windows of 24 days of one stock's bars.

The days are cut into blocks. The generator and the judges learn on training blocks, the best of its checkpoints is
chosen on validation blocks, and everything is scored on the judged blocks, which nothing has seen. Two scores are the
published ones; the strong judge, which looks at whitened log increments, is the one that counts.
"""

import dataclasses
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd

from marljax.data.schema import InputError
from marljax.generative import bar_representation, bars
from marljax.generative.controls import (
    block_bootstrap_paths,
    garch_paths,
    iid_bootstrap_paths,
    shuffled_in_time,
    var_paths,
)
from marljax.generative.dataset import make_dataset
from marljax.generative.scores.judges import STRONG_JUDGE, TIMEGAN_JUDGE, log_increments, strong_judge, timegan_judge
from marljax.generative.scores.memorisation import coverage, memorisation_ratio
from marljax.generative.scores.predictive import timegan_predictive_score, volatility_r2
from marljax.generative.stitching import Generator
from marljax.generative.wgan_gp import GanConfig
from marljax.runtime.artefacts import save_arrays
from stages.gan_pictures import pictures_of_paths
from stages.gan_protocol import Table, add, finish, kept_generators, regime_scores, sessions, windows_of

REACH = {"judge": 0.10, "timegan_discriminative": 0.02, "timegan_predictive": 0.0375, "memorisation": 0.9}
AIM = {"judge": 0.05}
PUBLISHED = {"timegan_discriminative": 0.102, "timegan_predictive": 0.038}
"""Of TimeGAN, by the same judges."""

COLUMNS = ("Open", "High", "Low", "Close", "Adj_Close", "Volume")
_CLOSE = COLUMNS.index("Close")
_WINDOW = 24
_PATH = 240
_KINDS = ("train", "train", "validation", "train", "train", "judged")
_COPIES = 1_000
_SANITY = ("last", "best", "block bootstrap", "shuffled", "real")
"""Candidates for the published judge and predictor, which cost as much as all other scores and are nearly blind."""


@dataclasses.dataclass(frozen=True)
class StockProtocol:
    """Sizes of the TimeGAN stocks protocol."""

    data: Path = Path("../shared/data/daily/timegan_google_stock_data.csv.gz")
    """CSV of daily bars with the columns Open, High, Low, Close, Adj_Close and Volume."""
    gan: GanConfig = dataclasses.field(
        default_factory=lambda: GanConfig(
            window=24,
            context=24,
            stride=1,
            latents=2,
            half_lives=(0.0, 4.0, 16.0, 64.0),
            steps_per_chunk=50,
            chunks=160,
            generator_rate=5e-4,
            critic_rate=2e-3,
        )
    )
    """The networks and their training."""
    half_lives: tuple[float, float] = (4.0, 32.0)
    """Of the fast and the slow trailing variance that scale the returns [days]."""
    least_clustering: float = 0.0
    """Bound from below on how far the scale follows the trailing variances [0 to 0.95]."""
    block: int = 120
    """Length of a block of time [days]."""
    windows: int = 2_000
    """Generated windows for either side of a judge [count]."""
    kept: int = 8
    """Points of the training at which the generator is kept, to choose the best from [count]."""

    def __post_init__(self) -> None:
        for name in ("windows", "kept"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.block <= _WINDOW:
            raise InputError(f"block must be longer than a window of {_WINDOW} days, got {self.block}")


@dataclasses.dataclass(frozen=True)
class Sides:
    """Windows of levels [N, 24, 6] for a judge to learn on and to be tested with."""

    learn: np.ndarray
    test: np.ndarray


def run(config: StockProtocol, *, seed: int, out: Path) -> dict[str, Any]:
    """Train, choose, score, and write `scores.json`, `windows.npz` and `pictures.npz` into `out`.

    The best generator is the one that the strong judge tells least from the validation blocks. Returns what
    `scores.json` holds.
    """
    started = time.monotonic()
    levels = load(config.data)
    parts = split(levels, config.block)
    real = {kind: np.concatenate([windows_of(x, _WINDOW) for x in blocks]) for kind, blocks in parts.items()}
    training = training_bars(parts["train"])
    representation = bar_representation.fit(training, config.half_lives, config.least_clustering)
    dataset, encoded = make_dataset(representation, training, config.gan, seed)
    found = kept_generators(dataset, encoded, config.gan, config.kept, seed=seed, name="gan_stocks", out=out)
    trained = time.monotonic()
    quick = dataclasses.replace(STRONG_JUDGE, seeds=2)
    losses = [
        _judged(real["train"], real["validation"], draw(x, config, (seed, 1)), seed, quick).mean() for x in found[1:]
    ]
    chosen = int(np.argmin(losses))
    candidates = {
        "last": draw(found[-1], config, (seed, 2)),
        "best": draw(found[1 + chosen], config, (seed, 3)),
        "initial": draw(found[0], config, (seed, 4)),
        **controls(parts["train"], config.windows, seed),
        # Real against real: every other training block passes for generated.
        "real": Sides(
            np.concatenate([windows_of(x, _WINDOW) for x in parts["train"][::2]]),
            np.concatenate([windows_of(x, _WINDOW) for x in parts["judged"][::2]]),
        ),
    }
    table: Table = {}
    for name, sides in candidates.items():
        blocks = [np.concatenate([windows_of(x, _WINDOW) for x in parts[kind][1::2]]) for kind in ("train", "judged")]
        learn, test = blocks if name == "real" else (real["train"], real["judged"])
        # Nor is the floor compared with the very windows that it consists of.
        known = real | {"judged": test}
        row: dict[str, float | np.ndarray] = _scores(learn, test, known, sides, seed)
        if name in _SANITY:
            row |= _published_scores(learn, test, known, sides, seed)
        for score, value in row.items():
            add(table, score, name, value)
    result = finish(
        out,
        "timegan-stocks",
        table,
        {"reach": REACH, "aim": AIM, "published": PUBLISHED},
        seed=seed,
        best=f"{chosen + 1}/{config.kept}",
        started=started,
        trained=trained,
        validation=losses,
    )
    # The page's paths are those of the first column.
    shown = {"real": real["judged"], "synthetic": candidates["last"].test}
    shown["block bootstrap"] = candidates["block bootstrap"].test
    order = (_CLOSE, 0, 1, 2, 5)
    increments = {name: log_increments(x)[..., order] for name, x in shown.items()}
    save_arrays(out / "pictures.npz", pictures_of_paths(increments, tuple(COLUMNS[c] for c in order), n_lags=10))
    windows = {"real": real["judged"], "synthetic": candidates["last"].test, "train": real["train"]}
    save_arrays(out / "windows.npz", windows | {"channels": np.array(COLUMNS)})
    return result


def load(path: Path) -> np.ndarray:
    """float64[T, 6] levels. Raises InputError where the file is not there."""
    if not path.exists():
        raise InputError(f"{path} is not there: the stocks protocol needs its daily bars")
    return pd.read_csv(path)[list(COLUMNS)].to_numpy(np.float64)


def split(levels: np.ndarray, block: int) -> dict[str, list[np.ndarray]]:
    """Blocks of time [block, 6] of levels [T, 6] by kind: of six, four to learn, one to choose by, one to judge by."""
    whole = [levels[first : first + block] for first in range(0, len(levels) - _WINDOW, block)]
    parts: dict[str, list[np.ndarray]] = {kind: [] for kind in _KINDS}
    for number, rows in enumerate(whole):
        parts[_KINDS[number % len(_KINDS)]].append(rows)
    # The floor, real against real, halves the judged blocks.
    if len(parts["judged"]) < 2:
        raise InputError(f"{len(levels)} days hold no {2 * len(_KINDS)} blocks of {block}")
    return parts


def training_bars(blocks: list[np.ndarray]) -> bars.Bars:
    """Blocks of levels [B, 6] as bars, each a session."""
    rows = np.concatenate(blocks)
    columns = {name.lower(): rows[:, [c]] for c, name in enumerate(COLUMNS) if name != "Adj_Close"}
    session = np.repeat(np.arange(len(blocks)), [len(x) for x in blocks])
    return bars.Bars.build(**columns, session=session, products=("GOOG",))


def draw(generator: Generator, config: StockProtocol, words: tuple[int, int]) -> Sides:
    """Generated windows of levels for both sides, each behind a window of its own that is left out."""
    key = jax.random.fold_in(jax.random.key(words[0]), words[1])
    drawn = sessions(generator, key, 2 * config.windows, config.gan.window + _WINDOW)
    columns = (drawn.open, drawn.high, drawn.low, drawn.close, drawn.close, drawn.volume)
    levels = np.concatenate([np.asarray(x, np.float64) for x in columns], -1)[:, -_WINDOW:]
    return Sides(levels[: config.windows], levels[config.windows :])


def controls(blocks: list[np.ndarray], n_windows: int, seed: int) -> dict[str, Sides]:
    """Windows of levels of every control, fitted to the training blocks."""
    increments = np.concatenate([np.diff(np.log(x), axis=0, prepend=np.log(x[:1])) for x in blocks])
    joined = np.concatenate([np.arange(len(x)) > 0 for x in blocks])
    sizes = {"n_paths": -(-2 * n_windows * _WINDOW // _PATH), "n_steps": _PATH, "seed": seed}
    # The close stands twice, which leaves a covariance without an inverse.
    once = [c for c, name in enumerate(COLUMNS) if name != "Adj_Close"]
    twice = [once.index(_CLOSE if name == "Adj_Close" else c) for c, name in enumerate(COLUMNS)]
    paths = {
        "iid bootstrap": iid_bootstrap_paths(increments, joined=joined, **sizes),
        "block bootstrap": block_bootstrap_paths(increments, joined=joined, mean_block=float(_WINDOW), **sizes),
        "VAR(1)": var_paths(increments[:, once], joined=joined, **sizes)[..., twice],
        "GARCH(1,1)-t": garch_paths(increments[joined][:, once], mean="constant", method="quasi", **sizes)[..., twice],
    }
    rows = np.concatenate(blocks)
    drawn = np.random.default_rng(seed)
    found = {}
    for name, path in paths.items():
        cut = path.reshape(-1, _WINDOW, len(COLUMNS)).copy()
        cut[:, 0] = 0.0
        start = rows[drawn.integers(len(rows), size=len(cut))]
        levels = start[:, None] * np.exp(np.cumsum(cut, axis=1))
        found[name] = Sides(levels[:n_windows], levels[n_windows : 2 * n_windows])
    real = np.concatenate([windows_of(x, _WINDOW) for x in blocks])
    mixed = shuffled_in_time(log_increments(real), seed=seed)
    levels = np.exp(np.cumsum(np.concatenate([np.log(real[:, :1]), mixed], 1), 1))
    levels = levels[drawn.permutation(len(levels))]
    return found | {"shuffled": Sides(levels[::2], levels[1::2])}


def _judged(learn: np.ndarray, test: np.ndarray, sides: Sides, seed: int, judge: Any = STRONG_JUDGE) -> np.ndarray:
    return strong_judge(*(log_increments(x) for x in (learn, sides.learn, test, sides.test)), seed=seed, config=judge)


def _scores(
    learn: np.ndarray, test: np.ndarray, real: dict[str, np.ndarray], sides: Sides, seed: int
) -> dict[str, float | np.ndarray]:
    """Scores of one candidate: judges learn on real windows `learn` and are tested with real windows `test`."""
    training, judged, other = (log_increments(x) for x in (real["train"], real["judged"], sides.test))
    scale = training.std((0, 1))
    copies = np.random.default_rng(seed).permutation(len(other))[:_COPIES]
    regimes = regime_scores(judged[..., _CLOSE], other[..., _CLOSE], training[..., _CLOSE])
    number = np.repeat(np.arange(len(other)), other.shape[1])
    known = np.repeat(np.arange(len(judged)), judged.shape[1])
    return {
        "judge": _judged(learn, test, sides, seed),
        "memorisation": memorisation_ratio(other[copies] / scale, training / scale, judged / scale),
        "memorisation_of_returns": memorisation_ratio(
            other[copies][..., _CLOSE], training[..., _CLOSE], judged[..., _CLOSE]
        ),
        "coverage": coverage(judged[::5] / scale, other[: len(judged[::5])] / scale),
        "volatility_r2": volatility_r2(other[..., _CLOSE].reshape(-1), judged[..., _CLOSE].reshape(-1), number, known),
        "deviation": float(other[..., _CLOSE].std() / judged[..., _CLOSE].std()),
        "regime_volatility_error": regimes["volatility_error"],
        "regime_wasserstein": regimes["wasserstein"],
    }


def _published_scores(
    learn: np.ndarray, test: np.ndarray, real: dict[str, np.ndarray], sides: Sides, seed: int
) -> dict[str, np.ndarray]:
    judge = dataclasses.replace(TIMEGAN_JUDGE, seeds=3)
    every = np.concatenate(list(real.values()))
    return {
        "timegan_discriminative": timegan_judge(learn, sides.learn, test, sides.test, seed=seed, config=judge),
        "timegan_predictive": timegan_predictive_score(sides.learn, real["judged"], every, seed=seed),
    }
