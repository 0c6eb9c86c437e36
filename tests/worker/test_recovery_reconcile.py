"""When MongoDB's log cannot tell what was missed, the documents themselves are compared with the audit log."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import pytest
from tests.worker.recovery_support import MINUTE_MS, Bed, bed_for, series

from backtest_kit_mongo.embedded import Endpoints
from backtest_kit_worker import services
from backtest_kit_worker.recovery import reconcile
from backtest_kit_worker.recovery.tail import HistoryLost

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def shared(servers: Endpoints, new_database: Callable[[], str]) -> Iterator[Bed]:
    with bed_for(servers, f"{new_database()}_reconcile") as made:
        yield made


@pytest.fixture
def bed(shared: Bed) -> Bed:
    shared.clear()
    return shared


@pytest.fixture
def fresh(servers: Endpoints, new_database: Callable[[], str]) -> Iterator[Bed]:
    """A database of which MongoDB's log tells nothing from before the test."""
    with bed_for(servers, f"{new_database()}_look_back") as made:
        yield made


@pytest.fixture
def short_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left of MongoDB's log begins now."""
    monkeypatch.setattr(services.recovery, "oldest", lambda client: None)


def lose_place(bed: Bed) -> None:
    bed.recovery.close()
    bed.mongo["recovery-state"].delete_many({})


def compared(bed: Bed) -> Callable[[], bool]:
    """Whether the scan is over."""
    return lambda: bed.mongo["recovery-state"].find_one({"_id": "reconcile"}) is None


def reported(bed: Bed) -> list[tuple[int, str, Any]]:
    return [(r["rev"], r["operation"], r["payload"] and r["payload"]["data"]) for r in bed.records()]


def test_what_was_written_before_any_worker_ran_is_recovered_as_far_as_it_is_known(bed: Bed) -> None:
    lose_place(bed)
    for value in (1, 2, 3):
        bed.write_unannounced(value)
    bed.restart()
    bed.work_until(compared(bed))
    assert reported(bed) == [(1, "gap", None), (2, "gap", None), (3, "upsert", 3)]
    assert "no longer reaches back" in bed.records()[0]["reason"]
    assert [event.rev for event in bed.events()] == [3]


def test_with_the_place_lost_only_what_is_missing_is_filled(bed: Bed) -> None:
    bed.write(1)
    bed.write(2)
    bed.write(1, item="complete")
    bed.catch_up()
    lose_place(bed)
    for value in (3, 4):
        bed.write_unannounced(value)
    bed.write(5)
    bed.restart()
    bed.work_until(compared(bed))
    assert reported(bed) == [(1, "upsert", 1), (2, "upsert", 2), (3, "gap", None), (4, "gap", None), (5, "upsert", 5),
        (1, "upsert", 1)]  # fmt: skip


def test_what_was_written_shortly_before_any_worker_ran_keeps_its_payloads(fresh: Bed) -> None:
    lose_place(fresh)
    for value in (1, 2, 3):
        fresh.write_unannounced(value)
    fresh.restart(look_back_ms=600_000)
    fresh.work_until(compared(fresh))
    assert reported(fresh) == [(1, "upsert", 1), (2, "upsert", 2), (3, "upsert", 3)]


def test_with_a_lost_position_what_is_left_of_the_log_still_tells_payloads(fresh: Bed) -> None:
    fresh.write_unannounced(1)
    fresh.catch_up()
    for value in (2, 3):  # Known to the one that loses its position, so it must forget what it knows.
        fresh.write_unannounced(value)
    fresh.work(audit=False)
    fresh.recovery._tail.position = {"_data": "none"}  # type: ignore[union-attr]
    fresh.recovery._tail.reset()  # type: ignore[union-attr]
    for value in (4, 5):
        fresh.write_unannounced(value)
    fresh.work_until(compared(fresh))
    fresh.catch_up()
    assert reported(fresh) == [(rev, "upsert", rev) for rev in range(1, 6)]


def test_behind_a_change_that_mongodb_cannot_tell_recovery_goes_on(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services.recovery, "oldest", pytest.fail)  # It would meet the same change again, for ever.
    bed.write(1)
    bed.catch_up()
    bed.write_unannounced(2)
    while not bed.recovery.unjudged_count:
        bed.work(audit=False)
    bed.recovery._tail.read = _too_large  # type: ignore[method-assign, union-attr]
    bed.work(audit=False)
    bed.write_unannounced(3)
    bed.catch_up()
    assert reported(bed) == [(1, "upsert", 1), (2, "upsert", 2), (3, "upsert", 3)]


def _too_large(*_: int, **__: bool) -> NoReturn:
    raise HistoryLost("too large", is_blocked=True)


@pytest.mark.usefixtures("short_log")
@pytest.mark.parametrize("is_token", [True, False])
def test_a_position_that_mongodb_no_longer_knows_leads_to_a_comparison(
    bed: Bed, caplog: pytest.LogCaptureFixture, is_token: bool
) -> None:
    bed.write(1)
    with bed.mongo.watch() as stream:
        bed.catch_up()
        data = next(stream)["_id"]["_data"]
    bed.recovery.close()
    bed.write_unannounced(2)
    # The token of an entry that is not in the log: the time of one that is, a second earlier.
    token = f"{data[:2]}{int(data[2:10], 16) - 1:08X}{data[10:]}" if is_token else "none"
    bed.mongo["recovery-state"].replace_one({"_id": "token"}, {"token": {"_data": token}})
    bed.restart()
    bed.work_until(lambda: reported(bed) == [(1, "upsert", 1), (2, "upsert", 2)])
    bed.work_until(compared(bed))
    assert "cannot be read on" in caplog.text


