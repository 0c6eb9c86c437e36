"""Copies in another MongoDB database: the same bytes under the same `_id`, the same unique indexes."""

from __future__ import annotations

import logging
from collections.abc import Collection as Items
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import pymongo
import pymongo.errors as pe
from pymongo import InsertOne, MongoClient, ReplaceOne
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.uri_parser import parse_uri

from backtest_kit_mongo.backends.mongo import indexes as mongo_indexes
from backtest_kit_mongo.backends.mongo.errors import DUPLICATE_KEY
from backtest_kit_mongo.backends.mongo.layout import collection_of
from backtest_kit_mongo.coherence.record import Domain, Key
from backtest_kit_mongo.connect import DURABLE, mongo_client
from backtest_kit_mongo.domains.table import DOMAINS
from backtest_kit_mongo.errors import InvalidSetting
from backtest_kit_mongo.stored import REPLICA_STATE
from backtest_kit_worker.replicas.naming import RAW, Raw, among, id_of, identity, named
from backtest_kit_worker.replicas.source import CHUNK_MAX, Source, batched
from backtest_kit_worker.replicas.target import Marker, ReplicaFailed, ReplicaUnreachable, Seen, Verdict, version

logger = logging.getLogger(__name__)

ATTEMPTS_MAX: Final = 10
"""How often a write is repeated because somebody else inserted the same document first. Two are enough in practice."""
_MARKER: Final = "replica-of"


class Newer(NamedTuple):
    """A document that its copy lags behind, and the operation that brings it there unless a newer one is first."""

    document: Raw
    operation: InsertOne[Raw] | ReplaceOne[Raw]


