"""The stored candles as the commands of `bkm candles` use them. Imports NumPy, so commands import this when they run."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from pymongo.database import Database

from backtest_kit_mongo.backends.mongo import MongoTruth
from backtest_kit_mongo.backends.mongo_candles import CONFLICTS
from backtest_kit_mongo.candle_instance import CandleInstance
from backtest_kit_mongo.candles.compaction import TIME_TYPES, TIMES_END, find_series
from backtest_kit_mongo.candles.frame import Candles
from backtest_kit_mongo.coherence.codec import millis
from backtest_kit_mongo.coherence.record import Key
from backtest_kit_mongo.domains.table import CANDLE, INTERVAL_MS
from backtest_kit_mongo.drivers.sync import Store
from backtest_kit_mongo.errors import CallerError, InvalidSetting, NotFound
from backtest_kit_mongo.settings import Settings
from backtest_kit_mongo.setup import make_store

__all__ = ["CandleStore", "Chosen", "moment_ms", "moment_text", "open_candles", "step_of"]

_MILLIS: Final = re.compile("-?[0-9]+")


class Chosen(NamedTuple):
    """Which series a command is about; None means all."""

    exchange: str | None = None
    symbol: str | None = None
    interval: str | None = None

    def __str__(self) -> str:
        return " ".join(part for part in self if part is not None) or "any series"


class CandleStore:
    """Candles in MongoDB. Connects on first use, so that wrong arguments need no server to be told.

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

    def series(self, chosen: Chosen, *, required: bool = False) -> list[Key]:
        """Series that have candles.

        Raises:
            NotFound: there are none, and that is `required`.
        """
        found = [key for key in find_series(self.database, *chosen) if self.span(key)]
        if required and not found:
            raise NotFound(f"There are no candles of {chosen}. `bkm candles list` shows what there is.")
        return found

    def span(self, series: Key) -> range:
        """From the first stored open time to the last, in steps of the interval; empty without candles."""
        candles = self.database[CANDLE.collection]
        query = {**series.query(), "timestamp": {"$gte": 0, "$lt": TIMES_END, "$type": TIME_TYPES}}
        ends = [candles.find_one(query, {"_id": 0, "timestamp": 1}, sort=[("timestamp", order)]) for order in (1, -1)]
        step_ms = INTERVAL_MS[str(series.item)]
        first, last = (0 if end is None else int(end["timestamp"]) for end in ends)
        return range(first, last + step_ms, step_ms) if ends[0] else range(0)

    def read(self, series: Key, since: str | None = None, until: str | None = None) -> Candles:
        """Candles of a series; without limits from its first to its last.

        Raises:
            InvalidSetting: a limit is neither milliseconds nor a date.
        """
        step_ms, span = INTERVAL_MS[str(series.item)], self.span(series)
        first = span.start if since is None else moment_ms(since, step_ms)
        end = span.stop if until is None else moment_ms(until, step_ms)
        if since is None or until is None:
            end = max(first, end)  # One of several series may lie wholly outside the limit.
        return self.instance(*map(str, series.parts)).read_candles(first, end)

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


def step_of(interval: str) -> int:
    """Milliseconds of an interval.

    Raises:
        CallerError: there is no such interval.
    """
    if interval not in INTERVAL_MS:
        raise CallerError(f"The interval must be one of {', '.join(INTERVAL_MS)}, not {interval!r:.40}.")
    return INTERVAL_MS[interval]


def moment_ms(written: str, step_ms: int) -> int:
    """Milliseconds, given as such or as a date (UTC unless it has a zone), raised to an open time.

    Raises:
        InvalidSetting: it is neither.
    """
    try:
        found = int(written) if _MILLIS.fullmatch(written) else millis(datetime.fromisoformat(written))
    except ValueError:
        raise InvalidSetting(
            f"not a moment: {written!r}; expected milliseconds or a date as 2024-01-01T12:00"
        ) from None
    return -(-found // step_ms) * step_ms


def moment_text(moment: int) -> str:
    """An open time for people, to the minute: no interval is shorter. Foreign documents may hold what no calendar has."""
    try:
        return f"{datetime.fromtimestamp(moment / 1000, UTC):%Y-%m-%d %H:%M}"
    except (OverflowError, ValueError, OSError):
        return str(moment)
