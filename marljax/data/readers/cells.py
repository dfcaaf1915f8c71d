"""Typed columns of a delimited file which know the file, line and column of every cell.

Parsing is arrow's C++ reader with every column type fixed beforehand, so nothing is guessed. Only when it refuses a
file does a slow pass look for the first cell that is wrong. A blank cell is missing; anything else must parse.
"""

import csv
import dataclasses
import io
import re
from collections.abc import Mapping, Sequence
from typing import NoReturn

import numpy as np
import pyarrow as pa
from pyarrow import csv as arrow_csv

from marljax.data.schema import LARGEST_TICK, InputError

FLOAT, WHOLE, TEXT = pa.float64(), pa.int64(), pa.string()

_NUMBER = re.compile(r"-?\+?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_INTEGER = re.compile(r"-?\d+")
_NOT_FINITE = re.compile(r"[+-]?(nan|inf|infinity)", re.IGNORECASE)
_LINE_END = re.compile(rb"\r\n|\n|\r")
_SEPARATORS = ";,\t|"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_LONGEST_HEADER = 2**16
_GRID_TOLERANCE = 1e-6
"""How far from a whole number of ticks or lots a cell may lie [ticks or lots]: rounding of decimal text to binary."""


@dataclasses.dataclass(frozen=True)
class Cells:
    """The rows of one file: arrow columns by name, and where the first row stands."""

    label: str
    table: pa.Table
    first_line: int
    """Line of row 0, 1-based; later rows follow one a line."""

    def __len__(self) -> int:
        return self.table.num_rows

    @property
    def lines(self) -> np.ndarray:
        """int64[rows] the line of each row, 1-based."""
        return np.arange(self.first_line, self.first_line + len(self), dtype=np.int64)

    def fail(self, row: int, column: str | None, message: str) -> NoReturn:
        """Raise InputError for this row and column."""
        raise InputError(message, file=self.label, line=self.first_line + int(row), column=column)

    def refuse(self, wrong: np.ndarray, column: str, message: str) -> None:
        """Raise InputError for the first row where `wrong` (bool[rows]) holds."""
        if wrong.any():
            row = int(np.argmax(wrong))
            self.fail(row, column, f"{message}: {self.table[column][row].as_py()!r:.80}")

    def floats(self, column: str) -> np.ndarray:
        """float64[rows], NaN where blank. Raises InputError on a value that is not finite."""
        array = self.table[column].cast(FLOAT, safe=False)
        values = array.to_numpy().astype(np.float64, copy=False)
        blank = array.is_null().to_numpy()
        self.refuse(~np.isfinite(values) & ~blank, column, "is not finite")
        return values

    def keys(self, column: str) -> np.ndarray:
        """int64[rows]. Raises InputError on a blank cell."""
        self._refuse_blank(column)
        return self.table[column].to_numpy().astype(np.int64, copy=False)

    def texts(self, column: str) -> np.ndarray:
        """object[rows] of str. Raises InputError on a blank cell."""
        self._refuse_blank(column)
        encoded = self.table[column].combine_chunks().dictionary_encode()
        names = np.array([str(v).strip() for v in encoded.dictionary.to_pylist()], dtype=object)
        wrong = np.array([not (name and name.isprintable()) for name in names], dtype=bool)
        codes = encoded.indices.to_numpy()
        self.refuse(wrong[codes], column, "is no printable name")
        return names[codes]

    def ticks(self, column: str, tick_size: float | np.ndarray, *, absent: float | None = None) -> np.ndarray:
        """float64[rows] whole ticks, NaN where blank or `absent` (a value that stands for no price).

        Raises InputError off the tick grid or beyond 2**28 ticks.
        """
        prices = self.floats(column)
        if absent is not None:
            prices = np.where(prices == absent, np.nan, prices)
        return self._whole(column, prices, tick_size, "tick")

    def lots(self, column: str, lot_size: float | np.ndarray) -> np.ndarray:
        """float64[rows] whole lots >= 0, NaN where blank. Raises InputError on a negative or fractional size."""
        sizes = self.floats(column)
        self.refuse(sizes < 0, column, "a size is negative")
        return self._whole(column, sizes, lot_size, "lot")

    def _whole(self, column: str, values: np.ndarray, unit: float | np.ndarray, what: str) -> np.ndarray:
        # A cell near the largest float overflows; as an infinity it is refused below.
        with np.errstate(over="ignore", invalid="ignore"):
            exact = values / unit
            whole = np.round(exact)
            off_grid = np.abs(exact - whole) > _GRID_TOLERANCE + 1e-12 * np.abs(exact)
        for wrong, problem in (
            (off_grid, f"is no whole number of {what}s of"),
            (np.abs(whole) >= LARGEST_TICK, f"is 2**28 {what}s or more of"),
        ):
            if wrong.any():
                row = int(np.argmax(wrong))
                self.refuse(wrong, column, f"{problem} {np.broadcast_to(unit, len(self))[row]:.12g}")
        return whole + 0.0

    def _refuse_blank(self, column: str) -> None:
        blank = self.table[column].is_null().to_numpy()
        if blank.any():
            self.fail(int(np.argmax(blank)), column, "is blank, and a row cannot be placed without it")


def header_of(content: bytes, label: str, delimiter: str) -> list[str]:
    """The column names in the first line. Raises InputError for an empty file or one separated otherwise."""
    line = _LINE_END.split(content.removeprefix(_BYTE_ORDER_MARK)[:_LONGEST_HEADER], maxsplit=1)[0]
    names = [name.strip() for name in next(csv.reader([line.decode("utf-8", "replace")], delimiter=delimiter), [])]
    _text(content, label, names, delimiter)
    if len(names) == 1:
        rivals = [s for s in _SEPARATORS if s != delimiter and s in names[0]]
        if rivals:
            raise InputError(
                f"wrong delimiter: expected {delimiter!r}, the line is separated by {rivals[0]!r}",
                file=label,
                line=1,
                column=names[0].split(rivals[0])[0],
            )
    return names


def require(names: Sequence[str], needed: Sequence[str], label: str) -> None:
    """Raise InputError for the first needed column which the header does not name, or any that it names twice."""
    for name in needed:
        if name not in names:
            raise InputError("is missing from the header", file=label, line=1, column=name)
    for name in names:
        if name and names.count(name) > 1:
            raise InputError("stands twice in the header", file=label, line=1, column=name)


def parse(
    content: bytes,
    label: str,
    *,
    names: Sequence[str],
    types: Mapping[str, pa.DataType],
    delimiter: str,
    header: bool = True,
    may_be_empty: bool = False,
) -> Cells:
    """The columns in `types` of a delimited file whose columns are `names` in order.

    Handles a byte order mark and any line end. Raises InputError with line and column where a row has more or fewer
    fields than `names`, a cell does not parse, bytes are not UTF-8, or there is no row (unless `may_be_empty`).
    """
    content = _text(content, label, names, delimiter).rstrip(b"\r\n")
    lines = 1 + content.count(b"\n") + content.count(b"\r") - content.count(b"\r\n")
    rows = lines - header
    if rows == 0 and not may_be_empty:
        raise InputError("has a header but no rows", file=label, line=1, column=names[0])
    if rows == 0:
        return Cells(label, pa.table({name: pa.array([], kind) for name, kind in types.items()}), 2)
    unique = [name if list(names).index(name) == i else f"\0{i}" for i, name in enumerate(names)]
    try:
        table = arrow_csv.read_csv(
            pa.py_buffer(content + b"\n"),
            # Arrow's threads may outlive an interpreter that leaves by an error, which aborts the process.
            read_options=arrow_csv.ReadOptions(use_threads=False, skip_rows=int(header), column_names=unique),
            parse_options=arrow_csv.ParseOptions(delimiter=delimiter, ignore_empty_lines=False),
            convert_options=arrow_csv.ConvertOptions(
                column_types=dict(types),
                include_columns=list(types),
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=True,
            ),
        )
    except pa.ArrowInvalid as error:
        _blame(content, label, names, types, delimiter, header)
        raise InputError(f"cannot be parsed: {error}", file=label) from error
    if table.num_rows != rows:
        _blame(content, label, names, types, delimiter, header)
        raise InputError(f"holds {rows} lines but {table.num_rows} rows", file=label)
    return Cells(label, table, 1 + header)


def _text(content: bytes, label: str, names: Sequence[str], delimiter: str) -> bytes:
    """Content without a byte order mark, known to be UTF-8 and not empty."""
    content = content.removeprefix(_BYTE_ORDER_MARK)
    if not content.strip():
        raise InputError("is empty", file=label, line=1)
    if not content.isascii():
        try:
            content.decode("utf-8")
        except UnicodeDecodeError as error:
            before = _LINE_END.split(content[: error.start])
            field = before[-1].count(delimiter.encode())
            column = names[field] if field < len(names) else f"field {field + 1}"
            raise InputError(
                f"byte {content[error.start]:#04x} is not UTF-8", file=label, line=len(before), column=column
            ) from error
    return content


def _blame(
    content: bytes,
    label: str,
    names: Sequence[str],
    types: Mapping[str, pa.DataType],
    delimiter: str,
    header: bool,
) -> None:
    """Raise InputError for the first line and cell that cannot be what the columns say, if there is one."""
    for number, raw in enumerate(_LINE_END.split(content), start=1):
        if number == 1 and header:
            continue
        try:
            fields = next(csv.reader(io.StringIO(raw.decode()), delimiter=delimiter, strict=True), [""] * len(names))
        except csv.Error as error:
            column = names[min(raw.split(b'"')[0].count(delimiter.encode()), len(names) - 1)]
            raise InputError(f"malformed quotes ({error})", file=label, line=number, column=column) from error
        cells = list(zip(names, fields, strict=False))
        problems = [(name, _problem(cell, types.get(name, TEXT)), cell) for name, cell in cells]
        wrong = next((p for p in problems if p[1]), None)
        if len(fields) != len(names):
            raise InputError(
                f"the line has {len(fields)} fields separated by {delimiter!r}, expected {len(names)}",
                file=label,
                line=number,
                column=wrong[0] if wrong else cells[-1][0],
            )
        if wrong:
            raise InputError(f"{wrong[1]}: {wrong[2]!r:.80}", file=label, line=number, column=wrong[0])


def _problem(cell: str, kind: pa.DataType) -> str:
    if not cell or kind == TEXT:
        return ""
    cell = cell.strip()
    if _NOT_FINITE.fullmatch(cell):
        return "is not finite"
    if not _NUMBER.fullmatch(cell):
        return "is not a number"
    if kind == WHOLE and not _INTEGER.fullmatch(cell):
        return "is not a whole number"
    if kind == WHOLE and not -(2**63) <= int(cell) < 2**63:
        return "is out of range"
    return ""