@pytest.mark.usefixtures("short_log")
def test_what_was_read_before_the_log_was_lost_is_still_judged(bed: Bed) -> None:
    bed.write_unannounced(1)
    bed.write_unannounced(2)
    while bed.recovery.unjudged_count < 2:
        bed.work(audit=False)
    tail: Any = bed.recovery._tail
    tail.read = lambda *_, **__: (_ for _ in ()).throw(HistoryLost("rolled over"))
    bed.work_until(compared(bed))
    assert reported(bed) == [(1, "upsert", 1), (2, "upsert", 2)]


def test_changes_made_during_the_comparison_keep_their_payloads(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    lose_place(bed)
    bed.write_unannounced(0, item="other")
    bed.restart()
    page = reconcile.Reconciler._page

    def write_meanwhile(self: Any, domain: Any, after: Any) -> Any:
        if domain.name == "state" and after is None:
            for value in (1, 2, 3):
                bed.write_unannounced(value)
        return page(self, domain, after)

    monkeypatch.setattr(reconcile.Reconciler, "_page", write_meanwhile)
    bed.work_until(compared(bed))
    assert reported(bed) == [(1, "upsert", 0), (1, "upsert", 1), (2, "upsert", 2), (3, "upsert", 3)]


def test_events_that_the_audit_role_has_not_reached_are_not_taken_for_lost(bed: Bed) -> None:
    lose_place(bed)
    for value in (1, 2, 3):
        bed.write(value)
    bed.restart()
    bed.audit.run_once(block_ms=0)
    bed.redis.xgroup_setid(bed.deployment.streams[0], "audit", "0")
    bed.mongo["audit-items"].delete_many({})
    for _ in range(50):
        bed.work(audit=False)
    assert bed.records() == []
    bed.work_until(compared(bed))
    assert reported(bed) == [(1, "upsert", 1), (2, "upsert", 2), (3, "upsert", 3)]
    assert len(bed.events()) == 3


def test_candles_without_a_recorded_batch_are_recovered_by_append(bed: Bed) -> None:
    bed.restart(grace_ms=100)
    bed.append_unannounced(0, 1, 2)
    bed.catch_up()
    lose_place(bed)
    bed.append_unannounced(3, 4)
    bed.append_unannounced(9)
    bed.restart()
    bed.work_until(compared(bed))
    ranges = [r["payload"]["ranges"] for r in bed.records()]
    minutes = [[[first // MINUTE_MS, last // MINUTE_MS, count] for first, last, count in each] for each in ranges]
    assert sorted(minutes) == [[[0, 2, 3]], [[3, 4, 2]], [[9, 9, 1]]]
    assert {event.key for event in bed.events()} == {series().parts, ("signal", "proof")}


def test_foreign_documents_have_no_revision_to_miss(bed: Bed) -> None:
    lose_place(bed)
    bed.states.insert_many([{"signalId": "s", "bucketName": str(n), "payload": {"data": n}} for n in range(3)])
    bed.restart()
    bed.work_until(compared(bed))
    assert bed.records() == []


def test_a_comparison_goes_on_where_another_process_left_it(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconcile, "PAGE_MAX", 2)
    monkeypatch.setattr(reconcile, "FINDS_MAX", 3)
    lose_place(bed)
    for n in range(10):
        bed.write_unannounced(n, item=str(n))
    bed.states.insert_one({"_id": "text", "signalId": "signal", "bucketName": "x", "payload": {"data": 10}, "rev": 1})
    bed.restart()
    states = bed.mongo["recovery-state"]
    bed.work_until(lambda: (states.find_one({"_id": "reconcile"}) or {}).get("after") is not None)
    bed.recovery.close()
    done = len(bed.records())
    assert 0 < done < 11
    bed.restart()
    bed.work_until(compared(bed))
    assert sorted(bed.data()) == list(range(11))
    assert bed.recovery._reconciler.scanned_count < 11


def test_documents_of_two_domains_that_share_an_id_are_distinguished(bed: Bed) -> None:
    other = {"_id": "x", "signalId": "signal", "dictionaryName": "other", "payload": {"data": "other", "of": "other"}}
    bed.mongo["dictionary-items"].insert_one({**other, "rev": 1})
    bed.mongo["dictionary-items"].update_one({"_id": "x"}, {"$set": {"payload.data": "others", "rev": 2}})
    bed.catch_up()
    lose_place(bed)
    bed.states.insert_one(
        {"_id": "x", "signalId": "signal", "bucketName": "x", "payload": {"data": 2, "of": "state"}, "rev": 2}
    )
    bed.restart()
    bed.work_until(compared(bed))
    for rev in (3, 4):
        bed.states.update_one({"_id": "x"}, {"$set": {"payload.data": rev, "rev": rev}})
    bed.catch_up()
    found = [(r["rev"], r["payload"]) for r in bed.records(domain="state")]
    assert found == [(1, None), *((rev, {"data": rev, "of": "state"}) for rev in (2, 3, 4))]


def test_a_new_database_needs_no_comparison(bed: Bed) -> None:
    assert compared(bed)()
    assert not bed.recovery._reconciler.is_active
