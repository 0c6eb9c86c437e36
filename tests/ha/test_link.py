"""What the link and the Sentinel client do with connections when the primary changes, without servers."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import redis

from backtest_kit_mongo.backends.redis.link import RedisLink
from backtest_kit_mongo.backends.redis.sentinel import client_of_primary


class Connection:
    """Answers what the test says, and remembers whether it is open."""

    def __init__(self, world: World) -> None:
        self.host, self.port = world.primary, 6379
        self.is_open = False
        self._world = world
        world.made.append(self)

    def connect(self) -> None:
        self.is_open = True

    def disconnect(self) -> None:
        self.is_open = False

    def send_packed_command(self, commands: Any) -> None:
        self._world.on_send()

    def read_response(self) -> Any:
        if isinstance(self._world.answer, Exception):
            raise self._world.answer
        return self._world.answer


class World:
    """The servers, as far as connections see them."""

    def __init__(self) -> None:
        self.primary = "one"
        self.answer: Any = b"OK"
        self.made: list[Connection] = []
        self.on_send: Any = lambda: None
        self.connection_kwargs = {"world": self}
        self.connection_class = Connection
        self.connection_pool = self

    @property
    def open_at(self) -> list[str]:
        return [each.host for each in self.made if each.is_open]


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def link(world: World) -> RedisLink:
    client: Any = world
    return RedisLink(client)


REFUSALS = (
    "BKREPLICA this server is a replica; its entries may be old",
    "Error running script (call to f_12): @user_script:9: BKREPLICA this server is a replica",
    "BKALONE this server has lost its replicas; another may be the primary",
    "READONLY You can't write against a read only replica.",
    "Error running script (call to f_12): @user_script:9: -NOREPLICAS Not enough good replicas to write.",
    "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
)


@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_server_that_is_no_primary_loses_every_connection(link: RedisLink, world: World, refusal: str) -> None:
    # Two connections, because the second command is sent while the first waits for its answer.
    world.on_send = lambda: len(world.made) < 2 and link.execute("PING")
    link.execute("PING")
    assert world.open_at == ["one", "one"]
    world.answer = redis.ResponseError(refusal)
    with pytest.raises(redis.ConnectionError, match="primary"):
        link.execute("PING")
    assert world.open_at == []


def test_any_other_refusal_is_raised_as_it_is_and_costs_no_connection(link: RedisLink, world: World) -> None:
    world.answer = redis.ResponseError("WRONGTYPE Operation against a key")
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        link.execute("GET", "k")
    world.answer = b"OK"
    assert link.execute("PING") == b"OK"
    assert len(world.made) == 1


def test_a_connection_that_is_led_elsewhere_closes_those_to_the_former_primary(link: RedisLink, world: World) -> None:
    """Else a process could read at a primary that is cut off what it knows from the new one to be old."""
    link.execute("PING")

    def fail_over() -> None:
        world.primary, world.on_send = "two", lambda: None
        link.execute("PING")  # The idle connection is in use, so this makes a new one.

    world.on_send = fail_over
    link.execute("PING")
    assert world.open_at == ["two"]


class _Sentinel:
    """Knows nothing, or the primary; a barrier makes all threads ask at once."""

    def __init__(self, name: str, barrier: threading.Barrier, *, knows: bool) -> None:
        self.name, self._barrier, self._knows = name, barrier, knows

    def sentinel_masters(self) -> Any:
        self._barrier.wait(5)
        if not self._knows:
            raise redis.ConnectionError("gone")
        state = {"is_master": True, "is_sdown": False, "is_odown": False, "num-other-sentinels": 2}
        return {"mymaster": {**state, "ip": "10.0.0.1", "port": 6379}}


def test_no_sentinel_is_lost_when_threads_ask_at_once() -> None:
    client = client_of_primary([("a", 1)], "mymaster", {}, {})
    pool: Any = client.connection_pool
    manager = pool.sentinel_manager
    barrier = threading.Barrier(2)
    wanted = [_Sentinel(name, barrier, knows=name == "c") for name in "abc"]
    for _ in range(20):
        manager.sentinels = list(wanted)
        threads = [threading.Thread(target=pool.get_master_address) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert sorted(each.name for each in manager.sentinels) == ["a", "b", "c"]
        assert manager.sentinels[0].name == "c"
