"""What must be better than the original: each promise is a class, seen to hold on a real mongod and redis-server."""

from __future__ import annotations

import multiprocessing
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pymongo
import pytest
from bson import DatetimeMS
from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel
from pymongo import _csot
from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent
from tests.integration.support import settings_for, store_for

import backtest_kit_mongo as bk
from backtest_kit_mongo import embedded
from backtest_kit_mongo.adapters.instances import CandleInstance, StateInstance, StorageInstance
from backtest_kit_mongo.backends.mongo.layout import FORMER_KEYS, collection_of, payload_field
from backtest_kit_mongo.coherence.effects import Find
from backtest_kit_mongo.coherence.lists import Rows
from backtest_kit_mongo.coherence.record import Key
from backtest_kit_mongo.domains.checks import make_change, make_key
from backtest_kit_mongo.domains.table import CANDLE, DOMAINS, SESSION, SIGNAL, STATE, STORAGE
from backtest_kit_mongo.drivers.store import Store
from backtest_kit_mongo.embedded import Endpoints
from backtest_kit_mongo.ports import NoCache
from backtest_kit_mongo.testing.examples import example

pytestmark = pytest.mark.live
MINUTE_MS = 60_000


@pytest.fixture
def database(new_database: Callable[[], str]) -> str:
    return new_database()


@pytest.fixture
def store(servers: Endpoints, database: str) -> Iterator[Store]:
    with store_for(servers, database) as opened:
        yield opened


@pytest.fixture
def mongo(servers: Endpoints) -> Iterator[pymongo.MongoClient[dict[str, Any]]]:
    with pymongo.MongoClient[dict[str, Any]](servers.mongo_url) as client:
        yield client


