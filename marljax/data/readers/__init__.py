"""Readers: files as found to RawBooks, every cell checked and placed. `read` is the front for all of them."""

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from marljax.data.readers import lobster, prosperity, table
from marljax.data.readers.table import TimeUnit
from marljax.data.schema import InputError, RawBooks

Source = Literal["prosperity", "lobster", "table"]

_READERS = {"prosperity": prosperity.read, "lobster": lobster.read, "table": table.read}


def read(
    source: str,
    paths: Sequence[str | Path],
    *,
    grid_seconds: float | None = None,
    columns: Mapping[str, str] | None = None,
    delimiter: str | None = None,
    time_unit: TimeUnit | None = None,
    tick_size: float | None = None,
    lot_size: float | None = None,
) -> RawBooks:
    """RawBooks of files or folders, plain, gzip or zip, in the format `source`.

    `grid_seconds` belongs to lobster, the other options to table; None is the reader's default. An option that the
    source does not know is an InputError, as is every fault of the files, with file, line and column.
    """
    if source not in _READERS:
        raise InputError(f"unknown data source {source!r}: one of {', '.join(_READERS)}")
    reader = _READERS[source]
    given = {
        "grid_seconds": grid_seconds,
        "columns": columns or None,
        "delimiter": delimiter,
        "time_unit": time_unit,
        "tick_size": tick_size,
        "lot_size": lot_size,
    }
    options = {name: value for name, value in given.items() if value is not None}
    unused = sorted(options.keys() - inspect.signature(reader).parameters.keys())
    if unused:
        raise InputError(f"option {unused[0]} does not apply to {source} data")
    return reader(paths, **options)


__all__ = ["Source", "read"]
