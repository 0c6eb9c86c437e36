"""Keeping blocks: which series have which ranges, the list of what is to be compacted, and making, checking and
repairing one block.

Nothing here can make a read wrong, because a read asks the documents for all that blocks do not cover. A range that is
compacted late, twice, by two at once or never costs time only. So the list may count too much after a redelivery, and a
row may stay on it too long. Only a block that differs from its documents is a fault, and only damage, or documents that
were changed behind this package's back, can bring one about; `verify` finds it, `rebuild` removes it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

import numpy as np
from pymongo import ASCENDING, UpdateOne
from pymongo.database import Database

from backtest_kit_mongo.backends.mongo.browsing import scopes
from backtest_kit_mongo.backends.mongo.candles import encoded_block
from backtest_kit_mongo.backends.mongo.layout import collection_of
from backtest_kit_mongo.candles.codec import CorruptBlock, block_end, block_start, decode_block
from backtest_kit_mongo.candles.columns import FIELDS, Columns
from backtest_kit_mongo.candles.intervals import INTERVALS, Grid, grid_of
from backtest_kit_mongo.candles.plans import Compacted, FindGeneration, FindRows, PutBlock, compact
from backtest_kit_mongo.coherence.codec import millis
from backtest_kit_mongo.coherence.keys import escaped
from backtest_kit_mongo.coherence.record import Key
from backtest_kit_mongo.connect import DURABLE
from backtest_kit_mongo.domains.table import CANDLE
from backtest_kit_mongo.drivers.store import OneForAll, drive
from backtest_kit_mongo.ports import Series
from backtest_kit_mongo.stored import CANDLE_BLOCKS as BLOCKS
from backtest_kit_mongo.stored import CANDLE_RANGES as RANGES

TIMES_END: Final = 2**53
"""No open time is as large; a foreign document's infinity would be."""
TIME_TYPES: Final = ["int", "long", "double"]
"""BSON types of open times; foreign documents may hold decimals, which are no candles."""

Document = dict[str, Any]


class BlockRange(NamedTuple):
    """What one block may cover.

    Attributes:
        scope: the series: exchange, symbol, interval.
        start: ms, as `block_start` says.
    """

    scope: Key
    start: int

    @property
    def grid(self) -> Grid:
        return grid_of(str(self.scope.item))

    @property
    def end(self) -> int:
        """The first open time after the range, ms."""
        return block_end(self.start, self.grid)

    @property
    def id(self) -> str:
        """Its `_id` in `candle-ranges`, and its block's in `candle-blocks`."""
        return f"{escaped(self.scope.parts)}/{self.start}"

    def query(self) -> Document:
        return {**self.scope.query(), "start": self.start}

    def __str__(self) -> str:
        return f"{self.scope} from {self.start} to {self.end}"


# -- which ranges


def find_series(
    database: Database[Document], exchange: str | None = None, symbol: str | None = None, interval: str | None = None
) -> list[Key]:
    """Series that have candles or blocks, in order; only those of an exchange, symbol or interval that is given.

    Each step leaps over the distinct values of one index column, so its cost does not grow with the candles.
    """
    chosen = {"exchangeName": exchange, "symbol": symbol, "interval": interval}
    names = CANDLE.columns[:-1]
    given = {name: value for name, value in chosen.items() if value is not None}
    found = {parts for name in (collection_of(CANDLE), BLOCKS) for parts in scopes(database[name], names, given)}
    return [Key(CANDLE, parts) for parts in sorted(found) if parts[-1] in INTERVALS]


def find_ranges(database: Database[Document], scope: Key) -> list[BlockRange]:
    """Ranges of a series that have candles or a block, ascending."""
    blocks = database[BLOCKS].find(scope.query(), {"_id": 0, "start": 1})
    starts = {int(block["start"]) for block in blocks}
    starts.update(_starts(database, scope))
    return [BlockRange(scope, start) for start in sorted(starts)]


def _starts(database: Database[Document], scope: Key) -> Iterator[int]:
    """Leaps from the first candle of a range to the first one behind that range."""
    grid, since = grid_of(str(scope.item)), -TIMES_END
    rows = database[collection_of(CANDLE)]
    while True:
        query = {**scope.query(), "timestamp": {"$gte": since, "$lt": TIMES_END, "$type": TIME_TYPES}}
        found = rows.find_one(query, {"_id": 0, "timestamp": 1}, sort=[("timestamp", ASCENDING)])
        if found is None:
            return
        start = block_start(int(found["timestamp"]), grid)
        yield start
        since = block_end(start, grid)


