"""Everything in Redis belongs to one database in one era: what is restored, replaced, or written while nobody kept the
cache, is never hidden by an older entry.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pymongo
import pytest
import redis
from pymongo.collection import Collection
from pymongo.errors import BulkWriteError
from tests.integration.support import eventually, settings_for, store_for
from tests.integration.test_redis_faults import hits, open_cache, put, value_of

from backtest_kit_mongo import embedded
from backtest_kit_mongo.adapters.instances import StorageInstance
from backtest_kit_mongo.backends.mongo.identity import IdentityDocument, Start
from backtest_kit_mongo.backends.mongo.layout import collection_of
from backtest_kit_mongo.backends.redis.identity import HEARTBEAT_S
from backtest_kit_mongo.coherence.record import Key
from backtest_kit_mongo.domains.table import STATE
from backtest_kit_mongo.drivers.store import Store
from backtest_kit_mongo.stored import CACHE_IDENTITY as COLLECTION

pytestmark = pytest.mark.live
Endpoints = embedded.Endpoints
Database = Any
BOUND_S = 2 * HEARTBEAT_S + 3
"""Two heartbeats, and what a loaded machine may take for the commands."""


@pytest.fixture
def name(new_database: Callable[[], str]) -> str:
    return f"{new_database()}_eras"


@pytest.fixture
def database(servers: Endpoints, name: str) -> Iterator[Database]:
    with pymongo.MongoClient[dict[str, Any]](servers.mongo_url) as client:
        yield client[name]
        client.drop_database(name)


@pytest.fixture
def cache(servers: Endpoints) -> Iterator[Any]:
    with redis.Redis(port=servers.redis_port) as client:
        yield client


def dump(database: Database) -> dict[str, tuple[list[Any], dict[str, Any]]]:
    return {n: (list(database[n].find()), database[n].index_information()) for n in database.list_collection_names()}


def insert(collection: Collection[Any], documents: list[Any]) -> None:
    """As mongorestore does it: what a process that goes on has made meanwhile stays."""
    try:
        if documents:
            collection.insert_many(documents, ordered=False)
    except BulkWriteError as cause:
        assert {error["code"] for error in cause.details["writeErrors"]} == {11_000}  # noqa: PT017


def restore(database: Database, dumped: dict[str, tuple[list[Any], dict[str, Any]]]) -> None:
    """As mongorestore does it."""
    database.client.drop_database(database.name)
    for collection, (documents, indexes) in dumped.items():
        insert(database[collection], documents)
        for index, spec in indexes.items():
            if index != "_id_":
                options = {option: value for option, value in spec.items() if option not in ("v", "ns", "key")}
                database[collection].create_index(spec["key"], name=index, **options)


def set_back(database: Database, saved: dict[str, list[Any]]) -> None:
    """As a snapshot of the files does it: the same collections, with what they held."""
    for collection, documents in saved.items():
        database[collection].delete_many({})
        insert(database[collection], documents)


def saved(database: Database) -> dict[str, list[Any]]:
    return {collection: list(database[collection].find()) for collection in database.list_collection_names()}


def era_of(database: Database) -> str:
    (era,) = database[COLLECTION].find_one()["eras"]
    return str(era["era"])


def cached(store: Store, value: int) -> None:
    """The value is written and served from Redis."""
    put(store, value)
    open_cache(store)
    assert value_of(store) == value


def test_looking_at_a_database_that_was_set_back_does_not_make_it_look_as_if_it_was_not(database: Database) -> None:
    """Whoever finds out may die before another era has begun."""
    document, start = IdentityDocument(lambda: database, (), 5), Start(1, "document")
    document.note(start, starting=True)
    document.begin("an era", (), {}, "a test", {})
    assert document.note(start, {"an era": 1}).counts == {"an era": 2}
    assert [document.note(start, {"an era": 4}).counts for _ in range(4)] == [{"an era": 2}] * 4
    assert document.note(start, {"an era": 2}).counts == {"an era": 3}


NEVER = Key(STATE, ("signal", "made after the backup"))


@pytest.mark.parametrize("way", ["dump", "snapshot"])
def test_after_a_restore_nothing_is_served_that_mongodb_does_not_hold(
    servers: Endpoints, name: str, database: Database, way: str
) -> None:
    with store_for(servers, name) as running:
        put(running, 1)
        backup = dump(database) if way == "dump" else {}
        files = saved(database)
        running.write(running_change := put_change(NEVER, 7))
        assert running.read(NEVER).payload == running_change.payload
        cached(running, 2)
        if way == "dump":
            restore(database, backup)
        else:
            set_back(database, files)
        with store_for(servers, name) as fresh:
            assert (value_of(fresh), fresh.read(NEVER).exists) == (1, False)
            # It has given Redis the count, so even the one that was running is refused with its next question.
            assert (value_of(running), running.read(NEVER).exists) == (1, False)
            cached(fresh, 3)
            assert value_of(running) == 3
    (restored,) = database[COLLECTION].find_one()["restores"]
    # The one that was running may have seen the database while it was empty, which is reason enough.
    assert restored["why"] in ("behind", *(("collections",) if way == "dump" else ()))
    # Then there is an era that it began, besides the one that was begun over what came back.
    assert restored["next"] in {era["era"] for era in database[COLLECTION].find_one()["eras"]}


def put_change(key: Key, value: int) -> Any:
    from backtest_kit_mongo.domains.checks import make_change

    return make_change(key, {"data": value}, value)


def test_a_running_process_notices_a_restore_by_itself(servers: Endpoints, name: str, database: Database) -> None:
    with store_for(servers, name) as running:
        put(running, 1)
        files = saved(database)
        cached(running, 2)
        set_back(database, files)
        since_s = time.monotonic()
        eventually(lambda: value_of(running) == 1)
        assert time.monotonic() - since_s < BOUND_S


def test_a_dropped_database_leaves_nothing_behind_and_is_reported_once(
    servers: Endpoints, name: str, database: Database, cache: Any
) -> None:
    with store_for(servers, name) as store:
        cached(store, 1)
        ledger = StorageInstance(store, True)
        ledger.write_storage_data([{"id": "a", "priority": 1}])
        open_cache(store)
        before = era_of(database)
        database.client.drop_database(name)
        with store_for(servers, name) as another:
            another.open()  # Who knows nothing of what was there.
        store.confirm()  # What `setup()` does where it was called before.
        assert value_of(store) is None
        store.confirm()
        (restored,) = database[COLLECTION].find_one()["restores"]
        assert (restored["over"], restored["next"], restored["why"]) == (before, era_of(database), "collections")
        (last,) = [place["last"] for place in restored["streams"]]
        assert last == cache.xinfo_stream(f"{{bk:0}}:{name}:s")["last-generated-id"].decode()
        ledger.write_storage_data([{"id": "a", "priority": 1}])
        assert [row["priority"] for row in ledger.read_storage_data()] == [1]


def test_what_was_written_while_mode_id_was_in_force_is_read_afterwards(
    servers: Endpoints, name: str, database: Database
) -> None:
    with store_for(servers, name) as document:
        cached(document, 1)
        with store_for(servers, name, cache_mode="id") as plain:
            put(plain, 2)
            assert value_of(document) == 2
            database[collection_of(STATE)].update_one({}, {"$set": {"payload.data": 3}})  # The npm package.
            assert (value_of(plain), value_of(document)) == (3, 3)
    with store_for(servers, name) as again:
        assert value_of(again) == 3
        cached(again, 4)


def test_partitions_can_be_changed_there_and_back_even_under_a_running_process(
    servers: Endpoints, name: str, database: Database
) -> None:
    with store_for(servers, name) as one:
        cached(one, 1)
    with store_for(servers, name, partitions=4) as four:
        cached(four, 2)
        with store_for(servers, name) as back:
            assert value_of(back) == 2
            # The one that was started with other settings does as everybody does, and says so.
            put(four, 3)
            assert value_of(back) == 3
            cached(back, 4)
            assert value_of(four) == 4


def test_two_databases_of_one_name_on_one_redis_never_meet(own: Endpoints, servers: Endpoints, name: str) -> None:
    with (
        store_for(servers, name) as mine,
        store_for(own, name, redis_port=servers.redis_port) as other,
    ):
        cached(mine, 1)
        assert value_of(other) is None
        put(other, 2)
        assert (value_of(mine), value_of(other)) == (1, 2)


def test_entries_of_the_release_before_eras_are_worthless(
    servers: Endpoints, name: str, database: Database, cache: Any
) -> None:
    with store_for(servers, name) as store:
        cached(store, 1)
    found = cache.keys(f"{{bk:0}}:{name}:e:*")
    memory = cache.info("replication")["master_replid"].encode()
    for entry in found:
        cache.set(entry, memory + cache.get(entry)[40:])
    cache.set(f"{{bk:0}}:{name}:b", memory + b"0")
    cache.delete(*cache.keys(f"{{bk:0}}:{name}:o:*"))
    database[COLLECTION].drop()
    database[collection_of(STATE)].update_one({}, {"$set": {"payload.data": 2}})
    with store_for(servers, name) as store:
        assert value_of(store) == 2
        cached(store, 3)


def test_an_entry_of_another_version_is_a_miss_and_made_anew(
    servers: Endpoints, name: str, cache: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with store_for(servers, name) as store:
        cached(store, 1)
        (found,) = cache.keys(f"{{bk:0}}:{name}:e:*")
        entry = cache.get(found)
        cache.set(found, entry[:56] + b"z" + b"what this release does not know")
        caplog.clear()
        assert (value_of(store), value_of(store)) == (1, 1)
        assert cache.get(found) == entry
        assert not caplog.records


def test_a_flush_begins_an_era_and_a_restart_does_not(
    servers: Endpoints, name: str, database: Database, cache: Any
) -> None:
    with store_for(servers, name) as store:
        put(store, 1)
    before = era_of(database)
    with store_for(servers, name) as store:
        assert (value_of(store), era_of(database)) == (1, before)
        cache.delete(*cache.keys(f"{{bk:0}}:{name}:*"))
        cached(store, 2)
        assert hits(store) > 0
        assert database[COLLECTION].find_one()["restores"] == []
    assert settings_for(servers, name).partitions == 1
