"""The blocks role: notes which ranges have new candles. The service `services/blocks.py` compacts them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import pymongo

from backtest_kit_mongo.candles.codec import block_end, block_starts
from backtest_kit_mongo.candles.intervals import find_grid
from backtest_kit_mongo.coherence.events import Event
from backtest_kit_mongo.coherence.record import Key
from backtest_kit_mongo.domains.table import CANDLE
from backtest_kit_mongo.operate.compaction import BlockRange, ToDo
from backtest_kit_worker.deployment import Deployment
from backtest_kit_worker.roles import Role


class BlocksRole(Role):
    """Counts the new candles that `batch` events report, by range; ignores all other events.

    A redelivery counts them again, which only makes a range due earlier: remembering events would cost more than that.
    Candles that no event reports (foreign writers', those from before this role's time) are compacted by `bkm candles
    blocks rebuild`, or with the next ones of their range.
    """

    name = "blocks"

    def __init__(self, deployment: Deployment) -> None:
        self._to_do = ToDo(deployment.database)
        self._bound_s = deployment.settings.mongo_bound_ms / 1000

    def open(self) -> None:
        with pymongo.timeout(self._bound_s):
            self._to_do.open()

    def apply(self, events: Sequence[tuple[str, Event]]) -> int:
        """Note the new candles; returns how many of the events informed of some.

        Raises:
            PyMongoError: nothing may be acknowledged.
            ValueError: an event cannot be applied whatever the servers do.
        """
        batches = [event for _, event in events if event.domain == CANDLE.name and event.operation == "batch"]
        counts: Counter[BlockRange] = Counter()
        for event in batches:
            for each, count in _reported(event):
                counts[each] += count
        with pymongo.timeout(self._bound_s):
            self._to_do.add(counts, datetime.now(UTC))
        return len(batches)


def _reported(event: Event) -> Iterator[tuple[BlockRange, int]]:
    """New candles by range.

    Raises:
        ValueError: the event is of an interval that this release does not know, or not of its shape.
    """
    scope = Key(CANDLE, event.key)
    grid = find_grid(str(scope.item))
    if grid is None:
        raise ValueError(f"unknown interval {scope.item!r}: a newer release wrote this event")
    for first, last, count in event.payload["ranges"]:
        if grid.count(first, last + 1) != count or grid.rest(first) or grid.rest(last):
            raise ValueError(f"{count} candles from {first} to {last} are no neighbours of {grid.name}")
        for start in block_starts(first, last + 1, grid):
            yield BlockRange(scope, start), grid.count(max(first, start), min(last + 1, block_end(start, grid)))
