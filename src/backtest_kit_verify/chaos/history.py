"""The histories of all processes, read back: who called what and when, and what they got.

A call on a list becomes one operation per row, because a row is the document that has a revision.
"""

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from backtest_kit_verify.chaos.journal import CallKind, Outcome

__all__ = [
    "Revision",
    "Flush",
    "History",
    "Operation",
    "RedisKill",
    "Restore",
    "Reunion",
    "Value",
    "load_history",
    "parse_journal",
]


class Value(NamedTuple):
    """What a revision of a document holds: the mark of the call that wrote it, and whether it is removed.

    Without a mark there is no document.
    """

    mark: str | None
    is_removed: bool = False

    def __str__(self) -> str:
        return "nothing" if self.mark is None else f"{self.mark}{' (removed)' if self.is_removed else ''}"


class Revision(NamedTuple):
    """One revision of one document."""

    key: str
    rev: int


@dataclass(slots=True)
class Operation:
    """One call on one document. Times are CLOCK_MONOTONIC ns.

    Attributes:
        process: `w0.3` is the fourth process of slot w0.
        guard: the key whose cache entry and leases protect the document: its own, or its list's.
        ended_ns: when it returned or raised; None if its process ended before.
        wanted: the mark that a write wants to store; None for removals and reads.
        rev: revision read or made; None if the call did not return, or found nothing to remove.
        value: what was read; for writes what was stored.
        is_bypass: it went to MongoDB without a lease, past Redis; `decided_ns` is when that, or the lease, was known.
        is_deferred: it returned while its event was kept for Redis.
        is_left: it returned while its COMMIT was under way; told_ns: when its answer came.
        is_check: a row that was given, and found to be stored already: a read.
        is_hit: the cache answered.
    """

    process: str
    number: int
    kind: CallKind
    key: str
    guard: str
    began_ns: int
    ended_ns: int | None = None
    outcome: Outcome = Outcome.PENDING
    wanted: str | None = None
    rev: int | None = None
    value: Value | None = None
    is_bypass: bool = False
    decided_ns: int | None = None
    is_deferred: bool = False
    is_left: bool = False
    told_ns: int | None = None
    is_check: bool = False
    is_hit: bool = False
    text: str = ""

    @property
    def is_read(self) -> bool:
        """Whether it was promised the newest revision, and made none."""
        return self.kind in (CallKind.READ, CallKind.SCAN, CallKind.CACHED) or self.is_check

    @property
    def is_write(self) -> bool:
        return self.kind in (CallKind.WRITE, CallKind.REMOVE, CallKind.MERGE) and not self.is_check

    @property
    def is_observation(self) -> bool:
        """Whether somebody was informed a revision."""
        return self.outcome is Outcome.DONE and self.rev is not None

    @property
    def has_written(self) -> bool:
        return self.is_write and self.is_observation

    @property
    def is_open(self) -> bool:
        """Whether its change may be in MongoDB although it never said so.

        Before it was decided whether it holds a lease, MongoDB was not asked.
        """
        knows_nothing = self.outcome in (Outcome.PENDING, Outcome.UNKNOWN, Outcome.UNDOCUMENTED)
        return self.is_write and knows_nothing and self.decided_ns is not None

    @property
    def may_have_written(self) -> bool:
        return self.has_written or self.is_open


class Reunion(NamedTuple):
    """A process has reached Redis again after failures, and appended what it had kept."""

    process: str
    at_ns: int
    changes: frozenset[Revision]


class RedisKill(NamedTuple):
    """Redis was killed; everything after `kept_ns` may be lost. The process was gone at `gone_ns`."""

    kept_ns: int
    gone_ns: int


class Flush(NamedTuple):
    """FLUSHALL, and the events that it took."""

    began_ns: int
    ended_ns: int
    changes: frozenset[Revision]


class Restore(NamedTuple):
    """MongoDB was set back while all clients stood still, from `stopped_ns` to `resumed_ns`.

    Attributes:
        base: what it held then, as observations.
        is_behind: Redis had been told of a higher count than MongoDB then had, so somebody must notice. Nobody can
            if Redis had just been emptied, or if the machine was too busy to count after the snapshot.
    """

    stopped_ns: int
    resumed_ns: int
    base: Sequence[Operation]
    is_behind: bool = True


