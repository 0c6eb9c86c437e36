"""Redis with two replicas and three Sentinels: the primary is replaced and killed in mid-traffic. Nothing stale is
read, writes go on, and the cache comes back by itself.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from backtest_kit_mongo.coherence.events import decode
from backtest_kit_mongo.coherence.keys import streams
from backtest_kit_mongo.domains.checks import make_change, make_key
from backtest_kit_mongo.domains.table import STATE
from backtest_kit_mongo.drivers.counts import HIT, PASSED_BY
from backtest_kit_mongo.drivers.store import Store
from backtest_kit_mongo.embedded import Endpoints
from tests.ha.support import HOST, Process, answer_of, client_of, free_port
from tests.integration.support import eventually, store_for

pytestmark = pytest.mark.live

LEASE_MS = 700
SERVICE = "feed"
DOWN_AFTER_MS = 500
SENTINEL_PASSWORD = "of the sentinels"
KEY = make_key(STATE, ("signal", "bucket"))


class Cluster:
    """A primary, two replicas and three Sentinels, two of which must agree. Alone, a primary refuses everything."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self._directory = directory
        ports = [free_port() for _ in range(3)]
        self.servers = {port: self._server(port, ports[0]) for port in ports}
        self.sentinel_ports = [free_port() for _ in range(3)]
        eventually(lambda: self._info(ports[0]).get("min_slaves_good_slaves") == 2)
        for number, port in enumerate(self.sentinel_ports):
            stack.callback(self._sentinel(number, port, ports).kill)
        for server in self.servers.values():
            stack.callback(server.kill)
        eventually(self._can_fail_over)

    def _server(self, port: int, primary: int) -> Process:
        role = [] if port == primary else ["--replicaof", HOST, str(primary)]
        options = ["--save", "", "--dir", str(self._directory), "--repl-diskless-sync", "yes", *role]
        # The first replica's copy need not wait for others that may ask for one, too.
        options += ["--repl-diskless-sync-delay", "0", "--min-replicas-to-write", "1"]
        return Process(port, ["--port", str(port), "--bind", HOST, *options], self._directory)

    def _sentinel(self, number: int, port: int, servers: Sequence[int]) -> Process:
        """They are introduced to each other, because it takes seconds until they have heard of each other."""
        primary, *replicas = servers
        others = (f"{HOST} {other} {_name(n)}" for n, other in enumerate(self.sentinel_ports) if n != number)
        lines = [
            f"port {port}",
            f"bind {HOST}",
            f"dir {self._directory}",
            f'requirepass "{SENTINEL_PASSWORD}"',
            f"sentinel myid {_name(number)}",
            f"sentinel monitor {SERVICE} {HOST} {primary} 2",
            f"sentinel down-after-milliseconds {SERVICE} {DOWN_AFTER_MS}",
            f"sentinel failover-timeout {SERVICE} 1000",
            *(f"sentinel known-replica {SERVICE} {HOST} {replica}" for replica in replicas),
            *(f"sentinel known-sentinel {SERVICE} {other}" for other in others),
        ]
        file = self._directory / f"sentinel-{number}.conf"
        file.write_text("\n".join(lines) + "\n")
        return Process(port, [str(file), "--sentinel"], self._directory, password=SENTINEL_PASSWORD)

    def _can_fail_over(self) -> bool:
        """Every Sentinel sees the others, and two replicas that follow."""
        return all(answer_of(partial(self._is_ready, port)) for port in self.sentinel_ports)

    def _is_ready(self, port: int) -> bool:
        sentinel = self._asked(port)
        following = [
            one["flags"] == "slave" and one["master-link-status"] == "ok" for one in sentinel.sentinel_slaves(SERVICE)
        ]
        return sentinel.sentinel_masters()[SERVICE]["num-other-sentinels"] == 2 and following == [True, True]

    def _asked(self, port: int) -> Any:
        return client_of(port, password=SENTINEL_PASSWORD)

    def _info(self, port: int) -> Any:
        return self.servers[port].client().info("replication")

    def named(self) -> int:
        """Port of whom the first Sentinel names."""
        return int(self._asked(self.sentinel_ports[0]).sentinel_masters()[SERVICE]["port"])

    def fail_over(self) -> None:
        """The primary stays up. It becomes a replica, but only seconds after another was promoted."""
        self._asked(self.sentinel_ports[0]).execute_command("SENTINEL FAILOVER", SERVICE)

    def kill_primary(self) -> None:
        self.servers[self.named()].kill()

    @property
    def setting(self) -> str:
        return ",".join(f"{HOST}:{port}" for port in self.sentinel_ports)


def _name(number: int) -> str:
    return f"{number:040x}"


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with ExitStack() as stack:
        yield Cluster(tmp_path, stack)


@pytest.fixture
def database(new_database: Callable[[], str]) -> str:
    return f"{new_database()}_ha"


@pytest.fixture
def new_store(servers: Endpoints, database: str, cluster: Cluster) -> Iterator[Callable[[], Store]]:
    """Stores of one database, as different processes would have them."""
    options = {
        "redis_port": 1,  # Nobody is there: only the Sentinels know.
        "redis_sentinel": cluster.setting,
        "redis_sentinel_service": SERVICE,
        "redis_sentinel_password": SENTINEL_PASSWORD,
        "redis_retry_ms": 20,
        "lease_ms": LEASE_MS,
        "mongo_timeout_ms": LEASE_MS - 100,
    }
    with ExitStack() as stack:
        yield lambda: stack.enter_context(store_for(servers, database, **options))