class Summary(NamedTuple):
    """The blocks of a series.

    Attributes:
        blocks, candles: how many there are; `bytes` is their size, whole documents.
        since, until: what they span, ms; None without blocks.
        made_at: when the newest was made.
    """

    blocks: int
    candles: int
    bytes: int
    since: int | None
    until: int | None
    made_at: datetime | None


def summarize(database: Database[Document], scope: Key) -> Summary:
    """What blocks a series has."""
    totals = {
        "blocks": {"$sum": 1},
        "candles": {"$sum": "$count"},
        "bytes": {"$sum": {"$bsonSize": "$$ROOT"}},
        "since": {"$min": "$start"},
        "until": {"$max": "$end"},
        "made_at": {"$max": "$madeAt"},
    }
    for found in database[BLOCKS].aggregate([{"$match": scope.query()}, {"$group": {"_id": None, **totals}}]):
        return Summary(*(found[name] for name in totals))
    return Summary(0, 0, 0, None, None, None)


# -- what is to be compacted


@dataclass(frozen=True, slots=True)
class Thresholds:
    """When a range is worth compacting. Times are milliseconds.

    Attributes:
        pending_min: so many new candles make reads noticeably slower.
        age_ms: a new candle waits no longer than this.
        quiet_ms: a range that is over need not wait for either once nothing has been added to it for so long.
    """

    pending_min: int = 256
    age_ms: int = 15 * 60_000
    quiet_ms: int = 10_000


class Due(NamedTuple):
    """A row of the list as it was seen.

    Attributes:
        since: when the oldest of its candles was noted; names the row's generation, in which `pending` only grows.
    """

    range: BlockRange
    pending: int
    since: datetime


class ToDo:
    """The list of ranges with candles that are in no block yet, `candle-ranges`:

    | field                          | meaning |
    |--------------------------------|---------|
    | _id                            | escaped series / start |
    | exchangeName, symbol, interval | the series |
    | start, end                     | the range, ms |
    | pending                        | candles noted since its last compaction; too many after a redelivery |
    | oldestAt, changedAt            | when the first and the last of them were noted, by the workers' clocks |
    """

    def __init__(self, database: Database[Document], when: Thresholds = Thresholds()) -> None:
        self._rows = database.get_collection(RANGES, write_concern=DURABLE)
        self._when = when

    def open(self) -> None:
        """Make the indexes. May be repeated."""
        for field in ("pending", "oldestAt", "changedAt"):
            self._rows.create_index(field)

    def add(self, counts: Mapping[BlockRange, int], now: datetime) -> None:
        """Note so many new candles a range; on a majority's disks when it returns."""
        if counts:
            self._rows.bulk_write([_noted(each, count, now) for each, count in counts.items()], ordered=False)

    def due(self, now: datetime, at_most: int) -> list[Due]:
        """Ranges that are worth compacting, those first whose candles wait longest."""
        when = self._when
        is_due = [
            {"pending": {"$gte": when.pending_min}},
            {"oldestAt": {"$lte": now - timedelta(milliseconds=when.age_ms)}},
            {"end": {"$lte": millis(now)}, "changedAt": {"$lte": now - timedelta(milliseconds=when.quiet_ms)}},
        ]
        found = self._rows.find({"$or": is_due}).sort("oldestAt", ASCENDING).limit(at_most)
        return [_due(row) for row in found]

    def settle(self, due: Due, looked_at: datetime) -> None:
        """Take what was seen at `looked_at` off the list, after its range was compacted. What was noted since stays. If
        another compactor was faster, nothing happens.
        """
        row = {"_id": due.range.id, "oldestAt": due.since}
        if not self._rows.delete_one({**row, "pending": due.pending}).deleted_count:
            self._rows.update_one(row, {"$inc": {"pending": -due.pending}, "$set": {"oldestAt": looked_at}})

    def put_back(self, due: Due, now: datetime) -> None:
        """Move a range to the end of the line, so that one that cannot be compacted does not keep others waiting."""
        self._rows.update_one({"_id": due.range.id, "oldestAt": due.since}, {"$set": {"oldestAt": now}})

    def count(self, scope: Key) -> int:
        """Ranges of a series that are on the list, due or not."""
        return self._rows.count_documents(scope.query())


def _noted(each: BlockRange, count: int, now: datetime) -> UpdateOne:
    first = {**each.query(), "end": each.end, "oldestAt": now}
    update = {"$inc": {"pending": count}, "$max": {"changedAt": now}, "$setOnInsert": first}
    return UpdateOne({"_id": each.id}, update, upsert=True)


def _due(row: Mapping[str, Any]) -> Due:
    scope = Key(CANDLE, tuple(row[name] for name in CANDLE.columns[:-1]))
    return Due(BlockRange(scope, int(row["start"])), int(row["pending"]), row["oldestAt"])


# -- one block


