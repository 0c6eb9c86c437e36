"""The promises over a cluster: no stale entry, whatever moves or dies; and what fails is bypassed, and nothing else."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import redis
from tests.cluster.conftest import MakeStore, all_hit, is_hit
from tests.cluster.support import PARTITIONS, Cluster, Node
from tests.integration.support import eventually

from backtest_kit_mongo.backends.mongo.documents import MongoTruth
from backtest_kit_mongo.backends.redis import npm_names
from backtest_kit_mongo.backends.redis.cluster import link_over
from backtest_kit_mongo.backends.redis.counts import CacheCounts
from backtest_kit_mongo.backends.redis.link import RedisLink, Script
from backtest_kit_mongo.backends.redis.partitions import PartitionedCache
from backtest_kit_mongo.coherence.eras import parse_held
from backtest_kit_mongo.coherence.keys import Names, names
from backtest_kit_mongo.coherence.record import Key
from backtest_kit_mongo.domains.checks import make_change
from backtest_kit_mongo.drivers.store import Store
from backtest_kit_mongo.operate.cache_check import Auditor, Report
from backtest_kit_mongo.servers import redis_client
from backtest_kit_mongo.settings import Settings

pytestmark = pytest.mark.live


def write(store: Store, key: Key, value: int) -> None:
    store.write(make_change(key, {"data": value}, value))


def value(store: Store, key: Key) -> int:
    found: int = store.read(key).payload["data"]
    return found


def names_of(settings: Settings, key: Key) -> Names:
    return names(settings.database, settings.partitions, key.domain.name, key.parts)


def audited(settings: Settings, store: Store, keys: list[Key]) -> Report:
    report = Report()
    assert isinstance(store.truth, MongoTruth)
    with redis_client(settings) as client:
        auditor = Auditor(settings, store.truth, link_over(client))
        auditor.check(keys, report)
    return report


def incarnation(client: redis.Redis, settings: Settings, key: Key) -> bytes:
    link, born = link_over(client), names_of(settings, key).born
    (era_key,) = [found.decode() for found in client.scan_iter(match=f"{born[:-1]}o:*")]
    found: bytes = link.run(Script("incarnation"), [era_key], [parse_held(link.execute("GET", era_key)).era])
    return found


class Traffic:
    """Threads that write each key in turn and at once read it through another store, until asked to stop."""

    def __init__(self, pair: tuple[Store, Store], keys: list[Key]) -> None:
        self._pair, self._keys = pair, keys
        self._stop = threading.Event()
        self.rounds = [0, 0]
        self.wrong: list[Any] = []
        self._threads = [threading.Thread(target=self._run, args=(turn,)) for turn in (0, 1)]

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, turn: int) -> None:
        writer, reader = self._pair[turn], self._pair[1 - turn]
        keys = self._keys[turn::2]
        wanted = {key: value(writer, key) for key in keys}
        try:
            while not self._stop.is_set():
                for key in keys:
                    wanted[key] += 1
                    write(writer, key, wanted[key])
                    for _ in range(2):  # The second one may be a hit.
                        if (found := value(reader, key)) != wanted[key]:
                            self.wrong.append((str(key), wanted[key], found))
                self.rounds[turn] += 1
        except Exception as cause:
            self.wrong.append(cause)

    def passes(self, count: int = 3) -> None:
        """Wait until both have come round so many times more."""
        goal = [done + count for done in self.rounds]
        eventually(lambda: self.wrong or all(done >= wanted for done, wanted in zip(self.rounds, goal, strict=True)))


@pytest.fixture
def quiet(pair: tuple[Store, Store], placed_keys: list[Key]) -> tuple[Store, Store]:
    """The pair with every spot cached."""
    eventually(lambda: all_hit(pair, placed_keys))
    return pair


def other(cluster: Cluster, node: Node) -> Node:
    return next(master for master in cluster.masters if master is not node)


def test_partitions_are_spread_over_the_nodes(cluster: Cluster, settings: Settings, placed_keys: list[Key]) -> None:
    assert len({cluster.owner(names_of(settings, key).entry).port for key in placed_keys}) == 3


def test_each_write_is_read_by_another_store_and_no_entry_is_stale(
    quiet: tuple[Store, Store], settings: Settings, placed_keys: list[Key]
) -> None:
    with Traffic(quiet, placed_keys) as traffic:
        traffic.passes(5)
    assert traffic.wrong == []
    assert all(is_hit(quiet[0], key) for key in placed_keys)
    report = audited(settings, quiet[0], placed_keys)
    assert (report.checked, report.violations) == (PARTITIONS, [])


def test_a_slot_moves_in_mid_traffic_and_comes_back(
    quiet: tuple[Store, Store], cluster: Cluster, settings: Settings, placed_keys: list[Key]
) -> None:
    handle = names_of(settings, placed_keys[3]).entry
    home = cluster.owner(handle)
    with Traffic(quiet, placed_keys) as traffic:
        for target in (other(cluster, home), home):
            traffic.passes()
            cluster.move(handle, target)
        traffic.passes()
    assert traffic.wrong == []
    eventually(lambda: all_hit(quiet, placed_keys))
    assert audited(settings, quiet[0], placed_keys).violations == []


def test_an_entry_that_comes_back_with_its_slot_is_not_trusted(
    quiet: tuple[Store, Store], cluster: Cluster, settings: Settings, client: redis.Redis, placed_keys: list[Key]
) -> None:
    """The node in between may have lost the write that deleted it, while the node that made it never did."""
    key, entry = placed_keys[0], names_of(settings, placed_keys[0]).entry
    home, before = cluster.owner(entry), incarnation(client, settings, key)
    assert is_hit(quiet[0], key)
    kept = home.client.get(entry)
    away = other(cluster, home)
    cluster.move(entry, away)
    wanted = value(quiet[0], key) + 1
    write(quiet[0], key, wanted)
    away.client.set(entry, kept)
    cluster.move(entry, home)
    assert [value(store, key) for store in quiet] == [wanted, wanted]
    assert home.client.info("replication")["master_replid"].encode() not in (before, kept[:40])
    assert incarnation(client, settings, key) != before


def test_while_a_slot_is_on_its_way_its_partition_alone_goes_without_cache(
    stores: MakeStore, quiet: tuple[Store, Store], cluster: Cluster, settings: Settings, placed_keys: list[Key]
) -> None:
    store = stores(redis_timeout_ms=60)
    moving, staying = placed_keys[1], placed_keys[2]
    entry = names_of(settings, moving).entry
    source = cluster.owner(entry)
    target = other(cluster, source)
    slot = source.client.cluster("keyslot", entry)
    target.ask("SETSLOT", slot, "IMPORTING", source.id)
    source.ask("SETSLOT", slot, "MIGRATING", target.id)
    try:
        wanted = value(store, moving) + 1
        write(store, moving, wanted)
        assert value(store, moving) == wanted
        assert not is_hit(store, moving)
        assert is_hit(store, staying)
    finally:
        for node in (source, target):
            node.ask("SETSLOT", slot, "STABLE")
    eventually(lambda: is_hit(store, moving))
    assert value(quiet[1], moving) == wanted


def test_whoever_takes_a_node_for_a_redis_of_its_own_is_warned(
    cluster: Cluster, settings: Settings, placed_keys: list[Key]
) -> None:
    name = names_of(settings, placed_keys[0]).entry
    with redis.Redis(port=other(cluster, cluster.owner(name)).port) as client:
        link = RedisLink(client)
        with pytest.raises(redis.ResponseError, match="name it in CC_REDIS_CLUSTER"):
            link.execute("GET", name)
        link.close()


def test_ids_for_the_npm_package_are_written_wherever_their_slots_are(
    stores: MakeStore, client: redis.Redis, settings: Settings, placed_keys: list[Key]
) -> None:
    store = stores(cache_mode="id")
    plain: Any = client
    before = {key: plain.xlen(names_of(settings, key).stream) for key in placed_keys}
    for key in placed_keys:
        write(store, key, 1)
    assert all(plain.get(npm_names.name(key)).decode() == store.read(key).id for key in placed_keys)
    assert {key: plain.xlen(names_of(settings, key).stream) for key in placed_keys} == {
        key: n + 1 for key, n in before.items()
    }
    write(stores(), placed_keys[0], 2)  # Started last, so mode `document` is in force again.


def test_a_dead_master_costs_its_own_partitions_the_cache_until_its_replica_takes_over(
    quiet: tuple[Store, Store], cluster: Cluster, settings: Settings, client: redis.Redis, placed_keys: list[Key]
) -> None:
    """Last in this file: the cluster is one node poorer afterwards."""
    dead = cluster.masters[0]
    lost = [key for key in placed_keys if cluster.owner(names_of(settings, key).entry) is dead]
    others = [key for key in placed_keys if key not in lost]
    assert lost
    before = {key: incarnation(client, settings, key) for key in placed_keys}
    dead.kill()
    cluster.masters[0] = cluster.replica
    for store in quiet:
        for key in placed_keys:
            wanted = value(store, key) + 1
            write(store, key, wanted)
            assert [value(reader, key) for reader in quiet] == [wanted, wanted]
    assert all(is_hit(quiet[0], key) for key in others)
    with Traffic(quiet, placed_keys) as traffic:
        eventually(lambda: cluster.replica.client.info("replication")["role"] == "master")
        traffic.passes()
    assert traffic.wrong == []
    eventually(lambda: all_hit(quiet, placed_keys))
    with redis_client(settings) as fresh:
        assert {key for key in placed_keys if incarnation(fresh, settings, key) != before[key]} == set(lost)
    assert audited(settings, quiet[0], placed_keys).violations == []
    assert store_counts(quiet[0]).incarnation_changes > 0


def store_counts(store: Store) -> CacheCounts:
    assert isinstance(store.cache, PartitionedCache)
    return store.cache.counts
