"""What the doctor makes of what it is given; no servers."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
from pymongo.errors import ExecutionTimeout, OperationFailure

from backtest_kit_mongo.operate.doctor import clocks, examination, hops, mongo, oplog, redis_server
from backtest_kit_mongo.operate.doctor.agreement import near_cache
from backtest_kit_mongo.operate.doctor.findings import (
    Finding,
    Level,
    duration,
    error,
    is_unauthorized,
    ok,
    said,
    version,
    warning,
    worst,
)
from backtest_kit_mongo.operate.doctor.oplog import Oplog
from backtest_kit_mongo.operate.doctor.timing import Latency, Skew, latency, skew
from backtest_kit_mongo.settings import load

NOW = datetime(2024, 1, 1, tzinfo=UTC)
HOUR_MS = 3_600_000


def levels(findings: Any) -> dict[str, str]:
    return {finding.name: finding.level.value for finding in findings}


def member(name: str, state: str = "SECONDARY", *, behind_s: float = 0) -> dict[str, Any]:
    return {"name": name, "stateStr": state, "health": 1.0, "optimeDate": NOW - timedelta(seconds=behind_s)}


def reported(**info: Any) -> Any:
    """Servers of which INFO says this, and CONFIG GET what stands in `config`."""
    config = info.pop("config", {})
    asked = SimpleNamespace(
        info=lambda _: info, config_get=lambda name: {name: config[name]} if name in config else {}, ping=lambda: True
    )
    return SimpleNamespace(redis=asked, settings=load())


class TestMembers:
    def test_a_healthy_set_is_well(self) -> None:
        found = list(mongo.judge_members("rs0", [member("a", "PRIMARY"), member("b"), member("c")]))
        assert [each.level for each in found] == [Level.OK]

    def test_a_set_without_a_primary_is_an_error(self) -> None:
        (found,) = mongo.judge_members("rs0", [member("a"), member("b", "STARTUP2")])
        assert (found.level, "a SECONDARY, b STARTUP2" in found.seen) == (Level.ERROR, True)

    def test_a_member_that_is_down_or_far_behind_is_a_warning(self) -> None:
        down = {**member("c", "(not reachable/healthy)"), "health": 0.0}
        found = list(mongo.judge_members("rs0", [member("a", "PRIMARY"), member("b", behind_s=60), down]))
        assert [each.seen for each in found if each.level is Level.WARNING] == [
            "b is 1.0 min behind the primary", "c is (not reachable/healthy)",
        ]  # fmt: skip

    def test_a_set_without_a_majority_is_an_error_even_before_its_primary_notices(self) -> None:
        second, first = mongo.judge_members("rs0", [member("a", "PRIMARY"), member("b", "(not reachable/healthy)")])
        assert (first.name, first.level) == ("mongo.replica-set", Level.ERROR)
        assert (second.name, second.level) == ("mongo.member", Level.WARNING)

    def test_a_server_that_is_no_replica_set_is_an_error_and_a_router_is_not(self) -> None:
        hello: dict[str, Any] = {}
        admin = SimpleNamespace(command=lambda _: hello)
        servers: Any = SimpleNamespace(database=SimpleNamespace(client=SimpleNamespace(admin=admin)))
        assert levels(mongo.replica_set(servers)) == {"mongo.replica-set": "error"}
        hello["msg"] = "isdbgrid"
        assert levels(mongo.replica_set(servers)) == {"mongo.replica-set": "note"}


class TestOplog:
    def test_a_log_that_no_longer_reaches_recovery_is_an_error(self) -> None:
        found = levels(oplog.judge(Oplog(2 * HOUR_MS, 2 * HOUR_MS, is_full=True), 3 * HOUR_MS, is_used=True))
        assert found == {"recovery.place": "error", "mongo.oplog": "warning"}

    def test_recovery_that_is_silent_or_never_ran_is_a_warning(self) -> None:
        wide = Oplog(99 * HOUR_MS, 99 * HOUR_MS, is_full=True)
        assert levels(oplog.judge(wide, HOUR_MS, is_used=True)) == {"recovery.place": "warning", "mongo.oplog": "ok"}
        assert levels(oplog.judge(wide, None, is_used=True))["recovery.place"] == "warning"
        assert "recovery.place" not in levels(oplog.judge(wide, None, is_used=False))

    def test_a_log_that_still_grows_is_not_judged_by_its_reach(self) -> None:
        assert levels(oplog.judge(Oplog(1, 1, is_full=False), 0, is_used=True))["mongo.oplog"] == "ok"


class TestClocks:
    def test_half_of_the_fastest_round_trip_is_taken_off(self) -> None:
        # Asked at 0, answered at 1000 with 2500; then at 2000 and 2010 with 4005: 2 s ahead, the second more surely.
        wall_ms = iter([0.0, 1000.0, 2000.0, 2010.0])
        said_ms = iter([2500.0, 4005.0])
        assert skew(lambda: next(said_ms), 2, lambda: next(wall_ms)) == Skew(2000.0, 5.0)

    @pytest.mark.parametrize(("ahead_ms", "level"), [(900, "ok"), (-3_000, "warning"), (61_001, "error")])
    def test_a_difference_is_judged_after_the_margin(self, ahead_ms: float, level: str) -> None:
        assert clocks.judge("Redis", Skew(ahead_ms, 0)).level.value == level
        assert clocks.judge("Redis", Skew(ahead_ms, abs(ahead_ms))).level is Level.OK


class TestLatency:
    def test_percentiles_are_of_the_questions_after_the_first(self) -> None:
        asked = count()
        found = latency(lambda: next(asked), 50)
        assert next(asked) == 51
        assert 0 <= found.p50_ms <= found.p99_ms

    def test_a_hop_near_its_time_limit_is_a_warning(self) -> None:
        assert hops.judge("x", Latency(1, 24), 100, "CC_X").level is Level.OK
        assert hops.judge("x", Latency(1, 26), 100, "CC_X").level is Level.WARNING

    def test_a_redis_too_slow_for_heartbeats_is_a_warning_only_with_a_near_cache(self) -> None:
        servers: Any = SimpleNamespace(settings=load(near_cache="measure", near_cache_max_staleness_ms=100))
        assert levels(hops.near_heartbeats(servers, Latency(1, 30))) == {"near-cache.beat": "warning"}
        assert levels(hops.near_heartbeats(servers, Latency(1, 20))) == {}
        servers.settings = load(near_cache="")
        assert levels(hops.near_heartbeats(servers, Latency(1, 30))) == {}


class TestRedis:
    def test_a_replica_is_refused(self) -> None:
        found = list(redis_server.replication(reported(role="slave", master_host="m", master_port=1)))
        assert levels(found) == {"redis.role": "error"}

    def test_a_master_that_goes_on_without_its_replicas_is_a_warning(self) -> None:
        alone = reported(role="master", connected_slaves=1, config={"min-replicas-to-write": "0"})
        assert levels(redis_server.replication(alone)) == {"redis.role": "ok", "redis.min-replicas": "warning"}
        held = reported(role="master", connected_slaves=1, config={"min-replicas-to-write": "1"})
        assert levels(redis_server.replication(held)) == {"redis.role": "ok"}

    @pytest.mark.parametrize(
        ("appendfsync", "save", "level"),
        [("everysec", "", "ok"), ("always", "", "note"), ("everysec", "900 1", "note"), ("no", "", "warning")],
    )
    def test_persistence_is_judged_by_what_a_power_cut_takes(self, appendfsync: str, save: str, level: str) -> None:
        servers = reported(aof_enabled=1, config={"appendfsync": appendfsync, "save": save})
        assert levels(redis_server.persistence(servers)) == {"redis.persistence": level}

    def test_a_failed_append_is_an_error_and_no_file_a_warning(self) -> None:
        assert levels(redis_server.persistence(reported(aof_enabled=1, aof_last_write_status="err"))) == {
            "redis.persistence": "error"
        }
        assert levels(redis_server.persistence(reported(aof_enabled=0))) == {"redis.persistence": "warning"}

    def test_a_full_server_is_a_warning(self) -> None:
        full = reported(maxmemory_policy="volatile-lru", maxmemory=100, used_memory=95)
        assert levels(redis_server.memory(full)) == {"redis.maxmemory-policy": "ok", "redis.memory": "warning"}

    @pytest.mark.parametrize(("release", "level"), [("6.2.14", "ok"), ("8.0.1", "note"), ("6.0.9", "error")])
    def test_versions_are_distinguished(self, release: str, level: str) -> None:
        assert levels(redis_server.reach(reported(redis_version=release)))["redis.version"] == level


@pytest.mark.parametrize(
    ("settings", "level"),
    [
        ({"near_cache": ""}, "ok"),
        ({"near_cache": "measure"}, "ok"),
        ({"near_cache": "measure,signal"}, "note"),
        ({"near_cache": "measure", "cache_mode": "id"}, "note"),
        ({"near_cache": "measure", "near_cache_max_bytes": 0}, "note"),
    ],
)
def test_near_cache_settings_are_explained(settings: dict[str, Any], level: str) -> None:
    servers: Any = SimpleNamespace(settings=load(**settings))
    assert levels(near_cache(servers)) == {"near-cache.settings": level}


def test_a_mongodb_that_answers_too_late_has_refused_nobody() -> None:
    class Late:
        settings = load()

        @property
        def database(self) -> NoReturn:
            raise ExecutionTimeout("operation would exceed time limit", 50)

    late: Any = Late()
    (finding,) = mongo.reach(late)
    assert (finding.level, "no answer" in finding.seen) == (Level.ERROR, True)


def test_an_area_that_fails_with_an_error_that_nobody_expects_is_an_error_and_the_next_is_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def surprised(_: Any) -> Iterator[Finding]:
        yield ok("first", "seen")
        raise KeyError("optimeDate")

    monkeypatch.setattr(examination, "SETTINGS", ())
    monkeypatch.setattr(mongo, "reach", lambda _: iter([ok("mongo.reachable", "")]))
    monkeypatch.setattr(examination, "MONGO", (surprised,))
    monkeypatch.setattr(examination, "REDIS", (redis_server.memory,))
    servers = reported(redis_version="7.0.15", maxmemory_policy="noeviction", maxmemory=0, used_memory=1)
    named = {finding.name: finding for finding in examination.examine(servers, write=False)}
    assert named["test-judgements.surprised"].level is Level.ERROR
    assert "KeyError: 'optimeDate'" in named["test-judgements.surprised"].seen
    assert {"first", "redis.memory"} <= set(named)


def test_the_worst_level_counts() -> None:
    assert worst([]) is Level.OK
    assert worst([warning("a", "", ""), ok("b", ""), Finding("c", Level.NOTE, "")]) is Level.WARNING
    assert worst([warning("a", "", ""), error("b", "", "")]) is Level.ERROR


def test_what_mongodb_says_is_shown_without_the_command() -> None:
    refused = OperationFailure("x", 13, {"errmsg": "not authorized on i1 to execute command { find: 'secret' }"})
    assert (said(refused), is_unauthorized(refused)) == ("not authorized on i1", True)
    assert (said(ValueError("a")), is_unauthorized(ValueError())) == ("a", False)


def test_durations_and_versions_read_well() -> None:
    assert [duration(ms) for ms in (0.25, 40, 1_500, 90_000, 2 * HOUR_MS, 50 * HOUR_MS)] == [
        "0.2 ms", "40 ms", "1.5 s", "1.5 min", "2.0 h", "2.1 d",
    ]  # fmt: skip
    assert version("7.0.5-rc1") == (7, 0)
    assert version("6.2.14") == (6, 2, 14)
