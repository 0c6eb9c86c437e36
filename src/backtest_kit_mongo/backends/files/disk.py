"""Durable files: atomic replacement, first-write-wins, locks and clean-up.

Knows paths and bytes, and what a caller may believe after an `OSError`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from typing import Final, NamedTuple

from backtest_kit_mongo.backends.files.names import CONTINUED, EXTENSION, TEMPORARY
from backtest_kit_mongo.errors import BacktestKitError, InvalidKey, ReadFailed, WriteOutcomeUnknown, WriteRefused

STALE_AFTER_S: Final = 120
"""Younger temporary files may belong to a write of another process. The original's number."""


class Output(NamedTuple):
    """A file to write. `exclusive`: an existing file is kept instead. `forced`: to the disk before anybody is told."""

    path: str
    data: bytes
    exclusive: bool
    forced: bool = True


class Listed(NamedTuple):
    """A file of a listing: its name relative to the listed directory without extension, and when it changed."""

    name: str
    mtime_ns: int


def read(path: str) -> bytes | None:
    """The content of a file; None if there is none.

    Raises:
        ReadFailed: the file cannot be read.
    """
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as cause:
        raise _fault(ReadFailed, path, "cannot be read", cause) from cause


def listing(directory: str, *, timed: bool) -> list[Listed]:
    """The files of a directory and of its continuations; none if it does not exist. Without `timed` all times are 0.

    Raises:
        ReadFailed: the directory cannot be read.
    """
    try:
        return list(_listed(directory, "", timed))
    except OSError as cause:
        raise _fault(ReadFailed, directory, "cannot be listed", cause) from cause


def _listed(directory: str, prefix: str, timed: bool) -> Iterator[Listed]:
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(directory) as entries:
        for entry in entries:
            name = entry.name
            if name.endswith(EXTENSION):
                if _is_text(name) and not name.startswith(TEMPORARY) and entry.is_file():
                    yield Listed(prefix + name[: -len(EXTENSION)], _mtime_ns(entry) if timed else 0)
            elif name.endswith(CONTINUED) and _is_text(name) and entry.is_dir():
                yield from _listed(entry.path, f"{prefix}{name}/", timed)


def _is_text(name: str) -> bool:
    """Names that are not UTF-8 can be no key's."""
    try:
        return name.isascii() or bool(name.encode())
    except UnicodeEncodeError:
        return False


