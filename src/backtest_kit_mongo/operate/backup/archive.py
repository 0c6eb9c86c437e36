"""The directory of a backup.

    manifest.json        what it is of and from when, and each part's size and SHA-256; written last
    <name>.bson.gz       a collection's documents, one after the other
    .changes.bson.gz     {c, i, d}: documents that changed while collections were copied; without `d` it is gone
    files.tar.gz         a directory of files, instead of collections

Without a manifest it is no backup: what a backup that did not come to its end left is named so, and the next one into
the same directory takes its place.
"""

from __future__ import annotations

import gzip
import os
import secrets
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO, Final, cast
from urllib.parse import quote

import bson
from bson import json_util
from bson.errors import InvalidBSON
from bson.raw_bson import RawBSONDocument

from backtest_kit_mongo.backends.files.disk import sync_directory
from backtest_kit_mongo.backends.mongo.decoding import RAW
from backtest_kit_mongo.errors import CorruptData, InvalidSetting, NotFound
from backtest_kit_mongo.stored import STAGED

__all__ = ["CHANGES", "STAGED", "Backup", "Draft", "Manifest", "Part", "open_backup"]

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
UNFINISHED: Final = "unfinished"
CHANGES: Final = ".changes"
"""No collection of this package has such a name."""
PIECE_BYTES: Final = 1 << 20
LEVEL: Final = 1
"""Of gzip: documents get a third smaller with the next ones, in five times the time."""


