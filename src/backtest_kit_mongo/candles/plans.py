"""The steps of reading and compacting candles, and the effects that they ask for. No I/O.

Why a read is right whatever else happens meanwhile: a candle's document is inserted once and never changed, so a block,
made of documents that no failover can take back, stays true however old it is. And a read looks into documents after
blocks: a candle that was stored before the read began is in a block that it was given, or in a document at an open time
that none of them covers, which it then asks for. Only an operator removes candles (`operate/removal.py`), and that
gives the range of a block a new generation, which no block has that was made of documents from before.

NumPy is imported by the plans, not by this module: drivers name the effects, and they are part of
`import backtest_kit_mongo`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from backtest_kit_mongo.candles.intervals import Grid
from backtest_kit_mongo.coherence.effects import Effect, Plan, ask
from backtest_kit_mongo.coherence.record import Key

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from backtest_kit_mongo.candles.codec import Block, EncodedBlock
    from backtest_kit_mongo.candles.columns import Columns

Blocks: TypeAlias = "Sequence[Block]"
Range: TypeAlias = tuple[int, int]
"""Open times [since, until), ms."""

RANGES_MAX: Final = 64
"""Most ranges of one query. MongoDB plans each of them, which takes it 25 us: as long as looking up 20 single times."""
TIMES_MAX: Final = 10_000
"""Most single open times of one query; they take 13 ms."""
SHORT_GAP: Final = 16
"""Open times up to which a gap is asked for one by one, if there are more than `RANGES_MAX` gaps."""


@dataclass(frozen=True, slots=True)
class FindBlocks(Effect["Blocks"]):
    """Blocks whose range overlaps [since, until), at most one a range, in any order. Those that cannot be used are left
    out; a copy that this process has kept will do, however old.
    """

    scope: Key
    grid: Grid
    since: int
    until: int


@dataclass(frozen=True, slots=True)
class FindRows(Effect["Columns"]):
    """Documents with an open time in one of `ranges` or among `times`, in one query.

    The query must begin after the effect was asked for, because only then have the blocks been read. Documents that are
    no valid candles are left out.

    Attributes:
        ranges: at most `RANGES_MAX`, ascending, apart from one another.
        times: at most `TIMES_MAX`, ascending, outside the ranges.
        durable: only what is majority-committed. Blocks are made of that: what a failover takes back would stay in
            them.
    """

    scope: Key
    grid: Grid
    ranges: tuple[Range, ...] = ()
    times: tuple[int, ...] = ()
    durable: bool = False


@dataclass(frozen=True, slots=True)
class FindGeneration(Effect[int]):
    """How often candles of the block range from `start` (ms) were removed, as it is now. Odd while that goes on."""

    scope: Key
    start: int


@dataclass(frozen=True, slots=True)
class PutBlock(Effect[None]):
    """Store a block, in the place of what is stored for its range.

    Attributes:
        generation: of the range, asked for before the documents that the block is made of.
    """

    scope: Key
    grid: Grid
    block: EncodedBlock
    generation: int = 0


@dataclass(frozen=True, slots=True)
class Compacted:
    """What came of one compaction: `count` candles are in the block from `start` (ms) on; with 0, none was stored."""

    start: int
    count: int


def read(scope: Key, grid: Grid, since: int, until: int) -> Plan[Columns]:
    """Candles of a series that open in [since, until), ms."""
    from backtest_kit_mongo.candles.columns import between, merge, missing

    blocks = yield from ask(FindBlocks(scope, grid, since, until))
    covered = merge([between(block.columns, since, until) for block in blocks])
    parts = [covered]
    for query in _queries(scope, grid, missing(covered.timestamp, grid, since, until)):
        rows = yield from ask(query)
        parts.append(rows)
    return merge(parts)


def _queries(scope: Key, grid: Grid, gaps: NDArray[np.int64]) -> Iterator[FindRows]:
    """Ask for every open time of the gaps (rows [since, until), ascending) and for no other."""
    times: list[int] = []
    if len(gaps) > RANGES_MAX:
        counts = grid.index(gaps[:, 1]) - grid.index(gaps[:, 0])
        times = _open_times(gaps[counts <= SHORT_GAP], grid)
        gaps = gaps[counts > SHORT_GAP]
    ranges = [(since, until) for since, until in gaps.tolist()]
    for some in range(0, len(ranges), RANGES_MAX):
        yield FindRows(scope, grid, ranges=tuple(ranges[some : some + RANGES_MAX]))
    for some in range(0, len(times), TIMES_MAX):
        yield FindRows(scope, grid, times=tuple(times[some : some + TIMES_MAX]))


def _open_times(gaps: NDArray[np.int64], grid: Grid) -> list[int]:
    """The open times of gaps none of which is longer than `SHORT_GAP`, ascending."""
    import numpy as np

    opens = grid.open(grid.index(gaps[:, :1]) + np.arange(SHORT_GAP))
    times: list[int] = opens[opens < gaps[:, 1:]].tolist()
    return times


def compact(scope: Key, grid: Grid, start: int) -> Plan[Compacted]:
    """Make the block that starts at `start` (ms) from the documents that are stored now.

    May run twice at once, be dropped anywhere and be repeated: the block that is stored is one that was true when its
    documents were read, so it is true now, or is of an old generation and not read. It need not be the fullest one that
    was made.
    """
    from backtest_kit_mongo.candles.codec import block_end, encode_block

    generation = yield from ask(FindGeneration(scope, start))
    if generation % 2:
        return Compacted(start, 0)
    rows = yield from ask(FindRows(scope, grid, ranges=((start, block_end(start, grid)),), durable=True))
    if len(rows):
        yield from ask(PutBlock(scope, grid, encode_block(rows, start, grid), generation))
    return Compacted(start, len(rows))
