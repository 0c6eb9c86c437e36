"""What an implementation must offer: one protocol per domain, with the original's methods and parameter order in
snake_case.

Engine authors implement these to plug in their own backend:
`PersistSignalAdapter.use_persist_signal_adapter(MyInstance)`. The registry constructs one instance per context (the
constructor's parameters stand in each docstring), calls `wait_for_init(initial)` before each operation, where `initial`
is true until it succeeded once, and then the method.

`When` is simulation time: epoch milliseconds or a datetime. `Payload` is a dict or a model of
`backtest_kit_mongo.domains.payloads`; what is read is plain data. A read with `when` does not see what was written at a
later simulation time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

from pydantic import BaseModel

if TYPE_CHECKING:
    from backtest_kit_mongo.candles.columns import Columns
    from backtest_kit_mongo.candles.frame import Candles

When: TypeAlias = int | datetime
Moment: TypeAlias = When | None
"""None: the simulation time in force, if there is one."""
Payload: TypeAlias = Mapping[str, Any] | BaseModel
Row: TypeAlias = dict[str, Any]
Ids: TypeAlias = str | Iterable[str] | None
"""One id of a row, or several; None: all."""


class ByColumn(Protocol):
    """Gives an array by a column's name: a mapping, a data frame, a table."""

    def __getitem__(self, name: str, /) -> Any: ...


CandleTable: TypeAlias = "Candles | Columns | ByColumn | Sequence[Sequence[float]] | Sequence[Mapping[str, Any]]"


@dataclass(frozen=True, slots=True)
class CandleReport:
    """What became of written candles:

    `inserted` are new, `known` were stored before and kept, `unclosed` were refused (open times in ms). `conflicts` are
    the open times of candles that were offered with other values than those stored, or twice with different values: the
    first write wins, and what conflicts with it is kept in `candle-conflicts` (files and memory only log it).
    """

    inserted: int
    known: int
    unclosed: tuple[int, ...] = ()
    conflicts: tuple[int, ...] = ()


class PersistInstance(Protocol):
    """Common to all domains."""

    def wait_for_init(self, initial: bool) -> None:
        """Be ready for the next operation; `initial` is true until a call succeeded."""


class PersistCandleInstance(PersistInstance, Protocol):
    """Constructor: (symbol, interval, exchange_name)."""

    def read_candles_data(self, limit: int, since_timestamp: int, until_timestamp: int) -> list[Row] | None: ...
    def write_candles_data(self, candles: Sequence[Payload]) -> CandleReport | None: ...


@runtime_checkable
class ColumnarCandleInstance(PersistCandleInstance, Protocol):
    """A candle instance that also reads and writes columns. An adapter need not offer this."""

    def read_candles(self, since: When, until: When, when: When | None = None) -> Candles: ...
    def write_candles(self, candles: CandleTable, *, sparse: bool = False) -> CandleReport: ...


# Below: derived from the signatures. Do not edit it, run `make derived`.


class PersistSignalInstance(PersistInstance, Protocol):
    """Constructor: (symbol, strategy_name, exchange_name)."""

    def read_signal_data(self) -> Row | None: ...
    def write_signal_data(self, row: Payload | None) -> None: ...


class PersistScheduleInstance(PersistInstance, Protocol):
    """Constructor: (symbol, strategy_name, exchange_name)."""

    def read_schedule_data(self) -> Row | None: ...
    def write_schedule_data(self, row: Payload | None) -> None: ...


class PersistStrategyInstance(PersistInstance, Protocol):
    """Constructor: (symbol, strategy_name, exchange_name)."""

    def read_strategy_data(self) -> Row | None: ...
    def write_strategy_data(self, row: Payload | None) -> None: ...


class PersistRiskInstance(PersistInstance, Protocol):
    """Constructor: (risk_name, exchange_name)."""

    def read_position_data(self, when: When | None = None) -> list[Any]: ...
    def write_position_data(self, positions: Sequence[Any], when: When) -> None: ...


class PersistPartialInstance(PersistInstance, Protocol):
    """Constructor: (symbol, strategy_name, exchange_name)."""

    def read_partial_data(self, signal_id: str, when: When | None = None) -> Row: ...
    def write_partial_data(self, data: Payload, signal_id: str, when: When) -> None: ...


