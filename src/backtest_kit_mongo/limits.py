"""A moment after which nothing that this block wrote may reach MongoDB: for holders of a lease of their own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from math import inf, isnan
from typing import Any, Final

from backtest_kit_mongo.coherence.codec import plain_scalar
from backtest_kit_mongo.errors import InvalidKey

__all__ = ["write_limit_s", "write_until"]

_limit_s: ContextVar[float] = ContextVar("backtest_kit_write_limit", default=inf)
write_limit_s: Final[Callable[[], float]] = _limit_s.get
"""The moment in force here, on the monotonic clock; infinite without a block."""
AHEAD_MAX_S: Final = 366 * 86_400
"""No lease is that long. The clock counts from the start of the machine, so a moment of another clock lies beyond."""


@contextmanager
def write_until(moment_s: float) -> Iterator[None]:
    """Every write of this thread or task in the block is executed by MongoDB before a moment, or never.

    A process that holds something by a lease (a bot its context) writes under the lease's end: if it is only asleep
    until after that, MongoDB refuses what it sends when it wakes. Half of the time that is left is for the call, half
    for the way of its command. Files and memory know no deadlines. Candles of more than one chunk are written by other
    threads, and not bounded.

    Args:
        moment_s: on this process's monotonic clock (`time.monotonic()`), seconds. Of nested blocks the earliest counts;
            infinite: no limit.

    Raises:
        InvalidKey: it is no moment of that clock, but for example one of `time.time()`. The block is not entered.
        WriteRefused, WriteTooLate: by a write in the block; the moment has passed, and nothing was written.
        WriteOutcomeUnknown: by a write in the block; it has happened by that moment, or never will.
    """
    token = _limit_s.set(min(_checked(moment_s), _limit_s.get()))
    try:
        yield
    finally:
        _limit_s.reset(token)


def _checked(moment_s: Any) -> float:
    found = plain_scalar(moment_s)
    is_number = type(found) is float or (type(found) is int and abs(found) < 2**63)
    if not is_number or isnan(found) or AHEAD_MAX_S < found - time.monotonic() < inf:
        raise InvalidKey(
            f"write_until: {moment_s!r:.80} is no moment of the monotonic clock, which is at {time.monotonic():.0f} s: "
            "give time.monotonic() + seconds"
        )
    return float(found)
