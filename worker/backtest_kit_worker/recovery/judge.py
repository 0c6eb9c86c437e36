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
from backtest_kit_worker.recovery.changes import Change, Kind
from backtest_kit_worker.recovery.comparing import agrees
from backtest_kit_worker.recovery.feed import NOWHERE, Feed, StreamId, has_passed
from backtest_kit_worker.recovery.records import AuditRecords
from backtest_kit_worker.recovery.repair import Repair
from backtest_kit_worker.recovery.state import Position

logger = logging.getLogger(__name__)

COMPLAIN_S: Final = 60.0
"""Between two complaints of the same."""


@dataclass(slots=True, eq=False)
class Cohort:
    """Changes that are judged together.

    Attributes:
        changes: those that are not settled.
        due_s: when to look for the first time.
        position: where the log goes on after them; None if they are not from the log.
        barrier: what the audit role must have acknowledged before the next look.
    """

    changes: list[Change]
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
        self._cohorts: deque[Cohort] = deque()
        self._complained_s = -COMPLAIN_S
        self.position: Position | None = None
        self.marks: set[ObjectId] = set()

    @property
    def coverage(self) -> Coverage:
        """What is known of recorded batches; shared with the scan."""
        return self._coverage

    @property
    def unjudged_count(self) -> int:
        return sum(len(cohort.changes) for cohort in self._cohorts)

    @property
    def unjudged_bytes(self) -> int:
        return sum(change.size for cohort in self._cohorts for change in cohort.changes)

    @property
    def oldest_s(self) -> float:
        """Age of the oldest unjudged change, from first sight. Any thread may ask."""
        try:
            return self._monotonic_s() - self._cohorts[0].due_s + self._grace_s
        except IndexError:
            return 0.0

    def add(self, changes: Sequence[Change], position: Position, marks: frozenset[ObjectId]) -> None:
        """Judge changes of the log after the grace; `position` is where the log goes on."""
        if not changes and not marks and not self._cohorts:
            self.position = position
            return
        if not changes and not marks and self._cohorts[-1].position is not None:
            self._cohorts[-1].position = position
            return
        self._cohorts.append(Cohort(list(changes), self._monotonic_s() + self._grace_s, position, marks))

    def add_found(self, changes: Sequence[Change]) -> Cohort:
        """Judge changes that were found by scan. The answer has no changes left when all are settled."""
        cohort = Cohort(list(changes), self._monotonic_s())
        self._cohorts.append(cohort)
        return cohort

    def forget_positions(self) -> None:
        """The log was lost: what is still to be judged no longer says where to read on."""
        self.position = None
        for cohort in self._cohorts:
            cohort.position = None

    def work(self) -> int:
        """Judge what is due; returns how many changes were settled.

        Raises:
            RedisError, PyMongoError: a server failed; call again.
        """
        settled = sum(self._first_look(cohort) for cohort in self._due())
        waiting = [cohort for cohort in self._cohorts if cohort.barrier is not None]
        if waiting:
            # Asked after the last barrier was set: what this answer calls complete was published before it.
            reached = self._feed.reached()
            for cohort in waiting:
                if cohort.barrier is not None and has_passed(reached, cohort.barrier):
                    settled += self._second_look(cohort)
            self._complain(reached)
        while self._cohorts and not self._cohorts[0].changes and self._cohorts[0].due_s <= self._monotonic_s():
            done = self._cohorts.popleft()
            self.position = done.position or self.position
            self.marks |= done.marks
        return settled

    def _due(self) -> Iterator[Cohort]:
        now_s = self._monotonic_s()
        return (cohort for cohort in self._cohorts if cohort.barrier is None and cohort.due_s <= now_s)

    def _first_look(self, cohort: Cohort) -> int:
        settled = self._settle(cohort, thorough=False)
        if cohort.changes:
            cohort.barrier = self._feed.ends()
        return settled

    def _second_look(self, cohort: Cohort) -> int:
        settled = self._settle(cohort, thorough=True)
        if cohort.changes:
            self._gather_rows(cohort)
            before = len(cohort.changes)
            cohort.changes = self._repair.repair(cohort.changes, self._earlier(cohort), self._pending)
            settled += before - len(cohort.changes)
        cohort.barrier = self._feed.ends() if cohort.changes else None
        return settled

    def _settle(self, cohort: Cohort, *, thorough: bool) -> int:
        """Let go of the changes that have their record; where it tells something else, put it right."""
        changes = cohort.changes
        recorded = self._records.found([change for change in changes if not change.is_row])
        wrong = [c for c in changes if c.kind is Kind.OWN and c.id in recorded and not agrees(c, recorded[c.id])]
        if wrong:
            self._repair.correct(wrong)
        rows = [change.key for change in changes if change.is_row and change.key is not None]
        uncovered = self._coverage.uncovered(rows, thorough=thorough) if rows else set()
        cohort.changes = [
            change for change in changes if (change.key in uncovered if change.is_row else change.id not in recorded)
        ]
        return len(changes) - len(cohort.changes)

    def _gather_rows(self, cohort: Cohort) -> None:
        """One append may have been read in several pieces; it has one event."""
        appends = {append_of(change) for change in cohort.changes if change.is_row}
        if not appends:
            return
        behind = False
        for other in self._cohorts:
            if behind:
                rows, others = _split(other.changes, appends)
                cohort.changes += rows
                other.changes = others
            behind = behind or other is cohort

    def _earlier(self, cohort: Cohort) -> frozenset[str]:
        """Documents with unsettled changes before this cohort's."""
        documents: set[str] = set()
        for other in self._cohorts:
            if other is cohort:
                break
            documents.update(change.document for change in other.changes)
        return frozenset(documents)

    def _pending(self) -> set[str]:
        """Revisions that are to be recorded."""
        return {c.revision_id for cohort in self._cohorts for c in cohort.changes if c.kind is not Kind.FOREIGN}

    def _complain(self, reached: Mapping[str, StreamId]) -> None:
        now_s = self._monotonic_s()
        without = sorted(stream for stream, entry in reached.items() if entry == NOWHERE)
        if without and now_s - self._complained_s >= COMPLAIN_S:
            self._complained_s = now_s
            logger.warning(
                "no audit group on %s: %d changes cannot be judged until a worker runs the audit role", ", ".join(without),
                self.unjudged_count,
            )  # fmt: skip


def _split(changes: Sequence[Change], appends: set[Append | None]) -> tuple[list[Change], list[Change]]:
    rows: list[Change] = []
    others: list[Change] = []
    for change in changes:
        (rows if change.is_row and append_of(change) in appends else others).append(change)
    return rows, others
