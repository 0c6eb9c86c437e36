"""Leadership on a real MongoDB: one holder at a time, by MongoDB's clock."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from tests.integration.support import eventually

from backtest_kit_mongo.stored import WORKER_LEASES as COLLECTION
from backtest_kit_worker.leadership import Leadership

pytestmark = pytest.mark.live


class Clock:
    """Monotonic seconds that the test moves."""

    now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


def contender(mongo: Any, holder: str, lease_ms: int = 60_000, **more: Any) -> Leadership:
    return Leadership(mongo, holder, ["trim", "seal"], lease_ms, **more)


def test_the_first_who_asks_leads_and_the_second_does_not(mongo: Any) -> None:
    first, second = contender(mongo, "a"), contender(mongo, "b")
    assert first.attempt("trim")
    assert not second.attempt("trim")
    assert (first.holds("trim"), second.holds("trim")) == (True, False)
    assert first.attempt("trim")


def test_each_service_has_a_lease_of_its_own(mongo: Any) -> None:
    assert contender(mongo, "a").attempt("trim")
    assert contender(mongo, "b").attempt("seal")


def test_of_many_that_ask_at_once_one_leads(mongo: Any) -> None:
    contenders = [contender(mongo, f"c{n}") for n in range(8)]
    barrier = threading.Barrier(8)

    def ask(each: Leadership) -> None:
        barrier.wait()
        each.attempt_all()

    threads = [threading.Thread(target=ask, args=(each,)) for each in contenders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [sum(each.holds(name) for each in contenders) for name in ("trim", "seal")] == [1, 1]


def test_a_lease_that_is_not_renewed_goes_to_another_by_the_servers_clock(mongo: Any) -> None:
    first, second = contender(mongo, "a", lease_ms=60), contender(mongo, "b")
    assert first.attempt("trim")
    eventually(lambda: second.attempt("trim"))
    assert not first.attempt("trim")
    assert not first.holds("trim")
    assert mongo[COLLECTION].find_one({"_id": "trim"})["term"] == 2


def test_the_holder_stops_trusting_a_third_before_the_server_does(mongo: Any) -> None:
    clock = Clock()
    leader = contender(mongo, "a", lease_ms=30_000, clock=clock)
    leader.attempt("trim")
    clock.now_s += 19.9
    assert leader.holds("trim")
    clock.now_s += 0.2
    assert not leader.holds("trim")


@pytest.mark.parametrize("renew", [lambda leader: leader.attempt("trim"), Leadership.attempt_all])
def test_renewing_prolongs_it_and_keeps_the_term(mongo: Any, renew: Any) -> None:
    clock = Clock()
    leader = contender(mongo, "a", lease_ms=30_000, clock=clock)
    leader.attempt("trim")
    before = mongo[COLLECTION].find_one({"_id": "trim"})
    clock.now_s += 15
    renew(leader)
    clock.now_s += 15
    assert leader.holds("trim")
    after = mongo[COLLECTION].find_one({"_id": "trim"})
    assert after["expiresAt"] > before["expiresAt"]
    assert (before["term"], after["term"]) == (1, 1)


def test_what_another_took_is_not_held_when_the_rest_is_renewed(mongo: Any) -> None:
    first, second = contender(mongo, "a"), contender(mongo, "b")
    first.attempt_all()
    mongo[COLLECTION].update_one({"_id": "trim"}, [{"$set": {"expiresAt": "$$NOW"}}])
    assert second.attempt("trim")
    first.attempt_all()
    assert (first.holds("trim"), first.holds("seal")) == (False, True)


def test_a_released_lease_is_free_at_once(mongo: Any) -> None:
    first, second = contender(mongo, "a"), contender(mongo, "b")
    first.attempt_all()
    second.release()
    assert not second.attempt("trim")
    first.release()
    assert not first.holds("trim")
    assert second.attempt("trim")


def test_the_keeper_renews_until_it_is_stopped(mongo: Any) -> None:
    leader, stop = contender(mongo, "a", lease_ms=300), threading.Event()
    thread = threading.Thread(target=leader.run, args=(stop,))
    thread.start()
    try:
        eventually(lambda: leader.holds("trim"))
        first = mongo[COLLECTION].find_one({"_id": "trim"})["renewedAt"]
        eventually(lambda: mongo[COLLECTION].find_one({"_id": "trim"})["renewedAt"] > first)
    finally:
        stop.set()
        thread.join()
