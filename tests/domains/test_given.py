"""What callers hand over in a form that nobody meant: refused or reported, by name and before anything is written."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backtest_kit_mongo.adapters.instances import LogInstance, StorageInstance
from backtest_kit_mongo.adapters.jsonl import JsonlLog
from backtest_kit_mongo.backends.memory import MemoryTruth
from backtest_kit_mongo.coherence.moments import iso, moment_ms
from backtest_kit_mongo.collections.crud import BaseCRUD
from backtest_kit_mongo.domains.checks import encode, make_key
from backtest_kit_mongo.domains.table import STATE
from backtest_kit_mongo.drivers.store import Store
from backtest_kit_mongo.errors import InvalidKey, InvalidPayload, InvalidSetting
from backtest_kit_mongo.ports import NoCache


@pytest.mark.parametrize("rows", [None, "abc", {"id": "a"}, 5])
def test_what_is_no_list_of_rows_is_refused_as_such(rows: Any, tmp_path: Path) -> None:
    three: Any = np.int64(3)
    for log in (LogInstance(Store("memory", MemoryTruth(), NoCache())), JsonlLog(tmp_path / "log.jsonl")):
        with pytest.raises(InvalidPayload, match=r"rows must be a list, not one .*Nothing was written"):
            log.write_log_data(rows)
        assert log.read_log_data(limit=three) == []


def test_a_line_is_not_dropped_silently_because_another_has_its_id(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = JsonlLog(tmp_path / "log.jsonl")
    log.write_log_data([{"id": "1", "topic": "A"}, {"id": "1", "topic": "B"}])
    for _ in range(2):
        log.write_log_data([{"id": "1", "topic": "A"}, {"id": "1", "topic": "C"}])
    assert log.read_log_data() == [{"id": "1", "topic": "A"}]
    reported = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [text.partition("NOT written is ")[2] for text in reported] == [
        "{'id': '1', 'topic': 'B'}",
        "{'id': '1', 'topic': 'C'}",
    ]


def test_a_row_that_comes_twice_is_no_other_row_because_nan_does_not_equal_itself(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log = LogInstance(Store("memory", MemoryTruth(), NoCache()))
    log.write_log_data([{"id": "1", "x": float(text)} for text in ("nan", "nan")])
    assert not caplog.records


@pytest.mark.parametrize("name", [5, None, "", "a\0b", "$x", "..", "system.users", "a.", "x" * 300])
def test_a_collection_that_mongodb_cannot_have_is_refused_when_it_is_named(name: Any) -> None:
    with pytest.raises(InvalidSetting, match="cannot name a collection"):
        BaseCRUD(name)


@pytest.mark.parametrize("name", ["signal-items", "parked-items.files", "bkm-restore.notes"])
def test_a_collection_of_this_package_is_refused_when_it_is_named(name: str) -> None:
    with pytest.raises(InvalidSetting, match="is a collection of this package"):
        BaseCRUD(name)


def test_what_has_a_unit_is_not_asked_for_it_and_a_millisecond_is_shown() -> None:
    with pytest.raises(InvalidKey, match=r"2200-12-31$"):
        moment_ms(datetime(9999, 12, 31, tzinfo=UTC), "expires")
    assert [iso(1_704_067_200_000), iso(1_704_067_200_001)] == ["2024-01-01 00:00:00Z", "2024-01-01 00:00:00.001Z"]


def test_a_message_does_not_grow_with_a_key() -> None:
    for name in ("K" * 70_000, "K" * 70_000 + "\0"):
        with pytest.raises(InvalidPayload, match=r"K{50}.*70,00") as refused:
            encode(make_key(STATE, ("a", "b")), {"data": {name: {1}}})
        assert len(str(refused.value)) < 1_000


def test_a_row_whose_one_becomes_true_is_another_row() -> None:
    storage = StorageInstance(Store("memory", MemoryTruth(), NoCache()), True)
    for flag in (1, True, 1, 0, False, 0):
        storage.write_storage_data([{"id": "a", "flag": flag}])
        assert [type(row["flag"]) for row in storage.read_storage_data()] == [type(flag)]
