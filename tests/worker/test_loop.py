"""The loop's decisions on a real Redis: what is retried, what is parked, what is taken over, and when."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
import redis
from pymongo.errors import AutoReconnect, OperationFailure
from tests.integration.support import eventually
from tests.worker.feed_support import OwnRedis, Recorder, always, event, fails_on, pending_ids, publish

from backtest_kit_mongo.coherence.keys import streams
from backtest_kit_mongo.feed.dead_letters import DeadLetters, whole
from backtest_kit_worker.backoff import Backoff
from backtest_kit_worker.dead_letters import DeadLetterWriter
from backtest_kit_worker.groups import ConsumerGroup
from backtest_kit_worker.loop import Loop, LoopOptions
from backtest_kit_worker.pacing import Sight

REFUSED = OperationFailure("validation failed", 121)
GROUP = Recorder.name
MakeLoop = Callable[..., Loop]
live = pytest.mark.live


class Killed(BaseException):
    """What a SIGKILL does to the code at hand: nothing after it runs."""


@pytest.fixture
def make(client: Any, mongo: Any, stream: str) -> MakeLoop:
    def make_loop(role: Recorder, consumer: str = "one", **options: int) -> Loop:
        chosen = LoopOptions(**{"block_ms": 1, "retry_ms": 1, **options})
        return Loop(client, [stream], role, DeadLetterWriter(mongo), consumer, chosen)

    return make_loop


def causes(mongo: Any) -> dict[str, str]:
    return {row["entry"]: row["cause"] for row in mongo["parked-items"].find()}


@live
class TestWhatFails:
    def test_an_entry_that_a_server_refuses_is_parked_after_so_many_deliveries_while_others_succeed(
        self, make: MakeLoop, client: Any, mongo: Any, stream: str
    ) -> None:
        ids = publish(client, stream, *map(event, range(5)))
        role = Recorder(fails_on("d2", REFUSED))
        loop = make(role, attempts_max=3, claim_idle_ms=0)
        for attempt in (1, 2):
            loop.run_once(0)
            assert pending_ids(client, stream, GROUP) == {ids[2]: attempt}
        assert causes(mongo) == {}
        with pytest.raises(OperationFailure):
            loop.run_once(0)  # Alone, and nothing succeeded since: that proves nothing, and so does not count.
        assert pending_ids(client, stream, GROUP) == {ids[2]: 2}
        publish(client, stream, event(5))
        with pytest.raises(OperationFailure):
            loop.run_once(0)
        loop.run_once(0)
        assert list(causes(mongo)) == [ids[2]]
        assert "validation failed" in causes(mongo)[ids[2]]
        assert pending_ids(client, stream, GROUP) == {}
        assert set(role.seen.values()) == {1}
        assert role.documents == ["d0", "d1", "d3", "d4", "d5"]

    def test_the_entry_at_fault_is_found_with_few_calls(self, make: MakeLoop, client: Any, stream: str) -> None:
        publish(client, stream, *map(event, range(256)))
        role = Recorder(fails_on("d77", ValueError("broken")))
        make(role).run_until_idle()
        assert len(role.seen) == 255
        assert len(role.calls) == 1 + 2 * 8

    def test_what_its_own_bytes_are_to_blame_for_is_parked_at_once(
        self, make: MakeLoop, client: Any, mongo: Any, stream: str
    ) -> None:
        ids = publish(client, stream, event(0), event(1))
        make(Recorder(fails_on("d1", ValueError("broken")))).run_until_idle()
        assert causes(mongo) == {ids[1]: "ValueError: broken"}

    @pytest.mark.parametrize("error", [REFUSED, ValueError("a bug in the role"), OSError(28, "disk full")])
    def test_when_everything_fails_nothing_is_parked_however_long_it_takes(
        self, make: MakeLoop, client: Any, mongo: Any, stream: str, error: Exception
    ) -> None:
        publish(client, stream, *map(event, range(4)))
        role = Recorder(always(error))
        loop = make(role, attempts_max=2, claim_idle_ms=0, batch_max=2)
        for _ in range(8):
            with pytest.raises(type(error)):
                loop.run_once(0)
        assert causes(mongo) == {}
        role.plan = None
        loop.run_until_idle()
        assert role.documents == ["d0", "d1", "d2", "d3"]
        assert causes(mongo) == {}
        assert pending_ids(client, stream, GROUP) == {}

    def test_a_lone_entry_is_parked_only_once_another_one_has_succeeded(
        self, make: MakeLoop, client: Any, mongo: Any, stream: str
    ) -> None:
        (broken,) = publish(client, stream, event(0))
        loop = make(Recorder(fails_on("d0", ValueError("broken"))), claim_idle_ms=0)
        for _ in range(3):
            with pytest.raises(ValueError, match="broken"):
                loop.run_once(0)
        publish(client, stream, event(1))
        with pytest.raises(ValueError, match="broken"):
            loop.run_once(0)
        loop.run_until_idle()
        assert list(causes(mongo)) == [broken]
        assert pending_ids(client, stream, GROUP) == {}

    def test_parking_again_counts_and_keeps_the_first_time(self, mongo: Any) -> None:
        dead_letters = DeadLetterWriter(mongo)
        for cause in ("first", "second"):
            dead_letters.park("s", "audit", "1-0", {b"e": b"x"}, cause)
        dead_letters.park("s", "audit", "2-0", {b"e": b"y"}, "other")
        first, second = mongo["parked-items"].find().sort("_id", 1)
        assert (first["count"], first["cause"], second["count"]) == (2, "second", 1)
        assert first["firstSeen"] < first["lastSeen"]

    def test_what_is_too_large_for_a_document_is_parked_whole_too(self, mongo: Any, client: Any, stream: str) -> None:
        fields, operator = {b"p": bytes(17 * 1024 * 1024), b"\xff": b"x"}, DeadLetters(mongo, client, [stream])
        mongo["parked-items.chunks"].insert_one({"files_id": f"{stream}/audit/1-0", "n": 0, "data": b"of one who died"})
        for _ in range(2):
            DeadLetterWriter(mongo).park(stream, "audit", "1-0", fields, "too large")
        assert operator.find("audit/1-0").fields == fields
        (new,) = operator.replay(list(operator.list())).values()
        assert client.xrange(stream, new, new) == [(new.encode(), fields)]
        operator.drop([operator.find("audit/1-0")])
        assert mongo["parked-items"].find_one(whole())["state"] == "dropped"
        assert not mongo["parked-items.chunks"].find_one()
        client.delete(stream)


@live
class TestWhileAServerIsAway:
    @pytest.mark.parametrize(
        "error",
        [
            AutoReconnect("gone"),
            redis.TimeoutError("no answer"),
            ConnectionError("target gone"),
            OperationFailure("operation exceeded time limit", 50),
            OperationFailure("write conflict", 112, {"errorLabels": ["TransientTransactionError"]}),
        ],
        ids=repr,
    )
    def test_the_batch_is_held_without_being_delivered_again_and_nothing_else_is_fetched(
        self, make: MakeLoop, client: Any, mongo: Any, stream: str, error: Exception
    ) -> None:
        ids = publish(client, stream, *map(event, range(10)))
        role = Recorder(always(error))
        loop = make(role, batch_max=3)
        for _ in range(5):
            with pytest.raises(type(error)):
                loop.run_once(0)
        assert role.calls == [3] * 5
        assert pending_ids(client, stream, GROUP) == dict.fromkeys(ids[:3], 1)
        role.plan = None
        assert loop.run_until_idle() == 10
        assert set(role.seen.values()) == {1}
        assert causes(mongo) == {}

    def test_what_another_worker_finished_meanwhile_is_not_applied_again(
        self, make: MakeLoop, client: Any, stream: str
    ) -> None:
        publish(client, stream, event(0))
        slow = Recorder(always(AutoReconnect("gone")))
        loop = make(slow)
        with pytest.raises(AutoReconnect):
            loop.run_once(0)
        assert make(Recorder(), "two", claim_idle_ms=0).run_until_idle() == 1
        slow.plan = None
        loop.run_until_idle()
        assert slow.seen == {}

    def test_a_batch_of_which_nothing_is_left_does_not_hold_up_what_is_held_beside_it(
        self, client: Any, mongo: Any, stream: str
    ) -> None:
        streams = [stream, f"{stream}:other"]
        role = Recorder(always(AutoReconnect("gone")))
        loop = Loop(client, streams, role, DeadLetterWriter(mongo), "one", LoopOptions(block_ms=1, retry_ms=1))
        ids = {name: publish(client, name, event(number)) for number, name in enumerate(streams)}
        with pytest.raises(AutoReconnect):
            loop.run_once(0)
        client.xack(streams[1], GROUP, *ids[streams[1]])  # Another worker took it over and finished.
        for _ in range(3):
            with pytest.raises(AutoReconnect):
                loop.run_once(0)
        role.plan = None
        loop.run_until_idle()
        assert role.documents == ["d0"]

    def test_run_goes_on_by_itself_when_redis_comes_back(self, mongo: Any, own_redis: OwnRedis) -> None:
        role, stop = Recorder(), threading.Event()
        options = LoopOptions(block_ms=20, retry_ms=5, retry_max_ms=20)
        loop = Loop(own_redis.client(), ["s"], role, DeadLetterWriter(mongo), "one", options)
        thread = threading.Thread(target=loop.run, args=(stop,))
        thread.start()
        try:
            with own_redis.client() as client:
                publish(client, "s", event(0))
            eventually(lambda: role.documents == ["d0"])
            own_redis.stop()
            eventually(lambda: loop.trouble is not None)
            own_redis.start()
            with own_redis.client() as client:
                publish(client, "s", event(1))
            eventually(lambda: role.documents == ["d0", "d1"] and loop.trouble is None)
        finally:
            stop.set()
            thread.join()


@live
class TestTakingOver:
    def test_the_walk_over_pending_entries_gets_past_those_of_busy_workers(
        self, make: MakeLoop, client: Any, stream: str
    ) -> None:
        ids = publish(client, stream, *map(event, range(60)))
        client.xgroup_create(stream, GROUP, id="0")
        client.xreadgroup(GROUP, "other", {stream: ">"})
        # XAUTOCLAIM looks at ten entries for each one that it may return.
        client.xclaim(stream, GROUP, "other", 0, ids[-3:], idle=100_000)
        role = Recorder()
        loop = make(role, batch_max=1, claim_idle_ms=50_000)
        assert loop.run_until_idle() == 3
        assert role.documents == ["d57", "d58", "d59"]
        assert len(pending_ids(client, stream, GROUP)) == 57

    def test_what_kills_its_workers_is_parked_in_the_end_and_the_rest_comes_through(
        self, make: MakeLoop, client: Any, mongo: Any, stream: str
    ) -> None:
        ids = publish(client, stream, *map(event, range(6)))
        role = Recorder(fails_on("d3", Killed()))
        deaths = 0
        for worker in range(20):
            try:
                make(role, f"worker{worker}", attempts_max=3, claim_idle_ms=0).run_until_idle()
                break
            except Killed:
                deaths += 1
        assert deaths == 6
        assert list(causes(mongo)) == [ids[3]]
        assert "kills workers" in causes(mongo)[ids[3]]
        assert role.documents == ["d0", "d1", "d2", "d4", "d5"]
        assert pending_ids(client, stream, GROUP) == {}

    def test_consumers_that_hold_nothing_and_ask_for_nothing_are_removed(
        self, make: MakeLoop, client: Any, stream: str
    ) -> None:
        publish(client, stream, event(0), event(1))
        client.xgroup_create(stream, GROUP, id="0")
        client.xgroup_createconsumer(stream, GROUP, "dead")
        client.xreadgroup(GROUP, "holding", {stream: ">"}, count=1)

        def consumers() -> set[str]:
            return {found["name"].decode() for found in client.xinfo_consumers(stream, GROUP)}

        loop = make(Recorder(), dead_consumer_ms=20, claim_idle_ms=60_000)
        eventually(lambda: min(c["idle"] for c in client.xinfo_consumers(stream, GROUP)) > 20)
        loop.run_once(0)
        assert consumers() == {"holding", "one"}

    def test_a_loop_that_ends_leaves_no_consumer_behind(self, make: MakeLoop, client: Any, stream: str) -> None:
        publish(client, stream, event(0))
        loop = make(Recorder())
        loop.run_once(0)
        loop.drain()
        assert client.xinfo_consumers(stream, GROUP) == []

    def test_a_stop_finishes_what_was_taken(self, make: MakeLoop, client: Any, stream: str) -> None:
        publish(client, stream, event(0))
        role = Recorder(always(AutoReconnect("gone")))
        loop = make(role)
        with pytest.raises(AutoReconnect):
            loop.run_once(0)
        role.plan = None
        loop.drain()
        assert role.documents == ["d0"]
        assert pending_ids(client, stream, GROUP) == {}

    def test_what_was_trimmed_while_it_was_pending_is_counted_and_let_go(
        self, make: MakeLoop, client: Any, stream: str
    ) -> None:
        publish(client, stream, *map(event, range(5)))
        client.xgroup_create(stream, GROUP, id="0")
        client.xreadgroup(GROUP, "dead", {stream: ">"})
        client.xtrim(stream, maxlen=2, approximate=False)
        loop = make(Recorder(), claim_idle_ms=0)
        loop.run_until_idle()
        assert loop.counts["trimmed"] == 3
        assert loop.counts["applied"] == 2
        assert pending_ids(client, stream, GROUP) == {}


@live
def test_streams_that_a_cluster_keeps_apart_are_read_one_by_one(mongo: Any, tmp_path: Path) -> None:
    server = OwnRedis(tmp_path, "--cluster-enabled", "yes")
    try:
        with server.client() as client:
            client.execute_command("CLUSTER", "ADDSLOTSRANGE" if _is_7(client) else "ADDSLOTS", *_all_slots(client))
            names = [f"{{bk:{p}}}:db:s" for p in range(3)]
            eventually(lambda: client.cluster("info")["cluster_state"] == "ok")
            for number, name in enumerate(names):
                publish(client, name, event(number), event(number, 2))
            role = Recorder()
            loop = Loop(client, names, role, DeadLetterWriter(mongo), "one", LoopOptions(block_ms=5))
            assert loop.run_until_idle() == 6
            assert loop.run_once() == 0
            assert role.documents == ["d0", "d1", "d2"]
    finally:
        server.stop()


def _is_7(client: Any) -> bool:
    return int(client.info("server")["redis_version"].split(".")[0]) >= 7


def _all_slots(client: Any) -> range | tuple[int, int]:
    return (0, 16_383) if _is_7(client) else range(16_384)


def test_pauses_double_up_to_a_bound_and_are_never_less_than_half() -> None:
    longest = Backoff(100, 1_000, lambda: 1.0)
    shortest = Backoff(100, 1_000, lambda: 0.0)
    assert [longest.pause_ms(n) for n in (1, 2, 3, 4, 5, 99)] == [100, 200, 400, 800, 1_000, 1_000]
    assert [shortest.pause_ms(n) for n in (1, 2, 99)] == [50, 100, 500]


@live
def test_an_error_of_redis_that_is_no_missing_group_is_raised(make: MakeLoop, client: Any, stream: str) -> None:
    client.set(stream, "not a stream")
    with pytest.raises(redis.ResponseError, match="wrong kind"):
        make(Recorder()).run_once(0)


@live
def test_what_was_acknowledged_has_not_failed_when_the_feed_cannot_be_looked_at(
    make: MakeLoop, client: Any, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unseen(*_: Any) -> NoReturn:
        raise redis.ConnectionError("gone")

    publish(client, stream, *map(event, range(4)))
    loop = make(Recorder(), batch_max=2)
    monkeypatch.setattr(ConsumerGroup, "sight", unseen)
    assert [loop.run_once(0), loop.run_once(0)] == [2, 2]


@live
def test_a_loop_over_several_streams_is_not_behind_while_none_of_them_gives_all_that_was_asked_for(
    client: Any, mongo: Any, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look(*_: Any) -> Sight:
        looks.append(1)
        return Sight((), 0)

    looks: list[int] = []
    own = streams(database, 2)
    loop = Loop(client, own, Recorder(), DeadLetterWriter(mongo), "one", LoopOptions(block_ms=1, batch_max=4))
    monkeypatch.setattr(ConsumerGroup, "sight", look)
    for number, each in enumerate(own):
        publish(client, each, *map(event, range(3 * number, 3 * number + 3)))
    assert (loop.run_once(0), looks) == (6, [])
    publish(client, own[0], *map(event, range(10, 16)))
    assert (loop.run_once(0), looks) == (4, [1])
