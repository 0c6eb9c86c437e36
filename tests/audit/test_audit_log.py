"""Timelines, time travel, tails and files."""

from __future__ import annotations

import io
import json
from datetime import timedelta
from math import inf
from pathlib import Path
from typing import Any

import pytest
from pymongo.database import Database
from tests.audit.support import START, Worker, change, foreign, gap

from backtest_kit_mongo.audit import AuditLog, export_jsonl, export_parquet
from backtest_kit_mongo.audit.export import ParquetMissing
from backtest_kit_mongo.audit.show import line
from backtest_kit_mongo.coherence.keys import escaped
from backtest_kit_mongo.coherence.record import Key
from backtest_kit_mongo.domains.table import BY_NAME, STATE
from backtest_kit_mongo.errors import CallerError, InvalidKey

pytestmark = pytest.mark.live

KEY = "state/signal/bucket"
Documents = Database[dict[str, Any]]


@pytest.fixture
def log(database: Documents) -> AuditLog:
    return AuditLog(database)


def minute(number: float) -> Any:
    return START + timedelta(minutes=number)


def test_a_timeline_has_all_changes_of_a_key_and_of_no_other(worker: Worker, log: AuditLog) -> None:
    worker.record([change(2), change(1), change(10), change(1, document="d2", key=("signal", "other"))])
    worker.writer.write([foreign(1, 9, {"data": "theirs"})])
    found = [(record.rev, record.foreign, record.payload) for record in log.timeline(KEY)]
    assert found == [
        (1, None, {"data": 1}), (1, 9, {"data": "theirs"}), (2, None, {"data": 2}), (10, None, {"data": 10}),
    ]  # fmt: skip
    assert next(log.timeline(Key(STATE, ("signal", "bucket")))).id == "state/d1/1"


def test_the_records_of_a_step_are_shown_together(worker: Worker, log: AuditLog) -> None:
    other = change(1, document="d2", key=("signal", "other"))
    worker.record([change(2)._replace(step="s1"), change(1), other._replace(step="s1")])
    records = log.of_step("s1")
    assert [(record.id, record.step) for record in records] == [("state/d1/2", "s1"), ("state/d2/1", "s1")]
    assert line(records[0]).endswith("  step s1")
    assert "step" not in line(next(log.timeline(KEY)))


def test_a_record_tells_who_and_when(worker: Worker, log: AuditLog) -> None:
    worker.record([change(1)])
    (record,) = log.timeline(KEY)
    assert (record.key, record.when, record.written_at) == (("signal", "bucket"), 1_000, minute(1))
    assert (record.host, record.process, record.entry, record.operation) == ("host", 7, "0-0", "upsert")


def test_a_timeline_of_candles_has_the_batches_of_the_series(worker: Worker, log: AuditLog) -> None:
    series = ("binance", "BTC/USDT", "1m")
    for first in (0, 60_000):
        payload = {"ranges": [[first, first, 1]], "count": 1}
        name = escaped((*series, first))
        worker.record([change(1, payload, document=name, domain="candle", key=series, operation="batch")])
    found = [record.payload["ranges"][0][0] for record in log.timeline("candle/binance/BTC%2FUSDT/1m")]
    assert found == [0, 60_000]


def test_a_key_that_was_deleted_and_made_again_has_both_lives_in_its_timeline(worker: Worker, log: AuditLog) -> None:
    worker.record([change(1, document="d1"), change(2, document="d1"), change(1, {"data": "new"}, document="d2")])
    assert [(r.document_id, r.rev) for r in log.timeline(KEY)] == [("d1", 1), ("d1", 2), ("d2", 1)]
    assert log.asof(KEY, at=minute(9)).payload == {"data": "new"}


def test_a_key_whose_first_revisions_are_lost_is_found_through_its_document(
    worker: Worker, log: AuditLog, database: Documents
) -> None:
    database["state-items"].insert_one({"_id": "d1", "signalId": "signal", "bucketName": "bucket", "rev": 2})
    worker.writer.write([gap(1, key=())])
    worker.record([change(2)])
    assert [record.operation for record in log.timeline(KEY)] == ["gap", "upsert"]


