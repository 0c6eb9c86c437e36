"""`ReplicatedPersist`: the values of one class, copied to others.

A write is done when the primary has it. Then it waits in memory for each replica, whose thread carries writes out in
the order of the primary's, and tries one again until it succeeds. If too many wait, they are dropped for the entities
concerned, which are compared with the primary as soon as the replica answers: a replica is then behind for longer, and
never wrong for good. The same comparison is made when a process first uses an entity, for what one that was killed had
not copied yet.
"""

from __future__ import annotations

import atexit
import json
import os
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, NamedTuple

from backtest_kit_mongo import locks
from backtest_kit_mongo.backends.persist.base import BASE_DIR, PersistBase
from backtest_kit_mongo.backends.persist.wrapper import Wrapper, lists_keys
from backtest_kit_mongo.errors import InvalidSetting, NotFound
from backtest_kit_mongo.locks import Lock

logger = locks.logger(__name__)

Id = str | int
Place = tuple[str, str]
"""Entity, base directory."""
AGAIN_S: Final = 0.2
AGAIN_MAX_S: Final = 5.0
CLOSE_S: Final = 10.0
"""How long the end of a program waits for its replicas."""


class Lag(NamedTuple):
    """How far a replica is behind.

    Attributes:
        waiting: writes that it has not got yet.
        entities: of which it is not known what is missing; they are compared.
        oldest_s: for how long the oldest of both waits.
        error: why, if it does not answer.
    """

    replica: str
    waiting: int
    entities: int
    oldest_s: float
    error: str


@dataclass(frozen=True)
class ReplicatedPersist(Wrapper):
    """`use_persist_<domain>_adapter(ReplicatedPersist(PostgresPersist, (RedisPersist,)))`.

    Args:
        primary: a class of values, or another wrapper; what is read comes from it.
        replicas: of the same kind.
        bytes_max: bound on what waits for a replica.
    """

    primary: Any
    replicas: tuple[Any, ...]
    bytes_max: int = 64 * 1024 * 1024

    def __post_init__(self) -> None:
        object.__setattr__(self, "replicas", tuple(self.replicas))
        if not self.replicas or self.primary in self.replicas:
            raise InvalidSetting("ReplicatedPersist takes a primary and at least one replica that is another class")
        if lacking := [_name(part) for part in self.parts if not lists_keys(part)]:
            raise InvalidSetting(f"{', '.join(lacking)}: without keys() a replica cannot be compared with its primary")

    @property
    def parts(self) -> tuple[Any, ...]:
        return (self.primary, *self.replicas)

    def __call__(self, entity_name: str, base_dir: str | Path = BASE_DIR) -> Replicated:
        return Replicated(self.primary(entity_name, base_dir), _lines(self, os.getpid()), (entity_name, str(base_dir)))

    def lag(self) -> list[Lag]:
        """How far each replica is behind what this process wrote."""
        return [line.lag() for line in _lines(self, os.getpid())]

    def close(self, timeout_s: float = CLOSE_S) -> list[Lag]:
        """Wait until all replicas have everything. What is left is logged and returned; the end of the program does
        this too.
        """
        end_s = time.monotonic() + timeout_s
        return [left for line in _lines(self, os.getpid()) if (left := line.drain(end_s)) is not None]


class _Write(NamedTuple):
    place: Place
    id: str
    text: str | None
    since_s: float

    @property
    def size(self) -> int:
        return 200 + 4 * (len(self.text or "") + len(self.id))


