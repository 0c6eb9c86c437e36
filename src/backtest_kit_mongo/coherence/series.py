"""The steps of a series: rows that are inserted once and never change, so they need neither lease nor entry, and what
conflicts with them is kept beside them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, NamedTuple, Protocol

from backtest_kit_mongo.coherence.codec import pack
from backtest_kit_mongo.coherence.effects import CacheDown, Defer, Effect, Plan, Publish, Published, ask
from backtest_kit_mongo.coherence.keys import escaped
from backtest_kit_mongo.coherence.record import Key, Record
from backtest_kit_mongo.errors import EnvironmentFault, WriteOutcomeUnknown


class Grid(Protocol):
    """Where rows lie: `candles.intervals.Grid`, of which plans only need the neighbour."""

    def after(self, moment: int, /) -> int:
        """The next time, ms."""


class Conflict(NamedTuple):
    """A row of a series that was offered although it is stored with other values. What is stored was kept.

    Attributes:
        timestamp: ms.
        stored, offered: the value columns by name.
    """

    timestamp: int
    stored: Mapping[str, float]
    offered: Mapping[str, float]

    @property
    def digest(self) -> str:
        """Tells offered values apart; equal numbers of different types have one digest."""
        values = [float(value) + 0.0 for value in self.offered.values()]  # -0.0 + 0.0 is 0.0.
        return sha256(pack(values)).hexdigest()[:16]


class Appended(NamedTuple):
    """What became of the rows of an append; those that are in neither list are stored as they were offered.

    Attributes:
        new: times in ms that were not stored before, ascending.
        conflicts: ascending by time.
    """

    new: tuple[int, ...]
    conflicts: tuple[Conflict, ...] = ()


@dataclass(frozen=True, slots=True)
class Append(Effect[Appended]):
    """Insert rows into a series, first write wins.

    Attributes:
        rows: `candles.columns.Columns`, which plans only pass on: the core knows no arrays.
        grid: `candles.intervals.Grid`, where rows lie.
    """

    scope: Key
    rows: Any
    grid: Any


@dataclass(frozen=True, slots=True)
class KeepConflicts(Effect["tuple[Conflict, ...]"]):
    """Keep both versions of rows that conflict with what is stored. The answer has those that were not kept before."""

    scope: Key
    conflicts: tuple[Conflict, ...]


def append(scope: Key, rows: Any, grid: Grid) -> Plan[Appended]:
    """Insert rows into a series and tell the feed once, as ranges; keep and tell what conflicts with stored rows.

    Rows are never replaced, so no lease is needed: nothing can become stale. A crash after a conflict was kept may lose
    its event, not the conflict.
    """
    appended = yield from ask(Append(scope, rows, grid))
    reported = [_batch(scope, appended.new, grid)] if appended.new else []
    if appended.conflicts:
        try:
            kept = yield from ask(KeepConflicts(scope, appended.conflicts))
        except EnvironmentFault as cause:
            yield from _report(scope, reported)
            raise WriteOutcomeUnknown(
                f"{scope}: the rows are stored, but {len(appended.conflicts)} that conflict with stored ones could "
                "not be kept for "
                f"inspection; repeat the write: {cause}"
            ) from cause
        reported += [_conflict(scope, conflict) for conflict in kept]
    yield from _report(scope, reported)
    return appended


def _report(scope: Key, reported: Sequence[Published]) -> Plan[None]:
    if not reported:
        return
    try:
        yield from ask(Publish(scope, tuple(reported)))
    except CacheDown:
        yield from ask(Defer((), tuple(reported)))


def _batch(scope: Key, new: Sequence[int], grid: Grid) -> Published:
    payload = {"ranges": list(_ranges(new, grid)), "count": len(new)}
    # Rows are inserted once and for all, so the first new time belongs to this batch alone and names it.
    document = escaped((*scope.parts, new[0]))
    return Published(Record(scope, rev=1, payload=payload, id=document), "batch", pack(payload))


def _conflict(scope: Key, conflict: Conflict) -> Published:
    payload = {"timestamp": conflict.timestamp, "stored": conflict.stored, "offered": conflict.offered}
    # The same offer again is the same event. A batch's name ends in its time, so it is never that of a conflict.
    document = f"{escaped((*scope.parts, conflict.timestamp))}~{conflict.digest}"
    return Published(Record(scope, rev=1, payload=payload, id=document), "conflict", pack(payload))


def _ranges(times: Sequence[int], grid: Grid) -> Iterator[list[int]]:
    """Runs of neighbours as [first, last, count]."""
    first = previous = times[0]
    count = 1
    for moment in times[1:]:
        if moment == grid.after(previous):
            previous, count = moment, count + 1
            continue
        yield [first, previous, count]
        first = previous = moment
        count = 1
    yield [first, previous, count]
