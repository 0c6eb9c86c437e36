"""What tampering is found, and what honestly is not."""

from __future__ import annotations

from math import nan
from typing import Any

import pytest
from bson import Code, ObjectId
from pymongo.database import Database
from tests.audit.support import Worker, change, foreign, gap

from backtest_kit_mongo.audit import Anchor
from backtest_kit_mongo.audit.chain import seal_hash
from backtest_kit_mongo.audit.erasing import erase, is_recorded
from backtest_kit_mongo.audit.log import AuditLog
from backtest_kit_mongo.audit.verify import _Verifier
from backtest_kit_mongo.coherence.record import Key
from backtest_kit_mongo.domains.table import DOMAINS, STATE
from backtest_kit_mongo.errors import InvalidSetting
from backtest_kit_mongo.testing.examples import example

pytestmark = pytest.mark.live

Documents = Database[dict[str, Any]]


@pytest.fixture
def three_seals(worker: Worker) -> Worker:
    """Two documents, three revisions each, one revision of each in a seal."""
    for rev in (1, 2, 3):
        worker.sealed([change(rev), change(rev, document="d2", key=("signal", "other"))])
    return worker


def test_an_untouched_log_is_clean(three_seals: Worker) -> None:
    report = three_seals.verify()
    assert (report.clean, report.seals, report.records, report.unsealed) == (True, 3, 6, 0)


def test_an_empty_database_is_clean(worker: Worker) -> None:
    assert worker.verify().clean
    assert worker.verify().last is None


def test_every_domain_s_payload_is_read_back_with_the_digest_it_was_recorded_with(worker: Worker) -> None:
    worker.sealed(
        change(1, example(domain, "x"), domain=domain.name, document=domain.name, key=("x",)) for domain in DOMAINS
    )
    assert (worker.verify().records, worker.finds()) == (len(DOMAINS), [])


def test_an_erased_payload_leaves_its_hash_and_everything_else_is_verified_as_before(three_seals: Worker) -> None:
    key, items = Key(STATE, ("signal", "bucket")), three_seals.database["audit-items"]
    before = three_seals.verify()
    three_seals.record([change(4, {"by": "me", "why": "over"}, operation="delete")])
    assert is_recorded(three_seals.database, key)
    assert erase(three_seals.database, key, {"by": "me", "why": "asked for"}) == 3
    assert erase(three_seals.database, key, {"by": "me", "why": "again"}) == 0
    three_seals.seal()
    records = list(AuditLog(three_seals.database).timeline(key))
    assert [record.payload for record in records] == [None, None, None, {"by": "me", "why": "over"}]
    assert "erased" in records[0].reason
    assert "asked for" in records[0].reason
    report = three_seals.verify(anchor=before.last)
    assert (report.clean, report.records, report.erased) == (True, 7, 3)
    items.update_one({"documentId": "d1", "rev": 2}, {"$set": {"erased.digest": bytes(32)}})
    items.update_one({"documentId": "d1", "rev": 3}, {"$set": {"payload": {"data": "forged"}}})
    assert three_seals.finds() == [("altered", "state/d1/2"), ("altered", "state/d1/3")]


@pytest.mark.parametrize(
    "alteration",
    [
        {"$set": {"payload.data": 99}},
        {"$set": {"payload.data": 2.0}},
        {"$set": {"host": "elsewhere"}},
        {"$set": {"note": "added"}},
        {"$unset": {"when": ""}},
        {"$rename": {"payload": "body"}},
    ],
)
def test_an_altered_record_is_found(three_seals: Worker, database: Documents, alteration: dict[str, Any]) -> None:
    database["audit-items"].update_one({"_id": "state/d1/2"}, alteration)
    assert three_seals.finds() == [("altered", "state/d1/2")]


def test_the_first_of_several_is_named_first(three_seals: Worker, database: Documents) -> None:
    database["audit-items"].update_one({"_id": "state/d1/3"}, {"$set": {"payload": 0}})
    database["audit-items"].delete_one({"_id": "state/d2/2"})
    (first,) = three_seals.verify(findings_max=1).findings
    assert (first.kind.value, first.where) == ("missing", "state/d2/2")


