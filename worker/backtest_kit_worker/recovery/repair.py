"""What is done about changes that have no record: publish their events, or record what no event can tell."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any, Final, NamedTuple

from bson.raw_bson import RawBSONDocument

from backtest_kit_mongo.audit.records import CORRECTION, FOREIGN
from backtest_kit_mongo.coherence.codec import millis, pack
from backtest_kit_mongo.coherence.effects import Published
from backtest_kit_mongo.coherence.events import Event, Origin
from backtest_kit_mongo.coherence.record import Domain, Key, Record, Shape
from backtest_kit_mongo.domains.checks import DOCUMENT_MAX_BYTES, OVERHEAD_BYTES
from backtest_kit_mongo.feed.troubles import FOREIGN_WRITES, MISMATCHED, Notes
from backtest_kit_worker.loop import REFUSED
from backtest_kit_worker.recovery.caches import Caches
from backtest_kit_worker.recovery.candles import Append, append_of, batch
from backtest_kit_worker.recovery.changes import (
    ChangeKind,
    LoggedChange,
    cache_key,
    decode,
    deletion_of,
    is_complete,
    operation_of,
    written_at,
)
from backtest_kit_worker.recovery.comparing import agrees, tells
from backtest_kit_worker.recovery.payloads import State, Unrecoverable, rebuild
from backtest_kit_worker.recovery.records import AuditRecords
from backtest_kit_worker.recovery.streams import Feed

logger = logging.getLogger(__name__)

PUBLISH_MAX: Final = 3
"""An event that was acknowledged so often without leaving a record was parked: it never will."""


class _Found(NamedTuple):
    at: int
    state: State | None


class _Work:
    """What one round found to do.

    Attributes:
        states: the last known state of (domain, document, revision), of changes that have no record yet.
    """

    def __init__(self) -> None:
        self.events: list[tuple[str, Event]] = []
        self.published: list[LoggedChange] = []
        self.records: list[dict[str, Any]] = []
        self.recorded: set[LoggedChange] = set()
        self.states: dict[tuple[Domain, str, int], _Found] = {}


class Repair:
    """Publishes and records.

    Attributes:
        counts: changes by outcome: `republished`, `gap`, `foreign`, `correction`.
    """

    def __init__(self, records: AuditRecords, feed: Feed, caches: Caches, origin: Origin, notes: Notes) -> None:
        self._notes = notes
        self._records = records
        self._feed = feed
        self._caches = caches
        self._origin = origin
        self.counts: Counter[str] = Counter()

    def repair(
        self, changes: Sequence[LoggedChange], earlier: frozenset[str], pending: Callable[[], set[str]]
    ) -> list[LoggedChange]:
        """Publish or record what is missing; may be repeated after a failure at any point.

        Args:
            changes: in the order of the log.
            earlier: documents with changes before these that are not settled yet: what builds on them waits.
            pending: tells the revisions that are still to be recorded.

        Returns:
            the changes that must be looked at again.
        """
        work = _Work()
        foreign = [change for change in changes if change.kind is ChangeKind.FOREIGN]
        known = self._records.already_foreign(foreign) if foreign else set()
        waiting = set(earlier)
        for change in changes:
            try:
                self._add(work, change, known, waiting)
            except REFUSED:
                raise
            except Exception as cause:
                self._add_unreadable(work, change, cause)
        self._add_batches(work, [change for change in changes if change.is_row])
        self._add_unannounced(work, [change for change in foreign if not change.doubtful], pending)
        self._deliver(work)
        return [change for change in changes if change not in work.recorded]

    def _add(self, work: _Work, change: LoggedChange, known: set[tuple[str, str, int]], waiting: set[str]) -> None:
        if change.kind is ChangeKind.SKIPPED:
            self._add_gap(work, change, change.reason)
        elif change.kind is ChangeKind.FOREIGN:
            if (change.domain.name, change.document, change.at) in known:
                work.recorded.add(change)
            elif not self._must_wait(change, waiting):
                self._add_foreign(work, change)
        elif not change.is_row and not self._must_wait(change, waiting):
            self._add_event(work, change)

    def _add_unreadable(self, work: _Work, change: LoggedChange, cause: Exception) -> None:
        """What nobody foresaw in a change costs that change its payload, and nothing else."""
        reason = f"what it left cannot be read: {cause!r:.300}"
        if change.kind is ChangeKind.FOREIGN:
            logger.error("%.200s: %s", change.id, reason)
            work.records.append(self._records.foreign(change, None, reason))
            work.recorded.add(change)
        else:
            self._add_gap(work, change, reason)

    def put_right(
        self,
        changes: Sequence[LoggedChange],
        recorded: Mapping[str, RawBSONDocument],
        unsettled: Callable[[], Set[str]],
    ) -> None:
        """Record what revisions were of which the record tells something else; may be repeated.

        Args:
            changes: that have a record, in the order of the log.
            recorded: these records by id.
            unsettled: tells the documents with changes that have none yet.
        """
        corrections = []
        built: dict[tuple[Domain, str, int], State | None] = {}
        for change in changes:
            is_wrong = not agrees(change, recorded[change.id])
            # What a removal does not tell, the revision before it does: that was wrong, so this one may be.
            is_next = (change.domain, change.document, change.rev - 1) in built and _builds_on_before(change)
            if not is_wrong and not is_next:
                continue
            state, unknown = self._rebuilt(change, built)
            if not is_wrong and (state is None or change.document in unsettled()):
                continue
            if is_wrong or (state is not None and not tells(recorded[change.id], change.domain, state.payload)):
                corrections.append(self._correction(change, state, unknown))
                built[change.domain, change.document, change.rev] = state
        if corrections:
            self._records.write(corrections)
            self._notes.note(MISMATCHED, corrections[-1]["_id"], len(corrections))
            self.counts[CORRECTION] += len(corrections)

    def _rebuilt(
        self, change: LoggedChange, built: Mapping[tuple[Domain, str, int], State | None]
    ) -> tuple[State | None, str]:
        """What a change left, or why that is not known. `built`: of revisions whose record is wrong as well."""
        before = change.domain, change.document, change.rev - 1
        try:
            return rebuild(change, built[before] if before in built else self._records.state(*before)[1]), ""
        except Unrecoverable as cause:
            return None, f"; what it was is not known: {cause}"

    def _correction(self, change: LoggedChange, state: State | None, unknown: str) -> dict[str, Any]:
        reason = f"the record of revision {change.rev} is not what MongoDB's log reports it: it was made from an event "
        reason += f"that no writer of this document published, or was altered{unknown}"
        logger.error("%s: %s. A correction is recorded; see `bkm audit show`", change.revision_id, reason)
        return self._records.correction(change, state, reason, operation_of(change))

    def _deliver(self, work: _Work) -> None:
        self._caches.relay(
            [
                (key, change.rev if change.domain.cached else None)  # A list's entry carries no revision of its rows.
                for change in work.published
                if change.publish_count == 0 and change.key and (key := cache_key(change.key)) is not None
            ]
        )
        published = work.published if self._feed.publish(work.events) else []
        self._records.write(work.records)
        for change in published:
            change.publish_count += 1
        self.counts["republished"] += len(published)
        for record in work.records:
            self.counts[record["operation"]] += 1
        foreign = [record["_id"] for record in work.records if record["operation"] == FOREIGN]
        if foreign:
            self._notes.note(FOREIGN_WRITES, foreign[-1], len(foreign))
        if published:
            logger.info(
                "republished %d events that were missing, the first is %s", len(work.events), work.events[0][1].id
            )

    # -- single documents

    @staticmethod
    def _must_wait(change: LoggedChange, waiting: set[str]) -> bool:
        """Whether it is too early for a change. `waiting`: documents with earlier changes of which that is so."""
        if change.doubtful or (change.document in waiting and _builds_on_before(change)):
            waiting.add(change.document)
            return True
        return False

    def _state(self, work: _Work, change: LoggedChange) -> State:
        """What a change left; remembered for the changes after it.

        Raises:
            Unrecoverable: it is lost.
        """
        try:
            state = rebuild(change, self._before(work, change) if _builds_on_before(change) else None)
        except Unrecoverable:
            work.states[change.domain, change.document, change.rev] = _Found(change.at, None)
            raise
        work.states[change.domain, change.document, change.rev] = _Found(change.at, state)
        return state

    def _before(self, work: _Work, change: LoggedChange) -> State | None:
        rev = change.rev if change.kind is ChangeKind.FOREIGN else change.rev - 1
        recorded = _Found(*self._records.state(change.domain, change.document, rev))
        built = work.states.get((change.domain, change.document, rev))
        return built.state if built is not None and built.at >= recorded.at else recorded.state

    def _add_event(self, work: _Work, change: LoggedChange) -> None:
        if change.publish_count >= PUBLISH_MAX:
            self._add_gap(
                work, change, "its event was published again and again but never recorded; see the dead letters"
            )
            return
        if change.key is None:
            self._add_gap(work, change, "nothing tells its key: its document is gone, or its key columns hold none")
            return
        try:
            state = self._state(work, change)
        except Unrecoverable as cause:
            self._add_gap(work, change, str(cause))
            return
        record = Record(change.key, change.rev, state.payload, state.when, id=change.document)
        scope = change.key.scope if change.domain.shape is Shape.LIST else change.key
        event = self._event(Published(record, operation_of(change), pack(state.payload)), change)
        work.events.append((self._caches.names(scope).stream, event))
        work.published.append(change)

    def _event(self, published: Published, change: LoggedChange) -> Event:
        record = published.record
        return Event(
            domain=record.key.domain.name,
            key=record.key.parts,
            document=record.id,
            rev=record.rev,
            operation=published.operation,
            when=record.when,
            written_ms=millis(written_at(change)),
            origin=self._origin,
            body=published.body,
        )

    def _add_gap(self, work: _Work, change: LoggedChange, reason: str) -> None:
        logger.error("%s: its payload is lost, a gap is recorded: %s", change.revision_id, reason)
        work.records.append(self._records.gap(change, reason))
        work.recorded.add(change)

    # -- foreign changes

    def _add_foreign(self, work: _Work, change: LoggedChange) -> None:
        state, reason = None, ""
        if change.source != "delete":
            try:
                if change.size > DOCUMENT_MAX_BYTES - OVERHEAD_BYTES:
                    raise Unrecoverable("the document is too large for a record")
                state = self._state(work, change)
            except Unrecoverable as cause:
                reason = str(cause)
        work.records.append(self._records.foreign(change, state, reason))
        work.recorded.add(change)

    def _add_unannounced(self, work: _Work, foreign: Sequence[LoggedChange], pending: Callable[[], set[str]]) -> None:
        """A revision under a foreign change that nothing ever announced: the foreign writer made it too."""
        new = {change.revision_id: change for change in foreign if change.rev}
        if not new:
            return
        absent = new.keys() - self._records.present(list(new))
        if absent:
            for name in sorted(absent - pending()):
                reason = "no event and no record of it exist, and a foreign writer changed the document since"
                work.records.append(self._records.gap(new[name], reason))

    # -- rows of a series

    def _add_batches(self, work: _Work, rows: Sequence[LoggedChange]) -> None:
        appends: dict[Append, list[LoggedChange]] = {}
        for row in rows:
            if (append := append_of(row)) is not None:
                appends.setdefault(append, []).append(row)
        for ((domain, parts), _), members in appends.items():
            scope = Key(domain, parts)
            try:
                published = batch(scope, members)
            except Exception as cause:
                for row in members:
                    self._add_unreadable(work, row, cause)
                continue
            if members[0].publish_count >= PUBLISH_MAX:
                lost = LoggedChange(domain, published.record.id, 1, ChangeKind.OWN, "scan", at=members[0].at, key=scope)
                self._add_gap(
                    work, lost, "its event was published again and again but never recorded; see the dead letters"
                )
                work.recorded.update(members)
                continue
            work.events.append((self._caches.names(scope).stream, self._event(published, members[0])))
            work.published += members


def _builds_on_before(change: LoggedChange) -> bool:
    if change.whole or change.found or not change.intact or change.source == "delete" or deletion_of(change):
        return False
    return not is_complete(change.domain, decode(change.body))
