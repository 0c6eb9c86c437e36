"""What a read and a compaction ask for, in which order, and when they ask for nothing."""

from __future__ import annotations

import subprocess
import sys
from random import Random
from typing import Any

import numpy as np
import pytest

from backtest_kit_mongo.candles import plans
from backtest_kit_mongo.candles.codec import BLOCK_ROWS, Block, decode_block
from backtest_kit_mongo.candles.columns import Columns, empty, equal
from backtest_kit_mongo.candles.intervals import grid_of
from backtest_kit_mongo.candles.plans import Compacted, FindBlocks, FindGeneration, FindRows, PutBlock
from backtest_kit_mongo.coherence.effects import Effect, Plan
from backtest_kit_mongo.coherence.record import Key
from backtest_kit_mongo.domains.table import CANDLE
from backtest_kit_mongo.drivers.store import OneForAll, drive

STEP_MS = 60_000
GRID = grid_of("1m")
SPAN_MS = BLOCK_ROWS * STEP_MS
SCOPE = Key(CANDLE, ("binance", "BTCUSDT", "1m"))


def candles(*slots: int) -> Columns:
    timestamp = np.array(slots, np.int64) * STEP_MS
    return Columns(timestamp, tuple(np.array(slots, np.float64) + i for i in range(5)))


def asked(plan: Plan[Any], *answers: Any) -> tuple[list[Effect[Any]], Any]:
    """What the plan asks for when it is answered so, and its result."""
    effects: list[Effect[Any]] = []
    left = iter(answers)

    def perform(effect: Effect[Any]) -> Any:
        effects.append(effect)
        return next(left)

    return effects, drive(plan, OneForAll(perform))


def test_a_read_of_what_a_block_holds_asks_for_blocks_only() -> None:
    block = Block(0, candles(*range(BLOCK_ROWS)))
    effects, answer = asked(plans.read(SCOPE, GRID, 10 * STEP_MS, 20 * STEP_MS), [block])
    assert effects == [FindBlocks(SCOPE, GRID, 10 * STEP_MS, 20 * STEP_MS)]
    assert equal(answer, candles(*range(10, 20)))


def test_a_read_without_blocks_is_one_query_for_all_of_it() -> None:
    effects, answer = asked(plans.read(SCOPE, GRID, 0, 5 * STEP_MS), [], candles(1, 2))
    assert effects[1:] == [FindRows(SCOPE, GRID, ranges=((0, 5 * STEP_MS),))]
    assert equal(answer, candles(1, 2))


def test_a_read_asks_for_documents_before_between_behind_and_inside_blocks() -> None:
    blocks = [Block(2 * SPAN_MS, candles(*range(2 * BLOCK_ROWS, 3 * BLOCK_ROWS - 1))), Block(0, candles(3, 4, 7))]
    until = 4 * SPAN_MS
    effects, answer = asked(plans.read(SCOPE, GRID, STEP_MS, until), blocks, candles(5, 9, 3 * BLOCK_ROWS - 1))
    ranges = ((1, 3), (5, 7), (8, 2 * BLOCK_ROWS), (3 * BLOCK_ROWS - 1, 4 * BLOCK_ROWS))
    assert effects[1:] == [FindRows(SCOPE, GRID, tuple((a * STEP_MS, b * STEP_MS) for a, b in ranges))]
    assert equal(answer, candles(3, 4, 5, 7, 9, *range(2 * BLOCK_ROWS, 3 * BLOCK_ROWS)))


def test_a_read_of_nothing_finds_nothing() -> None:
    for since, until in ((0, 0), (STEP_MS, 0), (1, STEP_MS)):
        effects, answer = asked(plans.read(SCOPE, GRID, since, until), [])
        assert len(effects) == 1
        assert not answer


@pytest.mark.parametrize("share", [0.0002, 0.01, 0.3, 0.9])
def test_queries_for_many_gaps_are_bounded_and_ask_for_each_missing_candle_once(share: float) -> None:
    """Never for a candle that a block has: a year of a thinly traded pair has tens of thousands of gaps."""
    rng = Random(share)
    slots = [slot for slot in range(100_000) if rng.random() >= share and not 30_000 <= slot % 50_000 < 30_100]
    block = Block(0, candles(*slots))
    queries: list[FindRows] = []

    def perform(effect: Effect[Any]) -> Any:
        if isinstance(effect, FindBlocks):
            return [block]
        assert isinstance(effect, FindRows)
        queries.append(effect)
        return empty()

    answer = drive(plans.read(SCOPE, GRID, 0, 100_000 * STEP_MS), OneForAll(perform))
    assert equal(answer, block.columns)
    assert max(len(query.ranges) for query in queries) <= plans.RANGES_MAX
    assert max(len(query.times) for query in queries) <= plans.TIMES_MAX
    wanted = [moment for query in queries for moment in query.times]
    wanted += [moment for query in queries for span in query.ranges for moment in range(*span, STEP_MS)]
    assert sorted(wanted) == [slot * STEP_MS for slot in sorted(set(range(100_000)).difference(slots))]


def test_a_few_gaps_are_asked_for_in_one_query_however_short_they_are() -> None:
    block = Block(0, candles(*(slot for slot in range(200) if slot % 4)))
    effects, _ = asked(plans.read(SCOPE, GRID, 0, 200 * STEP_MS), [block], empty())
    assert isinstance(effects[1], FindRows)
    assert (len(effects[1].ranges), effects[1].times) == (50, ())


def test_a_compaction_reads_what_is_durable_and_stores_it() -> None:
    rows = candles(BLOCK_ROWS, BLOCK_ROWS + 5)
    effects, answer = asked(plans.compact(SCOPE, GRID, SPAN_MS), 4, rows, None)
    # Documents after the generation: a block of documents that are removed meanwhile must not carry the new one.
    assert effects[0] == FindGeneration(SCOPE, SPAN_MS)
    assert effects[1] == FindRows(SCOPE, GRID, ranges=((SPAN_MS, 2 * SPAN_MS),), durable=True)
    assert isinstance(effects[2], PutBlock)
    assert effects[2].generation == 4
    assert equal(decode_block(effects[2].block, GRID).columns, rows)
    assert answer == Compacted(SPAN_MS, 2)


def test_a_compaction_of_no_candles_stores_no_block() -> None:
    effects, answer = asked(plans.compact(SCOPE, GRID, 0), 0, empty())
    assert len(effects) == 2
    assert answer == Compacted(0, 0)
    effects, answer = asked(plans.compact(SCOPE, GRID, 0), 1)
    assert (len(effects), answer) == (1, Compacted(0, 0))  # Candles of the range are being removed.


def test_importing_the_package_does_not_import_numpy() -> None:
    code = "import sys, backtest_kit_mongo, backtest_kit_mongo.candles.plans; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
