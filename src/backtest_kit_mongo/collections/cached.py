"""`CachedPersist`: the values of another class, with copies in this process.

Coherent within the process: a read that starts after a write returned sees it or a newer one. What other processes
write is seen after `staleness_ms` at the latest; at once where the inner class hears of it (`listen`), as
`MongoPersist` does by MongoDB's change stream.
"""

from __future__ import annotations

import json
import os
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, NamedTuple

from backtest_kit_mongo.backends.persist.base import BASE_DIR, PersistBase
from backtest_kit_mongo.backends.persist.wrapper import Wrapper, innermost, needed
from backtest_kit_mongo.locks import Lock
from backtest_kit_mongo.setup import get_config

Id = str | int
Key = tuple[str, str, str]
"""Base directory, entity, id."""


@dataclass(frozen=True)
class CachedPersist(Wrapper):
    """`use_persist_<domain>_adapter(CachedPersist(PostgresPersist))`.

    Args:
        inner: a class of values, or another wrapper.
        entries_max, bytes_max: bounds on the copies of the process, of all entities together.
        staleness_ms: how long a copy may be served after it was read, so how late a write of another process is seen.
    """

    inner: Any
    entries_max: int = 10_000
    bytes_max: int = 64 * 1024 * 1024
    staleness_ms: int = 1_000

    @property
    def parts(self) -> tuple[Any, ...]:
        return (self.inner,)

    def __call__(self, entity_name: str, base_dir: str | Path = BASE_DIR) -> Cached:
        return Cached(self.inner(entity_name, base_dir), _copies_of(self), (str(base_dir), entity_name))


class _Copy(NamedTuple):
    text: str
    end_s: float


@dataclass
class _Writers:
    """Of one key, now."""

    count: int = 0
    are_several: bool = False


class Copies:
    """Copies of values as JSON text, the one that was used longest ago goes first. Thread-safe.

    A reader may keep what it found only if no write of its key began or ended since it began to look.
    """

    def __init__(self, entries_max: int, bytes_max: int, staleness_s: float) -> None:
        self._entries_max, self._bytes_max, self._staleness_s = entries_max, bytes_max, staleness_s
        self._copies: OrderedDict[Key, _Copy] = OrderedDict()
        self._bytes = 0
        self._rights: dict[Key, object] = {}
        self._writers: dict[Key, _Writers] = {}
        self._lock = Lock()
        self.hits = self.misses = 0

    def get(self, key: Key) -> tuple[str | None, object]:
        """The copy, or None and the right to keep what will be found."""
        with self._lock:
            copy = self._copies.get(key)
            if copy is not None and time.monotonic() < copy.end_s:
                self._copies.move_to_end(key)
                self.hits += 1
                return copy.text, None
            self.misses += 1
            right = object()
            if key not in self._writers:
                self._rights[key] = right
            return None, right

    def keep(self, key: Key, text: str, right: object, since_s: float) -> None:
        """What was found by a look that began at `since_s`."""
        with self._lock:
            if self._rights.get(key) is right:
                del self._rights[key]
                self._put(key, text, since_s)

    def give_back(self, key: Key, right: object) -> None:
        """Nothing was found; None is no right."""
        with self._lock:
            if right is not None and self._rights.get(key) is right:
                del self._rights[key]

    @contextmanager
    def writing(self, key: Key, text: str | None) -> Iterator[None]:
        """Around a write, which is kept if none of the same key overlapped it, and it did not fail."""
        since_s, has_happened = time.monotonic(), False
        with self._lock:
            self._forget(key)
            writers = self._writers.setdefault(key, _Writers())
            writers.count += 1
            writers.are_several |= writers.count > 1
        try:
            yield
            has_happened = True
        finally:
            with self._lock:
                self._forget(key)
                writers.count -= 1
                if not writers.count:
                    del self._writers[key]
                if has_happened and text is not None and not writers.are_several:
                    self._put(key, text, since_s)

    def forget(self, key: Key) -> None:
        """Another process has written it."""
        with self._lock:
            self._forget(key)

    def _forget(self, key: Key) -> None:
        self._rights.pop(key, None)
        found = self._copies.pop(key, None)
        if found is not None:
            self._bytes -= _size(key, found.text)

    def _put(self, key: Key, text: str, since_s: float) -> None:
        self._forget(key)
        self._copies[key] = _Copy(text, since_s + self._staleness_s)
        self._bytes += _size(key, text)
        while self._copies and (len(self._copies) > self._entries_max or self._bytes > self._bytes_max):
            oldest, copy = self._copies.popitem(last=False)
            self._bytes -= _size(oldest, copy.text)

    def __len__(self) -> int:
        return len(self._copies)


OVERHEAD_BYTES: Final = 300
"""Of a copy's objects, beside its texts."""


def _size(key: Key, text: str) -> int:
    return OVERHEAD_BYTES + 4 * (len(text) + sum(map(len, key)))


def _copies_of(made_of: CachedPersist) -> Copies:
    """Those of this process; equal wrappers over the same servers share them."""
    return _copies(made_of, os.getpid(), get_config() if needed(made_of) else None)


@lru_cache(maxsize=64)
def _copies(made_of: CachedPersist, process: int, servers: object) -> Copies:
    made = Copies(made_of.entries_max, made_of.bytes_max, made_of.staleness_ms / 1000)
    if listen := getattr(innermost(made_of), "listen", None):
        listen(made.forget)
    return made


class Cached(PersistBase):
    """The values of one entity."""

    def __init__(self, inner: Any, copies: Copies, place: tuple[str, str]) -> None:
        super().__init__(place[1], place[0])
        self.inner, self.copies, self._place = inner, copies, place

    def _key(self, id: Id) -> Key:  # noqa: A002 - the original's name
        return (*self._place, str(id))

    def wait_for_init(self, initial: bool) -> None:
        self.inner.wait_for_init(initial)

    def read_value(self, id: Id) -> Any:  # noqa: A002 - the original's name
        key, since_s = self._key(id), time.monotonic()
        text, right = self.copies.get(key)
        if text is not None:
            return json.loads(text)
        try:
            value = self.inner.read_value(id)
            self.copies.keep(key, json.dumps(value), right, since_s)
        finally:
            self.copies.give_back(key, right)
        return value

    def has_value(self, id: Id) -> bool:  # noqa: A002 - the original's name
        key = self._key(id)
        text, right = self.copies.get(key)
        self.copies.give_back(key, right)
        return text is not None or bool(self.inner.has_value(id))

    def write_value(self, id: Id, value: Any) -> None:  # noqa: A002 - the original's name
        with self._writing(id, json.dumps(value)):
            self.inner.write_value(id, value)

    def remove_value(self, id: Id) -> None:  # noqa: A002 - the original's name
        with self._writing(id, None):
            self.inner.remove_value(id)

    def _writing(self, id: Id, text: str | None) -> AbstractContextManager[None]:  # noqa: A002 - the original's name
        return self.copies.writing(self._key(id), text)

    def keys(self) -> Iterator[str]:
        return iter(self.inner.keys())
