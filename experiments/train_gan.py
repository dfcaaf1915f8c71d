"""The generator against a published protocol: train, score on what it never saw beside controls, and draw.

    python experiments/train_gan.py --protocol goog-l2
    python experiments/train_gan.py --protocol timegan-stocks --seed 1 --export windows.npz
    python experiments/train_gan.py --protocol goog-l2 --books.gan.penalty 0      # an ablation

Writes config.json, provenance.json, metrics.jsonl, checkpoints, scores.json, windows.npz and report.html into the run's
folder. The last line on stdout is the protocol's result as one JSON object. docs/generator.md explains the scores.
"""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any, Literal

from command import run
from marljax.data.schema import InputError, SourceFile
from marljax.runtime.artefacts import jsonable, write_json
from marljax.runtime.config import to_json
from marljax.runtime.progress import print_line
from marljax.runtime.stages import hash_file, provenance
from stages import gan_books, gan_index, gan_report, gan_stocks

Protocol = Literal["timegan-stocks", "quantgan-sp500", "goog-l2"]


@dataclasses.dataclass(frozen=True)
class TrainGanConfig:
    """Which protocol, and its sizes."""

    preset: Literal["full", "smoke"] = "full"
    """Values which the other flags change: `smoke` trains for seconds and only shows that all works."""
    protocol: Protocol = "goog-l2"
    """What is learned and how it is scored."""
    seed: int = 0
    """Seed of everything random."""
    run_dir: Path | None = None
    """Folder of the run; runs/<protocol> by default. A run that was stopped goes on from its checkpoint."""
    export: Path | None = None
    """Also write windows (`real`, `synthetic`, `train` [N, W, C], and `channels`) to this .npz file."""
    stocks: gan_stocks.StockProtocol = dataclasses.field(default_factory=gan_stocks.StockProtocol)
    """Of timegan-stocks."""
    index: gan_index.IndexProtocol = dataclasses.field(default_factory=gan_index.IndexProtocol)
    """Of quantgan-sp500."""
    books: gan_books.BookProtocol = dataclasses.field(default_factory=gan_books.BookProtocol)
    """Of goog-l2."""

    def __post_init__(self) -> None:
        if self.export is not None and self.export.suffix != ".npz":
            raise InputError(f"--export names a .npz file, got {str(self.export)!r}")
        if self.folder.exists() and not self.folder.is_dir():
            raise InputError("--run-dir names a file, not a folder", file=self.folder)

    @property
    def folder(self) -> Path:
        """Where the run is written."""
        return self.run_dir or Path("runs") / self.protocol


def main(config: TrainGanConfig) -> None:
    """Train, score, write, draw."""
    out = config.folder
    out.mkdir(parents=True, exist_ok=True)
    settings, protocol = _chosen(config)
    if not settings.data.exists():
        raise InputError(f"{settings.data} is not there: name the protocol's data", file=settings.data)
    write_json(out / "config.json", to_json(config))
    file = SourceFile(str(settings.data), hash_file(settings.data), 0)
    write_json(
        out / "provenance.json",
        provenance(seed=config.seed, files=[file], origins={"data": "recorded", "sessions": "synthetic"}),
    )
    print_line(f"[{config.protocol}] {settings.data} -> {out}")
    result = protocol.run(settings, seed=config.seed, out=out)
    if config.export is not None:
        config.export.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(out / "windows.npz", config.export)
    gan_report.render(out)
    print_line(f"[{config.protocol}] {out / 'report.html'}")
    print(json.dumps(jsonable(result), sort_keys=True, allow_nan=False))


def _chosen(config: TrainGanConfig) -> tuple[Any, Any]:
    return {
        "timegan-stocks": (config.stocks, gan_stocks),
        "quantgan-sp500": (config.index, gan_index),
        "goog-l2": (config.books, gan_books),
    }[config.protocol]


def _smoke() -> TrainGanConfig:
    full = TrainGanConfig(preset="smoke")

    def short(settings: Any, **sizes: Any) -> Any:
        gan = dataclasses.replace(settings.gan, hidden=8, batch=8, steps_per_chunk=2, chunks=2, derived=False)
        return dataclasses.replace(settings, gan=gan, kept=2, **sizes)

    judge = dataclasses.replace(full.books.judge, steps=2, seeds=2)
    return dataclasses.replace(
        full,
        stocks=short(full.stocks),
        index=short(full.index, paths=4, draws=2),
        books=short(full.books, sessions=6, resamples=3, judge=judge),
    )


PRESETS = {"full": TrainGanConfig(), "smoke": _smoke()}


if __name__ == "__main__":
    run(main, TrainGanConfig, PRESETS, description=__doc__)
