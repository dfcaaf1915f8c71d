"""Protocol `quantgan-sp500` (Wiese, Knobloch, Korn and Kretschmer 2020): paths of the S&P 500 from May 2009 to 2018.

As published, 100 paths of the whole length are compared with the very series that the generator learnt: their mean
autocorrelations of |r| and r^2 and their mean leverage curve over 250 lags. What is not copied is shown beside it,
with windows of the years before and after.
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
from marljax.generative.controls import block_bootstrap_paths, garch_paths, iid_bootstrap_paths
from marljax.generative.dataset import make_dataset
from marljax.generative.scores.dependence import path_scores
from marljax.generative.scores.memorisation import memorisation_ratio
from marljax.generative.scores.predictive import volatility_r2
from marljax.generative.scores.tails import excess_kurtosis, hill_index
from marljax.generative.stitching import Generator
from marljax.generative.wgan_gp import GanConfig
from marljax.runtime.artefacts import save_arrays
from stages.gan_pictures import pictures_of_paths
from stages.gan_protocol import Table, add, finish, kept_generators, regime_scores, sessions, windows_of

REACH = {"acf_abs_returns": 0.0245, "acf_squared_returns": 0.0248, "leverage": 0.325, "memorisation": 0.9}
AIM = {"acf_abs_returns": 0.0234, "acf_squared_returns": 0.0227, "deviation": 1.0}
PUBLISHED = {"acf_abs_returns": 0.0248, "acf_squared_returns": 0.0214, "leverage": 0.329}
"""Of the paper's TCN generator."""

_LAGS = 250
_WARM_UP = 250
_FIRST, _LAST = "2009-05-01", "2018-12-31"
_WINDOW = 24
_COPIES = 2_000


