"""Catching up without getting in the way: while writers are at work, a loop that is behind rests between its batches.

A worker at full speed takes as much of MongoDB's journal and of the CPU as it can get, and whoever writes meanwhile
waits for both. So it works only a share of the time, as long as that suffices:

* nobody writes: full speed;
* writers are at work and less waits than a second ago: the share shrinks, slowly, down to `share_min`; but only once as
  much was made up for as the last second in which more waited had cost;
* writers are at work and no less waits, or nobody can tell (Redis 6 after trimming): the share doubles. A feed that is
  busier than a resting worker can follow is followed at full speed: falling behind for ever is worse than being in the
  way.

Rests are multiples of the time that the batch took, not a rate: where servers are slow, rests are long. A loop that is
not behind (its batches are not full) never rests.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, NamedTuple

SHARE_MIN: Final = 0.1
LOOK_S: Final = 1.0
FIRST_LOOK_S: Final = 0.1
"""How often the feed is looked at while behind. It takes two looks to know whether anybody writes; the first two are
close together, with a rest in between.
"""
REST_MAX_S: Final = 1.0
"""A batch that a restarting server held up for long says nothing about how long to rest."""
SHRINK: Final = 0.8
DIVISOR: Final = 4
"""Into so many parts a batch is divided while the loop rests between them."""


class Sight(NamedTuple):
    """What the feed shows.

    Attributes:
        end: changes whenever somebody writes.
        waiting: entries that were added, less those that were read. Only how it changes means something.
        kept_from: where `waiting` counts only what the streams hold, what they hold begins here.
    """

    end: object
    waiting: int
    kept_from: object = ()


class Pace:
    """How long a loop rests after each batch.

    Args:
        look: asks Redis; called at most once in `LOOK_S`, and only while behind.
        share_min: lowest share of the time that is worked; 1 for never resting.
        clock_s: monotonic.
    """

    def __init__(
        self, look: Callable[[], Sight], share_min: float = SHARE_MIN, clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._look = look
        self._share_min = share_min
        self._clock_s = clock_s
        self._seen: Sight | None = None
        self._made_up = 0
        self._look_due_s = 0.0
        self.share = share_min

    def batch_max(self, most: int) -> int:
        """How many entries to take next; `most` is the setting. Between rests fewer: who writes meanwhile waits for
        less.
        """
        return most if self._seen is None or self.share == 1.0 else max(1, most // DIVISOR)

    def rest_s(self, took_s: float, *, is_full: bool) -> float:
        """Seconds to rest after a batch that took so long; `is_full`: there was more to take than the batch could
        hold.
        """
        if self._share_min >= 1:
            return 0.0
        if not is_full:
            self._seen, self.share, self._look_due_s = None, self._share_min, 0.0
            return 0.0
        if self._clock_s() >= self._look_due_s:
            before, self._seen = self._seen, self._look()
            self._look_due_s = self._clock_s() + LOOK_S
            if before is None:
                self._made_up = self._seen.waiting
                self._look_due_s = self._clock_s() + FIRST_LOOK_S
                return FIRST_LOOK_S
            self.share = self._next_share(before, self._seen)
        return min(took_s * (1 / self.share - 1), REST_MAX_S)

    def _next_share(self, before: Sight, now: Sight) -> float:
        if before.end == now.end:
            return 1.0
        if now.waiting >= before.waiting or now.kept_from != before.kept_from:
            self._made_up = min(now.waiting, before.waiting)
            return min(1.0, self.share * 2)
        if now.waiting >= self._made_up:
            # Shrinking after each look that gained would lose more than it gains where only full speed can follow.
            return self.share
        return max(self._share_min, self.share * SHRINK)
