"""The 17 instances that ship with the package: each binds one context to a `Store`, so every backend serves every
domain.

Methods and parameters are those of `contracts.py`; everything below the signatures is shared by shape.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from backtest_kit_mongo.adapters.bound import Bound
from backtest_kit_mongo.adapters.candle_instance import CandleInstance as CandleInstance
from backtest_kit_mongo.adapters.contracts import Payload, Row, When
from backtest_kit_mongo.domains import table
from backtest_kit_mongo.domains.checks import make_when
from backtest_kit_mongo.drivers.store import Store
from backtest_kit_mongo.look_ahead import simulation_now


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
        # Stored, though no read takes a `when`: it dates the measure for reads at a simulation time.
        self._write(self._key(key), data, make_when(self._domain, when))

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
        key = self._key(memory_id)
        now = simulation_now(key)
        return (self._store.read(key) if now is None else self._read_at(key, None, now)).exists

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