class Line:
    """What waits for one replica, and the thread that carries it there."""

    def __init__(self, primary: Any, replica: Any, bytes_max: int) -> None:
        self._primary, self._replica, self._bytes_max = primary, replica, bytes_max
        self._waiting: deque[_Write] = deque()
        self._waits: Counter[tuple[Place, str]] = Counter()
        self._bytes = 0
        self._opened = lru_cache(maxsize=1_000)(_open)
        self._unknown: dict[Place, float] = {}
        self._lock = Lock()
        self._news = threading.Event()
        self._thread: threading.Thread | None = None
        self._error = ""

    def compare(self, place: Place) -> None:
        """It is not known what the replica has of an entity."""
        with self._lock:
            self._unknown.setdefault(place, time.monotonic())
        self._go_on()

    def add(self, place: Place, id: str, text: str | None) -> None:  # noqa: A002 - the original's name
        write = _Write(place, id, text, time.monotonic())
        with self._lock:
            if place in self._unknown:
                self._unknown[place] = write.since_s  # It changed while it was compared: once more.
            else:
                self._waiting.append(write)
                self._waits[place, id] += 1
                self._bytes += write.size
            if self._bytes > self._bytes_max:
                for dropped in self._waiting:
                    self._unknown.setdefault(dropped.place, dropped.since_s)
                self._waiting.clear()
                self._waits.clear()
                self._bytes = 0
        self._go_on()

    def _go_on(self) -> None:
        self._news.set()
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=f"replica {_name(self._replica)}", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        pause_s = AGAIN_S
        while True:
            self._news.wait()
            try:
                self._news.clear()
                while self._carry_one():
                    pass
                if self._error:
                    logger.warning("replica %s answers again", _name(self._replica))
                self._error, pause_s = "", AGAIN_S
            except Exception as cause:
                if not self._error:
                    logger.warning("replica %s is behind, and tried again: %r", _name(self._replica), cause)
                self._error = f"{cause!r:.200}"
                self._news.set()
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, AGAIN_MAX_S)

    def is_level(self) -> bool:
        with self._lock:
            return not (self._waiting or self._unknown or self._error)

    def _carry_one(self) -> bool:
        """Whether there was anything to do."""
        with self._lock:
            write = self._waiting[0] if self._waiting else None
            unknown = None if write else next(iter(self._unknown.items()), None)
        if write is not None:
            _put(self._opened(self._replica, write.place), write.id, write.text)
            is_last = self._is_carried(write)
            if is_last and _get(self._opened(self._primary, write.place), write.id) != write.text:
                self.compare(write.place)  # Another process has written it meanwhile, and may have been copied first.
        elif unknown is not None:
            place, since_s = unknown
            self._copy(place)
            with self._lock:
                if self._unknown.get(place) == since_s:
                    del self._unknown[place]
        return write is not None or unknown is not None

    def _is_carried(self, write: _Write) -> bool:
        """Whether no other write of the same value waits."""
        name = write.place, write.id
        with self._lock:
            if self._waiting and self._waiting[0] is write:  # Unless all were dropped meanwhile.
                self._waiting.popleft()
                self._bytes -= write.size
                self._waits[name] -= 1
            if not self._waits[name]:
                del self._waits[name]
            return name not in self._waits

    def _copy(self, place: Place) -> None:
        primary, replica = self._opened(self._primary, place), self._opened(self._replica, place)
        wanted = list(primary.keys())
        for id in wanted:  # noqa: A001 - the original's name
            text = _get(primary, id)
            if text != _get(replica, id):
                _put(replica, id, text)
        for id in {*replica.keys()} - {*wanted}:  # noqa: A001 - the original's name
            if _get(primary, id) is None:
                _put(replica, id, None)

    def lag(self) -> Lag:
        with self._lock:
            since_s = [*(write.since_s for write in list(self._waiting)[:1]), *self._unknown.values()]
            oldest_s = time.monotonic() - min(since_s) if since_s else 0.0
            return Lag(_name(self._replica), len(self._waiting), len(self._unknown), oldest_s, self._error)

    def drain(self, end_s: float) -> Lag | None:
        """What is left then; None: nothing."""
        while not self.is_level():
            if time.monotonic() > end_s:
                left = self.lag()
                logger.error(
                    "replica %s lacks %d writes and is not compared in %d entities: %s. The next process that uses "
                    "them brings it up to date.", left.replica, left.waiting, left.entities, left.error or "no time"
                )  # fmt: skip
                return left
            time.sleep(0.005)
        return None


def _open(maker: Any, place: Place) -> Any:
    values = maker(*place)
    values.wait_for_init(True)
    return values


def _name(maker: Any) -> str:
    return getattr(maker, "__qualname__", None) or repr(maker)


def _get(values: Any, id: str) -> str | None:  # noqa: A002 - the original's name
    try:
        return json.dumps(values.read_value(id))
    except NotFound:
        return None
    except Exception:
        if values.has_value(id):
            raise
        return None


def _put(values: Any, id: str, text: str | None) -> None:  # noqa: A002 - the original's name
    if text is not None:
        values.write_value(id, json.loads(text))
    elif values.has_value(id):
        values.remove_value(id)


@lru_cache(maxsize=64)
def _lines(made_of: ReplicatedPersist, process: int) -> tuple[Line, ...]:
    """Those of a process; equal wrappers share them."""
    _at_exit(made_of.close)
    return tuple(Line(made_of.primary, replica, made_of.bytes_max) for replica in made_of.replicas)


def _at_exit(close: Callable[[], object]) -> None:
    """A child of `multiprocessing` ends without atexit, with finalizers of its own."""
    util = sys.modules.get("multiprocessing.util")
    if util is not None and sys.modules["multiprocessing"].parent_process() is not None:
        util.Finalize(None, close, exitpriority=10)
    else:
        atexit.register(close)


_IN_ORDER: Final = tuple(Lock() for _ in range(64))
"""One write of an entity at a time, so that replicas get them in the primary's order."""


class Replicated(PersistBase):
    """The values of one entity."""

    def __init__(self, primary: Any, lines: tuple[Line, ...], place: Place) -> None:
        super().__init__(*place)
        self.primary, self._lines, self._place = primary, lines, place
        self._lock = _IN_ORDER[hash(place) % len(_IN_ORDER)]

    def wait_for_init(self, initial: bool) -> None:
        self.primary.wait_for_init(initial)
        if initial:
            for line in self._lines:
                line.compare(self._place)

    def read_value(self, id: Id) -> Any:  # noqa: A002 - the original's name
        return self.primary.read_value(id)

    def has_value(self, id: Id) -> bool:  # noqa: A002 - the original's name
        return bool(self.primary.has_value(id))

    def write_value(self, id: Id, value: Any) -> None:  # noqa: A002 - the original's name
        self._write(str(id), json.dumps(value), lambda: self.primary.write_value(id, value))

    def remove_value(self, id: Id) -> None:  # noqa: A002 - the original's name
        self._write(str(id), None, lambda: self.primary.remove_value(id))

    def _write(self, id: str, text: str | None, write: Callable[[], None]) -> None:  # noqa: A002 - the original's name
        with self._lock:
            try:
                write()
            except BaseException:
                for line in self._lines:
                    line.compare(self._place)  # It may have happened.
                raise
            for line in self._lines:
                line.add(self._place, id, text)

    def keys(self) -> Iterator[str]:
        return iter(self.primary.keys())
