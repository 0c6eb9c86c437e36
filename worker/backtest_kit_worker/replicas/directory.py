"""Copies as files in the original's `dump` layout: what a file store on that directory reads as its own.

Names, text, trailing bookkeeping, locks and atomic replacement are the file backend's. The revision in the trailing
blanks is the source's, and it is the guard: a file is replaced only by a higher one, under the lock of its directory.
Files know neither `_id` nor createDate, and not the updatedDate that orders foreign writes of one revision.
"""

from __future__ import annotations

import json
import os
import socket
from collections import defaultdict
from collections.abc import Collection as Items
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from bson.errors import BSONError

from backtest_kit_mongo.backends.files import disk as disk
from backtest_kit_mongo.backends.files import names as names
from backtest_kit_mongo.backends.files.json import Stamp, encode, seal, unseal
from backtest_kit_mongo.backends.files.layout import layout
from backtest_kit_mongo.backends.mongo.decoding import decoded
from backtest_kit_mongo.backends.mongo.layout import payload_field
from backtest_kit_mongo.coherence.codec import pack, unpack
from backtest_kit_mongo.coherence.record import Domain, Key, Shape
from backtest_kit_mongo.coherence.restoring import restoration, restore
from backtest_kit_mongo.errors import CorruptData, EnvironmentFault
from backtest_kit_worker.replicas.naming import RAW, Raw
from backtest_kit_worker.replicas.paths import key_at
from backtest_kit_worker.replicas.source import CHUNK_MAX, Source, batched
from backtest_kit_worker.replicas.target import Marker, ReplicaFailed, Seen, Verdict, key_of, version

MARKER: Final = ".replica-of.json"
WRITERS_MAX: Final = 8
_PLAIN: Final = RAW.with_options(document_class=dict)
_BOOKKEEPING: Final = frozenset({"_id", "__v", "rev", "createDate", "updatedDate"})


