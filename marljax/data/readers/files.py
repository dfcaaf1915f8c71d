"""Opening what a user points at: files and folders, plain, gzip or zip; read one at a time.

Compression is told by the first bytes, never by the name alone.
"""

import dataclasses
import gzip
import hashlib
import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePosixPath

from marljax.data.schema import InputError, SourceFile

_GZIP, _ZIP = b"\x1f\x8b", b"PK\x03\x04"
_BROKEN = (EOFError, OSError, zlib.error, zipfile.BadZipFile, RuntimeError, NotImplementedError)
"""What gzip and zipfile raise on truncated, corrupt, encrypted or unsupported archives."""


@dataclasses.dataclass(frozen=True)
class Member:
    """One readable file: a path on disk, or a member of a zip archive on disk."""

    path: Path
    inside: str | None = None

    @property
    def label(self) -> str:
        """How errors and reports call it."""
        return str(self.path) if self.inside is None else f"{self.path}/{self.inside}"

    @property
    def name(self) -> str:
        """The base name in lower case without .gz, for example prices_round_1_day_0.csv."""
        return self.stem_name.lower()

    @property
    def stem_name(self) -> str:
        """The base name as written, without .gz."""
        name = PurePosixPath(self.inside).name if self.inside is not None else self.path.name
        return name[:-3] if name.lower().endswith(".gz") else name

    def read(self) -> bytes:
        """The decompressed content. Raises InputError where it cannot be read in full."""
        try:
            if self.inside is None:
                content = self.path.read_bytes()
            else:
                with zipfile.ZipFile(self.path) as archive:
                    content = archive.read(self.inside)
            if content.startswith(_GZIP):
                content = gzip.decompress(content)
            elif content and (self.inside or self.path.name).lower().endswith(".gz"):
                raise InputError("is named .gz but is no gzip file", file=self.label)
        except _BROKEN as error:
            raise InputError(f"cannot be read, truncated or corrupt ({_reason(error)})", file=self.label) from error
        return content

    def source_file(self, rows: int) -> SourceFile:
        """The file on disk with the sha256 of its bytes there, and how many rows were read from this member."""
        with self.path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        return SourceFile(path=self.label, sha256=digest, rows=rows)


def members(paths: Sequence[str | Path], wanted: Callable[[str], bool], what: str) -> list[Member]:
    """Every readable file under `paths`, each once, folders and archives opened one level deep in name order.

    `wanted` picks from folders and archives by lower-case base name without .gz; a file named by the user is always
    taken. `what` says in the error what was looked for. Raises InputError for a missing path, a broken archive, or
    a folder or archive without any wanted file.
    """
    if not paths:
        raise InputError(f"no path given: name files or folders with {what}")
    found: dict[Member, None] = {}
    for path in map(Path, paths):
        if path.is_dir():
            inside = [m for entry in sorted(path.iterdir()) if entry.is_file() for m in _folder_entry(entry, wanted)]
            if not inside:
                raise InputError(f"holds no {what}", file=path)
        elif path.is_file():
            inside = list(_archive(path, wanted)) if _is_zip(path) else [Member(path)]
            if not inside:
                raise InputError(f"the archive holds no {what}", file=path)
        else:
            raise InputError("no such file or folder", file=path)
        found.update(dict.fromkeys(inside))
    return list(found)


def _folder_entry(path: Path, wanted: Callable[[str], bool]) -> Iterable[Member]:
    if path.name.lower().endswith(".zip"):
        return _archive(path, wanted)
    return [Member(path)] if wanted(Member(path).name) else []


def _archive(path: Path, wanted: Callable[[str], bool]) -> Iterable[Member]:
    try:
        with zipfile.ZipFile(path) as archive:
            inside = sorted(info.filename for info in archive.infolist() if not info.is_dir())
    except _BROKEN as error:
        raise InputError(
            f"cannot be read as a zip archive, truncated or corrupt ({_reason(error)})", file=path
        ) from error
    return [m for m in (Member(path, name) for name in inside) if wanted(m.name)]


def _is_zip(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            return stream.read(4) == _ZIP or path.name.lower().endswith(".zip")
    except OSError as error:
        raise InputError(f"cannot be read ({_reason(error)})", file=path) from error


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
