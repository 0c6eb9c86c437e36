"""Where the stream ends and the audit log begins: what was trimmed, flushed or lost still reaches every group."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.integration.support import eventually, settings_for, store_for
from tests.stream.support import Desk, acknowledged, revs

from backtest_kit_mongo import embedded
from backtest_kit_mongo.adapters.instances import CandleInstance, StateInstance, StorageInstance
from backtest_kit_mongo.embedded.processes import Deadline, Server, free_port
from backtest_kit_mongo.embedded.redis_server import REDIS
from backtest_kit_mongo.feed.consume import change_feed as feed_module
from backtest_kit_mongo.feed.trimming import plan_trim, trim

pytestmark = pytest.mark.live


def test_the_past_comes_from_the_audit_log_and_then_the_stream_without_gap_or_double(desk: Desk) -> None:
    desk.write(1, 2, 3)
    desk.audit_and_trim()
    desk.write(4, 5)
    desk.audit()
    desk.write(6)
    events = desk.take(start="beginning")
    assert [(event.rev, event.payload, event.replayed) for event in events] == [
        (n, {"data": n}, n <= 3) for n in range(1, 7)
    ]
    assert desk.pending_count() == 0
    assert desk.mongo["feed-groups"].find_one()["replay"] is None
    assert desk.take() == []


def test_a_replayed_event_equals_the_one_from_the_stream(desk: Desk) -> None:
    desk.write(1)
    StateInstance(desk.store, "s", "b").write_state_data({"data": {"$ref": "a", "$id": 1}}, 2)
    for price in (1.0, 2.0):  # The second one contradicts the first.
        CandleInstance(desk.store, "BTC", "1m", "e").write_candles_data(
            [{"timestamp": 0, "open": price, "high": price, "low": price, "close": price, "volume": 0.0}]
        )
    StorageInstance(desk.store, True).write_storage_data([{"id": "a", "priority": 1}])
    live = desk.take("live", start="beginning")
    desk.audit_and_trim()
    assert desk.take("late", start="beginning") == live


@pytest.mark.parametrize("partitions", [4])
def test_list_rows_are_looked_for_in_the_stream_of_their_scope(desk: Desk) -> None:
    StorageInstance(desk.store, True).write_storage_data([{"id": f"r{n}", "priority": 1} for n in range(8)])
    desk.audit()
    assert len(desk.take(start="beginning")) == 8
    desk.audit_and_trim()
    assert len(desk.take("late", start="beginning")) == 8


def test_a_time_is_where_a_replay_may_begin(desk: Desk) -> None:
    desk.write(1)
    desk.audit_and_trim()
    desk.mongo["audit-items"].update_many({}, {"$set": {"writtenAt": datetime(2020, 1, 1, tzinfo=UTC)}})
    desk.write(2)
    desk.audit_and_trim()
    desk.write(3)
    assert revs(desk.take(start=datetime(2020, 1, 2, tzinfo=UTC))) == [2, 3]
    assert revs(desk.take("all", start=datetime(2019, 1, 1, tzinfo=UTC))) == [1, 2, 3]


def test_gaps_foreign_changes_and_other_domains_are_not_replayed(desk: Desk) -> None:
    desk.write(1, 2, 3)
    StorageInstance(desk.store, True).write_storage_data([{"id": "a", "priority": 1}])
    desk.audit_and_trim()
    records = desk.mongo["audit-items"]
    records.update_one({"rev": 1, "domain": "state"}, {"$set": {"operation": "gap", "payload": None}})
    records.update_one({"rev": 2}, {"$set": {"operation": "foreign", "foreign": 1}})
    assert revs(desk.take("g", ["state"], start="beginning")) == [3]


def test_a_replay_goes_on_where_it_was_acknowledged(desk: Desk) -> None:
    desk.write(*range(1, 11))
    desk.audit_and_trim()
    with desk.consume(start="beginning", batch_max=4) as feed:
        events = [next(feed) for _ in range(5)]
        feed.ack(*events[:2], events[3])
    # The position moves over what is acknowledged without a hole; 4 comes for the second time.
    assert revs(desk.take(batch_max=3)) == [3, 4, 5, 6, 7, 8, 9, 10]
    assert desk.take() == []


def test_what_is_left_of_a_replay_comes_again_although_the_stream_has_gone_on(desk: Desk) -> None:
    desk.write(1, 2, 3)
    desk.audit_and_trim()
    desk.write(4)
    with desk.consume(start="beginning") as feed:
        events = list(feed)
        feed.ack(events[0], events[2], events[3])
    desk.audit_and_trim()
    desk.write(5)
    assert revs(desk.take()) == [2, 5]


def test_an_unacknowledged_record_comes_again_when_it_is_overdue(desk: Desk) -> None:
    desk.write(1, 2)
    desk.audit_and_trim()
    with desk.consume(start="beginning", claim_idle_ms=1_000, until_idle=False) as feed:
        first, second = next(feed), next(feed)
        second.ack()
        assert next(feed) == first


def test_a_killed_process_is_followed_by_another_in_the_middle_of_a_replay(desk: Desk) -> None:
    desk.write(*range(1, 7))
    desk.audit_and_trim()
    killed = desk.consume(start="beginning", batch_max=2, claim_idle_ms=100)
    assert next(killed).rev == 1
    assert revs(desk.take(claim_idle_ms=100)) == [1, 2, 3, 4, 5, 6]
    # It comes back to life: what it held is no longer its own.
    assert acknowledged(killed) == []


def test_while_one_process_replays_the_others_wait_for_the_stream(desk: Desk) -> None:
    desk.write(1, 2, 3)
    desk.audit_and_trim()
    desk.write(4)
    with (
        desk.consume(start="beginning", batch_max=1) as one,
        desk.consume(until_idle=False, timeout_s=0.3) as other,
    ):
        next(one).ack()
        assert list(other) == []
        assert revs(acknowledged(one)) == [2, 3, 4]
        desk.write(5)
        assert revs(acknowledged(other)) == [5]


def test_a_writer_an_auditor_and_a_trimmer_at_work_cause_no_gap_and_no_double(desk: Desk) -> None:
    desk.write(*range(1, 41))
    desk.audit_and_trim()
    desk.write(*range(41, 61))
    writer = threading.Thread(target=desk.write, args=range(61, 121))
    writer.start()
    found: list[int] = []
    with desk.consume(start="beginning", batch_max=7, until_idle=False) as feed:
        for event in feed:
            event.ack()
            found.append(event.rev)
            if len(found) % 10 == 0:
                desk.audit()
                done = desk.redis.xinfo_groups(desk.stream)[0]["last-delivered-id"]
                desk.redis.xtrim(desk.stream, minid=done, approximate=False)
            if event.rev == 120:
                break
    writer.join()
    assert found == list(range(1, 121))


def test_a_stream_and_group_that_vanish_are_made_again_and_said_so(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    with desk.consume(until_idle=False) as feed:
        desk.write(1, 2)
        acknowledged([next(feed), next(feed)])
        desk.write(3)
        desk.audit()
        desk.redis.delete(desk.stream)
        desk.write(4)
        # 3 is only in the audit log; 1 and 2 are known here and not delivered again.
        assert revs(acknowledged([next(feed), next(feed)])) == [3, 4]
    assert "is gone from 1 of 1 streams" in caplog.text
    assert desk.pending_count() == 0


def test_a_group_that_vanished_while_nobody_was_there_misses_nothing(desk: Desk) -> None:
    desk.write(1)
    desk.take(start="beginning")
    desk.write(2)
    desk.audit()
    desk.redis.delete(desk.stream)
    desk.write(3)
    # 1 was acknowledged less than a minute before: at least once.
    assert revs(desk.take()) == [1, 2, 3]
    assert desk.take() == []


def test_a_flush_while_the_feed_waits_is_survived(desk: Desk) -> None:
    with desk.consume(until_idle=False, block_ms=2_000) as feed:
        found: list[int] = []
        reader = threading.Thread(target=lambda: found.extend(revs(acknowledged([next(feed)]))))
        reader.start()
        eventually(lambda: any(c["cmd"] == "xreadgroup" for c in desk.redis.client_list()))
        desk.redis.delete(desk.stream)
        desk.write(1)
        reader.join(5)
        assert found == [1]


def test_an_entry_that_was_trimmed_while_it_was_pending_comes_from_the_audit_log(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    desk.write(1, 2)
    with desk.consume(start="beginning") as feed:
        assert revs(feed) == [1, 2]
    desk.audit_and_trim()
    desk.mongo["audit-items"].delete_one({"rev": 2})
    events = desk.take()
    assert [(event.rev, event.replayed) for event in events] == [(1, True)]
    assert "trimmed before it was acknowledged" in caplog.text
    assert desk.pending_count() == 0


def test_entries_that_somebody_trimmed_before_they_were_read_come_from_the_audit_log_once(desk: Desk) -> None:
    desk.write(1)
    desk.take(start="beginning")
    desk.write(2, 3)
    desk.audit_and_trim()
    desk.write(4)
    events = desk.take()
    assert [(event.rev, event.replayed) for event in events] == [(2, True), (3, True), (4, False)]
    desk.audit_and_trim()
    assert desk.take() == []
    desk.write(5)
    assert revs(desk.take()) == [5]


def test_a_stream_that_is_too_large_is_trimmed_past_a_group_that_then_reads_the_audit_log(desk: Desk) -> None:
    assert desk.take() == []
    desk.write(1, 2, 3, 4, 5)
    desk.audit()
    desk.redis.xgroup_create(desk.stream, "audit", id="$")
    plan = plan_trim(desk.redis, desk.mongo, desk.stream, retention_ms=3_600_000, bytes_max=1)
    assert plan is not None
    assert trim(desk.redis, desk.mongo, plan) == 5
    desk.write(6)
    assert revs(desk.take()) == [1, 2, 3, 4, 5, 6]


def test_progress_is_stored_now_and_then(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "CHECKPOINT_S", 0)
    with desk.consume() as feed:
        before = desk.mongo["feed-groups"].find_one()["reachedMs"]
        desk.write(1)
        acknowledged(feed)
        eventually(lambda: list(feed) == [] and desk.mongo["feed-groups"].find_one()["reachedMs"] > before)


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A redis-server of this module alone: other tests must not see it die."""
    directory = tmp_path_factory.mktemp("stream")
    server = Server(REDIS, directory)
    server.launch(port=free_port(), options=(), die_with_caller=True)
    server.await_ready(Deadline.after(10))
    yield directory
    embedded.stop_redis(directory)


def test_a_redis_that_restarts_is_waited_for(
    own: Path, servers: embedded.Endpoints, new_database: Callable[[], str], caplog: pytest.LogCaptureFixture
) -> None:
    server = embedded.status(own).redis
    database = f"{new_database()}_restart"
    settings = settings_for(servers, database, redis_port=server.port)
    with store_for(servers, database, redis_port=server.port) as store:
        desk = Desk(settings, store, None, None)
        with desk.consume(until_idle=False, timeout_s=20, block_ms=20) as feed, caplog.at_level(logging.WARNING):
            desk.write(1)
            first = next(feed)
            embedded.stop_redis(own)
            first.ack()
            found: list[Any] = []
            reader = threading.Thread(target=lambda: found.append(next(feed)))
            reader.start()
            eventually(lambda: "waits for a server" in caplog.text)
            embedded.start_redis(own)
            desk.write(2)
            reader.join(10)
            assert revs(acknowledged(found)) == [2]
        # What was acknowledged while Redis was away is known to it now.
        assert desk.take() == []
    assert "servers are back" in caplog.text
