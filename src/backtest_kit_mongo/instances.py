"""The 17 instances that ship with the package: each binds one context to a `Store`, so every backend serves every
domain.

Methods and parameters are those of `contracts.py`; everything below the signatures is shared by shape.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar, cast

from pydantic import BaseModel

from backtest_kit_mongo.coherence.codec import detached, dump
from backtest_kit_mongo.coherence.record import Change, Domain, Key, OnConflict, Part, Record
from backtest_kit_mongo.contracts import CandleReport, Payload, Row, When
from backtest_kit_mongo.domains import table
from backtest_kit_mongo.domains.checks import check, make_change, make_child, make_key, make_when, row_item
from backtest_kit_mongo.drivers.sync import Store
from backtest_kit_mongo.errors import InvalidKey, InvalidPayload

logger = logging.getLogger(__name__)

V = TypeVar("V")


class Bound(Generic[V]):
    """One context of one domain in one store. V is what a read returns."""

    def __init__(self, domain: Domain, store: Store, *context: Part) -> None:
        self._domain = domain
        self._store = store
        self._context = make_key(domain, context)
        self._last_rows: dict[Part, tuple[Any, Change]] = {}

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._context} in {self._store.name}>"

    def wait_for_init(self, initial: bool) -> None:
        """Connect the store unless it is; `initial` does not matter, because opening knows by itself."""
        self._store.open()

    def _key(self, item: Part) -> Key:
        try:
            return make_child(self._context, item)
        except TypeError:
            return make_key(self._domain, (*self._context.parts, item))  # Which says what is wrong with it.

    def _read(self, key: Key, when: When | None = None) -> V:
        moment = None if when is None else make_when(self._domain, when)
        record = self._store.read(key)
        if not record.visible(moment) or record.payload is None:
            return cast("V", self._domain.empty())
        return cast("V", record.payload)

    def _write(self, key: Key, payload: Any, when: When | None = None) -> None:
        """Domains without a stored `when` take one all the same (Measure), and it is checked."""
        self._store.write(make_change(key, payload, make_when(self._domain, when) if self._domain.has_when else None))

    def _list(self, when: When | None, limit: int | None, *, keys_only: bool = False) -> Iterator[Record]:
        moment = make_when(self._domain, when, required=False)
        return self._store.scan(self._context, when=moment, limit=_limit(limit), keys_only=keys_only)

    def _keys(self, when: When | None, limit: int | None) -> Iterator[str]:
        return (str(record.key.item) for record in self._list(when, limit, keys_only=True))

    def _read_rows(self, limit: int | None) -> list[Row]:
        return [record.payload for record in self._list(None, limit)]

    def _write_rows(self, rows: Sequence[Payload]) -> None:
        """Callers write their whole list for one changed row. A row equal (`==`) to the one they gave last time is the same
        change again, neither validated nor encoded; the plan decides whether it is still what is stored.
        """
        last = self._last_rows
        given: dict[Part, tuple[Any, Change]] = {}
        for row in rows:
            item = row_item(self._domain, row)
            if item in given and self._domain.on_conflict is OnConflict.KEEP:
                continue
            before = last.get(item)
            given[item] = (
                before
                if before is not None and row == before[0]
                else (detached(row), make_change(self._key(item), row))
            )
        if given:
            self._store.merge(self._context, tuple(change for _, change in given.values()))
            self._last_rows = given


def _limit(limit: int | None) -> int | None:
    if limit is not None and (type(limit) is not int or limit < 0):
        raise InvalidKey(f"limit must be a non-negative int or None, not {limit!r}")
    return limit


class SignalInstance(Bound[Row | None]):
    def __init__(self, store: Store, symbol: str, strategy_name: str, exchange_name: str) -> None:
        super().__init__(table.SIGNAL, store, symbol, strategy_name, exchange_name)

    def read_signal_data(self) -> Row | None:
        return self._read(self._context)

    def write_signal_data(self, row: Payload | None) -> None:
        self._write(self._context, row)


class ScheduleInstance(Bound[Row | None]):
    def __init__(self, store: Store, symbol: str, strategy_name: str, exchange_name: str) -> None:
        super().__init__(table.SCHEDULE, store, symbol, strategy_name, exchange_name)

    def read_schedule_data(self) -> Row | None:
        return self._read(self._context)

    def write_schedule_data(self, row: Payload | None) -> None:
        self._write(self._context, row)


class StrategyInstance(Bound[Row | None]):
    def __init__(self, store: Store, symbol: str, strategy_name: str, exchange_name: str) -> None:
        super().__init__(table.STRATEGY, store, symbol, strategy_name, exchange_name)

    def read_strategy_data(self) -> Row | None:
        return self._read(self._context)

    def write_strategy_data(self, row: Payload | None) -> None:
        self._write(self._context, row)


class RiskInstance(Bound[list[Any]]):
    def __init__(self, store: Store, risk_name: str, exchange_name: str) -> None:
        super().__init__(table.RISK, store, risk_name, exchange_name)

    def read_position_data(self, when: When | None = None) -> list[Any]:
        return self._read(self._context, when)

    def write_position_data(self, positions: Sequence[Any], when: When) -> None:
        self._write(self._context, positions, when)


class PartialInstance(Bound[Row]):
    def __init__(self, store: Store, symbol: str, strategy_name: str, exchange_name: str) -> None:
        super().__init__(table.PARTIAL, store, symbol, strategy_name, exchange_name)

    def read_partial_data(self, signal_id: str, when: When | None = None) -> Row:
        return self._read(self._key(signal_id), when)

    def write_partial_data(self, data: Payload, signal_id: str, when: When) -> None:
        self._write(self._key(signal_id), data, when)


class BreakevenInstance(Bound[Row]):
    def __init__(self, store: Store, symbol: str, strategy_name: str, exchange_name: str) -> None:
        super().__init__(table.BREAKEVEN, store, symbol, strategy_name, exchange_name)

    def read_breakeven_data(self, signal_id: str, when: When | None = None) -> Row:
        return self._read(self._key(signal_id), when)

    def write_breakeven_data(self, data: Payload, signal_id: str, when: When) -> None:
        self._write(self._key(signal_id), data, when)


def _wall_clock_ms() -> int:
    return time.time_ns() // 1_000_000


class CandleInstance(Bound[Row]):
    """Windows of closed candles; the first write of a candle wins."""

    def __init__(
        self,
        store: Store,
        symbol: str,
        interval: str,
        exchange_name: str,
        *,
        clock_ms: Callable[[], int] = _wall_clock_ms,
    ) -> None:
        super().__init__(table.CANDLE, store, exchange_name, symbol, interval)
        self._step_ms = table.INTERVAL_MS[interval]
        self._clock_ms = clock_ms

    def read_candles_data(self, limit: int, since_timestamp: int, until_timestamp: int) -> list[Row] | None:
        """`limit` candles from `since_timestamp` (ms) on, ascending;

        None if any is missing. `until_timestamp` is implied by `limit`.
        """
        count = _limit(limit) or 0
        since = self._aligned(since_timestamp)
        rows = self._store.window(self._context, since, since + count * self._step_ms) if count else []
        if len(rows) != count:
            return None
        for row, moment in zip(rows, range(since, since + count * self._step_ms, self._step_ms), strict=True):
            if row["timestamp"] != moment:
                return None
        return rows

    def write_candles_data(self, candles: Sequence[Payload]) -> CandleReport:
        """Store closed candles; a candle that is stored already is kept, one that is not closed yet is refused and
        reported.

        Raises:
            InvalidPayload: a candle has a missing, non-finite or contradictory column or a misaligned time. No candle
            was written.
        """
        now_ms = self._clock_ms()
        rows: dict[int, Row] = {}
        unclosed: list[int] = []
        for index, candle in enumerate(candles):
            row = self._row(index, candle)
            if row["timestamp"] + self._step_ms > now_ms:
                # First write wins: a bar stored before its end would be frozen with a price that never was its close.
                unclosed.append(row["timestamp"])
            else:
                rows.setdefault(row["timestamp"], row)
        if unclosed:
            logger.warning(
                "%s: %d candle(s) not closed yet were not stored, first at %d",
                self._context,
                len(unclosed),
                unclosed[0],
            )
        new = self._store.append(self._context, list(rows.values()), self._step_ms) if rows else ()
        return CandleReport(len(new), len(rows) - len(new), tuple(unclosed))

    def _row(self, index: int, candle: Payload) -> Row:
        data: Any = dump(candle) if isinstance(candle, BaseModel) else candle
        try:
            row = {name: data[name] for name in ("timestamp", *self._domain.fields)}
        except (KeyError, TypeError) as cause:
            raise InvalidPayload(
                f"{self._context}: candle {index} has no column {cause}. No candle was written."
            ) from cause
        check(self._context, row)
        self._aligned(row["timestamp"])
        return row

    def _aligned(self, moment: int) -> int:
        if type(moment) is not int or moment % self._step_ms:
            raise InvalidKey(
                f"{self._context}: {moment!r} is not a candle's open time: it must be epoch milliseconds (int), a multiple of {self._step_ms}"
            )
        return moment


class StorageInstance(Bound[Row]):
    def __init__(self, store: Store, backtest: bool) -> None:
        super().__init__(table.STORAGE, store, backtest)

    def read_storage_data(self, *, limit: int | None = None) -> list[Row]:
        return self._read_rows(limit)

    def write_storage_data(self, rows: Sequence[Payload]) -> None:
        self._write_rows(rows)


class NotificationInstance(Bound[Row]):
    def __init__(self, store: Store, backtest: bool) -> None:
        super().__init__(table.NOTIFICATION, store, backtest)

    def read_notification_data(self, *, limit: int | None = None) -> list[Row]:
        return self._read_rows(limit)

    def write_notification_data(self, rows: Sequence[Payload]) -> None:
        self._write_rows(rows)


class LogInstance(Bound[Row]):
    """Append-only: a row whose id is stored already is left as it is."""

    def __init__(self, store: Store) -> None:
        super().__init__(table.LOG, store)

    def read_log_data(self, *, limit: int | None = None) -> list[Row]:
        return self._read_rows(limit)

    def write_log_data(self, rows: Sequence[Payload]) -> None:
        self._write_rows(rows)


class MeasureInstance(Bound[Row | None]):
    def __init__(self, store: Store, bucket: str) -> None:
        super().__init__(table.MEASURE, store, bucket)

    def read_measure_data(self, key: str) -> Row | None:
        return self._read(self._key(key))

    def write_measure_data(self, data: Payload, key: str, when: When) -> None:
        make_when(
            self._domain, when
        )  # Part of the contract, but not stored: measures are exempt from the look-ahead guard.
        self._write(self._key(key), data)

    def remove_measure_data(self, key: str) -> None:
        self._store.remove(self._key(key))

    def list_measure_data(self, *, limit: int | None = None) -> Iterator[str]:
        return self._keys(None, limit)


class IntervalInstance(Bound[Row | None]):
    def __init__(self, store: Store, bucket: str) -> None:
        super().__init__(table.INTERVAL, store, bucket)

    def read_interval_data(self, key: str, *, when: When | None = None) -> Row | None:
        return self._read(self._key(key), when)

    def write_interval_data(self, data: Payload, key: str, when: When) -> None:
        self._write(self._key(key), data, when)

    def remove_interval_data(self, key: str) -> None:
        self._store.remove(self._key(key))

    def list_interval_data(self, *, when: When | None = None, limit: int | None = None) -> Iterator[str]:
        return self._keys(when, limit)


class MemoryInstance(Bound[Row | None]):
    def __init__(self, store: Store, signal_id: str, bucket_name: str) -> None:
        super().__init__(table.MEMORY, store, signal_id, bucket_name)

    def read_memory_data(self, memory_id: str, *, when: When | None = None) -> Row | None:
        return self._read(self._key(memory_id), when)

    def has_memory_data(self, memory_id: str) -> bool:
        """Whether the entry was ever written; a removed one counts, as in the original's contract."""
        return self._store.read(self._key(memory_id)).exists

    def write_memory_data(self, data: Payload, memory_id: str, when: When) -> None:
        self._write(self._key(memory_id), data, when)

    def remove_memory_data(self, memory_id: str) -> None:
        self._store.remove(self._key(memory_id))

    def list_memory_data(self, *, when: When | None = None, limit: int | None = None) -> Iterator[Row]:
        return ({"memoryId": record.key.item, "data": record.payload} for record in self._list(when, limit))

    def dispose(self) -> None:
        """Nothing to free: the store belongs to all contexts."""


