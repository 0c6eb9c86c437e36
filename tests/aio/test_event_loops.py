"""`bk.aio`: the event loop never waits, what a task knows holds for its calls, and a cancelled task claims nothing."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import backtest_kit_mongo as bk
from backtest_kit_mongo.adapters.registries import REGISTRIES
from backtest_kit_mongo.backends.memory import MemoryTruth
from backtest_kit_mongo.coherence.effects import Upsert
from backtest_kit_mongo.coherence.record import Record
from backtest_kit_mongo.drivers.offloading import THREADS
from backtest_kit_mongo.drivers.store import Store
from backtest_kit_mongo.errors import CallerError, LookAhead, WriteRefused
from backtest_kit_mongo.ports import NoCache
from backtest_kit_mongo.settings import Settings
from backtest_kit_mongo.testing.serving import serving

STATE = bk.aio.PersistStateAdapter
WAIT_S = 60
DOCS = Path(__file__).parents[2] / "docs" / "asyncio.md"


class SlowTruth(MemoryTruth):
    """Its writes wait until they are let go, as those of a server that does not answer."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = threading.Semaphore(0)
        self.go_on = threading.Event()
        self.fails = False

    def upsert(self, effect: Upsert) -> Record:
        self.begun.release()
        assert self.go_on.wait(WAIT_S)
        if self.fails:
            raise WriteRefused("the server has no more room. Nothing was written.")
        return super().upsert(effect)


@pytest.fixture
def truth() -> Iterator[SlowTruth]:
    truth = SlowTruth()
    with serving(Store("slow", truth, NoCache())):
        yield truth


async def until_begun(truth: SlowTruth, count: int = 1) -> None:
    for _ in range(count):
        assert await asyncio.to_thread(truth.begun.acquire, timeout=WAIT_S)


def write(value: int, bucket: str = "b") -> Any:
    return STATE.write_state_data({"value": value}, "s", bucket, value)


def test_every_domain_is_there_under_its_name_and_says_what_it_does() -> None:
    for registry in REGISTRIES:
        assert getattr(bk.aio, registry.name).sync is registry
    assert STATE.read_state_data.__doc__ == bk.PersistStateAdapter.read_state_data.__doc__
    assert not [name for name in bk.aio.__all__ if not hasattr(bk.aio, name)]


def test_the_loop_goes_on_while_more_tasks_than_threads_wait_for_a_server(truth: SlowTruth) -> None:
    async def main() -> list[Any]:
        tasks = [asyncio.create_task(write(1, f"b{n}")) for n in range(4 * THREADS)]
        await until_begun(truth, THREADS)
        turns = 0
        while turns < 1_000:  # Each is one turn of the loop, none of which could come if it waited.
            await asyncio.sleep(0)
            turns += 1
        assert not any(task.done() for task in tasks)
        truth.go_on.set()
        await asyncio.gather(*tasks)
        return [await STATE.read_state_data("s", f"b{n}") for n in range(4 * THREADS)]

    assert asyncio.run(main()) == [{"value": 1}] * 4 * THREADS


def test_a_cancelled_write_that_is_under_way_goes_on_and_one_that_waits_is_not_made(truth: SlowTruth) -> None:
    async def main() -> tuple[Any, Any]:
        under_way = [asyncio.create_task(write(1, f"b{n}")) for n in range(THREADS)]
        await until_begun(truth, THREADS)
        waiting = asyncio.create_task(write(1, "waiting"))
        await asyncio.sleep(0)
        for task in (under_way[0], waiting):
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        truth.go_on.set()
        await asyncio.gather(*under_way[1:])
        await write(2, "last")
        return await STATE.read_state_data("s", "b0"), await STATE.read_state_data("s", "waiting")

    assert asyncio.run(main()) == ({"value": 1}, None)


