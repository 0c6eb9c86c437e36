"""Many files together or not at all: a journal says what is to be written before any of it is, and is completed by
whoever comes next if its writer died.

    .steps/<random>.journal    what to write: paths, bytes, names to remove; locked by its writer for as long as he
    lives

A journal is complete or worthless (its digest says which), and completing it again changes nothing. Nobody else writes
these files meanwhile: their directories are locked by the writer, and after his death whoever locks one of them
completes his journal before he looks at a file.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha256
from typing import Any, Final

import msgpack

from backtest_kit_mongo import locks
from backtest_kit_mongo.backends.files import disk
from backtest_kit_mongo.errors import WriteOutcomeUnknown, WriteRefused

logger = locks.logger(__name__)

DIRECTORY: Final = ".steps"
_JOURNAL: Final = ".journal"
_DIGEST_BYTES: Final = 32
NEW_TRIES: Final = 100


class _Mine(threading.local):
    is_publishing = False


_mine = _Mine()
"""Of a signal handler that comes in between: it must not wait for its own thread."""


def publish(root: str, outputs: Sequence[disk.Output], moved: Sequence[str]) -> list[bool]:
    """Write files as `disk.write_all` does, and then remove `moved`: all of it, or nothing. Call it under the locks of
    all directories.

    Raises:
        WriteRefused: nothing was and will be written.
        WriteOutcomeUnknown: whoever uses these files next completes it.
    """
    content = msgpack.packb([[tuple(output) for output in outputs], list(moved)])
    forced = any(output.forced for output in outputs)
    with _kept(root, sha256(content).digest() + content, forced=forced) as path:
        _mine.is_publishing = True
        try:
            written = _complete(outputs, moved)
        except WriteRefused:
            _forget(path, forced=forced)
            raise
        finally:
            _mine.is_publishing = False
        _forget(path, forced=forced)
        return written


def settle(root: str, *, wait: bool) -> None:
    """Complete the journals of writers that have died.

    Args:
        wait: for writers that live, too: before one writes himself.
    """
    try:
        names = os.listdir(f"{root}/{DIRECTORY}")
    except (FileNotFoundError, NotADirectoryError):
        return
    if _mine.is_publishing:
        return
    for name in names:
        with suppress(FileNotFoundError, BlockingIOError):
            _settle_one(f"{root}/{DIRECTORY}/{name}", wait=wait)


def _settle_one(path: str, *, wait: bool) -> None:
    with open(path, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.exists(path):
            return  # Its writer has ended well meanwhile.
        content = file.read()
        found = _readable(content) if path.endswith(_JOURNAL) else None
        if found is not None:
            logger.warning("a step whose writer died is completed: %d files", len(found[0]))
            _complete(*found)
        _forget(path)


def _readable(content: bytes) -> tuple[list[disk.Output], list[str]] | None:
    """What a journal says; None if it was not finished, so nothing of it was written."""
    digest, packed = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    if sha256(packed).digest() != digest:
        return None
    outputs, moved = msgpack.unpackb(packed)
    return [disk.Output(*output) for output in outputs], moved


def _complete(outputs: Sequence[disk.Output], moved: Sequence[str]) -> list[bool]:
    written = disk.write_all(outputs)
    for path in moved:
        with suppress(FileNotFoundError):
            os.unlink(path)
    return written


@contextmanager
def _kept(root: str, content: bytes, *, forced: bool) -> Iterator[str]:
    """A journal, locked within the block. `forced`: it survives a power failure, as what it is about must."""
    directory = f"{root}/{DIRECTORY}"
    path = f"{directory}/{secrets.token_hex(8)}{_JOURNAL}"
    part = path + ".part"
    try:
        with _new(directory, part) as file:
            file.write(content)
            file.flush()
            if forced:
                os.fsync(file.fileno())
            os.rename(part, path)
            if forced:
                disk.sync_directory(directory)
            yield path
    except OSError as cause:
        with suppress(OSError):
            os.unlink(part)
        if os.path.exists(path):
            raise WriteOutcomeUnknown(
                f"{path}: {cause.strerror or cause}. Whoever uses these files next completes the step."
            ) from cause
        raise WriteRefused(f"{path} cannot be written: {cause.strerror or cause}. Nothing was written.") from cause


def _new(directory: str, part: str) -> Any:
    """A new file, locked. Others may remove the directory before there is anything in it, and before it is locked the
    file itself, which looks like one whose writer died.
    """
    for _ in range(NEW_TRIES):
        disk.make_directory(directory)
        try:
            file = os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "wb")
        except FileNotFoundError:
            continue
        fcntl.flock(file, fcntl.LOCK_EX)
        if os.path.exists(part):
            return file
        file.close()
    raise FileNotFoundError(errno.ENOENT, "others removed it again and again")


def _forget(path: str, *, forced: bool = True) -> None:
    """For good: a journal that came back after a power failure would undo what was written since."""
    directory = os.path.dirname(path)
    os.unlink(path)
    if forced:
        disk.sync_directory(directory)
    with suppress(OSError):
        os.rmdir(directory)