class Commands(CommandListener):
    """The names of the commands that were sent, without those of sessions and hand-shakes."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def started(self, event: CommandStartedEvent) -> None:
        if event.command_name not in ("endSessions", "hello", "listIndexes", "createIndexes"):
            self.names.append(event.command_name)

    def succeeded(self, event: CommandSucceededEvent) -> None:
        return

    def failed(self, event: CommandFailedEvent) -> None:
        return


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> Commands:
    """Commands of every client that the package makes from now on."""
    listener = Commands()
    real = pymongo.MongoClient

    def listened(*args: Any, event_listeners: Sequence[Any] = (), **options: Any) -> Any:
        return real(*args, event_listeners=[listener, *event_listeners], **options)

    monkeypatch.setattr("backtest_kit_mongo.connect.MongoClient", listened)
    return listener


SINCE_MS = 1_699_920_000_000


def candles(count: int, start: int = SINCE_MS) -> list[dict[str, float]]:
    return [
        {"timestamp": start + i * MINUTE_MS, "open": 1.0, "high": 2.0, "low": 0.5, "close": 1.5, "volume": float(i)}
        for i in range(count)
    ]


def test_a_bar_is_closed_by_the_clock_of_mongodb_and_not_by_that_of_a_host_a_day_ahead(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_ns = time.time_ns
    minute = real_ns() // 60_000_000_000 * 60_000
    monkeypatch.setattr("time.time_ns", lambda: real_ns() + 86_400_000_000_000)
    row = {"open": 1.0, "high": 1.0, "low": 1.0, "close": 1.0, "volume": 1.0}
    offered = [{"timestamp": minute + step * 60_000, **row} for step in (-2, 1)]
    report = CandleInstance(store, "X", "1m", "clock").write_candles_data(offered)
    assert (report.inserted, report.unclosed) == (1, (minute + 60_000,))


class TestARangeOfCandlesIsOneQueryAndABatchIsOneBulkWrite:
    def test_a_thousand_candles_are_read_by_one_find(self, commands: Commands, store: Store) -> None:
        instance = CandleInstance(store, "BTC/USDT", "1m", "binance")
        instance.write_candles_data(candles(1_000))
        commands.names.clear()
        assert instance.read_candles_data(1_000, SINCE_MS, SINCE_MS) == candles(1_000)
        assert commands.names in (["find"], ["find", "getMore"])

    def test_a_thousand_candles_are_written_by_one_insert(self, commands: Commands, store: Store) -> None:
        instance = CandleInstance(store, "BTC/USDT", "1m", "binance")
        instance.wait_for_init(True)
        commands.names.clear()
        instance.write_candles_data(candles(1_000))
        assert commands.names == ["find", "aggregate"]

    def test_a_refetch_of_known_candles_writes_nothing(self, commands: Commands, store: Store) -> None:
        instance = CandleInstance(store, "BTC/USDT", "1m", "binance")
        instance.write_candles_data(candles(100))
        commands.names.clear()
        report = instance.write_candles_data(candles(100))
        assert (report.inserted, report.known) == (0, 100)
        assert commands.names == ["find"]


class TestAListWriteTouchesOnlyRowsThatChanged:
    def test_one_changed_row_of_a_thousand_is_one_row_in_mongodb(
        self, store: Store, mongo: pymongo.MongoClient[dict[str, Any]], database: str
    ) -> None:
        ledger = StorageInstance(store, True)
        rows = [{"id": f"r{i}", "priority": 0} for i in range(1_000)]
        ledger.write_storage_data(rows)
        ledger.write_storage_data([{**row, "priority": 1} if row["id"] == "r500" else row for row in rows])
        revisions = list(mongo[database]["storage-items"].find({}, {"signalId": 1, "rev": 1}))
        assert [row["signalId"] for row in revisions if row["rev"] == 2] == ["r500"]
        assert sum(row["rev"] for row in revisions) == 1_001

    def test_a_new_process_writes_only_what_differs_too(self, servers: Endpoints, database: str) -> None:
        rows = [{"id": f"r{i}", "priority": 0} for i in range(10)]
        for expected in (10, 0):
            with store_for(servers, database) as fresh:
                scope = make_key(STORAGE, (True,))
                changes = [make_change(scope.child(row["id"]), row) for row in rows]  # type: ignore[arg-type]
                assert fresh.merge(scope, changes) == expected

    def test_a_row_changed_in_place_is_written_whatever_it_is_made_of(self, store: Store) -> None:
        ledger = StorageInstance(store, True)
        row: dict[str, Any] = {"id": "a", "levels": ({"p": 1},), "list": [{"p": 1}]}
        ledger.write_storage_data([row])
        for holder in (row["levels"][0], row["list"][0]):
            holder["p"] = 2
            ledger.write_storage_data([row])
        (stored,) = ledger.read_storage_data()
        assert (stored["levels"], stored["list"]) == ([{"p": 2}], [{"p": 2}])

    def test_two_processes_that_write_one_list_never_lose_a_row(self, servers: Endpoints, database: str) -> None:
        with store_for(servers, database) as one, store_for(servers, database) as two:
            first, second = StorageInstance(one, False), StorageInstance(two, False)
            for turn in range(5):
                first.write_storage_data([{"id": "shared", "priority": turn}, {"id": "a", "priority": turn}])
                second.write_storage_data([{"id": "shared", "priority": -turn}, {"id": "b", "priority": turn}])
                stored = {row["id"]: row["priority"] for row in first.read_storage_data()}
                assert stored == {"shared": -turn, "a": turn, "b": turn}

    def test_a_failure_after_some_rows_were_written_never_claims_that_none_was(
        self, servers: Endpoints, database: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        scope = make_key(STORAGE, (True,))

        def changes(value: int) -> list[Any]:
            return [make_change(scope.child(name), {"id": name, "priority": value}) for name in ("a", "b")]

        with store_for(servers, database) as one, store_for(servers, database) as two:
            one.merge(scope, changes(1))
            stale = {"a": one.truth.find(Find(scope.child("a")))}
            two.write(changes(2)[0])
            # What `one` read is old by the time it writes: its row "a" clashes and is settled alone, after "b".
            monkeypatch.setattr(one.truth, "upsert", unreachable)
            monkeypatch.setitem(one._handlers, Rows, lambda _: stale)
            one._known.clear()
            with pytest.raises(bk.WriteOutcomeUnknown, match="some rows were written"):
                one.merge(scope, changes(3))


def unreachable(_: Any) -> Any:
    raise bk.ServerUnreachable("gone")


def first_write(endpoints: Endpoints, database: str, barrier: Any, failures: Any) -> None:
    """100 writes of one key in a process of their own, begun by all processes at once."""
    try:
        with store_for(endpoints, database, lease_ms=60_000) as store:
            barrier.wait(60)
            for number in range(100):
                StateInstance(store, "signal", "bucket").write_state_data({"data": {"n": number}}, number)
    except BaseException as error:
        failures.put(repr(error))
        raise


class TestIndexesExistBeforeTheFirstWrite:
    def test_400_concurrent_first_writes_of_one_key_make_one_document(
        self, servers: Endpoints, database: str, mongo: pymongo.MongoClient[dict[str, Any]]
    ) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["backtest_kit_mongo.setup"])  # Once, not by each of the four.
        barrier, failures = context.Barrier(4), context.Queue()
        writers = [context.Process(target=first_write, args=(servers, database, barrier, failures)) for _ in range(4)]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join(120)
        assert [writer.exitcode for writer in writers] == [0] * 4, failures.get() if not failures.empty() else ""
        collection = mongo[database]["state-items"]
        assert [document["rev"] for document in collection.find()] == [400]
        unique = [index for index in collection.index_information().values() if index.get("unique")]
        assert [index["key"] for index in unique] == [[("signalId", 1), ("bucketName", 1)]]

    def test_every_collection_has_its_unique_index_once_open_returns(
        self, store: Store, database: str, mongo: pymongo.MongoClient[dict[str, Any]]
    ) -> None:
        store.open()
        for domain in DOMAINS:
            indexes = mongo[database][collection_of(domain)].index_information().values()
            assert [(name, 1) for name in domain.columns] in [i["key"] for i in indexes if i.get("unique")], domain.name


class TestALegacyUniqueIndexIsReportedWithItsRemedy:
    @pytest.mark.parametrize("domain", [CANDLE, SESSION], ids=lambda domain: domain.name)
    def test_the_error_names_the_index_and_the_command(
        self, domain: Any, store: Store, database: str, mongo: pymongo.MongoClient[dict[str, Any]]
    ) -> None:
        columns = FORMER_KEYS[domain.name]
        mongo[database][collection_of(domain)].create_index([(name, 1) for name in columns], unique=True, name="old")
        with pytest.raises(bk.LegacyIndex, match=rf'getCollection\("{collection_of(domain)}"\)\.dropIndex\("old"\)'):
            store.open()
        mongo[database][collection_of(domain)].drop_index("old")
        store.open()

    def test_a_key_index_that_is_not_unique_is_reported_too(
        self, store: Store, database: str, mongo: pymongo.MongoClient[dict[str, Any]]
    ) -> None:
        mongo[database]["signal-items"].create_index([(name, 1) for name in SIGNAL.columns])
        with pytest.raises(bk.LegacyIndex, match="not unique"):
            store.open()


class TestKeyFieldsAreCheckedBeforeTheyReachAQuery:
    def test_anything_but_text_is_refused_and_no_server_is_asked(self, commands: Commands, store: Store) -> None:
        store.open()
        commands.names.clear()
        registry = type(bk.PersistStateAdapter)()
        registry.use_store(lambda: store)
        bad: Any
        for bad in ({"$ne": None}, None, 5, b"x", ["a"], True):
            with pytest.raises(bk.InvalidKey):
                StateInstance(store, bad, "bucket").read_state_data()
            with pytest.raises(bk.InvalidKey):
                registry.write_state_data({}, bad, "bucket", 1)
        assert commands.names == []

    def test_a_payload_over_the_document_limit_is_refused_before_anything_is_written(
        self, commands: Commands, store: Store
    ) -> None:
        store.open()
        commands.names.clear()
        with pytest.raises(bk.InvalidPayload, match="16,777,216"):
            StateInstance(store, "s", "b").write_state_data({"data": {"big": "x" * 16_800_000}}, 1)
        assert commands.names == []


class TestMongoDown:
    def test_a_write_fails_clearly_within_the_configured_time(self, servers: Endpoints, database: str) -> None:
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))
            string = f"mongodb://127.0.0.1:{nobody.getsockname()[1]}/{database}"
            with (
                store_for(servers, database, mongo_connection_string=string, mongo_timeout_ms=200) as store,
                pytest.raises(bk.ServerUnreachable, match="MongoDB cannot be reached"),
            ):
                StateInstance(store, "s", "b").write_state_data({}, 1)

    def test_a_failed_first_connection_is_retried_by_the_next_call(self, servers: Endpoints, database: str) -> None:
        with store_for(servers, database) as live:
            attempts: list[int] = []
            real_open = live.truth.open

            def flaky_open() -> None:
                attempts.append(1)
                if len(attempts) == 1:
                    raise bk.ServerUnreachable("not yet")
                real_open()

            truth: Any = live.truth
            truth.open = flaky_open
            registry = type(bk.PersistStateAdapter)()
            registry.use_store(lambda: live)
            with pytest.raises(bk.ServerUnreachable):
                registry.write_state_data({"data": 1}, "s", "b", 1)
            registry.write_state_data({"data": 1}, "s", "b", 1)
            assert registry.read_state_data("s", "b") == {"data": 1}
            assert len(attempts) == 2


class TestDocumentsOfTheNpmPackage:
    def test_its_documents_are_read_and_their_integers_restored(
        self, store: Store, database: str, mongo: pymongo.MongoClient[dict[str, Any]]
    ) -> None:
        store.open()
        key = {"signalId": "s", "bucketName": "b"}
        foreign = {**key, "payload": {"id": "s_b", "data": {"x": 1.0}, "when": 1.7e12}, "when": 1.7e12, "__v": 0}
        mongo[database]["state-items"].insert_one(foreign)
        instance = StateInstance(store, "s", "b")
        found = instance.read_state_data()
        assert found == {"id": "s_b", "data": {"x": 1.0}, "when": 1_700_000_000_000}
        assert found is not None
        assert type(found["when"]) is int
        assert type(found["data"]["x"]) is float
        assert instance.read_state_data(when=1_699_999_999_999) is None
        instance.write_state_data({"data": 2}, 5)
        assert mongo[database]["state-items"].find_one(key, {"rev": 1, "_id": 0}) == {"rev": 1}

    def test_its_candles_with_double_timestamps_are_read(
        self, store: Store, database: str, mongo: pymongo.MongoClient[dict[str, Any]]
    ) -> None:
        store.open()
        row = {"exchangeName": "b", "symbol": "X", "interval": "1m", **candles(1, 1_700_000_040_000)[0]}
        mongo[database]["candle-items"].insert_one({**row, "timestamp": 1_700_000_040_000.0, "__v": 0})
        found = CandleInstance(store, "X", "1m", "b").read_candles_data(1, 1_700_000_040_000, 0)
        assert found is not None
        assert type(found[0]["timestamp"]) is int

    def test_documents_have_its_columns(
        self, store: Store, database: str, mongo: pymongo.MongoClient[dict[str, Any]]
    ) -> None:
        for domain in (domain for domain in DOMAINS if domain.cached):
            parts = tuple(column.type("x") if column.type is str else True for column in domain.key)
            store.write(make_change(Key(domain, parts), example(domain, "x"), 5 if domain.has_when else None))
            document = mongo[database][collection_of(domain)].find_one({})
            assert document is not None, domain.name
            expected = {"_id", "rev", "__v", "createDate", "updatedDate", payload_field(domain), *domain.columns}
            expected |= {name for name, has in (("when", domain.has_when), ("removed", domain.has_removed)) if has}
            assert set(document) == expected, domain.name

    def test_id_mode_keeps_its_redis_keys(self, servers: Endpoints, database: str) -> None:
        import redis

        with store_for(servers, database, cache_mode="id") as store:
            record = store.write(make_change(make_key(STATE, (database, "b")), {"data": 1}, 1))
            store.write(make_change(make_key(STATE, (f"{database}:b", "c")), {"data": 1}, 1))
            with redis.Redis(port=servers.redis_port) as client:
                assert client.get(f"state_cache:{database}:b") == record.id.encode()
                # Its name there would be that of ("a", "b:c") too.
                assert client.get(f"state_cache:{database}:b:c") is None

    def test_id_mode_reads_what_one_member_alone_has_acknowledged_to_another_program(
        self, servers: Endpoints, database: str, mongo: pymongo.MongoClient[dict[str, Any]]
    ) -> None:
        other = mongo.get_database(database, write_concern=pymongo.WriteConcern(1, j=False))
        start = 1_700_000_040_000
        with store_for(servers, database, cache_mode="id") as store:
            state, rows = StateInstance(store, "s", "b"), StorageInstance(store, True)
            candle = CandleInstance(store, "X", "1m", "b")
            assert (state.read_state_data(), rows.read_storage_data()) == (None, [])
            for number in range(30):
                key = {"signalId": "s", "bucketName": "b"}
                other["state-items"].update_one(key, {"$set": {"payload": {"data": number}}}, upsert=True)
                assert state.read_state_data() == {"data": number}
                other["storage-items"].insert_one(
                    {"backtest": True, "signalId": f"{number}", "payload": {"id": str(number)}}
                )
                assert len(rows.read_storage_data()) == number + 1
                (row,) = candles(1, start + number * 60_000)
                other["candle-items"].insert_one({"exchangeName": "b", "symbol": "X", "interval": "1m", **row})
                assert len(candle.read_candles_data(number + 1, start, 0) or ()) == number + 1


class TestSetup:
    @pytest.fixture(autouse=True)
    def _clean(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
        monkeypatch.chdir(tmp_path)
        yield
        bk.shutdown()

    def options(self, servers: Endpoints, database: str) -> dict[str, Any]:
        settings = settings_for(servers, database)
        return {name: getattr(settings, name) for name in settings.model_fields_set}

    def test_before_setup_the_adapters_keep_files(self, tmp_path: Path) -> None:
        bk.PersistSignalAdapter.write_signal_data(None, "BTC/USDT", "s", "e")
        assert [
            path.read_text().split("\n")[0] for path in (tmp_path / "dump" / "data" / "signal").rglob("*.json")
        ] == ["null"]

    def test_one_call_makes_every_adapter_durable(self, servers: Endpoints, database: str) -> None:
        bk.setup(**self.options(servers, database))
        bk.PersistStateAdapter.write_state_data({"data": 1}, "s", "b", 5)
        assert bk.get_mongo()[database]["state-items"].count_documents({}) == 1
        assert bk.PersistStateAdapter.read_state_data("s", "b") == {"data": 1}

    def test_the_same_call_again_changes_nothing_and_another_one_is_refused(
        self, servers: Endpoints, database: str
    ) -> None:
        options = self.options(servers, database)
        first = bk.setup(**options)
        assert bk.setup(**options) == first
        with pytest.raises(bk.AlreadySetUp, match="shutdown"):
            bk.setup(**{**options, "lease_ms": 9_999})
        assert bk.get_config() == first

    def test_setup_after_use_takes_over_and_says_so(
        self, servers: Endpoints, database: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        bk.PersistStateAdapter.write_state_data({"data": "file"}, "s", "b", 5)
        bk.setup(**self.options(servers, database))
        assert "used before setup()" in caplog.text
        assert bk.PersistStateAdapter.read_state_data("s", "b") is None

    def test_an_unknown_setting_is_refused_with_a_hint(self) -> None:
        with pytest.raises(bk.InvalidSetting, match="did you mean redis_host"):
            bk.setup(CC_REDIS_HOSTT="x")

    def test_servers_that_cannot_be_reached_are_named_with_two_ways_out(self) -> None:
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))
            port = nobody.getsockname()[1]
            with pytest.raises(bk.ServerUnreachable) as caught:
                bk.setup(
                    mongo_connection_string=f"mongodb://user:hunter2@127.0.0.1:{port}/x?authSource=admin",
                    redis_port=port,
                    mongo_timeout_ms=200,
                )
        text = str(caught.value)
        assert f"MongoDB at 127.0.0.1:{port}" in text
        assert f"Redis at 127.0.0.1:{port}" in text
        assert "bkm up" in text
        assert "docker compose up" in text
        assert "hunter2" not in text

    def test_embedded_servers_are_started_by_one_argument_and_shared(self, tmp_path: Path) -> None:
        directory = tmp_path / "private"
        try:
            settings = bk.setup(embedded=True, embedded_dir=directory)
            bk.PersistStateAdapter.write_state_data({"data": 1}, "s", "b", 5)
            running = embedded.status(directory)
            assert bk.setup(embedded=True, embedded_dir=directory) == settings
            assert embedded.status(directory) == running
            bk.shutdown()
            bk.setup(embedded=True, embedded_dir=directory)
            assert bk.PersistStateAdapter.read_state_data("s", "b") == {"data": 1}
        finally:
            bk.shutdown()
            embedded.down(directory)

    def test_a_failed_setup_keeps_what_an_adapter_was_set_to_use(self) -> None:
        bk.PersistStateAdapter.use_memory()
        bk.PersistStateAdapter.write_state_data({"data": "kept"}, "failed", "setup", 5)
        with pytest.raises(bk.ServerUnreachable):
            bk.setup(mongo_connection_string="mongodb://127.0.0.1:1/x", mongo_timeout_ms=200)
        assert bk.PersistStateAdapter.read_state_data("failed", "setup") == {"data": "kept"}

    def test_get_mongo_needs_setup(self) -> None:
        with pytest.raises(bk.NotSetUp):
            bk.get_mongo()

    def test_a_weaker_write_concern_is_respected_and_reported_once(
        self, servers: Endpoints, database: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        weak = servers.mongo_connection_string(database) + "&w=1&journal=false"
        with store_for(servers, database, mongo_connection_string=weak) as store:
            store.open()
            store.open()
        assert caplog.text.count("weakens the write concern") == 1

    def test_base_crud_serves_a_users_own_collection(self, servers: Endpoints, database: str) -> None:
        bk.setup(**self.options(servers, database))
        notes = bk.BaseCRUD("my-notes")
        made = [notes.create({"n": n}) for n in range(5)]
        assert notes.find_by_id(made[2]["id"])["n"] == 2
        assert notes.update(made[2]["id"], {"n": 20, "id": "ignored"})["n"] == 20
        assert notes.find_by_filter({"n": 20}) is not None
        assert notes.find_by_filter({"n": 99}) is None
        assert notes.find_all(limit=1)[0]["n"] == 20
        assert len(list(notes.iterate())) == 5
        pages = [notes.paginate(limit=2, offset=offset) for offset in (0, 2, 4)]
        assert [page["total"] for page in pages] == [5, 5, 5]
        assert len({row["id"] for page in pages for row in page["rows"]}) == 5
        with pytest.raises(bk.NotFound):
            notes.find_by_id("0" * 24)
        with pytest.raises(bk.InvalidPayload, match="cannot be asked"):
            notes.find_by_filter({"n": 2**64})
        self.check_that_documents_are_read_as_they_are(notes)
        # What Ctrl-C in the middle of `pymongo.timeout` leaves behind in its thread.
        token = _csot.TIMEOUT.set(2.0)
        try:
            assert notes.find_by_id(made[0]["id"])["n"] == 0
            assert len(list(notes.iterate())) == len(notes.find_all()) == 5
            bk.shutdown()
        finally:
            _csot.TIMEOUT.reset(token)

    def check_that_documents_are_read_as_they_are(self, notes: bk.BaseCRUD) -> None:
        """`$ref` and `$id` are two names of fields; what Python has no value for costs its own document."""
        reference = {"$ref": "coins", "$id": 7, "$db": None, "a": [{"$id": 1, "$ref": 5}]}
        given = {"n": "ref", "v": reference, "list": [[reference]]}
        made = notes.create(given)
        raw: Any = bk.get_mongo()[bk.get_config().database]["my-notes"]
        raw.insert_one({"n": "ref", "at": DatetimeMS(2**60)})
        found = [
            made,
            notes.update(made["id"], {"o": reference}),
            notes.find_by_id(made["id"]),
            notes.find_by_filter({"v": {"$exists": True}}),
            *notes.find_all({"n": "ref"}),
            *notes.iterate({"n": "ref"}),
            *notes.paginate({"n": "ref"}, limit=9)["rows"],
        ]
        assert [{name: row[name] for name in given} for row in found if row] == [given] * 7
        with pytest.raises(bk.CorruptData, match="left as it is"):
            notes.find_by_filter({"at": {"$exists": True}})
        assert raw.delete_many({"n": "ref"}).deleted_count == 2

    def test_base_crud_stores_what_its_model_checked_and_keeps_off_the_products_collections(
        self, servers: Endpoints, database: str
    ) -> None:
        bk.setup(**self.options(servers, database))
        notes = bk.BaseCRUD("my-notes", Note)
        made = notes.create({"noteSize": "5", "other": 1})
        assert (made["noteSize"], made["other"]) == (5, 1)
        assert notes.update(made["id"], {"noteSize": "6"})["noteSize"] == 6
        with pytest.raises(bk.InvalidPayload, match="note_size: the stored name is noteSize"):
            notes.create({"note_size": 5})
        for own in ("signal-items", "audit-items", "worker-leases"):
            with pytest.raises(bk.InvalidSetting, match="Choose another name"):
                bk.BaseCRUD(own)


class Note(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)

    note_size: int | None = None


def test_a_store_without_a_cache_runs_the_same_plans(servers: Endpoints, store: Store) -> None:
    bare = Store("bare", store.truth, NoCache())
    StateInstance(bare, "s", "b").write_state_data({"data": 1}, 1)
    assert StateInstance(bare, "s", "b").read_state_data() == {"data": 1}


FORKING = """
import os, sys
import backtest_kit_mongo as bk
bk.setup()
bk.PersistStateAdapter.write_state_data({"data": "parent"}, "s", "b", 1)
child = os.fork()
if child == 0:
    assert bk.PersistStateAdapter.read_state_data("s", "b") == {"data": "parent"}
    bk.PersistStateAdapter.write_state_data({"data": "child"}, "s", "b", 2)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
assert bk.PersistStateAdapter.read_state_data("s", "b") == {"data": "child"}
bk.shutdown()
"""


def test_a_forked_child_makes_its_own_connections(servers: Endpoints, database: str) -> None:
    environment = {
        **os.environ,
        "CC_MONGO_CONNECTION_STRING": servers.mongo_connection_string(database),
        "CC_REDIS_HOST": servers.redis_host,
        "CC_REDIS_PORT": str(servers.redis_port),
    }
    subprocess.run([sys.executable, "-c", FORKING], env=environment, check=True, timeout=60)