@dataclass(slots=True)
class History:
    """Everything that happened.

    Attributes:
        failures: times of failed commands to Redis, by process.
        killed_ns: when a killed process was gone, by process.
        mongo_bound_ms: longest time that a write of a dead process, or one of unknown outcome, may still take to
            commit.
    """

    operations: list[Operation] = field(default_factory=list)
    reunions: list[Reunion] = field(default_factory=list)
    failures: dict[str, list[int]] = field(default_factory=dict)
    killed_ns: dict[str, int] = field(default_factory=dict)
    redis_kills: list[RedisKill] = field(default_factory=list)
    flushes: list[Flush] = field(default_factory=list)
    mongo_bound_ms: int = 1_000


def load_history(directory: Path, rows: Mapping[str, Sequence[str]]) -> History:
    """Read all journals of a directory. `rows`: the keys of a list's rows, by the list's key."""
    history = History()
    for path in sorted(directory.glob("*.jsonl")):
        with path.open("rb") as lines:
            parse_journal(history, path.stem, lines, rows)
    return history


def parse_journal(history: History, process: str, lines: Iterable[bytes], rows: Mapping[str, Sequence[str]]) -> None:
    """Add the journal of one process."""
    calls: dict[int, list[Operation]] = {}
    for line in lines:
        if not line.endswith(b"\n"):
            return  # Torn by SIGKILL: what it announces was not begun, and what it ends has no known end.
        tag, *fields = json.loads(line)
        if tag == "+":
            number, at_ns, kind, key, wanted = fields
            calls[number] = list(_begun(process, number, at_ns, CallKind(kind), sys.intern(key), wanted, rows))
            history.operations += calls[number]
        elif tag == "f":
            history.failures.setdefault(process, []).append(fields[0])
        elif tag == "r":
            at_ns, changes = fields
            history.reunions.append(Reunion(process, at_ns, frozenset(Revision(key, rev) for key, rev in changes)))
        else:
            number, at_ns, *rest = fields
            for operation in calls[number]:
                _continue(operation, tag, at_ns, rest)


def _begun(
    process: str, number: int, at_ns: int, kind: CallKind, key: str, wanted: Any, rows: Mapping[str, Sequence[str]]
) -> Iterator[Operation]:
    if kind is CallKind.SCAN:
        for row in rows[key]:
            yield Operation(process, number, kind, row, key, at_ns)
    elif kind is CallKind.MERGE:
        for item, mark in wanted.items():
            yield Operation(process, number, kind, sys.intern(f"{key}/{item}"), key, at_ns, wanted=mark)
    else:
        yield Operation(process, number, kind, key, key, at_ns, wanted=wanted)


def _continue(operation: Operation, tag: str, at_ns: int, rest: Sequence[Any]) -> None:
    if tag in "lb":
        operation.is_bypass, operation.decided_ns = tag == "b", at_ns
        return
    if tag == "t":
        operation.told_ns, operation.is_deferred = at_ns, operation.is_deferred or bool(rest[0])
        return
    operation.ended_ns = at_ns
    if tag == "!":
        operation.outcome, operation.text = Outcome(rest[0]), rest[1]
        return
    result, is_deferred, *left = rest
    operation.outcome, operation.is_deferred = Outcome.DONE, operation.is_deferred or bool(is_deferred)
    operation.is_left = any(left)
    item = operation.key.removeprefix(f"{operation.guard}/")
    if operation.kind is CallKind.READ:
        operation.rev, operation.value = result[0], Value(result[1], bool(result[2]))
        operation.is_hit = bool(result[3])
    elif operation.kind is CallKind.SCAN:
        # A row that a list does not have was read as well: as revision 0.
        operation.rev, mark = result.get(item, (0, None))
        operation.value = Value(mark)
    elif operation.kind is CallKind.MERGE:
        _merged(operation, result.get(item))
    elif result:
        operation.rev = result[0]
        operation.value = Value(operation.wanted) if operation.kind is CallKind.WRITE else None


def _merged(operation: Operation, answer: Sequence[int] | None) -> None:
    if answer is None:
        # Found by the bulk write to be what another call had just stored; at which revision was not said.
        operation.is_check = True
        return
    operation.rev, is_written = answer
    operation.is_check = not is_written
    operation.value = Value(operation.wanted)
