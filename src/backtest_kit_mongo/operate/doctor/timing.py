"""Measuring: how long a question takes, and what a server's clock says."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from typing import Any


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds of several equal questions."""

    p50_ms: float
    p99_ms: float

    def __str__(self) -> str:
        return f"p50 {self.p50_ms:.2f} ms, p99 {self.p99_ms:.2f} ms"


def latency(ask: Callable[[], Any], count: int) -> Latency:
    """How long `ask` takes. The first question is asked before: it may have to connect."""
    ask()
    taken_ms = []
    for _ in range(count):
        began_ns = time.perf_counter_ns()
        ask()
        taken_ms.append((time.perf_counter_ns() - began_ns) / 1e6)
    taken_ms.sort()
    return Latency(_nearest(taken_ms, 0.5), _nearest(taken_ms, 0.99))


def _nearest(ordered: list[float], share: float) -> float:
    return ordered[ceil(share * len(ordered)) - 1]


@dataclass(frozen=True, slots=True)
class Skew:
    """By how much a server's clock is ahead of this host's (negative: behind).

    Attributes:
        margin_ms: half the round trip: the answer was given somewhere in it.
    """

    ahead_ms: float
    margin_ms: float

    @property
    def certain_ms(self) -> float:
        """What is left of it when the margin is taken in favour of the clocks; not negative."""
        return max(0.0, abs(self.ahead_ms) - self.margin_ms)


def skew(ask_ms: Callable[[], float], count: int, wall_ms: Callable[[], float] = lambda: time.time() * 1000) -> Skew:
    """Compare clocks by the fastest of several answers, whose margin is the smallest.

    Args:
        ask_ms: the server's time in ms.
    """
    found = []
    for _ in range(count):
        asked_ms = wall_ms()
        said_ms = ask_ms()
        answered_ms = wall_ms()
        found.append(Skew(said_ms - (asked_ms + answered_ms) / 2, (answered_ms - asked_ms) / 2))
    return min(found, key=lambda each: each.margin_ms)