class Checked(NamedTuple):
    """A range's block beside its documents.

    Attributes:
        in_block: candles that can be read from the block, None if there is none.
        in_documents: valid candles in documents.
        fault: what is wrong with the block, empty if nothing is. That it lacks candles is no fault: it was made
            earlier.
    """

    range: BlockRange
    in_block: int | None
    in_documents: int
    fault: str = ""

    @property
    def is_whole(self) -> bool:
        """Whether a read of the range needs no documents, except at open times that have no candle."""
        return not self.fault and (self.in_block or 0) == self.in_documents


class Rebuilt(NamedTuple):
    """What became of a range's block: one with a fault (see `Checked`) was removed, a new one made; or it was left
    alone.
    """

    fault: str
    is_made: bool


class Compactor:
    """Makes, checks and repairs the blocks of one database. Holds one range in memory at a time, a few megabytes.

    Args:
        series: reads documents and stores blocks.
    """

    def __init__(self, series: Series, database: Database[Document]) -> None:
        self._series = series
        self._blocks = database.get_collection(BLOCKS, write_concern=DURABLE)

    def compact(self, each: BlockRange) -> Compacted:
        """Make a range's block anew from its documents."""
        return drive(compact(each.scope, each.grid, each.start), OneForAll(self._perform))

    def _perform(self, effect: Any) -> Any:
        if isinstance(effect, FindGeneration):
            return self._series.find_generation(effect)
        return self._series.put_block(effect) if isinstance(effect, PutBlock) else self._series.find_rows(effect)

    def verify(self, each: BlockRange) -> Checked:
        """Compare a range's block with its documents: place, checksum, count, values. Changes nothing."""
        return self._compared(each, self._blocks.find_one(each.query()))

    def rebuild(self, each: BlockRange) -> Rebuilt:
        """Make a range's block equal to its documents. A block that differs is removed first, so that reads no longer
        get it. One that is right and whole is left alone, so doing it again costs little.
        """
        stored = self._blocks.find_one(each.query())
        if stored is None:
            return Rebuilt("", is_made=self._compact_if_aligned(each))
        checked = self._compared(each, stored)
        if checked.fault:
            # Not one that another compactor has put in its place meanwhile.
            self._blocks.delete_one({"_id": stored["_id"], "checksum": stored.get("checksum")})
        return Rebuilt(checked.fault, is_made=not checked.is_whole and self._compact_if_aligned(each))

    def _compact_if_aligned(self, each: BlockRange) -> bool:
        """Whether a block was made: none where there are no candles, or where only damage could have put a block."""
        return each.start == block_start(each.start, each.grid) and self.compact(each).count > 0

    def _compared(self, each: BlockRange, stored: Mapping[str, Any] | None) -> Checked:
        # After the block was read: its candles were in documents by then.
        rows = self._series.find_rows(FindRows(each.scope, each.grid, ((each.start, each.end),)))
        if stored is None:
            return Checked(each, None, len(rows))
        try:
            block = decode_block(encoded_block(stored), each.grid).columns
        except (CorruptBlock, KeyError, TypeError, ValueError, OverflowError) as cause:
            return Checked(each, 0, len(rows), f"{type(cause).__name__}: {cause}")
        generation = self._series.find_generation(FindGeneration(each.scope, each.start))
        if int(stored.get("generation") or 0) != generation:
            return Checked(
                each, 0, len(rows), "candles of its range were removed since it was made, so no read uses it"
            )
        if stored["_id"] != each.id:  # No compactor could replace it.
            return Checked(each, len(block), len(rows), f"its _id is {stored['_id']!r:.200} and not {each.id!r}")
        return Checked(each, len(block), len(rows), _difference(block, rows))


def _difference(block: Columns, rows: Columns) -> str:
    """What a block holds that its documents do not; empty if nothing."""
    at = np.searchsorted(rows.timestamp, block.timestamp)
    known = at < len(rows)
    known[known] = rows.timestamp[at[known]] == block.timestamp[known]
    if not known.all():
        unknown = block.timestamp[~known]
        return f"{len(unknown)} candle(s) are in no document, the first opens at {unknown[0]}"
    for field, mine, theirs in zip(FIELDS, block.values, rows.values, strict=True):
        differs = np.flatnonzero(mine != theirs[at])
        if len(differs):
            first = differs[0]
            values = f"{mine[first]} instead of {theirs[at[first]]}"
            return (
                f"{len(differs)} candle(s) have another {field}, the first opens at {block.timestamp[first]}: {values}"
            )
    # Of a block with fewer candles it is known only that what is an integer in all documents is one in these.
    if rows.integers & ~block.integers or (len(block) == len(rows) and block.integers != rows.integers):
        return f"integers are {block.integers:05b} instead of {rows.integers:05b}"
    return ""
