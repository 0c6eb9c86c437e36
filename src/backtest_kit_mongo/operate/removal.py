"""Removing stored candles: the way back where the wrong ones were stored, or an exchange corrected its history.

Everywhere else the first write of a candle wins. Removing is for operators: it reports nothing to the feed (the
worker's recovery records each removed document as a foreign change), and replicas keep what they have until they are
copied anew.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from pymongo.database import Database

from backtest_kit_mongo.adapters.candle_instance import CandleInstance
from backtest_kit_mongo.adapters.contracts import CandleTable, When
from backtest_kit_mongo.adapters.registries import PersistCandleAdapter
from backtest_kit_mongo.backends.mongo.candles import MongoCandles
from backtest_kit_mongo.backends.mongo.documents import MongoTruth
from backtest_kit_mongo.backends.mongo.errors import reading, writing
from backtest_kit_mongo.backends.mongo.generations import FOLLOW_S, Generations, begin, end
from backtest_kit_mongo.backends.mongo.layout import collection_of
from backtest_kit_mongo.candles.codec import block_start, starts_of
from backtest_kit_mongo.candles.columns import Columns, take
from backtest_kit_mongo.candles.conflicts import conflicts_of
from backtest_kit_mongo.candles.intervals import grid_of
from backtest_kit_mongo.coherence.moments import moment_ms
from backtest_kit_mongo.coherence.record import Key
from backtest_kit_mongo.connect import DURABLE
from backtest_kit_mongo.domains.table import CANDLE
from backtest_kit_mongo.errors import CallerError
from backtest_kit_mongo.operate.compaction import TIME_TYPES, TIMES_END, BlockRange, Compactor, find_ranges
from backtest_kit_mongo.setup import get_config
from backtest_kit_mongo.stored import CANDLE_BLOCKS as BLOCKS
from backtest_kit_mongo.stored import CANDLE_CONFLICTS as CONFLICTS

__all__ = ["Removal", "Removed", "remove_candles", "replace_candles"]

Document = dict[str, Any]
WAIT_S: Final = FOLLOW_S * 1.1
TIMES_MAX: Final = 5_000
"""Open times of one command."""


@dataclass(slots=True)
class Removed:
    """What was removed, or would be.

    Attributes:
        candles: documents.
        conflicts: candles kept aside that conflicted with removed ones.
        blocks: blocks that held some of them.
        first, last: their open times, ms; None if there are none.
    """

    candles: int = 0
    conflicts: int = 0
    blocks: int = 0
    first: int | None = None
    last: int | None = None


def remove_candles(
    symbol: str,
    interval: str,
    exchange: str,
    since: When | None = None,
    until: When | None = None,
    *,
    dry_run: bool = True,
) -> Removed:
    """Remove stored candles that open at `since` or later and before `until`; without a limit, all of the series.

    Args:
        dry_run: only say what would be removed.

    Raises:
        CallerError: a moment or key field is wrong, or the adapter in use does not keep candles in MongoDB.
        EnvironmentFault: MongoDB failed; some may be removed. Run it again.
    """
    removal = _of(_instance(symbol, interval, exchange))
    limits = [None if each is None else moment_ms(each, name) for name, each in (("since", since), ("until", until))]
    return removal.look(*limits) if dry_run else removal.remove(*limits)


def replace_candles(
    symbol: str, interval: str, exchange: str, candles: CandleTable, *, sparse: bool = False, dry_run: bool = True
) -> Removed:
    """Store candles in the place of those that are stored for their open times with other values; and those that are
    new.

    Args:
        candles, sparse: as of `write_candles`.
        dry_run: only say what would be replaced.

    Raises:
        CallerError: as of `write_candles`, or the adapter in use does not keep candles in MongoDB. Nothing was changed.
        EnvironmentFault: MongoDB failed; some may be removed and not stored again. Run it again.
    """
    instance = _instance(symbol, interval, exchange)
    columns = instance.checked(candles, sparse=sparse)
    found = replace(instance, _of(instance), columns, dry_run=dry_run)
    if not dry_run:
        instance.write_candles(columns, sparse=True)
    return found


def replace(instance: CandleInstance, removal: Removal, columns: Columns, *, dry_run: bool) -> Removed:
    """Replace those of checked, ascending candles that are stored with other values."""
    if not len(columns):
        return Removed()
    stored = instance.between(int(columns.timestamp[0]), int(columns.timestamp[-1]) + 1).columns
    times = [conflict.timestamp for conflict in conflicts_of(stored, columns)]
    found = Removed(len(times), first=min(times, default=None), last=max(times, default=None))
    if times and not dry_run:
        chosen = take(columns, np.isin(columns.timestamp, times))
        with removal.replacing(chosen):
            instance.write_candles(chosen, sparse=True)
    return found


def _instance(symbol: str, interval: str, exchange: str) -> CandleInstance:
    instance = PersistCandleAdapter._at(symbol, interval, exchange)
    if not isinstance(instance, CandleInstance) or not isinstance(instance.store.truth, MongoTruth):
        raise CallerError(
            "only candles in MongoDB can be removed: call setup() first. Files in ./dump can be deleted by hand."
        )
    return instance


def _of(instance: CandleInstance) -> Removal:
    truth = instance.store.truth
    assert isinstance(truth, MongoTruth)
    return Removal(truth.series, truth.client[get_config().database], instance.context)


class Removal:
    """Removes candles of one series, their conflicts and the blocks that held them.

    Args:
        series: of this process, which forgets what it keeps of them.
        database: where candles are.
    """

    def __init__(self, series: MongoCandles, database: Database[Document], scope: Key) -> None:
        self._series = series
        self._durable = database.client.get_database(database.name, write_concern=DURABLE)
        self._scope = scope
        self._grid = grid_of(str(scope.item))

    def look(self, since: int | None = None, until: int | None = None) -> Removed:
        """What `remove` of the same limits would remove."""
        found, candles = Removed(), self._durable[collection_of(CANDLE)]
        query = self._query(since, until)
        with reading(self._scope):
            found.candles = candles.count_documents(query)
            ends = [candles.find_one(query, {"timestamp": 1}, sort=[("timestamp", order)]) for order in (1, -1)]
            found.first, found.last = (None if one is None else int(one["timestamp"]) for one in ends)
            found.conflicts = self._durable[CONFLICTS].count_documents(query)
            starts = [each.start for each in self._ranges(since, until)]
            found.blocks = self._durable[BLOCKS].count_documents({**self._scope.query(), "start": {"$in": starts}})
        return found

    def remove(self, since: int | None = None, until: int | None = None) -> Removed:
        """Remove the candles that open at `since` (ms) or later and before `until`; without a limit, all.

        When it returns no process reads them any more. Interrupted, some may be gone; run it again, which also ends
        what a remover that died has left begun.
        """
        ranges = self._ranges(since, until)
        removed = self.look(since, until)
        with self._removing(ranges):
            for each in ranges:
                query = self._query(
                    max(each.start, -TIMES_END if since is None else since), min(each.end, _or_end(until))
                )
                with writing(each):
                    self._durable[collection_of(CANDLE)].delete_many(query)
                    self._durable[CONFLICTS].delete_many(query)
        return removed

    @contextmanager
    def replacing(self, rows: Columns) -> Iterator[None]:
        """Remove the candles of these open times; what is stored in the block is there instead when it ends."""
        starts = sorted(set(starts_of(rows.timestamp, self._grid).tolist()))
        with self._removing([BlockRange(self._scope, start) for start in starts]):
            for place in range(0, len(rows), TIMES_MAX):
                query = {
                    **self._scope.query(),
                    "timestamp": {"$in": rows.timestamp[place : place + TIMES_MAX].tolist()},
                }
                with writing(self._scope):
                    self._durable[collection_of(CANDLE)].delete_many(query)
                    self._durable[CONFLICTS].delete_many(query)
            yield

    @contextmanager
    def _removing(self, ranges: list[BlockRange]) -> Iterator[None]:
        """Nobody uses a block of the ranges inside; afterwards there are new ones where there were some."""
        starts = [each.start for each in ranges]
        blocks = self._durable[BLOCKS]
        of_ranges = {**self._scope.query(), "start": {"$in": starts}}
        with writing(self._scope):
            had = {int(block["start"]) for block in blocks.find(of_ranges, {"start": 1})}
            begin(self._durable, self._scope, starts)
        if starts:
            time.sleep(WAIT_S)
        yield
        with writing(self._scope):
            blocks.delete_many(of_ranges)
            end(self._durable, self._scope, starts)
        self._series.forget_removals(self._scope)
        compactor = Compactor(self._series, self._durable)
        for each in ranges:
            if each.start in had:
                compactor.rebuild(each)

    def _ranges(self, since: int | None, until: int | None) -> list[BlockRange]:
        first = -TIMES_END if since is None else block_start(since, self._grid)
        starts = {each.start for each in find_ranges(self._durable, self._scope)}
        # What a remover that died has begun, perhaps after it had removed all there was.
        starts.update(start for start, now in Generations(self._durable).read(self._scope).items() if now % 2)
        return [BlockRange(self._scope, start) for start in sorted(starts) if first <= start < _or_end(until)]

    def _query(self, since: int | None, until: int | None) -> Document:
        limits = {"$gte": -TIMES_END if since is None else since, "$lt": _or_end(until), "$type": TIME_TYPES}
        return {**self._scope.query(), "timestamp": limits}


def _or_end(until: int | None) -> int:
    return TIMES_END if until is None else until
