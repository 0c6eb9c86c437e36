"""What is asked, and what is kept of the answers for a moment.

Everything is read from the truth, past the cache: a page that is looked at puts nothing into Redis.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from pymongo.database import Database

from backtest_kit_mongo.audit.log import AuditLog
from backtest_kit_mongo.audit.targets import Target
from backtest_kit_mongo.feed.opened import FeedServers, open_servers
from backtest_kit_mongo.settings import Settings
from backtest_kit_mongo.setup import make_reader

from . import words

__all__ = ["WAIT_S", "Kept", "Look", "Sources"]

T = TypeVar("T")
THREADS: Final = 8
"""That ask what takes longer than a page may: one for each answer that is kept, so that none waits for another."""
KEPT_MAX: Final = 100
"""Answers; of more, what was not asked for longest is forgotten."""
FAILED_S: Final = 2.0
"""So soon it is tried again what could not be found out."""
WAIT_S: Final = 0.15
"""So long a page waits for an answer that is being made."""


@dataclass(frozen=True, slots=True)
class Look(Generic[T]):
    """An answer and how old it is.

    Attributes:
        value: None while nobody has looked, or if that failed.
        at_ms: when it was found out, epoch ms; 0: not yet.
        trouble: why it could not be found out.
    """

    value: T | None = None
    at_ms: int = 0
    trouble: str = ""


class Kept(Generic[T]):
    """An answer that is made in the background when somebody asks and it is not fresh. Who asks waits for it a little,
    and otherwise gets the last one with its age.

    Args:
        make: finds out; runs in one thread at a time.
        fresh_s: for how long an answer is good.
        said: an error in words.
    """

    def __init__(
        self, pool: ThreadPoolExecutor, make: Callable[[], T], fresh_s: float, said: Callable[[Exception], str]
    ) -> None:
        self._pool, self._make, self._fresh_s, self._said = pool, make, fresh_s, said
        self._lock = threading.Lock()
        self._look: Look[T] = Look()
        self._until_s = 0.0
        self._running: Future[None] | None = None

    def begin(self) -> Future[None] | None:
        """Begin to find out if the answer is not fresh; None: it is."""
        with self._lock:
            if self._running is None and time.monotonic() >= self._until_s:
                self._running = self._pool.submit(self._remake)
            return self._running

    def get(self, wait_s: float = WAIT_S) -> Look[T]:
        running = self.begin()
        if running is not None:
            wait([running], wait_s)
        return self._look

    def _remake(self) -> None:
        try:
            look: Look[T] = Look(self._make(), words.now_ms())
        except Exception as cause:
            look = Look(None, words.now_ms(), self._said(cause))
        fresh_s = min(self._fresh_s, FAILED_S) if look.trouble else self._fresh_s
        with self._lock:
            self._look, self._until_s, self._running = look, time.monotonic() + fresh_s, None


class Sources:
    """Clients of both servers, opened when they are first asked, closed once. All of it is thread-safe.

    Attributes:
        feed: both servers as operators look at them.
        reader: documents as they are in MongoDB.
        log: the audit log.
        anchors: where anchors are kept that the log is compared with.
    """

    def __init__(self, settings: Settings, anchors: Sequence[Target] = ()) -> None:
        self.settings, self.anchors = settings, anchors
        self._opened = ExitStack()
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="bkm-console")
        self._opened.callback(self._pool.shutdown, cancel_futures=True)
        self._kept: OrderedDict[str, Kept[Any]] = OrderedDict()
        self._lock = threading.Lock()
        self.feed: FeedServers = self._opened.enter_context(open_servers(settings))
        self.reader = make_reader(settings)
        self._opened.callback(self.reader.close)
        self.log = AuditLog(self.database)

    @property
    def database(self) -> Database[dict[str, Any]]:
        return self.feed.database

    def look(self, name: str, make: Callable[[], T], fresh_s: float, wait_s: float = WAIT_S) -> Look[T]:
        """What `make` finds out, as `Kept` keeps it under a name."""
        found: Look[T] = self._named(name, make, fresh_s).get(wait_s)
        return found

    def begin(self, name: str, make: Callable[[], object], fresh_s: float) -> None:
        """Begin to find it out: who asks for several answers begins all before it waits for one."""
        self._named(name, make, fresh_s).begin()

    def _named(self, name: str, make: Callable[[], T], fresh_s: float) -> Kept[T]:
        with self._lock:
            found = self._kept.setdefault(name, Kept(self._pool, make, fresh_s, self.said))
            self._kept.move_to_end(name)
            if len(self._kept) > KEPT_MAX:
                self._kept.popitem(last=False)
            return found

    def said(self, cause: Exception) -> str:
        return words.said(cause, self.settings)

    def close(self) -> None:
        self._opened.close()
