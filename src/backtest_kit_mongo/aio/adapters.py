"""The adapters for event loops, one per domain: the methods of `adapters/signatures.py` as coroutines, and those that
iterate as asynchronous iterators. What `use_persist_<domain>_adapter` chooses for an adapter holds here as well.
"""

from __future__ import annotations

from backtest_kit_mongo.adapters import registries
from backtest_kit_mongo.drivers.offloading import Offloading, as_async_iterator, as_coroutine

# Below: derived from the signatures. Do not edit it, run `make derived`.

__all__ = [
    "PersistBreakevenAdapter",
    "PersistCandleAdapter",
    "PersistDictionaryAdapter",
    "PersistIntervalAdapter",
    "PersistLogAdapter",
    "PersistMeasureAdapter",
    "PersistMemoryAdapter",
    "PersistNotificationAdapter",
    "PersistPartialAdapter",
    "PersistRecentAdapter",
    "PersistRiskAdapter",
    "PersistRunAdapter",
    "PersistScheduleAdapter",
    "PersistSessionAdapter",
    "PersistSignalAdapter",
    "PersistStateAdapter",
    "PersistStorageAdapter",
    "PersistStrategyAdapter",
    "read_candles",
    "write_candles",
]


class AsyncCandleAdapter(Offloading[registries.PersistCandleRegistry]):
    read_candles_data = as_coroutine(registries.PersistCandleRegistry.read_candles_data)
    write_candles_data = as_coroutine(registries.PersistCandleRegistry.write_candles_data)
    read_candles = as_coroutine(registries.PersistCandleRegistry.read_candles)
    write_candles = as_coroutine(registries.PersistCandleRegistry.write_candles)
    entries = as_async_iterator(registries.PersistCandleRegistry.entries)
    list_contexts = as_coroutine(registries.PersistCandleRegistry.list_contexts)


class AsyncSignalAdapter(Offloading[registries.PersistSignalRegistry]):
    """The open signal of a strategy."""

    read_signal_data = as_coroutine(registries.PersistSignalRegistry.read_signal_data)
    write_signal_data = as_coroutine(registries.PersistSignalRegistry.write_signal_data)
    entries = as_async_iterator(registries.PersistSignalRegistry.entries)
    list_contexts = as_coroutine(registries.PersistSignalRegistry.list_contexts)


class AsyncScheduleAdapter(Offloading[registries.PersistScheduleRegistry]):
    """The signal that waits for its price."""

    read_schedule_data = as_coroutine(registries.PersistScheduleRegistry.read_schedule_data)
    write_schedule_data = as_coroutine(registries.PersistScheduleRegistry.write_schedule_data)
    entries = as_async_iterator(registries.PersistScheduleRegistry.entries)
    list_contexts = as_coroutine(registries.PersistScheduleRegistry.list_contexts)


class AsyncStrategyAdapter(Offloading[registries.PersistStrategyRegistry]):
    """What a strategy must not forget over a restart: commits, deferred closings."""

    read_strategy_data = as_coroutine(registries.PersistStrategyRegistry.read_strategy_data)
    write_strategy_data = as_coroutine(registries.PersistStrategyRegistry.write_strategy_data)
    entries = as_async_iterator(registries.PersistStrategyRegistry.entries)
    list_contexts = as_coroutine(registries.PersistStrategyRegistry.list_contexts)


class AsyncRiskAdapter(Offloading[registries.PersistRiskRegistry]):
    """Positions that count against a risk limit."""

    read_position_data = as_coroutine(registries.PersistRiskRegistry.read_position_data)
    write_position_data = as_coroutine(registries.PersistRiskRegistry.write_position_data)
    entries = as_async_iterator(registries.PersistRiskRegistry.entries)
    list_contexts = as_coroutine(registries.PersistRiskRegistry.list_contexts)


class AsyncPartialAdapter(Offloading[registries.PersistPartialRegistry]):
    """Levels of profit and loss that signals have reached."""

    read_partial_data = as_coroutine(registries.PersistPartialRegistry.read_partial_data)
    write_partial_data = as_coroutine(registries.PersistPartialRegistry.write_partial_data)
    entries = as_async_iterator(registries.PersistPartialRegistry.entries)
    list_contexts = as_coroutine(registries.PersistPartialRegistry.list_contexts)


class AsyncBreakevenAdapter(Offloading[registries.PersistBreakevenRegistry]):
    """Signals that have reached their break-even."""

    read_breakeven_data = as_coroutine(registries.PersistBreakevenRegistry.read_breakeven_data)
    write_breakeven_data = as_coroutine(registries.PersistBreakevenRegistry.write_breakeven_data)
    entries = as_async_iterator(registries.PersistBreakevenRegistry.entries)
    list_contexts = as_coroutine(registries.PersistBreakevenRegistry.list_contexts)


