"""Blocks as bytes.

A block holds those candles of one aligned range that its maker saw; `BLOCK_ROWS` open times fit into one. Codec 1:

| bytes        | what                                                                                     |
|--------------|------------------------------------------------------------------------------------------|
| 1024 or none | presence bitmap, lowest bit first; left out if all `BLOCK_ROWS` candles are there        |
| 5 * 8 * n    | open, high, low, close, volume: each column's n values as little-endian float64          |

The checksum is the CRC-32 of codec, start, step, count and integers (little-endian int64 each), then of the bytes.

Why the values are not compressed. Measured on real candles (seven pairs of 5 minutes, one of 1 minute, EURUSD of 1
hour), scaled to a year of one-minute candles, 525,600 * 40 bytes = 21 MB, which takes some 30 ms to fetch from a mongod
beside:

|                         | ratio: mean (worst to best) | compress | decompress |
|-------------------------|-----------------------------|----------|------------|
| zlib 1                  | 1.53 (1.29 to 2.16)         | 363 ms   | 78 ms      |
| zlib 6                  | 1.58 (1.31 to 2.36)         | 660 ms   | 76 ms      |
| zlib 1, bytes shuffled  | 1.34 (1.28 to 1.62)         | 388 ms   | 82 ms      |
| zstd 3                  | 1.83 (1.51 to 2.54)         | 101 ms   | 23 ms      |
| zstd 1, bytes shuffled  | 1.31 (1.26 to 1.58)         | 23 ms    | 18 ms      |
| lz4                     | 1.30 (1.13 to 1.79)         | 30 ms    | 5 ms       |

What the standard library has costs more than the fetch. zstd would save 14 of the 30 ms and cost 23, and is a
dependency; over a slow network it pays, and there `compressors=zstd` in the connection string does the same for
documents and blocks. On disk MongoDB compresses with snappy. Decimal prices as float64 have few bytes that repeat, so
shuffling makes it worse.

Why CRC-32: it finds every burst of up to 32 wrong bits, is in the standard library of most languages, and takes 6 of
the 7 ms that decoding a year takes. Others: Adler-32 7 ms, SHA-1 13, SHA-256 14, BLAKE2b 26, MD5 32. A weighted sum of
words by NumPy takes 2, but is our own invention, and 4 ms are not worth one.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from zlib import crc32

import numpy as np

from backtest_kit_mongo.candles.columns import FIELDS, Columns, Times
from backtest_kit_mongo.candles.intervals import Grid
from backtest_kit_mongo.errors import CorruptData

CODEC: Final = 1
"""Version of the layout that is written."""
BLOCK_ROWS: Final = 8192
"""Open times that a block covers: 5.7 days of one-minute candles, 328 kB."""
_HEADER: Final = struct.Struct("<5q")


class CorruptBlock(CorruptData):
    """A stored block cannot be used: it is damaged, or a later release wrote it. Documents serve in its place."""


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Candles that are stored in [start, block_end(start)); others may be stored there too.

    Attributes:
        start: ms, as `block_start` says.
        generation: of the range (see `plans.FindGeneration`) when the block's documents were read.
    """

    start: int
    columns: Columns
    generation: int = 0


@dataclass(frozen=True, slots=True)
class EncodedBlock:
    """A block as it is stored.

    Attributes:
        start: ms, as `block_start` says.
        count: how many candles it holds.
        integers: as in `Columns`.
        checksum: 0 to 2**32 - 1.
    """

    start: int
    count: int
    integers: int
    codec: int
    checksum: int
    data: bytes


def block_start(moment: int, grid: Grid) -> int:
    """Start (ms) of the block that a moment belongs to."""
    index = grid.index(moment)
    return grid.open(index - index % BLOCK_ROWS)


def block_end(start: int, grid: Grid) -> int:
    """The first open time (ms) after the range of a block."""
    return grid.shift(start, BLOCK_ROWS)


def block_starts(since: int, until: int, grid: Grid) -> Sequence[int]:
    """Starts (ms) of all blocks whose range overlaps [since, until), ascending. May be too many for a list."""
    if since >= until:
        return ()
    first = block_start(since, grid)
    if grid.longest_ms == grid.step_ms:
        return range(first, until, BLOCK_ROWS * grid.step_ms)
    return [grid.open(index) for index in range(grid.index(first), grid.index(until - 1) + 1, BLOCK_ROWS)]


def starts_of(times: Times, grid: Grid) -> Times:
    """`block_start` of many open times."""
    index = grid.index(times)
    return grid.open(index - index % BLOCK_ROWS)


def encode_block(columns: Columns, start: int, grid: Grid) -> EncodedBlock:
    """A block of these candles.

    Raises:
        ValueError: `start` is not a block's, or a candle does not belong into the block.
    """
    rows = grid.index(columns.timestamp) - grid.index(start)
    is_wrong = (grid.rest(columns.timestamp) != 0) | (rows < 0) | (rows >= BLOCK_ROWS)
    if start != block_start(start, grid) or is_wrong.any():
        raise ValueError(f"{columns!r} do not belong into a block of {grid.name} from {start} on")
    count = len(columns)
    bitmap = b""
    if count < BLOCK_ROWS:
        present = np.zeros(BLOCK_ROWS, np.bool_)
        present[rows] = True
        bitmap = np.packbits(present, bitorder="little").tobytes()
    data = b"".join((bitmap, *(column.astype("<f8", copy=False).tobytes() for column in columns.values)))
    checksum = _checksum(start, grid.step_ms, count, columns.integers, data)
    return EncodedBlock(start, count, columns.integers, CODEC, checksum, data)


def decode_block(encoded: EncodedBlock, grid: Grid) -> Block:
    """The block's candles; the value columns are views of `encoded.data`.

    Raises:
        CorruptBlock: its codec is unknown, or it is not what `encode_block` made.
    """
    start, count, data = encoded.start, encoded.count, encoded.data
    if encoded.codec != CODEC:
        raise CorruptBlock(f"block {start}: this release reads codec {CODEC}, not {encoded.codec}")
    first = 0 if count == BLOCK_ROWS else BLOCK_ROWS // 8
    if len(data) != first + count * 8 * len(FIELDS):
        raise CorruptBlock(f"block {start}: {len(data)} bytes cannot be {count} candles")
    try:
        is_intact = _checksum(start, grid.step_ms, count, encoded.integers, data) == encoded.checksum
    except struct.error:
        is_intact = False  # Numbers that do not fit 64 bits were never encoded.
    if not is_intact:
        raise CorruptBlock(f"block {start}: its bytes do not have the checksum {encoded.checksum}")
    timestamp = grid.open(grid.index(start) + np.arange(BLOCK_ROWS, dtype=np.int64))
    if first:
        timestamp = timestamp[np.unpackbits(np.frombuffer(data, np.uint8, first), bitorder="little").view(np.bool_)]
    if len(timestamp) != count:
        raise CorruptBlock(f"block {start}: {len(timestamp)} open times cannot be {count} candles")
    values = tuple(np.frombuffer(data, "<f8", count, first + i * count * 8) for i in range(len(FIELDS)))
    return Block(start, Columns(timestamp, values, encoded.integers))


def _checksum(start: int, step_ms: int, count: int, integers: int, data: bytes) -> int:
    return crc32(data, crc32(_HEADER.pack(CODEC, start, step_ms, count, integers)))
