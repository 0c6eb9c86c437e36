"""Blocks as bytes: what is encoded is decoded, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from zlib import crc32

import numpy as np
import pytest

from backtest_kit_mongo.candles.codec import (
    BLOCK_ROWS,
    CorruptBlock,
    EncodedBlock,
    block_end,
    block_start,
    block_starts,
    decode_block,
    encode_block,
)
from backtest_kit_mongo.candles.columns import FIELDS, Columns, empty, equal
from backtest_kit_mongo.candles.intervals import grid_of

STEP_MS = 300_000
GRID = grid_of("5m")
START = 700 * BLOCK_ROWS * STEP_MS


def block_of(rows: list[int], integers: int = 0) -> Columns:
    """Candles of these rows of the block at START."""
    slots = np.array(rows, np.int64)
    values = tuple(slots.astype(np.float64) * 0.1 + i for i in range(len(FIELDS)))
    return Columns(START + slots * STEP_MS, values, integers)


@pytest.mark.parametrize(
    "rows",
    [[0], [BLOCK_ROWS - 1], [0, 7, 8, 4095, 8191], list(range(BLOCK_ROWS)), list(range(1, BLOCK_ROWS))],
    ids=["first", "last", "some", "all", "all but one"],
)
def test_a_block_is_decoded_to_what_was_encoded(rows: list[int]) -> None:
    columns = block_of(rows, integers=0b10001)
    encoded = encode_block(columns, START, GRID)
    assert (encoded.start, encoded.count, encoded.integers, encoded.codec) == (START, len(rows), 0b10001, 1)
    block = decode_block(encoded, GRID)
    assert block.start == START
    assert equal(block.columns, columns)
    assert block.columns.integers == columns.integers


def test_any_choice_of_candles_survives() -> None:
    rng = Random(1)
    for _ in range(50):
        columns = block_of(sorted(rng.sample(range(BLOCK_ROWS), rng.randrange(BLOCK_ROWS))))
        assert equal(decode_block(encode_block(columns, START, GRID), GRID).columns, columns)


def test_every_float_survives_to_the_bit() -> None:
    odd = np.array([-0.0, 5e-324, 1.7976931348623157e308, 0.1, 5.330000000000001e-05])
    columns = Columns(START + np.arange(5) * STEP_MS, tuple(np.roll(odd, i) for i in range(len(FIELDS))))
    decoded = decode_block(encode_block(columns, START, GRID), GRID).columns
    assert [column.tobytes() for column in decoded.values] == [column.tobytes() for column in columns.values]


def test_the_layout_of_codec_1_does_not_change() -> None:
    """Blocks of earlier releases are read for ever: these bytes were made by hand, from the table in the module."""
    bitmap = bytearray(BLOCK_ROWS // 8)
    bitmap[0], bitmap[1] = 0b00000010, 0b00000001
    values = np.array([[1.5, 2.5], [4, 5], [0.5, 1], [2, 3], [100, 7]], "<f8")
    data = bytes(bitmap) + values.tobytes()
    header = b"".join(n.to_bytes(8, "little") for n in (1, START, STEP_MS, 2, 0b10000))
    stored = EncodedBlock(START, 2, 0b10000, 1, crc32(header + data), data)
    columns = decode_block(stored, GRID).columns
    assert columns.timestamp.tolist() == [START + STEP_MS, START + 8 * STEP_MS]
    assert [column.tolist() for column in columns.values] == values.tolist()
    assert encode_block(columns, START, GRID) == stored


def test_a_full_block_has_no_bitmap_and_its_values_are_not_copied() -> None:
    encoded = encode_block(block_of(list(range(BLOCK_ROWS))), START, GRID)
    assert len(encoded.data) == BLOCK_ROWS * 5 * 8
    columns = decode_block(encoded, GRID).columns
    assert all(np.shares_memory(column, np.frombuffer(encoded.data, np.uint8)) for column in columns.values)
    assert not any(column.flags.writeable for column in (columns.timestamp, *columns.values))


def test_a_block_without_candles_can_be_stored() -> None:
    assert not decode_block(encode_block(empty(), START, GRID), GRID).columns


@pytest.mark.parametrize("byte", [0, 1023, 1024, 1100, -1])
def test_a_wrong_byte_is_noticed(byte: int) -> None:
    encoded = encode_block(block_of([1, 2, 3]), START, GRID)
    data = bytearray(encoded.data)
    data[byte] ^= 1
    with pytest.raises(CorruptBlock, match=f"block {START}"):
        decode_block(replace(encoded, data=bytes(data)), GRID)


GOOD = encode_block(block_of([1, 2, 3]), START, GRID)


@pytest.mark.parametrize(
    "damaged",
    [
        replace(GOOD, data=GOOD.data[:-1]),
        replace(GOOD, data=b""),
        replace(GOOD, count=4),
        replace(GOOD, count=-1),
        replace(GOOD, start=START + BLOCK_ROWS * STEP_MS),
        replace(GOOD, integers=1),
        replace(GOOD, integers=2**80),
        replace(GOOD, checksum=GOOD.checksum ^ 1),
    ],
    ids=["short", "empty", "more", "less than none", "elsewhere", "integers", "absurd", "checksum"],
)
def test_a_block_that_is_not_what_was_stored_is_refused(damaged: EncodedBlock) -> None:
    with pytest.raises(CorruptBlock, match=r"block \d+: "):
        decode_block(damaged, GRID)


def test_a_block_is_refused_under_another_interval() -> None:
    with pytest.raises(CorruptBlock, match="checksum"):
        decode_block(GOOD, grid_of("15m"))


@pytest.mark.parametrize("interval", ["1M", "1w", "1d+16h", "1s"])
def test_a_block_keeps_the_open_times_of_every_interval(interval: str) -> None:
    grid = grid_of(interval)
    times = grid.times(1_700_000_000_000, grid.shift(grid.ceil(1_700_000_000_000), 500))
    start = block_start(int(times[0]), grid)
    kept = Columns(
        times[times < block_end(start, grid)][::3], tuple(np.arange(len(times), dtype=float) for _ in FIELDS)
    )
    kept = Columns(kept.timestamp, tuple(column[: len(kept.timestamp)] for column in kept.values))
    assert equal(decode_block(encode_block(kept, start, grid), grid).columns, kept)
    assert start in block_starts(int(times[0]), int(times[0]) + 1, grid)


def test_a_bitmap_that_does_not_fit_the_count_is_refused_even_if_the_checksum_is_right() -> None:
    data = bytes(BLOCK_ROWS // 8) + GOOD.data[BLOCK_ROWS // 8 :]
    header = b"".join(n.to_bytes(8, "little") for n in (1, START, STEP_MS, 3, 0))
    with pytest.raises(CorruptBlock, match="0 open times cannot be 3 candles"):
        decode_block(replace(GOOD, data=data, checksum=crc32(header + data)), GRID)


def test_a_block_of_a_later_release_is_distinguished() -> None:
    with pytest.raises(CorruptBlock, match="reads codec 1, not 2"):
        decode_block(replace(GOOD, codec=2), GRID)


@pytest.mark.parametrize(
    ("shift_ms", "start"),
    [(-STEP_MS, START), (1, START), (BLOCK_ROWS * STEP_MS, START), (0, START + STEP_MS)],
    ids=["before it", "misaligned", "behind it", "no start of a block"],
)
def test_candles_of_another_range_are_not_encoded(shift_ms: int, start: int) -> None:
    columns = block_of([0])
    with pytest.raises(ValueError, match="do not belong"):
        encode_block(Columns(columns.timestamp + shift_ms, columns.values), start, GRID)


def test_every_open_time_belongs_to_one_block() -> None:
    span = BLOCK_ROWS * STEP_MS
    assert [block_start(moment, GRID) for moment in (-1, 0, span - 1, span)] == [-span, 0, 0, span]
    assert list(block_starts(0, span, GRID)) == [0]
    assert list(block_starts(span - 1, span + 1, GRID)) == [0, span]
    assert list(block_starts(5, 5, GRID)) == list(block_starts(5, -span, GRID)) == []
    assert list(block_starts(-1, 1, GRID)) == [-span, 0]
