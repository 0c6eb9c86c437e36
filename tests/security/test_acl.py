"""The users of `ops/redis.acl` on a real redis-server: everything this project does is allowed, and little else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import redis

from backtest_kit_mongo import embedded
from backtest_kit_mongo.backends.mongo.documents import MongoTruth
from backtest_kit_mongo.backends.near_cache import NearCache
from backtest_kit_mongo.backends.redis.link import RedisLink
from backtest_kit_mongo.coherence.effects import CacheRead, Find
from backtest_kit_mongo.coherence.keys import streams
from backtest_kit_mongo.coherence.record import Key, Record
from backtest_kit_mongo.domains.checks import make_change, make_key
from backtest_kit_mongo.domains.table import DOMAINS, STATE
from backtest_kit_mongo.drivers.counts import HIT
from backtest_kit_mongo.drivers.store import Store
from backtest_kit_mongo.errors import ServerUnreachable
from backtest_kit_mongo.feed.consume import consume, forget
from backtest_kit_mongo.feed.positions import look
from backtest_kit_mongo.operate.cache_check import Auditor, Report
from backtest_kit_mongo.setup import redis_client
from backtest_kit_mongo.testing.conformance import (  # noqa: F401
    TestFirstWriteWins,
    TestLedgers,
    TestLookAheadInLists,
    TestRemovedMemory,
    TestTheLog,
    empty_store,
    tag,
    twin,
)
from backtest_kit_mongo.testing.examples import example
from backtest_kit_worker import roles
from backtest_kit_worker.deployment import connect
from backtest_kit_worker.loop import LoopOptions
from backtest_kit_worker.runner import Exit, Runner, RunnerOptions
from tests.ha.support import client_of
from tests.integration.support import eventually, settings_for, store_for
from tests.security.support import GuardedRedis, secret

pytestmark = pytest.mark.live
Endpoints = embedded.Endpoints
Mode = Literal["document", "id"]
KEY = make_key(STATE, ("signal", "bucket"))


@pytest.fixture(scope="module")
def options(servers: Endpoints, new_database: Callable[[], str], guarded: GuardedRedis) -> Callable[..., Any]:
    """Settings of a database of its own, as a user of Redis."""

    def make(user: str, **more: Any) -> dict[str, Any]:
        return {"redis_port": guarded.port, "redis_user": user, "redis_password": secret(user), "lease_ms": 700, **more}

    return make


@pytest.fixture(scope="module")
def store(servers: Endpoints, new_database: Callable[[], str], options: Callable[..., Any]) -> Iterator[Store]:
    """The conformance suite's: a strategy's, with an open cache, and without a way past Redis."""
    with store_for(servers, f"{new_database()}_conform", **options("strategy", on_redis_down="fail")) as opened:
        write(opened, 0)
        eventually(lambda: opened.read(KEY).exists and isinstance(opened.cache.read(CacheRead(KEY)), Record))
        yield opened


@pytest.fixture
def database(new_database: Callable[[], str], guarded: GuardedRedis) -> Iterator[str]:
    """Nothing that this database's test did was refused to it."""
    guarded.as_user("operator").acl_log_reset()
    yield f"{new_database()}_acl"
    assert guarded.refused == []


def write(store: Store, value: int) -> None:
    store.write(make_change(KEY, {"data": value}, value))


def write_everything(store: Store) -> None:
    """A change of every domain that has documents or rows."""
    for domain in DOMAINS:
        key = Key(domain, tuple(True if column.type is bool else "x" for column in domain.key))
        if domain.cached:
            store.write(make_change(key, example(domain, "x"), 5 if domain.has_when else None))
            assert store.read(key).exists
        elif domain.row_id:
            store.merge(key.scope, [make_change(key, example(domain, "x"))])


def test_nothing_of_the_conformance_suite_is_refused(store: Store, guarded: GuardedRedis) -> None:
    write_everything(store)
    assert guarded.refused == []
    assert store.counts.read_count(HIT) > 0


def test_in_mode_id_the_npm_packages_keys_are_all_that_is_missing(
    servers: Endpoints, database: str, options: Callable[..., Any], guarded: GuardedRedis
) -> None:
    operator = guarded.as_user("operator")
    operator.execute_command("ACL", "SETUSER", "strategy", "~*_cache:*")
    try:
        with store_for(servers, database, **options("strategy", cache_mode="id", on_redis_down="fail")) as store:
            write_everything(store)
        assert operator.keys("state_cache:*")
    finally:
        operator.acl_load()


def test_a_near_cache_hears_and_a_flood_of_missed_writes_is_delivered(
    servers: Endpoints, database: str, options: Callable[..., Any]
) -> None:
    with store_for(servers, database, **options("strategy", near_cache="state")) as store:
        write(store, 1)
        assert isinstance(store.near, NearCache)
        near: NearCache = store.near
        eventually(lambda: store.read(KEY).exists and near.hit_count)
        link: Any = store.cache._link  # type: ignore[attr-defined]
        real, link.execute_many = link.execute_many, _unreachable
        write(store, 2)
        link.execute_many = real
        eventually(lambda: store.read(KEY).payload == {"data": 2} and not store.cache._missed)  # type: ignore[attr-defined]


def _unreachable(*_: Any) -> Any:
    raise redis.ConnectionError("cut off")


