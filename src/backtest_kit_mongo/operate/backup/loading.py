"""A backup into a database, under workers that run.

Everything is loaded beside the collections in force, into `bkm-restore.<name>`, which takes its time and changes
nothing. Then, in about a second, all of it is put in force:

    say that a restore is under way       no worker confirms anything from here on (`fence.py` of the worker)
    rename the documents' collections
    end all eras and claim another        nothing that any Redis holds of before is served
    cut the feed                          it informs of revisions that are gone
    rename the audit log's collections    last, so what was recorded meanwhile of either goes with them
    say that it is done                   a worker records it and compares all documents; replicas follow

Whoever dies before is run again: what is loaded stays, and a renaming that was begun is completed.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from getpass import getuser
from typing import Any, Final

import bson
import redis
from bson.raw_bson import RawBSONDocument
from pymongo import DeleteOne, ReplaceOne
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import BulkWriteError
from pymongo.write_concern import WriteConcern

from backtest_kit_mongo.backends.mongo.decoding import RAW
from backtest_kit_mongo.backends.mongo.identity import IdentityDocument
from backtest_kit_mongo.backends.mongo.layout import own_collections
from backtest_kit_mongo.backends.redis.identity import SharedIdentity
from backtest_kit_mongo.coherence.eras import RESTORED
from backtest_kit_mongo.coherence.keys import streams
from backtest_kit_mongo.connect import DURABLE
from backtest_kit_mongo.domains.table import DOMAINS
from backtest_kit_mongo.errors import CorruptData, InvalidSetting
from backtest_kit_mongo.feed.positions import EntryId
from backtest_kit_mongo.feed.scripts import ask_info
from backtest_kit_mongo.feed.trimming import cut
from backtest_kit_mongo.stored import (
    AUDIT_HEADS,
    AUDIT_ITEMS,
    AUDIT_PENDING,
    AUDIT_SEALS,
    CACHE_IDENTITY,
    FEED_GROUPS,
    REPLICA_STATE,
    RESTORING,
)

from .archive import CHANGES, STAGED, Backup, Part
from .dumping import LEFT

__all__ = ["Load"]

AUDIT: Final = (AUDIT_ITEMS, AUDIT_PENDING, AUDIT_HEADS, AUDIT_SEALS)
OF_THE_DEPLOYMENT: Final = frozenset({CACHE_IDENTITY, FEED_GROUPS, REPLICA_STATE})
"""Who this database, its consumers and its replicas are: a deployment that is there keeps that."""
BATCH: Final = 1_000
BATCH_BYTES: Final = 8 << 20
DUPLICATE_KEY: Final = 11_000
STATE: Final = "state"

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Load:
    """
    Args:
        identity, document: of the database and its Redis.
        client: of that Redis.
        replace: the database may hold documents.
        on_documents: told of a collection's name, the documents loaded, and how many there are.
    """

    backup: Backup
    database: Database[Document]
    identity: SharedIdentity
    document: IdentityDocument
    client: redis.Redis
    replace: bool = False
    on_documents: Callable[[str, int, int], object] = lambda name, count, total: None

    def run(self) -> None:
        """Restore.

        Raises:
            InvalidSetting: the database holds documents, or the backup is none of a database. Nothing was restored.
            CorruptData, PyMongoError, RedisError, OSError: run it again. Only one that says so has changed anything.
        """
        self.require_room()
        self.client.ping()
        state = self._resumed()
        for part in self._parts():
            if part.name not in state["staged"]:
                self._stage(part)
                self._states.update_one({"_id": STATE}, {"$addToSet": {"staged": part.name}})
        if not state["switching"]:
            self._apply_changes()
            for part in self._parts():
                self._build_indexes(part)
            # With a majority, so all that was loaded before it is, too.
            self._states.update_one({"_id": STATE}, {"$set": {"switching": True}})
        self._switch()

    def require_room(self) -> None:
        """
        Raises:
            InvalidSetting: see `run`.
        """
        if self.backup.manifest.kind != "mongodb":
            raise InvalidSetting("this is a backup of files: restore it into a directory, with --at ./dump")
        if self.replace or self._state().get("switching"):
            return
        names = (own_collections(DOMAINS) | {part.name for part in self._parts()}) - LEFT - OF_THE_DEPLOYMENT
        held = [name for name in sorted(names) if self.database[name].find_one({}, {"_id": 1}) is not None]
        if held:
            raise InvalidSetting(
                f"the database {self.database.name} holds documents ({', '.join(held[:5])}"
                f"{', ...' if len(held) > 5 else ''}). Nothing was restored: --replace puts the backup in their place. "
                "Make a backup of them first."
            )

    @property
    def _states(self) -> Collection[Document]:
        return self.database.get_collection(RESTORING, write_concern=DURABLE)

    def _state(self) -> Document:
        """How far this backup's restore has come."""
        found = self._states.find_one({"_id": STATE}) or {}
        return found if found.get("backup") == self.backup.manifest.name else {}

    def _resumed(self) -> Document:
        state = self._state()
        if not state:
            self._drop(name for name in self.database.list_collection_names() if name.startswith(STAGED))
            state = {"_id": STATE, "backup": self.backup.manifest.name, "staged": [], "switching": False}
            self._states.replace_one({"_id": STATE}, state, upsert=True)
        return state

    def _drop(self, names: Iterator[str]) -> None:
        for name in names:
            self.database.drop_collection(name)

    def _parts(self) -> Sequence[Part]:
        return [part for part in self.backup.manifest.parts if part.name not in OF_THE_DEPLOYMENT | {CHANGES}]

    # ---- beside what is in force

    def _staged(self, name: str) -> Collection[Any]:
        return self.database.get_collection(f"{STAGED}{name}", codec_options=RAW, write_concern=WriteConcern(1))

    def _stage(self, part: Part) -> None:
        staged = self._staged(part.name)
        staged.drop()
        self.database.command({"create": staged.name, **part.options})
        count = 0
        for batch in _batches(self.backup.documents(part)):
            _insert(staged, batch)
            count += len(batch)
            self.on_documents(part.name, len(batch), part.documents)
        if count != part.documents:
            raise CorruptData(f"{part.file} has {count:,} documents, not {part.documents:,}. Nothing was restored.")

    def _apply_changes(self) -> None:
        part = self.backup.manifest.part(CHANGES)
        for batch in _batches(self.backup.documents(part)) if part else ():
            writes: dict[str, list[ReplaceOne[Any] | DeleteOne]] = {}
            for change in batch:
                is_there, named = "d" in change, {"_id": change["i"]}
                write = ReplaceOne(named, change["d"], upsert=True) if is_there else DeleteOne(named)
                writes.setdefault(str(change["c"]), []).append(write)
            for name, some in writes.items():
                if name not in OF_THE_DEPLOYMENT:
                    self._staged(name).bulk_write(some, bypass_document_validation=True)

    def _build_indexes(self, part: Part) -> None:
        indexes = [{name: value for name, value in index.items() if name != "ns"} for index in part.indexes]
        if indexes:
            self.database.command({"createIndexes": self._staged(part.name).name, "indexes": indexes})

    # ---- in force

    def _switch(self) -> None:
        manifest = self.backup.manifest
        self.document.begin_restore(self._stored_identity(), manifest.name)
        names = [part.name for part in self._parts()]
        self._rename(name for name in names if name not in AUDIT)
        self.identity.end(RESTORED)
        self._cut()
        self._rename(name for name in AUDIT if name in names)
        gone = own_collections(DOMAINS) - LEFT - OF_THE_DEPLOYMENT - set(names)
        self._drop(iter(sorted(gone & set(self.database.list_collection_names()))))
        for name in OF_THE_DEPLOYMENT - {CACHE_IDENTITY}:
            self._fill(name)
        self.document.end_restore(manifest.name, manifest.taken_at, self.identity.era, _who(), self._ends())
        self._states.drop()

    def _rename(self, names: Iterator[str]) -> None:
        there = set(self.database.list_collection_names())
        for name in names:
            staged = self._staged(name)
            if staged.name in there:  # Else whoever died has done it.
                staged.rename(name, dropTarget=True)

    def _stored_identity(self) -> Document:
        part = self.backup.manifest.part(CACHE_IDENTITY)
        if part is None:
            return {}
        found = next(self.backup.documents(part), None)
        return {} if found is None else bson.decode(found.raw, self.database.codec_options)

    def _fill(self, name: str) -> None:
        """What a deployment knows of itself comes only where there is none."""
        part, collection = self.backup.manifest.part(name), self.database.get_collection(name, write_concern=DURABLE)
        if part is None or collection.find_one({}, {"_id": 1}) is not None:
            return
        for batch in _batches(self.backup.documents(part)):
            _insert(collection, batch)

    def _streams(self) -> tuple[str, ...]:
        return streams(self.database.name, max(self.identity.partitions, int(self.document.read().get("widest", 1))))

    def _cut(self) -> None:
        for stream, last in self._ends().items():
            cut(self.client, stream, EntryId.parse(last).next)

    def _ends(self) -> dict[str, str]:
        infos = {stream: ask_info(self.client, stream) for stream in self._streams()}
        return {stream: info.last for stream, info in infos.items() if info is not None}


def _who() -> str:
    try:
        return f"{getuser()} on {socket.gethostname()}"
    except (OSError, KeyError):
        return socket.gethostname()


def _batches(documents: Iterator[RawBSONDocument]) -> Iterator[list[RawBSONDocument]]:
    batch: list[RawBSONDocument] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += len(document.raw)
        if len(batch) == BATCH or size > BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _insert(collection: Collection[Any], batch: Sequence[RawBSONDocument]) -> None:
    try:
        collection.insert_many(batch, ordered=False, bypass_document_validation=True)
    except BulkWriteError as cause:
        # A document that was deleted and made anew while it was copied is in the copy twice, and in the changes.
        details: Mapping[str, Any] = cause.details or {}
        if any(error.get("code") != DUPLICATE_KEY for error in details.get("writeErrors", [])):
            raise
