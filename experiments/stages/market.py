"""Stages `data` and `features`: files to clean books, books to scaled features, both split by time."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from marljax.data.clean import CleaningConfig, clean
from marljax.data.readers import read
from marljax.data.schema import InputError, MarketData, Product, SourceFile, assert_not_synthetic
from marljax.data.splits import Split, SplitConfig, split
from marljax.envs.tapes import Rows, check_positive
from marljax.features import FeatureConfig, fit, transform, warm_up_steps
from marljax.generative.books import cut_windows
from marljax.runtime.stages import Artefact, Stage, StageCache, hash_file, load_artefact, save_artefact

FEWEST_WINDOWS = 6
"""Windows that the training and the validation part must hold [count]."""

BOOK_FIELDS = tuple(field.name for field in dataclasses.fields(MarketData) if field.name not in ("products", "origin"))
"""What MarketData holds besides its products and origin."""

SAMPLE = Path(__file__).resolve().parents[2] / "data" / "sample"


FEATURES = FeatureConfig(volatility_window=30, long_volatility_window=120, z_score_window=60, liquidity_window=60)
"""Of a day's books in seconds, unless a run says otherwise."""


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where the order books come from."""

    source: Literal["sample", "prosperity", "lobster", "table"] = "sample"
    """Format of the files; `sample` is the embedded simulated market and needs no path."""
    path: tuple[Path, ...] = ()
    """Files or folders, several, plain, gzip or zip."""
    grid_seconds: float | None = None
    """Sampling grid of event data [s]; lobster only, 1 s by default."""
    columns: dict[str, str] = dataclasses.field(default_factory=dict)
    """Our column names to the file's, as `bid_price_1 b1 ask_price_1 a1`; table only."""
    delimiter: str | None = None
    """Column separator; table only, a comma by default."""
    time_unit: Literal["s", "ms", "us", "ns"] | None = None
    """Unit of numeric times; table only, seconds by default."""
    tick_size: float | None = None
    """Price of one tick [currency]; table only, the greatest common divisor of the prices by default."""
    lot_size: float | None = None
    """Units in one lot; table only, the greatest common divisor of the sizes by default."""

    def __post_init__(self) -> None:
        if self.source == "sample" and self.path:
            raise InputError("--data.path needs a --data.source that says what the files are")
        if self.source != "sample" and not self.path:
            raise InputError(f"--data.source {self.source} needs --data.path")

    @property
    def paths(self) -> tuple[Path, ...]:
        """What is read."""
        return self.path or (SAMPLE,)


@dataclasses.dataclass(frozen=True)
class CleanBooks:
    """What stage `data` hands on."""

    data: MarketData
    report: dict[str, Any]
    """The cleaning report, as `CleaningReport.to_dict`."""
    files: tuple[SourceFile, ...]


@dataclasses.dataclass(frozen=True)
class Market:
    """Clean books with their features, and which rows are for what."""

    data: MarketData
    rows: Rows
    split: Split
    feature_names: tuple[str, ...]
    pipeline: Any
    warm_up: int
    """Steps of a session that the features need [steps]."""

    @property
    def train(self) -> MarketData:
        return self.data.rows(self.split.train.start, self.split.train.stop)

    def training_rows(self) -> Rows:
        """The rows that learning may see. Raises AssertionError where one of them is as late as the validation part."""
        rows = self.part("train")
        session, seconds = np.asarray(rows.data.session), np.asarray(rows.data.seconds)
        first = self.split.validation.start
        unseen = int(self.data.session[first]), float(self.data.seconds[first])
        latest = max(zip(session.tolist(), seconds.tolist(), strict=True))
        assert latest < unseen, f"training rows reach to {latest}, and validation begins at {unseen} (session, seconds)"
        return rows

    def part(self, name: Literal["train", "validation", "test"]) -> Rows:
        """The rows of a part. Validation and test refuse synthetic data."""
        if name != "train":
            for data in (self.data, self.rows.data):
                assert_not_synthetic(data, name)
        return self.rows.part(getattr(self.split, name))


