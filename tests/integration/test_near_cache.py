"""The near cache on a real Redis: what it saves, and that it forgets what it must. Its rules are simulated
elsewhere.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import redis
from tests.integration.support import LEASE_MS, eventually, store_for

from backtest_kit_mongo.backends.near_cache import NearCache
from backtest_kit_mongo.coherence.effects import Lease
from backtest_kit_mongo.coherence.record import Key
from backtest_kit_mongo.domains.checks import make_change, make_key
from backtest_kit_mongo.domains.table import MEASURE, STATE
from backtest_kit_mongo.drivers.counts import HIT, MISS, PASSED_BY
from backtest_kit_mongo.drivers.store import Store
from backtest_kit_mongo.embedded import Endpoints
from backtest_kit_mongo.errors import InvalidSetting
from backtest_kit_mongo.settings import load

pytestmark = pytest.mark.live

STALENESS_MS = 400
KEY = make_key(STATE, ("signal", "bucket"))
MakeStore = Callable[..., Store]


@pytest.fixture(scope="module")
def database(servers: Endpoints, new_database: Callable[[], str]) -> str:
    """One whose cache is open: Redis caches nothing before it was seen for a lease time."""
    name = f"{new_database()}_near"
    with store_for(servers, name) as store:
        store.read(KEY)
        threading.Event().wait(LEASE_MS / 1000 + 0.05)
    return name


@pytest.fixture
def new_store(servers: Endpoints, database: str) -> Iterator[MakeStore]:
    """Stores of one database, as different processes would have them."""
    with ExitStack() as stack:

        def make(near_cache: str = "state", **more: Any) -> Store:
            options = {"near_cache": near_cache, "near_cache_max_staleness_ms": STALENESS_MS, **more}
            store = stack.enter_context(store_for(servers, database, **options))
            store.open()
            return store

        yield make


def write(store: Store, value: int, key: Key = KEY) -> None:
    store.write(make_change(key, {"data": {"value": value}}, 1_000))


def read(store: Store, key: Key = KEY) -> Any:
    payload = store.read(key).payload
    return payload and payload["data"]["value"]


def near(store: Store) -> NearCache:
    assert isinstance(store.near, NearCache)
    return store.near


def warm(store: Store, key: Key = KEY) -> None:
    """Read until a read is served from a copy."""

    def served() -> bool:
        before = near(store).hit_count
        store.read(key)
        return near(store).hit_count > before

    eventually(served)


def test_a_copy_is_served_without_asking_redis(new_store: MakeStore) -> None:
    store = new_store()
    write(store, 1)
    warm(store)
    asked = store.counts.read_count(HIT, MISS, PASSED_BY)
    assert [read(store) for _ in range(100)] == [1] * 100
    assert store.counts.read_count(HIT, MISS, PASSED_BY) == asked


def test_own_writes_are_seen_at_once(new_store: MakeStore) -> None:
    store = new_store()
    for value in range(20):
        write(store, value)
        assert read(store) == value
        warm(store)
    store.remove(make_key(MEASURE, ("bucket", "nothing")))
    assert read(store) == 19


def test_a_write_of_another_process_takes_the_copy_away_before_it_reaches_mongodb(new_store: MakeStore) -> None:
    reader, writer = new_store(), new_store("")
    write(writer, 1)
    warm(reader)
    # The lease alone: the writer dies before MongoDB. Had only a COMMIT reported it, the copy would stay.
    writer.cache.lease(Lease(KEY))
    eventually(lambda: len(near(reader)) == 0)
    assert read(reader) == 1


def test_a_write_of_another_process_is_seen(new_store: MakeStore) -> None:
    reader, writer = new_store(), new_store("")
    for value in range(10):
        write(writer, value)
        eventually(lambda expected=value: read(reader) == expected, within_s=5)  # type: ignore[misc]
        warm(reader)


def test_nothing_is_served_when_redis_has_been_silent_for_longer_than_the_bound(
    new_store: MakeStore, servers: Endpoints
) -> None:
    store = new_store(redis_timeout_ms=5_000)
    write(store, 1)
    warm(store)
    with redis.Redis(port=servers.redis_port) as client:
        # All clients are stopped for three bounds, the channel included; whoever asks Redis waits so long.
        client.execute_command("CLIENT", "PAUSE", 3 * STALENESS_MS)
    threading.Event().wait(STALENESS_MS / 1000 + 0.05)
    before = near(store).hit_count
    assert read(store) == 1
    assert near(store).hit_count == before
    warm(store)


def test_a_copy_does_not_outlive_the_connection_that_would_have_reported(
    new_store: MakeStore, servers: Endpoints
) -> None:
    reader, writer = new_store(), new_store("")
    write(writer, 1)
    warm(reader)
    with redis.Redis(port=servers.redis_port) as client:
        client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
    write(writer, 2)
    eventually(lambda: read(reader) == 2, within_s=5)
    warm(reader)
    assert read(reader) == 2


def test_a_flush_of_redis_is_noticed(new_store: MakeStore, servers: Endpoints) -> None:
    reader, writer = new_store(), new_store("")
    write(writer, 1)
    warm(reader)
    with redis.Redis(port=servers.redis_port) as client:
        client.flushall()
    write(writer, 2)
    eventually(lambda: read(reader) == 2, within_s=5)


def test_what_a_caller_does_to_a_value_changes_no_other_read(new_store: MakeStore) -> None:
    store = new_store()
    write(store, 1)
    warm(store)
    payload = store.read(KEY).payload
    payload["data"]["value"] = 99
    payload["more"] = [1]
    assert store.read(KEY).payload == {"data": {"value": 1}}


def test_only_the_named_domains_leave_copies(new_store: MakeStore) -> None:
    store = new_store("measure")
    write(store, 1)
    measure = make_key(MEASURE, ("bucket", "key"))
    store.write(make_change(measure, {"id": "key", "data": 1, "removed": False}))
    warm(store, measure)
    read(store)
    assert len(near(store)) == 1


def test_an_absent_document_is_asked_for_each_time(new_store: MakeStore) -> None:
    reader, writer = new_store(), new_store("")
    absent = make_key(STATE, ("signal", "absent"))
    for _ in range(5):
        assert not reader.read(absent).exists
    assert len(near(reader)) == 0
    write(writer, 1, absent)
    assert read(reader, absent) == 1


def test_memory_is_bounded(new_store: MakeStore) -> None:
    store = new_store(near_cache_max_bytes=20_000)
    keys = [make_key(STATE, ("signal", str(number))) for number in range(40)]
    for key in keys:
        write(store, 1, key)
        store.read(key)
        store.read(key)
    warm(store, keys[-1])
    assert 0 < len(near(store)) < len(keys)
    assert near(store).bytes <= 20_000


def test_closing_a_store_ends_its_thread_and_reading_again_starts_one(new_store: MakeStore) -> None:
    def listening() -> int:
        return sum(thread.name == "near-cache" for thread in threading.enumerate())

    before = listening()
    store = new_store()
    assert listening() == before  # Not before there is something to hear.
    write(store, 1)
    warm(store)
    assert listening() == before + 1
    store.close()
    assert listening() == before
    warm(store)


def test_mode_id_trusts_only_mongodb(new_store: MakeStore) -> None:
    assert new_store(cache_mode="id").near is None


def test_domains_without_single_documents_are_refused() -> None:
    with pytest.raises(InvalidSetting, match="candle"):
        load(near_cache="state,candle")
    assert load(near_cache=" state , measure,").near_cache == {"state", "measure"}
    assert load(near_cache="").near_cache == frozenset()