def test_a_record_altered_before_it_was_sealed_is_found(worker: Worker, database: Documents) -> None:
    worker.record([change(1)])
    database["audit-items"].update_one({"_id": "state/d1/1"}, {"$set": {"payload.data": 99}})
    worker.seal()
    assert worker.finds() == [("altered", "state/d1/1")]


def test_a_deleted_record_is_found(three_seals: Worker, database: Documents) -> None:
    database["audit-items"].delete_one({"_id": "state/d1/2"})
    assert three_seals.finds() == [("missing", "state/d1/2")]


def test_a_deleted_newest_record_is_found(three_seals: Worker, database: Documents) -> None:
    database["audit-items"].delete_one({"_id": "state/d1/3"})
    assert three_seals.finds() == [("missing", "state/d1/3")]


def test_a_revision_cannot_be_doubled_while_the_index_stands_and_is_found_when_it_was_dropped(
    three_seals: Worker, database: Documents
) -> None:
    items = database["audit-items"]
    record = items.find_one({"_id": "state/d1/2"})
    assert record is not None
    with pytest.raises(Exception, match="E11000"):
        items.insert_one({**record, "_id": "another"})
    items.drop_indexes()
    items.insert_one({**record, "_id": "another", "payload": {"data": 99}})
    assert three_seals.finds() == [("doubled", "state/d1/2")]


def test_a_record_that_the_worker_did_not_write_is_found(three_seals: Worker, database: Documents) -> None:
    record = database["audit-items"].find_one({"_id": "state/d1/3"})
    assert record is not None
    forged = {**record, "_id": "state/d1/4", "rev": 4}
    database["audit-items"].insert_many([forged, {**forged, "_id": "state/d1/3~5", "rev": 3, "foreign": 5}])
    assert three_seals.seal() == 0
    assert three_seals.finds() == [("unknown", "state/d1/3~5"), ("unknown", "state/d1/4")]


@pytest.mark.parametrize(
    "alteration",
    [
        {"$set": {"revisions.0": 7}},
        {"$set": {"chains": bytes(64)}},
        {"$unset": {"documents": ""}},
        {"$set": {"hash": bytes(32)}},
        {"$set": {"counts.0": 2}},
    ],
)
def test_an_altered_seal_is_found(three_seals: Worker, database: Documents, alteration: dict[str, Any]) -> None:
    database["audit-seals"].update_one({"_id": 2}, alteration)
    (first,) = three_seals.verify(findings_max=1).findings
    assert (first.kind.value, first.where) == ("seal altered", "seal 2")


def test_a_seal_altered_with_a_new_hash_of_its_own_breaks_the_next_one(
    three_seals: Worker, database: Documents
) -> None:
    seal = database["audit-seals"].find_one({"_id": 2})
    assert seal is not None
    seal["total"] += 1
    seal["hash"] = seal_hash(seal)
    database["audit-seals"].replace_one({"_id": 2}, seal)
    (first,) = three_seals.verify(findings_max=1).findings
    assert (first.kind.value, first.where) == ("seal moved", "seal 3")


def test_a_deleted_seal_is_found(three_seals: Worker, database: Documents) -> None:
    database["audit-seals"].delete_one({"_id": 2})
    assert three_seals.finds() == [("seal missing", "seal 2")]


def test_a_deleted_first_seal_is_found(three_seals: Worker, database: Documents) -> None:
    database["audit-seals"].delete_one({"_id": 1})
    assert three_seals.finds() == [("seal missing", "seal 1")]


def test_a_deleted_last_seal_is_found_by_the_heads_that_name_it(three_seals: Worker, database: Documents) -> None:
    database["audit-seals"].delete_one({"_id": 3})
    assert ("seal missing", "seal 3") in three_seals.finds()


def test_seals_that_changed_places_are_found(three_seals: Worker, database: Documents) -> None:
    two, three = database["audit-seals"].find({"_id": {"$gte": 2}}).sort("_id", 1)
    for seal, number in ((three, 2), (two, 3)):
        moved = {**seal, "_id": number}
        moved["hash"] = seal_hash(moved)
        database["audit-seals"].replace_one({"_id": number}, moved)
    (first,) = three_seals.verify(findings_max=1).findings
    assert (first.kind.value, first.where) == ("seal moved", "seal 2")


