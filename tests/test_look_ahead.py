"""Forty ways to look ahead at a simulation time. Each is refused, and named or left out."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.pool import ThreadPool
from typing import Any

import numpy as np
import pytest

import backtest_kit_mongo as bk
from backtest_kit_mongo.adapters.registries import REGISTRIES
from backtest_kit_mongo.coherence.record import Domain, Shape
from backtest_kit_mongo.domains.table import DOMAINS
from backtest_kit_mongo.drivers.store import Store
from backtest_kit_mongo.testing.calls import calls
from backtest_kit_mongo.testing.examples import BASE_MS, MINUTE_MS, candles, example
from backtest_kit_mongo.testing.handles import parts

pytestmark = pytest.mark.usefixtures("bkm_store")

HOUR_MS = 60 * MINUTE_MS
NOW = BASE_MS + 10 * MINUTE_MS
LATER = NOW + MINUTE_MS
BY_KEY = tuple(domain for domain in DOMAINS if domain.shape in (Shape.SLOT, Shape.KEYED))
LISTS = tuple(domain for domain in DOMAINS if domain.shape is Shape.LIST)
REGISTRY = dict(zip(DOMAINS, REGISTRIES, strict=True))
STATE = bk.PersistStateAdapter


def by_name(domain: Domain) -> str:
    return domain.name


def write(domain: Domain, moment: int, tag: str = "tag") -> Any:
    """Store an example as a strategy does that gives no time of its own; answers what a reader then reads."""
    key = parts(domain, tag)
    with bk.simulation_time(moment):
        calls(domain).write(REGISTRY[domain], example(domain, key[-1]), key, None)
    return lambda when=None: calls(domain).read(REGISTRY[domain], key, when)


def write_state(moment: int = LATER) -> Callable[[], Any]:
    STATE.write_state_data({"data": {"n": 1}}, "s", "b", moment)
    return lambda: STATE.read_state_data("s", "b")


@pytest.mark.parametrize("domain", BY_KEY, ids=by_name)
def test_a_row_that_was_written_later_is_named(domain: Domain) -> None:
    read = write(domain, LATER)
    with bk.simulation_time(NOW) as block:
        with pytest.raises(bk.LookAhead, match=rf"{domain.name}/.*written at simulation time {LATER}.*is {NOW}"):
            read()
        block.move(LATER)
        assert read()


@pytest.mark.parametrize("domain", LISTS, ids=by_name)
def test_a_list_leaves_out_what_was_written_later_and_says_so(
    domain: Domain, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backtest_kit_mongo.look_ahead._reported", set())
    read_early, read_late = write(domain, NOW, "early"), write(domain, LATER, "late")
    with bk.simulation_time(NOW), caplog.at_level(logging.WARNING):
        assert read_early() is not None
        assert read_late() is None
    assert [domain.name in record.getMessage() for record in caplog.records] == [True]
    assert read_late() is not None


@pytest.mark.parametrize("name", ["signal", "schedule", "storage", "notification", "log"])
def test_a_row_without_a_stamp_is_dated_by_its_own_times(name: str) -> None:
    domain = next(one for one in DOMAINS if one.name == name)
    key = parts(domain, "tag")
    row = {**example(domain, key[-1]), "timestamp": LATER}
    calls(domain).write(REGISTRY[domain], row, key, None)
    with bk.simulation_time(NOW):
        try:
            assert calls(domain).read(REGISTRY[domain], key, None) is None
        except bk.LookAhead as error:
            assert name in str(error)  # noqa: PT017 - one of both, by the domain's shape


def keyed_list(name: str, **options: Any) -> list[Any]:
    registry: Any = getattr(bk, f"Persist{name.title()}Adapter")
    domain = next(one for one in DOMAINS if one.name == name)
    return list(getattr(registry, f"list_{name}_data")(*parts(domain, "tag")[:-1], **options))


@pytest.mark.parametrize("name", ["interval", "memory", "measure"])
def test_a_list_of_keys_leaves_out_what_was_written_later(name: str) -> None:
    write(next(one for one in DOMAINS if one.name == name), LATER)
    with bk.simulation_time(NOW):
        assert keyed_list(name) == []
        assert keyed_list(name, limit=1) == []
    assert len(keyed_list(name)) == 1


def store_candles() -> None:
    bk.PersistCandleAdapter.write_candles_data(candles(130), "BTC", "1m", "x")
    bk.PersistCandleAdapter.write_candles_data(candles(3, step_ms=HOUR_MS), "BTC", "1h", "x")


def window(interval: str, since: int, count: int) -> Callable[[], Any]:
    return lambda: bk.PersistCandleAdapter.read_candles_data("BTC", interval, "x", count, since, 0)


def columns(interval: str, since: int, until: int, when: int | None = None) -> Callable[[], Any]:
    return lambda: bk.read_candles("BTC", interval, "x", since, until, when=when)


def stored_state(**options: Any) -> Callable[[], Any]:
    return lambda: STATE.read_state_data("s", "b", **options)


WAYS: dict[str, Callable[[], Any]] = {
    "the candle that is running": window("1m", NOW - MINUTE_MS, 2),
    "a candle of the future": window("1m", NOW + HOUR_MS, 1),
    "an hour that is not over, as a window": window("1h", BASE_MS, 1),
    "columns that open after now": columns("1m", BASE_MS, LATER),
    "columns as of later": columns("1m", BASE_MS, NOW, LATER),
    "an hour of the future": columns("1h", BASE_MS, NOW + HOUR_MS),
    "a state as of later": stored_state(when=LATER),
    "a state written with a later time": lambda: STATE.write_state_data({"data": {}}, "s", "b", LATER),
    "a measure written with a later time": lambda: bk.PersistMeasureAdapter.write_measure_data(
        {"id": "k", "data": 1, "removed": False}, "b", "k", LATER
    ),
    "a list as of later": lambda: list(bk.PersistMemoryAdapter.list_memory_data("s", "b", when=LATER)),
    "whether a memory exists": lambda: bk.PersistMemoryAdapter.has_memory_data("m", "b", "k"),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=list(WAYS))
def test_what_reaches_beyond_the_moment_is_named(way: Callable[[], Any]) -> None:
    store_candles()
    bk.PersistMemoryAdapter.write_memory_data({"data": {}, "removed": False}, "m", "b", "k", LATER)
    with bk.simulation_time(NOW), pytest.raises(bk.LookAhead, match=f"is {NOW} "):
        way()
    way()


def test_candles_are_as_of_the_moment() -> None:
    store_candles()
    with bk.simulation_time(NOW):
        assert len(bk.read_candles("BTC", "1m", "x", BASE_MS, NOW)) == 10
        assert len(bk.read_candles("BTC", "1h", "x", BASE_MS, NOW)) == 0
        assert len(window("1m", BASE_MS, 10)()) == 10
    with bk.simulation_time(BASE_MS + HOUR_MS):
        assert np.array_equal(bk.read_candles("BTC", "1h", "x", BASE_MS, BASE_MS + HOUR_MS).close, [101.0])


def in_thread(read: Callable[[], Any]) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(read).result()


def in_bare_thread(read: Callable[[], Any]) -> Any:
    found: list[Any] = []

    def run() -> None:
        try:
            found.append(read())
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if isinstance(found[0], BaseException):
        raise found[0]
    return found[0]


async def as_task(read: Callable[[], Any]) -> Any:
    async def later() -> Any:
        await asyncio.sleep(0)
        return read()

    return await asyncio.create_task(later())


async def by_the_loops_executor(read: Callable[[], Any]) -> Any:
    return await asyncio.get_running_loop().run_in_executor(None, read)


def in_pool(read: Callable[[], Any]) -> Any:
    with ThreadPool(1) as pool:
        return pool.apply(read)


ELSEWHERE: dict[str, Callable[[Callable[[], Any]], Any]] = {
    "a thread": in_bare_thread,
    "an executor": in_thread,
    "a thread of a thread": lambda read: in_bare_thread(lambda: in_bare_thread(read)),
    "a pool of threads": in_pool,
    "a task": lambda read: asyncio.run(as_task(read)),
    "asyncio.to_thread": lambda read: asyncio.run(asyncio.to_thread(read)),
    "the loop's executor": lambda read: asyncio.run(by_the_loops_executor(read)),
    "a loop in a thread": lambda read: in_bare_thread(lambda: asyncio.run(as_task(read))),
}


@pytest.mark.parametrize("run", ELSEWHERE.values(), ids=list(ELSEWHERE))
def test_the_moment_reaches_what_the_block_starts(run: Callable[[Callable[[], Any]], Any]) -> None:
    read = write_state()
    with bk.simulation_time(NOW), pytest.raises(bk.LookAhead, match="state/s/b"):
        run(read)
    assert run(read) == {"data": {"n": 1}}


def test_an_executor_of_before_knows_the_moment_of_each_call() -> None:
    read = write_state()
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(read).result()
        with bk.simulation_time(NOW), pytest.raises(bk.LookAhead):
            pool.submit(read).result()
        with bk.simulation_time(LATER):
            assert pool.submit(read).result()


def test_an_executor_whose_threads_began_in_a_block_does_not_stay_in_it() -> None:
    read = write_state()
    with ThreadPoolExecutor(1) as pool:
        with bk.simulation_time(NOW), pytest.raises(bk.LookAhead):
            pool.submit(read).result()
        assert pool.submit(read).result() == {"data": {"n": 1}}


def test_a_thread_that_was_started_before_is_refused_unless_it_says_that_it_means_it() -> None:
    read = write_state()
    jobs: list[Callable[[], Any]] = [read, lambda: _outside(read)]
    go, done = threading.Event(), threading.Event()
    found: list[Any] = []

    def worker() -> None:
        go.wait(10)
        for job in jobs:
            try:
                found.append(job())
            except bk.LookAhead as error:
                found.append(str(error))
        done.set()

    threading.Thread(target=worker, name="old").start()
    with bk.simulation_time(LATER):
        go.set()
        assert done.wait(10)
    assert "'old' knows no simulation time" in found[0]
    assert found[1] == {"data": {"n": 1}}


def _outside(read: Callable[[], Any]) -> Any:
    with bk.simulation_time(None):
        return read()


def test_writes_are_stamped_with_the_moment(bkm_store: Store) -> None:
    with bk.simulation_time(NOW):
        STATE.write_state_data({"data": {}}, "s", "b")
        STATE.write_state_data({"data": {}}, "s", "back-dated", BASE_MS)
    assert STATE.read_state_data("s", "back-dated", when=NOW - 1) is None
    assert STATE.read_state_data("s", "b", when=NOW) == {"data": {}}
    with pytest.raises(bk.InvalidKey, match="needs `when`"):
        STATE.write_state_data({"data": {}}, "s", "b")


def test_a_read_that_says_when_is_answered_as_if_the_later_row_were_not_there() -> None:
    write_state()
    with bk.simulation_time(NOW):
        assert STATE.read_state_data("s", "b", when=NOW) is None


def test_blocks_nest_and_end() -> None:
    with bk.simulation_time(NOW):
        with bk.simulation_time(BASE_MS):
            assert bk.simulation_now() == BASE_MS
        with bk.simulation_time(None):
            assert bk.simulation_now() is None
        assert bk.simulation_now() == NOW
    assert bk.simulation_now() is None
    with pytest.raises(bk.InvalidKey, match="simulation time"):
        bk.simulation_time("now")  # type: ignore[arg-type]