def test_a_cancelled_write_that_fails_later_is_in_the_log(truth: SlowTruth, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        task = asyncio.create_task(write(1))
        await until_begun(truth)
        task.cancel()
        await asyncio.wait([task])
        truth.fails = True
        truth.go_on.set()
        while not caplog.records:
            await asyncio.sleep(0.01)

    with caplog.at_level(logging.WARNING):
        asyncio.run(asyncio.wait_for(main(), WAIT_S))
    assert "write_state_data went on after its task was cancelled, and failed: the server has no" in caplog.text


def test_a_timed_out_read_leaves_the_others_alone(bkm_store: Store) -> None:
    async def main() -> Any:
        await write(1)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(STATE.read_state_data("s", "b"), 0)
        return await STATE.read_state_data("s", "b")

    assert asyncio.run(main()) == {"value": 1}


def test_a_step_and_a_simulation_time_hold_for_the_calls_of_their_task_only(bkm_store: Store) -> None:
    async def in_a_step(value: int, then: type[Exception] | None = None) -> Any:
        async with bk.aio.step():
            await write(value, "mine")
            inside = await STATE.read_state_data("s", "mine")
            async with asyncio.TaskGroup() as group:
                group.create_task(write(value, "by a task of the step"))
            if then is not None:
                raise then
        return inside

    async def main() -> None:
        with bk.simulation_time(5):
            with pytest.raises(LookAhead):
                await write(6)
            await write(5)
        await write(1, "others")
        assert await in_a_step(7) == {"value": 7}
        with pytest.raises(ZeroDivisionError):
            await in_a_step(8, then=ZeroDivisionError)
        values = [await STATE.read_state_data("s", name) for name in ("b", "others", "mine", "by a task of the step")]
        assert values == [{"value": 5}, {"value": 1}, {"value": 7}, {"value": 7}]

    asyncio.run(main())


def test_threads_are_counted_and_chosen(truth: SlowTruth) -> None:
    async def main() -> None:
        bk.aio.use_threads(2)
        tasks = [asyncio.create_task(write(1, f"b{n}")) for n in range(5)]
        await until_begun(truth, 2)
        await asyncio.sleep(0.05)
        assert not truth.begun.acquire(blocking=False)
        truth.go_on.set()
        await asyncio.gather(*tasks)

    with pytest.raises(CallerError, match="at least one"):
        bk.aio.use_threads(0)
    try:
        asyncio.run(main())
    finally:
        bk.aio.use_threads(THREADS)


def test_a_feed_that_is_closed_while_it_connects_is_closed_then() -> None:
    connecting, go_on, closed = threading.Event(), threading.Event(), threading.Event()

    class Feed(Iterator[Any]):
        def __next__(self) -> Any:
            assert closed.is_set()
            raise StopIteration

        def close(self) -> None:
            closed.set()

    def connect() -> Any:
        connecting.set()
        assert go_on.wait(WAIT_S)
        return Feed()

    async def main() -> None:
        feed = bk.aio.AsyncChangeFeed(connect)
        first = asyncio.create_task(anext(feed))
        assert await asyncio.to_thread(connecting.wait, WAIT_S)
        closing = asyncio.create_task(feed.close())
        await asyncio.sleep(0)
        go_on.set()
        await closing
        with pytest.raises(StopAsyncIteration):
            await first

    asyncio.run(main())
    assert closed.is_set()


def _write_in_child() -> None:
    asyncio.run(write(1))


def test_a_forked_child_has_threads_of_its_own(bkm_store: Store) -> None:
    asyncio.run(write(1))
    child = multiprocessing.get_context("fork").Process(target=_write_in_child)
    child.start()
    child.join(WAIT_S)
    assert child.exitcode == 0


@pytest.mark.live
def test_a_program_with_an_event_loop_on_real_servers(bkm_live: Store, bkm_settings: Settings) -> None:
    async def main() -> None:
        await asyncio.gather(*(write(1, f"b{n}") for n in range(40)))
        await bk.aio.PersistMemoryAdapter.write_memory_data({"text": "x"}, "s", "b", "m", 1)
        assert [row async for row in bk.aio.PersistMemoryAdapter.list_memory_data("s", "b")] == [
            {"memoryId": "m", "data": {"text": "x"}}
        ]
        async with bk.aio.consume("desk", ["state"], start="beginning", settings=bkm_settings) as feed:
            with pytest.raises(TimeoutError):  # It waits for the first event when it is cancelled, or has it.
                await asyncio.wait_for(anext(feed), 0)
            events = [await anext(feed) for _ in range(40)]
            await feed.ack(*events)
            nothing = asyncio.create_task(anext(feed))
            await asyncio.sleep(0)
            await feed.close()
            with pytest.raises(StopAsyncIteration):
                await nothing
        assert {event.parts[1] for event in events} == {f"b{n}" for n in range(40)}

    asyncio.run(main())


@pytest.mark.live
def test_the_code_of_the_documentation_and_candles_and_collections_of_the_users_own(
    bkm_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC_MONGO_CONNECTION_STRING", bkm_settings.mongo_connection_string.get_secret_value())
    monkeypatch.setenv("CC_REDIS_HOST", bkm_settings.redis_host)
    monkeypatch.setenv("CC_REDIS_PORT", str(bkm_settings.redis_port))
    code = re.findall(r"```python\n(.*?)```", DOCS.read_text("utf-8"), re.DOTALL)
    row = {"timestamp": 60_000, "open": 1.0, "high": 1.0, "low": 1.0, "close": 1.0, "volume": 1.0}

    async def more() -> None:
        trades = bk.aio.BaseCRUD("trades")
        made = await trades.create({"side": "long"})
        assert (await trades.find_by_id(made["id"]))["side"] == "long"
        assert [row["id"] async for row in trades.iterate()] == [made["id"]]
        await bk.aio.PersistCandleAdapter.write_candles_data([row], "BTCUSDT", "1m", "binance")
        assert (await bk.aio.read_candles("BTCUSDT", "1m", "binance", 60_000, 120_000)).close.tolist() == [1.0]
        assert [row["status"] for row in await bk.aio.PersistStorageAdapter.read_storage_data(False)] == ["closed"]
        await bk.aio.shutdown()

    try:
        for one in code:
            exec(compile(one, str(DOCS), "exec"), {})
        asyncio.run(more())
    finally:
        bk.shutdown()
