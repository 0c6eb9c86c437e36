"""Blocks in a real MongoDB, documents beside them, and the blocks that a process keeps."""

from __future__ import annotations

import logging
from typing import Any
from unittest.mock import Mock

import pymongo
import pytest

from backtest_kit_mongo.backends.block_cache import STALE_MIN
from backtest_kit_mongo.candles.codec import BLOCK_ROWS
from backtest_kit_mongo.candles.columns import FIELDS
from backtest_kit_mongo.candles.plans import FindBlocks
from backtest_kit_mongo.coherence.keys import escaped
from backtest_kit_mongo.stored import CANDLE_BLOCKS as BLOCKS
from tests.candles.mongo_support import COLLECTION, GRID, START, STEP_MS, Bed, bed, rows, store
from tests.integration.support import store_for

__all__ = ["bed", "store"]
pytestmark = pytest.mark.live


class TestBlocks:
    def test_a_block_and_the_documents_around_it_and_in_its_gaps_make_one_read(self, bed: Bed) -> None:
        given = rows(50)
        early = [row for n, row in enumerate(given) if n not in (10, 11, 30) and n < 40]
        bed.instance.write_candles_data(early)
        assert bed.compact() == 37
        bed.instance.write_candles_data(given)
        before = {**given[0], "timestamp": START - STEP_MS}
        bed.instance.write_candles_data([before])
        found = bed.instance.read_candles(START - STEP_MS, START + 50 * STEP_MS)
        assert found.to_dicts() == [before, *given]
        assert bed.read(15, first=5).to_dicts() == given[5:20]

    def test_what_blocks_cover_is_not_read_from_documents(self, bed: Bed) -> None:
        bed.instance.write_candles_data(rows(20))
        bed.compact()
        bed.database[COLLECTION].update_many(bed.scope.query(), {"$set": {"close": 1.0}})
        assert bed.read(20).to_dicts() == rows(20)

    def test_a_block_is_one_document_a_range_that_a_new_one_replaces(self, bed: Bed) -> None:
        for count in (5, 9):
            bed.instance.write_candles_data(rows(count))
            assert bed.compact() == count
        (stored,) = bed.database[BLOCKS].find(bed.scope.query())
        assert stored["_id"] == f"{escaped(bed.scope.parts)}/{START}"
        assert (stored["start"], stored["end"], stored["count"]) == (START, START + BLOCK_ROWS * STEP_MS, 9)
        indexes = bed.database[BLOCKS].index_information().values()
        unique = [[name for name, _ in index["key"]] for index in indexes if index.get("unique")]
        assert unique == [["exchangeName", "symbol", "interval", "start"]]

    def test_a_long_read_of_blocks_is_bounded_batch_by_batch(self, bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
        for block in range(3):
            bed.instance.write_candles_data(rows(1, first=block * BLOCK_ROWS))
            bed.compact(block)
        bounds_s: list[float] = []
        timeout = pymongo.timeout

        def noted(bound_s: float) -> Any:
            bounds_s.append(bound_s)
            return timeout(bound_s)

        monkeypatch.setattr(pymongo, "timeout", noted)
        asked = FindBlocks(bed.scope, GRID, START, START + 3 * BLOCK_ROWS * STEP_MS)
        assert len(bed.candles.find_blocks(asked)) == 3
        assert len(bounds_s) > 3

    def test_blocks_of_several_ranges_are_read_together(self, bed: Bed) -> None:
        given = [row for number in (0, 1, 3) for row in rows(4, first=number * BLOCK_ROWS)]
        bed.instance.write_candles_data(given)
        for block in range(4):
            assert bed.compact(block) == (0 if block == 2 else 4)
        assert bed.read(5 * BLOCK_ROWS).to_dicts() == given
        assert bed.instance.read_candles(0, 2**53).to_dicts() == given

    @pytest.mark.parametrize(
        "damage",
        [{"checksum": 1}, {"codec": 9}, {"data": b"x"}, {"count": "five"}, {"data": None}, {"integers": float("inf")}],
        ids=str,
    )
    def test_documents_serve_in_place_of_a_damaged_block(
        self, bed: Bed, damage: dict[str, Any], caplog: pytest.LogCaptureFixture
    ) -> None:
        bed.instance.write_candles_data(rows(5))
        bed.compact()
        bed.database[BLOCKS].update_one(bed.scope.query(), {"$set": damage})
        with caplog.at_level(logging.WARNING, "backtest_kit_mongo"):
            assert bed.read(5).to_dicts() == rows(5)
        assert "cannot be used, documents serve in its place" in caplog.text

    def test_integers_stay_integers_in_a_block(self, bed: Bed) -> None:
        given = [{**row, "volume": 5} for row in rows(4)]
        bed.instance.write_candles_data(given)
        bed.compact()
        assert {type(row["volume"]) for row in bed.read(4).to_dicts()} == {int}


class TestTheCacheOfBlocks:
    @pytest.fixture
    def asked(self, bed: Bed, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
        """Queries for blocks."""
        queries: list[Any] = []
        collection = bed.candles._blocks

        def find(query: Any, **options: Any) -> Any:
            queries.append(query)
            return collection.find(query, **options)

        monkeypatch.setattr(bed.candles, "_blocks", watched := Mock(wraps=collection))
        watched.find = find
        return queries

    def test_a_kept_block_is_not_asked_for_again(self, bed: Bed, asked: list[Any]) -> None:
        bed.instance.write_candles_data(rows(5))
        bed.compact()
        for _ in range(3):
            assert bed.read(5).to_dicts() == rows(5)
        assert len(asked) == 1
        bed.read(BLOCK_ROWS + 1)
        assert asked[-1]["start"]["$nin"] == [START]

    def test_an_old_block_in_the_cache_is_filled_up_with_documents(self, bed: Bed) -> None:
        bed.instance.write_candles_data(rows(5))
        bed.compact()
        bed.read(5)
        with store_for(bed.servers, str(bed.database.name)) as other:
            bed.beside(other).instance.write_candles_data(rows(20))
        assert bed.read(20).to_dicts() == rows(20)

    def test_a_block_that_lacks_much_is_asked_for_anew(self, bed: Bed, asked: list[Any]) -> None:
        bed.instance.write_candles_data(rows(5))
        bed.compact()
        bed.read(5)
        with store_for(bed.servers, str(bed.database.name)) as other:
            there = bed.beside(other)
            there.instance.write_candles_data(rows(5 + STALE_MIN))
            there.compact()
        assert bed.read(5 + STALE_MIN - 1).is_complete
        assert len(asked) == 1
        for _ in range(3):
            assert bed.read(5 + STALE_MIN).is_complete
        assert len(asked) == 2

    def test_own_compaction_is_seen_at_once(self, bed: Bed) -> None:
        for count in (5, 9):
            bed.instance.write_candles_data(rows(count))
            bed.compact()
            (block,) = bed.candles.find_blocks(FindBlocks(bed.scope, GRID, START, START + 1))
            assert len(block.columns) == count

    def test_the_cache_is_bounded_and_may_be_off(self, bed: Bed) -> None:
        bed.instance.write_candles_data([row for number in range(3) for row in rows(10, first=number * BLOCK_ROWS)])
        for number in range(3):
            bed.compact(number)
        size = 10 * 8 * (1 + len(FIELDS))
        for bound, kept in ((0, 0), (size - 1, 0), (2 * size, 2 * size), (3 * size, 3 * size)):
            with store_for(bed.servers, str(bed.database.name), candle_cache_max_bytes=bound) as other:
                there = bed.beside(other)
                for _ in range(2):
                    assert len(there.read(3 * BLOCK_ROWS)) == 30
                assert there.candles.cached_bytes == kept
