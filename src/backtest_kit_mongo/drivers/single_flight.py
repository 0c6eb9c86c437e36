"""One find for many readers: while a key's entry is away, the threads that want it share what MongoDB says.

A reader may only use a find that began after the reader did, or it could miss a write that had returned before (P1). So
nobody joins a find under way: who comes meanwhile waits for the next one, which begins when that one has ended, and all
who wait share it. However many threads read a key, MongoDB serves one of them at a time. Nobody waits for more than the
find under way and the next one, each of which the truth bounds in time.

A signal handler may read in the middle of this, and Ctrl-C may end any line of it. So a thread that is in here already
finds for itself, a flight is announced inside the `try` that lands it, and who has waited for long finds for itself too.
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


class _Flight:
    """One find. `passengers` join before it departs."""

    __slots__ = ("error", "is_abandoned", "landed", "passengers", "record")

    def __init__(self) -> None:
        self.landed = threading.Event()
        self.passengers = 0
        self.record: Record | None = None
        self.error: Exception | None = None
        self.is_abandoned = False

    def answer(self) -> Record:
        """What was found; every passenger gets a payload of its own.

        Raises:
            Exception: of the same type as the find raised.
        """
        if self.error is not None:
            # Not the same object: two threads that raise it would write into one traceback.
            raise type(self.error)(*self.error.args) from self.error
        assert self.record is not None
        return self.record._replace(payload=maker(self.record.payload)()) if self.passengers else self.record


class Flights:
    """Thread-safe."""

    def __init__(self, find: Callable[[Find], Record], *, wait_s: float = WAIT_S) -> None:
        self._find = find
        self._wait_s = wait_s
        self._lock = Lock()
        self._forget()

    def _forget(self) -> None:
        self._process = os.getpid()
        self._boarding: dict[Key, _Flight] = {}
        self._flying: dict[Key, _Flight] = {}
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
        mine = _Flight()
        try:
            flight, before = self._board(effect.key, mine)
            if flight is not mine:
                if not flight.landed.wait(self._wait_s):
                    return self._find(effect)
                return self._shared(effect) if flight.is_abandoned else flight.answer()
            if before is not None:
                before.landed.wait(self._wait_s)
                self._depart(effect.key, mine)
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
                self._land(effect.key, mine)
            except BaseException:
                self._land(effect.key, mine)  # Ctrl-C in the landing: those who wait must not pay for it.
                raise
        return mine.answer()

    def _board(self, key: Key, mine: _Flight) -> tuple[_Flight, _Flight | None]:
        """The flight to take, and the one that it has to wait for."""
        with self._lock:
            before = self._flying.get(key)
            flight = self._boarding.get(key)
            if flight is not None:
                flight.passengers += 1
                return flight, before
            (self._flying if before is None else self._boarding)[key] = mine
            return mine, before

    def _depart(self, key: Key, flight: _Flight) -> None:
        with self._lock:
            if self._boarding.get(key) is flight:
                del self._boarding[key]
            self._flying[key] = flight

    def _land(self, key: Key, flight: _Flight) -> None:
        with self._lock:
            for flights in (self._boarding, self._flying):
                if flights.get(key) is flight:
                    del flights[key]
        flight.landed.set()
