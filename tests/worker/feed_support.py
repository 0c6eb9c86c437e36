"""What the tests of the loop and of the feed's upkeep share: events, a role that does as it is set to, a Redis to
break.
"""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from tests.integration.support import eventually

from backtest_kit_mongo.coherence.codec import pack
from backtest_kit_mongo.coherence.events import Event, Origin
from backtest_kit_mongo.embedded.binaries import find_redis_server
from backtest_kit_worker.roles import Role

Plan = Callable[[Sequence[Event]], None]


def event(number: int, rev: int = 1) -> Event:
    """The change of document `d<number>`."""
    return Event(
        "state",
        ("signal", f"b{number}"),
        f"d{number}",
        rev,
        "upsert",
        1,
        1_700_000_000_000,
        Origin("h", 1),
        pack(number),
    )


def publish(client: Any, stream: str, *events: Event, at: str = "*") -> list[str]:
    """Append events as COMMIT does; returns their ids."""
    return [client.xadd(stream, {"e": each.header(), "p": each.body}, id=at).decode() for each in events]


def at_age(client: Any, age_ms: int) -> str:
    """The id of an entry that was added so long ago by Redis' clock; needs a stream without younger ones."""
    seconds, microseconds = client.time()
    return f"{seconds * 1000 + microseconds // 1000 - age_ms}-0"


def pending_ids(client: Any, stream: str, group: str) -> dict[str, int]:
    """Entries that are pending, and how often each was delivered."""
    found = client.xpending_range(stream, group, "-", "+", 10_000)
    return {each["message_id"].decode(): each["times_delivered"] for each in found}


class Recorder(Role):
    """A role that remembers what it applied, once an event, and fails as the test's plan says."""

    name = "recorder"

    def __init__(self, plan: Plan | None = None) -> None:
        self.plan = plan
        self.seen: dict[str, int] = {}
        self.calls: list[int] = []

    def apply(self, events: Sequence[tuple[str, Event]]) -> int:
        self.calls.append(len(events))
        if self.plan is not None:
            self.plan([each for _, each in events])
        new_count = 0
        for _, each in events:
            new_count += each.id not in self.seen
            self.seen[each.id] = self.seen.get(each.id, 0) + 1
        return new_count

    @property
    def documents(self) -> list[str]:
        return sorted({name.split("/")[1] for name in self.seen})


def fails_on(document: str, error: BaseException) -> Plan:
    """A plan: every batch with this document fails."""

    def plan(events: Sequence[Event]) -> None:
        if any(each.document == document for each in events):
            raise error

    return plan


def always(error: BaseException) -> Plan:
    """A plan: everything fails."""

    def plan(_: Sequence[Event]) -> None:
        raise error

    return plan


class OwnRedis:
    """A redis-server with an append-only file in `directory`."""

    def __init__(self, directory: Path, *more: str) -> None:
        self.directory = directory
        self.port = _free_port()
        self.start(*more)

    def start(self, *more: str) -> None:
        command = [
            str(find_redis_server()),
            "--port",
            str(self.port),
            "--bind",
            "127.0.0.1",
            "--dir",
            str(self.directory),
        ]
        command += ["--appendonly", "yes", "--appendfsync", "always", "--save", "", *more]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        eventually(self._answers)

    def _answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.RedisError:
            return False

    def client(self) -> Any:
        return redis.Redis(port=self.port, socket_timeout=2, retry=Retry(NoBackoff(), 0))

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


def _free_port() -> int:
    """A port that a cluster node can use too: its second one is 10,000 higher."""
    while True:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port: int = free.getsockname()[1]
        if port < 55_000:
            return port
