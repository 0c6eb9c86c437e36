"""The audit log as recovery uses it: what is recorded, what was recorded before, and the records that no event makes.

Foreign changes and gaps are written here directly: the feed has no event for them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from bson.int64 import Int64
from bson.raw_bson import RawBSONDocument
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import OperationFailure

from backtest_kit_mongo.audit.records import CORRECTION, DELETE, ERASED, FOREIGN, GAP, RESTORE, raw, readable
from backtest_kit_mongo.backends.mongo.decoding import unreferenced
from backtest_kit_mongo.coherence.events import REV_MAX, Operation, Origin, UnknownEvent
from backtest_kit_mongo.coherence.record import Domain, Key
from backtest_kit_mongo.stored import AUDIT_ITEMS as ITEMS
from backtest_kit_worker.fence import Primary
from backtest_kit_worker.loop import PASSING
from backtest_kit_worker.recovery.changes import LoggedChange, recorded_key, revision, written_at
from backtest_kit_worker.recovery.comparing import FIELDS
from backtest_kit_worker.recovery.payloads import State, Unrecoverable, moment
from backtest_kit_worker.roles.audit import AuditWriter, encoded

WRITE_MAX: Final = 1_000
"""Records written in one transaction."""
_REVISIONS: Final = {
    "$cond": [{"$gt": ["$first", 0]}, {"$subtract": [{"$add": ["$rev", 1]}, "$first"]}, 1],
}
"""How many revisions a record stands for."""
logger = logging.getLogger(__name__)


class AuditRecords:
    """Reads and writes `audit-items`; a record that exists is never changed, and what one member knows alone does not
    count as recorded.
    """

    def __init__(self, database: Database[dict[str, Any]], origin: Origin) -> None:
        self.collection: Collection[dict[str, Any]] = readable(database, ITEMS)
        self._raw = raw(database, ITEMS)
        self._writer = AuditWriter(database)
        self._origin = origin

    def open(self, since: Primary) -> None:
        """Make collection and indexes, which the audit role may not have done yet. `since`: who is the primary now;
        what is written rests on what is read from here on.
        """
        self._since = since
        self._writer.open()

    def is_empty(self) -> bool:
        return self.collection.find_one({}, {"_id": 1}) is None

    def present(self, ids: Sequence[str]) -> set[str]:
        """Which of these records exist."""
        if not ids:
            return set()
        return {record["_id"] for record in self.collection.find({"_id": {"$in": list(ids)}}, {"_id": 1})}

    def found(self, changes: Sequence[LoggedChange]) -> dict[str, RawBSONDocument]:
        """The records of changes by their id, with what is compared (see `comparing`)."""
        if not changes:
            return {}
        records = self._raw.find({"_id": {"$in": [change.id for change in changes]}}, FIELDS)
        return {str(record["_id"]): record for record in records}

    def state(self, domain: Domain, document: str, rev: int) -> tuple[int, State | None]:
        """What the document held after its revision `rev` and the foreign changes since (None: not known), and the
        cluster time of the last of these (0: there was none).
        """
        records = list(self.collection.find({"documentId": document, "rev": rev, "domain": domain.name}))
        if not records:
            return 0, None
        last = max(records, key=_at)
        if last.get("operation") not in ("upsert", "remove", FOREIGN, CORRECTION) or not _tells(last):
            return _at(last), None
        try:
            return _at(last), State(unreferenced(last.get("payload")), moment(last.get("when")))
        except Unrecoverable:
            return _at(last), None

    def latest(self, domain: Domain, document: str) -> tuple[Key | None, int]:
        """Key and highest revision in the records of a document; None and 0 if there is no record."""
        # A range, because records that were forged may name anything as their revision.
        query = {"documentId": document, "rev": {"$gte": 0, "$lt": REV_MAX}, "domain": domain.name}
        last = self.collection.find_one(query, {"key": 1, "rev": 1}, sort=[("rev", -1)])
        return (None, 0) if last is None else (recorded_key(domain, last.get("key")), revision(last["rev"]))

    def is_deleted(self, domain: Domain, document: str) -> bool:
        """Whether a deletion for good is recorded of it."""
        query = {"documentId": document, "domain": domain.name, "operation": DELETE}
        return self.collection.find_one(query, {"_id": 1}) is not None

    def counts(self, domain: Domain, documents: Sequence[str]) -> Mapping[str, tuple[int, int]]:
        """How many revisions of each document have their record, and the highest of them."""
        of_revisions = {
            "documentId": {"$in": list(documents)}, "rev": {"$gte": 1}, "domain": domain.name,
            "operation": {"$ne": FOREIGN},
        }  # fmt: skip
        pipeline: list[dict[str, Any]] = [
            {"$match": of_revisions},
            {"$group": {"_id": "$documentId", "count": {"$sum": _REVISIONS}, "highest": {"$max": "$rev"}}},
        ]
        found = self.collection.aggregate(pipeline)
        return {group["_id"]: (int(group["count"]), int(group["highest"])) for group in found}

    def holes(self, domain: Domain, document: str, rev: int) -> list[range]:
        """The revisions from 1 to `rev` that have no record."""
        of_revisions = {
            "documentId": document, "rev": {"$gte": 1, "$lte": rev}, "domain": domain.name,
            "operation": {"$ne": FOREIGN},
        }  # fmt: skip
        found: list[range] = []
        expected = 1
        for record in self.collection.find(of_revisions, {"rev": 1, "first": 1}).sort("rev", 1):
            if not (there := revision(record["rev"])):
                continue
            if (first := revision(record.get("first")) or there) > expected:
                found.append(range(expected, first))
            expected = there + 1
        if expected <= rev:
            found.append(range(expected, rev + 1))
        return found

    def already_foreign(self, changes: Sequence[LoggedChange]) -> set[tuple[str, str, int]]:
        """(domain, document, cluster time) of those foreign changes that have a record, whatever revision it names: how
        high the document had come may look different when a change is judged again.
        """
        query = {
            "documentId": {"$in": [change.document for change in changes]},
            "foreign": {"$in": [Int64(change.at) for change in changes]},
        }
        found = self.collection.find(query, {"domain": 1, "documentId": 1, "foreign": 1})
        return {(record["domain"], record["documentId"], int(record["foreign"])) for record in found}

    def write(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Insert records unless they exist.

        Raises:
            PrimaryChanged: open again; whether they are missing is to be judged again.
        """
        for start in range(0, len(records), WRITE_MAX):
            piece = [_storable(record) for record in records[start : start + WRITE_MAX]]
            try:
                self._writer.write_since(piece, self._since)
            except (OperationFailure, UnknownEvent) as cause:
                if isinstance(cause, OperationFailure) and (cause.timeout or any(map(cause.has_error_label, PASSING))):
                    raise
                for record in piece:
                    self._write_apart(record)

    def _write_apart(self, record: Mapping[str, Any]) -> None:
        """One record, without its content if MongoDB refuses that."""
        try:
            self._writer.write_since([record], self._since)
        except (OperationFailure, UnknownEvent) as cause:
            self._writer.write_since([_bare(record, f"{cause!s:.300}")], self._since)

    def gap(self, change: LoggedChange, reason: str) -> dict[str, Any]:
        """The record of a revision whose payload is lost."""
        record = {**self._record(change, GAP, None), "reason": reason}
        return {**record, "first": Int64(change.first)} if change.first else record

    def foreign(self, change: LoggedChange, state: State | None, reason: str) -> dict[str, Any]:
        """The record of a change that raised no revision. `reason` says why the payload is not known, if it is not."""
        record = self._record(change, FOREIGN, state)
        record.update({"foreign": Int64(change.at), "detail": change.source})
        return {**record, "reason": reason} if reason else record

    def correction(
        self, change: LoggedChange, state: State | None, reason: str, operation: Operation
    ) -> dict[str, Any]:
        """The record of what a revision was, beside one that tells something else."""
        record = self._record(change, CORRECTION, state)
        return {
            **record,
            "_id": f"{change.revision_id}~{change.at}",
            "foreign": Int64(change.at),
            "detail": operation,
            "reason": reason,
        }

    def restore(self, found: Mapping[str, Any], reported: str) -> dict[str, Any]:
        """The record of a database that went back; `found` is its entry in `cache-identity`."""
        at = found["at"]
        return {
            "_id": f"{RESTORE}/{found['over']}/1", "domain": RESTORE, "key": [], "documentId": str(found["over"]),
            "rev": Int64(1), "operation": RESTORE, "when": None, "payload": {"era": found["next"], "why": found["why"]},
            "host": self._origin.host, "process": self._origin.process, "writtenAt": at,
            "recordedAt": datetime.now(UTC),
            "entry": None, "reason": reported,
        }  # fmt: skip

    def _record(self, change: LoggedChange, operation: str, state: State | None) -> dict[str, Any]:
        now = datetime.now(UTC)
        return {
            "_id": change.id if operation == FOREIGN else change.revision_id,
            "domain": change.domain.name,
            "key": list(change.key.parts) if change.key else [],
            "documentId": change.document,
            "rev": Int64(change.rev),
            "operation": operation,
            "when": None if state is None or state.when is None else Int64(state.when),
            "payload": None if state is None else state.payload,
            "host": self._origin.host,
            "process": self._origin.process,
            "writtenAt": written_at(change),
            "recordedAt": now,
            "entry": None,
        }


def _at(record: Mapping[str, Any]) -> int:
    foreign = record.get("foreign")
    return int(foreign) if isinstance(foreign, int) else 0


def _tells(record: Mapping[str, Any]) -> bool:
    """Whether a record has its payload. Of a correction, the reason says what it corrects."""
    return not record.get(ERASED) and (record.get("operation") == CORRECTION or not record.get("reason"))


def _storable(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """The record, or what is left of it without what MongoDB would refuse: one document must not keep the others from
    theirs.
    """
    try:
        encoded(record)
    except UnknownEvent as cause:
        return _bare(record, str(cause))
    return record


def _bare(record: Mapping[str, Any], cause: str) -> Mapping[str, Any]:
    logger.error("%.200s is recorded without key and payload: %s", record["_id"], cause)
    return {**record, "key": [], "label": "", "payload": None, "reason": f"it cannot be stored in a record: {cause}"}
