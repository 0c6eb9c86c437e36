"""The decisions of recovery that need no server."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from unittest.mock import MagicMock

import bson
import pytest
from bson import Timestamp
from pymongo.errors import OperationFailure

from backtest_kit_mongo.coherence.record import Key
from backtest_kit_mongo.domains.table import CANDLE, MEASURE, MEMORY, RISK, STATE, STORAGE
from backtest_kit_worker.recovery.candles import batch
from backtest_kit_worker.recovery.changes import (
    ChangeKind,
    LoggedChange,
    cache_key,
    concerns,
    key_of,
    revision,
    written_at,
)
from backtest_kit_worker.recovery.payloads import State, Unrecoverable, rebuild
from backtest_kit_worker.recovery.streams import END, NOWHERE, Feed, has_passed
from backtest_kit_worker.recovery.tail import END_OF_TIME, Tail, oldest


def update(domain: Any, fields: dict[str, Any], **more: Any) -> LoggedChange:
    return LoggedChange(domain, "d", 2, ChangeKind.OWN, "update", at=1 << 32, body=bson.encode(fields), **more)


@pytest.mark.parametrize(
    ("stored", "rev"), [(3, 3), (3.0, 3), (0, 0), (-1, 0), (True, 0), ("3", 0), (None, 0), (2.5, 0), (2**60, 0)]
)
def test_only_a_positive_whole_number_is_a_revision(stored: Any, rev: int) -> None:
    assert revision(stored) == rev


def test_a_key_is_read_from_columns_of_its_types_only() -> None:
    columns = {"exchangeName": "e", "symbol": "BTC", "interval": "1m"}
    assert key_of(CANDLE, {**columns, "timestamp": 60_000.0}) == Key(CANDLE, ("e", "BTC", "1m", 60_000))
    assert key_of(CANDLE, {**columns, "timestamp": True}) is None
    assert key_of(CANDLE, columns) is None
    assert key_of(STORAGE, {"backtest": 1, "signalId": "s"}) is None


def test_a_list_has_one_cache_entry_and_a_series_none() -> None:
    assert cache_key(Key(STORAGE, (True, "a"))) == Key(STORAGE, (True,))
    assert cache_key(Key(CANDLE, ("e", "BTC", "1m", 0))) is None
    assert cache_key(Key(STATE, ("s", "b"))) == Key(STATE, ("s", "b"))


def test_a_change_concerns_this_package_if_it_touches_a_column_that_is_read() -> None:
    assert concerns(MEMORY, ["payload.removed"])
    assert concerns(RISK, ["positions.0.symbol"])
    assert not concerns(RISK, ["payload"])
    assert not concerns(CANDLE, ["updatedDate", "__v"])


def test_the_writers_own_clock_is_reported_where_it_is_stored() -> None:
    wall = datetime(2024, 1, 1, tzinfo=UTC)
    assert written_at(update(STATE, {"updatedDate": wall})) == wall
    assert written_at(update(STATE, {})) == datetime.fromtimestamp(1, UTC)


def test_a_change_that_tells_the_whole_payload_needs_nothing_else() -> None:
    assert rebuild(update(STATE, {"payload": {"data": 1}, "when": 5}), None) == State({"data": 1}, 5)
    assert rebuild(update(MEASURE, {"payload": None}), None) == State(None, None)


def test_a_time_that_did_not_change_is_taken_from_the_state_before() -> None:
    assert rebuild(update(STATE, {"payload": {"data": 2}}), State({"data": 1}, 5)) == State({"data": 2}, 5)


def test_changed_members_are_set_in_a_copy_of_the_payload_before() -> None:
    before = State({"id": "k", "data": {"a": 1}, "removed": False}, None)
    after = rebuild(update(MEASURE, {"removed": True, "payload.removed": True, "payload.data.b": 2}), before)
    assert after.payload == {"id": "k", "data": {"a": 1, "b": 2}, "removed": True}
    assert before.payload["removed"] is False


def test_a_document_found_unchanged_is_trusted_before_the_state_before() -> None:
    found = bson.encode({"payload": {"data": 9}, "when": 7})
    assert rebuild(update(STATE, {"rev": 2}, found=found), State({"data": 1}, 5)) == State({"data": 9}, 7)


@pytest.mark.parametrize(
    ("change", "before"),
    [
        (update(STATE, {"rev": 2}), None),
        (update(STATE, {"payload.data.0": 1}), State({"data": [0]}, 1)),
        (update(STATE, {"payload.other.x": 1}), State({"data": 0}, 1)),
        (update(STATE, {"payload": {"data": 1}, "when": 1}, intact=False), State({"data": 0}, 1)),
        (update(STATE, {"payload": bson.Decimal128("1"), "when": 1}), None),
    ],
    ids=["nothing before", "in a list", "below nothing", "cut", "not storable"],
)
def test_nothing_is_made_up(change: LoggedChange, before: State | None) -> None:
    with pytest.raises(Unrecoverable):
        rebuild(change, before)


def test_a_batch_has_the_ranges_of_its_rows_in_any_order() -> None:
    scope = Key(CANDLE, ("e", "BTC", "5m"))
    rows = [LoggedChange(CANDLE, "d", 1, ChangeKind.OWN, "insert", key=scope.child(n * 300_000)) for n in (7, 1, 2)]
    reported = batch(scope, rows)
    assert reported.record.id == "e:BTC:5m:300000"
    assert reported.record.payload == {"ranges": [[300_000, 600_000, 2], [2_100_000, 2_100_000, 1]], "count": 3}


GROUP = {"name": b"audit", "last-delivered-id": b"5-0"}
NOTHING_PENDING = {"pending": 0, "min": None}


@pytest.mark.parametrize(
    ("stream", "groups", "pending", "reached"),
    [
        (None, None, None, END),
        ([1, b"9-0", b"1-0", b"9-0", -1], [], None, NOWHERE),
        ([1, b"9-0", b"1-0", b"9-0", -1], [GROUP], NOTHING_PENDING, (5, 0)),
        ([1, b"5-0", b"1-0", b"5-0", -1], [GROUP], NOTHING_PENDING, END),
        ([1, b"5-0", b"1-0", b"4-0", 7], [GROUP], NOTHING_PENDING, END),
        ([0, b"5-0", b"", b"", 7], [GROUP], NOTHING_PENDING, END),
        ([1, b"5-0", b"1-0", b"5-0", -1], [GROUP], {"pending": 2, "min": b"3-1"}, (3, 0)),
        ([1, b"5-0", b"1-0", b"5-0", -1], [{b"name": b"audit", b"last-delivered-id": b"5-0"}], NOTHING_PENDING, END),
    ],
    ids=["no stream", "no group", "behind", "at the end", "lost suffix", "emptied", "pending", "bytes"],
)
def test_how_far_a_group_has_come(stream: Any, groups: Any, pending: Any, reached: tuple[int, int]) -> None:
    no_client: Any = None
    assert Feed(no_client, ["s"], "audit")._reached(stream, groups, pending) == reached


def test_a_barrier_is_passed_on_all_streams_or_not_at_all() -> None:
    barrier = {"a": (5, 0), "b": (7, 1)}
    assert has_passed({"a": (5, 0), "b": END}, barrier)
    assert not has_passed({"a": END, "b": (7, 0)}, barrier)


class _Refusing:
    def find_one(self, *_: Any, **__: Any) -> None:
        raise OperationFailure("not authorized on local", 13)


def test_who_may_not_look_at_mongodb_s_log_goes_on_from_now(caplog: pytest.LogCaptureFixture) -> None:
    client: Any = {"local": {"oplog.rs": _Refusing()}}
    assert oldest(client) is None
    assert "grant `read`" in caplog.text


@pytest.mark.parametrize(
    ("position", "moment"),
    [
        (Timestamp(5, 7), 5 << 32 | 7),
        ({"_data": "820000000500000007" + "2B0229296E04"}, 5 << 32 | 7),
        ({"_data": "of another kind"}, END_OF_TIME),
    ],
    ids=["time", "token", "unknown"],
)
def test_a_position_tells_how_far_the_log_was_read(position: Any, moment: int) -> None:
    database: Any = MagicMock()
    assert Tail(database, position, 1).moment == moment
