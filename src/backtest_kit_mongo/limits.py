"""A moment after which nothing that this block wrote may reach MongoDB: for holders of a lease of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from math import inf
from typing import Final

__all__ = ["write_limit_s", "write_until"]

_limit_s: ContextVar[float] = ContextVar("backtest_kit_write_limit", default=inf)
write_limit_s: Final[Callable[[], float]] = _limit_s.get
"""The moment in force here, on the monotonic clock; infinite without a block."""


@contextmanager
def write_until(moment_s: float) -> Iterator[None]:
    """Every write of this thread or task in the block is executed by MongoDB before a moment, or never.

    A process that holds something by a lease (a bot its context) writes under the lease's end: if it is only asleep
    until after that, MongoDB refuses what it sends when it wakes. Half of the time that is left is for the call, half
    for the way of its command. Files and memory know no deadlines. Candles of more than one chunk are written by other
    threads, and not bounded.

    Args:
        moment_s: on this process's monotonic clock (`time.monotonic()`), seconds. Of nested blocks the earliest counts.

    Raises:
        WriteRefused, WriteTooLate: by a write in the block; the moment has passed, and nothing was written.
        WriteOutcomeUnknown: by a write in the block; it has happened by that moment, or never will.
    """
    token = _limit_s.set(min(moment_s, _limit_s.get()))
    try:
        yield
    finally:
        _limit_s.reset(token)
