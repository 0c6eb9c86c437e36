"""What changed between two payloads."""

from __future__ import annotations

from math import inf, nan
from typing import Any

import pytest

from backtest_kit_mongo.audit import AuditRecord, differences
from backtest_kit_mongo.audit.show import timeline


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"a": 1}, {"a": 1.0}, ["~ a: 1 -> 1.0"]),
        ({"a": 1}, {"a": True}, ["~ a: 1 -> True"]),
        ({"a": {"b": [1, 2]}}, {"a": {"b": [1, 3, 4]}}, ["~ a.b[1]: 2 -> 3", "+ a.b[2]: 4"]),
        ({"a": None, "b": 1}, {"c": None, "a": None}, ["+ c: None", "- b: 1"]),
        ({"a": [1]}, {"a": {"0": 1}}, ["~ a: [1] -> {'0': 1}"]),
        ({"a": nan, "b": inf}, {"a": nan, "b": inf}, []),
        (None, {"a": 1}, ["~ payload: None -> {'a': 1}"]),
    ],
)
def test_each_field_that_differs_is_named(before: Any, after: Any, expected: list[str]) -> None:
    assert [str(difference) for difference in differences(before, after)] == expected


def record(rev: int, payload: Any, operation: str = "upsert", **more: Any) -> AuditRecord:
    return AuditRecord(f"state/d/{rev}", "state", ("a", "b"), "d", rev, operation, payload, **more)


def test_a_timeline_shows_differences_and_names_what_is_missing() -> None:
    history = [
        record(1, {"a": 1}),
        record(2, {"a": 2}, when=60_000, host="h", process=7),
        record(2, {"a": 3}, "foreign", foreign=9),
        record(3, None, "gap", reason="lost"),
        record(6, {"a": 4}),
    ]
    assert list(timeline(history)) == [
        "document d",
        "  rev 1  upsert  written at an unknown time",
        "    + payload: {'a': 1}",
        "  rev 2  upsert  written at an unknown time  when 1970-01-01T00:01:00.000Z  by h:7",
        "    ~ a: 1 -> 2",
        "  after rev 2  foreign  written at an unknown time",
        "    ~ a: 2 -> 3",
        "  rev 3  gap  written at an unknown time",
        "    lost",
        "  rev 4..5  no record yet",
        "  rev 6  upsert  written at an unknown time",
        "    ~ a: 3 -> 4",
    ]


def test_a_document_that_was_made_again_starts_again() -> None:
    again = AuditRecord("state/e/1", "state", ("a", "b"), "e", 1, "upsert", {"a": 9})
    lines = list(timeline([record(1, {"a": 1}), again]))
    assert lines[3:] == ["document e", "  rev 1  upsert  written at an unknown time", "    + payload: {'a': 9}"]
