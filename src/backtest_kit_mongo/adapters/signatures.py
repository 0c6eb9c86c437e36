"""Signatures of the domains whose documents are read and written one at a time. A method is typed here and nowhere
else: `verbs.py` makes the rest of it.

Names and parameter order are the original's in snake_case. A write that takes `when` may leave it out (or say None) at
a simulation time (`look_ahead.py`); a read that takes one does not see what was written at a later simulation time.

Reads raise `ServerUnreachable` and `ReadFailed`. Writes raise `CallerError`, `ServerUnreachable` and `WriteRefused`
(nothing was written) and `WriteOutcomeUnknown`: see `errors.py`.
"""

# A signature's body is its docstring.
# mypy: disable-error-code="empty-body"

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from backtest_kit_mongo.adapters.contracts import Moment, Payload, Row
from backtest_kit_mongo.adapters.registry import Registry
from backtest_kit_mongo.adapters.verbs import drop, has, list_entries, list_keys, prepare, read, remove, write
from backtest_kit_mongo.domains import table


class PersistSignalRegistry(Registry, domain=table.SIGNAL):
    """The open signal of a strategy."""

    use_persist_signal_adapter = Registry.use_adapter

    @read
    def read_signal_data(self, symbol: str, strategy_name: str, exchange_name: str) -> Row | None:
        """The row; None if there is none."""

    @write
    def write_signal_data(self, row: Payload | None, symbol: str, strategy_name: str, exchange_name: str) -> None:
        """Replace the row."""


class PersistScheduleRegistry(Registry, domain=table.SCHEDULE):
    """The signal that waits for its price."""

    use_persist_schedule_adapter = Registry.use_adapter

    @read
    def read_schedule_data(self, symbol: str, strategy_name: str, exchange_name: str) -> Row | None:
        """The row; None if there is none."""

    @write
    def write_schedule_data(self, row: Payload | None, symbol: str, strategy_name: str, exchange_name: str) -> None:
        """Replace the row."""


class PersistStrategyRegistry(Registry, domain=table.STRATEGY):
    """What a strategy must not forget over a restart: commits, deferred closings."""

    use_persist_strategy_adapter = Registry.use_adapter

    @read
    def read_strategy_data(self, symbol: str, strategy_name: str, exchange_name: str) -> Row | None:
        """The row; None if there is none."""

    @write
    def write_strategy_data(self, row: Payload | None, symbol: str, strategy_name: str, exchange_name: str) -> None:
        """Replace the row."""


class PersistRiskRegistry(Registry, domain=table.RISK):
    """Positions that count against a risk limit."""

    use_persist_risk_adapter = Registry.use_adapter

    @read
    def read_position_data(self, risk_name: str, exchange_name: str, when: Moment = None) -> list[Any]:
        """The positions; an empty list if there are none."""

    @write
    def write_position_data(
        self, positions: Sequence[Any], risk_name: str, exchange_name: str, when: Moment = None
    ) -> None:
        """Replace all positions."""


class PersistPartialRegistry(Registry, domain=table.PARTIAL):
    """Levels of profit and loss that signals have reached."""

    use_persist_partial_adapter = Registry.use_adapter

    @read
    def read_partial_data(
        self, symbol: str, strategy_name: str, signal_id: str, exchange_name: str, when: Moment = None
    ) -> Row:
        """The data of one signal; an empty dict if there are none."""

    @write
    def write_partial_data(
        self, data: Payload, symbol: str, strategy_name: str, signal_id: str, exchange_name: str, when: Moment = None
    ) -> None:
        """Replace the data of one signal."""


class PersistBreakevenRegistry(Registry, domain=table.BREAKEVEN):
    """Signals that have reached their break-even."""

    use_persist_breakeven_adapter = Registry.use_adapter

    @read
    def read_breakeven_data(
        self, symbol: str, strategy_name: str, signal_id: str, exchange_name: str, when: Moment = None
    ) -> Row:
        """The data of one signal; an empty dict if there are none."""

    @write
    def write_breakeven_data(
        self, data: Payload, symbol: str, strategy_name: str, signal_id: str, exchange_name: str, when: Moment = None
    ) -> None:
        """Replace the data of one signal."""


class PersistMeasureRegistry(Registry, domain=table.MEASURE):
    """Results that are computed once, by bucket and key."""

    use_persist_measure_adapter = Registry.use_adapter

    @read
    def read_measure_data(self, bucket: str, key: str) -> Row | None:
        """The entry; None if there is none or it was removed."""

    @write
    def write_measure_data(self, data: Payload, bucket: str, key: str, when: Moment = None) -> None:
        """Store or replace the entry."""

    @remove
    def remove_measure_data(self, bucket: str, key: str) -> None:
        """Mark the entry as removed; nothing happens if there is none."""

    @list_keys
    def list_measure_data(self, bucket: str, *, limit: int | None = None) -> Iterator[str]:
        """Keys of the bucket's entries."""


