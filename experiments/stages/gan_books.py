"""Protocol `goog-l2`: the 10-level book of one stock and day on a 1 s grid, scored in one-minute windows.

The day is cut into blocks of five minutes. The generator and every control see the odd ones alone and are scored on
the even ones, so that both halves hold the same times of day; two real halves are therefore about as far apart as
anything that knows the day could be, and the column `real` of the table says how far that is.
"""

import dataclasses
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from marljax.data.clean import clean
from marljax.data.readers import read
from marljax.data.readers.lobster_messages import read_messages
from marljax.data.schema import InputError, MarketData
from marljax.generative import representation
from marljax.generative.controls import (
    fit_flow_of_messages,
    garch_books,
    iid_bootstrap,
    stationary_bootstrap,
    zero_intelligence_books,
)
from marljax.generative.dataset import make_dataset
from marljax.generative.quality import SCORES, quality_table, series
from marljax.generative.scores.dependence import autocorrelation, root_mean_square
from marljax.generative.scores.judges import STRONG_JUDGE
from marljax.generative.scores.recurrent import RecurrentConfig
from marljax.generative.scores.series import channels
from marljax.generative.scores.tails import hill_index
from marljax.generative.stitching import Generator, generate_sessions
from marljax.generative.wgan_gp import GanConfig
from marljax.lob.sessions.session import from_recorded
from marljax.runtime.artefacts import save_arrays
from stages.gan_pictures import pictures_of_books
from stages.gan_protocol import Table, finish, kept_generators

REACH = {"total_variation": 0.15, "acf_abs_returns_winsorised": 0.05, "hill": 0.5, "memorisation": 0.9}
AIM = {"total_variation": 0.12}

_BLOCK_SECONDS = 300
_WINSORISED = 0.99
CHANNELS = ("move", "log spread", "log bid size", "log ask size", "log volume", "sign")
"""Of the exported windows, per product."""


