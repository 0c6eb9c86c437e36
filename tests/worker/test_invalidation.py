"""The invalidation role tells other Redis servers of changes. Another database's keys on the same server stand for
one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from pydantic import ValidationError
from tests.integration.support import LEASE_MS, settings_for

from backtest_kit_mongo.backends.redis.entry import record_header
from backtest_kit_mongo.coherence.codec import pack
from backtest_kit_mongo.coherence.events import Event, Origin
from backtest_kit_mongo.coherence.keys import names
from backtest_kit_mongo.coherence.record import Key, Record
from backtest_kit_mongo.domains.table import CANDLE, STATE, STORAGE
from backtest_kit_mongo.embedded import Endpoints
from backtest_kit_mongo.errors import InvalidSetting
from backtest_kit_worker.deployment import connect
from backtest_kit_worker.roles.invalidation import InvalidationRole, InvalidationSettings

pytestmark = pytest.mark.live

KEY = Key(STATE, ("signal", "bucket"))


@pytest.fixture
def client(servers: Endpoints) -> Iterator[Any]:
    with redis.Redis(port=servers.redis_port) as opened:
        yield opened


@pytest.fixture
def database(new_database: Callable[[], str]) -> str:
    return f"{new_database()}_invalidation"


def event(key: Key, rev: int, operation: Any = "upsert") -> tuple[str, Event]:
    name = "batch" if operation == "batch" else "document"
    return "1-0", Event(key.domain.name, key.parts, name, rev, operation, None, 0, Origin("h", 1), pack({}))


def cached(client: Any, database: str, key: Key, rev: int) -> str:
    """An entry and a right of the current incarnation, as if another host had cached it. Returns the entry's name."""
    found = names(database, 1, key.domain.name, key.parts)
    incarnation = client.info("replication")["master_replid"].encode()
    client.set(found.entry, incarnation + record_header(Record(key, rev, {}, None, False, "id")) + pack({}))
    client.set(found.right, incarnation + b"token")
    return found.entry


def test_an_entry_older_than_the_change_goes_and_one_as_new_stays(client: Any, database: str) -> None:
    role = InvalidationRole([client], database, 1)
    for cached_rev, stays in ((1, False), (2, True), (3, True)):
        name = cached(client, database, KEY, cached_rev)
        role.apply([event(KEY, 1), event(KEY, 2)])
        assert bool(client.exists(name)) is stays
        assert not client.exists(names(database, 1, STATE.name, KEY.parts).right)


def test_a_changed_row_takes_the_stamp_of_its_list_away(client: Any, database: str) -> None:
    scope = Key(STORAGE, (True,))
    name = cached(client, database, scope, 0)
    InvalidationRole([client], database, 1).apply([event(scope.child("row"), 1)])
    assert not client.exists(name)


@pytest.mark.parametrize("operation", ["batch", "conflict"])
def test_candles_have_nothing_to_invalidate(client: Any, database: str, operation: str) -> None:
    series = Key(CANDLE, ("binance", "BTC", "1m"))
    assert InvalidationRole([client], database, 1).apply([event(series, 1, operation)]) == 0


def test_near_caches_that_listen_there_are_informed(client: Any, database: str) -> None:
    with client.pubsub(ignore_subscribe_messages=True) as heard:
        found = names(database, 1, STATE.name, KEY.parts)
        heard.subscribe(found.channel)
        assert heard.get_message(timeout=5) is None  # The subscription itself, which is not shown.
        InvalidationRole([client], database, 1).apply([event(KEY, 5)])
        assert heard.get_message(timeout=5)["data"].decode() == f"1 {found.entry}"


def test_an_unreachable_target_leaves_the_batch_unacknowledged(database: str) -> None:
    nowhere = redis.Redis(port=1, socket_connect_timeout=0.2)
    with pytest.raises(redis.ConnectionError):
        InvalidationRole([nowhere], database, 1).apply([event(KEY, 1)])


def test_it_is_off_unless_other_servers_are_named(
    servers: Endpoints, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment = connect(settings_for(servers, database, lease_ms=LEASE_MS))
    try:
        assert InvalidationRole.build(deployment) is None
        monkeypatch.setenv("CC_INVALIDATION_REDIS", f"redis://:hidden@localhost:{servers.redis_port}, redis://other:1")
        assert InvalidationRole.build(deployment) is not None
        assert "hidden" not in repr(InvalidationSettings())
        monkeypatch.setenv("CC_INVALIDATION_REDIS", "hidden@localhost")
        with pytest.raises(ValidationError, match="expected URLs") as refused:
            InvalidationSettings()
        assert "hidden@localhost" not in str(refused.value)
        # The worker turns this into a message and an exit code; anything else would be a traceback.
        with pytest.raises(InvalidSetting, match=r"CC_INVALIDATION_REDIS: .*expected URLs") as explained:
            InvalidationRole.build(deployment)
        assert "hidden" not in str(explained.value)
    finally:
        deployment.close()
