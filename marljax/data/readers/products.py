"""What a data folder says about its products: `products.json`, and assembling a reader's rows into RawBooks."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd

from marljax.data.readers.files import Member
from marljax.data.schema import InputError, Origin, Product, RawBooks, SourceFile

FILE_NAME = "products.json"

BOOK_KEYS = ("file", "line", "session", "time_ns", "product")
TRADE_COLUMNS = (*BOOK_KEYS, "price", "size", "side")


@dataclasses.dataclass(frozen=True)
class Metadata:
    """The content of every products.json found, merged."""

    products: dict[str, Product] = dataclasses.field(default_factory=dict)
    seconds_per_timestamp: float | None = None
    origin: Origin | None = None
    files: tuple[SourceFile, ...] = ()

    def product(self, name: str, default: Product) -> Product:
        """The product of this name; `default` where no products.json was given."""
        if self.files and name not in self.products:
            raise InputError(f"does not describe product {name!r}", file=self.files[0].path)
        return self.products.get(name, default)


def take_metadata(paths: Sequence[str | Path]) -> tuple[Metadata, list[Path]]:
    """The merged products.json among `paths` and in the folders among them, and the other paths.

    Raises InputError for malformed content or two files that say different things.
    """
    given = [Path(p) for p in paths]
    rest = [p for p in given if p.name != FILE_NAME]
    found = [p for p in given if p.name == FILE_NAME]
    found += [p / FILE_NAME for p in rest if p.is_dir() and (p / FILE_NAME).is_file()]
    merged = Metadata()
    for path in dict.fromkeys(found):
        merged = _merge(merged, _load(path))
    return merged, rest


def _load(path: Path) -> Metadata:
    member = Member(path)
    try:
        if not path.is_file():
            raise InputError("no such file", file=path)
        content = json.loads(member.read().decode("utf-8-sig"), parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise InputError(
            f"is not JSON: {error.msg} at character {error.colno}", file=path, line=error.lineno
        ) from error
    except (UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"is not JSON: {error}", file=path) from error
    except ValueError as error:
        raise InputError(str(error), file=path) from error
    _known(content, {"products", "seconds_per_timestamp", "origin"}, path, "the top level")
    listed = content.get("products", [])
    if not isinstance(listed, list):
        raise InputError("products must be a list", file=path)
    products: dict[str, Product] = {}
    for entry in listed:
        _known(entry, {field.name for field in dataclasses.fields(Product)}, path, "a product")
        for key, value in entry.items():
            text = key in ("name", "asset_class")
            if isinstance(value, bool) or not isinstance(value, str if text else int | float):
                raise InputError(f"{value!r} is no {'text' if text else 'number'}", file=path, column=key)
        if entry.get("name", "") in products or "name" not in entry:
            raise InputError("every product needs a name of its own", file=path, column="name")
        try:
            products[entry["name"]] = Product(**entry)
        except InputError as error:
            raise InputError(error.message, file=path) from error
    seconds, origin = content.get("seconds_per_timestamp"), content.get("origin")
    if seconds is not None and (isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds > 0):
        raise InputError(f"{seconds!r} is no positive number", file=path, column="seconds_per_timestamp")
    if origin is not None and origin not in get_args(Origin):
        raise InputError(f"{origin!r} is none of {', '.join(get_args(Origin))}", file=path, column="origin")
    return Metadata(products, seconds, origin, (member.source_file(len(products)),))


def _refuse_constant(text: str) -> float:
    raise ValueError(f"is not JSON: {text} is no finite number")


def _known(entry: Any, keys: set[str], path: Path, where: str) -> None:
    if not isinstance(entry, dict):
        raise InputError(f"{where} must be an object", file=path)
    unknown = sorted(entry.keys() - keys)
    if unknown:
        raise InputError(f"unknown key in {where}, known are {', '.join(sorted(keys))}", file=path, column=unknown[0])


def _merge(one: Metadata, other: Metadata) -> Metadata:
    both = one.products.keys() & other.products.keys()
    if any(one.products[name] != other.products[name] for name in both):
        raise InputError("describes a product otherwise than another products.json", file=other.files[0].path)
    for field in ("seconds_per_timestamp", "origin"):
        first, second = getattr(one, field), getattr(other, field)
        if one.files and first != second:
            raise InputError(
                f"{second!r} against {first!r} in {one.files[0].path}", file=other.files[0].path, column=field
            )
    return Metadata(one.products | other.products, other.seconds_per_timestamp, other.origin, one.files + other.files)


def level_columns(n_levels: int) -> list[str]:
    """The book columns of RawBooks for levels 1 to `n_levels`."""
    return [
        f"{side}_{what}_{k}" for k in range(1, n_levels + 1) for side in ("bid", "ask") for what in ("price", "size")
    ]


def raw_books(
    books: Sequence[pd.DataFrame],
    trades: Sequence[pd.DataFrame],
    products: Sequence[Product],
    files: Sequence[SourceFile],
    origin: Origin,
) -> RawBooks:
    """RawBooks from the frames of several files; levels that a file lacks are padded with NaN."""
    n_levels = max(int(c.rsplit("_", 1)[1]) for frame in books for c in frame.columns if c.startswith("bid_price_"))
    columns = [*BOOK_KEYS, *level_columns(n_levels), "pnl"]
    table = pd.concat([frame.reindex(columns=columns) for frame in books], ignore_index=True)
    table = table.astype(dict.fromkeys(columns[len(BOOK_KEYS) :], np.float64))
    present = [frame for frame in trades if len(frame)]
    if present:
        trade_table = pd.concat(present, ignore_index=True)[list(TRADE_COLUMNS)]
    else:
        trade_table = pd.DataFrame({c: pd.Series(dtype=_TRADE_TYPES.get(c, "int64")) for c in TRADE_COLUMNS})
    return RawBooks(
        books=table,
        trades=trade_table,
        products=tuple(sorted(products, key=lambda p: p.name)),
        n_levels=n_levels,
        files=tuple(files),
        origin=origin,
    )


_TRADE_TYPES = {"product": "str", "price": "float64", "size": "float64"}
