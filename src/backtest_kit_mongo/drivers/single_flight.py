"""One find for many readers: while a key's entry is away, the threads that want it share what MongoDB says.

A reader may only use a find that began after the reader did, or it could miss a write that had returned before (P1). So
nobody joins a find under way: who comes meanwhile waits for the next one, which begins when that one has ended, and all
who wait share it. However many threads read a key, MongoDB serves one of them at a time. Nobody waits for more than the
find under way and the next one, each of which the truth bounds in time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from backtest_kit_mongo.coherence.codec import maker
from backtest_kit_mongo.coherence.effects import Find
from backtest_kit_mongo.coherence.record import Key, Record


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

    def __init__(self, find: Callable[[Find], Record]) -> None:
        self._find = find
        self._lock = threading.Lock()
        self._boarding: dict[Key, _Flight] = {}
        self._flying: dict[Key, _Flight] = {}

    def find(self, effect: Find) -> Record:
        key = effect.key
        with self._lock:
            before = self._flying.get(key)
            flight = self._boarding.get(key)
            if flight is not None:
                flight.passengers += 1
            else:
                mine = _Flight()
                (self._flying if before is None else self._boarding)[key] = mine
        if flight is not None:
            flight.landed.wait()
            return self.find(effect) if flight.is_abandoned else flight.answer()
        try:
            if before is not None:
                before.landed.wait()
                self._depart(key, mine)
            mine.record = self._find(effect)
        except Exception as error:
            mine.error = error
            raise
        except BaseException:
            # Ctrl-C is for the thread that it hit; the others ask again.
            mine.is_abandoned = True
            raise
        finally:
            self._land(key, mine)
        return mine.answer()

    def _depart(self, key: Key, flight: _Flight) -> None:
        with self._lock:
            del self._boarding[key]
            self._flying[key] = flight

    def _land(self, key: Key, flight: _Flight) -> None:
        with self._lock:
            for flights in (self._boarding, self._flying):
                if flights.get(key) is flight:
                    del flights[key]
        flight.landed.set()
