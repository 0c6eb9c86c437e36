"""What change feeds usually get wrong, each as the promise that holds here. Details are in the tests of the parts."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import pytest
import redis
from tests.integration.support import eventually
from tests.worker.feed_support import OwnRedis, at_age, event, pending_ids, publish

from backtest_kit_mongo.feed.dead_letters import DeadLetters
from backtest_kit_mongo.feed.positions import EntryId, look
from backtest_kit_worker.dead_letters import DeadLetterWriter
from backtest_kit_worker.loop import Loop, LoopOptions
from backtest_kit_worker.roles.audit import AuditRole
from backtest_kit_worker.services.trim import TrimService

pytestmark = pytest.mark.live
Audit = Callable[..., Loop]


@pytest.fixture
def audit(client: Any, mongo: Any, stream: str) -> Audit:
    def make(consumer: str = "one", server: Any = client, **options: int) -> Loop:
        chosen = LoopOptions(**{"block_ms": 5, "claim_idle_ms": 0, "retry_ms": 1, **options})
        return Loop(server, [stream], AuditRole(mongo), DeadLetterWriter(mongo), consumer, chosen)

    return make


def recorded(mongo: Any) -> list[tuple[str, int]]:
    return sorted((row["documentId"], row["rev"]) for row in mongo["audit-items"].find())


def test_trim_with_unacknowledged_entries_removes_none_of_them(
    audit: Audit, client: Any, mongo: Any, stream: str
) -> None:
    ids = publish(client, stream, *map(event, range(4)))
    audit().run_until_idle()
    client.xgroup_create(stream, "replica", id="0")
    client.xreadgroup("replica", "slow", {stream: ">"}, count=3)
    client.xack(stream, "replica", ids[0])
    assert TrimService(mongo, client, (stream,), -1).run_once() == 1
    assert [entry.decode() for entry, _ in client.xrange(stream)] == ids[1:]


def test_a_consumer_gone_for_ever_leaves_its_entries_to_others_and_is_forgotten(
    audit: Audit, client: Any, mongo: Any, stream: str
) -> None:
    publish(client, stream, event(0), event(1))
    client.xgroup_create(stream, "audit", id="0")
    client.xreadgroup("audit", "gone", {stream: ">"})
    working = audit(dead_consumer_ms=0)
    working.run_until_idle()
    working.drain()
    assert recorded(mongo) == [("d0", 1), ("d1", 1)]
    assert client.xinfo_consumers(stream, "audit") == []


def test_a_poison_entry_is_parked_with_its_cause_and_blocks_nothing(
    audit: Audit, client: Any, mongo: Any, stream: str
) -> None:
    publish(client, stream, event(0))
    client.xadd(stream, {"anything": b"\xff"})
    publish(client, stream, event(1))
    audit().run_until_idle()
    assert recorded(mongo) == [("d0", 1), ("d1", 1)]
    assert "not a change event" in mongo["parked-items"].find_one()["cause"]
    assert pending_ids(client, stream, "audit") == {}


def test_duplicate_delivery_has_one_effect(audit: Audit, client: Any, mongo: Any, stream: str) -> None:
    publish(client, stream, event(0), event(0), event(0))
    working = audit()
    working.run_until_idle()
    client.xgroup_setid(stream, "audit", "0")
    working.run_until_idle()
    assert recorded(mongo) == [("d0", 1)]
    assert (working.counts["applied"], working.counts["duplicate"]) == (1, 5)


def test_reordered_delivery_records_every_revision(audit: Audit, client: Any, mongo: Any, stream: str) -> None:
    publish(client, stream, event(0, 3), event(0, 1), event(0, 2))
    audit(batch_max=1).run_until_idle()
    assert recorded(mongo) == [("d0", 1), ("d0", 2), ("d0", 3)]


@pytest.mark.parametrize("loss", ["stream deleted", "group deleted"])
def test_a_worker_goes_on_when_the_stream_or_its_group_is_deleted_under_it(
    audit: Audit, client: Any, mongo: Any, stream: str, loss: str
) -> None:
    working, stop = audit(block_ms=100), threading.Event()
    thread = threading.Thread(target=working.run, args=(stop,))
    thread.start()
    try:
        publish(client, stream, event(0))
        eventually(lambda: recorded(mongo) == [("d0", 1)])
        if loss == "stream deleted":
            client.delete(stream)
        else:
            client.xgroup_destroy(stream, "audit")
        publish(client, stream, event(1))
        eventually(lambda: recorded(mongo) == [("d0", 1), ("d1", 1)])
    finally:
        stop.set()
        thread.join()
    assert mongo["parked-items"].count_documents({}) == 0


def test_a_failover_that_loses_entries_leaves_a_worker_that_reads_what_comes_after(
    audit: Audit, mongo: Any, stream: str, own_redis: OwnRedis, tmp_path: Path
) -> None:
    saved = tmp_path.parent / f"{tmp_path.name}-saved"
    with own_redis.client() as client:
        working = audit(server=own_redis.client())
        publish(client, stream, event(0))
        working.run_until_idle()
        shutil.copytree(tmp_path, saved)
        # The old master's clock was ahead, so what it gave these ids is higher than all that the new one will give.
        publish(client, stream, event(1), at=at_age(client, -60_000))
        publish(client, stream, event(2))
        working.run_until_idle()
    own_redis.stop()
    shutil.rmtree(tmp_path)
    shutil.copytree(saved, tmp_path)
    own_redis.start()
    with own_redis.client() as client:
        (after,) = publish(client, stream, event(3))
        eventually(lambda: _runs(working))
        working.run_until_idle()
        assert EntryId.parse(after) < EntryId.parse(at_age(client, -50_000))
        assert recorded(mongo) == [(f"d{n}", 1) for n in range(4)]
        position = look(client, stream)
        assert position is not None
        assert [(group.owed_count, group.lag_ms) for group in position.groups] == [(0, 0)]


def _runs(working: Loop) -> bool:
    """Whether an iteration succeeded: the first ones meet connections that died with the old server."""
    try:
        working.run_once(0)
    except redis.ConnectionError:
        return False
    return True


def test_a_group_that_stands_beyond_the_end_of_its_stream_starts_over(
    audit: Audit, client: Any, mongo: Any, stream: str
) -> None:
    publish(client, stream, event(0))
    client.xgroup_create(stream, "audit", id=at_age(client, -60_000))
    audit().run_until_idle()
    assert recorded(mongo) == [("d0", 1)]


def test_a_clock_going_backwards_neither_hides_entries_nor_makes_lag_negative(
    audit: Audit, client: Any, mongo: Any, stream: str
) -> None:
    publish(client, stream, event(0), at=at_age(client, -60_000))
    audit().run_until_idle()
    publish(client, stream, event(1))
    position = look(client, stream)
    assert position is not None
    (group,) = position.groups
    assert (group.owed_count, group.lag_ms) == (1, 0)
    audit().run_until_idle()
    assert recorded(mongo) == [("d0", 1), ("d1", 1)]
    assert TrimService(mongo, client, (stream,), 0).run_once() == 0


def test_a_message_of_an_unknown_version_is_kept_whole_for_a_worker_that_can_read_it(
    audit: Audit, client: Any, mongo: Any, stream: str
) -> None:
    newer = msgpack.packb({**msgpack.unpackb(event(0).header()), "v": 2, "more": "fields"})
    client.xadd(stream, {"e": newer, "p": event(0).body, "x": b"new"})
    publish(client, stream, event(1))
    audit().run_until_idle()
    assert recorded(mongo) == [("d1", 1)]
    (item,) = DeadLetters(mongo, client, [stream]).list()
    assert "version 2" in item.cause
    assert item.fields == {b"e": newer, b"p": event(0).body, b"x": b"new"}
    assert TrimService(mongo, client, (stream,), -1).run_once() == 2
