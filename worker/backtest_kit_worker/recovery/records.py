"""The audit log as recovery uses it: what is recorded, what was recorded before, and the records that no event makes.

Foreign changes and gaps are written here directly: the feed has no event for them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from bson.int64 import Int64
from pymongo.collection import Collection
from pymongo.database import Database

from backtest_kit_mongo.audit.records import FOREIGN, GAP, ITEMS, readable
from backtest_kit_mongo.backends.mongo.decoding import unreferenced
from backtest_kit_mongo.coherence.events import Origin
from backtest_kit_mongo.coherence.record import Domain, Key
from backtest_kit_worker.recovery.changes import Change, written_at
from backtest_kit_worker.recovery.payloads import State
from backtest_kit_worker.roles.audit import AuditWriter

WRITE_MAX: Final = 1_000
"""Records written in one transaction."""


class AuditRecords:
    """Reads and writes `audit-items`; a record that exists is never changed, and what one member knows alone does not count
    as recorded.
    """

    def __init__(self, database: Database[dict[str, Any]], origin: Origin) -> None:
        self.collection: Collection[dict[str, Any]] = readable(database, ITEMS)
        self._writer = AuditWriter(database)
        self._origin = origin

    def open(self) -> None:
        """Make collection and indexes, which the audit role may not have done yet."""
        self._writer.open()

    def is_empty(self) -> bool:
        return self.collection.find_one({}, {"_id": 1}) is None

    def present(self, ids: Sequence[str]) -> set[str]:
        """Which of these records exist."""
        if not ids:
            return set()
        return {record["_id"] for record in self.collection.find({"_id": {"$in": list(ids)}}, {"_id": 1})}

    def state(self, domain: Domain, document: str, rev: int) -> tuple[int, State | None]:
        """What the document held after its revision `rev` and the foreign changes since (None: not known), and the
        cluster time of the last of these (0: there was none).
        """
        records = list(self.collection.find({"documentId": document, "rev": rev, "domain": domain.name}))
        if not records:
            return 0, None
        last = max(records, key=lambda record: record.get("foreign") or 0)
        at = int(last.get("foreign") or 0)
        if last["operation"] not in ("upsert", "remove", FOREIGN) or last.get("reason"):
            return at, None
        return at, State(unreferenced(last["payload"]), None if last["when"] is None else int(last["when"]))

    def latest(self, domain: Domain, document: str) -> tuple[Key | None, int]:
        """Key and highest revision in the records of a document; None and 0 if there is no record."""
        query = {"documentId": document, "domain": domain.name}
        last = self.collection.find_one(query, {"key": 1, "rev": 1}, sort=[("rev", -1)])
        if last is None:
            return None, 0
        return (Key(domain, tuple(last["key"])) if last["key"] else None), int(last["rev"])

    def counts(self, domain: Domain, documents: Sequence[str]) -> Mapping[str, int]:
        """How many revisions of each document have their record."""
        of_revisions = {
            "documentId": {"$in": list(documents)}, "rev": {"$gte": 1}, "domain": domain.name, "operation": {"$ne": FOREIGN},
        }  # fmt: skip
        pipeline: list[dict[str, Any]] = [
            {"$match": of_revisions},
            {"$group": {"_id": "$documentId", "count": {"$sum": 1}}},
        ]
        return {group["_id"]: group["count"] for group in self.collection.aggregate(pipeline)}

    def holes(self, domain: Domain, document: str, rev: int) -> list[range]:
        """The revisions from 1 to `rev` that have no record."""
        of_revisions = {
            "documentId": document, "rev": {"$gte": 1, "$lte": rev}, "domain": domain.name, "operation": {"$ne": FOREIGN},
        }  # fmt: skip
        found: list[range] = []
        expected = 1
        for record in self.collection.find(of_revisions, {"rev": 1}).sort("rev", 1):
            if (there := int(record["rev"])) > expected:
                found.append(range(expected, there))
            expected = there + 1
        if expected <= rev:
            found.append(range(expected, rev + 1))
        return found

    def already_foreign(self, changes: Sequence[Change]) -> set[tuple[str, str, int]]:
        """(domain, document, cluster time) of those foreign changes that have a record, whatever revision it names: how high the
        document had come may look different when a change is judged again.
        """
        query = {
            "documentId": {"$in": [change.document for change in changes]},
            "foreign": {"$in": [Int64(change.at) for change in changes]},
        }
        found = self.collection.find(query, {"domain": 1, "documentId": 1, "foreign": 1})
        return {(record["domain"], record["documentId"], int(record["foreign"])) for record in found}

    def write(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Insert records unless they exist."""
        for start in range(0, len(records), WRITE_MAX):
            self._writer.write(records[start : start + WRITE_MAX])

    def gap(self, change: Change, reason: str) -> dict[str, Any]:
        """The record of a revision whose payload is lost."""
        return {**self._record(change, GAP, None), "reason": reason}

    def foreign(self, change: Change, state: State | None, reason: str) -> dict[str, Any]:
        """The record of a change that raised no revision. `reason` says why the payload is not known, if it is not."""
        record = self._record(change, FOREIGN, state)
        record.update({"foreign": Int64(change.at), "detail": change.source})
        return {**record, "reason": reason} if reason else record

    def _record(self, change: Change, operation: str, state: State | None) -> dict[str, Any]:
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
