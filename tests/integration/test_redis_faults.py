"""What happens to reads, writes and events when Redis misbehaves, on a real redis-server that the tests kill, restart
and flush.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from tests.integration.support import LEASE_MS, eventually, store_for

import backtest_kit_mongo as bk
from backtest_kit_mongo import embedded
from backtest_kit_mongo.adapters.instances import CandleInstance, StorageInstance
from backtest_kit_mongo.backends.redis.cache import RedisCache
from backtest_kit_mongo.coherence.effects import CacheRead as Read
from backtest_kit_mongo.coherence.effects import Commit, Fill, Lease, Leased, Published, Right, Upsert
from backtest_kit_mongo.coherence.events import decode
from backtest_kit_mongo.coherence.keys import names
from backtest_kit_mongo.coherence.record import Key, Record
from backtest_kit_mongo.domains.checks import make_change, make_key
from backtest_kit_mongo.domains.table import STATE
from backtest_kit_mongo.drivers.counts import HIT
from backtest_kit_mongo.drivers.store import Store

pytestmark = pytest.mark.live
Endpoints = embedded.Endpoints
KEY = make_key(STATE, ("signal", "bucket"))


def put(store: Store, value: int) -> Record:
    return store.write(make_change(KEY, {"data": value}, value))


def value_of(store: Store) -> Any:
    payload = store.read(KEY).payload
    return None if payload is None else payload["data"]


def open_cache(store: Store) -> None:
    """Wait until the cache may install: one lease time after this Redis was first seen."""

    def cached() -> bool:
        store.read(KEY)
        return hits(store) > before

    before = hits(store)
    eventually(cached)


def hits(store: Store) -> int:
    return store.counts.read_count(HIT)


def events(client: Any, database: str) -> list[tuple[str, int]]:
    entries = client.xrange(names(database, 1, "state", KEY.parts).stream)
    return [(event.operation, event.rev) for event in (decode(fields) for _, fields in entries)]


class TestCommitThatNobodyWaitsFor:
    """The write has returned. What becomes of its COMMIT is found out without anything more being done."""

    @staticmethod
    def put_and(happen: Callable[[], object], store: Store) -> None:
        """Write; between MongoDB's acknowledgement and COMMIT something happens."""
        upsert = store.truth.upsert

        def acknowledged(effect: Upsert) -> Record:
            record = upsert(effect)
            happen()
            return record

        store._handlers[Upsert] = acknowledged
        put(store, 2)
        store._handlers[Upsert] = upsert

    def test_a_server_that_lost_its_scripts_gets_them(self, store: Store, client: Any, database: str) -> None:
        put(store, 1)
        self.put_and(client.script_flush, store)
        eventually(lambda: events(client, database) == [("upsert", 1), ("upsert", 2)])

    def test_one_that_was_lost_is_made_up_for(self, store: Store, directory: Path, client: Any, database: str) -> None:
        put(store, 1)
        pid = client.info("server")["process_id"]
        self.put_and(lambda: os.kill(pid, signal.SIGSTOP), store)  # It returns, so COMMIT was not waited for.
        embedded.stop_redis(directory, kill=True)
        embedded.start_redis(directory)
        eventually(lambda: ("upsert", 2) in events(client, database))
        assert value_of(store) == 2

    def test_closing_waits_for_it(self, store: Store, client: Any, database: str) -> None:
        put(store, 1)
        self.put_and(client.script_flush, store)
        store.close()
        assert events(client, database) == [("upsert", 1), ("upsert", 2)]


