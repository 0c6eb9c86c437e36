"""A feed that is large: batches are bounded by bytes, a full Redis refuses events and can be worked off, and the oldest
entries go before it is full.
"""

from __future__ import annotations

from typing import Any

import pytest
import redis
from tests.integration.support import eventually, store_for
from tests.worker.feed_support import OwnRedis, Recorder, event, publish

from backtest_kit_mongo.backends.redis.cache import RedisCache
from backtest_kit_mongo.coherence.codec import pack
from backtest_kit_mongo.coherence.events import Event, Origin
from backtest_kit_mongo.coherence.record import Key
from backtest_kit_mongo.domains.checks import make_change
from backtest_kit_mongo.domains.table import STATE
from backtest_kit_mongo.embedded import Endpoints
from backtest_kit_mongo.errors import WriteRefused
from backtest_kit_mongo.feed import scripts
from backtest_kit_mongo.feed.size import bytes_max, stream_bytes
from backtest_kit_worker.dead_letters import DeadLetterWriter
from backtest_kit_worker.loop import Loop, LoopOptions
from backtest_kit_worker.roles.audit import AuditRole
from backtest_kit_worker.services.trim import TrimService

pytestmark = pytest.mark.live
MB = 2**20


def large(number: int, size: int = MB) -> Event:
    body = pack({"data": "x" * size})
    return Event(
        "state", ("signal", f"b{number}"), f"d{number}", 1, "upsert", 1, 1_700_000_000_000, Origin("h", 1), body
    )


def test_a_batch_is_bounded_by_bytes_whether_its_entries_are_new_claimed_or_its_own(
    client: Any, mongo: Any, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scripts, "BYTES_MAX", 100_000)
    publish(client, stream, *map(event, range(100)), *(large(number, 50_000) for number in range(100, 120)))
    # 1 + 2 + 4 + 8 + ... entries are asked for, so a batch is over by a few of them at most.
    most = 100 + 10
    role = Recorder()
    options = LoopOptions(block_ms=1, claim_idle_ms=1)
    dead = Loop(client, [stream], role, DeadLetterWriter(mongo), "dead", options)
    dead._open()
    assert sum(len(batch.entries) for batch in dead._fetch(0)) <= most
    assert Loop(client, [stream], role, DeadLetterWriter(mongo), "one", options).run_until_idle() == 120
    assert max(role.calls) <= most
    assert len(role.seen) == 120
    assert len(role.calls) > 2


def test_writers_leave_room_before_redis_is_full_and_go_on_when_a_worker_has_made_some(
    own_redis: OwnRedis, servers: Endpoints, database: str, mongo: Any, stream: str
) -> None:
    limit, count = 16 * MB, 160
    options = {"redis_port": own_redis.port, "lease_ms": 5_000, "redis_timeout_ms": 3_000}
    with (
        own_redis.client() as client,
        store_for(servers, database, **options) as store,
        store_for(servers, database, **options, on_redis_down="fail") as strict,
    ):
        client.config_set("maxmemory-policy", "volatile-lru")
        client.config_set("maxmemory", limit)
        assert isinstance(store.cache, RedisCache)
        for number in range(count):
            store.write(make_change(Key(STATE, ("signal", f"b{number}")), {"data": "x" * (MB // 10)}, 1))
        kept = store.cache._reach.missed.events
        assert client.xlen(stream) + len(kept) == count
        assert limit // 2 < stream_bytes(client, stream) < 0.8 * limit
        assert store.cache.counts.no_room == len(kept) > 0
        key = Key(STATE, ("signal", "b0"))
        with pytest.raises(WriteRefused, match="`fail`; nothing was written"):
            strict.write(make_change(key, {"data": 1}, 1))
        assert store.read(key).rev == 1
        audit = Loop(client, [stream], AuditRole(mongo), DeadLetterWriter(mongo), "one", LoopOptions(block_ms=1))
        trim = TrimService(mongo, client, (stream,), retention_ms=3_600_000)

        def is_reported() -> object:
            audit.run_until_idle()
            trim.run_once()
            return mongo["audit-items"].count_documents({}) == count

        eventually(is_reported, within_s=60)
        assert not kept
        assert strict.write(make_change(key, {"data": 1}, 1)).rev == 2
        assert "errorstat_OOM" not in client.info("errorstats")


def test_a_full_redis_takes_no_events_and_a_worker_that_starts_then_works_it_off(
    own_redis: OwnRedis, servers: Endpoints, database: str, mongo: Any, stream: str
) -> None:
    with own_redis.client() as client, store_for(servers, database, redis_port=own_redis.port) as store:
        publish(client, stream, *(large(number, MB // 2) for number in range(16)))
        client.config_set("maxmemory-policy", "volatile-lru")
        client.config_set("maxmemory", 8 * MB)
        with pytest.raises(redis.OutOfMemoryError):
            publish(client, stream, event(1))
        with pytest.raises(WriteRefused, match="nothing was written"):
            store.write(make_change(Key(STATE, ("signal", "b")), {"data": 1}, 1))
        assert client.xlen(stream) == 16
        audit = Loop(client, [stream], AuditRole(mongo), DeadLetterWriter(mongo), "one", LoopOptions(block_ms=1))
        assert audit.run_until_idle() == 16
        trim = TrimService(mongo, client, (stream,), retention_ms=3_600_000)
        while trim.run_once():
            pass
        assert stream_bytes(client, stream) <= bytes_max(client, 1, 0) == 4 * MB
        assert publish(client, stream, event(1))
