"""Each thing that may be wrong with a deployment, provoked on real servers and found."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import typer
from bson.timestamp import Timestamp
from pymongo.collection import Collection
from pymongo.errors import ExecutionTimeout, OperationFailure
from tests.doctor.conftest import Open
from tests.integration.support import eventually, store_for
from tests.worker.feed_support import at_age, event, publish
from typer.testing import CliRunner, Result

from backtest_kit_mongo import stored
from backtest_kit_mongo.cli.doctor import doctor
from backtest_kit_mongo.coherence.effects import Lease
from backtest_kit_mongo.coherence.record import Key
from backtest_kit_mongo.domains.checks import make_change
from backtest_kit_mongo.domains.table import DOMAINS, LOG, STATE
from backtest_kit_mongo.drivers.store import Store
from backtest_kit_mongo.embedded import Endpoints
from backtest_kit_mongo.exits import ExitCode
from backtest_kit_mongo.feed.opened import FeedServers
from backtest_kit_mongo.operate.doctor import (
    Finding,
    Level,
    agreement,
    examination,
    examine,
    feed_state,
    hops,
    indexes,
    mongo,
    oplog,
    redis_server,
    rights,
)
from backtest_kit_mongo.operate.doctor.examination import Area
from backtest_kit_mongo.stored import WORKER_LEASES as LEASES
from backtest_kit_worker.dead_letters import DeadLetterWriter
from backtest_kit_worker.leadership import Leadership
from backtest_kit_worker.loop import Loop, LoopOptions
from backtest_kit_worker.recovery import state as recovery_state
from backtest_kit_worker.roles.audit import AuditRole

pytestmark = pytest.mark.live


def found(area: Area, servers: FeedServers) -> dict[str, Finding]:
    return {finding.name: finding for finding in area(servers)}


def levels(findings: dict[str, Finding]) -> dict[str, str]:
    return {name: finding.level.value for name, finding in findings.items()}


def write(store: Store, *signals: str) -> None:
    for number, signal in enumerate(signals):
        store.write(make_change(Key(STATE, (signal, "b")), {"data": number}, number))


@contextmanager
def configured(client: Any, **values: str) -> Iterator[None]:
    """Redis with other values in its configuration."""
    names = [name.replace("_", "-") for name in values]
    before = {name: client.config_get(name)[name] for name in names}
    try:
        for name, value in zip(names, values.values(), strict=True):
            client.config_set(name, value)
        yield
    finally:
        for name, value in before.items():
            client.config_set(name, value)


def is_cached(store: Store, key: Key) -> bool:
    cache: Any = store.cache
    return bool(cache._link.execute("EXISTS", cache._names(key).entry))


def contents(servers: FeedServers) -> tuple[list[str], list[bytes]]:
    """Collections, and the database's keys in Redis."""
    pattern = f"*:{servers.settings.database}:*"
    return sorted(servers.database.list_collection_names()), sorted(servers.redis.scan_iter(match=pattern, count=1_000))


class TestAWholeDeployment:
    @pytest.fixture
    def healthy(self, servers: Endpoints, database: str, opened: Open) -> FeedServers:
        """Written to, audited, recovered and led."""
        looked = opened()
        with store_for(servers, database) as store:
            key = Key(STATE, ("s", "b"))
            write(store, "s")
            # Redis is not trusted with entries before its first lease time is over.
            eventually(lambda: store.read(key).exists and is_cached(store, key))
        Loop(
            looked.redis,
            looked.streams,
            AuditRole(looked.database),
            DeadLetterWriter(looked.database),
            "one",
            LoopOptions(block_ms=1),
        ).run_until_idle()
        state = recovery_state.RecoveryState(looked.database)
        state.open()
        state.move(Timestamp(1, 1))
        Leadership(looked.database, "one", ["recovery", "trim"], 60_000).attempt_all()
        return looked

    def test_a_healthy_one_has_neither_errors_nor_warnings_and_is_left_as_it_was(self, healthy: FeedServers) -> None:
        before = contents(healthy)
        findings = list(examine(healthy, write=True))
        assert [finding for finding in findings if finding.level in (Level.WARNING, Level.ERROR)] == []
        assert contents(healthy) == before
        seen = {finding.name: finding.seen for finding in findings}
        for hop in ("mongo-ping", "redis-ping", "warm-read", "durable-write"):
            assert "p99" in seen[f"latency.{hop}"]
        assert seen["mongo.indexes"].startswith(f"{len(DOMAINS)} of {len(DOMAINS)}")
        assert "recovery: one" in seen["workers.services"]

    def test_names_that_the_worker_made_are_those_that_are_looked_at(self) -> None:
        assert (LEASES, stored.RECOVERY_STATE) == (stored.WORKER_LEASES, stored.RECOVERY_STATE)