def test_asof_by_simulation_time_never_looks_ahead(worker: Worker, log: AuditLog) -> None:
    worker.record([change(1, when=100), change(2, when=200), change(3, when=300)])
    values = [log.asof(KEY, when=when).payload for when in (99, 100, 199, 200, 10_000)]
    assert values == [None, {"data": 1}, {"data": 1}, {"data": 2}, {"data": 3}]


def test_asof_takes_the_newest_revision_when_simulation_time_was_run_through_twice(
    worker: Worker, log: AuditLog
) -> None:
    worker.record([change(1, when=100), change(2, when=900), change(3, when=150)])
    assert log.asof(KEY, when=500).payload == {"data": 3}
    assert log.asof(KEY, when=120).payload == {"data": 1}


def test_asof_by_wall_clock_is_what_was_written_by_then(worker: Worker, log: AuditLog) -> None:
    worker.record([change(1), change(2)])
    assert not log.asof(KEY, at=minute(0.9)).exists
    assert log.asof(KEY, at=minute(1)).payload == {"data": 1}
    assert log.asof(KEY, at=minute(1.5)).payload == {"data": 1}
    assert log.asof(KEY, at=minute(2)).payload == {"data": 2}


def test_a_removed_revision_reads_as_absent(worker: Worker, log: AuditLog) -> None:
    key = ("s", "b", "m")
    memory = [
        change(1, {"x": 1, "removed": False}, domain="memory", key=key),
        change(2, {"x": 1, "removed": True}, domain="memory", key=key, operation="remove"),
        change(3, {"x": 2, "removed": False}, domain="memory", key=key),
        change(4, {"x": 2, "removed": True}, domain="memory", key=key),
    ]
    worker.record(memory)
    found = [log.asof("memory/s/b/m", when=rev * 1_000) for rev in range(5)]
    assert [snapshot.exists for snapshot in found] == [False, True, False, True, False]
    assert found[2].payload is None
    assert found[2].record is not None
    assert found[2].record.rev == 2


def test_foreign_changes_count_in_time_travel(worker: Worker, log: AuditLog) -> None:
    worker.record([change(1), change(2)])
    worker.writer.write([foreign(1, 9, {"data": "theirs"}, when=1_500)])
    assert log.asof(KEY, at=minute(1.6)).payload == {"data": "theirs"}
    assert log.asof(KEY, when=1_600).payload == {"data": "theirs"}
    assert log.asof(KEY, when=2_000).payload == {"data": 2}


def test_a_snapshot_says_which_lost_revisions_may_already_have_been_in_force(worker: Worker, log: AuditLog) -> None:
    worker.record([change(1), change(4)])
    worker.writer.write([gap(2), gap(3)])
    assert log.asof(KEY, when=1_000).lost == (2, 3)
    assert log.asof(KEY, when=4_000).lost == ()


@pytest.mark.parametrize(
    ("key", "asked", "says"),
    [
        (KEY, {}, "either when"),
        (KEY, {"when": 1, "at": START}, "either when"),
        ("signal/BTC/trend/binance", {"when": 1}, "stores no simulation time"),
        ("candle/binance/BTC/1m", {"when": 1}, "ranges"),
        ("state/signal", {"when": 1}, "expected state/signalId/bucketName"),
    ],
)
def test_a_question_that_cannot_be_answered_is_refused(
    log: AuditLog, key: str, asked: dict[str, Any], says: str
) -> None:
    with pytest.raises(CallerError, match=says):
        log.asof(key, **asked)


def test_an_incomplete_key_object_is_refused_too(log: AuditLog) -> None:
    with pytest.raises(InvalidKey):
        list(log.timeline(Key(STATE, ("signal",))))


def signals(worker: Worker) -> None:
    worker.record([change(1, {"a": 1}, document="s1", domain="signal", key=("BTC/USDT", "trend", "binance"))])
    worker.record([change(1, {"a": 1}, document="s2", domain="signal", key=("ETH", "trend", "binance"))])
    worker.record([change(1)])
    recent = ("BTC/USDT", "trend", "binance", "", True)
    worker.record([change(1, document="r1", domain="recent", key=recent)])


