"""The stored candles as the commands of `bkm candles` use them. Imports NumPy, so commands import this when they
run.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from pymongo.database import Database

from backtest_kit_mongo.adapters.candle_instance import CandleInstance
from backtest_kit_mongo.backends.mongo.documents import MongoTruth
from backtest_kit_mongo.backends.mongo.layout import collection_of
from backtest_kit_mongo.candles.frame import Candles
from backtest_kit_mongo.candles.intervals import Grid, grid_of
from backtest_kit_mongo.coherence.record import Key
from backtest_kit_mongo.domains.table import CANDLE
from backtest_kit_mongo.drivers.store import Store
from backtest_kit_mongo.errors import InvalidKey, NotFound
from backtest_kit_mongo.operate.compaction import TIME_TYPES, TIMES_END, find_series
from backtest_kit_mongo.settings import Settings
from backtest_kit_mongo.setup import make_store
from backtest_kit_mongo.stored import CANDLE_CONFLICTS as CONFLICTS

from .moments import past_ms, when_ms

if TYPE_CHECKING:
    from backtest_kit_mongo.operate.removal import Removal

__all__ = ["CandleStore", "Chosen", "Span", "moment_text", "open_candles", "require_range"]


class Chosen(NamedTuple):
    """Which series a command is about; None means all."""

    exchange: str | None = None
    symbol: str | None = None
    interval: str | None = None

    def __str__(self) -> str:
        return " ".join(part for part in self if part is not None) or "any series"


class Span(NamedTuple):
    """Open times of the first and the last candle of a series, ms."""

    first: int
    last: int
    grid: Grid


class CandleStore:
    """Candles in MongoDB. Connects on first use, so that wrong arguments need no server to be refused.

    Every method raises EnvironmentFault if MongoDB fails.
    """

    def __init__(self, store: Store, database_name: str) -> None:
        self._store = store
        self._database_name = database_name

    @property
    def database(self) -> Database[dict[str, Any]]:
        self._store.open()
        assert isinstance(self._store.truth, MongoTruth)
        return self._store.truth.client[self._database_name]

    def instance(self, exchange: str, symbol: str, interval: str) -> CandleInstance:
        """One series."""
        self._store.open()
        return CandleInstance(self._store, symbol, interval, exchange)

    def spans(self, chosen: Chosen, *, required: bool = False) -> dict[Key, Span]:
        """Series that have candles.

        Raises:
            NotFound: there are none, and that is `required`.
            InvalidKey: there is no such interval.
        """
        if chosen.interval is not None:
            grid_of(chosen.interval)
        found = {key: span for key in find_series(self.database, *chosen) if (span := self._span(key)) is not None}
        if required and not found:
            raise NotFound(f"There are no candles of {chosen}. `bkm candles list` shows what there is.")
        return found

    def _span(self, series: Key) -> Span | None:
        candles = self.database[collection_of(CANDLE)]
        query = {**series.query(), "timestamp": {"$gte": 0, "$lt": TIMES_END, "$type": TIME_TYPES}}
        ends = [candles.find_one(query, {"_id": 0, "timestamp": 1}, sort=[("timestamp", order)]) for order in (1, -1)]
        if ends[0] is None or ends[1] is None:
            return None
        return Span(int(ends[0]["timestamp"]), int(ends[1]["timestamp"]), grid_of(str(series.item)))

    def read(self, series: Key, span: Span, since: str | None = None, until: str | None = None) -> Candles:
        """Candles of a series; without limits all of its span. Never beyond now: what has not opened is not missing.

        Raises:
            InvalidKey: a limit is not a moment that can have been meant, or there is no open time between them.
        """
        grid, behind = span.grid, span.grid.ceil(span.last + 1)
        first = span.first if since is None else grid.ceil(past_ms(since, "--since"))
        end = behind if until is None else grid.ceil(when_ms(until, "--until"))
        if since is not None and until is not None:
            require_range(first, end, str(series.item))
        closed = max(behind, grid.floor(time.time_ns() // 1_000_000))
        # One of several series may lie wholly outside the limit.
        return self.instance(*map(str, series.parts)).between(first, max(first, min(end, closed)))

    def removal(self, instance: CandleInstance) -> Removal:
        """What removes candles of a series."""
        from backtest_kit_mongo.operate.removal import Removal

        assert isinstance(self._store.truth, MongoTruth)
        return Removal(self._store.truth.series, self.database, instance.context)

    def conflicts(self, chosen: Chosen, limit: int) -> Iterator[Mapping[str, Any]]:
        """Rows of `candle-conflicts`, last seen first."""
        names = ("exchangeName", "symbol", "interval")
        query = {name: part for name, part in zip(names, chosen, strict=True) if part is not None}
        yield from self.database[CONFLICTS].find(query).sort([("lastSeen", -1), ("_id", 1)]).limit(limit)


@contextmanager
def open_candles(settings: Settings) -> Iterator[CandleStore]:
    """The candles of the servers that the settings name; closed at the end."""
    store = make_store(settings)
    try:
        yield CandleStore(store, settings.database)
    finally:
        store.close()


def require_range(first: int, end: int, interval: str) -> None:
    """Refuse limits (open times, ms) between which nothing can be.

    Raises:
        InvalidKey: `end` is not after `first`.
    """
    if end <= first:
        reported = f"lies before {moment_text(first)}" if end < first else "is the same"
        raise InvalidKey(
            f"--until ({moment_text(end)}) {reported}: there is no {interval} candle between --since and --until"
        )


def moment_text(moment: int) -> str:
    """An open time for people, to the minute: no interval is shorter. Foreign documents may hold what no calendar
    has.
    """
    try:
        return f"{datetime.fromtimestamp(moment / 1000, UTC):%Y-%m-%d %H:%M}"
    except (OverflowError, ValueError, OSError):
        return str(moment)
