"""Candle documents in a real MongoDB: what is written, foreign documents, conflicts and what a crash leaves of them."""

from __future__ import annotations

import logging
from itertools import count
from typing import Any

import bson
import numpy as np
import pytest
from bson import Decimal128
from bson.int64 import Int64

from backtest_kit_mongo.adapters.contracts import CandleReport
from backtest_kit_mongo.adapters.registries import PersistCandleRegistry
from backtest_kit_mongo.backends.mongo import candles as mongo_candles
from backtest_kit_mongo.backends.mongo.candles import PART_ROWS, MongoCandles, _lookup
from backtest_kit_mongo.candles.columns import FIELDS, of_rows
from backtest_kit_mongo.candles.intervals import Grid
from backtest_kit_mongo.coherence import series
from backtest_kit_mongo.coherence.effects import Publish
from backtest_kit_mongo.coherence.record import Key
from backtest_kit_mongo.coherence.series import Append, KeepConflicts
from backtest_kit_mongo.domains.table import CANDLE
from backtest_kit_mongo.errors import CallerError, LegacyIndex, ServerUnreachable, WriteOutcomeUnknown
from backtest_kit_mongo.operate.compaction import find_ranges
from backtest_kit_mongo.stored import CANDLE_CONFLICTS as CONFLICTS
from tests.candles.mongo_support import COLLECTION, GRID, START, STEP_MS, Bed, bed, rows, store

__all__ = ["bed", "store"]
pytestmark = pytest.mark.live

OTHER = {"close": 11.5}


class TestDocuments:
    def test_documents_are_laid_out_as_single_writes_lay_them_out(self, bed: Bed) -> None:
        bed.instance.write_candles_data(rows(3))
        stored = bed.documents()
        assert len({document["createDate"] for document in stored}) == 1
        expected = [
            {
                "_id": document["_id"], **bed.scope.query(), "createDate": document["createDate"],
                "updatedDate": document["createDate"],
                "__v": 0, "rev": Int64(1), **row, "timestamp": Int64(row["timestamp"]),
            }
            for document, row in zip(stored, rows(3), strict=True)
        ]  # fmt: skip
        assert list(map(bson.encode, stored)) == list(map(bson.encode, expected))

    def test_integers_are_stored_as_integers(self, bed: Bed) -> None:
        bed.instance.write_candles_data([{**row, "volume": 3 if row["open"] > 10 else 7} for row in rows(2)])
        assert [document["volume"] for document in bed.documents()] == [7, 3]
        assert {type(document["volume"]) for document in bed.documents()} == {Int64}
        assert {type(document["open"]) for document in bed.documents()} == {float}

    def test_rows_that_lie_apart_are_looked_up_without_what_lies_between(self, bed: Bed) -> None:
        for step in (60 * STEP_MS, STEP_MS):
            times = START + step * np.arange(3)
            (apart, together) = (
                [(START + n * step, START + n * step + 1) for n in range(3)],
                (START, START + 2 * step + 1),
            )
            assert list(_lookup(bed.scope, times, GRID).ranges) == (apart if step > STEP_MS else [together])

    def test_a_series_may_have_any_text_in_its_key(self, bed: Bed) -> None:
        for symbol in ("", "a\0b", "перелом ✓", "x" * 5_000):
            scope = Key(CANDLE, ("e", symbol, "1m"))
            bed.candles.append(Append(scope, of_rows(rows(2)), GRID))
            assert bed.candles.window(scope, START, 2**53) == rows(2)