@dataclass(frozen=True, slots=True)
class Part:
    """A file of a backup.

    Attributes:
        name: of a collection, or what else is in it.
        documents: how many, or how many files.
        size_bytes: compressed.
        options, indexes: of the collection, as MongoDB lists them.
    """

    name: str
    file: str
    documents: int
    size_bytes: int
    sha256: str
    options: Mapping[str, Any] = field(default_factory=dict)
    indexes: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a backup says of itself.

    Attributes:
        name: drawn at random; a restore is known by it.
        kind: "mongodb" or "files".
        source: database, or directory.
        taken_at: the moment that it shows.
        product: the release that wrote it.
    """

    name: str
    kind: str
    source: str
    taken_at: datetime
    parts: Sequence[Part]
    server: str = ""
    product: str = field(default_factory=lambda: version("backtest-kit-mongo"))
    format: int = FORMAT

    @property
    def documents(self) -> int:
        return sum(part.documents for part in self.parts if part.name != CHANGES)

    @property
    def size_bytes(self) -> int:
        return sum(part.size_bytes for part in self.parts)

    def part(self, name: str) -> Part | None:
        return next((part for part in self.parts if part.name == name), None)


class _Hashed:
    """A file that is written through, counted and hashed on the way."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._sha256, self.size_bytes = file, sha256(), 0

    def write(self, data: bytes) -> int:
        self._sha256.update(data)
        self.size_bytes += len(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()

    @property
    def digest(self) -> str:
        return self._sha256.hexdigest()


class Draft:
    """A backup that is being written.

    Args:
        directory: absent, empty, or with what an unfinished backup left, which goes.

    Raises:
        InvalidSetting: it holds something else. Nothing was written.
        OSError: it cannot be made.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.name = secrets.token_hex(8)
        self._parts: list[Part] = []
        self.has_replaced_unfinished = _clear(directory)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / UNFINISHED).touch()

    @contextmanager
    def part(self, name: str, suffix: str = ".bson.gz", **about: Any) -> Iterator[_Sink]:
        """A part to write into; it counts when the block ends without an error."""
        file = f"{quote(name, safe='')}{suffix}"
        with open(self.directory / file, "xb") as raw:
            hashed = _Hashed(raw)
            with gzip.GzipFile("", "wb", LEVEL, cast("Any", hashed), mtime=0) as packed:
                sink = _Sink(packed)
                yield sink
            raw.flush()
            os.fsync(raw.fileno())
        self._parts.append(Part(name, file, sink.documents, hashed.size_bytes, hashed.digest, **about))

    def finish(self, kind: str, source: str, taken_at: datetime, server: str = "") -> Manifest:
        """All parts are there: from now on it is a backup."""
        manifest = Manifest(self.name, kind, source, taken_at, tuple(self._parts), server)
        staged = self.directory / f"{MANIFEST}.new"
        with open(staged, "x", encoding="utf-8") as file:
            file.write(json_util.dumps(asdict(manifest), json_options=json_util.CANONICAL_JSON_OPTIONS, indent=1))
            file.flush()
            os.fsync(file.fileno())
        os.replace(staged, self.directory / MANIFEST)
        (self.directory / UNFINISHED).unlink()
        sync_directory(str(self.directory))
        return manifest


class _Sink:
    """Where a part's bytes go. `documents` is the caller's to count."""

    def __init__(self, file: gzip.GzipFile) -> None:
        self.file, self.documents = file, 0

    def write(self, data: bytes, documents: int = 1) -> None:
        self.file.write(data)
        self.documents += documents


def _clear(directory: Path) -> bool:
    """Make room; whether an unfinished backup went."""
    if not directory.exists():
        return False
    names = sorted(one.name for one in directory.iterdir())
    if not names:
        return False
    if UNFINISHED not in names:
        raise InvalidSetting(
            f"{directory.absolute()} is not empty ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''}). Nothing "
            "was written: give another directory, one for each backup."
        )
    for name in names:
        (directory / name).unlink()
    return True


class Backup:
    """A backup that is there."""

    def __init__(self, directory: Path, manifest: Manifest) -> None:
        self.directory, self.manifest = directory, manifest

    def check(self, on_bytes: Callable[[int], object] = lambda count: None) -> None:
        """Compare each part with its checksum.

        Args:
            on_bytes: told of each piece read.

        Raises:
            CorruptData: one is missing, or another than it was.
        """
        for part in self.manifest.parts:
            hashed = sha256()
            try:
                with open(self.directory / part.file, "rb") as file:
                    while piece := file.read(PIECE_BYTES):
                        hashed.update(piece)
                        on_bytes(len(piece))
            except FileNotFoundError as cause:
                raise CorruptData(f"{self.directory / part.file} is missing. Nothing was restored.") from cause
            if hashed.hexdigest() != part.sha256:
                raise CorruptData(
                    f"{self.directory / part.file} is not what was written (its SHA-256 differs). Nothing was restored."
                )

    @contextmanager
    def reading(self, part: Part) -> Iterator[BinaryIO]:
        with gzip.open(self.directory / part.file, "rb") as file:
            yield cast("BinaryIO", file)

    def documents(self, part: Part) -> Iterator[RawBSONDocument]:
        """The documents of a part, in no order.

        Raises:
            CorruptData: it cannot be read on.
        """
        try:
            with self.reading(part) as file:
                yield from bson.decode_file_iter(file, RAW)
        except (InvalidBSON, EOFError, zlib.error, gzip.BadGzipFile) as cause:
            raise CorruptData(f"{self.directory / part.file} cannot be read to its end: {cause}") from cause


def open_backup(directory: Path) -> Backup:
    """The backup in a directory.

    Raises:
        NotFound: there is none.
        CorruptData: it cannot be read.
        InvalidSetting: a newer release wrote it.
    """
    path = directory / MANIFEST
    try:
        said: Any = json_util.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        is_unfinished = (directory / UNFINISHED).exists()
        why = "the backup in it did not come to its end" if is_unfinished else f"it has no {MANIFEST}"
        raise NotFound(f"{directory.absolute()} is no backup: {why}. Nothing was changed.") from None
    except (ValueError, UnicodeDecodeError) as cause:
        raise CorruptData(f"{path.absolute()} cannot be read: {cause}. Nothing was restored.") from cause
    if not isinstance(said, dict) or said.get("format") != FORMAT:
        found = said.get("format") if isinstance(said, dict) else None
        raise InvalidSetting(
            f"{path.absolute()} has format {found}; this release reads {FORMAT}. Nothing was restored: restore it with "
            f"the release that wrote it ({said.get('product') if isinstance(said, dict) else 'unknown'})."
        )
    try:
        parts = tuple(Part(**part) for part in said.pop("parts"))
        return Backup(directory, Manifest(parts=parts, **said))
    except (TypeError, KeyError) as cause:
        raise CorruptData(f"{path.absolute()} cannot be read: {cause}. Nothing was restored.") from cause