def _mtime_ns(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_mtime_ns
    except FileNotFoundError:
        return 0  # Gone meanwhile; reading it will find nothing.


class _Mine(threading.local):
    directories: frozenset[str] = frozenset()


_mine = _Mine()
"""What this thread has locked."""


@contextmanager
def locked(directory: str) -> Iterator[None]:
    """Exclude all other writers of a directory, in this process and in others; makes the directory.

    The lock hangs on the directory itself, so it leaves no file behind, and on a descriptor of this call, so it
    excludes threads too. A thread that holds it may take it again (a signal handler does).

    Raises:
        WriteRefused: the directory cannot be made or locked.
    """
    if directory in _mine.directories:
        yield
        return
    try:
        descriptor = _open_directory(directory)
    except OSError as cause:
        raise _fault(WriteRefused, directory, "cannot be made", cause) from cause
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as cause:
            raise _fault(WriteRefused, directory, "cannot be locked", cause) from cause
        try:
            _mine.directories |= {directory}
            yield
        finally:
            _mine.directories -= {directory}
            # Closing alone would leave the lock to a child that was forked meanwhile.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)


def _open_directory(directory: str) -> int:
    try:
        return os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        make_directory(directory)
        return os.open(directory, os.O_RDONLY | os.O_DIRECTORY)


def make_directory(directory: str) -> None:
    """With those above it, durably; nothing where it is already."""
    try:
        os.mkdir(directory)
    except FileExistsError:
        return
    except FileNotFoundError:
        make_directory(os.path.dirname(directory))
        make_directory(directory)
        return
    sync_directory(os.path.dirname(directory))


def sync_directory(directory: str) -> None:
    """Make its names durable. Without this a power failure may forget a new name although its file is on disk."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_all(outputs: Sequence[Output]) -> list[bool]:
    """Write files durably; says for each whether it was written, or an existing one kept.

    All contents reach the disk (those that are not forced: the system) before the first name changes: a full disk
    leaves everything as it was. Call it under `locked`.

    Raises:
        WriteRefused: nothing was written.
        WriteOutcomeUnknown: some of the files may have been written.
    """
    temporaries = [_temporary(output.path) for output in outputs]
    try:
        for temporary, output in zip(temporaries, outputs, strict=True):
            try:
                _stage(temporary, output.data, forced=output.forced)
            except OSError as cause:
                raise _fault(WriteRefused, output.path, "cannot be written", cause) from cause
        written: list[bool] = []
        for temporary, output in zip(temporaries, outputs, strict=True):
            try:
                written.append(_publish(temporary, output))
            except OSError as cause:
                if not any(written):
                    raise _fault(WriteRefused, output.path, "cannot be replaced", cause) from cause
                raise _unknown(
                    output.path, f"{sum(written)} of {len(outputs)} files were written, then", cause
                ) from cause
        _sync_parents(one.path for one, is_new in zip(outputs, written, strict=True) if is_new and one.forced)
        return written
    finally:
        for temporary in temporaries:
            with suppress(OSError):
                os.unlink(temporary)


def _temporary(path: str) -> str:
    directory, name = os.path.split(path)
    return os.path.join(directory, f"{TEMPORARY}{secrets.token_hex(6)}-{name}")


def _stage(temporary: str, data: bytes, *, forced: bool) -> None:
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except FileNotFoundError:
        make_directory(os.path.dirname(temporary))
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    with open(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        # The kernel's own clock ticks in milliseconds; rows written within one tick would have no order.
        now_ns = time.time_ns()
        os.utime(file.fileno(), ns=(now_ns, now_ns))
        if forced:
            os.fsync(file.fileno())


def _publish(temporary: str, output: Output) -> bool:
    if not output.exclusive:
        os.replace(temporary, output.path)
        return True
    try:
        # Unlike a rename, a link fails if the name is taken, also by a program that knows no locks.
        os.link(temporary, output.path)
    except FileExistsError:
        return False
    return True


def _sync_parents(paths: Iterator[str]) -> None:
    for directory in dict.fromkeys(map(os.path.dirname, paths)):
        try:
            sync_directory(directory)
        except OSError as cause:
            raise _unknown(directory, "the files were written, but may not survive a power failure:", cause) from cause


def remove(path: str) -> None:
    """Delete a file durably; nothing if there is none.

    Raises:
        WriteRefused: it is still there.
        WriteOutcomeUnknown: it may come back after a power failure.
    """
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
    except OSError as cause:
        raise _fault(WriteRefused, path, "cannot be deleted", cause) from cause
    _sync_parents(iter([path]))


def sweep(directory: str) -> None:
    """Delete what interrupted writes left behind. Never fails: leftovers do no harm."""
    stale_before_s = time.time() - STALE_AFTER_S
    with suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            with suppress(OSError):
                if entry.name.endswith(CONTINUED) and entry.is_dir():
                    sweep(entry.path)
                elif entry.name.startswith(TEMPORARY) and entry.stat().st_mtime < stale_before_s:
                    os.unlink(entry.path)


def set_aside(path: str) -> str | None:
    """Give a file a second name, so that its bytes outlive the write that replaces it.

    Returns that name; None if there is no file.

    Raises:
        WriteRefused: the file cannot be kept; it must not be replaced.
    """
    for number in count(1):
        kept = f"{path}.corrupt" if number == 1 else f"{path}.corrupt-{number}"
        try:
            os.link(path, kept)
        except FileExistsError:
            with suppress(OSError):
                if os.path.samefile(path, kept):
                    break
            continue
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as cause:
            raise _fault(WriteRefused, path, "is unreadable and cannot be kept aside", cause) from cause
        break
    return kept


def _fault(kind: type[BacktestKitError], path: str, what: str, cause: OSError) -> BacktestKitError:
    if cause.errno == errno.ENAMETOOLONG:
        return InvalidKey(
            f"the key makes a path that is longer than the system allows: {path:.200}... Nothing was written."
        )
    return kind(f"{path} {what}: {cause.strerror or cause}. Nothing was written.")


def _unknown(path: str, what: str, cause: OSError) -> WriteOutcomeUnknown:
    return WriteOutcomeUnknown(f"{path}: {what} {cause.strerror or cause}. Repeating the same write is safe.")
