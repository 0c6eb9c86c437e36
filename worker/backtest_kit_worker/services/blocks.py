"""The compaction service: makes the blocks of ranges that the blocks role noted.

Two at once do no harm, nor does one that is killed anywhere. A block is made of documents that stay as they are, so
whichever is stored last is right, and reads ask the documents for what it lacks. A range leaves the list only after its
block was stored, and only with the candles that were noted before its documents were read; of two that compact the same
range, one takes it off.

What a restore takes away must not be kept by a block that was being made meanwhile: it is stored only by the primary
that gave the documents (`fence.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

import pymongo
from pymongo.errors import PyMongoError

from backtest_kit_mongo.backends.mongo.candles import MongoCandles
from backtest_kit_mongo.candles.plans import FindGeneration, PutBlock
from backtest_kit_mongo.connect import DURABLE
from backtest_kit_mongo.operate.compaction import Compactor, ToDo
from backtest_kit_mongo.ports import Series
from backtest_kit_worker.deployment import Deployment
from backtest_kit_worker.fence import Fence, Primary
from backtest_kit_worker.services import Service

ATTEMPTS: Final = 5
RANGES_MAX: Final = 16
"""Ranges compacted in one run, one after the other: about a second, and the memory of one range."""


class _Fenced:
    """Reads documents and stores blocks, each block only if the primary is the one that was asked for its documents."""

    def __init__(self, series: MongoCandles, fence: Fence, bound_s: float) -> None:
        self._series, self._fence, self._bound_s = series, fence, bound_s
        self._since: Primary | None = None
        self.find_blocks, self.find_rows = series.find_blocks, series.find_rows

    def find_generation(self, effect: FindGeneration) -> int:
        self._since = self._fence.primary()  # The first step of a compaction.
        return self._series.find_generation(effect)

    def put_block(self, effect: PutBlock) -> None:
        assert self._since is not None
        for left in reversed(range(ATTEMPTS)):
            try:
                with pymongo.timeout(self._bound_s), self._fence.writes(self._since) as session:
                    self._series.put_block(effect, session)
                return
            except PyMongoError as cause:
                # Another compactor stores the same block.
                if not left or not cause.has_error_label("TransientTransactionError"):
                    raise


def _now() -> datetime:
    return datetime.now(UTC)


class CompactionService(Service):
    """Compacts the ranges that are due, those first whose candles wait longest.

    Args:
        series: reads documents and stores blocks; by default MongoDB.
        now: the clock that says what is due.
    """

    name = "compaction"
    interval_ms = 1_000

    def __init__(
        self, deployment: Deployment, series: Series | None = None, now: Callable[[], datetime] = _now
    ) -> None:
        self._bound_s = deployment.settings.mongo_bound_ms / 1000
        durable = deployment.database.with_options(write_concern=DURABLE)
        fenced = _Fenced(MongoCandles(durable, self._bound_s, cache_max_bytes=0), Fence(durable), self._bound_s)
        self._compactor = Compactor(series or fenced, durable)
        self._to_do = ToDo(deployment.database)
        self._now = now

    def open(self) -> None:
        with pymongo.timeout(self._bound_s):
            self._to_do.open()

    def run_once(self) -> int:
        """Compact up to `RANGES_MAX` ranges; returns how many.

        Raises:
            EnvironmentFault, PyMongoError: MongoDB failed; the range stays on the list.
            PrimaryChanged: another mongod is the primary; the range stays on the list.
            Exception: a range cannot be compacted; it stays on the list, behind the others.
        """
        looked_at = self._now()
        with pymongo.timeout(self._bound_s):
            found = self._to_do.due(looked_at, RANGES_MAX)
        for due in found:
            try:
                self._compactor.compact(due.range)
            except Exception:
                with pymongo.timeout(self._bound_s):
                    self._to_do.put_back(due, looked_at)
                raise
            with pymongo.timeout(self._bound_s):
                self._to_do.settle(due, looked_at)
        return len(found)
