"""Blocks of candles in files of this host, so that MongoDB is read once per block and host.

On while `keeping_blocks` is in force. A file is named by the hash of all that MongoDB says of its block, the checksum
included, so it is never stale and may be deleted at any time. Whoever lacks blocks of a series holds its lock while he
reads them; the others wait for him, and find them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from hashlib import blake2b
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from backtest_kit_mongo import locks
from backtest_kit_mongo.coherence.keys import escaped
from backtest_kit_mongo.coherence.record import Key

if TYPE_CHECKING:
    from backtest_kit_mongo.candles.codec import Block

logger = locks.logger(__name__)

WAIT_S: Final = 60.0
"""So long for another process that reads the same series; then it is read twice."""
WITHOUT_DATA: Final = {"data": 0}

Document: TypeAlias = dict[str, Any]
Ask: TypeAlias = Callable[[Document, Document | None], Iterable[Document]]

_in_use: ContextVar[BlockFiles | None] = ContextVar("block files", default=None)


@contextmanager
def keeping_blocks(directory: Path) -> Iterator[None]:
    """Within the block, candles that are read from MongoDB stay in files of a directory, for all processes of this
    host. Whoever names the directory bounds it: files `*.block`, the least recently used have the oldest times.
    """
    token = _in_use.set(BlockFiles(directory))
    try:
        yield
    finally:
        _in_use.reset(token)


def in_use() -> BlockFiles | None:
    """Those of the `keeping_blocks` in force."""
    return _in_use.get()


class BlockFiles:
    """A directory of blocks."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def find(self, scope: Key, ask: Ask, decode: Callable[[Document], Block | None]) -> list[Block]:
        """All blocks that `ask` names.

        Args:
            ask: given a query and a projection, MongoDB's documents.
            decode: a document's block; None: it cannot be used.
        """
        found, lacking = self._held(list(ask({}, WITHOUT_DATA)), decode)
        if not lacking:
            return found
        with self._alone(scope):
            more, lacking = self._held(lacking, decode)
            found += more
            wanted = {"start": {"$in": [one["start"] for one in lacking]}}
            for stored in ask(wanted, None) if lacking else ():
                block = decode(stored)
                if block is not None:
                    self._keep(stored)
                    found.append(block)
        return found

    def _held(
        self, named: Sequence[Document], decode: Callable[[Document], Block | None]
    ) -> tuple[list[Block], list[Document]]:
        """Blocks that are here, and the documents of the others. A damaged file goes."""
        found: list[Block] = []
        lacking: list[Document] = []
        for one in named:
            path = self._path(one)
            try:
                data = path.read_bytes()
                os.utime(path)
            except OSError:
                lacking.append(one)
                continue
            block = decode({**one, "data": data})
            if block is None:
                with suppress(OSError):
                    path.unlink()
                lacking.append(one)
            else:
                found.append(block)
        return found, lacking

    def _path(self, stored: Mapping[str, Any]) -> Path:
        named = sorted((name, str(value)) for name, value in stored.items() if name != "data")
        return self._directory / f"{blake2b(repr(named).encode(), digest_size=16).hexdigest()}.block"

    def _keep(self, stored: Mapping[str, Any]) -> None:
        path = self._path(stored)
        unfinished = path.with_suffix(f".{token_hex(4)}.unfinished")
        try:
            unfinished.write_bytes(stored["data"])
            unfinished.replace(path)
        except OSError as cause:
            logger.warning("a block of candles cannot be kept, so it will be read again: %s", cause)
            with suppress(OSError):
                unfinished.unlink()

    @contextmanager
    def _alone(self, scope: Key) -> Iterator[None]:
        from filelock import FileLock, Timeout

        name = blake2b(escaped(scope.parts).encode(), digest_size=16).hexdigest()
        lock = FileLock(self._directory / f"{name}.lock", timeout=WAIT_S)
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except (OSError, Timeout) as cause:
            logger.warning("blocks of %s are read without their lock, perhaps more than once: %s", scope, cause)
        try:
            yield
        finally:
            lock.release()
