"""Whatever append, backfill, re-fetch, compaction, failover and crash do meanwhile, a read is right; and the schedules
that show it are rich enough to find out a read that is not.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from backtest_kit_mongo.candles import codec, plans
from backtest_kit_mongo.candles.codec import (
    Block,
    CorruptBlock,
    EncodedBlock,
    block_end,
    block_starts,
    decode_block,
    encode_block,
)
from backtest_kit_mongo.candles.columns import Columns, between, merge, missing
from backtest_kit_mongo.candles.intervals import Grid
from backtest_kit_mongo.candles.plans import Compacted, FindBlocks, FindRows, PutBlock
from backtest_kit_mongo.coherence.effects import Plan, ask
from backtest_kit_mongo.coherence.record import Key
from tests.candles.series_model import PromiseBroken, Protocol, Schedule

INTERLEAVINGS = 10_000
PARTS = 4
"""Tests of a quarter each: processes that run tests beside each other share them."""
FOUND_WITHIN = 2_000
RARE = {"block replaced by a lesser one"}


@pytest.fixture(autouse=True)
def _small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks that get full, gaps that need every kind of query: a few candles then do what else takes years of them."""
    monkeypatch.setattr(codec, "BLOCK_ROWS", 8)
    monkeypatch.setattr(plans, "RANGES_MAX", 2)
    monkeypatch.setattr(plans, "TIMES_MAX", 2)
    monkeypatch.setattr(plans, "SHORT_GAP", 2)


@pytest.mark.parametrize("part", range(PARTS))
def test_every_read_has_what_was_committed_before_it_and_nothing_that_was_not_there(part: int) -> None:
    seen: Counter[str] = Counter()
    for seed in range(part, INTERLEAVINGS, PARTS):
        try:
            seen.update(Schedule(seed, Protocol()).play())
        except PromiseBroken as violation:
            pytest.fail(f"seed {seed}: {violation}")
    assert len(seen) == 10, seen
    tame = {
        what: count for what, count in seen.items() if count * PARTS < (100 if what in RARE else INTERLEAVINGS // 10)
    }
    assert not tame, f"too rare to show anything: {seen}"


def _blocks_read_after_the_documents(scope: Key, grid: Grid, since: int, until: int) -> Plan[Columns]:
    blocks = yield from ask(FindBlocks(scope, grid, since, until))
    covered = merge([between(block.columns, since, until) for block in blocks])
    gaps = missing(covered.timestamp, grid, since, until).tolist()
    rows = yield from ask(FindRows(scope, grid, tuple((first, end) for first, end in gaps)))
    blocks = yield from ask(FindBlocks(scope, grid, since, until))
    return merge([rows, *(between(block.columns, since, until) for block in blocks)])


def _blocks_taken_for_complete(scope: Key, grid: Grid, since: int, until: int) -> Plan[Columns]:
    blocks = yield from ask(FindBlocks(scope, grid, since, until))
    parts = [between(block.columns, since, until) for block in blocks]
    for start in block_starts(since, until, grid):
        if start not in [block.start for block in blocks]:
            outside = (max(since, start), min(until, block_end(start, grid)))
            parts.append((yield from ask(FindRows(scope, grid, (outside,)))))
    return merge(parts)


def _documents_only_behind_the_last_block(scope: Key, grid: Grid, since: int, until: int) -> Plan[Columns]:
    blocks = yield from ask(FindBlocks(scope, grid, since, until))
    covered = merge([between(block.columns, since, until) for block in blocks])
    behind = grid.after(int(covered.timestamp[-1])) if covered else since
    rows = yield from ask(FindRows(scope, grid, ((behind, until),) if behind < until else ()))
    return merge((covered, rows))


def _only_the_first_query(scope: Key, grid: Grid, since: int, until: int) -> Plan[Columns]:
    plan = plans.read(scope, grid, since, until)
    blocks = yield from ask(FindBlocks(scope, grid, since, until))
    next(plan)
    try:
        query = plan.send(blocks)
    except StopIteration as done:
        answer: Columns = done.value
        return answer
    rows = yield from ask(query)
    return merge((rows, *(between(block.columns, since, until) for block in blocks)))


def _blocks_not_cut_to_the_read(scope: Key, grid: Grid, since: int, until: int) -> Plan[Columns]:
    blocks = yield from ask(FindBlocks(scope, grid, since, until))
    rows = yield from ask(FindRows(scope, grid, ((since, until),)))
    return merge((rows, *(block.columns for block in blocks)))


def _compaction_of_what_a_failover_takes_back(scope: Key, grid: Grid, start: int) -> Plan[Compacted]:
    rows = yield from ask(FindRows(scope, grid, ((start, block_end(start, grid)),)))
    if rows:
        yield from ask(PutBlock(scope, grid, encode_block(rows, start, grid)))
    return Compacted(start, len(rows))


def _checksum_ignored(encoded: EncodedBlock, grid: Grid) -> Block:
    for candidate in (encoded, replace(encoded, checksum=_checksum_of(encoded, grid))):
        try:
            return decode_block(candidate, grid)
        except CorruptBlock:
            continue
    raise CorruptBlock("its bitmap does not fit its count")


def _checksum_of(encoded: EncodedBlock, grid: Grid) -> int:
    return codec._checksum(encoded.start, grid.step_ms, encoded.count, encoded.integers, encoded.data)


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(Protocol(read=_blocks_read_after_the_documents), id="blocks read after the documents"),
        pytest.param(Protocol(read=_blocks_taken_for_complete), id="blocks taken for complete"),
        pytest.param(Protocol(read=_documents_only_behind_the_last_block), id="documents only behind the last block"),
        pytest.param(Protocol(read=_only_the_first_query), id="only the first query"),
        pytest.param(Protocol(read=_blocks_not_cut_to_the_read), id="blocks not cut to the read"),
        pytest.param(Protocol(compact=_compaction_of_what_a_failover_takes_back), id="compaction of what gets lost"),
        pytest.param(Protocol(decode=_checksum_ignored), id="checksum ignored"),
    ],
)
def test_a_planted_bug_is_found(broken: Protocol) -> None:
    assert any(_is_violated(seed, broken) for seed in range(FOUND_WITHIN))


def _is_violated(seed: int, protocol: Protocol) -> bool:
    try:
        Schedule(seed, protocol).play()
    except PromiseBroken:
        return True
    return False


def test_a_seed_is_the_same_interleaving_each_time() -> None:
    assert Schedule(7, Protocol()).play() == Schedule(7, Protocol()).play()
