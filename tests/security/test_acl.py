"""The users of `ops/redis.acl` on a real redis-server: everything this project does is allowed, and little else."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import redis
from pymongo import MongoClient
from pymongo.errors import OperationFailure

from backtest_kit_mongo import embedded
from backtest_kit_mongo.backends.mongo.documents import MongoTruth
from backtest_kit_mongo.backends.mongo.layout import collection_of, own_collections
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
from backtest_kit_mongo.exits import ExitCode
from backtest_kit_mongo.feed.consume import consume, forget
from backtest_kit_mongo.feed.positions import look
from backtest_kit_mongo.operate.cache_check import Auditor, Report
from backtest_kit_mongo.servers import redis_client
from backtest_kit_mongo.testing.conformance import (  # noqa: F401
    TestFirstWriteWins,
    TestListWrites,
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
from backtest_kit_worker.runner import Runner, RunnerOptions
from tests.ha.support import client_of
from tests.integration.support import eventually, settings_for, store_for
from tests.security.support import OPS, GuardedMongo, GuardedRedis, secret

pytestmark = pytest.mark.live
Endpoints = embedded.Endpoints
Mode = Literal["document", "id"]
KEY = make_key(STATE, ("signal", "bucket"))


@pytest.fixture(scope="module")
def options(guarded: GuardedRedis, guarded_mongo: GuardedMongo) -> Callable[..., Any]:
    """Settings of a database, as a user of both servers."""

    def make(database: str, user: str, **more: Any) -> dict[str, Any]:
        return {
            "mongo_connection_string": guarded_mongo.connection_string(user, database),
            "redis_port": guarded.port, "redis_user": user, "redis_password": secret(user), "lease_ms": 1_500, **more,
        }  # fmt: skip

    return make


@pytest.fixture(scope="module")
def store(servers: Endpoints, new_database: Callable[[], str], options: Callable[..., Any]) -> Iterator[Store]:
    """The conformance suite's: a strategy's, with an open cache, and without a way past Redis."""
    database = f"{new_database()}_conform"
    with store_for(servers, database, **options(database, "strategy", on_redis_down="fail")) as opened:
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
    more = "(+set ~*_cache:*)" if guarded.has_selectors else "~*_cache:*"
    operator.execute_command("ACL", "SETUSER", "strategy", more)
    try:
        with store_for(
            servers, database, **options(database, "strategy", cache_mode="id", on_redis_down="fail")
        ) as store:
            write_everything(store)
        assert operator.keys("state_cache:*")
    finally:
        operator.acl_load()


def test_a_near_cache_hears_and_a_flood_of_missed_writes_is_delivered(
    servers: Endpoints, database: str, options: Callable[..., Any]
) -> None:
    with store_for(servers, database, **options(database, "strategy", near_cache="state")) as store:
        write(store, 1)
        assert isinstance(store.near, NearCache)
        near: NearCache = store.near
        eventually(lambda: store.read(KEY).exists and near.hit_count)
        link: Any = store.cache._link  # type: ignore[attr-defined]
        real, link.execute_many = link.execute_many, _unreachable
        write(store, 2)
        link.execute_many = real
        cache: Any = store.cache
        eventually(lambda: store.read(KEY).payload == {"data": 2} and not cache._reach.missed)


def _unreachable(*_: Any) -> Any:
    raise redis.ConnectionError("cut off")


def test_the_worker_does_all_that_it_does(
    servers: Endpoints, database: str, options: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with store_for(servers, database, **options(database, "strategy")) as store:
        write_everything(store)
    url = f"redis://worker:{secret('worker')}@localhost:{options(database, 'worker')['redis_port']}"
    monkeypatch.setenv("CC_INVALIDATION_REDIS", url)
    monkeypatch.setenv("CC_REPLICA_DIRECTORY", str(tmp_path / "copy"))
    monkeypatch.setenv("CC_STREAM_RETENTION_MS", "1")
    settings = settings_for(servers, database, **options(database, "worker"))
    deployment = connect(settings)
    try:
        runner = Runner(deployment, roles.NAMES, RunnerOptions(LoopOptions(block_ms=1)))
        assert {loop.name for loop in runner.loops} >= {"audit", "replica", "invalidation"}
        assert runner.run_until_idle() is ExitCode.DONE
        recorded = deployment.database["audit-items"].count_documents({})
        position = look(deployment.redis, deployment.streams[0])
    finally:
        deployment.close()
    assert recorded == sum(1 for domain in DOMAINS if domain.cached or domain.row_id)
    assert position is not None
    assert all(group.owed_count == 0 for group in position.groups)


def test_the_feed_is_followed_and_left(servers: Endpoints, database: str, options: Callable[..., Any]) -> None:
    settings = settings_for(servers, database, **options(database, "consumer"))
    with store_for(servers, database, **options(database, "strategy")) as store:
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
    with store_for(servers, database, **options(database, "strategy")) as store:
        write(store, 1)
    settings = settings_for(servers, database, **options(database, "worker"))
    truth = MongoTruth(
        settings.mongo_connection_string.get_secret_value(),
        database,
        DOMAINS,
        settings.mongo_bound_ms,
        settings.mongo_arrival_ms,
    )
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
FEED = "{bk:0}:test_x:s"
STRATEGIES_ONLY = (
    ("XTRIM", FEED, "MAXLEN", "0"),
    ("XACK", FEED, "audit", "1-1"),
    ("XGROUP", "DESTROY", FEED, "audit"),
    ("XREADGROUP", "GROUP", "audit", "me", "STREAMS", FEED, ">"),
    ("SCAN", "0"),
)
CONSUMERS_ONLY = (
    ("XADD", FEED, "*", "e", "forged"),
    ("XTRIM", FEED, "MAXLEN", "0"),
    ("GET", "{bk:0}:test_x:b"),
    ("DEL", FEED),
)


@pytest.mark.parametrize(
    ("user", "command"),
    [
        *((user, command) for user in ("strategy", "worker") for command in FORBIDDEN),
        *(("strategy", command) for command in STRATEGIES_ONLY),
        *(("consumer", command) for command in CONSUMERS_ONLY),
        *(("monitor", command) for command in (("GET", "{bk:0}:test_x:s"), ("CONFIG", "GET", "*"), ("SCAN", "0"))),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_what_nobody_needs_is_refused(guarded: GuardedRedis, user: str, command: tuple[str, ...]) -> None:
    with pytest.raises(redis.ResponseError, match=r"NOPERM|[Nn]o permission|can't (run|access)"):
        guarded.as_user(user).execute_command(*command)


def test_a_strategy_can_only_append_to_the_feed(guarded: GuardedRedis) -> None:
    if not guarded.has_selectors:
        pytest.skip("telling keys apart by command takes Redis 7")
    strategy = guarded.as_user("strategy")
    strategy.xadd(FEED, {"e": "x"})
    for command in (
        ("DEL", FEED),
        ("SET", FEED, "1"),
        ("GET", FEED),
        ("EVAL", "redis.call('DEL', KEYS[1])", "1", FEED),
    ):
        with pytest.raises(redis.ResponseError, match=r"NOPERM|[Nn]o permission|can't (run|access)"):
            strategy.execute_command(*command)
    guarded.as_user("operator").delete(FEED)


def test_what_strategies_workers_and_consumers_may_do_in_mongodb_ends_where_their_work_ends(
    guarded_mongo: GuardedMongo,
) -> None:
    may_not = {
        "strategy": {
            "delete": ["signal-items", "candle-items", "audit-items"], "insert": ["audit-items", "audit-seals",
                "worker-leases", "own"],
            "update": ["audit-items", "audit-heads", "worker-leases", "feed-groups", "candle-blocks"],
            "drop": ["signal-items"],
            "find": ["audit-items", "worker-leases"],
        },
        "consumer": {"insert": ["signal-items", "audit-items"], "update": ["signal-items"], "delete": ["audit-items"]},
        "worker": {
            "update": ["audit-items", "audit-seals", "signal-items"], "delete": ["audit-items", "audit-seals",
                "signal-items"],
            "insert": ["signal-items"], "drop": ["audit-items", "signal-items"],
        },
    }  # fmt: skip
    for user, denied in may_not.items():
        with MongoClient[Any](guarded_mongo.connection_string(user, "test_rights")) as client:
            for name, collections in denied.items():
                for collection in collections:
                    with pytest.raises(OperationFailure, match="not authorized"):
                        client["test_rights"].command(COMMANDS[name](collection))


COMMANDS: dict[str, Callable[[str], dict[str, Any]]] = {
    "find": lambda name: {"find": name},
    "insert": lambda name: {"insert": name, "documents": [{}]},
    "update": lambda name: {"update": name, "updates": [{"q": {}, "u": {"$set": {"x": 1}}}]},
    "delete": lambda name: {"delete": name, "deletes": [{"q": {}, "limit": 1}]},
    "drop": lambda name: {"drop": name},
}


def test_every_collection_has_its_place_in_the_roles() -> None:
    given = json.loads((OPS / "mongo-init" / "roles.json").read_text())
    assert given["documents"] == sorted(collection_of(domain) for domain in DOMAINS)
    named = {name for role in given["roles"].values() for name in role if not name.startswith("*")}
    of_operators = {"repaired-items", "bkm-restoring"}
    assert named | set(given["documents"]) | of_operators == own_collections(DOMAINS)


def test_nobody_is_somebody_without_a_name(guarded: GuardedRedis) -> None:
    for credentials in ({}, {"password": ""}, {"username": "default", "password": "x"}):
        with pytest.raises(redis.AuthenticationError):
            client_of(guarded.port, **credentials).ping()


def test_a_wrong_password_is_said_and_shown_nowhere(
    servers: Endpoints, options: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    wrong = options("test_wrong", "strategy", redis_password="mistyped-secret")
    with (
        store_for(servers, "test_wrong", **wrong) as store,
        pytest.raises(ServerUnreachable, match="credentials") as caught,
    ):
        store.open()
    assert "mistyped-secret" not in str(caught.value) + caplog.text


def test_a_restart_of_redis_keeps_what_scripts_did_though_the_default_user_is_off(
    servers: Endpoints, database: str, options: Callable[..., Any], tmp_path: Path
) -> None:
    """Redis 7 replays transactions as the default user: without rights it would drop every event (see
    ops/redis.acl).
    """
    own = GuardedRedis(tmp_path)
    try:
        with store_for(servers, database, **{**options(database, "strategy"), "redis_port": own.port}) as store:
            write(store, 1)
        stream = streams(database, 1)[0]
        before = own.as_user("operator").xlen(stream)
        own.process.stop()
        own.start()
        assert own.as_user("operator").xlen(stream) == before == 1
    finally:
        own.process.kill()