class DirectoryTarget:
    """A directory of this host, or one that all workers of the role share.

    Args:
        base: made by the first write.
        source: asked whether a file's document still exists.
    """

    name = "directory"

    def __init__(self, base: Path, source: Source) -> None:
        self._root = os.path.abspath(base)
        self.place = f"{socket.gethostname()}:{self._root}"
        self._source = source
        self._swept: set[str] = set()

    def open(self) -> None:
        """Nothing to prepare: directories are made when they are written to."""

    def close(self) -> None:
        """Nothing is held between calls."""

    @contextmanager
    def _working(self) -> Iterator[None]:
        try:
            yield
        except (EnvironmentFault, OSError) as cause:
            raise ReplicaFailed(
                f"the replica directory {self.place} failed: {cause} Nothing was acknowledged; it will be tried again."
            ) from cause

    # -- whose replica it is

    def marker(self) -> Marker | None:
        with self._working():
            content = disk.read(f"{self._root}/{MARKER}")
        if content is None:
            return None
        try:
            return Marker(**json.loads(content))
        except (ValueError, TypeError) as cause:
            raise CorruptData(f"{self._root}/{MARKER} cannot be read: {cause}. It was left as it is.") from cause

    def mark(self, marker: Marker) -> None:
        content = json.dumps(marker._asdict()).encode()
        with self._working(), disk.locked(self._root):
            disk.write_all([disk.Output(f"{self._root}/{MARKER}", content, exclusive=False)])

    def is_empty(self) -> bool:
        with self._working():
            try:
                with os.scandir(self._root) as entries:
                    return next(entries, None) is None
            except FileNotFoundError:
                return True

    # -- copying

    def put(self, domain: Domain, documents: Sequence[Raw], *, force: bool = False) -> int:
        by_directory: dict[str, list[tuple[Key, Raw]]] = defaultdict(list)
        for document in documents:
            key = key_of(domain, document)
            by_directory[names.directory(key)].append((key, document))
        # Nearly all the time is spent waiting for the disk, which serves several at once.
        with ThreadPoolExecutor(min(WRITERS_MAX, max(1, len(by_directory)))) as pool:
            return sum(pool.map(lambda item: self._write(*item, force=force), by_directory.items()))

    def _write(self, directory: str, those: list[tuple[Key, Raw]], *, force: bool) -> int:
        with self._working(), disk.locked(f"{self._root}/{directory}"):
            self._sweep_once(f"{self._root}/{directory}")
            outputs = [self._output(key, doc) for key, doc in those if force or self._is_older(key, doc)]
            return sum(disk.write_all(outputs))

    def _sweep_once(self, directory: str) -> None:
        if directory not in self._swept:
            disk.sweep(directory)
            self._swept.add(directory)

    def _path(self, key: Key) -> str:
        return f"{self._root}/{names.path(key)}"

    def _is_older(self, key: Key, document: Raw) -> bool:
        content = disk.read(self._path(key))
        if content is None:
            return True
        stamp = unseal(content)[1]
        if stamp is None:  # Damaged, or somebody else's: the bytes get a second name before they are replaced.
            disk.set_aside(self._path(key))
            return True
        return stamp.rev < version(document).rev

    def _output(self, key: Key, document: Raw) -> disk.Output:
        return disk.Output(self._path(key), _content(key, document), exclusive=False)

    # -- comparing

    def look(self, domain: Domain, documents: Sequence[Raw]) -> list[Seen]:
        return [self._seen(key_of(domain, document), document) for document in documents]

    def _seen(self, key: Key, document: Raw) -> Seen:
        expected = _content(key, document)
        with self._working():
            content = disk.read(self._path(key))
        if content is None:
            return Seen(Verdict.MISSING, 0)
        stamp = unseal(content)[1] or Stamp(0, None)
        if content == expected:
            return Seen(Verdict.SAME, stamp.rev)
        wanted = version(document).rev
        if stamp.rev == wanted:
            return Seen(Verdict.ALTERED, stamp.rev)
        return Seen(Verdict.BEHIND if stamp.rev < wanted else Verdict.AHEAD, stamp.rev)

    def named_by(self, domain: Domain, key: Key, document: str) -> str:
        return names.path(key)

    def stored(self, domain: Domain) -> Iterator[list[str]]:
        """Paths below the base."""
        literals = [level.literal for level in layout(domain).directories]
        top = "/".join(literals[: literals.index("")] if "" in literals else literals)
        yield from batched(self._files(top), CHUNK_MAX)

    def _files(self, top: str) -> Iterator[str]:
        for where, _, files in os.walk(f"{self._root}/{top}", onerror=self._unlistable):
            directory = os.path.relpath(where, self._root)
            for name in files:
                if name.endswith(names.EXTENSION) and not name.startswith(names.TEMPORARY):
                    yield f"{directory}/{name}"

    def _unlistable(self, cause: OSError) -> None:
        if not isinstance(cause, FileNotFoundError):
            raise ReplicaFailed(f"the replica directory {self.place} cannot be listed: {cause}") from cause

    def absent(self, domain: Domain, identities: Items[str]) -> list[str]:
        keys = {path: key for path in identities if (key := key_at(domain, path)) is not None}
        present = self._source.present_keys(domain, keys.values())
        return [path for path in identities if path not in keys or keys[path].parts not in present]

    def discard(self, domain: Domain, identities: Sequence[str]) -> None:
        with self._working():
            for path in identities:
                with suppress(FileNotFoundError):
                    os.unlink(f"{self._root}/{path}")


def _content(key: Key, document: Raw) -> bytes:
    """The whole file of a document.

    Raises:
        CorruptData: the document holds what this package never stores.
    """
    try:
        return _sealed(key, document)
    except (TypeError, ValueError, OverflowError, BSONError) as cause:
        raise CorruptData(f"{key}: the stored document holds what this package never stores: {cause}") from cause


def _sealed(key: Key, document: Raw) -> bytes:
    columns: dict[str, Any] = decoded(document.raw, _PLAIN)
    domain = key.domain
    when = columns.get("when")
    if domain.shape is Shape.SERIES:
        payload: Any = {"timestamp": key.item}
        payload.update((n, v) for n, v in columns.items() if n not in _BOOKKEEPING and n not in domain.columns)
    else:
        payload = columns.get(payload_field(domain))
    try:
        plain = restore(unpack(pack(payload)), restoration(domain.model, "integer"))
    except (TypeError, ValueError) as cause:
        raise CorruptData(f"{key}: the stored document holds what this package never stores: {cause}") from cause
    return seal(encode(plain, domain.model), Stamp(version(document).rev, None if when is None else int(when)))
