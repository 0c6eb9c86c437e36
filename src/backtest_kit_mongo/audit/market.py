"""The stored candles of a market, for those who show what a strategy could see. What another program stored there and
is no candle, or has no interval, costs itself, and is said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from math import inf
from typing import Any, Final

from pymongo.collection import Collection
from pymongo.database import Database

from backtest_kit_mongo.audit.records import readable
from backtest_kit_mongo.backends.mongo.layout import collection_of
from backtest_kit_mongo.candles.intervals import INTERVALS, grid_of
from backtest_kit_mongo.domains.table import CANDLE

__all__ = ["CANDLE_FIELDS", "Market"]

CANDLE_FIELDS: Final = ("timestamp", *CANDLE.fields)
_NUMBER: Final = {"$type": ["int", "long", "double"], "$gt": -inf, "$lt": inf}
_SHOWN: Final = {"_id": 0, **dict.fromkeys(CANDLE_FIELDS, 1)}

Document = dict[str, Any]


class Market:
    """
    Args:
        on_missing: called with a sentence for what is left out.
    """

    def __init__(
        self, database: Database[Document], exchange: str, symbol: str, on_missing: Callable[[str], object]
    ) -> None:
        self._stored: Collection[Document] = readable(database, collection_of(CANDLE))
        self._named, self._tell = {"exchangeName": exchange, "symbol": symbol}, on_missing

    def intervals(self) -> Iterator[str]:
        """Of which there are candles."""
        for interval in self._stored.distinct("interval", self._named):
            if interval in INTERVALS:
                yield interval
            else:
                self._say(interval, "this is no interval")

    def rows(self, interval: str, since: int, until: int) -> list[list[float]]:
        """Open times and values of those that open in [since, until), in `CANDLE_FIELDS`' order."""
        asked = {**self._named, "interval": interval, "timestamp": {"$gte": since, "$lt": until}}
        rows = list(map(_values, self._stored.find(_sound(asked), _SHOWN).sort("timestamp", 1)))
        if (odd := self._stored.count_documents(asked) - len(rows)) > 0:
            self._say(interval, f"{odd:,} documents are no candles")
        return rows

    def last_before(self, interval: str, moment: int) -> list[float] | None:
        """The last one that was closed by a moment."""
        grid = grid_of(interval)
        asked = {**self._named, "interval": interval, "timestamp": {"$lt": grid.open(grid.index(moment))}}
        found = self._stored.find_one(_sound(asked), _SHOWN, sort=[("timestamp", -1)])
        newest = self._stored.find_one(asked, _SHOWN, sort=[("timestamp", -1)])
        if newest != found:
            self._say(interval, f"what opens at {newest and newest['timestamp']!r:.40} is no candle")
        return None if found is None else _values(found)

    def _say(self, interval: object, why: str) -> None:
        name = "/".join(map(str, self._named.values()))
        self._tell(f"candles of {name}/{interval!s:.40} are left out: {why}")


def _sound(asked: Mapping[str, Any]) -> Document:
    """Those of a query that are candles."""
    return {**asked, "$and": [{name: _NUMBER} for name in CANDLE_FIELDS]}


def _values(row: Mapping[str, Any]) -> list[float]:
    return [int(row["timestamp"]), *(float(row[name]) for name in CANDLE.fields)]
