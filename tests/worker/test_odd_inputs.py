"""Whatever is put into MongoDB, the feed or the audit log costs itself: it is recorded or set aside with its cause, and
what comes before and after it is handled as if it were not there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import bson
import msgpack
import pytest
from bson import Int64, ObjectId, Regex
from bson.raw_bson import RawBSONDocument
from hypothesis import given
from hypothesis import strategies as st
from pymongo.errors import WriteError
from tests.worker.recovery_support import Bed, bed_for

from backtest_kit_mongo.audit import gaps, verify
from backtest_kit_mongo.coherence.codec import pack
from backtest_kit_mongo.coherence.events import Event, Origin, UnknownEvent, decode
from backtest_kit_mongo.embedded import Endpoints
from backtest_kit_mongo.stored import AUDIT_HEADS as HEADS
from backtest_kit_mongo.stored import AUDIT_ITEMS as ITEMS
from backtest_kit_mongo.stored import AUDIT_PENDING as PENDING
from backtest_kit_mongo.stored import AUDIT_SEALS as SEALS
from backtest_kit_verify.chaos.odd import MOMENTS, NAMES, VALUES, no_utf8
from backtest_kit_worker.services.seal import SealService

FIELDS = {
    "v": 1, "id": "state/d/1", "domain": "state", "key": ["signal", "b"], "doc": "d", "rev": 1, "op": "upsert",
    "when": 1,
    "at": 1_700_000_000_000, "host": "h", "pid": 1,
}  # fmt: skip
ODD = (
    st.none() | st.booleans() | st.integers().filter(lambda n: -(2**63) <= n < 2**64) | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=5) | st.lists(st.none() | st.text(max_size=3) | st.floats(), max_size=3) | st.just({"a": 1})
)  # fmt: skip


@given(field=st.sampled_from([*FIELDS, "trace"]), odd=ODD, left_out=st.booleans())
def test_what_is_decoded_can_be_stored_shown_and_compared_and_all_else_is_refused(
    field: str, odd: Any, left_out: bool
) -> None:
    header = {**FIELDS, field: odd}
    if left_out:
        del header[field]
    try:
        event = decode({b"e": msgpack.packb(header), b"p": pack(None)})
    except UnknownEvent:
        return
    assert type(event.rev) is int
    assert 0 < event.rev < 2**53
    assert event == decode({b"e": event.header(), b"p": event.body})
    bson.encode({"key": list(event.key), "rev": Int64(event.rev), "when": event.when, "at": event.written_ms})
    assert event.id == f"{event.domain}/{event.document}/{event.rev}"


@pytest.fixture(scope="module")
def shared(servers: Endpoints, new_database: Callable[[], str]) -> Iterator[Bed]:
    with bed_for(servers, f"{new_database()}_odd") as made:
        yield made


@pytest.fixture
def bed(shared: Bed) -> Bed:
    shared.clear()
    return shared


def document(**more: Any) -> dict[str, Any]:
    return {
        "_id": ObjectId(),
        "signalId": "signal",
        "bucketName": str(ObjectId()),
        "payload": {"data": 1},
        "when": 1,
        **more,
    }


def odd_documents() -> Iterator[Any]:
    for moment in MOMENTS:
        yield from (document(when=moment), document(when=moment, rev=1), document(rev=moment))
    for value in VALUES:
        for rev in ({}, {"rev": 1}, {"rev": 3}):
            yield from (document(payload=value, **rev), document(payload={"data": value}, **rev))
            yield from (document(updatedDate=value, createDate=value, **rev), document(signalId=value, **rev))
    yield from (document(_id=name, rev=1) for name in NAMES)
    yield no_utf8(_id="?", rev=1, payload={"data": 1}, signalId="s", bucketName="b")
    yield no_utf8(_id="?2", payload={"data": 1}, signalId="s", bucketName="b?")
    yield {"_id": 7, "rev": 1}


def test_odd_documents_cost_themselves_whether_recovery_sees_them_change_or_finds_them(bed: Bed) -> None:
    bed.write(1, item="before")
    odd = list(odd_documents())
    bed.states.insert_many(odd)
    names = [{"_id": one["_id"]} for one in odd if not isinstance(one, RawBSONDocument)]
    for name in names[::7]:
        with suppress(WriteError):  # Not every odd document has a payload to change a part of.
            bed.states.update_one(name, {"$set": {"payload.data": 2, "when": bson.DatetimeMS(2**62)}})
            bed.states.update_one(name, {"$set": {"payload.more": Regex("a"), "rev": Int64(4)}})
    bed.states.delete_many({"_id": {"$in": [name["_id"] for name in names[::11]]}})
    bed.write(2, item="after")
    bed.catch_up()
    kinds = {record["operation"] for record in bed.records()}
    assert kinds <= {"upsert", "foreign", "gap"}
    assert {record["key"][1] for record in bed.records() if record["payload"] == {"data": 2}} >= {"after"}
    parked = list(bed.mongo["parked-items"].find())
    assert all(row["cause"] for row in parked)
    assert sealed_clean(bed)
    first = {record["_id"] for record in bed.records()}
    bed.mongo[ITEMS].delete_many({})
    bed.recovery._reconciler.begin("a test")
    bed.work_until(lambda: not bed.recovery._reconciler.is_active, within_s=30)
    again = {record["_id"] for record in bed.records()}
    gone = {str(name["_id"]) for name in names[::11]}
    assert {name for name in first - again if "~" not in name and name.split("/")[1] not in gone} == set()


def sealed_clean(bed: Bed) -> bool:
    sealer = SealService(bed.mongo, rest_ms=0, grace_ms=0)
    sealer.open()
    while sealer.run_once():
        pass
    report = verify(bed.mongo, findings_max=5)
    assert report.findings == []
    return report.records > 0


def test_a_revision_set_far_ahead_is_one_record_and_the_chain_goes_on_after_it(bed: Bed) -> None:
    bed.write(1)
    bed.states.update_one({}, {"$set": {"rev": Int64(10**9), "payload": {"data": 2}, "when": 2}})
    bed.write(3)
    bed.catch_up()
    assert [(r["operation"], r.get("first"), r["rev"]) for r in bed.records()] == [
        ("upsert", None, 1), ("gap", 2, 10**9 - 1), ("upsert", None, 10**9), ("upsert", None, 10**9 + 1),
    ]  # fmt: skip
    assert sealed_clean(bed)
    assert list(gaps(bed.mongo)) == []
    bed.mongo[ITEMS].delete_many({"rev": {"$gt": 1}})
    bed.recovery._reconciler.begin("a test")
    bed.work_until(lambda: not bed.recovery._reconciler.is_active)
    assert [(r["operation"], r.get("first"), r["rev"]) for r in bed.records()] == [
        ("upsert", None, 1), ("gap", 2, 10**9), ("upsert", None, 10**9 + 1),
    ]  # fmt: skip


def test_odd_entries_of_the_feed_are_parked_and_seal_and_audit_go_on(bed: Bed) -> None:
    stream = bed.deployment.streams[0]
    bed.write(1)
    for rev in (5.5, True, -1, 0, "7", 2**60, None, [1]):
        bed.redis.xadd(
            stream, {"e": msgpack.packb({**FIELDS, "id": f"state/d/{rev}", "rev": rev}), "p": pack({"data": 1})}
        )
    good = Event("state", ("signal", "x"), "e", 1, "upsert", 1, 1, Origin("h", 1), b"")
    for body in (
        b"\xc1",
        b"",
        pack({"data": 2**64 - 1}),
        msgpack.packb({b"k": 1}),
        msgpack.packb({"a\0b": 1}),
        b"\x91" * 600 + b"\x01",
    ):
        bed.redis.xadd(stream, {"e": good.header(), "p": body})
    bed.redis.xadd(stream, {"e": b"\xff" * 100})
    bed.redis.xadd(stream, {"x": b"1"})
    bed.redis.xadd(
        stream, {"e": msgpack.packb({**FIELDS, "id": f"state/far/{10**9}", "doc": "far", "rev": 10**9}), "p": pack(1)}
    )
    bed.write(2)
    bed.work_until(lambda: len(bed.records(documentId={"$ne": "far"})) == 2)
    assert bed.mongo["parked-items"].count_documents({}) == 16
    assert sealed_clean(bed)


def test_a_sealer_that_meets_what_no_worker_wrote_goes_on(bed: Bed) -> None:
    bed.write(1)
    bed.work_until(bed.records)
    assert sealed_clean(bed)
    name = f"state/{document_of(bed)}"
    bed.mongo[PENDING].insert_many(
        [{"_id": "x"}, {"confirmed": True, "ids": ["a/b/5.5", 7, "x"], "digests": b"0" * 96}, {"ids": 1}]
    )
    bed.mongo[HEADS].update_one({"_id": name}, {"$set": {"rev": "1", "waiting": 5}})
    bed.mongo[HEADS].insert_one({"_id": 5, "waiting": {"since": 1, "highest": 1}})
    bed.mongo[SEALS].insert_many([{"_id": "zzz"}, {"_id": Int64(2), "hash": 1}])
    bed.write(2)
    bed.work_until(lambda: len(bed.records()) == 2)
    sealer = SealService(bed.mongo, rest_ms=0, grace_ms=0)
    sealer.open()
    while sealer.run_once():
        pass
    assert [head["rev"] for head in bed.mongo[HEADS].find({"_id": name})] == [2]
    assert "seal 2" in {finding.where for finding in verify(bed.mongo, findings_max=9).findings}


def document_of(bed: Bed) -> str:
    (stored,) = bed.states.find()
    return str(stored["_id"])


def forged(bed: Bed, rev: int, data: Any, **more: Any) -> None:
    """An event that somebody else appends as the next revision of the document that `write` writes."""
    name = document_of(bed)
    event = Event(
        "state",
        ("signal", "bucket"),
        name,
        rev,
        "upsert",
        1,
        1_700_000_000_000,
        Origin("evil", 1),
        pack({"data": data}),
    )
    bed.redis.xadd(bed.deployment.streams[0], {"e": event.header(), "p": event.body}, **more)


def test_a_forged_event_that_came_first_is_put_right_and_counted(bed: Bed) -> None:
    bed.write({"a": 1, "b": 1})
    forged(bed, 2, {"a": 666, "b": 1})
    bed.work_until(lambda: len(bed.records()) == 2)
    bed.write({"a": 2, "b": 1}, when=5)
    bed.catch_up()
    reported = [(r["rev"], r["operation"], r["payload"]["data"]["a"]) for r in bed.records()]
    assert reported == [(1, "upsert", 1), (2, "upsert", 666), (2, "correction", 2)]
    assert bed.recovery.counts["correction"] == 1
    assert sealed_clean(bed)
    bed.write({"a": 3, "b": 1})
    bed.catch_up()
    assert bed.recovery.counts["correction"] == 1
