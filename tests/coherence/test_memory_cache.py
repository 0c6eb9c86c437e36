"""The plans over memory: whole operations, with the faults that Redis can have."""

from __future__ import annotations

import pytest

from backtest_kit_mongo.backends.memory import MemoryTruth
from backtest_kit_mongo.backends.memory_cache import MemoryCache, MemoryRedis, counter
from backtest_kit_mongo.coherence.effects import CacheRead as Read
from backtest_kit_mongo.coherence.effects import Fill, Lease, Right
from backtest_kit_mongo.coherence.invariants import INVARIANTS, require
from backtest_kit_mongo.coherence.record import Key, Record
from backtest_kit_mongo.domains.checks import make_change
from backtest_kit_mongo.domains.table import STATE
from backtest_kit_mongo.drivers.store import Store
from backtest_kit_mongo.errors import InvariantViolation

KEY = Key(STATE, ("signal", "bucket"))
LEASE_MS = 100


@pytest.fixture
def redis() -> MemoryRedis:
    redis = MemoryRedis()
    redis.born = (1, -LEASE_MS - 1)  # Open from the start.
    return redis


@pytest.fixture
def cache(redis: MemoryRedis) -> MemoryCache:
    return MemoryCache(redis, counter(), LEASE_MS, LEASE_MS // 2)


@pytest.fixture
def store(cache: MemoryCache) -> Store:
    return Store("memory with a cache", MemoryTruth(), cache)


def put(store: Store, value: int) -> Record:
    return store.write(make_change(KEY, {"data": value}, value))


def test_a_write_is_cached_and_published(store: Store, redis: MemoryRedis) -> None:
    record = put(store, 1)
    assert redis.entries[KEY] == (1, record)
    assert [(event.operation, event.record.rev) for event in redis.stream] == [("upsert", 1)]
    assert not redis.leases[KEY]


def test_a_read_after_a_flush_fills_again(store: Store, redis: MemoryRedis) -> None:
    put(store, 1)
    redis.flush()
    redis.born = (1, -LEASE_MS - 1)
    assert store.read(KEY).payload == {"data": 1}
    assert KEY in redis.entries


def test_an_absent_document_is_cached_as_absent(store: Store, redis: MemoryRedis) -> None:
    assert not store.read(KEY).exists
    assert redis.entries[KEY][1].exists is False


def test_a_new_incarnation_serves_nothing_old_and_installs_nothing_before_it_is_open(
    store: Store, redis: MemoryRedis
) -> None:
    put(store, 1)
    redis.restart()
    assert store.read(KEY).payload == {"data": 1}
    assert redis.entries[KEY][0] == 1
    redis.now_ms += LEASE_MS + 1
    store.read(KEY)
    assert redis.entries[KEY][0] == 2


def test_a_right_does_not_survive_a_restart(cache: MemoryCache, redis: MemoryRedis) -> None:
    right = cache.read(Read(KEY))
    assert isinstance(right, Right)
    redis.restart()
    cache.fill(Fill(right.token, Record(KEY, 1, id="x")))
    assert KEY not in redis.entries


def test_a_dead_writer_blocks_caching_until_its_deadline(cache: MemoryCache, store: Store, redis: MemoryRedis) -> None:
    put(store, 1)
    cache.lease(Lease(KEY))
    store.read(KEY)
    assert KEY not in redis.entries
    redis.now_ms += LEASE_MS + 1
    store.read(KEY)
    assert KEY in redis.entries


def test_a_broken_invariant_is_named() -> None:
    redis = MemoryRedis(incarnation=1)
    redis.entries[KEY] = (2, Record(KEY))
    with pytest.raises(InvariantViolation, match="I8"):
        redis.check()
    redis.entries[KEY] = (1, Record(KEY))
    with pytest.raises(InvariantViolation, match="I10"):
        redis.check()


@pytest.mark.parametrize("name", INVARIANTS)
def test_every_invariant_can_be_required(name: str) -> None:
    require(name, True, "")
    with pytest.raises(InvariantViolation, match=name):
        require(name, False, "for the test")