class AsyncStorageAdapter(Offloading[registries.PersistStorageRegistry]):
    """Signals with their outcome, live and of backtests."""

    read_storage_data = as_coroutine(registries.PersistStorageRegistry.read_storage_data)
    write_storage_data = as_coroutine(registries.PersistStorageRegistry.write_storage_data)
    upsert_storage_data = as_coroutine(registries.PersistStorageRegistry.upsert_storage_data)
    entries = as_async_iterator(registries.PersistStorageRegistry.entries)
    list_contexts = as_coroutine(registries.PersistStorageRegistry.list_contexts)


class AsyncNotificationAdapter(Offloading[registries.PersistNotificationRegistry]):
    """What was reported to people."""

    read_notification_data = as_coroutine(registries.PersistNotificationRegistry.read_notification_data)
    write_notification_data = as_coroutine(registries.PersistNotificationRegistry.write_notification_data)
    append_notification_data = as_coroutine(registries.PersistNotificationRegistry.append_notification_data)
    entries = as_async_iterator(registries.PersistNotificationRegistry.entries)
    list_contexts = as_coroutine(registries.PersistNotificationRegistry.list_contexts)


class AsyncLogAdapter(Offloading[registries.PersistLogRegistry]):
    """The log; an entry whose id is stored is left as it is."""

    read_log_data = as_coroutine(registries.PersistLogRegistry.read_log_data)
    write_log_data = as_coroutine(registries.PersistLogRegistry.write_log_data)
    append_log_data = as_coroutine(registries.PersistLogRegistry.append_log_data)
    entries = as_async_iterator(registries.PersistLogRegistry.entries)
    list_contexts = as_coroutine(registries.PersistLogRegistry.list_contexts)


class AsyncMeasureAdapter(Offloading[registries.PersistMeasureRegistry]):
    """Results that are computed once, by bucket and key."""

    read_measure_data = as_coroutine(registries.PersistMeasureRegistry.read_measure_data)
    write_measure_data = as_coroutine(registries.PersistMeasureRegistry.write_measure_data)
    remove_measure_data = as_coroutine(registries.PersistMeasureRegistry.remove_measure_data)
    list_measure_data = as_async_iterator(registries.PersistMeasureRegistry.list_measure_data)
    entries = as_async_iterator(registries.PersistMeasureRegistry.entries)
    list_contexts = as_coroutine(registries.PersistMeasureRegistry.list_contexts)


class AsyncIntervalAdapter(Offloading[registries.PersistIntervalRegistry]):
    """What was done once per interval, by bucket and key."""

    read_interval_data = as_coroutine(registries.PersistIntervalRegistry.read_interval_data)
    write_interval_data = as_coroutine(registries.PersistIntervalRegistry.write_interval_data)
    remove_interval_data = as_coroutine(registries.PersistIntervalRegistry.remove_interval_data)
    list_interval_data = as_async_iterator(registries.PersistIntervalRegistry.list_interval_data)
    entries = as_async_iterator(registries.PersistIntervalRegistry.entries)
    list_contexts = as_coroutine(registries.PersistIntervalRegistry.list_contexts)


class AsyncMemoryAdapter(Offloading[registries.PersistMemoryRegistry]):
    """What a strategy notes for itself, per signal and bucket."""

    wait_for_init = as_coroutine(registries.PersistMemoryRegistry.wait_for_init)
    read_memory_data = as_coroutine(registries.PersistMemoryRegistry.read_memory_data)
    has_memory_data = as_coroutine(registries.PersistMemoryRegistry.has_memory_data)
    write_memory_data = as_coroutine(registries.PersistMemoryRegistry.write_memory_data)
    remove_memory_data = as_coroutine(registries.PersistMemoryRegistry.remove_memory_data)
    list_memory_data = as_async_iterator(registries.PersistMemoryRegistry.list_memory_data)
    dispose = as_coroutine(registries.PersistMemoryRegistry.dispose)
    entries = as_async_iterator(registries.PersistMemoryRegistry.entries)
    list_contexts = as_coroutine(registries.PersistMemoryRegistry.list_contexts)


class AsyncRecentAdapter(Offloading[registries.PersistRecentRegistry]):
    """The latest public signal of a strategy."""

    read_recent_data = as_coroutine(registries.PersistRecentRegistry.read_recent_data)
    write_recent_data = as_coroutine(registries.PersistRecentRegistry.write_recent_data)
    entries = as_async_iterator(registries.PersistRecentRegistry.entries)
    list_contexts = as_coroutine(registries.PersistRecentRegistry.list_contexts)


