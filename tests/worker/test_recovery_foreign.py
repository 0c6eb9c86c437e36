"""Writers that do not know this package: the npm package, a shell. What they change is recorded, and the cache forgets
it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from bson import Decimal128
from tests.worker.recovery_support import Bed, bed_for, state_key

from backtest_kit_mongo.backends.mongo.decoding import unreferenced
from backtest_kit_mongo.coherence.deletion import Delete
from backtest_kit_mongo.embedded import Endpoints
from backtest_kit_mongo.feed.opened import FeedServers
from backtest_kit_mongo.operate.doctor import feed_state

pytestmark = pytest.mark.live

PLACE = {"signalId": "signal", "bucketName": "bucket"}


@pytest.fixture(scope="module")
def shared(servers: Endpoints, new_database: Callable[[], str]) -> Iterator[Bed]:
    with bed_for(servers, f"{new_database()}_foreign") as made:
        yield made


@pytest.fixture
def bed(shared: Bed) -> Bed:
    shared.clear()
    return shared


def reported(bed: Bed) -> list[tuple[int, str, str | None, Any]]:
    """What the audit log holds: revision, operation, what the foreign writer did, data."""
    return [(r["rev"], r["operation"], r.get("detail"), (r["payload"] or {}).get("data")) for r in bed.records()]


def npm_writes(bed: Bed, data: Any, when: int = 1) -> None:
    """An upsert as the npm package sends it."""
    now = datetime.now(UTC)
    bed.states.update_one(
        PLACE,
        {
            "$set": {"payload": {"data": data}, "when": when, "updatedDate": now},
            "$setOnInsert": {"createDate": now, "__v": 0},
        },
        upsert=True,
    )


def test_an_insert_without_a_revision_is_recorded_as_foreign(bed: Bed) -> None:
    npm_writes(bed, 1)
    bed.work_until(bed.records)
    (record,) = bed.records()
    document = bed.states.find_one()
    assert record["_id"] == f"state/{document['_id']}/0~{record['foreign']}"
    assert (record["key"], record["when"], record["payload"]) == (["signal", "bucket"], 1, {"data": 1})
    assert reported(bed) == [(0, "foreign", "insert", 1)]
    assert bed.events() == []
    # Replicas and consumers of the feed do not see it, and the doctor says so.
    servers = FeedServers(bed.deployment.settings, bed.mongo, bed.redis)
    (finding,) = feed_state.foreign(servers)
    assert finding.seen.startswith("1 changes by other programs")
    assert "replicas and `consume` do not see them" in finding.advice


def test_an_update_that_raises_no_revision_is_recorded_after_the_revision_that_it_met(bed: Bed) -> None:
    bed.write(1)
    npm_writes(bed, 2)
    bed.write(3)
    bed.work_until(lambda: len(bed.records()) == 3)
    assert reported(bed) == [(1, "upsert", None, 1), (1, "foreign", "update", 2), (2, "upsert", None, 3)]


def test_a_foreign_update_of_a_part_is_recorded_whole(bed: Bed) -> None:
    bed.write({"a": 1, "b": 1})
    bed.states.update_one(PLACE, {"$set": {"payload.data.b": 2}})
    bed.states.update_one(PLACE, {"$set": {"payload.data.a": 3}})
    bed.work_until(lambda: len(bed.records()) == 3)
    assert [r["payload"] for r in bed.records()[1:]] == [{"data": {"a": 1, "b": 2}}, {"data": {"a": 3, "b": 2}}]


def test_a_foreign_update_that_is_not_understood_is_recorded_without_a_guess(bed: Bed) -> None:
    bed.restart(grace_ms=100)
    bed.write([1, 2, 3])
    bed.states.update_one(PLACE, {"$set": {"payload.data.1": 8}})
    bed.states.update_one(PLACE, {"$set": {"payload.data.1": 9}})
    bed.work_until(lambda: len(bed.records()) == 3)
    assert [row[3] for row in reported(bed)] == [[1, 2, 3], None, [1, 9, 3]]
    assert "inside a list" in bed.records()[1]["reason"]


def test_a_revision_after_a_foreign_change_is_built_on_that_change(bed: Bed) -> None:
    bed.write_unannounced(1)
    bed.states.update_one(PLACE, {"$set": {"payload": {"data": 2}}})
    bed.write_unannounced(2)  # Equal to what it met, so MongoDB's log does not tell the payload.
    reference = {"$ref": "a", "$id": 1}
    bed.write_unannounced(reference)
    bed.states.update_one(PLACE, {"$set": {"payload.more": 1}})
    bed.work_until(lambda: len(bed.records()) == 5)
    assert [unreferenced(row[3]) for row in reported(bed)] == [1, 2, 2, reference, reference]


def test_a_revision_is_not_mistaken_for_the_foreign_change_that_it_was_found_with(bed: Bed) -> None:
    bed.write(1)
    bed.write_unannounced(2)  # Its time did not change, so MongoDB's log does not tell it.
    bed.states.update_one(PLACE, {"$set": {"payload": {"data": 5}}})
    bed.restart(grace_ms=100)
    bed.work_until(lambda: len(bed.records()) == 3)
    assert reported(bed) == [(1, "upsert", None, 1), (2, "upsert", None, 2), (2, "foreign", "update", 5)]


def test_however_far_behind_recovery_is_a_revision_is_not_mistaken_for_a_foreign_change_that_came_later(
    bed: Bed,
) -> None:
    bed.write(1)
    bed.catch_up()
    bed.restart(batch_max=1)
    bed.write_unannounced(2)
    bed.states.update_one({}, {"$set": {"payload.data": 99}})
    bed.catch_up()
    assert [(r["rev"], r["operation"], r["payload"]["data"]) for r in bed.records()] == [
        (1, "upsert", 1), (2, "upsert", 2), (2, "foreign", 99),
    ]  # fmt: skip


def test_while_recovery_may_not_read_on_a_later_document_is_not_trusted(bed: Bed) -> None:
    bed.write(1)
    bed.catch_up()
    bed.restart(batch_max=1, unjudged_max=1)
    bed.write_unannounced(2)
    bed.states.update_one({}, {"$set": {"payload.data": 99}})
    bed.catch_up()
    assert [r["payload"]["data"] for r in bed.records()] == [1, 2, 99]


def test_a_replaced_document_is_recorded_and_later_changes_are_not_lost(bed: Bed) -> None:
    bed.write(1)
    bed.write(2)
    bed.catch_up()
    bed.states.replace_one(PLACE, {**PLACE, "payload": {"data": 3}, "when": 5})
    bed.write(4)  # Revision 1 once more.
    bed.work_until(lambda: len(bed.records()) == 4)
    assert reported(bed) == [
        (1, "upsert", None, 1), (2, "upsert", None, 2), (2, "foreign", "replace", 3), (2, "foreign", "update", 4),
    ]  # fmt: skip


def test_a_hard_delete_is_recorded(bed: Bed) -> None:
    bed.write(1)
    bed.states.delete_one(PLACE)
    bed.work_until(lambda: len(bed.records()) == 2)
    assert reported(bed) == [(1, "upsert", None, 1), (1, "foreign", "delete", None)]
    assert bed.records()[1]["key"] == ["signal", "bucket"]


@pytest.mark.parametrize("seen", ["event", "log", "new process"])
def test_a_deletion_by_this_package_is_a_revision_with_who_and_why_and_no_foreign_change(bed: Bed, seen: str) -> None:
    said = {"by": "me", "why": "it is over"}
    bed.write(1)
    if seen == "event":
        bed.store.delete(state_key(), said)
    else:  # Its deleter died before he told anybody.
        bed.store.truth.delete(Delete(state_key(), said, None))
    if seen == "new process":
        bed.catch_up()
        bed.restart(look_back_ms=60_000)
    bed.write(2)
    bed.catch_up()
    records = [(r["rev"], r["operation"], r["payload"]) for r in bed.records()]
    assert sorted(records[::2], key=repr) + records[1:2] == [
        (1, "upsert", {"data": 1}), (1, "upsert", {"data": 2}), (2, "delete", said)
    ]  # fmt: skip
    assert {e.operation for e in bed.events() if e.rev == 2 and e.key == state_key().parts} == {"delete"}


def test_the_key_of_a_deleted_document_is_taken_from_its_records(bed: Bed) -> None:
    bed.write(1)
    bed.catch_up()
    bed.restart()
    bed.states.delete_one(PLACE)
    bed.work_until(lambda: len(bed.records()) == 2)
    assert bed.records()[1]["key"] == ["signal", "bucket"]


def test_revisions_that_a_foreign_writer_skipped_become_gaps(bed: Bed) -> None:
    bed.write(1)
    bed.catch_up()
    bed.states.update_one(PLACE, {"$set": {"payload": {"data": 2}, "rev": 4}})
    bed.work_until(lambda: len(bed.records()) == 4)
    assert [row[:2] for row in reported(bed)] == [(1, "upsert"), (2, "gap"), (3, "gap"), (4, "upsert")]


def test_a_touch_that_changes_nothing_is_not_recorded(bed: Bed) -> None:
    bed.write(1)
    bed.states.update_one(PLACE, {"$set": {"updatedDate": datetime.now(UTC)}})
    bed.catch_up()
    assert reported(bed) == [(1, "upsert", None, 1)]


def test_a_payload_that_this_package_cannot_store_is_recorded_as_unknown(bed: Bed) -> None:
    bed.states.insert_one({**PLACE, "payload": {"data": Decimal128("1.5")}})
    bed.work_until(bed.records)
    assert reported(bed) == [(0, "foreign", "insert", None)]
    assert "never stores" in bed.records()[0]["reason"]


def test_a_document_whose_key_columns_are_not_a_key_is_recorded_without_one(bed: Bed) -> None:
    bed.states.insert_one({"signalId": 7, "payload": {"data": 1}})
    bed.work_until(bed.records)
    assert bed.records()[0]["key"] == []


def test_a_foreign_candle_is_recorded_with_its_columns(bed: Bed) -> None:
    columns = {"open": 1.0, "high": 2.0, "low": 0.5, "close": 1.5, "volume": 3.0}
    place = {"exchangeName": "e", "symbol": "BTC", "interval": "1m", "timestamp": 60_000.0}
    bed.mongo["candle-items"].insert_one({**place, **columns})
    bed.mongo["candle-items"].update_one(place, {"$set": {"close": 1.75}})
    bed.work_until(lambda: len(bed.records()) == 2)
    assert [r["key"] for r in bed.records()] == [["e", "BTC", "1m", 60_000]] * 2
    assert bed.records()[1]["payload"] == {**columns, "close": 1.75}


def test_a_foreign_change_is_recorded_once_though_it_is_judged_again(bed: Bed) -> None:
    bed.write(1)
    bed.catch_up()
    token = bed.mongo["recovery-state"].find_one({"_id": "token"})
    assert token is not None
    npm_writes(bed, 2)
    bed.write(3)
    bed.work_until(lambda: len(bed.records()) == 3)
    bed.recovery.close()
    bed.mongo["recovery-state"].replace_one({"_id": "token"}, token)
    bed.restart()  # It knows nothing of the document, and finds it at revision 2.
    bed.catch_up()
    assert reported(bed) == [(1, "upsert", None, 1), (1, "foreign", "update", 2), (2, "upsert", None, 3)]


def test_a_foreign_change_seen_by_a_new_process_is_placed_before_the_revision_that_followed(bed: Bed) -> None:
    bed.write(1)
    bed.catch_up()
    bed.recovery.close()
    npm_writes(bed, 2)
    bed.write(3)
    bed.restart(grace_ms=100, batch_max=1)  # It knows nothing of the document, and finds it at revision 2.
    bed.work_until(lambda: len(bed.records()) == 3)
    assert reported(bed) == [(1, "upsert", None, 1), (1, "foreign", "update", 2), (2, "upsert", None, 3)]


@pytest.mark.parametrize("change", ["update", "delete", "insert"])
def test_the_cache_forgets_what_a_foreign_writer_changed(bed: Bed, change: str) -> None:
    item, place = f"cached-{change}", {**PLACE, "bucketName": f"cached-{change}"}
    if change != "insert":
        bed.write(1, item=item)
    entry = f":e:state:signal:{item}".encode()
    while not any(name.endswith(entry) for name in bed.redis.scan_iter()):
        bed.store.read(state_key(item))  # A new Redis installs nothing for a while.
    if change == "update":
        bed.states.update_one(place, {"$set": {"payload": {"data": 2}}})
    elif change == "delete":
        bed.states.delete_one(place)
    else:
        bed.states.insert_one({**place, "payload": {"data": 2}})
    bed.work_until(lambda: not any(name.endswith(entry) for name in bed.redis.scan_iter()))
    assert bed.store.read(state_key(item)).payload == (None if change == "delete" else {"data": 2})


def test_a_dropped_collection_is_complained_about_and_the_cache_forgets_it(
    bed: Bed, caplog: pytest.LogCaptureFixture
) -> None:
    bed.write(1, item="dropped")
    while not any(b":e:state:" in name for name in bed.redis.scan_iter()):
        bed.store.read(state_key("dropped"))
    bed.mongo["state-items"].drop()
    bed.catch_up()
    assert "drop of state-items" in caplog.text
    assert not bed.store.read(state_key("dropped")).exists