class PersistIntervalRegistry(Registry, domain=table.INTERVAL):
    """What was done once per interval, by bucket and key."""

    use_persist_interval_adapter = Registry.use_adapter

    @read
    def read_interval_data(self, bucket: str, key: str, *, when: Moment = None) -> Row | None:
        """The entry; None if there is none or it was removed."""

    @write
    def write_interval_data(self, data: Payload, bucket: str, key: str, when: Moment = None) -> None:
        """Store or replace the entry."""

    @remove
    def remove_interval_data(self, bucket: str, key: str) -> None:
        """Mark the entry as removed; nothing happens if there is none."""

    @list_keys
    def list_interval_data(self, bucket: str, *, when: Moment = None, limit: int | None = None) -> Iterator[str]:
        """Keys of the bucket's entries."""


class PersistMemoryRegistry(Registry, domain=table.MEMORY):
    """What a strategy notes for itself, per signal and bucket."""

    use_persist_memory_adapter = Registry.use_adapter

    @prepare
    def wait_for_init(self, signal_id: str, bucket_name: str, initial: bool) -> None:
        """Initialise a context ahead of its first use; with `initial` false only if it has been used before."""

    @read
    def read_memory_data(self, signal_id: str, bucket_name: str, memory_id: str, *, when: Moment = None) -> Row | None:
        """The note; None if there is none or it was removed."""

    @has
    def has_memory_data(self, signal_id: str, bucket_name: str, memory_id: str) -> bool:
        """Whether the note was ever written; a removed one counts, as in the original's contract."""

    @write
    def write_memory_data(
        self, data: Payload, signal_id: str, bucket_name: str, memory_id: str, when: Moment = None
    ) -> None:
        """Store or replace the note."""

    @remove
    def remove_memory_data(self, signal_id: str, bucket_name: str, memory_id: str) -> None:
        """Mark the note as removed; nothing happens if there is none."""

    @list_entries
    def list_memory_data(
        self, signal_id: str, bucket_name: str, *, when: Moment = None, limit: int | None = None
    ) -> Iterator[Row]:
        """The bucket's notes: `{"memoryId": ..., "data": ...}`."""

    @drop
    def dispose(self, signal_id: str, bucket_name: str) -> None:
        """Forget the context's instance; what is stored stays."""


class PersistRecentRegistry(Registry, domain=table.RECENT):
    """The latest public signal of a strategy."""

    use_persist_recent_adapter = Registry.use_adapter

    @read
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
        """The row; None if there is none."""

    @write
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
        """Replace the row."""


class PersistStateRegistry(Registry, domain=table.STATE):
    """Free data of a strategy, per signal and bucket."""

    use_persist_state_adapter = Registry.use_adapter

    @prepare
    def wait_for_init(self, signal_id: str, bucket_name: str, initial: bool) -> None:
        """Initialise a context ahead of its first use; with `initial` false only if it has been used before."""

    @read
    def read_state_data(self, signal_id: str, bucket_name: str, *, when: Moment = None) -> Row | None:
        """The data; None if there are none."""

    @write
    def write_state_data(self, data: Payload | None, signal_id: str, bucket_name: str, when: Moment = None) -> None:
        """Replace the data."""

    @drop
    def dispose(self, signal_id: str, bucket_name: str) -> None:
        """Forget the context's instance; what is stored stays."""


class PersistDictionaryRegistry(Registry, domain=table.DICTIONARY):
    """Values by name, per signal and dictionary."""

    use_persist_dictionary_adapter = Registry.use_adapter

    @prepare
    def wait_for_init(self, signal_id: str, dictionary_name: str, initial: bool) -> None:
        """Initialise a context ahead of its first use; with `initial` false only if it has been used before."""

    @read
    def read_dictionary_data(self, signal_id: str, dictionary_name: str, *, when: Moment = None) -> Row | None:
        """The data; None if there are none."""

    @write
    def write_dictionary_data(
        self, data: Payload | None, signal_id: str, dictionary_name: str, when: Moment = None
    ) -> None:
        """Replace the data."""

    @drop
    def dispose(self, signal_id: str, dictionary_name: str) -> None:
        """Forget the context's instance; what is stored stays."""


class PersistSessionRegistry(Registry, domain=table.SESSION):
    """Free data of a run of a strategy."""

    use_persist_session_adapter = Registry.use_adapter

    @prepare
    def wait_for_init(
        self, strategy_name: str, exchange_name: str, frame_name: str, initial: bool, symbol: str, backtest: bool
    ) -> None:
        """Initialise a context ahead of its first use; with `initial` false only if it has been used before."""

    @read
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
        """The data; None if there are none."""

    @write
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
        """Replace the data."""

    @drop
    def dispose(self, strategy_name: str, exchange_name: str, frame_name: str, symbol: str, backtest: bool) -> None:
        """Forget the context's instance; what is stored stays."""


class PersistRunRegistry(Registry, domain=table.RUN):
    """The list of runs: who does a backtest of a study, and what came of it. The original has no such domain."""

    use_persist_run_adapter = Registry.use_adapter

    @read
    def read_run_data(self, run_id: str) -> Row | None:
        """The row; None if there is none."""

    @write
    def write_run_data(self, row: Payload | None, run_id: str) -> None:
        """Replace the row."""
