"""The audit role: one immutable record per (document, revision) in `audit-items`, and its digest in the sealer's
queue.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import UTC, datetime
from functools import lru_cache
from itertools import islice
from typing import Any, Final, NamedTuple

import bson
import pymongo
from bson import ObjectId
from bson.int64 import Int64
from bson.raw_bson import RawBSONDocument
from pymongo import UpdateOne
from pymongo.client_session import ClientSession
from pymongo.database import Database
from pymongo.errors import BulkWriteError, OperationFailure
from pymongo.write_concern import WriteConcern

from backtest_kit_mongo.audit.belonging import signal_of
from backtest_kit_mongo.audit.records import IDENTITY, IN_KEYS, KEYS, RAW, SIGNALS, digest, raw, sealed_digest
from backtest_kit_mongo.coherence.causes import as_fields
from backtest_kit_mongo.coherence.events import Event, UnknownEvent
from backtest_kit_mongo.coherence.keys import escaped
from backtest_kit_mongo.coherence.record import Part
from backtest_kit_mongo.connect import DURABLE
from backtest_kit_mongo.stored import AUDIT_ITEMS as ITEMS
from backtest_kit_mongo.stored import AUDIT_PENDING as PENDING
from backtest_kit_worker.fence import Fence, Primary, PrimaryChanged
from backtest_kit_worker.roles import Role

COLLECTION: Final = ITEMS
DUPLICATE_KEY: Final = 11_000
TIMEOUT_S: Final = 30
"""Bound on one batch, the driver's retries included."""
CONTENT_CODES: Final = frozenset({15, 22, 10_334, 17_280})
"""Overflow (nested too deep), InvalidBSON, BSONObjectTooLarge, KeyTooLong: what a record holds is to blame."""
RECORD_MAX_BYTES: Final = 16 * 1024 * 1024 - 16 * 1024
PART_MAX: Final = 250
"""Records of one write."""

Document = dict[str, Any]


class DoubledRecord(ValueError):
    """A record of this revision exists under another id: a forgery or a bug, never a redelivery. It was not written."""


class _Written(NamedTuple):
    """What became of a part of a batch.

    Attributes:
        new_count: records that were not there.
        place: in the sealer's queue, as it is to be confirmed; empty if it is not.
        changed: the fields of it that the confirmation changes.
    """

    new_count: int
    place: Document
    changed: Sequence[str] = ("confirmed",)


class AuditRole(Role):
    """Writes what happened, once.

    The record's `_id` is the change's identity, so a second delivery meets the first and changes nothing.
    """

    name = "audit"

    def __init__(self, database: Database[Document]) -> None:
        self._writer = AuditWriter(database)

    def open(self) -> None:
        self._writer.open()

    def apply(self, events: Sequence[tuple[str, Event]]) -> int:
        recorded_at = datetime.now(UTC)
        return self._writer.write(_record(entry, event, recorded_at) for entry, event in events)


