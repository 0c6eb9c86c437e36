"""Steps: writes of several domains together or not at all."""

from __future__ import annotations

import asyncio
from threading import Thread

import pytest

import backtest_kit_mongo as bk
from backtest_kit_mongo.backends.memory import MemoryTruth
from backtest_kit_mongo.candles.columns import of_rows
from backtest_kit_mongo.candles.intervals import grid_of
from backtest_kit_mongo.coherence.record import Key
from backtest_kit_mongo.domains.table import CANDLE, MEMORY, SIGNAL, STATE, STORAGE
from backtest_kit_mongo.drivers.store import Store
from backtest_kit_mongo.errors import CallerError, Conflict
from backtest_kit_mongo.ports import NoCache
from backtest_kit_mongo.testing.examples import example
from backtest_kit_mongo.testing.handles import Handle, handle


class Spots:
    """A document of three domains and a row of a list, in one store."""

    def __init__(self, store: Store, tag: str) -> None:
        self.state, self.signal, self.memory, self.row = (
            handle(store, domain, tag) for domain in (STATE, SIGNAL, MEMORY, STORAGE)
        )

    @property
    def all(self) -> tuple[Handle, ...]:
        return (self.state, self.signal, self.memory, self.row)

    def write(self, handles: tuple[Handle, ...] | None = None) -> None:
        for one in handles or self.all:
            one.write_example()

    def revs(self) -> list[int]:
        return [one.read().rev for one in self.all]


@bk.step
def failing(handles: tuple[Handle, ...]) -> None:
    for one in handles:
        one.write_example()
    raise ZeroDivisionError


class TestSteps:
    def test_all_writes_happen_when_the_block_ends_and_reads_inside_see_them(
        self, store: Store, twin: Store, tag: str
    ) -> None:
        here, there = Spots(store, tag), Spots(twin, tag)
        with bk.step() as step:
            here.write()
            assert here.state.read().payload == example(STATE)
            assert [row.key for row in store.scan(here.row.key.scope) if row.key == here.row.key] == [here.row.key]
            assert there.revs() == [0, 0, 0, 0]
        assert here.revs() == there.revs() == [1, 1, 1, 1]
        assert step.revisions == dict.fromkeys((one.key for one in here.all), 1)
        with bk.step():
            here.write((here.state,))
            store.remove(here.memory.key)
            assert here.memory.read().removed
        assert there.revs() == [2, 1, 2, 1]
        assert there.memory.read().removed

    def test_an_error_discards_all_and_a_step_within_a_step_joins_it(self, store: Store, tag: str) -> None:
        here = Spots(store, tag)
        with pytest.raises(ZeroDivisionError):
            failing(here.all)
        assert here.revs() == [0, 0, 0, 0]
        with bk.step():
            here.write((here.state,))
            with pytest.raises(ZeroDivisionError):
                failing((here.signal,))
            with bk.step():
                here.write((here.memory, here.row))
            assert not here.signal.read().exists
        assert here.revs() == [1, 0, 1, 1]

    def test_a_step_with_another_revision_than_expected_changes_nothing(
        self, store: Store, twin: Store, tag: str
    ) -> None:
        here, there = Spots(store, tag), Spots(twin, tag)
        with bk.revisions() as absent:
            here.state.read()
        here.write()
        with bk.revisions() as seen:
            here.state.read()
            here.signal.read()
        assert list(seen.values()) == [1, 1]
        with bk.step(expect=seen):  # One document is written, the other only has to be as it was.
            here.write((here.state, here.memory))
        there.write((there.signal,))
        for expected in ({**seen, here.state.key: 2}, {here.state.key: 1}, absent):
            with pytest.raises(Conflict, match="revision"), bk.step(expect=expected):
                here.write((here.state, here.memory))
        with pytest.raises(Conflict, match="revision"), bk.step(expect=absent):
            here.write((here.state,))
        assert there.revs() == [2, 2, 2, 1]
        with bk.step(expect={here.state.key: 2}):
            here.write((here.state,))
        with pytest.raises(CallerError, match="absent"), bk.step(expect={Key(STATE, (tag, "no")): 0}):
            here.write((here.state, here.memory))
        assert there.revs() == [3, 2, 2, 1]

    def test_steps_on_the_same_documents_follow_each_other(self, store: Store, twin: Store, tag: str) -> None:
        def work(store: Store) -> None:
            here = Spots(store, tag)
            for _ in range(5):
                with bk.step():
                    here.write((here.state, here.signal))

        threads = [Thread(target=work, args=(one,)) for one in (store, twin)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert Spots(store, tag).revs() == [10, 10, 0, 0]

    def test_what_tasks_write_inside_belongs_to_the_step_and_comes_too_late_after_it(
        self, store: Store, tag: str
    ) -> None:
        here = Spots(store, tag)

        async def late(event: asyncio.Event) -> None:
            await event.wait()
            here.write((here.row,))

        @bk.step
        async def strategy(event: asyncio.Event) -> asyncio.Task[None]:
            await asyncio.gather(*(asyncio.to_thread(here.write, (one,)) for one in (here.state, here.signal)))
            return asyncio.create_task(late(event))

        async def main() -> None:
            event = asyncio.Event()
            task = await strategy(event)
            event.set()
            with pytest.raises(CallerError, match="has ended"):
                await task

        asyncio.run(main())
        assert here.revs() == [1, 1, 0, 0]

    def test_a_step_has_one_store_and_no_candles(self, store: Store, tag: str) -> None:
        other = Store("another", MemoryTruth(), NoCache())
        here, elsewhere = Spots(store, tag), Spots(other, tag)
        with pytest.raises(CallerError, match="cannot be written together"), bk.step():
            here.write((here.state, elsewhere.state))
        with pytest.raises(CallerError, match="candles"), bk.step():
            store.append(Key(CANDLE, (tag,) * 3), of_rows([]), grid_of("1m"))
        assert here.revs() == [0, 0, 0, 0]