class Traffic:
    """A writer that counts up and a reader in another process's place, until the block ends.

    Attributes:
        acknowledged: the last value whose write returned.
        stale: reads that gave less than what was acknowledged before they began.
        bypassed_s: when the reader last went past the cache.
    """

    def __init__(self, writer: Store, reader: Store) -> None:
        self._writer, self._reader = writer, reader
        self.acknowledged = self.read_count = 0
        self.stale: list[tuple[int, int]] = []
        self.failures: list[BaseException] = []
        self.bypassed_s = 0.0
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(step,)) for step in (self._write, self._read)]

    def __enter__(self) -> Traffic:
        self._write()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(20)

    def _run(self, step: Callable[[], None]) -> None:
        try:
            while not self._stop.wait(0.005):
                step()
        except BaseException as cause:
            self.failures.append(cause)

    def _write(self) -> None:
        value = self.acknowledged + 1
        self._writer.write(make_change(KEY, {"data": value}, value))
        self.acknowledged = value

    def _read(self) -> None:
        floor, bypassed = self.acknowledged, self._reader.counts.read_count(PASSED_BY)
        payload = self._reader.read(KEY).payload
        value = payload["data"] if payload is not None else 0
        if value < floor:
            self.stale.append((value, floor))
        if self._reader.counts.read_count(PASSED_BY) > bypassed:
            self.bypassed_s = time.monotonic()
        self.read_count += 1

    def await_hits(self, count: int = 20) -> None:
        """Until so many more reads were served by the cache, and so many writes were acknowledged."""
        hits, written = self._hits, self.acknowledged

        def served() -> bool:
            assert not self.failures
            return self._hits >= hits + count and self.acknowledged >= written + count

        eventually(served, within_s=30)

    @property
    def _hits(self) -> int:
        return self._reader.counts.read_count(HIT)


def through(
    stores: tuple[Store, Store], cluster: Cluster, name: str, disturb: Callable[[], None]
) -> tuple[Traffic, int]:
    """Traffic before, during and after; prints how long the cache was away. Also returns what was acknowledged
    before.
    """
    before = cluster.named()
    with Traffic(*stores) as traffic:
        traffic.await_hits()
        acknowledged, began_s = traffic.acknowledged, time.monotonic()
        disturb()
        eventually(lambda: cluster.named() != before, within_s=20)
        named_s = time.monotonic() - began_s
        eventually(lambda: all(address_of(store) == (HOST, cluster.named()) for store in stores))
        traffic.await_hits()
        hits_s = time.monotonic() - began_s
    bypassed_s = max(0.0, traffic.bypassed_s - began_s)
    sys.stdout.write(
        f"\n{name}: named after {named_s:.1f} s, past the cache for {bypassed_s:.1f} s, cached again after "
        f"{hits_s:.1f} s (lease time {LEASE_MS} ms), {traffic.acknowledged} writes, {traffic.read_count} reads\n"
    )
    assert (traffic.stale, traffic.failures) == ([], [])
    return traffic, acknowledged


def address_of(store: Store) -> Any:
    cache: Any = store.cache
    return cache._link._address


def test_a_primary_that_was_replaced_but_lives_serves_nobody_from_then_on(
    new_store: Callable[[], Store], cluster: Cluster
) -> None:
    traffic, _ = through((new_store(), new_store()), cluster, "replaced", cluster.fail_over)
    assert new_store().read(KEY).rev == traffic.acknowledged


def test_writes_go_on_while_the_primary_is_killed_and_their_events_come_when_there_is_one(
    new_store: Callable[[], Store], cluster: Cluster, database: str
) -> None:
    traffic, acknowledged = through((new_store(), new_store()), cluster, "killed", cluster.kill_primary)
    assert new_store().read(KEY).rev == traffic.acknowledged
    with cluster.servers[cluster.named()].client() as client:
        (stream,) = streams(database, 1)
        revs = {decode(fields).rev for _, fields in client.xrange(stream)}
    # Of the moment before the kill some may not have reached the replica: those are the recovery worker's.
    assert set(range(acknowledged + 2, traffic.acknowledged + 1)) <= revs


def test_a_primary_that_has_lost_its_replicas_serves_no_entry_while_writers_go_past_it(
    servers: Endpoints, database: str, tmp_path: Path
) -> None:
    port = free_port()
    alone = Process(port, ["--port", str(port), "--bind", HOST, "--save", "", "--dir", str(tmp_path)], tmp_path)
    with ExitStack() as stack:
        stack.callback(alone.kill)
        writer, reader = (
            stack.enter_context(store_for(servers, database, redis_port=port, lease_ms=LEASE_MS)) for _ in range(2)
        )
        writer.write(make_change(KEY, {"data": 1}, 1))

        def served() -> bool:
            hits = reader.counts.read_count(HIT)
            reader.read(KEY)
            return reader.counts.read_count(HIT) > hits

        eventually(served)
        alone.client().config_set("min-replicas-to-write", 1)
        writer.write(make_change(KEY, {"data": 2}, 2))
        assert reader.read(KEY).payload == {"data": 2}
        alone.client().config_set("min-replicas-to-write", 0)
        writer.read(KEY)  # It comes back, and delivers what it wrote meanwhile.
        eventually(served)
        assert reader.read(KEY).payload == {"data": 2}
