"""Signatures of the domains that are read and written as many rows: lists, and candles. See `signatures.py`.

Reads raise `ServerUnreachable` and `ReadFailed`. Writes raise `CallerError`, `ServerUnreachable` and `WriteRefused`
(nothing was written) and `WriteOutcomeUnknown`: see `errors.py`.
"""

# A signature's body is its docstring.
# mypy: disable-error-code="empty-body"

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from backtest_kit_mongo.adapters.candle_instance import CandleInstance
from backtest_kit_mongo.adapters.contracts import (
    CandleReport,
    CandleTable,
    ColumnarCandleInstance,
    Ids,
    Moment,
    Payload,
    PersistCandleInstance,
    Row,
    When,
)
from backtest_kit_mongo.adapters.jsonl import use_jsonl
from backtest_kit_mongo.adapters.registry import Registry
from backtest_kit_mongo.adapters.verbs import put_row, read_rows, write_rows
from backtest_kit_mongo.domains import table
from backtest_kit_mongo.errors import CallerError

if TYPE_CHECKING:
    from backtest_kit_mongo.candles.frame import Candles


class PersistCandleRegistry(Registry, domain=table.CANDLE, builtin=CandleInstance):
    use_persist_candle_adapter = Registry.use_adapter

    def read_candles_data(
        self, symbol: str, interval: str, exchange_name: str, limit: int, since_timestamp: int, until_timestamp: int
    ) -> list[Row] | None:
        instance: PersistCandleInstance = self._at(symbol, interval, exchange_name)
        return instance.read_candles_data(limit, since_timestamp, until_timestamp)

    def write_candles_data(
        self, candles: Sequence[Payload], symbol: str, interval: str, exchange_name: str
    ) -> CandleReport | None:
        instance: PersistCandleInstance = self._at(symbol, interval, exchange_name)
        return instance.write_candles_data(candles)

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
        """Store the closed candles of a table: `Candles`, a frame of pandas or polars (time as a column or as the
        index, with a zone; names in any case), an Arrow table, a mapping of arrays (`timestamp` in epoch milliseconds
        or `datetime64`, `open`, `high`, `low`, `close`, `volume`), rows as ccxt gives them, or dicts. The first write
        of a candle wins.

        Args:
            sparse: they are of this interval although the distances between them are those of a coarser one.

        Raises:
            CallerError: a column or candle is wrong or of another interval (the message names it), or the adapter in
            use has no columns. No candle was written.
            ServerUnreachable, WriteRefused: no candle was written.
            WriteOutcomeUnknown: some were; writing all of them again is safe.
        """
        return self._columnar(symbol, interval, exchange_name).write_candles(candles, sparse=sparse)

    def _columnar(self, *context: str) -> ColumnarCandleInstance:
        instance = self._at(*context)
        if not isinstance(instance, ColumnarCandleInstance):
            raise CallerError(
                f"the candle adapter in use ({type(instance).__name__}) offers windows of rows only, not read_candles "
                "and write_candles; use read_candles_data and write_candles_data, or the built-in adapter. Nothing was "
                "read or written."
            )
        return instance


class PersistStorageRegistry(Registry, domain=table.STORAGE):
    """Signals with their outcome, live and of backtests."""

    use_persist_storage_adapter = Registry.use_adapter

    @read_rows
    def read_storage_data(
        self,
        backtest: bool,
        *,
        limit: int | None = None,
        since: Moment = None,
        ids: Ids = None,
        status: str | None = None,
        symbol: str | None = None,
    ) -> list[Row]:
        """All rows, oldest first. Given any of the following, those that fit, the most recently changed first.

        Args:
            limit: so many at most.
            since: changed then or later, by the clock of whoever changed them (epoch milliseconds or a datetime).
            ids: one id, or several.
            status, symbol: with this value in the row.
        """

    @write_rows
    def write_storage_data(self, rows: Sequence[Payload], backtest: bool) -> None:
        """Store the rows that differ from what is stored. Rows that are not given stay."""

    @put_row
    def upsert_storage_data(self, row: Payload, backtest: bool) -> None:
        """Store one row, whatever is stored under its id: at the cost of a document, however long the list is."""


class PersistNotificationRegistry(Registry, domain=table.NOTIFICATION):
    """What was reported to people."""

    use_persist_notification_adapter = Registry.use_adapter

    @read_rows
    def read_notification_data(
        self,
        backtest: bool,
        *,
        limit: int | None = None,
        since: Moment = None,
        ids: Ids = None,
        symbol: str | None = None,
    ) -> list[Row]:
        """All rows, oldest first. Given any of the following, those that fit, the most recently changed first.

        Args:
            limit: so many at most.
            since: changed then or later, by the clock of whoever changed them (epoch milliseconds or a datetime).
            ids: one id, or several.
            symbol: with this value in the row.
        """

    @write_rows
    def write_notification_data(self, rows: Sequence[Payload], backtest: bool) -> None:
        """Store the rows that differ from what is stored. Rows that are not given stay."""

    @put_row
    def append_notification_data(self, row: Payload, backtest: bool) -> None:
        """Store one row, at the cost of a document, however long the list is. One that is stored under its id is
        replaced.
        """


class PersistLogRegistry(Registry, domain=table.LOG):
    """The log; an entry whose id is stored is left as it is."""

    use_persist_log_adapter = Registry.use_adapter
    use_jsonl = use_jsonl

    @read_rows
    def read_log_data(self, *, limit: int | None = None, since: Moment = None, ids: Ids = None) -> list[Row]:
        """All rows, oldest first. Given any of the following, those that fit, the most recently changed first.

        Args:
            limit: so many at most.
            since: changed then or later, by the clock of whoever changed them (epoch milliseconds or a datetime).
            ids: one id, or several.
        """

    @write_rows
    def write_log_data(self, rows: Sequence[Payload]) -> None:
        """Store the entries whose id is not stored yet; the first of an id stays, and another is named in the program's
        log.
        """

    @put_row
    def append_log_data(self, row: Payload) -> None:
        """Store one entry unless its id is stored, at the cost of a document, however long the log is."""
