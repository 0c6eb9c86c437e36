"""Files on disk: written as a whole or not at all, durable when the call returns, shared by processes."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import IO

import pytest

from backtest_kit_mongo.adapters import instances as i
from backtest_kit_mongo.backends.files import disk as disk
from backtest_kit_mongo.backends.files import journal
from backtest_kit_mongo.drivers.stepping import step
from backtest_kit_mongo.drivers.store import Store
from backtest_kit_mongo.errors import InvalidKey, ReadFailed, WriteOutcomeUnknown, WriteRefused
from tests.backends.support import MINUTE_MS, T, candle, series, store_of


def files(dump: Path) -> list[str]:
    return sorted(str(path.relative_to(dump)) for path in dump.rglob("*") if path.is_file())


def add_revisions(dump: Path, count: int, all_ready: Barrier) -> None:
    state = i.StateInstance(store_of(dump), "s", "b")
    all_ready.wait(60)
    for _ in range(count):
        state.write_state_data({"data": 1}, T)


def fill_series(dump: Path, close: float) -> int:
    return series(store_of(dump)).write_candles_data([candle(n, close) for n in range(20)]).inserted


class TestJournals:
    def test_one_that_is_not_locked_yet_may_be_taken_for_a_dead_writers(
        self, dump: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lock, others = fcntl.flock, iter([True])

        def late(file: IO[bytes], how: int) -> None:
            if next(others, False):
                journal.settle(str(dump), wait=False)
            lock(file, how)

        monkeypatch.setattr(fcntl, "flock", late)
        output = disk.Output(str(dump / "a.json"), b"1", exclusive=False)
        assert journal.publish(str(dump), [output], []) == [True]
        assert files(dump) == ["a.json"]


class TestDurability:
    def test_content_reaches_the_disk_before_the_name_and_the_name_before_the_return(
        self, dump: Path, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        state = i.StateInstance(store, "s", "b")
        state.write_state_data({"data": 1}, T)
        steps: list[str] = []
        fsync, replace = os.fsync, os.replace

        def seen_fsync(descriptor: int) -> None:
            steps.append("directory" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "content")
            fsync(descriptor)

        def seen_replace(source: str, target: str) -> None:
            steps.append("name")
            replace(source, target)

        monkeypatch.setattr(os, "fsync", seen_fsync)
        monkeypatch.setattr(os, "replace", seen_replace)
        state.write_state_data({"data": 2}, T)
        assert steps == ["content", "name", "directory"]
        runs = [i.RunInstance(store, name) for name in "ab"]
        runs[0].write_run_data({"kind": "run"})
        steps.clear()
        with step():
            for run in runs:
                run.write_run_data({"kind": "run"})
        assert steps == ["directory", "name", "name"], (
            "what can be made again does not wait: one for the journals alone"
        )

    def test_a_new_directory_is_made_durable_in_its_parent(self, dump: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        synced: list[str] = []
        monkeypatch.setattr(disk, "sync_directory", synced.append)
        i.StateInstance(store_of(dump), "s", "b").write_state_data({"data": 1}, T)
        chain = [dump.parent, dump, dump / "state", dump / "state/s", dump / "state/s/b"]
        assert synced == [str(directory) for directory in chain]

    def test_a_batch_of_candles_syncs_its_directory_once(self, dump: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        instance = series(store_of(dump))
        instance.write_candles_data([candle(0)])
        synced: list[str] = []
        monkeypatch.setattr(disk, "sync_directory", synced.append)
        instance.write_candles_data([candle(n) for n in range(50)])
        assert synced == [str(dump / "data/candle/okx/BTC/1m")]

    @pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
    def test_a_full_or_broken_disk_leaves_every_document_as_it_was(
        self, dump: Path, store: Store, monkeypatch: pytest.MonkeyPatch, code: int
    ) -> None:
        storage = i.StorageInstance(store, True)
        storage.write_storage_data([{"id": "a", "note": "old"}])
        fsync, calls = os.fsync, iter([False, True])

        def full(descriptor: int) -> None:
            if next(calls):
                raise OSError(code, os.strerror(code))
            fsync(descriptor)

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(WriteRefused, match=r"b\.json cannot be written: .*Nothing was written"):
            storage.write_storage_data([{"id": "a", "note": "new"}, {"id": "b"}])
        assert storage.read_storage_data() == [{"id": "a", "note": "old"}]
        assert files(dump) == ["data/storage/backtest/a.json"]

    def test_an_error_after_the_first_of_several_names_leaves_the_outcome_open(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        replace, calls = os.replace, iter([False, True])

        def second_fails(source: str, target: str) -> None:
            if next(calls):
                raise OSError(errno.EIO, "broken")
            replace(source, target)

        monkeypatch.setattr(os, "replace", second_fails)
        with pytest.raises(WriteOutcomeUnknown, match=r"1 of 2 files were written.*safe"):
            i.StorageInstance(store, True).write_storage_data([{"id": "a"}, {"id": "b"}])

    def test_an_error_after_the_name_leaves_the_outcome_open(
        self, dump: Path, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        state = i.StateInstance(store, "s", "b")
        state.write_state_data({"data": 1}, T)

        def broken(directory: str) -> None:
            raise OSError(errno.EIO, "broken")

        monkeypatch.setattr(disk, "sync_directory", broken)
        with pytest.raises(WriteOutcomeUnknown, match="power failure"):
            state.write_state_data({"data": 2}, T)

    def test_a_base_that_is_no_directory_refuses_writes(self, dump: Path, store: Store) -> None:
        dump.write_text("a file")
        with pytest.raises(WriteRefused, match="cannot be made"):
            i.StateInstance(store, "s", "b").write_state_data({"data": 1}, T)
        assert i.StateInstance(store, "s", "b").read_state_data() is None
        assert dump.read_text() == "a file"

    def test_what_the_system_does_not_let_us_read_is_a_read_error(self, dump: Path, store: Store) -> None:
        (dump / "state/s/b/b.json").mkdir(parents=True)
        with pytest.raises(ReadFailed, match=r"b\.json cannot be read"):
            i.StateInstance(store, "s", "b").read_state_data()

    def test_a_key_beyond_the_longest_path_is_a_wrong_key(self, dump: Path, store: Store) -> None:
        state = i.StateInstance(store, "s" * 5_000, "b")
        for attempt in (state.read_state_data, lambda: state.write_state_data({"data": 1}, T)):
            with pytest.raises(InvalidKey, match="longer than the system allows"):
                attempt()


class TestSharing:
    def test_no_revision_is_lost_between_processes(self, dump: Path) -> None:
        spawn = get_context("spawn")
        arguments = (dump, 15, spawn.Barrier(2))
        processes = [spawn.Process(target=add_revisions, args=arguments) for _ in range(2)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(120)
        assert [process.exitcode for process in processes] == [0, 0]
        assert store_of(dump).read(i.StateInstance(store_of(dump), "s", "b")._context).rev == 30

    def test_a_write_holds_its_directorys_lock_until_the_new_name_stands(
        self, dump: Path, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        replace, refused = os.replace, []

        def replace_while_another_tries_to_lock(source: str, target: str) -> None:
            other = os.open(os.path.dirname(target), os.O_RDONLY)
            try:
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                refused.append(target)
            finally:
                os.close(other)
            replace(source, target)

        monkeypatch.setattr(os, "replace", replace_while_another_tries_to_lock)
        i.StateInstance(store, "s", "b").write_state_data({"data": 1}, T)
        assert refused == [str(dump / "state/s/b/b.json")]

    def test_of_two_candles_of_one_time_in_one_batch_the_first_wins(self, store: Store) -> None:
        assert series(store).write_candles_data([candle(0, 1.25), candle(0, 1.5)]).inserted == 1
        assert store.window(series(store)._context, T, T + 1) == [candle(0, 1.25)]

    def test_of_two_writers_of_a_candle_one_wins_and_both_agree_who(self, dump: Path) -> None:
        with ThreadPoolExecutor(4) as pool:
            inserted = list(pool.map(fill_series, [dump] * 4, [1.0, 1.25, 1.5, 1.75]))
        assert sum(inserted) == 20
        found = series(store_of(dump)).read_candles_data(20, T, T)
        assert found is not None
        assert [row["timestamp"] for row in found] == [T + n * MINUTE_MS for n in range(20)]

    def test_a_candle_that_a_program_without_locks_writes_meanwhile_is_read_once(
        self, dump: Path, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stage = disk._stage

        def node_is_faster(temporary: str, data: bytes, *, forced: bool) -> None:
            stage(temporary, data, forced=forced)
            foreign = dump / f"data/candle/okx/BTC/1m/{T}.json"
            if not foreign.exists():
                foreign.write_text(json.dumps(candle(0, close=1.5)))

        monkeypatch.setattr(disk, "_stage", node_is_faster)
        assert series(store).write_candles_data([candle(0), candle(1)]).inserted == 2
        assert series(store).read_candles_data(2, T, T) == [candle(0), candle(1)]

    def test_a_lock_does_not_live_on_in_a_child_that_was_forked_meanwhile(self, dump: Path) -> None:
        with disk.locked(str(dump)):
            # What a fork would give to the child: the same open file, which the lock hangs on.
            inherited = os.dup(descriptor_of(dump))

        def lock_again() -> bool:
            with disk.locked(str(dump)):
                return True

        with ThreadPoolExecutor(1) as pool:
            again = pool.submit(lock_again)
            try:
                assert again.result(timeout=10)
            finally:
                os.close(inherited)


def descriptor_of(directory: Path) -> int:
    descriptors = Path("/proc/self/fd").iterdir()
    return next(int(path.name) for path in descriptors if os.path.realpath(path) == str(directory))