class PersistBreakevenInstance(PersistInstance, Protocol):
    """Constructor: (symbol, strategy_name, exchange_name)."""

    def read_breakeven_data(self, signal_id: str, when: When | None = None) -> Row: ...
    def write_breakeven_data(self, data: Payload, signal_id: str, when: When) -> None: ...


class PersistStorageInstance(PersistInstance, Protocol):
    """Constructor: (backtest)."""

    def read_storage_data(
        self,
        *,
        limit: int | None = None,
        since: When | None = None,
        ids: Ids = None,
        status: str | None = None,
        symbol: str | None = None,
    ) -> list[Row]: ...
    def write_storage_data(self, rows: Sequence[Payload]) -> None: ...
    def upsert_storage_data(self, row: Payload) -> None: ...


class PersistNotificationInstance(PersistInstance, Protocol):
    """Constructor: (backtest)."""

    def read_notification_data(
        self, *, limit: int | None = None, since: When | None = None, ids: Ids = None, symbol: str | None = None
    ) -> list[Row]: ...
    def write_notification_data(self, rows: Sequence[Payload]) -> None: ...
    def append_notification_data(self, row: Payload) -> None: ...


class PersistLogInstance(PersistInstance, Protocol):
    """Constructor: ()."""

    def read_log_data(self, *, limit: int | None = None, since: When | None = None, ids: Ids = None) -> list[Row]: ...
    def write_log_data(self, rows: Sequence[Payload]) -> None: ...
    def append_log_data(self, row: Payload) -> None: ...


class PersistMeasureInstance(PersistInstance, Protocol):
    """Constructor: (bucket)."""

    def read_measure_data(self, key: str) -> Row | None: ...
    def write_measure_data(self, data: Payload, key: str, when: When) -> None: ...
    def remove_measure_data(self, key: str) -> None: ...
    def list_measure_data(self, *, limit: int | None = None) -> Iterator[str]: ...


class PersistIntervalInstance(PersistInstance, Protocol):
    """Constructor: (bucket)."""

    def read_interval_data(self, key: str, *, when: When | None = None) -> Row | None: ...
    def write_interval_data(self, data: Payload, key: str, when: When) -> None: ...
    def remove_interval_data(self, key: str) -> None: ...
    def list_interval_data(self, *, when: When | None = None, limit: int | None = None) -> Iterator[str]: ...


class PersistMemoryInstance(PersistInstance, Protocol):
    """Constructor: (signal_id, bucket_name)."""

    def read_memory_data(self, memory_id: str, *, when: When | None = None) -> Row | None: ...
    def has_memory_data(self, memory_id: str) -> bool: ...
    def write_memory_data(self, data: Payload, memory_id: str, when: When) -> None: ...
    def remove_memory_data(self, memory_id: str) -> None: ...
    def list_memory_data(self, *, when: When | None = None, limit: int | None = None) -> Iterator[Row]: ...
    def dispose(self) -> None: ...


class PersistRecentInstance(PersistInstance, Protocol):
    """Constructor: (symbol, strategy_name, exchange_name, frame_name, backtest)."""

    def read_recent_data(self, *, when: When | None = None) -> Row | None: ...
    def write_recent_data(self, row: Payload | None, when: When) -> None: ...


class PersistStateInstance(PersistInstance, Protocol):
    """Constructor: (signal_id, bucket_name)."""

    def read_state_data(self, *, when: When | None = None) -> Row | None: ...
    def write_state_data(self, data: Payload | None, when: When) -> None: ...
    def dispose(self) -> None: ...


class PersistDictionaryInstance(PersistInstance, Protocol):
    """Constructor: (signal_id, dictionary_name)."""

    def read_dictionary_data(self, *, when: When | None = None) -> Row | None: ...
    def write_dictionary_data(self, data: Payload | None, when: When) -> None: ...
    def dispose(self) -> None: ...


class PersistSessionInstance(PersistInstance, Protocol):
    """Constructor: (strategy_name, exchange_name, frame_name, symbol, backtest)."""

    def read_session_data(self, *, when: When | None = None) -> Row | None: ...
    def write_session_data(self, data: Payload | None, when: When) -> None: ...
    def dispose(self) -> None: ...


class PersistRunInstance(PersistInstance, Protocol):
    """Constructor: (run_id)."""

    def read_run_data(self) -> Row | None: ...
    def write_run_data(self, row: Payload | None) -> None: ...
