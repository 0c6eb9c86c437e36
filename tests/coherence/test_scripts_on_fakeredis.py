"""The Lua scripts on fakeredis: quick, and never the only proof (see integration/test_redis_faults.py for the real
server).

fakeredis has no INFO inside scripts, so the incarnation comes from a key that the test sets: the only line that
differs.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import Any

import fakeredis
import pytest

from backtest_kit_mongo.backends.memory import MemoryTruth
from backtest_kit_mongo.backends.redis.cache import RedisCache
from backtest_kit_mongo.backends.redis.link import Script
from backtest_kit_mongo.backends.redis.options import CacheOptions
from backtest_kit_mongo.coherence.events import Origin
from backtest_kit_mongo.coherence.record import Key
from backtest_kit_mongo.domains.checks import make_change
from backtest_kit_mongo.domains.table import STATE, STORAGE
from backtest_kit_mongo.drivers.counts import HIT
from backtest_kit_mongo.drivers.store import Store

KEY = Key(STATE, ("signal", "bucket"))


class FakeLink:
    """A RedisLink over fakeredis."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def run(self, script: Script, keys: Any, args: Any) -> Any:
        return self._client.eval(script.source, len(keys), *keys, *args)

    def run_later(self, script: Script, keys: Any, args: Any, then: Any) -> None:
        then(self.run(script, keys, args))

    def settle(self) -> None:
        return

    def execute(self, *command: Any) -> Any:
        return b"maxmemory:0\r\n" if command[0] == "INFO" else self._client.execute_command(*command)

    def execute_many(self, commands: Any) -> list[Any]:
        return [self.execute(*command) for command in commands]

    def at(self, _: str) -> FakeLink:
        return self

    def drop_idle(self) -> None:
        return

    def close(self) -> None:
        return


def seamed(name: str) -> Script:
    source = Script(name).source
    body = re.compile(r"local function incarnation\(\).*?^end", re.DOTALL | re.MULTILINE)
    seam = "local function incarnation() return redis.call('GET', 'test:incarnation') end"
    replaced, count = body.subn(seam, source)
    assert count == 1
    name_only = replaced.removesuffix(Script(name, prelude="").source)
    return Script(name, prelude=name_only)


@pytest.fixture
def client() -> Iterator[Any]:
    client = fakeredis.FakeRedis()
    client.set("test:incarnation", "a" * 40)
    yield client
    client.close()


@pytest.fixture
def store(client: Any) -> Store:
    options = CacheOptions("db", 1, 1_000, 500, 60_000, 1, True, Origin("host", 1))
    numbers = itertools.count(1)
    link: Any = FakeLink(client)
    cache = RedisCache(link, options, script=seamed, wall_ns=lambda: next(numbers) * 1_000_000)
    client.set("{bk:0}:db:o:", "e" * 16 + "1")
    client.set("{bk:0}:db:b", "a" * 24 + "e" * 16 + "0")  # Seen in 1970, so open.
    return Store("fake", MemoryTruth(), cache)


def hits(store: Store) -> int:
    return store.counts.read_count(HIT)


def test_a_write_is_read_back_in_one_hop_with_its_event(store: Store, client: Any) -> None:
    record = store.write(make_change(KEY, {"data": 1}, 5))
    assert store.read(KEY) == record
    assert hits(store) == 1
    assert client.xlen("{bk:0}:db:s") == 1


def test_an_entry_of_another_incarnation_is_a_miss(store: Store, client: Any) -> None:
    store.write(make_change(KEY, {"data": 1}, 5))
    client.set("test:incarnation", "b" * 40)
    assert store.read(KEY).payload == {"data": 1}
    assert hits(store) == 0


def test_a_list_is_not_read_again_while_its_stamp_stands(store: Store) -> None:
    scope = Key(STORAGE, (True,))
    reads: list[Any] = []
    truth: Any = store.truth
    rows = truth.rows
    handlers: Any = store._handlers
    from backtest_kit_mongo.coherence.lists import Rows

    def counted(effect: Any) -> Any:
        reads.append(effect)
        return rows(effect)

    handlers[Rows] = counted
    for value in (1, 2, 3):
        changes = [
            make_change(scope.child("a"), {"id": "a", "priority": value}),
            make_change(scope.child("b"), {"id": "b"}),
        ]
        assert store.merge(scope, changes) == (2 if value == 1 else 1)
    assert len(reads) == 1