@pytest.mark.parametrize(
    ("chosen", "ids"),
    [
        ({}, ["signal/s1/1", "signal/s2/1", "state/d1/1", "recent/r1/1"]),
        ({"count": 2}, ["state/d1/1", "recent/r1/1"]),
        ({"domain": "signal"}, ["signal/s1/1", "signal/s2/1"]),
        ({"symbol": "BTC/USDT"}, ["signal/s1/1", "recent/r1/1"]),
        ({"domain": "signal", "symbol": "ETH"}, ["signal/s2/1"]),
        ({"symbol": "binance"}, []),
    ],
)
def test_a_tail_has_the_newest_records_of_what_was_chosen(
    worker: Worker, log: AuditLog, chosen: dict[str, Any], ids: list[str]
) -> None:
    signals(worker)
    assert [record.id for record in log.tail(**chosen)] == ids


def test_a_choice_that_no_record_can_meet_is_refused(log: AuditLog) -> None:
    with pytest.raises(CallerError, match="no domain 'x'"):
        log.tail(domain="x")
    with pytest.raises(CallerError, match="state keys have no symbol"):
        log.tail(domain="state", symbol="BTC")


def test_following_shows_the_newest_and_then_each_new_record_once(worker: Worker, log: AuditLog) -> None:
    signals(worker)
    followed = log.follow(1, symbol="BTC/USDT")
    assert next(followed).id == "recent/r1/1"
    worker.record([change(2), change(2, document="s1", domain="signal", key=("BTC/USDT", "trend", "binance"))])
    worker.record([change(3, document="s1", domain="signal", key=("BTC/USDT", "trend", "binance"))])
    assert [next(followed).id for _ in range(2)] == ["signal/s1/2", "signal/s1/3"]
    followed.close()  # type: ignore[attr-defined]


def test_following_ends_when_asked(worker: Worker, log: AuditLog) -> None:
    worker.record([change(1)])
    asked = iter([False, True])
    assert [record.id for record in log.follow(stop=lambda: next(asked))] == ["state/d1/1"]


PAYLOAD = {"price": 1.5, "limit": inf, "at": START, "raw": b"\x00", "name": "перелом", "ref": {"$ref": "a", "$id": 1}}


def test_json_lines_hold_what_json_cannot(worker: Worker, log: AuditLog) -> None:
    worker.record([change(1, PAYLOAD), change(1, document="s", domain="signal", key=("BTC/USDT", "t", "b"))])
    out = io.StringIO()
    assert export_jsonl(log.records(), out) == 2
    first, second = map(json.loads, out.getvalue().splitlines())
    assert first["payload"]["limit"] == {"$numberDouble": "Infinity"}
    assert first["payload"]["ref"] == {"$ref": "a", "$id": 1}
    assert first["payload"]["at"] == {"$date": "2024-01-01T00:00:00Z"}
    assert (first["key"], first["written_at"], first["when"]) == (KEY, "2024-01-01T00:01:00+00:00", 1_000)
    assert second["key"] == "signal/BTC%2FUSDT/t/b"
    assert "перелом" in out.getvalue()


def test_parquet_has_a_typed_column_a_field(
    worker: Worker, log: AuditLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr("backtest_kit_mongo.audit.export.ROWS_MAX", 2)
    worker.record([change(1, PAYLOAD), change(2), change(3)])
    worker.writer.write([gap(4)])
    assert export_parquet(log.records(), tmp_path / "audit.parquet") == 4
    table = parquet.read_table(tmp_path / "audit.parquet")
    rows = table.to_pylist()
    assert str(table.schema.field("written_at").type) == "timestamp[ms, tz=UTC]"
    assert [(row["rev"], row["operation"]) for row in rows] == [(1, "upsert"), (2, "upsert"), (3, "upsert"), (4, "gap")]
    assert (rows[0]["key"], rows[0]["written_at"], rows[3]["written_at"]) == (KEY, minute(1), None)
    assert json.loads(rows[0]["payload"])["limit"] == {"$numberDouble": "Infinity"}


def test_parquet_without_pyarrow_names_the_extra_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> Any:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr("backtest_kit_mongo.audit.export.import_module", absent)
    with pytest.raises(ParquetMissing, match=r"backtest-kit-mongo\[parquet\]"):
        export_parquet([], tmp_path / "audit.parquet")
    assert list(tmp_path.iterdir()) == []


def test_every_domain_with_a_symbol_can_be_chosen_by_it(log: AuditLog) -> None:
    for domain in BY_NAME.values():
        names = [column.name for column in domain.key]
        if "symbol" in names:
            assert log.tail(domain=domain.name, symbol="BTC") == []
