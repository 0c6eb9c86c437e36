"""Candles in files: a block of `candles/codec.py` is one file, `START.candles` in the directory of the series.

| bytes | what                                                                |
|-------|---------------------------------------------------------------------|
| 4     | `BKC1`                                                              |
| 5 * 8 | start, codec, count, integers, checksum, little-endian int64        |
| rest  | the block                                                           |

The original keeps a file for each candle. Those are read where they are, at open times that no block has, and are never
changed: whoever writes with this package adds blocks beside them, which the original does not read. A block is made
anew from the old one and what is new, under the lock of the series, and replaces the old one atomically.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from typing import TYPE_CHECKING, Any, Final

from backtest_kit_mongo import locks
from backtest_kit_mongo.backends.files import disk, names
from backtest_kit_mongo.backends.row_series import RowSeries, Window
from backtest_kit_mongo.candles.intervals import Grid, grid_of
from backtest_kit_mongo.coherence.series import Append, Appended
from backtest_kit_mongo.errors import CorruptData, InvalidKey

if TYPE_CHECKING:
    from backtest_kit_mongo.candles.codec import Block, EncodedBlock
    from backtest_kit_mongo.candles.columns import Columns, Times
    from backtest_kit_mongo.candles.plans import Blocks, FindBlocks
    from backtest_kit_mongo.coherence.record import Key

logger = locks.logger(__name__)

EXTENSION: Final = ".candles"
MAGIC: Final = b"BKC1"
PROBES_MAX: Final = 64
"""Up to so many blocks are looked for by name, beyond that in a listing."""
_HEADER: Final = struct.Struct("<4s5q")

Writing = Callable[[str, "Key"], AbstractContextManager[None]]
"""Excludes other writers of a scope, below a root."""
At = Callable[[str, "Key", Sequence[int]], "list[dict[str, Any]]"]
"""Rows of these times that are files of their own, below a root."""


class FileSeries(RowSeries):
    """Thread-safe, and safe for several processes on one directory.

    Args:
        root: the base of one operation.
        writing: excludes other writers of a series.
        single: candles that are files of their own, by range, and by their times (`single_at`).
    """

    def __init__(self, root: Callable[[], str], writing: Writing, single: Window, single_at: At) -> None:
        super().__init__(single)
        self._root, self._writing, self._single_at = root, writing, single_at

    def find_blocks(self, effect: FindBlocks) -> Blocks:
        from backtest_kit_mongo.candles.codec import block_starts

        root, scope, grid = self._root(), effect.scope, effect.grid
        starts = block_starts(effect.since, effect.until, grid)
        if len(starts) > PROBES_MAX:
            starts = [start for start in _listed(f"{root}/{names.directory(scope)}") if start in starts]
        found = (_block(path, start, grid) for start in starts if (path := _path(root, scope, start)))
        return [block for block in found if block is not None]

    def window(self, scope: Key, since: int, until: int) -> list[dict[str, Any]]:
        """Rows as dicts, from blocks and from files of their own."""
        from backtest_kit_mongo.candles.columns import between as part
        from backtest_kit_mongo.candles.columns import merge, missing, of_rows, to_rows
        from backtest_kit_mongo.candles.plans import FindBlocks

        grid = grid_of(str(scope.item))
        blocks = self.find_blocks(FindBlocks(scope, grid, since, until))
        covered = merge([part(block.columns, since, until) for block in blocks])
        if not covered:
            return self._window(scope, since, until)
        gaps = missing(covered.timestamp, grid, since, until).tolist()
        single = [row for first, end in gaps for row in self._window(scope, first, end)]
        return to_rows(merge((covered, of_rows(single)))) if single else to_rows(covered)

    def append(self, effect: Append) -> Appended:
        """Insert the rows that are not stored yet, durably when it returns."""
        import numpy as np

        from backtest_kit_mongo.candles.codec import encode_block, starts_of
        from backtest_kit_mongo.candles.columns import merge, of_rows, take
        from backtest_kit_mongo.candles.conflicts import conflicts_of

        root, scope, grid, offered = self._root(), effect.scope, effect.grid, effect.rows
        if not len(offered):
            return Appended(())
        stored: list[Columns] = []
        outputs: list[disk.Output] = []
        new: list[Times] = []
        with self._writing(root, scope):
            stored.append(of_rows(self._single_at(root, scope, offered.timestamp.tolist())))
            of_block = starts_of(offered.timestamp, grid)
            for start in np.unique(of_block).tolist():
                path, rows = _path(root, scope, start), take(offered, of_block == start)
                block = _block(path, start, grid, set_aside=True)
                if block is not None:
                    stored.append(take(block.columns, np.isin(block.columns.timestamp, rows.timestamp)))
                known = [part.timestamp for part in stored]
                added = take(rows, ~np.isin(rows.timestamp, np.concatenate(known)))
                if added:
                    whole = added if block is None else merge((block.columns, added))
                    outputs.append(disk.Output(path, _encoded(encode_block(whole, start, grid)), exclusive=False))
                    new.append(added.timestamp)
            disk.write_all(outputs)
        times = np.concatenate(new).tolist() if new else []
        return Appended(tuple(times), conflicts_of(merge(stored), offered))


def _path(root: str, scope: Key, start: int) -> str:
    return f"{root}/{names.directory(scope)}/{start}{EXTENSION}"


def _listed(directory: str) -> Iterator[int]:
    """Starts of the blocks in a directory, ascending."""
    try:
        listed = [name.removesuffix(EXTENSION) for name in os.listdir(directory) if name.endswith(EXTENSION)]
    except (FileNotFoundError, NotADirectoryError):
        return
    yield from sorted(int(name) for name in listed if name.removeprefix("-").isdecimal())


def count_rows(directory: str) -> int:
    """How many candles the blocks of a series' directory hold, by their headers."""
    rows = 0
    for start in _listed(directory):
        with suppress(OSError, struct.error), open(f"{directory}/{start}{EXTENSION}", "rb") as file:
            rows += _HEADER.unpack(file.read(_HEADER.size))[3]
    return rows


def span_of_blocks(directory: str, interval: str) -> list[int]:
    """From when to when the blocks of a series' directory may have candles; empty if there are none."""
    starts = list(_listed(directory))
    try:
        grid = grid_of(interval)
    except InvalidKey:
        return []
    if not starts:
        return []
    from backtest_kit_mongo.candles.codec import block_end

    return [starts[0], block_end(starts[-1], grid) - 1]


def _encoded(block: EncodedBlock) -> bytes:
    return _HEADER.pack(MAGIC, block.start, block.codec, block.count, block.integers, block.checksum) + block.data


def _block(path: str, start: int, grid: Grid, *, set_aside: bool = False) -> Block | None:
    """The block of a file; None if there is none, or it cannot be read.

    Args:
        set_aside: give it a second name then, because a write will replace it.
    """
    from backtest_kit_mongo.candles.codec import EncodedBlock, decode_block

    content = disk.read(path)
    if content is None:
        return None
    try:
        if len(content) < _HEADER.size:
            raise CorruptData("it is shorter than its header")
        magic, *fields = _HEADER.unpack_from(content)
        first, codec, count, integers, checksum = fields
        if magic != MAGIC or first != start:
            raise CorruptData("it is no block of these candles")
        return decode_block(EncodedBlock(start, count, integers, codec, checksum, content[_HEADER.size :]), grid)
    except (CorruptData, ValueError) as cause:
        kept = disk.set_aside(path) if set_aside else None
        done = f"it is replaced, its bytes are kept as {kept}" if kept else "its candles are missing"
        logger.warning("%s cannot be read, %s: %s", path, done, cause)
        return None
