"""The feed over a cluster, one stream a partition: workers, consumers and the command line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from tests.cluster.conftest import all_hit
from tests.cluster.support import PARTITIONS
from tests.integration.support import eventually, settings_for
from tests.stream.support import acknowledged
from typer.testing import CliRunner

from backtest_kit_mongo.cli.cache import cache
from backtest_kit_mongo.cli.stream import stream
from backtest_kit_mongo.coherence.effects import Upsert
from backtest_kit_mongo.coherence.events import decode
from backtest_kit_mongo.coherence.record import Key
from backtest_kit_mongo.domains.checks import make_change
from backtest_kit_mongo.domains.table import STATE
from backtest_kit_mongo.drivers.store import Store
from backtest_kit_mongo.embedded import Endpoints
from backtest_kit_mongo.feed.consume import consume
from backtest_kit_mongo.feed.trimming import plan_trim, trim
from backtest_kit_mongo.settings import Settings
from backtest_kit_mongo.setup import make_store
from backtest_kit_worker.dead_letters import DeadLetterWriter
from backtest_kit_worker.deployment import Deployment, connect
from backtest_kit_worker.health import Monitor
from backtest_kit_worker.loop import Loop, LoopOptions
from backtest_kit_worker.roles.audit import AuditRole
from backtest_kit_worker.roles.invalidation import InvalidationRole
from backtest_kit_worker.services.recovery import RecoveryOptions, RecoveryService

pytestmark = pytest.mark.live

DOCUMENTS = 24
"""Enough that every partition has some."""


@pytest.fixture(scope="module")
def settings(servers: Endpoints, options: dict[str, Any], new_database: Callable[[], str]) -> Settings:
    return settings_for(servers, f"{new_database()}_feed", **options)


@pytest.fixture(scope="module")
def writer(settings: Settings) -> Iterator[Store]:
    store = make_store(settings)
    yield store
    store.close()


@pytest.fixture(scope="module")
def deployment(settings: Settings) -> Iterator[Deployment]:
    opened = connect(settings, block_ms=50)
    yield opened
    opened.close()


def write(store: Store, value: int) -> None:
    for number in range(DOCUMENTS):
        store.write(make_change(Key(STATE, (f"s{number}", "b")), {"data": value}, value))


def loop(deployment: Deployment, role: Any) -> Loop:
    options = LoopOptions(block_ms=1, retry_ms=1)
    return Loop(deployment.redis, deployment.streams, role, DeadLetterWriter(deployment.database), "one", options)


def recorded(deployment: Deployment) -> int:
    return deployment.database["audit-items"].count_documents({})


def test_the_audit_reads_every_stream_and_a_worker_says_where_it_is(writer: Store, deployment: Deployment) -> None:
    write(writer, 1)
    audit = loop(deployment, AuditRole(deployment.database))
    assert audit.run_until_idle() == DOCUMENTS
    assert recorded(deployment) == DOCUMENTS
    snapshot = Monitor(deployment, [audit]).snapshot()
    assert snapshot.unreachable == ()
    assert (snapshot.entry_count, snapshot.groups["audit"].owed_count) == (DOCUMENTS, 0)


def test_entries_of_a_dead_worker_are_taken_over_in_every_stream(writer: Store, deployment: Deployment) -> None:
    write(writer, 2)
    for name in deployment.streams:
        deployment.redis.xreadgroup("audit", "dead", {name: ">"})
    options = LoopOptions(block_ms=1, retry_ms=1, claim_idle_ms=0)
    database = deployment.database
    heir = Loop(deployment.redis, deployment.streams, AuditRole(database), DeadLetterWriter(database), "heir", options)
    assert heir.run_until_idle() == DOCUMENTS
    assert recorded(deployment) == 2 * DOCUMENTS


def test_recovery_announces_what_the_feed_lost_and_drops_its_old_entries(writer: Store, deployment: Deployment) -> None:
    recovery = RecoveryService(deployment, RecoveryOptions(grace_ms=0, await_ms=1, save_ms=0, look_back_ms=0))
    recovery.open()
    try:
        before = recorded(deployment)
        change = make_change(Key(STATE, ("s1", "b")), {"data": 3}, 3)
        writer.truth.upsert(Upsert(change, None))  # Past Redis.
        audit = loop(deployment, AuditRole(deployment.database))
        for _ in range(2_000):
            recovery.run_once()
            audit.run_until_idle()
            if recorded(deployment) > before:
                break
    finally:
        recovery.close()
    assert writer.read(Key(STATE, ("s1", "b"))).payload == {"data": 3}
    assert recorded(deployment) == before + 1


def test_changes_are_relayed_from_a_cluster_to_a_redis_of_another_host(
    writer: Store, deployment: Deployment, servers: Endpoints, settings: Settings
) -> None:
    with redis.Redis(port=servers.redis_port) as elsewhere:
        role = loop(deployment, InvalidationRole([elsewhere], settings.database, PARTITIONS))
        assert role.run_until_idle() > 0
        assert all(elsewhere.exists(name.removesuffix(":s") + ":n:state") for name in deployment.streams)


def test_the_feed_is_consumed_over_all_streams(writer: Store, settings: Settings) -> None:
    with consume("desk", settings=settings, until_idle=True, start="beginning", timeout_s=10) as feed:
        first = {event.parts for event in acknowledged(feed)}
    assert len(first) == DOCUMENTS
    write(writer, 4)
    with consume("desk", settings=settings, timeout_s=10) as feed:
        found = [next(iter(feed)) for _ in range(DOCUMENTS)]
        feed.ack(*found)
    assert {event.parts for event in found} == first


@pytest.fixture
def environment(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC_MONGO_CONNECTION_STRING", settings.mongo_connection_string.get_secret_value())
    monkeypatch.setenv("CC_REDIS_CLUSTER", ",".join(f"{host}:{port}" for host, port in settings.redis_cluster))
    monkeypatch.setenv("CC_PARTITIONS", str(PARTITIONS))


@pytest.mark.usefixtures("environment")
def test_the_command_line_shows_every_stream(writer: Store) -> None:
    answer = CliRunner().invoke(stream, ["status", "--json"], catch_exceptions=False)
    assert len(json.loads(answer.output)) == PARTITIONS
    assert {group["name"] for each in json.loads(answer.output) for group in each["groups"]} >= {"audit", "feed:desk"}


@pytest.mark.usefixtures("environment")
def test_the_auditor_looks_at_the_entries_of_every_node(writer: Store) -> None:
    eventually(lambda: all_hit([writer], [Key(STATE, (f"s{number}", "b")) for number in range(DOCUMENTS)]))
    answer = CliRunner().invoke(cache, ["check", "--json"], catch_exceptions=False)
    assert answer.exit_code == 0, answer.output
    found = json.loads(answer.stdout)
    assert (found["checked"], found["violations"]) == (DOCUMENTS, 0)


def test_every_stream_is_trimmed_up_to_what_is_audited(deployment: Deployment) -> None:
    loop(deployment, AuditRole(deployment.database)).run_until_idle()
    for name in deployment.streams:
        entries = deployment.redis.xrange(name)
        kept: Any = entries
        assert all(decode(fields).domain == "state" for _, fields in kept)
        for group in deployment.redis.xinfo_groups(name):
            if group["name"] != b"audit":
                deployment.redis.xgroup_destroy(name, group["name"])
        plan = plan_trim(deployment.redis, deployment.database, name, retention_ms=0)
        assert plan is not None
        assert trim(deployment.redis, deployment.database, plan) == len(kept)
