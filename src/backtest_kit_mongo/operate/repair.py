"""Keys with several documents, which only a collection without its unique index can have: the npm package writes before
its indexes are built, and a restore may leave them out.

Of each key one document stays: the one written last, or the first where the first write wins. All versions, that one
too, are kept aside in `repaired-items` before anything is deleted:

| field      | meaning |
|------------|---------|
| collection | where it was |
| key        | the key columns |
| kept       | whether this version stayed |
| repairedAt | when |
| document   | the whole document |
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from bson.raw_bson import RawBSONDocument
from pymongo import DeleteOne
from pymongo.collection import Collection
from pymongo.database import Database

from backtest_kit_mongo.backends.mongo import indexes
from backtest_kit_mongo.backends.mongo.decoding import RAW
from backtest_kit_mongo.backends.mongo.layout import collection_of
from backtest_kit_mongo.coherence.effects import Abort, Defer, Lease
from backtest_kit_mongo.coherence.record import Domain, Key, OnConflict, Part, Shape
from backtest_kit_mongo.connect import DURABLE
from backtest_kit_mongo.domains.table import DOMAINS
from backtest_kit_mongo.ports import Cache
from backtest_kit_mongo.servers import Servers
from backtest_kit_mongo.settings import Settings
from backtest_kit_mongo.setup import make_store
from backtest_kit_mongo.stored import CANDLE_BLOCKS as BLOCKS
from backtest_kit_mongo.stored import REPAIRED_ITEMS as ASIDE

Raw = RawBSONDocument


class Doubled(NamedTuple):
    """A key with several documents; the first of them is the one that stays."""

    domain: Domain
    columns: Mapping[str, Any]
    documents: tuple[Raw, ...]

    @property
    def key(self) -> Key | None:
        """None if a column holds what no key of this package can."""
        parts: list[Part] = []
        for column in self.domain.key:
            value = self.columns[column.name]
            if column.type is int and isinstance(value, float) and value.is_integer():
                value = int(value)
            if not isinstance(value, column.type) or (isinstance(value, bool) and column.type is not bool):
                return None
            parts.append(column.type(value))
        return Key(self.domain, tuple(parts))


@dataclass(frozen=True, slots=True)
class Repairer:
    """Looks for doubled keys and repairs them. Errors are pymongo's.

    Attributes:
        database: with the concerns of durable writes, and documents as bytes.
        cache: forgets the keys that are repaired.
    """

    database: Database[Raw]
    cache: Cache

    def doubled(self, domain: Domain) -> Iterator[Doubled]:
        """Keys of a domain that have several documents. Reads the whole collection."""
        groups: list[Mapping[str, Any]] = [
            {"$group": {"_id": {name: f"${name}" for name in domain.columns}, "count": {"$sum": 1}}},
            {"$match": {"count": {"$gt": 1}}},
        ]
        first = "createDate" if domain.on_conflict is OnConflict.KEEP else "updatedDate"
        order = 1 if domain.on_conflict is OnConflict.KEEP else -1
        collection = self.database[collection_of(domain)]
        for group in collection.aggregate(groups, allowDiskUse=True):
            columns = {name: group["_id"].get(name) for name in domain.columns}
            found = collection.find(columns).sort([(first, order), ("rev", order), ("_id", order)])
            documents = tuple(found)
            if len(documents) > 1:
                yield Doubled(domain, columns, documents)

    def repair(self, doubled: Doubled) -> None:
        """Set all versions of a key aside, then delete all but one."""
        domain = doubled.domain
        self._set_aside(doubled)
        # Only as they were set aside: one that is written to meanwhile stays, and the index is then not built.
        others = [
            DeleteOne({name: document.get(name) for name in ("_id", "rev", "updatedDate")})
            for document in doubled.documents[1:]
        ]
        with self._forgotten(doubled.key):
            self.database[collection_of(domain)].bulk_write(others)
        if domain.shape is Shape.SERIES:
            # A block may have been made of what was deleted; documents serve until it is made again.
            *scope, row = doubled.columns.items()
            covering = {"start": {"$lte": row[1]}, "end": {"$gt": row[1]}}
            self.database[BLOCKS].delete_many({**dict(scope), **covering})

    def build_index(self, domain: Domain) -> None:
        """Build the unique index that was missing.

        Raises:
            LegacyIndex: a key was doubled meanwhile, or another index is in the way.
        """
        indexes.ensure(_plain(self.database[collection_of(domain)]), domain)

    def _set_aside(self, doubled: Doubled) -> None:
        now = datetime.now(UTC)
        kept = doubled.documents[0]["_id"]
        rows = [
            {
                "collection": collection_of(doubled.domain),
                "key": dict(doubled.columns),
                "kept": document["_id"] == kept,
                "repairedAt": now,
                "document": document,
            }
            for document in doubled.documents
        ]
        _plain(self.database[ASIDE]).insert_many(rows)

    @contextmanager
    def _forgotten(self, key: Key | None) -> Iterator[None]:
        """As a write does: nobody caches the key until it is over."""
        place = None if key is None else _cached(key)
        if place is None:
            yield
            return
        leased = self.cache.lease(Lease(place))
        yield
        if leased is None:
            self.cache.defer(Defer((place,)))
        else:
            self.cache.abort(Abort(place, leased.token))


def _cached(key: Key) -> Key | None:
    if key.domain.shape is Shape.LIST:
        return key.scope
    return key if key.domain.cached else None


def _plain(collection: Collection[Raw]) -> Collection[dict[str, Any]]:
    return collection.with_options(RAW.with_options(document_class=dict))


def chosen(names: Iterable[str]) -> tuple[Domain, ...]:
    """The domains of these names; all if there are none."""
    wanted = set(names)
    return tuple(domain for domain in DOMAINS if not wanted or domain.name in wanted)


@contextmanager
def open_repairer(settings: Settings) -> Iterator[Repairer]:
    """Over connections of its own. Not through the store's: that refuses the databases that need this."""
    store = make_store(settings)
    servers = Servers(settings, "bkm-repair", find_ms=settings.mongo_bound_ms, document_class=RawBSONDocument)
    try:
        store.cache.open()
        yield Repairer(servers.mongo.get_database(settings.database, RAW, write_concern=DURABLE), store.cache)
    finally:
        store.close()
        servers.close()
