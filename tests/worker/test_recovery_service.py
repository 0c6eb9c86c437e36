"""Recovery as a service: crashes, servers that go away, bounds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pymongo.errors
import pytest
import redis
from tests.integration.support import eventually
from tests.worker.recovery_support import AT_ONCE, Bed, bed_for

from backtest_kit_mongo import embedded
from backtest_kit_mongo.embedded import Endpoints
from backtest_kit_worker.backoff import Backoff
from backtest_kit_worker.health import Limits, Monitor
from backtest_kit_worker.leadership import Leadership
from backtest_kit_worker.metrics import WorkerCollector
from backtest_kit_worker.recovery.tail import Tail
from backtest_kit_worker.runner import ServiceRunner
from backtest_kit_worker.services import Service
from backtest_kit_worker.services.recovery import RecoveryService

pytestmark = pytest.mark.live
LONG_MS = 600_000


@pytest.fixture(scope="module")
def shared(servers: Endpoints, new_database: Callable[[], str]) -> Iterator[Bed]:
    with bed_for(servers, f"{new_database()}_service") as made:
        yield made


@pytest.fixture
def bed(shared: Bed) -> Bed:
    shared.clear()
    return shared


def place(bed: Bed) -> Any:
    state = bed.mongo["recovery-state"].find_one({"_id": "token"})
    assert state is not None
    return state.get("token") or state.get("since")


def test_recovery_is_a_service(bed: Bed) -> None:
    service: Service = RecoveryService.build(bed.deployment)
    assert service.name == "recovery"
    service.close()


def test_what_was_read_but_not_judged_is_judged_by_the_next_process(bed: Bed) -> None:
    bed.restart(grace_ms=LONG_MS)
    before = place(bed)
    for value in (1, 2, 3):
        bed.write_unannounced(value)
    while bed.recovery.unjudged_count < 3:
        bed.work()
    assert place(bed) == before
    bed.restart()
    bed.work_until(lambda: bed.data() == [1, 2, 3])


def test_the_place_moves_past_what_is_judged_so_that_it_is_not_read_again(bed: Bed) -> None:
    before = place(bed)
    bed.write(1)
    bed.work_until(lambda: bed.data() == [1])
    bed.work_until(lambda: place(bed) != before)
    bed.restart(grace_ms=LONG_MS)
    for _ in range(5):
        bed.work()
    assert bed.recovery.unjudged_count == 0


def test_a_change_behind_one_that_waits_does_not_move_the_place(bed: Bed) -> None:
    bed.restart(batch_max=1)
    bed.audit.run_once(block_ms=0)
    bed.write(1)
    bed.redis.xreadgroup("audit", "stuck", {bed.deployment.streams[0]: ">"})  # Delivered, and never acknowledged.
    before = place(bed)
    bed.write_unannounced(2)
    for _ in range(10):
        bed.work(audit=False)
    assert (bed.recovery.unjudged_count, place(bed)) == (2, before)


@pytest.mark.parametrize("bound", [{"unjudged_max": 10}, {"unjudged_bytes_max": 10_000}])
def test_reading_stops_while_too_much_is_unjudged(bed: Bed, bound: dict[str, int]) -> None:
    bed.restart(batch_max=5, **bound)
    for value in range(60):
        bed.write_unannounced(value)
    bed.redis.xadd(bed.deployment.streams[0], {"e": b"", "p": b""})  # A stream without the group: nothing is judged.
    for _ in range(30):
        bed.work(audit=False)
    assert 10 <= bed.recovery.unjudged_count < 25
    bed.work_until(lambda: len(bed.records()) == 60)


def test_two_holders_at_once_do_no_harm(bed: Bed) -> None:
    other = RecoveryService(bed.deployment, AT_ONCE)
    other.open()
    for value in range(5):
        bed.write_unannounced(value)
    bed.states.update_one({"bucketName": "bucket"}, {"$set": {"payload": {"data": 9}}})
    bed.work_until(lambda: (other.run_once(), len(bed.records()) == 6)[1])
    for _ in range(20):
        bed.work()
        other.run_once()
    other.close()
    assert [record["rev"] for record in bed.records()] == [1, 2, 3, 4, 5, 5]


def test_lag_is_the_age_of_the_oldest_unjudged_change(bed: Bed) -> None:
    assert bed.recovery.oldest_s == 0
    bed.write_unannounced(1)
    while not bed.recovery.unjudged_count:
        bed.work(audit=False)
    assert 0 < bed.recovery.oldest_s < 10


def test_metrics_and_health_tell_what_recovery_did_and_how_far_it_is_behind(bed: Bed) -> None:
    service = ServiceRunner(bed.recovery, Leadership(bed.mongo, "one", ["recovery"]), Backoff(1, 1))
    monitor = Monitor(bed.deployment, services=[service], limits=Limits(lag_ms=0))
    bed.write_unannounced(1)
    while not bed.recovery.unjudged_count:
        bed.work(audit=False)
    reported = {metric.name: metric.samples[0].value for metric in WorkerCollector(monitor).collect() if metric.samples}
    assert reported["bkm_worker_service_behind_seconds"] > 0
    assert [why.split()[0] for why in monitor.why_unhealthy()] == ["recovery"]
    bed.catch_up()
    reported = {metric.name: metric.samples[0].value for metric in WorkerCollector(monitor).collect() if metric.samples}
    assert reported["bkm_worker_recovered"] >= 1


def test_a_failure_while_a_piece_is_sighted_reads_it_again(bed: Bed) -> None:
    bed.write_unannounced(1)
    caches: Any = bed.recovery._caches
    relay_older, failures = caches.relay_older, iter([redis.ConnectionError("gone")])

    def fail_once(changes: Any) -> None:
        if changes and (failure := next(failures, None)):
            raise failure
        relay_older(changes)

    caches.relay_older = fail_once
    with pytest.raises(redis.ConnectionError):
        work_on(bed)
    bed.work_until(lambda: bed.data() == [1])


def test_an_election_and_restarts_of_both_servers_lose_nothing(
    tmp_path_factory: pytest.TempPathFactory, servers: Endpoints
) -> None:
    directory = tmp_path_factory.mktemp("recovery")
    own = embedded.up(directory, die_with_caller=True)
    try:
        with bed_for(own, "faults") as bed:
            bed.write(1)
            bed.catch_up()
            bed.write_unannounced(2)
            embedded.stop_redis(directory, kill=True)
            with pytest.raises((redis.RedisError, OSError)):
                work_on(bed)
            embedded.start_redis(directory)
            patiently(bed, [1, 2])
            bed.write_unannounced(3)
            embedded.stop_mongo(directory, kill=True)
            embedded.start_mongo(directory)
            patiently(bed, [1, 2, 3])
            bed.write_unannounced(4)
            bed.deployment.mongo.admin.command({"replSetStepDown": 1, "force": True})
            patiently(bed, [1, 2, 3, 4])
    finally:
        embedded.down(directory)


def work_on(bed: Bed) -> None:
    """Until something is raised."""
    end_s = time.monotonic() + 10
    while time.monotonic() < end_s:
        bed.recovery.run_once()


def patiently(bed: Bed, data: list[int]) -> None:
    """Work through failures, as the runner does, until the audit log holds this."""

    def holds() -> bool:
        with suppress(redis.RedisError, pymongo.errors.PyMongoError, OSError):
            bed.work()
            return bed.data() == data
        return False

    eventually(holds, within_s=30)


def test_a_resting_reader_gives_the_first_change_at_once_and_the_others_when_it_is_awake(
    bed: Bed,
) -> None:
    tail = Tail(bed.mongo, bed.mongo.client.admin.command("ping")["operationTime"], 1)
    tail.read(10, 10**6)
    tail.keep()
    for n in (1, 2, 3):
        bed.states.insert_one({"signalId": str(n), "bucketName": "b"})
    seen = []
    for rests in (True, True, False):
        seen.append([change["fullDocument"]["signalId"] for change in tail.read(10, 10**6, rests=rests)])
        tail.keep()
    tail.reset()
    assert seen == [["1"], ["2"], ["3"]]
