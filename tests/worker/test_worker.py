"""The worker on real servers: every change has exactly one record, whatever happens to the worker."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pymongo
import pytest
from tests.integration.support import eventually

from backtest_kit_mongo.adapters.instances import CandleInstance, MeasureInstance, StateInstance, StorageInstance
from backtest_kit_mongo.coherence.events import Event, Origin
from backtest_kit_mongo.coherence.record import Key
from backtest_kit_mongo.domains.checks import make_change
from backtest_kit_mongo.domains.table import DOMAINS, STATE
from backtest_kit_mongo.drivers.store import Store
from backtest_kit_mongo.embedded import Endpoints
from backtest_kit_mongo.testing.examples import example
from backtest_kit_worker.dead_letters import DeadLetterWriter
from backtest_kit_worker.loop import Loop, LoopOptions
from backtest_kit_worker.roles.audit import AuditRole

pytestmark = pytest.mark.live


def loop(client: Any, mongo: Any, stream: str, consumer: str = "one", **options: int) -> Loop:
    return Loop(
        client, [stream], AuditRole(mongo), DeadLetterWriter(mongo), consumer, LoopOptions(**{"block_ms": 1, **options})
    )


def state(store: Store, value: int) -> None:
    StateInstance(store, "signal", "bucket").write_state_data({"data": value}, 1_000 + value)


def test_each_revision_has_one_record_with_everything_an_auditor_asks(
    store: Store, client: Any, mongo: Any, stream: str
) -> None:
    for value in (1, 2, 3):
        state(store, value)
    assert loop(client, mongo, stream).run_until_idle() == 3
    records = list(mongo["audit-items"].find().sort("rev", 1))
    document = mongo["state-items"].find_one()
    assert [(r["rev"], r["payload"], r["when"]) for r in records] == [(n, {"data": n}, 1_000 + n) for n in (1, 2, 3)]
    first = records[0]
    assert (first["domain"], first["key"], first["documentId"]) == ("state", ["signal", "bucket"], str(document["_id"]))
    assert (first["operation"], first["process"]) == ("upsert", os.getpid())
    assert first["writtenAt"] <= first["recordedAt"]


def test_every_domain_is_audited(store: Store, client: Any, mongo: Any, stream: str) -> None:
    for domain in DOMAINS:
        parts = tuple(True if column.type is bool else "x" for column in domain.key)
        if domain.cached:
            store.write(make_change(Key(domain, parts), example(domain, "x"), 5 if domain.has_when else None))
        elif domain.row_id:
            store.merge(Key(domain, parts[:-1]), [make_change(Key(domain, parts), example(domain, "x"))])
    CandleInstance(store, "BTC", "1m", "e").write_candles_data([example(DOMAINS[0], "x")])
    loop(client, mongo, stream).run_until_idle()
    assert set(mongo["audit-items"].distinct("domain")) == {domain.name for domain in DOMAINS}


def test_a_batch_of_candles_is_one_record_with_ranges(store: Store, client: Any, mongo: Any, stream: str) -> None:
    candle = {"open": 1.0, "high": 1.0, "low": 1.0, "close": 1.0, "volume": 0.0}
    CandleInstance(store, "BTC", "1m", "e").write_candles_data(
        [{"timestamp": n * 60_000, **candle} for n in (0, 1, 2, 9)]
    )
    loop(client, mongo, stream).run_until_idle()
    (record,) = mongo["audit-items"].find()
    assert record["operation"] == "batch"
    assert record["payload"] == {"ranges": [[0, 120_000, 3], [540_000, 540_000, 1]], "count": 4}


def test_a_candle_that_conflicts_with_a_stored_one_is_one_record_with_both(
    store: Store, client: Any, mongo: Any, stream: str
) -> None:
    candle = {"timestamp": 0, "open": 1.0, "high": 1.0, "low": 1.0, "close": 1.0, "volume": 0.0}
    for volume in (0.0, 2.0, 2.0):
        CandleInstance(store, "BTC", "1m", "e").write_candles_data([{**candle, "volume": volume}])
    loop(client, mongo, stream).run_until_idle()
    (record,) = mongo["audit-items"].find({"operation": "conflict"})
    assert record["key"] == ["e", "BTC", "1m"]
    assert record["payload"]["timestamp"] == 0
    assert [record["payload"][version]["volume"] for version in ("stored", "offered")] == [0.0, 2.0]


def test_a_removal_is_recorded_as_one(store: Store, client: Any, mongo: Any, stream: str) -> None:
    measure = MeasureInstance(store, "bucket")
    measure.write_measure_data({"id": "k", "data": 1, "removed": False}, "k", 1)
    measure.remove_measure_data("k")
    measure.remove_measure_data("k")
    loop(client, mongo, stream).run_until_idle()
    assert [r["operation"] for r in mongo["audit-items"].find().sort("rev", 1)] == ["upsert", "remove"]


def test_only_changed_list_rows_are_events(store: Store, client: Any, mongo: Any, stream: str) -> None:
    ledger = StorageInstance(store, True)
    ledger.write_storage_data([{"id": "a", "priority": 1}, {"id": "b", "priority": 1}])
    ledger.write_storage_data([{"id": "a", "priority": 2}, {"id": "b", "priority": 1}])
    loop(client, mongo, stream).run_until_idle()
    found = sorted((r["key"][-1], r["rev"]) for r in mongo["audit-items"].find())
    assert found == [("a", 1), ("a", 2), ("b", 1)]


def test_redelivery_changes_nothing(store: Store, client: Any, mongo: Any, stream: str) -> None:
    for value in (1, 2):
        state(store, value)
    loop(client, mongo, stream).run_until_idle()
    before = list(mongo["audit-items"].find().sort("_id", 1))
    client.xgroup_setid(stream, AuditRole.name, "0")
    again = loop(client, mongo, stream)
    assert again.run_until_idle() == 2
    assert again.applied_count == 0
    assert list(mongo["audit-items"].find().sort("_id", 1)) == before


def test_entries_of_a_dead_worker_are_taken_over(store: Store, client: Any, mongo: Any, stream: str) -> None:
    state(store, 1)
    client.xgroup_create(stream, AuditRole.name, id="0", mkstream=True)
    client.xreadgroup(AuditRole.name, "dead", {stream: ">"})
    assert loop(client, mongo, stream, "two", claim_idle_ms=0).run_until_idle() == 1
    assert mongo["audit-items"].count_documents({}) == 1
    assert client.xpending(stream, AuditRole.name)["pending"] == 0


def test_an_entry_that_cannot_be_read_is_parked_and_blocks_nothing(
    store: Store, client: Any, mongo: Any, stream: str
) -> None:
    client.xadd(stream, {"e": b"\xff", "p": b"poison"})
    state(store, 1)
    working = loop(client, mongo, stream)
    working.run_until_idle()
    assert mongo["audit-items"].count_documents({}) == 1
    (parked,) = mongo["parked-items"].find()
    assert (parked["role"], parked["count"]) == ("audit", 1)
    assert [bytes(value) for _, value in parked["fields"]] == [b"\xff", b"poison"]
    assert client.xpending(stream, AuditRole.name)["pending"] == 0


def test_a_payload_that_cannot_be_decoded_is_parked_and_blocks_nothing(
    store: Store, client: Any, mongo: Any, stream: str
) -> None:
    state(store, 1)
    broken = Event("state", ("x", "b"), "d1", 1, "upsert", 1, 1, Origin("h", 1), b"\xc1")
    client.xadd(stream, {"e": broken.header(), "p": broken.body})
    state(store, 2)
    loop(client, mongo, stream).run_until_idle()
    assert mongo["audit-items"].count_documents({}) == 2
    assert mongo["parked-items"].count_documents({}) == 1
    assert client.xpending(stream, AuditRole.name)["pending"] == 0


def test_an_entry_that_was_trimmed_while_pending_is_let_go(store: Store, client: Any, mongo: Any, stream: str) -> None:
    state(store, 1)
    state(store, 2)
    client.xgroup_create(stream, AuditRole.name, id="0", mkstream=True)
    client.xreadgroup(AuditRole.name, "dead", {stream: ">"}, count=1)
    client.xtrim(stream, maxlen=1, approximate=False)
    loop(client, mongo, stream, "two", claim_idle_ms=0).run_until_idle()
    assert mongo["audit-items"].count_documents({}) == 1
    assert client.xpending(stream, AuditRole.name)["pending"] == 0


def test_a_failed_batch_stays_pending_and_is_applied_later(store: Store, client: Any, mongo: Any, stream: str) -> None:
    state(store, 1)
    failing = loop(client, mongo, stream)

    def fail(_: Any) -> int:
        raise pymongo.errors.AutoReconnect("gone")

    role: Any = failing._role
    apply, role.apply = role.apply, fail
    with pytest.raises(pymongo.errors.AutoReconnect):
        failing.run_once(0)
    assert client.xpending(stream, AuditRole.name)["pending"] == 1
    role.apply = apply
    assert loop(client, mongo, stream, "two", claim_idle_ms=0).run_until_idle() == 1


def worker(servers: Endpoints, database: str, *arguments: str) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "CC_MONGO_CONNECTION_STRING": servers.mongo_connection_string(database),
        "CC_REDIS_HOST": servers.redis_host,
        "CC_REDIS_PORT": str(servers.redis_port),
    }
    command = [sys.executable, "-m", "backtest_kit_worker", *arguments]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def test_sigkill_loses_and_doubles_nothing(servers: Endpoints, database: str, store: Store, mongo: Any) -> None:
    for value in range(200):
        state(store, value)
    killed = worker(servers, database, "--batch-max", "7")
    eventually(lambda: mongo["audit-items"].count_documents({}) >= 7)
    killed.kill()
    killed.communicate()
    finishing = worker(servers, database, "--roles", "audit", "--once", "--claim-idle-ms", "1")
    _, log = finishing.communicate(timeout=60)
    assert finishing.returncode == 0, log
    assert mongo["audit-items"].distinct("rev") == list(range(1, 201))
    assert mongo["audit-items"].count_documents({}) == 200


def test_a_document_is_never_confused_with_another(store: Store, client: Any, mongo: Any, stream: str) -> None:
    store.write(make_change(Key(STATE, ("a/b", "c")), {"data": 1}, 1))
    store.write(make_change(Key(STATE, ("a", "b/c")), {"data": 2}, 1))
    loop(client, mongo, stream).run_until_idle()
    assert mongo["audit-items"].count_documents({}) == 2