@dataclasses.dataclass(frozen=True)
class BookProtocol:
    """Sizes of the order-book protocol."""

    data: Path = Path("../shared/data/lobster/LOBSTER_SampleFile_GOOG_2012-06-21_10.zip")
    """LOBSTER message and order book files of one stock and day."""
    gan: GanConfig = dataclasses.field(
        default_factory=lambda: GanConfig(average_decay=0.998, steps_per_chunk=50, chunks=75)
    )
    """The networks and their training."""
    window: int = 60
    """Length of the windows that are judged, compared and exported [s]."""
    sessions: int = 80
    """Generated sessions of one block's length, and as many of every control [count]."""
    kept: int = 8
    """Points of the training at which the generator is kept, to choose the best from [count]."""
    controls: bool = True
    """Whether the controls are scored beside the generator; an ablation needs none."""
    judge: RecurrentConfig = STRONG_JUDGE
    """The recurrent judge."""
    resamples: int = 100
    """Bootstrap resamples behind an interval [count]."""

    def __post_init__(self) -> None:
        for name in ("window", "sessions", "kept", "resamples"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")


def run(config: BookProtocol, *, seed: int, out: Path) -> dict[str, Any]:
    """Train, choose, score, and write `scores.json`, `windows.npz` and `pictures.npz` into `out`.

    The best generator is chosen on the odd blocks, which it learns from. Returns what `scores.json` holds.
    """
    started = time.monotonic()
    training, held_out = load(config.data)
    learned = representation.fit(training)
    dataset, encoded = make_dataset(learned, training, config.gan, seed)
    found = kept_generators(dataset, encoded, config.gan, config.kept, seed=seed, name="gan_books", out=out)
    trained = time.monotonic()

    def draw(generator: Generator, word: int) -> MarketData:
        key = jax.random.fold_in(jax.random.key(seed), word)
        return generate_sessions(generator, key, config.sessions, _BLOCK_SECONDS)

    chosen = int(np.argmin([_loss(training, draw(x, 1)) for x in found[1:]]))
    generated = {"last": found[-1], "best": found[1 + chosen], "initial": found[0]}
    candidates = {name: draw(x, 2) for name, x in generated.items()}
    if config.controls:
        candidates |= _controls(config, learned, training, seed)
    table = _table(held_out, candidates, training, config, seed)
    result = finish(
        out,
        "goog-l2",
        table,
        {"reach": REACH, "aim": AIM},
        seed=seed,
        best=f"{chosen + 1}/{config.kept}",
        started=started,
        trained=trained,
    )
    sides = {"real": held_out, "synthetic": candidates["last"], "train": training}
    windows = {name: channels(data, config.window) for name, data in sides.items()}
    save_arrays(out / "windows.npz", windows | {"channels": np.array(CHANNELS)})
    shown = {"real": held_out, "synthetic": candidates["last"]}
    if config.controls:
        shown["block bootstrap"] = candidates["block bootstrap"]
    save_arrays(out / "pictures.npz", pictures_of_books(shown))
    return result


def load(path: Path) -> tuple[MarketData, MarketData]:
    """Odd and even blocks of five minutes of a day on a 1 s grid, each block a session of its own."""
    data, _ = clean(read("lobster", [path], grid_seconds=1.0))
    block = (np.asarray(data.seconds) // _BLOCK_SECONDS).astype(np.int32)
    arrays = {name: np.asarray(value) for name, value in vars(data).items() if name not in ("products", "origin")}

    def taken(rows: np.ndarray) -> MarketData:
        chosen = {name: value[rows] for name, value in arrays.items()} | {"session": block[rows]}
        return MarketData.build(products=data.products, origin=data.origin, **chosen)

    return taken(block % 2 == 1), taken(block % 2 == 0)


def _controls(
    config: BookProtocol, learned: representation.Representation, training: MarketData, seed: int
) -> dict[str, MarketData]:
    size = {"n_sessions": config.sessions, "n_steps": _BLOCK_SECONDS, "seed": seed}
    messages = from_recorded(read_messages([config.data])[0])
    first = np.unique(np.asarray(training.session)) * _BLOCK_SECONDS
    flow = fit_flow_of_messages([messages.within(float(x), float(x + _BLOCK_SECONDS)) for x in first])
    return {
        "iid bootstrap": iid_bootstrap(learned, training, **size),
        "block bootstrap": stationary_bootstrap(learned, training, mean_block=float(config.window), **size),
        "GARCH(1,1)-t": garch_books(training, **size),
        "zero intelligence": zero_intelligence_books(training, flows=[flow], **size),
    }


def _table(
    held_out: MarketData, candidates: dict[str, MarketData], training: MarketData, config: BookProtocol, seed: int
) -> Table:
    flat = quality_table(
        held_out,
        candidates,
        training,
        window=config.window,
        judge=config.judge,
        n_resamples=config.resamples,
        seed=seed,
    )
    names = {**{name: name for name in candidates}, "real_vs_real": "real"}
    table: Table = {
        score: {
            names[name]: {"estimate": value, "low": row.get(f"{name}.low"), "high": row.get(f"{name}.high")}
            for name, value in row.items()
            if name in names
        }
        for score, row in flat.items()
        if score in SCORES
    }
    real = _clustering(held_out)
    for name, data in {**candidates, "real": training}.items():
        distance = root_mean_square(real - _clustering(data, held_out))
        table.setdefault("acf_abs_returns_winsorised", {})[name] = {"estimate": distance, "low": None, "high": None}
        index = float(hill_index(series(data).returns[:, 0]))
        table.setdefault("hill_index", {})[name] = {"estimate": index, "low": None, "high": None}
    table["hill_index"]["held out"] = {
        "estimate": float(hill_index(series(held_out).returns[:, 0])),
        "low": None,
        "high": None,
    }
    return table


def _clustering(data: MarketData, reference: MarketData | None = None) -> np.ndarray:
    """float64[20] autocorrelation of |r| with |r| cut at the reference's 99% quantile.

    One stock's day holds a few moves that are larger than all others together (excess kurtosis 76 at 1 s): without the
    cut they alone set the autocorrelations, and the two real halves differ by 0.056.
    """
    found, of = series(data), series(data if reference is None else reference)
    most = np.quantile(np.abs(of.returns[:, 0]), _WINSORISED)
    return autocorrelation(np.minimum(np.abs(found.returns[:, 0]), most), found.stretch)


def _loss(training: MarketData, drawn: MarketData) -> float:
    """What the best generator has least of: its distances from the training part, each over its bar."""
    flat = quality_table(training, {"drawn": drawn}, training)
    clustering = root_mean_square(_clustering(training) - _clustering(drawn, training))
    return (
        flat["total_variation"]["drawn"] / REACH["total_variation"]
        + clustering / REACH["acf_abs_returns_winsorised"]
        # Undefined where hardly anything moves, which no generator should be chosen for.
        + flat.get("hill", {}).get("drawn", np.inf) / REACH["hill"]
    )