def test_the_worker_does_all_that_it_does(
    servers: Endpoints, database: str, options: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with store_for(servers, database, **options("strategy")) as store:
        write_everything(store)
    url = f"redis://worker:{secret('worker')}@localhost:{options('worker')['redis_port']}"
    monkeypatch.setenv("CC_INVALIDATION_REDIS", url)
    monkeypatch.setenv("CC_REPLICA_DIRECTORY", str(tmp_path / "copy"))
    monkeypatch.setenv("CC_STREAM_RETENTION_MS", "1")
    settings = settings_for(servers, database, **options("worker"))
    deployment = connect(settings)
    try:
        runner = Runner(deployment, roles.NAMES, RunnerOptions(LoopOptions(block_ms=1)))
        assert {loop.name for loop in runner.loops} >= {"audit", "replica", "invalidation"}
        assert runner.run_until_idle() is Exit.DONE
        recorded = deployment.database["audit-items"].count_documents({})
        position = look(deployment.redis, deployment.streams[0])
    finally:
        deployment.close()
    assert recorded == sum(1 for domain in DOMAINS if domain.cached or domain.row_id)
    assert position is not None
    assert all(group.owed_count == 0 for group in position.groups)


def test_the_feed_is_followed_and_left(servers: Endpoints, database: str, options: Callable[..., Any]) -> None:
    settings = settings_for(servers, database, **options("strategy"))
    with store_for(servers, database, **options("strategy")) as store:
        for value in (1, 2, 3):
            write(store, value)
    with consume("mine", settings=settings, start="beginning", until_idle=True, timeout_s=10) as feed:
        seen = []
        for event in feed:
            event.ack()
            seen.append(event.rev)
    assert seen == [1, 2, 3]
    assert forget("mine", settings=settings)


def test_the_operators_comparison_of_cache_and_mongodb_runs_as_worker(
    servers: Endpoints, database: str, options: Callable[..., Any]
) -> None:
    with store_for(servers, database, **options("strategy")) as store:
        write(store, 1)
    settings = settings_for(servers, database, **options("worker"))
    truth = MongoTruth(settings.mongo_connection_string.get_secret_value(), database, DOMAINS, settings.mongo_bound_ms)
    truth.open()
    link = RedisLink(redis_client(settings))
    report = Report()
    auditor = Auditor(settings, truth, link)
    auditor.check([*auditor.keys(10), KEY], report)
    auditor._trace(truth.find(Find(KEY)))
    link.drop_idle()
    truth.close()
    assert not report.violations


FORBIDDEN = (
    ("FLUSHALL",),
    ("FLUSHDB",),
    ("CONFIG", "SET", "maxmemory", "1"),
    ("CONFIG", "GET", "*"),
    ("KEYS", "*"),
    ("SHUTDOWN",),
    ("ACL", "LIST"),
    ("CLIENT", "KILL", "TYPE", "normal"),
    ("CLIENT", "LIST"),
    ("CLIENT", "PAUSE", "1"),
    ("SCRIPT", "FLUSH"),
    ("REPLICAOF", "NO", "ONE"),
    ("MONITOR",),
    ("RENAME", "{bk:0}:test_x:s", "{bk:0}:test_x:t"),
    ("PERSIST", "{bk:0}:test_x:s"),
    ("GET", "{bk:0}:another:e:state:a:b"),
    ("SET", "elsewhere", "1"),
    ("PUBLISH", "elsewhere", "1"),
    ("SUBSCRIBE", "elsewhere"),
    ("EVAL", "return redis.call('GET', 'elsewhere')", "0"),
    ("EVAL", "return redis.call('FLUSHALL')", "0"),
)
STRATEGIES_ONLY = (("XTRIM", "{bk:0}:test_x:s", "MAXLEN", "0"), ("SCAN", "0"))


@pytest.mark.parametrize(
    ("user", "command"),
    [
        *((user, command) for user in ("strategy", "worker") for command in FORBIDDEN),
        *(("strategy", command) for command in STRATEGIES_ONLY),
        *(("monitor", command) for command in (("GET", "{bk:0}:test_x:s"), ("CONFIG", "GET", "*"), ("SCAN", "0"))),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_what_nobody_needs_is_refused(guarded: GuardedRedis, user: str, command: tuple[str, ...]) -> None:
    with pytest.raises(redis.ResponseError, match=r"NOPERM|[Nn]o permission|can't (run|access)"):
        guarded.as_user(user).execute_command(*command)


def test_nobody_is_somebody_without_a_name(guarded: GuardedRedis) -> None:
    for credentials in ({}, {"password": ""}, {"username": "default", "password": "x"}):
        with pytest.raises(redis.AuthenticationError):
            client_of(guarded.port, **credentials).ping()


def test_a_wrong_password_is_said_and_shown_nowhere(
    servers: Endpoints, options: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    wrong = options("strategy", redis_password="mistyped-secret")
    with (
        store_for(servers, "test_wrong", **wrong) as store,
        pytest.raises(ServerUnreachable, match="credentials") as caught,
    ):
        store.open()
    assert "mistyped-secret" not in str(caught.value) + caplog.text


def test_a_restart_of_redis_keeps_what_scripts_did_though_the_default_user_is_off(
    servers: Endpoints, database: str, options: Callable[..., Any], tmp_path: Path
) -> None:
    """Redis 7 replays transactions as the default user: without rights it would drop every event (see ops/redis.acl)."""
    own = GuardedRedis(tmp_path)
    try:
        with store_for(servers, database, **{**options("strategy"), "redis_port": own.port}) as store:
            write(store, 1)
        stream = streams(database, 1)[0]
        before = own.as_user("operator").xlen(stream)
        own.process.stop()
        own.start()
        assert own.as_user("operator").xlen(stream) == before == 1
    finally:
        own.process.kill()
