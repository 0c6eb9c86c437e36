"""Pauses between attempts: twice as long each time up to a bound, and never the same for two processes."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential, with jitter.

    Attributes:
        first_ms: the first pause.
        longest_ms: no pause is longer.
        draw: a number from 0 to 1.
    """

    first_ms: int
    longest_ms: int
    draw: Callable[[], float] = random.random

    def pause_ms(self, failures: int) -> float:
        """The pause after so many failures in a row, from half of it to all of it."""
        full_ms = min(self.longest_ms, self.first_ms << min(failures - 1, 30))
        return full_ms * (0.5 + self.draw() / 2)