class AuditWriter:
    """The only way into `audit-items`, for the audit role and for recovery.

    A batch first gets its place in the sealer's queue, with the digests of the records; then the records are inserted;
    then the place is confirmed. So nothing recorded is ever forgotten by the sealer, and of a confirmed batch it need
    not read the records. Not a transaction: one that a killed worker leaves open blocks the same records for the next
    worker for a minute.

    Only the confirmation is one, behind a fence: a database that was set back in the middle of a batch has lost some of
    its records, and is not to be told that it has them. Then the batch is delivered again.
    """

    def __init__(self, database: Database[Document]) -> None:
        self._items = database.get_collection(ITEMS, codec_options=RAW, write_concern=DURABLE)
        self._pending = database.get_collection(PENDING, write_concern=DURABLE)
        self._stored = raw(database, ITEMS)
        self._fence = Fence(database)
        self._primary: Primary | None = None
        """Who was the primary when last asked: asking costs a round trip, being wrong a second delivery."""
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="audit-writer")

    def open(self) -> None:
        """Make the indexes.

        Raises:
            PyMongoError: try again; for instance two records of one revision exist, see `bkm audit verify`.
        """
        self._items.create_index(IDENTITY, unique=True)
        self._items.create_index(KEYS, partialFilterExpression=IN_KEYS)
        self._items.create_index(SIGNALS, sparse=True)

    def write(self, records: Iterable[Mapping[str, Any]]) -> int:
        """Insert records that do not exist yet; returns how many were new.

        A large batch goes in parts, two at once: one is packed while others wait for the journal.

        Args:
            records: by the table of `audit/records.py`; `label` and `signal` are added where they are missing.

        Raises:
            UnknownEvent: one of them holds what MongoDB cannot; none or some were written.
            DoubledRecord, PyMongoError, PrimaryChanged: each record may have been written; write them again.
        """
        # One at a time: a whole batch of decoded payloads would cost the garbage collector more than encoding them
        # does.
        packed = ((record["_id"], encoded(record)) for record in records)
        part = dict(islice(packed, PART_MAX))
        if not part:
            return 0
        with pymongo.timeout(TIMEOUT_S):
            since = self._primary = self._primary or self._fence.primary()
        if len(part) < PART_MAX:
            written = [self._write(part)]
        else:
            parts = []
            while part:
                parts.append(self._pool.submit(self._write, part))
                part = dict(islice(packed, PART_MAX))
            wait(parts)
            written = [each.result() for each in parts]
        with pymongo.timeout(TIMEOUT_S):
            self._confirm({each.place["_id"]: each for each in written if each.place}, since)
        return sum(each.new_count for each in written)

    def write_since(self, records: Iterable[Mapping[str, Any]], since: Primary) -> None:
        """Insert records that do not exist yet, all or none, unless the database may have been set back since they were
        thought of. For the few that recovery makes: here a transaction's drawback does not count.

        Raises:
            PrimaryChanged: nothing was written.
            UnknownEvent, DoubledRecord, PyMongoError: as `write`.
        """
        batch = {record["_id"]: encoded(record) for record in records}
        with pymongo.timeout(TIMEOUT_S), self._fence.writes(since) as session:
            known = {
                found["_id"] for found in self._stored.find({"_id": {"$in": list(batch)}}, {"_id": 1}, session=session)
            }
            new = {record_id: stored for record_id, stored in batch.items() if record_id not in known}
            if new:
                digests = {record_id: digest(stored) for record_id, stored in new.items()}
                self._pending.insert_one(_place(ObjectId(), digests, confirmed=True), session=session)
                self._insert(new, session)

    def _write(self, batch: Mapping[str, bytes]) -> _Written:
        digests = {record_id: digest(stored) for record_id, stored in batch.items()}
        with pymongo.timeout(TIMEOUT_S):
            place = ObjectId()
            self._pending.insert_one(_place(place, digests, confirmed=False))
            known = self._insert(batch)
            new_count = len(batch) - len(known)
            if known:
                # Somebody recorded them first: what is to be sealed is what they wrote.
                found = {stored["_id"]: sealed_digest(stored) for stored in self._stored.find({"_id": {"$in": known}})}
                if len(found) < len(known):
                    return _Written(new_count, {})  # Not confirmed, so the sealer will look itself.
                digests.update(found)
        # Only what changed: the digests a second time would be an eighth of what MongoDB has to do for a record.
        changed = ("confirmed", "digests") if known else ("confirmed",)
        return _Written(new_count, _place(place, digests, confirmed=True), changed)

    def _insert(self, batch: Mapping[str, bytes], session: ClientSession | None = None) -> list[str]:
        """Insert in any order; returns the ids of records that existed."""
        try:
            self._items.insert_many(
                [RawBSONDocument(stored) for stored in batch.values()], ordered=False, session=session
            )
        except BulkWriteError as cause:
            ids = list(batch)
            return [ids[index] for index in _existing(cause)]
        except OperationFailure as cause:
            if cause.code not in CONTENT_CODES:
                raise
            raise UnknownEvent(f"MongoDB refuses it: {cause.details and cause.details.get('errmsg')!s:.300}") from cause
        return []

    def _confirm(self, places: Mapping[ObjectId, _Written], since: Primary) -> None:
        """Tell the sealer that all records of these places exist, with these digests."""
        if not places:
            return
        updates = [
            UpdateOne({"_id": name}, {"$set": {field: each.place[field] for field in each.changed}})
            for name, each in places.items()
        ]
        try:
            # One that is lost costs the sealer a look at the records, a journal's wait would cost every batch.
            with self._fence.writes(since, WriteConcern(1)) as session:
                if self._pending.bulk_write(updates, ordered=False, session=session).matched_count < len(places):
                    self._queue_again(places, session)
        except PrimaryChanged:
            self._primary = None
            raise

    def _queue_again(self, places: Mapping[ObjectId, _Written], session: ClientSession) -> None:
        """This process was held up for so long that the sealer gave places up, perhaps before their records were
        inserted.
        """
        found = self._pending.find({"_id": {"$in": [*places]}}, {"_id": 1}, session=session)
        gone = places.keys() - {each["_id"] for each in found}
        self._pending.insert_many([{**places[name].place, "_id": ObjectId()} for name in gone], session=session)


def encoded(record: Mapping[str, Any]) -> bytes:
    """A record as it is stored.

    Raises:
        UnknownEvent: MongoDB cannot hold it.
    """
    try:
        stored = bson.encode(_labelled(record))
    except Exception as cause:
        raise UnknownEvent(f"MongoDB cannot hold it: {cause!r:.500}") from cause
    if len(stored) > RECORD_MAX_BYTES:
        raise UnknownEvent(f"its record would have {len(stored)} bytes, more than MongoDB takes")
    return stored


def _place(place: ObjectId, digests: Mapping[str, bytes], *, confirmed: bool) -> Document:
    return {"_id": place, "confirmed": confirmed, "ids": list(digests), "digests": b"".join(digests.values())}


def _existing(cause: BulkWriteError) -> list[int]:
    """The positions of the records that exist already, if that was the only refusal.

    Raises:
        DoubledRecord: one exists under another id.
        BulkWriteError: something else went wrong; the batch is delivered again.
    """
    details: Mapping[str, Any] = cause.details or {}
    errors = details.get("writeErrors", [])
    if details.get("writeConcernErrors") or any(error.get("code") != DUPLICATE_KEY for error in errors):
        raise cause
    for error in errors:
        if "_id" not in error.get("keyPattern", {"_id": 1}):
            raise DoubledRecord(
                f"a record of this revision exists under another id: {error.get('keyValue')}. Run `bkm audit verify`."
            ) from cause
    return [error["index"] for error in errors]


def _record(entry: str, event: Event, recorded_at: datetime) -> Document:
    return {
        "_id": event.id,
        "domain": event.domain,
        "key": list(event.key),
        "label": _label(event.key),
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
        **({"step": event.step} if event.step else {}),
        **({"cause": as_fields(event.cause)} if event.cause is not None else {}),
    }


def _labelled(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """With what records are found by."""
    if "label" not in record:
        record = {**record, "label": escaped(tuple(record["key"]))}
    if "signal" not in record and (signal := signal_of(record)):
        record = {**record, "signal": signal}
    return record


@lru_cache(maxsize=16_384)
def _label(key: tuple[Part, ...]) -> str:
    return escaped(key)
