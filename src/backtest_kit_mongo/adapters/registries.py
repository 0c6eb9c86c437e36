"""The 17 registries: which implementation serves which context. Signatures only; `registry.py` holds what they do.

Names and parameter order are the original's in snake_case. Each registry has `use_persist_<domain>_adapter(Ctor)`,
`use_json()`, `use_memory()`, `use_dummy()` and `clear()`; Memory, State, Dictionary and Session also
`wait_for_init` and `dispose`. A write that takes `when` may leave it out (or say None) at a simulation time:
`look_ahead.py`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from backtest_kit_mongo.adapters import contracts as c
from backtest_kit_mongo.adapters import instances
from backtest_kit_mongo.adapters.contracts import CandleReport, CandleTable, Moment, Payload, Row, When
from backtest_kit_mongo.adapters.jsonl import use_jsonl
from backtest_kit_mongo.adapters.registry import Registry
from backtest_kit_mongo.errors import CallerError
from backtest_kit_mongo.look_ahead import stamped

if TYPE_CHECKING:
    from backtest_kit_mongo.candles.frame import Candles


class PersistSignalRegistry(Registry[c.PersistSignalInstance]):
    use_persist_signal_adapter = Registry.use_adapter

    def read_signal_data(self, symbol: str, strategy_name: str, exchange_name: str) -> Row | None:
        return self._at(symbol, strategy_name, exchange_name).read_signal_data()

    def write_signal_data(self, row: Payload | None, symbol: str, strategy_name: str, exchange_name: str) -> None:
        self._at(symbol, strategy_name, exchange_name).write_signal_data(row)


class PersistScheduleRegistry(Registry[c.PersistScheduleInstance]):
    use_persist_schedule_adapter = Registry.use_adapter

    def read_schedule_data(self, symbol: str, strategy_name: str, exchange_name: str) -> Row | None:
        return self._at(symbol, strategy_name, exchange_name).read_schedule_data()

    def write_schedule_data(self, row: Payload | None, symbol: str, strategy_name: str, exchange_name: str) -> None:
        self._at(symbol, strategy_name, exchange_name).write_schedule_data(row)


class PersistStrategyRegistry(Registry[c.PersistStrategyInstance]):
    use_persist_strategy_adapter = Registry.use_adapter

    def read_strategy_data(self, symbol: str, strategy_name: str, exchange_name: str) -> Row | None:
        return self._at(symbol, strategy_name, exchange_name).read_strategy_data()

    def write_strategy_data(self, row: Payload | None, symbol: str, strategy_name: str, exchange_name: str) -> None:
        self._at(symbol, strategy_name, exchange_name).write_strategy_data(row)


class PersistRiskRegistry(Registry[c.PersistRiskInstance]):
    use_persist_risk_adapter = Registry.use_adapter

    def read_position_data(self, risk_name: str, exchange_name: str, when: Moment = None) -> list[Any]:
        return self._at(risk_name, exchange_name).read_position_data(when)

    def write_position_data(
        self, positions: Sequence[Any], risk_name: str, exchange_name: str, when: Moment = None
    ) -> None:
        self._at(risk_name, exchange_name).write_position_data(positions, stamped(when))


class PersistPartialRegistry(Registry[c.PersistPartialInstance]):
    use_persist_partial_adapter = Registry.use_adapter

    def read_partial_data(
        self, symbol: str, strategy_name: str, signal_id: str, exchange_name: str, when: Moment = None
    ) -> Row:
        return self._at(symbol, strategy_name, exchange_name).read_partial_data(signal_id, when)

    def write_partial_data(
        self, data: Payload, symbol: str, strategy_name: str, signal_id: str, exchange_name: str, when: Moment = None
    ) -> None:
        self._at(symbol, strategy_name, exchange_name).write_partial_data(data, signal_id, stamped(when))


class PersistBreakevenRegistry(Registry[c.PersistBreakevenInstance]):
    use_persist_breakeven_adapter = Registry.use_adapter

    def read_breakeven_data(
        self, symbol: str, strategy_name: str, signal_id: str, exchange_name: str, when: Moment = None
    ) -> Row:
        return self._at(symbol, strategy_name, exchange_name).read_breakeven_data(signal_id, when)

    def write_breakeven_data(
        self, data: Payload, symbol: str, strategy_name: str, signal_id: str, exchange_name: str, when: Moment = None
    ) -> None:
        self._at(symbol, strategy_name, exchange_name).write_breakeven_data(data, signal_id, stamped(when))


class PersistCandleRegistry(Registry[c.PersistCandleInstance]):
    use_persist_candle_adapter = Registry.use_adapter

    def read_candles_data(
        self, symbol: str, interval: str, exchange_name: str, limit: int, since_timestamp: int, until_timestamp: int
    ) -> list[Row] | None:
        return self._at(symbol, interval, exchange_name).read_candles_data(limit, since_timestamp, until_timestamp)

    def write_candles_data(
        self, candles: Sequence[Payload], symbol: str, interval: str, exchange_name: str
    ) -> CandleReport | None:
        return self._at(symbol, interval, exchange_name).write_candles_data(candles)

    def read_candles(
        self,
        symbol: str,
        interval: str,
        exchange_name: str,
        since: When,
        until: When,
        *,
        when: Moment = None,
    ) -> Candles:
        """Candles that open at `since` or later and before `until`, column by column: NumPy arrays, `.to_polars()`,
        `.to_pandas()`, `.to_arrow()`, `.to_dicts()`, and `.gaps`, which lists what is missing.

        Args:
            since, until: epoch milliseconds or datetimes; they need not be open times.
            when: simulation time: candles that close later than this are not seen.

        Raises:
            CallerError: a moment or key field is wrong, or the adapter in use has no columns.
            ServerUnreachable, ReadFailed: nothing was read.
        """
        return self._columnar(symbol, interval, exchange_name).read_candles(since, until, when)

    def write_candles(
        self, symbol: str, interval: str, exchange_name: str, candles: CandleTable, *, sparse: bool = False
    ) -> CandleReport:
        """Store closed candles that are columns: `Candles`, or anything that gives an array by column name (`timestamp` in
        epoch milliseconds, `open`, `high`, `low`, `close`, `volume`). The first write of a candle wins.

        Args:
            sparse: they are of this interval although the distances between them are those of a coarser one.

        Raises:
            CallerError: a column or candle is wrong or of another interval (the message names it), or the adapter in use has no columns. No
            candle was written.
            ServerUnreachable, WriteRefused: no candle was written.
            WriteOutcomeUnknown: some were; writing all of them again is safe.
        """
        return self._columnar(symbol, interval, exchange_name).write_candles(candles, sparse=sparse)

    def _columnar(self, *context: str) -> c.ColumnarCandleInstance:
        instance = self._at(*context)
        if not isinstance(instance, c.ColumnarCandleInstance):
            raise CallerError(
                f"the candle adapter in use ({type(instance).__name__}) offers windows of rows only, not read_candles and "
                "write_candles; use read_candles_data and write_candles_data, or the built-in adapter. Nothing was read or written."
            )
        return instance


class PersistStorageRegistry(Registry[c.PersistStorageInstance]):
    use_persist_storage_adapter = Registry.use_adapter

    def read_storage_data(self, backtest: bool, *, limit: int | None = None) -> list[Row]:
        return self._at(backtest).read_storage_data(limit=limit)

    def write_storage_data(self, rows: Sequence[Payload], backtest: bool) -> None:
        self._at(backtest).write_storage_data(rows)


class PersistNotificationRegistry(Registry[c.PersistNotificationInstance]):
    use_persist_notification_adapter = Registry.use_adapter

    def read_notification_data(self, backtest: bool, *, limit: int | None = None) -> list[Row]:
        return self._at(backtest).read_notification_data(limit=limit)

    def write_notification_data(self, rows: Sequence[Payload], backtest: bool) -> None:
        self._at(backtest).write_notification_data(rows)


class PersistLogRegistry(Registry[c.PersistLogInstance]):
    use_persist_log_adapter = Registry.use_adapter
    use_jsonl = use_jsonl

    def read_log_data(self, *, limit: int | None = None) -> list[Row]:
        return self._at().read_log_data(limit=limit)

    def write_log_data(self, rows: Sequence[Payload]) -> None:
        self._at().write_log_data(rows)


class PersistMeasureRegistry(Registry[c.PersistMeasureInstance]):
    use_persist_measure_adapter = Registry.use_adapter

    def read_measure_data(self, bucket: str, key: str) -> Row | None:
        return self._at(bucket).read_measure_data(key)

    def write_measure_data(self, data: Payload, bucket: str, key: str, when: Moment = None) -> None:
        self._at(bucket).write_measure_data(data, key, stamped(when))

    def remove_measure_data(self, bucket: str, key: str) -> None:
        self._at(bucket).remove_measure_data(key)

    def list_measure_data(self, bucket: str, *, limit: int | None = None) -> Iterator[str]:
        return self._at(bucket).list_measure_data(limit=limit)


class PersistIntervalRegistry(Registry[c.PersistIntervalInstance]):
    use_persist_interval_adapter = Registry.use_adapter

    def read_interval_data(self, bucket: str, key: str, *, when: Moment = None) -> Row | None:
        return self._at(bucket).read_interval_data(key, when=when)

    def write_interval_data(self, data: Payload, bucket: str, key: str, when: Moment = None) -> None:
        self._at(bucket).write_interval_data(data, key, stamped(when))

    def remove_interval_data(self, bucket: str, key: str) -> None:
        self._at(bucket).remove_interval_data(key)

    def list_interval_data(self, bucket: str, *, when: Moment = None, limit: int | None = None) -> Iterator[str]:
        return self._at(bucket).list_interval_data(when=when, limit=limit)


class PersistMemoryRegistry(Registry[c.PersistMemoryInstance]):
    use_persist_memory_adapter = Registry.use_adapter

    def wait_for_init(self, signal_id: str, bucket_name: str, initial: bool) -> None:
        self._init(initial, signal_id, bucket_name)

    def read_memory_data(self, signal_id: str, bucket_name: str, memory_id: str, *, when: Moment = None) -> Row | None:
        return self._at(signal_id, bucket_name).read_memory_data(memory_id, when=when)

    def has_memory_data(self, signal_id: str, bucket_name: str, memory_id: str) -> bool:
        return self._at(signal_id, bucket_name).has_memory_data(memory_id)

    def write_memory_data(
        self, data: Payload, signal_id: str, bucket_name: str, memory_id: str, when: Moment = None
    ) -> None:
        self._at(signal_id, bucket_name).write_memory_data(data, memory_id, stamped(when))

    def remove_memory_data(self, signal_id: str, bucket_name: str, memory_id: str) -> None:
        self._at(signal_id, bucket_name).remove_memory_data(memory_id)

    def list_memory_data(
        self, signal_id: str, bucket_name: str, *, when: Moment = None, limit: int | None = None
    ) -> Iterator[Row]:
        return self._at(signal_id, bucket_name).list_memory_data(when=when, limit=limit)

    def dispose(self, signal_id: str, bucket_name: str) -> None:
        self._drop(signal_id, bucket_name)


class PersistRecentRegistry(Registry[c.PersistRecentInstance]):
    use_persist_recent_adapter = Registry.use_adapter

    def read_recent_data(
        self,
        symbol: str,
        strategy_name: str,
        exchange_name: str,
        frame_name: str,
        backtest: bool,
        *,
        when: Moment = None,
    ) -> Row | None:
        return self._at(symbol, strategy_name, exchange_name, frame_name, backtest).read_recent_data(when=when)

    def write_recent_data(
        self,
        row: Payload | None,
        symbol: str,
        strategy_name: str,
        exchange_name: str,
        frame_name: str,
        backtest: bool,
        when: Moment = None,
    ) -> None:
        self._at(symbol, strategy_name, exchange_name, frame_name, backtest).write_recent_data(row, stamped(when))


class PersistStateRegistry(Registry[c.PersistStateInstance]):
    use_persist_state_adapter = Registry.use_adapter

    def wait_for_init(self, signal_id: str, bucket_name: str, initial: bool) -> None:
        self._init(initial, signal_id, bucket_name)

    def read_state_data(self, signal_id: str, bucket_name: str, *, when: Moment = None) -> Row | None:
        return self._at(signal_id, bucket_name).read_state_data(when=when)

    def write_state_data(self, data: Payload | None, signal_id: str, bucket_name: str, when: Moment = None) -> None:
        self._at(signal_id, bucket_name).write_state_data(data, stamped(when))

    def dispose(self, signal_id: str, bucket_name: str) -> None:
        self._drop(signal_id, bucket_name)


class PersistDictionaryRegistry(Registry[c.PersistDictionaryInstance]):
    use_persist_dictionary_adapter = Registry.use_adapter

    def wait_for_init(self, signal_id: str, dictionary_name: str, initial: bool) -> None:
        self._init(initial, signal_id, dictionary_name)

    def read_dictionary_data(self, signal_id: str, dictionary_name: str, *, when: Moment = None) -> Row | None:
        return self._at(signal_id, dictionary_name).read_dictionary_data(when=when)

    def write_dictionary_data(
        self, data: Payload | None, signal_id: str, dictionary_name: str, when: Moment = None
    ) -> None:
        self._at(signal_id, dictionary_name).write_dictionary_data(data, stamped(when))

    def dispose(self, signal_id: str, dictionary_name: str) -> None:
        self._drop(signal_id, dictionary_name)


class PersistSessionRegistry(Registry[c.PersistSessionInstance]):
    use_persist_session_adapter = Registry.use_adapter

    def wait_for_init(
        self, strategy_name: str, exchange_name: str, frame_name: str, initial: bool, symbol: str, backtest: bool
    ) -> None:
        self._init(initial, strategy_name, exchange_name, frame_name, symbol, backtest)

    def read_session_data(
        self,
        strategy_name: str,
        exchange_name: str,
        frame_name: str,
        symbol: str,
        backtest: bool,
        *,
        when: Moment = None,
    ) -> Row | None:
        return self._at(strategy_name, exchange_name, frame_name, symbol, backtest).read_session_data(when=when)

    def write_session_data(
        self,
        data: Payload | None,
        strategy_name: str,
        exchange_name: str,
        frame_name: str,
        when: Moment,
        symbol: str,
        backtest: bool,
    ) -> None:
        self._at(strategy_name, exchange_name, frame_name, symbol, backtest).write_session_data(data, stamped(when))

    def dispose(self, strategy_name: str, exchange_name: str, frame_name: str, symbol: str, backtest: bool) -> None:
        self._drop(strategy_name, exchange_name, frame_name, symbol, backtest)


PersistCandleAdapter = PersistCandleRegistry(instances.CandleInstance)
PersistSignalAdapter = PersistSignalRegistry(instances.SignalInstance)
PersistScheduleAdapter = PersistScheduleRegistry(instances.ScheduleInstance)
PersistStrategyAdapter = PersistStrategyRegistry(instances.StrategyInstance)
PersistRiskAdapter = PersistRiskRegistry(instances.RiskInstance)
PersistPartialAdapter = PersistPartialRegistry(instances.PartialInstance)
PersistBreakevenAdapter = PersistBreakevenRegistry(instances.BreakevenInstance)
PersistStorageAdapter = PersistStorageRegistry(instances.StorageInstance)
PersistNotificationAdapter = PersistNotificationRegistry(instances.NotificationInstance)
PersistLogAdapter = PersistLogRegistry(instances.LogInstance)
PersistMeasureAdapter = PersistMeasureRegistry(instances.MeasureInstance)
PersistIntervalAdapter = PersistIntervalRegistry(instances.IntervalInstance)
PersistMemoryAdapter = PersistMemoryRegistry(instances.MemoryInstance)
PersistRecentAdapter = PersistRecentRegistry(instances.RecentInstance)
PersistStateAdapter = PersistStateRegistry(instances.StateInstance)
PersistDictionaryAdapter = PersistDictionaryRegistry(instances.DictionaryInstance)
PersistSessionAdapter = PersistSessionRegistry(instances.SessionInstance)

read_candles = PersistCandleAdapter.read_candles
write_candles = PersistCandleAdapter.write_candles

REGISTRIES: tuple[Registry[Any], ...] = (
    PersistCandleAdapter,
    PersistSignalAdapter,
    PersistScheduleAdapter,
    PersistStrategyAdapter,
    PersistRiskAdapter,
    PersistPartialAdapter,
    PersistBreakevenAdapter,
    PersistStorageAdapter,
    PersistNotificationAdapter,
    PersistLogAdapter,
    PersistMeasureAdapter,
    PersistIntervalAdapter,
    PersistMemoryAdapter,
    PersistRecentAdapter,
    PersistStateAdapter,
    PersistDictionaryAdapter,
    PersistSessionAdapter,
)
"""All registries, in the order of the domain table."""


def _forget_after_fork() -> None:
    for registry in REGISTRIES:
        registry.forget_after_fork()


os.register_at_fork(after_in_child=_forget_after_fork)
