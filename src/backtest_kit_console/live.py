"""One reader of the feed for all browsers.

It runs while somebody looks at positions, and a minute longer. Twice a second it asks each stream what was
appended of two domains (Redis gives it nothing else), and twice a minute it reads the documents anew: for what foreign
programs wrote, which has no event, and for what a Redis that lost its memory forgot.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import inf
from typing import Final, NamedTuple

import redis
from pymongo.errors import PyMongoError

from backtest_kit_mongo.backends.mongo.browsing import key_of
from backtest_kit_mongo.backends.mongo.decoding import TOLERANT, unreferenced
from backtest_kit_mongo.backends.mongo.layout import collection_of, payload_field
from backtest_kit_mongo.coherence.record import Domain
from backtest_kit_mongo.domains.table import BY_NAME
from backtest_kit_mongo.feed.newest import after
from backtest_kit_mongo.feed.scripts import ask_info

from . import words
from .board import DOMAINS, Board, Changed, Name, Position
from .sources import Sources

__all__ = ["OPEN_MAX", "Change", "Live"]

logger = logging.getLogger(__name__)

TICK_S: Final = 0.5
RELOAD_S: Final = 30.0
LINGER_S: Final = 60.0
OPEN_MAX: Final = 20_000
"""Positions that are looked at; of more, the first by key."""
KEPT_MAX: Final = 2_000
"""Changes that a browser may have missed; one that missed more loads the page anew."""


class Change(NamedTuple):
    """A position that changed; `position` is None if it is open no more."""

    version: int
    name: Name
    position: Position | None

    @property
    def element(self) -> str:
        """Its id on a page."""
        return Position(*self.name, "", 0, {}).element


class Live:
    """Positions as they are now, and what changes of them.

    Attributes:
        counts: how many positions are open, and how many orders wait.
        trouble: why the feed or the documents cannot be read; empty while they can.
        read_ms: when they were last read, epoch ms.
        epoch: tells the versions of this server from those of one before.
        is_ending: whether the server is about to end, so that streams do.
    """

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._board = Board()
        self._lasts: dict[str, str] = {}
        self._changes: deque[Change] = deque(maxlen=KEPT_MAX)
        self._listeners: dict[asyncio.Event, asyncio.AbstractEventLoop] = {}
        self._lock = threading.Lock()
        self._loaded, self._ended = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._wanted_s = self._loaded_s = -inf
        self.version = 0
        self.counts = 0, 0
        self.is_ending: Callable[[], bool] = self._ended.is_set
        self.epoch = secrets.token_hex(4)
        self.trouble = ""
        self.read_ms = 0

    def positions(self, wait_s: float = 5.0) -> tuple[list[Position], int]:
        """All that are open, and the version that they are of. The first who asks waits until they are read."""
        self.begin()
        self._loaded.wait(wait_s)
        with self._lock:
            return list(self._board), self.version

    def since(self, version: int) -> list[Change] | None:
        """What changed after a version, of each position the last; None if that is not known any more."""
        with self._lock:
            first = self._changes[0].version if self._changes else self.version + 1
            if not first - 1 <= version <= self.version:
                return None
            later: dict[Name, Change] = {}
            for change in reversed(self._changes):
                if change.version <= version:
                    break
                later.setdefault(change.name, change)
        return list(reversed(later.values()))

    @contextmanager
    def listening(self) -> Iterator[asyncio.Event]:
        """Set whenever there is something new; for coroutines."""
        event = asyncio.Event()
        with self._lock:
            self._listeners[event] = asyncio.get_running_loop()
        try:
            self.begin()
            yield event
        finally:
            with self._lock:
                del self._listeners[event]

    @property
    def listeners_count(self) -> int:
        return len(self._listeners)

    def close(self) -> None:
        self._ended.set()
        thread = self._thread
        if thread is not None:
            thread.join(5)

    def begin(self) -> None:
        """Somebody looks, or will soon."""
        with self._lock:
            self._wanted_s = time.monotonic()
            if self._thread is None and not self._ended.is_set():
                self._thread = threading.Thread(target=self._run, name="bkm-console-live", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while not self._ended.is_set():
            with self._lock:
                if not self._listeners and time.monotonic() - self._wanted_s > LINGER_S:
                    self._thread = None
                    self._loaded.clear()
                    self._loaded_s = -inf
                    return
            self._look()
            self._ended.wait(TICK_S)

    def _look(self) -> None:
        changed: list[Changed] = []
        trouble = ""
        try:
            if time.monotonic() - self._loaded_s > RELOAD_S:
                changed += self._reload()
            self._read(changed)
        except (redis.RedisError, PyMongoError, OSError) as cause:
            trouble = self._sources.said(cause)
        except Exception:
            logger.exception("positions cannot be read")
            trouble = "Positions cannot be read; the server's log says why."
        self._publish(changed, trouble)

    def _publish(self, changed: Sequence[Changed], trouble: str) -> None:
        with self._lock:
            self.version += max(0, len(changed) - KEPT_MAX)  # Of so many nobody can be told all.
            for name, position in changed[-KEPT_MAX:]:
                self.version += 1
                self._changes.append(Change(self.version, name, position))
            if changed:
                self.counts = self._board.counts()
            is_news = bool(changed) or trouble != self.trouble
            self.trouble = trouble
            if not trouble:
                self.read_ms = words.now_ms()
            listeners = list(self._listeners.items()) if is_news else []
        self._loaded.set()
        for event, loop in listeners:
            _wake(event, loop)

    def _reload(self) -> list[Changed]:
        """Where the streams end, and then the documents: what is written meanwhile comes as an event."""
        lasts = {}
        for stream in self._sources.feed.streams:
            info = ask_info(self._sources.feed.redis, stream)
            lasts[stream] = "0-0" if info is None else info.last
        found = [one for name in DOMAINS for one in self._documents(BY_NAME[name])][:OPEN_MAX]
        with self._lock:
            changed = self._board.replace(found)
        self._lasts, self._loaded_s = lasts, time.monotonic()
        return changed

    def _documents(self, domain: Domain) -> Iterator[Position]:
        field = payload_field(domain)
        kept = self._sources.database.get_collection(collection_of(domain), TOLERANT)
        for stored in kept.find({field: {"$ne": None}}, limit=OPEN_MAX):
            key, payload = key_of(domain, stored), unreferenced(stored[field])
            if key is not None and isinstance(payload, dict):
                rev, changed = stored.get("rev"), words.millis_of(stored.get("updatedDate"))
                yield Position(
                    domain.name, key.parts, str(stored["_id"]), int(rev) if isinstance(rev, int) else 0, payload,
                    None if changed is None else int(changed),
                )  # fmt: skip

    def _read(self, changed: list[Changed]) -> None:
        """What was appended, into `changed`: what is known when a server fails is known."""
        for stream, last in list(self._lasts.items()):
            more = True
            while more and not self._ended.is_set():
                last, events, more = after(self._sources.feed.redis, stream, last, DOMAINS)
                with self._lock:
                    changed += [one for one in map(self._board.apply, events) if one is not None]
                self._lasts[stream] = last


def _wake(event: asyncio.Event, loop: asyncio.AbstractEventLoop) -> None:
    try:
        loop.call_soon_threadsafe(event.set)
    except RuntimeError:
        logger.debug("a browser's loop is closed")
