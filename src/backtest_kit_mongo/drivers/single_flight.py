"""One find for many readers: while a key's entry is away, the threads that want it share what MongoDB says.

A reader may only use a find that began after the reader did, or it could miss a write that had returned before (P1). So
nobody joins a find under way: who comes meanwhile waits for the next one, which begins when that one has ended, and all
who wait share it. However many threads read a key, MongoDB serves one of them at a time. Nobody waits for more than the
find under way and the next one, each of which the truth bounds in time.

A signal handler may read in the middle of this, and Ctrl-C may end any line of it. So a thread that is in here already
finds for itself, a call is announced inside the `try` that ends it, and who has waited for long finds for itself too.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Final

from backtest_kit_mongo.coherence.codec import maker
from backtest_kit_mongo.coherence.effects import Find
from backtest_kit_mongo.coherence.record import Key, Record
from backtest_kit_mongo.locks import Lock

WAIT_S: Final = 10.0
"""Who has waited so long for a find of another thread finds for itself."""


class _Call:
    """One find. `waiters` join before it starts."""

    __slots__ = ("ended", "error", "is_abandoned", "record", "waiters")

    def __init__(self) -> None:
        self.ended = threading.Event()
        self.waiters = 0
        self.record: Record | None = None
        self.error: Exception | None = None
        self.is_abandoned = False

    def answer(self) -> Record:
        """What was found; every waiter gets a payload of its own.

        Raises:
            Exception: of the same type as the find raised.
        """
        if self.error is not None:
            # Not the same object: two threads that raise it would write into one traceback.
            raise type(self.error)(*self.error.args) from self.error
        assert self.record is not None
        return self.record._replace(payload=maker(self.record.payload)()) if self.waiters else self.record


class SingleFlight:
    """Thread-safe."""

    def __init__(self, find: Callable[[Find], Record], *, wait_s: float = WAIT_S) -> None:
        self._find = find
        self._wait_s = wait_s
        self._lock = Lock()
        self._forget()

    def _forget(self) -> None:
        self._process = os.getpid()
        self._next: dict[Key, _Call] = {}
        self._running: dict[Key, _Call] = {}
        self._inside: set[int] = set()

    def find(self, effect: Find) -> Record:
        if self._process != os.getpid():
            self._forget()  # What the parent's other threads were finding, nobody here will ever find.
        me = threading.get_ident()
        if me in self._inside:
            return self._find(effect)
        self._inside.add(me)
        try:
            return self._shared(effect)
        finally:
            self._inside.discard(me)

    def _shared(self, effect: Find) -> Record:
        mine = _Call()
        try:
            call, before = self._join(effect.key, mine)
            if call is not mine:
                if not call.ended.wait(self._wait_s):
                    return self._find(effect)
                return self._shared(effect) if call.is_abandoned else call.answer()
            if before is not None:
                before.ended.wait(self._wait_s)
                self._start(effect.key, mine)
            mine.record = self._find(effect)
        except Exception as error:
            mine.error = error
            raise
        except BaseException:
            # Ctrl-C is for the thread that it hit; the others ask again.
            mine.is_abandoned = True
            raise
        finally:
            try:
                self._end(effect.key, mine)
            except BaseException:
                self._end(effect.key, mine)  # Ctrl-C while it ends: those who wait must not pay for it.
                raise
        return mine.answer()

    def _join(self, key: Key, mine: _Call) -> tuple[_Call, _Call | None]:
        """The call to wait for, and the one that it has to wait for."""
        with self._lock:
            before = self._running.get(key)
            call = self._next.get(key)
            if call is not None:
                call.waiters += 1
                return call, before
            (self._running if before is None else self._next)[key] = mine
            return mine, before

    def _start(self, key: Key, call: _Call) -> None:
        with self._lock:
            if self._next.get(key) is call:
                del self._next[key]
            self._running[key] = call

    def _end(self, key: Key, call: _Call) -> None:
        with self._lock:
            for calls in (self._next, self._running):
                if calls.get(key) is call:
                    del calls[key]
        call.ended.set()