class TestRedisDown:
    def test_reads_and_writes_go_on_and_events_arrive_when_it_is_back(
        self, store: Store, directory: Path, client: Any, database: str
    ) -> None:
        put(store, 1)
        embedded.stop_redis(directory, kill=True)
        put(store, 2)
        put(store, 3)
        assert value_of(store) == 3
        embedded.start_redis(directory)
        put(store, 4)
        assert value_of(store) == 4
        # The first event may be in the suffix that the killed server lost; those written while it was away may not.
        assert events(client, database)[-3:] == [("upsert", 2), ("upsert", 3), ("upsert", 4)]

    def test_an_entry_that_survived_a_bypassed_write_is_gone_before_it_can_be_read(
        self, store: Store, own: Endpoints, database: str
    ) -> None:
        put(store, 1)
        open_cache(store)
        # Only this client is cut off: the server and its entry live on.
        assert isinstance(store.cache, RedisCache)
        link: Any = store.cache._link
        real = link.execute_many
        link.execute_many = unreachable
        put(store, 2)
        link.execute_many = real
        assert value_of(store) == 2
        with store_for(own, database) as other:
            assert value_of(other) == 2

    def test_with_fail_a_write_is_refused_before_anything_is_written(
        self, own: Endpoints, database: str, directory: Path
    ) -> None:
        embedded.start_redis(directory)
        with store_for(own, database, on_redis_down="fail") as strict:
            put(strict, 1)
            embedded.stop_redis(directory, kill=True)
            with pytest.raises(bk.ServerUnreachable, match="nothing was written"):
                put(strict, 2)
            assert value_of(strict) == 1
            embedded.start_redis(directory)

    def test_a_bot_starts_while_redis_is_away(self, own: Endpoints, database: str, directory: Path) -> None:
        embedded.stop_redis(directory, kill=True)
        with store_for(own, database) as store:
            put(store, 1)
            assert value_of(store) == 1
            embedded.start_redis(directory)
            put(store, 2)


def unreachable(*_: Any) -> Any:
    raise redis.ConnectionError("cut off")


class TestIncarnations:
    def test_after_a_restart_no_old_entry_is_served(
        self, store: Store, directory: Path, client: Any, database: str
    ) -> None:
        put(store, 1)
        open_cache(store)
        entry = names(database, 1, "state", KEY.parts).entry
        old = client.get(entry)
        assert old is not None
        embedded.stop_redis(directory)
        embedded.start_redis(directory)
        client.set(entry, old)  # Even if the entry survived: its incarnation is over.
        before = hits(store)
        assert value_of(store) == 1
        assert hits(store) == before

    def test_nothing_is_cached_for_one_lease_time_after_a_restart(
        self, own: Endpoints, database: str, directory: Path, client: Any
    ) -> None:
        with store_for(own, database, lease_ms=60_000) as patient:
            embedded.stop_redis(directory)
            embedded.start_redis(directory)
            put(patient, 1)
            for _ in range(5):
                value_of(patient)
            assert hits(patient) == 0
            assert client.exists(names(database, 1, "state", KEY.parts).entry) == 0

    def test_a_flush_is_only_a_miss(self, store: Store, client: Any) -> None:
        put(store, 1)
        open_cache(store)
        client.flushall()
        assert value_of(store) == 1
        put(store, 2)
        assert value_of(store) == 2


@pytest.fixture(scope="module")
def opened(own: Endpoints, new_database: Callable[[], str]) -> Iterator[Store]:
    """One database for all of these tests: each new one would have to wait for one lease time."""
    embedded.start_redis(own.directory)
    with store_for(own, f"{new_database()}_leases") as shared:
        put(shared, 1)
        open_cache(shared)
        yield shared


