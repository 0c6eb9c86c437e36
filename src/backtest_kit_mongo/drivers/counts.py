"""What a store counts while it works: plain numbers in this process, which nobody adds up until somebody asks.

No lock is needed. An increment of a list's cell or of an attribute (`cells[i] += 1`) runs no Python function, and
CPython changes threads only where a function is called or a loop goes round, so no increment is lost; an interpreter
without a global lock may lose one now and then. No rule of the protocol rests on them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from typing import Final

from backtest_kit_mongo.coherence.record import Domain
from backtest_kit_mongo.coherence.series import Appended
from backtest_kit_mongo.errors import CallerError, Conflict, WriteOutcomeUnknown, WriteRefused

READS: Final = ("hit", "near", "miss", "bypass", "list", "error")
"""How a read ended: with the shared entry; with this process's copy; at MongoDB, because there was no entry or because
the cache is away; at MongoDB, because lists and windows are never cached; not at all.
"""
WRITES: Final = ("written", "bypass", "unknown", "refused", "error")
"""How a write ended: stored and published; stored, but the cache missed it and will be informed; perhaps stored;
certainly not stored, because the server or the call is at fault; not stored, because something else failed.
"""
USUAL: Final = 0
"""How most end: with the first of these."""
HIT, NEAR, MISS, PASSED_BY, LIST, FAILED_READ = range(len(READS))
WRITTEN, DEFERRED, UNKNOWN, REFUSED, FAILED_WRITE = range(len(WRITES))
BOUNDS_S: Final = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Upper bounds of the classes that durations are counted in; a last class is open."""


class Tally:
    """Reads, or writes, of one domain.

    Attributes:
        names: `READS` or `WRITES`.
        failed: which outcome an error is.
        outcomes: how many ended so, in the order of `names`.
        durations: how many took so long, in the order of `BOUNDS_S` and the open class.
        seconds: sum of the durations.
    """

    __slots__ = ("domain", "durations", "failed", "names", "outcomes", "seconds")

    def __init__(self, domain: Domain, names: tuple[str, ...], failed: Callable[[BaseException], int]) -> None:
        self.domain, self.names, self.failed = domain, names, failed
        self.outcomes = [0] * len(names)
        self.durations = [0] * (len(BOUNDS_S) + 1)
        self.seconds = 0.0

    def add(self, outcome: int, seconds: float) -> None:
        self.outcomes[outcome] += 1
        self.durations[bisect_left(BOUNDS_S, seconds)] += 1
        self.seconds += seconds


class Tallies(dict[Domain, Tally]):
    """By domain, each made when it is first used."""

    def __init__(self, names: tuple[str, ...], failed: Callable[[BaseException], int]) -> None:
        super().__init__()
        self._names, self._failed = names, failed

    def __missing__(self, domain: Domain) -> Tally:
        # `setdefault` is atomic: two threads that come first together get the same tally.
        return self.setdefault(domain, Tally(domain, self._names, self._failed))


class Counts:
    """Of one store. Copies of the near cache are counted but not timed: asking the clock would take as long as they do.

    Attributes:
        rows_new: rows that were inserted into a series.
        rows_known: rows that were offered, but were there.
        rows_conflicting: of those, the ones that were there with other values.
    """

    __slots__ = ("reads", "rows_conflicting", "rows_known", "rows_new", "writes")

    def __init__(self) -> None:
        self.reads = Tallies(READS, lambda _: FAILED_READ)
        self.writes = Tallies(WRITES, failed_write)
        self.rows_new = 0
        self.rows_known = 0
        self.rows_conflicting = 0

    def appended(self, offered_count: int, answer: Appended) -> None:
        # Counted before they are added: a call within `+=` would let another thread in.
        new_count, conflict_count = len(answer.new), len(answer.conflicts)
        self.rows_new += new_count
        self.rows_conflicting += conflict_count
        self.rows_known += offered_count - new_count

    def read_count(self, *outcomes: int) -> int:
        """Reads of all domains that ended so."""
        return sum(tally.outcomes[outcome] for tally in list(self.reads.values()) for outcome in outcomes)


def failed_write(error: BaseException) -> int:
    """How a write that raised has ended."""
    if isinstance(error, WriteOutcomeUnknown):
        return UNKNOWN
    return REFUSED if isinstance(error, WriteRefused | CallerError | Conflict) else FAILED_WRITE
