"""Where the promise ends: the time in which others may see an older revision because of a write that went past Redis.

The README says: until the writer reaches Redis again; if it dies before that, until the key's next write. Nothing else
is
excused: no other key, no other time, not the writer itself, and no list, because lists are read from MongoDB.

A list's entry holds no rows, only the stamp of its last writer, who takes what it remembers for what is stored as long
as the stamp is its own. Its own next write renews the stamp, so for that process only *another's* next write ends the
time.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable
from itertools import accumulate
from math import inf

from backtest_kit_verify.chaos.history import History, Operation
from backtest_kit_verify.chaos.journal import CallKind

__all__ = ["Excuses"]

Span = tuple[int, int]


class Spans:
    """Spans of time, asked for the earliest end among those that begin late enough."""

    def __init__(self, spans: Iterable[Span] = ()) -> None:
        ordered = sorted(spans)
        self._begins = [began for began, _ in ordered]
        self._ends = list(accumulate((ended for _, ended in reversed(ordered)), min))[::-1]

    def earliest_end(self, since_ns: float) -> float:
        index = bisect_left(self._begins, since_ns)
        return self._ends[index] if index < len(self._ends) else inf


class Excuses:
    """Knows the moments at which older entries, and the rights to install one, were certainly gone."""

    def __init__(self, history: History) -> None:
        self._killed_ns = history.killed_ns
        self._bound_ns = history.mongo_bound_ms * 1_000_000
        leases: dict[tuple[str, str], list[Span]] = defaultdict(list)
        for operation in history.operations:
            if operation.decided_ns is not None and not operation.is_bypass:
                leases[operation.guard, operation.process].append((operation.began_ns, operation.decided_ns))
        self._leases: dict[str, dict[str, Spans]] = defaultdict(dict)
        for (guard, process), spans in leases.items():
            self._leases[guard][process] = Spans(spans)
        reunions: dict[str, list[Span]] = defaultdict(list)
        for reunion in history.reunions:
            reunions[reunion.process].append((reunion.at_ns, reunion.at_ns))
        self._reunions = {process: Spans(spans) for process, spans in reunions.items()}
        # A flush takes entries and rights; a restart makes both worthless.
        flushes = [(flush.began_ns, flush.ended_ns) for flush in history.flushes]
        self._losses = Spans([*flushes, *((kill.gone_ns, kill.gone_ns) for kill in history.redis_kills)])

    def settled_ns(self, ended_ns: int) -> int:
        """When a write that ended so is committed or never will be."""
        return ended_ns + self._bound_ns

    def cover(self, write: Operation, read: Operation) -> bool:
        """Whether a read may miss this write. Precondition: the write went past Redis and may be in MongoDB."""
        assert write.decided_ns is not None
        assert read.ended_ns is not None
        if read.process == write.process or read.kind is CallKind.SCAN or read.ended_ns < write.decided_ns:
            return False
        return read.began_ns <= self._until_ns(write, read.process)

    def _until_ns(self, write: Operation, reader: str) -> float:
        """When the process could last get something older than the write."""
        committed_ns = self._committed_by_ns(write)
        is_row = write.key != write.guard
        leases = (
            spans.earliest_end(committed_ns)
            for process, spans in self._leases.get(write.guard, {}).items()
            if not (is_row and process == reader)
        )
        assert write.decided_ns is not None
        return min(
            # A client is one thread: once it has decided to go past Redis, it speaks to Redis only after that write.
            self._reunions.get(write.process, Spans()).earliest_end(write.decided_ns),
            self._losses.earliest_end(committed_ns),
            *leases,
        )

    def _committed_by_ns(self, write: Operation) -> float:
        """When the write has reached MongoDB, if it ever does."""
        if write.ended_ns is not None:
            return write.ended_ns
        killed_ns = self._killed_ns.get(write.process)
        return inf if killed_ns is None else killed_ns + self._bound_ns