@dataclasses.dataclass(frozen=True)
class IndexProtocol:
    """Sizes of the S&P 500 protocol."""

    data: Path = Path("../shared/data/daily/skfolio_sp500_index.csv.gz")
    """CSV with the columns Date and SP500 [index points]."""
    gan: GanConfig = dataclasses.field(
        default_factory=lambda: GanConfig(
            window=64,
            context=32,
            stride=1,
            latents=2,
            half_lives=(0.0, 4.0, 16.0, 64.0),
            steps_per_chunk=50,
            chunks=40,
            generator_rate=2e-4,
        )
    )
    """The networks and their training."""
    half_lives: tuple[float, float] = (2.0, 20.0)
    """Of the fast and the slow trailing variance that scale the returns [days]."""
    least_clustering: float = 0.88
    """Bound from below on how far the scale follows the trailing variances [0 to 0.95]."""
    paths: int = 100
    """Generated paths in one scoring [count]."""
    draws: int = 3
    """Scorings with paths of their own, for intervals [count]."""
    kept: int = 8
    """Points of the training at which the generator is kept, to choose the best from [count]."""

    def __post_init__(self) -> None:
        for name in ("paths", "draws", "kept"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")


def run(config: IndexProtocol, *, seed: int, out: Path) -> dict[str, Any]:
    """Train, choose, score, and write `scores.json`, `windows.npz` and `pictures.npz` into `out`.

    The best generator has the least sum of its three published scores, each over its bar, on paths of its own: chosen
    as it is judged, on the series it has learnt. Returns what `scores.json` holds.
    """
    started = time.monotonic()
    closes = load(config.data)
    returns = np.diff(np.log(closes[_FIRST:_LAST].to_numpy()))
    outside = [np.diff(np.log(part.to_numpy())) for part in (closes[:_FIRST], closes[_LAST:])]
    training = bars.Bars.of_closes(
        closes[_FIRST:_LAST].to_numpy()[:, None], np.zeros(len(returns) + 1, np.int32), ("S&P 500",)
    )
    representation = bar_representation.fit(training, config.half_lives, config.least_clustering)
    dataset, encoded = make_dataset(representation, training, config.gan, seed)
    found = kept_generators(dataset, encoded, config.gan, config.kept, seed=seed, name="gan_index", out=out)
    trained = time.monotonic()
    found = [_calibrated(x, jax.random.fold_in(jax.random.key(seed), 1), returns, 4 * config.paths) for x in found]
    chosen = int(np.argmin([_loss(returns, draw_paths(x, config.paths, len(returns), (seed, 2))) for x in found[1:]]))
    candidates = {"last": found[-1], "best": found[1 + chosen], "initial": found[0]}

    table: Table = {}
    for draw in range(config.draws):
        drawn = {
            name: draw_paths(x, config.paths, len(returns), (seed, 3 + draw)) for name, x in candidates.items()
        } | _controls(returns, config.paths, seed + draw)
        if draw == 0:
            first, rows = drawn, {name: [] for name in drawn}
        for name, paths in drawn.items():
            rows[name].append(_scores(returns, paths, outside, seed))
    rows["real"] = [_scores(returns, returns[None], outside, seed)]
    for name, scored in rows.items():
        for score in scored[0]:
            add(table, score, name, np.array([one[score] for one in scored]))
    result = finish(
        out,
        "quantgan-sp500",
        table,
        {"reach": REACH, "aim": AIM, "published": PUBLISHED},
        seed=seed,
        best=f"{chosen + 1}/{config.kept}",
        started=started,
        trained=trained,
    )
    shown = {"synthetic": first["last"], "block bootstrap": first["block bootstrap"]}
    save_arrays(out / "pictures.npz", pictures_of_paths({"real": returns[None], **shown}, n_lags=_LAGS))
    save_arrays(out / "windows.npz", export(returns, outside, first["last"], seed))
    return result


def load(path: Path) -> "pd.Series[float]":
    """The index by date. Raises InputError where the file is not there."""
    if not path.exists():
        raise InputError(f"{path} is not there: the S&P 500 protocol needs its daily closes")
    table = pd.read_csv(path, parse_dates=["Date"]).set_index("Date")
    return table["SP500"].astype(np.float64)


def draw_paths(generator: Generator, n_paths: int, n_steps: int, words: tuple[int, int]) -> np.ndarray:
    """float64[n_paths, n_steps] log returns, each path behind a year of its own that is left out."""
    key = jax.random.fold_in(jax.random.key(words[0]), words[1])
    close = np.asarray(sessions(generator, key, n_paths, n_steps + _WARM_UP).close, np.float64)[..., 0]
    return np.diff(np.log(close), axis=1)[:, -n_steps:]


def export(returns: np.ndarray, outside: list[np.ndarray], paths: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Windows [N, 24, 1] of log returns: `real` outside the period, `synthetic`, `train`, and their `channels`."""
    held_out = np.concatenate([windows_of(x, _WINDOW) for x in outside])
    return {
        "real": held_out[..., None],
        "synthetic": _windows(paths, seed)[..., None],
        "train": windows_of(returns, _WINDOW)[..., None],
        "channels": np.array(["log_return"]),
    }


def _windows(paths: np.ndarray, seed: int) -> np.ndarray:
    """float64[M, 24] windows of paths [N, T], drawn at random."""
    drawn = np.random.default_rng(seed)
    path, first = drawn.integers(len(paths), size=_COPIES), drawn.integers(paths.shape[1] - _WINDOW, size=_COPIES)
    return paths[path[:, None], first[:, None] + np.arange(_WINDOW)]


def _scores(returns: np.ndarray, paths: np.ndarray, outside: list[np.ndarray], seed: int) -> dict[str, float]:
    train, windows = windows_of(returns, _WINDOW), _windows(paths, seed)
    stretch = np.repeat(np.arange(len(paths)), paths.shape[1])
    regimes = regime_scores(train, windows, train)
    return path_scores(returns, paths, _LAGS) | {
        "kurtosis": float(np.mean([excess_kurtosis(x) for x in paths])),
        "hill": float(np.mean([hill_index(x) for x in paths])),
        "memorisation": memorisation_ratio(windows, train, np.concatenate([windows_of(x, _WINDOW) for x in outside])),
        "volatility_r2_after": volatility_r2(paths.reshape(-1), outside[1], stretch),
        "regime_volatility_error": regimes["volatility_error"],
        "regime_wasserstein": regimes["wasserstein"],
    }


def _controls(returns: np.ndarray, n_paths: int, seed: int) -> dict[str, np.ndarray]:
    column, sizes = returns[:, None], {"n_paths": n_paths, "n_steps": len(returns), "seed": seed}
    return {
        "iid bootstrap": iid_bootstrap_paths(column, **sizes)[..., 0],
        "block bootstrap": block_bootstrap_paths(column, mean_block=50.0, **sizes)[..., 0],
        "GARCH(1,1)-t": garch_paths(column, mean="constant", **sizes)[..., 0],
    }


def _calibrated(generator: Generator, key: jax.Array, returns: np.ndarray, n_paths: int) -> Generator:
    """The generator whose paths' mean standard deviation is that of the training series.

    The recursion of the scale repeats small errors of the generator's variance many times over; one factor on all
    returns makes up for them and leaves their dependence and their tails as they are.
    """
    close = np.asarray(sessions(generator, key, n_paths, len(returns) + _WARM_UP).close, np.float64)[..., 0]
    deviation = np.diff(np.log(close), axis=1)[:, -len(returns) :].std(1).mean()
    return dataclasses.replace(generator, representation=generator.representation.rescaled(returns.std() / deviation))


def _loss(returns: np.ndarray, paths: np.ndarray) -> float:
    scores = path_scores(returns, paths, _LAGS)
    return sum(scores[name] / REACH[name] for name in PUBLISHED)
