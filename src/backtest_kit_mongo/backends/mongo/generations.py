"""Generations of block ranges: how often an operator removed candles of a range.

`candle-removals`, one document for each range of a block of which candles were ever removed:

| field                          | meaning |
|--------------------------------|---------|
| _id                            | escaped series / start, as of its block |
| exchangeName, symbol, interval, start | the range |
| generation                     | odd while candles are being removed, even before and after; absent ranges have 0 |
| changedAt                      | when, by the remover's clock |

A block carries the generation that its range had before the block's documents were read, and is used only as long as
the range has that one. So a block that was made of removed candles is used by nobody, whoever keeps it and however
late a compactor stores it. Processes look again `FOLLOW_S` after they looked: a remover waits that long between making
the generation odd and removing, and nobody reads a removed candle after the remover has returned.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from pymongo import UpdateOne
from pymongo.database import Database

from backtest_kit_mongo.coherence.keys import escaped
from backtest_kit_mongo.coherence.record import Key
from backtest_kit_mongo.connect import DURABLE
from backtest_kit_mongo.stored import CANDLE_REMOVALS as REMOVALS

FOLLOW_S: Final = 1.0
"""How old a process' knowledge may be. One look is one query by `_id`, half a millisecond on a near server."""
SERIES_MAX: Final = 10_000
"""Series of which a process remembers the generations."""

Document = dict[str, Any]
_NOW: Final = {"$ifNull": ["$generation", 0]}
_IS_ODD: Final = {"$eq": [{"$mod": [_NOW, 2]}, 1]}


class Generations:
    """What this process knows of the generations of a database. Thread-safe."""

    def __init__(self, database: Database[Document]) -> None:
        self._removals = database[REMOVALS]
        self._known: dict[Key, tuple[float, dict[int, int]]] = {}

    def of(self, scope: Key) -> Mapping[int, int]:
        """By start (ms) those of a series that are not 0, at most `FOLLOW_S` old.

        Raises:
            PyMongoError: MongoDB could not be asked.
        """
        now_s = time.monotonic()
        known = self._known.get(scope)
        if known is None or now_s - known[0] >= FOLLOW_S:
            if len(self._known) >= SERIES_MAX:
                self._known.clear()
            # The time before the query: what it does not see yet may be written from then on.
            self._known[scope] = known = (now_s, self.read(scope))
        return known[1]

    def read(self, scope: Key) -> dict[int, int]:
        """As `of`, as it is now."""
        prefix = escaped(scope.parts)
        # "0" is the character after "/".
        query = {"_id": {"$gte": f"{prefix}/", "$lt": f"{prefix}0"}}
        return {int(found["start"]): int(found["generation"]) for found in self._removals.find(query)}

    def forget(self, scope: Key) -> None:
        """Look again at once."""
        self._known.pop(scope, None)


def begin(database: Database[Document], scope: Key, starts: Iterable[int]) -> None:
    """Make the generations odd; durable when it returns. Again after a remover died changes nothing."""
    _move(database, scope, starts, {"$cond": [_IS_ODD, 0, 1]})


def end(database: Database[Document], scope: Key, starts: Iterable[int]) -> None:
    """Make them even, and other ones than before, whatever another remover did meanwhile."""
    _move(database, scope, starts, {"$cond": [_IS_ODD, 1, 2]})


def _move(database: Database[Document], scope: Key, starts: Iterable[int], by: Document) -> None:
    durable = database.get_collection(REMOVALS, write_concern=DURABLE)
    operations = []
    for start in starts:
        described = {name: {"$literal": part} for name, part in {**scope.query(), "start": start}.items()}
        update = [{"$set": {**described, "generation": {"$add": [_NOW, by]}, "changedAt": datetime.now(UTC)}}]
        operations.append(UpdateOne({"_id": f"{escaped(scope.parts)}/{start}"}, update, upsert=True))
    if operations:
        durable.bulk_write(operations, ordered=False)
