"""HEARTBEAT on a real Redis: what one near cache is informed about what it may have missed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from tests.integration.support import eventually

from backtest_kit_mongo.backends.redis.link import RedisLink, Script
from backtest_kit_mongo.coherence.keys import Channels, channels, era_name, new_name
from backtest_kit_mongo.domains.table import STATE
from backtest_kit_mongo.embedded import Endpoints

pytestmark = pytest.mark.live


@pytest.fixture
def client(servers: Endpoints) -> Iterator[redis.Redis]:
    with redis.Redis(port=servers.redis_port) as client:
        yield client


@pytest.fixture
def names(new_database: Callable[[], str]) -> Channels:
    return channels(new_database(), 1, [STATE.name], "listener")[0]


@pytest.fixture
def heartbeat(client: redis.Redis, names: Channels) -> Iterator[Callable[..., list[str]]]:
    """Ask for a heartbeat and hear its answer: the question, the identity, the numbers. Where no token lives: what to
    ask again with.
    """
    with client.pubsub(ignore_subscribe_messages=True) as subscription:  # type: ignore[no-untyped-call]
        subscription.subscribe(names.heartbeats)
        subscription.get_message(timeout=5)

        era, era_key = "e" * 16, names.born + ":era"
        client.set(era_key, era)

        def ask(serve_ms: int = 0, asked: bytes = b"") -> list[Any]:
            keys = [names.born, era_key, names.born + ":token", *names.numbers]
            arguments: list[str | bytes | int] = [era, names.heartbeats, "question", serve_ms, asked]
            unserved = RedisLink(client).run(Script("heartbeat"), keys, arguments)
            if unserved is not None:
                assert subscription.get_message() is None
                return list(unserved)
            said: str = subscription.get_message(timeout=5)["data"].decode()
            return said.split(" ")

        yield ask


def test_an_answer_carries_the_question_and_the_numbers(
    client: redis.Redis, names: Channels, heartbeat: Callable[[], list[str]]
) -> None:
    question, identity, number = heartbeat()
    assert (question, number) == ("question", "0")
    client.incr(names.numbers[0])
    assert heartbeat() == [question, identity, "1"]


@pytest.mark.parametrize(("is_said_of_it", "is_used"), [(True, False), (True, True), (False, False)])
def test_a_memory_is_open_at_once_where_it_began_empty_and_nobody_has_used_it(
    client: redis.Redis, names: Channels, *, is_said_of_it: bool, is_used: bool
) -> None:
    era, own = "e" * 16, client.info("replication")["master_replid"]
    client.set(new_name(names.born), own if is_said_of_it else own[::-1])
    if is_used:
        client.set(names.born, "seen")
    claimed = [era_name(names.born, "d"), f"{names.born}:stream", names.born, new_name(names.born)]
    client.eval(Script("claim").source, len(claimed), *claimed, "", era, 1)
    expected = b"seen" if is_used else f"{own[:24]}{era}0".encode() if is_said_of_it else None
    assert client.get(names.born) == expected
    assert not client.exists(new_name(names.born))


def test_nothing_is_confirmed_where_no_token_lives_until_somebody_has_looked_for_flags(
    client: redis.Redis, names: Channels, heartbeat: Callable[..., list[Any]]
) -> None:
    (asked,) = heartbeat(600_000)
    assert heartbeat(600_000) != heartbeat(600_000, asked)
    assert heartbeat(600_000)[0] == "question", "now there is a token"
    client.delete(names.born + ":token")
    assert len(heartbeat(1, asked)) == 1, "it was too long ago"


def test_what_a_flush_takes_changes_the_identity_although_the_numbers_are_the_same(
    client: redis.Redis, names: Channels, heartbeat: Callable[[], list[str]]
) -> None:
    before = heartbeat()

    def differs() -> bool:
        # As often as two of these fall into one millisecond.
        client.delete(names.born, *names.numbers)
        return heartbeat()[1] != before[1]

    eventually(differs)
    assert heartbeat()[2] == before[2]
