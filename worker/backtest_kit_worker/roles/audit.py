"""The audit role: one immutable record per (document, revision) in `audit-items`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from bson.int64 import Int64
from pymongo import InsertOne
from pymongo.database import Database
from pymongo.errors import BulkWriteError
from pymongo.write_concern import WriteConcern

from backtest_kit_mongo.coherence.events import Event

COLLECTION = "audit-items"
DUPLICATE_KEY = 11_000


class AuditRole:
    """Writes what happened, once.

    The record's `_id` is the change's identity, so a second delivery meets the first and changes nothing.
    """

    name = "audit"

    def __init__(self, database: Database[dict[str, Any]]) -> None:
        self._records = database.get_collection(COLLECTION, write_concern=WriteConcern("majority", j=True))

    def open(self) -> None:
        """For timelines: all revisions of a document, in order, and all changes of a key."""
        self._records.create_index([("documentId", 1), ("rev", 1)])
        self._records.create_index([("domain", 1), ("key", 1), ("rev", 1)])

    def apply(self, events: Sequence[tuple[str, Event]]) -> int:
        recorded_at = datetime.now(UTC)
        records = [InsertOne(_record(entry, event, recorded_at)) for entry, event in events]
        try:
            return self._records.bulk_write(records, ordered=False).inserted_count
        except BulkWriteError as cause:
            return _inserted_besides_duplicates(cause)


def _record(entry: str, event: Event, recorded_at: datetime) -> dict[str, Any]:
    return {
        "_id": event.id,
        "domain": event.domain,
        "key": list(event.key),
        "documentId": event.document,
        "rev": Int64(event.rev),
        "operation": event.operation,
        "when": None if event.when is None else Int64(event.when),
        "payload": event.payload,
        "host": event.origin.host,
        "process": event.origin.process,
        "writtenAt": datetime.fromtimestamp(event.written_ms / 1000, UTC),
        "recordedAt": recorded_at,
        "entry": entry,
    }


def _inserted_besides_duplicates(cause: BulkWriteError) -> int:
    """How many were inserted, if the only refusals were records that exist already.

    Raises:
        BulkWriteError: something else went wrong; the batch is delivered again.
    """
    details: Mapping[str, Any] = cause.details or {}
    errors = details.get("writeErrors", [])
    if details.get("writeConcernErrors") or any(error.get("code") != DUPLICATE_KEY for error in errors):
        raise cause
    return int(details.get("nInserted", 0))
