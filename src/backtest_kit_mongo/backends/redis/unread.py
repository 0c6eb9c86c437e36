"""Answers that nobody waits for.

COMMIT need not be waited for (`docs/adr/0038`): it is sent, and its answer is left on its connection. The thread's next
command goes over the same connection, so it is executed after it, and reads that answer first. Who sends nothing more
has it read by a thread of ours within twice `IDLE_S`, which ends when it has had nothing to do for a while.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from contextvars import Context
from queue import Empty, SimpleQueue
from threading import get_ident
from typing import Any, Final, NamedTuple, TypeAlias

from backtest_kit_mongo import locks

logger = locks.logger(__name__)

IDLE_S: Final = 0.02
LINGER_S: Final = 10.0
"""How long the thread that reads waits for something to read."""
Then: TypeAlias = Callable[[Any], None]
"""What is done with an answer, or with the error that came instead. It raises nothing."""


class Unread(NamedTuple):
    """A connection with an answer on its way.

    Attributes:
        idle: the pool that it came from.
        context: of the command: whoever reads the answer, what follows from it belongs to its cause and its trace.
        sent_s: when the command was sent, on the monotonic clock.
    """

    connection: Any
    idle: deque[Any]
    then: Then
    context: Context
    sent_s: float

    def told(self, answer: Any) -> None:
        """Give the answer to whom it is for, whatever the caller is in the middle of."""
        try:
            self.context.run(self.then, answer)
        except Exception:
            logger.exception("the answer to a COMMIT was not understood")


class Answers:
    """One unread answer a thread, at most. Every one of them is taken by exactly one caller, which reads it.

    Args:
        read: reads an answer and does with it what is to be done.
    """

    def __init__(self, read: Callable[[Unread], None]) -> None:
        self._read = read
        self._of_threads: dict[int, Unread] = {}
        self._lock = locks.Lock()
        self._is_reading = False
        self._wakes: SimpleQueue[None] = SimpleQueue()  # Unlike an event's, its lock may be wanted twice by one thread.
        self._reader: threading.Thread | None = None

    def take(self) -> Unread | None:
        """This thread's own."""
        return self._of_threads.pop(get_ident(), None)

    def leave(self, unread: Unread) -> None:
        """To be taken by this thread's next command, or read by the reader."""
        if self._of_threads.setdefault(get_ident(), unread) is not unread:
            self._read(unread)  # A signal handler, in the middle of a command of this thread, has left one too.
            return
        if not self._is_reading:
            self._is_reading = True
            self._wakes.put(None)
        if self._reader is None:
            self._reader = threading.Thread(target=self._read_idle, name="cache-answers", daemon=True)
            try:
                self._reader.start()
            except RuntimeError:  # The interpreter is ending.
                self._reader = None
                self.settle()

    def settle(self) -> None:
        """Read all answers that are on their way, whoever's they are, and wait for the one that is being read."""
        with self._lock.quietly():
            self._read_of(list(self._of_threads))

    def _read_of(self, threads: list[int]) -> None:
        for thread in threads:
            with self._lock.quietly():
                unread = self._of_threads.pop(thread, None)
                if unread is not None:
                    self._read(unread)

    def _read_idle(self) -> None:
        while self._is_woken():
            while self._of_threads:
                time.sleep(IDLE_S)
                since_s = time.monotonic() - IDLE_S
                # One that has been replaced meanwhile is only read sooner than it would have been.
                self._read_of([thread for thread, one in list(self._of_threads.items()) if one.sent_s <= since_s])
            self._is_reading = False
            if self._of_threads:
                self._wakes.put(None)  # Left in between, by somebody who took this thread for awake.

    def _is_woken(self) -> bool:
        """False: nobody has left anything for long, and this thread ends."""
        try:
            self._wakes.get(timeout=LINGER_S)
        except Empty:
            self._reader = None
            if not self._of_threads:
                return False
            self._reader = threading.current_thread()
        return True
