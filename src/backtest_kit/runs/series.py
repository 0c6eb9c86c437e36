"""One copy of a run's candles per host: a file of columns that every process maps into its memory.

The file's name is the hash of what it holds, so it never changes; whoever needs one that is missing reads the candles
from where they come from, once, while the others wait. `CC_CANDLE_CACHE_DIR` names the directory and
`CC_CANDLE_CACHE_MB` bounds it; the files that were not used for the longest time go first. They can be deleted at any
time.
"""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path
from typing import Final

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from platformdirs import user_cache_path

from backtest_kit.bars import Series
from backtest_kit.errors import DeclarationError
from backtest_kit.identity import digest

__all__ = ["SeriesFiles", "fingerprint"]

COLUMNS: Final = ("open", "high", "low", "close", "volume")
DEFAULT_MB: Final = 2048
MAPPED_MAX: Final = 8
"""Files that a process keeps mapped; the mapping costs it no memory of its own."""
KINDS: Final = ("*.candles", "*.block", "*.unfinished")
"""What is bounded: columns of series, the blocks of MongoDB that they were made of, and what killed makers left."""
NOTES_S: Final = 86_400
"""A note belongs to one sweep."""


def fingerprint(series: Series) -> str:
    """Hash of candles: 32 hexadecimal characters that depend on their times and values alone."""
    return _digest([np.ascontiguousarray(column) for column in _columns(series)])


def _columns(series: Series) -> list[NDArray[np.generic]]:
    return [series.timestamp.astype(np.int64, copy=False), *(getattr(series, name) for name in COLUMNS)]


def _digest(columns: list[NDArray[np.generic]]) -> str:
    found = blake2b(digest_size=16)
    for column in columns:
        found.update(column.data)
    return found.hexdigest()


class SeriesFiles:
    """The directory of this host.

    Args:
        directory: default: `CC_CANDLE_CACHE_DIR`, or this user's cache directory.
        bound_mb: default: `CC_CANDLE_CACHE_MB`, or 2048.
    """

    def __init__(self, directory: Path | None = None, bound_mb: int | None = None) -> None:
        named = os.environ.get("CC_CANDLE_CACHE_DIR", "").strip()
        self.directory = directory or (Path(named) if named else user_cache_path("backtest-kit") / "candles")
        self.bound_mb = _bound() if bound_mb is None else bound_mb
        self._mapped: OrderedDict[str, Series] = OrderedDict()

    def get(self, name: str, step_ms: int, read: Callable[[], Series]) -> Series:
        """Candles by their fingerprint; if this host does not have them yet, as `read` answers.

        Raises:
            DeclarationError: what `read` answers has another fingerprint: the candles have changed since the study was
                planned.
        """
        if name in self._mapped:
            self._mapped.move_to_end(name)
            return self._mapped[name]
        path = self.directory / f"{name}.candles"
        found = self._open(path, name, step_ms)
        if found is None:
            with self._writing():
                self.directory.mkdir(parents=True, exist_ok=True)
            with FileLock(self.directory / f"{name}.lock"):
                found = self._open(path, name, step_ms) or self._make(path, name, step_ms, read)
        self._mapped[name] = found
        if len(self._mapped) > MAPPED_MAX:
            self._mapped.popitem(last=False)
        return found

    def put(self, series: Series) -> str:
        """Keep candles that were read already; their fingerprint."""
        name = fingerprint(series)
        self.get(name, series.step_ms, lambda: series)
        return name

    def noted(self, whose: str, what: str, read: Callable[[], Series]) -> Series:
        """Candles that one process of this host reads or makes, and the others find, as long as `whose` lasts."""
        note = self.directory / f"{digest('noted', whose, what)}.note"
        with self._writing():
            self.directory.mkdir(parents=True, exist_ok=True)
        with FileLock(note.with_suffix(".lock")):
            found = self._of_note(note)
            if found is None:
                found = read()
                if len(found):
                    name = self.put(found)
                    note.write_text(f"{found.step_ms} {name}")
                    found = self._mapped[name]
            return found

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as cause:
            raise DeclarationError(
                f"candles cannot be kept in {self.directory}: {cause.strerror or cause}. Name a directory that can be "
                "written and has room: CC_CANDLE_CACHE_DIR."
            ) from cause

    def _of_note(self, note: Path) -> Series | None:
        try:
            step_ms, name = note.read_text().split()
        except (OSError, ValueError):
            return None
        return self._mapped.get(name) or self._open(self.directory / f"{name}.candles", name, int(step_ms))

    def _make(self, path: Path, name: str, step_ms: int, read: Callable[[], Series]) -> Series:
        series = read()
        if (found := fingerprint(series)) != name:
            raise DeclarationError(
                f"the candles here are not those that the study was planned with ({found}, not {name}): they have "
                "changed since, or this host reads them from elsewhere. Plan the study again."
            )
        unfinished = path.with_suffix(".unfinished")  # Under the lock; what a killed maker left is written over.
        with self._writing(), unfinished.open("wb") as file:
            for column in _columns(series):
                file.write(np.ascontiguousarray(column).data)
        unfinished.replace(path)
        self._tidy(keep=path)
        return self._open(path, name, step_ms) or series

    def _open(self, path: Path, name: str, step_ms: int) -> Series | None:
        """None: it is not there, or is not what its name says; then it is made again."""
        try:
            raw = np.memmap(path, np.uint8, "r")
            os.utime(path)
        except (OSError, ValueError):
            return None
        count = len(raw) // (8 * (1 + len(COLUMNS)))
        kinds = (np.dtype(np.int64), *(np.dtype(np.float64) for _ in COLUMNS))
        columns = [raw[8 * count * at : 8 * count * (at + 1)].view(kind) for at, kind in enumerate(kinds)]
        if not count or len(raw) % (8 * len(kinds)) or _digest([np.asarray(column) for column in columns]) != name:
            with suppress(OSError):
                path.unlink()
            return None
        first = int(columns[0][0])
        return Series(first, step_ms, *(np.asarray(column) for column in columns))  # type: ignore[arg-type]

    def _tidy(self, keep: Path) -> None:
        """Whoever has a file mapped that goes keeps its mapping."""
        for note in self.directory.glob("*.note"):
            if _used(note) < time.time() - NOTES_S:
                with suppress(OSError):
                    note.unlink()
                    note.with_suffix(".lock").unlink()
        files = sorted((file for kind in KINDS for file in self.directory.glob(kind)), key=_used)
        total = sum(_size(file) for file in files)
        for file in files:
            if total <= self.bound_mb << 20:
                return
            if file != keep:
                total -= _size(file)
                with suppress(OSError):
                    file.unlink()  # Its lock stays: who waits for it would not meet who makes a new one.


def _bound() -> int:
    text = os.environ.get("CC_CANDLE_CACHE_MB", "").strip()
    if not text:
        return DEFAULT_MB
    if not text.isdecimal() or not int(text):
        raise DeclarationError(f"CC_CANDLE_CACHE_MB is a number of megabytes, not {text!r:.40}")
    return int(text)


def _used(file: Path) -> float:
    with suppress(OSError):
        return file.stat().st_mtime
    return 0.0


def _size(file: Path) -> int:
    with suppress(OSError):
        return file.stat().st_size
    return 0
