"""A store counts how each operation ended, once, whatever happens around it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from backtest_kit_mongo.adapters.instances import CandleInstance
from backtest_kit_mongo.backends.memory import MemoryTruth
from backtest_kit_mongo.backends.redis.counts import CacheCounts
from backtest_kit_mongo.coherence.effects import CacheDown, CacheRead, Commit, Find, Lease, Leased, Right, Upsert
from backtest_kit_mongo.coherence.record import Domain, Key, Record
from backtest_kit_mongo.domains.checks import make_change
from backtest_kit_mongo.domains.table import CANDLE, LOG, STATE
from backtest_kit_mongo.drivers.counts import BOUNDS_S, Counts
from backtest_kit_mongo.drivers.store import Store
from backtest_kit_mongo.errors import InvalidPayload, ReadFailed, ServerUnreachable, WriteOutcomeUnknown, WriteRefused
from backtest_kit_mongo.ports import Near, NoCache
from backtest_kit_mongo.testing.examples import candles, example

KEY = Key(STATE, ("signal", "bucket"))
ENTRY = Record(KEY, 1, {"data": 1}, 1, False, "id")


class Scripted(NoCache):
    """A cache that leases, and answers reads as it is set to."""

    def __init__(self, answer: Callable[[], Record | Right] = lambda: ENTRY) -> None:
        self.answer = answer
        self.is_lost = False

    def read(self, effect: CacheRead) -> Record | Right:
        return self.answer()

    def lease(self, effect: Lease) -> Leased | None:
        return Leased("token", float("inf"))

    def commit(self, effect: Commit) -> None:
        if self.is_lost:
            raise CacheDown


class Failing(MemoryTruth):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error

    def find(self, effect: Find) -> Record:
        raise self._error

    def upsert(self, effect: Upsert) -> Record:
        raise self._error

    def scan(self, *_: Any, **__: Any) -> Iterator[Record]:
        return map(self._fail, (1,))

    def _fail(self, _: int) -> Record:
        raise self._error


class OneCopy(Near):
    """A near cache that has the entry."""

    domains: frozenset[Domain] = frozenset({STATE})

    def get(self, key: Key) -> Record | None:
        return ENTRY

    def drop(self, keys: object) -> None: ...

    def begin(self, effect: object) -> Any: ...

    def end(self, effect: object) -> None: ...

    def close(self) -> None: ...


def reads(store: Store, domain: Domain = STATE) -> dict[str, int]:
    tally = store.counts.reads[domain]
    return {name: count for name, count in zip(tally.names, tally.outcomes, strict=True) if count}


def writes(store: Store, domain: Domain = STATE) -> dict[str, int]:
    tally = store.counts.writes[domain]
    return {name: count for name, count in zip(tally.names, tally.outcomes, strict=True) if count}


class TestReads:
    @pytest.mark.parametrize(
        ("answer", "outcome"), [(ENTRY, "hit"), (Right("r"), "miss"), (Right(""), "miss"), (Right("", True), "bypass")]
    )
    def test_a_read_is_counted_by_what_the_cache_had(self, answer: Record | Right, outcome: str) -> None:
        store = Store("s", MemoryTruth(), Scripted(lambda: answer))
        store.read(KEY)
        assert reads(store) == {outcome: 1}

    def test_a_copy_of_this_process_is_near_and_not_timed(self) -> None:
        store = Store("s", MemoryTruth(), Scripted(), OneCopy())
        store.read(KEY)
        assert reads(store) == {"near": 1}
        assert sum(store.counts.reads[STATE].durations) == 0

    def test_a_read_that_fails_after_a_miss_is_an_error_and_no_miss(self) -> None:
        store = Store("s", Failing(ReadFailed("no")), Scripted(lambda: Right("r")))
        with pytest.raises(ReadFailed):
            store.read(KEY)
        assert reads(store) == {"error": 1}

    def test_a_failed_read_says_nothing_of_the_next_one(self) -> None:
        cache = Scripted(lambda: Right("r"))
        store = Store("s", Failing(ReadFailed("no")), cache)
        with pytest.raises(ReadFailed):
            store.read(KEY)
        cache.answer = lambda: ENTRY
        store.read(KEY)
        assert reads(store) == {"error": 1, "hit": 1}

    def test_lists_and_windows_are_one_read_each(self) -> None:
        store = Store("s", MemoryTruth(), NoCache())
        list(store.scan(Key(LOG, ())))
        next(store.scan(Key(LOG, ())), None)
        store.window(Key(CANDLE, ("BTCUSDT", "1m", "binance")), 0, 1)
        assert (reads(store, LOG), reads(store, CANDLE)) == ({"list": 2}, {"list": 1})

    def test_a_list_that_breaks_off_is_an_error(self) -> None:
        store = Store("s", Failing(ReadFailed("no")), NoCache())
        with pytest.raises(ReadFailed):
            list(store.scan(Key(LOG, ())))
        assert reads(store, LOG) == {"error": 1}


class TestWrites:
    def test_a_write_is_counted_as_written(self) -> None:
        store = Store("s", MemoryTruth(), Scripted())
        store.write(make_change(KEY, example(STATE), 1))
        assert writes(store) == {"written": 1}

    def test_a_write_that_the_cache_missed_is_a_bypass_and_says_nothing_of_the_next_one(self) -> None:
        cache = Scripted()
        store = Store("s", MemoryTruth(), cache)
        cache.is_lost = True
        store.write(make_change(KEY, example(STATE), 1))
        cache.is_lost = False
        store.write(make_change(KEY, example(STATE), 2))
        assert writes(store) == {"bypass": 1, "written": 1}

    @pytest.mark.parametrize(
        ("error", "outcome"),
        [
            (WriteOutcomeUnknown("?"), "unknown"),
            (WriteRefused("no"), "refused"),
            (InvalidPayload("too large"), "refused"),
            (ServerUnreachable("away"), "error"),
            (RuntimeError("a bug"), "error"),
        ],
    )
    def test_a_write_that_fails_is_counted_by_what_the_caller_may_believe(self, error: Exception, outcome: str) -> None:
        store = Store("s", Failing(error), Scripted())
        with pytest.raises(type(error)):
            store.write(make_change(KEY, example(STATE), 1))
        assert writes(store) == {outcome: 1}

    def test_candles_are_counted_by_row(self) -> None:
        store = Store("s", MemoryTruth(), NoCache())
        instance = CandleInstance(store, "BTCUSDT", "1m", "binance")
        instance.write_candles_data(candles(5))
        instance.write_candles_data([{**candles(1)[0], "close": 99.75}, *candles(7)[1:]])
        counts = store.counts
        assert (counts.rows_new, counts.rows_known, counts.rows_conflicting) == (7, 5, 1)


class TestThreads:
    THREADS = 4

    def together(self, turns: int, work: Callable[[int], None]) -> None:
        barrier = threading.Barrier(self.THREADS)

        def run(number: int) -> None:
            barrier.wait()
            for _ in range(turns):
                work(number)

        threads = [threading.Thread(target=run, args=(number,)) for number in range(self.THREADS)]
        before = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            sys.setswitchinterval(before)

    def test_no_increment_is_lost(self) -> None:
        counts, turns = Counts(), 50_000
        self.together(turns, lambda _: counts.reads[STATE].add(0, BOUNDS_S[0]))
        tally = counts.reads[STATE]
        assert tally.outcomes[0] == sum(tally.durations) == self.THREADS * turns
        assert tally.seconds == pytest.approx(self.THREADS * turns * BOUNDS_S[0])

    def test_threads_that_hit_and_threads_that_miss_are_not_mixed_up(self) -> None:
        mine = threading.local()
        store = Store("s", MemoryTruth(), Scripted(lambda: mine.answer))
        answers = (ENTRY, Right(""), ENTRY, Right("", True))

        def work(number: int) -> None:
            mine.answer = answers[number]
            store.read(KEY)

        self.together(5_000, work)
        assert reads(store) == {"hit": 10_000, "miss": 5_000, "bypass": 5_000}


class TestTheCache:
    def test_the_first_incarnation_is_no_change_and_each_new_one_is(self) -> None:
        counts = CacheCounts(lambda: 0.0)
        for incarnation in (b"a", b"a", b"b", b"c", b"c"):
            counts.saw("p0", incarnation)
        assert counts.incarnation_changes == 2

    def test_a_failover_of_a_node_with_many_partitions_is_one_change(self) -> None:
        counts = CacheCounts(lambda: 0.0)
        for incarnation in (b"one", b"another"):
            for partition in ("p0", "p1", "p2"):
                counts.saw(partition, incarnation)
        assert counts.incarnation_changes == 1

    def test_time_without_redis_goes_on_until_it_is_back(self) -> None:
        now_s = [10.0]
        counts = CacheCounts(lambda: now_s[0])
        assert (counts.bypass_s, counts.is_bypassing) == (0.0, False)
        counts.went_down()
        now_s[0] = 12.0
        counts.went_down()
        assert (counts.bypass_s, counts.is_bypassing) == (2.0, True)
        counts.came_back()
        now_s[0] = 20.0
        assert (counts.bypass_s, counts.is_bypassing) == (2.0, False)

    def test_of_several_parts_of_redis_the_last_that_is_back_ends_the_time_without(self) -> None:
        now_s = [0.0]
        counts = CacheCounts(lambda: now_s[0])
        counts.went_down("p0")
        counts.went_down("p1")
        now_s[0] = 1.0
        counts.came_back("p0")
        assert counts.is_bypassing
        now_s[0] = 3.0
        counts.came_back("p1")
        assert (counts.bypass_s, counts.is_bypassing) == (3.0, False)
