"""A database into a backup, while it is in use: of one moment, and of any size.

A snapshot of MongoDB can be read for five minutes, which is too short for a large database. So collections are copied
one after the other as they are, and the change stream says which documents changed meanwhile. Only those are then read
once more, all in one snapshot: with them the copy is what the database was at that moment.

    since = MongoDB's clock
    copy each collection                  any revision from `since` on
    pin a snapshot
    read the change stream from `since` to behind the snapshot      which documents changed
    read those in the snapshot            what they were then, or that they were gone
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Final

import bson
from bson.raw_bson import RawBSONDocument
from bson.timestamp import Timestamp
from pymongo.change_stream import DatabaseChangeStream
from pymongo.client_session import ClientSession
from pymongo.database import Database
from pymongo.errors import OperationFailure
from pymongo.read_concern import ReadConcern
from pymongo.read_preferences import ReadPreference

from backtest_kit_mongo.backends.mongo.concerns import is_replicated
from backtest_kit_mongo.backends.mongo.decoding import RAW
from backtest_kit_mongo.errors import EnvironmentFault, ReadFailed, UnsafeServer
from backtest_kit_mongo.stored import DOCTOR_SCRATCH, ENGINE_LEASES, RECOVERY_STATE, RESTORING, WORKER_LEASES

from .archive import CHANGES, STAGED, Draft, Manifest

__all__ = ["Dump"]

LEFT: Final = frozenset({DOCTOR_SCRATCH, ENGINE_LEASES, RECOVERY_STATE, RESTORING, WORKER_LEASES})
"""Of the processes and the server of now: places in MongoDB's log, and leases."""
BATCH: Final = 1_000
IDS_MAX: Final = 500
AWAIT_MS: Final = 200
_TIMED: Final = re.compile("82[0-9A-F]{16}")
_WRITES: Final = frozenset({"insert", "update", "replace", "delete"})
LOST: Final = frozenset({239, 246, 286})
"""SnapshotTooOld, SnapshotUnavailable, ChangeStreamHistoryLost."""

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Dump:
    """Args:
    on_documents: told of a collection's name, the documents written, and how many it has (about).
    """

    database: Database[Document]
    on_documents: Callable[[str, int, int], object] = lambda name, count, total: None

    def into(self, draft: Draft) -> Manifest:
        """Fill a draft.

        Raises:
            UnsafeServer: this MongoDB is no replica set.
            ReadFailed: MongoDB's log is shorter than the copy took, or a collection was dropped meanwhile.
            PyMongoError, OSError: a server or disk failed. What was written is an unfinished backup.
        """
        hello = self.database.client.admin.command("hello")
        if not is_replicated(hello):
            raise UnsafeServer(
                "a backup of a database in use needs a replica set (one member is enough: `mongod --replSet`), because "
                "only there MongoDB says what changed meanwhile. Nothing was written."
            )
        found = {one["name"]: one for one in self.database.list_collections() if _is_kept(one)}
        since = self._now()
        try:
            for name in sorted(found):
                self._copy(draft, name, found[name].get("options", {}))
            with self.database.client.start_session(snapshot=True) as session:
                taken_at = datetime.now(UTC)
                self._collection(min(found, default=RESTORING)).find_one({}, {"_id": 1}, session=session)
                self._catch_up(draft, self._changed(since, self._now(), frozenset(found)), session)
        except OperationFailure as cause:
            if cause.code not in LOST:
                raise
            raise ReadFailed(
                f"MongoDB forgot what changed while it was copied ({cause.details and cause.details.get('errmsg')}): "
                "its log is too short for a database of this size. No backup was made. Enlarge it (`replSetResizeOplog`"
                "), or take a snapshot of its files."
            ) from cause
        return draft.finish("mongodb", self.database.name, taken_at, str(self.database.client.server_info()["version"]))

    def _now(self) -> Timestamp:
        moment: Timestamp = self.database.client.admin.command("ping")["operationTime"]
        return moment

    def _collection(self, name: str) -> Any:
        return self.database.get_collection(
            name, codec_options=RAW, read_preference=ReadPreference.PRIMARY, read_concern=ReadConcern("majority")
        )

    def _copy(self, draft: Draft, name: str, options: Mapping[str, Any]) -> None:
        collection = self._collection(name)
        total = collection.estimated_document_count()
        indexes = [dict(one) for one in self.database[name].list_indexes() if one["name"] != "_id_"]
        with draft.part(name, options=dict(options), indexes=indexes) as sink:
            for batch in collection.find_raw_batches(batch_size=BATCH):
                sink.write(batch, count := _count(batch))
                self.on_documents(name, count, total)

    def _changed(self, since: Timestamp, until: Timestamp, names: frozenset[str]) -> dict[tuple[str, bytes], Any]:
        """The `_id`s of the documents that changed between two moments, by collection and their bytes."""
        changed: dict[tuple[str, bytes], Any] = {}
        with self._watch(since, names) as stream:
            while True:
                change = stream.try_next()
                if change is None:
                    if not stream.alive or _is_behind(stream.resume_token, until):
                        break
                    continue
                name, operation = str(change["ns"]["coll"]), str(change["operationType"])
                if operation not in _WRITES:
                    raise ReadFailed(
                        f"the collection {name} was dropped or renamed while it was copied ({operation}). No backup "
                        "was made: run it again."
                    )
                document_id = change["documentKey"]["_id"]
                changed[name, bson.encode({"_id": document_id})] = document_id
        return changed

    def _watch(self, since: Timestamp, names: frozenset[str]) -> DatabaseChangeStream[Any]:
        pipeline: list[dict[str, Any]] = [
            {"$match": {"ns.coll": {"$in": sorted(names)}}},
            # Without the documents themselves, which may be too large for an event.
            {"$project": {"operationType": 1, "ns": 1, "documentKey": 1}},
        ]
        database: Database[Any] = self.database.with_options(codec_options=RAW)
        return database.watch(pipeline, start_at_operation_time=since, max_await_time_ms=AWAIT_MS)

    def _catch_up(self, draft: Draft, changed: Mapping[tuple[str, bytes], Any], session: ClientSession) -> None:
        with draft.part(CHANGES) as sink:
            for name in sorted({name for name, _ in changed}):
                ids = ((packed, one) for (of, packed), one in changed.items() if of == name)
                while page := dict(islice(ids, IDS_MAX)):
                    for document in self._then(name, list(page.values()), session):
                        of_document = page.pop(bson.encode({"_id": document["_id"]}))
                        sink.write(bson.encode({"c": name, "i": of_document, "d": document}))
                    for gone in page.values():
                        sink.write(bson.encode({"c": name, "i": gone}))

    def _then(self, name: str, ids: Sequence[Any], session: ClientSession) -> Iterator[RawBSONDocument]:
        # A snapshot has a read concern of its own, and `$in` takes what differs from an id only by its type.
        collection: Any = self.database.get_collection(name, codec_options=RAW, read_preference=ReadPreference.PRIMARY)
        wanted = {bson.encode({"_id": one}) for one in ids}
        for document in collection.find({"_id": {"$in": list(ids)}}, session=session):
            if bson.encode({"_id": document["_id"]}) in wanted:
                yield document


def _is_kept(listed: Mapping[str, Any]) -> bool:
    name = str(listed["name"])
    is_own = name in LEFT or name.startswith((STAGED, "system."))
    return not is_own and listed.get("type", "collection") == "collection"


def _count(batch: bytes) -> int:
    """How many documents these bytes are: each begins with its length."""
    count = place = 0
    while place < len(batch):
        place += int(struct.unpack_from("<i", batch, place)[0])
        count += 1
    return count


def _is_behind(token: Mapping[str, Any] | None, moment: Timestamp) -> bool:
    """Whether a change stream has come to a moment: its tokens begin with their time."""
    data = str((token or {}).get("_data", ""))
    if not _TIMED.match(data):
        raise EnvironmentFault(
            "this MongoDB's change streams do not say how far they were read. No backup was made: use `mongodump`."
        )
    return int(data[2:18], 16) >= moment.time << 32 | moment.inc
