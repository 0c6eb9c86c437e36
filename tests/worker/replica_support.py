"""A source, its writers and its replicas on the tests' own servers; the replica is another database of the same
mongod.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bson.raw_bson import RawBSONDocument
from pymongo.database import Database
from tests.integration.support import settings_for, store_for

from backtest_kit_mongo.adapters.instances import (
    CandleInstance,
    IntervalInstance,
    MeasureInstance,
    MemoryInstance,
    StateInstance,
)
from backtest_kit_mongo.backends.files.documents import FileTruth
from backtest_kit_mongo.backends.mongo.layout import collection_of
from backtest_kit_mongo.coherence.events import Event, decode
from backtest_kit_mongo.coherence.record import Domain, Key
from backtest_kit_mongo.domains.checks import make_change
from backtest_kit_mongo.domains.table import DOMAINS
from backtest_kit_mongo.drivers.store import Store
from backtest_kit_mongo.embedded import Endpoints
from backtest_kit_mongo.ports import NoCache
from backtest_kit_mongo.stored import CACHE_IDENTITY
from backtest_kit_mongo.testing.examples import BASE_MS, candles, example
from backtest_kit_worker.deployment import Deployment, connect
from backtest_kit_worker.replicas.copying import CopyService
from backtest_kit_worker.replicas.directory import DirectoryTarget
from backtest_kit_worker.replicas.mongo import MongoTarget
from backtest_kit_worker.replicas.naming import RAW
from backtest_kit_worker.replicas.source import Source
from backtest_kit_worker.replicas.state import State
from backtest_kit_worker.replicas.target import Target
from backtest_kit_worker.roles.replica import ReplicaRole

NOWHERE = "mongodb://user:secret@127.0.0.1:1/nowhere"


@dataclass(frozen=True)
class Bed:
    """Everything a test of replicas needs."""

    servers: Endpoints
    store: Store
    deployment: Deployment
    directory: Path
    targets: list[Target] = field(default_factory=list)
    """Those that were made, to be closed."""

    @property
    def mongo(self) -> Database[dict[str, Any]]:
        return self.deployment.database

    @property
    def replica_name(self) -> str:
        return f"{self.deployment.settings.database}_replica"

    @property
    def replica(self) -> Database[dict[str, Any]]:
        return self.deployment.mongo[self.replica_name]

    @property
    def source(self) -> Source:
        return Source(self.mongo, 30_000)

    @property
    def state(self) -> State:
        return State(self.mongo)

    def to_mongo(self, uri: str | None = None, timeout_ms: int = 30_000) -> MongoTarget:
        connection_string = uri or self.servers.mongo_connection_string(self.replica_name)
        target = MongoTarget(connection_string, "unused", self.source, timeout_ms)
        self.targets.append(target)
        return target

    def to_nowhere(self) -> MongoTarget:
        return self.to_mongo(NOWHERE, 50)

    def to_directory(self) -> DirectoryTarget:
        return DirectoryTarget(self.directory, self.source)

    def role(self, *targets: Target) -> ReplicaRole:
        role = ReplicaRole(self.deployment, targets)
        role.open()
        return role

    def service(self, *targets: Target) -> CopyService:
        service = CopyService(self.deployment, targets)
        service.open()
        return service

    def copy(self, target: Target) -> CopyService:
        service = self.service(target)
        finish(service)
        return service

    def events(self) -> list[tuple[str, Event]]:
        redis: Any = self.deployment.redis
        found = [entry for stream in self.deployment.streams for entry in redis.xrange(stream)]
        return [(name.decode(), decode(fields)) for name, fields in found]

    def state_data(self, value: object, signal: str = "signal") -> None:
        StateInstance(self.store, signal, "bucket").write_state_data({"data": value}, 1_000)

    def raw(self, domain: Domain, *, replica: bool = False) -> list[RawBSONDocument]:
        database = self.replica if replica else self.mongo
        collection = database[collection_of(domain)].with_options(RAW)
        return list(collection.find().sort("_id", 1))

    def files(self) -> Store:
        """The directory as a file store reads it."""
        return Store("files", FileTruth(self.directory), NoCache())

    def write_every_domain(self) -> None:
        """Documents of all domains, in several revisions, some of them removed."""
        for domain in DOMAINS:
            parts = tuple(True if column.type is bool else f"x_{n}/é" for n, column in enumerate(domain.key))
            key, when = Key(domain, parts), 5 if domain.has_when else None
            if domain.cached:
                self.store.write(make_change(key, example(domain, parts[-1]), when))
                self.store.write(make_change(key, example(domain, parts[-1]), when))
            elif domain.row_id:
                self.store.merge(key.scope, [make_change(key, example(domain, parts[-1]))])
        CandleInstance(self.store, "BTC/USDT", "1m", "e").write_candles_data(candles(5))
        MeasureInstance(self.store, "bucket").write_measure_data(
            {"id": "k", "data": {"$ref": "a", "$id": 1}, "removed": False}, "k", 1
        )
        MeasureInstance(self.store, "bucket").remove_measure_data("k")
        IntervalInstance(self.store, "bucket").write_interval_data({"id": "k", "data": 1, "removed": False}, "k", 1)
        IntervalInstance(self.store, "bucket").remove_interval_data("k")
        MemoryInstance(self.store, "s", "b").write_memory_data(
            {"priority": 1, "data": 1, "removed": False}, "m", BASE_MS
        )
        MemoryInstance(self.store, "s", "b").remove_memory_data("m")

    def cleaned(self, directory: Path) -> Bed:
        """The same bed, empty, with another directory. Building 34 collections anew would cost a second a test."""
        redis: Any = self.deployment.redis
        for name in redis.scan_iter(f"{{bk:*}}:{self.deployment.settings.database}:*"):
            redis.delete(name)
        for database in (self.mongo, self.replica):
            for name in database.list_collection_names():
                if name == CACHE_IDENTITY:  # Who finds another one reports that the database was dropped.
                    database[name].update_many({}, {"$unset": {"restores": ""}})
                elif database[name].find_one({}, {"_id": 1}):
                    database[name].delete_many({})
        return replace(self, directory=directory)

    def require_equal(self) -> None:
        """The replica has the same bytes as the source."""
        for domain in DOMAINS:
            source, copies = self.raw(domain), self.raw(domain, replica=True)
            assert [copy.raw for copy in copies] == [document.raw for document in source], domain


def finish(service: CopyService) -> None:
    """Copy until nothing is left, or nothing can be copied."""
    while service.run_once():
        pass


@contextmanager
def bed_on(servers: Endpoints, database: str) -> Iterator[Bed]:
    with store_for(servers, database) as store:
        bed = Bed(servers, store, connect(settings_for(servers, database)), Path())
        try:
            yield bed
        finally:
            for target in bed.targets:
                target.close()
            bed.deployment.close()
