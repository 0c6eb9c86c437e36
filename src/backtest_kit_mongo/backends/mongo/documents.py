"""MongoDB, the truth: one atomic operation per document, `rev` raised by the write itself, every operation bounded in
time.

Documents are the npm package's, plus `rev`. Writes are acknowledged by a majority with their journal on disk, reads go
to the primary.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

import pymongo
from pymongo import MongoClient, ReturnDocument, UpdateOne
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import BulkWriteError
from pymongo.read_preferences import ReadPreference

from backtest_kit_mongo import locks
from backtest_kit_mongo.backends.mongo import concerns as mongo_concerns
from backtest_kit_mongo.backends.mongo import deleting, listing
from backtest_kit_mongo.backends.mongo import indexes as mongo_indexes
from backtest_kit_mongo.backends.mongo.browsing import MongoBrowsing
from backtest_kit_mongo.backends.mongo.deadline import Deadlines, Let, require
from backtest_kit_mongo.backends.mongo.decoding import RAW, Moments, Raw, fields, record
from backtest_kit_mongo.backends.mongo.encoding import ONE, UNCOUNTED, new_row, row_update, store
from backtest_kit_mongo.backends.mongo.errors import IndexGone, NoRevision, is_late, own_duplicates, reading, writing
from backtest_kit_mongo.backends.mongo.inserting import insert, insert_one
from backtest_kit_mongo.backends.mongo.layout import collection_of, payload_field
from backtest_kit_mongo.backends.mongo.transactions import Transactions
from backtest_kit_mongo.coherence.codec import pack
from backtest_kit_mongo.coherence.deletion import Delete, DeleteAll
from backtest_kit_mongo.coherence.effects import Find, Published, SoftRemove, Upsert
from backtest_kit_mongo.coherence.lists import ALL, Expected, Merge, Only, Rows
from backtest_kit_mongo.coherence.record import Change, Domain, Key, OnConflict, Part, Record
from backtest_kit_mongo.coherence.series import Append, Appended, Conflict, KeepConflicts
from backtest_kit_mongo.coherence.steps import Atomic
from backtest_kit_mongo.connect import mongo_client
from backtest_kit_mongo.errors import (
    CallerError,
    CorruptData,
    ReadFailed,
    ServerUnreachable,
    WriteOutcomeUnknown,
    WriteRefused,
)

if TYPE_CHECKING:
    from backtest_kit_mongo.backends.mongo.candles import MongoCandles

logger = locks.logger(__name__)

Document = dict[str, Any]
R = TypeVar("R")


class MongoTruth(MongoBrowsing):
    """Records in one MongoDB database.

    Args:
        connection_string: a MongoDB URI; a write concern in it is respected, and reported once if it is weaker than
        majority with journal.
        database: database name.
        domains: the collections to prepare.
        timeout_ms: bound on each operation, retries included.
        arrival_ms: how long a command that writes may be on its way.
        candle_cache_max_bytes: bound on the candle blocks that are kept in this process.
        foreign_writers: others write the same documents (cache mode `id`), and reads see that as soon as the primary
            does.
    """

    def __init__(
        self,
        connection_string: str,
        database: str,
        domains: Sequence[Domain],
        timeout_ms: int,
        arrival_ms: float,
        candle_cache_max_bytes: int = 0,
        *,
        foreign_writers: bool = False,
    ) -> None:
        self._foreign_writers = foreign_writers
        self._uri = connection_string
        self._database_name = database
        self._domains = domains
        self._timeout_s = timeout_ms / 1000
        self._deadlines = Deadlines(lambda: self.client, self._timeout_s, arrival_ms / 1000)
        self.write_in_time: Final = self._deadlines.write  # It cannot commit after its lease (I1, I5b, I7).
        self._candle_cache_bytes = candle_cache_max_bytes
        self._lock = locks.Lock()
        self._client: MongoClient[Document] | None = None
        self._collections: dict[Domain, Collection[Document]] = {}
        self._readers: dict[Domain, Collection[Raw]] = {}
        self._find_readers: dict[Domain, Collection[Raw]] = {}
        self._moments = Moments()
        self._transactions = Transactions(
            lambda: self.client,
            self._collections,
            self._deadlines,
            self._timeout_s,
            self._moments,
            self._begin_revisions,
        )
        self._database: Database[Document]
        self._series: MongoCandles | None = None

    @property
    def client(self) -> MongoClient[Document]:
        """The driver's client, made on first use. It connects by itself and survives restarts of the servers."""
        with self._lock:
            if self._client is not None:
                return self._client
            bound_ms, clocks = int(self._timeout_s * 1000), [self._deadlines.clocks]
            made = mongo_client(self._uri, "backtest-kit-mongo", find_ms=bound_ms, socket_ms=bound_ms, listeners=clocks)
            return self._keep(made)

    def _keep(self, made: MongoClient[Document]) -> MongoClient[Document]:
        if self._client is not None:
            made.close()  # A signal handler has made one meanwhile.
            return self._client
        self._client = made
        return made

    def open(self) -> None:
        """Connect, settle the concerns, build the indexes.

        Raises:
            ServerUnreachable, LegacyIndex, WriteRefused, UnsafeServer: nothing was stored; the next call tries again.
        """
        client = self.client
        with reading("connecting"), pymongo.timeout(self._timeout_s):
            hello = client.admin.command("hello")
        write_concern = mongo_concerns.write_concern(client.write_concern.document)
        read_concern, fill_concern = mongo_concerns.read_concerns(
            hello, write_concern, foreign_writers=self._foreign_writers
        )
        database = client.get_database(
            self._database_name,
            write_concern=write_concern,
            read_concern=read_concern,
            read_preference=ReadPreference.PRIMARY,
        )
        self._transactions.hello = hello
        if not mongo_concerns.is_replicated(hello):
            logger.warning(
                "MongoDB at %s is not a replica set: no change streams, no retried writes",
                hello.get("me", self._database_name),
            )

        collections = {domain: database[collection_of(domain)] for domain in self._domains}
        self._prepare(collections)
        self._database = database
        for domain, collection in collections.items():
            self._readers[domain] = reader = collection.with_options(RAW)
            self._find_readers[domain] = reader.with_options(read_concern=fill_concern)
        self._collections |= collections

    def _prepare(self, collections: dict[Domain, Collection[Document]]) -> None:
        mongo_indexes.ensure_all(collections)
        any_domain = self._domains[0]
        with reading("looking whether late writes are refused"), pymongo.timeout(self._timeout_s):
            require(collections[any_domain], any_domain.columns)

    def close(self) -> None:
        with self._lock:
            client, self._client = self._client, None
            self._series = None
        self._collections.clear()
        self._readers.clear()
        self._find_readers.clear()
        if client is not None:
            with pymongo.timeout(self._timeout_s):
                client.close()

    # -- single documents

    def find(self, effect: Find) -> Record:
        key = effect.key
        with reading(key), pymongo.timeout(self._timeout_s):
            document = self._find_readers[key.domain].find_one(key.query(), fields(key.domain))
        return Record(key) if document is None else record(key, document)

    def upsert(self, effect: Upsert) -> Record:
        change = effect.change
        send = partial(store, self._collections[change.key.domain], change, effect.expected_rev)
        return self._repaired(change.key, send, effect.deadline_s)

    def _repaired(self, key: Key, send: Callable[[Let], R], deadline_s: float | None) -> R:
        """Again after what stood in the way of it was put right: once a stored revision that is none, and the index as
        often as it is gone, within reason.
        """
        rebuilt_count, is_counted = 0, False
        while True:
            try:
                return self.write_in_time(key, send, deadline_s)
            except IndexGone:
                if rebuilt_count == mongo_indexes.REBUILDS_MAX:
                    raise
                rebuilt_count += 1
                mongo_indexes.rebuild(self._collections[key.domain], key.domain)
            except NoRevision:
                if is_counted:
                    raise
                is_counted = True
                self._begin_revisions(key)

    def _begin_revisions(self, key: Key) -> None:
        """Begin to count where another program stored what `counted` refuses. Changes nothing anywhere else."""
        with writing(key), pymongo.timeout(self._timeout_s):
            self._collections[key.domain].update_one({**key.query(), **UNCOUNTED}, {"$set": {"rev": 0}})
        logger.warning("%s: the stored revision was no number; they begin again", key)

    # -- steps

    def atomic(self, effect: Atomic) -> tuple[tuple[Published, ...], ...]:
        return self._transactions.perform(effect)

    def require_steps(self) -> None:
        self._transactions.require()

    def step_lifetime_ms(self) -> int:
        return self._transactions.lifetime_ms()

    def remove(self, effect: SoftRemove) -> Record | None:
        key = effect.key
        collection, column = self._readers[key.domain], payload_field(key.domain)
        update = {
            "$set": {"removed": True, f"{column}.removed": True, "updatedDate": datetime.now(UTC)},
            "$inc": {"rev": ONE},
        }

        def send(let: Let) -> Raw | None:
            return collection.find_one_and_update(
                {**key.query(), "removed": {"$ne": True}},
                update,
                projection=fields(key.domain),
                return_document=ReturnDocument.AFTER,
                let=let,
            )

        document = self._repaired(key, send, effect.deadline_s)
        if document is None:
            return None
        try:
            return record(key, document)
        except CorruptData as cause:
            raise CorruptData(
                f"{key} was removed. No change event reports it yet (a worker's recovery role does), because of what "
                f"it held: {cause}"
            ) from cause

    def delete(self, effect: Delete) -> Record | None:
        return deleting.delete(self._collections[effect.key.domain], effect, self._repaired)

    def delete_all(self, effect: DeleteAll) -> tuple[Record | None, ...]:
        return deleting.delete_all(self._collections[effect.keys[0].domain], effect, self._repaired)

    def rows(self, effect: Rows) -> Mapping[Part, Record]:
        with reading(effect.scope):
            return listing.rows(self._readers[effect.scope.domain], effect.scope, effect.items, self._timeout_s)

    def merge(self, effect: Merge) -> tuple[Published, ...]:
        """One bulk. Each row is written only over the revision that the caller saw; the server then names the rows that
        were not, because their upsert collides with the unique key. Those few are written one by one, so every row's
        new revision is known exactly.
        """
        if len(effect.rows) == 1:
            return self._merge_one(effect.rows[0].change, effect.deadline_s)
        domain = effect.scope.domain
        keep = domain.on_conflict is OnConflict.KEEP
        rows = list(zip(effect.rows, self._moments.take(len(effect.rows)), strict=True))
        new = [index for index, row in enumerate(effect.rows) if row.rev is None]
        seen = [index for index, row in enumerate(effect.rows) if row.rev is not None]
        documents = [new_row(rows[index][0].change, rows[index][1]) for index in new]
        updates = [row_update(*rows[index]) for index in seen]
        if updates:
            with reading(effect.scope), pymongo.timeout(self._timeout_s):
                mongo_indexes.require(self._collections[domain], domain)

        def send(let: Let) -> tuple[set[int], dict[int, Any]]:
            met = insert(domain, self._collections[domain], documents, let)
            clashes, upserted = self._update(domain, updates, let)
            ids = {index: document["_id"] for index, document in zip(new, documents, strict=True)}
            ids |= {seen[position]: given for position, given in upserted.items()}
            return {new[position] for position in met} | {seen[position] for position in clashes}, ids

        clashes, ids = self._repaired(effect.scope, send, effect.deadline_s)
        written = []
        for index, row in enumerate(effect.rows):
            if index in clashes:
                if not keep and (settled := self._settle(row, effect.deadline_s)) is not None:
                    written.append(Published(settled, "upsert", row.change.body))
                continue
            name = str(ids.get(index, row.id))
            new_record = Record(row.change.key, (row.rev or 0) + 1, row.change.payload, row.change.when, False, name)
            written.append(Published(new_record, "upsert", row.change.body))
        return tuple(written)

    def _merge_one(self, change: Change, deadline_s: float | None) -> tuple[Published, ...]:
        """One command, as for a document; in a time of its own, so that a list has its rows in the order of their
        writes.
        """
        (now,) = self._moments.take(1)
        if change.key.domain.on_conflict is OnConflict.REPLACE:
            replace = partial(store, self._collections[change.key.domain], change, None, now=now)
            return (Published(self._repaired(change.key, replace, deadline_s), "upsert", change.body),)
        send = partial(insert_one, self._collections[change.key.domain], change, now)
        stored = self._repaired(change.key, send, deadline_s)
        return () if stored is None else (Published(stored, "upsert", change.body),)

    def _settle(self, row: Expected, deadline_s: float | None) -> Record | None:
        """Write one row that the bulk met in another state than expected, unless that state is already what is wanted.

        Raises:
            WriteOutcomeUnknown: whatever goes wrong here, other rows of the bulk have been written.
        """
        try:
            if self._holds(row.change):
                return None
            return self.upsert(Upsert(row.change, deadline_s))
        except (ServerUnreachable, WriteRefused, ReadFailed, CallerError) as cause:
            raise WriteOutcomeUnknown(
                f"{row.change.key.scope}: some rows were written, repeat the write: {cause}"
            ) from cause

    def _holds(self, change: Change) -> bool:
        try:
            return pack(self.find(Find(change.key)).payload) == change.body
        except CorruptData:
            return False

    def _update(self, domain: Domain, updates: list[UpdateOne], let: Let) -> tuple[set[int], dict[int, Any]]:
        """Write in any order; returns the positions that met an existing key, and the ids that updates had to
        insert.
        """
        if not updates:
            return set(), {}
        try:
            result = self._collections[domain].bulk_write(updates, ordered=False, let=let)
            return set(), dict(result.upserted_ids or {})
        except BulkWriteError as cause:
            if is_late(cause):
                raise
            upserted = {entry["index"]: entry["_id"] for entry in (cause.details or {}).get("upserted", [])}
            return own_duplicates(domain, cause), upserted

    # -- lists

    def scan(
        self, scope: Key, *, when: int | None, limit: int | None, keys_only: bool, only: Only = ALL
    ) -> Iterator[Record]:
        with reading(scope):
            yield from listing.scan(
                self._readers[scope.domain],
                scope,
                self._timeout_s,
                when=when,
                limit=limit,
                keys_only=keys_only,
                only=only,
            )

    # -- series

    @property
    def series(self) -> MongoCandles:
        """Made on first use: it needs NumPy, which only those who use candles should wait for."""
        from backtest_kit_mongo.backends.mongo.candles import MongoCandles

        with self._lock:
            if self._series is None:
                self._series = MongoCandles(
                    self._database, self._timeout_s, self._candle_cache_bytes, self.write_in_time
                )
            return self._series

    def now_ms(self) -> int:
        """What the server's clock shows at least, by its heartbeats; this host's only counts on from them."""
        clocks = self._deadlines.clocks
        with reading("MongoDB's clock"), pymongo.timeout(self._timeout_s):
            if clocks.must_ask:
                clocks.ask(self.client)
            return clocks.least_ms(time.monotonic())

    def append(self, effect: Append) -> Appended:
        return self.series.append(effect)

    def keep_conflicts(self, effect: KeepConflicts) -> tuple[Conflict, ...]:
        return self.series.keep_conflicts(effect)

    def window(self, scope: Key, since: int, until: int) -> list[Document]:
        return self.series.window(scope, since, until)
