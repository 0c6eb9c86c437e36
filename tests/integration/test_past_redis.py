"""Writes past a Redis that others reach: nobody is served what they make old. On real servers, with two clients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.integration.support import eventually, store_for
from tests.integration.test_redis_faults import hits, open_cache, put, unreachable, value_of

from backtest_kit_mongo import embedded
from backtest_kit_mongo.backends.mongo.flags import Flags
from backtest_kit_mongo.backends.redis.cache import RedisCache
from backtest_kit_mongo.coherence.effects import Defer, Lease
from backtest_kit_mongo.coherence.record import Key
from backtest_kit_mongo.domains.checks import make_change, make_key
from backtest_kit_mongo.domains.table import STATE, STORAGE
from backtest_kit_mongo.drivers.store import Store

pytestmark = pytest.mark.live
KEY = make_key(STATE, ("signal", "bucket"))


@pytest.fixture
def database(new_database: Callable[[], str]) -> str:
    return f"{new_database()}_past"


@pytest.fixture
def stores(servers: embedded.Endpoints, database: str) -> Iterator[tuple[Store, Store]]:
    """A writer, and a reader with an open cache and an entry in it."""
    with store_for(servers, database) as writer, store_for(servers, database) as reader:
        put(writer, 1)
        open_cache(reader)
        yield writer, reader
        reader.truth.client.drop_database(database)  # type: ignore[attr-defined]


def redis_cache(store: Store) -> RedisCache:
    assert isinstance(store.cache, RedisCache)
    return store.cache


def flags_of(store: Store) -> Flags:
    cache: Any = redis_cache(store)
    found: Flags = cache._identity.flags
    return found


def cut(store: Store) -> Callable[[], None]:
    """The client loses Redis, until what is returned is called."""
    link: Any = redis_cache(store)._link
    real, link.execute_many = link.execute_many, unreachable

    def heal() -> None:
        link.execute_many = real

    return heal


def test_others_read_what_is_written_past_redis_and_are_served_again_when_the_writer_is_back(
    stores: tuple[Store, Store],
) -> None:
    writer, reader = stores
    heal = cut(writer)
    put(writer, 2)
    assert [flag.scope for flag in flags_of(reader).look()] == ["*/0"]
    before = hits(reader)
    assert value_of(reader) == 2, "the entry of before is still in Redis"
    assert hits(reader) == before
    heal()
    open_cache(reader)
    assert value_of(reader) == 2
    assert flags_of(reader).look() == []


def test_a_write_that_outlived_its_lease_returns_when_nobody_is_served(stores: tuple[Store, Store]) -> None:
    """MongoDB stood still, and Redis is lost before COMMIT: as good as written past it."""
    writer, reader = stores
    heal = cut(writer)
    redis_cache(writer)._reach.went_down(ConnectionError("cut off"))
    redis_cache(writer).defer(Defer((KEY,), (), 0))
    before = hits(reader)
    value_of(reader)
    assert hits(reader) == before
    heal()
    open_cache(reader)


def test_a_dead_clients_flag_is_taken_away_with_its_era(stores: tuple[Store, Store]) -> None:
    reader = stores[1]
    identity: Any = redis_cache(reader)._identity
    era = identity.era
    flags_of(reader).hold("dead", "*/0", 10)
    eventually(lambda: value_of(reader) == 1 and not flags_of(reader).look())
    assert identity.era != era
    open_cache(reader)


def test_a_lists_writer_is_told_of_its_stamp_although_nobody_has_kept_the_token(stores: tuple[Store, Store]) -> None:
    writer, _ = stores
    scope = Key(STORAGE, (True,))
    row = {"id": "row", "value": 1}
    writer.merge(scope, [make_change(scope.child("row"), row, 1)])
    cache: Any = redis_cache(writer)
    cache._link.settle()
    cache._link.execute("DEL", cache._token)
    leased = cache.lease(Lease(scope, want_prior=True))
    assert leased.prior is not None
    assert leased.token
