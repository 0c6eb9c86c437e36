"""Readers of one key share finds, and never one that began before they did."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from tests.integration.support import eventually

from backtest_kit_mongo.coherence.effects import Find
from backtest_kit_mongo.coherence.record import Key, Record
from backtest_kit_mongo.domains.table import STATE
from backtest_kit_mongo.drivers.single_flight import SingleFlight
from backtest_kit_mongo.errors import ReadFailed

KEY = Key(STATE, ("signal", "a"))


class Mongo:
    """Finds that end when they are asked to; each finds what was stored when it began."""

    def __init__(self) -> None:
        self.stored = 0
        self.begun: list[threading.Event] = []
        self.fails: type[BaseException] | None = None

    def find(self, effect: Find) -> Record:
        found, may_end = self.stored, threading.Event()
        self.begun.append(may_end)
        assert may_end.wait(10)
        if self.fails:
            raise self.fails("no")
        return Record(effect.key, found, {"value": [found]}, None, False, "id")


class Bench:
    def __init__(self) -> None:
        self.mongo = Mongo()
        self.shared_finds = SingleFlight(self.mongo.find)
        self.pool = ThreadPoolExecutor(70)

    def read(self, key: Key = KEY) -> Future[Record]:
        return self.pool.submit(self.shared_finds.find, Find(key))

    def waiting(self, count: int) -> Callable[[], bool]:
        def come() -> bool:
            call = self.shared_finds._next.get(KEY)
            return call is not None and call.waiters == count - 1

        return come

    def begun(self, count: int) -> Callable[[], bool]:
        return lambda: len(self.mongo.begun) == count


@pytest.fixture
def bench() -> Any:
    made = Bench()
    yield made
    for begun in made.mongo.begun:
        begun.set()
    made.pool.shutdown()


def test_a_reader_that_comes_during_a_find_gets_one_that_began_after_it_came(bench: Bench) -> None:
    first = bench.read()
    eventually(bench.begun(1))
    bench.mongo.stored = 1  # A write returns while the find is under way.
    second = bench.read()
    eventually(bench.waiting(1))
    bench.mongo.begun[0].set()
    assert first.result().rev == 0
    eventually(bench.begun(2))
    bench.mongo.begun[1].set()
    assert second.result().rev == 1


def test_sixty_four_readers_cost_two_finds(bench: Bench) -> None:
    first = bench.read()
    eventually(bench.begun(1))
    others = [bench.read() for _ in range(63)]
    eventually(bench.waiting(63))
    bench.mongo.begun[0].set()
    eventually(bench.begun(2))
    bench.mongo.begun[1].set()
    assert {one.result().rev for one in [first, *others]} == {0}
    assert len(bench.mongo.begun) == 2


def test_readers_that_share_a_find_share_no_object(bench: Bench) -> None:
    bench.read()
    eventually(bench.begun(1))
    readers = [bench.read() for _ in range(3)]
    eventually(bench.waiting(3))
    for number in range(2):
        eventually(bench.begun(number + 1))
        bench.mongo.begun[number].set()
    payloads = [reader.result().payload for reader in readers]
    payloads[0]["value"].append("mine")
    assert [payload["value"] for payload in payloads[1:]] == [[0], [0]]


def test_a_find_that_fails_fails_for_all_who_share_it_and_the_next_one_is_new(bench: Bench) -> None:
    bench.read()
    eventually(bench.begun(1))
    readers = [bench.read() for _ in range(3)]
    eventually(bench.waiting(3))
    bench.mongo.begun[0].set()
    eventually(bench.begun(2))
    bench.mongo.fails = ReadFailed
    bench.mongo.begun[1].set()
    for reader in readers:
        with pytest.raises(ReadFailed, match="no"):
            reader.result()
    bench.mongo.fails = None
    again = bench.read()
    eventually(bench.begun(3))
    bench.mongo.begun[2].set()
    assert again.result().exists
    assert not bench.shared_finds._running
    assert not bench.shared_finds._next


def test_an_interrupt_hits_one_thread_and_the_others_ask_again(bench: Bench) -> None:
    bench.read()
    eventually(bench.begun(1))
    readers = [bench.read() for _ in range(3)]
    eventually(bench.waiting(3))
    bench.mongo.begun[0].set()
    eventually(bench.begun(2))
    bench.mongo.fails = KeyboardInterrupt
    bench.mongo.begun[1].set()
    eventually(lambda: len(bench.mongo.begun) == 3)
    bench.mongo.fails = None

    def all_are_done() -> bool:
        bench.mongo.begun[-1].set()
        return all(reader.done() for reader in readers)

    eventually(all_are_done)
    assert sorted(reader.exception() is None for reader in readers) == [False, True, True]


def test_keys_do_not_wait_for_each_other(bench: Bench) -> None:
    bench.read()
    other = bench.read(Key(STATE, ("signal", "b")))
    eventually(bench.begun(2))
    bench.mongo.begun[0].set()
    bench.mongo.begun[1].set()
    assert other.result().exists