class RecentInstance(Bound[Row | None]):
    def __init__(
        self, store: Store, symbol: str, strategy_name: str, exchange_name: str, frame_name: str, backtest: bool
    ) -> None:
        super().__init__(table.RECENT, store, symbol, strategy_name, exchange_name, frame_name, backtest)

    def read_recent_data(self, *, when: When | None = None) -> Row | None:
        return self._read(self._context, when)

    def write_recent_data(self, row: Payload | None, when: When) -> None:
        self._write(self._context, row, when)


class StateInstance(Bound[Row | None]):
    def __init__(self, store: Store, signal_id: str, bucket_name: str) -> None:
        super().__init__(table.STATE, store, signal_id, bucket_name)

    def read_state_data(self, *, when: When | None = None) -> Row | None:
        return self._read(self._context, when)

    def write_state_data(self, data: Payload | None, when: When) -> None:
        self._write(self._context, data, when)

    def dispose(self) -> None:
        """Nothing to free: the store belongs to all contexts."""


class DictionaryInstance(Bound[Row | None]):
    def __init__(self, store: Store, signal_id: str, dictionary_name: str) -> None:
        super().__init__(table.DICTIONARY, store, signal_id, dictionary_name)

    def read_dictionary_data(self, *, when: When | None = None) -> Row | None:
        return self._read(self._context, when)

    def write_dictionary_data(self, data: Payload | None, when: When) -> None:
        self._write(self._context, data, when)

    def dispose(self) -> None:
        """Nothing to free: the store belongs to all contexts."""


class SessionInstance(Bound[Row | None]):
    def __init__(
        self, store: Store, strategy_name: str, exchange_name: str, frame_name: str, symbol: str, backtest: bool
    ) -> None:
        super().__init__(table.SESSION, store, strategy_name, exchange_name, frame_name, symbol, backtest)

    def read_session_data(self, *, when: When | None = None) -> Row | None:
        return self._read(self._context, when)

    def write_session_data(self, data: Payload | None, when: When) -> None:
        self._write(self._context, data, when)

    def dispose(self) -> None:
        """Nothing to free: the store belongs to all contexts."""
