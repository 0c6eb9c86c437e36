"""The consumer's side of the feed on real servers: what is delivered, once, and until it is acknowledged."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.integration.support import eventually
from tests.stream.support import Desk, acknowledged, revs

from backtest_kit_mongo.adapters.instances import CandleInstance, MeasureInstance, StorageInstance
from backtest_kit_mongo.coherence.events import Event, Origin
from backtest_kit_mongo.errors import CorruptData, InvalidKey, InvalidSetting, ServerUnreachable
from backtest_kit_mongo.feed.consume import FeedClosed, TooManyUnacknowledged, consume, forget
from backtest_kit_mongo.settings import load

pytestmark = pytest.mark.live


def test_a_new_group_gets_what_is_written_after_it_was_made(desk: Desk) -> None:
    desk.write(1, 2)
    with desk.consume() as feed:
        desk.write(3, 4)
        assert revs(acknowledged(feed)) == [3, 4]
    assert desk.pending_count() == 0


def test_an_event_says_what_happened(desk: Desk) -> None:
    desk.write(7)
    (event,) = desk.take(start="beginning")
    document = desk.mongo["state-items"].find_one()
    assert (event.domain, event.rev, event.operation, event.when) == ("state", 1, "upsert", 7)
    assert event.key == {"signalId": "s", "bucketName": "b"}
    assert (event.parts, event.document) == (("s", "b"), str(document["_id"]))
    assert event.id == f"state/{document['_id']}/1"
    assert (event.host, event.process, event.replayed) == (socket.gethostname(), os.getpid(), False)
    assert abs(datetime.now(UTC) - event.written_at) < timedelta(minutes=1)
    assert event.payload == {"data": 7}
    assert event.payload is not event.payload


def test_removals_rows_and_batches_are_events_too(desk: Desk) -> None:
    measure = MeasureInstance(desk.store, "bucket")
    measure.write_measure_data({"id": "k", "data": 1, "removed": False}, "k", 1)
    measure.remove_measure_data("k")
    StorageInstance(desk.store, True).write_storage_data([{"id": "a", "priority": 1}])
    candle = {"timestamp": 0, "open": 1.0, "high": 1.0, "low": 1.0, "close": 1.0, "volume": 0.0}
    CandleInstance(desk.store, "BTC", "1m", "e").write_candles_data([candle])
    found = [(event.domain, event.operation, dict(event.key)) for event in desk.take(start="beginning")]
    assert found == [
        ("measure", "upsert", {"bucket": "bucket", "entryKey": "k"}),
        ("measure", "remove", {"bucket": "bucket", "entryKey": "k"}),
        ("storage", "upsert", {"backtest": True, "signalId": "a"}),
        ("candle", "batch", {"exchangeName": "e", "symbol": "BTC", "interval": "1m"}),
    ]


def test_only_the_chosen_domains_are_delivered_and_nothing_else_stays_pending(desk: Desk) -> None:
    desk.write(1)
    StorageInstance(desk.store, True).write_storage_data([{"id": "a", "priority": 1}])
    assert [event.domain for event in desk.take("g", "storage", start="beginning")] == ["storage"]
    assert [event.domain for event in desk.take("h", ["state", "signal"], start="beginning")] == ["state"]
    assert desk.pending_count("g") == desk.pending_count("h") == 0


def test_every_group_gets_every_event_and_goes_on_where_it_was(desk: Desk) -> None:
    desk.write(1, 2)
    assert revs(desk.take("one", start="beginning")) == revs(desk.take("two", start="beginning")) == [1, 2]
    desk.write(3)
    assert revs(desk.take("one", start="beginning")) == [3]


def test_the_feeds_of_one_group_share_the_events(desk: Desk) -> None:
    with desk.consume(batch_max=5) as one, desk.consume(batch_max=5) as two:
        desk.write(*range(1, 21))
        first = [next(one) for _ in range(5)]
        second = [next(two) for _ in range(5)]
        one.ack(*first)
        two.ack(*second)
        rest = acknowledged(one) + acknowledged(two)
    assert sorted(revs(first + second + rest)) == list(range(1, 21))


def test_what_was_not_acknowledged_comes_again_at_once_after_closing(desk: Desk) -> None:
    desk.write(1, 2, 3)
    with desk.consume(start="beginning") as feed:
        first, _, _ = feed
        first.ack()
    again = desk.take()
    assert revs(again) == [2, 3]
    assert desk.pending_count() == 0
    assert {consumer["name"] for consumer in desk.redis.xinfo_consumers(desk.stream, "feed:g")} == {b"handed-back"}


def test_what_was_not_acknowledged_comes_again_to_the_same_feed_when_it_is_overdue(desk: Desk) -> None:
    desk.write(1, 2)
    with desk.consume(start="beginning", claim_idle_ms=40, until_idle=False) as feed:
        first = next(feed)
        second = next(feed)
        second.ack()
        again = next(feed)
        assert (again, again.id) == (first, first.id)
        again.ack()
    assert desk.pending_count() == 0


def test_what_a_killed_process_held_goes_to_another_when_it_is_overdue(desk: Desk) -> None:
    desk.write(1)
    killed = desk.consume(start="beginning")
    assert revs(killed) == [1]
    with desk.consume(claim_idle_ms=40, until_idle=False) as feed:
        assert next(feed).rev == 1


def test_consumers_that_died_are_forgotten_once_what_they_held_is_claimed(desk: Desk) -> None:
    desk.write(1, 2, 3)
    for _ in range(3):
        next(desk.consume(start="beginning", batch_max=1, claim_idle_ms=60_000))
    with desk.consume(claim_idle_ms=1, timeout_s=2, until_idle=False) as feed:
        assert sorted(revs(acknowledged(feed))) == [1, 2, 3]
    assert desk.redis.xinfo_consumers(desk.stream, "feed:g") == []


def test_what_a_killed_process_held_comes_at_once_to_its_successor_of_the_same_name(desk: Desk) -> None:
    desk.write(1, 2)
    killed = desk.consume(start="beginning", consumer="desk-1")
    next(killed).ack()
    assert revs(desk.take(consumer="desk-1")) == [2]
    assert desk.pending_count() == 0


def test_a_change_that_is_in_the_stream_twice_is_delivered_once(desk: Desk) -> None:
    desk.write(1, 2)
    desk.republish()
    with desk.consume(start="beginning") as feed:
        events = list(feed)
        assert revs(events) == [1, 2]
        desk.republish()
        feed.ack(*events)
        desk.republish()
        assert list(feed) == []
    assert desk.pending_count() == 0
    assert desk.take() == []


def test_beyond_the_window_a_second_delivery_is_not_recognised(desk: Desk) -> None:
    desk.write(1, 2, 3)
    desk.republish()
    assert revs(desk.take(start="beginning", window=2, unacknowledged_max=2)) == [1, 2, 3, 1, 2, 3]


@pytest.mark.parametrize("partitions", [4])
def test_every_document_is_delivered_over_several_partitions(desk: Desk) -> None:
    for name in range(20):
        desk.write(1, 2, signal=f"s{name}")
    assert sum(desk.redis.exists(stream) for stream in desk.streams) > 1
    events = desk.take(start="beginning")
    assert sorted((event.parts[0], event.rev) for event in events) == sorted(
        (f"s{n}", r) for n in range(20) for r in (1, 2)
    )
    assert desk.pending_count() == 0


def test_a_time_is_where_a_new_group_may_begin(desk: Desk) -> None:
    desk.write(1)
    wall_ms = time.time_ns() // 1_000_000
    eventually(lambda: time.time_ns() // 1_000_000 > wall_ms)
    start = datetime.now(UTC)
    desk.write(2)
    assert revs(desk.take(start=start)) == [2]
    with pytest.raises(InvalidKey, match="has no zone"):
        desk.take("naive", start=start.replace(tzinfo=None))
    assert desk.pending_count() == 0


def test_an_entry_that_cannot_be_read_is_passed_over_and_said_so(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    entry = desk.redis.xadd(desk.stream, {"e": b"\xff", "p": b"poison"})
    desk.write(1)
    assert revs(desk.take(start="beginning")) == [1]
    assert desk.pending_count() == 0
    assert entry.decode() in caplog.text


def test_a_payload_that_cannot_be_decoded_is_an_error_only_for_who_looks_at_it(desk: Desk) -> None:
    broken = Event("state", ("x", "b"), "d1", 1, "upsert", 1, 1, Origin("h", 1), b"\xc1")
    desk.redis.xadd(desk.stream, {"e": broken.header(), "p": broken.body})
    (event,) = desk.take(start="beginning")
    with pytest.raises(CorruptData, match="state/d1/1"):
        _ = event.payload


def test_a_domain_of_a_newer_release_is_delivered_with_numbered_columns(desk: Desk) -> None:
    newer = Event("orderbook", ("x", 5), "d1", 1, "upsert", None, 1, Origin("h", 1), b"\x01")
    desk.redis.xadd(desk.stream, {"e": newer.header(), "p": newer.body})
    (event,) = desk.take(start="beginning")
    assert (event.key, event.payload) == ({"0": "x", "1": 5}, 1)


def test_too_many_unacknowledged_events_are_refused_until_some_are_acknowledged(desk: Desk) -> None:
    desk.write(1, 2, 3)
    with desk.consume(start="beginning", unacknowledged_max=2) as feed:
        first, _ = next(feed), next(feed)
        with pytest.raises(TooManyUnacknowledged, match=r"event\.ack"):
            next(feed)
        first.ack()
        assert next(feed).rev == 3


def test_acknowledging_after_closing_is_an_error_and_the_event_comes_again(desk: Desk) -> None:
    desk.write(1)
    with desk.consume(start="beginning") as feed:
        event = next(feed)
    with pytest.raises(FeedClosed, match="delivered again"):
        event.ack()
    assert revs(desk.take()) == [1]
    assert repr(feed) == "<feed of group 'g', closed>"


def test_iteration_ends_after_the_timeout_and_may_go_on(desk: Desk) -> None:
    with desk.consume(until_idle=False, timeout_s=0.05, block_ms=10) as feed:
        assert list(feed) == []
        desk.write(1)
        assert revs(feed) == [1]


def test_another_thread_may_close_a_feed_that_waits(desk: Desk) -> None:
    with desk.consume(until_idle=False, block_ms=20) as feed:
        desk.write(1)
        found: list[int] = []

        def read() -> None:
            for event in feed:
                event.ack()
                found.append(event.rev)

        reader = threading.Thread(target=read)
        reader.start()
        eventually(lambda: found)
        feed.close()
        reader.join(5)
        assert not reader.is_alive()
        with pytest.raises(StopIteration):
            next(feed)
    assert desk.pending_count() == 0


@pytest.mark.parametrize("how", ["KeyboardInterrupt", "close"])
def test_a_signal_ends_a_feed_that_waits_and_hands_back_what_is_open(desk: Desk, how: str) -> None:
    def interrupt(*_: Any) -> None:
        if how == "close":
            feed.close()
        else:
            raise KeyboardInterrupt

    desk.write(1)
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with desk.consume(start="beginning", until_idle=False, block_ms=100) as feed:
            assert next(feed).rev == 1
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            if how == "close":
                assert list(feed) == []
            else:
                with pytest.raises(KeyboardInterrupt):
                    next(feed)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert revs(desk.take()) == [1]


def test_a_forgotten_group_is_gone_and_begins_anew(desk: Desk) -> None:
    desk.write(1)
    assert revs(desk.take(start="beginning")) == [1]
    assert forget("g", settings=desk.settings)
    assert desk.redis.xinfo_groups(desk.stream) == []
    assert not forget("g", settings=desk.settings)
    assert revs(desk.take(start="beginning")) == [1]


def test_the_start_of_a_group_that_exists_is_ignored_and_said_so(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    desk.take()
    desk.write(1)
    with caplog.at_level(logging.INFO):
        assert revs(desk.take(start=datetime(2200, 1, 1, tzinfo=UTC))) == [1]
    assert "goes on where it was" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"group": ""}, "group must have"),
        ({"group": "g", "domains": ["signla"]}, "did you mean signal"),
        ({"group": "g", "domains": []}, "no domain"),
        ({"group": "g", "start": "now"}, "beginning"),
        ({"group": "g", "claim_idle_ms": 0}, "claim_idle_ms"),
        ({"group": "g", "window": 5}, "unacknowledged_max"),
    ],
)
def test_a_wrong_argument_is_said_before_anything_is_connected(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidSetting, match=says):
        consume(**arguments)


def test_a_server_that_is_away_at_the_start_is_an_error_that_names_it(desk: Desk) -> None:
    away = load(
        mongo_connection_string=desk.settings.mongo_connection_string,
        redis_host="127.0.0.1",
        redis_port=1,
        lease_ms=1_500,
    )
    with pytest.raises(ServerUnreachable, match=r"Redis at 127\.0\.0\.1:1 did not answer.*Nothing was consumed"):
        consume("g", settings=away)
    with pytest.raises(ServerUnreachable, match=r"Redis at 127\.0\.0\.1:1"):
        forget("g", settings=away)
    nowhere = desk.settings.model_copy(
        update={
            "mongo_connection_string": load(mongo_connection_string="mongodb://127.0.0.1:1/x").mongo_connection_string
        }
    )
    with pytest.raises(ServerUnreachable, match="MongoDB cannot be reached"):
        consume("g", settings=nowhere.model_copy(update={"mongo_timeout_ms": 50}))
