"""Sealing: in order, without holes, once, whatever happens between its steps."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pymongo.database import Database
from pymongo.errors import AutoReconnect
from tests.audit.support import Worker, change, foreign, gap
from tests.integration.test_eras_on_servers import saved, set_back

from backtest_kit_mongo.audit import gaps
from backtest_kit_worker.services.seal import SealService

pytestmark = pytest.mark.live

Documents = Database[dict[str, Any]]


def sealed(database: Documents) -> list[str]:
    """Ids of the sealed records in the order of the seals."""
    found = []
    for seal in database["audit-seals"].find().sort("_id", 1):
        revisions = iter(seal["revisions"])
        for name, count in zip(seal["documents"], seal["counts"], strict=True):
            found += [f"{name}/{next(revisions)}" for _ in range(count)]
    return found


def head(database: Documents, name: str = "state/d1") -> dict[str, Any]:
    return database["audit-heads"].find_one({"_id": name}) or {}


def test_records_are_sealed_in_the_order_of_their_revisions(worker: Worker, database: Documents) -> None:
    worker.record(change(rev) for rev in (2, 1, 3))
    assert worker.seal() == 3
    assert sealed(database) == ["state/d1/1", "state/d1/2", "state/d1/3"]
    assert (head(database)["rev"], head(database)["seal"]) == (3, 1)
    assert database["audit-pending"].count_documents({}) == 0


def test_nothing_to_seal_makes_no_seal(worker: Worker, database: Documents) -> None:
    assert worker.sealer.run_once() == 0
    assert database["audit-seals"].count_documents({}) == 0


def test_revisions_that_arrive_out_of_order_over_several_runs_are_sealed_once_each(
    worker: Worker, database: Documents
) -> None:
    for rev in (3, 5, 1, 4, 2, 6):
        worker.sealed([change(rev)])
    assert sealed(database) == [f"state/d1/{rev}" for rev in range(1, 7)]
    assert "waiting" not in head(database)
    assert worker.verify().clean


def test_a_redelivered_batch_adds_nothing(worker: Worker, database: Documents) -> None:
    assert worker.record([change(1), change(2)]) == 2
    assert worker.record([change(1), change(2), change(3)]) == 1
    assert worker.record([change(3), change(3)]) == 0
    assert worker.seal() == 3
    assert worker.record([change(2)]) == 0
    worker.seal()
    assert sealed(database) == ["state/d1/1", "state/d1/2", "state/d1/3"]
    assert worker.verify().clean


def test_a_hole_waits_and_is_reported_until_it_is_filled(worker: Worker, database: Documents) -> None:
    worker.sealed([change(1), change(3), change(4), change(9)])
    assert sealed(database) == ["state/d1/1"]
    (found,) = gaps(database)
    assert (found.domain, found.key, found.document_id) == ("state", ("signal", "bucket"), "d1")
    assert found.missing == ((2, 2), (5, 8))
    worker.sealed([change(2)])
    (found,) = gaps(database)
    assert (found.missing, head(database)["rev"]) == (((5, 8),), 4)
    worker.sealed(change(rev) for rev in (5, 6, 7, 8))
    assert list(gaps(database)) == []
    assert head(database)["rev"] == 9
    assert worker.verify().clean


def test_a_document_whose_first_revision_is_missing_is_reported(worker: Worker, database: Documents) -> None:
    worker.sealed([change(2)])
    assert [found.missing for found in gaps(database)] == [((1, 1),)]
    worker.sealed([change(1)])
    assert sealed(database) == ["state/d1/1", "state/d1/2"]
    assert worker.verify().clean


def test_gaps_can_be_asked_for_by_age(worker: Worker, database: Documents) -> None:
    worker.sealed([change(2)])
    now = datetime.now(UTC)
    assert list(gaps(database, before=now - timedelta(minutes=1))) == []
    assert len(list(gaps(database, before=now + timedelta(minutes=1)))) == 1


def test_a_gap_record_closes_the_hole(worker: Worker, database: Documents) -> None:
    worker.sealed([change(1), change(3)])
    worker.writer.write([gap(2)])
    worker.seal()
    assert sealed(database) == ["state/d1/1", "state/d1/2", "state/d1/3"]
    assert list(gaps(database)) == []
    assert worker.record([change(2)]) == 0
    assert worker.verify().clean


def test_foreign_changes_stand_after_the_revision_that_they_followed(worker: Worker, database: Documents) -> None:
    worker.record([change(1), change(2)])
    worker.writer.write([foreign(1, 30, "b"), foreign(1, 9, "a"), foreign(0, 5, "x")])
    worker.seal()
    found = [record.rpartition("/")[2] for record in sealed(database)]
    assert found == ["0~5", "1", "1~9", "1~30", "2"]
    assert head(database)["rev"] == 2


def test_a_foreign_change_neither_waits_nor_makes_anything_wait(worker: Worker, database: Documents) -> None:
    worker.writer.write([foreign(4, 9, "early")])
    worker.seal()
    assert sealed(database) == ["state/d1/4~9"]
    worker.sealed([change(1)])
    worker.writer.write([foreign(1, 3, "late")])
    worker.seal()
    assert sealed(database) == ["state/d1/4~9", "state/d1/1", "state/d1/1~3"]
    assert worker.verify().clean


def test_records_behind_a_hole_are_sealed_in_bounded_pieces(
    worker: Worker, database: Documents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backtest_kit_worker.services.seal.BEYOND_MAX", 4)
    worker.sealed(change(rev) for rev in range(2, 20))
    worker.record([change(1)])
    assert worker.seal() == 19
    assert database["audit-seals"].count_documents({}) > 2
    assert "waiting" not in head(database)
    assert worker.verify().clean


def test_all_documents_with_holes_get_their_turn(
    worker: Worker, database: Documents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backtest_kit_worker.services.seal.WAITING_MAX", 2)
    documents = [f"d{number}" for number in range(7)]
    worker.sealed(change(rev, document=name) for name in documents for rev in (2, 3))
    worker.sealed(change(1, document=name) for name in documents)
    for _ in range(10):
        worker.sealer.run_once()
    assert list(gaps(database)) == []
    assert worker.verify().records == 21


STEPS = ["_mark_waiting", "_settle", "_move_heads", "_forget"]


@pytest.mark.parametrize("step", STEPS)
def test_a_sealer_that_dies_between_two_steps_has_done_nothing(worker: Worker, database: Documents, step: str) -> None:
    worker.sealed([change(1)])
    worker.record([change(2), change(4), change(1, document="d2")])
    worker.writer.write([foreign(1, 9, "theirs")])
    dying: Any = worker.sealer
    does = getattr(dying, step)

    def dies(*given: Any) -> None:
        does(*given)
        raise AutoReconnect("killed")

    setattr(dying, step, dies)
    with pytest.raises(AutoReconnect):
        dying.run_once()
    assert sealed(database) == ["state/d1/1"]
    assert worker.verify().findings == []
    setattr(dying, step, does)
    for sealer in (worker, Worker(database)):
        sealer.seal()
    assert sorted(sealed(database)) == ["state/d1/1", "state/d1/1~9", "state/d1/2", "state/d2/1"]
    worker.sealed([change(3)])
    assert [record for record in sealed(database) if "d1" in record][-2:] == ["state/d1/3", "state/d1/4"]
    assert database["audit-pending"].count_documents({}) == 0
    assert worker.verify().findings == []


def test_what_an_earlier_version_left_undone_after_its_last_seal_is_done(worker: Worker, database: Documents) -> None:
    """It made the seal, moved the heads and deleted the batches one after the other, and might die in between."""
    worker.sealed([change(1)])
    worker.record([change(2), change(1, document="d2")])
    before = {name: list(database[name].find()) for name in ("audit-heads", "audit-pending")}
    worker.seal()
    set_back(database, before)
    heir = Worker(database)
    heir.sealed([change(3)])
    assert sealed(database) == ["state/d1/1", "state/d1/2", "state/d2/1", "state/d1/3"]
    assert database["audit-pending"].count_documents({}) == 0
    assert heir.verify().findings == []


def test_a_sealer_that_was_overtaken_throws_its_work_away(worker: Worker, database: Documents) -> None:
    slow: Any = worker.sealer
    worker.record([change(1), change(3)])
    worker.writer.write([foreign(1, 9, "theirs")])
    reads = slow._arrived

    def overtaken(*given: Any) -> Any:
        found = reads(*given)
        slow._arrived = reads
        fast = Worker(database)
        fast.seal()
        fast.sealed([change(2)])
        return found

    slow._arrived = overtaken
    assert slow.run_once() == 0
    worker.sealed([change(4)])
    assert sealed(database) == ["state/d1/1", "state/d1/1~9", "state/d1/2", "state/d1/3", "state/d1/4"]
    assert worker.verify().clean


def test_two_sealers_at_once_seal_every_record_exactly_once(worker: Worker, database: Documents) -> None:
    documents = [f"d{number}" for number in range(5)]
    sealers = [SealService(database, records_max=20, rest_ms=0) for _ in range(2)]
    done = threading.Event()
    failures: list[BaseException] = []

    def work(sealer: SealService) -> None:
        try:
            sealer.open()
            while not done.is_set():
                sealer.run_once()
        except BaseException as cause:
            failures.append(cause)

    threads = [threading.Thread(target=work, args=(sealer,)) for sealer in sealers]
    for thread in threads:
        thread.start()
    for start in range(1, 61, 3):
        for rev in (start + 2, start, start + 1):
            worker.record(change(rev, document=name) for name in documents)
    done.set()
    for thread in threads:
        thread.join()
    worker.seal()
    assert failures == []
    assert sorted(sealed(database)) == sorted(f"state/{name}/{rev}" for name in documents for rev in range(1, 61))
    assert database["audit-pending"].count_documents({}) == 0
    assert worker.verify().clean


def test_a_sealer_whose_database_is_set_back_goes_on_from_what_is_there(worker: Worker, database: Documents) -> None:
    worker.sealed([change(1)])
    kept = saved(database)
    for rev in (2, 3, 4):
        worker.sealed([change(rev)])
    set_back(database, kept)
    for rev in (2, 3):
        worker.record([change(rev, payload={"data": "other"})])
        assert worker.seal() + worker.seal() == 1
    assert [seal["_id"] for seal in database["audit-seals"].find().sort("_id", 1)] == [1, 2, 3]
    assert worker.verify().clean


def test_a_seal_over_what_a_restore_took_away_meanwhile_is_not_made(worker: Worker, database: Documents) -> None:
    worker.sealed([change(1)])
    files = saved(database)
    worker.record([change(2), change(1, document="d2")])
    sealer: Any = worker.sealer
    marks = sealer._mark_waiting

    def restored(*given: Any) -> None:
        sealer._mark_waiting = marks
        set_back(database, files)
        marks(*given)

    sealer._mark_waiting = restored
    assert worker.seal() == 0
    assert sealed(database) == ["state/d1/1"]
    worker.sealed([change(2, payload={"data": "other"})])
    assert (worker.finds(), worker.verify().records) == ([], 2)


def test_a_sealer_rests_after_a_seal_that_was_not_full(worker: Worker) -> None:
    sealer = SealService(worker.database, rest_ms=60_000)
    sealer.open()
    worker.record([change(1)])
    assert sealer.run_once() == 1
    worker.record([change(2)])
    assert sealer.run_once() == 0
    assert worker.seal() == 1


def test_what_a_sealer_leaves_open_and_closes_may_be_repeated(worker: Worker) -> None:
    worker.sealer.close()
    worker.sealer.open()
    worker.sealer.open()
    worker.sealed([change(1)])
    worker.sealer.close()
    assert worker.verify().records == 1
