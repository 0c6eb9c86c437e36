"""Candle blocks that this process keeps, the least recently used of them given up first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence

import numpy as np

from backtest_kit_mongo.candles.codec import BLOCK_ROWS, Block, block_end, starts_of
from backtest_kit_mongo.candles.columns import Columns, between
from backtest_kit_mongo.candles.intervals import Grid
from backtest_kit_mongo.coherence.record import Key
from backtest_kit_mongo.locks import Lock

STALE_MIN = 256
"""So many candles that had to be read beside a kept block make it worth asking for a fuller one."""


class BlockCache:
    """Thread-safe. What a block holds is true as long as its range has the block's generation, which whoever takes one
    from here compares; apart from that it can only be less than there is by now. A signal handler that comes in the
    middle of it gets nothing and leaves nothing.

    Args:
        bytes_max: bound on the arrays of all kept blocks; 0 keeps none.
    """

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._blocks: OrderedDict[tuple[Key, int], Block] = OrderedDict()
        self._lock = Lock()

    @property
    def size_bytes(self) -> int:
        return self._bytes

    def get(self, scope: Key, starts: Sequence[int]) -> list[Block]:
        """Kept blocks with these starts (ms), ascending."""
        if self._lock.is_mine:
            return []
        with self._lock:
            found = [self._blocks[scope, start] for start in self._kept(scope, starts)]
            for block in found:
                self._blocks.move_to_end((scope, block.start))
            return found

    def _kept(self, scope: Key, starts: Sequence[int]) -> list[int]:
        if len(starts) <= len(self._blocks):
            return [start for start in starts if (scope, start) in self._blocks]
        # A range without end has more starts than memory has room for.
        return sorted(start for held, start in self._blocks if held == scope and start in starts)

    def put(self, scope: Key, blocks: Iterable[Block]) -> None:
        if self._lock.is_mine:
            return
        with self._lock:
            for block in blocks:
                if _size(block) <= self._bytes_max:
                    self._drop(scope, block.start)
                    self._blocks[scope, block.start] = block
                    self._bytes += _size(block)
            while self._bytes > self._bytes_max:
                self._drop(*next(iter(self._blocks)))

    def drop(self, scope: Key, start: int) -> None:
        """The block was replaced by this process."""
        with self._lock:
            self._drop(scope, start)

    def _drop(self, scope: Key, start: int) -> None:
        if (block := self._blocks.pop((scope, start), None)) is not None:
            self._bytes -= _size(block)

    def drop_behind(self, scope: Key, grid: Grid, rows: Columns) -> None:
        """Drop the blocks that lack many of these candles, which were read from documents."""
        if len(rows) < STALE_MIN or self._lock.is_mine:
            return
        starts, counts = np.unique(starts_of(rows.timestamp, grid), return_counts=True)
        with self._lock:
            for start in starts[counts >= STALE_MIN].tolist():
                block = self._blocks.get((scope, start))
                if block is None or len(block.columns) == BLOCK_ROWS:
                    continue
                if _missing(block, rows, block_end(start, grid)) >= STALE_MIN:
                    self._drop(scope, start)


def _missing(block: Block, rows: Columns, end: int) -> int:
    found = between(rows, block.start, end).timestamp
    return int(np.isin(found, block.columns.timestamp, assume_unique=True, invert=True).sum())


def _size(block: Block) -> int:
    return block.columns.timestamp.nbytes + sum(column.nbytes for column in block.columns.values)