class MongoTarget:
    """A database of another deployment, or another database of the same one.

    Args:
        connection_string: names the target; the database in it, by default `default_database`, must not be the source.
        source: asked whether a copy that is in the way of another still has a document.
        timeout_ms: bound on each operation.
    """

    name = "mongo"

    def __init__(self, connection_string: str, default_database: str, source: Source, timeout_ms: int) -> None:
        parsed = parse_uri(connection_string, warn=False)
        database = parsed["database"] or default_database
        nodes = ",".join(f"{host}:{port}" if port else str(host) for host, port in parsed["nodelist"])
        self.place = f"{nodes}/{database}"
        self._source = source
        self._timeout_s = timeout_ms / 1000
        self._connection_string = connection_string
        self._database_name = database
        self._client: MongoClient[Raw] | None = None

    @property
    def _database(self) -> Database[Raw]:
        if self._client is None:
            bound_ms = int(self._timeout_s * 1000)
            self._client = mongo_client(
                self._connection_string, "backtest-kit-replica", find_ms=bound_ms, document_class=RAW.document_class
            )
        return self._client.get_database(self._database_name, RAW, write_concern=DURABLE)

    def open(self) -> None:
        with self._bounded("building indexes"):
            for domain in DOMAINS:
                collection: Collection[dict[str, Any]] = self._database[collection_of(domain)].with_options(
                    RAW.with_options(document_class=dict)
                )
                mongo_indexes.ensure(collection, domain)

    def close(self) -> None:
        """It may be opened again."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    @contextmanager
    def _bounded(self, what: str) -> Iterator[None]:
        try:
            with pymongo.timeout(self._timeout_s):
                yield
        except pe.PyMongoError as cause:
            brief = str(cause).splitlines()[0].split(", Topology Description")[0]
            is_away = cause.timeout or isinstance(cause, pe.ConnectionFailure | pe.WriteConcernError)
            kind = ReplicaUnreachable if is_away else ReplicaFailed
            raise kind(
                f"the MongoDB replica at {self.place} failed while {what}: {type(cause).__name__}: {brief:.300}. "
                "Nothing was acknowledged; it will be tried again."
            ) from cause

    # -- whose replica it is

    def marker(self) -> Marker | None:
        with self._bounded("reading its marker"):
            found = self._database[REPLICA_STATE].find_one({"_id": _MARKER})
        return None if found is None else Marker(found["source"], found["run"])

    def mark(self, marker: Marker) -> None:
        with self._bounded("writing its marker"):
            self._database[REPLICA_STATE].update_one({"_id": _MARKER}, {"$set": marker._asdict()}, upsert=True)

    def is_empty(self) -> bool:
        with self._bounded("looking whether it is empty"):
            if self._database[REPLICA_STATE].find_one({"_id": "source"}):
                raise InvalidSetting(
                    f"{self.place} is itself a source of replicas, perhaps of this very one. Name another database in "
                    "CC_REPLICA_MONGO_CONNECTION_STRING. Nothing was written."
                )
            return all(self._database[collection_of(domain)].find_one({}, {"_id": 1}) is None for domain in DOMAINS)

    # -- copying

    def put(self, domain: Domain, documents: Sequence[Raw], *, force: bool = False) -> int:
        collection = self._database[collection_of(domain)]
        waiting, written = list(documents), 0
        with self._bounded(f"writing {domain.name}"):
            for _ in range(ATTEMPTS_MAX):
                newer = _forced(waiting) if force else _newer(collection, waiting)
                # Who collides has not yet lost to a newer one: of two that insert the same document, either may be
                # older.
                waiting = self._write(domain, collection, newer) if newer else []
                written += len(newer) - len(waiting)
                if not waiting:
                    return written
        raise ReplicaFailed(
            f"the MongoDB replica at {self.place}: {len(waiting)} documents of {domain.name} collide again and again "
            "with documents of other keys or of other writers. Nothing was acknowledged; it will be tried again."
        )

    def _write(self, domain: Domain, collection: Collection[Raw], newer: list[Newer]) -> list[Raw]:
        """One unordered bulk; returns the documents that met another one."""
        try:
            collection.bulk_write([operation for _, operation in newer], ordered=False)
            return []
        except pe.BulkWriteError as cause:
            details: Mapping[str, Any] = cause.details or {}
            errors = details.get("writeErrors", [])
            if details.get("writeConcernErrors") or any(error.get("code") != DUPLICATE_KEY for error in errors):
                raise
        refused = [newer[error["index"]].document for error in errors]
        for error, document in zip(errors, refused, strict=True):
            if set(error.get("keyPattern", ())) != {"_id"}:
                self._give_way(domain, collection, document)
        return refused

    def _give_way(self, domain: Domain, collection: Collection[Raw], document: Raw) -> None:
        """Remove the copy that has this document's key under another `_id`, if its own document is gone: somebody
        deleted it and made it anew.
        """
        query = {name: {"$eq": document.get(name)} for name in domain.columns}
        other = collection.find_one(query, {"_id": 1})
        if other is not None and not self._source.present_ids(domain, [identity(other)]):
            collection.delete_one(among([identity(other)]))
            logger.warning("replica: %s %s is gone from the source and gives way", collection_of(domain), other["_id"])

    # -- comparing

    def look(self, domain: Domain, documents: Sequence[Raw]) -> list[Seen]:
        with self._bounded(f"reading {domain.name}"):
            found = self._database[collection_of(domain)].find(among(map(identity, documents)))
            copies = {identity(copy): copy for copy in found}
        return [_seen(document, copies.get(identity(document))) for document in documents]

    def named_by(self, domain: Domain, key: Key, document: str) -> bytes:
        return named(id_of(document))

    def stored(self, domain: Domain) -> Iterator[list[bytes]]:
        with self._bounded(f"listing {domain.name}"):
            ids = self._database[collection_of(domain)].find({}, {"_id": 1}).sort("_id", 1)
        batches = batched(map(identity, ids), CHUNK_MAX)
        while True:
            with self._bounded(f"listing {domain.name}"):
                batch = next(batches, None)
            if batch is None:
                return
            yield batch

    def absent(self, domain: Domain, identities: Items[bytes]) -> list[bytes]:
        present = self._source.present_ids(domain, identities)
        return [each for each in identities if each not in present]

    def discard(self, domain: Domain, identities: Sequence[bytes]) -> None:
        with self._bounded(f"removing {domain.name}"):
            self._database[collection_of(domain)].delete_many(among(identities))


def _forced(documents: list[Raw]) -> list[Newer]:
    return [Newer(document, ReplaceOne(among([identity(document)]), document, upsert=True)) for document in documents]


def _newer(collection: Collection[Raw], documents: list[Raw]) -> list[Newer]:
    """Leave out what is stored already: a refused write costs far more than this question."""
    found = collection.find(among(map(identity, documents)), {"rev": 1, "updatedDate": 1})
    held = {identity(document): document for document in found}
    newer: list[Newer] = []
    for document in documents:
        copy = held.get(identity(document))
        if copy is None:
            newer.append(Newer(document, InsertOne(document)))
        elif version(copy) < version(document):
            # Only what was seen to be older is replaced; if that has changed, the upsert collides with it. An equality
            # costs the server half of what `rev < n` does.
            seen = {name: {"$eq": copy.get(name)} for name in ("rev", "updatedDate")}
            same = [among([identity(document)]), seen]
            newer.append(Newer(document, ReplaceOne({"$and": same}, document, upsert=True)))
    return newer


def _seen(document: Raw, copy: Raw | None) -> Seen:
    if copy is None:
        return Seen(Verdict.MISSING, 0)
    stored = version(copy)
    if copy.raw == document.raw:
        return Seen(Verdict.SAME, stored.rev)
    wanted = version(document)
    if stored.rev != wanted.rev:
        return Seen(Verdict.BEHIND if stored.rev < wanted.rev else Verdict.AHEAD, stored.rev)
    return Seen(Verdict.BEHIND if stored < wanted else Verdict.ALTERED, stored.rev)
