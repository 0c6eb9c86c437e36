"""Recovery on real servers: what MongoDB holds reaches the feed and the audit log, whatever happened to its event."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from bson.int64 import Int64
from tests.worker.recovery_support import MINUTE_MS, Bed, bed_for, candle, series, state_key

from backtest_kit_mongo.adapters.instances import CandleInstance, MeasureInstance, MemoryInstance, StorageInstance
from backtest_kit_mongo.coherence.codec import pack
from backtest_kit_mongo.coherence.events import Event
from backtest_kit_mongo.coherence.lists import Expected, Merge
from backtest_kit_mongo.coherence.record import Key, Record
from backtest_kit_mongo.domains.checks import make_change
from backtest_kit_mongo.domains.table import DOMAINS, MEASURE, MEMORY, STORAGE
from backtest_kit_mongo.embedded import Endpoints
from backtest_kit_mongo.testing.examples import BASE_MS, example
from backtest_kit_mongo.testing.handles import DOCUMENTS, Handle, parts
from backtest_kit_worker.roles.audit import AuditWriter

pytestmark = pytest.mark.live

BRIEF = 100
"""A grace in ms that lets all of a few writes be read before they are judged."""


@pytest.fixture
def database(new_database: Callable[[], str]) -> str:
    return f"{new_database()}_recovery"


@pytest.fixture(scope="module")
def shared(servers: Endpoints, new_database: Callable[[], str]) -> Iterator[Bed]:
    with bed_for(servers, f"{new_database()}_recovery") as made:
        yield made


@pytest.fixture
def bed(shared: Bed) -> Bed:
    shared.clear()
    return shared


def reported(event: Event) -> tuple[Any, ...]:
    """All of an event that does not depend on when and where it was published."""
    return event.id, event.key, event.operation, event.when, event.body


# -- lost events


def test_a_write_whose_writer_died_before_redis_is_republished_and_audited(bed: Bed) -> None:
    record = bed.write_unannounced(1)
    bed.work_until(lambda: bed.data() == [1])
    (event,) = bed.events()
    assert reported(event) == (f"state/{record.id}/1", ("signal", "bucket"), "upsert", 1, pack({"data": 1}))
    assert bed.recovery.counts["republished"] == 1


def test_a_write_that_was_announced_is_left_alone(bed: Bed) -> None:
    for value in range(3):
        bed.write(value)
    bed.catch_up()
    assert bed.data() == [0, 1, 2]
    assert [event.rev for event in bed.events() if event.key == ("signal", "bucket")] == [1, 2, 3]


def test_nothing_is_republished_before_the_grace_is_over(bed: Bed) -> None:
    bed.restart(grace_ms=600_000)
    bed.write_unannounced(1)
    while not bed.recovery.unjudged_count:
        bed.work()
    bed.work()
    assert bed.events() == []


def test_nothing_is_republished_while_the_audit_role_is_behind(bed: Bed) -> None:
    bed.audit.run_once(block_ms=0)
    bed.write(1)
    for _ in range(5):
        bed.work(audit=False)
    assert len(bed.events()) == 1
    bed.work_until(lambda: bed.data() == [1])
    assert len(bed.events()) == 1


def test_without_an_audit_group_changes_wait(bed: Bed, caplog: pytest.LogCaptureFixture) -> None:
    bed.write(1)
    for _ in range(5):
        bed.work(audit=False)
    assert (bed.recovery.unjudged_count, len(bed.events())) == (1, 1)
    assert "no audit group" in caplog.text


def test_an_event_that_comes_late_makes_no_second_record(bed: Bed) -> None:
    record = bed.write_unannounced(1)
    bed.work_until(lambda: bed.data() == [1])
    (event,) = bed.events()
    bed.redis.xadd(bed.deployment.streams[0], {"e": event.header(), "p": event.body})
    bed.audit.run_until_idle()
    assert [(each["_id"], each["rev"]) for each in bed.records()] == [(f"state/{record.id}/1", 1)]


def test_flushall_before_the_audit_role_saw_anything_loses_nothing(bed: Bed) -> None:
    for value in range(5):
        bed.write(value)
    bed.redis.flushall()
    bed.work_until(lambda: bed.data() == [0, 1, 2, 3, 4])
    bed.redis.flushall()
    bed.write(5)
    bed.work_until(lambda: bed.data() == [0, 1, 2, 3, 4, 5])


def test_a_suffix_that_redis_lost_is_published_again(bed: Bed) -> None:
    bed.write(0)
    bed.audit.run_until_idle()
    for value in (1, 2, 3):
        bed.write(value)
    stream = bed.deployment.streams[0]
    first = bed.redis.xrange(stream)[0]
    # As after a restart from an older file: the end is gone, the group stands where it stood.
    bed.redis.delete(stream)
    bed.redis.xadd(stream, first[1], id=first[0])
    bed.redis.xgroup_create(stream, "audit", id=first[0])
    bed.work_until(lambda: bed.data() == [0, 1, 2, 3])


def test_an_event_that_redis_loses_after_it_was_republished_is_republished_again(bed: Bed) -> None:
    bed.write_unannounced(1)
    while not bed.events():
        bed.work(audit=False)
    bed.lose_feed()
    bed.work_until(lambda: bed.data() == [1])


def test_an_event_that_can_never_be_recorded_becomes_a_gap_and_blocks_nothing(bed: Bed) -> None:
    record = bed.write_unannounced(1)
    bed.write_unannounced(2, item="other")
    role: Any = bed.audit._role
    apply = role.apply

    def without_it(events: Any) -> int:  # The loop parks what its role cannot apply.
        return int(apply([(entry, event) for entry, event in events if event.document != record.id]))

    role.apply = without_it
    bed.work_until(lambda: len(bed.records()) == 2)
    assert {each["documentId"]: each["operation"] for each in bed.records()}[record.id] == "gap"


@pytest.mark.parametrize("partitions", [1, 3])
def test_a_republished_event_is_byte_for_byte_the_writers_own(
    servers: Endpoints, database: str, partitions: int
) -> None:
    with bed_for(servers, database, partitions=partitions) as bed:
        bed.restart(grace_ms=BRIEF)
        for domain in DOCUMENTS:
            handle = Handle(bed.store, Key(domain, parts(domain, "x")))
            for when in (BASE_MS, BASE_MS + 1):
                handle.write(
                    example(domain, handle.key.item), when
                )  # The second is known by its `when` alone, if at all.
            if domain.has_removed:
                bed.store.remove(handle.key)
        CandleInstance(bed.store, "BTC", "1m", "e").write_candles_data(
            [{"timestamp": minute * MINUTE_MS, **candle()} for minute in (3, 1, 2, 9)]
        )
        by_stream = {stream: bed.redis.xrange(stream) for stream in bed.deployment.streams}
        published = {reported(event) for event in bed.events()}
        bed.lose_feed()
        bed.work_until(lambda: len(bed.records()) == len(published), within_s=20)
        assert {reported(event) for event in bed.events()} == published
        again = {stream: bed.redis.xlen(stream) for stream in bed.deployment.streams}
        assert again == {stream: len(entries) for stream, entries in by_stream.items()}
        assert {record["domain"] for record in bed.records()} == {domain.name for domain in DOMAINS}


# -- payloads that the log tells in part only


def measure_key() -> Key:
    return Key(MEASURE, ("b", "k"))


def test_a_removal_is_rebuilt_from_the_record_before_it(bed: Bed) -> None:
    measure = MeasureInstance(bed.store, "b")
    measure.write_measure_data({"id": "k", "data": [1], "removed": False}, "k", 1)
    bed.work_until(lambda: len(bed.records()) == 1)
    bed.remove_unannounced(measure_key())
    measure.write_measure_data({"id": "k", "data": [2], "removed": False}, "k", 1)  # What is found now is newer.
    bed.work_until(lambda: len(bed.records()) == 3)
    removal = bed.records()[1]
    assert (removal["operation"], removal["payload"]) == ("remove", {"id": "k", "data": [1], "removed": True})
    # Where the record before it is put right in the same moment, from what that one should have been.
    name = removal["documentId"]
    wrong = [
        {**removal, "_id": f"measure/{name}/{rev}", "rev": Int64(rev), "operation": operation,
         "payload": {"id": "k", "data": [666], "removed": operation == "remove"}}
        for rev, operation in ((4, "upsert"), (5, "remove"))
    ]  # fmt: skip
    AuditWriter(bed.mongo).write(wrong)
    bed.restart(await_ms=300)  # So that it reads them together.
    measure.write_measure_data({"id": "k", "data": [4], "removed": False}, "k", 1)
    bed.remove_unannounced(measure_key())
    measure.write_measure_data({"id": "k", "data": [6], "removed": False}, "k", 1)
    bed.catch_up()
    found = [(record["rev"], record["detail"], record["payload"]) for record in bed.records(operation="correction")]
    four = {"id": "k", "data": [4]}
    assert found == [(4, "upsert", {**four, "removed": False}), (5, "remove", {**four, "removed": True})]


def test_a_payload_equal_to_the_one_before_is_rebuilt_though_mongodb_leaves_it_out(bed: Bed) -> None:
    for _ in range(3):
        bed.write_unannounced(7, when=5)
    bed.work_until(lambda: bed.data() == [7, 7, 7])
    assert [record["when"] for record in bed.records()] == [5, 5, 5]


def test_rapid_revisions_are_each_rebuilt_though_the_document_is_newer(bed: Bed) -> None:
    for value in (1, 2, 2, 3, 3, 3, 4):
        bed.write_unannounced(value, when=value)
    bed.work_until(lambda: bed.data() == [1, 2, 2, 3, 3, 3, 4])
    assert [record["when"] for record in bed.records()] == [1, 2, 2, 3, 3, 3, 4]


def test_a_payload_that_nothing_tells_becomes_a_gap_not_a_guess(bed: Bed) -> None:
    bed.write_unannounced(1)
    bed.write_unannounced(2)
    bed.catch_up()
    bed.mongo["audit-items"].delete_one({"rev": 2})
    bed.write_unannounced(2)
    bed.write_unannounced(3)
    bed.work_until(lambda: len(bed.records()) == 3)
    gap = bed.records(rev=3)[0]
    assert (gap["operation"], gap["payload"]) == ("gap", None)
    assert "state before them is not known" in gap["reason"]
    assert bed.recovery.counts["gap"] >= 1


# -- lists and candles


def test_only_the_rows_whose_events_are_missing_are_republished(bed: Bed) -> None:
    ledger = StorageInstance(bed.store, True)
    ledger.write_storage_data([{"id": "a", "priority": 1}])
    scope = Key(STORAGE, (True,))
    rows = tuple(
        Expected(make_change(scope.child(item), {"id": item, "priority": 2}), rev)
        for item, rev in (("a", 1), ("b", None))
    )
    bed.store.truth.merge(Merge(scope, rows, None))
    bed.work_until(lambda: len(bed.records()) == 3)
    found = sorted((each["key"][-1], each["rev"], each["payload"]["priority"]) for each in bed.records())
    assert found == [("a", 1, 1), ("a", 2, 2), ("b", 1, 2)]
    assert len(bed.events()) == 3


def test_new_candles_are_republished_as_the_batch_that_their_writer_would_have_reported(bed: Bed) -> None:
    bed.restart(grace_ms=BRIEF, await_ms=300)  # All rows of an append are read before the first is judged.
    bed.append_unannounced(1, 2, 3, 9)
    bed.append_unannounced(0, interval="5m")
    bed.work_until(lambda: len(bed.records()) == 2)
    assert [(each["_id"], each["payload"]) for each in bed.records()] == [
        (f"candle/e:BTC:1m:{MINUTE_MS}/1", {"ranges": [[60_000, 180_000, 3], [540_000, 540_000, 1]], "count": 4}),
        ("candle/e:BTC:5m:0/1", {"ranges": [[0, 0, 1]], "count": 1}),
    ]


def test_candles_whose_batch_was_reported_are_left_alone(bed: Bed) -> None:
    candles = CandleInstance(bed.store, "BTC", "1m", "e")
    candles.write_candles_data([{"timestamp": minute * MINUTE_MS, **candle()} for minute in (5, 6)])
    candles.write_candles_data([{"timestamp": minute * MINUTE_MS, **candle()} for minute in (4, 5, 6, 7)])
    bed.append_unannounced(8)
    bed.work_until(lambda: len(bed.records()) == 3)
    assert [event.document for event in bed.events()] == ["e:BTC:1m:300000", "e:BTC:1m:240000", "e:BTC:1m:480000"]


def test_a_batch_that_was_read_in_pieces_is_republished_whole(bed: Bed) -> None:
    bed.restart(grace_ms=3_000, batch_max=3)  # Longer than a slow machine needs for all pieces.
    bed.append_unannounced(*range(20))
    bed.work_until(lambda: bed.records())
    assert [each["payload"]["ranges"] for each in bed.records()] == [[[0, 19 * MINUTE_MS, 20]]]


def test_a_batch_found_only_by_the_search_of_its_series_is_not_reported_again(bed: Bed) -> None:
    candles = CandleInstance(bed.store, "BTC", "1m", "e")
    candles.write_candles_data([{"timestamp": minute * MINUTE_MS, **candle()} for minute in range(3)])
    bed.audit.run_until_idle()
    # As after a restart in the middle of a batch: its first row is not seen again.
    assert bed.recovery._judge.coverage.uncovered([series().child(MINUTE_MS)], thorough=True) == set()
    assert bed.recovery._judge.coverage.uncovered([series().child(7 * MINUTE_MS)], thorough=True) != set()


# -- the cache


def cached(bed: Bed, key: Key) -> Record:
    """Read until the entry is in the cache, which a new Redis refuses for a while."""

    def entries() -> list[bytes]:
        return [name for name in bed.redis.scan_iter() if b":e:" in name and str(key.item).encode() in name]

    while not entries():
        bed.store.read(key)
    return bed.store.read(key)


def test_a_write_past_the_cache_makes_the_stale_entry_go(bed: Bed) -> None:
    bed.write(1, item="past")
    assert cached(bed, state_key("past")).rev == 1
    bed.write_unannounced(2, item="past")
    assert bed.store.read(state_key("past")).rev == 1  # The cache does not know.
    bed.work_until(lambda: bed.data() == [1, 2])
    assert bed.store.read(state_key("past")).payload == {"data": 2}
    assert bed.recovery.relayed_count >= 1


def test_a_write_that_the_cache_knows_keeps_its_entry(bed: Bed) -> None:
    bed.write(1, item="known")
    cached(bed, state_key("known"))
    bed.catch_up()
    assert [name for name in bed.redis.scan_iter() if b":e:state:signal:known" in name]


def test_a_removal_past_the_cache_makes_the_stale_entry_go(bed: Bed) -> None:
    memory = MemoryInstance(bed.store, "signal", "bucket")
    memory.write_memory_data({**example(MEMORY), "removed": False}, "gone", BASE_MS)
    key = Key(MEMORY, ("signal", "bucket", "gone"))
    cached(bed, key)
    bed.remove_unannounced(key)
    bed.work_until(lambda: len(bed.records()) == 2)
    assert bed.store.read(key).removed