class TestLeases:
    """The protocol's steps on the real scripts, out of order on purpose."""

    @pytest.fixture
    def store(self, opened: Store) -> Store:
        return opened

    @pytest.fixture
    def cache(self, opened: Store) -> RedisCache:
        """Without leases of the test before, and with revision n >= 1 of the key stored and cached."""
        assert isinstance(opened.cache, RedisCache)
        found = opened.cache._names(KEY)
        opened.cache._link.execute("DEL", found.entry, found.right, found.leases)
        put(opened, 1)
        return opened.cache

    def commit(self, cache: RedisCache, leased: Leased, rev: int) -> None:
        record = Record(KEY, rev, {"data": rev}, rev, False, "id")
        body = b"\x81\xa4data" + bytes([rev])
        cache.commit(Commit(KEY, leased.token, record, body, (Published(record, "upsert", body),)))

    def lease(self, cache: RedisCache) -> Leased:
        leased = cache.lease(Lease(KEY))
        assert leased is not None
        return leased

    def test_two_overlapping_writers_that_commit_in_reverse_install_nothing(self, cache: RedisCache) -> None:
        first, second = self.lease(cache), self.lease(cache)
        self.commit(cache, second, 3)
        self.commit(cache, first, 2)
        assert isinstance(cache.read(Read(KEY)), Right)

    def test_a_lone_writer_installs_what_it_wrote(self, cache: RedisCache) -> None:
        self.commit(cache, self.lease(cache), 2)
        hit = cache.read(Read(KEY))
        assert isinstance(hit, Record)
        assert (hit.rev, hit.payload, hit.when, hit.id) == (2, {"data": 2}, 2, "id")

    def test_a_reader_that_stalls_over_a_write_installs_nothing(self, cache: RedisCache) -> None:
        self.commit(cache, self.lease(cache), 2)
        cache._link.execute("DEL", cache._names(KEY).entry)
        right = cache.read(Read(KEY))
        assert isinstance(right, Right)
        self.commit(cache, self.lease(cache), 3)
        cache.fill(Fill(right.token, Record(KEY, 2, {"data": 2}, 2, False, "id")))
        hit = cache.read(Read(KEY))
        assert isinstance(hit, Record)
        assert hit.rev == 3

    def test_readers_of_one_miss_share_one_right(self, cache: RedisCache) -> None:
        cache._link.execute("DEL", cache._names(KEY).entry)
        assert cache.read(Read(KEY)) == cache.read(Read(KEY)) != Right("")

    def test_beside_a_live_lease_no_reader_gets_a_right(self, cache: RedisCache) -> None:
        self.lease(cache)
        assert cache.read(Read(KEY)) == Right("")

    def test_a_dead_writer_blocks_caching_of_its_key_for_one_lease_time_only(
        self, cache: RedisCache, store: Store
    ) -> None:
        self.lease(cache)
        assert value_of(store) == 1
        open_cache(store)

    def test_a_writer_that_comes_back_after_its_lease_ended_deletes_what_was_cached_meanwhile(
        self, cache: RedisCache, store: Store
    ) -> None:
        late = self.lease(cache)
        open_cache(store)
        self.commit(cache, late, 2)
        assert isinstance(cache.read(Read(KEY)), Right)

    def test_leases_have_no_ttl_and_entries_have_one(self, cache: RedisCache, client: Any) -> None:
        found = cache._names(KEY)
        assert client.pttl(found.entry) > 0
        self.lease(cache)
        assert client.pttl(found.leases) == -1

    def test_tokens_are_fresh_for_each_attempt(self, cache: RedisCache) -> None:
        assert self.lease(cache).token != self.lease(cache).token

    def test_the_deadline_of_the_write_lies_before_the_end_of_the_lease(self, cache: RedisCache) -> None:
        assert cache._options.write_ms < cache._options.lease_ms == LEASE_MS


def test_an_entry_that_cannot_be_decoded_is_dropped_and_mongodb_answers(
    store: Store, client: Any, database: str
) -> None:
    put(store, 1)
    open_cache(store)
    entry = names(database, 1, "state", KEY.parts).entry
    client.set(entry, client.get(entry)[:60] + b"rubbish")
    assert value_of(store) == 1
    assert client.exists(entry) == 0