class TestReaching:
    def test_a_server_that_does_not_answer_is_one_error_and_the_other_is_looked_at(self, opened: Open) -> None:
        named = {finding.name: finding for finding in examine(opened(redis_port=1), write=False)}
        assert [name for name in named if named[name].level is Level.ERROR] == ["redis.reachable"]
        assert "CC_REDIS_PORT" in named["redis.reachable"].advice
        assert named["mongo.reachable"].level is Level.OK
        away = opened(mongo_connection_string="mongodb://127.0.0.1:1/x", mongo_timeout_ms=50)
        named = {finding.name: finding for finding in examine(away, write=False)}
        assert [name for name in named if named[name].level is Level.ERROR] == ["mongo.reachable"]
        assert named["redis.reachable"].level is Level.OK

    def test_an_area_that_may_not_be_asked_is_a_note_and_one_that_fails_an_error(
        self, opened: Open, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def forbidden(_: FeedServers) -> Iterator[Finding]:
            raise OperationFailure("not authorized on admin", 13)

        def broken(_: FeedServers) -> Iterator[Finding]:
            raise OperationFailure("disk full", 14_031)

        monkeypatch.setattr(examination, "MONGO", (forbidden, broken))
        monkeypatch.setattr(examination, "REDIS", ())
        named = {finding.name: finding for finding in examine(opened(), write=False)}
        assert named["test-doctor.forbidden"].level is Level.NOTE
        assert named["test-doctor.broken"].level is Level.ERROR


class TestMongo:
    @pytest.mark.parametrize("option", ["w=1", "w=majority&journal=false"])
    def test_a_weak_write_concern_is_an_error(
        self, servers: Endpoints, database: str, opened: Open, option: str
    ) -> None:
        weak = f"{servers.mongo_connection_string(database)}&{option}"
        assert levels(found(mongo.write_concern, opened(mongo_connection_string=weak))) == {
            "mongo.write-concern": "error"
        }

    def test_an_index_of_an_older_release_is_named_with_the_command_that_drops_it(self, opened: Open) -> None:
        looked = opened()
        looked.database["candle-items"].create_index([("symbol", 1), ("interval", 1), ("timestamp", 1)], unique=True)
        finding = found(indexes.indexes, looked)["mongo.legacy-index"]
        assert finding.level is Level.ERROR
        assert 'dropIndex("symbol_1_interval_1_timestamp_1")' in finding.seen

    def test_keys_with_two_documents_are_found_where_no_unique_index_rules_them_out(self, opened: Open) -> None:
        looked = opened()
        looked.database["state-items"].insert_many([{"signalId": "s", "bucketName": "b"} for _ in range(2)])
        findings = list(indexes.indexes(looked))
        duplicates = next(finding for finding in findings if finding.name == "mongo.duplicates")
        assert (duplicates.level, duplicates.seen.endswith("s/b")) == (Level.ERROR, True)
        assert any(finding.level is Level.WARNING and "state-items lacks" in finding.seen for finding in findings)

    def test_a_search_for_such_keys_that_takes_too_long_is_a_warning(
        self, opened: Open, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def late(*_: Any, **__: Any) -> None:
            raise ExecutionTimeout("operation exceeded time limit", 50)

        looked = opened()
        looked.database["state-items"].insert_one({"_id": 1})
        monkeypatch.setattr(Collection, "aggregate", late)
        assert levels(found(indexes.indexes, looked))["mongo.duplicates"] == "warning"

    def test_recovery_that_never_ran_on_a_used_database_is_a_warning(self, opened: Open) -> None:
        looked = opened()
        looked.database["state-items"].insert_one({"_id": 1})
        assert levels(found(oplog.recovery, looked))["recovery.place"] == "warning"

    def test_a_place_older_than_the_log_is_an_error(self, opened: Open) -> None:
        looked = opened()
        long_ago = datetime.now(UTC) - timedelta(days=400)
        looked.database[stored.RECOVERY_STATE].insert_one({"_id": "token", "savedAt": long_ago})
        assert levels(found(oplog.recovery, looked))["recovery.place"] == "error"

    def test_a_failed_write_is_an_error_and_leaves_no_collection(self, servers: Endpoints, opened: Open) -> None:
        # A database name that is too long to write to.
        looked = opened()
        long = opened(mongo_connection_string=servers.mongo_connection_string("x" * 63))
        findings = found(hops.durable_write, FeedServers(looked.settings, long.database.client["x" * 80], looked.redis))
        assert findings["latency.durable-write"].level is Level.ERROR


class TestRedis:
    @pytest.mark.parametrize(
        ("values", "level"),
        [
            ({"maxmemory_policy": "allkeys-lru", "maxmemory": "1gb"}, "error"),
            ({"maxmemory_policy": "allkeys-lru"}, "warning"),
            ({"maxmemory_policy": "noeviction", "maxmemory": "1gb"}, "note"),
            ({"maxmemory_policy": "volatile-lru", "maxmemory": "1gb"}, "ok"),
        ],
    )
    def test_a_policy_that_may_evict_leases_is_found(
        self, opened: Open, client: Any, values: dict[str, str], level: str
    ) -> None:
        with configured(client, **values):
            finding = found(redis_server.memory, opened())["redis.maxmemory-policy"]
        assert finding.level.value == level

    def test_an_append_only_file_without_fsync_is_a_warning(self, opened: Open, client: Any) -> None:
        with configured(client, appendfsync="no"):
            assert levels(found(redis_server.persistence, opened())) == {"redis.persistence": "warning"}
        assert levels(found(redis_server.persistence, opened())) == {"redis.persistence": "ok"}

    @pytest.fixture
    def user(self, client: Any) -> Iterator[Callable[..., dict[str, Any]]]:
        """Makes a Redis user with these rules; gives the settings that use it."""

        def make(*rules: str) -> dict[str, Any]:
            client.execute_command("ACL", "SETUSER", "somebody", "reset", "on", ">secret", "~*", "&*", *rules)
            return {"redis_user": "somebody", "redis_password": "secret"}

        yield make
        client.execute_command("ACL", "DELUSER", "somebody")

    def test_rights_that_are_lacking_are_named_without_executing_anything(
        self, opened: Open, client: Any, user: Callable[..., dict[str, Any]]
    ) -> None:
        before = client.dbsize()
        everything = found(rights.rights, opened(**user("+@all")))
        assert levels(everything) == {"redis.rights": "ok"}
        lacking = found(rights.rights, opened(**user("+@all", "-publish", "-zadd", "-xautoclaim")))
        assert levels(lacking) == {"redis.rights": "error", "redis.worker-rights": "warning"}
        assert "ZADD, PUBLISH" in lacking["redis.rights"].seen
        assert "ACL SETUSER somebody +xautoclaim" in lacking["redis.worker-rights"].advice
        assert client.dbsize() == before

    def test_a_user_that_may_touch_no_key_of_the_package_is_an_error(
        self, opened: Open, user: Callable[..., dict[str, Any]]
    ) -> None:
        finding = found(rights.rights, opened(**user("resetkeys", "~other:*", "+@all")))["redis.rights"]
        assert "XADD" in finding.seen

    def test_the_names_of_the_npm_package_are_needed_in_id_mode(
        self, opened: Open, user: Callable[..., dict[str, Any]]
    ) -> None:
        rules = user("resetkeys", "~{bk:*", "+@all")
        assert levels(found(rights.rights, opened(**rules))) == {"redis.rights": "ok"}
        assert levels(found(rights.rights, opened(**rules, cache_mode="id"))) == {"redis.rights": "error"}

    def test_what_cannot_be_tried_is_a_note(self, opened: Open, user: Callable[..., dict[str, Any]]) -> None:
        assert levels(found(rights.rights, opened(**user("+@all", "-multi")))) == {"redis.rights": "note"}
        blind = opened(**user("+@all", "-config"))
        assert levels(found(redis_server.persistence, blind)) == {"redis.persistence": "ok"}


class TestFeed:
    def test_a_feed_that_nobody_audits_is_a_warning(self, opened: Open, client: Any) -> None:
        looked = opened()
        assert levels(found(feed_state.streams, looked)) == {"feed.stream": "note"}
        publish(client, looked.streams[0], event(1))
        assert levels(found(feed_state.streams, looked)) == {"feed.stream": "ok", "feed.audit": "warning"}

    def test_groups_that_lag_or_are_abandoned_are_warnings(self, opened: Open, client: Any) -> None:
        looked = opened()
        (stream,) = looked.streams
        publish(client, stream, event(1), at=at_age(client, 11 * 60_000))
        for name in ("audit", "feed:dashboard"):
            client.xgroup_create(stream, name, id="0")
        client.xreadgroup("audit", "one", {stream: ">"})
        findings = found(feed_state.streams, looked)
        assert levels(findings) == {"feed.stream": "ok", "feed.lag": "warning", "feed.abandoned": "warning"}
        assert "bkm stream drop-group feed:dashboard" in findings["feed.abandoned"].advice
        assert "one (audit)" in found(feed_state.consuming, looked)["workers.consumers"].seen

    def test_a_consumer_that_is_not_seen_asking_is_a_note_with_the_reason(
        self, opened: Open, client: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        looked = opened()
        monkeypatch.setattr(feed_state, "SEEN_MS", -1)
        assert found(feed_state.consuming, looked)["workers.consumers"].advice == ""
        publish(client, looked.streams[0], event(1))
        client.xgroup_create(looked.streams[0], "audit", id="0")
        client.xreadgroup("audit", "one", {looked.streams[0]: ">"})
        finding = found(feed_state.consuming, looked)["workers.consumers"]
        assert finding.level is Level.NOTE
        assert "before Redis 7.2" in finding.advice

    def test_dead_letters_are_warnings(self, opened: Open) -> None:
        looked = opened()
        DeadLetterWriter(looked.database).park(looked.streams[0], "audit", "1-1", {b"e": b"x"}, "unreadable")
        finding = found(feed_state.parked, looked)["feed.parked"]
        assert (finding.level, finding.seen) == (Level.WARNING, "1 dead letters for audit")

    def test_who_leads_a_service_is_reported(self, opened: Open) -> None:
        looked = opened()
        assert levels(found(feed_state.workers, looked)) == {"workers.services": "note"}
        Leadership(looked.database, "one", ["trim"], 60_000).attempt_all()
        assert levels(found(feed_state.workers, looked)) == {"workers.services": "ok"}


class TestAgreement:
    def test_hosts_with_other_partitions_show_in_where_their_changes_lie(
        self, servers: Endpoints, database: str, opened: Open
    ) -> None:
        with store_for(servers, database, partitions=4) as store:
            write(store, *"abcdefgh")
            store.merge(Key(LOG, ()), [make_change(Key(LOG, (f"l{n}",)), {"id": f"l{n}"}) for n in range(8)])
        assert levels(found(agreement.partitions, opened(partitions=4))) == {"agreement.partitions": "ok"}
        fewer = found(agreement.partitions, opened(partitions=1))
        assert levels(fewer) == {"agreement.partitions": "error", "agreement.stream": "warning"}
        assert levels(found(agreement.partitions, opened(partitions=8))) == {"agreement.partitions": "error"}

    def test_a_lease_longer_than_ours_shows_a_host_with_another_lease_time(
        self, servers: Endpoints, database: str, opened: Open
    ) -> None:
        assert levels(found(agreement.leases, opened())) == {"agreement.lease": "ok"}
        with store_for(servers, database, lease_ms=60_000) as store:
            store.cache.lease(Lease(Key(STATE, ("s", "b"))))
        assert levels(found(agreement.leases, opened(lease_ms=60_000))) == {"agreement.lease": "ok"}
        assert levels(found(agreement.leases, opened())) == {"agreement.lease": "error"}

    def test_a_warm_read_is_not_measured_where_there_is_none(self, opened: Open) -> None:
        assert levels(found(hops.warm_read, opened())) == {"latency.warm-read": "note"}
        assert levels(found(hops.warm_read, opened(cache_mode="id"))) == {"latency.warm-read": "note"}


def bkm(*arguments: str) -> Result:
    app = typer.Typer()
    app.command()(doctor)
    return CliRunner().invoke(app, list(arguments))


@pytest.mark.usefixtures("environment", "opened")
class TestTheCommand:
    def test_a_table_shows_the_worst_first_and_a_well_deployment_exits_with_zero(self) -> None:
        result = bkm()
        assert result.exit_code == ExitCode.DONE
        assert "0 error" in result.stdout
        assert result.stdout.index("note") < result.stdout.index("mongo.reachable")

    def test_json_has_every_finding_with_its_advice_and_without_writing_no_write(self) -> None:
        shown = json.loads(bkm("--json", "--no-write").stdout)
        assert sum(shown["counts"].values()) == len(shown["findings"]) > 15
        assert "latency.durable-write" not in {finding["name"] for finding in shown["findings"]}
        assert {"name", "level", "seen", "advice"} == set(shown["findings"][0])

    def test_warnings_count_with_strict_only(self, opened: Open) -> None:
        looked = opened()
        DeadLetterWriter(looked.database).park(looked.streams[0], "audit", "1-1", {b"e": b"x"}, "unreadable")
        assert bkm("--no-write").exit_code == ExitCode.DONE
        assert bkm("--no-write", "--strict").exit_code == ExitCode.NOT_WELL

    def test_an_error_exits_with_one_and_wrong_settings_with_two(self, environment: pytest.MonkeyPatch) -> None:
        environment.setenv("CC_REDIS_PORT", "1")
        assert bkm("--no-write", "--strict").exit_code == ExitCode.FAILED
        environment.setenv("CC_REDIS_PORT", "none")
        result = bkm()
        assert (result.exit_code, "CC_REDIS_PORT" in result.stderr) == (ExitCode.WRONG_ARGUMENT, True)

    def test_refused_credentials_are_errors_that_show_no_password(
        self, servers: Endpoints, environment: pytest.MonkeyPatch
    ) -> None:
        url = servers.mongo_connection_string("x").replace("mongodb://", "mongodb://somebody:hush-mongo@")
        environment.setenv("CC_MONGO_CONNECTION_STRING", url)
        environment.setenv("CC_REDIS_USER", "nobody")
        environment.setenv("CC_REDIS_PASSWORD", "hush-redis")
        result = bkm("--json")
        assert result.exit_code == ExitCode.FAILED
        wrong = [each["name"] for each in json.loads(result.stdout)["findings"] if each["level"] == "error"]
        assert wrong == ["mongo.reachable", "redis.reachable"]
        assert "hush" not in result.output
