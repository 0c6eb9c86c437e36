"""When is an event missing? And what is done about it.

A change is judged at first sight plus a grace, in which writers publish and the audit role records. What then has no
record waits at a barrier: the end of each stream at that moment. The event, if it was ever published, lies before the
barrier; so once the audit role has acknowledged everything up to it, a change without a record has no event. It is
republished under its own identity, and judged again at a new barrier: until there is a record, Redis may lose the event
once more.

Without the audit role's group on an existing stream nobody passes a barrier: changes wait, and recovery reads no
further than its bounds allow. So recovery needs the audit role somewhere in the deployment.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from bson import ObjectId

from backtest_kit_worker.recovery.candles import Append, Coverage, append_of
from backtest_kit_worker.recovery.changes import ChangeKind, LoggedChange
from backtest_kit_worker.recovery.records import AuditRecords
from backtest_kit_worker.recovery.repair import Repair
from backtest_kit_worker.recovery.state import Position
from backtest_kit_worker.recovery.streams import NOWHERE, Feed, StreamId, has_passed

logger = logging.getLogger(__name__)

LOWER_S: Final = 1.0
COMPLAIN_S: Final = 60.0
"""Between two complaints of the same."""


@dataclass(slots=True, eq=False)
class Batch:
    """Changes that are judged together.

    Attributes:
        changes: those that are not settled.
        due_s: when to look for the first time.
        position: where the log goes on after them; None if they are not from the log.
        barrier: what the audit role must have acknowledged before the next look.
    """

    changes: list[LoggedChange]
    due_s: float
    position: Position | None = None
    marks: frozenset[ObjectId] = frozenset()
    barrier: Mapping[str, StreamId] | None = None


class Judge:
    """Settles changes, in order of the log as far as the position is concerned.

    Attributes:
        position: all changes before it are settled; None if it has not moved yet.
        marks: the reconciler's marks that were passed.
    """

    def __init__(
        self,
        records: AuditRecords,
        feed: Feed,
        repair: Repair,
        grace_s: float,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._records = records
        self._coverage = Coverage(records.collection)
        self._feed = feed
        self._repair = repair
        self._grace_s = grace_s
        self._monotonic_s = monotonic_s
        self._batches: deque[Batch] = deque()
        self._complained_s = -COMPLAIN_S
        self._lower_s = 0.0
        self.position: Position | None = None
        self.marks: set[ObjectId] = set()

    @property
    def coverage(self) -> Coverage:
        """What is known of recorded batches; shared with the scan."""
        return self._coverage

    @property
    def unjudged_count(self) -> int:
        return sum(len(batch.changes) for batch in self._batches)

    @property
    def unjudged_bytes(self) -> int:
        return sum(change.size for batch in self._batches for change in batch.changes)

    @property
    def oldest_s(self) -> float:
        """Age of the oldest unjudged change, from first sight. Any thread may ask."""
        try:
            return self._monotonic_s() - self._batches[0].due_s + self._grace_s
        except IndexError:
            return 0.0

    def add(self, changes: Sequence[LoggedChange], position: Position, marks: frozenset[ObjectId]) -> None:
        """Judge changes of the log after the grace; `position` is where the log goes on."""
        if not changes and not marks and not self._batches:
            self.position = position
            return
        if not changes and not marks and self._batches[-1].position is not None:
            self._batches[-1].position = position
            return
        self._batches.append(Batch(list(changes), self._monotonic_s() + self._grace_s, position, marks))

    def add_found(self, changes: Sequence[LoggedChange]) -> Batch:
        """Judge changes that were found by scan. The answer has no changes left when all are settled."""
        batch = Batch(list(changes), self._monotonic_s())
        self._batches.append(batch)
        return batch

    def forget_positions(self) -> None:
        """The log was lost: what is still to be judged no longer says where to read on."""
        self.position = None
        for batch in self._batches:
            batch.position = None

    def work(self) -> int:
        """Judge what is due; returns how many changes were settled.

        Raises:
            RedisError, PyMongoError: a server failed; call again.
        """
        settled = sum(self._first_look(batch) for batch in self._due())
        waiting = [batch for batch in self._batches if batch.barrier is not None]
        if waiting and self._feed.has_room:
            # Asked after the last barrier was set: what this answer calls complete was published before it.
            reached = self._feed.reached()
            for batch in waiting:
                if batch.barrier is not None and has_passed(reached, batch.barrier):
                    settled += self._second_look(batch)
            self._lower_barriers()
            self._complain(reached)
        while self._batches and not self._batches[0].changes and self._batches[0].due_s <= self._monotonic_s():
            done = self._batches.popleft()
            self.position = done.position or self.position
            self.marks |= done.marks
        return settled

    def _lower_barriers(self) -> None:
        """A stream that was made anew has lower ids, and nothing in it ever comes to a barrier of before. What was
        appended by then lies before its end of now.
        """
        if self._monotonic_s() < self._lower_s:
            return
        self._lower_s = self._monotonic_s() + LOWER_S
        waiting = [batch for batch in self._batches if batch.barrier]
        ends = self._feed.ends() if waiting else {}
        for batch in waiting:
            assert batch.barrier is not None
            batch.barrier = {stream: min(end, ends[stream]) for stream, end in batch.barrier.items()}

    def _due(self) -> Iterator[Batch]:
        now_s = self._monotonic_s()
        return (batch for batch in self._batches if batch.barrier is None and batch.due_s <= now_s)

    def _first_look(self, batch: Batch) -> int:
        settled = self._settle(batch, thorough=False)
        if batch.changes:
            batch.barrier = self._feed.ends()
        return settled

    def _second_look(self, batch: Batch) -> int:
        settled = self._settle(batch, thorough=True)
        if batch.changes:
            self._gather_rows(batch)
            before = len(batch.changes)
            batch.changes = self._repair.repair(batch.changes, self._earlier(batch), self._pending)
            settled += before - len(batch.changes)
        batch.barrier = self._feed.ends() if batch.changes else None
        return settled

    def _settle(self, batch: Batch, *, thorough: bool) -> int:
        """Let go of the changes that have their record; where it tells something else, put it right."""
        changes = batch.changes
        recorded = self._records.found([change for change in changes if not change.is_row])
        own = [change for change in changes if change.kind is ChangeKind.OWN and change.id in recorded]
        self._repair.put_right(
            own, recorded, lambda: self._earlier(batch) | {c.document for c in changes if c.id not in recorded}
        )
        rows = [change.key for change in changes if change.is_row and change.key is not None]
        uncovered = self._coverage.uncovered(rows, thorough=thorough) if rows else set()
        batch.changes = [
            change for change in changes if (change.key in uncovered if change.is_row else change.id not in recorded)
        ]
        return len(changes) - len(batch.changes)

    def _gather_rows(self, batch: Batch) -> None:
        """One append may have been read in several pieces; it has one event."""
        appends = {append_of(change) for change in batch.changes if change.is_row}
        if not appends:
            return
        behind = False
        for other in self._batches:
            if behind:
                rows, others = _split(other.changes, appends)
                batch.changes += rows
                other.changes = others
            behind = behind or other is batch

    def _earlier(self, batch: Batch) -> frozenset[str]:
        """Documents with unsettled changes before this batch's."""
        documents: set[str] = set()
        for other in self._batches:
            if other is batch:
                break
            documents.update(change.document for change in other.changes)
        return frozenset(documents)

    def _pending(self) -> set[str]:
        """Revisions that are to be recorded."""
        return {c.revision_id for batch in self._batches for c in batch.changes if c.kind is not ChangeKind.FOREIGN}

    def _complain(self, reached: Mapping[str, StreamId]) -> None:
        now_s = self._monotonic_s()
        without = sorted(stream for stream, entry in reached.items() if entry == NOWHERE)
        if without and now_s - self._complained_s >= COMPLAIN_S:
            self._complained_s = now_s
            logger.warning(
                ("no audit group on %s: %d changes cannot be judged until a worker runs the audit "
                    "role"), ", ".join(without),
                self.unjudged_count,
            )  # fmt: skip


def _split(
    changes: Sequence[LoggedChange], appends: set[Append | None]
) -> tuple[list[LoggedChange], list[LoggedChange]]:
    rows: list[LoggedChange] = []
    others: list[LoggedChange] = []
    for change in changes:
        (rows if change.is_row and append_of(change) in appends else others).append(change)
    return rows, others