class TestForeignDocuments:
    def test_the_npm_packages_documents_are_read(self, bed: Bed) -> None:
        bed.insert_foreign(given := [{**row, "volume": int(row["volume"])} for row in rows(9)])
        found = bed.read(9)
        assert found.to_dicts() == given
        assert found.timestamp.dtype == np.int64
        assert [type(row["volume"]) for row in found.to_dicts()] == [int] * 9
        assert bed.instance.read_candles_data(9, START, 0) == given

    def test_a_series_may_be_written_by_both(self, bed: Bed) -> None:
        given = rows(30)
        bed.insert_foreign([row if row["timestamp"] % 7 else {**row, "volume": 5} for row in given[::3]])
        report = bed.instance.write_candles_data([row for n, row in enumerate(given) if n % 3])
        assert report == CandleReport(inserted=20, known=0)
        assert bed.instance.write_candles_data(given).inserted == 0
        assert [row["timestamp"] for row in bed.read(30).to_dicts()] == [row["timestamp"] for row in given]

    def test_a_candle_that_the_npm_package_stored_with_equal_numbers_is_no_conflict(self, bed: Bed) -> None:
        bed.insert_foreign([{**row, "open": 10, "volume": 0} for row in rows(1)])
        assert bed.instance.write_candles_data(rows(1)) == CandleReport(inserted=0, known=1)

    @pytest.mark.parametrize("wrong", [None, "12", True, Decimal128("1"), float("nan"), float("inf")], ids=repr)
    def test_a_document_that_is_no_candle_is_left_out_and_named(
        self, bed: Bed, wrong: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        bed.instance.write_candles_data([row for n, row in enumerate(rows(5)) if n != 2])
        bed.insert_foreign([{**rows(3)[2], "low": wrong}])
        with caplog.at_level(logging.WARNING, "backtest_kit_mongo"):
            found = bed.read(5)
        assert found.to_dicts() == rows(2) + rows(2, first=3)
        (record,) = caplog.records
        assert "1 document(s) are no valid candles" in record.message
        assert str(START + 2 * STEP_MS) in record.message
        assert bed.instance.read_candles_data(5, START, 0) is None

    @pytest.mark.parametrize("beside_ms", [1, 0.5])
    def test_a_document_between_two_open_times_is_left_out(self, bed: Bed, beside_ms: float) -> None:
        bed.instance.write_candles_data(rows(3))
        bed.insert_foreign([{**rows(1)[0], "timestamp": START + beside_ms}])
        assert bed.read(3).to_dicts() == rows(3)
        assert bed.instance.read_candles_data(3, START, 0) == rows(3)
        assert bed.compact() == 3

    def test_decimal_open_times_are_no_candles_and_stop_nothing(self, bed: Bed) -> None:
        bed.instance.write_candles_data(rows(1, first=1))
        bed.database[COLLECTION].insert_one({**bed.scope.query(), **rows(1)[0], "timestamp": Decimal128(str(START))})
        assert bed.read(3).to_dicts() == rows(1, first=1)
        assert [each.start for each in find_ranges(bed.database, bed.scope)] == [START]


class TestConflicts:
    def test_both_versions_are_kept_and_reported(self, bed: Bed) -> None:
        bed.instance.write_candles_data(rows(3))
        offered = [{**row, **OTHER} for row in rows(1)]
        assert bed.instance.write_candles_data(offered).conflicts == (START,)
        (kept,) = bed.conflicts()
        (event,) = bed.events("conflict")
        stored, other = ({name: row[name] for name in FIELDS} for row in (rows(1)[0], offered[0]))
        assert (kept["stored"], kept["offered"], kept["timestamp"], kept["count"]) == (stored, other, START, 1)
        assert kept["firstSeen"] <= kept["lastSeen"]
        assert kept["host"]
        assert event.payload == {"timestamp": START, "stored": stored, "offered": other}
        assert event.document.endswith(f":{START}~{kept['_id'].rsplit('/', 1)[1]}")
        assert bed.read(3).to_dicts() == rows(3)

    def test_the_same_offer_again_is_counted_and_not_reported_again(self, bed: Bed) -> None:
        bed.instance.write_candles_data(rows(1))
        for _ in range(3):
            bed.instance.write_candles_data([{**rows(1)[0], **OTHER}])
        bed.instance.write_candles_data([{**rows(1)[0], "close": 12.0}])
        assert [kept["count"] for kept in bed.conflicts()] in ([3, 1], [1, 3])
        assert len(bed.events("conflict")) == 2

    def test_new_candles_and_conflicts_of_one_call_are_reported_together(self, bed: Bed) -> None:
        bed.instance.write_candles_data(rows(1))
        report = bed.instance.write_candles_data([{**row, "close": row["close"] + 0.5} for row in rows(3)])
        assert report == CandleReport(inserted=2, known=1, conflicts=(START,))
        assert [event.payload["count"] for event in bed.events("batch")] == [1, 2]
        assert len(bed.events("conflict")) == 1

    def test_a_crash_after_conflicts_were_kept_leaves_both_versions_behind(self, bed: Bed) -> None:
        bed.instance.write_candles_data(rows(1))
        columns = of_rows([{**rows(1)[0], **OTHER}])
        plan = series.append(bed.scope, columns, GRID)
        effect: Any = next(plan)
        while not isinstance(effect, Publish):
            effect = plan.send(bed.store.performers(bed.scope.domain)[type(effect)](effect))
        plan.close()
        assert [kept["count"] for kept in bed.conflicts()] == [1]
        assert bed.events("conflict") == []
        assert bed.store.append(bed.scope, columns, GRID).conflicts[0].timestamp == START
        assert [kept["count"] for kept in bed.conflicts()] == [2]

    def test_candles_are_reported_even_if_conflicts_cannot_be_kept(
        self, bed: Bed, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bed.instance.write_candles_data(rows(1))
        bed.database.command("collMod", CONFLICTS, validator={"never": {"$exists": True}})
        try:
            with pytest.raises(WriteOutcomeUnknown, match="the rows are stored"):
                bed.instance.write_candles_data([{**row, "volume": 99.5} for row in rows(2)])
        finally:
            bed.database.command("collMod", CONFLICTS, validator={})
        assert [event.payload["count"] for event in bed.events("batch")] == [1, 1]

    def test_a_candle_that_another_writer_inserts_in_between_is_compared_too(
        self, bed: Bed, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        found = MongoCandles._stored

        def late(self: MongoCandles, scope: Key, times: Any, grid: Grid) -> Any:
            answer = found(self, scope, times, grid)
            monkeypatch.setattr(MongoCandles, "_stored", found)
            self.append(Append(scope, of_rows(rows(2, first=1)), GRID))
            return answer

        monkeypatch.setattr(MongoCandles, "_stored", late)
        report = bed.instance.write_candles_data([{**row, "volume": 0.25 * 2} for row in rows(4)])
        assert report == CandleReport(inserted=2, known=2, conflicts=(START + STEP_MS,))

    @pytest.mark.parametrize("at_once", [2, 1_000])
    def test_keeping_conflicts_answers_with_what_is_new(
        self, bed: Bed, monkeypatch: pytest.MonkeyPatch, at_once: int
    ) -> None:
        monkeypatch.setattr(mongo_candles, "KEPT_AT_ONCE", at_once)
        bed.instance.write_candles_data(rows(3))
        offered = of_rows([{**row, "volume": 77.0} for row in rows(3)])
        conflicts = bed.candles.append(Append(bed.scope, offered, GRID)).conflicts
        assert bed.candles.keep_conflicts(KeepConflicts(bed.scope, conflicts[1:2])) == conflicts[1:2]
        assert bed.candles.keep_conflicts(KeepConflicts(bed.scope, conflicts)) == (conflicts[0], conflicts[2])


class TestErrors:
    def test_another_unique_index_is_named(self, bed: Bed) -> None:
        scope = Key(CANDLE, ("binance", "ONE", "1m"))
        bed.database[COLLECTION].create_index(
            [("symbol", 1), ("close", 1)], unique=True, name="wrong", partialFilterExpression={"symbol": "ONE"}
        )
        try:
            with pytest.raises(LegacyIndex, match="symbol, close"):
                bed.candles.append(Append(scope, of_rows([{**row, "close": 11.0} for row in rows(2)]), GRID))
        finally:
            bed.database[COLLECTION].drop_index("wrong")

    def test_a_later_piece_that_fails_says_what_is_stored(self, bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("backtest_kit_mongo.adapters.candle_instance.CHUNK_ROWS", 4)
        insert = MongoCandles._insert

        def refuse_later(self: MongoCandles, scope: Key, columns: Any) -> Any:
            if columns.timestamp[0] > START:
                bed.database.command("collMod", COLLECTION, validator={"never": {"$exists": True}})
            return insert(self, scope, columns)

        monkeypatch.setattr(MongoCandles, "_insert", refuse_later)
        try:
            with pytest.raises(WriteOutcomeUnknown, match=f"all before {START + 4 * STEP_MS} are stored"):
                bed.instance.write_candles_data(rows(10))
        finally:
            bed.database.command("collMod", COLLECTION, validator={})
        assert bed.read(10).to_dicts() == rows(4)

    def test_a_part_that_fails_after_another_says_that_rows_were_written(
        self, bed: Bed, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        insert_part, parts = MongoCandles._insert_part, count()

        def failing(self: MongoCandles, scope: Key, documents: Any) -> list[int]:
            if next(parts) == 2:
                raise ServerUnreachable("nothing was written")
            return insert_part(self, scope, documents)

        monkeypatch.setattr(MongoCandles, "_insert_part", failing)
        with pytest.raises(WriteOutcomeUnknown, match="some rows were written"):
            bed.candles.append(Append(bed.scope, of_rows(rows(3 * PART_ROWS)), GRID))
        assert len(bed.documents()) == 2 * PART_ROWS

    def test_all_rows_of_a_large_append_carry_one_time_and_those_met_are_distinguished(self, bed: Bed) -> None:
        bed.candles.append(Append(bed.scope, of_rows(rows(1, PART_ROWS + 7)), GRID))
        appended = bed.candles.append(Append(bed.scope, of_rows(rows(2 * PART_ROWS + 1)), GRID))
        assert len(appended.new) == 2 * PART_ROWS
        assert len({document["createDate"] for document in bed.documents()}) == 2

    def test_an_adapter_without_columns_says_so(self) -> None:
        class Rows:
            def __init__(self, *context: str) -> None: ...

            def wait_for_init(self, initial: bool) -> None: ...

            def read_candles_data(self, limit: int, since_timestamp: int, until_timestamp: int) -> None: ...

            def write_candles_data(self, candles: Any) -> None: ...

        registry = PersistCandleRegistry()
        registry.use_persist_candle_adapter(Rows)
        with pytest.raises(CallerError, match=r"\(Rows\) offers windows of rows only"):
            registry.read_candles("BTC", "1m", "e", 0, 1)
        with pytest.raises(CallerError, match="built-in adapter"):
            registry.write_candles("BTC", "1m", "e", {})