def test_a_list_whose_stamp_cannot_be_decoded_is_compared_with_mongodb(
    store: Store, client: Any, database: str
) -> None:
    ledger = StorageInstance(store, True)
    ledger.write_storage_data([{"id": "a", "priority": 1}])
    open_cache(store)
    ledger.write_storage_data([{"id": "a", "priority": 2}])
    entry = names(database, 1, "storage", (True,)).entry
    client.set(entry, client.get(entry)[:60])
    ledger.write_storage_data([{"id": "a", "priority": 2}, {"id": "b", "priority": 1}])
    assert sorted(row["priority"] for row in ledger.read_storage_data()) == [1, 2]


class TestWhateverIsWrongWithRedisAWriteThatMongoDBHasIsNoError:
    def test_a_process_outlives_a_hundred_lost_connections(self, store: Store, client: Any) -> None:
        put(store, 0)
        for value in range(1, 121):
            client.client_kill_filter(_type="normal", skipme=True)
            put(store, value)
        assert isinstance(store.cache, RedisCache)
        assert not store.cache._is_down
        assert value_of(store) == 120

    @pytest.mark.parametrize(("option", "bad", "good"), [("min-replicas-to-write", 1, 0), ("maxmemory", 1, 0)])
    def test_a_redis_that_refuses_writes_is_bypassed_and_gets_its_events_later(
        self, store: Store, client: Any, database: str, option: str, bad: int, good: int
    ) -> None:
        put(store, 1)
        candle = {"timestamp": 0, "open": 1.0, "high": 1.0, "low": 1.0, "close": 1.0, "volume": 1.0}
        series = CandleInstance(store, "BTC", "1m", "e")
        client.config_set(option, bad)
        try:
            put(store, 2)
            assert series.write_candles_data([candle]).inserted == 1
            assert value_of(store) == 2
        finally:
            client.config_set(option, good)
        eventually(lambda: value_of(store) == 2 and client.xlen(names(database, 1, "state", KEY.parts).stream) == 3)

    def test_events_are_delivered_in_packets_that_fit(self, store: Store, client: Any, database: str) -> None:
        put(store, 0)
        assert isinstance(store.cache, RedisCache)
        link: Any = store.cache._link
        real, sizes = link.execute_many, []
        link.execute_many = unreachable
        for value in range(8):
            store.write(make_change(KEY, {"data": value, "pad": "x" * 400_000}, value))

        def measured(commands: Any) -> Any:
            sizes.append(sum(len(part) for command in commands for part in command if isinstance(part, bytes)))
            return real(commands)

        link.execute_many = measured
        eventually(lambda: value_of(store) == 7 and not store.cache._reach.missed)  # type: ignore[attr-defined]
        assert 2 * 400_000 < max(sizes) < 4 * 400_000
        assert len(events(client, database)) == 9


class TestUnsafeServers:
    def test_a_redis_that_may_evict_leases_is_refused_with_the_remedy(
        self, own: Endpoints, database: str, client: Any, store: Store
    ) -> None:
        client.config_set("maxmemory-policy", "allkeys-lru")
        client.config_set("maxmemory", "100mb")
        try:
            with store_for(own, database) as unsafe, pytest.raises(bk.UnsafeServer, match="volatile-lru"):
                unsafe.open()
        finally:
            client.config_set("maxmemory", "0")
            client.config_set("maxmemory-policy", "noeviction")

    def test_a_replica_is_treated_as_unreachable(self, store: Store, client: Any) -> None:
        put(store, 1)
        open_cache(store)
        client.replicaof("127.0.0.1", "1")
        try:
            assert value_of(store) == 1
            put(store, 2)
            assert value_of(store) == 2
        finally:
            client.replicaof("NO", "ONE")
        eventually(lambda: value_of(store) == 2 and store.cache.read(Read(Key(STATE, ("x", "y")))) is not None)


def test_databases_on_one_redis_never_meet(own: Endpoints, database: str, store: Store) -> None:
    with store_for(own, f"{database}_other") as other:
        put(store, 1)
        put(other, 2)
        open_cache(store)
        open_cache(other)
        assert (value_of(store), value_of(other)) == (1, 2)