def test_a_seal_that_skips_a_revision_is_found_even_with_all_hashes_right(
    three_seals: Worker, database: Documents
) -> None:
    # What a sealer with a bug would make, or a forger who renews the hashes but not the chains.
    seal = database["audit-seals"].find_one({"_id": 3})
    assert seal is not None
    seal["after"] = bytes(64)
    seal["hash"] = seal_hash(seal)
    database["audit-seals"].replace_one({"_id": 3}, seal)
    assert ("chain broken", "state/d1") in three_seals.finds()


@pytest.mark.parametrize("wrong", ["altered", "missing"])
def test_chains_heads_and_records_are_judged_after_a_wrong_seal_too(
    worker: Worker, database: Documents, wrong: str
) -> None:
    worker.sealed([change(1), change(1, document="d2")])
    worker.sealed([change(2), change(1, document="only in 2")])
    for rev in (3, 4, 5):
        worker.sealed([change(rev), change(rev - 1, document="d2")])
    seals, items = database["audit-seals"], database["audit-items"]
    if wrong == "altered":
        seals.update_one({"_id": 2}, {"$set": {"total": 9}})
    else:
        seals.delete_one({"_id": 2})
    assert worker.finds() == [(f"seal {wrong}", "seal 2")]
    five = seals.find_one({"_id": 5}) or {}
    five["after"] = bytes(32) + five["after"][32:]
    seals.replace_one({"_id": 5}, {**five, "hash": seal_hash(five)})
    items.update_one({"_id": "state/d2/3"}, {"$set": {"payload": 0}})
    items.insert_one({**(items.find_one({"_id": "state/d2/4"}) or {}), "_id": "state/d2/9", "rev": 9})
    database["audit-heads"].update_one({"_id": "state/d2"}, {"$set": {"chain": bytes(32)}})
    assert worker.finds() == [
        (f"seal {wrong}", "seal 2"),
        ("altered", "state/d2/3"),
        ("chain broken", "state/d1"),
        ("altered", "state/d1/5"),
        ("unknown", "state/d2/9"),
        ("head altered", "state/d2"),
    ]


@pytest.mark.parametrize(
    "alteration", [{"$set": {"chain": bytes(32)}}, {"$set": {"rev": 2}}, {"$unset": {"chain": ""}}]
)
def test_an_altered_head_is_found(three_seals: Worker, database: Documents, alteration: dict[str, Any]) -> None:
    database["audit-heads"].update_one({"_id": "state/d1"}, alteration)
    assert three_seals.finds() == [("head altered", "state/d1")]


def test_a_deleted_head_is_found(three_seals: Worker, database: Documents) -> None:
    three_seals.sealed([change(1, document="d3")])
    database["audit-heads"].delete_one({"_id": "state/d1"})
    assert three_seals.finds() == [("head altered", "state/d1")]


def cut_off_the_end(database: Documents) -> None:
    """What someone does who may change everything and wants the third revisions never to have been."""
    database["audit-seals"].delete_one({"_id": 3})
    database["audit-items"].delete_many({"rev": 3})
    seal = database["audit-seals"].find_one({"_id": 2})
    assert seal is not None
    for position, name in enumerate(seal["documents"]):
        chain = seal["chains"][position * 32 : position * 32 + 32]
        database["audit-heads"].update_one({"_id": name}, {"$set": {"rev": 2, "seal": 2, "chain": chain}})


def test_an_end_cut_off_consistently_is_found_only_with_an_anchor(three_seals: Worker, database: Documents) -> None:
    anchor = three_seals.verify().last
    assert anchor is not None
    assert three_seals.verify(anchor=anchor).clean
    cut_off_the_end(database)
    assert three_seals.verify().clean
    assert three_seals.finds(anchor=anchor) == [("anchor differs", "seal 3")]


def test_a_log_rewritten_from_scratch_is_found_only_with_an_anchor(worker: Worker, database: Documents) -> None:
    worker.sealed([change(1), change(2)])
    anchor = worker.verify().last
    for name in ("audit-items", "audit-seals", "audit-heads"):
        database[name].delete_many({})
    forger = Worker(database)
    forger.sealed([change(1), change(2, {"data": "forged"})])
    assert forger.verify().clean
    assert forger.finds(anchor=anchor) == [("anchor differs", "seal 1")]


