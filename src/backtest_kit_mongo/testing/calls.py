"""Every domain through its registry: one way to read a document and one to write it. The signatures differ by domain, so this is a table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from backtest_kit_mongo.adapters import instances
from backtest_kit_mongo.adapters import registries as adapters
from backtest_kit_mongo.adapters.registry import Registry
from backtest_kit_mongo.coherence.record import Domain, Part
from backtest_kit_mongo.drivers.store import Store

Parts = tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Calls:
    """`read(registry, parts, when)` and `write(registry, payload, parts, when)`, where `parts` is the whole key in key order."""

    make_registry: Callable[[Any], Registry[Any]]
    instance: Callable[..., Any]
    read: Callable[[Any, Any, Any], Any]
    write: Callable[[Any, Any, Any, Any], Any]

    def over(self, store: Store) -> Any:
        """A registry of its own, so that those of the process stay as they are."""
        registry = self.make_registry(self.instance)
        registry.use_store(lambda: store)
        return registry


def _row(rows: list[dict[str, Any]], item: Any) -> dict[str, Any] | None:
    return next((row for row in rows if row["id"] == item), None)


_CALLS: Final[dict[str, Calls]] = {
    "candle": Calls(
        adapters.PersistCandleRegistry, instances.CandleInstance,
        lambda r, p, when: r.read_candles_data(p[1], p[2], p[0], 1, p[3], p[3] + 1),
        lambda r, data, p, when: r.write_candles_data([data], p[1], p[2], p[0]),
    ),
    "signal": Calls(
        adapters.PersistSignalRegistry, instances.SignalInstance,
        lambda r, p, when: r.read_signal_data(*p),
        lambda r, data, p, when: r.write_signal_data(data, *p),
    ),
    "schedule": Calls(
        adapters.PersistScheduleRegistry, instances.ScheduleInstance,
        lambda r, p, when: r.read_schedule_data(*p),
        lambda r, data, p, when: r.write_schedule_data(data, *p),
    ),
    "strategy": Calls(
        adapters.PersistStrategyRegistry, instances.StrategyInstance,
        lambda r, p, when: r.read_strategy_data(*p),
        lambda r, data, p, when: r.write_strategy_data(data, *p),
    ),
    "risk": Calls(
        adapters.PersistRiskRegistry, instances.RiskInstance,
        lambda r, p, when: r.read_position_data(*p, when),
        lambda r, data, p, when: r.write_position_data(data, *p, when),
    ),
    "partial": Calls(
        adapters.PersistPartialRegistry, instances.PartialInstance,
        lambda r, p, when: r.read_partial_data(p[0], p[1], p[3], p[2], when),
        lambda r, data, p, when: r.write_partial_data(data, p[0], p[1], p[3], p[2], when),
    ),
    "breakeven": Calls(
        adapters.PersistBreakevenRegistry, instances.BreakevenInstance,
        lambda r, p, when: r.read_breakeven_data(p[0], p[1], p[3], p[2], when),
        lambda r, data, p, when: r.write_breakeven_data(data, p[0], p[1], p[3], p[2], when),
    ),
    "storage": Calls(
        adapters.PersistStorageRegistry, instances.StorageInstance,
        lambda r, p, when: _row(r.read_storage_data(p[0]), p[1]),
        lambda r, data, p, when: r.write_storage_data([data], p[0]),
    ),
    "notification": Calls(
        adapters.PersistNotificationRegistry, instances.NotificationInstance,
        lambda r, p, when: _row(r.read_notification_data(p[0]), p[1]),
        lambda r, data, p, when: r.write_notification_data([data], p[0]),
    ),
    "log": Calls(
        adapters.PersistLogRegistry, instances.LogInstance,
        lambda r, p, when: _row(r.read_log_data(), p[0]),
        lambda r, data, p, when: r.write_log_data([data]),
    ),
    "measure": Calls(
        adapters.PersistMeasureRegistry, instances.MeasureInstance,
        lambda r, p, when: r.read_measure_data(*p),
        lambda r, data, p, when: r.write_measure_data(data, *p, when),
    ),
    "interval": Calls(
        adapters.PersistIntervalRegistry, instances.IntervalInstance,
        lambda r, p, when: r.read_interval_data(*p, when=when),
        lambda r, data, p, when: r.write_interval_data(data, *p, when),
    ),
    "memory": Calls(
        adapters.PersistMemoryRegistry, instances.MemoryInstance,
        lambda r, p, when: r.read_memory_data(*p, when=when),
        lambda r, data, p, when: r.write_memory_data(data, *p, when),
    ),
    "recent": Calls(
        adapters.PersistRecentRegistry, instances.RecentInstance,
        lambda r, p, when: r.read_recent_data(*p, when=when),
        lambda r, data, p, when: r.write_recent_data(data, *p, when),
    ),
    "state": Calls(
        adapters.PersistStateRegistry, instances.StateInstance,
        lambda r, p, when: r.read_state_data(*p, when=when),
        lambda r, data, p, when: r.write_state_data(data, *p, when),
    ),
    "dictionary": Calls(
        adapters.PersistDictionaryRegistry, instances.DictionaryInstance,
        lambda r, p, when: r.read_dictionary_data(*p, when=when),
        lambda r, data, p, when: r.write_dictionary_data(data, *p, when),
    ),
    "session": Calls(
        adapters.PersistSessionRegistry, instances.SessionInstance,
        lambda r, p, when: r.read_session_data(*p, when=when),
        lambda r, data, p, when: r.write_session_data(data, p[0], p[1], p[2], when, p[3], p[4]),
    ),
}  # fmt: skip


def calls(domain: Domain) -> Calls:
    """How users of a domain reach it."""
    return _CALLS[domain.name]
