"""Series in MongoDB: documents, which are complete, blocks, which make reading fast, and what conflicted with a
document.

`candle-blocks`, one document a block:

| field                          | meaning |
|--------------------------------|---------|
| _id                            | escaped series / start |
| exchangeName, symbol, interval | the series |
| start, end                     | its range, ms |
| codec, count, integers, checksum, data | as in `candles/codec.py` |
| madeAt                         | when, by its maker's clock |
| generation                     | of its range, as in `generations.py`; absent is 0 |

`candle-conflicts`, one document for each different offer of a stored row:

| field                          | meaning |
|--------------------------------|---------|
| _id                            | escaped series / timestamp / digest of the offered values |
| exchangeName, symbol, interval, timestamp | the row |
| stored, offered                | the value columns of both |
| firstSeen, lastSeen, count     | when and how often it was offered |
| host                           | who offered it first |
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

import numpy as np
import pymongo
from bson.int64 import Int64
from bson.raw_bson import RawBSONDocument
from numpy.typing import NDArray
from pymongo import IndexModel, UpdateOne
from pymongo.client_session import ClientSession
from pymongo.database import Database
from pymongo.read_concern import ReadConcern
from pymongo.results import BulkWriteResult

from backtest_kit_mongo import locks
from backtest_kit_mongo.backends.block_cache import BlockCache
from backtest_kit_mongo.backends.mongo import block_files
from backtest_kit_mongo.backends.mongo import candle_bson as candle_bson
from backtest_kit_mongo.backends.mongo import indexes as mongo_indexes
from backtest_kit_mongo.backends.mongo.deadline import Deadlines, Let
from backtest_kit_mongo.backends.mongo.decoding import TOLERANT
from backtest_kit_mongo.backends.mongo.errors import reading, writing
from backtest_kit_mongo.backends.mongo.generations import Generations
from backtest_kit_mongo.backends.mongo.inserting import insert
from backtest_kit_mongo.backends.mongo.layout import collection_of
from backtest_kit_mongo.backends.mongo.side_by_side import results
from backtest_kit_mongo.candles.codec import (
    Block,
    CorruptBlock,
    EncodedBlock,
    block_end,
    block_starts,
    decode_block,
)
from backtest_kit_mongo.candles.columns import Columns, Times, empty, merge, take, to_rows
from backtest_kit_mongo.candles.conflicts import conflicts_of
from backtest_kit_mongo.candles.intervals import ANYWHERE, Grid
from backtest_kit_mongo.candles.plans import RANGES_MAX, FindBlocks, FindGeneration, FindRows, PutBlock, Range
from backtest_kit_mongo.coherence.keys import escaped
from backtest_kit_mongo.coherence.record import Key
from backtest_kit_mongo.coherence.series import Append, Appended, Conflict, KeepConflicts
from backtest_kit_mongo.errors import ServerUnreachable, WriteOutcomeUnknown, WriteRefused
from backtest_kit_mongo.stored import CANDLE_BLOCKS as BLOCKS
from backtest_kit_mongo.stored import CANDLE_CONFLICTS as CONFLICTS

logger = locks.logger(__name__)

BATCH_DOCUMENTS: Final = 20_000
"""2 MB: as fast as larger answers, which would hold memory and one bound in time for longer."""
BATCH_BLOCKS: Final = 16
"""5 MB."""
PART_ROWS: Final = 2_500
"""Rows of one insert; a large append is several."""
KEPT_AT_ONCE: Final = 1_000
"""Contradictions of one write, 0.1 to 0.2 s: an append of nothing else must not run into the bound on time, and again
when it is repeated.
"""
_NAMED_MAX: Final = 5
"""Rejected documents that a log line names."""

Document = dict[str, Any]


def encoded_block(stored: Mapping[str, Any]) -> EncodedBlock:
    """The block of a document in `candle-blocks`.

    Raises:
        KeyError, TypeError, ValueError, OverflowError: the document is damaged.
    """
    start, count, integers, codec, checksum = (
        int(stored[name]) for name in ("start", "count", "integers", "codec", "checksum")
    )
    return EncodedBlock(start, count, integers, codec, checksum, bytes(stored["data"]))


class MongoCandles:
    """Thread-safe.

    Args:
        database: with the concerns that reads and writes of documents have.
        timeout_s: bound on each operation; of a long read, on each batch.
        cache_max_bytes: bound on the blocks that are kept in this process.
        write: `Deadlines.write` for the database's client; by default deadlines of its own.
    """

    def __init__(
        self,
        database: Database[Document],
        timeout_s: float,
        cache_max_bytes: int,
        write: Callable[..., Any] | None = None,
    ) -> None:
        self._write = write or Deadlines(lambda: database.client, timeout_s, timeout_s / 4).write
        self._database = database
        self._durable = database.with_options(read_concern=ReadConcern("majority"))
        self._timeout_s = timeout_s
        self._blocks = database.get_collection(BLOCKS, TOLERANT)
        self._conflicts = database.get_collection(CONFLICTS, TOLERANT)
        self._cache = BlockCache(cache_max_bytes)
        self._generations = Generations(database)

    @property
    def cached_bytes(self) -> int:
        """Memory of the blocks that are kept in this process."""
        return self._cache.size_bytes

    # -- documents

    def append(self, effect: Append) -> Appended:
        """Insert the rows that are not stored yet. Asking first keeps a re-fetch from costing an error a row; what
        another writer inserts in between meets the unique key and is distinguished there.
        """
        scope, offered = effect.scope, effect.rows
        if not len(offered):
            return Appended(())
        stored = self._stored(scope, offered.timestamp, effect.grid)
        absent = take(offered, ~np.isin(offered.timestamp, stored.timestamp, assume_unique=True))
        met = np.zeros(len(absent), np.bool_)
        if len(absent):
            met[self._insert(scope, absent)] = True
        if met.any():
            stored = merge((stored, self._stored(scope, absent.timestamp[met], effect.grid)))
        return Appended(tuple(absent.timestamp[~met].tolist()), conflicts_of(stored, offered))

    def _stored(self, scope: Key, times: Times, grid: Grid) -> Columns:
        return self._find(self._database, _lookup(scope, times, grid))

    def _insert(self, scope: Key, rows: Columns) -> list[int]:
        """Insert in any order; returns the positions that met an existing key."""
        met: list[int] = []
        for number, documents in enumerate(_packed(scope, rows)):
            try:
                met += (number * PART_ROWS + position for position in self._insert_part(scope, documents))
            except (ServerUnreachable, WriteRefused) as cause:
                if number == 0:
                    raise
                raise WriteOutcomeUnknown(f"{scope}: some rows were written, repeat the write: {cause}") from cause
        return met

    def _insert_part(self, scope: Key, documents: Sequence[RawBSONDocument]) -> list[int]:
        collection = self._database[collection_of(scope.domain)]

        def write() -> set[int]:
            met: set[int] = self._write(scope, lambda let: insert(scope.domain, collection, documents, let))
            return met

        return sorted(mongo_indexes.rebuilding(collection, scope.domain, write))

    def window(self, scope: Key, since: int, until: int) -> list[Document]:
        """Rows with since <= timestamp < until as dicts, ascending; a value column is integers if it is in all of
        them.
        """
        return to_rows(self._find(self._database, FindRows(scope, ANYWHERE, ranges=((since, until),))))

    def find_rows(self, effect: FindRows) -> Columns:
        rows = self._find(self._durable if effect.durable else self._database, effect)
        self._cache.drop_behind(effect.scope, effect.grid, rows)
        return rows

    def _find(self, database: Database[Document], effect: FindRows) -> Columns:
        scope = effect.scope
        wanted: list[Document] = [{"$gte": since, "$lt": until} for since, until in effect.ranges]
        if effect.times:
            wanted.append({"$in": list(effect.times)})
        if not wanted:
            return empty()
        # Each branch names the whole key: then MongoDB walks one piece of the index for each.
        branches = [{**scope.query(), "timestamp": times} for times in wanted]
        query = branches[0] if len(branches) == 1 else {"$or": branches}
        collection = database[collection_of(scope.domain)]
        cursor = collection.find_raw_batches(query, candle_bson.PROJECTION, batch_size=BATCH_DOCUMENTS)
        batches = [candle_bson.read(raw, effect.grid) for raw in self._each(scope, cursor) if raw]
        rejected = [moment for batch in batches for moment in batch.rejected]
        if rejected:
            named = ", ".join(map(str, rejected[:_NAMED_MAX])) + (", ..." if len(rejected) > _NAMED_MAX else "")
            logger.warning(
                "%s: %d document(s) are no valid candles (a column is missing or no finite number, or the time is "
                "misaligned) and were left out; their timestamps: %s", scope, len(rejected), named,
            )  # fmt: skip
        return candle_bson.joined(batches)

    def _each(self, scope: Key, cursor: Any) -> Iterator[Any]:
        """What a query finds, as it arrives. Bounded for each batch: a long read over a slow network is no failure."""
        with reading(scope):
            while True:
                with pymongo.timeout(self._timeout_s):
                    found = next(cursor, None)
                if found is None:
                    return
                yield found

    # -- blocks

    def find_blocks(self, effect: FindBlocks) -> Sequence[Block]:
        starts = block_starts(effect.since, effect.until, effect.grid)
        with reading(effect.scope), pymongo.timeout(self._timeout_s):
            generations = self._generations.of(effect.scope)

        def is_current(block: Block) -> bool:
            generation = generations.get(block.start, 0)
            return block.generation == generation and not generation % 2

        kept = [block for block in self._cache.get(effect.scope, starts) if is_current(block)]
        if len(kept) == len(starts):
            return kept
        wanted: Document = {"$gte": starts[0], "$lt": effect.until}
        if kept:
            wanted["$nin"] = [block.start for block in kept]
        query = {**effect.scope.query(), "start": wanted}

        def ask(more: Document, projection: Document | None = None) -> Iterator[Any]:
            size = 0 if projection else BATCH_BLOCKS
            cursor = self._blocks.find({**query, **more}, projection=projection, batch_size=size)
            return self._each(effect.scope, cursor)

        decode = partial(_decoded, effect)
        files = block_files.in_use()
        blocks = map(decode, ask({})) if files is None else files.find(effect.scope, ask, decode)
        found = [block for block in blocks if block is not None and is_current(block)]
        self._cache.put(effect.scope, found)
        return kept + found

    def find_generation(self, effect: FindGeneration) -> int:
        with reading(effect.scope), pymongo.timeout(self._timeout_s):
            return self._generations.read(effect.scope).get(effect.start, 0)

    def forget_removals(self, scope: Key) -> None:
        """Look at once whether candles were removed: this process removes some."""
        self._generations.forget(scope)

    def put_block(self, effect: PutBlock, session: ClientSession | None = None) -> None:
        """Store a block. In a transaction of the caller's there are the driver's errors: it knows what to repeat."""
        scope, block = effect.scope, effect.block
        document = {
            **scope.query(),
            "start": Int64(block.start),
            "end": Int64(block_end(block.start, effect.grid)),
            "codec": block.codec,
            "count": block.count,
            "integers": block.integers,
            "checksum": Int64(block.checksum),
            "data": block.data,
            "madeAt": datetime.now(UTC),
            **({"generation": Int64(effect.generation)} if effect.generation else {}),
        }
        which = {"_id": f"{escaped(scope.parts)}/{block.start}"}
        with writing(scope), pymongo.timeout(self._timeout_s):
            # Each time: whoever dropped or restored the collection took the index with it. Where it is this does
            # nothing.
            self._blocks.create_indexes([IndexModel([(name, 1) for name in (*scope.query(), "start")], unique=True)])
        if session is None:
            self._write(scope, lambda let: self._blocks.replace_one(which, document, upsert=True, let=let))
        else:
            self._blocks.replace_one(which, document, upsert=True, session=session)
        self._cache.drop(scope, block.start)

    # -- conflicts

    def keep_conflicts(self, effect: KeepConflicts) -> tuple[Conflict, ...]:
        new: list[Conflict] = []
        for start in range(0, len(effect.conflicts), KEPT_AT_ONCE):
            part = effect.conflicts[start : start + KEPT_AT_ONCE]
            operations = [_offer(effect.scope, conflict) for conflict in part]

            def send(let: Let, operations: list[UpdateOne] = operations) -> BulkWriteResult:
                return self._conflicts.bulk_write(operations, ordered=False, let=let)

            result = self._write(f"{effect.scope}: conflicts", send)
            new += (part[place] for place in sorted(result.upserted_ids or {}))
        return tuple(new)


def _packed(scope: Key, rows: Columns) -> Iterator[Sequence[RawBSONDocument]]:
    """Documents of all rows, in parts. While one is inserted the next is packed. (Not two inserted at once: neighbours
    in one index, they cost MongoDB twice the time.)
    """
    now = datetime.now(UTC)  # One time for all: by it recovery knows the rows of one append.
    if len(rows) <= PART_ROWS:
        yield candle_bson.documents(scope.query(), rows, now)
        return
    parts = [take(rows, slice(start, start + PART_ROWS)) for start in range(0, len(rows), PART_ROWS)]
    yield from results((partial(candle_bson.documents, scope.query(), part, now) for part in parts), 1)


def _decoded(effect: FindBlocks, stored: Mapping[str, Any]) -> Block | None:
    """None if it cannot be used: then documents serve."""
    try:
        block = decode_block(encoded_block(stored), effect.grid)
        return replace(block, generation=int(stored.get("generation") or 0))
    except (CorruptBlock, KeyError, TypeError, ValueError, OverflowError) as cause:
        logger.warning(
            "%s: the block %s cannot be used, documents serve in its place: %r", effect.scope, stored.get("_id"), cause
        )
        return None


def _offer(scope: Key, conflict: Conflict) -> UpdateOne:
    now = datetime.now(UTC)
    first = {
        **scope.query(),
        "timestamp": Int64(conflict.timestamp),
        "stored": dict(conflict.stored),
        "offered": dict(conflict.offered),
        "firstSeen": now,
        "host": socket.gethostname(),
    }
    name = f"{escaped(scope.parts)}/{conflict.timestamp}/{conflict.digest}"
    update = {"$setOnInsert": first, "$set": {"lastSeen": now}, "$inc": {"count": 1}}
    return UpdateOne({"_id": name}, update, upsert=True)


def _lookup(scope: Key, times: Times, grid: Grid) -> FindRows:
    """Documents of these ascending times, as ranges if those are few. A row or two years apart must not cost reading
    the years between.
    """
    ends: NDArray[np.intp] = np.flatnonzero(times[1:] != grid.after(times[:-1]))
    if len(ends) >= RANGES_MAX:
        return FindRows(scope, ANYWHERE, times=tuple(times.tolist()))
    first = times[np.append(0, ends + 1)].tolist()
    last = times[np.append(ends, len(times) - 1)].tolist()
    ranges: tuple[Range, ...] = tuple((since, until + 1) for since, until in zip(first, last, strict=True))
    return FindRows(scope, ANYWHERE, ranges=ranges)
