"""The file backend: where it looks, what it makes of files that it cannot read, and how it lists."""

from __future__ import annotations

import json
import logging
import os
import time
from pathlib import Path

import pytest

from backtest_kit_mongo.adapters import instances as i
from backtest_kit_mongo.backends.files.documents import PROBES_MAX
from backtest_kit_mongo.drivers.store import Store
from backtest_kit_mongo.errors import CorruptData
from tests.backends.support import MINUTE_MS, T, candle, series, store_of


class TestDirectories:
    def test_reads_find_nothing_in_a_missing_directory_and_create_nothing(self, dump: Path, store: Store) -> None:
        assert i.StateInstance(store, "s", "b").read_state_data() is None
        assert i.StorageInstance(store, True).read_storage_data() == []
        assert series(store).read_candles_data(2, T, T) is None
        assert store.window(series(store)._context, 0, 2**53) == []
        i.MeasureInstance(store, "b").remove_measure_data("k")
        assert not dump.exists()

    def test_a_relative_base_follows_the_working_directory(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        state = i.StateInstance(store_of(Path("dump")), "s", "b")
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            monkeypatch.chdir(tmp_path / name)
            assert state.read_state_data() is None
            state.write_state_data({"data": name}, T)
        monkeypatch.chdir(tmp_path / "one")
        assert state.read_state_data() == {"data": "one"}

    def test_a_directory_that_was_deleted_is_made_again(self, dump: Path, store: Store) -> None:
        state = i.StateInstance(store, "s", "b")
        state.write_state_data({"data": 1}, T)
        dump.rename(dump.with_name("moved"))
        assert state.read_state_data() is None
        state.write_state_data({"data": 2}, T)
        assert state.read_state_data() == {"data": 2}

    def test_the_first_write_sweeps_old_leftovers_and_leaves_young_ones(self, dump: Path, store: Store) -> None:
        directory = dump / "state/s/b"
        directory.mkdir(parents=True)
        old, young = directory / ".tmp-0123456789ab-b.json", directory / ".tmp-0123456789ac-b.json"
        for leftover in (old, young):
            leftover.write_text("{")
        os.utime(old, (time.time() - 121, time.time() - 121))
        assert i.StateInstance(store, "s", "b").read_state_data() is None
        assert old.exists()
        i.StateInstance(store, "s", "b").write_state_data({"data": 1}, T)
        assert not old.exists()
        assert young.exists()

    def test_leftovers_are_not_listed(self, dump: Path, store: Store) -> None:
        i.StorageInstance(store, True).write_storage_data([{"id": "a"}])
        (dump / "data/storage/backtest/.tmp-0123456789ab-b.json").write_text("{")
        assert i.StorageInstance(store, True).read_storage_data() == [{"id": "a"}]


class TestUnreadableFiles:
    @pytest.mark.parametrize("content", [b"", b'{"data":', b"\xff", b"{} x", b"[" * 100_000], ids=range(5))
    def test_a_document_read_by_key_raises_and_its_bytes_stay_until_a_write_keeps_them_aside(
        self, dump: Path, store: Store, content: bytes
    ) -> None:
        state = i.StateInstance(store, "s", "b")
        state.write_state_data({"data": 1}, T)
        file = dump / "state/s/b/b.json"
        file.write_bytes(content)
        with pytest.raises(CorruptData, match=r"state/s/b/b\.json cannot be read"):
            state.read_state_data()
        assert file.read_bytes() == content
        state.write_state_data({"data": 2}, T)
        assert state.read_state_data() == {"data": 2}
        assert (dump / "state/s/b/b.json.corrupt").read_bytes() == content

    def test_later_unreadable_bytes_do_not_replace_earlier_ones(self, dump: Path, store: Store) -> None:
        state = i.StateInstance(store, "s", "b")
        state.write_state_data({"data": 1}, T)
        for content in ("one", "two"):
            # As another program replaces a file: under a new inode, or the link of the first would change as well.
            (dump / "new").write_text(content)
            (dump / "new").replace(dump / "state/s/b/b.json")
            state.write_state_data({"data": 1}, T)
        kept = {path.name: path.read_text() for path in (dump / "state/s/b").glob("*.corrupt*")}
        assert kept == {"b.json.corrupt": "one", "b.json.corrupt-2": "two"}

    def test_removing_an_unreadable_document_raises_and_changes_nothing(self, dump: Path, store: Store) -> None:
        measures = i.MeasureInstance(store, "b")
        measures.write_measure_data({"data": 1}, "k", T)
        (dump / "data/measure/b/k.json").write_text("{")
        with pytest.raises(CorruptData):
            measures.remove_measure_data("k")
        assert (dump / "data/measure/b/k.json").read_text() == "{"

    @pytest.mark.parametrize("content", ["{", "null", "[]", "1"])
    def test_a_bad_row_does_not_break_its_list_and_is_repaired_by_the_next_write(
        self, dump: Path, store: Store, caplog: pytest.LogCaptureFixture, content: str
    ) -> None:
        log = i.LogInstance(store)
        rows = [{"id": "a", "topic": "x"}, {"id": "b", "topic": "y"}]
        log.write_log_data(rows)
        (dump / "data/log/log/a.json").write_text(content)
        with caplog.at_level(logging.WARNING):
            assert log.read_log_data() == rows[1:]
        assert "a.json" in caplog.text
        log.write_log_data(rows)
        assert log.read_log_data() == rows
        assert (dump / "data/log/log/a.json.corrupt").read_text() == content

    @pytest.mark.parametrize(
        "content", ["{", "null", "{}", '{"timestamp":1,"open":1,"high":1,"low":1,"close":1,"volume":1}']
    )
    def test_a_bad_candle_is_a_missing_one_and_the_next_write_repairs_it(
        self, dump: Path, store: Store, content: str
    ) -> None:
        rows, instance = [candle(n) for n in range(3)], series(store)
        originals = dump / "data/candle/okx/BTC/1m"
        originals.mkdir(parents=True)
        for row in rows:
            (originals / f"{row['timestamp']}.json").write_text(json.dumps(row))
        bad = originals / f"{T + MINUTE_MS}.json"
        bad.write_text(content)
        assert instance.read_candles_data(3, T, T) is None
        assert store.window(instance._context, T, T + 10 * MINUTE_MS) == [rows[0], rows[2]]
        report = instance.write_candles_data(rows)
        assert (report.inserted, report.known) == (1, 2)
        assert instance.read_candles_data(3, T, T) == rows
        assert bad.read_text() == content

    def test_a_bad_block_of_candles_is_missing_ones_and_the_next_write_repairs_it(
        self, dump: Path, store: Store, caplog: pytest.LogCaptureFixture
    ) -> None:
        rows, instance = [candle(n) for n in range(3)], series(store)
        instance.write_candles_data(rows)
        (block,) = (dump / "data/candle/okx/BTC/1m").glob("*.candles")
        whole = block.read_bytes()
        for content in (b"", whole[:60], whole[:-8], whole[:70] + b"?" + whole[71:], b"JUNK" + whole[4:]):
            block.write_bytes(content)
            with caplog.at_level(logging.WARNING):
                assert instance.read_candles_data(3, T, T) is None
            assert "cannot be read, its candles are missing" in caplog.text
            assert block.read_bytes() == content
            report = instance.write_candles_data(rows[:2])
            assert (report.inserted, report.known) == (2, 0)
            assert store.window(instance._context, T, T + 10 * MINUTE_MS) == rows[:2]
            kept = block.with_name(f"{block.name}.corrupt")
            assert kept.read_bytes() == content
            kept.unlink()
        assert instance.write_candles_data(rows).inserted == 1
        assert instance.read_candles_data(3, T, T) == rows

    def test_many_candles_are_few_files(self, dump: Path, store: Store) -> None:
        rows, instance = [candle(n) for n in range(20_000)], series(store)
        assert instance.write_candles_data(rows[:5_000] + rows[15_000:]).inserted == 10_000
        assert instance.write_candles_data(rows).inserted == 10_000
        files = [path for path in dump.rglob("*") if path.is_file()]
        assert len(files) <= 4
        assert sum(path.stat().st_size for path in files) < 20_000 * 41
        assert instance.read_candles(T, T + 20_000 * MINUTE_MS).to_dicts() == rows


class TestListsAndWindows:
    def test_lists_are_in_natural_order_and_limited_ones_in_order_of_change(self, store: Store) -> None:
        measures = i.MeasureInstance(store, "b")
        for key in ("b0", "a10", "a2", "é", "B1", "3"):
            measures.write_measure_data({"data": 1}, key, T)
        assert list(measures.list_measure_data()) == ["3", "a2", "a10", "b0", "B1", "é"]
        measures.write_measure_data({"data": 2}, "a10", T)
        measures.remove_measure_data("3")
        assert list(measures.list_measure_data(limit=3)) == ["a10", "B1", "é"]
        assert list(measures.list_measure_data(limit=0)) == []

    def test_changes_within_one_tick_of_the_kernels_clock_have_an_order(
        self, dump: Path, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        measures, ticks = i.MeasureInstance(store, "b"), iter(range(T * 10**6, T * 10**6 + 3))
        monkeypatch.setattr(time, "time_ns", lambda: next(ticks))
        for key in ("c", "a", "b"):
            measures.write_measure_data({"data": 1}, key, T)
        changed_ns = [(dump / f"data/measure/b/{key}.json").stat().st_mtime_ns - T * 10**6 for key in ("c", "a", "b")]
        assert changed_ns == [0, 1, 2]
        assert list(measures.list_measure_data(limit=2)) == ["b", "a"]

    def test_ids_of_any_length_are_listed(self, store: Store) -> None:
        measures = i.MeasureInstance(store, "b" * 500)
        ids = sorted(["x" * 199, "x" * 200, "x" * 201, "я" * 700, "x" * 200 + ".tmp-", ""])
        for key in ids:
            measures.write_measure_data({"data": key}, key, T)
        assert sorted(measures.list_measure_data()) == ids
        assert sorted(measures.list_measure_data(limit=9)) == ids
        assert [(measures.read_measure_data(key) or {})["data"] for key in ids] == ids

    def test_listing_keys_does_not_parse_what_cannot_be_removed(self, dump: Path, store: Store) -> None:
        measures = i.MeasureInstance(store, "b")
        measures.write_measure_data({"data": 1, "removed": False}, "k", T)
        (dump / "data/measure/b/j.json").write_text("{")
        assert list(measures.list_measure_data()) == ["j", "k"]

    @pytest.mark.parametrize("length", [10, PROBES_MAX + 10])
    def test_short_windows_are_probed_and_long_ones_listed_with_the_same_result(
        self, store: Store, length: int
    ) -> None:
        instance = series(store)
        rows = [candle(n) for n in (3, 0, 7)]
        instance.write_candles_data(rows)
        ascending = sorted(rows, key=lambda row: row["timestamp"])
        scope = instance._context
        assert store.window(scope, T, T + length * MINUTE_MS) == ascending
        assert store.window(scope, T + 1, T + length * MINUTE_MS) == ascending[1:]
        assert store.window(scope, T - length * MINUTE_MS, T + 3 * MINUTE_MS) == ascending[:1]
        assert store.window(scope, T, T) == []

    def test_a_short_window_does_not_list_its_directory(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        instance = series(store)
        instance.write_candles_data([candle(0)])
        monkeypatch.delattr(os, "scandir")
        assert instance.read_candles_data(1, T, T) == [candle(0)]

    def test_names_that_are_not_text_are_ignored(self, dump: Path, store: Store) -> None:
        i.StorageInstance(store, True).write_storage_data([{"id": "a"}])
        Path(os.fsdecode(os.fsencode(dump / "data/storage/backtest") + b"/\xff.json")).write_text('{"id":"b"}')
        assert i.StorageInstance(store, True).read_storage_data() == [{"id": "a"}]