class AsyncStateAdapter(Offloading[registries.PersistStateRegistry]):
    """Free data of a strategy, per signal and bucket."""

    wait_for_init = as_coroutine(registries.PersistStateRegistry.wait_for_init)
    read_state_data = as_coroutine(registries.PersistStateRegistry.read_state_data)
    write_state_data = as_coroutine(registries.PersistStateRegistry.write_state_data)
    dispose = as_coroutine(registries.PersistStateRegistry.dispose)
    entries = as_async_iterator(registries.PersistStateRegistry.entries)
    list_contexts = as_coroutine(registries.PersistStateRegistry.list_contexts)


class AsyncDictionaryAdapter(Offloading[registries.PersistDictionaryRegistry]):
    """Values by name, per signal and dictionary."""

    wait_for_init = as_coroutine(registries.PersistDictionaryRegistry.wait_for_init)
    read_dictionary_data = as_coroutine(registries.PersistDictionaryRegistry.read_dictionary_data)
    write_dictionary_data = as_coroutine(registries.PersistDictionaryRegistry.write_dictionary_data)
    dispose = as_coroutine(registries.PersistDictionaryRegistry.dispose)
    entries = as_async_iterator(registries.PersistDictionaryRegistry.entries)
    list_contexts = as_coroutine(registries.PersistDictionaryRegistry.list_contexts)


class AsyncSessionAdapter(Offloading[registries.PersistSessionRegistry]):
    """Free data of a run of a strategy."""

    wait_for_init = as_coroutine(registries.PersistSessionRegistry.wait_for_init)
    read_session_data = as_coroutine(registries.PersistSessionRegistry.read_session_data)
    write_session_data = as_coroutine(registries.PersistSessionRegistry.write_session_data)
    dispose = as_coroutine(registries.PersistSessionRegistry.dispose)
    entries = as_async_iterator(registries.PersistSessionRegistry.entries)
    list_contexts = as_coroutine(registries.PersistSessionRegistry.list_contexts)


class AsyncRunAdapter(Offloading[registries.PersistRunRegistry]):
    """The list of runs: who does a backtest of a study, and what came of it. The original has no such domain."""

    read_run_data = as_coroutine(registries.PersistRunRegistry.read_run_data)
    write_run_data = as_coroutine(registries.PersistRunRegistry.write_run_data)
    entries = as_async_iterator(registries.PersistRunRegistry.entries)
    list_contexts = as_coroutine(registries.PersistRunRegistry.list_contexts)


PersistCandleAdapter = AsyncCandleAdapter(registries.PersistCandleAdapter)
PersistSignalAdapter = AsyncSignalAdapter(registries.PersistSignalAdapter)
PersistScheduleAdapter = AsyncScheduleAdapter(registries.PersistScheduleAdapter)
PersistStrategyAdapter = AsyncStrategyAdapter(registries.PersistStrategyAdapter)
PersistRiskAdapter = AsyncRiskAdapter(registries.PersistRiskAdapter)
PersistPartialAdapter = AsyncPartialAdapter(registries.PersistPartialAdapter)
PersistBreakevenAdapter = AsyncBreakevenAdapter(registries.PersistBreakevenAdapter)
PersistStorageAdapter = AsyncStorageAdapter(registries.PersistStorageAdapter)
PersistNotificationAdapter = AsyncNotificationAdapter(registries.PersistNotificationAdapter)
PersistLogAdapter = AsyncLogAdapter(registries.PersistLogAdapter)
PersistMeasureAdapter = AsyncMeasureAdapter(registries.PersistMeasureAdapter)
PersistIntervalAdapter = AsyncIntervalAdapter(registries.PersistIntervalAdapter)
PersistMemoryAdapter = AsyncMemoryAdapter(registries.PersistMemoryAdapter)
PersistRecentAdapter = AsyncRecentAdapter(registries.PersistRecentAdapter)
PersistStateAdapter = AsyncStateAdapter(registries.PersistStateAdapter)
PersistDictionaryAdapter = AsyncDictionaryAdapter(registries.PersistDictionaryAdapter)
PersistSessionAdapter = AsyncSessionAdapter(registries.PersistSessionAdapter)
PersistRunAdapter = AsyncRunAdapter(registries.PersistRunAdapter)

read_candles = PersistCandleAdapter.read_candles
write_candles = PersistCandleAdapter.write_candles
