"""The audit role's writing: all or nothing of a batch, each record with its place in the sealer's queue."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from pymongo.database import Database
from pymongo.errors import AutoReconnect
from tests.audit.support import Worker, change, foreign, gap, restart
from tests.integration.test_eras_on_servers import saved, set_back

from backtest_kit_mongo.audit.records import digest, raw
from backtest_kit_worker.fence import Fence, PrimaryChanged
from backtest_kit_worker.roles.audit import AuditRole, DoubledRecord

pytestmark = pytest.mark.live

Documents = Database[dict[str, Any]]


def queued(database: Documents) -> list[str]:
    return [name for batch in database["audit-pending"].find() for name in batch["ids"]]


def confirmed_digests(database: Documents) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for batch in database["audit-pending"].find({"confirmed": True}):
        digests = [batch["digests"][at : at + 32] for at in range(0, len(batch["digests"]), 32)]
        found.update(zip(batch["ids"], digests, strict=True))
    return found


def test_the_queue_has_the_digest_of_what_is_stored_whoever_stored_it(worker: Worker, database: Documents) -> None:
    worker.record([change(1), change(2)])
    worker.record([change(2), change(3)])
    stored = {record["_id"]: digest(record.raw) for record in raw(database, "audit-items").find()}
    assert list(stored) == ["state/d1/1", "state/d1/2", "state/d1/3"]
    assert confirmed_digests(database) == stored
    assert len(queued(database)) == 4


@pytest.mark.parametrize("dies", ["before the insert", "half-way", "before the confirmation"])
def test_a_worker_that_dies_in_a_batch_loses_and_doubles_nothing(
    worker: Worker, database: Documents, dies: str
) -> None:
    writer: Any = worker.role._writer
    insert = writer._insert

    def killed(batch: dict[str, bytes]) -> None:
        if dies == "half-way":
            insert(dict(list(batch.items())[:2]))
        elif dies == "before the confirmation":
            insert(batch)
        raise AutoReconnect("killed")

    writer._insert = killed
    with pytest.raises(AutoReconnect):
        worker.record([change(1), change(2), change(3)])
    writer._insert = insert
    assert worker.seal() == 0  # It may still be at it.
    worker.record([change(1), change(2), change(3), change(4)])
    assert worker.seal() == 4
    worker.give_up_waiting()
    assert (worker.finds(), worker.verify().records) == ([], 4)
    assert database["audit-pending"].count_documents({}) == 0


def test_records_of_a_dead_worker_are_sealed_even_if_they_are_never_delivered_again(
    worker: Worker, database: Documents
) -> None:
    writer: Any = worker.role._writer
    writer._confirm = lambda *_, **__: None
    worker.record([change(1)])
    writer.write([foreign(1, 9, "theirs")])
    assert worker.seal() == 0
    assert worker.finds() == []
    assert worker.give_up_waiting() == 2
    assert worker.verify().records == 2


def test_a_foreign_change_that_is_recorded_twice_is_sealed_once(worker: Worker, database: Documents) -> None:
    worker.record([change(1)])
    for _ in range(3):
        worker.writer.write([foreign(1, 9, "theirs")])
        worker.writer.write([foreign(1, 9, "theirs")])
        worker.seal()
    assert worker.verify().records == 2


def test_a_writer_that_was_held_up_until_it_was_given_up_queues_its_records_again(
    worker: Worker, database: Documents
) -> None:
    writer: Any = worker.role._writer
    insert = writer._insert

    def held_up(batch: dict[str, bytes]) -> Any:
        worker.give_up_waiting()
        return insert(batch)

    writer._insert = held_up
    worker.record([change(1)])
    assert worker.seal() == 1
    assert worker.verify().clean


@pytest.mark.parametrize("has_place", [False, True])
def test_a_batch_in_which_the_database_is_set_back_is_not_confirmed_and_delivered_again(
    worker: Worker, database: Documents, monkeypatch: pytest.MonkeyPatch, has_place: bool
) -> None:
    worker.sealed([change(1, document="d0")])
    before = saved(database)
    writer: Any = worker.role._writer
    insert = writer._insert

    def restored(batch: dict[str, bytes]) -> Any:
        files = saved(database) if has_place else before
        known = insert(batch)
        set_back(database, files)
        restart(monkeypatch)
        return known

    with monkeypatch.context() as patch:
        patch.setattr(writer, "_insert", restored)
        with pytest.raises(PrimaryChanged, match="another mongod"):
            worker.record([change(1), change(2)])
    assert worker.seal() == 0
    assert worker.record([change(1), change(2)]) == 2
    assert worker.seal() == 2
    worker.give_up_waiting()
    assert (worker.finds(), worker.verify().records) == ([], 3)


def test_what_recovery_thought_of_before_a_restore_is_not_recorded_after_it(
    worker: Worker, database: Documents, monkeypatch: pytest.MonkeyPatch
) -> None:
    since = Fence(database).primary()
    worker.writer.write_since([gap(1)], since)
    worker.writer.write_since([gap(1), gap(2)], since)
    restart(monkeypatch)
    with pytest.raises(PrimaryChanged):
        worker.writer.write_since([gap(3)], since)
    assert worker.seal() == 2
    assert (worker.finds(), worker.verify().records) == ([], 2)


def test_a_large_batch_is_recorded_whole_and_once(worker: Worker, database: Documents) -> None:
    batch = [change(rev) for rev in range(1, 502)]
    assert worker.record([*batch, batch[0]]) == 501
    assert worker.record(batch) == 0
    assert sorted(confirmed_digests(database)) == sorted(event.id for event in batch)
    worker.seal()
    assert worker.verify().records == 501


def test_workers_that_deliver_the_same_entries_at_once_record_them_once(worker: Worker, database: Documents) -> None:
    counts: list[int] = []
    barrier = threading.Barrier(4)

    def deliver() -> None:
        role = AuditRole(database)
        barrier.wait()
        batches = (range(start + 1, start + 11) for start in range(0, 100, 10))
        counts.extend(role.apply([(f"{rev}-0", change(rev)) for rev in batch]) for batch in batches)

    threads = [threading.Thread(target=deliver) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(counts) == 40
    assert sum(counts) == 100
    assert len(confirmed_digests(database)) == 100
    worker.seal()
    assert worker.verify().clean


def test_a_second_record_of_a_revision_under_another_id_is_refused_by_name(worker: Worker, database: Documents) -> None:
    worker.record([change(1)])
    with pytest.raises(DoubledRecord, match="another id"):
        worker.writer.write([{**gap(1), "_id": "forged"}])
    assert database["audit-items"].count_documents({}) == 1


def test_an_event_that_is_delivered_after_its_gap_was_recorded_changes_nothing(
    worker: Worker, database: Documents
) -> None:
    worker.writer.write([gap(1)])
    assert worker.record([change(1)]) == 0
    assert [record["operation"] for record in database["audit-items"].find()] == ["gap"]


def test_the_collections_carry_no_more_indexes_than_they_need(worker: Worker, database: Documents) -> None:
    assert sorted(database["audit-items"].index_information()) == [
        "_id_",
        "documentId_1_rev_1_foreign_1_domain_1",
        "domain_1_label_1_documentId_1",
        "signal_1",
    ]
