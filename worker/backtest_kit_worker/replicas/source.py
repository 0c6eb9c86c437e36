"""Reads of the source: exact bytes, at the primary, of what a majority has."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection as Items
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, TypeVar

import pymongo
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.read_concern import ReadConcern
from pymongo.read_preferences import ReadPreference

from backtest_kit_mongo.backends.mongo.layout import collection_of
from backtest_kit_mongo.coherence.record import Domain, Key, Part
from backtest_kit_mongo.errors import CorruptData
from backtest_kit_mongo.stored import REPLICA_STATE
from backtest_kit_worker.replicas.naming import RAW, Raw, among, identity, is_sendable, named
from backtest_kit_worker.replicas.target import key_of

CHUNK_MAX: Final = 1_000
CHUNK_BYTES_MAX: Final = 8 * 2**20
"""Documents may have 16 MB: a chunk is bounded by both, so memory is bounded whatever is stored."""
CLAUSES_MAX: Final = 50
"""Each clause of an `$or` is planned on its own."""

T = TypeVar("T")


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of up to `size` items."""
    batch: list[T] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def chunked(documents: Iterable[Raw]) -> Iterator[list[Raw]]:
    """Documents in chunks of bounded number and size."""
    chunk: list[Raw] = []
    size = 0
    for document in documents:
        chunk.append(document)
        size += len(document.raw)
        if len(chunk) == CHUNK_MAX or size >= CHUNK_BYTES_MAX:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


class Source:
    """The database that is copied.

    Args:
        database: with any options; they are not used.
        timeout_ms: bound on each round trip.
    """

    def __init__(self, database: Database[dict[str, Any]], timeout_ms: int) -> None:
        self._database: Database[Raw] = database.with_options(
            RAW, read_concern=ReadConcern("majority"), read_preference=ReadPreference.PRIMARY
        )
        self._timeout_s = timeout_ms / 1000

    def _collection(self, domain: Domain) -> Collection[Raw]:
        return self._database[collection_of(domain)]

    def by_ids(self, domain: Domain, identities: Iterable[bytes]) -> Iterator[list[Raw]]:
        """The documents of these identities, in chunks; those that do not exist are left out."""
        for some in batched(identities, CHUNK_MAX):
            yield from self._chunks(self._collection(domain), among(some))

    def ranges(self, scope: Key, ranges: Iterable[tuple[int, int]]) -> Iterator[list[Raw]]:
        """Rows of a series with first <= timestamp <= last of any of the ranges."""
        for some in batched(ranges, CLAUSES_MAX):
            clauses = [{**scope.query(), "timestamp": {"$gte": first, "$lte": last}} for first, last in some]
            yield from self._chunks(self._collection(scope.domain), {"$or": clauses})

    def _chunks(self, collection: Collection[Raw], query: Mapping[str, Any]) -> Iterator[list[Raw]]:
        with pymongo.timeout(self._timeout_s):
            chunks = chunked(collection.find(query, batch_size=CHUNK_MAX))
        while True:
            with pymongo.timeout(self._timeout_s):
                chunk = next(chunks, None)
            if chunk is None:
                return
            yield chunk

    def after(self, domain: Domain, last: Any) -> list[Raw]:
        """The next documents in `_id` order behind `last` (None: from the first one); empty at the end. The last of
        them has an `_id` that can be given as `last`.
        """
        cursor = self._collection(domain).find({}, limit=CHUNK_MAX + 1).sort("_id", 1).hint([("_id", 1)])
        if last is not None:
            # Not `$gt`: that sees only ids of the same BSON type, and foreign programs may choose their own.
            cursor.min([("_id", last)])
        with pymongo.timeout(self._timeout_s), cursor:
            before = None if last is None else named(last)
            found = next(chunked(document for document in cursor if identity(document) != before), [])
        while found and not is_sendable(found[-1]["_id"]):
            if len(found) == 1:
                name = collection_of(domain)
                raise CorruptData(f"{name}: too many documents in a row have an `_id` that is no UTF-8")
            found.pop()
        return found

    def present_ids(self, domain: Domain, identities: Iterable[bytes]) -> set[bytes]:
        """Those of the identities that exist."""
        with pymongo.timeout(self._timeout_s):
            return set(map(identity, self._collection(domain).find(among(identities), {"_id": 1})))

    def present_keys(self, domain: Domain, keys: Items[Key]) -> set[tuple[Part, ...]]:
        """The parts of those keys that exist."""
        items: dict[tuple[Part, ...], list[Part]] = defaultdict(list)
        for key in keys:
            items[key.parts[:-1]].append(key.item)
        column = domain.columns[-1]
        found: set[tuple[Part, ...]] = set()
        for some in batched(items.items(), CLAUSES_MAX):
            clauses = [{**Key(domain, scope).query(), column: {"$in": those}} for scope, those in some]
            with pymongo.timeout(self._timeout_s):
                cursor = self._collection(domain).find({"$or": clauses}, dict.fromkeys(domain.columns, 1))
                found.update(key_of(domain, document).parts for document in cursor)
        return found

    def count(self, domain: Domain) -> int:
        """About how many documents there are."""
        with pymongo.timeout(self._timeout_s):
            return self._collection(domain).estimated_document_count()

    def fence(self) -> None:
        """Make sure that reads which follow see all that a majority had before: a deposed primary cannot answer
        this.
        """
        state = self._database.get_collection(REPLICA_STATE, read_concern=ReadConcern("linearizable"))
        with pymongo.timeout(self._timeout_s):
            state.find_one({"_id": "source"})