def data_stage(
    cache: StageCache,
    config: DataConfig,
    cleaning: CleaningConfig,
    check: Callable[[MarketData], None],
    run_dir: Path,
) -> Stage[CleanBooks]:
    """Read and clean, or load what was read and cleaned from the same bytes.

    `check` raises InputError for books that a later stage could not use, before anything is written.
    """

    def compute(_: Path) -> CleanBooks:
        books = _read_and_clean(config, cleaning)
        try:
            check(books.data)
        except InputError as error:
            raise InputError(error.message, file=", ".join(map(str, config.paths))) from error
        return books

    inputs = {
        "data": {k: v for k, v in dataclasses.asdict(config).items() if k != "path"},
        "cleaning": dataclasses.asdict(cleaning),
        "files": _fingerprint(config.paths, run_dir),
    }
    return cache.run("data", inputs, compute, save=_save_books, load=_load_books, announce=False)


def features_stage(
    cache: StageCache,
    books: Stage[CleanBooks],
    config: FeatureConfig,
    splits: SplitConfig,
    closing_rows: int,
) -> tuple[Stage[Artefact], Market]:
    """Scaled features of every row, the pipeline fitted on the training part only."""
    data = books.value.data
    parts = split(data, splits)
    # The length of a session is the venue's timetable, known before it trades; a part may hold only a piece of one.
    config = dataclasses.replace(config, session_seconds=config.session_seconds or session_seconds(data))
    pipeline = fit(data.rows(parts.train.start, parts.train.stop), config)

    def compute(_: Path) -> Artefact:
        features = np.asarray(transform(pipeline, data))
        if not np.isfinite(features).all():
            raise FloatingPointError("a feature is not finite")
        return Artefact({"features": features}, {"names": list(pipeline.feature_names)})

    inputs = {"data": books.key, "features": dataclasses.asdict(config), "split": dataclasses.asdict(splits)}
    stage = cache.run("features", inputs, compute)
    warm_up = warm_up_steps(config)
    rows = Rows.of(data, jnp.asarray(stage.value.arrays["features"]), warm_up, closing_rows)
    return stage, Market(data, rows, parts, pipeline.feature_names, pipeline, warm_up)


def session_seconds(data: MarketData) -> float:
    """Length of the longest session [s]."""
    session, seconds = np.asarray(data.session), np.asarray(data.seconds)
    return float(max(np.ptp(seconds[session == s]) for s in np.unique(session)))


def check_market(data: MarketData, splits: SplitConfig, window: int) -> None:
    """Raise InputError where the books cannot be divided, priced, or hold too few windows to judge a generator by."""
    check_positive(data)
    parts = split(data, splits)
    for name in ("train", "validation"):
        rows = getattr(parts, name)
        found = len(cut_windows(data.rows(rows.start, rows.stop), window, window))
        if found < FEWEST_WINDOWS:
            raise InputError(
                f"the {name} part of {rows.stop - rows.start} steps holds {found} unbroken windows of {window} steps, "
                f"{FEWEST_WINDOWS} are needed to judge generated books; bring more data or lower --generator.window"
            )


def _read_and_clean(config: DataConfig, cleaning: CleaningConfig) -> CleanBooks:
    raw = read(
        "prosperity" if config.source == "sample" else config.source,
        config.paths,
        grid_seconds=config.grid_seconds,
        columns=config.columns,
        delimiter=config.delimiter,
        time_unit=config.time_unit,
        tick_size=config.tick_size,
        lot_size=config.lot_size,
    )
    data, report = clean(raw, cleaning)
    return CleanBooks(data, report.to_dict(), raw.files)


def _fingerprint(paths: Sequence[Path], run_dir: Path) -> dict[str, str]:
    """sha256 of every file at or below the paths but the run's own, by the name the user gave.

    Raises InputError for a missing path.
    """
    found: dict[str, str] = {}
    for path in paths:
        if not path.exists():
            raise InputError("no such file or folder", file=path)
        for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
            if run_dir.resolve() in file.resolve().parents:
                continue
            found[file.name if path == SAMPLE else str(file)] = hash_file(file)
    return found


def _save_books(books: CleanBooks, folder: Path) -> None:
    data = books.data
    arrays = {name: np.asarray(getattr(data, name)) for name in BOOK_FIELDS}
    metadata = {
        "products": [dataclasses.asdict(p) for p in data.products],
        "origin": data.origin,
        "report": books.report,
        "files": [dataclasses.asdict(f) for f in books.files],
    }
    save_artefact(Artefact(arrays, metadata), folder)


def _load_books(folder: Path) -> CleanBooks:
    arrays, metadata = load_artefact(folder)
    data = MarketData.build(
        products=tuple(Product(**p) for p in metadata["products"]), origin=metadata["origin"], **arrays
    )
    return CleanBooks(data, metadata["report"], tuple(SourceFile(**f) for f in metadata["files"]))
