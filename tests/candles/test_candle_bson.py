"""Candle documents as raw BSON: the table of a batch says the same as its documents one by one."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import bson
import numpy as np
import pytest
from bson import Decimal128, ObjectId
from bson.datetime_ms import DatetimeMS
from bson.int64 import Int64

from backtest_kit_mongo.backends.mongo import candle_bson as candle_bson
from backtest_kit_mongo.candles.columns import FIELDS, of_rows, to_rows
from backtest_kit_mongo.candles.intervals import grid_of
from tests.candles.mongo_support import rows

GRID = grid_of("1m")


class TestIds:
    def test_every_document_gets_an_id_of_its_own_that_tells_its_time(self) -> None:
        now = datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC)
        columns = of_rows(rows(3_000))
        made = [candle_bson.documents({"symbol": "x"}, columns, now) for _ in range(3)]
        ids = [document["_id"] for documents in made for document in documents]
        assert len(set(ids)) == 9_000
        assert {identity.generation_time for identity in ids} == {now}
        assert len({identity.binary[4:9] for identity in ids}) == 1

    def test_the_counter_of_ids_wraps(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(candle_bson, "_ids", made := candle_bson._Ids())
        made.take(1, 0)
        made._next = 2**24 - 2
        taken = made.take(4, 1)
        assert [bytes(row[9:]).hex() for row in taken] == ["fffffe", "ffffff", "000000", "000001"]
        assert len({ObjectId(bytes(row)) for row in taken}) == 4


class TestRawReading:
    """The table of a batch says the same as its documents one by one."""

    def batch(self, *documents: dict[str, Any]) -> bytes:
        return b"".join(map(bson.encode, documents))

    def both(self, batch: bytes) -> tuple[Any, Any]:
        table, each = candle_bson._read_table(batch), candle_bson._read_each(batch)
        assert table is not None
        return table, each

    @pytest.mark.parametrize("kinds", [(float, float), (int, float), (float, int), (int, int)], ids=str)
    def test_doubles_and_integers_and_both_in_one_column(self, kinds: tuple[Any, Any]) -> None:
        make = [Int64 if kind is int else kind for kind in kinds]
        documents = [
            {"timestamp": make[0](60_000 * n), **{field: make[(n + bit) % 2](7 + n + bit) for bit,
                field in enumerate(FIELDS)}}
            for n in range(1, 40)
        ]  # fmt: skip
        table, each = self.both(self.batch(*documents))
        assert table.timestamp.tolist() == each.timestamp.tolist() == [60_000 * n for n in range(1, 40)]
        assert [column.tolist() for column in table.values] == [column.tolist() for column in each.values]
        assert table.integers == each.integers

    def test_fields_may_have_any_order(self) -> None:
        document = {"volume": 6.0, "low": 3.0, "timestamp": 60_000.0, "close": 4.0, "high": 5.0, "open": 2.0}
        table, each = self.both(self.batch(document, document))
        assert [column.tolist() for column in table.values] == [
            [2.0, 2.0],
            [5.0, 5.0],
            [3.0, 3.0],
            [4.0, 4.0],
            [6.0, 6.0],
        ]
        assert [column.tolist() for column in each.values] == [column.tolist() for column in table.values]

    @pytest.mark.parametrize("seed", range(20))
    def test_any_batch_gives_what_its_documents_say(self, seed: int) -> None:
        draw = np.random.default_rng(seed)
        makers = [float, Int64, float, Int64, int, str][: 2 + seed % 5]
        documents = []
        for n in range(1, 60):
            names = draw.permutation(("timestamp", *FIELDS)).tolist() if seed % 2 else ["timestamp", *FIELDS]
            values = {name: makers[draw.integers(len(makers))](int(draw.integers(1, 99))) for name in names}
            documents.append({**values, "timestamp": [Int64, float][n % 2](60_000 * n)})
        found = candle_bson.joined([candle_bson.read(self.batch(*documents), GRID)])
        expected = [
            document for document in documents if not any(isinstance(value, str) for value in document.values())
        ]
        assert [(row["timestamp"], *(row[field] for field in FIELDS)) for row in to_rows(found)] == [
            (document["timestamp"], *(document[field] for field in FIELDS)) for document in expected
        ]

    def test_another_field_in_one_document_of_equal_size_is_noticed(self) -> None:
        document = {"timestamp": Int64(60_000), **dict.fromkeys(FIELDS, 1.0)}
        other = {("Open" if name == "open" else name): value for name, value in document.items()}
        assert len(bson.encode(document)) == len(bson.encode(other))
        found = candle_bson.read(self.batch(document, other), GRID)
        assert (len(found.timestamp), found.rejected) == (1, [60_000])

    @pytest.mark.parametrize(
        "time", [60_000.5, -0.5, 1e300, float("nan"), float("inf"), "x", DatetimeMS(2**53), Decimal128("1")], ids=str
    )
    def test_a_time_that_is_no_whole_number_is_no_open_time(self, time: Any) -> None:
        documents = [{"timestamp": each, **dict.fromkeys(FIELDS, 1.0)} for each in (60_000.0, time)]
        found = candle_bson.read(self.batch(*documents), GRID)
        assert found.timestamp.tolist() == [60_000]
        assert list(map(str, found.rejected)) == [str(time)]

    def test_integers_beyond_float64_are_not_called_integers(self) -> None:
        document = {"timestamp": Int64(60_000), **dict.fromkeys(FIELDS, Int64(2**53 + 1))}
        for found in self.both(self.batch(document)):
            assert found.integers == 0

    def test_what_was_written_is_read_by_the_table(self) -> None:
        columns = of_rows([{**row, "volume": 3} for row in rows(100)])
        made = candle_bson.documents({"symbol": "x"}, columns, datetime.now(UTC))
        projected = [{name: document[name] for name in candle_bson.COLUMNS} for document in made]
        table, _ = self.both(self.batch(*projected))
        assert to_rows(candle_bson.joined([table])) == to_rows(columns)