def test_an_anchor_is_read_as_it_is_printed() -> None:
    anchor = Anchor(3, bytes(range(32)))
    assert Anchor.parse(str(anchor)) == anchor
    with pytest.raises(InvalidSetting, match="number:hash"):
        Anchor.parse("3")


def test_what_is_on_its_way_into_a_seal_is_not_suspicious(worker: Worker) -> None:
    worker.sealed([change(1)])
    worker.record([change(2)])
    worker.sealed([change(4), change(1, document="d2")])
    worker.record([change(5)])
    worker.writer.write([foreign(1, 9, {"data": "theirs"})])
    report = worker.verify()
    assert (report.findings, report.records, report.unsealed) == ([], 3, 3)


def test_verify_goes_on_while_the_worker_does(worker: Worker) -> None:
    worker.sealed([change(1), change(1, document="d2")])

    def meanwhile(done: int, total: int) -> None:
        assert done <= total
        if len(revisions) < 4:
            revisions.append(revisions[-1] + 1)
            worker.sealed([change(revisions[-1])])

    revisions = [1]
    assert worker.verify(on_progress=meanwhile).clean
    assert len(revisions) > 1


def test_gap_and_foreign_records_are_sealed_and_guarded_like_all_others(worker: Worker, database: Documents) -> None:
    worker.record([change(1), change(3)])
    worker.writer.write([gap(2), foreign(1, 5, {"data": "theirs"}), foreign(0, 2, {"data": "first"})])
    worker.seal()
    assert (worker.finds(), worker.verify().records) == ([], 5)
    database["audit-items"].update_one({"_id": "state/d1/2"}, {"$set": {"reason": "another"}})
    database["audit-items"].delete_one({"_id": "state/d1/1~5"})
    assert sorted(worker.finds()) == [("altered", "state/d1/2"), ("missing", "state/d1/1~5")]


def test_a_queue_entry_that_was_tampered_with_shows_as_an_altered_record(worker: Worker, database: Documents) -> None:
    worker.record([change(1)])
    database["audit-pending"].update_one({}, {"$set": {"digests": bytes(32)}})
    worker.seal()
    assert worker.finds() == [("altered", "state/d1/1")]


def test_a_queue_entry_that_is_gone_shows_as_a_record_that_nobody_recorded(worker: Worker, database: Documents) -> None:
    worker.record([change(1)])
    database["audit-pending"].delete_many({})
    assert worker.seal() == 0
    assert worker.finds() == [("unknown", "state/d1/1")]


def test_a_seal_of_many_small_pieces_verifies(database: Documents) -> None:
    worker = Worker(database, records_max=7)
    for rev in range(1, 30):
        worker.record([change(rev, document=str(ObjectId(b"%012d" % number))) for number in range(5)])
    assert worker.seal() == 145
    report = worker.verify()
    assert (report.clean, report.records) == (True, 145)
    assert report.seals > 10


@pytest.mark.parametrize(
    "disguise",
    [
        {"rev": True},
        {"rev": "2"},
        {"rev": Code("2")},
        {"rev": 2.5},
        {"rev": nan},
        {"rev": {}},
        {"documentId": Code("d1")},
    ],
    ids=str,
)
def test_a_second_record_whose_numbers_or_names_have_another_type_is_found(
    three_seals: Worker, database: Documents, disguise: dict[str, Any]
) -> None:
    original = database["audit-items"].find_one({"_id": "state/d1/2"}) or {}
    database["audit-items"].insert_one({**original, "_id": "another", **disguise})
    assert [kind for kind, _ in three_seals.finds()] == ["unknown"]


def test_seals_made_while_the_heads_are_looked_at_are_not_taken_for_missing(
    three_seals: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = _Verifier._newest
    revisions = iter(range(4, 100))

    def look_then_seal(verifier: _Verifier) -> int:
        newest = look(verifier)
        three_seals.sealed([change(next(revisions))])
        return newest

    monkeypatch.setattr(_Verifier, "_newest", look_then_seal)
    assert three_seals.finds() == []


def test_a_seal_under_an_id_that_is_no_number_is_found(three_seals: Worker, database: Documents) -> None:
    forged = database["audit-seals"].find_one({"_id": 3}) or {}
    database["audit-seals"].insert_one({**forged, "_id": "4"})
    assert three_seals.finds()[0] == ("seal altered", "seal 4")
