"""Removing and replacing candles: nobody reads a removed one afterwards, whatever blocks are kept or made late."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import backtest_kit_mongo as bk
from backtest_kit_mongo.backends.mongo.candles import MongoCandles
from backtest_kit_mongo.candles.codec import BLOCK_ROWS
from backtest_kit_mongo.candles.plans import FindGeneration, FindRows, PutBlock, compact
from backtest_kit_mongo.cli.candles import candles
from backtest_kit_mongo.drivers.store import OneForAll, drive
from backtest_kit_mongo.errors import CallerError
from backtest_kit_mongo.operate import removal
from backtest_kit_mongo.operate.compaction import BlockRange, Compactor
from backtest_kit_mongo.operate.removal import WAIT_S, Removal, remove_candles
from backtest_kit_mongo.stored import CANDLE_BLOCKS as BLOCKS
from backtest_kit_mongo.stored import CANDLE_REMOVALS as REMOVALS
from tests.candles.mongo_support import GRID, START, STEP_MS, Bed, bed, rows, store
from tests.integration.support import store_for

__all__ = ["bed", "store"]
pytestmark = pytest.mark.live


@pytest.fixture(autouse=True)
def _nobody_else_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(removal, "WAIT_S", 0.0)


def remover(bed: Bed) -> Removal:
    return Removal(bed.candles, bed.database, bed.scope)


def test_a_dry_run_tells_what_a_removal_removes_from_documents_conflicts_and_blocks(bed: Bed) -> None:
    bed.instance.write_candles_data(rows(20))
    bed.instance.write_candles_data([{**rows(20)[7], "volume": 99.0}])
    bed.compact()
    since, until = START + 5 * STEP_MS, START + 10 * STEP_MS
    reported = remover(bed).look(since, until)
    assert (reported.candles, reported.conflicts, reported.blocks, reported.first, reported.last) == (
        5,
        1,
        1,
        since,
        until - STEP_MS,
    )
    assert len(bed.read(20)) == 20
    assert remover(bed).remove(since, until) == reported
    assert bed.read(20).to_dicts() == [row for n, row in enumerate(rows(20)) if not 5 <= n < 10]
    assert bed.conflicts() == []
    (block,) = bed.database[BLOCKS].find(bed.scope.query())
    assert (block["count"], block["generation"]) == (15, 2)
    assert remover(bed).remove().candles == 15
    assert not bed.read(20)
    assert not list(bed.database[BLOCKS].find(bed.scope.query()))


def test_another_process_that_keeps_the_block_follows_and_a_block_that_comes_late_is_not_used(
    bed: Bed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(removal, "WAIT_S", WAIT_S)
    bed.instance.write_candles_data(rows(20))
    bed.compact()
    with store_for(bed.servers, bed.database.name) as other:
        beside = bed.beside(other)
        assert len(beside.read(20)) == 20
        held: list[Any] = []

        def slow(effect: Any) -> Any:
            if isinstance(effect, FindGeneration):
                return bed.candles.find_generation(effect)
            return bed.candles.find_rows(effect) if isinstance(effect, FindRows) else held.append(effect)

        drive(compact(bed.scope, GRID, START), OneForAll(slow))
        remover(bed).remove(START, START + 10 * STEP_MS)
        (late,) = held
        assert isinstance(late, PutBlock)
        MongoCandles(bed.database, 10, 0).put_block(late)
        for reader in (bed, beside):
            assert reader.read(20).to_dicts() == rows(10, first=10)
    each = BlockRange(bed.scope, START)
    compactor = Compactor(bed.candles, bed.database)
    assert "were removed since" in compactor.verify(each).fault
    assert compactor.rebuild(each).is_made
    assert compactor.verify(each).is_whole


def test_a_remover_that_died_leaves_documents_to_be_read_and_is_finished_by_the_next(
    bed: Bed, monkeypatch: pytest.MonkeyPatch
) -> None:
    bed.instance.write_candles_data(rows(5))
    bed.compact()
    monkeypatch.setattr(removal, "end", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        remover(bed).remove(START, START + STEP_MS)
    monkeypatch.undo()
    bed.candles.forget_removals(bed.scope)
    assert bed.compact() == 0
    assert bed.read(5).to_dicts() == rows(4, first=1)
    remover(bed).remove(START, START + STEP_MS)
    assert bed.database[REMOVALS].find_one(bed.scope.query(), {"_id": 0, "generation": 1}) == {"generation": 2}
    assert bed.compact() == 4


def test_the_commands_say_first_and_then_do(bed: Bed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CC_MONGO_CONNECTION_STRING", bed.servers.mongo_connection_string(bed.database.name))
    monkeypatch.setenv("CC_REDIS_PORT", str(bed.servers.redis_port))
    symbol = str(bed.scope.parts[1])
    series = ("--exchange", "binance", "--symbol", symbol, "--interval", "1m")

    def run(*arguments: object) -> str:
        result = CliRunner().invoke(candles, list(map(str, arguments)))
        assert result.exit_code == 0, result.output
        return result.stdout

    bed.instance.write_candles_data(rows(10))
    corrected = [{**row, "volume": 7.5} if n in (2, 3) else row for n, row in enumerate(rows(12))]
    path = tmp_path / "corrected.csv"
    names = list(corrected[0])
    path.write_text("\n".join([",".join(names), *(",".join(map(str, row.values())) for row in corrected)]))
    reported = json.loads(run("import", path, *series, "--replace", "--json"))
    assert (reported["replaced"], reported["new"], bed.read(12).to_dicts()) == (2, 0, rows(10))
    done = json.loads(run("import", path, *series, "--replace", "--yes", "--json"))
    assert (done["replaced"], done["new"], done["known"], done["conflicts"]) == (2, 2, 10, 0)
    assert bed.read(12).to_dicts() == corrected
    assert "12 candles from 2016-09-22 16:00 to 2016-09-22 16:11" in run("remove", *series)
    assert len(bed.read(12)) == 12
    assert "nothing was, add --yes" in run("remove", *series, "--since", START + STEP_MS)
    assert run("remove", *series, "--yes").endswith("removed\n")
    bed.candles.forget_removals(bed.scope)
    assert not bed.read(12)


def test_only_candles_in_mongodb_can_be_removed() -> None:
    bk.PersistCandleAdapter.use_memory()
    try:
        with pytest.raises(CallerError, match="only candles in MongoDB"):
            remove_candles("BTC", "1m", "binance")
    finally:
        bk.PersistCandleAdapter.clear()


def test_spans_of_blocks_are_what_is_marked(bed: Bed) -> None:
    far = rows(2, first=3 * BLOCK_ROWS * STEP_MS // STEP_MS)
    bed.instance.write_candles_data(rows(2) + far)
    remover(bed).remove(since=START + BLOCK_ROWS * STEP_MS)
    marked = {found["start"] for found in bed.database[REMOVALS].find(bed.scope.query())}
    assert marked == {START + 3 * BLOCK_ROWS * STEP_MS}
    assert np.array_equal(bed.read(10).timestamp, [row["timestamp"] for row in rows(2)])
